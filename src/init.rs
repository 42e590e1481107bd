//! `turnway init`: a new configuration file with fresh secrets.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::config::Secret;

/// What a package installs, with its secrets in files of their own.
const PACKAGED: &str = include_str!("../config/turnway.toml");
const REST_FILE: &str = "rest_secrets_file = \"rest-secrets\"";
const NONCE_FILE: &str = "#nonce_secret_file = \"nonce-secret\"";

/// Writes a commented configuration with fresh secrets, readable by its owner only (mode 0600).
///
/// # Errors
///
/// When the file is there already (it is never overwritten), cannot be written, or the operating
/// system has no randomness.
pub fn write(path: &Path) -> io::Result<()> {
    let text = text(&Secret::random()?, &Secret::random()?);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The packaged file with the secrets written into it.
fn text(rest: &Secret, nonce: &Secret) -> Zeroizing<String> {
    let rest = format!("rest_secrets = [\"{}\"]", rest.expose());
    let nonce = format!("nonce_secret = \"{}\"", nonce.expose());
    Zeroizing::new(PACKAGED.replace(REST_FILE, &rest).replace(NONCE_FILE, &nonce))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_packaged_file_has_the_two_lines_that_secrets_replace() {
        assert_eq!(PACKAGED.matches(REST_FILE).count(), 1);
        assert_eq!(PACKAGED.matches(NONCE_FILE).count(), 1);
    }

    #[test]
    fn a_new_file_holds_fresh_secrets_and_nothing_doubtful() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a.toml", "b.toml"].map(|name| directory.path().join(name));
        let secrets = paths.map(|path| {
            write(&path).unwrap();
            let (config, warnings) = Config::load(&path).unwrap();
            assert_eq!(warnings, Vec::<String>::new());
            let nonce = config.auth.nonce_secret.unwrap();
            [config.auth.rest_secrets[0].expose().clone(), nonce.expose().clone()]
        });
        let [[a, b], [c, d]] = secrets;
        assert!(a != b && a != c && b != d, "secrets repeat");
    }
}
