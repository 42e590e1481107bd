//! Users and secrets, in the file and in files of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{AUTH, LISTEN, parse};
use crate::config::{Config, Credential, Secret};

#[test]
fn users_are_checked() {
    let user = |text: &str| {
        let text = format!("{LISTEN}[[auth.user]]\n{text}");
        parse(&text).expect_err(&text)
    };
    assert!(
        user("name = \"a\"\npassword = \"\"")
            .contains("t.toml:6: auth.user.password: the password is empty")
    );
    assert!(user("name = \"a\"").contains("user \"a\" has no `password`"));
    assert!(user("password = \"b\"").contains("`name` is missing"));
    assert!(user("name = \"\"\npassword = \"b\"").contains("has 0 bytes"));
    assert!(user("name = \"a\"\npassword = \"b\"\nkey = \"00\"").contains("more than one of"));
    let short = user("name = \"a\"\nkey = \"0011\"");
    assert!(short.contains("t.toml:6: auth.user.key") && short.contains("4 characters"), "{short}");
    assert!(user(&format!("name = \"a\"\nkey = \"{}\"", "g".repeat(32))).contains("is not a key"));
    let twice = "name = \"a\"\npassword = \"b\"\n[[auth.user]]\nname = \"a\"\npassword = \"c\"";
    assert!(user(twice).contains("t.toml:8: auth.user.name: the user \"a\" is there already"));
    assert!(user("name = \"a\\u0007\"\npassword = \"b\"").contains("RFC 8265"));
    assert!(user("name = \"a\"\npassword = \"b\\u0007\"").contains("RFC 8265"));
}

#[test]
fn secrets_are_checked() {
    let auth = |text: &str| parse(&format!("{LISTEN}[auth]\n{text}"));
    let weak = auth("rest_secrets = [\"short\"]").unwrap().1;
    assert!(weak[0].contains("t.toml:5: auth.rest_secrets: a secret of 5 bytes"), "{weak:?}");
    assert!(auth("rest_secrets = [\"\"]").unwrap_err().contains("the secret is empty"));
    let secrets = AUTH.trim_start_matches("[auth]\n");
    let nonce = auth(&format!("{secrets}nonce_secret = \"short\"")).unwrap().1;
    assert!(nonce[0].contains("t.toml:6: auth.nonce_secret: a secret of 5 bytes"), "{nonce:?}");
    let long = auth(&format!("{secrets}rest_separator = \"::\"")).unwrap_err();
    assert!(long.contains("auth.rest_separator"), "{long}");
    let digit = auth(&format!("{secrets}rest_separator = \"1\"")).unwrap_err();
    assert!(digit.contains("punctuation"), "{digit}");
    let many = ["\"0123456789abcdef\""; 17].join(", ");
    assert!(auth(&format!("rest_secrets = [{many}]")).unwrap_err().contains("too many"));
}

#[test]
fn no_message_shows_a_secret() {
    for text in [
        "[auth]\nrest_secrets = \"hunter2\"",
        "[auth]\nrest_secrets = [\"hunter2\", 5]",
        "[auth]\nrest_secrets = [\"hunter2]",
        "[auth]\nnonce_secret = \"hunter2\"\nnonce_secret_file = \"x\"",
        "[auth]\nnonce_secret = [\"hunter2\"]",
        "[[auth.user]]\nname = \"a\"\nkey = \"hunter2\"",
        "[[auth.user]]\nname = \"a\"\npassword = { a = \"hunter2\" }",
        "[[auth.user]]\nname = \"a\"\npassword = \"hunter2\\u0007\"",
        "[auth]\ndatabase = \"postgres://turnway:hunter2@db/turnway\"",
        "[auth]\ndatabase = \"hunter2@db:5432/turnway\"",
        "[auth]\ndatabase = \"sqlite://hunter2@db/turnway\"",
        "[auth]\ndatabase = \"sqlite:turnway.db?key=hunter2\"",
        "[admin]\ntoken = \"hunter2 hunter2\"",
        "[admin]\ntoken = [\"hunter2\"]",
    ] {
        let error = parse(&format!("{LISTEN}{text}")).expect_err(text);
        assert!(!error.contains("hunter2"), "{error}");
    }
    let number =
        parse(&format!("{LISTEN}[[auth.user]]\nname = \"a\"\npassword = 4711")).unwrap_err();
    assert!(!number.contains("4711") && number.contains("in quotes"), "{number}");
    let date =
        parse(&format!("{LISTEN}[[auth.user]]\nname = \"a\"\npassword = 2020-01-02")).unwrap_err();
    assert!(!date.contains("2020"), "{date}");
}

fn in_directory(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let path = directory.path().join("t.toml");
    (directory, path)
}

