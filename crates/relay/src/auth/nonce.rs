//! Stateless nonces: authenticated instead of remembered.
//!
//! A nonce is 40 printable characters: the 13 of the RFC 8489 nonce cookie, then the base64 of
//! `timestamp (4 bytes) ‖ tag (16 bytes)`. The tag is a truncated HMAC-SHA256 under the nonce
//! secret over the realm, the offered features, the timestamp and the client's transport address.
//! Every server with the same secret, realm and features verifies it; nothing is stored for a
//! client that has not authenticated. Old clients have buffers of 64 characters.

use core::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The characters of every nonce.
pub(super) const NONCE_LEN: usize = COOKIE_LEN + BODY_CHARS;

/// How far a fleet's clocks may be apart, in seconds.
const FUTURE_MAX_S: u32 = 60;

/// Half of the 32-bit clock's circle (68 years): what is older cannot be told from the future.
const LIFETIME_MAX_S: u32 = u32::MAX / 2;

const COOKIE_PREFIX: &[u8; 9] = b"obMatJos2";
const COOKIE_LEN: usize = COOKIE_PREFIX.len() + 4;
const TIMESTAMP_LEN: usize = 4;
const TAG_LEN: usize = 16;
const BODY_LEN: usize = TIMESTAMP_LEN + TAG_LEN;
/// Base64 without padding characters: four for every three bytes, rounded up.
const BODY_CHARS: usize = (BODY_LEN * 4).div_ceil(3);

/// The STUN security features of RFC 8489 section 18.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// Bit 0: PASSWORD-ALGORITHMS is sent.
    pub(super) password_algorithms: bool,
    /// Bit 1: USERHASH is honoured.
    pub(super) username_anonymity: bool,
}

impl Features {
    //= rfc8489#section-9.2
    //# The 24-bit Security Feature set is encoded as 3 bytes,
    //# with bit 0 as the most significant bit of the first byte and bit 23
    //# as the least significant bit of the third byte.
    fn bits(self) -> [u8; 3] {
        let bit = |set: bool, bit: u8| if set { 0x80 >> bit } else { 0 };
        [bit(self.password_algorithms, 0) | bit(self.username_anonymity, 1), 0, 0]
    }
}

/// Makes and verifies the nonces of one realm. No heap allocation in either.
pub(super) struct Nonces {
    /// Keyed, and fed with all that is the same for every client.
    mac: Hmac<Sha256>,
    cookie: [u8; COOKIE_LEN],
    lifetime_s: u32,
}

