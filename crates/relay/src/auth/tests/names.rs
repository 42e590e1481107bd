//! Time-limited names, and names beyond ASCII.

use super::*;

fn rest(secrets: &[&str]) -> Auth {
    auth(Vec::new(), secrets)
}

fn timed(auth: &Auth, name: &str, secret: &str) -> Request {
    Request::old(&challenge(auth), name, &rest_password(secret.as_bytes(), name.as_bytes()))
}

fn timed_sha256(auth: &Auth, name: &str, secret: &str) -> Request {
    let password = rest_password(secret.as_bytes(), name.as_bytes());
    Request::new(&challenge(auth), PasswordAlgorithm::Sha256, name, &password)
}

#[test]
fn every_form_of_time_limited_name_is_served() {
    let auth = rest(&["secret"]);
    let end = NOW + 60;
    let bare = end.to_string();
    for (name, account) in [
        (format!("{end}:alice"), "alice"),
        (format!("alice:{end}"), "alice"),
        (bare.clone(), &*bare),
    ] {
        for request in [timed(&auth, &name, "secret"), timed_sha256(&auth, &name, "secret")] {
            let identity = request.check(&auth).unwrap();
            assert_eq!(&**identity.user(), name.as_bytes());
            assert_eq!(&**identity.account(), account.as_bytes());
            assert_eq!(identity.expires_unix(), Some(end));
        }
    }
}

#[test]
fn the_separator_is_configurable() {
    let mut config = config(Vec::new(), &["secret"]);
    config.rest_separator = b'|';
    let auth = Auth::new(config).unwrap();
    let identity = timed(&auth, "1700000060|a:b", "secret").check(&auth).unwrap();
    assert_eq!(&**identity.account(), b"a:b");
    let other = timed(&auth, "1700000060:a", "secret");
    assert_eq!(other.failure(&auth), AuthFailure::NotTimeLimited);
}

#[test]
fn each_of_several_secrets_is_good() {
    let auth = rest(&["new", "old", "older"]);
    for secret in ["new", "old", "older"] {
        assert!(timed(&auth, "1700000060:alice", secret).check(&auth).is_ok(), "{secret}");
        assert!(timed_sha256(&auth, "1700000060:alice", secret).check(&auth).is_ok(), "{secret}");
    }
    let withdrawn = timed(&auth, "1700000060:alice", "oldest");
    assert_eq!(withdrawn.failure(&auth), AuthFailure::WrongKey);
}

#[test]
fn a_name_ends_with_its_second() {
    let auth = rest(&["secret"]);
    let request = timed(&auth, &format!("{}:alice", NOW + 1), "secret");
    assert!(request.check(&auth).is_ok());
    let late = |by_s| timed(&auth, &format!("{}:alice", NOW - by_s), "secret").failure(&auth);
    assert_eq!(late(0), AuthFailure::Expired { by_s: 0 });
    assert_eq!(late(90), AuthFailure::Expired { by_s: 90 });
}

#[test]
fn names_of_no_configured_kind() {
    let both = auth(vec![user("alice", password("sesame"))], &["secret"]);
    assert_eq!(timed(&both, "bob", "secret").failure(&both), AuthFailure::UnknownUser);
    let rest = rest(&["secret"]);
    assert_eq!(timed(&rest, "bob", "secret").failure(&rest), AuthFailure::NotTimeLimited);
    let fixed = alice();
    let name = "1700000060:alice";
    assert_eq!(timed(&fixed, name, "secret").failure(&fixed), AuthFailure::UnknownUser);
}

#[test]
fn a_static_user_goes_before_a_time_limited_name() {
    let name = "1600000000:alice";
    let auth = auth(vec![user(name, password("sesame"))], &["secret"]);
    let fixed = Request::old(&challenge(&auth), name, "sesame").check(&auth).unwrap();
    assert_eq!(fixed.expires_unix(), None, "it never ends");
    assert_eq!(&**fixed.account(), name.as_bytes());
    assert_eq!(timed(&auth, name, "secret").failure(&auth), AuthFailure::WrongKey);
}

#[test]
fn a_time_limited_name_cannot_be_hidden() {
    let auth = rest(&["secret"]);
    let hashed = timed_sha256(&auth, "1700000060:alice", "secret").hashed();
    assert_eq!(hashed.failure(&auth), AuthFailure::UnknownUser);
}

