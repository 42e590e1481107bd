//! What `Auth::new` takes and refuses, and that nothing shows a secret.

use super::*;

#[test]
fn secrets_are_not_shown() {
    let keys = UserCredential::Keys { md5: [0xA5; 16], sha256: [0xA5; 32] };
    assert!(!format!("{keys:?}").contains("165"), "{keys:?}");
    let config = config(vec![user("alice", password("sesame"))], &["topsecret"]);
    let shown = format!("{config:?}");
    let auth = Auth::new(config).unwrap();
    let identity = Request::old(&challenge(&auth), "alice", "sesame").check(&auth).unwrap();
    let shown = format!("{shown} {auth:?} {identity:?}");
    for secret in ["sesame", "topsecret", "whole fleet"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("alice") && shown.contains(REALM), "{shown}");
}

#[test]
fn an_unusable_configuration_is_refused() {
    let error = |change: fn(&mut AuthConfig)| {
        let mut config = config(vec![user("alice", password("sesame"))], &["secret"]);
        change(&mut config);
        Auth::new(config).expect_err("unusable")
    };
    let nobody = error(|config| {
        config.users.clear();
        config.rest_secrets.clear();
    });
    assert_eq!(nobody, AuthConfigError::NobodyConfigured);
    let later = AuthConfig { users_elsewhere: true, ..config(Vec::new(), &[]) };
    assert!(Auth::new(later).is_ok(), "users may come from elsewhere");
    assert_eq!(error(|config| config.realm.clear()), AuthConfigError::BadRealm);
    assert_eq!(error(|config| config.realm = "a\"b".into()), AuthConfigError::BadRealm);
    assert_eq!(error(|config| config.realm = "x".repeat(128)), AuthConfigError::BadRealm);
    assert_eq!(
        error(|config| config.rest_secrets.push(Vec::new())),
        AuthConfigError::EmptyRestSecret { index: 1 }
    );
    assert_eq!(error(|config| config.rest_separator = b'1'), AuthConfigError::BadSeparator);
    assert_eq!(error(|config| config.rest_separator = 0xC3), AuthConfigError::BadSeparator);
    assert_eq!(error(|config| config.nonce_secret.clear()), AuthConfigError::EmptyNonceSecret);
    assert_eq!(error(|config| config.nonce_lifetime_s = 0), AuthConfigError::ZeroNonceLifetime);
}

#[test]
fn an_unusable_user_is_named_without_the_password() {
    let error = |users| Auth::new(config(users, &[])).expect_err("unusable").to_string();
    let bad_password = error(vec![user("alice", password("se\u{7}same"))]);
    assert!(bad_password.contains("alice") && !bad_password.contains("same"), "{bad_password}");
    assert!(error(vec![user("alice", password(""))]).contains("alice"));
    assert!(error(vec![user("al\nice", password("sesame"))]).contains("al\\nice"));
    assert!(error(vec![user("", password("sesame"))]).contains("user name"));
    assert!(error(vec![user(&"x".repeat(509), password("sesame"))]).contains("508"));
    let twice = vec![user("a b", password("one")), user("a\u{3000}b", password("two"))];
    assert!(error(twice).contains("twice"), "the same name after OpaqueString");
}

#[test]
fn a_user_of_a_database_is_served_with_every_algorithm() {
    let keys = UserCredential::Keys {
        md5: md5_key("alice", "sesame"),
        sha256: sha256_key("alice", "sesame"),
    };
    let config = AuthConfig {
        users_elsewhere: true,
        ..config(vec![user("alice", keys), user("bob", password("simsim"))], &[])
    };
    let auth = Auth::new(config).unwrap();
    let challenge = challenge(&auth);
    assert_eq!(challenge.algorithms.as_deref(), Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
    assert!(Request::old(&challenge, "alice", "sesame").check(&auth).is_ok());
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        let request = Request::new(&challenge, algorithm, "alice", "sesame");
        assert!(request.check(&auth).is_ok(), "{algorithm:?}");
        let wrong = Request::new(&challenge, algorithm, "alice", "simsim");
        assert_eq!(wrong.failure(&auth), AuthFailure::WrongKey, "{algorithm:?}");
    }
}
