//! Who has proved to be whom.

use core::fmt;
use std::sync::Arc;

use turnway_wire::{IntegrityKey, Message, PasswordAlgorithm};

use super::Scheme;
use crate::address::RealmId;

/// A client that has proved who it is: what its allocation keeps.
#[derive(Clone)]
pub struct Identity {
    pub(super) realm: RealmId,
    pub(super) user: Arc<[u8]>,
    pub(super) account: Arc<[u8]>,
    pub(super) expires_unix: Option<u64>,
    pub(super) proof: Proof,
    pub(super) key: IntegrityKey,
    /// Whether `key` still stands for the user, or must be looked up again.
    pub(super) current: bool,
}

/// What a client proved it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// A password, made a key of in this way.
    Password(PasswordAlgorithm),
    /// An access token.
    Token {
        /// How long it is valid in all, in seconds.
        lifetime_s: u32,
    },
}

impl Identity {
    /// The realm in which it was proved.
    pub fn realm(&self) -> RealmId {
        self.realm
    }

    /// The user name, after OpaqueString; of the bearer of an access token, the identifier of the
    /// key that the token was made with.
    pub fn user(&self) -> &Arc<[u8]> {
        &self.user
    }

    /// Who it is behind time-limited names: the part that is not the timestamp. A static user's
    /// name, a bare timestamp and the identifier of a token's key stand for themselves. The same
    /// name in another realm is another account.
    pub fn account(&self) -> &Arc<[u8]> {
        &self.account
    }

    /// Whom a reserved port waits for: the account. Bearers of tokens are one there whatever key
    /// theirs was made with, under a name that no user has.
    pub(crate) fn owner(&self) -> Arc<[u8]> {
        if self.is_bearer() { Arc::default() } else { Arc::clone(&self.account) }
    }

    /// What responses are signed with: its algorithm is the one the request calls for.
    pub fn key(&self) -> &IntegrityKey {
        &self.key
    }

    /// When a time-limited name or an access token ends, in seconds of Unix time.
    pub fn expires_unix(&self) -> Option<u64> {
        self.expires_unix
    }

    /// The longest lifetime, in seconds, that may be granted at `unix_s`. `None`: any.
    //= rfc7635#section-9
    //# The lifetime provided by the TURN server in the Allocate and
    //# Refresh responses MUST be less than or equal to the lifetime of
    //# the token.
    pub fn lifetime_max_s(&self, unix_s: u64) -> Option<u32> {
        match (self.proof, self.expires_unix) {
            (Proof::Token { lifetime_s }, Some(end)) => {
                let left_s = u32::try_from(end.saturating_sub(unix_s)).unwrap_or(u32::MAX);
                Some(left_s.min(lifetime_s).max(1))
            }
            (Proof::Token { .. } | Proof::Password(_), _) => None,
        }
    }

    /// Says that users may have changed: at its next request the user is looked up again. That he
    /// held an allocation before is not forgotten. A session key is its bearer's until the token
    /// ends, whatever keys there are by now.
    pub fn outdate(&mut self) {
        self.current = self.is_bearer();
    }

    /// Whether both have the same user name (RFC 8656 section 5: else 441), and it means the same:
    /// in another realm it is another's.
    /// Of bearers the name is but a key's, and the next token may be made with the next key.
    pub fn same_user(&self, other: &Self) -> bool {
        let proved_alike = match (self.is_bearer(), other.is_bearer()) {
            (true, true) => true,
            (false, false) => self.user == other.user,
            (true, false) | (false, true) => false,
        };
        self.realm == other.realm && proved_alike
    }

    /// This identity for an allocation that `before` has had so far, and that stays counted for
    /// the same account.
    //= rfc7635#section-9
    //# The client MUST use the new token to refresh
    //# existing allocations.
    pub(crate) fn instead_of(self, before: &Self) -> Self {
        Self { account: Arc::clone(&before.account), ..self }
    }

    /// Whether an access token proved it.
    pub(super) fn is_bearer(&self) -> bool {
        match self.proof {
            Proof::Token { .. } => true,
            Proof::Password(_) => false,
        }
    }

    /// Whether the cached key is the one that such a request is checked with and answered with.
    pub(super) fn was_verified_by(&self, scheme: Scheme, msg: &Message<'_>) -> bool {
        let cached = self.key.algorithm();
        let as_before = match self.proof {
            Proof::Password(password) => password == scheme.password && cached == scheme.response,
            //= rfc7635#section-9
            //# The TURN client MUST include the ACCESS-
            //# TOKEN attribute only in Allocate and Refresh requests.
            Proof::Token { .. } => true,
        };
        self.current && as_before && msg.integrity() == Some(cached)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("user", &String::from_utf8_lossy(&self.user))
            .field("expires_unix", &self.expires_unix)
            .finish_non_exhaustive()
    }
}
