//! What [`Message::parse`] accepts, what it honours, and what it refuses.

use turnway_wire::{
    AttributeType, Builder, Class, Data, IntegrityAlgorithm, IntegrityKey, Kind, Lifetime,
    Malformed, Message, Method, ParseError, Realm, Software, TransactionId, Username,
    XorPeerAddress, classify,
};

const TID: TransactionId = TransactionId(*b"abcdefghijkl");
const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
const FINGERPRINT: u16 = 0x8028;
const SOFTWARE: u16 = 0x8022;
const USERNAME: u16 = 0x0006;
const UNKNOWN_REQUIRED: u16 = 0x7777;
const UNKNOWN_OPTIONAL: u16 = 0xF777;

#[test]
fn first_byte_tells_the_protocols_apart() {
    let kinds = [
        (0..=3, Kind::Stun),
        (4..=15, Kind::Other),
        (16..=19, Kind::Zrtp),
        (20..=63, Kind::Dtls),
        (64..=79, Kind::Channel),
        (80..=127, Kind::OldChannel),
        (128..=191, Kind::Rtp),
        (192..=255, Kind::Other),
    ];
    let mut seen = 0;
    for (range, kind) in kinds {
        for byte in range {
            assert_eq!(classify(byte), kind, "first byte {byte}");
            seen += 1;
        }
    }
    assert_eq!(seen, 256);
}

#[test]
fn header_must_be_whole() {
    let message = request(&[]);
    assert!(Message::parse(&message).is_ok());
    for len in 0..message.len() {
        assert_eq!(parse_error(&message[..len]), ParseError::TooShort);
    }
}

#[test]
fn first_two_bits_must_be_zero() {
    //= rfc8489#section-5
    //= type=test
    //# The most significant 2 bits of every STUN message MUST be zeroes.
    for bits in [0x40, 0x80, 0xC0] {
        let mut message = request(&[]);
        message[0] |= bits;
        assert_eq!(parse_error(&message), ParseError::NotStun);
    }
}

#[test]
fn cookie_must_be_right() {
    //= rfc8489#section-5
    //= type=test
    //# The Magic Cookie field MUST contain the fixed value 0x2112A442 in
    //# network byte order.
    for byte in 4..8 {
        let mut message = request(&[]);
        message[byte] ^= 1;
        assert_eq!(parse_error(&message), ParseError::BadCookie);
    }
}

#[test]
fn length_field_must_be_what_follows_the_header() {
    //= rfc8489#section-5
    //= type=test
    //# The message length MUST contain the size of the message in bytes, not
    //# including the 20-byte STUN header.
    let honest = request(&[(SOFTWARE, b"soft")]);
    assert!(Message::parse(&honest).is_ok());
    for lie in (0..=u16::MAX).filter(|&lie| lie != 8) {
        let mut message = honest.clone();
        message[2..4].copy_from_slice(&lie.to_be_bytes());
        assert_eq!(parse_error(&message), ParseError::BadLength, "length {lie}");
    }
    for surplus in 1..=4 {
        let mut message = honest.clone();
        message.resize(honest.len() + surplus, 0);
        assert_eq!(parse_error(&message), ParseError::BadLength, "{surplus} surplus bytes");
    }
}

#[test]
fn misaligned_message_is_refused_even_if_its_length_field_is_honest() {
    //= rfc8489#section-5
    //= type=test
    //# Since all STUN attributes are
    //# padded to a multiple of 4 bytes, the last 2 bits of this field are
    //# always zero.
    for surplus in 1..=3 {
        let mut message = request(&[(SOFTWARE, b"soft")]);
        message.extend_from_slice(&[0; 3][..surplus]);
        let length = u16::try_from(message.len() - 20).unwrap();
        message[2..4].copy_from_slice(&length.to_be_bytes());
        assert_eq!(parse_error(&message), ParseError::BadLength);
    }
}

#[test]
fn attribute_must_end_within_the_message() {
    let honest = request(&[(SOFTWARE, b"soft"), (SOFTWARE, b"ware")]);
    for lie in 0..=u16::MAX {
        let mut message = honest.clone();
        message[30..32].copy_from_slice(&lie.to_be_bytes());
        match lie {
            // The last attribute's four value bytes, or some of them and padding.
            1..=4 => assert!(Message::parse(&message).is_ok(), "length {lie}"),
            // Its value is read as a further attribute's header: type 0x7761, length 0x7265.
            _ => assert_eq!(parse_error(&message), ParseError::AttributeOverrun, "length {lie}"),
        }
    }
}

