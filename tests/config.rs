//! The files we ship and the commands that read and write them.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use turnway::config::{Config, reference_markdown, reference_toml};

use common::netns::Namespace;
use common::{can_make_namespaces, in_namespace};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn turnway(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turnway")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Puts a file into a directory of its own, with every secret file it names beside it.
fn placed(name: &str, config: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, config).unwrap();
    for line in config.lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, file)) = line.split_once(" = ")
            && key.ends_with("_file")
        {
            let file = directory.path().join(file.trim_matches('"'));
            fs::write(file, "a-secret-that-a-test-has-put-here\n").unwrap();
        }
    }
    (directory, path)
}

#[test]
fn every_shipped_file_is_accepted_without_a_warning() {
    let mut files = vec![repository("config/turnway.toml")];
    for entry in fs::read_dir(repository("config/examples")).unwrap() {
        files.push(entry.unwrap().path());
    }
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (_directory, path) = placed(name, &fs::read_to_string(&file).unwrap());
        match Config::load(&path) {
            Ok((_, warnings)) => assert_eq!(warnings, Vec::<String>::new(), "{name}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn the_shipped_file_is_short() {
    let lines = fs::read_to_string(repository("config/turnway.toml")).unwrap().lines().count();
    assert!(lines <= 40, "{lines} lines");
}

#[test]
fn the_reference_is_what_the_definitions_say() {
    let committed = fs::read_to_string(repository("config/reference.toml")).unwrap();
    assert!(
        committed == reference_toml(),
        "stale; run: cargo run -- reference > config/reference.toml"
    );
    let committed = fs::read_to_string(repository("docs/configuration.md")).unwrap();
    assert!(
        committed == reference_markdown(),
        "stale; run: cargo run -- reference --markdown > docs/configuration.md"
    );
}

#[test]
fn the_reference_shows_defaults_that_work() {
    let reference = reference_toml();
    let secret = "#rest_secrets = [";
    // The first is `[auth]`'s, and another realm's comes later.
    let shown = reference.replacen(secret, &secret[1..], 1);
    assert_ne!(shown, reference);
    let (config, warnings) = Config::parse(Path::new("reference.toml"), &shown).unwrap();
    assert_eq!(warnings, Vec::<String>::new());

    let short = "listen = [{ transport = \"udp\", address = \"0.0.0.0:3478\" }]\n\
                 auth = { rest_secrets = [\"0123456789abcdef\"] }\n";
    let (defaults, _) = Config::parse(Path::new("short.toml"), short).unwrap();
    assert_eq!(config.effective(), defaults.effective());
}

#[test]
fn every_example_value_of_the_reference_is_accepted() {
    // Alternatives to each other, of which one file can have only one.
    let alternatives = [
        ("[auth]", "nonce_secret_file"),
        ("#[[auth.user]]", "password_file"),
        ("#[[auth.user]]", "key"),
        ("[admin]", "token_file"),
        ("#[[oauth.key]]", "key_file"),
    ];
    let mut lines = Vec::new();
    let mut table = String::new();
    for line in reference_toml().lines() {
        let shown = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#']));
        if line.starts_with(['[', '#']) && line.ends_with(']') && !line.contains(' ') {
            line.clone_into(&mut table);
        }
        let name = shown.and_then(|rest| rest.split(" = ").next()).unwrap_or_default();
        lines.push(match shown {
            Some(shown) if !alternatives.contains(&(&table, name)) => shown.to_owned(),
            Some(_) | None => line.to_owned(),
        });
    }
    let examples = lines.join("\n").replace("/run/secrets/", "");
    let (_directory, path) = placed("reference.toml", &examples);
    if let Err(error) = Config::load(&path) {
        panic!("{error}");
    }
    for (_, name) in alternatives {
        assert!(examples.contains(&format!("#{name} = ")), "{name}");
    }
}

#[test]
fn init_writes_a_file_that_check_accepts_and_never_overwrites() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("turnway.toml");
    let path = path.to_str().unwrap();

    let init = turnway(&["init", "-o", path]);
    assert!(init.status.success(), "{}", text(&init.stderr));
    let written = fs::read_to_string(path).unwrap();
    assert!(written.lines().count() <= 40, "{} lines", written.lines().count());
    let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    let check = turnway(&["check", "-c", path]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    assert_eq!(text(&check.stderr), "");
    let shown = text(&check.stdout);
    assert!(shown.contains("rest_secrets = [\"[redacted]\"]"), "{shown}");
    let (config, _) = Config::load(Path::new(path)).unwrap();
    for secret in [&config.auth.rest_secrets[0], &config.auth.nonce_secret.unwrap()] {
        assert!(written.contains(secret.expose().as_str()));
        assert!(!shown.contains(secret.expose().as_str()), "check shows a secret");
    }

    let again = turnway(&["init", "-o", path]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("not overwritten"), "{}", text(&again.stderr));
    assert_eq!(fs::read_to_string(path).unwrap(), written);
}

#[test]
fn a_wrong_file_is_exit_code_2_and_says_where() {
    let (_directory, path) =
        placed("wrong.toml", "realm = \"a\"\n[peers]\nallow = [\"10.0.0.1/8\"]\n");
    let path = path.to_str().unwrap();
    for command in ["check", "serve"] {
        let output = turnway(&[command, "-c", path]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert_eq!(text(&output.stdout), "");
        let error = text(&output.stderr);
        assert!(error.contains("wrong.toml:3: peers.allow: \"10.0.0.1/8\""), "{error}");
        assert!(error.contains("write \"10.0.0.0/8\""), "{error}");
    }
    let absent = turnway(&["check", "-c", "absent.toml"]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(text(&absent.stderr).contains("absent.toml: cannot read"), "{}", text(&absent.stderr));
}

fn ice_server(output: &Output) -> serde_json::Value {
    let shown = text(&output.stdout);
    let json = &shown[shown.find('{').expect(shown)..];
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    value["iceServers"][0].clone()
}

#[test]
fn credentials_come_from_the_configuration() {
    let example = fs::read_to_string(repository("config/examples/cloud-nat.toml")).unwrap();
    let (_directory, path) = placed("turnway.toml", &example);
    let output =
        turnway(&["credentials", "--user", "alice", "--ttl", "2h", "-c", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let server = ice_server(&output);
    assert_eq!(server["urls"][0], "turn:203.0.113.7:3478?transport=udp");
    assert_eq!(server["urls"][1], "turn:203.0.113.7:3478?transport=tcp");

    let username = server["username"].as_str().unwrap();
    let (expiry, name) = username.split_once(':').unwrap();
    assert_eq!(name, "alice");
    let ahead = expiry.parse::<u64>().unwrap() - turnway::credentials::unix_now();
    assert!((7_000..=7_200).contains(&ahead), "{ahead} s");
    let shown = text(&output.stdout);
    assert!(shown.contains(&format!("username: {username}\n")), "{shown}");
    let password = server["credential"].as_str().unwrap();
    assert!(shown.contains(&format!("password: {password}\n")), "{shown}");
}

#[test]
fn credentials_of_a_new_file_name_the_address_of_the_default_route() {
    if !can_make_namespaces() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("turnway.toml");
    let path = path.to_str().unwrap();
    assert!(turnway(&["init", "-o", path]).status.success());
    let [machine, router] = ["machine", "router"].map(Namespace::new);
    machine.connect(&router, "eth0", &["203.0.113.7/24"], &["203.0.113.1/24"]);
    let credentials = || {
        let mut command = in_namespace(Some(&machine.name), env!("CARGO_BIN_EXE_turnway"));
        command.args(["credentials", "--user", "al", "--ttl", "1h", "-c", path]);
        command.output().unwrap()
    };

    let unknown = credentials();
    assert_eq!(unknown.status.code(), Some(2));
    assert_eq!(text(&unknown.stdout), "");
    assert!(text(&unknown.stderr).contains("--host turn.example.org"), "{}", text(&unknown.stderr));

    machine.ip("route add default via 203.0.113.1");
    let output = credentials();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let server = ice_server(&output);
    assert_eq!(server["urls"][0], "turn:203.0.113.7:3478?transport=udp");
    assert_eq!(server["urls"][1], "turn:203.0.113.7:3478?transport=tcp");
    let shown = text(&output.stdout);
    for (name, key) in [("username", "username"), ("password", "credential")] {
        let value = server[key].as_str().unwrap();
        assert!(shown.contains(&format!("{name}: {value}\n")), "{shown}");
    }
}

fn secret_file() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    fs::write(&path, "0123456789abcdef\n").unwrap();
    (directory, path.to_str().unwrap().to_owned())
}

#[test]
fn credentials_come_from_a_secret_file() {
    let (_directory, secret) = secret_file();
    let host = ["--host", "turn.example.org"];
    let args = [&["credentials", "--user", "bob", "--secret-file", &secret][..], &host].concat();
    let output = turnway(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let server = ice_server(&output);
    assert_eq!(server["urls"][0], "turn:turn.example.org:3478?transport=udp");
}

#[test]
fn credentials_refuse_what_would_not_work_and_secrets_as_arguments() {
    let (_directory, secret) = secret_file();
    let from_file = format!("--user bob --secret-file {secret}");
    for (arguments, reason) in [
        ("--user bob -c absent.toml".to_owned(), "turnway init"),
        (format!("{from_file} -c absent.toml --host a"), "cannot be used with"),
        ("--user bob --secret 0123456789abcdef".to_owned(), "unexpected argument"),
        (from_file.clone(), "--host"),
        (format!("{from_file} --host a:1"), "is not a host"),
        (format!("{from_file} --host a --ttl 60"), "has no unit"),
        (format!("{from_file} --host a --ttl 0s"), "expired already"),
        (from_file.replace("bob", "\t") + " --host a", "is not a name"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let output = turnway(&[&["credentials"], arguments.as_slice()].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = text(&output.stderr);
        assert!(error.contains(reason), "{reason:?} is not in: {error}");
    }
}

#[test]
fn a_database_that_cannot_be_used_is_found_by_a_check() {
    let (directory, path) = placed(
        "turnway.toml",
        "listen = [{ transport = \"udp\", address = \"127.0.0.1:3478\" }]\n\
         [auth]\n\
         database = \"sqlite:users/users.db\"\n",
    );
    let path = path.to_str().unwrap();
    let refused = || {
        let check = turnway(&["check", "-c", path]);
        assert_eq!(check.status.code(), Some(2));
        assert_eq!(text(&check.stdout), "");
        text(&check.stderr).to_owned()
    };
    let missing = refused();
    assert!(missing.contains("turnway.toml:3: auth.database: "), "{missing}");
    assert!(missing.ends_with("users is not there; make it first\n"), "{missing}");
    let users = directory.path().join("users");
    fs::create_dir(&users).unwrap();
    let accepted = turnway(&["check", "-c", path]);
    assert!(accepted.status.success(), "{}", text(&accepted.stderr));
    assert_eq!(fs::read_dir(&users).unwrap().count(), 0, "a check makes nothing");
    fs::write(users.join("users.db"), "not a database ".repeat(100)).unwrap();
    let foreign = refused();
    assert!(foreign.contains("users.db: is not a database of Turnway"), "{foreign}");
}

#[test]
fn help_and_version_are_there() {
    let help = turnway(&["--help"]);
    assert!(help.status.success());
    for command in ["serve", "check", "init", "credentials"] {
        assert!(text(&help.stdout).contains(command), "{command}");
        assert!(turnway(&[command, "--help"]).status.success(), "{command}");
    }
    let version = turnway(&["--version"]);
    assert_eq!(text(&version.stdout).trim(), concat!("turnway ", env!("CARGO_PKG_VERSION")));
}
