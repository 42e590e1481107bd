//! Allocate (RFC 8656 section 7.2).

use turnway_relay::{BindFailure, EndReason, Event, Outcome, Record, Request, Transport};
use turnway_wire::{
    AttributeType, DontFragment, Family, Lifetime, RequestedAddressFamily, RequestedTransport,
    ReservationToken,
};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{PEER, Settings, World, addr};

#[test]
fn a_first_allocate_is_challenged_and_the_second_succeeds() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let challenge = client.ask_once(&mut world, &Ask::allocate());
    assert_eq!(challenge.code(), 401);
    world.assert_empty();

    client.learn(&challenge);
    let response = client.ask_once(&mut world, &Ask::allocate());
    assert_eq!(response.code(), 0);
    assert_eq!(response.mapped(), Some(addr("192.0.2.1:40000")));
    assert_eq!(response.lifetime(), Some(600));
    assert_eq!(response.token(), None);
    let [relayed] = response.relayed()[..] else { panic!("{response:?}") };
    assert_eq!(relayed.ip(), addr("203.0.113.7:0").ip());
    assert!((49152..=65535).contains(&relayed.port()));
    assert!(world.owner_of(relayed).is_some(), "bound where it is announced");
    assert_eq!(world.stats().allocations_of(Transport::Udp), 1);
    assert_eq!(world.pool.counts().claimed, 1);
}

#[test]
fn a_retransmitted_allocate_is_answered_with_the_same_bytes() {
    let mut world = World::plain();
    for modern in [false, true] {
        let mut client = TestClient::new(if modern { "192.0.2.1:1" } else { "192.0.2.1:2" });
        (client.modern, client.fingerprint) = (modern, modern);
        let challenge = client.ask_once(&mut world, &Ask::allocate());
        client.learn(&challenge);
        let request = client.request(&Ask::allocate().with(Lifetime(1000)));
        let first = client.exchange(&mut world, &request).unwrap();
        assert_eq!(first.code(), 0);
        world.pass(7);
        let again = client.exchange(&mut world, &request).unwrap();
        assert_eq!(first.bytes, again.bytes);
    }
    assert_eq!(world.shared.allocations.count(), 2);
    assert_eq!(world.stats().allocations_started, 2);
}

#[test]
fn a_five_tuple_has_one_allocation() {
    //= rfc8656#section-7.2
    //= type=test
    //# The server checks if the 5-tuple is currently in use by an existing allocation.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    assert_eq!(client.ask(&mut world, &Ask::allocate()).code(), 437);
    // That of another user is no other five-tuple.
    let mut bob = TestClient::udp().of("bob", "hunter2");
    assert_eq!(bob.ask(&mut world, &Ask::allocate()).code(), 437);
    // Another transport is.
    let mut tcp = TestClient::tcp();
    tcp.at.tuple.client = client.at.tuple.client;
    tcp.allocate(&mut world);
    let stats = world.stats();
    assert_eq!(
        (stats.allocations_of(Transport::Udp), stats.allocations_of(Transport::Tcp)),
        (1, 1)
    );
    assert_eq!(stats.count(Request::Allocate, Outcome::AllocationMismatch), 2);
}

#[test]
fn the_server_address_is_part_of_the_five_tuple() {
    let mut world = World::plain();
    TestClient::udp().allocate(&mut world);
    let mut other = TestClient::udp();
    other.at.tuple.server = addr("203.0.113.7:443");
    other.allocate(&mut world);
    assert_eq!(world.shared.allocations.count(), 2);
}

#[test]
fn requested_transport_is_required() {
    //= rfc8656#section-7.2
    //= type=test
    //# If the REQUESTED-TRANSPORT attribute is not included or is malformed, the server rejects
    //# the request with a 400 (Bad Request) error.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let missing = Ask::new(turnway_wire::Method::ALLOCATE);
    assert_eq!(client.ask(&mut world, &missing).code(), 400);
    let malformed = Ask::new(turnway_wire::Method::ALLOCATE).with(Raw::<0x0019>(vec![17]));
    assert_eq!(client.ask(&mut world, &malformed).code(), 400);
    world.assert_empty();
}

#[test]
fn only_udp_is_relayed() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    for protocol in [1, 0, 255] {
        let ask = Ask::new(turnway_wire::Method::ALLOCATE).with(RequestedTransport(protocol));
        assert_eq!(client.ask(&mut world, &ask).code(), 442);
    }
    world.assert_empty();
}

#[test]
fn dont_fragment_is_supported() {
    let mut world = World::plain();
    let response = TestClient::udp().ask(&mut world, &Ask::allocate().with(DontFragment));
    assert_eq!(response.code(), 0);
}

