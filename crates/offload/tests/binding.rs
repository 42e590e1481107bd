//! Binding requests, answered by the program as the rules answer them.

mod common;

use std::time::{Duration, Instant};

use common::packet::{Arrived, CLIENT_MAC, Checksum, Packet, SERVER_MAC};
use common::{Kernel, Verdict, addr};
use turnway_offload::maps::{Back, BindingRate, Outcome};
use turnway_wire::{Builder, Class, Message, Method, Software, TransactionId, XorMappedAddress};

const SERVERS: [&str; 2] = ["203.0.113.7:3478", "[2001:db8:7::7]:3478"];
const CLIENTS: [&str; 2] = ["192.0.2.1:40000", "[2001:db8:1::1]:40003"];
const NO_LIMIT: BindingRate = BindingRate { per_second: 0, burst: 0 };

/// The program with two listeners.
fn kernel(rate: Option<BindingRate>) -> Option<Kernel> {
    let kernel = Kernel::load()?;
    for server in SERVERS {
        kernel.maps().add_listener(addr(server)).unwrap();
    }
    kernel.maps().set_binding(rate, Back::Turned).unwrap();
    Some(kernel)
}

fn message(class: Class, method: Method, fill: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    let mut out = vec![0; 200];
    let transaction = TransactionId(*b"transaction!");
    let mut builder = Builder::new(&mut out, class, method, transaction).unwrap();
    fill(&mut builder);
    let len = builder.finish();
    out.truncate(len);
    out
}

fn request() -> Vec<u8> {
    message(Class::Request, Method::BINDING, |_| {})
}

fn from(client: &str, server: &str, payload: Vec<u8>) -> Packet {
    Packet::new(CLIENT_MAC, SERVER_MAC, addr(client), addr(server), payload)
}

#[track_caller]
fn answered(kernel: &mut Kernel, request: &Packet) -> Arrived {
    let before = kernel.outcomes();
    let (verdict, frame) = kernel.run(&request.encode());
    assert_eq!(verdict, Verdict::Transmit);
    assert_eq!(kernel.news(&before), [Outcome::BindingAnswered]);
    Arrived::decode(&frame).unwrap()
}

#[test]
fn a_client_learns_its_address() {
    let Some(mut kernel) = kernel(Some(NO_LIMIT)) else { return };
    for (client, server) in CLIENTS.into_iter().zip(SERVERS) {
        for (vlan, trailer) in [(None, 0), (Some(0x2007), 0), (None, 3), (Some(9), 40)] {
            let sent = Packet { vlan, trailer, ..from(client, server, request()) };
            let arrived = answered(&mut kernel, &sent);
            assert_eq!((arrived.from, arrived.to), (sent.to, sent.from));
            assert_eq!((arrived.from_mac, arrived.to_mac), (SERVER_MAC, CLIENT_MAC));
            assert_eq!((arrived.vlan, arrived.ttl, arrived.tos), (vlan, 64, 0));
            assert_eq!(arrived.checksum, Checksum::Right);
            let answer = Message::parse(&arrived.payload).unwrap();
            assert_eq!((answer.class(), answer.method()), (Class::Success, Method::BINDING));
            assert_eq!(answer.transaction_id(), TransactionId(*b"transaction!"));
            //= rfc8489#section-6.3.1.1
            //= type=test
            //# When forming the success response, the server adds an XOR-MAPPED-ADDRESS attribute
            //# to the response
            let mapped = answer.get::<XorMappedAddress>().unwrap();
            assert_eq!(mapped, Some(XorMappedAddress(sent.from)));
            let expected = message(Class::Success, Method::BINDING, |builder| {
                builder.add(&XorMappedAddress(sent.from)).unwrap();
            });
            assert_eq!(arrived.payload, expected, "user space would have said");
        }
    }
}

#[test]
fn over_ipv4_a_request_needs_no_checksum_but_never_a_wrong_one() {
    let Some(mut kernel) = kernel(Some(NO_LIMIT)) else { return };
    let [v4, v6] = [0, 1].map(|i| from(CLIENTS[i], SERVERS[i], request()));
    let zero = Packet { checksum: Checksum::Zero, ..v4.clone() };
    assert_eq!(answered(&mut kernel, &zero).checksum, Checksum::Right);
    let zero = Packet { checksum: Checksum::Zero, ..v6.clone() };
    kernel.passes(&zero.encode(), Some(Outcome::PassChecksum));
    for packet in [v4, v6] {
        for checksum in [Checksum::Wrong, Checksum::Partial] {
            let wrong = Packet { checksum, ..packet.clone() };
            kernel.passes(&wrong.encode(), Some(Outcome::PassChecksum));
        }
    }
}

#[test]
fn what_needs_a_thought_goes_to_user_space() {
    let Some(mut kernel) = kernel(Some(NO_LIMIT)) else { return };
    let mut unusual = vec![
        message(Class::Request, Method::BINDING, |b| b.add(&Software(b"client")).unwrap()),
        message(Class::Request, Method::BINDING, |b| b.fingerprint().unwrap()),
        message(Class::Request, Method::ALLOCATE, |_| {}),
        message(Class::Indication, Method::BINDING, |_| {}),
        message(Class::Success, Method::BINDING, |_| {}),
    ];
    // More and less than the message says.
    unusual.push([request(), vec![0; 4]].concat());
    let mut long = request();
    long[3] = 4;
    unusual.push(long);
    for (client, server) in CLIENTS.into_iter().zip(SERVERS) {
        for payload in &unusual {
            let sent = from(client, server, payload.clone());
            kernel.passes(&sent.encode(), Some(Outcome::PassRequest));
        }
        // An old client's, which has no cookie; cut short; and to somebody else.
        let mut old = request();
        old[4] = 0;
        kernel.passes(&from(client, server, old).encode(), None);
        kernel.passes(&from(client, server, request()[..19].to_vec()).encode(), None);
        let mut elsewhere = from(client, server, request());
        elsewhere.to.set_port(3479);
        kernel.passes(&elsewhere.encode(), None);
        kernel.maps().remove_listener(addr(server)).unwrap();
        kernel.passes(&from(client, server, request()).encode(), None);
    }
}

