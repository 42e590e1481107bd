//! The configuration as an operator meets it: what a file says, and what is said about it.

mod admin;
mod auth;
mod discovery;
mod oauth;
mod quota;
mod realms;
mod tls;

use std::path::Path;
use std::time::Duration;

use super::effective::{reload_of, settings};
use super::raw::{Reload, Shape, TABLES, Table};
use super::*;

const LISTEN: &str = "[[listen]]\ntransport = \"udp\"\naddress = \"0.0.0.0:3478\"\n";
const AUTH: &str = "[auth]\nrest_secrets = [\"0123456789abcdef\"]\n";

fn parse(text: &str) -> Result<(Config, Warnings), String> {
    Config::parse(Path::new("t.toml"), text).map_err(|error| error.to_string())
}

/// A file that would be right but for `text`, which comes first.
fn with(text: &str) -> Result<(Config, Warnings), String> {
    parse(&format!("{text}\n{LISTEN}{AUTH}"))
}

fn good(text: &str) -> Config {
    with(text).unwrap().0
}

fn error(text: &str) -> String {
    with(text).expect_err(text)
}

/// Asserts that a file is refused with one line, which has all the parts.
#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let error = error(text);
    assert_eq!(error.lines().count(), 1, "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[track_caller]
fn warned(text: &str, parts: &[&str]) {
    let warnings = with(text).unwrap().1;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in parts {
        assert!(warnings[0].contains(part), "{part:?} is not in: {}", warnings[0]);
    }
}

#[test]
fn a_short_file_gets_the_defaults() {
    let (config, warnings) = with("").unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.realm, "turnway");
    let relay = Relay { addresses: vec![], ports: 49152..=65535, tcp: true, mobility: false };
    assert_eq!(config.relay, relay);
    assert_eq!(config.limits.permissions_per_allocation, 256);
    assert_eq!(config.limits.channels_per_allocation, 256);
    assert_eq!(config.limits.allocations, None);
    assert_eq!(config.limits.unauthenticated_per_source.per_second, 1000);
    assert_eq!(config.limits.unauthenticated_burst, 10_000);
    assert_eq!(config.limits.socket_buffer, 4 << 20);
    assert_eq!(config.limits.tcp_send_queue, 256 << 10);
    assert_eq!(config.limits.max_lifetime, Duration::from_secs(3600));
    assert_eq!(config.auth.nonce_lifetime, Duration::from_secs(3600));
    assert!(config.auth.enforce_expiry_at_refresh);
    assert_eq!((config.shards, config.metrics.listen), (None, None));
    assert_eq!((config.quota, config.limits.bandwidth), (Quota::default(), None));
    assert_eq!((config.auth.database, config.admin.listen), (None, None));
}

