//! Requests of a TURN client and their answers, as far as a load needs them; no socket, no clock.

use std::fmt;
use std::net::SocketAddr;

use turnway_wire::{
    BufferFull, Builder, ChannelNumber, Class, Data, ErrorCode, IntegrityAlgorithm, IntegrityKey,
    Lifetime, LongTermKey, Message, Method, Nonce, PasswordAlgorithm, Realm,
    RequestedAddressFamily, RequestedTransport, TransactionId, Username, XorPeerAddress,
    XorRelayedAddress, code, padding,
};
use zeroize::Zeroizing;

use crate::LoadError;

/// The channel of every client.
pub const CHANNEL: u16 = 0x4000;

/// Room for any request: name, realm and nonce are the longest of what is in it.
pub(crate) const REQUEST_MAX: usize = 2_560;

/// The longest name in bytes (RFC 8489 section 14.3); realms and nonces are no longer.
const NAME_MAX: usize = 763;

/// The most that precedes a payload: a Send indication up to the value of DATA, over IPv6.
pub(crate) const HEAD_MAX: usize = 48;

/// Protocol 17, UDP.
const UDP: RequestedTransport = RequestedTransport(17);

/// Who the clients are.
#[derive(Clone)]
pub struct Credentials {
    /// The whole name, of time-limited credentials with its timestamp.
    pub user: String,
    /// Never shown.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The server's view of our address.
    Binding,
    /// An allocation with a relayed transport address of this peer's family.
    Allocate(SocketAddr),
    /// A permission for a peer.
    Permit(SocketAddr),
    /// [`CHANNEL`] to a peer.
    Bind(SocketAddr),
    /// A new lifetime in seconds.
    Refresh(u32),
    /// The end of the allocation.
    Delete,
}

impl Ask {
    /// The method of the request.
    #[must_use]
    pub const fn method(self) -> Method {
        match self {
            Self::Binding => Method::BINDING,
            Self::Allocate(_) => Method::ALLOCATE,
            Self::Permit(_) => Method::CREATE_PERMISSION,
            Self::Bind(_) => Method::CHANNEL_BIND,
            Self::Refresh(_) | Self::Delete => Method::REFRESH,
        }
    }

    fn add(self, message: &mut Builder<'_>) -> Result<(), BufferFull> {
        match self {
            Self::Binding => Ok(()),
            Self::Allocate(peer) => {
                message.add(&UDP)?;
                // IPv4 is the default, and not every server knows the attribute.
                match peer {
                    SocketAddr::V4(_) => Ok(()),
                    SocketAddr::V6(_) => message
                        .add(&RequestedAddressFamily { family: Some(turnway_wire::Family::V6) }),
                }
            }
            Self::Permit(peer) => message.add(&XorPeerAddress(peer)),
            Self::Bind(peer) => {
                message.add(&ChannelNumber(CHANNEL))?;
                message.add(&XorPeerAddress(peer))
            }
            Self::Refresh(seconds) => message.add(&Lifetime(seconds)),
            Self::Delete => message.add(&Lifetime(0)),
        }
    }
}

/// What answers a challenge: realm and key are those of all clients.
pub(crate) struct Account {
    credentials: Credentials,
    realm: Vec<u8>,
    key: Option<IntegrityKey>,
}

/// How an answer ends a transaction, or does not.
pub(crate) enum Answer {
    /// It was granted; of an Allocate, the relayed transport address.
    Granted(Option<SocketAddr>),
    /// It must be asked again, with this nonce.
    Challenged(Vec<u8>),
    /// It was refused.
    Refused(LoadError),
}

impl Account {
    pub(crate) fn new(credentials: Credentials) -> Result<Self, LoadError> {
        let len = credentials.user.len();
        if len > NAME_MAX {
            return Err(LoadError::Input(format!(
                "--user has {len} bytes; the name of a user has {NAME_MAX} at most"
            )));
        }
        Ok(Self { credentials, realm: Vec::new(), key: None })
    }

    /// Builds a request. It is signed where there is a nonce.
    pub(crate) fn request(&self, ask: Ask, id: TransactionId, nonce: &[u8]) -> Vec<u8> {
        let mut out = vec![0; REQUEST_MAX];
        let len = self.build(&mut out, ask, id, nonce).expect("names and nonces are bounded");
        out.truncate(len);
        out
    }

    fn build(
        &self,
        out: &mut [u8],
        ask: Ask,
        id: TransactionId,
        nonce: &[u8],
    ) -> Result<usize, BufferFull> {
        let mut message = Builder::new(out, Class::Request, ask.method(), id)?;
        ask.add(&mut message)?;
        if let Some(key) = self.key.as_ref().filter(|_| !nonce.is_empty()) {
            message.add(&Username(self.credentials.user.as_bytes()))?;
            message.add(&Realm(&self.realm))?;
            message.add(&Nonce(nonce))?;
            message.integrity(key)?;
        }
        Ok(message.finish())
    }

