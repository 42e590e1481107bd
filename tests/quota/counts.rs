//! Allocations at a time: of a user, of an address prefix, of the realm.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Barrier;
use std::thread;

use super::{relay, rest_client};
use crate::common::client::Client;
use crate::common::{Relay, Setup};

const QUOTA_REACHED: u16 = 486;

fn await_refusals(relay: &Relay, quota: &str, count: usize) {
    let name = format!("turnway_quota_refusals_total{{quota=\"{quota}\"}}");
    relay.await_samples("the refusals", |samples| samples[&name] == count as f64);
}

/// Ends the allocations of clients.
fn delete(clients: &mut [Client]) {
    for client in clients {
        client.refresh(0).expect_success();
    }
}

#[test]
fn no_more_than_the_limit_get_an_allocation_however_many_race_on_two_shards() {
    const LIMIT: usize = 5;
    const RACERS: usize = 12;
    const ROUNDS: usize = 8;
    let mut relay = relay(&format!("allocations_per_user = {LIMIT}"));
    let address = relay.address;
    for _ in 0..ROUNDS {
        let start = Barrier::new(RACERS);
        let race = || {
            let mut client = Client::udp(address);
            client.binding();
            start.wait();
            let code = client.try_allocate().code();
            (client, code)
        };
        let finished: Vec<(Client, Option<u16>)> = thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().expect("an answer")).collect()
        });
        let (winners, losers): (Vec<_>, Vec<_>) =
            finished.into_iter().partition(|(_, code)| code.is_none());
        assert_eq!(winners.len(), LIMIT);
        assert!(losers.iter().all(|(_, code)| *code == Some(QUOTA_REACHED)));
        let mut clients: Vec<Client> = winners.into_iter().map(|(client, _)| client).collect();
        delete(&mut clients);
    }
    await_refusals(&relay, "user_allocations", ROUNDS * (RACERS - LIMIT));
    let started = |line: &&String| line.contains("allocation started");
    relay.await_samples("all that started", |samples| {
        samples["turnway_allocations_started_total"] == (ROUNDS * LIMIT) as f64
    });
    let shards: HashSet<u64> = relay.log().iter().filter(started).map(|line| shard(line)).collect();
    assert_eq!(shards, HashSet::from([0, 1]), "the clients were to be on both shards");
}

/// The shard that a line about an allocation is of.
fn shard(line: &str) -> u64 {
    let id = line.split_whitespace().find_map(|word| word.strip_prefix("id="));
    id.and_then(|id| id.parse::<u64>().ok()).expect("a session number") >> 48
}

#[test]
fn clients_of_one_prefix_share_its_allocations_whoever_they_are() {
    let relay = relay("allocations_per_prefix = 2\nipv4_prefix = 24");
    let from = |ip: &str, name: &str| {
        let socket = UdpSocket::bind((ip, 0)).expect("loopback has addresses");
        rest_client(Client::udp_from(socket, relay.address), name, 600)
    };
    let mut first = from("127.252.1.1", "anna");
    first.allocate();
    from("127.252.1.2", "berta").allocate();
    from("127.252.1.255", "clara").try_allocate().expect_code(QUOTA_REACHED);
    from("127.252.2.1", "clara").allocate();
    await_refusals(&relay, "prefix_allocations", 1);
    first.refresh(0).expect_success();
    from("127.252.1.3", "dora").allocate();
}

#[test]
fn all_users_of_the_realm_share_its_allocations() {
    let relay = relay("allocations_per_realm = 2");
    let user = |name: &str| rest_client(Client::udp(relay.address), name, 600);
    let mut first = user("anna");
    first.allocate();
    user("berta").allocate();
    user("clara").try_allocate().expect_code(QUOTA_REACHED);
    await_refusals(&relay, "realm_allocations", 1);
    first.refresh(0).expect_success();
    user("clara").allocate();
}

#[test]
fn rotating_time_limited_names_are_one_user() {
    let relay = relay("allocations_per_user = 2");
    let user = |name: &str, seconds| rest_client(Client::udp(relay.address), name, seconds);
    user("anna", 600).allocate();
    user("anna", 700).allocate();
    user("anna", 800).try_allocate().expect_code(QUOTA_REACHED);
    user("berta", 800).allocate();
    assert_eq!(relay.samples()["turnway_users"], 2.0);
}

#[test]
fn a_deleted_allocation_makes_room_for_another() {
    let relay = relay("allocations_per_user = 1");
    let mut first = Client::udp(relay.address);
    first.allocate();
    let mut second = Client::udp(relay.address);
    second.try_allocate().expect_code(QUOTA_REACHED);
    first.refresh(0).expect_success();
    second.allocate();
}

#[test]
fn a_closed_connection_makes_room_for_another() {
    let relay = relay("allocations_per_user = 1");
    let mut first = Client::tcp(relay.address);
    first.allocate();
    let mut second = Client::tcp(relay.address);
    second.try_allocate().expect_code(QUOTA_REACHED);
    drop(first);
    relay.await_samples("the end of the first", |samples| {
        samples["turnway_allocations_ended_total{reason=\"disconnected\"}"] == 1.0
    });
    second.allocate();
}

#[test]
fn an_allocation_that_fails_counts_for_nobody() {
    const INSUFFICIENT_CAPACITY: u16 = 508;
    let own = crate::common::own_address();
    let relay = Relay::start(Setup {
        listen: vec![(own, 3478).into()],
        relay: Some(format!("addresses = [\"{own}\"]\nports = \"50000-50001\"")),
        extra: "[quota]\nallocations_per_user = 1\n".to_owned(),
        ..Setup::default()
    });
    let mut first = Client::udp(relay.address);
    first.allocate();
    rest_client(Client::udp(relay.address), "anna", 600).allocate();
    let mut other = rest_client(Client::udp(relay.address), "berta", 600);
    other.try_allocate().expect_code(INSUFFICIENT_CAPACITY);
    first.refresh(0).expect_success();
    other.allocate();
}
