//! Three machines with cables between them, the daemon on the middle one, and the ends of what it
//! relays.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use turnway_udp::{Outgoing, Payload, Prefix, ReceiveBatch, SendBatch, options, relay_udp};
use turnway_wire::Family;

use crate::common::client::Client;
use crate::common::netns::Namespace;
use crate::common::{PATIENCE, Relay, Setup, await_some, can_make_namespaces, program};

/// How the program can be attached.
pub(crate) const MODES: [&str; 2] = ["native", "generic"];

/// Every pair of families: the client's side, the peer's side.
pub(crate) const PAIRS: [(Family, Family); 4] = [
    (Family::V4, Family::V4),
    (Family::V4, Family::V6),
    (Family::V6, Family::V4),
    (Family::V6, Family::V6),
];

/// The relay's port for clients.
const PORT: u16 = 3478;

/// Room for whatever a test sends at once.
const BUFFER: usize = 4 << 20;

/// A machine of clients, the relay's, and one of peers.
pub(crate) struct Net {
    pub(crate) clients: Namespace,
    pub(crate) server: Namespace,
    pub(crate) peers: Namespace,
}

impl Net {
    /// `None`, said aloud, where that is not permitted.
    pub(crate) fn new() -> Option<Self> {
        if !can_make_namespaces() || program("ethtool", "ethtool").is_none() {
            return None;
        }
        let [clients, server, peers] = ["c", "s", "p"].map(Namespace::new);
        let net = Self { clients, server, peers };
        net.lay_cable_to_clients();
        net.lay_cable_to_peers();
        net.await_links();
        Some(net)
    }

    /// Waits until IPv6 is at work everywhere, which the kernel sees to only once in a second:
    /// before that nobody's neighbours answer.
    fn await_links(&self) {
        let links = [
            (&self.clients, "clients"),
            (&self.server, "clients"),
            (&self.server, "peers"),
            (&self.peers, "peers"),
        ];
        for (machine, interface) in links {
            let arguments = ["-6", "route", "show", "table", "local", "dev", interface];
            await_some("a link", || {
                let routes = run_inside(machine, "ip", &arguments);
                String::from_utf8_lossy(&routes.stdout).contains("ff00::/8").then_some(())
            });
        }
    }

    pub(crate) fn lay_cable_to_clients(&self) {
        let outer = ["10.9.1.2/24", "10.9.1.3/24", "fd09:1::2/64"];
        self.lay_cable(&self.clients, "clients", ["10.9.1.1/24", "fd09:1::1/64"], &outer);
    }

    pub(crate) fn lay_cable_to_peers(&self) {
        let outer = ["10.9.2.2/24", "10.9.2.3/24", "fd09:2::2/64", "fd09:2::3/64"];
        self.lay_cable(&self.peers, "peers", ["10.9.2.1/24", "fd09:2::1/64"], &outer);
    }

    /// The relay's end comes last: a daemon that watches finds all as it is to be.
    fn lay_cable(&self, other: &Namespace, name: &str, inner: [&str; 2], outer: &[&str]) {
        let server = &self.server;
        other.ip(&format!("link add {name} type veth peer name new netns {}", server.name));
        // A wire's end fills in its checksums, and takes frames of XDP.
        ethtool(other, &["-K", name, "tx", "off", "gro", "on"]);
        add_addresses(other, name, outer);
        for address in inner {
            let (gateway, _) = address.split_once('/').expect("a prefix");
            other.ip(&format!("route add default via {gateway}"));
        }
        server.ip(&format!("link set new name {name}"));
        add_addresses(server, name, &inner);
    }

    /// UDP datagrams that arrived anywhere with a wrong checksum.
    pub(crate) fn checksum_errors(&self) -> u64 {
        let all = [&self.clients, &self.server, &self.peers];
        all.map(|namespace| namespace.enter(checksum_errors)).iter().sum()
    }
}

fn add_addresses(namespace: &Namespace, interface: &str, addresses: &[&str]) {
    // An address that comes a second later is a change of the network, to which the relay reacts.
    namespace.ip(&format!("link set {interface} addrgenmode none"));
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        namespace.ip(&format!("address add {address} dev {interface}{nodad}"));
    }
    namespace.ip(&format!("link set {interface} up"));
}

