//! What can be wrong: with a whole message ([`ParseError`]: drop it), with one attribute
//! ([`Malformed`]: answer 400), with the caller's buffer ([`BufferFull`]: our own mistake).

use core::fmt;

use crate::AttributeType;

/// Why bytes are not a STUN message that can be answered (RFC 8489 section 6.3).
///
/// Such bytes are dropped in silence: nothing in them can be trusted, not even a transaction id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParseError {
    /// Fewer than the 20 bytes of the header.
    TooShort,
    /// The first two bits are not zero.
    NotStun,
    /// The magic cookie is missing, as in RFC 3489 messages.
    BadCookie,
    /// The length field is not a multiple of four, or is not what follows the header.
    BadLength,
    /// An attribute, with its padding, ends beyond the message.
    AttributeOverrun,
    /// FINGERPRINT is wrong, is not four bytes long, or is not the last attribute.
    BadFingerprint,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "shorter than a STUN header",
            Self::NotStun => "the first two bits are not zero",
            Self::BadCookie => "wrong magic cookie",
            Self::BadLength => "the length field does not fit the message",
            Self::AttributeOverrun => "an attribute ends beyond the message",
            Self::BadFingerprint => "wrong or misplaced FINGERPRINT",
        })
    }
}

impl core::error::Error for ParseError {}

/// An attribute is there, but its value breaks the rules for its type. Answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Malformed {
    /// The attribute that could not be decoded.
    pub attribute: AttributeType,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.attribute)
    }
}

impl core::error::Error for Malformed {}

/// The message does not fit into the caller's buffer, or into STUN's 16-bit length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferFull;

impl fmt::Display for BufferFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message does not fit into its buffer")
    }
}

impl core::error::Error for BufferFull {}
