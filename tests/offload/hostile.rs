//! What is made to confuse the program, or does without meaning to: it is passed up, and then
//! user space relays or drops it.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use turnway_wire::Family;

use crate::common::netns::Namespace;
use crate::common::{Setup, await_some};
use crate::net::{Datagram, End, Fields, Net, Relayed, World, address, ethtool, framed};
use crate::{in_each_mode, in_each_world};

#[test]
fn bursts_that_the_kernel_carries_as_one_packet_arrive_one_by_one() {
    const BURST: usize = 8;
    const SIZE: usize = 1_000;
    in_each_world(|world| {
        let talk = world.talk((Family::V4, Family::V4), 0x4000);
        let (net, mut all) = (&world.net, world.all());
        // First bursts are cut only at the relay, then its interfaces put datagrams together.
        for (tx, gro) in [("on", "off"), ("on", "on"), ("off", "on")] {
            for (machine, interface) in [(&net.clients, "clients"), (&net.peers, "peers")] {
                ethtool(machine, &["-K", interface, "tx", tx]);
                ethtool(&net.server, &["-K", interface, "gro", gro]);
            }
            for round in 0..20 {
                let datas: Vec<Vec<u8>> =
                    (0..BURST).map(|index| vec![(round * BURST + index) as u8; SIZE]).collect();
                let messages: Vec<Vec<u8>> =
                    datas.iter().map(|data| framed(0x4000, data, 0)).collect();
                talk.near.send_burst(&messages, talk.client.server());
                talk.far.send_burst(&datas, talk.relayed);
                for data in &datas {
                    assert_eq!(talk.far.receive(), talk.at_peer(data, Fields::USUAL));
                    assert_eq!(talk.near.receive(), talk.at_client(data, Fields::USUAL));
                    all.count_to_peer(SIZE);
                    all.count_to_client(SIZE);
                }
            }
        }
        await_some("all to be counted", || (world.all() == all).then_some(()));
        let passed = world.outcome("checksum") + world.outcome("length");
        assert!(passed > 0.0, "{}: nothing was unusual", world.mode);
        assert_eq!(net.checksum_errors(), 0);
    });
}

/// An IPv4 packet made by hand, and the machine that sends it.
struct Forged<'a> {
    machine: &'a Namespace,
    from: SocketAddr,
    to: SocketAddr,
    options: &'a [u8],
    checksum: Checksum,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Checksum {
    Absent,
    Right,
    Wrong,
}

impl Forged<'_> {
    fn send(&self) {
        let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)));
        let socket = self.machine.enter(raw).expect("root may forge packets");
        socket.send_to(&self.packet(), &self.to.into()).expect("sent");
    }

    fn packet(&self) -> Vec<u8> {
        let octets = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(ip) => panic!("{ip} is not IPv4"),
        };
        let [from, to] = [self.from, self.to].map(octets);
        let length = (8 + self.payload.len()) as u16;
        let mut udp = [self.from.port(), self.to.port(), length, 0].map(u16::to_be_bytes).concat();
        udp.extend_from_slice(&self.payload);
        let pseudo = [&from[..], &to, &[0, 17], &length.to_be_bytes()].concat();
        let sum = match self.checksum {
            Checksum::Absent => 0,
            Checksum::Right => !sum([&pseudo[..], &udp].concat()),
            Checksum::Wrong => !sum([&pseudo[..], &udp].concat()) ^ 0x0101,
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        // The kernel fills in the length, the identification and the header's checksum.
        let words = 5 + self.options.len() as u8 / 4;
        let head = [0x40 | words, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        [&head[..], &from, &to, self.options, &udp].concat()
    }
}

fn sum(mut bytes: Vec<u8>) -> u16 {
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>();
    let once = (sum >> 16) + (sum & 0xFFFF);
    ((once >> 16) + once) as u16
}

/// The end of the options list, three times, after one that does nothing.
const OPTIONS: [u8; 4] = [1, 0, 0, 0];

#[test]
fn options_and_missing_checksums_arrive_and_wrong_checksums_do_not() {
    in_each_world(|world| {
        for (far, without_checksum) in [(Family::V4, true), (Family::V6, false)] {
            let talk = world.talk((Family::V4, far), 0x4000);
            let before = world.counts();
            let (mut kernel, mut user) = (Relayed::default(), Relayed::default());
            let mut forged = Forged {
                machine: &world.net.clients,
                from: talk.near.address(),
                to: talk.client.server(),
                options: &[],
                checksum: Checksum::Right,
                payload: framed(0x4000, b"as usual", 0),
            };
            let arrives = |data: &[u8]| {
                assert_eq!(talk.far.receive(), talk.at_peer(data, Fields::USUAL));
            };
            forged.send();
            arrives(b"as usual");
            kernel.count_to_peer(8);
            forged.checksum = Checksum::Absent;
            forged.payload = framed(0x4000, b"no checksum", 0);
            forged.send();
            arrives(b"no checksum");
            // Where IPv6 wants one, somebody has to compute it.
            if without_checksum { &mut kernel } else { &mut user }.count_to_peer(11);
            forged.checksum = Checksum::Right;
            forged.options = &OPTIONS;
            forged.payload = framed(0x4000, b"options", 0);
            forged.send();
            arrives(b"options");
            user.count_to_peer(7);
            world.expect_relayed(&before, kernel, user);

            let (before, errors) = (world.counts(), world.net.checksum_errors());
            forged.options = &[];
            forged.checksum = Checksum::Wrong;
            forged.payload = framed(0x4000, b"corrupted", 0);
            forged.send();
            talk.to_peer(b"later");
            arrives(b"later");
            // The program leaves a wrong checksum wrong: where it arrives it is noticed.
            assert!(world.net.checksum_errors() > errors, "{}", world.mode);
            let mut kernel = Relayed::default();
            kernel.count_to_peer(9);
            kernel.count_to_peer(5);
            world.expect_relayed(&before, kernel, Relayed::default());
        }
    });
}