#[test]
fn a_family_can_be_asked_for() {
    let mut world = World::plain();
    for (port, family) in [(1, Family::V4), (2, Family::V6)] {
        let family_asked = RequestedAddressFamily { family: Some(family) };
        let mut client = TestClient::new(&format!("192.0.2.1:{port}"));
        let response = client.ask(&mut world, &Ask::allocate().with(family_asked));
        let [relayed] = response.relayed()[..] else { panic!("{response:?}") };
        assert_eq!(Family::of(relayed.ip()), family);
    }
}

#[test]
fn without_a_family_it_is_ipv4_whatever_the_client_has() {
    let mut world = World::plain();
    let mut client = TestClient::new("[2001:db8:1::1]:40000");
    assert!(client.allocate(&mut world).is_ipv4());
}

#[test]
fn a_family_that_is_not_offered_is_refused() {
    let settings = Settings { v4: false, ..Settings::default() };
    let mut world = World::new(&settings);
    let mut client = TestClient::udp();
    let family = |family| RequestedAddressFamily { family };
    assert_eq!(client.ask(&mut world, &Ask::allocate()).code(), 440);
    let v4 = Ask::allocate().with(family(Some(Family::V4)));
    assert_eq!(client.ask(&mut world, &v4).code(), 440);
    let nonsense = Ask::allocate().with(Raw::<0x0017>(vec![9, 0, 0, 0]));
    assert_eq!(client.ask(&mut world, &nonsense).code(), 440);
    let v6 = Ask::allocate().with(family(Some(Family::V6)));
    assert_eq!(client.ask(&mut world, &v6).code(), 0);
}

#[test]
fn the_lifetime_is_within_bounds() {
    //= rfc8656#section-7.2
    //= type=test
    //# If this computed value is greater than the default lifetime, then the server uses the
    //# computed lifetime as the initial value of the time-to-expiry field.
    //= rfc8656#section-7.2
    //= type=test
    //# Otherwise, the server uses the default lifetime.
    let mut world = World::plain();
    let asked = [0, 1, 599, 600, 601, 3599, 3600, 3601, u32::MAX];
    let granted = [600, 600, 600, 600, 601, 3599, 3600, 3600, 3600];
    for (index, (asked, granted)) in asked.into_iter().zip(granted).enumerate() {
        let mut client = TestClient::new(&format!("192.0.2.1:{}", index + 1));
        let response = client.ask(&mut world, &Ask::allocate().with(Lifetime(asked)));
        assert_eq!(response.lifetime(), Some(granted), "asked for {asked}");
    }
    world.pass(599);
    assert_eq!(world.shared.allocations.count(), 9);
    world.pass(1);
    assert_eq!(world.shared.allocations.count(), 5);
    world.pass(1);
    assert_eq!(world.shared.allocations.count(), 4);
    world.pass(2999);
    world.assert_empty();
}

#[test]
fn a_malformed_lifetime_is_a_bad_request() {
    let mut world = World::plain();
    let ask = Ask::allocate().with(Raw::<0x000D>(vec![1, 2]));
    assert_eq!(TestClient::udp().ask(&mut world, &ask).code(), 400);
    world.assert_empty();
}

#[test]
fn unknown_attributes_are_named() {
    //= rfc8489#section-6.3.1
    //= type=test
    //# If the request contains one or more unknown comprehension-required attributes, the
    //# server replies with an error response with an error code of 420 (Unknown Attribute)
    //# and includes an UNKNOWN-ATTRIBUTES attribute in the response that lists the unknown
    //# comprehension-required attributes.
    let mut world = World::plain();
    let ask = Ask::allocate()
        .with(Raw::<0x7001>(vec![1; 4]))
        .with(Raw::<0xC001>(vec![2; 4]))
        .with(Raw::<0x7002>(vec![]));
    let response = TestClient::udp().ask(&mut world, &ask);
    assert_eq!(response.code(), 420);
    let message = response.message();
    let unknown: turnway_wire::UnknownAttributes<'_> = message.get().unwrap().unwrap();
    let listed: Vec<_> = unknown.iter().collect();
    assert_eq!(listed, [AttributeType(0x7001), AttributeType(0x7002)]);
    world.assert_empty();
}

#[test]
fn what_cannot_be_bound_is_insufficient_capacity_and_leaves_nothing() {
    for failure in [BindFailure::NoDescriptor, BindFailure::NoPort] {
        let mut world = World::plain();
        world.broken.insert(Family::V4, failure);
        let mut client = TestClient::udp();
        assert_eq!(client.ask(&mut world, &Ask::allocate()).code(), 508);
        world.assert_empty();
        world.broken.clear();
        client.allocate(&mut world);
        assert_eq!(world.shared.allocations.count(), 1);
    }
}

