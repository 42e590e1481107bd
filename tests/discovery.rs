//! NAT behaviour discovery (RFC 5780) as coturn's clients see it: without a NAT, behind two kinds
//! of NAT that the kernel makes, and in fragments.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use common::netns::Namespace;
use common::{PATIENCE, Relay, Setup, can_make_namespaces, in_namespace, own_address, program};
use turnway_wire::{
    AttributeType, Builder, ChangeRequest, Class, Message, Method, OtherAddress, Padding,
    ResponseOrigin, TransactionId, XorMappedAddress,
};

/// What a program of coturn's writes; `None`, said aloud, where it is not there.
fn coturn(namespace: Option<&str>, name: &str, arguments: &[&str]) -> Option<String> {
    let path = program(name, "coturn")?;
    let output = in_namespace(namespace, path).args(arguments).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {text}");
    Some(text)
}

/// A relay with discovery at two loopback addresses.
fn relay(shards: usize) -> (Relay, [IpAddr; 2]) {
    let addresses = [own_address(), own_address()].map(IpAddr::from);
    let relay = Relay::start(Setup {
        shards,
        listen: vec![SocketAddr::new(addresses[0], 3478)],
        extra: table(&addresses.map(|address| address.to_string())),
        ..Setup::default()
    });
    (relay, addresses)
}

fn table([one, two]: &[String; 2]) -> String {
    format!("[nat_discovery]\naddresses = [\"{one}\", \"{two}\"]")
}

#[test]
fn coturn_finds_no_nat_where_there_is_none() {
    for shards in [1, 4] {
        let (_relay, [server, other]) = relay(shards);
        let (server, own) = (server.to_string(), own_address().to_string());
        for options in [&["-m"][..], &["-m", "-P"], &["-f"], &["-f", "-P"]] {
            let arguments = [options, &["-L", &own, &server]].concat();
            let Some(text) = coturn(None, "turnutils_natdiscovery", &arguments) else { return };
            assert!(text.contains("No NAT! (Endpoint Independent Mapping)"), "{text}");
            assert!(text.contains(&format!("Other addr: : {other}:3479")), "{text}");
            let found = match options[0] {
                "-m" => "NAT with Endpoint Independent Mapping!",
                _ => "NAT with Endpoint Independent Filtering!",
            };
            assert!(text.contains(found), "{options:?}: {text}");
        }
    }
}

#[test]
fn coturn_hears_answers_at_another_port() {
    let (_relay, [server, _]) = relay(4);
    let [server, own, second] =
        [server.to_string(), own_address().to_string(), own_address().to_string()];
    for options in [&["-t", "-T", "1"][..], &["-c", "-A", &second]] {
        let arguments = [options, &["-L", &own, &server]].concat();
        let Some(text) = coturn(None, "turnutils_natdiscovery", &arguments) else { return };
        assert!(text.contains("RFC 5780 response 2"), "{options:?}: {text}");
    }
}

#[test]
fn coturns_stun_client_is_answered_from_everywhere() {
    let (_relay, [server, other]) = relay(4);
    let Some(text) = coturn(None, "turnutils_stunclient", &["-f", &server.to_string()]) else {
        return;
    };
    assert!(text.contains("RFC 5780 response 3"), "{text}");
    assert!(text.contains(&format!("Response origin: : {other}:3479")), "{text}");
}

/// A client behind a NAT of the kernel's, and a relay with two addresses before it.
struct Net {
    inside: Namespace,
    _nat: Namespace,
    _server: Namespace,
    _relay: Relay,
}

const SERVERS: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

impl Net {
    /// `rule` is how nftables changes sources.
    fn new(rule: &str) -> Option<Self> {
        if !can_make_namespaces() || program("nft", "nftables").is_none() {
            return None;
        }
        let [inside, nat, server] = ["inside", "nat", "server"].map(Namespace::new);
        inside.connect(&nat, "eth0", &["192.168.1.2/24"], &["192.168.1.1/24"]);
        nat.connect(
            &server,
            "eth1",
            &["198.51.100.9/24"],
            &SERVERS.map(|ip| format!("{ip}/24")).each_ref().map(String::as_str),
        );
        inside.ip("route add default via 192.168.1.1");
        let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
        nat.enter(forward).expect("root may forward");
        for command in [
            "add table ip nat",
            "add chain ip nat out { type nat hook postrouting priority 100 ; }",
            &format!("add rule ip nat out oifname eth1 {rule}"),
        ] {
            let status = in_namespace(Some(&nat.name), "nft").args(command.split(' ')).status();
            assert!(status.expect("it runs").success(), "nft {command}");
        }
        let relay = Relay::start(Setup {
            namespace: Some(server.name.clone()),
            shards: 4,
            // At one port of a wildcard's, at the other of listeners of their own.
            listen: vec!["0.0.0.0:3478".parse().expect("an address")],
            metrics: Some("127.0.0.1:9641".parse().expect("an address")),
            relay: Some(format!("addresses = [\"{}\"]", SERVERS[0])),
            extra: table(&SERVERS.map(str::to_owned)),
            ..Setup::default()
        });
        Some(Self { inside, _nat: nat, _server: server, _relay: relay })
    }