#[test]
fn to_know_a_channel_or_a_relayed_address_is_not_to_have_it() {
    in_each_world(|world| {
        let pair = (Family::V4, Family::V4);
        let [victim, other] = [0x4000, 0x4001].map(|number| world.talk(pair, number));
        let stranger = SocketAddr::new(address(Family::V4, 2, 3), 5_000);
        let forged = |machine, from, to, payload: &[u8]| Forged {
            machine,
            from,
            to,
            options: &[],
            checksum: Checksum::Right,
            payload: payload.to_vec(),
        };
        let (clients, peers) = (&world.net.clients, &world.net.peers);
        let server = victim.client.server();
        let channel_data = framed(victim.number, b"forged", 0);
        let before = world.relay.sum("turnway_dropped_datagrams_total{");
        let all = [
            // Another client's, and somebody's who has no allocation.
            forged(clients, other.near.address(), server, &channel_data),
            forged(peers, stranger, server, &channel_data),
            // To the relayed address: from strangers, from the client, from the peer's other port.
            forged(peers, stranger, victim.relayed, b"forged"),
            forged(peers, victim.near.address(), victim.relayed, b"forged"),
            forged(clients, other.near.address(), victim.relayed, b"forged"),
            forged(peers, stranger, victim.relayed, &channel_data),
        ];
        all.iter().for_each(Forged::send);
        await_some("the drops", || {
            let dropped = world.relay.sum("turnway_dropped_datagrams_total{");
            (dropped == before + all.len() as f64).then_some(())
        });
        for talk in [&victim, &other] {
            assert_eq!((talk.near.take(), talk.far.take()), (None, None), "{}", world.mode);
        }
        assert!(world.ping(&victim) && world.ping(&other));
    });
}

/// A Binding request without attributes.
fn binding_request(transaction: u8) -> Vec<u8> {
    [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[transaction; 12]].concat()
}

#[test]
fn the_kernel_answers_binding_requests_word_for_word_as_user_space_does() {
    let modes = ["off", "native", "generic"];
    let answers = thread::scope(|scope| {
        let ask = |mode| {
            let net = Net::new()?;
            Some(scope.spawn(move || binding_answers(net, mode)))
        };
        let asked: Vec<_> = modes.into_iter().map_while(ask).collect();
        asked.into_iter().map(|asked| asked.join().expect("no panic")).collect::<Vec<_>>()
    });
    for answered in answers.windows(2) {
        assert_eq!(answered[0], answered[1]);
    }
}

/// What comes back, from the same sockets in each mode.
fn binding_answers(net: Net, mode: &str) -> Vec<Datagram> {
    let world = World::start(net, mode, World::setup());
    let mut answers = Vec::new();
    for family in [Family::V4, Family::V6] {
        let near = End::on(&world.net.clients, SocketAddr::new(address(family, 1, 2), 40_000));
        for transaction in [0, 0x21, 0xFF] {
            near.send(&binding_request(transaction), world.server(family));
            answers.push(near.receive());
        }
    }
    if mode == "generic" {
        assert_eq!(world.outcome("binding_answered"), answers.len() as f64);
    }
    assert_eq!(world.net.checksum_errors(), 0);
    answers
}

#[test]
fn binding_answers_are_as_rare_as_answers_to_strangers_may_be() {
    const PER_SECOND: usize = 20;
    const BURST: usize = 30;
    in_each_mode(|mode, net| {
        let limits = format!(
            "unauthenticated_per_source = \"{PER_SECOND}/s\"\nunauthenticated_burst = {BURST}"
        );
        let world = World::start(net, mode, Setup { limits, ..World::setup() });
        let near = world.near(Family::V4);
        let (started, mut answers) = (Instant::now(), 0);
        while started.elapsed() < Duration::from_secs(1) {
            for transaction in 0..10 {
                near.send(&binding_request(transaction), world.server(Family::V4));
            }
            answers += std::iter::from_fn(|| near.take()).count();
            thread::park_timeout(Duration::from_millis(10));
        }
        let most = BURST + PER_SECOND * (started.elapsed().as_millis() as usize) / 1_000 + 1;
        // One datagram of the last ten may come late.
        let least = most - 5;
        assert!((least..=most).contains(&answers), "{mode}: {answers} of {least} to {most}");
        if mode == "generic" {
            assert!(world.outcome("binding_limited") > 0.0);
        }
    });
}
