//! The bare forwarder: what Turnway's data path asks of the kernel, without TURN.
//!
//! One listener, as many relay sockets as allocations, the same level-triggered epoll, the same
//! batches and header fields. A client's address leads by one hash to its relay socket; four bytes
//! are stripped on the way to the peer and put in front on the way back. Nothing is checked.
//!
//! It prints its relay ports in one line and runs until it is killed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::ExitCode;

use turnway_load::clients::shared_address;
use turnway_load::peers::own_peer;
use turnway_load::turn::CHANNEL;
use turnway_udp::{
    self as udp, Events, Interest, Outgoing, Payload, Poller, Prefix, ReceiveBatch, Received,
    SendBatch, UdpListener,
};
use turnway_wire::channel_header;

/// As in `src/shard.rs` and `src/shard/datagrams.rs`.
const BATCH: usize = 32;
const SLOT: usize = 4 + 65_535 + 1024;
const LISTENER_EVERY: usize = 16;
const LISTENER_TURN: usize = 8 * BATCH;
const RELAY_TURN: usize = 32;
const QUEUE_MAX: usize = 256;
const SOCKET_BUFFER: usize = 4 << 20;

/// Told apart from the numbers of relay sockets.
const LISTENER: u64 = u64::MAX;

/// Runs as a child of the referee: listener, ports of clients and peers, relay sockets, `true` for
/// UDP_GRO and UDP_SEGMENT.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let [listener, clients, peers, count, gso] = arguments else {
        eprintln!("forwarder LISTENER CLIENTS-PORT PEERS-PORT COUNT true|false");
        return ExitCode::from(2);
    };
    let number = |text: &String| text.parse().expect("the referee writes numbers");
    let address = |text: &String| text.parse().expect("the referee writes addresses");
    let (ports, count) = ([clients, peers].map(number), number(count));
    udp::system::raise_nofile().expect("one may raise one's own soft limit");
    let mut forwarder = Forwarder::open(address(listener), ports, count.into(), gso == "true")
        .expect("the referee chooses free addresses");
    forwarder.run();
}

struct Forwarder {
    listener: UdpListener,
    relays: Vec<udp::Socket>,
    clients: Vec<SocketAddr>,
    by_client: HashMap<SocketAddr, u32, BuildHasherDefault<Fold>>,
    peers: Vec<SocketAddr>,
    poller: Poller,
    sends: SendBatch,
}

impl Forwarder {
    fn open(
        listener: SocketAddr,
        [clients, peers]: [u16; 2],
        count: usize,
        gso: bool,
    ) -> std::io::Result<Self> {
        let poller = Poller::new()?;
        let (socket, _) = udp::listener_udp(listener, SOCKET_BUFFER)?;
        poller.add(socket.as_fd(), LISTENER, Interest::READ)?;
        let mut relays = Vec::with_capacity(count);
        let mut line = String::new();
        for number in 0..count {
            let relay = udp::relay_udp(SocketAddr::new(listener.ip(), 0), 0)?;
            poller.add(relay.as_fd(), number as u64, Interest::READ)?;
            line += &format!("{} ", relay.local_addr()?.port());
            if !gso {
                udp::options::never_merge(&relay)?;
            }
            relays.push(relay);
        }
        let client = |number| SocketAddr::new(IpAddr::V4(shared_address(number)), clients);
        let peer = |number| SocketAddr::new(IpAddr::V4(own_peer(number)), peers);
        let peers: Vec<SocketAddr> = (0..count).map(peer).collect();
        let clients: Vec<SocketAddr> = (0..count).map(client).collect();
        let by_client = clients.iter().copied().zip(0..).collect();
        if !gso {
            udp::options::never_merge(&socket)?;
        }
        let sends = if gso { SendBatch::new() } else { SendBatch::without_trains() };
        println!("{line}");
        std::io::stdout().flush()?;
        Ok(Self { listener: socket, relays, clients, by_client, peers, poller, sends })
    }

    fn run(&mut self) -> ! {
        let mut batch = ReceiveBatch::with_slot_size(BATCH, SLOT);
        batch.prefault();
        let mut events = Events::new(256);
        loop {
            self.poller.wait(&mut events, None).expect("the poller is open");
            let mut turns = 0;
            for event in events.iter() {
                turns += 1;
                if turns >= LISTENER_EVERY {
                    turns = 0;
                    self.on_listener(&mut batch);
                }
                match event.token {
                    LISTENER => self.on_listener(&mut batch),
                    number => turns += self.on_relay(number as usize, &mut batch) / RELAY_TURN,
                }
            }
            self.sends.flush(&batch, &mut |_, _| {});
            batch.clear();
        }
    }

    fn on_listener(&mut self, batch: &mut ReceiveBatch) {
        let mut taken = 0;
        while taken < LISTENER_TURN {
            if batch.free() < BATCH / 2 {
                self.sends.flush(batch, &mut |_, _| {});
                batch.clear();
            }
            let room = batch.free();
            let Ok(range) = batch.receive(self.listener.as_fd(), room) else { return };
            let more = range.len() == room;
            for slot in range {
                let received = batch.get(slot);
                taken += received.segments().len();
                let Some(&number) = self.by_client.get(&received.from) else { continue };
                let socket = self.relays[number as usize].as_raw_fd();
                for range in received.segments() {
                    let payload = Payload { slot, offset: range.start + 4, len: range.len() - 4 };
                    let to = self.peers[number as usize];
                    self.sends.push(outgoing(socket, to, &received, Prefix::EMPTY, payload));
                    self.flush_if_full(batch);
                }
            }
            if !more {
                return;
            }
        }
    }

    fn on_relay(&mut self, number: usize, batch: &mut ReceiveBatch) -> usize {
        if batch.free() == 0 {
            self.sends.flush(batch, &mut |_, _| {});
            batch.clear();
        }
        let (relay, client) = (&self.relays[number], self.clients[number]);
        let Ok(range) = batch.receive(relay.as_fd(), RELAY_TURN) else { return 0 };
        let mut taken = 0;
        for slot in range {
            let received = batch.get(slot);
            taken += received.segments().len();
            for range in received.segments() {
                let payload = Payload { slot, offset: range.start, len: range.len() };
                let prefix = Prefix::new(&channel_header(CHANNEL, range.len() as u16));
                let socket = self.listener.as_raw_fd();
                self.sends.push(outgoing(socket, client, &received, prefix, payload));
                self.flush_if_full(batch);
            }
        }
        taken
    }

    fn flush_if_full(&mut self, batch: &ReceiveBatch) {
        if self.sends.len() >= QUEUE_MAX {
            self.sends.flush(batch, &mut |_, _| {});
        }
    }
}

fn outgoing(
    socket: i32,
    to: SocketAddr,
    received: &Received<'_>,
    prefix: Prefix,
    payload: Payload,
) -> Outgoing {
    Outgoing {
        socket,
        to,
        source: None,
        ttl: received.ttl,
        tos: received.tos,
        dont_fragment: false,
        prefix,
        payload,
        pad: 0,
        tag: 0,
    }
}

/// A hash that is a multiplication for each word: nobody attacks it here.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
