//! Next hops, in memory that the program shares: a neighbour's new MAC address is one write, however
//! many paths lead there.

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};

use aya::maps::{Map, MapError};

use super::mapped::Mapped;
use crate::abi;

/// All next hops. Each is written by one thread at a time. An index from [`Hops::len`] on panics.
pub struct Hops {
    mapped: Mapped<abi::Hop>,
    /// Makes every stamp a new one.
    writes: AtomicU32,
}

/// What the program knows of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Whether the MAC addresses are right.
    pub state: HopState,
    /// The place given to [`super::Devices::set`].
    pub device: u32,
    /// The interface that has the program.
    pub ifindex: u32,
    /// The interface that the route names: the same, or a VLAN device on top of it.
    pub route_ifindex: u32,
    /// The longest IP packet.
    pub mtu: u16,
    /// The 802.1Q identifier of what leaves; 0: untagged.
    pub vlan: u16,
    /// The neighbour's MAC address.
    pub to: [u8; 6],
    /// Ours.
    pub from: [u8; 6],
}

/// Whether the MAC addresses of a [`Hop`] are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopState {
    /// They are.
    Fresh,
    /// They may be outdated; the program asks the kernel's FIB, datagram by datagram.
    Ask,
}

impl Hops {
    pub(crate) fn new(map: Map) -> Result<Hops, MapError> {
        Ok(Hops { mapped: Mapped::new(map)?, writes: AtomicU32::new(0) })
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "there are always as many")]
    pub fn len(&self) -> u32 {
        self.mapped.len()
    }

    /// Writes a next hop. The program never sees half of it: meanwhile it passes up.
    pub fn set(&self, index: u16, hop: &Hop) {
        let at = self.mapped.get(index.into());
        at.stamp.store(0, Relaxed);
        fence(Release);
        at.device.store(hop.device, Relaxed);
        at.ifindex.store(hop.ifindex, Relaxed);
        at.route_ifindex.store(hop.route_ifindex, Relaxed);
        let [m0, m1] = hop.mtu.to_ne_bytes();
        let [v0, v1] = hop.vlan.to_ne_bytes();
        at.mtu_and_vlan.store(u32::from_ne_bytes([m0, m1, v0, v1]), Relaxed);
        let (to, from) = (hop.to, hop.from);
        let words = [
            [to[0], to[1], to[2], to[3]],
            [to[4], to[5], from[0], from[1]],
            [from[2], from[3], from[4], from[5]],
        ];
        for (mac, word) in at.macs.iter().zip(words) {
            mac.store(u32::from_ne_bytes(word), Relaxed);
        }
        let state = match hop.state {
            HopState::Fresh => abi::HOP_FRESH,
            HopState::Ask => abi::HOP_ASK,
        };
        let number = self.writes.fetch_add(1, Relaxed);
        at.stamp.store((number << abi::HOP_STATE.count_ones()) | state, Release);
    }

    /// Forgets a next hop: what would go there is passed up.
    pub fn clear(&self, index: u16) {
        self.mapped.get(index.into()).stamp.store(0, Release);
    }
}
