//! The address plan of the simulated world, and what the simulation itself knows of it. Nothing
//! here asks the crate under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use turnway_relay::{FiveTuple, Transport};
use turnway_wire::Family;

use crate::rng::mix;

pub(crate) const NANOS: u64 = 1_000_000_000;
pub(crate) const MILLI: u64 = 1_000_000;
pub(crate) const HOUR: u64 = 3600 * NANOS;
pub(crate) const DAY: u64 = 24 * HOUR;
/// What the wall clock says when the monotonic one says 0.
pub(crate) const UNIX_EPOCH_S: u64 = 1_700_000_000;

pub(crate) const CLIENTS: u32 = 1000;
pub(crate) const PEERS: u64 = 40;
pub(crate) const SHARDS: usize = 4;
pub(crate) const FIRST_PORT: u16 = 49_152;
pub(crate) const PORTS: u16 = 1500;
/// What a peer listens on; at its other ports nobody is.
pub(crate) const PEER_PORT: u16 = 7000;
pub(crate) const LISTENER_PORT: u16 = 3478;
pub(crate) const REALM: &str = "sim.example";

/// Where the server listens and relays: a public address, one behind 1:1 NAT, and an IPv6 one.
pub(crate) const OWN: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(20, 0, 0, 9)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)),
    IpAddr::V6(Ipv6Addr::new(0x2a00, 3, 0, 0, 0, 0, 0, 9)),
];
/// The addresses of [`OWN`] as the world sees them.
pub(crate) const OWN_EXTERNAL: [IpAddr; 3] =
    [OWN[0], IpAddr::V4(Ipv4Addr::new(20, 0, 0, 5)), OWN[2]];

/// Addresses no datagram may ever be relayed to.
pub(crate) const FORBIDDEN: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(255, 255, 255, 255)),
    IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
];

pub(crate) fn client_ip(index: u32, family: Family) -> IpAddr {
    let low = index as u16;
    match family {
        Family::V4 => Ipv4Addr::new(11, 0, (low >> 8) as u8, low as u8).into(),
        Family::V6 => Ipv6Addr::new(0x2a00, 1, 0, low, 0, 0, 0, 1).into(),
    }
}

/// Which client lives at an address.
pub(crate) fn client_at(ip: IpAddr) -> Option<u32> {
    let index = match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [11, 0, high, low] => u32::from(u16::from_be_bytes([high, low])),
            _ => return None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0x2a00, 1, 0, low, ..] => u32::from(low),
            _ => return None,
        },
    };
    (index < CLIENTS).then_some(index)
}

pub(crate) fn peer_ip(index: u64, family: Family) -> IpAddr {
    let low = index as u8;
    match family {
        Family::V4 => Ipv4Addr::new(12, 0, 0, low).into(),
        Family::V6 => Ipv6Addr::new(0x2a00, 2, 0, u16::from(low), 0, 0, 0, 1).into(),
    }
}

/// Somebody whom no client ever gave a permission.
pub(crate) fn stranger(index: u64, family: Family) -> SocketAddr {
    let ip = match family {
        Family::V4 => Ipv4Addr::new(13, 0, 0, index as u8).into(),
        Family::V6 => Ipv6Addr::new(0x2a00, 4, 0, 0, 0, 0, 0, index as u16).into(),
    };
    SocketAddr::new(ip, 9000)
}

/// The 1:1 NAT, outwards.
pub(crate) fn external(local: SocketAddr) -> SocketAddr {
    translate(local, &OWN, &OWN_EXTERNAL)
}

/// The 1:1 NAT, inwards.
pub(crate) fn local(external: SocketAddr) -> SocketAddr {
    translate(external, &OWN_EXTERNAL, &OWN)
}

fn translate(addr: SocketAddr, from: &[IpAddr], to: &[IpAddr]) -> SocketAddr {
    match from.iter().position(|ip| *ip == addr.ip()) {
        Some(at) => SocketAddr::new(to[at], addr.port()),
        None => addr,
    }
}

/// The place of a local relayed transport address among all there can be.
pub(crate) fn port_index(local: SocketAddr) -> Option<usize> {
    let at = OWN.iter().position(|ip| *ip == local.ip())?;
    let port = local.port().checked_sub(FIRST_PORT)?;
    (port < PORTS).then(|| at * usize::from(PORTS) + usize::from(port))
}

/// Like the kernel's choice among SO_REUSEPORT listeners: any function of the five-tuple.
pub(crate) fn shard_of(tuple: &FiveTuple) -> usize {
    let ip = match tuple.client.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => mix(ip.to_bits() as u64) ^ mix((ip.to_bits() >> 64) as u64),
    };
    let transport = match tuple.transport {
        Transport::Udp | Transport::Dtls => 0,
        Transport::Tcp | Transport::Tls => 1,
    };
    let whole = ip ^ (u64::from(tuple.client.port()) << 40) ^ (transport << 60);
    (mix(whole) % SHARDS as u64) as usize
}

pub(crate) fn family_index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
