//! Requests as clients send them, against the rules of RFC 8489 section 9.2.4.

mod bid_down;
mod configuration;
mod names;
mod vectors;

use hmac::{Hmac, KeyInit, Mac};
use turnway_wire::{
    Class, Encode, IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256, Method, TransactionId,
    user_hash,
};

use super::*;

const NOW: u64 = 1_700_000_000;
const REALM: &str = "example.org";
const NONCE_LIFETIME: u32 = 600;

fn client() -> SocketAddr {
    "192.0.2.1:40000".parse().unwrap()
}

fn user(name: &str, credential: UserCredential) -> StaticUser {
    StaticUser { name: name.into(), credential }
}

fn password(password: &str) -> UserCredential {
    UserCredential::Password(password.into())
}

fn md5_key(name: &str, password: &str) -> [u8; 16] {
    key(PasswordAlgorithm::Md5, name, password).try_into().unwrap()
}

fn sha256_key(name: &str, password: &str) -> [u8; 32] {
    key(PasswordAlgorithm::Sha256, name, password).try_into().unwrap()
}

fn key(algorithm: PasswordAlgorithm, name: &str, password: &str) -> Vec<u8> {
    let key =
        LongTermKey::derive(algorithm, name.as_bytes(), REALM.as_bytes(), password.as_bytes());
    key.as_bytes().to_vec()
}

fn config(users: Vec<StaticUser>, secrets: &[&str]) -> AuthConfig {
    AuthConfig {
        id: RealmId::FIRST,
        realm: REALM.into(),
        users,
        users_elsewhere: false,
        rest_secrets: secrets.iter().map(|secret| secret.as_bytes().to_vec()).collect(),
        rest_separator: b':',
        nonce_secret: b"a secret of the whole fleet".to_vec(),
        nonce_lifetime_s: NONCE_LIFETIME,
        enforce_expiry: true,
        oauth: None,
    }
}

fn auth(users: Vec<StaticUser>, secrets: &[&str]) -> Auth {
    Auth::new(config(users, secrets)).unwrap()
}

/// A realm with the one user alice, password "sesame".
fn alice() -> Auth {
    auth(vec![user("alice", password("sesame"))], &[])
}

/// What a 401 or 438 told the client.
struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    algorithms: Option<Vec<u8>>,
}

fn challenge_at(auth: &Auth, client: SocketAddr, unix_s: u64) -> Challenge {
    let mut out = [0; 300];
    let tid = TransactionId([1; 12]);
    let mut b = Builder::new(&mut out, Class::Error, Method::ALLOCATE, tid).unwrap();
    auth.add_challenge(&mut b, client, unix_s).unwrap();
    let len = b.finish();
    let msg = Message::parse(&out[..len]).unwrap();
    Challenge {
        realm: msg.raw(AttributeType::REALM).unwrap().to_vec(),
        nonce: msg.raw(AttributeType::NONCE).unwrap().to_vec(),
        algorithms: msg.raw(AttributeType::PASSWORD_ALGORITHMS).map(<[u8]>::to_vec),
    }
}

fn challenge(auth: &Auth) -> Challenge {
    challenge_at(auth, client(), NOW)
}

struct Raw<const TYPE: u16>(Vec<u8>);

impl<const NUMBER: u16> Encode for Raw<NUMBER> {
    const TYPE: AttributeType = AttributeType(NUMBER);

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(&self.0);
    }
}

fn add<const TYPE: u16>(b: &mut Builder<'_>, value: &Option<Vec<u8>>) {
    if let Some(value) = value {
        b.add(&Raw::<TYPE>(value.clone())).unwrap();
    }
}

/// A request whose every part can be spoilt.
#[derive(Clone)]
struct Request {
    name: Option<Vec<u8>>,
    hash: Option<Vec<u8>>,
    realm: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    algorithms: Option<Vec<u8>>,
    algorithm: Option<Vec<u8>>,
    integrity: Vec<IntegrityAlgorithm>,
    key: Vec<u8>,
}

impl Request {
    /// As every client before RFC 8489 sends it.
    fn old(challenge: &Challenge, name: &str, password: &str) -> Self {
        Self {
            name: Some(name.into()),
            hash: None,
            realm: Some(challenge.realm.clone()),
            nonce: Some(challenge.nonce.clone()),
            algorithms: None,
            algorithm: None,
            integrity: vec![Sha1],
            key: key(PasswordAlgorithm::Md5, name, password),
        }
    }

    /// As a client of RFC 8489 sends it, with the algorithm of its choice.
    fn new(
        challenge: &Challenge,
        algorithm: PasswordAlgorithm,
        name: &str,
        password: &str,
    ) -> Self {
        let [high, low] = algorithm.number().to_be_bytes();
        Self {
            algorithms: challenge.algorithms.clone(),
            algorithm: Some(vec![high, low, 0, 0]),
            integrity: vec![Sha256],
            key: key(algorithm, name, password),
            ..Self::old(challenge, name, password)
        }
    }