const EVERY_KEY: &str = r#"
realm = "example.org"
shards = 2
[[listen]]
transport = "tcp"
address = "[2001:db8::5]:3479"
proxy_protocol = ["10.0.0.0/8"]
[relay]
addresses = ["203.0.113.7", { local = "fd00::5", external = "2001:db8::7" }]
ports = "50000-50999"
tcp = false
mobility = true
[nat_discovery]
addresses = ["203.0.113.7", { local = "10.0.0.6", external = "203.0.113.8" }]
ports = [3480, 3481]
[auth]
rest_secrets = ["0123456789abcdef", "fedcba9876543210"]
rest_separator = "|"
nonce_secret = "0123456789abcdef0123"
nonce_lifetime = "10m"
enforce_expiry_at_refresh = false
database = "sqlite:/var/lib/turnway/turnway.db"
[[auth.user]]
name = "alice"
password = "wonderland"
[[auth.user]]
name = "bob"
key = "0x00112233445566778899AABBCCDDEEFF"
[[auth.user]]
name = "carol"
key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
[oauth]
server_name = "turn.example.org"
clock_skew = "10s"
[[oauth.key]]
kid = "north"
key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
not_before = "2026-01-01T00:00:00Z"
not_after = "2027-01-01T00:00:00Z"
[[realms]]
name = "second"
origins = ["https://app.example.org"]
server_names = ["turn.example.org"]
rest_secrets = ["fedcba9876543210"]
allow = ["10.9.0.0/16"]
deny = ["192.0.2.0/24"]
[alternate]
when = "busy"
[[alternate.server]]
addresses = ["192.0.2.9:3478"]
domain = "other.example.org"
[peers]
allow = ["10.1.0.0/16", "fd12::/16"]
deny = ["198.18.0.0/15"]
nat64 = ["64:ff9b:1::/48"]
[limits]
allocations = 500
permissions_per_allocation = 10
channels_per_allocation = 20
connections_per_allocation = 30
handshakes_per_source = "7/s"
old_channel_numbers = false
max_lifetime = "2h"
unauthenticated_per_source = "50/s"
unauthenticated_burst = 100
icmp_per_allocation = "5/s"
socket_buffer = "1 MiB"
tcp_connections = 100
connections_per_source = 70
dtls_sessions = 700
tcp_send_queue = "1 MB"
tcp_idle_timeout = "10s"
wakeup_delay = "250us"
drain_timeout = "1h"
bandwidth = "1 Gbit/s"
bandwidth_burst = "20 MB"
[quota]
allocations_per_user = 10
allocations_per_realm = 400
allocations_per_prefix = 50
ipv4_prefix = 24
ipv6_prefix = 56
bandwidth_per_allocation = "5 Mbit/s"
bandwidth_per_user = "10 Mbit/s"
bandwidth_per_realm = "500 Mbit/s"
burst_per_allocation = "500 kB"
burst_per_user = "1 MB"
burst_per_realm = "10 MB"
volume_per_user = ["2 GB/day", "50 GB/month"]
time_zone = "Europe/Berlin"
[[quota.realm]]
name = "example.org"
allocations_per_user = 20
[offload]
mode = "generic"
interfaces = ["eth0", "eth1.7"]
max_channels = 1000
[tls]
min_version = "1.3"
client_certificates = "optional"
client_ca = "clients.pem"
handshake_timeout = "5s"
[[tls.certificate]]
certificate = "/etc/turnway/fullchain.pem"
key = "privkey.pem"
[metrics]
listen = "127.0.0.1:9641"
[admin]
listen = "unix:/run/turnway/admin.sock"
token = "0123456789abcdef"
[log]
level = "debug"
format = "json"
"#;

#[test]
fn every_key_is_read() {
    let (config, warnings) = parse(EVERY_KEY).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.shards, Some(2));
    assert_eq!(config.listen[0].transport, Transport::Tcp);
    assert_eq!(config.listen[0].address, "[2001:db8::5]:3479".parse().unwrap());
    let pair = RelayAddress {
        local: "fd00::5".parse().unwrap(),
        external: "2001:db8::7".parse().unwrap(),
    };
    assert_eq!(config.relay.addresses[1], pair);
    assert_eq!(config.relay.addresses[0].local, config.relay.addresses[0].external);
    let discovery = config.nat_discovery.unwrap();
    assert_eq!((discovery.addresses.len(), discovery.ports), (1, [3480, 3481]));
    assert_eq!(config.auth.rest_secrets[1].expose(), "fedcba9876543210");
    assert_eq!(config.auth.rest_separator, '|');
    let credentials: Vec<_> = config.auth.users.iter().map(|user| &user.credential).collect();
    assert!(
        matches!(credentials[0], Credential::Password(secret) if secret.expose() == "wonderland")
    );
    assert!(matches!(credentials[1], Credential::Md5(key) if key.expose()[15] == 0xff));
    assert!(matches!(credentials[2], Credential::Sha256(key) if key.expose()[31] == 0x1f));
    assert_eq!(config.peers.allow.len() + config.peers.deny.len() + config.peers.nat64.len(), 4);
    assert_eq!((config.limits.allocations, config.limits.tcp_connections), (Some(500), Some(100)));
    assert_eq!(config.log, Log { level: LogLevel::Debug, format: LogFormat::Json });
    assert_eq!(config.auth.database, Some("/var/lib/turnway/turnway.db".into()));
    assert_eq!(config.limits.bandwidth, Some(rate(125_000_000, 20_000_000)));
    let user = UserLimits {
        allocations: Some(20),
        bandwidth: Some(rate(1_250_000, 1_000_000)),
        bandwidth_per_allocation: Some(rate(625_000, 500_000)),
        volume_per_day: Some(2_000_000_000),
        volume_per_month: Some(50_000_000_000),
    };
    let quota = Quota {
        user,
        realm_allocations: Some(400),
        realm_bandwidth: Some(rate(62_500_000, 10_000_000)),
        prefix: PrefixLimit { allocations: Some(50), v4_bits: 24, v6_bits: 56 },
        time_zone: TimeZone::get("Europe/Berlin").unwrap(),
    };
    assert_eq!(config.quota, quota);
    assert_eq!(config.limits.wakeup_delay, Duration::from_micros(250));
    let offload = Offload {
        mode: OffloadMode::Generic,
        interfaces: vec!["eth0".to_owned(), "eth1.7".to_owned()],
        max_channels: 1_000,
    };
    assert_eq!(config.offload, offload);
    assert_eq!(config.listen[0].proxies, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(
        config.tls,
        Tls {
            certificates: vec![CertificateFiles {
                certificate: "/etc/turnway/fullchain.pem".into(),
                key: "privkey.pem".into(),
            }],
            min_version: TlsVersion::Tls13,
            client_certificates: ClientCertificates::Optional,
            client_ca: Some("clients.pem".into()),
            handshake_timeout: Duration::from_secs(5),
        }
    );
    assert_eq!(config.admin.listen, Some(AdminListen::Unix("/run/turnway/admin.sock".into())));
    assert_eq!(config.admin.token.unwrap().expose(), "0123456789abcdef");
}

