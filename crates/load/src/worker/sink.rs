//! What came of what was sent.

use std::net::{IpAddr, SocketAddr};

use crate::histogram::Histogram;
use crate::payload::{Direction, Stamp};
use crate::peers::Addresses;
use crate::tally::{Arrival, Arrivals, Counts};

use super::unwrap;

/// In a closed loop, so long without an arrival means that all under way are lost.
const SILENCE_NS: u64 = 50_000_000;

/// See the module.
pub(crate) struct Sink {
    run: u32,
    first: u32,
    peers: Addresses,
    flows: Vec<Flow>,
    from_ns: u64,
    until_ns: u64,
    /// Of datagrams sent in the measured time, to the peer and to the client.
    pub(crate) counts: [Counts; 2],
    /// That our own kernel or a slow connection did not take in the measured time.
    pub(crate) unsent: u64,
    pub(crate) latency: Histogram,
    /// Received in the measured time, whenever sent.
    pub(crate) within: u64,
    /// Sent and not received.
    under_way: usize,
    /// When one was last received.
    last_ns: u64,
}

#[derive(Clone, Default)]
struct Flow {
    relayed_port: u16,
    arrivals: [Arrivals; 2],
}

impl Sink {
    pub(crate) fn new(run: u32, first: u32, count: usize, peers: Addresses) -> Self {
        Self {
            run,
            first,
            peers,
            flows: vec![Flow::default(); count],
            from_ns: 0,
            until_ns: 0,
            counts: [Counts::default(); 2],
            unsent: 0,
            latency: Histogram::default(),
            within: 0,
            under_way: 0,
            last_ns: 0,
        }
    }

    /// The relay ports tell allocations apart: the server's address may look different from here.
    pub(super) fn route(&mut self, relayed: &[SocketAddr]) {
        for (flow, relayed) in self.flows.iter_mut().zip(relayed) {
            flow.relayed_port = relayed.port();
        }
    }

    /// Counts anew.
    pub(super) fn begin(&mut self, from_ns: u64, until_ns: u64) {
        (self.from_ns, self.until_ns) = (from_ns, until_ns);
        self.counts = [Counts::default(); 2];
        self.latency = Histogram::default();
        (self.unsent, self.within, self.under_way, self.last_ns) = (0, 0, 0, from_ns);
    }

    /// What has not come by now is lost.
    pub(super) fn end(&mut self) {
        for counts in &mut self.counts {
            counts.lost = counts.sent.saturating_sub(counts.received);
        }
    }

    /// Whether all that was sent in the measured time has come.
    pub(super) fn is_complete(&self) -> bool {
        self.counts.iter().all(|counts| counts.received >= counts.sent)
    }

    /// Counts one sent at `now`.
    pub(super) fn sent(&mut self, direction: Direction, now: u64) {
        self.under_way += 1;
        if (self.from_ns..self.until_ns).contains(&now) {
            self.counts[direction.index()].sent += 1;
        }
    }

    /// Counts one that could not be sent at `now`.
    pub(super) fn not_sent(&mut self, now: u64) {
        self.unsent += u64::from((self.from_ns..self.until_ns).contains(&now));
    }

    /// How many bursts may be sent where no more than `window` datagrams are to be under way, or
    /// one burst if that is more. After a silence all that were are lost.
    pub(super) fn room(&mut self, window: usize, burst: usize, now: u64) -> usize {
        let window = window.max(burst);
        if self.under_way + burst > window && now > self.last_ns + SILENCE_NS {
            (self.under_way, self.last_ns) = (0, now);
        }
        window.saturating_sub(self.under_way) / burst
    }

    /// A datagram that the peers' socket got.
    pub(super) fn at_peer(
        &mut self,
        from: SocketAddr,
        to: Option<IpAddr>,
        payload: &[u8],
        now: u64,
    ) {
        self.take(payload, Direction::ToPeer, now, |sink, client| {
            sink.flows[client].relayed_port == from.port()
                && to.is_none_or(|to| to == sink.peers.of(client).ip())
        });
    }

    /// A message that a client got; `false` where nothing was relayed in it.
    pub(super) fn relayed(&mut self, client: usize, message: &[u8], now: u64) -> bool {
        let Some((payload, from)) = unwrap(message) else { return false };
        self.take(payload, Direction::ToClient, now, |sink, expected| {
            client == expected && from.is_none_or(|from| from == sink.peers.of(client))
        });
        true
    }

    fn take(
        &mut self,
        payload: &[u8],
        direction: Direction,
        now: u64,
        is_expected: impl FnOnce(&Self, usize) -> bool,
    ) {
        let Ok(stamp) = Stamp::read(payload) else {
            self.counts[direction.index()].corrupted += 1;
            return;
        };
        if stamp.run != self.run {
            return;
        }
        let client = stamp.allocation.wrapping_sub(self.first) as usize;
        let counts = &mut self.counts[direction.index()];
        if client >= self.flows.len() {
            counts.misrouted += 1;
            return;
        }
        if stamp.direction != direction || !is_expected(self, client) {
            self.counts[direction.index()].misrouted += 1;
            return;
        }
        self.arrive(&stamp, client, now);
    }

    /// A datagram that is whole and where it should be.
    fn arrive(&mut self, stamp: &Stamp, client: usize, now: u64) {
        let direction = stamp.direction.index();
        let arrival = self.flows[client].arrivals[direction].add(stamp.sequence);
        let counts = &mut self.counts[direction];
        match arrival {
            Arrival::InOrder => {}
            Arrival::Late => counts.reordered += 1,
            Arrival::Again => {
                counts.duplicated += 1;
                return;
            }
        }
        if (self.from_ns..self.until_ns).contains(&stamp.sent_ns) {
            counts.received += 1;
            self.latency.add(now.saturating_sub(stamp.sent_ns));
        }
        if (self.from_ns..self.until_ns).contains(&now) {
            self.within += 1;
        }
        self.under_way = self.under_way.saturating_sub(1);
        self.last_ns = now;
    }
}

#[cfg(test)]
mod tests;
