//! What users may use: who is refused, what is dropped, and that everything comes back.

use std::net::SocketAddr;
use std::sync::Arc;

use turnway_relay::ledger::{Direction, Known, Periods};
use turnway_relay::quota::{Bandwidth, PrefixLimit, UserLimits};
use turnway_relay::{
    Effect, EndReason, Event, Outcome, Period, Quota, Quotas, Reason, Record, Request, Session,
    SessionFilter,
};

use crate::common::client::{Ask, TestClient};
use crate::common::{PEER, Settings, World, addr};

fn settings(quotas: Quotas) -> Settings {
    Settings { quotas, ..Settings::default() }
}

fn of_users(limits: UserLimits) -> Settings {
    settings(Quotas { default: limits, ..Quotas::default() })
}

fn allocations(most: u32) -> UserLimits {
    UserLimits { allocations: Some(most), ..UserLimits::default() }
}

/// Another client of a network, with a five-tuple of its own.
fn client(port: u16) -> TestClient {
    TestClient::new(&format!("192.0.2.1:{port}"))
}

/// An allocation with a channel to the peer.
fn bound(world: &mut World, mut client: TestClient) -> (TestClient, SocketAddr) {
    let relay = client.allocate(world);
    client.bind(world, 0x4000, PEER);
    (client, relay)
}

fn configure(world: &mut World, settings: &Settings) {
    world.ledger.configure(Arc::clone(&settings.config().quotas), world.now.mono_ns);
    world.configure(settings);
    world.expire();
}

//= rfc8656#section-7.2
//= type=test
//# At any point, the server MAY choose to reject the request with a 486 (Allocation Quota
//# Reached) error if it feels the client is trying to exceed some locally defined allocation
//# quota.
#[test]
fn who_has_all_it_may_have_is_refused_with_486() {
    let prefix = PrefixLimit { allocations: Some(2), ..PrefixLimit::default() };
    for (quota, quotas) in [
        (Quota::UserAllocations, Quotas { default: allocations(2), ..Quotas::default() }),
        (Quota::PrefixAllocations, Quotas { prefix, ..Quotas::default() }),
        (Quota::RealmAllocations, Quotas { realm_allocations: Some(2), ..Quotas::default() }),
    ] {
        let mut world = World::new(&Settings { servers: 2, ..settings(quotas) });
        let mut first = client(1);
        first.allocate(&mut world);
        client(2).on(1).allocate(&mut world);
        let mut third = client(3).on(1);
        assert_eq!(third.ask(&mut world, &Ask::allocate()).code(), 486);
        let stats = world.stats();
        assert_eq!(stats.quota_refusals[quota.index()], 1);
        assert_eq!(stats.quota_refusals.iter().sum::<u64>(), 1);
        assert_eq!(stats.count(Request::Allocate, Outcome::QuotaReached), 1);
        assert_eq!(world.shared.allocations.count(), 2);

        // What others do is their own matter, unless it is the realm that is full.
        let mut other = TestClient::new("192.0.2.9:1").of("bob", "hunter2");
        let full = if quota == Quota::RealmAllocations { 486 } else { 0 };
        assert_eq!(other.ask(&mut world, &Ask::allocate()).code(), full);
        // One that ends makes room for one.
        assert_eq!(first.ask(&mut world, &Ask::refresh(0)).code(), 0);
        assert_eq!(third.ask(&mut world, &Ask::allocate()).code(), 0);
        assert_eq!(client(4).ask(&mut world, &Ask::allocate()).code(), 486);
        world.pass(600);
        world.assert_empty();
    }
}

#[test]
fn two_allocates_racing_for_the_last_slot_do_not_both_get_it() {
    for first in [0, 1] {
        let mut world = World::new(&Settings { servers: 2, ..of_users(allocations(1)) });
        let mut clients = [client(1).on(0), client(2).on(1)];
        // Both shards have checked everything else before either asks the ledger.
        let mut wanted = Vec::new();
        for client in &mut clients {
            let challenge = client.ask_once(&mut world, &Ask::allocate());
            client.learn(&challenge);
            let data = client.request(&Ask::allocate());
            let event = Event::Request { from: client.at, data: &data };
            world.servers[client.shard].handle(event, world.now, &mut [0; 1500]);
            match world.servers[client.shard].poll() {
                Some(Effect::Reserve { account, client: ip }) => wanted.push((account, ip)),
                other => panic!("{other:?}"),
            }
        }
        let mut answers = Vec::new();
        for shard in [first, 1 - first] {
            let (account, ip) = &wanted[shard];
            let reserved = world.ledger.reserve(account, *ip, world.now.mono_ns);
            answers.push(world.handle(shard, Event::Reserved(reserved)).is_some());
            assert_eq!(world.servers[shard].allocations(), usize::from(shard == first));
        }
        assert_eq!(answers, [true, true]);
        assert_eq!((world.ledger.allocations(), world.shared.allocations.count()), (1, 1));
        assert_eq!(world.stats().quota_refusals[Quota::UserAllocations.index()], 1);
        world.pass(600);
        world.assert_empty();
    }
}

