//! What a server shows of itself: a certificate chain and the key that belongs to it.

use std::fmt;

use openssl::pkey::{Id, PKey, Private};
use openssl::x509::X509;

/// A certificate chain (leaf first, then intermediates) and the leaf's private key.
#[derive(Clone)]
pub struct Identity {
    pub(crate) chain: Vec<X509>,
    pub(crate) key: PKey<Private>,
    names: Vec<String>,
}

impl Identity {
    /// Reads `chain` and `key` from PEM. The key may be PKCS#8, PKCS#1 or SEC1, not encrypted, and
    /// must be the one that the first certificate of the chain certifies.
    ///
    /// # Errors
    ///
    /// Each [`IdentityError`] names the one of the two inputs that is wrong.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = X509::stack_from_pem(chain).map_err(|_| IdentityError::Chain)?;
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        // Without a callback OpenSSL would ask for the passphrase on the terminal, and wait.
        let mut encrypted = false;
        let key = PKey::private_key_from_pem_callback(key, |_| {
            encrypted = true;
            Ok(0)
        });
        let key = match key {
            Ok(key) => key,
            Err(_) if encrypted => return Err(IdentityError::KeyEncrypted),
            Err(_) => return Err(IdentityError::Key),
        };
        if !matches!(key.id(), Id::RSA | Id::EC) {
            return Err(IdentityError::KeyKind);
        }
        let certified = leaf.public_key().map_err(|_| IdentityError::Chain)?;
        if !certified.public_eq(&key) {
            return Err(IdentityError::KeyOfAnother);
        }
        let names = dns_names(leaf);
        Ok(Self { chain, key, names })
    }

    /// The DNS names that the leaf certifies, in lower case, sorted; they may begin with `*.`.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("names", &self.names)
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

/// Why a chain and a key are no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The chain is not PEM, or one of its certificates cannot be read.
    Chain,
    /// There is no certificate in the chain.
    NoCertificate,
    /// The key is not PEM, or cannot be read.
    Key,
    /// The key is protected by a passphrase, and there is nobody to ask for it.
    KeyEncrypted,
    /// The key is neither RSA nor ECDSA.
    KeyKind,
    /// The key does not belong to the first certificate of the chain.
    KeyOfAnother,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "the certificate chain is not valid PEM",
            Self::NoCertificate => "there is no certificate in the chain",
            Self::Key => "the private key is not valid PEM",
            Self::KeyEncrypted => {
                "the private key is encrypted; it must be stored without passphrase"
            }
            Self::KeyKind => "the private key is neither RSA nor ECDSA",
            Self::KeyOfAnother => {
                "the private key does not belong to the first certificate of the chain"
            }
        })
    }
}

impl std::error::Error for IdentityError {}

/// Whether one of the certified `names` covers the `host` that a client asks for: itself, or with
/// `*` for its first label.
pub(crate) fn covers(names: &[String], host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let parent = host.split_once('.').map(|(_, parent)| parent);
    names.iter().any(|name| match name.strip_prefix("*.") {
        Some(domain) => parent.is_some_and(|parent| parent.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    })
}

fn dns_names(leaf: &X509) -> Vec<String> {
    let alternatives = leaf.subject_alt_names();
    let mut names: Vec<String> = alternatives
        .iter()
        .flatten()
        .filter_map(|name| name.dnsname().map(str::to_ascii_lowercase))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
