//! The published test vectors. Their nonces are not ours, so they go in after the nonce check.

use super::*;

const NAME: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
const PASSWORD: &str = "TheMatrIX";

/// RFC 5769 section 2.4.
const LONG_TERM: &str = "\
    00010060 2112a442 78ad3433c6ad72c029da412e \
    00060012 e3839ee38388e383aae38383e382afe382b90000 \
    0015001c 662f2f3439396b39353464364f4c33346f4c39465354767936347341 \
    0014000b 6578616d706c652e6f726700 \
    00080014 f67024656dd64a3e02b8e0712e85c9a28ca89666";

/// RFC 8489 appendix B.1 as erratum 6268 corrects it. (The printed one has a length field of 156
/// for 136 bytes of attributes, lacks PASSWORD-ALGORITHM, and its HMAC covers that length.)
const USER_HASH_SHA256: &str = "\
    00010090 2112a442 78ad3433c6ad72c029da412e \
    001e0020 4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704 \
    00150029 6f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c3946535476 \
             7936347341000000 \
    0014000b 6578616d706c652e6f726700 \
    001d0004 00020000 \
    001c0020 b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn authenticate(auth: &Auth, bytes: &[u8]) -> Result<Option<Identity>, AuthFailure> {
    let msg = Message::parse(bytes).unwrap();
    let claim = Claim::read(&msg).unwrap();
    let scheme = auth.scheme(&msg).unwrap();
    let deadline = Deadline { unix_s: NOW, late_allowed: false };
    auth.authenticate(&msg, &claim, scheme, deadline, None)
}

/// A realm that offers no algorithms, as the nonces of both vectors say of theirs (the one of RFC
/// 8489 has the feature bits at the wrong end).
fn realm_of(password: UserCredential) -> Auth {
    auth(vec![user(NAME, password), user("old", UserCredential::Md5Key([0; 16]))], &[])
}

#[test]
fn rfc_5769_long_term_request() {
    for credential in [password(PASSWORD), UserCredential::Md5Key(md5_key(NAME, PASSWORD))] {
        let auth = realm_of(credential);
        let identity = authenticate(&auth, &bytes(LONG_TERM)).unwrap().unwrap();
        assert_eq!(&**identity.user(), NAME.as_bytes());
        assert_eq!(identity.key().algorithm(), Sha1);
    }
}

#[test]
fn rfc_8489_request_with_userhash_and_sha256() {
    for credential in [password(PASSWORD), UserCredential::Sha256Key(sha256_key(NAME, PASSWORD))] {
        let auth = realm_of(credential);
        let identity = authenticate(&auth, &bytes(USER_HASH_SHA256)).unwrap().unwrap();
        assert_eq!(&**identity.user(), NAME.as_bytes());
        assert_eq!(identity.key().algorithm(), Sha256);
    }
}

#[test]
fn the_vectors_fail_with_another_password_and_another_byte() {
    let other = realm_of(password("TheMatrix"));
    let right = realm_of(password(PASSWORD));
    for vector in [LONG_TERM, USER_HASH_SHA256] {
        let mut bytes = bytes(vector);
        let wrong = authenticate(&other, &bytes).expect_err("another password");
        assert_eq!(wrong, AuthFailure::WrongKey);
        bytes[8] ^= 1;
        let changed = authenticate(&right, &bytes).expect_err("another transaction");
        assert_eq!(changed, AuthFailure::WrongKey);
    }
}

#[test]
fn the_vectors_nonces_are_not_ours() {
    let auth = realm_of(password(PASSWORD));
    for vector in [LONG_TERM, USER_HASH_SHA256] {
        let bytes = bytes(vector);
        let msg = Message::parse(&bytes).unwrap();
        let refusal = auth.check(&msg, client(), NOW, None, false).expect_err("not our nonce");
        assert_eq!(refusal, Refusal::StaleNonce);
    }
}

#[test]
fn rfc_8489_example_key() {
    //= rfc8489#section-9.2.2
    //= type=test
    //# For example, if the username is
    //# 'user', the realm is 'realm', and the password is 'pass', then the
    //# 16-byte HMAC key would be the result of performing an MD5 hash on the
    //# string 'user:realm:pass', the resulting hash being
    //# 0x8493fbc53ba582fb4c044c456bdc40eb.
    let mut by_password = config(vec![user("user", password("pass"))], &[]);
    by_password.realm = "realm".into();
    let auth = Auth::new(by_password).unwrap();
    let key = bytes("8493fbc53ba582fb4c044c456bdc40eb");
    let request = Request { key, ..Request::old(&challenge(&auth), "user", "") };
    assert!(request.check(&auth).is_ok());
}