#[test]
fn a_spent_volume_refuses_allocates_and_drops_what_comes() {
    let limits = UserLimits { volume_per_day: Some(1_000), ..UserLimits::default() };
    let mut world = World::new(&of_users(limits));
    let periods = |day: &str| Periods { day: day.into(), month: "2023-11".into() };
    drop(world.ledger.usage().begin(periods("2023-11-14"), Known::default()));
    let (mut alice, relay) = bound(&mut world, client(1));
    assert!(alice.channel_data(&mut world, 0x4000, &[0; 600]).is_ok());
    assert!(world.peer_sends(relay, addr(PEER), &[0; 600]).is_ok());
    // It is known within a second.
    world.pass(1);
    assert_eq!(alice.channel_data(&mut world, 0x4000, b"x"), Err(Reason::VolumeSpent));
    assert_eq!(world.peer_sends(relay, addr(PEER), b"x").unwrap_err(), Reason::VolumeSpent);
    assert_eq!(client(2).ask(&mut world, &Ask::allocate()).code(), 486);
    let stats = world.stats();
    assert_eq!(stats.quota_refusals[Quota::UserVolume.index()], 1);
    let drops = [stats.client_drops, stats.peer_drops];
    assert_eq!(drops.map(|drops| drops[Reason::VolumeSpent.index()]), [1, 1]);
    world.pass(1);
    let said: Vec<_> = world
        .records
        .iter()
        .filter_map(|record| match record {
            Record::VolumeSpent(spent) => Some((&*spent.account, spent.period)),
            Record::Started(_) | Record::Ended(_) | Record::AuthFailed(_) | Record::Moved(_) => {
                None
            }
        })
        .collect();
    assert_eq!(said, [(&b"alice"[..], Period::Day)]);
    assert_eq!(stats.volumes_spent, 1);
    // Requests are no volume: what there is can be kept. The next day opens by itself.
    assert_eq!(alice.ask(&mut world, &Ask::refresh(600)).code(), 0);
    world.ledger.usage().take_unsaved(usize::MAX);
    drop(world.ledger.usage().begin(periods("2023-11-15"), Known::default()));
    assert!(alice.channel_data(&mut world, 0x4000, b"x").is_err());
    world.pass(1);
    assert!(alice.channel_data(&mut world, 0x4000, b"x").is_ok());
    assert_eq!(client(3).ask(&mut world, &Ask::allocate()).code(), 0);
}

#[test]
fn a_volume_that_an_ending_allocation_spent_is_said() {
    let limits = UserLimits { volume_per_day: Some(1_000), ..UserLimits::default() };
    let mut world = World::new(&of_users(limits));
    let (mut client, _) = bound(&mut world, TestClient::udp());
    client.channel_data(&mut world, 0x4000, &[0; 1_000]).unwrap();
    assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
    let spent = |record: &&Record| matches!(record, Record::VolumeSpent(_));
    assert_eq!(world.records.iter().filter(spent).count(), 1);
    assert_eq!(world.stats().volumes_spent, 1);
    // Nobody of that name has an allocation, and yet it can be seen why there is none.
    assert_eq!(TestClient::udp().ask(&mut world, &Ask::allocate()).code(), 486);
    let seen = world.ledger.user(b"alice", world.now.mono_ns).unwrap();
    assert_eq!((seen.allocations, seen.spent), (0, Some(Period::Day)));
    assert!(world.ledger.user(b"nobody", world.now.mono_ns).is_none());
}

fn narrow() -> Option<Bandwidth> {
    Some(Bandwidth { bytes_per_second: 1_000, burst_bytes: 2_000 })
}

