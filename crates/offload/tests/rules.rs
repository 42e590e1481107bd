//! The same datagrams through the rules and through the program: the same addresses, payload, hop
//! count, DSCP and ECN, and the same counters. What the program passes up is the rules' to decide;
//! what the rules drop, it never relays.

mod common;
#[path = "../../relay/tests/common/mod.rs"]
mod world;

use std::net::SocketAddr;

use common::packet::{Arrived, CLIENT_MAC, Checksum, PEER_MAC, Packet, SERVER_MAC};
use common::{Channel, FOREVER, Kernel, TO_CLIENTS, TO_PEERS, Verdict, framed};
use proptest::prelude::*;
use turnway_offload::maps::{NextHop, Outcome};
use turnway_relay::IpFields;
use turnway_relay::effect::Traffic;
use turnway_wire::{Family, RequestedAddressFamily};
use world::World;
use world::client::{Ask, TestClient};

const PEERS: [&str; 2] = ["198.51.100.1:5000", "[2001:db8:99::1]:5000"];

/// Channels from here on have another relayed transport address as their peer.
const INSIDE: usize = 4;

/// A client with a channel, and what the program was told of it.
struct Mirrored {
    client: TestClient,
    channel: Channel,
    relay: turnway_relay::RelayId,
}

struct Both {
    world: World,
    kernel: Kernel,
    channels: Vec<Mirrored>,
    /// What the rules counted of what the program had to relay.
    counted: Traffic,
}

impl Both {
    /// All four pairs of families; and each client of the first two has a channel to the other.
    fn new(kernel: Kernel) -> Both {
        let mut both = Both {
            world: World::plain(),
            kernel,
            channels: Vec::new(),
            counted: Traffic::default(),
        };
        let addresses =
            ["192.0.2.1:1000", "[2001:db8:1::1]:1000", "192.0.2.2:1001", "[2001:db8:1::2]:1"];
        let families = [Family::V4, Family::V4, Family::V6, Family::V6];
        let mut clients: Vec<_> = addresses.into_iter().map(TestClient::new).collect();
        let mut relays = Vec::new();
        for (client, family) in clients.iter_mut().zip(families) {
            let family = RequestedAddressFamily { family: Some(family) };
            let response = client.ask(&mut both.world, &Ask::allocate().with(family));
            assert_eq!(response.code(), 0, "{response:?}");
            relays.push(response.relayed()[0]);
        }
        for (index, (client, family)) in clients.iter_mut().zip(families).enumerate() {
            let peer = PEERS[usize::from(family == Family::V6)];
            both.bind(client, relays[index], peer, 0x4000 + index as u16, NextHop::At(TO_PEERS));
        }
        for (mine, other) in [(0, 1), (1, 0)] {
            let (peer, number) = (relays[other].to_string(), 0x4F00 + mine as u16);
            both.bind(&mut clients[mine], relays[mine], &peer, number, NextHop::Local);
        }
        both
    }

    fn bind(
        &mut self,
        client: &mut TestClient,
        relay: SocketAddr,
        peer: &str,
        number: u16,
        hop: NextHop,
    ) {
        client.bind(&mut self.world, number, peer);
        let first = 2 * self.channels.len() as u32;
        let channel = Channel {
            client: client.at.tuple.client,
            server: client.at.tuple.server,
            relay,
            peer: peer.parse().unwrap(),
            number,
            to_peer: first,
            to_client: first + 1,
        };
        self.kernel.install(&channel, [hop, NextHop::At(TO_CLIENTS)]);
        let (_, id) = self.world.owner_of(relay).expect("an allocated address");
        self.channels.push(Mirrored { client: client.clone(), channel, relay: id });
    }

