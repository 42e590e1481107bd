//! Ethernet frames with a UDP datagram: made byte by byte, and read with every length and checksum
//! verified from scratch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xC1];
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xEE];
pub(crate) const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x5E];
/// What the next hop says is our own address.
pub(crate) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

const UDP: u8 = 17;

/// What arrives.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) macs: [[u8; 6]; 2],
    pub(crate) vlan: Option<u16>,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    /// The three flags and the fragment offset of IPv4.
    pub(crate) fragment: u16,
    /// Of IPv6.
    pub(crate) flow_label: u32,
    pub(crate) payload: Vec<u8>,
    pub(crate) checksum: Checksum,
    /// What lies behind the IP packet.
    pub(crate) trailer: usize,
    /// Added to the lengths in the headers.
    pub(crate) ip_length_off: i32,
    pub(crate) udp_length_off: i32,
    pub(crate) ip_checksum_off: u16,
}

/// The UDP checksum of what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Right,
    Zero,
    Wrong,
    /// The sum of the pseudo-header, as a sender leaves it to its device.
    Partial,
}

/// What leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) from_mac: [u8; 6],
    pub(crate) to_mac: [u8; 6],
    pub(crate) vlan: Option<u16>,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) flow_label: u32,
    pub(crate) payload: Vec<u8>,
    /// Right, wrong or zero.
    pub(crate) checksum: Checksum,
}

impl Packet {
    pub(crate) fn new(
        from_mac: [u8; 6],
        to_mac: [u8; 6],
        from: SocketAddr,
        to: SocketAddr,
        payload: Vec<u8>,
    ) -> Packet {
        Packet {
            macs: [to_mac, from_mac],
            vlan: None,
            from,
            to,
            ttl: 57,
            tos: 0xB9,
            id: 0x1234,
            fragment: 0x4000,
            flow_label: 0xABCDE,
            payload,
            checksum: Checksum::Right,
            trailer: 0,
            ip_length_off: 0,
            udp_length_off: 0,
            ip_checksum_off: 0,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut frame = self.macs.concat();
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        let udp = self.udp();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.ipv4(from, to, udp.len()));
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xDD]);
                frame.extend(self.ipv6(from, to, udp.len()));
            }
            _ => panic!("two families in one packet"),
        }
        frame.extend(udp);
        frame.resize(frame.len() + self.trailer, 0x5A);
        frame
    }

    fn udp(&self) -> Vec<u8> {
        let length = ((8 + self.payload.len()) as i32 + self.udp_length_off) as u16;
        let mut udp = Vec::new();
        udp.extend(self.from.port().to_be_bytes());
        udp.extend(self.to.port().to_be_bytes());
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        let pseudo = pseudo_header(self.from.ip(), self.to.ip(), length);
        let right = match !sum(&[&pseudo, &udp]) {
            0 => 0xFFFF,
            sum => sum,
        };
        let checksum = match self.checksum {
            Checksum::Right => right,
            Checksum::Zero => 0,
            Checksum::Wrong => right ^ 0x0100,
            Checksum::Partial => sum(&[&pseudo]),
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        udp
    }

    fn ipv4(&self, from: Ipv4Addr, to: Ipv4Addr, udp: usize) -> Vec<u8> {
        let length = ((20 + udp) as i32 + self.ip_length_off) as u16;
        let mut ip = vec![0x45, self.tos];
        ip.extend(length.to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, UDP, 0, 0]);
        ip.extend(from.octets());
        ip.extend(to.octets());
        let checksum = !sum(&[&ip]) ^ self.ip_checksum_off;
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip
    }

    fn ipv6(&self, from: Ipv6Addr, to: Ipv6Addr, udp: usize) -> Vec<u8> {
        let length = (udp as i32 + self.ip_length_off) as u16;
        let first = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label;
        let mut ip = first.to_be_bytes().to_vec();
        ip.extend(length.to_be_bytes());
        ip.extend([UDP, self.ttl]);
        ip.extend(from.octets());
        ip.extend(to.octets());
        ip
    }
}