    /// Reads the answer to a request that was `signed` or not.
    pub(crate) fn read(&mut self, message: &Message<'_>, ask: Ask, signed: bool) -> Answer {
        match message.class() {
            Class::Success => self.granted(message, ask, signed),
            Class::Error => self.refused(message, ask, signed),
            Class::Request | Class::Indication => bad("neither a success nor an error"),
        }
    }

    fn granted(&self, message: &Message<'_>, ask: Ask, signed: bool) -> Answer {
        if let Some(key) = self.key.as_ref().filter(|_| signed)
            && !message.verify(key)
        {
            return bad("its MESSAGE-INTEGRITY is wrong");
        }
        match ask {
            Ask::Allocate(_) => match message.get::<XorRelayedAddress>() {
                Ok(Some(relayed)) => Answer::Granted(Some(relayed.0)),
                Ok(None) | Err(_) => bad("no XOR-RELAYED-ADDRESS"),
            },
            Ask::Binding | Ask::Permit(_) | Ask::Bind(_) | Ask::Refresh(_) | Ask::Delete => {
                Answer::Granted(None)
            }
        }
    }

    fn refused(&mut self, message: &Message<'_>, ask: Ask, signed: bool) -> Answer {
        let Ok(Some(error)) = message.get::<ErrorCode>() else {
            return bad("an error without ERROR-CODE");
        };
        let again = match error.code {
            code::UNAUTHENTICATED => !signed,
            code::STALE_NONCE => true,
            _ => false,
        };
        if !again {
            return Answer::Refused(LoadError::Refused {
                method: ask.method(),
                code: error.code,
                reason: String::from_utf8_lossy(error.reason).into_owned(),
            });
        }
        let (Ok(Some(realm)), Ok(Some(nonce))) = (message.get::<Realm>(), message.get::<Nonce>())
        else {
            return bad("a challenge without REALM and NONCE");
        };
        if self.key.is_none() || self.realm != realm.0 {
            self.realm = realm.0.to_vec();
            let (user, password) = (&self.credentials.user, &self.credentials.password);
            let (user, password) = (user.as_bytes(), password.as_bytes());
            let key = LongTermKey::derive(PasswordAlgorithm::Md5, user, realm.0, password);
            self.key = Some(IntegrityKey::new(IntegrityAlgorithm::Sha1, key.as_bytes()));
        }
        Answer::Challenged(nonce.0.to_vec())
    }
}

fn bad(what: &'static str) -> Answer {
    Answer::Refused(LoadError::BadAnswer(what))
}

/// What precedes a payload of `len` bytes in a Send indication to `peer`.
pub(crate) fn send_head(peer: SocketAddr, len: usize) -> Result<Vec<u8>, LoadError> {
    let long = |_| LoadError::Input(format!("no Send indication holds {len} bytes"));
    let mut out = vec![0; HEAD_MAX + len + 3];
    let id = TransactionId(*b"load-of-data");
    let mut message = Builder::new(&mut out, Class::Indication, Method::SEND, id).map_err(long)?;
    message.add(&XorPeerAddress(peer)).map_err(long)?;
    message.add(&Data(&vec![0; len])).map_err(long)?;
    let total = message.finish();
    out.truncate(total - len - padding(len));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(user: String) -> Result<Account, LoadError> {
        Account::new(Credentials { user, password: Zeroizing::new("secret".to_owned()) })
    }

    #[test]
    fn the_longest_name_realm_and_nonce_fit_into_any_request() {
        let mut account = account("n".repeat(NAME_MAX)).unwrap();
        account.realm = vec![b'r'; NAME_MAX];
        account.key = Some(IntegrityKey::new(IntegrityAlgorithm::Sha1, b"key"));
        let (peer, nonce) = ("[2001:db8::1]:9".parse().unwrap(), [b'n'; NAME_MAX]);
        for ask in [Ask::Allocate(peer), Ask::Permit(peer), Ask::Bind(peer), Ask::Delete] {
            let request = account.request(ask, TransactionId([1; 12]), &nonce);
            assert!(request.len() > 3 * NAME_MAX, "{ask:?}");
        }
    }

    #[test]
    fn a_longer_name_is_refused_and_no_password_is_shown() {
        let error = account("n".repeat(NAME_MAX + 1)).err().unwrap().to_string();
        assert!(error.contains("--user has 764 bytes"), "{error}");
        let credentials = account("alice".to_owned()).unwrap().credentials;
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
