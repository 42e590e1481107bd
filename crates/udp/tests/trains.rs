//! Datagrams of one length to one destination travel the kernel together, and nobody can tell.

#![allow(unsafe_code)] // `gettid` is unsafe

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use common::{V4, V6, closed_port, datagrams, flush, holding, in_namespace, plain, receive, relay};
use turnway_udp::{Outgoing, Payload, ReceiveBatch, SendBatch, Socket, listener_udp};

/// Bytes that follow no pattern a mistake in an offset could have.
fn data() -> Vec<u8> {
    let mixed = |index: u32| (index.wrapping_mul(0x9E37_79B1) >> 24) as u8;
    (0..65_000).map(mixed).collect()
}

/// Datagrams of these lengths, each with the number of its place in front where there is room.
fn queue(batch: &mut SendBatch, template: Outgoing, lengths: &[usize]) -> Vec<Vec<u8>> {
    let data = data();
    let mut expected = Vec::new();
    for (number, &length) in lengths.iter().enumerate() {
        let head = [number as u8; 4];
        let head = &head[..length.min(4)];
        let payload = Payload { slot: 0, offset: number, len: length - head.len() };
        batch.push(Outgoing {
            prefix: turnway_udp::Prefix::new(head),
            payload,
            tag: number as u32,
            ..template
        });
        expected.push([head, &data[number..][..payload.len]].concat());
    }
    expected
}

/// Sends datagrams of these lengths, of which each must be reported as sent.
fn send(from: &Socket, to: SocketAddr, received: &ReceiveBatch, lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut batch = SendBatch::new();
    let expected = queue(&mut batch, plain(from, to, b""), lengths);
    let all_sent: Vec<(u32, i32)> = (0..lengths.len()).map(|tag| (tag as u32, 0)).collect();
    assert_eq!(flush(&mut batch, received), all_sent, "{lengths:?}");
    expected
}

/// A socket of the standard library, for which the kernel takes every run apart.
fn stranger(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

#[track_caller]
fn expect(socket: &UdpSocket, expected: &[Vec<u8>]) {
    let mut buffer = vec![0; 70_000];
    for (number, expected) in expected.iter().enumerate() {
        let (length, _) = socket.recv_from(&mut buffer).expect("one is missing");
        let lengths = (number, length, expected.len());
        assert!(buffer[..length] == *expected, "{lengths:?}");
    }
}

#[track_caller]
fn expect_nothing(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv_from(&mut [0; 10]).is_err(), "one too many");
    socket.set_nonblocking(false).unwrap();
}

#[test]
fn a_run_is_received_in_one_slot_with_the_header_all_have() {
    let received = holding(&data());
    for ip in [V4, V6] {
        let (listener, _) = listener_udp(SocketAddr::new(ip, 0), 1 << 20).unwrap();
        let from = relay(ip);
        let template = Outgoing {
            ttl: Some(7),
            tos: Some(0xb9),
            ..plain(&from, listener.local_addr().unwrap(), b"")
        };
        let mut batch = SendBatch::new();
        let mut lengths = [1200; 8];
        lengths[7] = 100;
        let expected = queue(&mut batch, template, &lengths);
        assert_eq!(flush(&mut batch, &received).len(), 8);

        let mut arrived = ReceiveBatch::new(8);
        receive(&mut arrived, &listener, 8);
        assert_eq!(arrived.len(), 1, "the kernel knows UDP_SEGMENT and UDP_GRO");
        let run = arrived.get(0);
        assert_eq!((run.segment, run.data.len()), (1200, 8500));
        assert_eq!(run.segments().len(), 8);
        assert_eq!(run.segments().last(), Some(8400..8500));
        for (datagram, expected) in datagrams(&arrived).iter().zip(&expected) {
            assert_eq!(datagram.data, *expected);
            assert_eq!((datagram.ttl, datagram.tos), (Some(7), Some(0xb9)));
            assert_eq!(datagram.local, Some(ip));
            assert_eq!(datagram.from, from.local_addr().unwrap());
        }
        assert!(!run.truncated);
    }
}

