//! Operating a daemon: reload, drain, stop; and what its log says.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use turnway::config::Secret;
use turnway::credentials;

use common::client::{Client, Peer};
use common::{PASSWORD, REALM, Relay, SECRET, Setup, USER};

/// Changes the configuration file and has it read. Returns the line that tells what came of it.
fn reload(relay: &mut Relay, change: impl FnOnce(String) -> String) -> String {
    let path = relay.config_path();
    let text = fs::read_to_string(&path).expect("the configuration");
    fs::write(&path, change(text)).expect("the configuration");
    relay.log();
    relay.signal("HUP");
    relay.next_line("the reload", |line| line.contains("reloaded"))
}

#[track_caller]
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{text}");
    text.replace(from, to)
}

#[test]
fn a_reload_lets_new_users_in_and_removed_ones_out() {
    let mut relay = Relay::with_shards(2);
    let mut old = Client::udp(relay.address);
    let mut rest = rest_client(&relay, "bob", 3600);
    let relayed = old.allocate();
    rest.allocate();
    let peer = Peer::on(relayed.ip());
    old.bind(0x4000, peer.address()).expect_success();

    let user = format!("name = \"{USER}\"");
    reload(&mut relay, |text| replaced(&text, &user, "name = \"newcomer\""));
    let newcomer = || Client::udp(relay.address).with_credentials("newcomer", PASSWORD);
    newcomer().allocate();
    old.refresh(600).expect_code(401);
    old.bind(0x4000, peer.address()).expect_code(401);
    Client::udp(relay.address).try_allocate().expect_code(401);
    rest.refresh(600).expect_success();

    let secret = format!("\"{SECRET}\"");
    let rotated = "\"a new secret of the tests\"";
    let both = format!("{rotated}, {secret}");
    reload(&mut relay, |text| replaced(&text, &secret, &both));
    rest.refresh(600).expect_success();
    reload(&mut relay, |text| replaced(&text, &both, rotated));
    rest.refresh(600).expect_code(401);
}

/// A client with time-limited credentials.
fn rest_client(relay: &Relay, name: &str, seconds: i64) -> Client {
    let expires = credentials::unix_now().saturating_add_signed(seconds);
    let secret = Secret::new(SECRET.to_owned());
    let minted = credentials::mint(&secret, ':', name, expires).expect("a name");
    Client::udp(relay.address).with_credentials(&minted.username, minted.password.expose())
}

#[test]
fn a_newly_denied_peer_is_cut_within_a_second_in_both_directions() {
    let mut relay = Relay::with_shards(2);
    let mut client = Client::udp(relay.address);
    let relayed = client.allocate();
    let [denied, kept] = [Peer::on(common::own_address().into()), Peer::on(relayed.ip())];
    client.bind(0x4000, denied.address()).expect_success();
    client.permit(&[kept.address()]).expect_success();
    client.send_channel(0x4000, b"before");
    assert_eq!(denied.receive(), (b"before".to_vec(), relayed));

    let deny = format!("[peers]\ndeny = [\"{}\"]\n", denied.address().ip());
    reload(&mut relay, |text| replaced(&text, "[peers]\n", &deny));
    let said = Instant::now();
    let dropped = |relay: &Relay, side: &str| {
        relay.sum(&format!("turnway_dropped_datagrams_total{{side=\"{side}\""))
    };
    for side in ["client", "peer"] {
        common::await_some("a refused datagram", || {
            match side {
                "client" => client.send_channel(0x4000, b"after"),
                _ => denied.send(b"after", relayed),
            }
            (dropped(&relay, side) > 0.0).then_some(())
        });
    }
    assert!(said.elapsed() < Duration::from_secs(1), "{:?}", said.elapsed());
    denied.expect_nothing();
    client.expect_nothing();
    client.bind(0x4001, denied.address()).expect_code(403);
    client.send(kept.address(), b"another peer");
    assert_eq!(kept.receive(), (b"another peer".to_vec(), relayed));

    reload(&mut relay, |text| replaced(&text, &deny, "[peers]\n"));
    client.bind(0x4000, denied.address()).expect_success();
    client.send_channel(0x4000, b"again");
    assert_eq!(denied.receive(), (b"again".to_vec(), relayed));
}

#[test]
fn a_broken_configuration_is_named_and_changes_nothing() {
    let mut relay = Relay::with_shards(2);
    let mut client = Client::udp(relay.address);
    client.allocate();
    let path = relay.config_path();
    let good = fs::read_to_string(&path).expect("the configuration");
    let user = format!("name = \"{USER}\"");
    let broken = replaced(&good, &user, "name = \"newcomer\"");
    let line = broken.lines().position(|line| line == "[peers]").expect("there") + 2;
    for (bad, key) in [
        ("deny = [\"10.0.0.1/8\"]", "peers.deny"),
        ("denny = []", "denny"),
        ("deny = 5", "peers.deny"),
        ("deny = \"unfinished", "not valid TOML"),
    ] {
        fs::write(&path, replaced(&broken, "[peers]", &format!("[peers]\n{bad}")))
            .expect("written");
        let place = format!("{}:{line}", path.display());
        let said = refused_reload(&mut relay, &place);
        assert!(said.contains("ERROR") && said.contains(key), "{said} should name {key}");
        client.refresh(600).expect_success();
        Client::udp(relay.address).allocate();
    }
    fs::remove_file(&path).expect("removed");
    refused_reload(&mut relay, &path.display().to_string());
    fs::create_dir(&path).expect("a directory");
    refused_reload(&mut relay, &path.display().to_string());
    client.refresh(600).expect_success();
    assert_eq!(relay.get("/readyz").0, 200);
}

