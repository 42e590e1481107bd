//! The client's side of STUN: how requests are made, signed and read.

use turnway_relay::auth::rest_password;
use turnway_relay::{Outcome, Request};
use turnway_wire::{
    BufferFull, Builder, Class, IntegrityAlgorithm, IntegrityKey, LongTermKey, Message, Method,
    Nonce, PasswordAlgorithm, PasswordAlgorithmAttribute, PasswordAlgorithms, Realm, TransactionId,
    UserHash, Username, user_hash,
};

use crate::plan::REALM;

/// Who a session claims to be.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: Box<[u8]>,
    pub(crate) password: String,
    /// Signs with SHA-256 where it is offered, as RFC 8489 clients do.
    pub(crate) modern: bool,
    /// Sends USERHASH instead of its name.
    pub(crate) anonymous: bool,
}

impl User {
    pub(crate) fn fixed(name: String, password: String) -> Self {
        Self { name: name.into_bytes().into(), password, modern: false, anonymous: false }
    }

    pub(crate) fn timed(name: String, secret: &[u8]) -> Self {
        let password = rest_password(secret, name.as_bytes());
        Self::fixed(name, password)
    }
}

/// What a challenge and a user make.
pub(crate) struct Credentials {
    pub(crate) nonce: Vec<u8>,
    pub(crate) key: IntegrityKey,
    /// The offered algorithms, repeated by clients that chose one.
    algorithms: Vec<PasswordAlgorithm>,
}

impl Credentials {
    /// Answers a 401 or 438; `None` if it is no challenge.
    pub(crate) fn new(user: &User, challenge: &Message<'_>) -> Option<Self> {
        let Nonce(nonce) = challenge.get().ok()??;
        let offered = challenge.get::<PasswordAlgorithms<'_>>().ok()?;
        let offered = offered.filter(|_| user.modern);
        let algorithms: Vec<_> = offered
            .into_iter()
            .flat_map(|list| list.iter())
            .filter_map(|(number, _)| PasswordAlgorithm::from_number(number))
            .collect();
        let (password, integrity) = match algorithms.first() {
            Some(first) => (*first, IntegrityAlgorithm::Sha256),
            None => (PasswordAlgorithm::Md5, IntegrityAlgorithm::Sha1),
        };
        let secret = user.password.as_bytes();
        let key = LongTermKey::derive(password, &user.name, REALM.as_bytes(), secret);
        Some(Self {
            nonce: nonce.to_vec(),
            key: IntegrityKey::new(integrity, key.as_bytes()),
            algorithms,
        })
    }

    fn add(&self, user: &User, builder: &mut Builder<'_>) -> Result<(), BufferFull> {
        match user.anonymous {
            true => builder.add(&UserHash(user_hash(&user.name, REALM.as_bytes())))?,
            false => builder.add(&Username(&user.name))?,
        }
        builder.add(&Realm(REALM.as_bytes()))?;
        builder.add(&Nonce(&self.nonce))?;
        if let Some(first) = self.algorithms.first() {
            builder.add(&PasswordAlgorithms::new(&self.algorithms))?;
            builder.add(&PasswordAlgorithmAttribute(*first))?;
        }
        builder.integrity(&self.key)
    }
}

pub(crate) type Fill<'f> = &'f dyn Fn(&mut Builder<'_>) -> Result<(), BufferFull>;

/// Writes a request.
pub(crate) fn request(
    method: Method,
    transaction: [u8; 12],
    proof: Option<(&User, &Credentials)>,
    fill: Fill<'_>,
) -> Vec<u8> {
    write(Class::Request, method, transaction, |builder| {
        fill(builder)?;
        if let Some((user, credentials)) = proof {
            credentials.add(user, builder)?;
        }
        match transaction[0] % 2 {
            0 => builder.fingerprint(),
            _ => Ok(()),
        }
    })
}

pub(crate) fn indication(transaction: [u8; 12], fill: Fill<'_>) -> Vec<u8> {
    write(Class::Indication, Method::SEND, transaction, fill)
}

fn write(
    class: Class,
    method: Method,
    transaction: [u8; 12],
    fill: impl FnOnce(&mut Builder<'_>) -> Result<(), BufferFull>,
) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let fits = "simulated messages are short";
    let transaction = TransactionId(transaction);
    let mut builder = Builder::new(&mut buffer, class, method, transaction).expect(fits);
    fill(&mut builder).expect(fits);
    let len = builder.finish();
    buffer[..len].to_vec()
}

pub(crate) fn request_of(method: Method) -> Option<Request> {
    match method {
        Method::BINDING => Some(Request::Binding),
        Method::ALLOCATE => Some(Request::Allocate),
        Method::REFRESH => Some(Request::Refresh),
        Method::CREATE_PERMISSION => Some(Request::CreatePermission),
        Method::CHANNEL_BIND => Some(Request::ChannelBind),
        Method::CONNECT => Some(Request::Connect),
        Method::CONNECTION_BIND => Some(Request::ConnectionBind),
        _ => None,
    }
}

pub(crate) fn outcome_of(code: u16) -> Outcome {
    match code {
        400 => Outcome::BadRequest,
        401 => Outcome::Unauthenticated,
        403 => Outcome::Forbidden,
        420 => Outcome::UnknownAttribute,
        437 => Outcome::AllocationMismatch,
        438 => Outcome::StaleNonce,
        440 => Outcome::FamilyNotSupported,
        441 => Outcome::WrongCredentials,
        442 => Outcome::UnsupportedTransport,
        443 => Outcome::FamilyMismatch,
        446 => Outcome::ConnectionExists,
        447 => Outcome::ConnectionFailed,
        486 => Outcome::QuotaReached,
        508 => Outcome::InsufficientCapacity,
        other => panic!("the error code {other} is not in the vocabulary"),
    }
}
