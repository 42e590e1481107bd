//! Clients that are sent to another server (RFC 8489 section 10).

use std::net::SocketAddr;

use turnway_relay::alternate::{Alternate, Selection, When};
use turnway_relay::{Event, Outcome, Request, Transport};
use turnway_wire::{AlternateDomain, AlternateServer, AttributeType, ErrorCode};

use crate::common::client::{Ask, Response, TestClient};
use crate::common::{Settings, World, addr};

const V4: &str = "198.51.100.9:3478";
const V6: &str = "[2001:db8:a::9]:3478";

fn settings(when: When) -> Settings {
    let alternate = Alternate {
        addresses: vec![addr(V6), addr(V4)],
        domain: Some("other.example.org".into()),
        transports: vec![Transport::Udp],
    };
    Settings { alternates: Selection::new(when, vec![alternate]), ..Settings::default() }
}

/// What a response says about other servers: the first of them, and their number.
fn elsewhere(response: &Response) -> (Option<SocketAddr>, usize) {
    let first = response.message().get::<AlternateServer>().unwrap();
    let count =
        response.attributes().iter().filter(|ty| **ty == AttributeType::ALTERNATE_SERVER).count();
    (first.map(|server| server.0), count)
}

#[test]
fn a_client_is_sent_to_a_server_of_its_family() {
    let mut world = World::new(&settings(When::Always));
    for (from, first) in [("192.0.2.1:40000", V4), ("[2001:db8:1::1]:40000", V6)] {
        let mut client = TestClient::new(from);
        // The test client believes nothing but what is signed.
        //= rfc8656#section-7.2
        //= type=test
        //# Also, at any point, the server MAY choose to reject the request
        //# with a 300 (Try Alternate) error if it wishes to redirect the
        //# client to a different server.
        let response = client.ask(&mut world, &Ask::allocate());
        assert_eq!(response.code(), 300);
        let message = response.message();
        assert_eq!(message.get::<ErrorCode<'_>>().unwrap().unwrap().reason, b"Try Alternate");
        //= rfc8489#section-10
        //= type=test
        //# The server MUST include at least
        //# one ALTERNATE-SERVER attribute in the error response, which MUST
        //# contain an IP address of the same address family as the source IP
        //# address of the request message.
        //= rfc8489#section-10
        //= type=test
        //# The server SHOULD include an
        //# additional ALTERNATE-SERVER attribute, after the mandatory one, that
        //# contains an IP address of the address family other than the source IP
        //# address of the request message.
        assert_eq!(elsewhere(&response), (Some(addr(first)), 2));
        //= rfc8489#section-10
        //= type=test
        //# If the transaction uses TLS or DTLS, if the transaction is
        //# authenticated by a MESSAGE-INTEGRITY-SHA256 attribute, and if the
        //# server wants to redirect to a server that uses a different
        //# certificate, then it MUST include an ALTERNATE-DOMAIN attribute
        //# containing the name inside the subjectAltName of that certificate.
        let domain = message.get::<AlternateDomain<'_>>().unwrap().unwrap();
        assert_eq!(domain.0, b"other.example.org");
    }
    assert_eq!(world.stats().count(Request::Allocate, Outcome::TryAlternate), 2);
    world.assert_empty();
}

#[test]
fn nobody_is_sent_anywhere_before_he_has_shown_who_he_is() {
    let mut world = World::new(&settings(When::Always));
    let mut client = TestClient::udp().of("alice", "guess");
    assert_eq!(client.ask(&mut world, &Ask::allocate()).code(), 401);
}

#[test]
fn a_transport_that_the_other_server_lacks_is_served_here() {
    let mut world = World::new(&settings(When::Always));
    TestClient::tcp().allocate(&mut world);
}

#[test]
fn who_is_here_already_stays() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    world.configure(&settings(When::Always));
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 0);
    client.bind(&mut world, 0x4000, "198.51.100.1:5000");
}

#[test]
fn a_busy_server_names_another_only_when_it_has_nothing_left() {
    let mut world = World::new(&Settings { cap: 1, ..settings(When::Busy) });
    TestClient::udp().allocate(&mut world);
    let mut second = TestClient::new("192.0.2.2:40000");
    let response = second.ask(&mut world, &Ask::allocate());
    assert_eq!((response.code(), elsewhere(&response).0), (300, Some(addr(V4))));
    let mut of_tcp = TestClient::tcp();
    assert_eq!(of_tcp.ask(&mut world, &Ask::allocate()).code(), 508, "no server takes it");
}

#[test]
fn a_server_without_ports_names_another() {
    let mut world = World::new(&Settings { ports: (50_000, 50_001), ..settings(When::Busy) });
    TestClient::new("192.0.2.1:1").allocate(&mut world);
    TestClient::new("192.0.2.2:1").allocate(&mut world);
    let mut third = TestClient::new("192.0.2.3:1");
    assert_eq!(third.ask(&mut world, &Ask::allocate()).code(), 300);
    assert_eq!(world.servers[0].allocations(), 2);
}

#[test]
fn a_server_that_drains_names_another() {
    let mut world = World::new(&settings(When::Busy));
    world.handle(0, Event::Drain);
    let mut client = TestClient::udp();
    assert_eq!(client.ask(&mut world, &Ask::allocate()).code(), 300);
}