    fn discover(&self, option: &str) -> Option<String> {
        let arguments = [option, "-L", "192.168.1.2", SERVERS[0]];
        coturn(Some(&self.inside.name), "turnutils_natdiscovery", &arguments)
    }
}

#[test]
fn a_nat_that_keeps_ports_is_told_by_its_filter() {
    let Some(net) = Net::new("masquerade") else { return };
    let Some(mapping) = net.discover("-m") else { return };
    assert!(mapping.contains("UDP reflexive addr: 198.51.100.9:"), "{mapping}");
    assert!(mapping.contains("NAT with Endpoint Independent Mapping!"), "{mapping}");
    let filtering = net.discover("-f").expect("it was there");
    assert!(filtering.contains("NAT with Address and Port Dependent Filtering!"), "{filtering}");
}

#[test]
fn a_nat_with_a_port_for_each_destination_is_told_by_its_mapping() {
    let Some(net) = Net::new("masquerade fully-random") else { return };
    let Some(mapping) = net.discover("-m") else { return };
    assert!(mapping.contains("NAT with Address and Port Dependent Mapping!"), "{mapping}");
}

#[test]
fn a_padded_answer_comes_in_fragments_and_is_not_longer_than_its_request() {
    let Some(net) = Net::new("masquerade") else { return };
    let socket = net.inside.udp_on("192.168.1.2");
    let server: SocketAddr = format!("{}:3478", SERVERS[0]).parse().expect("an address");
    let request = padded(1500);
    let answer = ask(&socket, server, &request);
    assert!(answer.len() > 1500 - 28 && answer.len() <= request.len(), "{}", answer.len());
    let answer = Message::parse(&answer).expect("a valid message");
    let names: Vec<AttributeType> = answer.attributes().map(|(ty, _)| ty).collect();
    assert!(names.contains(&AttributeType::PADDING), "{names:?}");
    let mapped = answer.get::<XorMappedAddress>().expect("well-formed").expect("it is there");
    assert_eq!(mapped.0.ip().to_string(), "198.51.100.9");
}

#[test]
fn answers_come_from_the_other_address_and_port() {
    let (_relay, addresses) = relay(4);
    let socket = UdpSocket::bind((own_address(), 0)).expect("a free port");
    for (da, ca) in [(0, 1), (1, 0)] {
        for (dp, cp) in [(3478, 3479), (3479, 3478)] {
            for (change_ip, change_port) in [(false, true), (true, false), (true, true)] {
                let request = binding(|b| {
                    b.add(&ChangeRequest { change_ip, change_port }).expect("fits");
                });
                let asked = SocketAddr::new(addresses[da], dp);
                socket.send_to(&request, asked).expect("sends");
                let (answer, from) = receive(&socket);
                let ip = addresses[if change_ip { ca } else { da }];
                assert_eq!(from, SocketAddr::new(ip, if change_port { cp } else { dp }));
                let answer = Message::parse(&answer).expect("a valid message");
                assert_eq!(answer.get::<ResponseOrigin>(), Ok(Some(ResponseOrigin(from))));
                let other = SocketAddr::new(addresses[ca], cp);
                assert_eq!(answer.get::<OtherAddress>(), Ok(Some(OtherAddress(other))));
            }
        }
    }
}

#[test]
fn an_address_that_this_machine_does_not_have_stops_the_start() {
    let own = own_address();
    let (code, error) = Relay::refused(&Setup {
        listen: vec![SocketAddr::new(own.into(), 3478)],
        extra: table(&[own.to_string(), "203.0.113.8".to_owned()]),
        ..Setup::default()
    });
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("nat_discovery.addresses: cannot listen on udp 203.0.113.8"), "{error}");
}

fn binding(add: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    let mut out = vec![0; 2000];
    let id = TransactionId(*b"transaction!");
    let mut builder = Builder::new(&mut out, Class::Request, Method::BINDING, id).expect("fits");
    add(&mut builder);
    let len = builder.finish();
    out.truncate(len);
    out
}

fn padded(len: usize) -> Vec<u8> {
    binding(|builder| builder.add(&Padding(&vec![0; len])).expect("fits"))
}

fn ask(socket: &UdpSocket, server: SocketAddr, request: &[u8]) -> Vec<u8> {
    socket.send_to(request, server).expect("sends");
    let (answer, from) = receive(socket);
    assert_eq!(from, server);
    answer
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let patience: Duration = PATIENCE;
    socket.set_read_timeout(Some(patience)).expect("a socket");
    let mut answer = vec![0; 4096];
    let (len, from) = socket.recv_from(&mut answer).expect("an answer");
    answer.truncate(len);
    (answer, from)
}
