//! The same random datagrams with and without the kernel's data path: the same arrives, and the
//! same is counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use turnway_wire::{Data, Message};

use crate::common::client::{Random, seed};
use crate::common::netns::Namespace;
use crate::common::{PATIENCE, Relay};
use crate::net::{
    End, Fields, Net, PAIRS, Relayed, Talk, World, address, ethtool, family_of, framed,
};

/// Datagrams of a run.
const STEPS: usize = 400;

/// The longest payload that is one packet everywhere, also in a Data indication over IPv6.
const LONGEST: usize = 1_400;

/// A datagram that is sent, and what is unusual about it.
#[derive(Clone, Copy, Debug)]
struct Step {
    talk: usize,
    kind: Kind,
    length: usize,
    fields: Fields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ToPeer,
    ToClient,
    /// ChannelData with padding, which UDP does not need.
    Padded,
    /// ChannelData with more behind it than padding.
    Trailing,
    SendIndication,
    /// From another port of the peer, which has a permission and no channel.
    FromOtherPort,
    /// From here on nothing arrives: from an address without a permission...
    FromStranger,
    /// ...by a channel that is not bound...
    UnknownChannel,
    /// ...of a length that is not the datagram's...
    TooShort,
    /// ...on its last hop...
    LastHopToPeer,
    LastHopToClient,
    /// ...or none of TURN's.
    Nonsense,
}

const UNUSUAL: [Kind; 10] = [
    Kind::Padded,
    Kind::Trailing,
    Kind::SendIndication,
    Kind::FromOtherPort,
    Kind::FromStranger,
    Kind::UnknownChannel,
    Kind::TooShort,
    Kind::LastHopToPeer,
    Kind::LastHopToClient,
    Kind::Nonsense,
];

/// Which end gets it; `None`: nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver {
    Peer,
    Client,
}

impl Kind {
    fn receiver(self) -> Option<Receiver> {
        match self {
            Self::ToPeer | Self::Padded | Self::Trailing | Self::SendIndication => {
                Some(Receiver::Peer)
            }
            Self::ToClient | Self::FromOtherPort => Some(Receiver::Client),
            Self::FromStranger
            | Self::UnknownChannel
            | Self::TooShort
            | Self::LastHopToPeer
            | Self::LastHopToClient
            | Self::Nonsense => None,
        }
    }
}

fn steps(seed: u64) -> Vec<Step> {
    let mut random = Random(seed);
    let step = |_| {
        let kind = match random.below(10) {
            0..4 => Kind::ToPeer,
            4..7 => Kind::ToClient,
            _ => UNUSUAL[random.below(UNUSUAL.len())],
        };
        let last = matches!(kind, Kind::LastHopToPeer | Kind::LastHopToClient);
        let ttl = if last { 1 } else { 2 + random.below(254) as u8 };
        let length = match random.below(4) {
            0 => random.below(9),
            1 => LONGEST - random.below(5),
            _ => random.below(LONGEST),
        };
        let fields = Fields { ttl, tos: random.below(256) as u8 };
        Step { talk: random.below(PAIRS.len()), kind, length, fields }
    };
    (0..STEPS).map(step).collect()
}

/// All that can be seen of a run, and must be the same in each mode.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    arrived: Vec<Wire>,
    relayed: Relayed,
    drops: BTreeMap<String, u64>,
    /// What the records of the allocations' ends say.
    records: Vec<Relayed>,
}

#[test]
fn the_kernel_and_user_space_relay_and_count_alike() {
    let seed = seed();
    eprintln!("TURNWAY_SEED={seed}");
    let steps = steps(seed);
    let modes = ["off", "native", "generic"];
    let runs = thread::scope(|scope| {
        let run = |mode| {
            let net = Net::new()?;
            let steps = &steps;
            Some((mode, scope.spawn(move || run(net, mode, steps))))
        };
        let running: Vec<_> = modes.into_iter().map_while(run).collect();
        let ended = running.into_iter().map(|(mode, run)| (mode, run.join().expect("no panic")));
        ended.collect::<Vec<_>>()
    });
    let Some((_, off)) = runs.first() else { return };
    for (mode, run) in &runs[1..] {
        for (index, (with, without)) in run.arrived.iter().zip(&off.arrived).enumerate() {
            assert_eq!(with, without, "{mode}: datagram {index} of those that arrive");
        }
        assert_eq!(run, off, "{mode}");
    }
}