    /// The same with the name hidden.
    fn hashed(mut self) -> Self {
        let name = self.name.take().unwrap();
        self.hash = Some(user_hash(&name, REALM.as_bytes()).to_vec());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 2000];
        let tid = TransactionId([7; 12]);
        let mut b = Builder::new(&mut out, Class::Request, Method::ALLOCATE, tid).unwrap();
        add::<0x0006>(&mut b, &self.name);
        add::<0x001E>(&mut b, &self.hash);
        add::<0x0014>(&mut b, &self.realm);
        add::<0x0015>(&mut b, &self.nonce);
        add::<0x8002>(&mut b, &self.algorithms);
        add::<0x001D>(&mut b, &self.algorithm);
        for algorithm in &self.integrity {
            b.integrity(&IntegrityKey::new(*algorithm, &self.key)).unwrap();
        }
        let len = b.finish();
        out.truncate(len);
        out
    }

    fn check_at(
        &self,
        auth: &Auth,
        unix_s: u64,
        known: Option<&Identity>,
        allow_expired: bool,
    ) -> Result<Option<Identity>, Refusal> {
        let bytes = self.bytes();
        let msg = Message::parse(&bytes).unwrap();
        auth.check(&msg, client(), unix_s, known, allow_expired)
    }

    /// As the first authenticated request of a client.
    fn check(&self, auth: &Auth) -> Result<Identity, Refusal> {
        let found = self.check_at(auth, NOW, None, false)?;
        Ok(found.expect("without a known identity, success tells who it is"))
    }

    fn refusal(&self, auth: &Auth) -> Refusal {
        self.check(auth).expect_err("the request is to be refused")
    }

    fn failure(&self, auth: &Auth) -> AuthFailure {
        match self.refusal(auth) {
            Refusal::Challenge(Some(cause)) => cause,
            other => panic!("{other:?} instead of a 401 with a cause"),
        }
    }
}

#[test]
fn a_request_without_integrity_is_challenged() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# If the message does not contain a MESSAGE-INTEGRITY or MESSAGE-
    //# INTEGRITY-SHA256 attribute, the server MUST generate an error
    //# response with an error code of 401 (Unauthenticated).
    let auth = alice();
    let mut request = Request::old(&challenge(&auth), "alice", "sesame");
    request.integrity.clear();
    assert_eq!(request.refusal(&auth), Refusal::Challenge(None));
    request.name = None;
    request.realm = None;
    request.nonce = None;
    assert_eq!(request.refusal(&auth), Refusal::Challenge(None));
}

#[test]
fn a_signed_request_must_be_complete() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# If the message contains a MESSAGE-INTEGRITY or a MESSAGE-
    //# INTEGRITY-SHA256 attribute, but is missing either the USERNAME or
    //# USERHASH, REALM, or NONCE attribute, the server MUST generate an
    //# error response with an error code of 400 (Bad Request).
    let auth = alice();
    let good = Request::old(&challenge(&auth), "alice", "sesame");
    assert!(good.check(&auth).is_ok());
    for algorithm in [Sha1, Sha256] {
        let good = Request { integrity: vec![algorithm], ..good.clone() };
        for bad in [
            Request { name: None, ..good.clone() },
            Request { realm: None, ..good.clone() },
            Request { nonce: None, ..good.clone() },
        ] {
            assert_eq!(bad.refusal(&auth), Refusal::BadRequest);
        }
    }
}

#[test]
fn malformed_credentials_are_a_bad_request() {
    let auth = alice();
    let good = Request::old(&challenge(&auth), "alice", "sesame");
    for bad in [
        Request { name: Some(vec![b'a'; 764]), ..good.clone() },
        Request { name: None, hash: Some(vec![0; 31]), ..good.clone() },
        Request { nonce: Some(vec![b'a'; 764]), ..good.clone() },
        Request { realm: Some(vec![b'a'; 764]), ..good.clone() },
    ] {
        assert_eq!(bad.refusal(&auth), Refusal::BadRequest);
    }
}

#[test]
fn old_and_new_clients_are_served() {
    let auth = alice();
    let challenge = challenge(&auth);
    let old = Request::old(&challenge, "alice", "sesame");
    let md5 = Request::new(&challenge, PasswordAlgorithm::Md5, "alice", "sesame");
    let sha256 = Request::new(&challenge, PasswordAlgorithm::Sha256, "alice", "sesame");
    for request in [old, md5, sha256.clone(), sha256.hashed()] {
        let identity = request.check(&auth).unwrap();
        assert_eq!(&**identity.user(), b"alice");
        assert_eq!(&**identity.account(), b"alice");
        assert_eq!(identity.expires_unix(), None);
    }
}

