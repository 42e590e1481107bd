//! Several realms on one server: which one a client is asked for, and what is whose.

use turnway_relay::quota::{RealmQuotas, UserLimits};
use turnway_relay::{Outcome, Quotas, RealmId, Reason, Request};
use turnway_wire::{AttributeType, Method};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{Other, PEER, Settings, World};

const ORIGIN: &str = "https://app.example.net";
const SECOND: RealmId = RealmId(1);
const THIRD: RealmId = RealmId(2);

/// Alice is a user of each of three realms, with other passwords.
fn settings() -> Settings {
    let second = Other {
        name: "second",
        users: vec![("alice", "second sesame")],
        deny: vec!["198.51.100.1/32"],
        origins: vec![ORIGIN],
    };
    let third = Other { name: "third", users: vec![("alice", "third sesame")], ..Other::default() };
    let named = |name: &str| RealmQuotas { name: name.as_bytes().into(), ..Default::default() };
    Settings {
        realms: vec![second, third],
        quotas: Quotas { others: vec![named("second"), named("third")], ..Quotas::default() },
        ..Settings::default()
    }
}

fn origin() -> Raw<0x802F> {
    Raw(ORIGIN.into())
}

fn alice(password: &str) -> TestClient {
    TestClient::udp().of("alice", password)
}

/// Somebody who comes by a way that belongs to a realm.
fn by_way_of(realm: RealmId, password: &str) -> TestClient {
    let mut client = alice(password);
    client.at.realm = realm;
    client
}

fn asked_for(world: &mut World, client: &mut TestClient, ask: &Ask) -> String {
    let challenge = client.ask_once(world, ask);
    let realm = challenge.message().raw(AttributeType::REALM).map(<[u8]>::to_vec);
    String::from_utf8(realm.unwrap_or_default()).unwrap()
}

#[test]
fn origin_counts_more_than_the_way_and_the_way_more_than_nothing() {
    let mut world = World::new(&settings());
    let plain = Ask::allocate();
    let with_origin = Ask::allocate().with(origin());
    let stranger = Ask::allocate().with(Raw::<0x802F>(b"https://elsewhere.example".to_vec()));
    assert_eq!(asked_for(&mut world, &mut alice(""), &plain), "example.org");
    assert_eq!(asked_for(&mut world, &mut alice(""), &with_origin), "second");
    assert_eq!(asked_for(&mut world, &mut alice(""), &stranger), "example.org");
    let several =
        Ask::allocate().with(Raw::<0x802F>(b"ftp://elsewhere.example".to_vec())).with(origin());
    assert_eq!(asked_for(&mut world, &mut alice(""), &several), "second");
    let mut third = by_way_of(THIRD, "");
    assert_eq!(asked_for(&mut world, &mut third, &plain), "third");
    assert_eq!(asked_for(&mut world, &mut third, &with_origin), "second");
    assert_eq!(asked_for(&mut world, &mut third, &stranger), "third");
}

#[test]
fn a_realm_has_users_and_peers_of_its_own() {
    let mut world = World::new(&settings());
    let mut wrong = by_way_of(SECOND, "sesame");
    assert_eq!(wrong.ask(&mut world, &Ask::allocate()).code(), 401);
    let mut second = by_way_of(SECOND, "second sesame");
    second.allocate(&mut world);
    assert_eq!(second.ask(&mut world, &Ask::create_permission(&[PEER])).code(), 403);
    assert_eq!(second.ask(&mut world, &Ask::channel_bind(0x4000, PEER)).code(), 403);
    let mut first = TestClient::new("192.0.2.9:1");
    first.allocate(&mut world);
    first.bind(&mut world, 0x4000, PEER);
}

#[test]
fn the_nonce_of_a_realm_pins_it_though_origin_is_not_repeated() {
    let mut world = World::new(&settings());
    let mut client = alice("second sesame");
    let challenge = client.ask_once(&mut world, &Ask::allocate().with(origin()));
    client.learn(&challenge);
    assert_eq!(client.ask_once(&mut world, &Ask::allocate()).code(), 0);
    client.permit(&mut world, &["198.51.100.2:1"]);
    // Also when the nonce is too old, and with it the proof.
    world.pass(500);
    world.now.unix_s += 4_000;
    let stale = client.ask_once(&mut world, &Ask::refresh(600));
    assert_eq!(stale.code(), 438);
    assert_eq!(stale.message().raw(AttributeType::REALM), Some(b"second".as_slice()));
    client.learn(&stale);
    assert_eq!(client.ask_once(&mut world, &Ask::refresh(600)).code(), 0);
}

