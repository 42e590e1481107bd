//! Attributes: the one table of their numbers, and what a type must do to be read and written.
//!
//! * [`AttributeType`]: the table. An attribute exists for Turnway when it has a line there.
//! * [`fixed`]: attributes whose value has a fixed layout, numbers and flags.
//! * [`variable`]: attributes whose value has a variable length, strings and lists.
//! * [`crate::address`]: attributes whose value is a transport address.

use core::fmt;

use crate::TransactionId;

pub mod fixed;
pub mod variable;

/// An attribute that can be read out of a message.
pub trait Attribute<'a>: Sized {
    /// Its number.
    const TYPE: AttributeType;

    /// Reads the value, given without padding; `None` if it breaks the rules for this type.
    fn decode(value: &'a [u8], tid: TransactionId) -> Option<Self>;
}

/// An attribute that can be written into a message.
pub trait Encode {
    /// Its number.
    const TYPE: AttributeType;

    /// Bytes of the value, without padding.
    fn encoded_len(&self) -> usize;

    /// Writes every byte of the value into `out`, which has [`encoded_len`](Self::encoded_len)
    /// bytes.
    fn encode(&self, out: &mut [u8], tid: TransactionId);
}

/// The number of an attribute (RFC 8489 section 14), known or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeType(pub u16);

impl AttributeType {
    /// Whether a receiver that does not understand it must refuse the message.
    #[inline]
    #[must_use]
    pub const fn is_comprehension_required(self) -> bool {
        //= rfc8489#section-14
        //# Attributes with type values between 0x0000 and 0x7FFF are
        //# comprehension-required attributes, which means that the STUN agent
        //# cannot successfully process the message unless it understands the
        //# attribute.
        self.0 < 0x8000
    }
}

impl fmt::Display for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "attribute {:#06x}", self.0),
        }
    }
}

impl fmt::Debug for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// From one line per attribute: its constant, its name, where it is defined, and its place in the
/// array in which [`crate::Message`] notes what it has seen.
macro_rules! table {
    ($($constant:ident = $number:literal, $name:literal, $defined:literal;)*) => {
        impl AttributeType {
            $(
                #[doc = concat!($name, ", ", $defined, ".")]
                pub const $constant: Self = Self($number);
            )*

            /// Every attribute of the table, in its order.
            pub const TABLE: &'static [Self] = &[$(Self::$constant),*];

            /// How many attributes the table has.
            pub(crate) const COUNT: usize = Self::TABLE.len();

            /// The name its RFC gives it, if it is in the table.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($name),)*
                    _ => None,
                }
            }

            /// The document and section that define it, if it is in the table.
            #[must_use]
            pub const fn defined_in(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($defined),)*
                    _ => None,
                }
            }

            /// Its place in the table, if it is there.
            #[inline]
            pub(crate) const fn index(self) -> Option<usize> {
                #[expect(
                    non_camel_case_types,
                    clippy::upper_case_acronyms,
                    reason = "named after the constants"
                )]
                #[repr(u8)]
                enum Place { $($constant),* }
                match self {
                    $(Self::$constant => Some(Place::$constant as usize),)*
                    _ => None,
                }
            }
        }
    };
}

