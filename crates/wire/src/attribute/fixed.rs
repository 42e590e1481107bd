//! Attributes whose value has a fixed layout: numbers, flags, tokens.
//!
//! Reserved bits are sent as zero and ignored when received, as each section demands.

use super::{Attribute, AttributeType, Encode};
use crate::{Family, TransactionId};

/// Defines attributes with a value of `$len` bytes: how it is read from and written to an array.
macro_rules! fixed {
    ($($name:ident = $ty:ident, $len:literal, $decode:expr, $encode:expr;)*) => {$(
        impl $name {
            /// The attribute's number.
            pub const TYPE: AttributeType = AttributeType::$ty;
        }

        impl Attribute<'_> for $name {
            const TYPE: AttributeType = AttributeType::$ty;

            #[inline]
            fn decode(value: &[u8], _: TransactionId) -> Option<Self> {
                let decode: fn([u8; $len]) -> Option<Self> = $decode;
                decode(value.try_into().ok()?)
            }
        }

        impl Encode for $name {
            const TYPE: AttributeType = AttributeType::$ty;

            #[inline]
            fn encoded_len(&self) -> usize {
                $len
            }

            #[inline]
            fn encode(&self, out: &mut [u8], _: TransactionId) {
                let encode: fn(&Self) -> [u8; $len] = $encode;
                out.copy_from_slice(&encode(self));
            }
        }
    )*};
}

/// RFC 8656 section 18.1: a channel number, in range or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelNumber(pub u16);

/// RFC 8656 section 18.2: seconds until an allocation expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lifetime(pub u32);

/// RFC 8656 section 18.8: an IP protocol number; 17 is UDP, 6 is TCP (RFC 6062).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestedTransport(pub u8);

/// RFC 8656 section 18.6: the family the relayed transport address shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestedAddressFamily {
    /// `None` for a number that is no family, which is answered with 440.
    pub family: Option<Family>,
}

/// RFC 8656 section 18.11: the family of a second relayed transport address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdditionalAddressFamily {
    /// `None` for a number that is no family.
    pub family: Option<Family>,
}

/// RFC 8656 section 18.7: the relayed port shall be even.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EvenPort {
    /// Reserve the next-higher port too, for a later allocation.
    pub reserve_next: bool,
}

/// RFC 8656 section 18.9: set DF on the datagram to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DontFragment;

/// RFC 8656 section 18.10: names a reserved relayed transport address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReservationToken(pub [u8; 8]);

/// RFC 8656 section 18.13: the ICMP error a peer's side sent back.
///
/// On the wire the type has 7 bits, which hold every ICMPv4 and ICMPv6 error type, and the code 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// ICMPv4 or ICMPv6 type, 0 to 127.
    pub icmp_type: u8,
    /// ICMPv4 or ICMPv6 code.
    pub code: u8,
    /// The next hop's MTU in bytes if the datagram was too big, else 0.
    pub data: u32,
}

/// RFC 6062 section 6.2.1: names a connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u32);

/// RFC 8489 section 14.4: the hash of a username, see [`crate::user_hash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserHash(pub [u8; 32]);

/// RFC 5780 section 7.2: from where the Binding response shall come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangeRequest {
    /// From the server's other IP address.
    pub change_ip: bool,
    /// From the server's other port.
    pub change_port: bool,
}

/// RFC 5780 section 9.1: seconds for which a client may keep what it learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheTimeout(pub u32);

/// RFC 8445 section 7.1.1: a candidate's priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Priority(pub u32);

/// RFC 8445 section 7.1.2: the controlling agent nominates this pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UseCandidate;

/// RFC 8445 section 7.1.3: the sender is controlled; its tie-breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IceControlled(pub u64);

/// RFC 8445 section 7.1.3: the sender is controlling; its tie-breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IceControlling(pub u64);

