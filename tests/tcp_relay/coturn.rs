//! `turnutils_uclient -T`, which connects to another of its clients, and `-P`, to whose relayed
//! port it connects itself.

use crate::common::{Relay, own_address};
use crate::uclient::{Counts, Run};

#[test]
fn active_clients_lose_nothing() {
    for shards in [1, 4] {
        let relay = Relay::with_shards(shards);
        let Some(counts) = run(&relay, "-T").finish() else { return };
        let all = run(&relay, "-T").messages();
        assert_eq!(counts, Counts { sent: all, received: all, lost: 0, dropped: 0 });
        relay.await_no_allocations();
        assert_eq!(relay.samples()["turnway_peer_connections"], 0.0);
    }
}

/// Messages come back to half of these clients only, with coturn's server, too: what the others
/// send goes to a connection that the client reads and does not count.
#[test]
fn passive_clients_lose_nothing() {
    for shards in [1, 4] {
        let relay = Relay::with_shards(shards);
        let Some(counts) = run(&relay, "-P").finish() else { return };
        let all = run(&relay, "-P").messages();
        assert_eq!((counts.sent, counts.received, counts.dropped), (all, all / 2, 0));
        let accepted = "turnway_peer_connections_made_total{by=\"peer\"}";
        assert!(relay.samples()[accepted] > 0.0);
    }
}

fn run(relay: &Relay, mode: &str) -> Run {
    let mut run = Run::new(relay.address, (own_address(), 3480).into());
    run.add(&[mode]).sized(10, 100);
    run
}