/// Of the namespace that the calling thread is in.
fn checksum_errors() -> u64 {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/thread-self/net/{name}")).expect("counters of the kernel")
    };
    let (four, six) = (read("snmp"), read("snmp6"));
    let mut udp = four.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (udp.next().expect("names"), udp.next().expect("values"));
    let column = names.split(' ').position(|name| name == "InCsumErrors").expect("counted");
    let four = values.split(' ').nth(column).expect("a value");
    let six = six.lines().find(|line| line.starts_with("Udp6InCsumErrors")).expect("counted");
    let six = six.split_whitespace().nth(1).expect("a value");
    [four, six].map(|count| count.parse::<u64>().expect("a number")).iter().sum()
}

/// Runs `ethtool` inside.
pub(crate) fn ethtool(namespace: &Namespace, arguments: &[&str]) {
    let output = run_inside(namespace, "ethtool", arguments);
    assert!(output.status.success(), "ethtool {arguments:?}: {output:?}");
}

/// Runs a program inside, to its end.
pub(crate) fn run_inside(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
) -> std::process::Output {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace.name, program]).args(arguments);
    command.output().expect("it runs")
}

/// An address of the named machine: those of clients are .2 and .3 of 10.9.1, of peers of 10.9.2.
pub(crate) fn address(family: Family, net: u8, host: u8) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.9.{net}.{host}"),
        Family::V6 => format!("fd09:{net}::{host}"),
    };
    text.parse().expect("an address")
}

/// A daemon between the machines.
pub(crate) struct World {
    pub(crate) relay: Relay,
    pub(crate) net: Net,
    pub(crate) mode: String,
    /// Directions that are to be in the kernel.
    paths: Cell<u64>,
    /// What has been relayed, and is counted or will be.
    relayed: Cell<Relayed>,
}

impl World {
    /// What [`start`](Self::start) takes: it listens and relays with both families.
    pub(crate) fn setup() -> Setup {
        Setup {
            listen: [Family::V4, Family::V6]
                .map(|family| SocketAddr::new(address(family, 1, 1), PORT))
                .to_vec(),
            relay: Some("addresses = [\"10.9.2.1\", \"fd09:2::1\"]".to_owned()),
            peers: "allow = [\"10.9.0.0/16\", \"fd09::/16\"]".to_owned(),
            metrics: Some("127.0.0.1:9641".parse().expect("an address")),
            // The addresses are private, which it warns of.
            quiet: true,
            ..Setup::default()
        }
    }

    /// Starts a daemon in a mode.
    pub(crate) fn start(net: Net, mode: &str, setup: Setup) -> Self {
        let offload = match mode {
            "native" => "native",
            "generic" => "generic",
            "auto" => "auto",
            _ => "off",
        };
        let namespace = Some(net.server.name.clone());
        let relay = Relay::start(Setup { namespace, offload, ..setup });
        Self { relay, net, mode: mode.to_owned(), paths: Cell::new(0), relayed: Cell::default() }
    }

    /// Whether anything is to be relayed in the kernel.
    fn in_kernel(&self) -> bool {
        self.mode != "off"
    }

    /// Where clients of a family send to.
    pub(crate) fn server(&self, family: Family) -> SocketAddr {
        SocketAddr::new(address(family, 1, 1), PORT)
    }

    /// A socket on a client's machine.
    pub(crate) fn near(&self, family: Family) -> End {
        End::on(&self.net.clients, SocketAddr::new(address(family, 1, 2), 0))
    }

    /// A socket on the peers' machine.
    pub(crate) fn far(&self, family: Family) -> End {
        End::on(&self.net.peers, SocketAddr::new(address(family, 2, 2), 0))
    }

    /// A client that has a channel to a peer, which the kernel relays.
    pub(crate) fn talk(&self, (near, far): (Family, Family), number: u16) -> Talk {
        let talk = self.talk_anywhere(self.near(near), self.far(far), number);
        self.await_kernel(&talk);
        talk
    }

    /// A client that has a channel to a peer, which the kernel may not know yet.
    pub(crate) fn talk_anywhere(&self, near: End, far: End, number: u16) -> Talk {
        let server = self.server(family_of(near.address()));
        let client = Client::udp_from(near.twin(), server);
        self.talk_of(client, near, far, number)
    }

