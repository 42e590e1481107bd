//! Dual allocations (RFC 8656 sections 7.2 and 8): one relayed transport address per family.

use turnway_relay::{BindFailure, Reason};
use turnway_wire::{AdditionalAddressFamily, EvenPort, Family, RequestedAddressFamily};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{PEER, PEER_V6, Settings, World, addr};

fn both() -> Ask {
    Ask::allocate().with(AdditionalAddressFamily { family: Some(Family::V6) })
}

fn only(family: Family) -> RequestedAddressFamily {
    RequestedAddressFamily { family: Some(family) }
}

#[test]
fn a_dual_allocation_has_an_address_of_each_family_and_relays_to_both() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let response = client.ask(&mut world, &both());
    let [v4, v6] = response.relayed()[..] else { panic!("{response:?}") };
    assert!(v4.is_ipv4() && v6.is_ipv6());
    assert_eq!(response.lacking(), None);
    assert_eq!(world.shared.allocations.count(), 1, "one allocation, two addresses");
    assert_eq!(world.pool.counts().claimed, 2);

    client.permit(&mut world, &[PEER, PEER_V6]);
    client.bind(&mut world, 0x4001, PEER_V6);
    assert_eq!(client.send(&mut world, PEER, b"4").unwrap().from, v4);
    assert_eq!(client.channel_data(&mut world, 0x4001, b"6").unwrap().from, v6);
    let from_v6 = world.peer_sends(v6, addr(PEER_V6), b"x").unwrap();
    assert_eq!(from_v6.channel(), Some((0x4001, &b"x"[..])));
    let from_v4 = world.peer_sends(v4, addr(PEER), b"y").unwrap();
    assert_eq!(from_v4.data(), Some((addr(PEER), b"y".to_vec())));
}

#[test]
fn two_ways_of_asking_for_a_family_contradict_each_other() {
    //= rfc8656#section-7.2
    //= type=test
    //# The server checks if the request contains both REQUESTED-ADDRESS-FAMILY and
    //# ADDITIONAL-ADDRESS-FAMILY attributes.
    let mut world = World::plain();
    let ask = both().with(only(Family::V4));
    assert_eq!(TestClient::udp().ask(&mut world, &ask).code(), 400);
    world.assert_empty();
}

#[test]
fn the_additional_family_is_ipv6() {
    //= rfc8656#section-7.2
    //= type=test
    //# If yes, and the attribute value is 0x01 (IPv4 address family), then the server
    //# rejects the request with a 400 (Bad Request) error.
    let mut world = World::plain();
    let ask = Ask::allocate().with(AdditionalAddressFamily { family: Some(Family::V4) });
    assert_eq!(TestClient::udp().ask(&mut world, &ask).code(), 400);
    world.assert_empty();
}

#[test]
fn the_number_that_coturns_clients_use_is_understood() {
    let mut world = World::plain();
    let ask = |value: &[u8]| Ask::allocate().with(Raw::<0x8032>(value.to_vec()));
    let response = TestClient::udp().ask(&mut world, &ask(&[2, 0, 0, 0]));
    assert_eq!(response.relayed().len(), 2);
    let mut world = World::plain();
    let response = TestClient::udp().ask(&mut world, &ask(&[1, 0, 0, 0]));
    assert_eq!(response.relayed().len(), 1, "who else may use the number is left alone");
}

#[test]
fn nothing_is_reserved_for_a_dual_allocation() {
    let mut world = World::plain();
    let ask = both().with(EvenPort { reserve_next: true });
    assert_eq!(TestClient::udp().ask(&mut world, &ask).code(), 400);
    world.assert_empty();
}

#[test]
fn half_a_dual_allocation_says_what_is_lacking() {
    //= rfc8656#section-7.2
    //= type=test
    //# If the server can partially meet the request, i.e., if it can only allocate one relayed
    //# transport address of a specific address type, then it includes ADDRESS-ERROR-CODE attribute
    //# in the success response to inform the client the reason for partial failure of the request.
    for lacking in [Family::V4, Family::V6] {
        let mut world = World::plain();
        world.broken.insert(lacking, BindFailure::NoPort);
        let mut client = TestClient::udp();
        let challenge = client.ask_once(&mut world, &both());
        client.learn(&challenge);
        let request = client.request(&both());
        let response = client.exchange(&mut world, &request).unwrap();
        assert_eq!(response.code(), 0);
        assert_eq!(response.lacking(), Some((lacking, 508)));
        let [relayed] = response.relayed()[..] else { panic!("{response:?}") };
        assert_ne!(Family::of(relayed.ip()), lacking);
        assert_eq!(world.pool.counts().claimed, 1);
        let again = client.exchange(&mut world, &request).unwrap();
        assert_eq!(again.bytes, response.bytes);
        world.pass(600);
        world.assert_empty();
    }
}

