//! Which peers a client may reach, what it learns of those that are not there, and what happens to
//! the headers of datagrams on their way.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use turnway_wire::{AdditionalAddressFamily, Family, Method};

use common::client::{Answer, Client, Peer, Relayed, UDP};
use common::netns::Namespace;
use common::{Relay, Setup, can_make_namespaces};

/// What an attacker tries first (and CVEs are made of).
const HOSTILE_V4: [&str; 27] = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.0.0.8",
    "127.255.255.254",
    "169.254.1.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.254",
    "255.255.255.255",
];

const HOSTILE_V6: [&str; 22] = [
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:808:808::1",
    "2001:2::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

/// IPv4 written as IPv6: it is IPv4, so it is judged as that.
const MAPPED: [&str; 4] =
    ["::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:169.254.169.254", "::ffff:10.0.0.1"];

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

fn dual_stack(peers: &str) -> Relay {
    let ip = common::own_address();
    Relay::start(Setup {
        listen: vec![SocketAddr::new(ip.into(), 3478)],
        relay: Some(format!("addresses = [\"{ip}\", \"::1\"]")),
        peers: peers.to_owned(),
        ..Setup::default()
    })
}

/// An allocation with a relayed transport address of each family.
fn allocate_both(client: &mut Client) -> [SocketAddr; 2] {
    let answer = client.request(Method::ALLOCATE, &|b| {
        b.add(&UDP)?;
        b.add(&AdditionalAddressFamily { family: Some(Family::V6) })
    });
    let relayed = answer.expect_success().relayed();
    relayed.try_into().expect("two addresses")
}

#[test]
fn no_special_purpose_address_can_be_reached() {
    if !can_make_namespaces() {
        return;
    }
    // A machine with public addresses of both families.
    let machine = Namespace::new("public");
    machine.ip("address add 198.97.0.5/32 dev lo");
    machine.ip("address add 2600:5::5/128 dev lo nodad");
    let relay = Relay::start(Setup {
        namespace: Some(machine.name.clone()),
        listen: vec![at("198.97.0.5", 3478)],
        metrics: Some(at("127.0.0.1", 9641)),
        relay: Some("addresses = [\"198.97.0.5\", \"2600:5::5\"]".to_owned()),
        peers: String::new(),
        ..Setup::default()
    });
    let mut client = Client::udp_from(machine.udp_on("198.97.0.5"), relay.address);
    allocate_both(&mut client);
    let mut sent = 0.0;
    for ip in HOSTILE_V4.iter().chain(&HOSTILE_V6).chain(&MAPPED) {
        for port in [80, 0] {
            let peer = at(ip, port);
            let refused = |answer: Answer| assert_eq!(answer.code(), Some(403), "{peer}");
            refused(client.permit(&[peer]));
            refused(client.permit(&[at("8.8.8.8", 53), peer]));
            refused(client.bind(0x4000, peer));
            client.send(peer, b"no");
            sent += 1.0;
        }
    }
    // Not even the good half of a mixed request has had an effect.
    client.send(at("8.8.8.8", 53), b"no");
    let dropped = |reason: &str| {
        format!("turnway_dropped_datagrams_total{{side=\"client\",reason=\"{reason}\"}}")
    };
    let [denied, unknown] = ["peer_denied", "no_permission"].map(dropped);
    relay.await_samples("every Send to be dropped", |samples| {
        samples[&denied] + samples[&unknown] == sent + 1.0
    });
    assert_eq!(relay.sum("turnway_relayed_datagrams_total"), 0.0);
    assert_eq!(relay.sum("turnway_permissions"), 0.0);
    client.permit(&[at("8.8.8.8", 53)]).expect_success();
}

#[test]
fn a_peer_of_the_family_that_was_not_allocated_is_a_mismatch() {
    let relay = dual_stack("");
    for (family, others) in
        [(Family::V4, &HOSTILE_V6[..]), (Family::V6, &HOSTILE_V4[..]), (Family::V6, &MAPPED[..])]
    {
        let mut client = Client::udp(relay.address);
        client.allocate_family(family);
        for ip in others {
            let refused = |answer: Answer| {
                assert!(matches!(answer.code(), Some(403 | 443)), "{ip}: {:?}", answer.code());
            };
            refused(client.permit(&[at(ip, 80)]));
            refused(client.bind(0x4000, at(ip, 80)));
        }
        let public = if family == Family::V4 { "2600::1" } else { "8.8.8.8" };
        client.permit(&[at(public, 80)]).expect_code(443);
        client.bind(0x4000, at(public, 80)).expect_code(443);
    }
}

#[test]
fn our_own_listeners_are_no_peers_whatever_is_allowed() {
    let relay = Relay::with_shards(2);
    let mut client = Client::udp(relay.address);
    let relayed = client.allocate();
    for listener in [relay.address, relay.metrics] {
        client.bind(0x4000, listener).expect_code(403);
        // A permission has no port: it is made, and then of no use.
        client.permit(&[listener]).expect_success();
        client.send(listener, b"a loop");
    }
    let denied = "turnway_dropped_datagrams_total{side=\"client\",reason=\"peer_denied\"}";
    relay.await_samples("both to be dropped", |samples| samples[denied] == 2.0);
    // The rest of that address is as reachable as `allow` says.
    let neighbour = Peer::on(relay.ip());
    client.send(neighbour.address(), b"no listener");
    assert_eq!(neighbour.receive(), (b"no listener".to_vec(), relayed));
}

#[test]
fn wildcard_listeners_are_no_peers_on_any_address() {
    let port = 20_000 + (std::process::id() % 10_000) as u16;
    let relay = Relay::start(Setup {
        listen: vec![at("0.0.0.0", port)],
        relay: Some("addresses = [\"127.0.0.1\"]".to_owned()),
        ..Setup::default()
    });
    let mut client = Client::udp(at("127.0.0.1", port));
    client.allocate();
    for ip in ["127.0.0.1", "127.9.9.9"] {
        client.bind(0x4000, at(ip, port)).expect_code(403);
    }
    drop(relay);
}

/// Two peers of one allocation, one of which has nobody listening.
fn closed_and_open(relay: &Relay, mut client: Client, ip: IpAddr) {
    let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
    let unreachable = if ip.is_ipv4() { (3, 3) } else { (1, 4) };
    let relayed = client.allocate_family(family);
    let open = Peer::on(ip);
    let closed = Peer::on(ip).address(); // dropped here
    client.bind(0x4000, open.address()).expect_success();
    client.bind(0x4001, closed).expect_success();
    for turn in 0..500_u32 {
        client.send_channel(0x4001, b"into the void");
        client.send_channel(0x4000, &turn.to_be_bytes());
        if turn % 3 == 0 {
            client.send(closed, b"into the void");
        }
        if turn % 50 == 49 {
            for turn in turn - 49..=turn {
                assert_eq!(open.receive(), (turn.to_be_bytes().to_vec(), relayed));
            }
            open.send(b"back", relayed);
        }
    }
    let mut back = 0;
    let mut told = 0;
    while back < 10 || told == 0 {
        match client.receive() {
            Relayed::Channel { number, data } => {
                assert_eq!((number, data.as_slice()), (0x4000, b"back".as_slice()));
                back += 1;
            }
            Relayed::Icmp { peer, icmp_type, code } => {
                assert_eq!((peer, icmp_type, code), (closed, unreachable.0, unreachable.1));
                told += 1;
            }
            Relayed::Data { peer, .. } => panic!("data from {peer}"),
        }
    }
    assert!(relay.sum("turnway_send_errors_total{direction=\"to_peer\"}") == 0.0);
}

#[test]
fn one_peers_closed_port_costs_another_peer_no_datagram_and_the_client_is_told() {
    let relay = dual_stack("allow = [\"127.0.0.0/8\", \"::1\"]");
    for ip in [relay.ip(), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])] {
        closed_and_open(&relay, Client::udp(relay.address), ip);
        closed_and_open(&relay, Client::tcp(relay.address), ip);
    }
    relay.await_samples("each client's notice to be counted", |samples| {
        samples["turnway_icmp_relayed_total"] >= 4.0
    });
}

#[test]
fn icmp_errors_are_passed_on_at_a_bounded_rate() {
    let relay = Relay::start(Setup {
        limits: "icmp_per_allocation = \"5/s\"".to_owned(),
        ..Setup::default()
    });
    let mut client = Client::udp(relay.address);
    client.allocate();
    let closed = Peer::on(relay.ip()).address();
    client.bind(0x4001, closed).expect_success();
    let began = std::time::Instant::now();
    let ignored = "turnway_dropped_datagrams_total{side=\"peer\",reason=\"icmp_ignored\"}";
    common::await_some("some to be left out", || {
        (0..20).for_each(|_| client.send_channel(0x4001, b"into the void"));
        (relay.samples()[ignored] > 100.0).then_some(())
    });
    let told = relay.sum("turnway_icmp_relayed_total");
    let most = 5.0 * (began.elapsed() + Duration::from_secs(2)).as_secs_f64();
    assert!((1.0..=most).contains(&told), "{told}");
}
