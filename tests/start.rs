//! Starting, being seen, and stopping.

mod common;

use common::Relay;

#[test]
fn a_relay_starts_is_ready_and_stops() {
    let mut relay = Relay::with_shards(2);
    assert_eq!(relay.get("/readyz").0, 200);
    assert_eq!(relay.get("/livez").0, 200);
    assert_eq!(relay.allocations(), 0.0);
    relay.signal("TERM");
    assert_eq!(relay.wait().code(), Some(0), "nothing to drain");
}