fixed! {
    //= rfc8656#section-18.1
    //# The
    //# value portion of this attribute is 4 bytes long and consists of a
    //# 16-bit unsigned integer followed by a two-octet RFFU (Reserved For
    //# Future Use) field, which MUST be set to 0 on transmission and MUST be
    //# ignored on reception.
    ChannelNumber = CHANNEL_NUMBER, 4,
        |[n0, n1, _, _]| Some(Self(u16::from_be_bytes([n0, n1]))),
        |it| { let [n0, n1] = it.0.to_be_bytes(); [n0, n1, 0, 0] };
    Lifetime = LIFETIME, 4,
        |bytes| Some(Self(u32::from_be_bytes(bytes))), |it| it.0.to_be_bytes();
    //= rfc8656#section-18.8
    //# The RFFU field MUST be set to zero on transmission and MUST be
    //# ignored on reception.
    RequestedTransport = REQUESTED_TRANSPORT, 4,
        |[protocol, _, _, _]| Some(Self(protocol)), |it| [it.0, 0, 0, 0];
    //= rfc8656#section-18.6
    //# Reserved:  At this point, the 24 bits in the Reserved field MUST be
    //# set to zero by the client and MUST be ignored by the server.
    RequestedAddressFamily = REQUESTED_ADDRESS_FAMILY, 4,
        |[number, _, _, _]| Some(Self { family: Family::from_number(number) }),
        |it| [it.family.map_or(0, Family::number), 0, 0, 0];
    AdditionalAddressFamily = ADDITIONAL_ADDRESS_FAMILY, 4,
        |[number, _, _, _]| Some(Self { family: Family::from_number(number) }),
        |it| [it.family.map_or(0, Family::number), 0, 0, 0];
    //= rfc8656#section-18.7
    //# The RFFU field must be set to zero on transmission and ignored on
    //# reception.
    EvenPort = EVEN_PORT, 1,
        |[flags]| Some(Self { reserve_next: flags & 0x80 != 0 }),
        |it| [u8::from(it.reserve_next) << 7];
    //= rfc8656#section-18.9
    //# This attribute has no value part,
    //# and thus, the attribute length field is 0.
    DontFragment = DONT_FRAGMENT, 0, |[]| Some(Self), |_| [];
    //= rfc8656#section-18.10
    //# The attribute value is 8 bytes and contains the token value.
    ReservationToken = RESERVATION_TOKEN, 8, |token| Some(Self(token)), |it| it.0;
    Icmp = ICMP, 8, decode_icmp, encode_icmp;
    ConnectionId = CONNECTION_ID, 4,
        |bytes| Some(Self(u32::from_be_bytes(bytes))), |it| it.0.to_be_bytes();
    //= rfc8489#section-14.4
    //# The value of USERHASH has a fixed length of 32 bytes.
    UserHash = USERHASH, 32, |hash| Some(Self(hash)), |it| it.0;
    ChangeRequest = CHANGE_REQUEST, 4,
        |[_, _, _, flags]| Some(Self {
            change_ip: flags & 4 != 0,
            change_port: flags & 2 != 0,
        }),
        |it| [0, 0, 0, u8::from(it.change_ip) << 2 | u8::from(it.change_port) << 1];
    CacheTimeout = CACHE_TIMEOUT, 4,
        |bytes| Some(Self(u32::from_be_bytes(bytes))), |it| it.0.to_be_bytes();
    Priority = PRIORITY, 4,
        |bytes| Some(Self(u32::from_be_bytes(bytes))), |it| it.0.to_be_bytes();
    UseCandidate = USE_CANDIDATE, 0, |[]| Some(Self), |_| [];
    IceControlled = ICE_CONTROLLED, 8,
        |bytes| Some(Self(u64::from_be_bytes(bytes))), |it| it.0.to_be_bytes();
    IceControlling = ICE_CONTROLLING, 8,
        |bytes| Some(Self(u64::from_be_bytes(bytes))), |it| it.0.to_be_bytes();
}

//= rfc8656#section-18.13
//# Reserved:  This field MUST be set to 0 when sent and MUST be ignored
//# when received.
fn decode_icmp([_, _, b2, b3, d0, d1, d2, d3]: [u8; 8]) -> Option<Icmp> {
    let type_and_code = u16::from_be_bytes([b2, b3]);
    Some(Icmp {
        icmp_type: b2 >> 1,
        code: u8::try_from(type_and_code & 0x1FF).ok()?,
        data: u32::from_be_bytes([d0, d1, d2, d3]),
    })
}

fn encode_icmp(icmp: &Icmp) -> [u8; 8] {
    let [d0, d1, d2, d3] = icmp.data.to_be_bytes();
    [0, 0, icmp.icmp_type << 1, icmp.code, d0, d1, d2, d3]
}

/// RFC 5780 section 7.5: the port the Binding response shall go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResponsePort(pub u16);

impl ResponsePort {
    /// The attribute's number.
    pub const TYPE: AttributeType = AttributeType::RESPONSE_PORT;
}

impl Attribute<'_> for ResponsePort {
    const TYPE: AttributeType = AttributeType::RESPONSE_PORT;

    /// The RFC's "followed by 2 bytes of padding" is read both ways in the field: as padding that
    /// the length does not count, and as part of a value of 4 bytes.
    fn decode(value: &[u8], _: TransactionId) -> Option<Self> {
        match *value {
            [p0, p1] | [p0, p1, _, _] => Some(Self(u16::from_be_bytes([p0, p1]))),
            _ => None,
        }
    }
}

impl Encode for ResponsePort {
    const TYPE: AttributeType = AttributeType::RESPONSE_PORT;

    fn encoded_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [p0, p1] = self.0.to_be_bytes();
        out.copy_from_slice(&[p0, p1, 0, 0]);
    }
}
