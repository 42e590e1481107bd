//! Floods of requests without credentials and of DTLS clients that have not shown where they are:
//! they leave nothing behind, and harm nobody else.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use turnway_wire::{Builder, Class, ErrorCode, Message, Method, TransactionId};

use common::client::{Client, Transport, UDP};
use common::conversation::{pairs, while_talking};
use common::link::dtls_hello;
use common::netns::Namespace;
use common::{PATIENCE, Relay, Setup, can_make_namespaces};

const MIB: u64 = 1 << 20;

const SERVER_V4: &str = "10.255.0.1";
const SERVER_V6: &str = "fd88:ffff::1";

/// Sources that ask at the same time.
const TOGETHER: u32 = 100;

const DROPPED: &str = "turnway_dropped_datagrams_total{side=\"client\",reason=\"rate_limited\"}";
const REFUSED: &str = "turnway_requests_total{method=\"allocate\",outcome=\"unauthenticated\"}";

/// A network namespace where every address of 10.0.0.0/8 and fd88::/16 is its own, so that there
/// are as many sources as anybody wants.
fn crowded() -> Namespace {
    let namespace = Namespace::new("flood");
    namespace.ip("route add local 10.0.0.0/8 dev lo");
    namespace.ip("-6 route add local fd88::/16 dev lo");
    namespace.ip(&format!("address add {SERVER_V6}/128 dev lo nodad"));
    // Unlike for IPv4, the route alone does not let a program bind to such an address.
    let allow = || std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
    namespace.enter(allow).expect("root may");
    namespace
}

fn relay_in(namespace: &Namespace, limits: &str) -> Relay {
    Relay::start(Setup {
        transports: &["auto"],
        peers: "allow = [\"10.0.0.0/8\"]".to_owned(),
        namespace: Some(namespace.name.clone()),
        listen: [SERVER_V4, SERVER_V6].map(server).to_vec(),
        metrics: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9641)),
        limits: limits.to_owned(),
        ..Setup::default()
    })
}

fn server(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 3478)
}

/// An Allocate without credentials.
fn allocate(number: u32) -> Vec<u8> {
    let mut out = [0; 64];
    let mut id = *b"flood0000000";
    id[8..].copy_from_slice(&number.to_be_bytes());
    let id = TransactionId(id);
    let mut builder = Builder::new(&mut out, Class::Request, Method::ALLOCATE, id).expect("room");
    builder.add(&UDP).expect("room");
    let len = builder.finish();
    out[..len].to_vec()
}

/// Every source asks once, each from a socket of its own, and gets its 401.
fn ask(namespace: &Namespace, server: SocketAddr, sources: impl Iterator<Item = IpAddr> + Send) {
    question(namespace, server, sources, allocate, |answer| {
        let answer = Message::parse(answer).expect("STUN");
        let error = answer.get::<ErrorCode>().expect("well-formed").expect("an error");
        assert_eq!(error.code, 401);
    });
}

/// Every source sends one datagram from a socket of its own, and gets an answer to be checked.
fn question(
    namespace: &Namespace,
    server: SocketAddr,
    sources: impl Iterator<Item = IpAddr> + Send,
    datagram: impl Fn(u32) -> Vec<u8> + Sync,
    check: impl Fn(&[u8]) + Sync,
) {
    namespace.enter(|| {
        let mut sources = sources.peekable();
        let mut number = 0;
        while sources.peek().is_some() {
            let mut sockets = Vec::new();
            for source in sources.by_ref().take(TOGETHER as usize) {
                let socket = UdpSocket::bind((source, 0)).expect("every address is ours");
                socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
                socket.send_to(&datagram(number), server).expect("sent");
                sockets.push(socket);
                number += 1;
            }
            for socket in sockets {
                let mut buffer = [0; 512];
                let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
                assert_eq!(from, server);
                check(&buffer[..len]);
            }
        }
    });
}

fn ipv4_sources(count: u32) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0A02_0000 + n)))
}

/// Each in a /64 of its own.
fn ipv6_sources(count: u32) -> impl Iterator<Item = IpAddr> {
    let net = |n: u32| (0xFD88_u128 << 112) + (u128::from(n) << 64) + 1;
    (0..count).map(move |n| IpAddr::V6(Ipv6Addr::from_bits(net(n))))
}

