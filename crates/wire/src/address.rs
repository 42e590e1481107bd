//! Transport addresses in attributes, plain (RFC 8489 section 14.1) and XOR-ed (section 14.2).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::attribute::{Attribute, Encode};
use crate::message::MAGIC_COOKIE;
use crate::{AttributeType, TransactionId};

/// An address family as STUN numbers it (RFC 8489 section 14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// 0x01.
    V4,
    /// 0x02.
    V6,
}

impl Family {
    /// The number on the wire.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 0x01,
            Self::V6 => 0x02,
        }
    }

    /// The family with this number, if there is one.
    #[inline]
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0x01 => Some(Self::V4),
            0x02 => Some(Self::V6),
            _ => None,
        }
    }

    /// The family of an IP address.
    #[inline]
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Defines the attributes whose value is one transport address.
macro_rules! addresses {
    ($($(#[$doc:meta])* $name:ident = $ty:ident, $mask:path;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub SocketAddr);

        impl $name {
            /// The attribute's number.
            pub const TYPE: AttributeType = AttributeType::$ty;
            /// Bytes of the longest value: with an IPv6 address.
            pub const MAX_LEN: usize = V6_LEN;
        }

        impl Attribute<'_> for $name {
            const TYPE: AttributeType = AttributeType::$ty;

            #[inline]
            fn decode(value: &[u8], tid: TransactionId) -> Option<Self> {
                decode(value, $mask(tid)).map(Self)
            }
        }

        impl Encode for $name {
            const TYPE: AttributeType = AttributeType::$ty;

            #[inline]
            fn encoded_len(&self) -> usize {
                if self.0.is_ipv4() { V4_LEN } else { V6_LEN }
            }

            #[inline]
            fn encode(&self, out: &mut [u8], tid: TransactionId) {
                encode(self.0, out, $mask(tid));
            }
        }
    )*};
}

addresses! {
    /// RFC 8489 section 14.1: what RFC 3489 clients understand.
    MappedAddress = MAPPED_ADDRESS, plain;
    /// RFC 8489 section 14.2: the client's address as the server sees it.
    XorMappedAddress = XOR_MAPPED_ADDRESS, xored;
    /// RFC 8656 section 18.3: a peer's address as the server sees it.
    XorPeerAddress = XOR_PEER_ADDRESS, xored;
    /// RFC 8656 section 18.5: the relayed transport address.
    XorRelayedAddress = XOR_RELAYED_ADDRESS, xored;
    /// RFC 8489 section 14.15: the server to try instead.
    AlternateServer = ALTERNATE_SERVER, plain;
    /// RFC 5780 section 7.3: where the response was sent from.
    ResponseOrigin = RESPONSE_ORIGIN, plain;
    /// RFC 5780 section 7.4: the server's other address and port.
    OtherAddress = OTHER_ADDRESS, plain;
}

/// Zero byte, family, port, IPv4 address.
const V4_LEN: usize = 8;
/// Zero byte, family, port, IPv6 address.
const V6_LEN: usize = 20;

/// What address bytes are XOR-ed with; the port with the first two of them.
type Mask = [u8; 16];

#[inline]
fn plain(_: TransactionId) -> Mask {
    [0; 16]
}

/// The magic cookie, and for IPv6 the transaction id after it.
#[inline]
fn xored(tid: TransactionId) -> Mask {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&tid.0);
    mask
}

#[inline]
fn decode(value: &[u8], mask: Mask) -> Option<SocketAddr> {
    //= rfc8489#section-14.1
    //# The first 8 bits of the MAPPED-ADDRESS MUST be set to 0 and MUST be
    //# ignored by receivers.
    let (&[_, family, p0, p1], address) = value.split_first_chunk::<4>()?;
    //= rfc8489#section-14.1
    //# If the address family is IPv4, the address MUST be 32 bits.
    //= rfc8489#section-14.1
    //# If the address family is IPv6, the address MUST be 128 bits.
    let ip = match Family::from_number(family)? {
        Family::V4 => {
            let bits = u32::from_be_bytes(address.try_into().ok()?);
            let [m0, m1, m2, m3, ..] = mask;
            Ipv4Addr::from_bits(bits ^ u32::from_be_bytes([m0, m1, m2, m3])).into()
        }
        Family::V6 => {
            let bits = u128::from_be_bytes(address.try_into().ok()?);
            Ipv6Addr::from_bits(bits ^ u128::from_be_bytes(mask)).into()
        }
    };
    let port = u16::from_be_bytes([p0 ^ mask[0], p1 ^ mask[1]]);
    Some(SocketAddr::new(ip, port))
}

#[inline]
fn encode(address: SocketAddr, out: &mut [u8], mask: Mask) {
    let [p0, p1] = address.port().to_be_bytes();
    let family = Family::of(address.ip()).number();
    out[..4].copy_from_slice(&[0, family, p0 ^ mask[0], p1 ^ mask[1]]);
    match address.ip() {
        IpAddr::V4(ip) => {
            let [m0, m1, m2, m3, ..] = mask;
            let bits = ip.to_bits() ^ u32::from_be_bytes([m0, m1, m2, m3]);
            out[4..].copy_from_slice(&bits.to_be_bytes());
        }
        IpAddr::V6(ip) => {
            let bits = ip.to_bits() ^ u128::from_be_bytes(mask);
            out[4..].copy_from_slice(&bits.to_be_bytes());
        }
    }
}