fn rate(bytes_per_second: u64, burst_bytes: u64) -> Bandwidth {
    Bandwidth { bytes_per_second, burst_bytes }
}

#[test]
fn an_offload_that_cannot_be_is_refused() {
    refused("[offload]\nmode = \"xdp\"", &["t.toml:2: offload.mode", "write \"auto\", \"native\""]);
    refused(
        "[offload]\ninterfaces = [\"eth0\", \"a name with blanks\"]",
        &["t.toml:2: offload.interfaces", "\"a name with blanks\" is not the name of an interface"],
    );
    refused("[offload]\nmax_channels = 0", &["t.toml:2: offload.max_channels", "the least is 1"]);
}

#[test]
fn unknown_keys_name_the_nearest_one() {
    refused("reallm = \"a\"", &["t.toml:1: reallm: ", "did you mean \"realm\"?"]);
    refused(
        "\n[limits]\nmax_lifetme = \"1h\"",
        &["t.toml:3: limits.max_lifetme", "\"max_lifetime\""],
    );
    refused("[peer]\nallow = []", &["t.toml:1: peer: ", "did you mean \"peers\"?"]);
    refused("[log]\ndrain_timeout = \"1h\"", &["t.toml:2: log.drain_timeout", "[limits]"]);
    refused("[log]\nrealm = \"a\"", &["t.toml:2: log.realm", "at the top"]);
    refused("[log]\nzzzzzzz = 1", &["t.toml:2", "the keys here are level, format"]);
    refused(
        "[relay]\naddresses = [{ local = \"10.0.0.5\", public = \"x\", external = \"192.0.2.1\" }]",
        &["t.toml:2: relay.addresses.public", "local, external"],
    );
}