#[test]
fn a_wrong_password_is_told_from_an_unknown_user() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# If the value of the USERNAME or USERHASH attribute is not valid,
    //# the server MUST generate an error response with an error code of
    //# 401 (Unauthenticated).
    let auth = alice();
    let challenge = challenge(&auth);
    let sha256 = PasswordAlgorithm::Sha256;
    let cause = |request: Request| request.failure(&auth);
    assert_eq!(cause(Request::old(&challenge, "bob", "sesame")), AuthFailure::UnknownUser);
    let hashed = Request::new(&challenge, sha256, "bob", "sesame").hashed();
    assert_eq!(cause(hashed), AuthFailure::UnknownUser);
    assert_eq!(cause(Request::old(&challenge, "alice", "simsim")), AuthFailure::WrongKey);
    let hashed = Request::new(&challenge, sha256, "alice", "simsim").hashed();
    assert_eq!(cause(hashed), AuthFailure::WrongKey);
}

#[test]
fn no_password_helps_a_user_who_is_not_there() {
    // The key that unknown users are measured against, so that they cost the same time.
    let auth = alice();
    let request = Request { key: vec![0; 32], ..Request::old(&challenge(&auth), "bob", "") };
    assert_eq!(request.failure(&auth), AuthFailure::UnknownUser);
}

#[test]
fn another_realm_is_refused() {
    let auth = alice();
    let good = Request::old(&challenge(&auth), "alice", "sesame");
    let bad = Request { realm: Some(b"example.net".to_vec()), ..good.clone() };
    assert_eq!(bad.failure(&auth), AuthFailure::UnknownUser);
    let padded = Request { realm: Some(b"example.org\0\0".to_vec()), ..good };
    assert!(padded.check(&auth).is_ok(), "trailing nulls are not part of it");
}

#[test]
fn the_sha256_attribute_counts_when_both_are_there() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# If the MESSAGE-INTEGRITY-SHA256 attribute is present, compute the
    //# value for the message integrity as described in Section 14.6,
    //# using the password associated with the username.
    let auth = alice();
    let good = Request::old(&challenge(&auth), "alice", "sesame");
    let both = Request { integrity: vec![Sha1, Sha256], ..good };
    assert!(both.check(&auth).is_ok());
    let mut bytes = both.bytes();
    *bytes.last_mut().unwrap() ^= 1;
    let msg = Message::parse(&bytes).unwrap();
    let refusal = auth.check(&msg, client(), NOW, None, false).expect_err("a spoilt SHA-256");
    assert_eq!(refusal, Refusal::Challenge(Some(AuthFailure::WrongKey)));
}

#[test]
fn a_truncated_sha256_attribute_is_refused() {
    //= rfc8489#section-14.6
    //= type=test
    //# The value must be the full 32 bytes unless the STUN Usage
    //# explicitly specifies that truncation is allowed.
    let auth = alice();
    let good = Request::new(&challenge(&auth), PasswordAlgorithm::Sha256, "alice", "sesame");
    let whole = good.bytes();
    let unsigned = &whole[..whole.len() - 4 - 32];
    // A correct HMAC each time: it covers the length field that tells how much of it is sent.
    for sent in [32, 28, 16] {
        let mut bytes = unsigned.to_vec();
        let len = u16::try_from(bytes.len() - 20 + 4 + sent).unwrap();
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&good.key).unwrap();
        mac.update(&bytes);
        bytes.extend_from_slice(&[0x00, 0x1C, 0, sent as u8]);
        bytes.extend_from_slice(&mac.finalize().into_bytes()[..sent]);
        let msg = Message::parse(&bytes).unwrap();
        match auth.check(&msg, client(), NOW, None, false) {
            Ok(_) => assert_eq!(sent, 32),
            Err(refusal) => {
                assert_ne!(sent, 32);
                assert_eq!(refusal, Refusal::Challenge(Some(AuthFailure::WrongKey)));
            }
        }
    }
}

#[test]
fn the_response_is_signed_as_the_password_algorithm_says() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# Any response generated by the server MUST include the MESSAGE-
    //# INTEGRITY-SHA256 attribute, computed using the username and password
    //# utilized to authenticate the request, unless the request was
    //# processed as though PASSWORD-ALGORITHM was MD5 (because the request
    //# contained neither PASSWORD-ALGORITHMS nor PASSWORD-ALGORITHM).
    let auth = alice();
    let challenge = challenge(&auth);
    let old = Request::old(&challenge, "alice", "sesame");
    let md5 = Request::new(&challenge, PasswordAlgorithm::Md5, "alice", "sesame");
    let sha256 = Request::new(&challenge, PasswordAlgorithm::Sha256, "alice", "sesame");
    for (request, response) in [(old, Sha1), (md5, Sha256), (sha256, Sha256)] {
        for integrity in [Sha1, Sha256] {
            let request = Request { integrity: vec![integrity], ..request.clone() };
            let identity = request.check(&auth).unwrap();
            assert_eq!(identity.key().algorithm(), response, "{integrity:?}");
            assert!(signs_like(identity.key(), &IntegrityKey::new(response, &request.key)));
        }
    }
}

