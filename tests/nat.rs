//! Addresses: behind 1:1 NAT, several on an interface, both families, and none configured.
//!
//! The daemon and its clients are in two network namespaces with a cable between them.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use common::client::{Client, Peer, Relayed};
use common::netns::Namespace;
use common::{Relay, Setup, can_make_namespaces};

/// The machine of the relay, and that of everybody else.
struct Net {
    server: Namespace,
    outside: Namespace,
}

impl Net {
    fn new(addresses: &[&str]) -> Self {
        let [server, outside] = ["server", "outside"].map(Namespace::new);
        let outer = ["10.77.0.1/24", "fd77::1/64"];
        server.connect(&outside, "eth0", addresses, &outer);
        Self { server, outside }
    }

    /// A daemon that listens on port 3478 of these addresses.
    fn relay(&self, listen: &[&str], relay: &str, peers: &str) -> Relay {
        Relay::start(Setup {
            namespace: Some(self.server.name.clone()),
            listen: listen.iter().map(|ip| at(ip, 3478)).collect(),
            metrics: Some(at("127.0.0.1", 9641)),
            relay: Some(relay.to_owned()),
            peers: peers.to_owned(),
            ..Setup::default()
        })
    }

    fn udp_client(&self, server: &str) -> Client {
        let own = if server.contains(':') { "fd77::1" } else { "10.77.0.1" };
        Client::udp_from(self.outside.udp_on(own), at(server, 3478))
    }

    fn tcp_client(&self, server: &str) -> Client {
        let server = at(server, 3478);
        Client::tcp_from(self.outside.tcp(server), server)
    }

