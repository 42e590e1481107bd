//! What the shards of one server share while they handle requests: atomics, never a lock.
//!
//! [`LivePorts`]: which relayed transport addresses are in use. [`AllocationCount`]: how many
//! allocations there are, against a cap. [`SourceLimiter`]: how much an address may ask before it
//! has authenticated.

mod source;

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use self::source::SourceLimiter;

use crate::address::{Protocol, canonical_ip};
use crate::mobility::Tickets;

/// Everything shards share, to be put behind one `Arc`.
#[derive(Debug)]
pub struct Shared {
    /// The relayed transport addresses in use.
    pub live: LivePorts,
    /// The number of allocations.
    pub allocations: AllocationCount,
    /// The rate of unauthenticated responses per source.
    pub sources: SourceLimiter,
    /// What makes and reads the tickets of mobile clients.
    pub tickets: Tickets,
}

/// The relayed transport addresses in use: one bit per port of each local relay address and each
/// protocol, 16 KiB an address.
///
/// A hint for the peer policy, not the owner of a port: readers may see a change a moment late.
#[derive(Debug)]
pub struct LivePorts {
    /// Sorted by address; of UDP, then of TCP.
    addresses: Vec<(IpAddr, [Box<[AtomicU64]>; 2])>,
}

const PORT_WORDS: usize = (1 << 16) / 64;

impl LivePorts {
    /// No port is live on any of `addresses`, which are the local ones.
    pub fn new(addresses: &[IpAddr]) -> Self {
        let mut unique: Vec<IpAddr> = addresses.iter().map(|&ip| canonical_ip(ip)).collect();
        unique.sort_unstable();
        unique.dedup();
        let empty = || (0..PORT_WORDS).map(|_| AtomicU64::new(0)).collect();
        Self { addresses: unique.into_iter().map(|ip| (ip, [empty(), empty()])).collect() }
    }

    /// Says whether `relay` is in use from now on. An address that is not ours is ignored.
    pub fn set(&self, protocol: Protocol, relay: SocketAddr, live: bool) {
        let Some((word, bit)) = self.bit(protocol, relay) else {
            return;
        };
        if live {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether `relay` is one of our relayed transport addresses in use.
    pub fn contains(&self, protocol: Protocol, relay: SocketAddr) -> bool {
        self.bit(protocol, relay).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn bit(&self, protocol: Protocol, relay: SocketAddr) -> Option<(&AtomicU64, u64)> {
        let ip = canonical_ip(relay.ip());
        let at = self.addresses.binary_search_by_key(&ip, |(ip, _)| *ip).ok()?;
        let port = usize::from(relay.port());
        let [udp, tcp] = &self.addresses[at].1;
        let words = match protocol {
            Protocol::Udp => udp,
            Protocol::Tcp => tcp,
        };
        Some((&words[port / 64], 1 << (port % 64)))
    }
}

/// The number of allocations of all shards. It never exceeds the cap by a race.
#[derive(Debug)]
pub struct AllocationCount {
    count: AtomicU32,
    cap: AtomicU32,
}

impl AllocationCount {
    /// None so far, at most `cap` at a time.
    pub fn new(cap: u32) -> Self {
        Self { count: AtomicU32::new(0), cap: AtomicU32::new(cap) }
    }

    /// Counts one more, unless there are as many as there may be.
    #[must_use = "what was taken must be given back"]
    pub fn try_take(&self) -> bool {
        let cap = self.cap();
        let one_more = |count| if count < cap { Some(count + 1) } else { None };
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Counts one less: the end of what a [`AllocationCount::try_take`] began.
    pub fn give_back(&self) {
        let one_less = |count: u32| count.checked_sub(1);
        let before = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        debug_assert!(before.is_ok(), "an allocation ended twice");
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many there may be.
    pub fn cap(&self) -> u32 {
        self.cap.load(Ordering::Relaxed)
    }

    /// How many there may be from now on. Those above a lowered cap live on.
    pub fn set_cap(&self, cap: u32) {
        self.cap.store(cap, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
