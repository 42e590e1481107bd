//! EVEN-PORT and RESERVATION-TOKEN (RFC 8656 sections 7.2, 18.7 and 18.10).

use std::net::SocketAddr;

use turnway_wire::{
    AdditionalAddressFamily, EvenPort, Family, RequestedAddressFamily, ReservationToken,
};

use crate::common::client::{Ask, TestClient};
use crate::common::{EPOCH_S, Settings, World};
use turnway_relay::auth::rest_password;

fn even(reserve_next: bool) -> Ask {
    Ask::allocate().with(EvenPort { reserve_next })
}

fn redeem(token: [u8; 8]) -> Ask {
    Ask::allocate().with(ReservationToken(token))
}

/// A first client with port N and the token of port N + 1.
fn reserved(world: &mut World) -> (TestClient, SocketAddr, [u8; 8]) {
    let mut client = TestClient::new("192.0.2.1:1");
    let response = client.ask(world, &even(true));
    let token = response.token().expect("a token");
    (client, response.relayed()[0], token)
}

#[test]
fn an_even_port_is_even() {
    let mut world = World::plain();
    for port in 1..=40 {
        let mut client = TestClient::new(&format!("192.0.2.1:{port}"));
        let response = client.ask(&mut world, &even(false));
        assert_eq!(response.relayed()[0].port() % 2, 0);
        assert_eq!(response.token(), None);
    }
    assert_eq!(world.pool.counts().reserved, 0);
}

#[test]
fn the_next_port_is_reserved_and_found_by_its_token() {
    let mut world = World::plain();
    let (_, even, token) = reserved(&mut world);
    assert_eq!(even.port() % 2, 0);
    assert_eq!(world.pool.counts().reserved, 1);
    // Over another transport, from another address.
    let response = TestClient::tcp().ask(&mut world, &redeem(token));
    assert_eq!(response.code(), 0);
    assert_eq!(response.relayed(), [SocketAddr::new(even.ip(), even.port() + 1)]);
    assert_eq!(world.pool.counts().reserved, 0);
    world.pass(600);
    world.assert_empty();
}

#[test]
fn a_token_is_good_once() {
    let mut world = World::plain();
    let (_, _, token) = reserved(&mut world);
    assert_eq!(TestClient::udp().ask(&mut world, &redeem(token)).code(), 0);
    assert_eq!(TestClient::tcp().ask(&mut world, &redeem(token)).code(), 508);
}

#[test]
fn a_token_is_its_users_own() {
    let mut world = World::plain();
    let (_, _, token) = reserved(&mut world);
    let mut bob = TestClient::new("192.0.2.2:1").of("bob", "hunter2");
    assert_eq!(bob.ask(&mut world, &redeem(token)).code(), 508);
    // Nor has bob spoilt it.
    assert_eq!(TestClient::udp().ask(&mut world, &redeem(token)).code(), 0);
}

#[test]
fn a_reservation_is_held_for_30_seconds() {
    //= rfc8656#section-7.2
    //= type=test
    //# The server MUST hold this reservation for at least 30 seconds and MAY choose to hold longer
    let mut world = World::plain();
    let (_, _, token) = reserved(&mut world);
    world.pass(29);
    assert_eq!(TestClient::udp().ask(&mut world, &redeem(token)).code(), 0);

    let mut world = World::plain();
    let (mut first, _, token) = reserved(&mut world);
    world.pass(30);
    assert_eq!(world.pool.counts().reserved, 0);
    assert_eq!(TestClient::udp().ask(&mut world, &redeem(token)).code(), 508);
    assert_eq!(first.ask(&mut world, &Ask::refresh(0)).code(), 0);
    world.assert_empty();
}

#[test]
fn a_reservation_outlives_the_allocation_that_made_it() {
    let mut world = World::plain();
    let (mut first, _, token) = reserved(&mut world);
    assert_eq!(first.ask(&mut world, &Ask::refresh(0)).code(), 0);
    assert_eq!(world.pool.counts().reserved, 1);
    assert_eq!(TestClient::udp().ask(&mut world, &redeem(token)).code(), 0);
}

#[test]
fn a_time_limited_user_may_have_renewed_the_name_between() {
    let secret = "a shared secret";
    let settings = Settings { rest_secrets: vec![secret], ..Settings::default() };
    let mut world = World::new(&settings);
    let named = |port: u16, at: u64| {
        let name = format!("{at}:carol");
        let password = rest_password(secret.as_bytes(), name.as_bytes());
        TestClient::new(&format!("192.0.2.1:{port}")).of(&name, &password)
    };
    let token = named(1, EPOCH_S + 10).ask(&mut world, &even(true)).token();
    let ask = redeem(token.unwrap());
    assert_eq!(named(2, EPOCH_S + 999).ask(&mut world, &ask).code(), 0);
}

#[test]
fn a_token_says_already_which_port() {
    //= rfc8656#section-7.2
    //= type=test
    //# If yes, and the request also contains an EVEN-PORT or REQUESTED-ADDRESS-FAMILY or
    //# ADDITIONAL-ADDRESS-FAMILY attribute, the server rejects the request with a 400 (Bad
    //# Request) error.
    let mut world = World::plain();
    let (_, _, token) = reserved(&mut world);
    let mut client = TestClient::udp();
    let family = Some(Family::V4);
    let contradictions = [
        redeem(token).with(EvenPort { reserve_next: false }),
        redeem(token).with(RequestedAddressFamily { family }),
        redeem(token).with(AdditionalAddressFamily { family: Some(Family::V6) }),
    ];
    for ask in &contradictions {
        assert_eq!(client.ask(&mut world, ask).code(), 400);
    }
    assert_eq!(client.ask(&mut world, &redeem(token)).code(), 0);
}

#[test]
fn a_retransmission_gets_the_same_token() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let challenge = client.ask_once(&mut world, &even(true));
    client.learn(&challenge);
    let request = client.request(&even(true));
    let first = client.exchange(&mut world, &request).unwrap();
    let again = client.exchange(&mut world, &request).unwrap();
    assert!(first.token().is_some());
    assert_eq!(first.bytes, again.bytes);
    assert_eq!(world.pool.counts().reserved, 1);
}

#[test]
fn where_no_pair_is_left_even_port_is_refused() {
    let settings = Settings { ports: (50_001, 50_002), ..Settings::default() };
    let mut world = World::new(&settings);
    let mut client = TestClient::udp();
    assert_eq!(client.ask(&mut world, &even(true)).code(), 508);
    let response = client.ask(&mut world, &even(false));
    assert_eq!(response.relayed()[0].port(), 50_002);
    let mut second = TestClient::tcp();
    assert_eq!(second.ask(&mut world, &even(false)).code(), 508);
    assert_eq!(second.allocate(&mut world).port(), 50_001);
}
