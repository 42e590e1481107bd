//! Attributes whose value has a variable length: strings, payloads, error codes, lists.

use core::fmt;

use super::{Attribute, AttributeType, Encode};
use crate::channel::padding;
use crate::{Family, PasswordAlgorithm, TransactionId};

/// What a receiver must take of a string of "fewer than 128 characters" (RFC 8489 section 14.9).
const MAX_TEXT: usize = 763;
/// RFC 8489 section 14.16.
const MAX_DOMAIN: usize = 255;
/// No bound but the length field.
const UNBOUNDED: usize = u16::MAX as usize;

/// Defines attributes whose value is a run of at most `$max` bytes. With `shown` the bytes appear
/// in `Debug`; with `hidden` (payloads, tokens) only their number does.
macro_rules! bytes {
    ($($(#[$doc:meta])* $name:ident = $ty:ident, $max:expr, $debug:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name<'a>(pub &'a [u8]);

        impl $name<'_> {
            /// The attribute's number.
            pub const TYPE: AttributeType = AttributeType::$ty;
        }

        impl<'a> Attribute<'a> for $name<'a> {
            const TYPE: AttributeType = AttributeType::$ty;

            #[inline]
            fn decode(value: &'a [u8], _: TransactionId) -> Option<Self> {
                (value.len() <= $max).then_some(Self(value))
            }
        }

        impl Encode for $name<'_> {
            const TYPE: AttributeType = AttributeType::$ty;

            #[inline]
            fn encoded_len(&self) -> usize {
                self.0.len()
            }

            #[inline]
            fn encode(&self, out: &mut [u8], _: TransactionId) {
                out.copy_from_slice(self.0);
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                bytes!(@$debug f, stringify!($name), self.0)
            }
        }
    )*};
    (@shown $f:expr, $name:expr, $bytes:expr) => {
        write!($f, "{}(\"{}\")", $name, $bytes.escape_ascii())
    };
    (@hidden $f:expr, $name:expr, $bytes:expr) => {
        write!($f, "{}({} bytes)", $name, $bytes.len())
    };
}

bytes! {
    /// RFC 8489 section 14.3: the username, UTF-8 of at most 763 bytes (508 when sent).
    Username = USERNAME, MAX_TEXT, shown;
    /// RFC 8489 section 14.9: the realm, UTF-8 of at most 763 bytes (509 when sent).
    Realm = REALM, MAX_TEXT, shown;
    /// RFC 8489 section 14.10: the nonce, at most 763 bytes (509 when sent).
    Nonce = NONCE, MAX_TEXT, shown;
    /// RFC 8489 section 14.14: the sender's software, UTF-8 of at most 763 bytes (509 when sent).
    Software = SOFTWARE, MAX_TEXT, shown;
    /// RFC 8489 section 14.16: the name in the alternate server's certificate, at most 255 bytes.
    AlternateDomain = ALTERNATE_DOMAIN, MAX_DOMAIN, shown;
    /// The web origin of a WebRTC application, from a draft that coturn follows.
    Origin = ORIGIN, UNBOUNDED, shown;
    /// RFC 7635 section 6.1: the authorization server's name for this STUN server.
    ThirdPartyAuthorization = THIRD_PARTY_AUTHORIZATION, UNBOUNDED, shown;
    /// RFC 7635 section 6.2: a token, encrypted for the server.
    AccessToken = ACCESS_TOKEN, UNBOUNDED, hidden;
    /// RFC 8016 section 3.3: a ticket, opaque to the client; empty to ask for one.
    MobilityTicket = MOBILITY_TICKET, UNBOUNDED, hidden;
    /// RFC 8656 section 18.4: application data.
    Data = DATA, UNBOUNDED, hidden;
    /// RFC 5780 section 7.6: bytes that only take room.
    Padding = PADDING, UNBOUNDED, hidden;
}

/// RFC 8489 section 14.8: why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode<'a> {
    /// 300 to 699; see [`crate::code`].
    pub code: u16,
    /// A phrase for people, UTF-8 of at most 763 bytes (509 when sent).
    pub reason: &'a [u8],
}

impl ErrorCode<'_> {
    /// The attribute's number.
    pub const TYPE: AttributeType = AttributeType::ERROR_CODE;
}

impl<'a> Attribute<'a> for ErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ERROR_CODE;

    fn decode(value: &'a [u8], _: TransactionId) -> Option<Self> {
        let (&[_, _, class, number], reason) = value.split_first_chunk::<4>()?;
        let code = decode_code(class, number)?;
        (reason.len() <= MAX_TEXT).then_some(Self { code, reason })
    }
}

