//! The static users of a realm. Only derived keys are kept, never a password.

use std::collections::BTreeMap;
use std::sync::Arc;

use turnway_wire::{LongTermKey, PasswordAlgorithm, user_hash};
use zeroize::Zeroizing;

use super::config::{AuthConfigError, StaticUser, UserCredential};
use super::opaque::opaque_string;

/// RFC 8489 section 14.3: "fewer than 509 bytes".
const NAME_MAX: usize = 508;

/// The static users, by name and by USERHASH.
pub(super) struct Users {
    by_name: BTreeMap<Arc<[u8]>, Keys>,
    by_hash: BTreeMap<[u8; 32], Arc<[u8]>>,
}

/// The long-term keys of one user; an imported key serves one algorithm only.
#[derive(Default)]
pub(super) struct Keys {
    md5: Option<Zeroizing<[u8; 16]>>,
    sha256: Option<Zeroizing<[u8; 32]>>,
}

impl Users {
    /// `realm` has been through OpaqueString.
    pub(super) fn new(users: Vec<StaticUser>, realm: &[u8]) -> Result<Self, AuthConfigError> {
        let mut this = Self { by_name: BTreeMap::new(), by_hash: BTreeMap::new() };
        for user in users {
            let StaticUser { name, credential } = user;
            let prepared = opaque_string(name.as_bytes())
                .filter(|prepared| prepared.len() <= NAME_MAX)
                .map(|prepared| Arc::<[u8]>::from(prepared.as_bytes()));
            let Some(prepared) = prepared else {
                return Err(AuthConfigError::BadUserName { name });
            };
            let Some(keys) = Keys::derive(credential, &prepared, realm) else {
                return Err(AuthConfigError::BadPassword { user: name });
            };
            this.by_hash.insert(user_hash(&prepared, realm), Arc::clone(&prepared));
            if this.by_name.insert(prepared, keys).is_some() {
                return Err(AuthConfigError::DuplicateUser { name });
            }
        }
        Ok(this)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether every user can be served with `algorithm`.
    pub(super) fn all_serve(&self, algorithm: PasswordAlgorithm) -> bool {
        self.by_name.values().all(|keys| keys.get(algorithm).is_some())
    }

    /// The user of a name that has been through OpaqueString.
    pub(super) fn get(&self, name: &[u8]) -> Option<(&Arc<[u8]>, &Keys)> {
        self.by_name.get_key_value(name)
    }

    /// The name behind a USERHASH.
    pub(super) fn name_of(&self, hash: &[u8; 32]) -> Option<&Arc<[u8]>> {
        self.by_hash.get(hash)
    }
}

impl Keys {
    /// `None` when the password cannot be put through OpaqueString.
    fn derive(credential: UserCredential, name: &[u8], realm: &[u8]) -> Option<Self> {
        match credential {
            UserCredential::Password(password) => {
                let password = Zeroizing::new(password);
                let prepared = Zeroizing::new(opaque_string(password.as_bytes())?.into_owned());
                let derive =
                    |algorithm| LongTermKey::derive(algorithm, name, realm, prepared.as_bytes());
                Some(Self {
                    md5: as_array(&derive(PasswordAlgorithm::Md5)),
                    sha256: as_array(&derive(PasswordAlgorithm::Sha256)),
                })
            }
            UserCredential::Md5Key(key) => {
                Some(Self { md5: Some(Zeroizing::new(key)), sha256: None })
            }
            UserCredential::Sha256Key(key) => {
                Some(Self { md5: None, sha256: Some(Zeroizing::new(key)) })
            }
            UserCredential::Keys { md5, sha256 } => {
                Some(Self { md5: Some(Zeroizing::new(md5)), sha256: Some(Zeroizing::new(sha256)) })
            }
        }
    }

    /// The key for `algorithm`, if this user has one.
    pub(super) fn get(&self, algorithm: PasswordAlgorithm) -> Option<&[u8]> {
        match algorithm {
            PasswordAlgorithm::Md5 => self.md5.as_ref().map(|key| key.as_slice()),
            PasswordAlgorithm::Sha256 => self.sha256.as_ref().map(|key| key.as_slice()),
        }
    }
}

/// Always `Some` for the algorithm whose key has `N` bytes.
fn as_array<const N: usize>(key: &LongTermKey) -> Option<Zeroizing<[u8; N]>> {
    key.as_bytes().try_into().ok().map(Zeroizing::new)
}
