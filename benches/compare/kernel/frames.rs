//! Frames as the generator sends them, and as they have to come back.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use turnway_wire::{Class, Message, Method, XorMappedAddress, channel_header};

/// MAC addresses of the generator's and the server's end of the cable.
pub(crate) const GENERATOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// See [`GENERATOR_MAC`].
pub(crate) const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const AT_UDP: usize = ETHERNET + IPV4;
const AT_PAYLOAD: usize = AT_UDP + UDP;
const CHANNEL_HEADER: usize = 4;
/// Type, length and magic cookie of a STUN message; then comes the transaction ID.
const STUN_HEAD: [u8; 8] = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
const AT_TRANSACTION: usize = AT_PAYLOAD + STUN_HEAD.len();
/// Mark, sequence number and proof: `struct stamp`.
const STAMP: usize = 16;
/// Where a transaction ID ends, it has no proof.
const TRANSACTION: usize = 12;
const PROOF: u32 = 0x9E37_79B1;

/// A channel, as its frames are addressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) client: SocketAddrV4,
    pub(crate) server: SocketAddrV4,
    pub(crate) relay: SocketAddrV4,
    pub(crate) peer: SocketAddrV4,
    pub(crate) channel: u16,
}

/// What frames are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// ChannelData from clients, which goes to peers as it is inside.
    ToPeer,
    /// Datagrams from peers, which go to clients as ChannelData.
    ToClient,
    /// Binding requests of the clients.
    Binding,
}

impl Work {
    /// In a table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ToPeer => "client to peer",
            Self::ToClient => "peer to client",
            Self::Binding => "Binding",
        }
    }

    /// Where the stamp is in a frame that is sent.
    pub(crate) fn at_stamp(self) -> usize {
        match self {
            Self::ToPeer => AT_PAYLOAD + CHANNEL_HEADER,
            Self::ToClient => AT_PAYLOAD,
            Self::Binding => AT_TRANSACTION,
        }
    }

    /// Where the stamp is in a frame that comes back.
    pub(crate) fn at_relayed(self) -> usize {
        match self {
            Self::ToPeer => AT_PAYLOAD,
            Self::ToClient => AT_PAYLOAD + CHANNEL_HEADER,
            Self::Binding => AT_TRANSACTION,
        }
    }
}

/// The frame of a flow with a payload of `size` bytes. The stamp and the UDP checksum are zero.
pub(crate) fn sent(work: Work, flow: &Flow, size: usize) -> Vec<u8> {
    let macs = [SERVER_MAC, GENERATOR_MAC];
    let (from, to, payload) = match work {
        Work::ToPeer => (flow.client, flow.server, channel_data(flow.channel, size)),
        Work::ToClient => (flow.peer, flow.relay, payload(size)),
        Work::Binding => (flow.client, flow.server, [&STUN_HEAD[..], &[0; TRANSACTION]].concat()),
    };
    frame(macs, from, to, &payload)
}

/// What comes back of it, but for stamp and checksums. Of a Binding request only the addresses.
fn relayed(work: Work, flow: &Flow, size: usize) -> Vec<u8> {
    let macs = [GENERATOR_MAC, SERVER_MAC];
    let (from, to, payload) = match work {
        Work::ToPeer => (flow.relay, flow.peer, payload(size)),
        Work::ToClient => (flow.server, flow.client, channel_data(flow.channel, size)),
        Work::Binding => (flow.server, flow.client, Vec::new()),
    };
    frame(macs, from, to, &payload)
}

fn channel_data(channel: u16, size: usize) -> Vec<u8> {
    [&channel_header(channel, size as u16)[..], &payload(size)].concat()
}

fn payload(size: usize) -> Vec<u8> {
    let filling = (STAMP..size).map(|at| (at * 7) as u8);
    [0; STAMP].into_iter().chain(filling).collect()
}

fn frame(
    [to_mac, from_mac]: [[u8; 6]; 2],
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: &[u8],
) -> Vec<u8> {
    let udp_length = (UDP + payload.len()) as u16;
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&(udp_length + IPV4 as u16).to_be_bytes());
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let check = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&check.to_ne_bytes());
    let mut frame = [to_mac, from_mac].concat();
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// What the UDP checksum covers, 16-bit words as they lie in memory added up.
pub(crate) fn udp_sum(frame: &[u8]) -> u32 {
    pseudo_header(frame) + sum(&frame[AT_UDP..])
}