#[test]
fn a_hundred_thousand_sources_leave_no_memory_behind() {
    if !can_make_namespaces() {
        return;
    }
    let namespace = crowded();
    let relay = relay_in(&namespace, "");
    let (v4, v6) = (server(SERVER_V4), server(SERVER_V6));
    // What any first requests cost: a scrape, a shard's stack, a page of a log line.
    ask(&namespace, v4, ipv4_sources(TOGETHER));
    ask(&namespace, v6, ipv6_sources(TOGETHER));
    relay.samples();

    let before = relay.resident();
    ask(&namespace, v4, ipv4_sources(100_000));
    ask(&namespace, v6, ipv6_sources(20_000));
    let after = relay.resident();

    let grown = after.saturating_sub(before);
    assert!(grown < MIB, "resident memory grew from {before} to {after} bytes");
    let answered = f64::from(120_000 + 2 * TOGETHER);
    relay.await_samples("all to be counted", |samples| samples[REFUSED] == answered);
    assert_eq!(relay.allocations(), 0.0);
    assert_eq!(relay.samples()[DROPPED], 0.0, "each source is within its rate");
}

#[test]
fn a_hundred_thousand_dtls_clients_without_a_cookie_leave_no_memory_behind() {
    const SOURCES: u32 = 100_000;
    if !can_make_namespaces() {
        return;
    }
    let namespace = crowded();
    let relay = relay_in(&namespace, "");
    let hello = dtls_hello(&relay.roots());
    let flood = |sources: u32| {
        let sources = ipv4_sources(sources);
        question(
            &namespace,
            relay.address,
            sources,
            |_| hello.clone(),
            |answer| {
                // HelloVerifyRequest (RFC 6347), shorter than what it answers.
                assert_eq!((answer[0], answer[13]), (22, 3));
                assert!(answer.len() < hello.len());
            },
        );
    };
    let (server, roots) = (relay.address, relay.roots());
    let good = namespace.enter(|| pairs(server, &roots, &Transport::ALL));
    let [before, after] = while_talking(good, || {
        flood(TOGETHER);
        relay.samples();
        let before = relay.resident();
        flood(SOURCES);
        [before, relay.resident()]
    });
    let grown = after.saturating_sub(before);
    println!("resident memory grew by {grown} bytes");
    assert!(grown < MIB, "resident memory grew from {before} to {after} bytes");
    // And the one that talked all along.
    let answered = f64::from(SOURCES + TOGETHER + 1);
    let strangers = "turnway_dtls_strangers_total{outcome=\"answered\"}";
    relay.await_samples("all to be counted", |samples| samples[strangers] >= answered);
    assert_eq!(relay.samples()["turnway_dtls_handshakes_total{outcome=\"completed\"}"], 1.0);
}

#[test]
fn the_flood_of_one_source_is_capped_and_others_are_answered() {
    const RATE: f64 = 50.0;
    const BURST: f64 = 100.0;
    const FLOOD: u32 = 5000;
    let relay = Relay::start(Setup {
        limits: "unauthenticated_per_source = \"50/s\"\nunauthenticated_burst = 100".to_owned(),
        ..Setup::default()
    });
    let from = |last: u8| {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0));
        socket.expect("loopback has many addresses")
    };
    let mut neighbour = Client::udp_from(from(7), relay.address);
    neighbour.allocate();
    let flooder = from(7);
    let began = Instant::now();
    for number in 0..FLOOD {
        flooder.send_to(&allocate(number), relay.address).expect("sent");
        if number % 500 == 0 {
            // Others get their answers at once, also those behind the flooder's own address that
            // have credentials.
            Client::udp_from(from(8), relay.address).allocate();
            neighbour.refresh(600).expect_success();
        }
    }
    let sent = f64::from(FLOOD);
    relay.await_samples("all of the flood to be counted", |samples| {
        samples[DROPPED] + samples[REFUSED] >= sent
    });
    flooder.set_nonblocking(true).expect("a socket");
    let answers = std::iter::from_fn(|| flooder.recv_from(&mut [0; 512]).ok()).count() as f64;
    let most = BURST + RATE * began.elapsed().as_secs_f64() + 1.0;
    assert!((BURST / 2.0..=most).contains(&answers), "{answers} answers, {most} at most");
    assert_eq!(relay.samples()[DROPPED], sent - answers);
}

#[test]
fn an_ipv6_source_is_a_64() {
    if !can_make_namespaces() {
        return;
    }
    let namespace = crowded();
    // Nothing to speak of comes back within the test.
    let limits = "unauthenticated_per_source = \"1/s\"\nunauthenticated_burst = 300";
    let relay = relay_in(&namespace, limits);
    let server = server(SERVER_V6);
    namespace.enter(|| {
        for last in 1..=1000_u16 {
            let source = Ipv6Addr::new(0xFD88, 0, 0, 0, 0, 0, 0, last);
            let socket = UdpSocket::bind((source, 0)).expect("every address is ours");
            socket.send_to(&allocate(last.into()), server).expect("sent");
        }
    });
    relay.await_samples("all to be counted", |samples| {
        samples[DROPPED] + samples[REFUSED] == 1000.0
    });
    let answered = relay.samples()[REFUSED];
    assert!((300.0..350.0).contains(&answered), "{answered} of one /64 were answered");
    ask(&namespace, server, ipv6_sources(10).skip(1));
}
