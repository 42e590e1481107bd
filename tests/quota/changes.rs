//! What the operator changes with `turnway user` holds for live allocations within two seconds.

use std::time::{Duration, Instant};

use super::{TWO_SECONDS, Talk, operator, relay_with_database, within_two_seconds};
use crate::common::client::Client;
use crate::common::{Relay, USER};

const UNAUTHENTICATED: u16 = 401;
const QUOTA_REACHED: u16 = 486;

fn relay() -> Relay {
    relay_with_database("users.db", "allocations_per_user = 2")
}

/// Adds a user; the password that was made up.
fn add(relay: &Relay, name: &str, limits: &[&str]) -> String {
    let said = operator(relay, &[&["add", name, "--generate"], limits].concat());
    let password = said.lines().find_map(|line| line.strip_prefix("password: "));
    password.expect(&said).to_owned()
}

/// Allocations that ended with their users.
fn removed(relay: &Relay) -> f64 {
    relay.samples()["turnway_allocations_ended_total{reason=\"user_removed\"}"]
}

#[test]
fn a_new_user_is_let_in_and_one_that_is_removed_is_out_with_all_allocations() {
    let relay = relay();
    let password = add(&relay, "anna", &[]);
    let user = || Client::udp(relay.address).with_credentials("anna", &password);
    let mut client = user();
    within_two_seconds("adding", || client.try_allocate().code().is_none());
    operator(&relay, &["remove", "anna"]);
    within_two_seconds("removing", || removed(&relay) == 1.0);
    relay.await_no_allocations();
    user().try_allocate().expect_code(UNAUTHENTICATED);
}

#[test]
fn a_removed_users_allocations_count_no_more_when_the_user_is_back() {
    let relay = relay();
    let password = add(&relay, "anna", &["--allocations", "1"]);
    let user = |password: &str| Client::udp(relay.address).with_credentials("anna", password);
    let mut client = user(&password);
    within_two_seconds("adding", || client.try_allocate().code().is_none());
    user(&password).try_allocate().expect_code(QUOTA_REACHED);
    operator(&relay, &["remove", "anna"]);
    within_two_seconds("removing", || removed(&relay) == 1.0);
    let password = add(&relay, "anna", &["--allocations", "1"]);
    let mut client = user(&password);
    within_two_seconds("adding again", || client.try_allocate().code().is_none());
    user(&password).try_allocate().expect_code(QUOTA_REACHED);
}

#[test]
fn another_count_holds_for_the_next_allocation() {
    let relay = relay();
    let mut clients = [(); 4].map(|()| Client::udp(relay.address));
    clients[0].allocate();
    clients[1].allocate();
    clients[2].try_allocate().expect_code(QUOTA_REACHED);
    operator(&relay, &["add", USER, "--no-password", "--allocations", "3"]);
    within_two_seconds("raising", || clients[2].try_allocate().code().is_none());
    operator(&relay, &["limit", USER, "--allocations", "1"]);
    // Whoever has more keeps it.
    clients[3].try_allocate().expect_code(QUOTA_REACHED);
    relay.await_samples("who has more", |samples| {
        let refused = samples["turnway_quota_refusals_total{quota=\"user_allocations\"}"];
        refused >= 2.0 && samples["turnway_allocations{transport=\"udp\"}"] == 3.0
    });
}

#[test]
fn a_new_bandwidth_limit_shows_in_what_arrives_on_a_live_allocation_and_so_does_its_end() {
    const BYTES_PER_SECOND: u64 = 125_000;
    let relay = relay();
    let mut talk = Talk::new(&relay, Client::udp(relay.address));
    assert!(rate(&mut talk) > 2.0 * BYTES_PER_SECOND as f64, "more than the limit to come");
    operator(&relay, &["add", USER, "--no-password", "--bandwidth", "1 Mbit/s"]);
    // The burst of 65,507 bytes is spent in that time, too.
    pass(&mut talk, TWO_SECONDS);
    let limited = rate(&mut talk) / BYTES_PER_SECOND as f64;
    assert!((0.9..=1.1).contains(&limited), "{limited:.2} of the limit");
    operator(&relay, &["limit", USER, "--bandwidth", "default"]);
    pass(&mut talk, TWO_SECONDS);
    assert!(rate(&mut talk) > 2.0 * BYTES_PER_SECOND as f64, "not limited any more");
}

/// Bytes per second that arrive while more are sent.
fn rate(talk: &mut Talk) -> f64 {
    let started = Instant::now();
    let bytes = pass(talk, Duration::from_secs(2));
    bytes as f64 / started.elapsed().as_secs_f64()
}

/// Sends for some time; the bytes that arrived.
fn pass(talk: &mut Talk, time: Duration) -> u64 {
    let (started, mut bytes) = (Instant::now(), 0);
    talk.up(|came| {
        bytes += came;
        started.elapsed() >= time
    });
    bytes
}