#[test]
fn nobody_gets_a_nonce_of_a_realm_by_naming_it() {
    let mut world = World::new(&settings());
    let mut client = alice("second sesame");
    let challenge = client.ask_once(&mut world, &Ask::allocate());
    client.learn(&challenge);
    client.realm = b"second".to_vec();
    let answer = client.ask_once(&mut world, &Ask::allocate());
    assert_eq!(answer.code(), 438);
    assert_eq!(answer.message().raw(AttributeType::REALM), Some(b"example.org".as_slice()));
    client.learn(&answer);
    assert_eq!(client.ask_once(&mut world, &Ask::allocate()).code(), 401);
    world.assert_empty();
}

#[test]
fn another_realms_credentials_are_wrong_for_an_allocation() {
    let mut world = World::new(&settings());
    let mut first = TestClient::udp();
    first.allocate(&mut world);
    let mut second = alice("second sesame");
    let challenge = second.ask_once(&mut world, &Ask::new(Method::REFRESH).with(origin()));
    second.learn(&challenge);
    //= rfc8656#section-5
    //= type=test
    //# then the request MUST be rejected with a 441 (Wrong Credentials) error.
    assert_eq!(second.ask_once(&mut world, &Ask::refresh(0)).code(), 441);
    assert_eq!(second.ask_once(&mut world, &Ask::allocate()).code(), 437);
    assert_eq!(first.ask_once(&mut world, &Ask::refresh(0)).code(), 0);
}

#[test]
fn the_same_name_in_two_realms_is_two_accounts() {
    let one = UserLimits { allocations: Some(1), ..UserLimits::default() };
    let mut settings = settings();
    settings.quotas.default = one;
    settings.quotas.others[0].default = one;
    let mut world = World::new(&settings);
    TestClient::new("192.0.2.1:1").allocate(&mut world);
    let mut second = by_way_of(SECOND, "second sesame");
    second.allocate(&mut world);
    assert_eq!(world.ledger.users(), 2);
    assert!(world.ledger.user(b"alice\0second", 0).is_some());
    let mut again = TestClient::new("192.0.2.1:2").of("alice", "second sesame");
    again.at.realm = SECOND;
    assert_eq!(again.ask(&mut world, &Ask::allocate()).code(), 486);
    // The third realm has no limits.
    for port in 10..13 {
        let mut third = TestClient::new(&format!("192.0.2.3:{port}")).of("alice", "third sesame");
        third.at.realm = THIRD;
        third.allocate(&mut world);
    }
}

#[test]
fn each_realm_has_limits_of_its_own() {
    let mut settings = settings();
    settings.quotas.others[0].allocations = Some(1);
    let narrow = turnway_relay::quota::Bandwidth { bytes_per_second: 1, burst_bytes: 2_000 };
    settings.quotas.others[1].bandwidth = Some(narrow);
    let mut world = World::new(&settings);
    let mut second = by_way_of(SECOND, "second sesame");
    second.allocate(&mut world);
    let mut full = TestClient::new("192.0.2.1:2").of("alice", "second sesame");
    full.at.realm = SECOND;
    assert_eq!(full.ask(&mut world, &Ask::allocate()).code(), 486);
    second.ask(&mut world, &Ask::refresh(0));
    assert_eq!(world.ledger.allocations_of(SECOND), 0);
    full.allocate(&mut world);
    assert_eq!(world.ledger.allocations_of(SECOND), 1);
    let mut third = TestClient::new("192.0.2.3:1").of("alice", "third sesame");
    third.at.realm = THIRD;
    third.allocate(&mut world);
    third.bind(&mut world, 0x4000, PEER);
    let mut first = TestClient::new("192.0.2.4:1");
    first.allocate(&mut world);
    first.bind(&mut world, 0x4000, PEER);
    let datagram = [0; 1_500];
    assert!(third.channel_data(&mut world, 0x4000, &datagram).is_ok());
    let over = third.channel_data(&mut world, 0x4000, &datagram);
    assert_eq!(over, Err(Reason::RealmBandwidth));
    for _ in 0..10 {
        assert!(first.channel_data(&mut world, 0x4000, &datagram).is_ok());
    }
}

#[test]
fn a_new_configuration_judges_each_realm_by_itself() {
    let mut world = World::new(&settings());
    TestClient::udp().allocate(&mut world);
    let mut second = TestClient::new("192.0.2.1:2").of("alice", "second sesame");
    second.at.realm = SECOND;
    second.allocate(&mut world);
    let mut without = settings();
    without.realms[0].users = vec![("bob", "x")];
    world.configure(&without);
    let allocations = world.servers[0].allocations();
    assert_eq!(allocations, 1, "the second realm has no alice any more");
    let refused = second.ask_once(&mut world, &Ask::refresh(600));
    assert_eq!(refused.code(), 401);
    assert_eq!(world.stats().count(Request::Refresh, Outcome::Unauthenticated), 1);
}
