//! Access tokens of an authorization server (RFC 7635): a client brings its session key along,
//! encrypted for this server. Nothing is stored per token.

use std::collections::BTreeMap;

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use turnway_wire::{IntegrityAlgorithm, IntegrityKey};
use zeroize::Zeroizing;

use super::config::{AuthConfigError, OAuthConfig, OAuthKey, OAuthSecret};
use super::opaque::opaque_string;
use crate::outcome::AuthFailure;

/// RFC 5116 section 5.1: the nonce of AES-GCM.
const NONCE_LEN: usize = 12;
/// RFC 5116 section 5.1: the authentication tag at the end of the ciphertext.
const TAG_LEN: usize = 16;
/// Bytes of `timestamp` and `lifetime`.
const TIMES_LEN: usize = 8 + 4;
/// The block size of SHA-256: a longer key would only be hashed down by the HMAC.
const SESSION_KEY_MAX: usize = 64;
//= rfc7635#section-6.2
//# The key length of
//# 160 bits MUST be supported (i.e., only the 160-bit key is used by
//# HMAC-SHA-1 for message integrity of STUN messages).
const SESSION_KEY_MIN: usize = 20;
/// Less than [`SESSION_KEY_MIN`], and still as much as AES-128 has.
const COTURN_KEY_LEN: usize = 16;
const PLAINTEXT_MAX: usize = 2 + SESSION_KEY_MAX + TIMES_LEN;

/// The keys shared with authorization servers, and the name that their tokens are for.
pub(super) struct Tokens {
    server_name: Box<[u8]>,
    skew_s: u64,
    keys: BTreeMap<Box<[u8]>, Key>,
}

struct Key {
    cipher: Cipher,
    not_before_unix: Option<u64>,
    not_after_unix: Option<u64>,
}

enum Cipher {
    A128Gcm(Box<Aes128Gcm>),
    A256Gcm(Box<Aes256Gcm>),
}

/// What a valid token says.
pub(super) struct Session {
    /// What the client signs with.
    key: Zeroizing<Vec<u8>>,
    /// When the token ends, allowed clock skew included.
    pub(super) expires_unix: u64,
    /// How long it is valid in all, in seconds.
    pub(super) lifetime_s: u32,
}

impl Session {
    /// The keys a request may be signed with, in one of the two integrity attributes: the session
    /// key, or what coturn's client makes of it. That takes no more of any key than MD5 has bytes.
    //= rfc7635#section-5
    //# The STUN client and server
    //# will use the mac_key to compute the message integrity and do not
    //# perform MD5 hash on the credentials.
    pub(super) fn keys(
        &self,
        algorithm: IntegrityAlgorithm,
    ) -> impl Iterator<Item = IntegrityKey> + use<'_> {
        let cut = &self.key[..COTURN_KEY_LEN];
        [&self.key[..], cut].into_iter().map(move |key| IntegrityKey::new(algorithm, key))
    }
}

impl Tokens {
    pub(super) fn new(config: OAuthConfig) -> Result<Self, AuthConfigError> {
        let server_name: Box<[u8]> = config.server_name.as_bytes().into();
        if server_name.is_empty() || config.server_name.contains(char::is_control) {
            return Err(AuthConfigError::BadServerName);
        }
        let mut keys = BTreeMap::new();
        for OAuthKey { kid, secret, not_before_unix, not_after_unix } in config.keys {
            let Some(prepared) = opaque_string(kid.as_bytes()) else {
                return Err(AuthConfigError::BadUserName { name: kid });
            };
            let prepared: Box<[u8]> = prepared.as_bytes().into();
            let key = Key { cipher: Cipher::new(&secret), not_before_unix, not_after_unix };
            if keys.insert(prepared, key).is_some() {
                return Err(AuthConfigError::DuplicateUser { name: kid });
            }
        }
        Ok(Self { server_name, skew_s: config.clock_skew_s.into(), keys })
    }

    /// The value of THIRD-PARTY-AUTHORIZATION.
    pub(super) fn server_name(&self) -> &[u8] {
        &self.server_name
    }

    pub(super) fn has(&self, kid: &[u8]) -> bool {
        self.keys.contains_key(kid)
    }

