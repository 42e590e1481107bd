//! Figures for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::maps::Outcomes;
use crate::report::Report;

/// Why a direction of a channel stays in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Refusal {
    /// The kernel knows no route.
    NoRoute,
    /// It would leave by an interface where the program is not attached.
    NotAttached,
    /// A link-local address, which means nothing without its interface.
    LinkLocal,
    /// A client on this machine, or loopback.
    Local,
    /// It would leave through a tunnel or another interface without Ethernet addresses.
    NoEthernet,
    /// All next hops that the program can know are in use.
    HopsFull,
    /// The kernel refused an entry of the map.
    Map,
}

impl Refusal {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Refusal; 7] = [
        Refusal::NoRoute,
        Refusal::NotAttached,
        Refusal::LinkLocal,
        Refusal::Local,
        Refusal::NoEthernet,
        Refusal::HopsFull,
        Refusal::Map,
    ];

    /// A stable name, for a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::NoRoute => "no_route",
            Refusal::NotAttached => "not_attached",
            Refusal::LinkLocal => "link_local",
            Refusal::Local => "local",
            Refusal::NoEthernet => "no_ethernet",
            Refusal::HopsFull => "hops_full",
            Refusal::Map => "map",
        }
    }
}

/// A reading of everything that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// What became of datagrams that the program looked at and did not relay, in the order of
    /// [`Outcome::ALL`](crate::maps::Outcome::ALL).
    pub outcomes: Outcomes,
    /// Channels that hold a slot.
    pub channels: u32,
    /// Slots there are.
    pub capacity: u32,
    /// Channels that found no free slot.
    pub full: u64,
    /// Directions of channels that are in the program's maps now.
    pub paths: u64,
    /// Next hops in use.
    pub hops: u64,
    /// Installs of a direction that stayed in user space, by reason: as [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Interfaces and their mode.
    pub report: Report,
}

/// What the control thread counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    paths: AtomicU64,
    hops: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl Counters {
    pub(crate) fn refused(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Directions in the maps, and next hops, as they are now.
    pub(crate) fn set(&self, paths: u64, hops: u64) {
        self.paths.store(paths, Ordering::Relaxed);
        self.hops.store(hops, Ordering::Relaxed);
    }

    pub(crate) fn paths(&self) -> u64 {
        self.paths.load(Ordering::Relaxed)
    }

    pub(crate) fn hops(&self) -> u64 {
        self.hops.load(Ordering::Relaxed)
    }

    pub(crate) fn refusals(&self) -> [u64; Refusal::ALL.len()] {
        std::array::from_fn(|n| self.refused[n].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_counted_under_its_own_label() {
        let counters = Counters::default();
        counters.refused(Refusal::LinkLocal);
        let counted: Vec<_> = (Refusal::ALL.into_iter().zip(counters.refusals()))
            .filter(|&(_, count)| count != 0)
            .collect();
        assert_eq!(counted, [(Refusal::LinkLocal, 1)]);
    }
}
