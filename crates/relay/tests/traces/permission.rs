//! CreatePermission (RFC 8656 sections 9 and 10.2).

use turnway_relay::Reason;
use turnway_relay::limits::Limits;
use turnway_wire::{Method, XorPeerAddress};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{DENIED, PEER, PEER_V6, Settings, World, addr};

const SECOND: &str = "198.51.100.2:5000";

#[test]
fn a_permission_is_for_an_address_not_for_a_port() {
    //= rfc8656#section-9
    //= type=test
    //# If no match is found, relaying is not permitted and the server silently discards the UDP
    //# datagram.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    let early = world.peer_sends(relay, addr(PEER), b"early");
    assert_eq!(early.unwrap_err(), Reason::NoPermission);
    // The port of XOR-PEER-ADDRESS is ignored, even if it is 0.
    client.permit(&mut world, &["198.51.100.1:0"]);
    assert!(world.peer_sends(relay, addr(PEER), b"x").is_ok());
    assert!(world.peer_sends(relay, addr("198.51.100.1:9"), b"x").is_ok());
    assert!(client.send(&mut world, PEER, b"x").is_ok());
    let other = world.peer_sends(relay, addr(SECOND), b"x");
    assert_eq!(other.unwrap_err(), Reason::NoPermission);
    let stats = world.stats();
    assert_eq!(stats.peer_drops[Reason::NoPermission.index()], 2);
}

#[test]
fn a_permission_lasts_300_seconds() {
    //= rfc8656#section-9
    //= type=test
    //# The Permission Lifetime MUST be 300 seconds (= 5 minutes).
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.permit(&mut world, &[PEER]);
    world.pass(299);
    assert!(client.send(&mut world, PEER, b"x").is_ok());
    assert!(world.peer_sends(relay, addr(PEER), b"x").is_ok());
    // Traffic refreshes nothing. That the timer is late changes nothing either.
    world.pass_unnoticed(1);
    assert_eq!(client.send(&mut world, PEER, b"x"), Err(Reason::NoPermission));
    let late = world.peer_sends(relay, addr(PEER), b"x");
    assert_eq!(late.unwrap_err(), Reason::NoPermission);
    assert_eq!(world.stats().permissions, 1);
    world.expire();
    assert_eq!(world.stats().permissions, 0);
}

#[test]
fn a_second_request_refreshes_the_permission() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    client.permit(&mut world, &[PEER]);
    world.pass(200);
    client.permit(&mut world, &[PEER, SECOND]);
    assert_eq!(world.stats().permissions, 2);
    world.pass(299);
    assert!(client.send(&mut world, PEER, b"x").is_ok());
    world.pass(1);
    assert_eq!(world.stats().permissions, 0);
}

#[test]
fn a_request_without_a_peer_is_bad() {
    //= rfc8656#section-10.2
    //= type=test
    //# The CreatePermission request MUST contain at least one XOR-PEER-ADDRESS attribute and MAY
    //# contain multiple such attributes.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    let none = Ask::new(Method::CREATE_PERMISSION);
    assert_eq!(client.ask(&mut world, &none).code(), 400);
    client.permit(&mut world, &[PEER, SECOND, "198.51.100.3:1"]);
    assert_eq!(world.stats().permissions, 3);
}

#[test]
fn one_invalid_peer_makes_the_whole_request_bad() {
    //= rfc8656#section-10.2
    //= type=test
    //# If no such attribute exists, or if any of these attributes are invalid, then a 400 (Bad
    //# Request) error is returned.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    // Before anything else that is wrong with the request.
    let ask = Ask::create_permission(&[PEER, DENIED]).with(Raw::<0x0012>(vec![0, 9, 0, 0]));
    assert_eq!(client.ask(&mut world, &ask).code(), 400);
    assert_eq!(world.stats().permissions, 0);
}

#[test]
fn a_denied_peer_is_forbidden() {
    //= rfc8656#section-10.2
    //= type=test
    //# The server MAY impose restrictions on the IP address allowed in the XOR-PEER-ADDRESS
    //# attribute; if a value is not allowed, the server rejects the request with a 403
    //# (Forbidden) error.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    let denied = [
        DENIED,
        "127.0.0.1:80",
        "0.0.0.0:80",
        "169.254.169.254:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "192.168.1.1:80",
        "100.64.0.1:80",
        // The same written as IPv6: it is an IPv4 address nevertheless.
        "[::ffff:10.0.0.1]:80",
    ];
    for peer in denied {
        let ask = Ask::create_permission(&[peer]);
        assert_eq!(client.ask(&mut world, &ask).code(), 403, "{peer}");
    }
    assert_eq!(world.stats().permissions, 0);
}

