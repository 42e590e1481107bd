//! Keys, MESSAGE-INTEGRITY and FINGERPRINT.
//!
//! A [`LongTermKey`] is what a user store may keep; an [`IntegrityKey`] is the HMAC state made
//! from it once and cloned per message, which halves the hashing of a short message.

use core::fmt;

use hmac::block_api::HmacCore;
use hmac::digest::block_api::{Buffer, CoreProxy};
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::AttributeType;

/// Bytes of FINGERPRINT's value (RFC 8489 section 14.7).
pub(crate) const FINGERPRINT_LEN: usize = 4;

/// How a long-term password becomes a key (RFC 8489 section 18.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PasswordAlgorithm {
    /// Number 1, the only one before RFC 8489.
    Md5,
    /// Number 2.
    Sha256,
}

impl PasswordAlgorithm {
    /// The number in PASSWORD-ALGORITHM(S).
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    /// The algorithm with this number, if it is one we know.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Md5),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }

    /// Bytes of a key made with it.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 => 32,
        }
    }
}

/// Which of the two integrity attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IntegrityAlgorithm {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, 20 bytes.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256, 32 bytes.
    Sha256,
}

impl IntegrityAlgorithm {
    /// The attribute that carries it.
    #[inline]
    #[must_use]
    pub const fn attribute(self) -> AttributeType {
        match self {
            Self::Sha1 => AttributeType::MESSAGE_INTEGRITY,
            Self::Sha256 => AttributeType::MESSAGE_INTEGRITY_SHA256,
        }
    }

    /// Bytes of the value as we send it: never truncated.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the length of a value, not of a container")]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// The key of a long-term credential (RFC 8489 sections 9.2.2 and 18.5.1): as good as the
/// password within its realm, so [`Debug`](fmt::Debug) does not show it.
#[derive(Clone)]
pub struct LongTermKey {
    algorithm: PasswordAlgorithm,
    /// The first `algorithm.key_len()` bytes count.
    bytes: [u8; 32],
}

impl LongTermKey {
    /// The hash of `username:realm:password`, all three already through OpaqueString.
    #[must_use]
    pub fn derive(
        algorithm: PasswordAlgorithm,
        username: &[u8],
        realm: &[u8],
        password: &[u8],
    ) -> Self {
        fn hash<D: Digest>(parts: [&[u8]; 3], out: &mut [u8]) {
            let mut digest = D::new();
            digest.update(parts[0]);
            digest.update(b":");
            digest.update(parts[1]);
            digest.update(b":");
            digest.update(parts[2]);
            out.copy_from_slice(&digest.finalize());
        }
        let mut bytes = [0; 32];
        let out = &mut bytes[..algorithm.key_len()];
        match algorithm {
            PasswordAlgorithm::Md5 => hash::<Md5>([username, realm, password], out),
            PasswordAlgorithm::Sha256 => hash::<Sha256>([username, realm, password], out),
        }
        Self { algorithm, bytes }
    }

    /// A key that somebody derived earlier: 16 bytes for MD5, 32 for SHA-256, else `None`.
    #[must_use]
    pub fn from_bytes(algorithm: PasswordAlgorithm, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != algorithm.key_len() {
            return None;
        }
        let mut key = [0; 32];
        key[..bytes.len()].copy_from_slice(bytes);
        Some(Self { algorithm, bytes: key })
    }

    /// How the key was made.
    #[must_use]
    pub fn algorithm(&self) -> PasswordAlgorithm {
        self.algorithm
    }

    /// The key: a secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.key_len()]
    }
}

impl fmt::Debug for LongTermKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LongTermKey({:?}, secret)", self.algorithm)
    }
}

/// A key ready to sign and verify with one algorithm: the HMAC states after the key, cached.
/// Every allocation keeps one, and so it is without the buffer that a running HMAC has.
#[derive(Clone)]
pub struct IntegrityKey(State);