#[test]
fn padding_is_part_of_the_message_and_its_content_ignored() {
    //= rfc8489#section-14
    //= type=test
    //# The
    //# padding bits MUST be set to zero on sending and MUST be ignored by
    //# the receiver.
    let mut message = request(&[(SOFTWARE, b"s"), (USERNAME, b"u")]);
    message[25..28].fill(0xFF);
    let parsed = Message::parse(&message).unwrap();
    assert_eq!(parsed.get(), Ok(Some(Software(b"s"))));
    assert_eq!(parsed.get(), Ok(Some(Username(b"u"))));
}

#[test]
fn first_of_duplicates_wins() {
    //= rfc8489#section-14
    //= type=test
    //# Unless specified otherwise, the order of appearance is significant:
    //# only the first occurrence needs to be processed by a receiver, and
    //# any duplicates MAY be ignored by a receiver.
    let message = request(&[
        (USERNAME, b"first"),
        (UNKNOWN_OPTIONAL, b"one"),
        (USERNAME, b"second"),
        (UNKNOWN_OPTIONAL, b"two"),
    ]);
    let message = Message::parse(&message).unwrap();
    assert_eq!(message.get(), Ok(Some(Username(b"first"))));
    assert_eq!(message.raw(AttributeType(UNKNOWN_OPTIONAL)), Some(&b"one"[..]));
    let all: Vec<_> = message.all::<Username>().collect();
    assert_eq!(all, [Ok(Username(b"first")), Ok(Username(b"second"))]);
}

#[test]
fn a_malformed_first_occurrence_is_not_saved_by_a_second() {
    let message = request(&[(0x000D, b"bad"), (0x000D, &600u32.to_be_bytes())]);
    let message = Message::parse(&message).unwrap();
    let malformed = Malformed { attribute: AttributeType::LIFETIME };
    assert_eq!(message.get::<Lifetime>(), Err(malformed));
    assert_eq!(malformed.to_string(), "malformed LIFETIME");
    assert!(message.has(AttributeType::LIFETIME));
}

#[test]
fn every_peer_address_of_a_create_permission_is_found_in_order() {
    let mut out = [0; 256];
    let peers = ["192.0.2.1:1", "[2001:db8::1]:2", "192.0.2.3:3"].map(|a| a.parse().unwrap());
    let mut builder =
        Builder::new(&mut out, Class::Request, Method::CREATE_PERMISSION, TID).unwrap();
    for peer in peers {
        builder.add(&XorPeerAddress(peer)).unwrap();
    }
    let len = builder.finish();
    let message = Message::parse(&out[..len]).unwrap();
    let found: Vec<_> = message.all().map(|p| p.map(|XorPeerAddress(a)| a)).collect();
    assert_eq!(found, peers.map(Ok));
}

#[test]
fn after_message_integrity_only_sha256_and_fingerprint_are_honoured() {
    //= rfc8489#section-9
    //= type=test
    //# Note that agents MUST ignore all attributes that follow MESSAGE-
    //# INTEGRITY, with the exception of the MESSAGE-INTEGRITY-SHA256 and
    //# FINGERPRINT attributes.
    let message = request(&[
        (USERNAME, b"covered"),
        (MESSAGE_INTEGRITY, &[1; 20]),
        (USERNAME, b"smuggled"),
        (SOFTWARE, b"smuggled"),
        (UNKNOWN_REQUIRED, b"smuggled"),
        (UNKNOWN_OPTIONAL, b"smuggled"),
        (MESSAGE_INTEGRITY_SHA256, &[2; 32]),
        (MESSAGE_INTEGRITY, &[3; 20]),
        (SOFTWARE, b"smuggled"),
    ]);
    let message = with_fingerprint(message);
    let message = Message::parse(&message).unwrap();
    assert_eq!(
        types(&message),
        [USERNAME, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, FINGERPRINT]
    );
    assert_eq!(message.get(), Ok(Some(Username(b"covered"))));
    assert_eq!(message.all::<Username>().count(), 1);
    assert_eq!(message.get::<Software>(), Ok(None));
    assert!(!message.has(AttributeType(UNKNOWN_OPTIONAL)));
    assert_eq!(message.raw(AttributeType(UNKNOWN_OPTIONAL)), None);
    assert_eq!(message.unknown_required(|ty| ty.name().is_some()).count(), 0);
    assert_eq!(message.raw(AttributeType::MESSAGE_INTEGRITY), Some(&[1; 20][..]));
}