    fn peer(&self, ip: &str) -> Peer {
        Peer::from(self.outside.udp_on(ip))
    }
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// The external address, which nobody has on an interface: the NAT outside does not hairpin.
const EXTERNAL: &str = "203.0.113.7";

fn behind_nat() -> (Net, Relay) {
    let net = Net::new(&["10.77.0.5/24"]);
    // Whatever is sent to the external address from inside gets lost.
    net.server.ip("route add blackhole 203.0.113.0/24");
    let relay = format!("addresses = [{{ local = \"10.77.0.5\", external = \"{EXTERNAL}\" }}]");
    let relay = net.relay(&["10.77.0.5"], &relay, "");
    (net, relay)
}

#[test]
fn two_relay_only_clients_behind_one_nat_reach_each_other() {
    if !can_make_namespaces() {
        return;
    }
    let (net, _relay) = behind_nat();
    for mut pair in [
        [net.udp_client("10.77.0.5"), net.udp_client("10.77.0.5")],
        [net.udp_client("10.77.0.5"), net.tcp_client("10.77.0.5")],
        [net.tcp_client("10.77.0.5"), net.tcp_client("10.77.0.5")],
    ] {
        let relayed = [pair[0].allocate(), pair[1].allocate()];
        let external: IpAddr = EXTERNAL.parse().expect("an address");
        assert_eq!(relayed.map(|address| address.ip()), [external; 2]);
        let [a, b] = &mut pair;

        a.permit(&[relayed[1]]).expect_success();
        b.permit(&[relayed[0]]).expect_success();
        a.send(relayed[1], b"by Send");
        let data = b"by Send".to_vec();
        assert_eq!(b.receive(), Relayed::Data { peer: relayed[0], data });

        b.bind(0x4001, relayed[0]).expect_success();
        b.send_channel(0x4001, b"by channel, received as an indication");
        let data = b"by channel, received as an indication".to_vec();
        assert_eq!(a.receive(), Relayed::Data { peer: relayed[1], data });

        a.bind(0x4002, relayed[1]).expect_success();
        a.send_channel(0x4002, b"by channel");
        let data = b"by channel".to_vec();
        assert_eq!(b.receive(), Relayed::Channel { number: 0x4001, data });
        b.send(relayed[0], b"by Send, received by channel");
        let data = b"by Send, received by channel".to_vec();
        assert_eq!(a.receive(), Relayed::Channel { number: 0x4002, data });
    }
}

#[test]
fn a_relayed_address_is_a_peer_only_while_it_lives() {
    if !can_make_namespaces() {
        return;
    }
    let (net, relay) = behind_nat();
    let (mut a, mut b) = (net.udp_client("10.77.0.5"), net.udp_client("10.77.0.5"));
    let (at_a, at_b) = (a.allocate(), b.allocate());
    a.bind(0x4000, at_b).expect_success();
    b.permit(&[at_a]).expect_success();
    a.send_channel(0x4000, b"while both live");
    assert_eq!(b.receive_data(), b"while both live");

    b.refresh(0).expect_success();
    a.send_channel(0x4000, b"to nobody");
    let denied = "turnway_dropped_datagrams_total{side=\"client\",reason=\"peer_denied\"}";
    relay.await_samples("a refused datagram", |samples| samples[denied] == 1.0);
    a.bind(0x4000, at_b).expect_code(403);
}

#[test]
fn a_peer_elsewhere_sees_and_reaches_the_relayed_port_behind_the_nat() {
    if !can_make_namespaces() {
        return;
    }
    let net = Net::new(&["10.77.0.5/24"]);
    let relay = format!("addresses = [{{ local = \"10.77.0.5\", external = \"{EXTERNAL}\" }}]");
    let _relay = net.relay(&["10.77.0.5"], &relay, "allow = [\"10.77.0.1\"]");
    let mut client = net.udp_client("10.77.0.5");
    let relayed = client.allocate();
    let peer = net.peer("10.77.0.1");
    client.permit(&[peer.address()]).expect_success();
    client.send(peer.address(), b"out");
    // The NAT itself, which would turn this into the external address, is not there.
    let local = at("10.77.0.5", relayed.port());
    assert_eq!(peer.receive(), (b"out".to_vec(), local));
    peer.send(b"in", local);
    assert_eq!(client.receive(), Relayed::Data { peer: peer.address(), data: b"in".to_vec() });
}

#[test]
fn replies_and_relayed_data_leave_from_the_address_that_was_asked() {
    if !can_make_namespaces() {
        return;
    }
    let addresses = ["10.77.0.5/24", "10.77.0.6/24", "fd77::5/64", "fd77::6/64"];
    let net = Net::new(&addresses);
    let relay = "addresses = [\"10.77.0.5\", \"fd77::5\"]";
    let peers = "allow = [\"10.77.0.1\", \"fd77::1\"]";
    // Both wildcards have the same port: `[::]` is IPv6 only.
    let _relay = net.relay(&["0.0.0.0", "::"], relay, peers);
    let peer = net.peer("10.77.0.1");
    for server in ["10.77.0.5", "10.77.0.6", "fd77::5", "fd77::6"] {
        for mut client in [net.udp_client(server), net.tcp_client(server)] {
            // The client asserts of everything it receives that it comes from `server`.
            assert_eq!(client.binding(), client.local_addr());
            let relayed = client.allocate();
            client.permit(&[peer.address()]).expect_success();
            client.send(peer.address(), server.as_bytes());
            let (data, from) = peer.receive();
            assert_eq!((data.as_slice(), from), (server.as_bytes(), relayed));
            peer.send(b"as an indication", from);
            assert_eq!(client.receive_data(), b"as an indication");
            client.bind(0x4000, peer.address()).expect_success();
            peer.send(b"by channel", from);
            assert_eq!(client.receive_data(), b"by channel");
        }
    }
}

#[test]
fn one_socket_may_have_an_allocation_at_each_address_of_the_server() {
    if !can_make_namespaces() {
        return;
    }
    let net = Net::new(&["10.77.0.5/24", "10.77.0.6/24"]);
    let _relay = net.relay(&["0.0.0.0"], "addresses = [\"10.77.0.5\"]", "");
    let socket = net.outside.udp_on("10.77.0.1");
    let twin = |server: &str| {
        let socket = socket.try_clone().expect("a descriptor");
        Client::udp_from(socket, at(server, 3478))
    };
    let (mut first, mut second) = (twin("10.77.0.5"), twin("10.77.0.6"));
    let (a, b) = (first.allocate(), second.allocate());
    assert_ne!(a, b, "the server's address is part of the five-tuple");
}

#[test]
fn ipv4_and_ipv6_mix_on_either_side() {
    if !can_make_namespaces() {
        return;
    }
    let net = Net::new(&["10.77.0.5/24", "fd77::5/64"]);
    let relay = "addresses = [\"10.77.0.5\", \"fd77::5\"]";
    let peers = "allow = [\"10.77.0.1\", \"fd77::1\"]";
    let _relay = net.relay(&["0.0.0.0", "::"], relay, peers);
    for server in ["10.77.0.5", "fd77::5"] {
        for (peer, family) in [
            (net.peer("10.77.0.1"), turnway_wire::Family::V4),
            (net.peer("fd77::1"), turnway_wire::Family::V6),
        ] {
            let mut client = net.udp_client(server);
            let relayed = client.allocate_family(family);
            client.bind(0x4000, peer.address()).expect_success();
            client.send_channel(0x4000, b"ping");
            assert_eq!(peer.receive(), (b"ping".to_vec(), relayed));
            peer.send(b"pong", relayed);
            assert_eq!(client.receive_data(), b"pong");
        }
    }
}

#[test]
fn without_relay_addresses_those_of_the_default_routes_are_used_and_said() {
    if !can_make_namespaces() {
        return;
    }
    let net = Net::new(&["10.77.0.5/24", "10.77.0.6/24", "fd77::5/64"]);
    net.server.ip("route add default via 10.77.0.1 src 10.77.0.6");
    net.server.ip("-6 route add default via fd77::1");
    let mut relay = net.relay(&["0.0.0.0", "::"], "", "");
    for (server, address, family) in [
        ("10.77.0.5", "10.77.0.6", turnway_wire::Family::V4),
        ("fd77::5", "fd77::5", turnway_wire::Family::V6),
    ] {
        let said = format!("relaying from the address of the default route address={address}");
        relay.await_line("the address", |line| line.contains(&said));
        let external = format!("{{ local = \"{address}\", external = ");
        let warned = |line: &str| line.contains("WARN") && line.contains(&external);
        relay.await_line("what to write", warned);
        let relayed = net.udp_client(server).allocate_family(family);
        assert_eq!(relayed.ip().to_string(), address);
    }
}

#[test]
fn a_public_address_of_the_default_route_is_no_reason_to_warn() {
    if !can_make_namespaces() {
        return;
    }
    let net = Net::new(&["10.77.0.5/24", "192.88.98.5/24"]);
    net.server.ip("route add default via 10.77.0.1 src 192.88.98.5");
    let mut relay = net.relay(&["0.0.0.0"], "", "");
    relay.await_line("the address", |line| line.contains("address=192.88.98.5"));
    let log = relay.log();
    assert!(log.iter().all(|line| !line.contains("external")), "{log:#?}");
}

#[test]
fn without_an_address_to_relay_from_it_does_not_start() {
    if !can_make_namespaces() {
        return;
    }
    let server = Namespace::new("bare");
    let (code, error) = Relay::refused(&Setup {
        namespace: Some(server.name.clone()),
        listen: vec![at("127.0.0.1", 3478)],
        metrics: Some(at("127.0.0.1", 9641)),
        relay: Some(String::new()),
        ..Setup::default()
    });
    assert_eq!(code, Some(2));
    assert!(error.contains("[relay] addresses"), "{error}");
    assert!(error.contains("write for example addresses = [\"203.0.113.7\"]"), "{error}");
    let bind = || UdpSocket::bind("127.0.0.1:3478").map(drop);
    server.enter(bind).expect("nothing is left behind");
}
