use super::*;
use crate::payload::{Digest, MIN_LEN};
use turnway_wire::channel_header;

/// Two allocations with numbers 10 and 11, whose relay ports are 5000 and 5001.
fn sink() -> Sink {
    let mut sink = Sink::new(7, 10, 2, Addresses { all: None, port: 9 });
    sink.route(&[relayed(5000), relayed(5001)]);
    sink.begin(100, 200);
    sink
}

/// Where a client's own peer is.
fn at(client: usize) -> Option<IpAddr> {
    Some(crate::peers::own_peer(client).into())
}

fn relayed(port: u16) -> SocketAddr {
    SocketAddr::new([127, 0, 0, 1].into(), port)
}

fn payload(allocation: u32, direction: Direction, sequence: u64) -> Vec<u8> {
    let mut payload = vec![3; 100];
    let filling = Digest::of(&payload[MIN_LEN..]);
    Stamp { run: 7, allocation, direction, sequence, sent_ns: 150 }.write(&mut payload, filling);
    payload
}

fn channel(payload: &[u8], number: u16) -> Vec<u8> {
    [&channel_header(number, payload.len() as u16), payload].concat()
}

#[test]
fn what_arrives_whole_and_in_order_is_received() {
    let mut sink = sink();
    for sequence in 0..3 {
        sink.sent(Direction::ToPeer, 150);
        sink.at_peer(relayed(5000), at(0), &payload(10, Direction::ToPeer, sequence), 160);
    }
    sink.sent(Direction::ToClient, 150);
    let message = channel(&payload(11, Direction::ToClient, 0), 0x4000);
    assert!(sink.relayed(1, &message, 170));
    assert!(sink.is_complete());
    sink.end();
    let sound = |number| Counts { sent: number, received: number, ..Counts::default() };
    assert_eq!(sink.counts, [sound(3), sound(1)]);
    assert_eq!((sink.within, sink.under_way, sink.latency.longest()), (4, 0, 20));
}

#[test]
fn each_fault_is_counted_as_what_it_is() {
    let mut sink = sink();
    let first = payload(10, Direction::ToPeer, 0);
    for _ in 0..4 {
        sink.sent(Direction::ToPeer, 150);
    }
    let mut flipped = first.clone();
    flipped[99] ^= 1;
    sink.at_peer(relayed(5000), at(0), &flipped, 160);
    assert_eq!(sink.counts[0].corrupted, 1);
    sink.at_peer(relayed(5001), at(0), &first, 160);
    assert_eq!(sink.counts[0].misrouted, 1, "it came from another allocation's port");
    sink.at_peer(relayed(5000), at(0), &payload(10, Direction::ToClient, 0), 160);
    assert_eq!(sink.counts[0].misrouted, 2, "it came back to the sender");
    sink.at_peer(relayed(5000), at(0), &payload(12, Direction::ToPeer, 0), 160);
    assert_eq!(sink.counts[0].misrouted, 3, "no allocation of ours");
    sink.at_peer(relayed(5000), at(1), &first, 160);
    assert_eq!(sink.counts[0].misrouted, 4, "to another client's peer");
    sink.at_peer(relayed(5000), at(0), &payload(10, Direction::ToPeer, 1), 160);
    sink.at_peer(relayed(5000), at(0), &first, 160);
    assert_eq!(sink.counts[0].reordered, 1);
    sink.at_peer(relayed(5000), at(0), &first, 160);
    assert_eq!(sink.counts[0].duplicated, 1);
    sink.end();
    assert_eq!((sink.counts[0].received, sink.counts[0].lost), (2, 2));
}

#[test]
fn a_client_gets_its_own_payloads_from_its_own_peer_only() {
    let mut sink = sink();
    let payload = payload(10, Direction::ToClient, 0);
    assert!(sink.relayed(1, &channel(&payload, 0x4000), 160));
    assert_eq!(sink.counts[1].misrouted, 1, "it was for the other client");
    assert!(!sink.relayed(0, &channel(&payload, 0x4001), 160), "nobody has this channel");
    for (from, misrouted) in [("127.252.0.1:9", 2), ("127.252.0.0:9", 2)] {
        let id = turnway_wire::TransactionId([0; 12]);
        let head = turnway_wire::Prefix::data(from.parse().unwrap(), 100, id);
        assert!(sink.relayed(0, &[head.as_bytes(), &payload[..]].concat(), 160));
        assert_eq!(sink.counts[1].misrouted, misrouted, "from {from}");
    }
    assert_eq!(sink.counts[1].received, 1);
}

#[test]
fn what_was_sent_before_the_measured_time_counts_as_relayed_within_it_only() {
    let mut sink = sink();
    sink.begin(155, 200);
    sink.at_peer(relayed(5000), at(0), &payload(10, Direction::ToPeer, 0), 160);
    assert_eq!((sink.within, sink.counts[0].received, sink.latency.count()), (1, 0, 0));
}

#[test]
fn what_another_run_sent_does_not_count() {
    let mut sink = sink();
    let mut other = payload(10, Direction::ToPeer, 0);
    let filling = Digest::of(&other[MIN_LEN..]);
    let (allocation, direction) = (10, Direction::ToPeer);
    Stamp { run: 8, allocation, direction, sequence: 0, sent_ns: 150 }.write(&mut other, filling);
    sink.at_peer(relayed(5000), at(0), &other, 160);
    assert_eq!(sink.counts, [Counts::default(); 2]);
}

#[test]
fn a_closed_loop_goes_on_after_losses_and_has_room_for_a_burst() {
    let mut sink = sink();
    assert_eq!(sink.room(64, 8, 100), 8);
    assert_eq!(sink.room(4, 8, 100), 1, "a burst is more than the window");
    // Of seven bursts and then some only seven datagrams never come.
    (0..63).for_each(|_| sink.sent(Direction::ToPeer, 150));
    (0..56).for_each(|sequence| {
        sink.at_peer(relayed(5000), at(0), &payload(10, Direction::ToPeer, sequence), 160);
    });
    assert_eq!((sink.room(64, 8, 170), sink.room(8, 8, 170)), (7, 0));
    assert_eq!(sink.room(8, 8, 160 + SILENCE_NS), 0);
    assert_eq!(sink.room(8, 8, 161 + SILENCE_NS), 1, "what is missing is lost");
}

#[test]
fn what_is_not_sent_counts_in_the_measured_time_only() {
    let mut sink = sink();
    [99, 100, 199, 200].into_iter().for_each(|now| sink.not_sent(now));
    assert_eq!(sink.unsent, 2);
}
