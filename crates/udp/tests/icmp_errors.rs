//! An ICMP error about one peer costs another nothing, and is told with the peer it is about.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use common::{V4, V6, closed_port, flush, in_namespace, plain, receive, relay, wait_readable};
use turnway_udp::{
    Events, Family, IcmpError, Interest, Outgoing, Poller, ReceiveBatch, SendBatch, Socket,
    read_errors, send_one,
};

fn errors_of(socket: &Socket) -> Vec<IcmpError> {
    let mut errors = Vec::new();
    read_errors(socket.as_fd(), 1000, &mut |error| errors.push(error)).unwrap();
    errors
}

/// Says whether the socket has an error or an entry in its error queue.
fn in_error(socket: &Socket) -> bool {
    let poller = Poller::new().unwrap();
    poller.add(socket, 0, Interest::NONE).unwrap();
    let mut events = Events::new(1);
    poller.wait(&mut events, Some(std::time::Duration::ZERO)).unwrap();
    events.iter().any(|event| event.error())
}

fn port_unreachable(peer: SocketAddr) -> IcmpError {
    let (family, icmp_type, code) = match peer.ip() {
        IpAddr::V4(_) => (Family::V4, 3, 3),
        IpAddr::V6(_) => (Family::V6, 1, 4),
    };
    IcmpError { peer, offender: Some(peer.ip()), family, icmp_type, code, info: 0 }
}

#[test]
fn a_closed_port_costs_another_peer_no_datagram() {
    for ip in [V4, V6] {
        // A namespace of its own has the whole rate limit of ICMP errors to itself.
        in_namespace(&["link set lo up"], || {
            let (from, open) = (relay(ip), relay(ip));
            let (open_at, closed_at) = (open.local_addr().unwrap(), closed_port(ip));
            // An error pending from before fails the first attempt of the flush.
            send_one(from.as_fd(), b"refused", closed_at, None).unwrap();
            wait_for_error(&from);
            let mut batch = SendBatch::new();
            for number in 0..100_u8 {
                let to = if number % 2 == 0 { closed_at } else { open_at };
                batch.push(Outgoing { tag: number.into(), ..plain(&from, to, &[number]) });
            }
            let results = flush(&mut batch, &ReceiveBatch::new(1));
            assert_eq!(results, (0..100).map(|tag| (tag, 0)).collect::<Vec<_>>());

            let mut arrived = ReceiveBatch::new(64);
            receive(&mut arrived, &open, 50);
            let numbers: Vec<u8> = (0..50).map(|index| arrived.get(index).data[0]).collect();
            assert_eq!(numbers, (1..100).step_by(2).collect::<Vec<_>>());

            assert!(in_error(&from));
            let errors = errors_of(&from);
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|&error| error == port_unreachable(closed_at)), "{errors:?}");
            assert!(!in_error(&from), "the queue was emptied");
        });
    }
}

#[test]
fn a_pending_error_fails_neither_a_receive_nor_a_single_send() {
    in_namespace(&["link set lo up"], || {
        let (from, open) = (relay(V4), relay(V4));
        let (open_at, closed_at) = (open.local_addr().unwrap(), closed_port(V4));
        let at = from.local_addr().unwrap();

        send_one(from.as_fd(), b"refused", closed_at, None).unwrap();
        wait_for_error(&from);
        send_one(from.as_fd(), b"fine", open_at, None).unwrap();
        let mut arrived = ReceiveBatch::new(4);
        receive(&mut arrived, &open, 1);
        assert_eq!(arrived.get(0).data, b"fine");

        send_one(from.as_fd(), b"refused", closed_at, None).unwrap();
        wait_for_error(&from);
        assert!(arrived.receive(from.as_fd(), 1).unwrap().is_empty());
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"hello", at).unwrap();
        send_one(from.as_fd(), b"refused", closed_at, None).unwrap();
        arrived.clear();
        assert_eq!(arrived.receive(from.as_fd(), 4).unwrap(), 0..1);
        assert_eq!(arrived.get(0).data, b"hello");
        assert_eq!(errors_of(&from), [port_unreachable(closed_at); 3]);
    });
}

fn wait_for_error(socket: &Socket) {
    wait_readable(socket);
    assert!(in_error(socket));
}

#[test]
fn reading_the_error_queue_is_bounded() {
    in_namespace(&["link set lo up"], || {
        let from = relay(V4);
        let closed_at = closed_port(V4);
        for _ in 0..5 {
            send_one(from.as_fd(), b"refused", closed_at, None).unwrap();
        }
        let read = |max| read_errors(from.as_fd(), max, &mut |_| {}).unwrap();
        assert_eq!([read(2), read(2), read(2), read(2)], [2, 2, 1, 0]);
    });
}

#[test]
fn an_unreachable_host_costs_another_peer_no_datagram() {
    // No route to 10.9.0.2 but an `unreachable` one: a failure of that datagram alone.
    let setup = ["link set lo up", "route add unreachable 10.9.0.0/24"];
    in_namespace(&setup, || {
        let (from, open) =
            (turnway_udp::relay_udp("0.0.0.0:0".parse().unwrap(), 0).unwrap(), relay(V4));
        let open_at = open.local_addr().unwrap();
        let mut batch = SendBatch::new();
        for tag in 0..20 {
            let to = if tag % 2 == 0 { "10.9.0.2:9".parse().unwrap() } else { open_at };
            batch.push(Outgoing { tag, ..plain(&from, to, b"x") });
        }
        let results = flush(&mut batch, &ReceiveBatch::new(1));
        for (tag, error) in results {
            assert_eq!(error, if tag % 2 == 0 { libc::EHOSTUNREACH } else { 0 });
        }
        receive(&mut ReceiveBatch::new(10), &open, 10);
    });
}