/// Has the configuration read, in vain. Returns the line that names the mistake's `place`.
fn refused_reload(relay: &mut Relay, place: &str) -> String {
    relay.log();
    relay.signal("HUP");
    let said = relay.next_line(place, |line| line.contains(place));
    relay.next_line("the outcome", |line| {
        line.contains("ERROR") && line.contains("not reloaded: the old configuration stays")
    });
    said
}

#[test]
fn what_a_reload_cannot_change_is_said() {
    let mut relay = Relay::with_shards(2);
    let realm = format!("realm = \"{REALM}\"");
    reload(&mut relay, |text| replaced(&text, &realm, "realm = \"another\""));
    let needs_restart = |line: &str| line.contains("only a restart applies it");
    let said = relay.await_line("the realm", needs_restart);
    assert!(said.contains("WARN") && said.contains("realm"), "{said}");
    Client::udp(relay.address).allocate();
}

fn with_drain_timeout(timeout: &str) -> Relay {
    Relay::start(Setup { limits: format!("drain_timeout = \"{timeout}\""), ..Setup::default() })
}

#[test]
fn sigterm_lets_allocations_live_on_and_ends_with_the_last() {
    let mut relay = with_drain_timeout("10m");
    let mut clients = [Client::udp(relay.address), Client::tcp(relay.address)];
    let relayed = clients.each_mut().map(Client::allocate);
    let mut late = Client::udp(relay.address);
    let peer = Peer::on(relayed[0].ip());
    relay.signal("TERM");
    relay
        .await_line("draining", |line| line.contains("draining") && line.contains("allocations=2"));
    common::await_some("new allocations to be refused", || {
        let answer = late.try_allocate();
        let refused = answer.code() == Some(508);
        if !refused {
            late.refresh(0).expect_success();
        }
        refused.then_some(())
    });
    let (code, why) = relay.get("/readyz");
    assert_eq!(code, 503, "{why}");
    assert!(why.contains("draining"), "{why}");
    assert_eq!(relay.get("/livez").0, 200);
    late.binding();
    for (client, relayed) in clients.iter_mut().zip(relayed) {
        client.refresh(600).expect_success();
        client.bind(0x4000, peer.address()).expect_success();
        client.send_channel(0x4000, b"living on");
        assert_eq!(peer.receive(), (b"living on".to_vec(), relayed));
    }
    let [mut first, second] = clients;
    first.refresh(0).expect_success();
    assert!(relay.is_alive());
    drop(second); // its connection ends
    assert_eq!(relay.wait().code(), Some(0));
}