#[test]
fn nobody_is_answered_where_that_is_not_wanted() {
    let Some(mut kernel) = kernel(None) else { return };
    let request = from(CLIENTS[0], SERVERS[0], request());
    kernel.passes(&request.encode(), Some(Outcome::PassRequest));
    kernel.maps().set_binding(Some(NO_LIMIT), Back::Turned).unwrap();
    answered(&mut kernel, &request);
}

/// A veth leaves lying what turns round in it.
#[test]
fn an_answer_is_redirected_where_frames_cannot_turn_round() {
    let Some(mut kernel) = kernel(Some(NO_LIMIT)) else { return };
    for (client, server) in CLIENTS.into_iter().zip(SERVERS) {
        let request = from(client, server, request()).encode();
        let (verdict, turned) = kernel.run(&request);
        assert_eq!(verdict, Verdict::Transmit);
        kernel.maps().set_binding(Some(NO_LIMIT), Back::Redirected).unwrap();
        assert_eq!(kernel.run(&request), (Verdict::Redirect, turned));
        kernel.maps().set_binding(Some(NO_LIMIT), Back::Turned).unwrap();
    }
}

#[test]
fn an_answer_goes_to_no_group_and_to_no_one_of_ours() {
    let Some(mut kernel) = kernel(Some(NO_LIMIT)) else { return };
    let sources = ["127.0.0.1:9", "0.0.0.0:9", "224.0.0.1:9", "255.255.255.255:9", "192.0.2.1:0"];
    for source in sources {
        let sent = from(source, SERVERS[0], request());
        kernel.passes(&sent.encode(), Some(Outcome::PassRequest));
    }
    for source in ["[::]:9", "[::1]:9", "[ff02::1]:9", "[2001:db8::1]:0"] {
        let sent = from(source, SERVERS[1], request());
        kernel.passes(&sent.encode(), Some(Outcome::PassRequest));
    }
    let mut sent = from(CLIENTS[0], SERVERS[0], request());
    sent.macs[1] = [0xFF; 6];
    kernel.passes(&sent.encode(), Some(Outcome::PassRequest));
}

#[test]
fn a_peers_request_is_a_peers_datagram() {
    let Some(mut kernel) = kernel(Some(NO_LIMIT)) else { return };
    let channel = kernel.channel([CLIENTS[0], SERVERS[0], "203.0.113.7:5000", "198.51.100.9:6"]);
    let arrived = kernel.relayed(&channel.peer_sends(&request()));
    assert_eq!(arrived.payload, common::framed(channel.number, &request(), 0));
}

/// How many of so many requests are answered; the others are dropped and counted.
fn answers(kernel: &mut Kernel, packet: &Packet, requests: usize) -> usize {
    let before = kernel.outcomes();
    let frame = packet.encode();
    let count = |wanted| move |&&verdict: &&Verdict| verdict == wanted;
    let verdicts: Vec<_> = (0..requests).map(|_| kernel.run(&frame).0).collect();
    let answered = verdicts.iter().filter(count(Verdict::Transmit)).count();
    let dropped = verdicts.iter().filter(count(Verdict::Drop)).count();
    assert_eq!(answered + dropped, requests);
    let news = kernel.news(&before);
    let counted = news.iter().filter(|&&outcome| outcome == Outcome::BindingLimited).count();
    assert_eq!((counted, news.len()), (dropped, requests));
    answered
}

#[test]
fn a_source_gets_its_burst_and_no_more() {
    let rate = BindingRate { per_second: 1, burst: 3 };
    let Some(mut kernel) = kernel(Some(rate)) else { return };
    let near = [["192.0.2.1:1", "192.0.2.1:2"], ["[2001:db8:1::1]:1", "[2001:db8:1::2]:9"]];
    let far = ["192.0.2.2:1", "[2001:db8:1:1::1]:1"];
    for ((near, far), server) in near.into_iter().zip(far).zip(SERVERS) {
        let started = Instant::now();
        let first = answers(&mut kernel, &from(near[0], server, request()), 20);
        let second = answers(&mut kernel, &from(near[1], server, request()), 20);
        let earned = started.elapsed().as_secs() as usize + 1;
        assert!((3..=3 + earned).contains(&(first + second)), "{first} + {second} answers");
        assert!(answers(&mut kernel, &from(far, server, request()), 5) >= 3);
    }
}

#[test]
fn a_source_is_answered_at_its_rate() {
    let rate = BindingRate { per_second: 100, burst: 10 };
    let Some(mut kernel) = kernel(Some(rate)) else { return };
    let packet = from(CLIENTS[0], SERVERS[0], request());
    let started = Instant::now();
    let mut total = 0;
    while started.elapsed() < Duration::from_millis(500) {
        total += answers(&mut kernel, &packet, 50);
    }
    let earned = 10.0 + 100.0 * started.elapsed().as_secs_f64();
    let total = total as f64;
    assert!(total <= earned + 2.0 && total >= 0.8 * earned, "{total} answers, {earned} earned");
}
