//! Reading: what kind of datagram is it, and if it is STUN, what does it say.
//!
//! [`Message::parse`] walks the attributes once, checks every length, checks FINGERPRINT, and
//! notes where the first honoured occurrence of each known attribute lies. Everything after that
//! is a lookup in the received bytes.

use core::fmt;

use crate::attribute::Attribute;
use crate::channel::padding;
use crate::integrity::{IntegrityAlgorithm, IntegrityKey, fingerprint};
use crate::{AttributeType, Malformed, ParseError};

/// The fixed value of the magic cookie field (RFC 8489 section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Bytes of a STUN header (RFC 8489 section 5).
pub const HEADER_LEN: usize = 20;

/// Bytes of an attribute's type and length fields (RFC 8489 section 14).
pub(crate) const ATTRIBUTE_HEADER_LEN: usize = 4;

/// What a datagram is, by its first byte (RFC 7983 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 0 to 3: STUN, TURN's requests and indications included.
    Stun,
    /// 16 to 19: ZRTP.
    Zrtp,
    /// 20 to 63: DTLS.
    Dtls,
    /// 64 to 79: TURN ChannelData.
    Channel,
    /// 80 to 127: ChannelData on a number of RFC 5766 that RFC 8656 no longer has.
    OldChannel,
    /// 128 to 191: RTP or RTCP.
    Rtp,
    /// Anything else.
    Other,
}

/// Demultiplexes by first byte (RFC 7983 section 7, and RFC 5766 section 11 for older clients).
#[inline]
#[must_use]
pub const fn classify(first_byte: u8) -> Kind {
    match first_byte {
        0..=3 => Kind::Stun,
        16..=19 => Kind::Zrtp,
        20..=63 => Kind::Dtls,
        64..=79 => Kind::Channel,
        80..=127 => Kind::OldChannel,
        128..=191 => Kind::Rtp,
        _ => Kind::Other,
    }
}

/// The message class (RFC 8489 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// Answers a request that succeeded.
    Success,
    /// Answers a request that failed.
    Error,
}

/// The message method: 12 bits (RFC 8489 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(pub u16);

impl Method {
    /// RFC 8489 section 18.2.
    pub const BINDING: Self = Self(0x001);
    /// RFC 8656 section 17.
    pub const ALLOCATE: Self = Self(0x003);
    /// RFC 8656 section 17.
    pub const REFRESH: Self = Self(0x004);
    /// RFC 8656 section 17.
    pub const SEND: Self = Self(0x006);
    /// RFC 8656 section 17.
    pub const DATA: Self = Self(0x007);
    /// RFC 8656 section 17.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// RFC 8656 section 17.
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// RFC 6062 section 6.1.
    pub const CONNECT: Self = Self(0x00A);
    /// RFC 6062 section 6.1.
    pub const CONNECTION_BIND: Self = Self(0x00B);
    /// RFC 6062 section 6.1.
    pub const CONNECTION_ATTEMPT: Self = Self(0x00C);

    /// The RFC's name of the method, if an RFC we follow has one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::BINDING => "Binding",
            Self::ALLOCATE => "Allocate",
            Self::REFRESH => "Refresh",
            Self::SEND => "Send",
            Self::DATA => "Data",
            Self::CREATE_PERMISSION => "CreatePermission",
            Self::CHANNEL_BIND => "ChannelBind",
            Self::CONNECT => "Connect",
            Self::CONNECTION_BIND => "ConnectionBind",
            Self::CONNECTION_ATTEMPT => "ConnectionAttempt",
            _ => return None,
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "method {:#05x}", self.0),
        }
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 96-bit transaction id (RFC 8489 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first 16 bits of a header: class and method interleaved (RFC 8489 figure 3).
#[inline]
pub(crate) const fn message_type(class: Class, method: Method) -> u16 {
    let class_bits = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    let m = method.0;
    (m & 0x00F) | (m & 0x070) << 1 | (m & 0xF80) << 2 | class_bits
}

/// A received STUN message: checked once, nothing copied.
///
/// What is *honoured* of it follows RFC 8489: after MESSAGE-INTEGRITY only
/// MESSAGE-INTEGRITY-SHA256 and FINGERPRINT, after MESSAGE-INTEGRITY-SHA256 only FINGERPRINT. What
/// stands there in spite of that is not covered by the integrity and is invisible here.
#[derive(Clone)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Per attribute of the table, where the header of its first honoured occurrence starts,
    /// counted in 32-bit words; 0, where the message header is, means absent.
    first: [u16; AttributeType::COUNT],
}

