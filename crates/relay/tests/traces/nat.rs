//! Behind 1:1 NAT, as on every cloud machine: relay sockets have one address, clients and peers
//! know another; and our own addresses as peers.

use std::net::SocketAddr;

use turnway_relay::{IcmpError, Reason};
use turnway_wire::{Family, XorPeerAddress};

use crate::common::client::{Ask, Response, TestClient};
use crate::common::{PEER, Settings, World, ip};

const LOCAL: &str = "10.0.0.5";
const EXTERNAL: &str = "203.0.113.9";

fn cloud() -> World {
    World::new(&Settings { relays: vec![(LOCAL, EXTERNAL)], v6: false, ..Settings::default() })
}

fn local(relayed: SocketAddr) -> SocketAddr {
    SocketAddr::new(ip(LOCAL), relayed.port())
}

/// Two clients of one server, and their relayed transport addresses as announced.
fn pair(world: &mut World) -> [(TestClient, SocketAddr); 2] {
    [TestClient::udp(), TestClient::tcp()].map(|mut client| {
        let relayed = client.allocate(world);
        (client, relayed)
    })
}

#[test]
fn the_external_address_is_announced_and_the_local_one_is_bound() {
    let mut world = cloud();
    let mut client = TestClient::udp();
    let relayed = client.allocate(&mut world);
    assert_eq!(relayed.ip(), ip(EXTERNAL));
    assert!(world.owner_of(local(relayed)).is_some());
    client.permit(&mut world, &[PEER]);
    assert_eq!(client.send(&mut world, PEER, b"x").unwrap().from, local(relayed));
}

#[test]
fn two_clients_reach_each_other_by_their_external_addresses() {
    let mut world = cloud();
    let [(mut one, one_at), (mut two, two_at)] = pair(&mut world);
    one.permit(&mut world, &[&two_at.to_string()]);
    two.permit(&mut world, &[&one_at.to_string()]);

    // Sent to the external address, it goes to the local one: nobody need turn it around.
    let sent = one.send(&mut world, &two_at.to_string(), b"hello").unwrap();
    assert_eq!((sent.from, sent.to), (local(one_at), local(two_at)));
    // It comes from the local one, and the client sees the external.
    let got = world.peer_sends(sent.to, sent.from, &sent.payload).unwrap();
    assert_eq!(got.to, two.at);
    assert_eq!(got.data(), Some((one_at, b"hello".to_vec())));

    two.bind(&mut world, 0x4000, &one_at.to_string());
    let sent = two.channel_data(&mut world, 0x4000, b"hi").unwrap();
    assert_eq!((sent.from, sent.to), (local(two_at), local(one_at)));
    let got = world.peer_sends(sent.to, sent.from, &sent.payload).unwrap();
    assert_eq!(got.data(), Some((two_at, b"hi".to_vec())));
    let back = world.peer_sends(local(two_at), local(one_at), b"yo").unwrap();
    assert_eq!(back.channel(), Some((0x4000, &b"yo"[..])));
}

#[test]
fn the_external_and_the_local_address_are_one_peer() {
    let mut world = cloud();
    let [(mut one, _), (_, two_at)] = pair(&mut world);
    one.bind(&mut world, 0x4000, &two_at.to_string());
    let other_spelling = Ask::channel_bind(0x4001, &local(two_at).to_string());
    assert_eq!(one.ask(&mut world, &other_spelling).code(), 400);
    assert_eq!(world.stats().permissions, 1);
}

#[test]
fn icmp_errors_are_about_the_address_the_client_knows() {
    let mut world = cloud();
    let [(mut one, one_at), (_, two_at)] = pair(&mut world);
    one.permit(&mut world, &[&two_at.to_string()]);
    let error = IcmpError { family: Family::V4, icmp_type: 3, code: 3, data: 0 };
    let (_, bytes) = world.icmp(local(one_at), local(two_at), error).unwrap();
    let told = Response { bytes };
    assert_eq!(told.message().get(), Ok(Some(XorPeerAddress(two_at))));
}

#[test]
fn our_live_relayed_addresses_are_peers_and_nothing_else_of_ours_is() {
    let mut world = cloud();
    let [(mut one, one_at), (mut two, two_at)] = pair(&mut world);
    // 10.0.0.0/8 is denied, and so is the documentation range of the external address.
    for base in [LOCAL, EXTERNAL] {
        let at = |port: u16| format!("{base}:{port}");
        let ask = |port| Ask::channel_bind(0x4000 + port % 0xFFF, &at(port));
        let dead = (49152..).find(|port| *port != one_at.port() && *port != two_at.port());
        for port in [3478, 22, dead.unwrap()] {
            assert_eq!(one.ask(&mut world, &ask(port)).code(), 403, "{}", at(port));
        }
        one.permit(&mut world, &[&at(3478)]);
        for port in [3478, 22, dead.unwrap()] {
            let sent = one.send(&mut world, &at(port), b"x");
            assert_eq!(sent, Err(Reason::PeerDenied), "{}", at(port));
        }
        assert!(one.send(&mut world, &at(two_at.port()), b"x").is_ok());
    }
    one.bind(&mut world, 0x4000, &two_at.to_string());
    assert!(one.channel_data(&mut world, 0x4000, b"x").is_ok());
    // The neighbour's end is noticed per datagram, in both directions.
    two.ask(&mut world, &Ask::refresh(0));
    let sent = one.channel_data(&mut world, 0x4000, b"x");
    assert_eq!(sent, Err(Reason::PeerDenied));
    let late = world.peer_sends(local(one_at), local(two_at), b"x");
    assert_eq!(late.unwrap_err(), Reason::PeerDenied);
    // Other addresses of the private range are nobody's relayed addresses.
    let neighbour = Ask::create_permission(&["10.0.0.6:49152"]);
    assert_eq!(one.ask(&mut world, &neighbour).code(), 403);
}