#[test]
fn after_sha256_only_fingerprint_is_honoured() {
    //= rfc8489#section-9
    //= type=test
    //# Similarly, agents MUST ignore all attributes
    //# that follow the MESSAGE-INTEGRITY-SHA256 attribute if the MESSAGE-
    //# INTEGRITY attribute is not present, with the exception of the
    //# FINGERPRINT attribute.
    let message = request(&[
        (USERNAME, b"covered"),
        (MESSAGE_INTEGRITY_SHA256, &[2; 32]),
        (MESSAGE_INTEGRITY, &[3; 20]),
        (MESSAGE_INTEGRITY_SHA256, &[4; 32]),
        (SOFTWARE, b"smuggled"),
    ]);
    let message = with_fingerprint(message);
    let message = Message::parse(&message).unwrap();
    assert_eq!(types(&message), [USERNAME, MESSAGE_INTEGRITY_SHA256, FINGERPRINT]);
    assert!(!message.verify(&key(IntegrityAlgorithm::Sha1)));
    assert_eq!(message.raw(AttributeType::MESSAGE_INTEGRITY_SHA256), Some(&[2; 32][..]));
}

#[test]
fn what_is_appended_to_a_signed_message_changes_nothing() {
    for algorithm in [IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256] {
        let mut message = signed(algorithm, b"alice");
        append(&mut message, USERNAME, b"mallory");
        append(&mut message, 0x0013, b"payload");
        let message = Message::parse(&message).unwrap();
        assert!(message.verify(&key(algorithm)), "{algorithm:?}");
        assert_eq!(message.get(), Ok(Some(Username(b"alice"))));
        assert_eq!(message.get::<Data>(), Ok(None));
    }
}

#[test]
fn unknown_required_attributes_are_listed_and_optional_ones_are_not() {
    let message = request(&[
        (UNKNOWN_REQUIRED, b""),
        (UNKNOWN_OPTIONAL, b""),
        (USERNAME, b"u"),
        (0x0026, b"padding, known but not to everybody"),
        (0x7FFF, b""),
        (0x8000, b""),
    ]);
    let message = Message::parse(&message).unwrap();
    let unknown = message.unknown_required(|ty| ty == AttributeType::USERNAME);
    let unknown: Vec<u16> = unknown.map(|ty| ty.0).collect();
    assert_eq!(unknown, [UNKNOWN_REQUIRED, 0x0026, 0x7FFF]);
}

#[test]
fn fingerprint_must_be_right() {
    let message = with_fingerprint(request(&[(SOFTWARE, b"soft")]));
    assert!(Message::parse(&message).unwrap().has_fingerprint());
    // Length and attribute headers aside, any changed bit shows.
    for byte in (8..20).chain(24..28).chain(32..36) {
        for bit in 0..8 {
            let mut message = message.clone();
            message[byte] ^= 1 << bit;
            assert_eq!(parse_error(&message), ParseError::BadFingerprint, "byte {byte}");
        }
    }
}

#[test]
fn fingerprint_must_be_last_and_of_four_bytes() {
    //= rfc8489#section-14.7
    //= type=test
    //# When present, the FINGERPRINT attribute MUST be the last attribute in
    //# the message and thus will appear after MESSAGE-INTEGRITY and MESSAGE-
    //# INTEGRITY-SHA256.
    // The CRC is right for the whole message's length field, and still too early.
    for (ty, value) in [(SOFTWARE, b"soft"), (FINGERPRINT, b"soft")] {
        let mut message = request(&[(FINGERPRINT, &[0; 4]), (ty, value)]);
        let crc = crc32fast::hash(&message[..20]) ^ 0x5354_554E;
        message[24..28].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(parse_error(&message), ParseError::BadFingerprint);
    }
    for len in [0, 1, 3, 5, 8] {
        let message = request(&[(FINGERPRINT, &[0; 8][..len])]);
        assert_eq!(parse_error(&message), ParseError::BadFingerprint, "{len} bytes");
    }
}

