//! Datagrams sent in a batch leave complete, in order, and each with its own header fields.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use common::{V4, V6, datagrams, flush, holding, is_idle, plain, receive, relay};
use turnway_udp::{
    Outgoing, Payload, Prefix, ReceiveBatch, SendBatch, Socket, listener_udp, send_one,
};

#[test]
fn prefix_payload_and_padding_make_one_datagram() {
    let received = holding(b"0123456789");
    let peer = relay(V6);
    let from = relay(V6);
    let to = peer.local_addr().unwrap();
    let mut batch = SendBatch::new();
    let longest = [0xab; turnway_udp::send::MAX_PREFIX];
    let middle = Payload { slot: 0, offset: 2, len: 5 };
    let cases: [(&[u8], Payload, u8, &[u8]); 5] = [
        (b"head", middle, 3, b"head23456\0\0\0"),
        (b"", middle, 0, b"23456"),
        (b"head", Payload::EMPTY, 1, b"head\0"),
        (b"", Payload::EMPTY, 0, b""),
        (&longest, Payload::EMPTY, 0, &longest),
    ];
    for (tag, &(prefix, payload, pad, _)) in cases.iter().enumerate() {
        batch.push(Outgoing { payload, pad, tag: tag as u32, ..plain(&from, to, prefix) });
    }
    assert_eq!(batch.len(), 5);
    assert_eq!(flush(&mut batch, &received), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
    assert!(batch.is_empty());
    let mut arrived = ReceiveBatch::new(8);
    receive(&mut arrived, &peer, 5);
    for ((_, _, _, expected), datagram) in cases.iter().zip(datagrams(&arrived)) {
        assert_eq!(datagram.data, *expected);
        assert_eq!(datagram.from, from.local_addr().unwrap());
    }
}

/// TTL, TOS and source differ from one datagram of a run to the next.
fn header_fields(ip: IpAddr, sources: [Option<IpAddr>; 3], from_any: &impl AsRawFd) {
    let received = ReceiveBatch::new(1);
    let peer = relay(ip);
    let to = peer.local_addr().unwrap();
    let template = Outgoing { socket: from_any.as_raw_fd(), ..plain(&peer, to, b"x") };
    let mut batch = SendBatch::new();
    for (source, ttl, tos) in [
        (sources[0], Some(1), Some(0xb9)),
        (sources[1], Some(255), Some(0x03)),
        (sources[2], None, None),
    ] {
        batch.push(Outgoing { source, ttl, tos, ..template });
    }
    assert_eq!(flush(&mut batch, &received), [(0, 0); 3]);
    let mut arrived = ReceiveBatch::new(8);
    receive(&mut arrived, &peer, 3);
    let fields = [0, 1, 2].map(|index| (arrived.get(index).ttl, arrived.get(index).tos));
    assert_eq!(fields, [(Some(1), Some(0xb9)), (Some(255), Some(0x03)), (Some(64), Some(0))]);
    for (index, source) in sources.into_iter().enumerate() {
        assert_eq!(Some(arrived.get(index).from.ip()), source.or(Some(ip)));
    }
}

#[test]
fn ttl_tos_and_source_are_set_per_datagram_ipv4() {
    let (listener, _) = listener_udp("0.0.0.0:0".parse().unwrap(), 0).unwrap();
    let sources = ["127.0.0.5", "127.0.0.6"].map(|ip| Some(ip.parse().unwrap()));
    header_fields(V4, [sources[0], sources[1], None], &listener);
}

#[test]
fn ttl_tos_and_source_are_set_per_datagram_ipv6() {
    let setup = [
        "link set lo up",
        "address add fd00::5/128 dev lo nodad",
        "address add fd00::6/128 dev lo nodad",
    ];
    common::in_namespace(&setup, || {
        let (listener, _) = listener_udp("[::]:0".parse().unwrap(), 0).unwrap();
        let sources = ["fd00::5", "fd00::6"].map(|ip| Some(ip.parse().unwrap()));
        header_fields(V6, [sources[0], sources[1], None], &listener);
    });
}

#[test]
fn a_single_answer_leaves_from_the_address_asked() {
    let (listener, _) = listener_udp("0.0.0.0:0".parse().unwrap(), 0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let source: IpAddr = "127.0.0.9".parse().unwrap();
    let to = client.local_addr().unwrap();
    send_one(listener.as_fd(), b"answer", to, Some(source)).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"answer"[..], SocketAddr::new(source, port)));
}

