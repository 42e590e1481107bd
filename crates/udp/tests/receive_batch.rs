//! Datagrams received in a batch carry what a relay must know of their headers.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use common::{V4, V6, receive, relay, wait_readable};
use socket2::SockRef;
use turnway_udp::{ReceiveBatch, listener_udp, relay_udp};

/// A socket that sends with this TTL and TOS.
fn sender(ip: IpAddr, ttl: u32, tos: u32) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
    let options = SockRef::from(&socket);
    match ip {
        IpAddr::V4(_) => {
            options.set_ttl_v4(ttl).unwrap();
            options.set_tos_v4(tos).unwrap();
        }
        IpAddr::V6(_) => {
            options.set_unicast_hops_v6(ttl).unwrap();
            options.set_tclass_v6(tos).unwrap();
        }
    }
    socket
}

#[test]
fn several_sockets_of_both_families_share_a_batch() {
    let mut batch = ReceiveBatch::new(8);
    for (ip, ttl, tos) in [(V4, 7, 0xb9), (V6, 9, 0x2a)] {
        let (listener, _) = listener_udp(SocketAddr::new(ip, 0), 0).unwrap();
        let relay = relay(ip);
        let sender = sender(ip, ttl, tos);
        let first = batch.len();
        sender.send_to(b"to the listener", listener.local_addr().unwrap()).unwrap();
        receive(&mut batch, &listener, 1);
        sender.send_to(b"to the relay", relay.local_addr().unwrap()).unwrap();
        sender.send_to(b"", relay.local_addr().unwrap()).unwrap();
        receive(&mut batch, &relay, 2);

        let expected: [&[u8]; 3] = [b"to the listener", b"to the relay", b""];
        for (index, expected) in expected.into_iter().enumerate() {
            let received = batch.get(first + index);
            assert_eq!(received.data, expected);
            assert_eq!(received.from, sender.local_addr().unwrap());
            assert_eq!(received.ttl, Some(ttl as u8));
            assert_eq!(received.tos, Some(tos as u8));
            assert!(!received.truncated);
        }
        assert_eq!(batch.get(first).local, Some(ip));
        assert_ne!(batch.get(first).interface, 0);
        assert_eq!(batch.get(first + 1).local, None);
    }
    assert_eq!(batch.len(), 6);
    assert_eq!(batch.get(0).data, b"to the listener", "later receives leave earlier ones alone");
}

#[test]
fn a_wildcard_listener_tells_the_address_a_datagram_came_to() {
    let (listener, _) = listener_udp("0.0.0.0:0".parse().unwrap(), 0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut batch = ReceiveBatch::new(2);
    for ip in ["127.0.0.3", "127.0.0.4"] {
        sender.send_to(b"x", SocketAddr::new(ip.parse().unwrap(), port)).unwrap();
        receive(&mut batch, &listener, 1);
    }
    assert_eq!(batch.get(0).local, Some("127.0.0.3".parse().unwrap()));
    assert_eq!(batch.get(1).local, Some("127.0.0.4".parse().unwrap()));
}

#[test]
fn a_full_batch_receives_nothing_until_it_is_cleared() {
    let relay = relay(V6);
    let sender = UdpSocket::bind("[::1]:0").unwrap();
    for number in 0..5 {
        sender.send_to(&[number], relay.local_addr().unwrap()).unwrap();
    }
    let mut batch = ReceiveBatch::new(2);
    let mut numbers = Vec::new();
    for expected in [0..2, 0..2, 0..1] {
        assert_eq!(batch.receive(relay.as_fd(), 64).unwrap(), expected);
        if expected.len() == 2 {
            assert_eq!(batch.free(), 0);
            assert!(batch.receive(relay.as_fd(), 64).unwrap().is_empty());
        }
        for index in expected {
            let received = batch.get(index);
            assert_eq!(received.from, sender.local_addr().unwrap());
            numbers.extend_from_slice(received.data);
        }
        batch.clear();
    }
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert!(batch.receive(relay.as_fd(), 64).unwrap().is_empty());
}

#[test]
fn a_cleared_slot_has_room_for_a_longer_header() {
    let relay = relay(V4);
    let (listener, _) = listener_udp(SocketAddr::new(V6, 0), 0).unwrap();
    let mut batch = ReceiveBatch::new(1);
    sender(V4, 7, 1).send_to(b"short", relay.local_addr().unwrap()).unwrap();
    receive(&mut batch, &relay, 1);
    batch.clear();
    let sender = sender(V6, 9, 2);
    sender.send_to(b"long", listener.local_addr().unwrap()).unwrap();
    receive(&mut batch, &listener, 1);
    let received = batch.get(0);
    assert_eq!(received.from, sender.local_addr().unwrap());
    assert_eq!((received.local, received.ttl, received.tos), (Some(V6), Some(9), Some(2)));
}

#[test]
fn max_bounds_a_receive() {
    let relay = relay(V4);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..3 {
        sender.send_to(&[number], relay.local_addr().unwrap()).unwrap();
    }
    let mut batch = ReceiveBatch::new(8);
    assert_eq!(batch.receive(relay.as_fd(), 2).unwrap(), 0..2);
    assert_eq!(batch.receive(relay.as_fd(), 0).unwrap(), 2..2);
    assert_eq!(batch.receive(relay.as_fd(), 2).unwrap(), 2..3);
}

#[test]
fn the_longest_datagrams_arrive_whole() {
    for (ip, length) in [(V4, 65_507), (V6, 65_527)] {
        let relay = relay(ip);
        let sender = UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
        let data: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let mut batch = ReceiveBatch::new(3);
        for _ in 0..3 {
            sender.send_to(&data, relay.local_addr().unwrap()).unwrap();
        }
        receive(&mut batch, &relay, 3);
        for index in 0..3 {
            assert!(batch.get(index).data == data, "{ip}: datagram {index} differs");
            assert!(!batch.get(index).truncated);
        }
    }
}

#[test]
fn a_datagram_longer_than_its_slot_is_flagged() {
    let relay = relay(V4);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [100, 101, 99] {
        sender.send_to(&vec![7; length], relay.local_addr().unwrap()).unwrap();
    }
    let mut batch = ReceiveBatch::with_slot_size(4, 100);
    receive(&mut batch, &relay, 3);
    let seen = [0, 1, 2].map(|index| (batch.get(index).data.len(), batch.get(index).truncated));
    assert_eq!(seen, [(100, false), (100, true), (99, false)]);
}

#[test]
fn kernel_drops_are_told() {
    let relay = relay_udp(SocketAddr::new(V4, 0), 4096).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut batch = ReceiveBatch::new(64);
    for _ in 0..64 {
        sender.send_to(&[0; 1000], relay.local_addr().unwrap()).unwrap();
    }
    wait_readable(&relay);
    let kept = batch.receive(relay.as_fd(), 64).unwrap().len();
    assert!((1..64).contains(&kept), "{kept}");
    assert!(batch.receive(relay.as_fd(), 64).unwrap().is_empty());
    assert_eq!(batch.dropped(), None, "an empty receive tells nothing");

    batch.clear();
    sender.send_to(&[1], relay.local_addr().unwrap()).unwrap();
    receive(&mut batch, &relay, 1);
    assert_eq!(batch.dropped(), Some(64 - kept as u32));
}
