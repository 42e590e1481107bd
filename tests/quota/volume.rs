//! Bytes in a day: when they are spent nothing is relayed, and what was spent outlives a crash.

use std::fs;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{
    CHANNEL, TWO_SECONDS, Talk, came, operator, relay_with_database, rest_client,
    within_two_seconds,
};
use crate::common::client::Client;
use crate::common::{Relay, USER};

const QUOTA_REACHED: u16 = 486;

/// Where no day ends while a test runs.
fn time_zone() -> &'static str {
    let hour = Timestamp::now().to_zoned(TimeZone::UTC).hour();
    if hour == 23 { "Etc/GMT+6" } else { "UTC" }
}

/// What `turnway user usage` shows of an account today: bytes to peers and to clients.
fn used_today(relay: &Relay, account: &str) -> [u64; 2] {
    let said = operator(relay, &["usage", account, "--json"]);
    let json: Value = serde_json::from_str(&said).expect("JSON");
    let day = &json["accounts"][0]["day"];
    ["to_peer", "to_client"].map(|way| day[way].as_u64().expect(&said))
}

#[test]
fn a_spent_volume_stops_relaying_until_the_operator_lifts_it() {
    const VOLUME: u64 = 1_000_000;
    let zone = time_zone();
    let quota = format!("volume_per_user = \"1 MB/day\"\ntime_zone = \"{zone}\"");
    let mut relay = relay_with_database("users.db", &quota);
    let mut talk = Talk::new(&relay, Client::udp(relay.address));
    let (mut relayed, mut spent_at) = (0, None);
    let mut last = Instant::now();
    // Until nothing has come for a second after it was spent.
    talk.up(|bytes| {
        relayed += bytes;
        if bytes > 0 {
            last = Instant::now();
        }
        if relayed >= VOLUME && spent_at.is_none() {
            spent_at = Some(Instant::now());
        }
        spent_at.is_some() && last.elapsed() >= Duration::from_secs(1)
    });
    let spent_at = spent_at.expect("it was spent");
    assert!(last - spent_at <= Duration::from_secs(1), "relayed for {:?} more", last - spent_at);

    Client::udp(relay.address).try_allocate().expect_code(QUOTA_REACHED);
    rest_client(Client::udp(relay.address), "anna", 600).allocate();
    relay.await_samples("the volume in the metrics", |samples| {
        samples["turnway_volumes_spent_total"] == 1.0
            && samples["turnway_quota_refusals_total{quota=\"user_volume\"}"] == 1.0
            && samples
                .iter()
                .any(|(name, &dropped)| name.contains("\"volume_spent\"") && dropped > 0.0)
    });
    let line = |line: &str| line.contains("volume used up") && line.contains(USER);
    relay.await_line("the volume", line);
    let mut used = [0; 2];
    within_two_seconds("saving the volume", || {
        used = used_today(&relay, USER);
        used[0] >= relayed
    });
    assert_eq!(used, [relayed, 0]);

    operator(&relay, &["add", USER, "--no-password", "--volume-per-day", "unlimited"]);
    let lifted = Instant::now();
    talk.up(|bytes| {
        assert!(lifted.elapsed() < TWO_SECONDS, "the limit was not lifted");
        bytes > 0
    });
    Client::udp(relay.address).allocate();
    assert_eq!(relay.log().iter().filter(|text| line(text)).count(), 1);
}

/// Relays some bytes, and tells how many came.
fn relay_some(talk: &mut Talk) -> u64 {
    let mut relayed = 0;
    talk.up(|bytes| {
        relayed += bytes;
        relayed >= 50_000
    });
    relayed
}