#[test]
fn a_datagram_by_itself_is_a_run_of_one_even_if_it_is_empty() {
    let (from, to) = (relay(V4), relay(V4));
    let received = holding(&data());
    let mut arrived = ReceiveBatch::new(4);
    for length in [0, 1, 1200, 65_000] {
        send(&from, to.local_addr().unwrap(), &received, &[length]);
        receive(&mut arrived, &to, 1);
    }
    for (slot, length) in [0, 1, 1200, 65_000].into_iter().enumerate() {
        let mut ranges = arrived.get(slot).segments();
        assert_eq!((ranges.next(), ranges.next()), (Some(0..length), None));
    }
}

#[test]
fn a_slot_used_for_a_run_serves_single_datagrams_again() {
    let (from, to) = (relay(V4), relay(V4));
    let received = holding(&data());
    let mut arrived = ReceiveBatch::new(1);
    for lengths in [[500; 4].as_slice(), &[2000], &[7, 7, 3], &[0]] {
        let expected = send(&from, to.local_addr().unwrap(), &received, lengths);
        arrived.clear();
        receive(&mut arrived, &to, lengths.len());
        let seen: Vec<&[u8]> = datagrams(&arrived).iter().map(|one| one.data).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn all_arrive_as_they_were_queued_whatever_their_lengths() {
    let received = holding(&data());
    for ip in [V4, V6] {
        let peer = stranger(SocketAddr::new(ip, 0));
        let from = relay(ip);
        let to = peer.local_addr().unwrap();
        let sixty_four_and_more = [20; 150];
        let longer_than_any_datagram = [1200; 60];
        for lengths in [
            [1200; 8].as_slice(),
            &[1200, 1200, 1200, 700, 1200, 1200],
            &[700, 1200, 1200],
            &[30_000, 30_000, 30_000],
            &[65_000, 65_000, 507],
            &sixty_four_and_more,
            &longer_than_any_datagram,
        ] {
            let expected = send(&from, to, &received, lengths);
            expect(&peer, &expected);
        }
        // Every sequence of five of these.
        for case in 0..3_usize.pow(5) {
            let lengths = [0, 1, 2, 3, 4].map(|place| [0, 3, 9][case / 3_usize.pow(place) % 3]);
            let expected = send(&from, to, &received, &lengths);
            expect(&peer, &expected);
        }
        expect_nothing(&peer);
    }
}

#[test]
fn prefix_payload_and_padding_of_each_are_gathered() {
    let received = holding(&data());
    let (from, peer) = (relay(V4), stranger("127.0.0.1:0".parse().unwrap()));
    let template = Outgoing { pad: 2, ..plain(&from, peer.local_addr().unwrap(), b"") };
    let mut batch = SendBatch::new();
    let mut expected = queue(&mut batch, template, &[174; 64]);
    flush(&mut batch, &received);
    for datagram in &mut expected {
        datagram.extend([0; 2]);
    }
    expect(&peer, &expected);
}

#[test]
fn flows_queued_by_turns_and_in_bursts_each_keep_their_order() {
    let received = holding(&data());
    let from = [relay(V4), relay(V4)];
    let peers = [(); 6].map(|()| stranger("127.0.0.1:0".parse().unwrap()));
    let mut batch = SendBatch::new();
    let mut expected = vec![Vec::new(); peers.len()];
    for number in 0..240_usize {
        // Bursts of four with single ones among them.
        let burst = if number % 5 == 4 { number } else { number / 5 };
        let flow = burst % peers.len();
        let data = [number as u8; 16];
        expected[flow].push(data.to_vec());
        batch.push(plain(&from[flow % 2], peers[flow].local_addr().unwrap(), &data));
    }
    assert_eq!(flush(&mut batch, &received).len(), 240);
    for (peer, expected) in peers.iter().zip(&expected) {
        expect(peer, expected);
        expect_nothing(peer);
    }
}

#[test]
fn a_train_that_fails_costs_no_other() {
    let received = holding(&data());
    let (from, peer) = (relay(V4), stranger("127.0.0.1:0".parse().unwrap()));
    let to = peer.local_addr().unwrap();
    let good = plain(&from, to, b"");
    let mut batch = SendBatch::new();
    let mut expected = queue(&mut batch, good, &[50; 3]);
    let refused = [
        Outgoing { ttl: Some(0), ..good },
        Outgoing { source: Some("192.0.2.1".parse().unwrap()), ..good },
        Outgoing { to: "[::1]:9".parse().unwrap(), ..good },
    ];
    for bad in refused {
        queue(&mut batch, bad, &[60; 3]);
        expected.extend(queue(&mut batch, good, &[70; 3]));
    }
    let results = flush(&mut batch, &received);
    let tags: Vec<u32> = results.iter().map(|&(tag, _)| tag).collect();
    assert_eq!(tags, [0, 1, 2].repeat(7), "one result for each, in order");
    for (place, results) in results.chunks(3).enumerate() {
        let failed = results.iter().filter(|&&(_, error)| error != 0).count();
        assert_eq!(failed, if place % 2 == 1 { 3 } else { 0 }, "{results:?}");
    }
    expect(&peer, &expected);
    expect_nothing(&peer);
}

#[test]
fn an_icmp_error_about_one_train_fails_no_other() {
    let received = holding(&data());
    for ip in [V4, V6] {
        let (from, peer) = (relay(ip), stranger(SocketAddr::new(ip, 0)));
        let nobody = closed_port(ip);
        for _ in 0..10 {
            let mut batch = SendBatch::new();
            let good = plain(&from, peer.local_addr().unwrap(), b"");
            let mut expected = Vec::new();
            for _ in 0..3 {
                queue(&mut batch, Outgoing { to: nobody, ..good }, &[40; 4]);
                expected.extend(queue(&mut batch, good, &[40; 4]));
            }
            let results = flush(&mut batch, &received);
            assert_eq!(results.len(), 24);
            assert!(results.iter().all(|&(_, error)| error == 0), "{results:?}");
            expect(&peer, &expected);
        }
        expect_nothing(&peer);
    }
}

/// Two network namespaces with a cable of MTU 1500 between them, whose device here has had these
/// `ethtool` features changed: calls `body` for either IP version with a relay socket here and a
/// stranger there.
fn across_a_cable(features: &[&str], mut body: impl FnMut(&Socket, &UdpSocket) + Send) {
    in_namespace(&[], || {
        // SAFETY: no memory is involved.
        let there = unsafe { libc::gettid() };
        let setup = [
            "link set lo up",
            "link add name left type veth peer name right",
            "address add 10.9.0.1/24 dev left",
            "address add fd09::1/64 dev left nodad",
            "link set left up",
            &format!("link set right netns {there}"),
        ];
        let mut ours = Vec::new();
        // The sockets keep the namespace alive.
        in_namespace(&setup, || {
            for change in features {
                let command = [&["-K", "left"], &change.split(' ').collect::<Vec<_>>()[..]];
                let status = Command::new("ethtool").args(command.concat()).status();
                let status = status.expect("`ethtool` is needed");
                assert!(status.success(), "ethtool {change}");
            }
            ours.extend(["10.9.0.1", "fd09::1"].map(|ip| relay(ip.parse().unwrap())));
        });
        common::ip_command("address add 10.9.0.2/24 dev right");
        common::ip_command("address add fd09::2/64 dev right nodad");
        common::ip_command("link set right up");
        for (relay, peer) in ours.iter().zip(["10.9.0.2:0", "[fd09::2]:0"]) {
            body(relay, &stranger(peer.parse().unwrap()));
        }
    });
}

/// Bursts below, at and above the MTU all arrive, whatever the device has of segmentation.
fn bursts_arrive_across_a_cable(features: &[&str]) {
    let received = holding(&data());
    across_a_cable(features, move |from, peer| {
        let to = peer.local_addr().unwrap();
        // 1,452 and 1,472 bytes are what fits into 1,500 with the headers of IPv6 and of IPv4.
        for length in [172, 1200, 1452, 1470, 1472, 1474, 3000] {
            let mut lengths = [length; 8];
            lengths[7] = 99;
            let expected = send(from, to, &received, &lengths);
            expect(peer, &expected);
        }
        expect_nothing(peer);
    });
}

#[test]
fn bursts_above_the_mtu_go_singly() {
    bursts_arrive_across_a_cable(&[]);
}

#[test]
fn a_device_that_cannot_cut_trains_gets_them_cut() {
    bursts_arrive_across_a_cable(&["tx-udp-segmentation off"]);
}

#[test]
fn a_device_that_can_do_nothing_gets_bursts_all_the_same() {
    bursts_arrive_across_a_cable(&["tx off sg off tso off gso off tx-udp-segmentation off"]);
}
