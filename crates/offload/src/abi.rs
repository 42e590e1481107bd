//! What the program and user space share, byte by byte: `bpf/abi.h` in Rust, where each field is
//! explained. The tests compare the two.
//!
//! Addresses and ports are in network byte order as they lie in memory, everything else in the
//! host's.

#[cfg(test)]
mod tests;

use core::net::IpAddr;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// What a datagram over IPv4 shows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key4 {
    pub(crate) from_port: [u8; 2],
    pub(crate) to_port: [u8; 2],
    pub(crate) channel: [u8; 2],
    pub(crate) inside: u16,
    pub(crate) from: [u8; 4],
    pub(crate) to: [u8; 4],
}

/// What a datagram over IPv6 shows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key6 {
    pub(crate) from_port: [u8; 2],
    pub(crate) to_port: [u8; 2],
    pub(crate) channel: [u8; 2],
    pub(crate) inside: u16,
    pub(crate) from: [u8; 16],
    pub(crate) to: [u8; 16],
}

/// Of what one relayed transport address of ours sends to another.
pub(crate) const INSIDE: u16 = 0xFFFF;

/// Where it goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) check: u64,
    pub(crate) hop: u16,
    pub(crate) family: u8,
    pub(crate) flags: u8,
    pub(crate) account: u32,
    pub(crate) to: [u8; 16],
    pub(crate) from: [u8; 16],
    pub(crate) from_port: [u8; 2],
    pub(crate) to_port: [u8; 2],
    pub(crate) channel: [u8; 2],
    pub(crate) zero: u16,
    pub(crate) generation: u32,
    pub(crate) zero2: u32,
}

pub(crate) const PATH_TO_CLIENT: u8 = 1;
pub(crate) const HOP_LOCAL: u16 = 0xFFFF;
pub(crate) const PATH_CHECK_KEY: u64 = 0x9E37_79B9_7F4A_7C15;
pub(crate) const PATH_CHECK_VALUE: u64 = 0xC2B2_AE3D_27D4_EB4F;
pub(crate) const PATH_CHECK_STEP: u64 = 0x1656_67B1_9E37_79FA;

/// One direction of a channel: what it may use and has used. Mapped, and changed by both sides.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) deadline_ns: AtomicU64,
    pub(crate) generation: AtomicU32,
    pub(crate) flags: AtomicU32,
    pub(crate) pocket: AtomicI64,
    pub(crate) datagrams: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) dropped_bytes: AtomicU64,
    pub(crate) passed_bytes: AtomicU64,
}

pub(crate) const ACCOUNT_METERED: u32 = 1;
pub(crate) const ACCOUNT_SHUT: u32 = 2;

/// A next hop. Mapped, and written here; the last three fields of the header in two and two bytes,
/// and six and six.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Hop {
    pub(crate) stamp: AtomicU32,
    pub(crate) device: AtomicU32,
    pub(crate) ifindex: AtomicU32,
    pub(crate) route_ifindex: AtomicU32,
    pub(crate) mtu_and_vlan: AtomicU32,
    pub(crate) macs: [AtomicU32; 3],
}

pub(crate) const HOP_FRESH: u32 = 1;
pub(crate) const HOP_ASK: u32 = 2;
pub(crate) const HOP_STATE: u32 = 3;

/// A server address that answers Binding requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: [u8; 16],
    pub(crate) port: [u8; 2],
    pub(crate) family: u16,
}

/// What the program may do beside relaying.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) flags: u32,
    pub(crate) zero: u32,
    pub(crate) binding_interval_ns: u64,
    pub(crate) binding_ahead_ns: u64,
}

pub(crate) const SETTINGS_BINDING: u32 = 1;
pub(crate) const SETTINGS_REDIRECT: u32 = 2;

/// What the self-test found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Packets that arrived.
    pub seen: u64,
    /// Those of them in front of which there was no room for longer headers.
    pub failed: u64,
}

// SAFETY: `repr(C)`, made of integers only, and without padding: every bit pattern is one.
unsafe impl aya::Pod for Key4 {}
// SAFETY: as above.
unsafe impl aya::Pod for Key6 {}
// SAFETY: as above.
unsafe impl aya::Pod for Path {}
// SAFETY: as above.
unsafe impl aya::Pod for Listener {}
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}
// SAFETY: as above.
unsafe impl aya::Pod for Probed {}

/// What became of a datagram that looked like ours and was not relayed, or of a Binding request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Outcome {
    /// Passed up: a channel or peer that has no path.
    PassUnknown,
    /// Passed up: the deadline has passed, or the path was closed.
    PassExpired,
    /// Passed up: the pocket is empty.
    PassLimit,
    /// Passed up: lengths that do not agree.
    PassLength,
    /// Passed up: a fragment, IPv4 options or an IPv6 extension header.
    PassFragment,
    /// Passed up: it would end here.
    PassTtl,
    /// Passed up: a checksum that is zero where there must be one, wrong, or not yet filled in.
    PassChecksum,
    /// Passed up: longer than what the next link carries.
    PassMtu,
    /// Passed up: no next hop is known.
    PassHop,
    /// Passed up: the driver leaves no room for longer headers.
    PassHeadroom,
    /// Passed up: a STUN message that user space answers.
    PassRequest,
    /// A Binding request that was answered.
    BindingAnswered,
    /// A Binding request whose source has asked too often: dropped.
    BindingLimited,
    /// Above a limit, and dropped as user space would.
    DropLimit,
}

impl Outcome {
    /// Every outcome, in the order of the program's counters.
    pub const ALL: [Outcome; 14] = [
        Outcome::PassUnknown,
        Outcome::PassExpired,
        Outcome::PassLimit,
        Outcome::PassLength,
        Outcome::PassFragment,
        Outcome::PassTtl,
        Outcome::PassChecksum,
        Outcome::PassMtu,
        Outcome::PassHop,
        Outcome::PassHeadroom,
        Outcome::PassRequest,
        Outcome::BindingAnswered,
        Outcome::BindingLimited,
        Outcome::DropLimit,
    ];

    /// A stable name, for a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::PassUnknown => "unknown",
            Outcome::PassExpired => "expired",
            Outcome::PassLimit => "limit",
            Outcome::PassLength => "length",
            Outcome::PassFragment => "fragment",
            Outcome::PassTtl => "ttl",
            Outcome::PassChecksum => "checksum",
            Outcome::PassMtu => "mtu",
            Outcome::PassHop => "hop",
            Outcome::PassHeadroom => "headroom",
            Outcome::PassRequest => "request",
            Outcome::BindingAnswered => "binding_answered",
            Outcome::BindingLimited => "binding_limited",
            Outcome::DropLimit => "limit_dropped",
        }
    }

    /// Its place in [`Outcome::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Counters by [`Outcome`].
pub type Outcomes = [u64; Outcome::ALL.len()];

/// An address in its sixteen bytes, of which IPv4 has the first four, and its family.
pub(crate) fn address(ip: IpAddr) -> ([u8; 16], u8) {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            (bytes, 4)
        }
        IpAddr::V6(ip) => (ip.octets(), 6),
    }
}