impl<'a> Message<'a> {
    /// Checks that `bytes` is exactly one STUN message.
    ///
    /// # Errors
    ///
    /// See [`ParseError`]; per RFC 8489 section 6.3 such a message is dropped in silence.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        check_header(bytes)?;
        let mut message = Self { bytes, first: [0; AttributeType::COUNT] };
        let mut honoured = Honoured::Anything;
        let mut at = HEADER_LEN;
        while at < bytes.len() {
            let found = read(bytes, at).ok_or(ParseError::AttributeOverrun)?;
            if honoured.admits(found.ty) {
                honoured = honoured.after(found.ty);
                if let Some(index) = found.ty.index()
                    && message.first[index] == 0
                {
                    //= rfc8489#section-14
                    //# Unless specified otherwise, the order of appearance is significant:
                    //# only the first occurrence needs to be processed by a receiver, and
                    //# any duplicates MAY be ignored by a receiver.
                    message.first[index] = words(at);
                }
                if found.ty == AttributeType::FINGERPRINT {
                    check_fingerprint(bytes, at, &found)?;
                }
            }
            at = found.next;
        }
        Ok(message)
    }

    /// The message class.
    #[inline]
    #[must_use]
    pub fn class(&self) -> Class {
        match (self.bytes[0] & 0x01, self.bytes[1] & 0x10) {
            (0, 0) => Class::Request,
            (0, _) => Class::Indication,
            (_, 0) => Class::Success,
            (_, _) => Class::Error,
        }
    }

    /// The message method.
    #[inline]
    #[must_use]
    pub fn method(&self) -> Method {
        let ty = u16::from_be_bytes([self.bytes[0], self.bytes[1]]);
        Method((ty & 0x000F) | (ty & 0x00E0) >> 1 | (ty & 0x3E00) >> 2)
    }

    /// The transaction id.
    #[inline]
    #[must_use]
    pub fn transaction_id(&self) -> TransactionId {
        let id = self.bytes[8..HEADER_LEN].try_into();
        TransactionId(id.expect("parse saw 20 bytes of header"))
    }

    /// The whole message as received.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The value, without padding, of the first honoured occurrence of `ty`.
    #[inline]
    #[must_use]
    pub fn raw(&self, ty: AttributeType) -> Option<&'a [u8]> {
        match ty.index() {
            Some(index) => match self.first[index] {
                0 => None,
                at => read(self.bytes, usize::from(at) * 4).map(|found| found.value),
            },
            None => self.attributes().find(|&(t, _)| t == ty).map(|(_, v)| v),
        }
    }

    /// Whether an honoured `ty` is present, well-formed or not.
    #[inline]
    #[must_use]
    pub fn has(&self, ty: AttributeType) -> bool {
        match ty.index() {
            Some(index) => self.first[index] != 0,
            None => self.raw(ty).is_some(),
        }
    }

    /// Every honoured attribute in order, repeated ones included, with its value (no padding).
    #[inline]
    pub fn attributes(&self) -> impl Iterator<Item = (AttributeType, &'a [u8])> + use<'a> {
        Attributes { bytes: self.bytes, at: HEADER_LEN, honoured: Honoured::Anything }
    }

    /// The first honoured occurrence of `A`, decoded; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if it is present and its value breaks the rules for its type.
    #[inline]
    pub fn get<A: Attribute<'a>>(&self) -> Result<Option<A>, Malformed> {
        match self.raw(A::TYPE) {
            None => Ok(None),
            Some(value) => self.decode(value).map(Some),
        }
    }

    /// Every honoured occurrence of `A` in order, for the attributes that may be repeated
    /// (XOR-PEER-ADDRESS in CreatePermission).
    pub fn all<A: Attribute<'a>>(&self) -> impl Iterator<Item = Result<A, Malformed>> {
        self.attributes().filter(|&(ty, _)| ty == A::TYPE).map(|(_, value)| self.decode(value))
    }

    /// The comprehension-required attributes that the caller does not understand, in order, each
    /// occurrence anew: what UNKNOWN-ATTRIBUTES of a 420 lists (RFC 8489 section 6.3.1).
    ///
    /// A hostile message holds thousands; take as many as the answer has room for.
    pub fn unknown_required(
        &self,
        understood: impl Fn(AttributeType) -> bool,
    ) -> impl Iterator<Item = AttributeType> {
        self.attributes()
            .map(|(ty, _)| ty)
            .filter(move |&ty| ty.is_comprehension_required() && !understood(ty))
    }

    /// Whether the message ends with a FINGERPRINT; a wrong one does not get through
    /// [`parse`](Self::parse).
    #[inline]
    #[must_use]
    pub fn has_fingerprint(&self) -> bool {
        self.has(AttributeType::FINGERPRINT)
    }

    /// The integrity attribute to verify: the SHA-256 one when both are present.
    #[inline]
    #[must_use]
    pub fn integrity(&self) -> Option<IntegrityAlgorithm> {
        if self.has(AttributeType::MESSAGE_INTEGRITY_SHA256) {
            Some(IntegrityAlgorithm::Sha256)
        } else if self.has(AttributeType::MESSAGE_INTEGRITY) {
            Some(IntegrityAlgorithm::Sha1)
        } else {
            None
        }
    }

    /// Whether the integrity attribute of the key's algorithm is present and was made with `key`.
    ///
    /// False if it is absent or truncated: TURN does not allow that (RFC 8489 section 14.6). The
    /// comparison takes the same time wherever the first difference lies.
    #[inline]
    #[must_use]
    pub fn verify(&self, key: &IntegrityKey) -> bool {
        let ty = key.algorithm().attribute();
        let at = ty.index().map_or(0, |index| usize::from(self.first[index]) * 4);
        if at == 0 {
            return false;
        }
        let Some(found) = read(self.bytes, at) else {
            return false;
        };
        //= rfc8489#section-14.5
        //# Similarly, when validating the MESSAGE-INTEGRITY, the
        //# Length field in the STUN header must be adjusted to point to the end
        //# of the MESSAGE-INTEGRITY attribute prior to calculating the HMAC over
        //# the STUN message, up to and including the attribute preceding the
        //# MESSAGE-INTEGRITY attribute.
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&self.bytes[..HEADER_LEN]);
        let length = u16::try_from(found.next - HEADER_LEN).expect("parse saw a 16-bit length");
        header[2..4].copy_from_slice(&length.to_be_bytes());
        key.verify(&header, &self.bytes[HEADER_LEN..at], found.value)
    }

    #[inline]
    fn decode<A: Attribute<'a>>(&self, value: &'a [u8]) -> Result<A, Malformed> {
        A::decode(value, self.transaction_id()).ok_or(Malformed { attribute: A::TYPE })
    }
}

