//! The same messages through us, the `stun` crate (0.17) and the `stun-types` crate (2.0).
//!
//! * [`content`]: messages with one of each attribute, written by each of the three
//! * [`hostile`]: messages assembled or damaged
//! * [`naive`]: a fourth reading, straight from the RFC's rules
//!
//! Where they differ, and why we do as we do:
//!
//! | Rule | `stun` | `stun-types` | we |
//! |---|---|---|---|
//! | first two bits zero (RFC 8489 section 5) | not checked | checked | checked |
//! | bytes behind the message | ignored | ignored | refused: the length field lies |
//! | length a multiple of four (section 5) | follows from the walk | not checked | checked |
//! | FINGERPRINT's value (section 6.3) | when asked | checked | checked |
//! | FINGERPRINT last (section 14.7) | not checked | not checked | checked |
//! | after MESSAGE-INTEGRITY (section 9) | honoured | reading ends | skipped, the rest checked |
//! | MESSAGE-INTEGRITY-SHA256 cut to 16 bytes (section 14.6) | unknown | valid | never valid |

mod content;
mod hostile;
mod naive;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use stun::fingerprint::FINGERPRINT as STUN_FINGERPRINT;
use stun::message::Getter as _;
use turnway_wire::{AttributeType, IntegrityAlgorithm, IntegrityKey, Message, frame};

use content::{
    assert_content, content, key, ordinary_attribute, write_ours, write_stun, write_stun_types,
};
use hostile::{assemble, attribute, damage, end, header};
use naive::{Attributes, walk};

