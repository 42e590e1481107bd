//! The addresses and numbers of a relay, each a type of its own so that two of them cannot be swapped.
//!
//! Read top-down: where a client is ([`FiveTuple`], [`Link`], [`Client`]), where a peer is
//! ([`PeerAddr`]), which relayed transport address is meant ([`RelayId`]), and when it is ([`Now`]).

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use turnway_wire::{Class, Family, Message};

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP: one message per datagram, requests may be retransmitted.
    Udp,
    /// TCP: messages are framed by their lengths (RFC 8656 section 3.1).
    Tcp,
    /// TLS over TCP: framed as over TCP.
    Tls,
    /// DTLS over UDP (RFC 7350): one message per datagram.
    Dtls,
}

impl Transport {
    /// Every transport, in index order.
    pub const ALL: [Self; Self::COUNT] = [Self::Udp, Self::Tcp, Self::Tls, Self::Dtls];

    /// How many transports there are.
    pub const COUNT: usize = 4;

    /// A dense index below [`Self::COUNT`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The stable label used in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
        }
    }

    /// Whether ChannelData must be padded to a multiple of four bytes (RFC 8656 section 12.5).
    pub fn is_stream(self) -> bool {
        match self {
            Self::Udp | Self::Dtls => false,
            Self::Tcp | Self::Tls => true,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The five-tuple of RFC 8656 section 2.2: what identifies an allocation from the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// The transport protocol between client and server.
    pub transport: Transport,
    /// The client's address as the server sees it (its server-reflexive address).
    pub client: SocketAddr,
    /// The server's address the client sends to.
    pub server: SocketAddr,
}

/// The shell's own name for the socket or connection that reaches a client.
///
/// The rules keep it beside the five-tuple and hand it back; they never interpret it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link(pub u32);

/// A client as the shell presents it: who it is, and how it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its five-tuple.
    pub tuple: FiveTuple,
    /// The shell's name for the way back.
    pub link: Link,
    /// The realm of whoever comes this way, unless the client says that it is of another.
    pub realm: RealmId,
}

/// The number of one of the server's [`crate::Realms`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RealmId(pub u16);

impl RealmId {
    /// The realm that holds where nothing leads to another.
    pub const FIRST: Self = Self(0);
}

/// The transport protocol between server and peers: what REQUESTED-TRANSPORT asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Datagrams, as RFC 8656 relays them.
    Udp,
    /// Connections, as RFC 6062 relays them: a TCP allocation.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

/// One connection to a peer of a TCP allocation, or the attempt to make one: the value of
/// CONNECTION-ID (RFC 6062 section 6.2.1). Unique among all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// Bits of a number below its shard's.
    const LOW_BITS: u32 = 22;

    /// The number of a shard (below 1024) with random bits; `None` if these are no good.
    pub(crate) fn new(shard: u16, random: u32) -> Option<Self> {
        let low = random >> (32 - Self::LOW_BITS);
        (low != 0).then_some(Self(u32::from(shard) << Self::LOW_BITS | low))
    }

    /// The shard that has the connection, if there is such a one.
    pub fn shard(self) -> u16 {
        (self.0 >> Self::LOW_BITS) as u16
    }

    /// The connection that a message asks for, if it is a ConnectionBind request: only the shard
    /// that has the connection can answer it.
    pub fn asked_for_in(message: &[u8]) -> Option<Self> {
        let msg = Message::parse(message).ok()?;
        let is_bind =
            (msg.class(), msg.method()) == (Class::Request, turnway_wire::Method::CONNECTION_BIND);
        let id = msg.get::<turnway_wire::ConnectionId>().ok()??;
        is_bind.then_some(Self(id.0))
    }
}

/// A peer's transport address in canonical form: an IPv4-mapped IPv6 address is the IPv4 address
/// it maps, so that no rule can be passed by writing the same address differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    ip: IpAddr,
    port: u16,
}

impl PeerAddr {
    /// No address comes before it.
    pub(crate) const LOWEST: Self = Self { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

    /// Brings an address into canonical form. Flow label and scope are dropped.
    pub fn new(address: SocketAddr) -> Self {
        Self { ip: canonical_ip(address.ip()), port: address.port() }
    }

    /// The address and port.
    pub fn socket(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// The address without its port: what a permission is for (RFC 8656 section 2.3).
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The port; 0 where the client wrote none (CreatePermission ignores it).
    pub fn port(self) -> u16 {
        self.port
    }

    /// IPv4 or IPv6, after canonicalisation.
    pub fn family(self) -> Family {
        family_of(self.ip)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}

/// IPv4 or IPv6.
pub fn family_of(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// An IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) as the IPv4 address it is; others unchanged.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
    }
}

/// The same address without its flow label, as five-tuples are compared. The scope stays: without
/// it a link-local client could not be answered.
pub fn without_flow_label(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
    }
}

/// One allocation's place in a server's table. A slot is used again; the generation is not, so an
/// id held too long names nothing instead of somebody else's allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId {
    /// Index into the table; small and dense, fit to index an array of the shell's.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

/// One relayed transport address of one allocation (a dual allocation has one per family).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayId {
    /// The allocation it belongs to.
    pub allocation: AllocationId,
    /// Which of its relayed transport addresses.
    pub family: Family,
}

/// A relayed transport address as bound and as announced. They differ behind 1:1 NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddr {
    /// What the socket is bound to.
    pub local: SocketAddr,
    /// What clients and peers are told (XOR-RELAYED-ADDRESS).
    pub external: SocketAddr,
}

/// The time, always an argument.
///
/// Lifetimes and timers use `mono_ns`; only credential expiry and nonces use `unix_s`, so a step
/// of the wall clock never ends an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub mono_ns: u64,
    /// Seconds since 1970-01-01 UTC.
    pub unix_s: u64,
}

impl Now {
    /// The monotonic instant `seconds` from now, in nanoseconds.
    pub fn after_s(self, seconds: u32) -> u64 {
        self.mono_ns.saturating_add(u64::from(seconds) * NANOS_PER_SECOND)
    }
}

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The IP header fields that a relayed datagram inherits (RFC 8656 sections 13 to 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpFields {
    /// TTL or Hop Limit.
    pub ttl: u8,
    /// DSCP (upper six bits) and ECN (lower two): the IPv4 TOS or IPv6 Traffic Class byte.
    pub tos: u8,
}