#[test]
fn what_is_over_a_bandwidth_is_dropped_at_once_and_counted_by_its_limit() {
    let user = UserLimits { bandwidth: narrow(), ..UserLimits::default() };
    let allocation = UserLimits { bandwidth_per_allocation: narrow(), ..UserLimits::default() };
    for (reason, quotas) in [
        (Reason::AllocationBandwidth, Quotas { default: allocation, ..Quotas::default() }),
        (Reason::UserBandwidth, Quotas { default: user, ..Quotas::default() }),
        (Reason::RealmBandwidth, Quotas { realm_bandwidth: narrow(), ..Quotas::default() }),
        (Reason::TotalBandwidth, Quotas { total_bandwidth: narrow(), ..Quotas::default() }),
    ] {
        let mut world = World::new(&settings(quotas));
        let (alice, relay) = bound(&mut world, client(1));
        for _ in 0..2 {
            assert!(alice.channel_data(&mut world, 0x4000, &[0; 1_000]).is_ok());
        }
        assert_eq!(alice.channel_data(&mut world, 0x4000, &[0; 1_000]), Err(reason));
        assert_eq!(alice.send(&mut world, PEER, &[0; 1_000]), Err(reason));
        // The other direction has a limit of its own.
        for _ in 0..2 {
            assert!(world.peer_sends(relay, addr(PEER), &[0; 1_000]).is_ok());
        }
        assert_eq!(world.peer_sends(relay, addr(PEER), &[0; 1_000]).unwrap_err(), reason);
        let stats = world.stats();
        assert_eq!(stats.client_drops[reason.index()], 2);
        assert_eq!(stats.peer_drops[reason.index()], 1);
        assert_eq!(
            (
                stats.traffic_of(turnway_relay::Transport::Udp).to_peer_bytes,
                stats.traffic_of(turnway_relay::Transport::Udp).to_client_bytes
            ),
            (2_000, 2_000)
        );
        assert_eq!(session_of(&world, &alice).dropped, 3);
        // A second brings what a second brings.
        world.pass(1);
        assert!(alice.channel_data(&mut world, 0x4000, &[0; 1_000]).is_ok());
        assert_eq!(alice.channel_data(&mut world, 0x4000, &[0; 1_000]), Err(reason));
        world.pass(1);
        let user = world.ledger.user(b"alice", world.now.mono_ns).unwrap();
        let dropped: Vec<u64> = user.dropped.iter().map(|dropped| dropped.datagrams).collect();
        let place = turnway_relay::ledger::limit_index(reason).unwrap();
        assert_eq!((dropped[place], dropped.iter().sum()), (4, 4));
        assert_eq!(user.relayed[Direction::ToPeer.index()], 3_000);
        world.pass(600);
        world.assert_empty();
    }
}

#[test]
fn one_users_limit_is_no_other_users_matter() {
    let limits = UserLimits { bandwidth: narrow(), ..UserLimits::default() };
    let mut quotas = Quotas { default: limits, ..Quotas::default() };
    quotas.users.insert(b"bob".as_slice().into(), UserLimits::default());
    let mut world = World::new(&Settings { servers: 2, ..settings(quotas) });
    let (here, _) = bound(&mut world, client(1).on(0));
    let (there, _) = bound(&mut world, client(2).on(1));
    let (bob, _) = bound(&mut world, client(3).of("bob", "hunter2"));
    let passed = (0..10)
        .flat_map(|_| [&here, &there])
        .filter(|alice| alice.channel_data(&mut world, 0x4000, &[0; 500]).is_ok())
        .count();
    assert_eq!(passed, 4, "all of a user's allocations share one limit");
    for _ in 0..100 {
        assert!(bob.channel_data(&mut world, 0x4000, &[0; 1_000]).is_ok());
    }
}

#[test]
fn other_limits_hold_for_live_allocations_at_once() {
    let plain = Settings::default();
    let mut world = World::new(&plain);
    let (alice, _) = bound(&mut world, client(1));
    let send = |world: &mut World| {
        (0..10).filter(|_| alice.channel_data(world, 0x4000, &[0; 1_000]).is_ok()).count()
    };
    assert_eq!(send(&mut world), 10);
    let of = |burst_bytes| {
        let bandwidth = Some(Bandwidth { bytes_per_second: 1_000, burst_bytes });
        of_users(UserLimits { bandwidth, ..UserLimits::default() })
    };
    configure(&mut world, &of(3_000));
    assert_eq!(send(&mut world), 3);
    configure(&mut world, &of(5_000));
    assert_eq!(send(&mut world), 0, "a larger burst fills with time");
    world.pass(100);
    assert_eq!(send(&mut world), 5);
    world.pass(100);
    configure(&mut world, &of(2_000));
    assert_eq!(send(&mut world), 2);
    configure(&mut world, &plain);
    assert_eq!(send(&mut world), 10);
    // Who has more allocations than are allowed now keeps them.
    bound(&mut world, client(2));
    configure(&mut world, &of_users(allocations(1)));
    assert_eq!(world.ledger.allocations(), 2);
    assert_eq!(client(3).ask(&mut world, &Ask::allocate()).code(), 486);
}

