//! Send, Data and ChannelData (RFC 8656 sections 11 and 12.4 to 12.7).

use turnway_relay::{Reason, Route, Transport};
use turnway_wire::{Lifetime, Method, XorPeerAddress};

use crate::common::client::{Ask, Raw, TestClient, indication};
use crate::common::{PEER, PEER_V6, World, addr};

/// A client with a permission for, and a channel to, [`PEER`].
fn bound(world: &mut World, mut client: TestClient) -> (TestClient, std::net::SocketAddr) {
    let relay = client.allocate(world);
    client.bind(world, 0x4000, PEER);
    (client, relay)
}

fn send_of(peer: &str, payload: &[u8]) -> Ask {
    Ask::new(Method::SEND).with(XorPeerAddress(addr(peer))).with(Raw::<0x0013>(payload.to_vec()))
}

#[test]
fn a_send_indication_becomes_a_datagram() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.permit(&mut world, &[PEER]);
    for len in [0, 1, 2, 3, 4, 1200] {
        let payload = vec![0xAB; len];
        let sent = client.send(&mut world, PEER, &payload).unwrap();
        assert_eq!((sent.from, sent.to), (relay, addr(PEER)));
        assert_eq!(sent.payload, payload);
        assert!(!sent.dont_fragment);
    }
    let stats = world.stats();
    assert_eq!(
        (stats.traffic_of(Transport::Udp).to_peer, stats.traffic_of(Transport::Udp).to_peer_bytes),
        (6, 1210)
    );
}

#[test]
fn a_send_indication_needs_peer_and_data() {
    //= rfc8656#section-11.2
    //= type=test
    //# The Send indication MUST contain both an XOR-PEER-ADDRESS attribute and a DATA attribute.
    let mut world = World::plain();
    let (client, _) = bound(&mut world, TestClient::udp());
    let broken = [
        Ask::new(Method::SEND),
        Ask::new(Method::SEND).with(XorPeerAddress(addr(PEER))),
        Ask::new(Method::SEND).with(Raw::<0x0013>(b"data".to_vec())),
        Ask::new(Method::SEND)
            .with(Raw::<0x0012>(vec![0; 3]))
            .with(Raw::<0x0013>(b"data".to_vec())),
        send_of(PEER, b"data").with(Raw::<0x001A>(vec![1])),
    ];
    for ask in &broken {
        let sent = client.datagram(&mut world, &indication(ask), None);
        assert_eq!(sent, Err(Reason::Malformed));
    }
    assert_eq!(world.drops_of_clients(Reason::Malformed), 5);
}

#[test]
fn a_send_indication_with_what_must_be_understood_is_discarded() {
    //= rfc8489#section-6.3.2
    //= type=test
    //# If the indication contains unknown comprehension-required attributes, the indication is
    //# discarded and processing ceases.
    let mut world = World::plain();
    let (client, _) = bound(&mut world, TestClient::udp());
    let unknown = send_of(PEER, b"x").with(Raw::<0x7FFF>(vec![]));
    let sent = client.datagram(&mut world, &indication(&unknown), None);
    assert_eq!(sent, Err(Reason::Malformed));
    let optional = send_of(PEER, b"x").with(Raw::<0xFFFE>(vec![])).with(Lifetime(1));
    assert!(client.datagram(&mut world, &indication(&optional), None).is_ok());
}

#[test]
fn a_send_indication_needs_a_permission() {
    //= rfc8656#section-11.2
    //= type=test
    //# If no such permission exists, the message is discarded.
    let mut world = World::plain();
    let (client, _) = bound(&mut world, TestClient::udp());
    let sent = client.send(&mut world, "198.51.100.2:5000", b"x");
    assert_eq!(sent, Err(Reason::NoPermission));
    // Denied peers never have one; neither is port 0 a peer.
    assert_eq!(client.send(&mut world, "10.0.0.1:80", b"x"), Err(Reason::NoPermission));
    assert_eq!(client.send(&mut world, "198.51.100.1:0", b"x"), Err(Reason::PeerDenied));
    assert_eq!(world.stats().traffic_of(Transport::Udp).to_peer, 0);
}

