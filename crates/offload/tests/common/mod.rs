//! The program in the kernel with its maps, and packets that it is run on (BPF_PROG_TEST_RUN): no
//! interface is needed. [`packet`] makes packets and reads them strictly.

#![allow(dead_code, reason = "each test binary includes this file and uses a part of it")]

pub(crate) mod packet;

use std::net::SocketAddr;

use aya::programs::{TestRun, TestRunOptions};
use turnway_offload::maps::{
    Counts, Hop, HopState, Maps, NextHop, Outcome, Outcomes, Path, PathKey,
};
use turnway_offload::program::Program;

use self::packet::{Arrived, CLIENT_MAC, PEER_MAC, Packet, ROUTER_MAC, SERVER_MAC};

/// As far ahead as can be.
pub(crate) const FOREVER: u64 = u64::MAX;

/// Packets of test runs come from the loopback interface.
pub(crate) const INGRESS: u32 = 1;

/// Next hops: where clients are, where peers are, and one that no test uses.
pub(crate) const TO_CLIENTS: u16 = 0;
pub(crate) const TO_PEERS: u16 = 1;

/// The place of a device other than [`INGRESS`], as far as the program knows.
pub(crate) const OTHER_DEVICE: u32 = 3;

pub(crate) const CHANNEL: u16 = 0x4ABC;

/// What the program says is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Pass,
    Transmit,
    Redirect,
}

/// The loaded program.
pub(crate) struct Kernel {
    program: Program,
    accounts: u32,
}

/// Both directions of a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) relay: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) number: u16,
    pub(crate) to_peer: u32,
    pub(crate) to_client: u32,
}

impl Kernel {
    /// Loads the program with two next hops on the interface that packets come from. `None`, said
    /// aloud, where that is not permitted.
    pub(crate) fn load() -> Option<Kernel> {
        let program = match Program::load(64) {
            Ok(program) => program,
            Err(error) => {
                skipped(&format!("the program cannot be loaded: {error}"));
                return None;
            }
        };
        let kernel = Kernel { program, accounts: 0 };
        kernel.maps().hops.set(TO_CLIENTS, &hop_to(CLIENT_MAC));
        kernel.maps().hops.set(TO_PEERS, &hop_to(PEER_MAC));
        Some(kernel)
    }

    pub(crate) fn maps(&self) -> &Maps {
        self.program.maps()
    }

    /// Opens both accounts of a channel and makes its paths.
    pub(crate) fn channel(&mut self, [client, server, relay, peer]: [&str; 4]) -> Channel {
        let [client, server, relay, peer] = [client, server, relay, peer].map(addr);
        let (to_peer, to_client) = (self.accounts, self.accounts + 1);
        self.accounts += 2;
        let channel = Channel { client, server, relay, peer, number: CHANNEL, to_peer, to_client };
        self.install(&channel, [NextHop::At(TO_PEERS), NextHop::At(TO_CLIENTS)]);
        channel
    }

    /// Opens the accounts and makes the paths, by given ways to the peer and to the client.
    pub(crate) fn install(&self, channel: &Channel, [peer_hop, client_hop]: [NextHop; 2]) {
        let maps = self.maps();
        let Channel { client, server, relay, peer, number, to_peer, to_client } = *channel;
        let from_peer = Path {
            hop: client_hop,
            from: server,
            to: client,
            channel: Some(number),
            account: to_client,
            generation: maps.accounts.open(to_client, FOREVER, false),
        };
        let key = match peer_hop {
            NextHop::At(_) => PathKey::from_peer(peer, relay),
            NextHop::Local => PathKey::from_relay(peer, relay),
        };
        maps.paths.insert(&key.unwrap(), &from_peer).unwrap();
        let from_client = Path {
            hop: peer_hop,
            from: relay,
            to: peer,
            channel: None,
            account: to_peer,
            generation: maps.accounts.open(to_peer, FOREVER, false),
        };
        let key = PathKey::from_client(client, server, number).unwrap();
        maps.paths.insert(&key, &from_client).unwrap();
    }

    /// Lets a frame arrive: what becomes of it, and how it looks then.
    pub(crate) fn run(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut out = vec![0; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let ran = self.program.xdp().test_run(options).expect("a test run");
        out.truncate(ran.data_size_out as usize);
        let verdict = match ran.return_value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Transmit,
            4 => Verdict::Redirect,
            other => panic!("the program ended with {other}"),
        };
        if verdict == Verdict::Pass {
            assert_eq!(out, frame, "what is passed up has been changed");
        }
        (verdict, out)
    }

    /// Lets a packet arrive that must be sent on, and reads what leaves.
    #[track_caller]
    pub(crate) fn relayed(&mut self, packet: &Packet) -> Arrived {
        let before = self.outcomes();
        let (verdict, frame) = self.run(&packet.encode());
        assert_eq!(verdict, Verdict::Transmit, "{:?}", self.news(&before));
        assert_eq!(self.news(&before), [], "a relayed datagram counts in its account only");
        Arrived::decode(&frame).unwrap_or_else(|wrong| panic!("{wrong}: {frame:02x?}"))
    }

    /// Lets a frame arrive that must be passed up, for which reason.
    #[track_caller]
    pub(crate) fn passes(&mut self, frame: &[u8], reason: Option<Outcome>) {
        let before = self.outcomes();
        assert_eq!(self.run(frame).0, Verdict::Pass);
        assert_eq!(self.news(&before), Vec::from_iter(reason));
    }

    pub(crate) fn counts(&self, account: u32) -> Counts {
        self.maps().accounts.read(account)
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        self.maps().outcomes().unwrap()
    }

    /// What was counted since.
    pub(crate) fn news(&self, before: &Outcomes) -> Vec<Outcome> {
        let now = self.outcomes();
        let times = |outcome: &Outcome| now[outcome.index()] - before[outcome.index()];
        Outcome::ALL.iter().flat_map(|o| std::iter::repeat_n(*o, times(o) as usize)).collect()
    }
}

impl Channel {
    /// ChannelData of the client as it arrives.
    pub(crate) fn client_sends(&self, payload: &[u8]) -> Packet {
        let framed = framed(self.number, payload, 0);
        Packet::new(CLIENT_MAC, SERVER_MAC, self.client, self.server, framed)
    }

    /// A datagram of the peer as it arrives.
    pub(crate) fn peer_sends(&self, payload: &[u8]) -> Packet {
        Packet::new(PEER_MAC, SERVER_MAC, self.peer, self.relay, payload.to_vec())
    }
}

/// A next hop on the interface that packets come from.
pub(crate) fn hop_to(mac: [u8; 6]) -> Hop {
    Hop {
        state: HopState::Fresh,
        device: 0,
        ifindex: INGRESS,
        route_ifindex: INGRESS,
        mtu: 1500,
        vlan: 0,
        to: mac,
        from: ROUTER_MAC,
    }
}

/// A ChannelData message with so many bytes of padding, which are not zero.
pub(crate) fn framed(number: u16, payload: &[u8], padding: usize) -> Vec<u8> {
    let mut message = turnway_wire::channel_header(number, payload.len() as u16).to_vec();
    message.extend_from_slice(payload);
    message.resize(message.len() + padding, 0xA7);
    message
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Bytes that are all different from their neighbours.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + 0x80) as u8).collect()
}

/// CLOCK_MONOTONIC, as deadlines have it.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Says aloud why a test proves nothing here. Fails it where `TURNWAY_NO_SKIP` is set.
#[track_caller]
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("TURNWAY_NO_SKIP").is_none(), "TURNWAY_NO_SKIP is set, but {why}");
    eprintln!("SKIPPED: {why}");
}