#[test]
fn the_longest_datagram_is_sent_whole() {
    let data: Vec<u8> = (0..65_500).map(|index| (index % 253) as u8).collect();
    let received = holding(&data);
    let (peer, from) = (relay(V4), relay(V4));
    let mut batch = SendBatch::new();
    batch.push(Outgoing {
        payload: Payload { slot: 0, offset: 0, len: data.len() },
        pad: 3,
        ..plain(&from, peer.local_addr().unwrap(), b"head")
    });
    assert_eq!(flush(&mut batch, &received), [(0, 0)]);
    let mut arrived = ReceiveBatch::new(1);
    receive(&mut arrived, &peer, 1);
    let whole = [b"head", &data[..], b"\0\0\0"].concat();
    assert_eq!(whole.len(), 65_507);
    assert!(arrived.get(0).data == whole);
}

#[test]
fn the_order_per_destination_is_kept() {
    let received = ReceiveBatch::new(1);
    let from: Vec<Socket> = (0..3).map(|_| relay(V4)).collect();
    let peers: Vec<Socket> = (0..4).map(|_| relay(V4)).collect();
    let mut batch = SendBatch::new();
    // More than one system call's worth, the sockets and destinations mixed.
    for number in 0..240_u32 {
        let peer = peers[number as usize / 3 % 4].local_addr().unwrap();
        let socket = &from[number as usize % 3];
        batch.push(Outgoing { tag: number, ..plain(socket, peer, &number.to_be_bytes()) });
    }
    let results = flush(&mut batch, &received);
    let mut tags: Vec<u32> =
        results.iter().map(|&(tag, error)| (error == 0).then_some(tag).unwrap()).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..240).collect::<Vec<_>>(), "one result for each datagram");

    for peer in &peers {
        let mut arrived = ReceiveBatch::new(60);
        receive(&mut arrived, peer, 60);
        for socket in &from {
            let numbers: Vec<u32> = datagrams(&arrived)
                .into_iter()
                .filter(|datagram| datagram.from == socket.local_addr().unwrap())
                .map(|datagram| u32::from_be_bytes(datagram.data.try_into().unwrap()))
                .collect();
            assert_eq!(numbers.len(), 20);
            assert!(numbers.is_sorted(), "{numbers:?}");
        }
    }
}

#[test]
fn a_datagram_that_cannot_be_sent_costs_no_other() {
    let received = holding(&[0; 65_507]);
    let (peer, from) = (relay(V4), relay(V4));
    let to = peer.local_addr().unwrap();
    let too_long = Payload { slot: 0, offset: 0, len: 65_507 };
    let good = |tag| Outgoing { tag, ..plain(&from, to, b"good") };
    let mut batch = SendBatch::new();
    batch.push(good(0));
    batch.push(Outgoing { payload: too_long, ..good(1) });
    batch.push(Outgoing { ttl: Some(0), ..good(2) });
    batch.push(good(3));
    batch.push(Outgoing { to: "[::1]:9".parse().unwrap(), ..good(4) });
    batch.push(Outgoing { source: Some("192.0.2.1".parse().unwrap()), ..good(5) });
    batch.push(good(6));
    let results = flush(&mut batch, &received);
    assert_eq!(results.iter().map(|&(tag, _)| tag).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(results[1].1, libc::EMSGSIZE);
    assert_eq!(results[2].1, libc::EINVAL);
    for tag in [4, 5] {
        assert_ne!(results[tag].1, 0);
    }
    for tag in [0, 3, 6] {
        assert_eq!(results[tag].1, 0);
    }
    receive(&mut ReceiveBatch::new(3), &peer, 3);
    assert!(is_idle(&peer));
}

#[test]
fn a_full_send_buffer_is_an_error_of_that_datagram_not_a_spin() {
    // Nobody answers ARP on this link, so datagrams stay in the send buffer.
    let setup = [
        "link set lo up",
        "link add name left type veth peer name right",
        "address add 10.9.0.1/24 dev left",
        "link set left up",
        "link set right up",
    ];
    common::in_namespace(&setup, || {
        let received = holding(&[0; 1400]);
        let from = turnway_udp::relay_udp("10.9.0.1:0".parse().unwrap(), 4096).unwrap();
        let mut batch = SendBatch::new();
        for tag in 0..64 {
            let payload = Payload { slot: 0, offset: 0, len: 1400 };
            let to = "10.9.0.2:9".parse().unwrap();
            batch.push(Outgoing { tag, payload, ..plain(&from, to, b"") });
        }
        let results = flush(&mut batch, &received);
        assert_eq!(results.len(), 64);
        assert_eq!(results[0].1, 0);
        assert_eq!(results[63].1, libc::EAGAIN);
    });
}

#[test]
fn a_prefix_holds_what_it_was_given() {
    assert_eq!(Prefix::new(b"abc").as_slice(), b"abc");
    assert!(Prefix::EMPTY.as_slice().is_empty());
}