impl Encode for ErrorCode<'_> {
    const TYPE: AttributeType = AttributeType::ERROR_CODE;

    fn encoded_len(&self) -> usize {
        4 + self.reason.len()
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [class, number] = encode_code(self.code);
        out[..4].copy_from_slice(&[0, 0, class, number]);
        out[4..].copy_from_slice(self.reason);
    }
}

impl fmt::Debug for ErrorCode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErrorCode({} \"{}\")", self.code, self.reason.escape_ascii())
    }
}

/// RFC 8656 section 18.12: why one of two requested families was not allocated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressErrorCode<'a> {
    /// The family that was not allocated.
    pub family: Family,
    /// 300 to 699; 440 or 508 in practice.
    pub code: u16,
    /// A phrase for people, UTF-8 of at most 763 bytes (509 when sent).
    pub reason: &'a [u8],
}

impl AddressErrorCode<'_> {
    /// The attribute's number.
    pub const TYPE: AttributeType = AttributeType::ADDRESS_ERROR_CODE;
}

impl<'a> Attribute<'a> for AddressErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ADDRESS_ERROR_CODE;

    fn decode(value: &'a [u8], _: TransactionId) -> Option<Self> {
        let (&[family, _, class, number], reason) = value.split_first_chunk::<4>()?;
        let family = Family::from_number(family)?;
        let code = decode_code(class, number)?;
        (reason.len() <= MAX_TEXT).then_some(Self { family, code, reason })
    }
}

impl Encode for AddressErrorCode<'_> {
    const TYPE: AttributeType = AttributeType::ADDRESS_ERROR_CODE;

    fn encoded_len(&self) -> usize {
        4 + self.reason.len()
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [class, number] = encode_code(self.code);
        out[..4].copy_from_slice(&[self.family.number(), 0, class, number]);
        out[4..].copy_from_slice(self.reason);
    }
}

impl fmt::Debug for AddressErrorCode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, code, reason } = self;
        write!(f, "AddressErrorCode({family:?} {code} \"{}\")", reason.escape_ascii())
    }
}

/// The code from its class, the low three bits of a byte, and its number.
fn decode_code(class: u8, number: u8) -> Option<u16> {
    //= rfc8489#section-14.8
    //# The Class represents
    //# the hundreds digit of the error code.
    //= rfc8489#section-14.8
    //# The value MUST be between 3
    //# and 6.
    //= rfc8489#section-14.8
    //# The Number represents the binary encoding of the error code
    //# modulo 100, and its value MUST be between 0 and 99.
    match (class & 0x07, number) {
        (class @ 3..=6, number @ 0..=99) => Some(u16::from(class) * 100 + u16::from(number)),
        _ => None,
    }
}

/// Class and number of a code; what is outside 300 to 699 becomes the nearest end of it.
fn encode_code(code: u16) -> [u8; 2] {
    let code = code.clamp(300, 699);
    let byte = |n: u16| u8::try_from(n).expect("at most 99");
    [byte(code / 100), byte(code % 100)]
}

/// RFC 8489 section 14.13: what the server did not understand.
#[derive(Clone, Copy)]
pub struct UnknownAttributes<'a>(Types<'a>);

#[derive(Clone, Copy)]
enum Types<'a> {
    Listed(&'a [AttributeType]),
    /// As received: two bytes each.
    Received(&'a [u8]),
}

impl<'a> UnknownAttributes<'a> {
    /// The attribute's number.
    pub const TYPE: AttributeType = AttributeType::UNKNOWN_ATTRIBUTES;

    /// To be sent in a 420.
    #[must_use]
    pub const fn new(types: &'a [AttributeType]) -> Self {
        Self(Types::Listed(types))
    }

    /// The attributes it lists, in order.
    pub fn iter(&self) -> impl Iterator<Item = AttributeType> + use<'a> {
        let (listed, received): (&[AttributeType], &[u8]) = match self.0 {
            Types::Listed(types) => (types, &[]),
            Types::Received(bytes) => (&[], bytes),
        };
        let received = received.chunks_exact(2);
        let received = received.map(|pair| AttributeType(u16::from_be_bytes([pair[0], pair[1]])));
        listed.iter().copied().chain(received)
    }
}

impl<'a> Attribute<'a> for UnknownAttributes<'a> {
    const TYPE: AttributeType = AttributeType::UNKNOWN_ATTRIBUTES;

    fn decode(value: &'a [u8], _: TransactionId) -> Option<Self> {
        (value.len().is_multiple_of(2)).then_some(Self(Types::Received(value)))
    }
}

