//! A second data path: what is relayed elsewhere is held to the same limits, counted in the same
//! places, and nothing of it is lost when an allocation ends.

use turnway_relay::ledger::{Known, Periods};
use turnway_relay::quota::{Bandwidth, UserLimits};
use turnway_relay::{
    AllocationId, Direction, Lent, Quotas, Reason, Record, SessionFilter, Traffic,
};

use crate::common::client::{Ask, TestClient};
use crate::common::{PEER, Settings, World};

/// A world with limits for each user, and an allocation that has a channel.
fn world(limits: UserLimits) -> (World, TestClient, AllocationId) {
    let quotas = Quotas { default: limits, ..Quotas::default() };
    let mut world = World::new(&Settings { quotas, ..Settings::default() });
    let (client, id) = bound(&mut world, TestClient::udp());
    (world, client, id)
}

fn bound(world: &mut World, mut client: TestClient) -> (TestClient, AllocationId) {
    let relay = client.allocate(world);
    client.bind(world, 0x4000, PEER);
    let (_, id) = world.owner_of(relay).unwrap();
    (client, id.allocation)
}

/// What can be borrowed, and what stood in the way of more.
fn lend(world: &mut World, id: AllocationId, want: u64) -> (u64, Option<Reason>) {
    let mut all = 0;
    loop {
        match world.servers[0].lend(id, Direction::ToPeer, want - all, world.now) {
            Lent::All(bytes) => return (all + bytes, None),
            Lent::Over(bytes, reason) => return (all + bytes, Some(reason)),
            Lent::Lease(bytes) => all += bytes,
        }
        world.exchange(0);
    }
}

fn relayed(world: &mut World, id: AllocationId, datagrams: u64, bytes: u64) {
    let now = world.now;
    assert!(world.servers[0].relayed(id, Direction::ToPeer, datagrams, bytes, now));
}

fn bandwidth(burst_bytes: u64) -> Option<Bandwidth> {
    Some(Bandwidth { bytes_per_second: 10_000, burst_bytes })
}

#[test]
fn what_is_lent_is_taken_out_of_every_limit() {
    let user = UserLimits { bandwidth: bandwidth(60_000), ..UserLimits::default() };
    let allocation =
        UserLimits { bandwidth_per_allocation: bandwidth(60_000), ..UserLimits::default() };
    for (limits, reason) in
        [(user, Reason::UserBandwidth), (allocation, Reason::AllocationBandwidth)]
    {
        let (mut world, client, id) = world(limits);
        let mut lent = 0;
        loop {
            let (bytes, over) = lend(&mut world, id, 20_000);
            lent += bytes;
            if bytes == 0 {
                assert_eq!(over, Some(reason));
                break;
            }
        }
        assert!((55_000..=60_000).contains(&lent), "{reason:?}: {lent} lent of 60000");
        // What is left is no datagram's, and a refused loan is no dropped datagram.
        assert_eq!(world.drops_of_clients(reason), 0);
        assert_eq!(client.channel_data(&mut world, 0x4000, &[0; 6_000]), Err(reason));
        assert_eq!(world.drops_of_clients(reason), 1);
        // It comes with time.
        world.pass(3);
        let (bytes, _) = lend(&mut world, id, 25_000);
        assert!((20_000..27_000).contains(&bytes), "{reason:?}: {bytes} after 3 s");
    }
}

#[test]
fn what_was_not_used_comes_back() {
    for limits in [
        UserLimits { bandwidth: bandwidth(60_000), ..UserLimits::default() },
        UserLimits { bandwidth_per_allocation: bandwidth(60_000), ..UserLimits::default() },
    ] {
        let (mut world, client, id) = world(limits);
        let mut lent = 0;
        while let (bytes @ 1.., _) = lend(&mut world, id, 20_000) {
            lent += bytes;
        }
        world.servers[0].take_back(id, Direction::ToPeer, lent);
        // No clock has moved: these are the very bytes.
        let mut sent = 0;
        while client.channel_data(&mut world, 0x4000, &[0; 1_000]).is_ok() {
            sent += 1_000;
        }
        assert!((lent - 1_000..=60_000).contains(&sent), "{sent} of {lent}");
    }
}