#[test]
fn a_truncated_channel_data_message_is_discarded() {
    //= rfc8656#section-12.6
    //= type=test
    //# If the ChannelData message is received in a UDP datagram, and if the UDP datagram is too
    //# short to contain the claimed length of the ChannelData message (i.e., the UDP header length
    //# field value is less than the ChannelData header length field value + 4 + 8), then the
    //# message is silently discarded.
    let mut world = World::plain();
    let (client, _) = bound(&mut world, TestClient::udp());
    for short in [&[0x40][..], &[0x40, 0, 0], &[0x40, 0, 0, 1], &[0x40, 0, 0, 3, 1, 2]] {
        let sent = client.datagram(&mut world, short, None);
        assert_eq!(sent, Err(Reason::BadChannelData));
    }
    // What is longer is padding.
    let sent = client.datagram(&mut world, &[0x40, 0, 0, 1, 7, 0, 0, 0], None).unwrap();
    assert_eq!(sent.payload, [7]);
    let empty = client.datagram(&mut world, &[0x40, 0, 0, 0], None).unwrap();
    assert!(empty.payload.is_empty());
}

#[test]
fn an_unbound_channel_relays_nothing() {
    //= rfc8656#section-12.6
    //= type=test
    //# If the ChannelData message is received on a channel that is not bound to any peer, then the
    //# message is silently discarded.
    let mut world = World::plain();
    let (client, _) = bound(&mut world, TestClient::udp());
    let sent = client.channel_data(&mut world, 0x4001, b"x");
    assert_eq!(sent, Err(Reason::NoChannel));
    assert_eq!(world.stats().traffic_of(Transport::Udp).to_peer, 0);
}

#[test]
fn what_is_not_turn_is_dropped() {
    let mut world = World::plain();
    let (client, _) = bound(&mut world, TestClient::udp());
    // DTLS, RTP, ZRTP, what is reserved, and nothing at all.
    let foreign: [&[u8]; 6] = [&[22, 254, 253], &[128; 20], &[16; 4], &[4; 8], &[255; 30], &[]];
    for datagram in foreign {
        let sent = client.datagram(&mut world, datagram, None);
        assert_eq!(sent, Err(Reason::NotTurn));
    }
}

#[test]
fn a_bound_channel_is_used_towards_the_client() {
    //= rfc8656#section-12.5
    //= type=test
    //# The server, on the other hand, MUST use the ChannelData message if a channel has been bound
    //# to the peer.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.permit(&mut world, &[PEER]);
    let before = world.peer_sends(relay, addr(PEER), b"x").unwrap();
    assert_eq!(before.data(), Some((addr(PEER), b"x".to_vec())));
    client.bind(&mut world, 0x4ABC, PEER);
    let after = world.peer_sends(relay, addr(PEER), b"x").unwrap();
    assert_eq!(after.bytes, [0x4A, 0xBC, 0, 1, b'x']);
    assert_eq!(after.to, client.at);
}

#[test]
fn data_indications_are_padded_and_channel_data_only_on_streams() {
    let mut world = World::plain();
    let (udp, udp_relay) = bound(&mut world, TestClient::udp());
    let (tcp, tcp_relay) = bound(&mut world, TestClient::tcp());
    let other = addr("198.51.100.1:1");
    for len in 0..9 {
        let payload = vec![7; len];
        for relay in [udp_relay, tcp_relay] {
            let data = world.peer_sends(relay, other, &payload).unwrap();
            assert_eq!(data.bytes.len() % 4, 0);
            assert_eq!(data.data(), Some((other, payload.clone())));
        }
        let over_udp = world.peer_sends(udp_relay, addr(PEER), &payload).unwrap();
        assert_eq!(over_udp.bytes.len(), 4 + len);
        let over_tcp = world.peer_sends(tcp_relay, addr(PEER), &payload).unwrap();
        assert_eq!(over_tcp.bytes.len(), 4 + len.next_multiple_of(4));
        assert_eq!(over_tcp.channel(), Some((0x4000, &payload[..])));
        // And what the client pads is not relayed.
        let sent = tcp.channel_data(&mut world, 0x4000, &payload).unwrap();
        assert_eq!(sent.payload, payload);
        let sent = udp.channel_data(&mut world, 0x4000, &payload).unwrap();
        assert_eq!(sent.payload, payload);
    }
    let stats = world.stats();
    assert_eq!(
        (stats.traffic_of(Transport::Tcp).to_peer, stats.traffic_of(Transport::Tcp).to_client),
        (9, 18)
    );
    assert_eq!(
        (stats.traffic_of(Transport::Udp).to_peer, stats.traffic_of(Transport::Udp).to_client),
        (9, 18)
    );
}