#[test]
fn all_unknown_keys_are_named_at_once() {
    let error = error("colour = 1\nflavour = 2");
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn broken_toml_names_the_line() {
    refused("realm = \"turnway\n", &["t.toml:1: not valid TOML"]);
    refused("realm = 5", &["t.toml:1: realm: ", "5", "expected a string"]);
    refused("realm = \"a\"\nrealm = \"b\"", &["t.toml:2", "duplicate"]);
    refused("limits = 5", &["t.toml:1: limits", "5"]);
}

#[test]
fn no_listener_and_no_user_are_errors() {
    let error = parse("").unwrap_err();
    assert!(error.contains("there is no [[listen]]"), "{error}");
    assert!(error.contains("no users and no secret") && error.contains("open relay"), "{error}");
    let error = parse(&format!("{LISTEN}[auth]\nrest_secrets = []")).unwrap_err();
    assert!(error.contains("no users and no secret"), "{error}");
}

#[test]
fn the_realm_is_bounded() {
    let long = format!("realm = \"{}\"", "r".repeat(65));
    refused(&long, &["t.toml:1: realm", "65 bytes", "the most is 64", "3 times"]);
    assert_eq!(good(&format!("realm = \"{}\"", "r".repeat(64))).realm.len(), 64);
    refused("realm = \"\"", &["realm", "is empty"]);
    refused("realm = 'a\"b'", &["realm", "quotes"]);
}

#[test]
fn listeners_are_checked() {
    let listen =
        |address: &str| format!("[[listen]]\ntransport = \"udp\"\naddress = \"{address}\"");
    refused(&listen("0.0.0.0:3478"), &["t.toml:6: listen.address", "already covered by udp"]);
    refused(&listen("10.0.0.1:3478"), &["listen.address", "0.0.0.0:3478", "remove one"]);
    refused(&listen("0.0.0.0:0"), &["t.toml:3: listen.address", "port 0"]);
    refused(&listen("10.0.0.1"), &["t.toml:3", "has no port; write \"10.0.0.1:3478\""]);
    refused(&listen("::1"), &["has no port; write \"[::1]:3478\""]);
    refused(&listen("localhost:3478"), &["names are not looked up"]);
    refused(&listen("[::ffff:10.0.0.1]:3478"), &["IPv4 written as IPv6"]);
    refused(&listen("224.0.0.1:3478"), &["multicast"]);
    refused("[[listen]]\ntransport = \"udp\"", &["t.toml:1: listen", "`address` is missing"]);
    refused("[[listen]]\naddress = \"0.0.0.0:1\"", &["t.toml:1: listen", "`transport` is missing"]);
    refused("[[listen]]\ntransport = \"sctp\"", &["t.toml:2", "\"sctp\" is not a transport"]);
    assert_eq!(good(&listen("[::]:3478")).listen.len(), 2);
    assert_eq!(good(&listen("0.0.0.0:3478").replace("udp", "tcp")).listen.len(), 2);
    refused("[metrics]\nlisten = \"127.0.0.1:0\"", &["t.toml:2: metrics.listen", "port 0"]);
    refused(
        "[[listen]]\ntransport = \"tcp\"\naddress = \"0.0.0.0:9641\"\n\
         [metrics]\nlisten = \"127.0.0.1:9641\"",
        &["t.toml:5: metrics.listen", "already covered by the TCP listener 0.0.0.0:9641"],
    );
}

#[test]
fn relay_addresses_are_checked() {
    let relay = |addresses: &str| format!("[relay]\naddresses = [{addresses}]");
    refused(&relay("\"0.0.0.0\""), &["t.toml:2: relay.addresses", "0.0.0.0", "peers shall see"]);
    refused(&relay("\"239.1.1.1\""), &["relay.addresses", "multicast"]);
    refused(&relay("\"fe80::1\""), &["link-local"]);
    refused(&relay("\"turn.example.org\""), &["is not an IP address"]);
    refused(&relay("\"203.0.113.7:3478\""), &["without a port"]);
    refused(&relay(""), &["is empty; remove the key"]);
    refused(
        &relay("{ local = \"10.0.0.5\", external = \"2001:db8::1\" }"),
        &["t.toml:2: relay.addresses", "different families"],
    );
    refused(&relay("{ local = \"10.0.0.5\" }"), &["needs both `local` and `external`"]);
    refused(&relay("{ local = \"10.0.0.5\", external = \"x\" }"), &["relay.addresses.external"]);
    refused(&relay("\"203.0.113.7\", \"203.0.113.7\""), &["is there already"]);
    refused(&relay("7"), &["t.toml:2: relay.addresses", "expected an address in quotes"]);
}

#[test]
fn a_private_relay_address_is_a_warning_that_says_what_to_write() {
    for address in ["10.0.0.5", "100.64.1.1", "fd00::5"] {
        warned(
            &format!("[relay]\naddresses = [\"{address}\"]"),
            &["t.toml:2: relay.addresses", &format!("{{ local = \"{address}\", external = ")],
        );
    }
    warned("[relay]\naddresses = [\"127.0.0.1\"]", &["cannot reach 127.0.0.1"]);
    assert_eq!(private_relay_warning("203.0.113.7".parse().unwrap()), None);
}

#[test]
fn relay_ports_hold_pairs_and_no_listener() {
    refused("[relay]\nports = \"5000-5000\"", &["t.toml:2: relay.ports", "too small"]);
    refused("[relay]\nports = 5000", &["t.toml:2: relay.ports", "write \"49152-65535\""]);
    let inside = "[relay]\nports = \"3000-4000\"";
    refused(inside, &["t.toml:5: listen.address", "among the relay ports 3000-4000"]);
    refused(&format!("{inside}\naddresses = [\"203.0.113.7\"]"), &["among the relay ports"]);
    good(&format!("{inside}\naddresses = [\"2001:db8::1\"]"));
    warned("[relay]\nports = \"80-3000\"", &["below 1024"]);
}

#[test]
fn peers_are_checked() {
    let peers = |text: &str| format!("[peers]\n{text}");
    refused(
        &peers("allow = [\n  \"10.0.0.0/8\",\n  \"10.1.2.3/8\",\n]"),
        &["t.toml:4: peers.allow", "\"10.1.2.3/8\"", "\"10.0.0.0/8\""],
    );
    refused(&peers("deny = [\"10.0.0.0/40\"]"), &["t.toml:2: peers.deny", "not an address range"]);
    refused(&peers("deny = \"10.0.0.0/8\""), &["t.toml:2: peers.deny"]);
    refused(
        &peers("allow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.0/8\"]"),
        &["t.toml:3: peers.deny", "10.0.0.0/8 is in `allow` too", "remove one"],
    );
    good(&peers("allow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.5\"]"));
    refused(&peers("nat64 = [\"64:ff9b:1::/50\"]"), &["t.toml:2: peers.nat64", "/96", "RFC 6052"]);
    refused(&peers("nat64 = [\"10.0.0.0/8\"]"), &["peers.nat64", "is IPv6"]);
    good(&peers("allow = [\"10.0.0.5\"]\ndeny = [\"10.0.0.0/8\"]"));
    let warnings = with(&peers("allow = [\"0.0.0.0/0\"]")).unwrap().1.join("\n");
    assert!(warnings.contains("169.254.169.254") && warnings.contains("127.0.0.1"), "{warnings}");
}

#[test]
fn limits_have_units_and_bounds() {
    let limit = |text: &str| format!("[limits]\n{text}");
    refused(&limit("tcp_idle_timeout = 60"), &["t.toml:2: limits.tcp_idle_timeout", "\"60s\""]);
    refused(&limit("socket_buffer = 4096"), &["limits.socket_buffer", "has no unit", "\"4 MiB\""]);
    refused(&limit("unauthenticated_per_source = 200"), &["\"200/s\""]);
    refused(&limit("max_lifetime = \"5m\""), &["limits.max_lifetime", "5m is too little", "10m"]);
    refused(&limit("max_lifetime = \"25h\""), &["25h is too much", "1d"]);
    refused(&limit("channels_per_allocation = 5000"), &["the most is 4096"]);
    refused(&limit("permissions_per_allocation = -1"), &["-1 is not a whole number"]);
    refused(&limit("allocations = \"many\""), &["many is not a whole number"]);
    refused(&limit("tcp_send_queue = \"64 KiB\""), &["the least is 128 KiB"]);
    refused("shards = 0", &["t.toml:1: shards", "the least is 1"]);
    warned(
        "[limits]\nallocations = 5000\n\
         [relay]\naddresses = [\"203.0.113.7\"]\nports = \"5000-5999\"",
        &["t.toml:2: limits.allocations", "1000 relay ports"],
    );
    let error = parse(&format!("{LISTEN}{AUTH}nonce_lifetime = \"1s\"")).unwrap_err();
    assert!(error.contains("t.toml:6: auth.nonce_lifetime: 1s is too little"), "{error}");
}

#[test]
fn the_effective_configuration_is_toml_without_secrets() {
    let config = good("[[auth.user]]\nname = \"alice\"\npassword = \"wonderland\"");
    let text = config.effective();
    assert!(!text.contains("wonderland"), "{text}");
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["auth"]["user"][0]["password"].as_str(), Some("[redacted]"));
    assert_eq!(table["listen"][0]["address"].as_str(), Some("0.0.0.0:3478"));
    assert_eq!(table["limits"]["socket_buffer"].as_str(), Some("4 MiB"));
    assert!(text.contains("# shards: one for each usable CPU"), "{text}");
    assert!(!format!("{config:?}").contains("wonderland"));
}