    /// Decrypts the token that came with a key identifier, and holds it to its time.
    ///
    /// `late_allowed`: its end does not matter.
    //= rfc7635#section-7
    //# The STUN server selects the keying material based on kid signaled
    //# in the USERNAME attribute.
    pub(super) fn open(
        &self,
        kid: &[u8],
        token: &[u8],
        unix_s: u64,
        late_allowed: bool,
    ) -> Result<Session, AuthFailure> {
        let key = self.keys.get(kid).ok_or(AuthFailure::UnknownUser)?;
        let mut plain = Zeroizing::new([0; PLAINTEXT_MAX]);
        let plain = key.decrypt(token, &self.server_name, &mut plain);
        let token = plain.and_then(Plain::read).ok_or(AuthFailure::BadToken)?;
        let begins_unix = token.begins_unix.max(key.not_before_unix.unwrap_or(0));
        //= rfc7635#section-7
        //# The access token is accepted if the timestamp field (TS) in the
        //# self-contained token is shortly before the reception time of
        //# the STUN request (RDnew).
        // The formula that follows there would also take a token from the future, for as long as
        // it is to live. Only clocks may differ here, and by no more than is configured.
        if begins_unix > unix_s.saturating_add(self.skew_s) {
            return Err(AuthFailure::NotYetValid { in_s: begins_unix - unix_s });
        }
        let ends_unix = token.begins_unix.saturating_add(token.lifetime_s.into());
        let ends_unix = ends_unix.min(key.not_after_unix.unwrap_or(u64::MAX));
        let expires_unix = ends_unix.saturating_add(self.skew_s);
        if expires_unix <= unix_s && !late_allowed {
            return Err(AuthFailure::Expired { by_s: unix_s - expires_unix });
        }
        let session_key = Zeroizing::new(token.session_key.to_vec());
        Ok(Session { key: session_key, expires_unix, lifetime_s: token.lifetime_s })
    }
}

impl Key {
    /// The plaintext, in `out`.
    fn decrypt<'o>(
        &self,
        token: &[u8],
        server_name: &[u8],
        out: &'o mut [u8; PLAINTEXT_MAX],
    ) -> Option<&'o [u8]> {
        let (nonce_len, rest) = token.split_first_chunk()?;
        if usize::from(u16::from_be_bytes(*nonce_len)) != NONCE_LEN {
            return None;
        }
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let plain = out.get_mut(..sealed.len())?;
        //= rfc7635#section-6.2
        //# The associated data (A) MUST be the STUN server name.
        let buffer = InOutBuf::new(sealed, plain).ok()?;
        let opened = match &self.cipher {
            Cipher::A128Gcm(cipher) => {
                cipher.decrypt_inout_detached(nonce.into(), server_name, buffer, tag.into())
            }
            Cipher::A256Gcm(cipher) => {
                cipher.decrypt_inout_detached(nonce.into(), server_name, buffer, tag.into())
            }
        };
        opened.ok()?;
        Some(&out[..sealed.len()])
    }
}

impl Cipher {
    fn new(secret: &OAuthSecret) -> Self {
        match secret {
            OAuthSecret::A128Gcm(key) => Self::A128Gcm(Box::new(Aes128Gcm::new((&**key).into()))),
            OAuthSecret::A256Gcm(key) => Self::A256Gcm(Box::new(Aes256Gcm::new((&**key).into()))),
        }
    }
}

/// The decrypted block of RFC 7635 section 6.2, figure 4.
struct Plain<'a> {
    session_key: &'a [u8],
    begins_unix: u64,
    lifetime_s: u32,
}

impl<'a> Plain<'a> {
    /// `None` if the parts are not there, or of no use.
    fn read(block: &'a [u8]) -> Option<Self> {
        let (key_len, rest) = block.split_first_chunk()?;
        let (session_key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_len).into())?;
        let (timestamp, rest) = rest.split_first_chunk()?;
        let lifetime_s = u32::from_be_bytes(rest.try_into().ok()?);
        if !(SESSION_KEY_MIN..=SESSION_KEY_MAX).contains(&session_key.len()) || lifetime_s == 0 {
            return None;
        }
        //= rfc7635#section-6.2
        //# In this format, the integer number of
        //# seconds is contained in the first 48 bits of the field, and the
        //# remaining 16 bits indicate the number of 1/64000 fractions of a
        //# second (Native format - Unix).
        let begins_unix = u64::from_be_bytes(*timestamp) >> 16;
        Some(Self { session_key, begins_unix, lifetime_s })
    }
}
