//! What is offered in a realm, and that nobody in the middle can take it away (RFC 8489 section
//! 9.2.1).

use super::*;

const MD5: PasswordAlgorithm = PasswordAlgorithm::Md5;
const SHA256: PasswordAlgorithm = PasswordAlgorithm::Sha256;
const BOTH: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];

fn cookie(challenge: &Challenge) -> &str {
    std::str::from_utf8(&challenge.nonce[..13]).unwrap()
}

#[test]
fn passwords_serve_both_algorithms() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# If the server adds a
    //# PASSWORD-ALGORITHMS attribute, it MUST set the STUN Security
    //# Feature "Password algorithms" bit to 1.
    let challenge = challenge(&alice());
    assert_eq!(challenge.algorithms.as_deref(), Some(BOTH), "SHA-256 is preferred");
    assert_eq!(cookie(&challenge), "obMatJos2wAAA", "both bits");
}

#[test]
fn rest_secrets_serve_both_algorithms_but_no_hashed_names() {
    //= rfc8489#section-9.2
    //= type=test
    //# The 24-bit Security Feature set is encoded as 3 bytes,
    //# with bit 0 as the most significant bit of the first byte and bit 23
    //# as the least significant bit of the third byte.
    let challenge = challenge(&auth(Vec::new(), &["secret"]));
    assert_eq!(challenge.algorithms.as_deref(), Some(BOTH));
    assert_eq!(cookie(&challenge), "obMatJos2gAAA", "bit 0 only");
}

#[test]
fn one_imported_md5_key_ends_the_offer() {
    let users = vec![
        user("alice", password("sesame")),
        user("bob", UserCredential::Md5Key(md5_key("bob", "simsim"))),
    ];
    let auth = auth(users, &[]);
    let challenge = challenge(&auth);
    assert_eq!(challenge.algorithms, None);
    assert_eq!(cookie(&challenge), "obMatJos2QAAA", "bit 1 only");
    for (name, password) in [("alice", "sesame"), ("bob", "simsim")] {
        assert!(Request::old(&challenge, name, password).check(&auth).is_ok(), "{name}");
        let hashed = Request::old(&challenge, name, password).hashed();
        assert!(hashed.check(&auth).is_ok(), "{name}");
    }
}

#[test]
fn without_an_offer_the_algorithm_that_a_request_names_is_used() {
    //= rfc8489#section-14.12
    //= type=test
    //# It
    //# contains the algorithm that the server must use to derive a key from
    //# the long-term password.
    let users = vec![
        user("alice", password("sesame")),
        user("bob", UserCredential::Md5Key(md5_key("bob", "simsim"))),
    ];
    let auth = auth(users, &[]);
    let challenge = challenge(&auth);
    assert!(Request::new(&challenge, MD5, "bob", "simsim").check(&auth).is_ok());
    assert!(Request::new(&challenge, SHA256, "alice", "sesame").check(&auth).is_ok());
    let impossible = Request::new(&challenge, SHA256, "bob", "simsim");
    assert_eq!(impossible.failure(&auth), AuthFailure::WrongKey);
    let unknown = Request { algorithm: Some(vec![0, 3, 0, 0]), ..impossible };
    assert_eq!(unknown.refusal(&auth), Refusal::BadRequest);
}

#[test]
fn a_sha256_key_serves_sha256_alone() {
    let bob = user("bob", UserCredential::Sha256Key(sha256_key("bob", "simsim")));
    let auth = auth(vec![user("alice", password("sesame")), bob], &[]);
    let challenge = challenge(&auth);
    assert_eq!(challenge.algorithms.as_deref(), Some(&[0, 2, 0, 0][..]), "MD5 would fail for bob");
    assert!(Request::new(&challenge, SHA256, "bob", "simsim").check(&auth).is_ok());
    assert_eq!(Request::old(&challenge, "bob", "simsim").failure(&auth), AuthFailure::WrongKey);
    assert!(Request::old(&challenge, "alice", "sesame").check(&auth).is_ok());
}

