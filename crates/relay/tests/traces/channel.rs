//! ChannelBind (RFC 8656 sections 12 and 12.2).

use turnway_relay::limits::Limits;
use turnway_relay::{Event, Reason};
use turnway_wire::{ChannelNumber, Method, XorPeerAddress};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{DENIED, PEER, PEER_V6, Settings, World, addr};

const OTHER: &str = "198.51.100.1:5001";

fn bind(world: &mut World, client: &mut TestClient, number: u16, peer: &str) -> u16 {
    client.ask(world, &Ask::channel_bind(number, peer)).code()
}

#[test]
fn a_channel_relays_both_ways_and_makes_a_permission() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    let stats = world.stats();
    assert_eq!((stats.permissions, stats.channels), (1, 1));
    let sent = client.channel_data(&mut world, 0x4000, b"out").unwrap();
    assert_eq!((sent.from, sent.to), (relay, addr(PEER)));
    assert_eq!(sent.payload, b"out");
    let back = world.peer_sends(relay, addr(PEER), b"back").unwrap();
    assert_eq!(back.channel(), Some((0x4000, &b"back"[..])));
    // Another port of the peer's address is permitted, but has no channel.
    let other = world.peer_sends(relay, addr(OTHER), b"hi").unwrap();
    assert_eq!(other.data(), Some((addr(OTHER), b"hi".to_vec())));
}

#[test]
fn both_attributes_are_required() {
    //= rfc8656#section-12.2
    //= type=test
    //# The request contains both a CHANNEL-NUMBER and an XOR-PEER-ADDRESS attribute;
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    let bind = || Ask::new(Method::CHANNEL_BIND);
    let peer = || XorPeerAddress(addr(PEER));
    let bad = [
        bind(),
        bind().with(ChannelNumber(0x4000)),
        bind().with(peer()),
        bind().with(peer()).with(Raw::<0x000C>(vec![0x40, 0])),
        bind().with(ChannelNumber(0x4000)).with(Raw::<0x0012>(vec![0, 1, 0, 0, 1])),
    ];
    for ask in &bad {
        assert_eq!(client.ask(&mut world, ask).code(), 400);
    }
    assert_eq!(world.stats().permissions, 0);
}

#[test]
fn channel_numbers_have_a_range() {
    //= rfc8656#section-12.2
    //= type=test
    //# The channel number is in the range 0x4000 through 0x4FFF (inclusive);
    for (modern, old_channel_numbers) in [(true, true), (false, false)] {
        let mut settings = Settings::default();
        settings.limits.old_channel_numbers = old_channel_numbers;
        let mut world = World::new(&settings);
        let mut client = TestClient::udp();
        client.modern = modern;
        client.allocate(&mut world);
        for number in [0, 0x3FFF, 0x5000, 0x7FFF, 0xFFFF] {
            assert_eq!(bind(&mut world, &mut client, number, PEER), 400);
        }
        assert_eq!(bind(&mut world, &mut client, 0x4000, PEER), 0);
        assert_eq!(bind(&mut world, &mut client, 0x4FFF, OTHER), 0);
    }
}

#[test]
fn old_clients_may_have_the_whole_range_of_rfc_5766() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    for number in [0, 0x3FFF, 0x8000, 0xFFFF] {
        assert_eq!(bind(&mut world, &mut client, number, PEER), 400);
    }
    assert_eq!(bind(&mut world, &mut client, 0x7FFF, PEER), 0);
    let sent = client.channel_data(&mut world, 0x7FFF, b"x").unwrap();
    assert_eq!((sent.to, &sent.payload[..]), (addr(PEER), &b"x"[..]));
    let back = world.peer_sends(relay, addr(PEER), b"y").unwrap();
    assert_eq!(back.channel(), Some((0x7FFF, &b"y"[..])));
    let unbound = client.channel_data(&mut world, 0x5000, b"x");
    assert_eq!(unbound, Err(Reason::NoChannel));
}

#[test]
fn a_number_is_not_bound_to_a_second_peer() {
    //= rfc8656#section-12.2
    //= type=test
    //# The channel number is not currently bound to a different transport address (same transport
    //# address is OK);
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    assert_eq!(bind(&mut world, &mut client, 0x4000, OTHER), 400);
    assert_eq!(bind(&mut world, &mut client, 0x4000, PEER), 0);
    assert_eq!(world.stats().channels, 1);
    let sent = client.channel_data(&mut world, 0x4000, b"x").unwrap();
    assert_eq!(sent.to, addr(PEER));
}

#[test]
fn a_peer_is_not_bound_to_a_second_number() {
    //= rfc8656#section-12.2
    //= type=test
    //# The transport address is not currently bound to a different channel number.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    assert_eq!(bind(&mut world, &mut client, 0x4001, PEER), 400);
    assert_eq!(bind(&mut world, &mut client, 0x4001, OTHER), 0);
    // Nor is it, written differently.
    assert_eq!(bind(&mut world, &mut client, 0x4002, "[::ffff:198.51.100.1]:5000"), 400);
}

