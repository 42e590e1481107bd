//! Secrets: values that never show themselves and are wiped from memory when dropped.

use std::fmt;
use std::io;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

/// What is printed wherever a secret would be.
pub const REDACTED: &str = "[redacted]";

/// A password, shared secret or key. `Debug`, `Display` and `Serialize` print `[redacted]`; the
/// memory is zeroed on drop. Read it with [`Secret::expose`].
#[derive(Clone)]
pub struct Secret<T: Zeroize = String>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself, for the one place that computes with it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl Secret {
    /// A fresh secret: 256 bits from the operating system, as 43 characters of base64url (no
    /// character needs quoting in TOML, a shell or a URL).
    ///
    /// # Errors
    ///
    /// When the operating system has no randomness to give.
    pub fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut()).map_err(io::Error::other)?;
        Ok(Self::new(BASE64_URL_SAFE_NO_PAD.encode(bytes.as_ref())))
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T: Zeroize> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T: Zeroize> Serialize for Secret<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// A list of secrets, as `rest_secrets` has them.
#[derive(Debug, Clone)]
pub(super) struct Secrets(pub(super) Vec<toml::Spanned<Secret>>);

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretsVisitor)
    }
}

/// What serde says about a wrong type contains the value, so every type is answered here.
macro_rules! refuse_without_showing {
    ($message:literal: $($visit:ident($ty:ty)),*) => {
        $(fn $visit<E: Error>(self, _: $ty) -> Result<Self::Value, E> {
            Err(E::custom($message))
        })*
    };
}

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret in quotes")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Secret, E> {
        Ok(Secret::new(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Secret, E> {
        Ok(Secret::new(value))
    }

    refuse_without_showing!(
        "is not text; write the secret in quotes":
        visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_i128(i128), visit_u128(u128),
        visit_f64(f64)
    );
}

struct SecretsVisitor;

impl<'de> Visitor<'de> for SecretsVisitor {
    type Value = Secrets;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of secrets")
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Secrets, A::Error> {
        let mut secrets = Vec::new();
        while let Some(secret) = list.next_element()? {
            secrets.push(secret);
        }
        Ok(Secrets(secrets))
    }

    refuse_without_showing!(
        "is not a list; write it in brackets: [\"...\"]":
        visit_str(&str), visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_i128(i128),
        visit_u128(u128), visit_f64(f64)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        let secret = Secret::new("hunter2-hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "[redacted] [redacted] [redacted]");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
        assert_eq!(secret.expose(), "hunter2-hunter2");
    }

    #[test]
    fn random_secrets_are_long_and_differ() {
        let (one, two) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_eq!(one.expose().len(), 43);
        assert_ne!(one.expose(), two.expose());
    }
}