#[test]
fn the_cap_on_allocations_holds_and_moves() {
    let settings = Settings { cap: 2, ..Settings::default() };
    let mut world = World::new(&settings);
    let mut clients: Vec<_> =
        (1..=3).map(|port| TestClient::new(&format!("192.0.2.1:{port}"))).collect();
    clients[0].allocate(&mut world);
    clients[1].allocate(&mut world);
    assert_eq!(clients[2].ask(&mut world, &Ask::allocate()).code(), 508);
    assert_eq!(clients[1].ask(&mut world, &Ask::refresh(0)).code(), 0);
    clients[2].allocate(&mut world);
    assert_eq!(clients[1].ask(&mut world, &Ask::allocate()).code(), 508);
    world.shared.allocations.set_cap(3);
    clients[1].allocate(&mut world);
}

#[test]
fn a_drained_server_makes_no_new_allocation() {
    let mut world = World::plain();
    let mut old = TestClient::udp();
    let relay = old.allocate(&mut world);
    let retransmission = {
        let mut early = TestClient::new("192.0.2.1:2");
        early.ask_once(&mut world, &Ask::allocate());
        early
    };
    assert!(world.handle(0, Event::Drain).is_none());

    let mut new = retransmission;
    assert_eq!(new.ask(&mut world, &Ask::allocate()).code(), 508);
    // Existing ones live on: refreshed, used, ended.
    assert_eq!(old.ask(&mut world, &Ask::refresh(3600)).lifetime(), Some(3600));
    old.bind(&mut world, 0x4000, PEER);
    assert!(old.channel_data(&mut world, 0x4000, b"on").is_ok());
    assert!(world.peer_sends(relay, addr(PEER), b"and on").is_ok());
    assert_eq!(old.ask(&mut world, &Ask::refresh(0)).code(), 0);
    world.assert_empty();
}

#[test]
fn the_log_tells_of_the_beginning_and_the_end() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.permit(&mut world, &[PEER]);
    client.send(&mut world, PEER, b"four").unwrap();
    world.peer_sends(relay, addr(PEER), b"seven!!").unwrap();
    world.pass(600);
    let [Record::Started(started), Record::Ended(ended)] = &world.records[..] else {
        panic!("{:?}", world.records)
    };
    assert_eq!((&*started.user, started.v4), (&b"alice"[..], Some(relay)));
    assert_eq!((started.lifetime_s, started.v6), (600, None));
    assert_eq!(ended.session, started.session);
    assert_eq!((ended.seconds, ended.reason), (600, EndReason::Expired));
    let traffic = ended.traffic;
    assert_eq!((traffic.to_peer, traffic.to_peer_bytes), (1, 4));
    assert_eq!((traffic.to_client, traffic.to_client_bytes), (1, 7));
}

#[test]
fn a_closed_connection_ends_its_allocation() {
    let mut world = World::plain();
    let mut client = TestClient::tcp();
    client.allocate(&mut world);
    let tuple = client.at.tuple;
    assert!(world.servers[0].has_allocation(&tuple));
    world.handle(0, Event::Disconnected { tuple });
    assert!(!world.servers[0].has_allocation(&tuple));
    let Some(Record::Ended(ended)) = world.records.last() else { panic!("{:?}", world.records) };
    assert_eq!(ended.reason, EndReason::Disconnected);
    world.assert_empty();
    // Nobody's connection is nobody's allocation.
    world.handle(0, Event::Disconnected { tuple });
}

#[test]
fn a_bind_that_is_never_answered_costs_nothing() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let challenge = client.ask_once(&mut world, &Ask::allocate());
    client.learn(&challenge);
    let request = client.request(&Ask::allocate());
    let mut out = [0; 1500];
    let event = Event::Request { from: client.at, data: &request };
    world.servers[0].handle(event, world.now, &mut out);
    let Some(turnway_relay::Effect::Reserve { account, client: ip }) = world.servers[0].poll()
    else {
        panic!("nothing is bound before the quotas allow it");
    };
    let reserved = world.ledger.reserve(&account, ip, 0);
    world.servers[0].handle(Event::Reserved(reserved), world.now, &mut out);
    let bind = world.servers[0].poll();
    assert!(matches!(bind, Some(turnway_relay::Effect::Bind { .. })));
    // The shell forgets it; the client asks again.
    client.allocate(&mut world);
    assert_eq!(world.shared.allocations.count(), 1);
    assert_eq!(world.ledger.allocations(), 1);
}

#[test]
fn a_token_is_eight_bytes() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let short = Ask::allocate().with(Raw::<0x0022>(vec![1; 7]));
    assert_eq!(client.ask(&mut world, &short).code(), 400);
    let unknown = Ask::allocate().with(ReservationToken([1; 8]));
    assert_eq!(client.ask(&mut world, &unknown).code(), 508);
    world.assert_empty();
}