#[test]
fn a_peer_of_the_other_family_is_a_mismatch() {
    //= rfc8656#section-10.2
    //= type=test
    //# If an XOR-PEER-ADDRESS attribute contains an address of an address family that is not the
    //# same as that of a relayed transport address for the allocation, the server MUST generate
    //# an error response with the 443 (Peer Address Family Mismatch) response code.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    // Whatever the policy, which only MAY refuse, thinks of the address.
    for peer in [PEER_V6, "[::1]:80", "[fd00::1]:80"] {
        let ask = Ask::create_permission(&[peer]);
        assert_eq!(client.ask(&mut world, &ask).code(), 443, "{peer}");
        let ask = Ask::channel_bind(0x4000, peer);
        assert_eq!(client.ask(&mut world, &ask).code(), 443, "{peer}");
    }
    assert_eq!(client.send(&mut world, PEER_V6, b"x"), Err(Reason::FamilyMismatch));
    // An IPv4-mapped address is IPv4.
    client.permit(&mut world, &["[::ffff:198.51.100.1]:5000"]);
    assert!(client.send(&mut world, PEER, b"x").is_ok());
}

#[test]
fn all_peers_or_none_are_permitted() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    for (bad, code) in [(DENIED, 403), (PEER_V6, 443)] {
        let ask = Ask::create_permission(&[PEER, bad, SECOND]);
        assert_eq!(client.ask(&mut world, &ask).code(), code);
        assert_eq!(world.stats().permissions, 0);
        assert!(world.peer_sends(relay, addr(PEER), b"x").is_err());
    }
    // Neither is one refreshed in a request that is refused.
    client.permit(&mut world, &[PEER]);
    world.pass(200);
    assert_eq!(client.ask(&mut world, &Ask::create_permission(&[PEER, DENIED])).code(), 403);
    world.pass(100);
    assert_eq!(world.stats().permissions, 0);
}

#[test]
fn an_allocation_holds_so_many_permissions() {
    let settings = Settings {
        limits: Limits { permissions_per_allocation: 3, ..Limits::default() },
        ..Settings::default()
    };
    let mut world = World::new(&settings);
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    client.permit(&mut world, &[PEER, SECOND]);
    let two_more = Ask::create_permission(&["198.51.100.3:1", "198.51.100.4:1"]);
    assert_eq!(client.ask(&mut world, &two_more).code(), 508);
    assert_eq!(world.stats().permissions, 2);
    // Twice the same address is one more, and a known one is none.
    client.permit(&mut world, &["198.51.100.3:1", "198.51.100.3:2", PEER]);
    assert_eq!(world.stats().permissions, 3);
    let fourth = Ask::create_permission(&["198.51.100.4:1"]);
    assert_eq!(client.ask(&mut world, &fourth).code(), 508);
    let channel = Ask::channel_bind(0x4000, "198.51.100.4:1");
    assert_eq!(client.ask(&mut world, &channel).code(), 508);
    assert_eq!(world.stats().channels, 0);
    // What has run out makes room, even before the timer noticed.
    world.pass_unnoticed(300);
    assert_eq!(client.ask(&mut world, &fourth).code(), 0);
    assert_eq!(world.stats().permissions, 1);
}

#[test]
fn one_request_names_so_many_peers() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    let ask = |peers: u8| {
        (0..peers).fold(Ask::new(Method::CREATE_PERMISSION), |ask, host| {
            ask.with(XorPeerAddress(addr(&format!("198.51.100.{host}:1"))))
        })
    };
    assert_eq!(client.ask(&mut world, &ask(65)).code(), 508);
    assert_eq!(world.stats().permissions, 0);
    assert_eq!(client.ask(&mut world, &ask(64)).code(), 0);
    assert_eq!(world.stats().permissions, 64);
}

#[test]
fn permissions_of_one_allocation_are_nobody_elses() {
    let mut world = World::plain();
    let (mut one, mut two) = (TestClient::udp(), TestClient::tcp());
    one.allocate(&mut world);
    let relay = two.allocate(&mut world);
    one.permit(&mut world, &[PEER]);
    assert_eq!(two.send(&mut world, PEER, b"x"), Err(Reason::NoPermission));
    let stray = world.peer_sends(relay, addr(PEER), b"x");
    assert_eq!(stray.unwrap_err(), Reason::NoPermission);
}