#[test]
fn a_drain_ends_after_its_time_with_whatever_is_left() {
    let mut relay = with_drain_timeout("1s");
    let mut client = Client::udp(relay.address);
    client.allocate();
    let began = Instant::now();
    relay.signal("TERM");
    assert_eq!(relay.wait().code(), Some(0));
    assert!((1..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let ended = relay.await_line("the end", |line| line.contains("allocation ended"));
    assert!(ended.contains("reason=shutdown"), "{ended}");
}

#[test]
fn sigint_or_a_second_sigterm_stops_at_once() {
    for signals in [&["INT"][..], &["TERM", "TERM"], &["TERM", "INT"]] {
        let mut relay = with_drain_timeout("10m");
        let mut client = Client::udp(relay.address);
        client.allocate();
        let began = Instant::now();
        relay.signal(signals[0]);
        if let Some(second) = signals.get(1) {
            relay.await_line("draining", |line| line.contains("draining"));
            assert!(relay.is_alive());
            relay.signal(second);
        }
        assert_eq!(relay.wait().code(), Some(0), "{signals:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        relay.await_line("the end", |line| line.contains("reason=shutdown"));
    }
}

/// An allocation that relays 3 datagrams of 30 bytes out and 2 of 10 bytes back.
fn use_once(relay: &Relay) -> (SocketAddr, SocketAddr) {
    let mut client = Client::udp(relay.address);
    let relayed = client.allocate();
    let own = SocketAddr::new(relay.ip(), client.local_addr().port());
    let peer = Peer::on(relayed.ip());
    client.bind(0x4000, peer.address()).expect_success();
    for _ in 0..3 {
        client.send_channel(0x4000, &[1; 30]);
        peer.receive();
    }
    for _ in 0..2 {
        peer.send(&[2; 10], relayed);
        client.receive();
    }
    client.refresh(0).expect_success();
    (own, relayed)
}

#[test]
fn an_allocation_has_a_line_when_it_starts_and_one_when_it_ends() {
    let mut relay = Relay::with_shards(1);
    let (client, relayed) = use_once(&relay);
    let started = relay.await_line("the start", |line| line.contains("allocation started"));
    let ended = relay.await_line("the end", |line| line.contains("allocation ended"));
    let both = [
        "INFO".to_owned(),
        "id=".to_owned(),
        format!("user=\"{USER}\""),
        format!(":{} transport=udp", client.port()),
        format!("relay_v4={relayed}"),
    ];
    for expected in &both {
        assert!(started.contains(expected), "{started} lacks {expected}");
        assert!(ended.contains(expected), "{ended} lacks {expected}");
    }
    for expected in [
        "seconds=0",
        "to_peer_datagrams=3 to_peer_bytes=90",
        "to_client_datagrams=2 to_client_bytes=20",
        "reason=deleted",
    ] {
        assert!(ended.contains(expected), "{ended} lacks {expected}");
    }
    assert!(!relay.log().iter().any(|line| line.contains(PASSWORD) || line.contains(SECRET)));
}

#[test]
fn the_log_can_be_json() {
    let mut relay = Relay::start(Setup {
        shards: 1,
        extra: "[log]\nformat = \"json\"".to_owned(),
        ..Setup::default()
    });
    let (_, relayed) = use_once(&relay);
    let line = relay.await_line("the end", |line| line.contains("allocation ended"));
    let ended: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(ended["message"], "allocation ended");
    assert_eq!(ended["level"], "INFO");
    assert_eq!(ended["user"], USER);
    assert_eq!(ended["transport"], "udp");
    assert_eq!(ended["relay_v4"], relayed.to_string());
    assert_eq!(ended["to_peer_datagrams"], 3);
    assert_eq!(ended["to_peer_bytes"], 90);
    assert_eq!(ended["to_client_datagrams"], 2);
    assert_eq!(ended["to_client_bytes"], 20);
    assert_eq!(ended["reason"], "deleted");
    assert!(ended["id"].is_u64() && ended["seconds"].is_u64() && ended["timestamp"].is_string());
    for line in relay.log() {
        serde_json::from_str::<serde_json::Value>(line).expect("every line is JSON");
    }
}

#[test]
fn authentication_failures_are_logged_with_their_cause() {
    let mut relay = Relay::with_shards(1);
    let refused = |mut client: Client| client.try_allocate().expect_code(401);
    let fresh = || Client::udp(relay.address);
    refused(fresh().with_credentials("nobody\n\u{1b}[31m", PASSWORD));
    refused(fresh().with_credentials(USER, "a wrong password"));
    refused(rest_client(&relay, "late", -100));
    refused(rest_client(&relay, "very late", -100_000));
    // A duration where the time of expiry should be.
    refused(fresh().with_credentials("3600:hasty", "any"));
    for words in [
        ["user=\"nobody%0A%1B[31m\"", "unknown user"],
        ["user=\"user\"", "wrong key"],
        [":late\"", "check the clocks of this machine and of the credential issuer"],
        [":very late\"", "expired by 1000"],
        ["user=\"3600:hasty\"", ""],
    ] {
        let about = |line: &str| line.contains("authentication failed") && line.contains(words[0]);
        let line = relay.await_line(words[0], about);
        assert!(line.contains(words[1]), "{line} lacks {}", words[1]);
    }
    let expired = "turnway_auth_failures_total{cause=\"expired\"}";
    relay.await_samples("all to be counted", |samples| samples[expired] >= 2.0);
    assert!(!relay.log().iter().any(|line| line.contains(PASSWORD) || line.contains(SECRET)));
}

#[test]
fn a_flood_of_authentication_failures_does_not_flood_the_log() {
    let mut relay = Relay::with_shards(1);
    let began = Instant::now();
    let mut guesser = Client::udp(relay.address).with_credentials(USER, "a wrong password");
    // Each guess is one request with credentials; the burst of answers is larger.
    for _ in 0..1500 {
        guesser.try_allocate().expect_code(401);
    }
    let failures = "turnway_auth_failures_total{cause=\"wrong_key\"}";
    relay.await_samples("all to be counted", |samples| samples[failures] == 1500.0);
    let lines = relay.log().iter().filter(|line| line.contains("authentication failed")).count();
    let most = 20 * (2 + began.elapsed().as_secs() as usize);
    assert!((1..=most).contains(&lines), "{lines} lines");
    // Once a second has passed, the next line tells how many were left out.
    let suppressed =
        |line: &str| line.split("suppressed=").nth(1).is_some_and(|rest| !rest.starts_with("0"));
    common::await_some("a line that tells", || {
        guesser.try_allocate().expect_code(401);
        relay.log().iter().any(|line| suppressed(line)).then_some(())
    });
}