#[test]
fn a_database_is_a_sqlite_file_beside_the_configuration() {
    let read = |url: &str| {
        let text = format!("{LISTEN}[auth]\ndatabase = \"{url}\"");
        Config::parse(Path::new("etc/t.toml"), &text).map_err(|error| error.to_string())
    };
    for (url, path) in [
        ("sqlite:turnway.db", "etc/turnway.db"),
        ("sqlite:../turnway.db", "etc/../turnway.db"),
        ("sqlite:/var/lib/turnway/turnway.db", "/var/lib/turnway/turnway.db"),
        ("sqlite:///var/lib/turnway/turnway.db", "/var/lib/turnway/turnway.db"),
    ] {
        // No secret and no user in the file: they may be in the database.
        let (config, warnings) = read(url).unwrap();
        assert_eq!(config.auth.database.as_deref(), Some(Path::new(path)));
        assert_eq!(warnings, Vec::<String>::new());
        assert!(config.effective().contains(&format!("database = \"sqlite:{path}\"")));
    }
    for (url, part) in [
        (
            "postgres://a:b@c/d",
            "\"postgres\" databases are not in this version, which has only sqlite",
        ),
        ("mysql://c/d", "\"mysql\" databases are not in this version"),
        ("redis://c", "\"redis\" databases are not in this version"),
        ("mongodb://c", "\"mongodb\" databases are not in this version"),
        ("turnway.db", "write \"sqlite:\" and the name of a file"),
        ("sqlite://turnway.db", "after which a host would follow; write \"sqlite:turnway.db\""),
        ("sqlite:", "names no file"),
        ("sqlite:/var/lib/", "names no file"),
        ("sqlite::memory:", "is in memory"),
        ("sqlite:t.db?mode=rwc", "parameters are not read"),
    ] {
        let error = read(url).unwrap_err();
        assert!(error.starts_with("etc/t.toml:5: auth.database: "), "{error}");
        assert!(error.contains(part) && error.lines().count() == 1, "{part:?} is not in: {error}");
    }
}

#[test]
fn secrets_come_from_files() {
    let text = format!(
        "{LISTEN}[auth]\nrest_secrets_file = \"rest\"\nnonce_secret_file = \"nonce\"\n\
         [[auth.user]]\nname = \"alice\"\npassword_file = \"alice\""
    );
    let (_directory, path) = in_directory(&[
        ("t.toml", &text),
        ("rest", "0123456789abcdef\n\n fedcba9876543210\n"),
        ("nonce", "0123456789abcdef\r\n"),
        ("alice", " spaces count \n"),
    ]);
    let (config, warnings) = Config::load(&path).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let secrets: Vec<&String> = config.auth.rest_secrets.iter().map(Secret::expose).collect();
    assert_eq!(secrets, ["0123456789abcdef", "fedcba9876543210"]);
    assert_eq!(config.auth.nonce_secret.unwrap().expose(), "0123456789abcdef");
    let Credential::Password(password) = &config.auth.users[0].credential else { panic!() };
    assert_eq!(password.expose(), " spaces count ");
}

#[test]
fn secret_files_that_do_not_serve_are_errors() {
    let text = format!(
        "{LISTEN}[auth]\nrest_secrets_file = \"absent\"\nnonce_secret_file = \"lines\"\n\
         [[auth.user]]\nname = \"alice\"\npassword_file = \"empty\""
    );
    let (_directory, path) =
        in_directory(&[("t.toml", &text), ("lines", "a\nb\n"), ("empty", "\n")]);
    let error = Config::load(&path).unwrap_err().to_string();
    for part in [
        "t.toml:5: auth.rest_secrets_file: cannot read",
        "t.toml:6: auth.nonce_secret_file: the file has several lines",
        "t.toml:9: auth.user.password_file",
        "empty is empty",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn files_are_loaded_or_the_reason_is_given() {
    let error = Config::load(Path::new("absent/t.toml")).unwrap_err().to_string();
    assert!(error.starts_with("absent/t.toml: cannot read"), "{error}");
    assert!(error.contains("turnway init"), "{error}");
}

#[test]
fn a_world_readable_file_with_secrets_is_a_warning() {
    let (_directory, path) = in_directory(&[("t.toml", &format!("{LISTEN}{AUTH}"))]);
    let warnings_at = |mode| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&path).unwrap().1
    };
    assert_eq!(warnings_at(0o640), Vec::<String>::new());
    let warnings = warnings_at(0o644);
    assert!(warnings[0].contains("t.toml:5: auth.rest_secrets"), "{warnings:?}");
    assert!(warnings[0].contains("chmod 640"), "{warnings:?}");
}
