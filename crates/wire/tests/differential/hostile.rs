//! Messages that break rules: assembled from lying parts, or written well and then damaged.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use turnway_wire::AttributeType;

use crate::{FINGERPRINT, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256};

/// Type, value, and how much the length field lies.
pub(crate) fn attribute() -> impl Strategy<Value = (u16, Vec<u8>, u16)> {
    let ty = prop_oneof![
        3 => select(&[MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, FINGERPRINT][..]),
        3 => select(AttributeType::TABLE).prop_map(|ty| ty.0),
        1 => any::<u16>(),
    ];
    let value = prop_oneof![
        select(&[4, 16, 20, 32][..]).prop_flat_map(|len| vec(any::<u8>(), len)),
        vec(any::<u8>(), 0..40),
    ];
    (ty, value, prop_oneof![9 => Just(0), 1 => any::<u16>()])
}

/// First two bytes, and how much the length field lies.
pub(crate) fn header() -> impl Strategy<Value = ([u8; 2], u16)> {
    let first = prop_oneof![9 => 0..64u8, 1 => any::<u8>()];
    ((first, any::<u8>()).prop_map(Into::into), prop_oneof![9 => Just(0), 1 => any::<u16>()])
}

/// What stands at the end: a right fingerprint, or some surplus bytes.
pub(crate) fn end() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        4 => Just(None),
        4 => Just(Some(vec![])),
        1 => vec(any::<u8>(), 1..6).prop_map(Some),
    ]
}

pub(crate) fn assemble(
    (first, lie): ([u8; 2], u16),
    attributes: &[(u16, Vec<u8>, u16)],
    end: Option<Vec<u8>>,
) -> Vec<u8> {
    let mut bytes = [&first[..], b"\0\0\x21\x12\xA4\x42transaction1"].concat();
    for (ty, value, lie) in attributes {
        let len = u16::try_from(value.len()).unwrap().wrapping_add(*lie);
        bytes.extend_from_slice(&ty.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let fingerprint = if end.is_none() { 8 } else { 0 };
    let length = u16::try_from(bytes.len() - 20 + fingerprint).unwrap().wrapping_add(lie);
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    match end {
        None => {
            let crc = crc32fast::hash(&bytes) ^ 0x5354_554E;
            bytes.extend_from_slice(&[0x80, 0x28, 0x00, 0x04]);
            bytes.extend_from_slice(&crc.to_be_bytes());
        }
        Some(surplus) => bytes.extend_from_slice(&surplus),
    }
    bytes
}

#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Set(Index, u8),
    Truncate(Index),
    Append(Vec<u8>),
    /// Cuts the last attribute, FINGERPRINT, off and corrects the length.
    DropFingerprint,
    CorrectLength,
}

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<Index>().prop_map(Damage::Truncate),
        1 => vec(any::<u8>(), 1..9).prop_map(Damage::Append),
        3 => Just(Damage::DropFingerprint),
        2 => Just(Damage::CorrectLength),
    ]
}

impl Damage {
    pub(crate) fn inflict(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Set(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            Self::Set(..) => {}
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Self::Append(more) => bytes.extend_from_slice(&more),
            Self::DropFingerprint => {
                bytes.truncate(bytes.len().saturating_sub(8));
                Self::CorrectLength.inflict(bytes);
            }
            Self::CorrectLength if bytes.len() >= 20 => {
                let length = u16::try_from(bytes.len() - 20).unwrap();
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
            }
            Self::CorrectLength => {}
        }
    }
}