fn pseudo_header(frame: &[u8]) -> u32 {
    let protocol = u32::from(u16::from_ne_bytes([0, 17]));
    sum(&frame[AT_UDP - 8..AT_UDP]) + protocol + sum(&frame[AT_UDP + 4..AT_UDP + 6])
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| [word[0], word.get(1).copied().unwrap_or(0)]);
    words.map(|word| u32::from(u16::from_ne_bytes(word))).sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xFFFF) + (sum >> 16);
    ((once & 0xFFFF) + (once >> 16)) as u16
}

/// A run as far as a frame that came back can be held against it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) work: Work,
    pub(crate) flows: &'a [Flow],
    pub(crate) size: usize,
    pub(crate) mark: u32,
    pub(crate) count: u64,
}

impl Sent<'_> {
    /// Whether a frame that came back is one of those that were sent, relayed as it has to be: every
    /// byte of the payload, every address, every length and checksum. IPv4 identification, DF and
    /// TTL are the server's own affair.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn verify(&self, frame: &[u8]) -> Result<(), String> {
        if frame.len() < self.work.at_relayed() + TRANSACTION {
            return Err(format!("{} bytes only", frame.len()));
        }
        let stamp = &frame[self.work.at_relayed()..];
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|n| stamp[at + n]));
        let sequence = u64::from(word(4)) | u64::from(word(8)) << 32;
        if sequence >= self.count {
            return Err(format!("sequence number {sequence} of {}", self.count));
        }
        let flow = &self.flows[(sequence % self.flows.len() as u64) as usize];
        self.verify_headers(frame, flow)?;
        match self.work {
            Work::Binding => verify_binding(&frame[AT_PAYLOAD..], flow.client),
            Work::ToPeer | Work::ToClient => {
                let proof = (self.mark ^ word(4)).wrapping_mul(PROOF).wrapping_add(word(8));
                let mut expected = relayed(self.work, flow, self.size);
                let at = self.work.at_relayed();
                expected[at..at + 4].copy_from_slice(&self.mark.to_ne_bytes());
                expected[at + 4..at + 12].copy_from_slice(&stamp[4..12]);
                expected[at + 12..at + 16].copy_from_slice(&proof.to_ne_bytes());
                if frame[AT_PAYLOAD..] != expected[AT_PAYLOAD..] {
                    return Err(format!("payload {:02x?}", &frame[AT_PAYLOAD..]));
                }
                Ok(())
            }
        }
    }

    fn verify_headers(&self, frame: &[u8], flow: &Flow) -> Result<(), String> {
        let expected = relayed(self.work, flow, self.size);
        let same = |range: std::ops::Range<usize>| frame[range.clone()] == expected[range];
        let at_addresses = ETHERNET + 12;
        if !same(0..ETHERNET + 2) || !same(at_addresses..AT_UDP + 4) {
            return Err(format!("headers {:02x?}", &frame[..AT_PAYLOAD]));
        }
        let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        if length(ETHERNET + 2) != frame.len() - ETHERNET
            || length(AT_UDP + 4) != frame.len() - AT_UDP
        {
            return Err(format!("lengths in {:02x?}", &frame[..AT_PAYLOAD]));
        }
        if fold(sum(&frame[ETHERNET..AT_UDP])) != 0xFFFF {
            return Err("the IPv4 header's checksum".into());
        }
        // What the stack sends through a cable without a device leaves the checksum to the device.
        let left = u16::from_ne_bytes([frame[AT_UDP + 6], frame[AT_UDP + 7]]);
        if fold(udp_sum(frame)) != 0xFFFF && left != fold(pseudo_header(frame)) {
            return Err("the UDP checksum".into());
        }
        Ok(())
    }
}

fn verify_binding(message: &[u8], client: SocketAddrV4) -> Result<(), String> {
    let message = Message::parse(message).map_err(|error| format!("{error:?}"))?;
    let mapped = message.get::<XorMappedAddress>();
    let mapped = mapped.ok().flatten().map(|mapped| mapped.0);
    let right = message.class() == Class::Success
        && message.method() == Method::BINDING
        && mapped == Some(SocketAddr::V4(client));
    right.then_some(()).ok_or_else(|| format!("an answer with {mapped:?} instead of {client}"))
}

/// An address of the cable's network.
pub(crate) const fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}
