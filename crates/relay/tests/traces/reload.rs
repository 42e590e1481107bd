//! A new configuration: what lives on, and what ends.

use std::net::SocketAddr;

use turnway_relay::auth::rest_password;
use turnway_relay::{EndReason, Reason, Record};

use crate::common::client::{Ask, TestClient};
use crate::common::{EPOCH_S, PEER, PEER_V6, Settings, World, addr};

fn bound(world: &mut World) -> (TestClient, SocketAddr) {
    let mut client = TestClient::udp();
    let relay = client.allocate(world);
    client.bind(world, 0x4000, PEER);
    client.permit(world, &["198.51.100.2:1"]);
    (client, relay)
}

#[test]
fn an_unchanged_configuration_changes_nothing() {
    let mut world = World::plain();
    let (mut client, relay) = bound(&mut world);
    world.configure(&Settings::default());
    assert!(client.channel_data(&mut world, 0x4000, b"x").is_ok());
    assert!(world.peer_sends(relay, addr(PEER), b"x").is_ok());
    assert_eq!(client.ask_once(&mut world, &Ask::refresh(600)).code(), 0);
    assert_eq!(world.stats().permissions, 2);
}

#[test]
fn a_changed_password_is_asked_for_at_once() {
    let mut world = World::plain();
    let (mut client, _) = bound(&mut world);
    let changed = Settings { users: vec![("alice", "new")], ..Settings::default() };
    world.configure(&changed);
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 401);
    client.password = "new".into();
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 0);
    assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
}

#[test]
fn a_newly_denied_peer_is_cut_off_at_once() {
    let mut world = World::plain();
    let (mut client, relay) = bound(&mut world);
    let stricter = Settings { deny: vec!["198.51.100.1/32"], ..Settings::default() };
    world.configure(&stricter);
    let stats = world.stats();
    assert_eq!((stats.permissions, stats.channels), (1, 0));
    assert!(world.channels[0].is_empty());
    let data = client.channel_data(&mut world, 0x4000, b"x");
    assert_eq!(data, Err(Reason::NoChannel));
    assert_eq!(client.send(&mut world, PEER, b"x"), Err(Reason::NoPermission));
    let back = world.peer_sends(relay, addr(PEER), b"x");
    assert_eq!(back.unwrap_err(), Reason::NoPermission);
    assert_eq!(client.ask(&mut world, &Ask::channel_bind(0x4000, PEER)).code(), 403);
    // The other peer notices nothing.
    assert!(client.send(&mut world, "198.51.100.2:1", b"x").is_ok());
    world.configure(&Settings::default());
    client.bind(&mut world, 0x4000, PEER);
}

#[test]
fn an_allocation_of_a_family_no_longer_offered_lives_on() {
    let mut world = World::plain();
    let family = Some(turnway_wire::Family::V6);
    let v6 = Ask::allocate().with(turnway_wire::RequestedAddressFamily { family });
    let mut client = TestClient::udp();
    let relay = client.ask(&mut world, &v6).relayed()[0];
    world.configure(&Settings { v6: false, ..Settings::default() });
    client.permit(&mut world, &[PEER_V6]);
    assert!(world.peer_sends(relay, addr(PEER_V6), b"x").is_ok());
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 0);
    assert_eq!(TestClient::tcp().ask(&mut world, &v6).code(), 440);
}

#[test]
fn who_holds_an_allocation_is_not_forgotten_by_a_reload() {
    let secret = "a shared secret";
    let name = format!("{}:carol", EPOCH_S + 100);
    let password = rest_password(secret.as_bytes(), name.as_bytes());
    for enforce_expiry in [true, false] {
        let settings =
            Settings { rest_secrets: vec![secret], enforce_expiry, ..Settings::default() };
        let mut world = World::new(&settings);
        let mut client = TestClient::udp().of(&name, &password);
        client.allocate(&mut world);
        world.pass(500);
        world.configure(&settings);
        let refreshed = client.ask(&mut world, &Ask::refresh(600)).code();
        assert_eq!(refreshed, if enforce_expiry { 401 } else { 0 });
        assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
        world.assert_empty();
    }
}

#[test]
fn who_is_removed_is_gone_at_once() {
    let mut world = World::plain();
    let mut alice = TestClient::udp();
    alice.allocate(&mut world);
    let mut bob = TestClient::new("192.0.2.9:40000").of("bob", "hunter2");
    bob.allocate(&mut world);
    let only_bob = Settings { users: vec![("bob", "another")], ..Settings::default() };
    world.configure(&only_bob);
    let Some(Record::Ended(ended)) = world.records.last() else { panic!("{:?}", world.records) };
    assert_eq!((&*ended.user, ended.reason), (&b"alice"[..], EndReason::UserRemoved));
    for ask in [Ask::refresh(600), Ask::channel_bind(0x4000, PEER), Ask::refresh(0)] {
        assert_eq!(alice.ask(&mut world, &ask).code(), 401);
    }
    // Another password is no removal: bob goes on when he knows it.
    assert_eq!(world.servers[0].allocations(), 1);
    assert_eq!(bob.ask(&mut world, &Ask::refresh(600)).code(), 401);
    let mut bob = bob.of("bob", "another");
    assert_eq!(bob.ask(&mut world, &Ask::refresh(0)).code(), 0);
    world.assert_empty();
}

#[test]
fn a_large_table_is_judged_in_pieces_and_nobody_slips_through() {
    let mut world = World::plain();
    let mut clients: Vec<TestClient> =
        (0..3_000).map(|port| TestClient::new(&format!("192.0.2.1:{}", 10_000 + port))).collect();
    for client in &mut clients {
        client.allocate(&mut world);
    }
    let without_alice = Settings { users: vec![("bob", "hunter2")], ..Settings::default() };
    world.configure(&without_alice);
    // Some are left for later, so that datagrams between do not wait for all.
    assert!(world.servers[0].allocations() > 0);
    assert_eq!(world.servers[0].deadline(), Some(0));
    // Whoever asks is judged first.
    let last = clients.last_mut().unwrap();
    let before = world.servers[0].allocations();
    assert_eq!(last.ask(&mut world, &Ask::refresh(600)).code(), 401);
    assert_eq!(world.servers[0].allocations(), before - 1);
    world.expire();
    world.assert_empty();
}

#[test]
fn new_limits_hold_for_what_is_new() {
    let mut world = World::plain();
    let (mut client, _) = bound(&mut world);
    let mut settings = Settings::default();
    settings.limits.permissions_per_allocation = 1;
    settings.limits.max_lifetime_s = 900;
    world.configure(&settings);
    assert_eq!(world.stats().permissions, 2);
    let third = Ask::create_permission(&["198.51.100.3:1"]);
    assert_eq!(client.ask(&mut world, &third).code(), 508);
    assert_eq!(client.ask(&mut world, &Ask::refresh(3600)).lifetime(), Some(900));
}