impl Nonces {
    /// `offered` is the value of PASSWORD-ALGORITHMS: a nonce vouches for what was sent with it.
    pub(super) fn new(
        secret: &[u8],
        lifetime_s: u32,
        realm: &[u8],
        features: Features,
        offered: &[u8],
    ) -> Self {
        let mut mac = Hmac::new_from_slice(secret).expect("HMAC takes keys of any length");
        for part in [realm, &features.bits(), offered] {
            // Lengths keep the parts apart: no other split of the same bytes has the same tag.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Self { mac, cookie: cookie(features), lifetime_s: lifetime_s.min(LIFETIME_MAX_S) }
    }

    /// The nonce for a client at this moment.
    pub(super) fn make(&self, client: SocketAddr, unix_s: u64) -> [u8; NONCE_LEN] {
        self.at(client, clock(unix_s))
    }

    /// Whether the nonce was made here (or by a server of the same fleet) for this client, and is
    /// not older than its lifetime.
    pub(super) fn verify(&self, nonce: &[u8], client: SocketAddr, unix_s: u64) -> bool {
        let Some(timestamp) = timestamp(nonce) else {
            return false;
        };
        // Making it again and comparing all of it leaves no other spelling of the same nonce, and
        // no other cookie, that is accepted.
        let genuine: bool = self.at(client, timestamp).ct_eq(nonce).into();
        genuine && self.is_fresh(timestamp, clock(unix_s))
    }

    fn is_fresh(&self, timestamp: u32, now: u32) -> bool {
        now.wrapping_sub(timestamp) <= self.lifetime_s
            || timestamp.wrapping_sub(now) <= FUTURE_MAX_S
    }

    //= rfc8489#section-9.2.4
    //# The server MUST NOT choose the
    //# same NONCE for two requests unless they have the same source IP
    //# address and port.
    fn at(&self, client: SocketAddr, timestamp: u32) -> [u8; NONCE_LEN] {
        // An IPv4 client is the same client whether its socket shows it mapped or not.
        let ip = match client.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut mac = self.mac.clone();
        mac.update(&timestamp.to_be_bytes());
        mac.update(&ip.octets());
        mac.update(&client.port().to_be_bytes());
        let tag = mac.finalize().into_bytes();

        let mut body = [0; BODY_LEN];
        body[..TIMESTAMP_LEN].copy_from_slice(&timestamp.to_be_bytes());
        body[TIMESTAMP_LEN..].copy_from_slice(&tag[..TAG_LEN]);
        let mut nonce = [0; NONCE_LEN];
        nonce[..COOKIE_LEN].copy_from_slice(&self.cookie);
        encode(&body, &mut nonce[COOKIE_LEN..]);
        nonce
    }
}

//= rfc8489#section-9.2
//# To indicate that it supports this specification, a server MUST
//# prepend the NONCE attribute value with the character string composed
//# of "obMatJos2" concatenated with the (4-character) base64 [RFC4648]
//# encoding of the 24-bit STUN Security Features as defined in
//# Section 18.1.
fn cookie(features: Features) -> [u8; COOKIE_LEN] {
    let mut cookie = [0; COOKIE_LEN];
    cookie[..COOKIE_PREFIX.len()].copy_from_slice(COOKIE_PREFIX);
    encode(&features.bits(), &mut cookie[COOKIE_PREFIX.len()..]);
    cookie
}

/// The clock of nonces: whole seconds, modulo 2^32. Differences survive its wrap in 2106.
fn clock(unix_s: u64) -> u32 {
    unix_s as u32
}

fn timestamp(nonce: &[u8]) -> Option<u32> {
    let body = nonce.get(COOKIE_LEN..)?;
    if body.len() != BODY_CHARS {
        return None;
    }
    let mut bytes = [0; BODY_LEN];
    STANDARD_NO_PAD.decode_slice_unchecked(body, &mut bytes).ok()?;
    let [a, b, c, d, ..] = bytes;
    Some(u32::from_be_bytes([a, b, c, d]))
}

/// Standard base64: its characters are all `qdtext` of RFC 3261.
fn encode(bytes: &[u8], out: &mut [u8]) {
    STANDARD_NO_PAD.encode_slice(bytes, out).expect("the lengths are constants that fit");
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;
    const LIFETIME: u32 = 600;
    const ALL: Features = Features { password_algorithms: true, username_anonymity: true };

    fn nonces_of(secret: &[u8], realm: &[u8], features: Features, offered: &[u8]) -> Nonces {
        Nonces::new(secret, LIFETIME, realm, features, offered)
    }

    fn nonces() -> Nonces {
        nonces_of(b"0123456789abcdef", b"example.org", ALL, &[0, 2, 0, 0])
    }

    fn client() -> SocketAddr {
        "192.0.2.1:40000".parse().unwrap()
    }

    #[test]
    fn a_nonce_is_verified_by_the_whole_fleet() {
        let nonce = nonces().make(client(), NOW);
        assert!(nonces().verify(&nonce, client(), NOW));
    }

    #[test]
    fn a_nonce_has_forty_printable_characters() {
        let nonce = nonces().make(client(), NOW);
        assert_eq!(nonce.len(), 40);
        //= rfc8489#section-14.10
        //= type=test
        //# It
        //# contains a sequence of qdtext or quoted-pair, which are defined in
        //# [RFC3261].
        let qdtext = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        assert!(nonce.iter().all(qdtext), "{nonce:?}");
    }

    #[test]
    fn the_cookie_tells_the_features() {
        //= rfc8489#section-9.2
        //= type=test
        //# To indicate that it supports this specification, a server MUST
        //# prepend the NONCE attribute value with the character string composed
        //# of "obMatJos2" concatenated with the (4-character) base64 [RFC4648]
        //# encoding of the 24-bit STUN Security Features as defined in
        //# Section 18.1.
        let cookie = |password_algorithms, username_anonymity| {
            let features = Features { password_algorithms, username_anonymity };
            let nonce = nonces_of(b"secret", b"realm", features, b"").make(client(), NOW);
            String::from_utf8(nonce[..COOKIE_LEN].to_vec()).unwrap()
        };
        assert_eq!(cookie(true, false), "obMatJos2gAAA", "bit 0 is the highest");
        assert_eq!(cookie(false, true), "obMatJos2QAAA");
        assert_eq!(cookie(true, true), "obMatJos2wAAA");
        //= rfc8489#section-9.2
        //= type=test
        //# If no security
        //# features are used, then a byte array with all 24 bits set to zero
        //# MUST be encoded instead.
        assert_eq!(cookie(false, false), "obMatJos2AAAA");
    }

    #[test]
    fn a_nonce_is_of_use_to_its_client_alone() {
        let nonce = nonces().make(client(), NOW);
        for other in
            ["192.0.2.1:40001", "192.0.2.2:40000", "[2001:db8::1]:40000", "[::192.0.2.1]:40000"]
        {
            let other = other.parse().unwrap();
            assert!(!nonces().verify(&nonce, other, NOW), "{other}");
            //= rfc8489#section-9.2.4
            //= type=test
            //# The server MUST NOT choose the
            //# same NONCE for two requests unless they have the same source IP
            //# address and port.
            assert_ne!(nonces().make(other, NOW), nonce);
        }
    }

    #[test]
    fn a_mapped_client_is_the_same_client() {
        let nonce = nonces().make(client(), NOW);
        let mapped = "[::ffff:192.0.2.1]:40000".parse().unwrap();
        assert!(nonces().verify(&nonce, mapped, NOW));
    }

    #[test]
    fn a_nonce_of_another_secret_realm_or_offer_is_refused() {
        let nonce = nonces().make(client(), NOW);
        let secret = b"0123456789abcdef";
        let no_hash = Features { username_anonymity: false, ..ALL };
        for other in [
            nonces_of(b"0123456789abcdeg", b"example.org", ALL, &[0, 2, 0, 0]),
            nonces_of(secret, b"example.net", ALL, &[0, 2, 0, 0]),
            nonces_of(secret, b"example.org", no_hash, &[0, 2, 0, 0]),
            nonces_of(secret, b"example.org", ALL, &[0, 2, 0, 0, 0, 1, 0, 0]),
        ] {
            assert!(!other.verify(&nonce, client(), NOW));
        }
    }

    #[test]
    fn a_nonce_lives_for_its_lifetime() {
        let nonce = nonces().make(client(), NOW);
        let lifetime = u64::from(LIFETIME);
        assert!(nonces().verify(&nonce, client(), NOW + lifetime));
        assert!(!nonces().verify(&nonce, client(), NOW + lifetime + 1));
        assert!(!nonces().verify(&nonce, client(), NOW + 100 * lifetime));
    }

    #[test]
    fn a_nonce_from_the_future_is_refused_but_for_skewed_clocks() {
        let nonce = nonces().make(client(), NOW);
        assert!(nonces().verify(&nonce, client(), NOW - u64::from(FUTURE_MAX_S)));
        assert!(!nonces().verify(&nonce, client(), NOW - u64::from(FUTURE_MAX_S) - 1));
    }

    #[test]
    fn nonces_survive_the_wrap_of_their_clock() {
        let wrap = 1 << 32;
        let nonce = nonces().make(client(), wrap - 1);
        assert!(nonces().verify(&nonce, client(), wrap + 1));
        assert!(!nonces().verify(&nonce, client(), wrap + u64::from(LIFETIME)));
    }

    #[test]
    fn the_longest_lifetime_still_refuses_the_future() {
        let forever = Nonces::new(b"secret", u32::MAX, b"realm", ALL, b"");
        let nonce = forever.make(client(), NOW);
        assert!(forever.verify(&nonce, client(), NOW + 1_000_000_000));
        assert!(!forever.verify(&nonce, client(), NOW - 3_600));
    }

    #[test]
    fn no_bit_of_a_nonce_can_be_flipped() {
        let nonce = nonces().make(client(), NOW);
        for at in 0..nonce.len() {
            for bit in 0..8 {
                let mut forged = nonce;
                forged[at] ^= 1 << bit;
                assert!(!nonces().verify(&forged, client(), NOW), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_nonce_of_another_length_is_refused() {
        let nonce = nonces().make(client(), NOW);
        let mut longer = nonce.to_vec();
        longer.push(b'A');
        assert!(!nonces().verify(&longer, client(), NOW));
        for len in 0..nonce.len() {
            assert!(!nonces().verify(&nonce[..len], client(), NOW), "{len}");
        }
        assert!(!nonces().verify(&[b'A'; 763], client(), NOW));
    }
}