#[test]
fn expiry_ends_an_allocation_s_requests_only_where_it_is_enforced() {
    for enforce_expiry in [true, false] {
        let auth = Auth::new(AuthConfig { enforce_expiry, ..config(Vec::new(), &["secret"]) });
        let auth = auth.unwrap();
        let request = timed(&auth, &format!("{}:alice", NOW + 10), "secret");
        let known = request.check(&auth).unwrap();
        let at = |unix_s, leaving| request.check_at(&auth, unix_s, Some(&known), leaving);
        assert!(matches!(at(NOW + 9, false), Ok(None)));
        match (enforce_expiry, at(NOW + 15, false)) {
            (true, Err(refusal)) => {
                let expired = AuthFailure::Expired { by_s: 5 };
                assert_eq!(refusal, Refusal::Challenge(Some(expired)));
            }
            (false, Ok(None)) => {}
            (_, other) => panic!("{enforce_expiry}: {other:?}"),
        }
        assert!(matches!(at(NOW + 15, true), Ok(None)), "leaving is always allowed");
    }
}

#[test]
fn leave_to_go_on_is_for_the_name_of_the_allocation_alone() {
    let auth = Auth::new(AuthConfig { enforce_expiry: false, ..config(Vec::new(), &["secret"]) });
    let auth = auth.unwrap();
    let known = timed(&auth, &format!("{}:alice", NOW + 10), "secret").check(&auth).unwrap();
    let stale = timed(&auth, &format!("{}:alice", NOW - 10), "secret");
    for known in [None, Some(&known)] {
        let refusal = stale.check_at(&auth, NOW, known, true).expect_err("expired");
        let expired = AuthFailure::Expired { by_s: 10 };
        assert_eq!(refusal, Refusal::Challenge(Some(expired)));
    }
    // Known, but with other algorithms: the look-up is as lenient as the cached key.
    let name = format!("{}:alice", NOW + 10);
    let sha256 = timed_sha256(&auth, &name, "secret");
    assert!(matches!(sha256.check_at(&auth, NOW + 15, Some(&known), false), Ok(Some(_))));
}

#[test]
fn a_rotated_name_is_another_user_of_the_same_account() {
    let auth = rest(&["secret"]);
    let first = timed(&auth, "1700000060:alice", "secret").check(&auth).unwrap();
    let second = timed(&auth, "1700000120:alice", "secret");
    let second = second.check_at(&auth, NOW, Some(&first), false).unwrap().unwrap();
    assert!(!second.same_user(&first));
    assert_eq!(second.account(), first.account());
}

#[test]
fn names_and_passwords_are_compared_after_opaque_string() {
    //= rfc8489#section-14.4
    //= type=test
    //# The username
    //# MUST have been processed using the OpaqueString profile [RFC8265],
    //# and the realm MUST have been processed using the OpaqueString profile
    //# [RFC8265] before hashing.
    let auth = auth(vec![user("e\u{301}\u{3000}b", password("se\u{A0}same"))], &[]);
    let challenge = challenge(&auth);
    let good = Request::new(&challenge, PasswordAlgorithm::Sha256, "é b", "se same");
    let identity = good.check(&auth).unwrap();
    assert_eq!(&**identity.user(), "é b".as_bytes());
    assert!(good.clone().hashed().check(&auth).is_ok());
    // A client that did not prepare the name it sends, but did for its key.
    let lazy = Request { name: Some("e\u{301}\u{3000}b".into()), ..good };
    assert!(lazy.check(&auth).unwrap().same_user(&identity));
    assert!(matches!(lazy.check_at(&auth, NOW, Some(&identity), false), Ok(None)));
}

#[test]
fn what_is_no_text_is_no_user() {
    let auth = alice();
    let good = Request::old(&challenge(&auth), "alice", "sesame");
    for name in [&b"\xFF\xFE"[..], b"ali\x07ce", b"", b"\0\0", "ali\u{AD}ce".as_bytes()] {
        let bad = Request { name: Some(name.to_vec()), ..good.clone() };
        assert_eq!(bad.failure(&auth), AuthFailure::UnknownUser, "{name:?}");
    }
}

#[test]
fn trailing_nulls_are_not_part_of_a_name() {
    let auth = alice();
    let good = Request::old(&challenge(&auth), "alice", "sesame");
    let padded = Request { name: Some(b"alice\0\0".to_vec()), ..good };
    assert_eq!(&**padded.check(&auth).unwrap().user(), b"alice");
}

#[test]
fn a_realm_is_prepared_too() {
    let mut config = config(vec![user("alice", password("sesame"))], &[]);
    config.realm = "exa\u{3000}mple".into();
    assert_eq!(**Auth::new(config).unwrap().realm(), *b"exa mple");
}
