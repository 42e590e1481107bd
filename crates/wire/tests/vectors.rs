//! The messages printed in RFC 5769 and in RFC 8489 appendix B, read and written byte by byte.

use turnway_wire::{
    Builder, Class, Encode, IceControlled, IntegrityAlgorithm, IntegrityKey, LongTermKey, Message,
    Method, Nonce, PasswordAlgorithm, PasswordAlgorithmAttribute, Priority, Realm, Software,
    TransactionId, UserHash, Username, XorMappedAddress, user_hash,
};

const ICE_TID: TransactionId = TransactionId(*b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae");
const LONG_TID: TransactionId = TransactionId(*b"\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e");
const ICE_PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
/// Katakana "matrix", unaffected by OpaqueString.
const MATRIX: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
/// "The<U+00AD>M<U+00AA>tr<U+2168>" after OpaqueString's predecessor SASLprep.
const PASSWORD: &[u8] = b"TheMatrIX";

const REQUEST: &str = "
    00 01 00 58  21 12 a4 42  b7 e7 a7 01  bc 34 d6 86  fa 87 df ae
    80 22 00 10  53 54 55 4e  20 74 65 73  74 20 63 6c  69 65 6e 74
    00 24 00 04  6e 00 01 ff
    80 29 00 08  93 2f f9 b1  51 26 3b 36
    00 06 00 09  65 76 74 6a  3a 68 36 76  59 20 20 20
    00 08 00 14  9a ea a7 0c  bf d8 cb 56  78 1e f2 b5  b2 d3 f2 49  c1 b5 71 a2
    80 28 00 04  e5 7a 3b cf";

const IPV4_RESPONSE: &str = "
    01 01 00 3c  21 12 a4 42  b7 e7 a7 01  bc 34 d6 86  fa 87 df ae
    80 22 00 0b  74 65 73 74  20 76 65 63  74 6f 72 20
    00 20 00 08  00 01 a1 47  e1 12 a6 43
    00 08 00 14  2b 91 f5 99  fd 9e 90 c3  8c 74 89 f9  2a f9 ba 53  f0 6b e7 d7
    80 28 00 04  c0 7d 4c 96";

const IPV6_RESPONSE: &str = "
    01 01 00 48  21 12 a4 42  b7 e7 a7 01  bc 34 d6 86  fa 87 df ae
    80 22 00 0b  74 65 73 74  20 76 65 63  74 6f 72 20
    00 20 00 14  00 02 a1 47  01 13 a9 fa  a5 d3 f1 79  bc 25 f4 b5  be d2 b9 d9
    00 08 00 14  a3 82 95 4e  4b e6 7b f1  17 84 c9 7c  82 92 c2 75  bf e3 ed 41
    80 28 00 04  c8 fb 0b 4c";

const LONG_TERM_REQUEST: &str = "
    00 01 00 60  21 12 a4 42  78 ad 34 33  c6 ad 72 c0  29 da 41 2e
    00 06 00 12  e3 83 9e e3  83 88 e3 83  aa e3 83 83  e3 82 af e3  82 b9 00 00
    00 15 00 1c  66 2f 2f 34  39 39 6b 39  35 34 64 36  4f 4c 33 34  6f 4c 39 46
                 53 54 76 79  36 34 73 41
    00 14 00 0b  65 78 61 6d  70 6c 65 2e  6f 72 67 00
    00 08 00 14  f6 70 24 65  6d d6 4a 3e  02 b8 e0 71  2e 85 c9 a2  8c a8 96 66";

/// As corrected by erratum 6268: the printed one lacks PASSWORD-ALGORITHM and its length is wrong.
const SHA256_REQUEST: &str = "
    00 01 00 90  21 12 a4 42  78 ad 34 33  c6 ad 72 c0  29 da 41 2e
    00 1e 00 20  4a 3c f3 8f  ef 69 92 bd  a9 52 c6 78  04 17 da 0f  24 81 94 15
                 56 9e 60 b2  05 c4 6e 41  40 7f 17 04
    00 15 00 29  6f 62 4d 61  74 4a 6f 73  32 41 41 41  43 66 2f 2f  34 39 39 6b
                 39 35 34 64  36 4f 4c 33  34 6f 4c 39  46 53 54 76  79 36 34 73
                 41 00 00 00
    00 14 00 0b  65 78 61 6d  70 6c 65 2e  6f 72 67 00
    00 1d 00 04  00 02 00 00
    00 1c 00 20  b5 c7 bf 00  5b 6c 52 a2  1c 51 c5 e8  92 f8 19 24  13 62 96 cb
                 92 7c 43 14  93 09 27 8c  c6 51 8e 65";

#[test]
fn rfc5769_2_1_request() {
    let bytes = bytes(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::BINDING));
    assert_eq!(message.transaction_id(), ICE_TID);
    assert_eq!(message.get(), Ok(Some(Software(b"STUN test client"))));
    assert_eq!(message.get(), Ok(Some(Priority(0x6e00_01ff))));
    assert_eq!(message.get(), Ok(Some(IceControlled(0x932f_f9b1_5126_3b36))));
    assert_eq!(message.get(), Ok(Some(Username(b"evtj:h6vY"))));
    //= rfc8489#section-14.7
    //= type=test
    //# The value of the attribute is computed as the CRC-32 of the STUN
    //# message up to (but excluding) the FINGERPRINT attribute itself,
    //# XOR'ed with the 32-bit value 0x5354554e.
    assert!(message.has_fingerprint());
    assert_eq!(message.integrity(), Some(IntegrityAlgorithm::Sha1));
    //= rfc8489#section-14.5
    //= type=test
    //# Similarly, when validating the MESSAGE-INTEGRITY, the
    //# Length field in the STUN header must be adjusted to point to the end
    //# of the MESSAGE-INTEGRITY attribute prior to calculating the HMAC over
    //# the STUN message, up to and including the attribute preceding the
    //# MESSAGE-INTEGRITY attribute.
    assert!(message.verify(&ice_key()));
    let wrong = IntegrityKey::new(IntegrityAlgorithm::Sha1, b"VOkJxbRl1RmTxUk/WvJxBs");
    assert!(!message.verify(&wrong));
}