#[test]
fn every_mix_of_families_is_relayed() {
    let v6 = turnway_wire::RequestedAddressFamily { family: Some(turnway_wire::Family::V6) };
    for client in ["192.0.2.1:40000", "[2001:db8:1::1]:40000"] {
        let mut world = World::plain();
        let mut to_v6 = TestClient::new(client);
        let relay = to_v6.ask(&mut world, &Ask::allocate().with(v6)).relayed()[0];
        to_v6.permit(&mut world, &[PEER_V6]);
        let sent = to_v6.send(&mut world, PEER_V6, b"x").unwrap();
        assert_eq!((sent.from, sent.to), (relay, addr(PEER_V6)));
        let data = world.peer_sends(relay, addr(PEER_V6), b"y").unwrap();
        assert_eq!(data.data(), Some((addr(PEER_V6), b"y".to_vec())));
        assert_eq!(data.to, to_v6.at);
    }
}

#[test]
fn a_datagram_too_large_to_be_wrapped_is_dropped() {
    let mut world = World::plain();
    let (_, udp) = bound(&mut world, TestClient::udp());
    let (_, tcp) = bound(&mut world, TestClient::tcp());
    let mut deliver = |relay, port: u16, len: usize| {
        let peer = std::net::SocketAddr::new(addr(PEER).ip(), port);
        let delivered = world.peer_sends(relay, peer, &vec![1; len]);
        delivered.map(|delivered| delivered.bytes.len())
    };
    // ChannelData adds 4 bytes, a Data indication with an IPv4 peer 36.
    assert_eq!(deliver(udp, 5000, 65_503), Ok(65_507));
    assert_eq!(deliver(udp, 5000, 65_504), Err(Reason::TooLarge));
    assert_eq!(deliver(udp, 9, 65_468), Ok(65_504));
    assert_eq!(deliver(udp, 9, 65_472), Err(Reason::TooLarge));
    assert_eq!(deliver(tcp, 5000, 65_507), Ok(65_512));
    assert_eq!(deliver(tcp, 9, 65_496), Ok(65_532));
    assert_eq!(deliver(tcp, 9, 65_507), Err(Reason::TooLarge));
    assert_eq!(world.stats().peer_drops[Reason::TooLarge.index()], 3);
}

#[test]
fn indications_have_transaction_ids_of_their_own() {
    let mut world = World::plain();
    let (_, relay) = bound(&mut world, TestClient::udp());
    let other = addr("198.51.100.1:1");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let data = world.peer_sends(relay, other, b"x").unwrap();
        assert!(seen.insert(data.bytes[8..20].to_vec()));
    }
}

#[test]
fn a_datagram_for_an_ended_allocation_reaches_nobody() {
    let mut world = World::plain();
    let (mut one, relay) = bound(&mut world, TestClient::udp());
    let (_, stale) = world.owner_of(relay).unwrap();
    one.ask(&mut world, &Ask::refresh(0));
    // The same place in the table, another client.
    let (_, _) = bound(&mut world, TestClient::tcp());
    let now = world.now;
    let route = world.servers[0].route_peer(stale, addr(PEER), 1, None, now);
    assert!(matches!(route, Route::Drop(Reason::NoAllocation)), "{route:?}");
}