#[derive(Clone)]
enum State {
    Sha1(HmacCore<Sha1>),
    Sha256(HmacCore<Sha256>),
}

impl IntegrityKey {
    /// Prepares `key` (of any length) for `algorithm`.
    ///
    /// For the long-term mechanism `key` is [`LongTermKey::as_bytes`], for the short-term one the
    /// password after OpaqueString (RFC 8489 section 9.1.1).
    #[must_use]
    pub fn new(algorithm: IntegrityAlgorithm, key: &[u8]) -> Self {
        const ANY_LENGTH: &str = "HMAC takes a key of any length";
        Self(match algorithm {
            IntegrityAlgorithm::Sha1 => {
                State::Sha1(HmacCore::new_from_slice(key).expect(ANY_LENGTH))
            }
            IntegrityAlgorithm::Sha256 => {
                State::Sha256(HmacCore::new_from_slice(key).expect(ANY_LENGTH))
            }
        })
    }

    /// Which integrity attribute it signs and verifies.
    #[inline]
    #[must_use]
    pub fn algorithm(&self) -> IntegrityAlgorithm {
        match self.0 {
            State::Sha1(_) => IntegrityAlgorithm::Sha1,
            State::Sha256(_) => IntegrityAlgorithm::Sha256,
        }
    }

    /// Writes the HMAC of `text` into `out`, which has `algorithm().len()` bytes.
    #[inline]
    pub(crate) fn sign(&self, text: &[u8], out: &mut [u8]) {
        match &self.0 {
            State::Sha1(state) => {
                out.copy_from_slice(&begin(state).chain_update(text).finalize().into_bytes());
            }
            State::Sha256(state) => {
                out.copy_from_slice(&begin(state).chain_update(text).finalize().into_bytes());
            }
        }
    }

    /// Whether `value` is the HMAC of `header` followed by `rest`, all of it.
    #[inline]
    pub(crate) fn verify(&self, header: &[u8], rest: &[u8], value: &[u8]) -> bool {
        //= rfc8489#section-14.6
        //# The value must be the full 32 bytes unless the STUN Usage
        //# explicitly specifies that truncation is allowed.
        // TURN does not, nor does any other usage of ours; ct_eq is false for unequal lengths.
        match &self.0 {
            State::Sha1(state) => {
                let mac = begin(state).chain_update(header).chain_update(rest);
                mac.finalize().into_bytes().as_slice().ct_eq(value).into()
            }
            State::Sha256(state) => {
                let mac = begin(state).chain_update(header).chain_update(rest);
                mac.finalize().into_bytes().as_slice().ct_eq(value).into()
            }
        }
    }
}

/// An HMAC that has read the key and nothing else.
fn begin<D: EagerHash>(keyed: &HmacCore<D>) -> Hmac<D> {
    Hmac::compose(keyed.clone(), Buffer::<HmacCore<D>>::default())
}

impl fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IntegrityKey({:?}, secret)", self.algorithm())
    }
}

/// USERHASH of a user in a realm (RFC 8489 section 14.4), both already through OpaqueString.
#[must_use]
pub fn user_hash(username: &[u8], realm: &[u8]) -> [u8; 32] {
    //= rfc8489#section-14.4
    //# userhash = SHA-256(OpaqueString(username) ":" OpaqueString(realm))
    let mut digest = Sha256::new();
    digest.update(username);
    digest.update(b":");
    digest.update(realm);
    digest.finalize().into()
}

/// FINGERPRINT's value for a message whose bytes before that attribute are `before`.
#[inline]
pub(crate) fn fingerprint(before: &[u8]) -> [u8; FINGERPRINT_LEN] {
    //= rfc8489#section-14.7
    //# The value of the attribute is computed as the CRC-32 of the STUN
    //# message up to (but excluding) the FINGERPRINT attribute itself,
    //# XOR'ed with the 32-bit value 0x5354554e.
    (crc32fast::hash(before) ^ 0x5354_554E).to_be_bytes()
}