#[test]
fn a_family_that_is_not_offered_is_lacking_for_another_reason() {
    let settings =
        Settings { v6: false, relays: vec![("203.0.113.7", "203.0.113.7")], ..Settings::default() };
    let mut world = World::new(&settings);
    let response = TestClient::udp().ask(&mut world, &both());
    assert_eq!(response.lacking(), Some((Family::V6, 440)));
    assert_eq!(response.relayed().len(), 1);
}

#[test]
fn neither_family_is_no_allocation() {
    let mut world = World::plain();
    world.broken.insert(Family::V4, BindFailure::NoPort);
    world.broken.insert(Family::V6, BindFailure::NoDescriptor);
    assert_eq!(TestClient::udp().ask(&mut world, &both()).code(), 508);
    world.assert_empty();
}

#[test]
fn each_family_is_refreshed_on_its_own() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.ask(&mut world, &both());
    let longer = Ask::refresh(3000).with(only(Family::V6));
    assert_eq!(client.ask(&mut world, &longer).lifetime(), Some(3000));
    world.pass(600);
    assert_eq!(world.pool.counts().claimed, 1, "IPv4 is over");
    assert_eq!(world.shared.allocations.count(), 1);
    let gone = Ask::refresh(600).with(only(Family::V4));
    assert_eq!(client.ask(&mut world, &gone).code(), 443);
    let both = client.ask(&mut world, &Ask::refresh(700));
    assert_eq!(both.lifetime(), Some(700));
    world.pass(700);
    world.assert_empty();
}

#[test]
fn each_family_is_deleted_on_its_own() {
    //= rfc8656#section-8.1
    //= type=test
    //# Deleting a single allocation destroys any permissions or channels associated with that
    //# particular allocation; it MUST NOT affect any permissions or channels associated with
    //# allocations for the other address family.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relayed = client.ask(&mut world, &both()).relayed();
    client.bind(&mut world, 0x4000, PEER);
    client.bind(&mut world, 0x4001, PEER_V6);
    let delete = Ask::refresh(0).with(only(Family::V4));
    assert_eq!(client.ask(&mut world, &delete).lifetime(), Some(0));

    assert_eq!(world.pool.counts().claimed, 1);
    let stats = world.stats();
    assert_eq!((stats.permissions, stats.channels), (1, 1));
    let v4 = client.channel_data(&mut world, 0x4000, b"");
    assert_eq!(v4, Err(Reason::NoChannel));
    assert_eq!(client.send(&mut world, PEER, b""), Err(Reason::FamilyMismatch));
    assert!(client.channel_data(&mut world, 0x4001, b"").is_ok());
    assert!(world.peer_sends(relayed[1], addr(PEER_V6), b"").is_ok());
    let permission = client.ask(&mut world, &Ask::create_permission(&[PEER]));
    assert_eq!(permission.code(), 443);

    let delete = Ask::refresh(0).with(only(Family::V6));
    assert_eq!(client.ask(&mut world, &delete).lifetime(), Some(0));
    world.assert_empty();
    assert_eq!(client.ask(&mut world, &delete).code(), 437);
}

#[test]
fn a_refresh_without_a_family_ends_both() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.ask(&mut world, &both());
    client.bind(&mut world, 0x4001, PEER_V6);
    assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
    world.assert_empty();
}

#[test]
fn a_pair_of_families_gives_every_port_back() {
    let settings = Settings { ports: (50_000, 50_003), ..Settings::default() };
    let mut world = World::new(&settings);
    for round in 0..50 {
        let mut client = TestClient::new(&format!("192.0.2.1:{}", round + 1));
        assert_eq!(client.ask(&mut world, &both()).relayed().len(), 2);
        if round % 2 == 0 {
            client.ask(&mut world, &Ask::refresh(0).with(only(Family::V6)));
        }
        client.ask(&mut world, &Ask::refresh(0));
        world.assert_empty();
    }
}