fn run(net: Net, mode: &str, steps: &[Step]) -> Run {
    for interface in ["clients", "peers"] {
        // What is not filled in cannot be compared.
        ethtool(&net.server, &["-K", interface, "tx", "off"]);
    }
    let mut world = World::start(net, mode, World::setup());
    let mut talks: Vec<Talk> = PAIRS.map(|pair| world.talk(pair, 0x4000)).into();
    let taps = [Tap::on(&world.net.peers), Tap::on(&world.net.clients)];
    let before = (world.counts(), drops(&world.relay));
    let mut arrived = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let talk = &mut talks[step.talk];
        send(&world, talk, *step, &Random(index as u64).bytes(step.length));
        let (tap, at) = match step.kind.receiver() {
            Some(Receiver::Peer) => (&taps[0], talk.far.address()),
            Some(Receiver::Client) => (&taps[1], talk.near.address()),
            None => continue,
        };
        let mut wire = tap.next(at);
        let sender = if at == talk.far.address() { talk.relayed } else { talk.client.server() };
        assert_eq!(wire.from, sender, "{step:?}");
        // Ports are chosen at random in each run.
        wire.from.set_port(0);
        for (_, mask) in MAY_DIFFER {
            mask(&mut wire);
        }
        arrived.push(wire);
    }
    let counted = |relayed: Relayed, drops: &BTreeMap<String, u64>| {
        relayed.to_peer + relayed.to_client + drops.values().sum::<u64>()
    };
    let sent = counted(before.0.all, &before.1) + steps.len() as u64;
    world.relay.await_samples("all datagrams to be counted", |_| {
        counted(world.all(), &drops(&world.relay)) == sent
    });
    let after = world.counts();
    let kernel = after.kernel.minus(before.0.kernel);
    if mode != "off" {
        let usual = steps.iter().filter(|step| matches!(step.kind, Kind::ToPeer | Kind::ToClient));
        assert!(kernel.to_peer + kernel.to_client >= usual.count() as u64, "{kernel:?}");
    }
    let mut drops = drops(&world.relay);
    for (reason, count) in &mut drops {
        *count -= before.1.get(reason).copied().unwrap_or(0);
    }
    assert_eq!(world.net.checksum_errors(), 0);
    let records = end(&mut world, talks);
    Run { arrived, relayed: after.all.minus(before.0.all), drops, records }
}

/// Ends the allocations; what their records say of the steps.
fn end(world: &mut World, talks: Vec<Talk>) -> Vec<Relayed> {
    let mut records = Vec::new();
    for mut talk in talks {
        talk.client.refresh(0).expect_success();
        let client = format!("client={} ", talk.near.address());
        let line = world.relay.await_line("the end", |line| {
            line.contains("allocation ended") && line.contains(&client)
        });
        let figure = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}=")).expect("a figure");
            rest.split(' ').next().and_then(|figure| figure.parse().ok()).expect("a number")
        };
        let all = Relayed {
            to_peer: figure("to_peer_datagrams"),
            to_peer_bytes: figure("to_peer_bytes"),
            to_client: figure("to_client_datagrams"),
            to_client_bytes: figure("to_client_bytes"),
        };
        records.push(all.minus(talk.pinged.get()));
    }
    records
}

fn drops(relay: &Relay) -> BTreeMap<String, u64> {
    let samples = relay.samples().into_iter();
    samples
        .filter(|(name, count)| name.starts_with("turnway_dropped_datagrams") && *count > 0.0)
        .map(|(name, count)| (name, count as u64))
        .collect()
}

fn send(world: &World, talk: &mut Talk, step: Step, data: &[u8]) {
    let (server, number) = (talk.client.server(), talk.number);
    let family = family_of(talk.far.address());
    for end in [&talk.near, &talk.far] {
        end.choose(step.fields);
    }
    let from_client = |message: &[u8]| talk.near.send(message, server);
    match step.kind {
        Kind::ToPeer | Kind::LastHopToPeer => talk.to_peer(data),
        Kind::ToClient | Kind::LastHopToClient => talk.to_client(data),
        Kind::Padded => from_client(&framed(number, data, 1 + data.len() % 3)),
        Kind::Trailing => from_client(&framed(number, data, 4 + data.len() % 9)),
        Kind::UnknownChannel => from_client(&framed(number + 1, data, 0)),
        Kind::TooShort => {
            let mut message = framed(number, data, 0);
            message[2] |= 0x08;
            from_client(&message);
        }
        Kind::Nonsense => {
            let mut message = framed(number, data, 0);
            message[0] |= 0x80;
            from_client(&message);
        }
        Kind::SendIndication => talk.client.send(talk.far.address(), data),
        Kind::FromOtherPort => {
            let other = world.far(family);
            other.choose(step.fields);
            other.send(data, talk.relayed);
        }
        Kind::FromStranger => {
            let stranger = SocketAddr::new(address(family, 2, 3), 0);
            let stranger = End::on(&world.net.peers, stranger);
            stranger.choose(step.fields);
            stranger.send(data, talk.relayed);
        }
    }
}