#[test]
fn rfc5769_2_2_ipv4_response() {
    let bytes = bytes(IPV4_RESPONSE);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Success, Method::BINDING));
    assert_eq!(message.get(), Ok(Some(Software(b"test vector"))));
    let mapped = XorMappedAddress("192.0.2.1:32853".parse().unwrap());
    assert_eq!(message.get(), Ok(Some(mapped)));
    assert!(message.verify(&ice_key()));
    assert_same_attribute(&bytes, 36, &mapped);
}

#[test]
fn rfc5769_2_3_ipv6_response() {
    let bytes = bytes(IPV6_RESPONSE);
    let message = Message::parse(&bytes).unwrap();
    let mapped = XorMappedAddress("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap());
    assert_eq!(message.get(), Ok(Some(mapped)));
    assert!(message.verify(&ice_key()));
    assert_same_attribute(&bytes, 36, &mapped);
}

#[test]
fn rfc5769_2_4_long_term_request_read_and_written() {
    let expected = bytes(LONG_TERM_REQUEST);
    let key =
        LongTermKey::derive(PasswordAlgorithm::Md5, MATRIX.as_bytes(), b"example.org", PASSWORD);
    let key = IntegrityKey::new(IntegrityAlgorithm::Sha1, key.as_bytes());
    let message = Message::parse(&expected).unwrap();
    assert!(message.verify(&key));
    assert!(!message.has_fingerprint());

    let mut out = [0xAA; 256];
    let mut request = Builder::new(&mut out, Class::Request, Method::BINDING, LONG_TID).unwrap();
    request.add(&Username(MATRIX.as_bytes())).unwrap();
    request.add(&Nonce(b"f//499k954d6OL34oL9FSTvy64sA")).unwrap();
    request.add(&Realm(b"example.org")).unwrap();
    //= rfc8489#section-14.5
    //= type=test
    //# The Length field of the STUN message header is adjusted to point to
    //# the end of the MESSAGE-INTEGRITY attribute.
    request.integrity(&key).unwrap();
    let len = request.finish();
    assert_eq!(out[..len], expected[..]);
}

#[test]
fn rfc8489_b_1_userhash_and_sha256_read_and_written() {
    let expected = bytes(SHA256_REQUEST);
    let key =
        LongTermKey::derive(PasswordAlgorithm::Sha256, MATRIX.as_bytes(), b"example.org", PASSWORD);
    let key = IntegrityKey::new(IntegrityAlgorithm::Sha256, key.as_bytes());
    //= rfc8489#section-14.4
    //= type=test
    //# userhash = SHA-256(OpaqueString(username) ":" OpaqueString(realm))
    let hash = UserHash(user_hash(MATRIX.as_bytes(), b"example.org"));
    let message = Message::parse(&expected).unwrap();
    assert_eq!(message.get(), Ok(Some(hash)));
    let chosen = PasswordAlgorithmAttribute(PasswordAlgorithm::Sha256);
    assert_eq!(message.get(), Ok(Some(chosen)));
    assert_eq!(message.integrity(), Some(IntegrityAlgorithm::Sha256));
    assert!(message.verify(&key));

    let mut out = [0xAA; 256];
    let mut request = Builder::new(&mut out, Class::Request, Method::BINDING, LONG_TID).unwrap();
    request.add(&hash).unwrap();
    request.add(&Nonce(b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA")).unwrap();
    request.add(&Realm(b"example.org")).unwrap();
    request.add(&chosen).unwrap();
    request.integrity(&key).unwrap();
    let len = request.finish();
    assert_eq!(out[..len], expected[..]);
}

#[test]
fn rfc8489_9_2_2_the_key_of_user_realm_pass() {
    //= rfc8489#section-9.2.2
    //= type=test
    //# For example, if the username is
    //# 'user', the realm is 'realm', and the password is 'pass', then the
    //# 16-byte HMAC key would be the result of performing an MD5 hash on the
    //# string 'user:realm:pass', the resulting hash being
    //# 0x8493fbc53ba582fb4c044c456bdc40eb.
    let key = LongTermKey::derive(PasswordAlgorithm::Md5, b"user", b"realm", b"pass");
    assert_eq!(key.as_bytes(), bytes("8493fbc53ba582fb4c044c456bdc40eb"));
}

fn ice_key() -> IntegrityKey {
    IntegrityKey::new(IntegrityAlgorithm::Sha1, ICE_PASSWORD)
}

/// Our encoding of `attribute` is what the vector has at `at`, behind the attribute's header.
fn assert_same_attribute(vector: &[u8], at: usize, attribute: &XorMappedAddress) {
    let mut value = vec![0xAA; attribute.encoded_len()];
    attribute.encode(&mut value, ICE_TID);
    assert_eq!(vector[at + 4..at + 4 + value.len()], value);
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