#[test]
fn every_key_is_a_setting_and_every_setting_a_key() {
    let config = Config::development(Secret::new("0123456789abcdef".to_owned()));
    let settings: Vec<&str> = settings(&config).iter().map(|setting| setting.key).collect();
    // What our realm has of its own is shown as what holds: in [quota].
    let shown = |table: &&&Table| table.shape != Shape::Inline && table.path != "quota.realm";
    for table in TABLES.iter().filter(shown) {
        for key in table.keys.iter().filter(|key| !key.name.ends_with("_file")) {
            let name = [table.path, key.name].join(".");
            let of_list = matches!(table.shape, Shape::Array | Shape::OptionalArray);
            let name = if of_list { table.path } else { name.trim_start_matches('.') };
            assert!(settings.contains(&name), "{name} is not shown");
        }
    }
    for setting in settings {
        reload_of(setting);
    }
    for table in TABLES {
        let mut classes = table.keys.iter().map(|key| key.reload);
        let first = classes.next().unwrap();
        let is_list = matches!(table.shape, Shape::Array | Shape::OptionalArray | Shape::Inline);
        assert!(
            !is_list || classes.all(|class| class == first),
            "[{}] is reloaded as one",
            table.path
        );
    }
}

#[test]
fn a_reload_says_what_needs_a_restart() {
    let old = good("");
    let live = good(
        "[peers]\nallow = [\"10.0.0.0/8\"]\n[limits]\nicmp_per_allocation = \"5/s\"\n\
         bandwidth = \"1 Gbit/s\"\n[quota]\nbandwidth_per_user = \"10 Mbit/s\"\n\
         [admin]\ntoken = \"0123456789abcdef\"\n\
         [log]\nlevel = \"warn\"\n[[auth.user]]\nname = \"a\"\npassword = \"b\"",
    );
    assert_eq!(restart_needed(&old, &live), Vec::<&str>::new());
    let restart = good(
        "realm = \"b\"\nshards = 3\n[relay]\nports = \"50000-60000\"\n[limits]\n\
         socket_buffer = \"1 MiB\"\n[metrics]\nlisten = \"127.0.0.1:9641\"\n\
         [admin]\nlisten = \"unix:admin.sock\"\n[[listen]]\n\
         transport = \"tcp\"\naddress = \"0.0.0.0:3478\"",
    );
    assert_eq!(
        restart_needed(&old, &restart),
        [
            "realm",
            "shards",
            "listen",
            "relay.ports",
            "limits.socket_buffer",
            "metrics.listen",
            "admin.listen"
        ]
    );
    let database = parse(&format!("{LISTEN}{AUTH}database = \"sqlite:t.db\"")).unwrap().0;
    assert_eq!(restart_needed(&old, &database), ["auth.database"]);
    assert_eq!(reloaded(&old, database.clone()).auth.database, None);
    let mut volume = database;
    volume.quota.user.volume_per_day = Some(1);
    let merged = reloaded(&old, volume);
    assert_eq!(merged.quota.user.volume_per_day, None, "nothing is there to keep it");
    assert_eq!(reload_of("auth.rest_secrets"), Reload::Live);
}

