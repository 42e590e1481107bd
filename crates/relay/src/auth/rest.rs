//! Time-limited ("REST") credentials, draft-uberti-behave-turn-rest-00: a web service that shares
//! a secret with the server hands out names that carry their own end of validity, and passwords
//! that are a keyed hash of the name. Nothing is stored per user.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::config::AuthConfigError;

/// The password that belongs to a time-limited user name: base64(HMAC-SHA1(secret, username)).
///
/// `username` is the whole name, timestamp included, as the client will send it.
pub fn rest_password(secret: &[u8], username: &[u8]) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(username);
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The shared secrets, and the form of the names.
pub(super) struct Rest {
    secrets: Vec<Zeroizing<Vec<u8>>>,
    separator: u8,
}

/// A user name that says when it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TimedName<'a> {
    /// When it ends, in seconds of Unix time.
    pub(super) expires_unix: u64,
    /// What stays the same while the timestamp rotates. A bare timestamp has nothing else, and
    /// stands for itself.
    pub(super) account: &'a [u8],
}

impl Rest {
    pub(super) fn new(secrets: Vec<Vec<u8>>, separator: u8) -> Result<Self, AuthConfigError> {
        // A digit would make every timestamp ambiguous; half of a character, every name.
        if !separator.is_ascii() || separator.is_ascii_digit() {
            return Err(AuthConfigError::BadSeparator);
        }
        let secrets: Vec<_> = secrets.into_iter().map(Zeroizing::new).collect();
        match secrets.iter().position(|secret| secret.is_empty()) {
            Some(index) => Err(AuthConfigError::EmptyRestSecret { index }),
            None => Ok(Self { secrets, separator }),
        }
    }

    /// Whether there is no secret, and so no time-limited user.
    pub(super) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The password of `name` under each secret.
    pub(super) fn passwords(&self, name: &[u8]) -> impl Iterator<Item = Zeroizing<String>> {
        self.secrets.iter().map(|secret| Zeroizing::new(rest_password(secret, name)))
    }

    /// Reads `timestamp:id`, `id:timestamp` or a bare timestamp, in that order of preference, so
    /// that an `id` may contain the separator and may itself be a number.
    pub(super) fn read<'a>(&self, name: &'a [u8]) -> Option<TimedName<'a>> {
        if self.is_empty() {
            return None;
        }
        let is_separator = |byte: &u8| *byte == self.separator;
        let first = name.iter().position(is_separator);
        let last = name.iter().rposition(is_separator);
        let front = first.and_then(|at| timed(&name[..at], &name[at + 1..], name));
        let back = || last.and_then(|at| timed(&name[at + 1..], &name[..at], name));
        front.or_else(back).or_else(|| timed(name, b"", name))
    }
}

fn timed<'a>(timestamp: &[u8], id: &'a [u8], name: &'a [u8]) -> Option<TimedName<'a>> {
    let expires_unix = decimal(timestamp)?;
    // Names without an id must not share one account, and with it one quota.
    let account = if id.is_empty() { name } else { id };
    Some(TimedName { expires_unix, account })
}

/// Digits only: what `str::parse` allows besides (a sign) is no timestamp.
fn decimal(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(separator: u8) -> Rest {
        Rest::new(vec![b"secret".to_vec()], separator).expect("valid")
    }

    fn read(name: &str) -> Option<(u64, String)> {
        let rest = rest(b':');
        let timed = rest.read(name.as_bytes())?;
        Some((timed.expires_unix, String::from_utf8_lossy(timed.account).into_owned()))
    }

    #[test]
    fn the_password_is_the_draft_s() {
        // printf 1433895918:user | openssl dgst -sha1 -hmac secret -binary | base64
        assert_eq!(rest_password(b"secret", b"1433895918:user"), EXPECTED_PASSWORD);
    }

    const EXPECTED_PASSWORD: &str = "duY86vsmGEXM+Ma7pGS//SXJIv0=";

    #[test]
    fn every_form_of_name_is_read() {
        assert_eq!(read("1700000000:alice"), Some((1_700_000_000, "alice".into())));
        assert_eq!(read("alice:1700000000"), Some((1_700_000_000, "alice".into())));
        assert_eq!(read("1700000000"), Some((1_700_000_000, "1700000000".into())));
    }

    #[test]
    fn an_id_may_contain_the_separator_or_be_a_number() {
        assert_eq!(read("17:a:b"), Some((17, "a:b".into())));
        assert_eq!(read("a:b:17"), Some((17, "a:b".into())));
        assert_eq!(read("17:18"), Some((17, "18".into())));
    }

    #[test]
    fn a_name_without_an_id_is_its_own_account() {
        assert_eq!(read("17:"), Some((17, "17:".into())));
        assert_eq!(read(":17"), Some((17, ":17".into())));
    }

    #[test]
    fn other_names_are_not_time_limited() {
        for name in ["", ":", "alice", "alice:bob", "+17:a", "-17", "17a", "17 :a", " 17"] {
            assert_eq!(read(name), None, "{name:?}");
        }
        assert_eq!(read("99999999999999999999999:a"), None, "more than 64 bits");
    }

    #[test]
    fn the_separator_is_configurable() {
        let timed = rest(b'|').read(b"17|a:b").map(|timed| timed.account.to_vec());
        assert_eq!(timed.as_deref(), Some(&b"a:b"[..]));
        assert_eq!(rest(b'|').read(b"17:a"), None);
    }

    #[test]
    fn without_a_secret_no_name_is_time_limited() {
        let none = Rest::new(Vec::new(), b':').expect("valid");
        assert_eq!(none.read(b"17:a"), None);
    }
}
