//! IP header fields (RFC 8656 sections 13 to 16).

use turnway_relay::{IpFields, Reason};
use turnway_wire::{DontFragment, Family, Method, RequestedAddressFamily, XorPeerAddress};

use crate::common::client::{Ask, Raw, TestClient, indication};
use crate::common::{PEER, PEER_V6, World, addr};

const fn ip(ttl: u8, tos: u8) -> Option<IpFields> {
    Some(IpFields { ttl, tos })
}

fn send(peer: &str, dont_fragment: bool) -> Vec<u8> {
    let ask = Ask::new(Method::SEND)
        .with(XorPeerAddress(addr(peer)))
        .with(Raw::<0x0013>(b"payload".to_vec()));
    indication(&if dont_fragment { ask.with(DontFragment) } else { ask })
}

fn bound(world: &mut World, mut client: TestClient) -> (TestClient, std::net::SocketAddr) {
    let relay = client.allocate(world);
    client.bind(world, 0x4000, PEER);
    (client, relay)
}

#[test]
fn a_hop_is_counted_and_the_last_one_ends_a_loop() {
    //= rfc8656#section-13.2
    //= type=test
    //# Preferred behavior: The TURN server acts as a regular router with respect to decrementing the
    //# Hop Limit and generating an ICMPv6 error if it reaches zero.
    let mut world = World::plain();
    let (client, relay) = bound(&mut world, TestClient::udp());
    let channel_data = [0x40, 0, 0, 1, 7];
    for datagram in [&channel_data[..], &send(PEER, false)] {
        let sent = client.datagram(&mut world, datagram, ip(64, 0)).unwrap();
        assert_eq!(sent.ip, ip(63, 0));
        let sent = client.datagram(&mut world, datagram, ip(2, 0)).unwrap();
        assert_eq!(sent.ip, ip(1, 0));
        for ttl in [1, 0] {
            let sent = client.datagram(&mut world, datagram, ip(ttl, 0));
            assert_eq!(sent, Err(Reason::TtlExceeded));
        }
        // Where it is unknown the system's own is used.
        assert_eq!(client.datagram(&mut world, datagram, None).unwrap().ip, None);
    }
    let back = world.peer_sends_with(relay, addr(PEER), b"x", ip(2, 0)).unwrap();
    assert_eq!(back.ip, ip(1, 0));
    let back = world.peer_sends_with(relay, addr(PEER), b"x", ip(1, 0));
    assert_eq!(back.unwrap_err(), Reason::TtlExceeded);
    let stats = world.stats();
    assert_eq!(stats.client_drops[Reason::TtlExceeded.index()], 4);
    assert_eq!(stats.peer_drops[Reason::TtlExceeded.index()], 1);
    assert_eq!(
        stats.traffic_of(turnway_relay::Transport::Udp).to_client,
        1,
        "what is dropped is not counted as relayed"
    );
}

#[test]
fn dscp_and_ecn_are_those_of_the_datagram() {
    //= rfc8656#section-14
    //= type=test
    //# Preferred Behavior: Set the outgoing value to the incoming value.
    let mut world = World::plain();
    let (client, relay) = bound(&mut world, TestClient::udp());
    for tos in 0..=255 {
        let sent = client.datagram(&mut world, &[0x40, 0, 0, 0], ip(9, tos)).unwrap();
        assert_eq!(sent.ip, ip(8, tos));
        let back = world.peer_sends_with(relay, addr(PEER), b"", ip(9, tos)).unwrap();
        assert_eq!(back.ip, ip(8, tos));
    }
}

#[test]
fn a_connection_has_header_fields_of_its_own() {
    //= rfc8656#section-16
    //= type=test
    //# Preferred Behavior: Ignore the incoming DSCP value.
    let mut world = World::plain();
    let (client, relay) = bound(&mut world, TestClient::tcp());
    let back = world.peer_sends_with(relay, addr(PEER), b"x", ip(9, 0xB9)).unwrap();
    assert_eq!(back.ip, None);
    let sent = client.channel_data(&mut world, 0x4000, b"x").unwrap();
    assert_eq!(sent.ip, None);
    // A loop through a connection is ended all the same.
    let back = world.peer_sends_with(relay, addr(PEER), b"x", ip(1, 0));
    assert_eq!(back.unwrap_err(), Reason::TtlExceeded);
}

#[test]
fn dont_fragment_is_for_one_datagram() {
    let mut world = World::plain();
    let (client, _) = bound(&mut world, TestClient::udp());
    let (tcp, _) = bound(&mut world, TestClient::tcp());
    for client in [client, tcp] {
        let sent = client.datagram(&mut world, &send(PEER, true), None).unwrap();
        assert!(sent.dont_fragment);
        let sent = client.datagram(&mut world, &send(PEER, false), None).unwrap();
        assert!(!sent.dont_fragment);
        let sent = client.channel_data(&mut world, 0x4000, b"x").unwrap();
        assert!(!sent.dont_fragment);
    }
}

#[test]
fn dont_fragment_is_ignored_where_datagrams_are_translated() {
    //= rfc8656#section-13.1
    //= type=test
    //# For both preferred and alternate behavior, the DONT-FRAGMENT attribute MUST be ignored by the
    //# server.
    let mut world = World::plain();
    let mut v6_to_v4 = TestClient::new("[2001:db8:1::1]:1");
    v6_to_v4.allocate(&mut world);
    v6_to_v4.permit(&mut world, &[PEER]);
    let sent = v6_to_v4.datagram(&mut world, &send(PEER, true), None).unwrap();
    assert!(!sent.dont_fragment);

    let family = Some(Family::V6);
    let to_v6 = Ask::allocate().with(RequestedAddressFamily { family });
    for client in ["192.0.2.1:1", "[2001:db8:1::1]:2"] {
        let mut udp = TestClient::new(client);
        let mut tcp = TestClient::new(client);
        tcp.at.tuple.transport = turnway_relay::Transport::Tcp;
        for (client, kept) in [(&mut udp, false), (&mut tcp, true)] {
            client.ask(&mut world, &to_v6);
            client.permit(&mut world, &[PEER_V6]);
            let sent = client.datagram(&mut world, &send(PEER_V6, true), None).unwrap();
            assert_eq!(sent.dont_fragment, kept);
        }
    }
}