table! {
    MAPPED_ADDRESS            = 0x0001, "MAPPED-ADDRESS",            "RFC 8489 section 14.1";
    CHANGE_REQUEST            = 0x0003, "CHANGE-REQUEST",            "RFC 5780 section 7.2";
    USERNAME                  = 0x0006, "USERNAME",                  "RFC 8489 section 14.3";
    MESSAGE_INTEGRITY         = 0x0008, "MESSAGE-INTEGRITY",         "RFC 8489 section 14.5";
    ERROR_CODE                = 0x0009, "ERROR-CODE",                "RFC 8489 section 14.8";
    UNKNOWN_ATTRIBUTES        = 0x000A, "UNKNOWN-ATTRIBUTES",        "RFC 8489 section 14.13";
    CHANNEL_NUMBER            = 0x000C, "CHANNEL-NUMBER",            "RFC 8656 section 18.1";
    LIFETIME                  = 0x000D, "LIFETIME",                  "RFC 8656 section 18.2";
    XOR_PEER_ADDRESS          = 0x0012, "XOR-PEER-ADDRESS",          "RFC 8656 section 18.3";
    DATA                      = 0x0013, "DATA",                      "RFC 8656 section 18.4";
    REALM                     = 0x0014, "REALM",                     "RFC 8489 section 14.9";
    NONCE                     = 0x0015, "NONCE",                     "RFC 8489 section 14.10";
    XOR_RELAYED_ADDRESS       = 0x0016, "XOR-RELAYED-ADDRESS",       "RFC 8656 section 18.5";
    REQUESTED_ADDRESS_FAMILY  = 0x0017, "REQUESTED-ADDRESS-FAMILY",  "RFC 8656 section 18.6";
    EVEN_PORT                 = 0x0018, "EVEN-PORT",                 "RFC 8656 section 18.7";
    REQUESTED_TRANSPORT       = 0x0019, "REQUESTED-TRANSPORT",       "RFC 8656 section 18.8";
    DONT_FRAGMENT             = 0x001A, "DONT-FRAGMENT",             "RFC 8656 section 18.9";
    ACCESS_TOKEN              = 0x001B, "ACCESS-TOKEN",              "RFC 7635 section 6.2";
    MESSAGE_INTEGRITY_SHA256  = 0x001C, "MESSAGE-INTEGRITY-SHA256",  "RFC 8489 section 14.6";
    PASSWORD_ALGORITHM        = 0x001D, "PASSWORD-ALGORITHM",        "RFC 8489 section 14.12";
    USERHASH                  = 0x001E, "USERHASH",                  "RFC 8489 section 14.4";
    XOR_MAPPED_ADDRESS        = 0x0020, "XOR-MAPPED-ADDRESS",        "RFC 8489 section 14.2";
    RESERVATION_TOKEN         = 0x0022, "RESERVATION-TOKEN",         "RFC 8656 section 18.10";
    PRIORITY                  = 0x0024, "PRIORITY",                  "RFC 8445 section 7.1.1";
    USE_CANDIDATE             = 0x0025, "USE-CANDIDATE",             "RFC 8445 section 7.1.2";
    PADDING                   = 0x0026, "PADDING",                   "RFC 5780 section 7.6";
    RESPONSE_PORT             = 0x0027, "RESPONSE-PORT",             "RFC 5780 section 7.5";
    CONNECTION_ID             = 0x002A, "CONNECTION-ID",             "RFC 6062 section 6.2.1";
    ADDITIONAL_ADDRESS_FAMILY = 0x8000, "ADDITIONAL-ADDRESS-FAMILY", "RFC 8656 section 18.11";
    ADDRESS_ERROR_CODE        = 0x8001, "ADDRESS-ERROR-CODE",        "RFC 8656 section 18.12";
    PASSWORD_ALGORITHMS       = 0x8002, "PASSWORD-ALGORITHMS",       "RFC 8489 section 14.11";
    ALTERNATE_DOMAIN          = 0x8003, "ALTERNATE-DOMAIN",          "RFC 8489 section 14.16";
    ICMP                      = 0x8004, "ICMP",                      "RFC 8656 section 18.13";
    SOFTWARE                  = 0x8022, "SOFTWARE",                  "RFC 8489 section 14.14";
    ALTERNATE_SERVER          = 0x8023, "ALTERNATE-SERVER",          "RFC 8489 section 14.15";
    CACHE_TIMEOUT             = 0x8027, "CACHE-TIMEOUT",             "RFC 5780 section 9.1";
    FINGERPRINT               = 0x8028, "FINGERPRINT",               "RFC 8489 section 14.7";
    ICE_CONTROLLED            = 0x8029, "ICE-CONTROLLED",            "RFC 8445 section 7.1.3";
    ICE_CONTROLLING           = 0x802A, "ICE-CONTROLLING",           "RFC 8445 section 7.1.3";
    RESPONSE_ORIGIN           = 0x802B, "RESPONSE-ORIGIN",           "RFC 5780 section 7.3";
    OTHER_ADDRESS             = 0x802C, "OTHER-ADDRESS",             "RFC 5780 section 7.4";
    THIRD_PARTY_AUTHORIZATION = 0x802E, "THIRD-PARTY-AUTHORIZATION", "RFC 7635 section 6.1";
    ORIGIN                    = 0x802F, "ORIGIN",                    "draft-ietf-tram-stun-origin";
    MOBILITY_TICKET           = 0x8030, "MOBILITY-TICKET",           "RFC 8016 section 3.3";
}
