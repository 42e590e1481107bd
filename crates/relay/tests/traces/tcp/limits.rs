//! What bounds TCP allocations: connections of each, and the bytes of their streams.

use turnway_relay::limits::Limits;
use turnway_relay::quota::{Bandwidth, UserLimits};
use turnway_relay::{ConnectionEnd, ConnectionId, Direction, Quotas, Reason, Stream, Transport};

use super::{allocated, connect, connected, connection_bind, data_connection};
use crate::common::client::TestClient;
use crate::common::{PEER, Settings, World, addr};

fn limited(user: UserLimits) -> World {
    let quotas = Quotas { default: user, ..Quotas::default() };
    World::new(&Settings { quotas, ..Settings::default() })
}

/// A bound connection.
fn bound(world: &mut World) -> (TestClient, ConnectionId) {
    let (mut client, _) = allocated(world);
    let id = connected(world, &mut client, PEER);
    let mut data = data_connection(&client, 40_002);
    assert_eq!(data.ask(world, &connection_bind(id)).code(), 0);
    (client, id)
}

/// Passes on as much as may go on now. Gives how much that was, and what stopped it.
fn pass_on(world: &mut World, id: ConnectionId, way: Direction, bytes: usize) -> (usize, Stream) {
    let mut passed = 0;
    let mut leases = 0;
    loop {
        match world.servers[0].admit_stream(id, way, bytes - passed, world.now) {
            Stream::Bytes(len) => {
                assert!((1..=bytes - passed).contains(&len));
                passed += len;
                leases = 0;
                if passed == bytes {
                    return (passed, Stream::Bytes(len));
                }
            }
            Stream::Lease => {
                leases += 1;
                assert!(leases < 20, "the same lease over and over");
                world.exchange(0);
            }
            stop @ (Stream::Wait(_) | Stream::Close) => return (passed, stop),
        }
    }
}

#[test]
fn an_allocation_has_so_many_connections_and_no_more() {
    let limits = Limits { connections_per_allocation: 3, ..Limits::default() };
    let mut world = World::new(&Settings { limits, ..Settings::default() });
    let (mut client, relay) = allocated(&mut world);
    client.permit(&mut world, &[PEER]);
    connected(&mut world, &mut client, PEER);
    connected(&mut world, &mut client, "198.51.100.1:5001");
    world.peer_connects(relay, addr("198.51.100.1:1")).unwrap();
    assert_eq!(client.ask(&mut world, &connect("198.51.100.1:5002")).code(), 508);
    let refused = world.peer_connects(relay, addr("198.51.100.1:2"));
    assert_eq!(refused.unwrap_err(), Reason::TooManyConnections);
    world.pass(30);
    assert_eq!(world.disconnected.len(), 3);
    connected(&mut world, &mut client, "198.51.100.1:5002");
}

#[test]
fn a_stream_without_limits_is_only_counted() {
    let mut world = World::plain();
    let (_, id) = bound(&mut world);
    assert_eq!(pass_on(&mut world, id, Direction::ToPeer, 1_000_000).0, 1_000_000);
    assert_eq!(pass_on(&mut world, id, Direction::ToClient, 300).0, 300);
    let stats = world.stats();
    assert_eq!((stats.streams.to_peer_bytes, stats.streams.to_client_bytes), (1_000_000, 300));
    assert_eq!(stats.traffic[Transport::Tcp.index()], stats.streams);
    let session = world.servers[0].find_session(1, world.now).unwrap();
    assert_eq!((session.traffic, session.dropped), (stats.streams, 0));
}

#[test]
fn a_stream_over_a_bandwidth_waits_and_loses_nothing() {
    let bandwidth = Bandwidth { bytes_per_second: 100_000, burst_bytes: 50_000 };
    for user in [
        UserLimits { bandwidth: Some(bandwidth), ..UserLimits::default() },
        UserLimits { bandwidth_per_allocation: Some(bandwidth), ..UserLimits::default() },
    ] {
        let mut world = limited(user);
        let (_, id) = bound(&mut world);
        let start_ns = world.now.mono_ns;
        let mut passed = 0;
        while world.now.mono_ns < start_ns + 10_000_000_000 {
            let (len, stop) = pass_on(&mut world, id, Direction::ToPeer, 10_000_000);
            passed += len;
            let Stream::Wait(until_ns) = stop else { panic!("{stop:?}") };
            assert!(until_ns > world.now.mono_ns);
            world.now.mono_ns = until_ns;
            world.expire();
        }
        // Ten seconds and one burst.
        assert!((900_000..=1_060_000).contains(&passed), "{passed}");
        let session = world.servers[0].find_session(1, world.now).unwrap();
        assert_eq!((session.traffic.to_peer_bytes, session.dropped), (passed as u64, 0));
    }
}

#[test]
fn the_smallest_burst_lets_a_stream_pass() {
    let bandwidth = Some(Bandwidth { bytes_per_second: 1_000, burst_bytes: 1_500 });
    let mut world = limited(UserLimits { bandwidth, ..UserLimits::default() });
    let (_, id) = bound(&mut world);
    let mut passed = 0;
    for _ in 0..2000 {
        passed += pass_on(&mut world, id, Direction::ToClient, 100_000).0;
        world.now.mono_ns += 10_000_000;
        world.expire();
    }
    assert!((15_000..=21_500).contains(&passed), "{passed}");
}

#[test]
fn a_spent_volume_closes_the_connection() {
    let volume_per_day = Some(100_000);
    let mut world = limited(UserLimits { volume_per_day, ..UserLimits::default() });
    let (mut client, id) = bound(&mut world);
    assert_eq!(pass_on(&mut world, id, Direction::ToPeer, 150_000).0, 150_000);
    // The ledger hears of it some times a second.
    world.pass(1);
    assert_eq!(pass_on(&mut world, id, Direction::ToPeer, 1), (0, Stream::Close));
    let stats = world.stats();
    assert_eq!(stats.connections_ended[ConnectionEnd::VolumeSpent.index()], 1);
    assert_eq!(stats.connections, 0);
    assert_eq!(pass_on(&mut world, id, Direction::ToPeer, 1), (0, Stream::Close));
    assert_eq!(world.stats().connections, 0);
    // A new one would be closed with its first byte.
    connected(&mut world, &mut client, PEER);
}
