//! DF is set for the datagrams that ask for it, for no others, and ICMP cannot make it bite.

mod common;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use common::{V4, V6, flush, holding, in_namespace, plain, receive, relay, wait_readable};
use socket2::{Domain, Protocol, SockAddr, Type};
use turnway_udp::{Family, Outgoing, Payload, ReceiveBatch, SendBatch, read_errors};

const SMALL_LOOPBACK: [&str; 2] = ["link set lo mtu 1500", "link set lo up"];

/// A raw socket that sees (with headers) and sends packets of `protocol`.
fn raw(protocol: Protocol) -> socket2::Socket {
    socket2::Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(protocol)).unwrap()
}

#[test]
fn df_is_in_the_header_of_flagged_datagrams_only() {
    in_namespace(&SMALL_LOOPBACK, || {
        let mut capture = raw(Protocol::UDP);
        let received = ReceiveBatch::new(1);
        let (from, peer) = (relay(V4), relay(V4));
        let to = peer.local_addr().unwrap();
        let mut batch = SendBatch::new();
        let flags = [false, true, false, true, true, false];
        for dont_fragment in flags {
            batch.push(Outgoing { dont_fragment, ..plain(&from, to, b"x") });
        }
        assert_eq!(flush(&mut batch, &received), [(0, 0); 6]);
        turnway_udp::send_one(from.as_fd(), b"x", to, None).unwrap();

        let mut seen = Vec::new();
        for _ in 0..=flags.len() {
            let mut packet = [0; 100];
            wait_readable(&capture);
            assert_eq!(capture.read(&mut packet).unwrap(), 20 + 8 + 1);
            seen.push(packet[6] & 0x40 != 0);
        }
        assert_eq!(seen, [false, true, false, true, true, false, false]);
    });
}

#[test]
fn only_a_flagged_datagram_is_too_long_for_the_link() {
    for ip in [V4, V6] {
        in_namespace(&SMALL_LOOPBACK, || {
            let received = holding(&[0xcd; 3000]);
            let (from, peer) = (relay(ip), relay(ip));
            let to = peer.local_addr().unwrap();
            let long = Payload { slot: 0, offset: 0, len: 3000 };
            let template = Outgoing { payload: long, ..plain(&from, to, b"") };
            let mut batch = SendBatch::new();
            for (tag, dont_fragment) in [false, true, false].into_iter().enumerate() {
                batch.push(Outgoing { tag: tag as u32, dont_fragment, ..template });
            }
            assert_eq!(flush(&mut batch, &received), [(0, 0), (1, libc::EMSGSIZE), (2, 0)]);
            let mut arrived = ReceiveBatch::new(2);
            receive(&mut arrived, &peer, 2);
            assert_eq!(arrived.get(1).data, [0xcd; 3000]);
            let taken = read_errors(from.as_fd(), 64, &mut |error| {
                panic!("our own refusal is no ICMP error: {error:?}");
            });
            assert!(taken.is_ok());
        });
    }
}

/// An ICMP error "fragmentation needed" for a datagram from `from` to `to`, checksums included.
fn fragmentation_needed(from: SocketAddr, to: SocketAddr, mtu: u16) -> Vec<u8> {
    let (IpAddr::V4(from_ip), IpAddr::V4(to_ip)) = (from.ip(), to.ip()) else {
        panic!("IPv4 only");
    };
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    let mut ip = vec![0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(from_ip.octets());
    ip.extend(to_ip.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    icmp.extend(ip);
    icmp.extend(from.port().to_be_bytes());
    icmp.extend(to.port().to_be_bytes());
    icmp.extend([0x05, 0xc8, 0, 0]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    icmp
}

fn checksum(data: &[u8]) -> [u8; 2] {
    let sum: u32 =
        data.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(folded as u16 + (folded >> 16) as u16)).to_be_bytes()
}

#[test]
fn a_forged_icmp_error_is_told_but_does_not_shrink_the_path_mtu() {
    in_namespace(&SMALL_LOOPBACK, || {
        let mut capture = raw(Protocol::UDP);
        let (from, peer) = (relay(V4), relay(V4));
        let to = peer.local_addr().unwrap();
        let forged = fragmentation_needed(from.local_addr().unwrap(), to, 600);
        let host = SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        raw(Protocol::ICMPV4).send_to(&forged, &host).unwrap();

        let received = holding(&[1; 1400]);
        while capture.read(&mut [0; 2000]).is_ok() {} // the one that `holding` sent
        let whole = Payload { slot: 0, offset: 0, len: 1400 };
        let mut batch = SendBatch::new();
        for dont_fragment in [false, true] {
            batch.push(Outgoing { payload: whole, dont_fragment, ..plain(&from, to, b"") });
        }
        assert_eq!(flush(&mut batch, &received), [(0, 0); 2]);
        for _ in 0..2 {
            let mut packet = [0; 2000];
            wait_readable(&capture);
            assert_eq!(capture.read(&mut packet).unwrap(), 20 + 8 + 1400, "not fragmented");
        }

        let mut errors = Vec::new();
        assert_eq!(read_errors(from.as_fd(), 8, &mut |error| errors.push(error)).unwrap(), 1);
        let error = errors[0];
        assert_eq!((error.peer, error.offender), (to, Some(V4)));
        assert_eq!((error.family, error.icmp_type, error.code), (Family::V4, 3, 4));
        assert_eq!(error.info, 600);
    });
}
