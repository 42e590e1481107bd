//! The same messages through us, the `stun` crate (0.17) and the `stun-types` crate (2.0).
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

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use stun::fingerprint::FINGERPRINT as STUN_FINGERPRINT;
use stun::message::{Getter as _, Setter as _};
use stun_types::message::{MessageWrite as _, MessageWriteExt as _};
use turnway_wire::{
    AttributeType, Builder, Class, Data, ErrorCode, IntegrityAlgorithm, IntegrityKey, Lifetime,
    Message, Method, Nonce, PasswordAlgorithm, PasswordAlgorithms, Realm, Software, TransactionId,
    UnknownAttributes, UserHash, Username, XorMappedAddress, XorPeerAddress, frame,
};

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
    fn stun_is_read_by_us(content in content(), extra in vec(ordinary_attribute(), 0..4), key in key()) {
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
    prop_assert_eq!(
        ours.is_ok(),
        stun.is_ok() && exact && walk.fingerprint_ok,
        "{:?}",
        ours
    );

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
    if stun
        .attributes
        .0
        .iter()
        .all(|a| a.typ != stun::attributes::ATTR_XORMAPPED_ADDRESS)
    {
        prop_assert_eq!(stun_attributes(&stun), walk.attributes.clone());
    }
    if ours.has(AttributeType::MESSAGE_INTEGRITY) {
        let theirs = stun::integrity::MessageIntegrity(key.into())
            .check(&mut stun)
            .is_ok();
        prop_assert_eq!(ours.verify(&our_key(IntegrityAlgorithm::Sha1, key)), theirs);
    }
    let cut = ours
        .raw(AttributeType::MESSAGE_INTEGRITY_SHA256)
        .is_some_and(|value| value.len() < 32);
    if !walk.something_after_the_end && !cut {
        prop_assert_eq!(stun_types_attributes(&types), walk.attributes.clone());
        let valid = ours
            .integrity()
            .is_some_and(|a| ours.verify(&our_key(a, key)));
        let theirs = types
            .validate_integrity_with_key(&stun_types_key(key))
            .is_ok();
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

type Attributes = Vec<(u16, Vec<u8>)>;

/// A third reading, as naive as can be: what the RFC's rules say about `bytes`.
struct Walk {
    header_ok: bool,
    length_ok: bool,
    /// Up to the first that does not fit.
    attributes: Attributes,
    fingerprint_ok: bool,
    fingerprint_last: bool,
    /// An attribute follows integrity or fingerprint that must not, so `stun-types` stops there.
    something_after_the_end: bool,
}

fn walk(bytes: &[u8]) -> Walk {
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
    fn honoured(&self) -> Attributes {
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

/// One of each attribute that all three crates have a type for, or nearly.
#[derive(Clone, Debug)]
struct Content {
    class: Class,
    method: u16,
    tid: [u8; 12],
    username: String,
    realm: String,
    nonce: String,
    software: String,
    user_hash: [u8; 32],
    mapped: SocketAddr,
    peer: SocketAddr,
    error: (u16, String),
    unknown: Vec<u16>,
    lifetime: u32,
    data: Vec<u8>,
}

fn content() -> impl Strategy<Value = Content> {
    let classes = &[
        Class::Request,
        Class::Indication,
        Class::Success,
        Class::Error,
    ][..];
    let header = (select(classes), 0..0x1000u16, any::<[u8; 12]>());
    let texts = (text(), text(), text(), text());
    let addresses = (any::<[u8; 32]>(), address(), address());
    let error = (300..=699u16, text());
    let rest = (
        vec(any::<u16>(), 0..9),
        any::<u32>(),
        vec(any::<u8>(), 0..100),
    );
    (header, texts, addresses, error, rest).prop_map(|(header, texts, addresses, error, rest)| {
        Content {
            class: header.0,
            method: header.1,
            tid: header.2,
            username: texts.0,
            realm: texts.1,
            nonce: texts.2,
            software: texts.3,
            user_hash: addresses.0,
            mapped: addresses.1,
            peer: addresses.2,
            error,
            unknown: rest.0,
            lifetime: rest.1,
            data: rest.2,
        }
    })
}

/// Valid everywhere: printable, not empty, at most 127 characters.
fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9:@/+=ßéλ日本]{1,40}"
}

fn key() -> impl Strategy<Value = String> {
    "[ -~]{0,100}"
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn write_ours(content: &Content, keys: &[(IntegrityAlgorithm, &str)]) -> Vec<u8> {
    let mut out = vec![0xFF; 4096];
    let tid = TransactionId(content.tid);
    let mut m = Builder::new(&mut out, content.class, Method(content.method), tid).unwrap();
    m.add(&Username(content.username.as_bytes())).unwrap();
    m.add(&Realm(content.realm.as_bytes())).unwrap();
    m.add(&Nonce(content.nonce.as_bytes())).unwrap();
    m.add(&Software(content.software.as_bytes())).unwrap();
    m.add(&UserHash(content.user_hash)).unwrap();
    m.add(&XorMappedAddress(content.mapped)).unwrap();
    m.add(&XorPeerAddress(content.peer)).unwrap();
    let (code, reason) = (content.error.0, content.error.1.as_bytes());
    m.add(&ErrorCode { code, reason }).unwrap();
    let unknown: Vec<_> = content
        .unknown
        .iter()
        .map(|&ty| AttributeType(ty))
        .collect();
    m.add(&UnknownAttributes::new(&unknown)).unwrap();
    let algorithms = [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5];
    m.add(&PasswordAlgorithms::new(&algorithms)).unwrap();
    m.add(&Lifetime(content.lifetime)).unwrap();
    m.add(&Data(&content.data)).unwrap();
    for &(algorithm, key) in keys {
        m.integrity(&our_key(algorithm, key)).unwrap();
    }
    m.fingerprint().unwrap();
    let len = m.finish();
    out.truncate(len);
    out
}

fn write_stun(content: &Content, extra: &Attributes, key: &str) -> Vec<u8> {
    use stun::attributes as a;
    let mut m = stun::message::Message::new();
    let mut bits = [0; 20];
    let tid = TransactionId(content.tid);
    let _ = Builder::new(&mut bits, content.class, Method(content.method), tid).unwrap();
    m.typ.read_value(first_bits(&bits));
    m.transaction_id.0 = content.tid;
    m.write_header();
    for (ty, text) in [
        (a::ATTR_USERNAME, &content.username),
        (a::ATTR_REALM, &content.realm),
        (a::ATTR_NONCE, &content.nonce),
        (a::ATTR_SOFTWARE, &content.software),
    ] {
        let text = stun::textattrs::TextAttribute::new(ty, text.clone());
        text.add_to(&mut m).unwrap();
    }
    m.add(a::AttrType(0x001E), &content.user_hash);
    for (ty, address) in [
        (a::ATTR_XORMAPPED_ADDRESS, content.mapped),
        (a::ATTR_XOR_PEER_ADDRESS, content.peer),
    ] {
        let (ip, port) = (address.ip(), address.port());
        let address = stun::xoraddr::XorMappedAddress { ip, port };
        address.add_to_as(&mut m, ty).unwrap();
    }
    let error = stun::error_code::ErrorCodeAttribute {
        code: stun::error_code::ErrorCode(content.error.0),
        reason: content.error.1.clone().into(),
    };
    error.add_to(&mut m).unwrap();
    let unknown = content.unknown.iter().map(|&ty| a::AttrType(ty)).collect();
    stun::uattrs::UnknownAttributes(unknown)
        .add_to(&mut m)
        .unwrap();
    m.add(a::ATTR_LIFETIME, &content.lifetime.to_be_bytes());
    m.add(a::ATTR_DATA, &content.data);
    for (ty, value) in extra {
        m.add(a::AttrType(*ty), value);
    }
    stun::integrity::MessageIntegrity(key.into())
        .add_to(&mut m)
        .unwrap();
    STUN_FINGERPRINT.add_to(&mut m).unwrap();
    m.raw
}

fn write_stun_types(
    content: &Content,
    extra: &Attributes,
    key: &str,
    algorithm: IntegrityAlgorithm,
) -> Vec<u8> {
    use stun_types::attribute as a;
    use stun_types::message as m;
    let class = match content.class {
        Class::Request => m::MessageClass::Request,
        Class::Indication => m::MessageClass::Indication,
        Class::Success => m::MessageClass::Success,
        Class::Error => m::MessageClass::Error,
    };
    let ty = m::MessageType::from_class_method(class, m::Method::new(content.method));
    let tid = m::TransactionId::from(tid_number(&content.tid));
    let mut w = m::Message::builder(ty, tid, m::MessageWriteVec::new());
    w.add_attribute(&a::Username::new(&content.username).unwrap())
        .unwrap();
    w.add_attribute(&a::Realm::new(&content.realm).unwrap())
        .unwrap();
    w.add_attribute(&a::Nonce::new(&content.nonce).unwrap())
        .unwrap();
    w.add_attribute(&a::Software::new(&content.software).unwrap())
        .unwrap();
    w.add_attribute(&a::Userhash::new(content.user_hash))
        .unwrap();
    w.add_attribute(&a::XorMappedAddress::new(content.mapped, tid))
        .unwrap();
    let error = a::ErrorCode::new(content.error.0, &content.error.1).unwrap();
    w.add_attribute(&error).unwrap();
    let unknown: Vec<_> = content.unknown.iter().map(|&ty| ty.into()).collect();
    w.add_attribute(&a::UnknownAttributes::new(&unknown))
        .unwrap();
    let peer = a::XorSocketAddr::new(content.peer, tid);
    w.add_attribute(&peer.to_raw(0x0012.into())).unwrap();
    let lifetime = content.lifetime.to_be_bytes();
    w.add_attribute(&a::RawAttribute::new(0x000D.into(), &lifetime))
        .unwrap();
    w.add_attribute(&a::RawAttribute::new(0x0013.into(), &content.data))
        .unwrap();
    for (ty, value) in extra {
        w.add_attribute(&a::RawAttribute::new((*ty).into(), value))
            .unwrap();
    }
    let algorithm = match algorithm {
        IntegrityAlgorithm::Sha1 => m::IntegrityAlgorithm::Sha1,
        IntegrityAlgorithm::Sha256 => m::IntegrityAlgorithm::Sha256,
    };
    w.add_message_integrity_with_key(&stun_types_key(key), algorithm)
        .unwrap();
    w.add_fingerprint().unwrap();
    w.finish()
}

fn assert_content(ours: &Message<'_>, content: &Content) -> Result<(), TestCaseError> {
    prop_assert_eq!(ours.class(), content.class);
    prop_assert_eq!(ours.method(), Method(content.method));
    prop_assert_eq!(ours.transaction_id(), TransactionId(content.tid));
    prop_assert_eq!(ours.get(), Ok(Some(Username(content.username.as_bytes()))));
    prop_assert_eq!(ours.get(), Ok(Some(Realm(content.realm.as_bytes()))));
    prop_assert_eq!(ours.get(), Ok(Some(Nonce(content.nonce.as_bytes()))));
    prop_assert_eq!(ours.get(), Ok(Some(Software(content.software.as_bytes()))));
    prop_assert_eq!(ours.get(), Ok(Some(UserHash(content.user_hash))));
    prop_assert_eq!(ours.get(), Ok(Some(XorMappedAddress(content.mapped))));
    prop_assert_eq!(ours.get(), Ok(Some(XorPeerAddress(content.peer))));
    let (code, reason) = (content.error.0, content.error.1.as_bytes());
    prop_assert_eq!(ours.get(), Ok(Some(ErrorCode { code, reason })));
    let unknown = ours.get::<UnknownAttributes<'_>>().unwrap().unwrap();
    let unknown: Vec<u16> = unknown.iter().map(|ty| ty.0).collect();
    prop_assert_eq!(&unknown, &content.unknown);
    prop_assert_eq!(ours.get(), Ok(Some(Lifetime(content.lifetime))));
    prop_assert_eq!(ours.get(), Ok(Some(Data(&content.data))));
    Ok(())
}

/// Any type that has no meaning for the order of attributes and is not in [`Content`].
fn ordinary_attribute() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let ty = prop_oneof![0x0024..0x002Bu16, 0x4000..0x8000u16, 0xC000..=0xFFFFu16];
    (ty, vec(any::<u8>(), 0..40))
}

/// Type, value, and how much the length field lies.
fn attribute() -> impl Strategy<Value = (u16, Vec<u8>, u16)> {
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
fn header() -> impl Strategy<Value = ([u8; 2], u16)> {
    let first = prop_oneof![9 => 0..64u8, 1 => any::<u8>()];
    (
        (first, any::<u8>()).prop_map(Into::into),
        prop_oneof![9 => Just(0), 1 => any::<u16>()],
    )
}

/// What stands at the end: a right fingerprint, or some surplus bytes.
fn end() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        4 => Just(None),
        4 => Just(Some(vec![])),
        1 => vec(any::<u8>(), 1..6).prop_map(Some),
    ]
}

fn assemble(
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
    let length = u16::try_from(bytes.len() - 20 + fingerprint)
        .unwrap()
        .wrapping_add(lie);
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
enum Damage {
    Set(Index, u8),
    Truncate(Index),
    Append(Vec<u8>),
    /// Cuts the last attribute, FINGERPRINT, off and corrects the length.
    DropFingerprint,
    CorrectLength,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<Index>().prop_map(Damage::Truncate),
        1 => vec(any::<u8>(), 1..9).prop_map(Damage::Append),
        3 => Just(Damage::DropFingerprint),
        2 => Just(Damage::CorrectLength),
    ]
}

impl Damage {
    fn inflict(self, bytes: &mut Vec<u8>) {
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
    attributes
        .map(|(_, a)| (a.get_type().value(), a.value.to_vec()))
        .collect()
}

fn stun_types_key(key: &str) -> stun_types::message::IntegrityKey {
    stun_types::message::ShortTermCredentials::new(key.into()).make_key()
}

fn our_key(algorithm: IntegrityAlgorithm, key: &str) -> IntegrityKey {
    IntegrityKey::new(algorithm, key.as_bytes())
}

fn owned<'a>(attributes: impl Iterator<Item = (AttributeType, &'a [u8])>) -> Attributes {
    attributes
        .map(|(ty, value)| (ty.0, value.to_vec()))
        .collect()
}

fn first_bits(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn tid_number(tid: &[u8; 12]) -> u128 {
    tid.iter()
        .fold(0, |number, &byte| number << 8 | u128::from(byte))
}
