//! What an operator configures, and what can be wrong with it.

use core::fmt;

use zeroize::Zeroizing;

use crate::address::RealmId;

/// Who may use the server, and how it asks.
pub struct AuthConfig {
    /// The number of the realm.
    pub id: RealmId,
    /// The realm: fewer than 128 characters, no `"` and no `\`. RFC 8489 recommends the domain
    /// name of the provider.
    pub realm: String,
    /// Users with a fixed key or password.
    pub users: Vec<StaticUser>,
    /// Whether users may come later, from a database: then it is no error that there are none now.
    pub users_elsewhere: bool,
    /// Secrets shared with a web service that hands out time-limited credentials. Each is tried,
    /// so that a new one can be added before the old one is removed.
    pub rest_secrets: Vec<Vec<u8>>,
    /// What separates timestamp and id in a time-limited name, usually `:`. ASCII, not a digit.
    pub rest_separator: u8,
    /// What nonces are authenticated with; not empty, and better 16 random bytes or more. Servers with the
    /// same secret, realm and offered features honour each other's nonces.
    pub nonce_secret: Vec<u8>,
    /// For how many seconds a nonce is valid, at least 1.
    pub nonce_lifetime_s: u32,
    /// Whether the end of a time-limited name also ends its requests on existing allocations.
    pub enforce_expiry: bool,
    /// Access tokens of authorization servers (RFC 7635); `None`: there are none.
    pub oauth: Option<OAuthConfig>,
}

/// Which access tokens are honoured.
pub struct OAuthConfig {
    /// The name of this server that tokens are made for: text, not empty, without control
    /// characters. It goes into every challenge.
    pub server_name: String,
    /// By how many seconds the clocks of this machine and of an authorization server may differ.
    pub clock_skew_s: u32,
    /// The keys shared with authorization servers. Several may be in use, so that a new one can be
    /// added before the old one is removed.
    pub keys: Vec<OAuthKey>,
}

/// A long-term key shared with an authorization server.
#[derive(Debug)]
pub struct OAuthKey {
    /// Its identifier: what clients send as USERNAME.
    pub kid: String,
    /// The key.
    pub secret: OAuthSecret,
    /// Tokens are not honoured before this Unix time in seconds.
    pub not_before_unix: Option<u64>,
    /// Tokens are not honoured after this Unix time in seconds.
    pub not_after_unix: Option<u64>,
}

/// A key and what it is for.
//= rfc7635#section-4.1.1
//# A
//# STUN server and authorization server implementation MUST support
//# A256GCM as the authenticated encryption algorithm.
pub enum OAuthSecret {
    /// AES-128 in Galois/Counter Mode.
    A128Gcm(Zeroizing<[u8; 16]>),
    /// AES-256 in Galois/Counter Mode.
    A256Gcm(Zeroizing<[u8; 32]>),
}

impl fmt::Debug for OAuthSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A128Gcm(_) => "A128Gcm(..)",
            Self::A256Gcm(_) => "A256Gcm(..)",
        })
    }
}

/// A user with a fixed key or password.
#[derive(Debug)]
pub struct StaticUser {
    /// The name, fewer than 509 bytes.
    pub name: String,
    /// What proves it.
    pub credential: UserCredential,
}

/// What proves a static user.
pub enum UserCredential {
    /// The password itself; it serves every algorithm.
    Password(String),
    /// MD5(username ":" realm ":" password), as older servers store it. One such user keeps
    /// SHA-256 from being offered in the realm.
    Md5Key([u8; 16]),
    /// SHA-256(username ":" realm ":" password). Such a user cannot be served with MD5.
    Sha256Key([u8; 32]),
    /// Both keys, as a database of users holds them; they serve every algorithm.
    Keys {
        /// MD5(username ":" realm ":" password).
        md5: [u8; 16],
        /// SHA-256(username ":" realm ":" password).
        sha256: [u8; 32],
    },
}

impl fmt::Debug for UserCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Md5Key(_) => "Md5Key(..)",
            Self::Sha256Key(_) => "Sha256Key(..)",
            Self::Keys { .. } => "Keys { .. }",
        })
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("realm", &self.realm)
            .field("users", &self.users)
            .field("users_elsewhere", &self.users_elsewhere)
            .field("rest_secrets", &self.rest_secrets.len())
            .field("rest_separator", &char::from(self.rest_separator))
            .field("nonce_lifetime_s", &self.nonce_lifetime_s)
            .field("enforce_expiry", &self.enforce_expiry)
            .field("oauth_keys", &self.oauth.as_ref().map_or(0, |oauth| oauth.keys.len()))
            .finish_non_exhaustive()
    }
}

/// Why a configuration cannot be used. Names users and places, never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthConfigError {
    /// Neither a user nor a secret nor a key of tokens, and no other place users could come from:
    /// nobody could use the server.
    NobodyConfigured,
    /// The realm is no RFC 8489 section 14.9 realm.
    BadRealm,
    /// The name is empty, too long, or holds characters that OpaqueString disallows.
    BadUserName {
        /// The name as it was configured.
        name: String,
    },
    /// The password is empty or holds characters that OpaqueString disallows.
    BadPassword {
        /// Whose it is.
        user: String,
    },
    /// Two users whose names are the same after OpaqueString.
    DuplicateUser {
        /// The name of both.
        name: String,
    },
    /// An empty secret would let everybody in.
    EmptyRestSecret {
        /// Its place in the list, from 0.
        index: usize,
    },
    /// The server name of access tokens is empty or has control characters.
    BadServerName,
    /// The separator is a digit or not ASCII.
    BadSeparator,
    /// No bytes.
    EmptyNonceSecret,
    /// A nonce must live for at least a second.
    ZeroNonceLifetime,
}

impl fmt::Display for AuthConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyConfigured => {
                f.write_str("there is neither a user nor a REST secret nor a key of tokens")
            }
            Self::BadRealm => f.write_str(
                "the realm must be text of 1 to 127 characters without quotes, backslashes and \
                 control characters",
            ),
            Self::BadUserName { name } => write!(
                f,
                "the user name {name:?} must be text of 1 to 508 bytes without control characters"
            ),
            Self::BadPassword { user } => write!(
                f,
                "the password of the user {user:?} must be text, not empty and without control \
                 characters"
            ),
            Self::DuplicateUser { name } => write!(f, "the user {name:?} is there twice"),
            Self::EmptyRestSecret { index } => {
                write!(f, "REST secret number {} is empty", index + 1)
            }
            Self::BadServerName => f.write_str(
                "the server name of access tokens must be text without control characters",
            ),
            Self::BadSeparator => {
                f.write_str("the separator of REST names must be ASCII and not a digit")
            }
            Self::EmptyNonceSecret => f.write_str("the nonce secret is empty"),
            Self::ZeroNonceLifetime => f.write_str("the nonce lifetime must be at least 1 second"),
        }
    }
}

impl std::error::Error for AuthConfigError {}
