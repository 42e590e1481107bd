//! Authentication as a client sees it (RFC 8489 section 9.2), through the door of all requests.
//! The rules one by one are tested in the module `auth` itself.

use turnway_relay::auth::rest_password;
use turnway_relay::outcome::AuthFailure;
use turnway_relay::{Outcome, Record, Request};
use turnway_wire::{AttributeType, Method};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{EPOCH_S, PEER, Settings, World};

const SECRET: &str = "a shared secret";

fn rest_settings() -> Settings {
    Settings {
        users: Vec::new(),
        rest_secrets: vec!["the one before", SECRET],
        ..Settings::default()
    }
}

fn carol(expires: u64) -> TestClient {
    let name = format!("{expires}:carol");
    let password = rest_password(SECRET.as_bytes(), name.as_bytes());
    TestClient::udp().of(&name, &password)
}

#[test]
fn old_and_modern_clients_are_served() {
    let mut world = World::plain();
    let mut old = TestClient::udp();
    old.allocate(&mut world);
    let mut modern = TestClient::tcp();
    modern.modern = true;
    let response = modern.ask(&mut world, &Ask::allocate());
    assert_eq!(response.code(), 0);
    let last = response.attributes().last().copied();
    assert_eq!(last, Some(AttributeType::MESSAGE_INTEGRITY_SHA256));
    modern.bind(&mut world, 0x4000, PEER);
}

#[test]
fn a_challenge_has_what_a_client_needs_and_nothing_more() {
    let mut world = World::plain();
    let challenge = TestClient::udp().ask_once(&mut world, &Ask::allocate());
    let expected = [
        AttributeType::ERROR_CODE,
        AttributeType::REALM,
        AttributeType::NONCE,
        AttributeType::PASSWORD_ALGORITHMS,
    ];
    assert_eq!(challenge.attributes(), expected);
    let message = challenge.message();
    assert!(message.raw(AttributeType::NONCE).unwrap().len() < 64);
}

#[test]
fn a_challenge_never_is_three_times_the_smallest_allocate() {
    for realm_len in [1, 11, 40, 52, 53, 64] {
        let settings = Settings { realm: "r".repeat(realm_len), ..Settings::default() };
        let mut world = World::new(&settings);
        for (address, headers) in [("192.0.2.1:1", 28), ("[2001:db8:1::1]:1", 48)] {
            for fingerprint in [false, true] {
                let mut client = TestClient::new(address);
                client.fingerprint = fingerprint;
                let request = client.request(&Ask::allocate());
                let answer = client.exchange(&mut world, &request).unwrap();
                assert_eq!(answer.code(), 401, "or nobody could ever get in");
                let (asked, told) = (request.len() + headers, answer.bytes.len() + headers);
                assert!(told <= 3 * asked, "{told} for {asked}");
                client.learn(&answer);
                assert_eq!(client.ask_once(&mut world, &Ask::allocate()).code(), 0);
                client.ask_once(&mut world, &Ask::refresh(0));
            }
        }
    }
}

#[test]
fn the_emptiest_request_is_not_amplified_either() {
    let settings = Settings { realm: "r".repeat(127), ..Settings::default() };
    let mut world = World::new(&settings);
    for method in [Method::ALLOCATE, Method::REFRESH, Method::CHANNEL_BIND] {
        let mut client = TestClient::udp();
        let request = client.request(&Ask::new(method));
        let answer = client.exchange(&mut world, &request).unwrap();
        assert!(answer.bytes.len() + 28 <= 3 * (request.len() + 28));
    }
}

#[test]
fn wrong_credentials_are_refused_and_told_to_the_operator() {
    let mut world = World::plain();
    let mut wrong = TestClient::udp().of("alice", "guess");
    assert_eq!(wrong.ask(&mut world, &Ask::allocate()).code(), 401);
    let mut unknown = TestClient::udp().of("mallory", "guess");
    assert_eq!(unknown.ask(&mut world, &Ask::allocate()).code(), 401);
    let causes: Vec<_> = world.records.iter().map(cause).collect();
    assert_eq!(causes, [AuthFailure::WrongKey, AuthFailure::UnknownUser]);
    let stats = world.stats();
    assert_eq!(stats.auth_failures, [1, 1, 0, 0, 0, 0]);
    assert_eq!(stats.count(Request::Allocate, Outcome::Unauthenticated), 4);
    world.assert_empty();
}

fn cause(record: &Record) -> AuthFailure {
    match record {
        Record::AuthFailed(failed) => failed.cause,
        Record::Started(_) | Record::Ended(_) | Record::VolumeSpent(_) | Record::Moved(_) => {
            panic!("{record:?}")
        }
    }
}