#[test]
fn integrity_of_any_other_length_never_verifies() {
    //= rfc8489#section-14.6
    //= type=test
    //# The value must be the full 32 bytes unless the STUN Usage
    //# explicitly specifies that truncation is allowed.
    for (algorithm, full) in [(IntegrityAlgorithm::Sha1, 20), (IntegrityAlgorithm::Sha256, 32)] {
        let ty = algorithm.attribute();
        for len in (0..=36).filter(|&len| len != full) {
            // The right HMAC for a message with a value of this length, cut or prolonged.
            let mut message = request(&[(USERNAME, b"alice")]);
            let at = message.len();
            append(&mut message, ty.0, &[0; 36][..len]);
            let mut value = signed_with_length(algorithm, &message, at);
            value.resize(36, 0);
            message[at + 4..at + 4 + len].copy_from_slice(&value[..len]);
            let message = Message::parse(&message).unwrap();
            assert!(message.has(ty));
            assert_eq!(message.integrity(), Some(algorithm));
            assert!(!message.verify(&key(algorithm)), "{algorithm:?} with {len} bytes");
        }
    }
}

#[test]
fn integrity_covers_every_byte_before_it_and_is_checked_in_every_byte() {
    for algorithm in [IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256] {
        let original = signed(algorithm, b"alice");
        assert!(Message::parse(&original).unwrap().verify(&key(algorithm)));
        for byte in (0..2).chain(8..20).chain(24..29).chain(36..original.len()) {
            let mut message = original.clone();
            message[byte] ^= 1;
            let message = Message::parse(&message).unwrap();
            assert!(!message.verify(&key(algorithm)), "{algorithm:?}, byte {byte}");
        }
    }
}

#[test]
fn with_both_integrities_sha256_is_the_one_to_verify_and_both_can_be() {
    let mut out = [0; 256];
    let mut builder = Builder::new(&mut out, Class::Request, Method::ALLOCATE, TID).unwrap();
    builder.add(&Username(b"alice")).unwrap();
    builder.integrity(&key(IntegrityAlgorithm::Sha1)).unwrap();
    builder.integrity(&key(IntegrityAlgorithm::Sha256)).unwrap();
    builder.fingerprint().unwrap();
    let len = builder.finish();
    let message = Message::parse(&out[..len]).unwrap();
    assert_eq!(message.integrity(), Some(IntegrityAlgorithm::Sha256));
    assert!(message.verify(&key(IntegrityAlgorithm::Sha1)));
    assert!(message.verify(&key(IntegrityAlgorithm::Sha256)));
    let other = IntegrityKey::new(IntegrityAlgorithm::Sha256, b"other");
    assert!(!message.verify(&other));
}

#[test]
fn without_its_integrity_attribute_no_key_verifies() {
    let message = request(&[(USERNAME, b"alice")]);
    let message = Message::parse(&message).unwrap();
    assert_eq!(message.integrity(), None);
    assert!(!message.verify(&key(IntegrityAlgorithm::Sha1)));
    assert!(!message.verify(&key(IntegrityAlgorithm::Sha256)));
}

#[test]
fn class_and_method_survive_their_interleaving() {
    for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
        for method in 0..=0xFFF {
            let mut out = [0; 20];
            let len = Builder::new(&mut out, class, Method(method), TID).unwrap().finish();
            let message = Message::parse(&out[..len]).unwrap();
            assert_eq!((message.class(), message.method()), (class, Method(method)));
            assert_eq!(message.transaction_id(), TID);
        }
    }
    //= rfc8489#section-5
    //= type=test
    //# For example, a Binding request has class=0b00 (request) and
    //# method=0b000000000001 (Binding) and is encoded into the first 16 bits
    //# as 0x0001.
    assert_eq!(first_bits(Class::Request, Method::BINDING), 0x0001);
    //= rfc8489#section-5
    //= type=test
    //# A Binding response has class=0b10 (success response) and
    //# method=0b000000000001 and is encoded into the first 16 bits as
    //# 0x0101.
    assert_eq!(first_bits(Class::Success, Method::BINDING), 0x0101);
    assert_eq!(first_bits(Class::Error, Method::BINDING), 0x0111);
    assert_eq!(first_bits(Class::Indication, Method(0xFFF)), 0x3EFF);
}