impl fmt::Debug for Message<'_> {
    /// Class, method, transaction id and the attributes' names; no values, some are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.method(), self.class(), self.transaction_id())?;
        f.debug_list().entries(self.attributes().map(|(ty, _)| ty)).finish()
    }
}

/// Which attributes may still be honoured at a place in the message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Honoured {
    Anything,
    AfterIntegrity,
    AfterIntegritySha256,
}

impl Honoured {
    #[inline]
    fn admits(self, ty: AttributeType) -> bool {
        //= rfc8489#section-9
        //# Note that agents MUST ignore all attributes that follow MESSAGE-
        //# INTEGRITY, with the exception of the MESSAGE-INTEGRITY-SHA256 and
        //# FINGERPRINT attributes.
        //= rfc8489#section-9
        //# Similarly, agents MUST ignore all attributes
        //# that follow the MESSAGE-INTEGRITY-SHA256 attribute if the MESSAGE-
        //# INTEGRITY attribute is not present, with the exception of the
        //# FINGERPRINT attribute.
        match self {
            Self::Anything => true,
            Self::AfterIntegrity => {
                ty == AttributeType::MESSAGE_INTEGRITY_SHA256 || ty == AttributeType::FINGERPRINT
            }
            Self::AfterIntegritySha256 => ty == AttributeType::FINGERPRINT,
        }
    }