/// A packet as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wire {
    from: SocketAddr,
    tos: u8,
    ttl: u8,
    payload: Vec<u8>,
    id: u16,
    dont_fragment: bool,
    flow_label: u32,
    checksum: Checksum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    Absent,
    Right,
    Wrong,
}

type Mask = fn(&mut Wire);

/// The fields that `docs/offload.md` names, and nothing else.
const MAY_DIFFER: [(&str, Mask); 4] = [
    ("IPv4 identification", |wire| wire.id = 0),
    ("IPv4 DF", |wire| wire.dont_fragment = false),
    ("IPv4 UDP checksum", |wire| {
        if wire.from.is_ipv4() && wire.checksum == Checksum::Absent {
            wire.checksum = Checksum::Right;
        }
    }),
    ("IPv6 flow label", |wire| wire.flow_label = 0),
];

#[test]
fn what_may_differ_is_documented() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/offload.md");
    let text = fs::read_to_string(file).expect("the documentation");
    for (name, _) in MAY_DIFFER {
        assert!(text.contains(&format!("| {name} |")), "{name}");
    }
}

/// Sees the packets of a machine.
struct Tap(Socket);

impl Tap {
    fn on(namespace: &Namespace) -> Self {
        const ETH_P_ALL: u16 = 3;
        let all = Some(Protocol::from(i32::from(ETH_P_ALL.to_be())));
        let open = || Socket::new(Domain::PACKET, Type::RAW, all);
        let socket = namespace.enter(open).expect("root may see packets");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self(socket)
    }

    /// The next UDP packet to an address.
    #[track_caller]
    fn next(&self, to: SocketAddr) -> Wire {
        loop {
            let mut frame = [0; 4096];
            let length = (&self.0).read(&mut frame).expect("nothing came");
            if let Some((at, wire)) = Wire::parse(&frame[..length])
                && at == to
            {
                return wire;
            }
        }
    }
}

impl Wire {
    /// A frame that carries UDP in one piece, and where it goes.
    fn parse(frame: &[u8]) -> Option<(SocketAddr, Self)> {
        const UDP: u8 = 17;
        let (kind, packet) = (word(frame, 12)?, frame.get(14..)?);
        let (from, to, udp, mut wire) = match kind {
            0x0800 if packet[9] == UDP => {
                let at = |at: usize| {
                    let octets = <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?;
                    Some(IpAddr::from(Ipv4Addr::from(octets)))
                };
                let mut wire = Self::of(packet[1], packet[8]);
                (wire.id, wire.dont_fragment) = (word(packet, 4)?, packet[6] & 0x40 != 0);
                let length = usize::from(word(packet, 2)?);
                (at(12)?, at(16)?, packet.get(20..length)?, wire)
            }
            0x86DD if packet[6] == UDP => {
                let at = |at: usize| {
                    let octets = <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?;
                    Some(IpAddr::from(Ipv6Addr::from(octets)))
                };
                let first = u32::from(word(packet, 0)?) << 16 | u32::from(word(packet, 2)?);
                let mut wire = Self::of((first >> 20) as u8, packet[7]);
                wire.flow_label = first & 0xF_FFFF;
                let length = usize::from(word(packet, 4)?);
                (at(8)?, at(24)?, packet.get(40..40 + length)?, wire)
            }
            _ => return None,
        };
        wire.checksum = checksum(from, to, udp);
        wire.payload = without_transaction(udp.get(8..)?);
        wire.from = SocketAddr::new(from, word(udp, 0)?);
        Some((SocketAddr::new(to, word(udp, 2)?), wire))
    }

    fn of(tos: u8, ttl: u8) -> Self {
        Self {
            from: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            tos,
            ttl,
            payload: Vec::new(),
            id: 0,
            dont_fragment: false,
            flow_label: 0,
            checksum: Checksum::Wrong,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Of a Data indication its data: the rest has a random number and a random port in it.
fn without_transaction(payload: &[u8]) -> Vec<u8> {
    match Message::parse(payload).map(|message| message.get::<Data<'_>>()) {
        Ok(Ok(Some(Data(data)))) => [b"Data: ", data].concat(),
        _ => payload.to_vec(),
    }
}

fn checksum(from: IpAddr, to: IpAddr, udp: &[u8]) -> Checksum {
    if word(udp, 6) == Some(0) {
        return Checksum::Absent;
    }
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let pseudo = [octets(from), octets(to), vec![0, 17]].concat();
    let sum_of = |bytes: &[u8]| -> u64 {
        let words = bytes.chunks(2);
        words.map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = sum_of(&pseudo) + sum_of(udp) + udp.len() as u64;
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    if sum == 0xFFFF { Checksum::Right } else { Checksum::Wrong }
}