    /// The same of a client with other credentials.
    pub(crate) fn talk_of(&self, mut client: Client, near: End, far: End, number: u16) -> Talk {
        let relayed = client.allocate_family(family_of(far.address()));
        client.bind(number, far.address()).expect_success();
        self.paths.set(self.paths.get() + 2);
        Talk { client, near, far, relayed, number, pinged: Cell::default() }
    }

    /// Waits until both directions of a new talk are in the kernel, and it knows the way.
    pub(crate) fn await_kernel(&self, talk: &Talk) {
        if !self.in_kernel() {
            return;
        }
        self.expect_paths(0);
        // The first ones may find that a next hop is not known yet, and at the start the daemon
        // hears of changes of the network that it has seen already.
        let mut in_a_row = 0;
        await_some("datagrams in the kernel", || {
            in_a_row = if self.ping(talk) { in_a_row + 1 } else { 0 };
            (in_a_row == 3).then_some(())
        });
    }

    /// One datagram in each direction: whether it was the kernel that relayed them.
    pub(crate) fn ping(&self, talk: &Talk) -> bool {
        let before = self.kernel();
        talk.to_peer(b"to the peer");
        let _ = talk.far.receive();
        talk.to_client(b"to the client");
        let _ = talk.near.receive();
        let mut sent = Relayed::default();
        sent.count_to_peer(11);
        sent.count_to_client(13);
        talk.pinged.set(talk.pinged.get().plus(sent));
        self.settle(sent).kernel.minus(before) == sent
    }

    /// Waits until the kernel has so many more directions of channels than before.
    pub(crate) fn expect_paths(&self, more: u64) {
        self.paths.set(self.paths.get() + more);
        let paths = self.paths.get() as f64;
        self.relay.await_samples("the channels in the kernel", |samples| {
            samples["turnway_offload_paths"] == paths
        });
    }

    /// Waits until all that was relayed is counted: so much more than when it last was. All
    /// counters then.
    #[track_caller]
    pub(crate) fn settle(&self, more: Relayed) -> Counts {
        self.relayed.set(self.relayed.get().plus(more));
        let expected = self.relayed.get();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counts = self.counts();
            if counts.all == expected {
                return counts;
            }
            assert!(
                Instant::now() < deadline,
                "{}: {counts:?} instead of {expected:?}; {:#?}",
                self.mode,
                self.news()
            );
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// What was relayed so far in the kernel.
    pub(crate) fn kernel(&self) -> Relayed {
        relayed(&self.relay.samples(), "turnway_offload")
    }

    /// What was relayed so far by both paths together.
    pub(crate) fn all(&self) -> Relayed {
        relayed(&self.relay.samples(), "turnway_relayed")
    }

    /// How often the program decided so.
    pub(crate) fn outcome(&self, outcome: &str) -> f64 {
        let name = format!("turnway_offload_outcomes_total{{outcome=\"{outcome}\"}}");
        self.relay.samples()[&name]
    }

    /// Waits until exactly this was relayed since: by the kernel, and by user space.
    #[track_caller]
    pub(crate) fn expect_relayed(&self, since: &Counts, kernel: Relayed, user: Relayed) {
        let counts = self.settle(kernel.plus(user));
        let expected = if self.in_kernel() { kernel } else { Relayed::default() };
        let found = counts.kernel.minus(since.kernel);
        let unrouted = counts.unrouted - since.unrouted;
        // While the kernel's own tables change, for milliseconds, user space relays instead.
        let both = |relayed: Relayed| relayed.to_peer + relayed.to_client;
        let range = both(expected).saturating_sub(unrouted)..=both(expected);
        let right = found == expected || unrouted > 0 && range.contains(&both(found));
        assert!(right, "{}: {found:?} of {expected:?}: {:#?}", self.mode, self.news());
    }

    /// What else is worth knowing where a test fails.
    fn news(&self) -> Vec<(String, f64)> {
        let about = ["turnway_offload", "turnway_dropped", "turnway_send", "turnway_kernel_drops"];
        let of_interest = |name: &str| about.iter().any(|prefix| name.starts_with(prefix));
        let samples = self.relay.samples().into_iter();
        samples.filter(|(name, value)| *value != 0.0 && of_interest(name)).collect()
    }

    /// All counters of datagrams.
    pub(crate) fn counts(&self) -> Counts {
        let samples = self.relay.samples();
        let [kernel, all] =
            ["turnway_offload", "turnway_relayed"].map(|prefix| relayed(&samples, prefix));
        let unrouted = samples.get("turnway_offload_outcomes_total{outcome=\"hop\"}");
        Counts { kernel, all, unrouted: unrouted.map_or(0, |&passed| passed as u64) }
    }
}

/// Counters of both paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) kernel: Relayed,
    pub(crate) all: Relayed,
    /// Passed up by the kernel because it knew no next hop at that moment.
    pub(crate) unrouted: u64,
}