impl Encode for UnknownAttributes<'_> {
    const TYPE: AttributeType = AttributeType::UNKNOWN_ATTRIBUTES;

    fn encoded_len(&self) -> usize {
        match self.0 {
            Types::Listed(types) => 2 * types.len(),
            Types::Received(bytes) => bytes.len(),
        }
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        for (pair, ty) in out.chunks_exact_mut(2).zip(self.iter()) {
            pair.copy_from_slice(&ty.0.to_be_bytes());
        }
    }
}

impl fmt::Debug for UnknownAttributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnknownAttributes")?;
        f.debug_list().entries(self.iter()).finish()
    }
}

/// RFC 8489 section 14.12: the algorithm a client has chosen.
///
/// An algorithm we do not know, or one of ours with parameters (neither has any), is malformed: a
/// client may choose only from what the server offered, and anything else is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PasswordAlgorithmAttribute(pub PasswordAlgorithm);

impl PasswordAlgorithmAttribute {
    /// The attribute's number.
    pub const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHM;
}

impl Attribute<'_> for PasswordAlgorithmAttribute {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHM;

    fn decode(value: &[u8], _: TransactionId) -> Option<Self> {
        match *value {
            [n0, n1, 0, 0] => {
                PasswordAlgorithm::from_number(u16::from_be_bytes([n0, n1])).map(Self)
            }
            _ => None,
        }
    }
}

impl Encode for PasswordAlgorithmAttribute {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHM;

    fn encoded_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [n0, n1] = self.0.number().to_be_bytes();
        out.copy_from_slice(&[n0, n1, 0, 0]);
    }
}

/// RFC 8489 section 14.11: the algorithms a server offers, and a client repeats.
#[derive(Clone, Copy)]
pub struct PasswordAlgorithms<'a>(Algorithms<'a>);

#[derive(Clone, Copy)]
enum Algorithms<'a> {
    Listed(&'a [PasswordAlgorithm]),
    /// As received: number, length, parameters, padding each; the structure is checked.
    Received(&'a [u8]),
}

impl<'a> PasswordAlgorithms<'a> {
    /// The attribute's number.
    pub const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHMS;

    /// To be offered, in the server's order of preference.
    #[must_use]
    pub const fn new(algorithms: &'a [PasswordAlgorithm]) -> Self {
        Self(Algorithms::Listed(algorithms))
    }

    /// Number and parameters of each algorithm, in order, known or not.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let (listed, mut received): (&[PasswordAlgorithm], &[u8]) = match self.0 {
            Algorithms::Listed(algorithms) => (algorithms, &[]),
            Algorithms::Received(bytes) => (&[], bytes),
        };
        let received = core::iter::from_fn(move || {
            let (number, parameters, rest) = split_algorithm(received)?;
            received = rest;
            Some((number, parameters))
        });
        let listed = listed.iter().map(|algorithm| (algorithm.number(), &[][..]));
        listed.chain(received)
    }
}

impl<'a> Attribute<'a> for PasswordAlgorithms<'a> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHMS;

    fn decode(value: &'a [u8], _: TransactionId) -> Option<Self> {
        let mut rest = value;
        while !rest.is_empty() {
            (_, _, rest) = split_algorithm(rest)?;
        }
        Some(Self(Algorithms::Received(value)))
    }
}

impl Encode for PasswordAlgorithms<'_> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHMS;

    fn encoded_len(&self) -> usize {
        match self.0 {
            Algorithms::Listed(algorithms) => 4 * algorithms.len(),
            Algorithms::Received(bytes) => bytes.len(),
        }
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        match self.0 {
            Algorithms::Listed(algorithms) => {
                for (entry, algorithm) in out.chunks_exact_mut(4).zip(algorithms) {
                    let [n0, n1] = algorithm.number().to_be_bytes();
                    entry.copy_from_slice(&[n0, n1, 0, 0]);
                }
            }
            Algorithms::Received(bytes) => out.copy_from_slice(bytes),
        }
    }
}

impl fmt::Debug for PasswordAlgorithms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordAlgorithms")?;
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The first algorithm of a list, its parameters, and what follows their padding. The padding of
/// the last one may be missing: then it is the attribute's own.
fn split_algorithm(list: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (&[n0, n1, l0, l1], rest) = list.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let parameters = rest.get(..len)?;
    let rest = rest.get(len + padding(len)..).unwrap_or(&[]);
    Some((u16::from_be_bytes([n0, n1]), parameters, rest))
}