fn signs_like(one: &IntegrityKey, other: &IntegrityKey) -> bool {
    let mut out = [0; 100];
    let tid = TransactionId([2; 12]);
    let mut b = Builder::new(&mut out, Class::Success, Method::ALLOCATE, tid).unwrap();
    b.integrity(one).unwrap();
    let len = b.finish();
    Message::parse(&out[..len]).unwrap().verify(other)
}

#[test]
fn a_stale_nonce_is_told_before_anything_about_the_user() {
    //= rfc8489#section-9.2.4
    //= type=test
    //# If the NONCE is no longer valid, the server MUST generate an error
    //# response with an error code of 438 (Stale Nonce).
    let auth = alice();
    let lifetime = u64::from(NONCE_LIFETIME);
    for (name, password) in [("alice", "sesame"), ("alice", "wrong"), ("bob", "")] {
        let old = challenge_at(&auth, client(), NOW - lifetime - 1);
        let request = Request::old(&old, name, password);
        assert_eq!(request.refusal(&auth), Refusal::StaleNonce, "{name} {password}");
    }
    let last_moment = challenge_at(&auth, client(), NOW - lifetime);
    assert!(Request::old(&last_moment, "alice", "sesame").check(&auth).is_ok());
}

#[test]
fn a_nonce_serves_one_client_on_every_server_of_the_fleet() {
    let here = alice();
    let there = alice();
    let request = Request::old(&challenge(&here), "alice", "sesame");
    assert!(request.check(&there).is_ok());

    let elsewhere = "192.0.2.2:40000".parse().unwrap();
    let stolen = Request::old(&challenge_at(&here, elsewhere, NOW), "alice", "sesame");
    assert_eq!(stolen.refusal(&here), Refusal::StaleNonce);

    let mut config = config(vec![user("alice", password("sesame"))], &[]);
    config.nonce_secret = b"the secret of another fleet".to_vec();
    let stranger = Auth::new(config).unwrap();
    assert_eq!(request.refusal(&stranger), Refusal::StaleNonce);
}

#[test]
fn a_known_client_is_recognised_without_a_look_up() {
    let auth = alice();
    // A server that would not find alice, but shares the nonces.
    let forgetful = auth_of_bob_sharing_nonces();
    let challenge = challenge(&auth);
    let old = Request::old(&challenge, "alice", "sesame");
    let sha256 = Request::new(&challenge, PasswordAlgorithm::Sha256, "alice", "sesame");
    for request in [old, sha256] {
        let known = request.check(&auth).unwrap();
        let again = request.check_at(&forgetful, NOW, Some(&known), false);
        assert!(matches!(again, Ok(None)), "{again:?}");
        let forged = Request { key: vec![1; 16], ..request };
        let refusal = forged.check_at(&auth, NOW, Some(&known), false).expect_err("forged");
        assert_eq!(refusal, Refusal::Challenge(Some(AuthFailure::WrongKey)));
    }
}

fn auth_of_bob_sharing_nonces() -> Auth {
    auth(vec![user("bob", password("sesame"))], &[])
}

#[test]
fn a_known_client_may_hide_its_name() {
    let auth = alice();
    let request = Request::new(&challenge(&auth), PasswordAlgorithm::Sha256, "alice", "sesame");
    let known = request.check(&auth).unwrap();
    assert!(matches!(request.hashed().check_at(&auth, NOW, Some(&known), false), Ok(None)));
}

#[test]
fn another_user_or_algorithm_than_known_is_looked_up() {
    let users = vec![user("alice", password("sesame")), user("bob", password("simsim"))];
    let auth = auth(users, &[]);
    let challenge = challenge(&auth);
    let known = Request::old(&challenge, "alice", "sesame").check(&auth).unwrap();

    let bob = Request::old(&challenge, "bob", "simsim");
    let bob = bob.check_at(&auth, NOW, Some(&known), false).unwrap().unwrap();
    assert!(!bob.same_user(&known));

    let sha256 = Request::new(&challenge, PasswordAlgorithm::Sha256, "alice", "sesame");
    let other = sha256.check_at(&auth, NOW, Some(&known), false).unwrap().unwrap();
    assert!(other.same_user(&known));
    assert_eq!(other.key().algorithm(), Sha256);
}
