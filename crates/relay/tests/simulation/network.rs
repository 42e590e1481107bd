//! The virtual clock and the network: it loses, duplicates, delays and reorders.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use turnway_relay::{Client, IcmpError, RelayId};

use crate::plan::MILLI;
use crate::rng::Rng;

/// Who really made a message, whatever its source address says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Author {
    /// A session that follows the protocol (or an echo of what it sent).
    Session(u32),
    /// Somebody without the right to anything.
    Hostile,
}

/// Something that happens at a time.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A datagram reaches a UDP listener.
    ToServer { author: Author, from: Client, data: Vec<u8> },
    /// A segment of a session's TCP connection reaches the server.
    StreamToServer { session: u32, data: Vec<u8> },
    /// The end of a session's TCP connection reaches the server.
    Disconnected { session: u32 },
    /// A datagram reaches a client's address.
    ToClient { to: SocketAddr, data: Vec<u8> },
    /// A segment of a session's TCP connection reaches the client.
    StreamToClient { session: u32, data: Vec<u8> },
    /// A datagram reaches somebody outside; `from` is a relayed transport address as announced.
    ToPeer { author: Author, from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    /// A datagram reaches a local relayed transport address.
    ToRelay { author: Author, from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    /// An ICMP error about a datagram sent from a relay socket reaches the server.
    Icmp { shard: usize, relay: RelayId, peer: SocketAddr, error: IcmpError },
    /// A server wanted to be called by now.
    ServerTimer(usize),
    /// The port pool wanted to be called by now.
    PoolTimer,
    /// A client begins a session.
    Begin { client: u32 },
    /// A session does something it planned.
    Step { session: u32, step: Step },
    /// A request may have to be sent again.
    Retransmit { session: u32, transaction: [u8; 12], tries: u32 },
    /// Everybody who is offline comes at once.
    Rush,
    /// Somebody hostile does something.
    Attack,
    /// Somebody hostile knows that a server is late to look at its timer.
    AttackLate(usize),
    /// Gauges are compared with the record.
    Inspect,
    /// The configuration is loaded again.
    Reload,
}

/// What a session does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Allocate,
    Refresh,
    Permissions,
    Channel(usize),
    Data,
    End,
}

/// The heap of events, and what happens to what is sent.
pub(crate) struct Network {
    pub(crate) now_ns: u64,
    pub(crate) rng: Rng,
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    sequence: u64,
    loss_per_mille: u64,
}

/// One of a hundred datagrams comes twice.
const DUPLICATED_PER_MILLE: u64 = 10;

impl Network {
    pub(crate) fn new(now_ns: u64, rng: Rng, loss_per_mille: u64) -> Self {
        Self {
            now_ns,
            rng,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            loss_per_mille,
        }
    }

    /// Lets something happen at a time.
    pub(crate) fn at(&mut self, time_ns: u64, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.events[slot as usize] = Some(event);
                slot
            }
            None => {
                self.events.push(Some(event));
                (self.events.len() - 1) as u32
            }
        };
        self.sequence += 1;
        self.heap.push(Reverse((time_ns.max(self.now_ns), self.sequence, slot)));
    }

    /// Lets something happen some time from now.
    pub(crate) fn after(&mut self, delay_ns: u64, event: Event) {
        self.at(self.now_ns + delay_ns, event);
    }

    /// Sends a datagram: it arrives once, twice or never, in any order.
    pub(crate) fn datagram(&mut self, event: Event) {
        if self.rng.chance(self.loss_per_mille) {
            return;
        }
        if self.rng.chance(DUPLICATED_PER_MILLE) {
            let delay = self.delay();
            self.after(delay, event.clone());
        }
        let delay = self.delay();
        self.after(delay, event);
    }

    /// How long something is under way: mostly tens of milliseconds, sometimes seconds.
    pub(crate) fn delay(&mut self) -> u64 {
        MILLI
            * match self.rng.below(1000) {
                0..=3 => self.rng.range(1000, 4000),
                4..=30 => self.rng.range(100, 1000),
                _ => self.rng.range(5, 60),
            }
    }

    /// The next event; the clock goes there.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse((time_ns, _, slot)) = self.heap.pop()?;
        self.now_ns = time_ns;
        self.free.push(slot);
        self.events[slot as usize].take()
    }
}
