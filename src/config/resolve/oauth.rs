//! Access tokens: the server's name, and the keys shared with authorization servers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::Spanned;
use turnway_relay::auth::opaque_string;
use zeroize::Zeroizing;

use super::{Checks, MAX_REALM_BYTES};
use crate::config::raw::{RawOAuth, RawOAuthKey};
use crate::config::units::{Moment, Span};
use crate::config::{OAuth, OAuthAlgorithm, OAuthKey, OAuthSecret, Secret};

/// With more nobody means the clock of another machine.
const MAX_CLOCK_SKEW: Span = Span(std::time::Duration::from_secs(300));
/// Beside REALM in a 401, with a header of its own: of the same room.
const MAX_NAMES_BYTES: usize = MAX_REALM_BYTES - 4;

impl Checks<'_> {
    /// `None`: there are no keys, and no tokens are asked for.
    pub(super) fn oauth(&mut self, raw: RawOAuth, realm: &str) -> Option<OAuth> {
        self.between(&raw.clock_skew, Span(std::time::Duration::ZERO), MAX_CLOCK_SKEW);
        let mut keys: Vec<OAuthKey> = Vec::new();
        for table in &raw.key {
            let Some(key) = self.oauth_key(table) else { continue };
            if keys.iter().any(|other| other.kid == key.kid) {
                let message = format!("the key \"{}\" is there already; remove one", key.kid);
                self.error(table.span(), message);
                continue;
            }
            keys.push(key);
        }
        if raw.key.is_empty() {
            return None;
        }
        let server_name = self.server_name(&raw, realm);
        Some(OAuth { server_name, clock_skew: raw.clock_skew.into_inner().0, keys })
    }

    fn server_name(&mut self, raw: &RawOAuth, realm: &str) -> String {
        let span = raw.server_name.as_ref().map_or(0..0, Spanned::span);
        let name = raw.server_name.as_ref().map_or(realm, |name| name.get_ref());
        let room = MAX_NAMES_BYTES.saturating_sub(realm.len().next_multiple_of(4));
        if name.is_empty() || name.contains(char::is_control) {
            let message = format!("{name:?} is not the name of a server; write its domain");
            self.error(span, message);
        } else if name.len().next_multiple_of(4) > room {
            let message = format!(
                "\"{name}\" and the realm \"{realm}\" have more than {MAX_NAMES_BYTES} bytes \
                 together (each rounded up to 4), and a 401 that names both would be more than 3 \
                 times as long as the request it answers; shorten one"
            );
            self.error(span, message);
        }
        name.to_owned()
    }

    fn oauth_key(&mut self, table: &Spanned<RawOAuthKey>) -> Option<OAuthKey> {
        let raw = table.get_ref();
        let Some(kid) = &raw.kid else {
            self.error(table.span(), "`kid` is missing; write the identifier of the key");
            return None;
        };
        let Some(prepared) = opaque_string(kid.get_ref().as_bytes()) else {
            self.error(kid.span(), "is not an identifier; write what the authorization server has");
            return None;
        };
        let (span, key) = match (&raw.key, &raw.key_file) {
            (Some(key), None) => (key.span(), key.get_ref().clone()),
            (None, Some(file)) => (file.span(), self.one_secret_file(file)?),
            (None, None) => {
                self.error(table.span(), "has no `key` or `key_file`; add one");
                return None;
            }
            (Some(_), Some(file)) => {
                self.error(file.span(), "`key` and `key_file` are both there; remove one");
                return None;
            }
        };
        let unix = |moment: &Option<Spanned<Moment>>| {
            moment.as_ref().map(|moment| moment.get_ref().unix_s())
        };
        let (not_before_unix, not_after_unix) = (unix(&raw.not_before), unix(&raw.not_after));
        if let (Some(from), Some(to), Some(at)) = (not_before_unix, not_after_unix, &raw.not_after)
            && from >= to
        {
            self.error(at.span(), "is not after `not_before`, so the key would never be valid");
        }
        let algorithm = *raw.algorithm.get_ref();
        match oauth_secret(&key, algorithm) {
            Ok(secret) => Some(OAuthKey {
                kid: prepared.into_owned(),
                secret,
                not_before_unix,
                not_after_unix,
            }),
            Err(why) => {
                self.error(span, why);
                None
            }
        }
    }
}

/// The key that a text in base64 stands for.
///
/// # Errors
///
/// What is wrong with it, without showing it.
pub fn oauth_secret(text: &Secret, algorithm: OAuthAlgorithm) -> Result<OAuthSecret, String> {
    let wanted = algorithm.key_len();
    // base64url, as JSON Web Keys have it, differs in two characters and has no padding.
    let digits = text.expose().trim().trim_end_matches('=');
    let mut digits = Zeroizing::new(digits.replace('-', "+").replace('_', "/"));
    while !digits.len().is_multiple_of(4) {
        digits.push('=');
    }
    let bytes = STANDARD.decode(digits.as_bytes()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| format!("is not base64; write {wanted} bytes in base64"))?;
    let wrong = || {
        format!(
            "has {} bytes, and {algorithm} needs {wanted} (`openssl rand -base64 {wanted}`; where \
             coturn has the key it fills a short one up with zeros and cuts a long one off)",
            bytes.len()
        )
    };
    match algorithm {
        OAuthAlgorithm::A128Gcm => {
            let key = bytes.as_slice().try_into().map_err(|_| wrong())?;
            Ok(OAuthSecret::A128Gcm(Secret::new(key)))
        }
        OAuthAlgorithm::A256Gcm => {
            let key = bytes.as_slice().try_into().map_err(|_| wrong())?;
            Ok(OAuthSecret::A256Gcm(Secret::new(key)))
        }
    }
}
