//! A fourth reading, as naive as can be: the RFC's rules one after the other.

use crate::{FINGERPRINT, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256};

/// Types and values, in order.
pub(crate) type Attributes = Vec<(u16, Vec<u8>)>;

/// What the rules say about some bytes.
pub(crate) struct Walk {
    pub(crate) header_ok: bool,
    pub(crate) length_ok: bool,
    /// Up to the first that does not fit.
    pub(crate) attributes: Attributes,
    pub(crate) fingerprint_ok: bool,
    pub(crate) fingerprint_last: bool,
    /// An attribute follows integrity or fingerprint that must not, so `stun-types` stops there.
    pub(crate) something_after_the_end: bool,
}

pub(crate) fn walk(bytes: &[u8]) -> Walk {
    let header_ok = bytes.len() >= 20 && bytes[0] < 64 && bytes[4..8] == [0x21, 0x12, 0xA4, 0x42];
    let length_ok = bytes.len() >= 20
        && (usize::from(bytes[2]) << 8 | usize::from(bytes[3])) == bytes.len() - 20
        && bytes.len().is_multiple_of(4);
    let mut walk = Walk {
        header_ok,
        length_ok,
        attributes: vec![],
        fingerprint_ok: true,
        fingerprint_last: true,
        something_after_the_end: false,
    };
    let mut ended = vec![];
    let mut at = 20;
    while at + 4 <= bytes.len() {
        let ty = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let len = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        let Some(value) = bytes.get(at + 4..at + 4 + len) else {
            break;
        };
        let next = at + 4 + len.next_multiple_of(4);
        if ty == FINGERPRINT {
            let crc = crc32fast::hash(&bytes[..at]) ^ 0x5354_554E;
            walk.fingerprint_ok &= next == bytes.len() && value == crc.to_be_bytes();
            walk.fingerprint_last &= next == bytes.len();
        }
        let place = match ty {
            MESSAGE_INTEGRITY => 1,
            MESSAGE_INTEGRITY_SHA256 => 2,
            FINGERPRINT => 3,
            _ => 0,
        };
        walk.something_after_the_end |= ended.last().is_some_and(|&last| place <= last);
        if place > 0 {
            ended.push(place);
        }
        walk.attributes.push((ty, value.to_vec()));
        at = next;
    }
    walk
}

impl Walk {
    pub(crate) fn honoured(&self) -> Attributes {
        let (mut integrity, mut sha256) = (false, false);
        let mut honoured = self.attributes.clone();
        honoured.retain(|&(ty, _)| {
            let keep = match ty {
                FINGERPRINT => true,
                MESSAGE_INTEGRITY_SHA256 => !sha256,
                _ => !integrity && !sha256,
            };
            integrity |= keep && ty == MESSAGE_INTEGRITY;
            sha256 |= keep && ty == MESSAGE_INTEGRITY_SHA256;
            keep
        });
        honoured
    }
}