#[test]
fn a_request_without_algorithms_is_taken_as_md5() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# If the request contains neither the PASSWORD-ALGORITHMS nor the
    //# PASSWORD-ALGORITHM algorithm, then the request is processed as
    //# though PASSWORD-ALGORITHM were MD5.
    let auth = alice();
    let challenge = challenge(&auth);
    let old = Request::old(&challenge, "alice", "sesame");
    assert!(old.check(&auth).is_ok());
    let sha256 = Request { key: key(SHA256, "alice", "sesame"), ..old };
    assert_eq!(sha256.failure(&auth), AuthFailure::WrongKey);
}

#[test]
fn a_stripped_or_changed_offer_is_a_bad_request() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# Otherwise, unless (1) PASSWORD-ALGORITHM and PASSWORD-
    //# ALGORITHMS are both present, (2) PASSWORD-ALGORITHMS matches
    //# the value sent in the response that sent this NONCE, and (3)
    //# PASSWORD-ALGORITHM matches one of the entries in PASSWORD-
    //# ALGORITHMS, the server MUST generate an error response with an
    //# error code of 400 (Bad Request).
    let auth = alice();
    let good = Request::new(&challenge(&auth), SHA256, "alice", "sesame");
    assert!(good.check(&auth).is_ok());
    let algorithms = |value: &[u8]| Request { algorithms: Some(value.into()), ..good.clone() };
    for bad in [
        Request { algorithms: None, ..good.clone() },
        Request { algorithm: None, ..good.clone() },
        algorithms(&[]),
        algorithms(&[0, 2, 0, 0]),
        algorithms(&[0, 1, 0, 0, 0, 2, 0, 0]),
        algorithms(&[0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0]),
        Request { algorithm: Some(vec![0, 3, 0, 0]), ..good.clone() },
        Request { algorithm: Some(vec![0, 2]), ..good.clone() },
    ] {
        assert_eq!(bad.refusal(&auth), Refusal::BadRequest);
    }
    // A man in the middle removes SHA-256 from the offer; the client then chooses MD5.
    let mut weakened = Request::new(&challenge(&auth), MD5, "alice", "sesame");
    weakened.algorithms = Some(vec![0, 1, 0, 0]);
    assert_eq!(weakened.refusal(&auth), Refusal::BadRequest);
}

#[test]
fn an_algorithm_must_be_one_of_the_offered() {
    let bob = user("bob", UserCredential::Sha256Key(sha256_key("bob", "simsim")));
    let auth = auth(vec![bob, user("alice", password("sesame"))], &[]);
    let md5 = Request::new(&challenge(&auth), MD5, "alice", "sesame");
    assert_eq!(md5.refusal(&auth), Refusal::BadRequest);
}

#[test]
fn the_cookie_of_a_nonce_cannot_be_changed() {
    // A man in the middle clears the bits, so that the client does not miss the offer.
    let auth = alice();
    let challenge = challenge(&auth);
    for bits in ["AAAA", "gAAA", "QAAA", "wAAB", "//// "] {
        let mut stripped = Request::old(&challenge, "alice", "sesame");
        stripped.nonce.as_mut().unwrap()[9..13].copy_from_slice(&bits.as_bytes()[..4]);
        assert_eq!(stripped.refusal(&auth), Refusal::StaleNonce, "{bits}");
    }
    let mut bare = Request::old(&challenge, "alice", "sesame");
    bare.nonce.as_mut().unwrap().drain(..13);
    assert_eq!(bare.refusal(&auth), Refusal::StaleNonce, "no cookie at all");
}

#[test]
fn a_nonce_from_before_a_change_of_the_offer_is_stale() {
    let before = alice();
    let request = Request::new(&challenge(&before), SHA256, "alice", "sesame");
    let bob = user("bob", UserCredential::Md5Key([0; 16]));
    let after = auth(vec![user("alice", password("sesame")), bob], &[]);
    assert_eq!(request.refusal(&after), Refusal::StaleNonce);
}