#[test]
fn the_largest_message_is_read() {
    let value = vec![7; 65_528];
    let message = request(&[(0x0013, &value)]);
    assert_eq!(message.len(), 65_552);
    let message = Message::parse(&message).unwrap();
    assert_eq!(message.get(), Ok(Some(Data(&value))));
}

#[test]
fn a_message_of_nothing_but_attribute_headers_is_read_to_its_end() {
    let many = vec![(UNKNOWN_REQUIRED, &b""[..]); 16_382];
    let mut message = request(&many);
    append(&mut message, 0x0014, b"");
    let message = Message::parse(&message).unwrap();
    assert_eq!(message.get(), Ok(Some(Realm(b""))));
    assert_eq!(message.unknown_required(|ty| ty.name().is_some()).count(), many.len());
}

#[test]
fn debug_shows_names_and_no_values() {
    let message = signed(IntegrityAlgorithm::Sha1, b"alice");
    let shown = format!("{:?}", Message::parse(&message).unwrap());
    assert_eq!(shown, "ChannelBind Request 6162636465666768696a6b6c[USERNAME, MESSAGE-INTEGRITY]");
    let shown = format!("{:?}", key(IntegrityAlgorithm::Sha1));
    assert_eq!(shown, "IntegrityKey(Sha1, secret)");
}

fn first_bits(class: Class, method: Method) -> u16 {
    let mut out = [0; 20];
    let len = Builder::new(&mut out, class, method, TID).unwrap().finish();
    assert_eq!(len, 20);
    u16::from_be_bytes([out[0], out[1]])
}

/// A Binding request written by hand, so that it may break every rule of the builder.
fn request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl".to_vec();
    for (ty, value) in attributes {
        append(&mut message, *ty, value);
    }
    message
}

/// Appends an attribute, zero padding, and corrects the message length.
fn append(message: &mut Vec<u8>, ty: u16, value: &[u8]) {
    message.extend_from_slice(&ty.to_be_bytes());
    message.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let length = u16::try_from(message.len() - 20).unwrap();
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

fn with_fingerprint(mut message: Vec<u8>) -> Vec<u8> {
    let at = message.len();
    append(&mut message, FINGERPRINT, &[0; 4]);
    let crc = crc32fast::hash(&message[..at]) ^ 0x5354_554E;
    message[at + 4..].copy_from_slice(&crc.to_be_bytes());
    message
}

fn signed(algorithm: IntegrityAlgorithm, username: &[u8]) -> Vec<u8> {
    let mut out = [0; 256];
    let mut builder = Builder::new(&mut out, Class::Request, Method::CHANNEL_BIND, TID).unwrap();
    builder.add(&Username(username)).unwrap();
    builder.integrity(&key(algorithm)).unwrap();
    let len = builder.finish();
    out[..len].to_vec()
}

/// The HMAC of `message` up to `at`, its length field as it stands.
fn signed_with_length(algorithm: IntegrityAlgorithm, message: &[u8], at: usize) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    fn mac<M: Mac + KeyInit>(text: &[u8]) -> Vec<u8> {
        let mac = <M as KeyInit>::new_from_slice(b"key").unwrap();
        mac.chain_update(text).finalize().into_bytes().to_vec()
    }
    match algorithm {
        IntegrityAlgorithm::Sha1 => mac::<Hmac<sha1::Sha1>>(&message[..at]),
        IntegrityAlgorithm::Sha256 => mac::<Hmac<sha2::Sha256>>(&message[..at]),
    }
}

fn key(algorithm: IntegrityAlgorithm) -> IntegrityKey {
    IntegrityKey::new(algorithm, b"key")
}

fn types(message: &Message<'_>) -> Vec<u16> {
    message.attributes().map(|(ty, _)| ty.0).collect()
}

fn parse_error(bytes: &[u8]) -> ParseError {
    Message::parse(bytes).unwrap_err()
}
