//! The admin API: where it is served, and that nobody serves it open by mistake.

use std::fs;
use std::path::PathBuf;

use super::*;

const TOKEN: &str = "token = \"0123456789abcdef\"\n";

fn admin(text: &str) -> String {
    format!("[admin]\n{text}")
}

fn listen(address: &str) -> String {
    admin(&format!("{TOKEN}listen = \"{address}\""))
}

#[test]
fn addresses_and_sockets_are_read() {
    let read = |text: &str| good(text).admin.listen.unwrap();
    assert_eq!(
        read(&listen("127.0.0.1:9642")),
        AdminListen::Tcp("127.0.0.1:9642".parse().unwrap())
    );
    let unix = |path: &str| read(&admin(&format!("listen = \"unix:{path}\"")));
    assert_eq!(unix("/run/a.sock"), AdminListen::Unix("/run/a.sock".into()));
    assert_eq!(unix("/run/a.sock").to_string(), "unix:/run/a.sock");
    let text = format!("{LISTEN}{AUTH}[admin]\nlisten = \"unix:a.sock\"");
    let (config, _) = Config::parse(Path::new("etc/t.toml"), &text).unwrap();
    assert_eq!(config.admin.listen, Some(AdminListen::Unix(PathBuf::from("etc/a.sock"))));
    assert_eq!(config.places.admin.as_deref(), Some("etc/t.toml:7: admin.listen"));
}

#[test]
fn tcp_needs_a_token_and_loopback() {
    refused(
        &admin("listen = \"127.0.0.1:9642\""),
        &["t.toml:2: admin.listen", "without a token", "openssl rand", "\"unix:/run/turnway"],
    );
    warned(
        &listen("10.0.0.5:9642"),
        &["t.toml:3: admin.listen", "travels in the clear", "\"127.0.0.1:9642\""],
    );
    assert_eq!(with(&listen("[::1]:9642")).unwrap().1, Vec::<String>::new());
}

#[test]
fn what_cannot_be_listened_on_is_refused() {
    refused(&listen("127.0.0.1"), &["t.toml:3: admin.listen", "write \"127.0.0.1:9642\""]);
    refused(&listen("127.0.0.1:0"), &["port 0"]);
    refused(&listen("/run/a.sock"), &["write \"unix:/run/a.sock\""]);
    refused(&listen("a.sock"), &["write \"unix:a.sock\""]);
    for path in ["unix:", "unix:/", "unix:/run/turnway/"] {
        refused(&listen(path), &["admin.listen", "does not name a socket"]);
    }
    let path = format!("/{}", "s".repeat(106));
    assert_eq!(with(&listen(&format!("unix:{path}"))).unwrap().1, Vec::<String>::new());
    refused(&listen(&format!("unix:{path}s")), &["has 108 bytes", "at most 107"]);
    refused(
        &format!(
            "{}\n[[listen]]\ntransport = \"tcp\"\naddress = \"0.0.0.0:9642\"",
            listen("127.0.0.1:9642")
        ),
        &["t.toml:3: admin.listen", "already covered by the TCP listener 0.0.0.0:9642"],
    );
    refused(
        &format!("[metrics]\nlisten = \"127.0.0.1:9642\"\n{}", listen("127.0.0.1:9642")),
        &["t.toml:5: admin.listen", "already covered by [metrics] listen = 127.0.0.1:9642"],
    );
}

#[test]
fn tokens_are_secrets() {
    warned(&admin("token = \"short\""), &["t.toml:2: admin.token: a secret of 5 bytes"]);
    refused(&admin("token = \"\""), &["t.toml:2: admin.token: the secret is empty"]);
    for token in ["0123456789 abcdef", "0123456789abcdefé"] {
        refused(&admin(&format!("token = \"{token}\"")), &["an HTTP header cannot carry"]);
    }
    refused(&admin(&format!("{TOKEN}token_file = \"t\"")), &["t.toml:3", "both there"]);
    let config = good(&admin(TOKEN));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    assert!(config.effective().contains("token = \"[redacted]\""), "{}", config.effective());
}

#[test]
fn a_token_comes_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.toml");
    let text = "[admin]\nlisten = \"127.0.0.1:9642\"\ntoken_file = \"token\"";
    fs::write(&path, format!("{LISTEN}{AUTH}{text}")).unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("t.toml:8: admin.token_file: cannot read"), "{error}");
    fs::write(directory.path().join("token"), "fedcba9876543210\n").unwrap();
    let (config, _) = Config::load(&path).unwrap();
    assert_eq!(config.admin.token.unwrap().expose(), "fedcba9876543210");
}

#[test]
fn a_reload_changes_the_token_but_never_opens_tcp_without_one() {
    let token = |config: &Config| config.admin.token.as_ref().map(|it| it.expose().clone());
    let tcp = good(&listen("127.0.0.1:9642"));
    let other = good(&listen("127.0.0.1:9642").replace("0123456789abcdef", "fedcba9876543210"));
    assert_eq!(token(&reloaded(&tcp, other)).as_deref(), Some("fedcba9876543210"));

    let unix = good(&admin("listen = \"unix:/run/a.sock\""));
    let merged = reloaded(&tcp, unix.clone());
    assert_eq!(merged.admin.listen, tcp.admin.listen);
    assert_eq!(token(&merged), token(&tcp), "we still listen on TCP");
    let with_token = good(&admin(&format!("{TOKEN}listen = \"unix:/run/a.sock\"")));
    assert_eq!(token(&reloaded(&with_token, unix)), None);
}