    /// Time passes for the rules; the program is told which channels live on.
    fn pass(&mut self, seconds: u64) {
        self.world.pass(seconds);
        let now = self.world.now.mono_ns;
        for Mirrored { channel, relay, .. } in &self.channels {
            let known = self.world.channels[0].get(&(*relay, channel.number));
            let alive = known.is_some_and(|&(_, deadline_ns)| deadline_ns > now);
            for account in [channel.to_peer, channel.to_client] {
                let deadline_ns = if alive { FOREVER } else { 0 };
                self.kernel.maps().accounts.set_deadline(account, deadline_ns);
            }
        }
    }

    /// What the rules make of a datagram; `None` unless it leaves as the program could send it.
    fn by_rules(&mut self, which: usize, to_peer: bool, packet: &Packet) -> Option<Expected> {
        let ip = Some(IpFields { ttl: packet.ttl, tos: packet.tos });
        let (client, channel) = (&self.channels[which].client, self.channels[which].channel);
        if !to_peer {
            return self.delivered(packet.to, packet.from, &packet.payload, ip, channel.server);
        }
        let sent = client.datagram(&mut self.world, &packet.payload, ip).ok()?;
        let Ok((_, relay)) = self.world.owner_of(sent.to).ok_or(()) else {
            return Some(Expected {
                from: sent.from,
                to: sent.to,
                payload: sent.payload,
                ip: sent.ip?,
            });
        };
        let owner = self.channels.iter().find(|other| other.relay == relay);
        let server = owner.expect("every allocation has a channel").channel.server;
        self.delivered(sent.to, sent.from, &sent.payload, sent.ip, server)
    }

    fn delivered(
        &mut self,
        relay: SocketAddr,
        peer: SocketAddr,
        payload: &[u8],
        ip: Option<IpFields>,
        server: SocketAddr,
    ) -> Option<Expected> {
        // The socket is closed with the allocation.
        self.world.owner_of(relay)?;
        let delivered = self.world.peer_sends_with(relay, peer, payload, ip).ok()?;
        delivered.channel()?;
        let (to, ip) = (delivered.to.tuple.client, delivered.ip?);
        Some(Expected { from: server, to, payload: delivered.bytes, ip })
    }

    /// Lets a datagram go both ways, and compares.
    fn compare(&mut self, which: usize, to_peer: bool, packet: &Packet) {
        let before = self.world.stats().traffic_of(turnway_relay::Transport::Udp);
        let expected = self.by_rules(which, to_peer, packet);
        let after = self.world.stats().traffic_of(turnway_relay::Transport::Udp);
        let arriving = packet.encode();
        let outcomes = self.kernel.outcomes();
        let (verdict, frame) = self.kernel.run(&arriving);
        let partial = Packet { checksum: Checksum::Partial, ..packet.clone() };
        if arriving == partial.encode() {
            // One in 65,536 looks as if its checksum were not yet filled in.
            assert_eq!(self.kernel.news(&outcomes), [Outcome::PassChecksum]);
            return;
        }
        let Some(expected) = expected else {
            assert_eq!(verdict, Verdict::Pass, "{packet:?} was relayed");
            return;
        };
        let news = self.kernel.news(&outcomes);
        assert_eq!(verdict, Verdict::Transmit, "{news:?}: {packet:?} was not relayed");
        self.counted.add(Traffic {
            to_peer: after.to_peer - before.to_peer,
            to_peer_bytes: after.to_peer_bytes - before.to_peer_bytes,
            to_client: after.to_client - before.to_client,
            to_client_bytes: after.to_client_bytes - before.to_client_bytes,
        });
        let left = Arrived::decode(&frame).unwrap();
        let ip = IpFields { ttl: left.ttl, tos: left.tos };
        assert_eq!(left.checksum, Checksum::Right);
        assert_eq!(Expected { from: left.from, to: left.to, payload: left.payload, ip }, expected);
    }