/// The number of the latest allocation.
fn latest(world: &World) -> u64 {
    let started = world.records.iter().rev().find_map(|record| match record {
        Record::Started(started) => Some(started.session),
        Record::Ended(_) | Record::AuthFailed(_) | Record::VolumeSpent(_) | Record::Moved(_) => {
            None
        }
    });
    started.expect("an allocation began")
}

#[test]
fn a_killed_allocation_ends_with_a_record_and_gives_its_count_back() {
    let mut world = World::new(&of_users(allocations(1)));
    let (alice, relay) = bound(&mut world, client(1));
    let session = latest(&world);
    world.handle(0, Event::Kill { session: session + 1 });
    assert_eq!(world.ledger.allocations(), 1, "nobody has that number");
    assert!(world.owner_of(relay).is_some());
    world.handle(0, Event::Kill { session });
    match world.records.last() {
        Some(Record::Ended(ended)) => {
            assert_eq!((ended.session, ended.reason), (session, EndReason::Killed));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.stats().allocations_ended[EndReason::Killed.index()], 1);
    assert_eq!(alice.channel_data(&mut world, 0x4000, b"x"), Err(Reason::NoAllocation));
    world.handle(0, Event::Kill { session });
    world.expire();
    world.assert_empty();
    assert_eq!(client(2).ask(&mut world, &Ask::allocate()).code(), 0);
}

fn session_of(world: &World, client: &TestClient) -> Session {
    let mut sessions = Vec::new();
    let server = &world.servers[client.shard];
    server.sessions(&SessionFilter::default(), 0, u32::MAX, 1_000, world.now, &mut sessions);
    sessions.into_iter().find(|session| session.tuple == client.at.tuple).expect("it is there")
}

#[test]
fn sessions_are_read_page_by_page_and_each_once() {
    let mut world = World::plain();
    let mut clients: Vec<_> = (1..=100)
        .map(|port| match port % 4 {
            0 => client(port).of("bob", "hunter2"),
            _ => TestClient::new(&format!("192.0.2.{}:{port}", port % 3)),
        })
        .collect();
    for client in &mut clients {
        client.allocate(&mut world);
    }
    for client in clients.iter_mut().step_by(5) {
        assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
    }
    let read = |filter: &SessionFilter, places: u32, most: usize| {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(place) = from {
            let before = all.len();
            from = world.servers[0].sessions(filter, place, places, most, world.now, &mut all);
            assert!(all.len() - before <= most);
        }
        all
    };
    let all = read(&SessionFilter::default(), 7, 3);
    assert_eq!(all.len(), 80);
    let numbers: std::collections::BTreeSet<_> =
        all.iter().map(|session| session.session).collect();
    assert_eq!(numbers.len(), 80);
    assert_eq!(all, read(&SessionFilter::default(), 1_000, 1_000));
    for session in &all {
        let found = world.servers[0].find_session(session.session, world.now);
        assert_eq!(found.as_ref(), Some(session));
    }
    assert_eq!(world.servers[0].find_session(u64::MAX, world.now), None);
    let bobs = SessionFilter { account: Some(b"bob".to_vec()), ..SessionFilter::default() };
    assert_eq!(read(&bobs, 9, 2).len(), 20);
    let from = SessionFilter { client: Some([192, 0, 2, 1].into()), ..bobs };
    assert_eq!(read(&from, 9, 2).len(), 20);
    let nobodys = SessionFilter { account: Some(b"carol".to_vec()), ..SessionFilter::default() };
    assert!(read(&nobodys, 9, 2).is_empty());
}

#[test]
fn a_session_shows_what_it_has_and_did() {
    let mut world = World::plain();
    let (alice, relay) = bound(&mut world, client(1));
    assert!(alice.channel_data(&mut world, 0x4000, &[0; 70]).is_ok());
    assert!(world.peer_sends(relay, addr(PEER), &[0; 30]).is_ok());
    world.pass_unnoticed(10);
    let session = session_of(&world, &alice);
    assert_eq!((&*session.user, &*session.account), (&b"alice"[..], &b"alice"[..]));
    assert_eq!((session.v4, session.v6), (Some(relay), None));
    assert_eq!((session.age_s, session.expires_in_s), (10, 590));
    assert_eq!((session.permissions, session.channels, session.dropped), (1, 1, 0));
    assert_eq!((session.traffic.to_peer_bytes, session.traffic.to_client_bytes), (70, 30));
}
