//! Messages with one of each attribute that all three crates have a type for, or nearly; written
//! by each of them.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use stun::message::Setter as _;
use stun_types::message::{MessageWrite as _, MessageWriteExt as _};
use turnway_wire::{
    AttributeType, Builder, Class, Data, ErrorCode, IntegrityAlgorithm, Lifetime, Message, Method,
    Nonce, PasswordAlgorithm, PasswordAlgorithms, Realm, Software, TransactionId,
    UnknownAttributes, UserHash, Username, XorMappedAddress, XorPeerAddress,
};

use crate::naive::Attributes;
use crate::{first_bits, our_key, stun_types_key, tid_number};

/// What one message says.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) class: Class,
    pub(crate) method: u16,
    pub(crate) tid: [u8; 12],
    pub(crate) username: String,
    pub(crate) realm: String,
    pub(crate) nonce: String,
    pub(crate) software: String,
    pub(crate) user_hash: [u8; 32],
    pub(crate) mapped: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) error: (u16, String),
    pub(crate) unknown: Vec<u16>,
    pub(crate) lifetime: u32,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn content() -> impl Strategy<Value = Content> {
    let classes = &[Class::Request, Class::Indication, Class::Success, Class::Error][..];
    let header = (select(classes), 0..0x1000u16, any::<[u8; 12]>());
    let texts = (text(), text(), text(), text());
    let addresses = (any::<[u8; 32]>(), address(), address());
    let error = (300..=699u16, text());
    let rest = (vec(any::<u16>(), 0..9), any::<u32>(), vec(any::<u8>(), 0..100));
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

pub(crate) fn key() -> impl Strategy<Value = String> {
    "[ -~]{0,100}"
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

pub(crate) fn write_ours(content: &Content, keys: &[(IntegrityAlgorithm, &str)]) -> Vec<u8> {
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
    let unknown: Vec<_> = content.unknown.iter().map(|&ty| AttributeType(ty)).collect();
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

pub(crate) fn write_stun(content: &Content, extra: &Attributes, key: &str) -> Vec<u8> {
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
    for (ty, address) in
        [(a::ATTR_XORMAPPED_ADDRESS, content.mapped), (a::ATTR_XOR_PEER_ADDRESS, content.peer)]
    {
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
    stun::uattrs::UnknownAttributes(unknown).add_to(&mut m).unwrap();
    m.add(a::ATTR_LIFETIME, &content.lifetime.to_be_bytes());
    m.add(a::ATTR_DATA, &content.data);
    for (ty, value) in extra {
        m.add(a::AttrType(*ty), value);
    }
    stun::integrity::MessageIntegrity(key.into()).add_to(&mut m).unwrap();
    stun::fingerprint::FINGERPRINT.add_to(&mut m).unwrap();
    m.raw
}

pub(crate) fn write_stun_types(
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
    w.add_attribute(&a::Username::new(&content.username).unwrap()).unwrap();
    w.add_attribute(&a::Realm::new(&content.realm).unwrap()).unwrap();
    w.add_attribute(&a::Nonce::new(&content.nonce).unwrap()).unwrap();
    w.add_attribute(&a::Software::new(&content.software).unwrap()).unwrap();
    w.add_attribute(&a::Userhash::new(content.user_hash)).unwrap();
    w.add_attribute(&a::XorMappedAddress::new(content.mapped, tid)).unwrap();
    let error = a::ErrorCode::new(content.error.0, &content.error.1).unwrap();
    w.add_attribute(&error).unwrap();
    let unknown: Vec<_> = content.unknown.iter().map(|&ty| ty.into()).collect();
    w.add_attribute(&a::UnknownAttributes::new(&unknown)).unwrap();
    let peer = a::XorSocketAddr::new(content.peer, tid);
    w.add_attribute(&peer.to_raw(0x0012.into())).unwrap();
    let lifetime = content.lifetime.to_be_bytes();
    w.add_attribute(&a::RawAttribute::new(0x000D.into(), &lifetime)).unwrap();
    w.add_attribute(&a::RawAttribute::new(0x0013.into(), &content.data)).unwrap();
    for (ty, value) in extra {
        w.add_attribute(&a::RawAttribute::new((*ty).into(), value)).unwrap();
    }
    let algorithm = match algorithm {
        IntegrityAlgorithm::Sha1 => m::IntegrityAlgorithm::Sha1,
        IntegrityAlgorithm::Sha256 => m::IntegrityAlgorithm::Sha256,
    };
    w.add_message_integrity_with_key(&stun_types_key(key), algorithm).unwrap();
    w.add_fingerprint().unwrap();
    w.finish()
}

pub(crate) fn assert_content(ours: &Message<'_>, content: &Content) -> Result<(), TestCaseError> {
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
pub(crate) fn ordinary_attribute() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let ty = prop_oneof![0x0024..0x002Bu16, 0x4000..0x8000u16, 0xC000..=0xFFFFu16];
    (ty, vec(any::<u8>(), 0..40))
}