#[test]
fn a_database_that_goes_away_is_said_once_and_nothing_is_lost_if_it_comes_back() {
    let quota = format!("time_zone = \"{}\"", time_zone());
    let mut relay = relay_with_database("users.db", &quota);
    let mut talk = Talk::new(&relay, Client::udp(relay.address));
    let mut relayed = relay_some(&mut talk);
    let [database, away] = ["users.db", "away.db"].map(|name| relay.folder.path().join(name));
    fs::rename(&database, &away).expect("it is there");
    let gone = |line: &str| line.contains("users.db: was removed or replaced while running");
    relay.await_line("the database", gone);
    relayed += relay_some(&mut talk);
    relay.await_samples("several attempts", |samples| {
        samples["turnway_database_errors_total"] >= 3.0
    });
    assert!(!database.exists(), "it is not made anew");
    fs::rename(&away, &database).expect("it is there");
    relay.await_line("its return", |line| line.contains("the database works again"));
    within_two_seconds("saving the volume", || used_today(&relay, USER)[0] >= relayed);
    assert_eq!(relay.log().iter().filter(|line| gone(line)).count(), 1);
}

#[test]
fn volume_that_cannot_be_saved_at_the_end_is_said_to_be_lost() {
    let quota = format!("time_zone = \"{}\"", time_zone());
    let mut relay = relay_with_database("users.db", &quota);
    let mut talk = Talk::new(&relay, Client::udp(relay.address));
    fs::remove_file(relay.folder.path().join("users.db")).expect("it is there");
    relay.await_line("the database", |line| line.contains("was removed or replaced"));
    let relayed = relay_some(&mut talk);
    relay.signal("INT");
    assert!(relay.wait().success());
    let line = relay.await_line("what is lost", |line| line.contains("is lost"));
    let last = relay.log().last().expect("lines");
    assert_eq!(*last, line, "nothing is said to be kept");
    let field = |name: &str| {
        let value = line.split_once(&format!("{name}="))?.1.split(' ').next()?;
        value.parse::<u64>().ok()
    };
    assert_eq!(field("accounts"), Some(1), "{line}");
    assert!(field("bytes").is_some_and(|bytes| bytes >= relayed), "{relayed}: {line}");
}

#[test]
fn a_crash_under_load_loses_two_seconds_of_volume_at_most_and_no_allocation_is_left() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("users.db");
    let quota = format!("allocations_per_user = 2\ntime_zone = \"{}\"", time_zone());
    let start = || relay_with_database(database.to_str().expect("text"), &quota);
    let relay = start();
    let mut talks = [(); 2].map(|()| Talk::new(&relay, Client::udp(relay.address)));
    // Bytes that had come to peers and to clients at any time.
    let mut samples = Vec::new();
    let mut received = [0; 2];
    let (started, load) = (Instant::now(), Duration::from_secs(4));
    while started.elapsed() < load {
        for talk in &mut talks {
            talk.client.send_channel(CHANNEL, &[7; 1_000]);
            talk.peer.send(&[7; 500], talk.relayed);
        }
        std::thread::park_timeout(Duration::from_millis(1));
        for talk in &mut talks {
            received[0] += talk.came_to_peer();
            received[1] += came(talk.client.socket()) / 504 * 500;
        }
        samples.push((Instant::now(), received));
    }
    relay.signal("KILL");
    let killed = Instant::now();
    drop(relay);
    let long_before = samples.iter().rfind(|(at, _)| killed - *at >= TWO_SECONDS);
    let (_, long_before) = long_before.expect("load for longer than that");

    let relay = start();
    let used = used_today(&relay, USER);
    for (used, received) in used.into_iter().zip(long_before) {
        assert!(*received > 100_000, "there was to be load");
        assert!(used >= *received, "{used} of {received} bytes were kept");
    }
    // What came until the kill and was not read any more is little.
    let most = received.map(|bytes| bytes + 100_000);
    assert!(used[0] <= most[0] && used[1] <= most[1], "{used:?} of {received:?}");

    assert_eq!(relay.allocations(), 0.0);
    let mut clients = [(); 3].map(|()| Client::udp(relay.address));
    clients[0].allocate();
    clients[1].allocate();
    clients[2].try_allocate().expect_code(QUOTA_REACHED);
}