/// Datagrams and payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relayed {
    pub(crate) to_peer: u64,
    pub(crate) to_peer_bytes: u64,
    pub(crate) to_client: u64,
    pub(crate) to_client_bytes: u64,
}

impl Relayed {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            to_peer: self.to_peer + other.to_peer,
            to_peer_bytes: self.to_peer_bytes + other.to_peer_bytes,
            to_client: self.to_client + other.to_client,
            to_client_bytes: self.to_client_bytes + other.to_client_bytes,
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            to_peer: self.to_peer - other.to_peer,
            to_peer_bytes: self.to_peer_bytes - other.to_peer_bytes,
            to_client: self.to_client - other.to_client,
            to_client_bytes: self.to_client_bytes - other.to_client_bytes,
        }
    }

    /// One more to the peer.
    pub(crate) fn count_to_peer(&mut self, bytes: usize) {
        self.to_peer += 1;
        self.to_peer_bytes += bytes as u64;
    }

    /// One more to the client.
    pub(crate) fn count_to_client(&mut self, bytes: usize) {
        self.to_client += 1;
        self.to_client_bytes += bytes as u64;
    }
}

fn relayed(samples: &HashMap<String, f64>, prefix: &str) -> Relayed {
    let sum = |what: &str, direction: &str| {
        let begin = format!("{prefix}_{what}_total{{direction=\"{direction}\"");
        let values = samples.iter().filter(|(name, _)| name.starts_with(&begin));
        values.map(|(_, value)| value).sum::<f64>() as u64
    };
    Relayed {
        to_peer: sum("datagrams", "to_peer"),
        to_peer_bytes: sum("bytes", "to_peer"),
        to_client: sum("datagrams", "to_client"),
        to_client_bytes: sum("bytes", "to_client"),
    }
}

/// The family of an address.
pub(crate) fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// A client with a channel to a peer.
pub(crate) struct Talk {
    pub(crate) client: Client,
    /// The client's socket.
    pub(crate) near: End,
    /// The peer's.
    pub(crate) far: End,
    pub(crate) relayed: SocketAddr,
    pub(crate) number: u16,
    /// What was relayed to find out which way it goes.
    pub(crate) pinged: Cell<Relayed>,
}

impl Talk {
    /// ChannelData from the client.
    pub(crate) fn to_peer(&self, data: &[u8]) {
        self.near.send(&framed(self.number, data, 0), self.client.server());
    }

    /// A datagram from the peer.
    pub(crate) fn to_client(&self, data: &[u8]) {
        self.far.send(data, self.relayed);
    }

    /// One datagram in each direction.
    #[track_caller]
    pub(crate) fn round_trip(&self) {
        self.to_peer(b"there");
        assert_eq!(self.far.receive(), self.at_peer(b"there", Fields::USUAL));
        self.to_client(b"and back");
        assert_eq!(self.near.receive(), self.at_client(b"and back", Fields::USUAL));
    }

    /// Receives all that is under way.
    pub(crate) fn catch_up(&self) {
        self.to_peer(b"the last");
        while self.far.receive().data != b"the last" {}
        self.to_client(b"the last");
        while !self.near.receive().data.ends_with(b"the last") {}
    }

    /// What the peer must get of a datagram with these headers.
    pub(crate) fn at_peer(&self, data: &[u8], sent: Fields) -> Datagram {
        Datagram { data: data.to_vec(), from: self.relayed, fields: sent.one_hop_on() }
    }

    /// What the client must get.
    pub(crate) fn at_client(&self, data: &[u8], sent: Fields) -> Datagram {
        let data = framed(self.number, data, 0);
        Datagram { data, from: self.client.server(), fields: sent.one_hop_on() }
    }
}