#[test]
fn a_reload_takes_over_what_is_live_and_nothing_else() {
    // The two differ in every setting.
    let mut old = Config::development(Secret::new("0123456789abcdef".to_owned()));
    old.auth.database = Some("other.db".into());
    let (new, _) = parse(EVERY_KEY).unwrap();
    old.realms = vec![Realm { origins: Vec::new(), ..new.realms[0].clone() }];
    let merged = settings(&reloaded(&old, new.clone()));
    let pairs = settings(&old).into_iter().zip(settings(&new)).zip(merged);
    for ((old, new), merged) in pairs {
        assert_ne!(old.value, new.value, "{} is the same in both", old.key);
        match reload_of(old.key) {
            Reload::Live => assert_eq!(merged, new),
            Reload::Restart => assert_eq!(merged, old),
        }
    }
}

#[test]
fn development_stays_on_this_machine() {
    let config = Config::development(Secret::new("0123456789abcdef".to_owned()));
    assert!(config.listen.iter().all(|listener| listener.address.ip().is_loopback()));
    assert!(config.relay.addresses.iter().all(|relay| relay.external.is_loopback()));
    assert!(config.peers.allow.iter().all(|net| net.addr().is_loopback()));
    assert!(config.metrics.listen.is_none() && config.admin.listen.is_none());
    assert_eq!((config.quota, config.auth.database), (Quota::default(), None));
}
