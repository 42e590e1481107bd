//! What precedes a relayed payload on its way to the client.
//!
//! A relayed datagram is *prefix + slice of the receive buffer + padding*, so the payload is never
//! copied: the prefix is a ChannelData header, or a Data indication up to DATA's value.

use core::fmt;
use core::net::SocketAddr;

use crate::channel::{CHANNEL_HEADER_LEN, channel_header, padding};
use crate::message::{ATTRIBUTE_HEADER_LEN, HEADER_LEN};
use crate::{AttributeType, Builder, Class, Method, TransactionId, XorPeerAddress};

/// Header, XOR-PEER-ADDRESS with an IPv6 address, DATA's header.
const MAX_LEN: usize =
    HEADER_LEN + ATTRIBUTE_HEADER_LEN + XorPeerAddress::MAX_LEN + ATTRIBUTE_HEADER_LEN;

/// The bytes before a relayed payload: at most 48, held inline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl Prefix {
    /// The largest payload, in bytes, that fits into a Data indication whatever the peer's
    /// family: STUN's length field has 16 bits and also counts XOR-PEER-ADDRESS.
    pub const MAX_DATA: u16 = 65_504;

    /// A ChannelData header (RFC 8656 section 12.4).
    #[inline]
    #[must_use]
    pub fn channel(number: u16, payload_len: u16) -> Self {
        let mut bytes = [0; MAX_LEN];
        bytes[..CHANNEL_HEADER_LEN].copy_from_slice(&channel_header(number, payload_len));
        Self::new(bytes, CHANNEL_HEADER_LEN)
    }

    /// A Data indication (RFC 8656 section 11.4) up to and including DATA's header. The payload
    /// and [`padding`] to a multiple of four follow it; the message length counts both.
    ///
    /// `payload_len` is at most [`MAX_DATA`](Self::MAX_DATA): a caller drops larger datagrams, as
    /// no STUN message can hold them.
    #[inline]
    #[must_use]
    pub fn data(peer: SocketAddr, payload_len: u16, tid: TransactionId) -> Self {
        let payload_len = payload_len.min(Self::MAX_DATA);
        let mut bytes = [0; MAX_LEN];
        let fits = "48 bytes hold a header and one address";
        let mut message =
            Builder::new(&mut bytes, Class::Indication, Method::DATA, tid).expect(fits);
        message.add(&XorPeerAddress(peer)).expect(fits);
        let data_at = message.finish();
        let len = data_at + ATTRIBUTE_HEADER_LEN;
        let payload = usize::from(payload_len);
        let total = u16::try_from(len - HEADER_LEN + payload + padding(payload));
        let total = total.expect("MAX_DATA keeps the length within 16 bits");
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[data_at..data_at + 2].copy_from_slice(&AttributeType::DATA.0.to_be_bytes());
        bytes[data_at + 2..len].copy_from_slice(&payload_len.to_be_bytes());
        Self::new(bytes, len)
    }

    /// The prefix to send.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    #[inline]
    fn new(bytes: [u8; MAX_LEN], len: usize) -> Self {
        let len = u8::try_from(len).expect("a prefix has at most 48 bytes");
        Self { bytes, len }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prefix").field(&self.as_bytes()).finish()
    }
}