/// A ChannelData message with so many bytes of padding.
pub(crate) fn framed(number: u16, data: &[u8], padding: usize) -> Vec<u8> {
    let mut message = turnway_wire::channel_header(number, data.len() as u16).to_vec();
    message.extend_from_slice(data);
    message.resize(message.len() + padding, 0);
    message
}

/// What a datagram's header had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fields {
    pub(crate) ttl: u8,
    /// DSCP and ECN.
    pub(crate) tos: u8,
}

impl Fields {
    /// What a socket sends that was told nothing.
    pub(crate) const USUAL: Self = Self { ttl: 64, tos: 0 };

    /// One hop less.
    pub(crate) fn one_hop_on(self) -> Self {
        Self { ttl: self.ttl - 1, ..self }
    }
}

/// A datagram as its receiver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) data: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) fields: Fields,
}

/// A socket that sees the headers of what it receives, and chooses those of what it sends.
pub(crate) struct End {
    socket: turnway_udp::Socket,
    twin: UdpSocket,
    batch: RefCell<ReceiveBatch>,
}

impl End {
    /// On an address of a machine.
    pub(crate) fn on(namespace: &Namespace, address: SocketAddr) -> Self {
        let socket = namespace.enter(|| relay_udp(address, BUFFER)).expect("a free port");
        let twin = UdpSocket::from(socket.as_fd().try_clone_to_owned().expect("a descriptor"));
        twin.set_nonblocking(false).expect("a socket");
        twin.set_read_timeout(Some(PATIENCE)).expect("a socket");
        options::never_merge(&twin).expect("a socket");
        Self { socket, twin, batch: RefCell::new(ReceiveBatch::new(1)) }
    }

    /// The same socket, to be used otherwise.
    pub(crate) fn twin(&self) -> UdpSocket {
        self.twin.try_clone().expect("a descriptor")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.twin.local_addr().expect("a socket")
    }

    /// Headers of what is sent from now on.
    pub(crate) fn choose(&self, fields: Fields) {
        let socket = SockRef::from(&self.twin);
        let (ttl, tos) = (u32::from(fields.ttl), u32::from(fields.tos));
        if self.address().is_ipv4() {
            socket.set_ttl_v4(ttl).expect("a socket");
            socket.set_tos_v4(tos).expect("a socket");
        } else {
            socket.set_unicast_hops_v6(ttl).expect("a socket");
            socket.set_tclass_v6(tos).expect("a socket");
        }
    }

    pub(crate) fn send(&self, data: &[u8], to: SocketAddr) {
        self.twin.send_to(data, to).expect("sent");
    }

    /// Sends datagrams of one length with one system call: the kernel cuts them (UDP_SEGMENT).
    pub(crate) fn send_burst(&self, datas: &[Vec<u8>], to: SocketAddr) {
        let mut batch = ReceiveBatch::new(1);
        let all = datas.concat();
        let (slot, space) = batch.compose(all.len()).expect("a free slot");
        space.copy_from_slice(&all);
        let mut sends = SendBatch::new();
        let mut offset = 0;
        for data in datas {
            sends.push(Outgoing {
                socket: self.twin.as_raw_fd(),
                to,
                source: None,
                ttl: None,
                tos: None,
                dont_fragment: false,
                prefix: Prefix::EMPTY,
                payload: Payload { slot, offset, len: data.len() },
                pad: 0,
                tag: 0,
            });
            offset += data.len();
        }
        sends.flush(&batch, &mut |_, result| result.expect("sent"));
    }

    /// Sends, or has an ICMP error in its place.
    pub(crate) fn try_send(&self, data: &[u8], to: SocketAddr) {
        let _ = self.twin.send_to(data, to);
    }

    /// Waits for a datagram.
    #[track_caller]
    pub(crate) fn receive(&self) -> Datagram {
        self.twin.peek_from(&mut [0; 1]).expect("nothing came");
        self.take().expect("it is there")
    }

    /// A datagram that is there already.
    pub(crate) fn take(&self) -> Option<Datagram> {
        let mut batch = self.batch.borrow_mut();
        batch.clear();
        let slot = batch.receive(self.socket.as_fd(), 1).ok()?.next()?;
        let received = batch.get(slot);
        let fields =
            Fields { ttl: received.ttl.expect("asked for"), tos: received.tos.unwrap_or(0) };
        Some(Datagram { data: received.data.to_vec(), from: received.from, fields })
    }
}