#[test]
fn a_channel_lasts_600_seconds_and_then_both_are_free() {
    //= rfc8656#section-12
    //= type=test
    //# A channel binding lasts for 10 minutes unless refreshed.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    assert_eq!(client.ask(&mut world, &Ask::refresh(3600)).code(), 0);
    client.bind(&mut world, 0x4000, PEER);
    world.pass(299);
    client.permit(&mut world, &[PEER]);
    world.pass(299);
    client.permit(&mut world, &[PEER]);
    world.pass(1);
    assert!(client.channel_data(&mut world, 0x4000, b"x").is_ok());
    assert_eq!(bind(&mut world, &mut client, 0x4000, OTHER), 400);
    // The second is up; the timer has not run.
    world.pass_unnoticed(1);
    let late = client.channel_data(&mut world, 0x4000, b"x");
    assert_eq!(late, Err(Reason::NoChannel));
    assert_eq!(bind(&mut world, &mut client, 0x4000, OTHER), 0);
    assert_eq!(bind(&mut world, &mut client, 0x4001, PEER), 0);
    assert_eq!(world.stats().channels, 2);
}

#[test]
fn a_second_bind_refreshes_channel_and_permission() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.ask(&mut world, &Ask::refresh(3600));
    for _ in 0..8 {
        client.bind(&mut world, 0x4000, PEER);
        world.pass(299);
        assert!(client.channel_data(&mut world, 0x4000, b"x").is_ok());
        assert!(world.peer_sends(relay, addr(PEER), b"x").is_ok());
    }
    assert_eq!(world.stats().channels, 1);
}

#[test]
fn a_channel_without_its_permission_relays_nothing_until_it_is_permitted_again() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    world.pass(300);
    let stats = world.stats();
    assert_eq!((stats.permissions, stats.channels), (0, 1));
    let out = client.channel_data(&mut world, 0x4000, b"x");
    assert_eq!(out, Err(Reason::NoPermission));
    let back = world.peer_sends(relay, addr(PEER), b"x");
    assert_eq!(back.unwrap_err(), Reason::NoPermission);

    client.permit(&mut world, &[PEER]);
    assert!(client.channel_data(&mut world, 0x4000, b"x").is_ok());
    let back = world.peer_sends(relay, addr(PEER), b"x").unwrap();
    assert_eq!(back.channel(), Some((0x4000, &b"x"[..])));
}

#[test]
fn data_refreshes_neither_channel_nor_permission() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    for _ in 0..299 {
        world.pass(1);
        assert!(client.channel_data(&mut world, 0x4000, b"x").is_ok());
    }
    world.pass(1);
    assert!(client.channel_data(&mut world, 0x4000, b"x").is_err());
}

#[test]
fn a_denied_peer_gets_no_channel() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    // Port 0 is no peer.
    for peer in [DENIED, "127.0.0.1:1", "198.51.100.1:0"] {
        assert_eq!(bind(&mut world, &mut client, 0x4000, peer), 403, "{peer}");
    }
    assert_eq!(bind(&mut world, &mut client, 0x4000, PEER_V6), 443);
    let stats = world.stats();
    assert_eq!((stats.permissions, stats.channels), (0, 0));
}

#[test]
fn an_allocation_holds_so_many_channels() {
    let settings = Settings {
        limits: Limits { channels_per_allocation: 2, ..Limits::default() },
        ..Settings::default()
    };
    let mut world = World::new(&settings);
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    client.ask(&mut world, &Ask::refresh(3600));
    client.bind(&mut world, 0x4000, PEER);
    client.bind(&mut world, 0x4001, OTHER);
    assert_eq!(bind(&mut world, &mut client, 0x4002, "198.51.100.9:1"), 508);
    assert_eq!(world.stats().permissions, 1, "and no permission is left behind");
    client.bind(&mut world, 0x4001, OTHER);
    world.pass(600);
    client.bind(&mut world, 0x4002, "198.51.100.9:1");
}

#[test]
fn listeners_of_channels_know_until_when() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    let begin = world.now.mono_ns;
    let until = |world: &World| {
        let known = world.channels[0].values().next();
        known.map(|(_, deadline_ns)| (deadline_ns - begin) / 1_000_000_000)
    };
    client.bind(&mut world, 0x4000, PEER);
    assert_eq!(until(&world), Some(300), "the permission ends first");
    world.pass(200);
    client.permit(&mut world, &[PEER]);
    assert_eq!(until(&world), Some(500));
    world.pass(200);
    client.permit(&mut world, &[PEER]);
    assert_eq!(until(&world), Some(600), "the allocation ends first");
    client.ask(&mut world, &Ask::refresh(3600));
    client.permit(&mut world, &[PEER]);
    assert_eq!(until(&world), Some(600), "the channel ends first");
    client.bind(&mut world, 0x4000, PEER);
    assert_eq!(until(&world), Some(700));
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    assert_eq!(until(&world), None);
}