#[test]
fn nothing_that_nobody_limits_need_be_lent() {
    let mut world = World::plain();
    assert!(!world.servers[0].meters());
    let (_, id) = bound(&mut world, TestClient::udp());
    assert_eq!(lend(&mut world, id, 1 << 30).1, None);
}

#[test]
fn what_is_relayed_elsewhere_counts_as_if_it_were_relayed_here() {
    let limits = UserLimits { volume_per_day: Some(5_000), ..UserLimits::default() };
    let (mut world, client, id) = world(limits);
    let periods = Periods { day: "2023-11-14".into(), month: "2023-11".into() };
    drop(world.ledger.usage().begin(periods, Known::default()));
    assert!(world.servers[0].meters());
    client.channel_data(&mut world, 0x4000, &[0; 500]).unwrap();
    // Lending alone spends no volume.
    lend(&mut world, id, 20_000);
    world.pass(1);
    assert!(!world.servers[0].terms(id).unwrap().spent);

    relayed(&mut world, id, 3, 4_500);
    let expected = Traffic { to_peer: 4, to_peer_bytes: 5_000, ..Traffic::default() };
    assert_eq!(world.stats().traffic_of(turnway_relay::Transport::Udp), expected);
    let mut sessions = Vec::new();
    let filter = SessionFilter::default();
    world.servers[0].sessions(&filter, 0, 100, 10, world.now, &mut sessions);
    assert_eq!(sessions[0].traffic, expected);
    world.pass(1);
    assert!(world.servers[0].terms(id).unwrap().spent);
    assert_eq!(lend(&mut world, id, 1_000), (0, Some(Reason::VolumeSpent)));
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x"), Err(Reason::VolumeSpent));
}

#[test]
fn what_is_dropped_elsewhere_counts_at_its_limit() {
    let limits = UserLimits { bandwidth: bandwidth(60_000), ..UserLimits::default() };
    let (mut world, _, id) = world(limits);
    let (reason, now) = (Reason::UserBandwidth, world.now);
    world.servers[0].dropped(id, Direction::ToPeer, reason, 7, 700, now);
    world.servers[0].dropped(id, Direction::ToClient, reason, 2, 200, now);
    let stats = world.stats();
    let drops = [stats.client_drops, stats.peer_drops].map(|drops| drops[reason.index()]);
    assert_eq!(drops, [7, 2]);
    world.pass(1);
    let seen = world.ledger.user(b"alice", world.now.mono_ns).unwrap();
    let dropped: u64 = seen.dropped.iter().map(|dropped| dropped.datagrams).sum();
    assert_eq!(dropped, 9);
}

#[test]
fn nothing_is_lost_when_an_allocation_ends() {
    let limits = UserLimits { volume_per_day: Some(1_000_000), ..UserLimits::default() };
    // The last allocation of a user on the shard, and one that is not.
    for others in [0, 1] {
        let (mut world, mut client, id) = world(limits);
        let periods = Periods { day: "2023-11-14".into(), month: "2023-11".into() };
        drop(world.ledger.usage().begin(periods, Known::default()));
        for port in 0..others {
            let _ = TestClient::new(&format!("192.0.2.44:{}", 1_000 + port)).allocate(&mut world);
        }
        relayed(&mut world, id, 1, 100);
        world.untold.insert(id, (9, 900));
        assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
        let expected = Traffic { to_peer: 10, to_peer_bytes: 1_000, ..Traffic::default() };
        assert_eq!(world.stats().traffic_of(turnway_relay::Transport::Udp), expected);
        let ended: Vec<_> = world
            .records
            .iter()
            .filter_map(|record| match record {
                Record::Ended(ended) => Some(ended.traffic),
                Record::Started(_)
                | Record::AuthFailed(_)
                | Record::VolumeSpent(_)
                | Record::Moved(_) => None,
            })
            .collect();
        assert_eq!(ended, [expected]);
        world.pass(1);
        let unsaved = world.ledger.usage().take_unsaved(usize::MAX);
        let used: u64 = unsaved.iter().map(|(_, used)| used.to_peer).sum();
        assert_eq!(used, 1_000, "with {others} other allocations");
    }
}