    fn compare_counters(&self) {
        let (mut to_peer, mut to_client) = ((0, 0), (0, 0));
        for Mirrored { channel, .. } in &self.channels {
            let counts = self.kernel.counts(channel.to_peer);
            to_peer = (to_peer.0 + counts.datagrams, to_peer.1 + counts.bytes);
            let counts = self.kernel.counts(channel.to_client);
            to_client = (to_client.0 + counts.datagrams, to_client.1 + counts.bytes);
        }
        let rules = self.counted;
        assert_eq!(to_peer, (rules.to_peer, rules.to_peer_bytes));
        assert_eq!(to_client, (rules.to_client, rules.to_client_bytes));
    }
}

#[derive(Debug, PartialEq)]
struct Expected {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    ip: IpFields,
}

/// A datagram that somebody sends.
#[derive(Clone, Debug)]
struct Step {
    which: usize,
    to_peer: bool,
    payload: Vec<u8>,
    padding: usize,
    ttl: u8,
    tos: u8,
    /// Added to the channel number, and to the sender's port.
    wrong: (u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let payload = proptest::collection::vec(any::<u8>(), 0..300);
    let wrong = prop_oneof![8 => Just((0, 0)), 1 => Just((1, 0)), 1 => Just((0, 1))];
    // Both ends of the range are what may go wrong.
    let ttl = prop_oneof![4 => 4..=255_u8, 1 => 0..4_u8];
    (0..6_usize, any::<bool>(), payload, 0..4_usize, ttl, any::<u8>(), wrong).prop_map(
        |(which, to_peer, payload, padding, ttl, tos, wrong)| Step {
            which,
            to_peer,
            payload,
            padding,
            ttl,
            tos,
            wrong,
        },
    )
}

fn packet(channel: &Channel, step: &Step) -> Packet {
    let mut packet = match step.to_peer {
        true => {
            let data = framed(channel.number + step.wrong.0, &step.payload, step.padding);
            Packet::new(CLIENT_MAC, SERVER_MAC, channel.client, channel.server, data)
        }
        false => {
            Packet::new(PEER_MAC, SERVER_MAC, channel.peer, channel.relay, step.payload.clone())
        }
    };
    (packet.ttl, packet.tos) = (step.ttl, step.tos);
    packet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_program_does_what_the_rules_say(steps in proptest::collection::vec(step(), 1..400)) {
        let Some(kernel) = Kernel::load() else { return Ok(()) };
        let mut both = Both::new(kernel);
        for step in &steps {
            let channel = both.channels[step.which].channel;
            let mut packet = packet(&channel, step);
            if step.to_peer && step.wrong.1 != 0 {
                // A client of another port has no allocation: to the rules it is another client.
                packet.from.set_port(packet.from.port() + 1);
                prop_assert_eq!(both.kernel.run(&packet.encode()).0, Verdict::Pass);
                continue;
            }
            if !step.to_peer && step.which >= INSIDE {
                // Nobody on a wire speaks for us.
                prop_assert_eq!(both.kernel.run(&packet.encode()).0, Verdict::Pass);
                continue;
            }
            both.compare(step.which, step.to_peer, &packet);
        }
        both.compare_counters();
    }
}

#[test]
fn the_program_ends_with_the_rules() {
    let Some(kernel) = Kernel::load() else { return };
    let mut both = Both::new(kernel);
    let all = |both: &mut Both| {
        for which in 0..both.channels.len() {
            let channel = both.channels[which].channel;
            both.compare(which, true, &channel.client_sends(b"payload"));
            if which < INSIDE {
                both.compare(which, false, &channel.peer_sends(b"payload"));
            }
        }
    };
    // Permissions last five minutes, channels and allocations ten.
    for seconds in [0, 100, 199, 2, 298, 2, 1] {
        both.pass(seconds);
        all(&mut both);
    }
    assert!(both.channels.iter().all(|m| both.kernel.counts(m.channel.to_peer).datagrams > 0));
    assert_eq!(both.world.stats().channels, 0, "the test outlived the channels");
}