const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
const FINGERPRINT: u16 = 0x8028;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// What we write, `stun` reads: same header, same attributes, valid integrity and fingerprint.
    #[test]
    fn ours_is_read_by_stun(content in content(), key in key()) {
        let bytes = write_ours(&content, &[(IntegrityAlgorithm::Sha1, &key)]);
        let mut theirs = stun_parse(&bytes).unwrap();
        prop_assert_eq!(theirs.transaction_id.0, content.tid);
        prop_assert_eq!(theirs.typ.value(), first_bits(&bytes));
        let ours = Message::parse(&bytes).unwrap();
        prop_assert_eq!(owned(ours.attributes()), stun_attributes(&theirs));

        for (ty, text) in [
            (stun::attributes::ATTR_USERNAME, &content.username),
            (stun::attributes::ATTR_REALM, &content.realm),
            (stun::attributes::ATTR_NONCE, &content.nonce),
            (stun::attributes::ATTR_SOFTWARE, &content.software),
        ] {
            let read = stun::textattrs::TextAttribute::get_from_as(&theirs, ty).unwrap();
            prop_assert_eq!(&read.text, text);
        }
        let mut address = stun::xoraddr::XorMappedAddress::default();
        address.get_from(&theirs).unwrap();
        prop_assert_eq!((address.ip, address.port), (content.mapped.ip(), content.mapped.port()));
        let peer = stun::attributes::ATTR_XOR_PEER_ADDRESS;
        address.get_from_as(&theirs, peer).unwrap();
        prop_assert_eq!((address.ip, address.port), (content.peer.ip(), content.peer.port()));
        let mut error = stun::error_code::ErrorCodeAttribute::default();
        error.get_from(&theirs).unwrap();
        prop_assert_eq!((error.code.0, error.reason), (content.error.0, content.error.1.into()));
        let mut unknown = stun::uattrs::UnknownAttributes(vec![]);
        unknown.get_from(&theirs).unwrap();
        let unknown: Vec<u16> = unknown.0.iter().map(|ty| ty.0).collect();
        prop_assert_eq!(unknown, content.unknown);

        let integrity = stun::integrity::MessageIntegrity(key.clone().into_bytes());
        prop_assert!(integrity.check(&mut theirs).is_ok());
        prop_assert!(STUN_FINGERPRINT.check(&theirs).is_ok());
    }

    /// What we write, `stun-types` reads, with either integrity or both.
    #[test]
    fn ours_is_read_by_stun_types(content in content(), key in key(), which in 1..=3) {
        let mut algorithms = vec![];
        if which & 1 != 0 {
            algorithms.push((IntegrityAlgorithm::Sha1, &key[..]));
        }
        if which & 2 != 0 {
            algorithms.push((IntegrityAlgorithm::Sha256, &key[..]));
        }
        let bytes = write_ours(&content, &algorithms);
        let theirs = stun_types::message::Message::from_bytes(&bytes).unwrap();
        prop_assert_eq!(u128::from(theirs.transaction_id()), tid_number(&content.tid));
        prop_assert_eq!(theirs.method().value(), content.method);
        let ours = Message::parse(&bytes).unwrap();
        prop_assert_eq!(owned(ours.attributes()), stun_types_attributes(&theirs));

        use stun_types::attribute as a;
        let read = theirs.attribute::<a::Username>().unwrap();
        prop_assert_eq!(read.username(), &content.username);
        let read = theirs.attribute::<a::Realm>().unwrap();
        prop_assert_eq!(read.realm(), &content.realm);
        let read = theirs.attribute::<a::Nonce>().unwrap();
        prop_assert_eq!(read.nonce(), &content.nonce);
        let read = theirs.attribute::<a::Software>().unwrap();
        prop_assert_eq!(read.software(), &content.software);
        let read = theirs.attribute::<a::Userhash>().unwrap();
        prop_assert_eq!(read.hash(), &content.user_hash);
        let read = theirs.attribute::<a::XorMappedAddress>().unwrap();
        prop_assert_eq!(read.addr(theirs.transaction_id()), content.mapped);
        let read = theirs.attribute::<a::ErrorCode>().unwrap();
        prop_assert_eq!((read.code(), read.reason()), (content.error.0, &content.error.1[..]));
        let read = theirs.attribute::<a::UnknownAttributes>().unwrap();
        for &ty in &content.unknown {
            prop_assert!(read.has_attribute(ty.into()));
        }
        let read = theirs.attribute::<a::PasswordAlgorithms>().unwrap();
        let both = [a::PasswordAlgorithmValue::SHA256, a::PasswordAlgorithmValue::MD5];
        prop_assert_eq!(read.algorithms(), &both[..]);

        prop_assert!(theirs.validate_integrity_with_key(&stun_types_key(&key)).is_ok());
        prop_assert!(theirs.validate_integrity_with_key(&stun_types_key("wrong")).is_err());
    }

    /// What `stun` writes, we read.
    #[test]
    fn stun_is_read_by_us(
        content in content(),
        extra in vec(ordinary_attribute(), 0..4),
        key in key(),
    ) {
        let bytes = write_stun(&content, &extra, &key);
        let ours = Message::parse(&bytes).unwrap();
        assert_content(&ours, &content)?;
        prop_assert_eq!(owned(ours.attributes()), stun_attributes(&stun_parse(&bytes).unwrap()));
        prop_assert!(ours.has_fingerprint());
        prop_assert!(ours.verify(&our_key(IntegrityAlgorithm::Sha1, &key)));
        prop_assert!(!ours.verify(&our_key(IntegrityAlgorithm::Sha1, "wrong")));
    }

    /// What `stun-types` writes, we read.
    #[test]
    fn stun_types_is_read_by_us(
        content in content(),
        extra in vec(ordinary_attribute(), 0..4),
        key in key(),
        algorithm in select(&[IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256][..]),
    ) {
        let bytes = write_stun_types(&content, &extra, &key, algorithm);
        let ours = Message::parse(&bytes).unwrap();
        assert_content(&ours, &content)?;
        prop_assert!(ours.has_fingerprint());
        prop_assert_eq!(ours.integrity(), Some(algorithm));
        prop_assert!(ours.verify(&our_key(algorithm, &key)));
        prop_assert!(!ours.verify(&our_key(algorithm, "wrong")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Bytes without any structure: nobody finds a message in them, and nobody panics.
    #[test]
    fn noise(bytes in vec(any::<u8>(), 0..200)) {
        assert_agreement(&bytes, "key")?;
    }

    /// A right header, then attributes of interesting types, some with lying lengths.
    #[test]
    fn assembled(header in header(), attributes in vec(attribute(), 0..8), end in end()) {
        assert_agreement(&assemble(header, &attributes, end), "key")?;
    }

    /// A valid signed message, damaged.
    #[test]
    fn damaged(
        content in content(),
        both in any::<bool>(),
        damage in vec(damage(), 0..4),
    ) {
        let signed = [(IntegrityAlgorithm::Sha1, "key"), (IntegrityAlgorithm::Sha256, "key")];
        let mut bytes = write_ours(&content, &signed[..1 + usize::from(both)]);
        for damage in damage {
            damage.inflict(&mut bytes);
        }
        assert_agreement(&bytes, "key")?;
    }
}

/// We and both crates agree on whether `bytes` is a message, on what it says, and on whether it
/// was signed with `key`; the differences in the table above are allowed for, and no others.
fn assert_agreement(bytes: &[u8], key: &str) -> Result<(), TestCaseError> {
    let _ = frame(bytes);
    let ours = Message::parse(bytes);
    let walk = walk(bytes);

    let stun = stun_parse(bytes);
    let exact = walk.header_ok && walk.length_ok;
    prop_assert_eq!(ours.is_ok(), stun.is_ok() && exact && walk.fingerprint_ok, "{:?}", ours);

    let types = stun_types::message::Message::from_bytes(bytes);
    if ours.is_ok() {
        prop_assert!(types.is_ok(), "{:?}", types);
    } else if exact && walk.fingerprint_last && !walk.something_after_the_end {
        prop_assert!(types.is_err(), "we: {:?}", ours);
    }

    let (Ok(ours), Ok(mut stun), Ok(types)) = (ours, stun, types) else {
        return Ok(());
    };
    prop_assert_eq!(owned(ours.attributes()), walk.honoured());
    if stun.attributes.0.iter().all(|a| a.typ != stun::attributes::ATTR_XORMAPPED_ADDRESS) {
        prop_assert_eq!(stun_attributes(&stun), walk.attributes.clone());
    }
    if ours.has(AttributeType::MESSAGE_INTEGRITY) {
        let theirs = stun::integrity::MessageIntegrity(key.into()).check(&mut stun).is_ok();
        prop_assert_eq!(ours.verify(&our_key(IntegrityAlgorithm::Sha1, key)), theirs);
    }
    let cut =
        ours.raw(AttributeType::MESSAGE_INTEGRITY_SHA256).is_some_and(|value| value.len() < 32);
    if !walk.something_after_the_end && !cut {
        prop_assert_eq!(stun_types_attributes(&types), walk.attributes.clone());
        let valid = ours.integrity().is_some_and(|a| ours.verify(&our_key(a, key)));
        let theirs = types.validate_integrity_with_key(&stun_types_key(key)).is_ok();
        prop_assert_eq!(valid, theirs);
    }
    for (ty, value) in walk.honoured() {
        let first = walk.honoured().into_iter().find(|(t, _)| *t == ty).unwrap();
        prop_assert_eq!(ours.raw(AttributeType(ty)), Some(&first.1[..]));
        prop_assert!(ours.has(AttributeType(ty)));
        prop_assert!(value.len() <= bytes.len());
    }
    Ok(())
}

fn stun_parse(bytes: &[u8]) -> Result<stun::message::Message, stun::Error> {
    let mut message = stun::message::Message::new();
    message.unmarshal_binary(bytes).map(|()| message)
}

fn stun_attributes(message: &stun::message::Message) -> Attributes {
    let attributes = message.attributes.0.iter();
    attributes.map(|a| (a.typ.0, a.value.clone())).collect()
}

fn stun_types_attributes(message: &stun_types::message::Message<'_>) -> Attributes {
    use stun_types::attribute::Attribute as _;
    let attributes = message.iter_attributes();
    attributes.map(|(_, a)| (a.get_type().value(), a.value.to_vec())).collect()
}

fn stun_types_key(key: &str) -> stun_types::message::IntegrityKey {
    stun_types::message::ShortTermCredentials::new(key.into()).make_key()
}

fn our_key(algorithm: IntegrityAlgorithm, key: &str) -> IntegrityKey {
    IntegrityKey::new(algorithm, key.as_bytes())
}

fn owned<'a>(attributes: impl Iterator<Item = (AttributeType, &'a [u8])>) -> Attributes {
    attributes.map(|(ty, value)| (ty.0, value.to_vec())).collect()
}

fn first_bits(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn tid_number(tid: &[u8; 12]) -> u128 {
    tid.iter().fold(0, |number, &byte| number << 8 | u128::from(byte))
}