    /// The state behind an admitted `ty`.
    #[inline]
    fn after(self, ty: AttributeType) -> Self {
        match ty {
            AttributeType::MESSAGE_INTEGRITY => Self::AfterIntegrity,
            AttributeType::MESSAGE_INTEGRITY_SHA256 => Self::AfterIntegritySha256,
            _ => self,
        }
    }
}

/// One attribute as it lies in the message.
struct Found<'a> {
    ty: AttributeType,
    value: &'a [u8],
    /// Where the next attribute starts, padding skipped.
    next: usize,
}

/// The attribute whose header starts at `at`; `None` if it ends beyond `bytes`.
#[inline]
fn read(bytes: &[u8], at: usize) -> Option<Found<'_>> {
    let (header, rest) = bytes.get(at..)?.split_first_chunk::<ATTRIBUTE_HEADER_LEN>()?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let padded = len + padding(len);
    if padded > rest.len() {
        return None;
    }
    Some(Found {
        ty: AttributeType(u16::from_be_bytes([header[0], header[1]])),
        value: &rest[..len],
        next: at + ATTRIBUTE_HEADER_LEN + padded,
    })
}

/// The walk behind [`Message::attributes`]; the bytes have passed [`Message::parse`].
struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
    honoured: Honoured,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (AttributeType, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = read(self.bytes, self.at)?;
            self.at = found.next;
            if self.honoured.admits(found.ty) {
                self.honoured = self.honoured.after(found.ty);
                return Some((found.ty, found.value));
            }
        }
    }
}

/// A place in a message, counted in 32-bit words: attributes start on such a boundary, and the
/// largest message has 16388 of them.
#[inline]
fn words(at: usize) -> u16 {
    u16::try_from(at / 4).expect("at most 16388")
}

#[inline]
fn check_header(bytes: &[u8]) -> Result<(), ParseError> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err(ParseError::TooShort);
    };
    //= rfc8489#section-5
    //# The most significant 2 bits of every STUN message MUST be zeroes.
    if header[0] & 0xC0 != 0 {
        return Err(ParseError::NotStun);
    }
    //= rfc8489#section-5
    //# The Magic Cookie field MUST contain the fixed value 0x2112A442 in
    //# network byte order.
    if header[4..8] != MAGIC_COOKIE.to_be_bytes() {
        return Err(ParseError::BadCookie);
    }
    //= rfc8489#section-5
    //# The message length MUST contain the size of the message in bytes, not
    //# including the 20-byte STUN header.
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if length % 4 != 0 || length != bytes.len() - HEADER_LEN {
        return Err(ParseError::BadLength);
    }
    Ok(())
}

#[inline]
fn check_fingerprint(bytes: &[u8], at: usize, found: &Found<'_>) -> Result<(), ParseError> {
    //= rfc8489#section-14.7
    //# When present, the FINGERPRINT attribute MUST be the last attribute in
    //# the message and thus will appear after MESSAGE-INTEGRITY and MESSAGE-
    //# INTEGRITY-SHA256.
    if found.next == bytes.len() && found.value == fingerprint(&bytes[..at]) {
        Ok(())
    } else {
        Err(ParseError::BadFingerprint)
    }
}