impl Arrived {
    /// Reads a frame as the strictest receiver would, or says what is wrong with it.
    pub(crate) fn decode(frame: &[u8]) -> Result<Arrived, &'static str> {
        let macs: &[u8; 12] = frame.first_chunk().ok_or("no Ethernet header")?;
        let (to_mac, from_mac) = (macs[..6].try_into().unwrap(), macs[6..].try_into().unwrap());
        let (vlan, at) = match u16_at(frame, 12)? {
            0x8100 => (Some(u16_at(frame, 14)?), 16),
            _ => (None, 12),
        };
        let ip = frame.get(at + 2..).ok_or("no Ethernet type")?;
        let (mut arrived, udp) = match u16_at(frame, at)? {
            0x0800 => Self::ipv4(ip)?,
            0x86DD => Self::ipv6(ip)?,
            _ => return Err("an unknown Ethernet type"),
        };
        arrived.udp(udp)?;
        Ok(Arrived { to_mac, from_mac, vlan, ..arrived })
    }

    fn ipv4(ip: &[u8]) -> Result<(Arrived, &[u8]), &'static str> {
        let (header, udp) = ip.split_at_checked(20).ok_or("no IPv4 header")?;
        if header[0] != 0x45 || header[9] != UDP {
            return Err("not IPv4 with UDP and without options");
        }
        if usize::from(u16_at(ip, 2)?) != ip.len() {
            return Err("the IPv4 length is not that of the frame");
        }
        if sum(&[header]) != 0xFFFF {
            return Err("the IPv4 checksum is wrong");
        }
        let address =
            |at: usize| IpAddr::from(<[u8; 4]>::try_from(&header[at..at + 4]).expect("four bytes"));
        let arrived = Arrived {
            from: SocketAddr::new(address(12), 0),
            to: SocketAddr::new(address(16), 0),
            ttl: header[8],
            tos: header[1],
            id: u16_at(ip, 4)?,
            fragment: u16_at(ip, 6)?,
            ..EMPTY
        };
        Ok((arrived, udp))
    }

    fn ipv6(ip: &[u8]) -> Result<(Arrived, &[u8]), &'static str> {
        let (header, udp) = ip.split_at_checked(40).ok_or("no IPv6 header")?;
        let first = u32::from_be_bytes(header[..4].try_into().expect("four bytes"));
        if first >> 28 != 6 || header[6] != UDP {
            return Err("not IPv6 with UDP and without extension headers");
        }
        if usize::from(u16_at(ip, 4)?) != udp.len() {
            return Err("the IPv6 length is not that of the frame");
        }
        let address = |at: usize| {
            IpAddr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("sixteen bytes"))
        };
        let arrived = Arrived {
            from: SocketAddr::new(address(8), 0),
            to: SocketAddr::new(address(24), 0),
            ttl: header[7],
            tos: (first >> 20) as u8,
            flow_label: first & 0xF_FFFF,
            ..EMPTY
        };
        Ok((arrived, udp))
    }

    fn udp(&mut self, udp: &[u8]) -> Result<(), &'static str> {
        self.from.set_port(u16_at(udp, 0)?);
        self.to.set_port(u16_at(udp, 2)?);
        let length = u16_at(udp, 4)?;
        if usize::from(length) != udp.len() {
            return Err("the UDP length is not that of the IP packet");
        }
        let pseudo = pseudo_header(self.from.ip(), self.to.ip(), length);
        self.checksum = match u16_at(udp, 6)? {
            0 if self.from.is_ipv6() => return Err("no checksum over IPv6"),
            0 => Checksum::Zero,
            _ if sum(&[&pseudo, udp]) == 0xFFFF => Checksum::Right,
            _ => Checksum::Wrong,
        };
        self.payload = udp[8..].to_vec();
        Ok(())
    }
}

const EMPTY: Arrived = Arrived {
    from_mac: [0; 6],
    to_mac: [0; 6],
    vlan: None,
    from: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    to: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    ttl: 0,
    tos: 0,
    id: 0,
    fragment: 0,
    flow_label: 0,
    payload: Vec::new(),
    checksum: Checksum::Wrong,
};

fn pseudo_header(from: IpAddr, to: IpAddr, length: u16) -> Vec<u8> {
    let mut header = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => panic!("two families in one packet"),
    };
    header.extend(u32::from(length).to_be_bytes());
    header.extend(u32::from(UDP).to_be_bytes());
    header
}

/// The 16-bit one's complement sum (RFC 1071); every part but the last has an even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, &'static str> {
    let pair = bytes.get(at..at + 2).ok_or("too short")?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}
