//! Access tokens and alternate servers.

use super::{LISTEN, good, parse, refused};
use crate::config::{AlternateWhen, OAuthSecret};

const KEY_256: &str = "key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"";

fn key(text: &str) -> String {
    format!("[[oauth.key]]\n{text}\n")
}

#[test]
fn keys_are_read_and_kept_from_sight() {
    let text = key(&format!("kid = \"north\"\n{KEY_256}\nnot_after = \"2027-01-01T00:00:00Z\""))
        + &key("kid = \"union\"\nkey = \"-_-_AAAAAAAAAAAAAAAAAA\"\nalgorithm = \"A128GCM\"");
    let config = good(&text);
    let oauth = config.oauth.as_ref().expect("there are keys");
    assert_eq!((oauth.server_name.as_str(), oauth.clock_skew.as_secs()), ("turnway", 5));
    let OAuthSecret::A256Gcm(north) = &oauth.keys[0].secret else { panic!("{oauth:?}") };
    assert!((0..32).eq(*north.expose()));
    assert_eq!(oauth.keys[0].not_after_unix, Some(1_798_761_600));
    let OAuthSecret::A128Gcm(union) = &oauth.keys[1].secret else { panic!("{oauth:?}") };
    assert_eq!(union.expose()[..3], [0xFB, 0xFF, 0xBF], "base64url, as in a JSON Web Key");
    let effective = config.effective();
    assert!(!effective.contains("AAEC") && !format!("{config:?}").contains("AAEC"));
    let shown = "{ kid = \"north\", key = \"[redacted]\", algorithm = \"A256GCM\", not_after = \
                 \"2027-01-01T00:00:00Z\" }";
    assert!(effective.contains(shown), "{effective}");
}

#[test]
fn tokens_are_enough_to_start_with() {
    let text = format!("{LISTEN}{}", key(&format!("kid = \"north\"\n{KEY_256}")));
    parse(&text).unwrap();
}

#[test]
fn wrong_keys_are_refused() {
    refused(&key(KEY_256), &["t.toml:1: oauth.key", "`kid` is missing"]);
    refused(&key("kid = \"north\""), &["no `key` or `key_file`"]);
    refused(&key("kid = \"north\"\nkey = \"AAAA\""), &["oauth.key.key", "has 3 bytes", "32"]);
    refused(&key("kid = \"north\"\nkey = \"!\""), &["oauth.key.key", "is not base64"]);
    let twice = key(&format!("kid = \"north\"\n{KEY_256}")).repeat(2);
    refused(&twice, &["the key \"north\" is there already"]);
    let never = "not_before = \"2027-01-01T00:00:00Z\"\nnot_after = \"2026-01-01T00:00:00Z\"";
    refused(&key(&format!("kid = \"a\"\n{KEY_256}\n{never}")), &["oauth.key.not_after"]);
    let names = format!("[oauth]\nserver_name = \"{}\"\n", "n".repeat(56));
    let text = names + &key(&format!("kid = \"north\"\n{KEY_256}"));
    refused(&text, &["oauth.server_name", "60 bytes"]);
}

#[test]
fn alternate_servers_are_checked() {
    let server = |text: &str| format!("[[alternate.server]]\n{text}\n");
    let good = good(&server(
        "addresses = [\"192.0.2.1:3478\", \"[2001:db8::1]:3478\"]\ndomain = \"a.example.org\"",
    ));
    assert_eq!(good.alternates.when, AlternateWhen::Always);
    assert_eq!(good.alternates.servers[0].addresses.len(), 2);
    refused(&server(""), &["t.toml:1: alternate.server", "`addresses` is missing"]);
    refused(&server("addresses = [\"192.0.2.1\"]"), &["is not the address and port"]);
    let twice = "addresses = [\"192.0.2.1:1\", \"192.0.2.2:1\"]";
    refused(&server(twice), &["alternate.server.addresses", "same family"]);
    let ours = "[relay]\naddresses = [\"192.0.2.7\"]\n".to_owned()
        + &server("addresses = [\"192.0.2.7:3478\"]");
    refused(&ours, &["is this server"]);
    let one = "addresses = [\"192.0.2.1:1\"]\n";
    refused(&server(&format!("{one}transports = [\"sctp\"]")), &["is not a transport"]);
    refused(&server(&format!("{one}transports = []")), &["nobody would be sent"]);
    refused(&server(&format!("{one}domain = \"a b\"")), &["is not a domain"]);
}