#[test]
fn a_flood_of_wrong_guesses_is_not_a_flood_of_log_lines() {
    let mut world = World::plain();
    let mut client = TestClient::udp().of("alice", "guess");
    client.ask(&mut world, &Ask::allocate());
    for _ in 0..99 {
        client.ask_once(&mut world, &Ask::allocate());
    }
    assert_eq!(world.records.len(), 5);
    world.pass(1);
    client.ask_once(&mut world, &Ask::allocate());
    let Some(Record::AuthFailed(failed)) = world.records.last() else {
        panic!("{:?}", world.records)
    };
    assert_eq!(failed.suppressed, 95);
    assert_eq!(world.stats().auth_failures[1], 101);
}

#[test]
fn a_nonce_is_good_for_its_lifetime_and_its_client() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    client.ask(&mut world, &Ask::refresh(3600));
    world.pass(3590);
    assert_eq!(client.ask_once(&mut world, &Ask::refresh(3600)).code(), 0);
    world.pass(11);
    assert_eq!(client.ask_once(&mut world, &Ask::refresh(3600)).code(), 438);
    assert_eq!(client.ask(&mut world, &Ask::refresh(3600)).code(), 0);

    let mut thief = TestClient::new("192.0.2.66:1");
    (thief.realm, thief.nonce) = (client.realm.clone(), client.nonce.clone());
    assert_eq!(thief.ask_once(&mut world, &Ask::allocate()).code(), 438);
}

#[test]
fn a_request_without_the_other_half_is_bad() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let challenge = client.ask_once(&mut world, &Ask::allocate());
    client.learn(&challenge);
    client.realm.clear();
    let mut request = client.request(&Ask::allocate());
    assert_eq!(client.exchange(&mut world, &request).unwrap().code(), 401);
    // Without REALM altogether. (Its type is made one that may be ignored.)
    let at = request.windows(4).position(|w| w == [0, 0x14, 0, 0]).unwrap();
    request[at] = 0xC0;
    assert_eq!(client.exchange(&mut world, &request).unwrap().code(), 400);
}

#[test]
fn credentials_are_looked_at_before_attributes() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let ask = Ask::allocate().with(Raw::<0x7777>(vec![]));
    assert_eq!(client.ask_once(&mut world, &ask).code(), 401);
    assert_eq!(client.ask(&mut world, &ask).code(), 420);
}

#[test]
fn what_follows_the_signature_is_not_there() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let challenge = client.ask_once(&mut world, &Ask::allocate());
    client.learn(&challenge);
    let mut request = client.request(&Ask::new(Method::ALLOCATE));
    // REQUESTED-TRANSPORT and an attribute nobody understands.
    request.extend_from_slice(&[0x00, 0x19, 0, 4, 17, 0, 0, 0, 0x77, 0x77, 0, 0]);
    let len = (request.len() - 20) as u16;
    request[2..4].copy_from_slice(&len.to_be_bytes());
    assert_eq!(client.exchange(&mut world, &request).unwrap().code(), 400);
}

#[test]
fn nothing_is_kept_of_who_has_not_authenticated() {
    let mut world = World::plain();
    for port in 1..=2000 {
        let mut client = TestClient::new(&format!("192.0.2.1:{port}"));
        assert_eq!(client.ask_once(&mut world, &Ask::allocate()).code(), 401);
    }
    world.assert_empty();
    assert_eq!(world.servers[0].allocations(), 0);
}

#[test]
fn time_limited_credentials_end_and_may_still_say_goodbye() {
    let mut world = World::new(&rest_settings());
    let mut client = carol(EPOCH_S + 100);
    client.allocate(&mut world);
    world.pass(99);
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 0);
    world.pass(1);
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 401);
    assert_eq!(client.ask(&mut world, &Ask::create_permission(&[PEER])).code(), 401);
    let expired = world.records.last().map(cause);
    assert_eq!(expired, Some(AuthFailure::Expired { by_s: 0 }));
    assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
    world.assert_empty();
    assert_eq!(client.ask(&mut world, &Ask::allocate()).code(), 401);
}

#[test]
fn the_end_of_credentials_need_not_be_enforced_on_what_exists() {
    let settings = Settings { enforce_expiry: false, ..rest_settings() };
    let mut world = World::new(&settings);
    let mut client = carol(EPOCH_S + 100);
    client.allocate(&mut world);
    world.pass(500);
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 0);
    let mut late = carol(EPOCH_S + 100);
    late.at.tuple.client.set_port(7);
    assert_eq!(late.ask(&mut world, &Ask::allocate()).code(), 401);
}
