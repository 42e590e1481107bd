//! Users and secrets: given in the file, in files of their own, or in a database.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use turnway_relay::auth::opaque_string;
use zeroize::Zeroizing;

use super::Checks;
use crate::config::raw::{RawAdmin, RawAuth, RawUser};
use crate::config::secret::Secrets;
use crate::config::units::Span;
use crate::config::{Auth, Credential, Secret, User, read_file};

/// Each unknown user costs one HMAC per secret, so there is an end to them.
const MAX_REST_SECRETS: usize = 16;
/// Below this a secret can be guessed.
const WEAK_SECRET_BYTES: usize = 16;
/// RFC 8489 section 14.3: USERNAME is shorter than 509 bytes.
const MAX_USERNAME_BYTES: usize = 508;

impl Checks<'_> {
    /// `tokens`: whether there are access tokens, so that it is enough if nobody else may come.
    pub(super) fn auth(&mut self, raw: RawAuth, tokens: bool) -> Auth {
        let found_before = self.problems.len();
        let rest_secrets = self.rest_secrets(&raw);
        let users = self.users(&raw.user);
        let nothing_wrong = self.problems.len() == found_before;
        let elsewhere = raw.database.is_some() || tokens;
        if rest_secrets.is_empty() && users.is_empty() && !elsewhere && nothing_wrong {
            self.error(
                0..0,
                "there are no users and no secret, and Turnway is not an open relay; add \
                 `rest_secrets` or a `database` of users to [auth], a [[auth.user]] or an \
                 [[oauth.key]] (`turnway init` writes a file with fresh secrets)",
            );
        }
        let day = std::time::Duration::from_secs(86_400);
        let minute = std::time::Duration::from_secs(60);
        self.between(&raw.nonce_lifetime, Span(minute), Span(day));
        Auth {
            rest_secrets,
            rest_separator: self.separator(&raw.rest_separator),
            nonce_secret: self.nonce_secret(&raw),
            nonce_lifetime: raw.nonce_lifetime.get_ref().0,
            enforce_expiry_at_refresh: *raw.enforce_expiry_at_refresh.get_ref(),
            users,
            database: raw.database.as_ref().and_then(|url| self.database(url)),
        }
    }

    pub(super) fn warn_if_everybody_reads(&mut self, auth: &RawAuth, admin: &RawAdmin) {
        let mut of_users = auth.user.iter().map(Spanned::get_ref);
        let secret = span_of(&auth.rest_secrets)
            .or(span_of(&auth.nonce_secret))
            .or(of_users.find_map(|user| span_of(&user.password).or(span_of(&user.key))))
            .or(span_of(&admin.token));
        if let Some(span) = secret
            && self.source.world_readable()
        {
            let path = self.source.path().display();
            self.warn(
                span,
                format!(
                    "a secret that every user of this machine can read; run `chmod 640 {path}` \
                     and give the file to the group Turnway runs as"
                ),
            );
        }
    }

    fn rest_secrets(&mut self, raw: &RawAuth) -> Vec<Secret> {
        self.secrets(&raw.rest_secrets, &raw.rest_secrets_file)
    }

    /// Secrets from the file and from one of their own.
    pub(super) fn secrets(
        &mut self,
        list: &Option<Spanned<Secrets>>,
        file: &Option<Spanned<PathBuf>>,
    ) -> Vec<Secret> {
        let mut secrets = Vec::new();
        if let Some(list) = list {
            for entry in &list.get_ref().0 {
                self.strength(entry.span(), entry.get_ref());
                secrets.push(entry.get_ref().clone());
            }
        }
        if let Some(path) = file
            && let Some(text) = self.secret_file(path)
        {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            for secret in lines.map(|line| Secret::new(line.to_owned())) {
                self.strength(path.span(), &secret);
                secrets.push(secret);
            }
        }
        let span = span_of(list).or(span_of(file));
        if secrets.len() > MAX_REST_SECRETS {
            let message = format!(
                "{} secrets are too many; each is tried for each user, so remove old ones until \
                 {MAX_REST_SECRETS} are left",
                secrets.len()
            );
            self.error(span.unwrap_or(0..0), message);
        }
        secrets
    }

    fn nonce_secret(&mut self, raw: &RawAuth) -> Option<Secret> {
        let (span, secret) = match (&raw.nonce_secret, &raw.nonce_secret_file) {
            (Some(_), Some(file)) => {
                self.error(
                    file.span(),
                    "`nonce_secret` and `nonce_secret_file` are both there; remove one",
                );
                return None;
            }
            (Some(secret), None) => (secret.span(), secret.get_ref().clone()),
            (None, Some(file)) => (file.span(), self.one_secret_file(file)?),
            (None, None) => return None,
        };
        self.strength(span, &secret);
        Some(secret)
    }

    fn separator(&mut self, raw: &Spanned<String>) -> char {
        let mut characters = raw.get_ref().chars();
        match (characters.next(), characters.next()) {
            (Some(separator), None) if separator.is_ascii_punctuation() => separator,
            _ => {
                self.error(
                    raw.span(),
                    format!(
                        "\"{}\" is not one punctuation character; write \":\"",
                        raw.get_ref().escape_debug()
                    ),
                );
                ':'
            }
        }
    }

    fn users(&mut self, raw: &[Spanned<RawUser>]) -> Vec<User> {
        let mut users: Vec<User> = Vec::new();
        for table in raw {
            let Some(name) = &table.get_ref().name else {
                self.error(table.span(), "`name` is missing; write name = \"alice\"");
                continue;
            };
            let text = name.get_ref();
            if text.is_empty() || text.len() > MAX_USERNAME_BYTES {
                self.error(
                    name.span(),
                    format!("has {} bytes; a name has 1 to {MAX_USERNAME_BYTES}", text.len()),
                );
                continue;
            }
            let Some(prepared) = opaque_string(text.as_bytes()) else {
                self.error(
                    name.span(),
                    format!("{text:?} contains characters that RFC 8265 does not allow in names"),
                );
                continue;
            };
            let realm = table.get_ref().realm.as_ref().map(|realm| realm.get_ref().clone());
            if users
                .iter()
                .filter(|user| user.realm == realm)
                .any(|user| opaque_string(user.name.as_bytes()) == Some(prepared.clone()))
            {
                self.error(
                    name.span(),
                    format!("the user \"{text}\" is there already; remove one"),
                );
                continue;
            }
            if let Some(credential) = self.credential(table, text) {
                users.push(User { name: text.clone(), realm, credential });
            }
        }
        users
    }

    fn credential(&mut self, table: &Spanned<RawUser>, name: &str) -> Option<Credential> {
        let RawUser { name: _, realm: _, password, password_file, key } = table.get_ref();
        match (password, password_file, key) {
            (Some(password), None, None) => {
                self.password(password.span(), password.get_ref().clone())
            }
            (None, Some(file), None) => {
                let password = self.one_secret_file(file)?;
                self.password(file.span(), password)
            }
            (None, None, Some(key)) => self.key(key),
            (None, None, None) => {
                self.error(
                    table.span(),
                    format!("user \"{name}\" has no `password`, `password_file` or `key`; add one"),
                );
                None
            }
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                self.error(
                    table.span(),
                    format!(
                        "user \"{name}\" has more than one of `password`, `password_file` and \
                         `key`; keep one"
                    ),
                );
                None
            }
        }
    }

    fn password(&mut self, span: Range<usize>, password: Secret) -> Option<Credential> {
        if password.expose().is_empty() {
            self.error(span, "the password is empty; write one");
            return None;
        }
        if opaque_string(password.expose().as_bytes()).is_none() {
            self.error(
                span,
                "the password contains characters that RFC 8265 does not allow, such as control \
                 characters",
            );
            return None;
        }
        Some(Credential::Password(password))
    }

    fn key(&mut self, key: &Spanned<Secret>) -> Option<Credential> {
        let text = key.get_ref().expose();
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut bytes = Zeroizing::new([0_u8; 32]);
        let decoded = decode_hex(digits, bytes.as_mut());
        match decoded {
            Some(16) => {
                let mut md5 = Zeroizing::new([0_u8; 16]);
                md5.copy_from_slice(&bytes[..16]);
                Some(Credential::Md5(Secret::new(*md5)))
            }
            Some(32) => Some(Credential::Sha256(Secret::new(*bytes))),
            Some(_) | None => {
                self.error(
                    key.span(),
                    format!(
                        "is not a key: {} characters were found; write 32 hexadecimal digits (MD5 \
                         of user:realm:password) or 64 (SHA-256 of the same)",
                        digits.chars().count()
                    ),
                );
                None
            }
        }
    }

    /// The file of a database. What is written for other databases can hold a password, so none of
    /// it but the scheme is ever shown.
    fn database(&mut self, url: &Spanned<String>) -> Option<PathBuf> {
        let path = match url.get_ref().split_once(':') {
            Some(("sqlite", path)) => path,
            Some((
                scheme @ ("postgres" | "postgresql" | "mysql" | "mariadb" | "redis" | "rediss"
                | "mongodb" | "mongodb+srv"),
                _,
            )) => {
                self.error(
                    url.span(),
                    format!(
                        "\"{scheme}\" databases are not in this version, which has only sqlite; \
                         write \"sqlite:turnway.db\""
                    ),
                );
                return None;
            }
            Some(_) | None => {
                self.error(
                    url.span(),
                    "does not say which database it is; write \"sqlite:\" and the name of a file, \
                     such as \"sqlite:turnway.db\"",
                );
                return None;
            }
        };
        // After two slashes a host would follow, and a file has none.
        let path = match path.strip_prefix("//") {
            Some(absolute) if absolute.starts_with('/') => absolute,
            Some(_) => {
                self.error(
                    url.span(),
                    "has two slashes, after which a host would follow; write \
                     \"sqlite:turnway.db\" for a file beside this one, or \
                     \"sqlite:/var/lib/turnway/turnway.db\"",
                );
                return None;
            }
            None => path,
        };
        let why = if path.is_empty() || path.ends_with('/') {
            "names no file; write for example \"sqlite:turnway.db\""
        } else if path == ":memory:" {
            "is in memory, which `turnway user` cannot see and no restart outlives; name a file"
        } else if path.contains(['?', '#', '\0']) {
            "has more than the name of a file; parameters are not read, so remove them"
        } else {
            return Some(self.beside_file(Path::new(path)));
        };
        self.error(url.span(), why);
        None
    }

    pub(super) fn strength(&mut self, span: Range<usize>, secret: &Secret) {
        let bytes = secret.expose().len();
        if bytes == 0 {
            self.error(span, "the secret is empty; `openssl rand -base64 32` prints a good one");
        } else if bytes < WEAK_SECRET_BYTES {
            self.warn(
                span,
                format!(
                    "a secret of {bytes} bytes can be guessed from one recorded answer; use at \
                     least {WEAK_SECRET_BYTES} random ones (`openssl rand -base64 32`)"
                ),
            );
        }
    }

    /// A file that holds one secret; one newline at its end does not belong to it.
    pub(super) fn one_secret_file(&mut self, path: &Spanned<PathBuf>) -> Option<Secret> {
        let text = self.secret_file(path)?;
        let secret = text.strip_suffix('\n').unwrap_or(&text);
        let secret = secret.strip_suffix('\r').unwrap_or(secret);
        if secret.contains('\n') {
            self.error(path.span(), "the file has several lines; it must hold one secret alone");
            return None;
        }
        Some(Secret::new(secret.to_owned()))
    }

    fn secret_file(&mut self, path: &Spanned<PathBuf>) -> Option<Zeroizing<String>> {
        let full = self.beside_file(path.get_ref());
        let read = read_file(&full);
        let full = full.display();
        match read {
            Err(error) => {
                let message = format!(
                    "cannot read {full}: {error}; make it readable for the user Turnway runs as \
                     (a fresh one: `openssl rand -base64 32 > {full}`)"
                );
                self.error(path.span(), message);
                None
            }
            Ok(text) if text.trim().is_empty() => {
                self.error(path.span(), format!("{full} is empty; write the secret into it"));
                None
            }
            Ok(text) => Some(text),
        }
    }
}

fn span_of<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
    value.as_ref().map(Spanned::span)
}

/// Decodes into `out`; how many bytes, or `None` if the text is not hexadecimal or too long.
fn decode_hex(digits: &str, out: &mut [u8]) -> Option<usize> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) || digits.len() / 2 > out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).expect("two hexadecimal digits fit a byte");
    }
    Some(digits.len() / 2)
}
