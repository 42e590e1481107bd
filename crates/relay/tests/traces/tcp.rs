//! TCP allocations (RFC 6062). `tcp/limits.rs` has what quotas and bounds do to them.

mod limits;

use std::net::SocketAddr;

use turnway_relay::limits::Limits;
use turnway_relay::{
    Client, ConnectFailure, ConnectionEnd, ConnectionId, EndReason, Event, Outcome, Protocol,
    Reason, Record, Request, SessionFilter,
};
use turnway_wire::{
    self as wire, AttributeType, Class, Message, Method, RequestedTransport, XorPeerAddress,
};

use crate::common::client::{Ask, Raw, Response, TestClient};
use crate::common::{DENIED, PEER, PEER_V6, Settings, World, addr};

const SECOND: &str = "198.51.100.2:5000";

fn allocate() -> Ask {
    Ask::new(Method::ALLOCATE).with(RequestedTransport(6))
}

fn connect(peer: &str) -> Ask {
    Ask::new(Method::CONNECT).with(XorPeerAddress(addr(peer)))
}

fn connection_bind(id: ConnectionId) -> Ask {
    Ask::new(Method::CONNECTION_BIND).with(wire::ConnectionId(id.0))
}

/// A client with a TCP allocation, and its relayed transport address.
fn allocated(world: &mut World) -> (TestClient, SocketAddr) {
    let mut client = TestClient::tcp();
    let response = client.ask(world, &allocate());
    assert_eq!(response.code(), 0, "{response:?}");
    let relay = response.relayed()[0];
    (client, relay)
}

/// Another connection of the same client.
fn data_connection(client: &TestClient, port: u16) -> TestClient {
    let mut data = client.clone();
    data.at.tuple.client.set_port(port);
    data.at.link = turnway_relay::Link(u32::from(port));
    (data.realm, data.nonce) = (Vec::new(), Vec::new());
    data
}

/// Sends a Connect that passes the checks: what is to be connected now.
fn connecting(world: &mut World, client: &mut TestClient, peer: &str) -> ConnectionId {
    let request = client.request(&connect(peer));
    let answered = client.exchange(world, &request);
    assert!(answered.is_none(), "the answer waits for the connection: {answered:?}");
    let connecting = world.connecting.pop().expect("a connection is to be made");
    assert_eq!(connecting.to, addr(peer));
    connecting.connection
}

/// The attempt comes to an end, and the Connect is answered.
fn comes_to(
    world: &mut World,
    shard: usize,
    connection: ConnectionId,
    result: Result<(), ConnectFailure>,
) -> Option<(Client, Response)> {
    let reply = world.handle(shard, Event::Connected { connection, result });
    reply.map(|(to, bytes)| (to, Response { bytes }))
}

/// A connection that is there and waits to be bound.
fn connected(world: &mut World, client: &mut TestClient, peer: &str) -> ConnectionId {
    let id = connecting(world, client, peer);
    let (to, response) = comes_to(world, client.shard, id, Ok(())).expect("an answer");
    assert_eq!((to, response.code()), (client.at, 0));
    id
}

fn connection_id(message: &Message<'_>) -> u32 {
    message.get::<wire::ConnectionId>().unwrap().expect("a CONNECTION-ID").0
}

#[test]
fn a_tcp_allocation_listens_for_connections() {
    //= rfc6062#section-5.1
    //= type=test
    //# A TCP relayed transport address MUST be allocated instead of a UDP one.
    //= rfc6062#section-5.1
    //= type=test
    //# The RESERVATION-TOKEN attribute MUST NOT be present in the success response.
    let mut world = World::plain();
    let mut client = TestClient::tcp();
    let response = client.ask(&mut world, &allocate());
    assert_eq!((response.code(), response.token()), (0, None));
    assert_eq!(world.bound, [Protocol::Tcp]);
    let sessions = &mut Vec::new();
    world.servers[0].sessions(&SessionFilter::default(), 0, 10, 10, world.now, sessions);
    assert_eq!((sessions[0].protocol, sessions[0].connections), (Protocol::Tcp, 0));
    // The same client may have UDP instead.
    let mut other = TestClient::new("192.0.2.9:1");
    other.at.tuple.transport = client.at.tuple.transport;
    other.allocate(&mut world);
    assert_eq!(world.bound, [Protocol::Tcp, Protocol::Udp]);
}

#[test]
fn a_tcp_allocation_may_have_both_families() {
    let mut world = World::plain();
    let mut client = TestClient::tcp();
    let both = allocate().with(Raw::<0x8000>(vec![2, 0, 0, 0]));
    let response = client.ask(&mut world, &both);
    assert_eq!((response.code(), response.relayed().len()), (0, 2));
    let (v4, v6) = (connected(&mut world, &mut client, PEER), PEER_V6);
    let v6 = connected(&mut world, &mut client, v6);
    let end_v4 = Ask::refresh(0).with(Raw::<0x0017>(vec![1, 0, 0, 0]));
    assert_eq!(client.ask(&mut world, &end_v4).code(), 0);
    assert_eq!(world.disconnected, [v4]);
    assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
    assert_eq!(world.disconnected, [v4, v6]);
    world.assert_empty();
}

#[test]
fn of_ourselves_only_live_tcp_relays_can_be_connected_to() {
    //= rfc6062#section-5.2
    //= type=test
    //# If the new connection is forbidden by local policy, the server MUST reject the request
    //# with a 403 (Forbidden) error.
    let mut world = World::plain();
    let mut datagrams = TestClient::udp();
    let udp = datagrams.allocate(&mut world);
    let mut other = TestClient::new("192.0.2.9:1");
    other.at.tuple.transport = TestClient::tcp().at.tuple.transport;
    let tcp = other.ask(&mut world, &allocate()).relayed()[0];
    let (mut client, _) = allocated(&mut world);
    let service = SocketAddr::new(udp.ip(), 22);
    for forbidden in [udp, service] {
        let response = client.ask(&mut world, &connect(&forbidden.to_string()));
        assert_eq!(response.code(), 403, "{forbidden}");
    }
    let request = client.request(&connect(&tcp.to_string()));
    assert!(client.exchange(&mut world, &request).is_none(), "it is being connected");
    assert_eq!(world.connecting.len(), 1);
}

#[test]
fn another_relayed_transport_is_not_supported() {
    //= rfc6062#section-5.1
    //= type=test
    //# If the REQUESTED-TRANSPORT attribute is included and specifies a protocol other than UDP or
    //# TCP, the server MUST reject the request with a 442 (Unsupported Transport Protocol) error.
    let mut world = World::plain();
    for number in (0..=255).filter(|number| ![6, 17].contains(number)) {
        let ask = Ask::new(Method::ALLOCATE).with(RequestedTransport(number));
        assert_eq!(TestClient::tcp().ask(&mut world, &ask).code(), 442);
    }
    let limits = Limits { tcp_allocations: false, ..Limits::default() };
    let mut world = World::new(&Settings { limits, ..Settings::default() });
    assert_eq!(TestClient::tcp().ask(&mut world, &allocate()).code(), 442);
    world.assert_empty();
}

#[test]
fn a_udp_client_gets_no_tcp_allocation() {
    //= rfc6062#section-5.1
    //= type=test
    //# If the client connection transport is not TCP or TLS, the server MUST reject the request with
    //# a 400 (Bad Request) error.
    let mut world = World::plain();
    assert_eq!(TestClient::udp().ask(&mut world, &allocate()).code(), 400);
    world.assert_empty();
}

#[test]
fn what_is_for_datagrams_is_bad_in_a_tcp_allocate() {
    //= rfc6062#section-5.1
    //= type=test
    //# If the request contains the DONT-FRAGMENT, EVEN-PORT, or RESERVATION-TOKEN attribute, the
    //# server MUST reject the request with a 400 (Bad Request) error.
    let mut world = World::plain();
    let mut client = TestClient::tcp();
    for ask in [
        allocate().with(Raw::<0x001A>(vec![])),
        allocate().with(Raw::<0x0018>(vec![0])),
        allocate().with(Raw::<0x0018>(vec![0x80])),
        allocate().with(Raw::<0x0022>(vec![1; 8])),
    ] {
        assert_eq!(client.ask(&mut world, &ask).code(), 400);
    }
    world.assert_empty();
}

#[test]
fn a_connection_is_made_bound_and_joined() {
    //= rfc6062#section-5.2
    //= type=test
    //# Otherwise, the server MUST initiate an outgoing TCP connection.
    //= rfc6062#section-5.2
    //= type=test
    //# The local endpoint is the relayed transport address associated with the allocation.
    //= rfc6062#section-5.2
    //= type=test
    //# The server MUST include the CONNECTION-ID attribute in the Connect success response.
    //= rfc6062#section-5.4
    //= type=test
    //# Otherwise, the client connection is now called a client data connection.
    let mut world = World::plain();
    let (mut client, relay) = allocated(&mut world);
    let request = client.request(&connect(PEER));
    assert!(client.exchange(&mut world, &request).is_none());
    let attempt = world.connecting[0];
    assert_eq!((attempt.from, attempt.to), (relay, addr(PEER)));
    let id = attempt.connection;
    let (to, response) = comes_to(&mut world, 0, id, Ok(())).unwrap();
    let message = response.message();
    assert_eq!((to, response.code(), connection_id(&message)), (client.at, 0, id.0));
    assert!(message.verify(&client.key()));
    assert_eq!(message.transaction_id(), Message::parse(&request).unwrap().transaction_id());
    let mut data = data_connection(&client, 40_002);
    assert_eq!(ConnectionId::asked_for_in(&data.request(&connection_bind(id))), Some(id));
    assert_eq!(data.ask(&mut world, &connection_bind(id)).code(), 0);
    assert_eq!(world.spliced, [(id, data.at)]);
    // No timer runs for it any more, and its end is no reason to write to anybody.
    world.pass(500);
    assert!(world.disconnected.is_empty());
    assert!(world.handle(0, Event::ConnectionClosed { connection: id }).is_none());
    let stats = world.stats();
    assert_eq!((stats.connections, stats.connections_made), (0, 1));
    assert_eq!(stats.connections_ended[ConnectionEnd::Closed.index()], 1);
    assert_eq!(stats.count(Request::Connect, Outcome::Success), 1);
    assert_eq!(stats.count(Request::ConnectionBind, Outcome::Success), 1);
    // There may be another one to the same peer now.
    connected(&mut world, &mut client, PEER);
}

#[test]
fn without_an_allocation_there_is_no_connection() {
    //= rfc6062#section-5.2
    //= type=test
    //# If the request is received on a TCP connection for which no allocation exists, the server
    //# MUST return a 437 (Allocation Mismatch) error.
    let mut world = World::plain();
    assert_eq!(TestClient::tcp().ask(&mut world, &connect(PEER)).code(), 437);
}

#[test]
fn there_is_one_connection_to_a_peer_at_a_time() {
    //= rfc6062#section-5.2
    //= type=test
    //# If the server is currently processing a Connect request for this allocation with the same
    //# XOR-PEER-ADDRESS, it MUST return a 446 (Connection Already Exists) error.
    //= rfc6062#section-5.2
    //= type=test
    //# If the server has already successfully processed a Connect request for this allocation with
    //# the same XOR-PEER-ADDRESS, and the resulting client and peer data connections are either
    //# pending or active, it MUST return a 446 (Connection Already Exists) error.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    let id = connecting(&mut world, &mut client, PEER);
    assert_eq!(client.ask(&mut world, &connect(PEER)).code(), 446);
    // Another port is another peer, and need not wait.
    connecting(&mut world, &mut client, "198.51.100.1:5001");
    comes_to(&mut world, 0, id, Ok(())).unwrap();
    assert_eq!(client.ask(&mut world, &connect(PEER)).code(), 446);
    let mut data = data_connection(&client, 40_002);
    assert_eq!(data.ask(&mut world, &connection_bind(id)).code(), 0);
    assert_eq!(client.ask(&mut world, &connect(PEER)).code(), 446);
    // Somebody else may have one.
    let mut other = TestClient::new("192.0.2.9:1");
    other.at.tuple.transport = client.at.tuple.transport;
    assert_eq!(other.ask(&mut world, &allocate()).code(), 0);
    connected(&mut world, &mut other, PEER);
}

#[test]
fn a_connect_without_a_valid_peer_is_bad() {
    //= rfc6062#section-5.2
    //= type=test
    //# If the request does not contain an XOR-PEER-ADDRESS attribute, or if such attribute is
    //# invalid, the server MUST return a 400 (Bad Request) error.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    let invalid = Ask::new(Method::CONNECT).with(Raw::<0x0012>(vec![0, 9, 0, 0]));
    for ask in [Ask::new(Method::CONNECT), invalid] {
        assert_eq!(client.ask(&mut world, &ask).code(), 400);
    }
    assert!(world.connecting.is_empty());
}

#[test]
fn a_forbidden_peer_is_refused_at_once() {
    //= rfc6062#section-5.2
    //= type=test
    //# If the new connection is forbidden by local policy, the server MUST reject the request with a
    //# 403 (Forbidden) error.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    for peer in [DENIED, "127.0.0.1:80", "203.0.113.7:3478", "198.51.100.1:0"] {
        assert_eq!(client.ask(&mut world, &connect(peer)).code(), 403, "{peer}");
    }
    assert_eq!(client.ask(&mut world, &connect(PEER_V6)).code(), 443);
    assert!(world.connecting.is_empty());
}

#[test]
fn a_connection_that_fails_is_said_to() {
    //= rfc6062#section-5.2
    //= type=test
    //# If the connection attempt fails or times out, the server MUST return a 447 (Connection
    //# Timeout or Failure) error.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    for (failure, end) in [
        (ConnectFailure::Refused, ConnectionEnd::Failed),
        (ConnectFailure::NoResources, ConnectionEnd::NoResources),
    ] {
        let id = connecting(&mut world, &mut client, PEER);
        let (to, response) = comes_to(&mut world, 0, id, Err(failure)).unwrap();
        assert_eq!((to, response.code()), (client.at, 447));
        assert!(response.message().verify(&client.key()));
        assert_eq!(world.stats().connections_ended[end.index()], 1);
    }
    assert_eq!(world.stats().connections, 0);
}

#[test]
fn a_peer_that_does_not_answer_is_given_30_seconds() {
    //= rfc6062#section-5.2
    //= type=test
    //# The timeout value MUST be at least 30 seconds.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    let ids = [PEER, SECOND].map(|peer| connecting(&mut world, &mut client, peer));
    world.pass(29);
    world.pass_unnoticed(1);
    let replies = world.expire_with_replies();
    assert_eq!(replies.len(), 2, "each of them is answered");
    for (to, bytes) in replies {
        assert_eq!((to, Response { bytes }.code()), (client.at, 447));
    }
    world.disconnected.sort();
    let mut expected = ids.to_vec();
    expected.sort();
    assert_eq!(world.disconnected, expected);
    // It may be there a moment later: too late.
    assert!(comes_to(&mut world, 0, ids[0], Ok(())).is_none());
    let stats = world.stats();
    assert_eq!(stats.connections_ended[ConnectionEnd::TimedOut.index()], 2);
    assert_eq!((stats.connections, stats.connections_made), (0, 0));
}

#[test]
fn a_connection_that_nobody_binds_is_closed() {
    //= rfc6062#section-5.2
    //= type=test
    //# If no ConnectionBind request associated with this peer data connection is received after 30
    //# seconds, the peer data connection MUST be closed.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    let id = connecting(&mut world, &mut client, PEER);
    world.pass(20);
    comes_to(&mut world, 0, id, Ok(())).unwrap();
    world.pass(29);
    assert!(world.disconnected.is_empty());
    world.pass_unnoticed(1);
    // Nor does the lateness of the timer help who binds it then.
    let mut data = data_connection(&client, 40_002);
    assert_eq!(data.ask(&mut world, &connection_bind(id)).code(), 400);
    world.expire();
    assert_eq!(world.disconnected, [id]);
    assert_eq!(world.stats().connections_ended[ConnectionEnd::Unbound.index()], 1);
}

#[test]
fn a_permitted_peer_may_connect() {
    //= rfc6062#section-5.3
    //= type=test
    //# The indication MUST include an XOR-PEER-ADDRESS attribute containing the peer's transport
    //# address, as well as a CONNECTION-ID attribute uniquely identifying the peer data connection.
    //= rfc6062#section-5.3
    //= type=test
    //# If no ConnectionBind request associated with this peer data connection is received after 30
    //# seconds, the peer data connection MUST be closed.
    let mut world = World::plain();
    let (mut client, relay) = allocated(&mut world);
    client.permit(&mut world, &[PEER]);
    let (id, to, bytes) = world.peer_connects(relay, addr("198.51.100.1:77")).unwrap();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(to, client.at);
    assert_eq!(
        (message.class(), message.method()),
        (Class::Indication, Method::CONNECTION_ATTEMPT)
    );
    assert_eq!(connection_id(&message), id.0);
    let XorPeerAddress(peer) = message.get().unwrap().unwrap();
    assert_eq!(peer, addr("198.51.100.1:77"));
    // It is a connection like any other: the client need not open a second one.
    assert_eq!(client.ask(&mut world, &connect("198.51.100.1:77")).code(), 446);
    let mut data = data_connection(&client, 40_002);
    assert_eq!(data.ask(&mut world, &connection_bind(id)).code(), 0);
    assert_eq!(world.spliced, [(id, data.at)]);
    let (unbound, ..) = world.peer_connects(relay, addr("198.51.100.1:78")).unwrap();
    assert_ne!(unbound, id);
    world.pass(30);
    assert_eq!(world.disconnected, [unbound]);
    assert_eq!(world.stats().connections_accepted, 2);
}

#[test]
fn a_peer_without_permission_is_closed() {
    //= rfc6062#section-5.3
    //= type=test
    //# If no permission for this peer has been installed for this allocation, the server MUST close
    //# the connection with the peer immediately after it has been accepted.
    let mut world = World::plain();
    let (mut client, relay) = allocated(&mut world);
    client.permit(&mut world, &[SECOND]);
    let refused = |world: &mut World| world.peer_connects(relay, addr(PEER)).unwrap_err();
    assert_eq!(refused(&mut world), Reason::NoPermission);
    client.permit(&mut world, &[PEER]);
    // The timer is late.
    world.pass_unnoticed(300);
    assert_eq!(refused(&mut world), Reason::NoPermission);
    world.pass_unnoticed(300);
    assert_eq!(refused(&mut world), Reason::Expired);
    let stats = world.stats();
    assert_eq!(stats.peer_drops[Reason::NoPermission.index()], 2);
    assert_eq!((stats.connections, stats.connections_accepted), (0, 0));
}

#[test]
fn one_of_our_own_ports_may_connect_if_it_relays() {
    let mut world = World::plain();
    let (mut client, relay) = allocated(&mut world);
    let mut other = TestClient::new("192.0.2.9:1");
    other.at.tuple.transport = client.at.tuple.transport;
    let peer = other.ask(&mut world, &allocate()).relayed()[0];
    connected(&mut world, &mut other, &relay.to_string());
    client.permit(&mut world, &[&peer.to_string()]);
    assert!(world.peer_connects(relay, peer).is_ok());
    let own = SocketAddr::new(peer.ip(), 3478);
    assert_eq!(world.peer_connects(relay, own).unwrap_err(), Reason::PeerDenied);
}

#[test]
fn a_connection_is_bound_over_a_stream_of_its_own() {
    //= rfc6062#section-5.4
    //= type=test
    //# If the client connection transport is not TCP or TLS, the server MUST return a 400 (Bad
    //# Request) error.
    //= rfc6062#section-4.3
    //= type=test
    //# This connection MUST be made using a different local transport address.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    let id = connected(&mut world, &mut client, PEER);
    assert_eq!(client.ask(&mut world, &connection_bind(id)).code(), 400);
    assert_eq!(TestClient::udp().ask(&mut world, &connection_bind(id)).code(), 400);
    assert!(world.spliced.is_empty());
    let mut data = data_connection(&client, 40_002);
    assert_eq!(data.ask(&mut world, &connection_bind(id)).code(), 0);
}

#[test]
fn only_a_pending_connection_is_bound() {
    //= rfc6062#section-5.4
    //= type=test
    //# If the request does not contain the CONNECTION-ID attribute, or if this attribute does not
    //# refer to an existing pending connection, the server MUST return a 400 (Bad Request) error.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    let id = connecting(&mut world, &mut client, PEER);
    let mut data = data_connection(&client, 40_002);
    let unknown = ConnectionId(id.0 ^ 1);
    let short = Ask::new(Method::CONNECTION_BIND).with(Raw::<0x002A>(vec![0, 1]));
    for ask in [
        Ask::new(Method::CONNECTION_BIND),
        short,
        connection_bind(unknown),
        // Not yet.
        connection_bind(id),
    ] {
        assert_eq!(data.ask(&mut world, &ask).code(), 400);
    }
    comes_to(&mut world, 0, id, Ok(())).unwrap();
    assert_eq!(data.ask(&mut world, &connection_bind(id)).code(), 0);
    // Not twice.
    let mut late = data_connection(&client, 40_003);
    assert_eq!(late.ask(&mut world, &connection_bind(id)).code(), 400);
    assert_eq!(world.spliced, [(id, data.at)]);
}

#[test]
fn nobody_binds_anothers_connection() {
    //= rfc6062#section-4.3
    //= type=test
    //# Authentication of the client by the server MUST use the same method and credentials as for
    //# the control connection.
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    let id = connected(&mut world, &mut client, PEER);
    let mut data = data_connection(&client, 40_002);
    let unsigned = data.ask_once(&mut world, &connection_bind(id));
    assert_eq!(unsigned.code(), 401);
    let mut thief = data_connection(&client, 40_003).of("bob", "hunter2");
    assert_eq!(thief.ask(&mut world, &connection_bind(id)).code(), 441);
    let mut liar = data_connection(&client, 40_004).of("alice", "wrong");
    let challenge = liar.ask_once(&mut world, &connection_bind(id));
    liar.learn(&challenge);
    assert_eq!(liar.ask_once(&mut world, &connection_bind(id)).code(), 401);
    assert!(world.spliced.is_empty());
    assert_eq!(data.ask(&mut world, &connection_bind(id)).code(), 0);
}

#[test]
fn a_number_names_the_shard_that_has_the_connection() {
    let mut world = World::new(&Settings { servers: 3, ..Settings::default() });
    let mut client = TestClient::tcp().on(2);
    assert_eq!(client.ask(&mut world, &allocate()).code(), 0);
    let id = connected(&mut world, &mut client, PEER);
    assert_eq!(id.shard(), 2);
    // The challenge may come from there as well.
    let bind = data_connection(&client, 40_002).request(&connection_bind(id));
    assert_eq!(ConnectionId::asked_for_in(&bind).map(ConnectionId::shard), Some(2));
    let other = client.request(&connect(PEER));
    assert_eq!(ConnectionId::asked_for_in(&other), None);
}

#[test]
fn the_end_of_an_allocation_closes_its_connections() {
    //= rfc6062#section-5.5
    //= type=test
    //# If the allocation associated with a data connection expires, the data connection MUST be
    //# closed.
    type End = fn(&mut World, &mut TestClient);
    let ends: [(EndReason, End); 5] = [
        (EndReason::Expired, |world, _| world.pass(600)),
        (EndReason::Deleted, |world, client| {
            assert_eq!(client.ask(world, &Ask::refresh(0)).code(), 0);
        }),
        (EndReason::Disconnected, |world, client| {
            world.handle(0, Event::Disconnected { tuple: client.at.tuple });
        }),
        (EndReason::Killed, |world, _| {
            world.handle(0, Event::Kill { session: 1 });
        }),
        (EndReason::UserRemoved, |world, _| {
            world.configure(&Settings { users: vec![("bob", "hunter2")], ..Settings::default() });
        }),
    ];
    for (reason, end) in ends {
        let mut world = World::plain();
        let (mut client, relay) = allocated(&mut world);
        client.permit(&mut world, &[PEER]);
        let bound = connected(&mut world, &mut client, PEER);
        let mut data = data_connection(&client, 40_002);
        assert_eq!(data.ask(&mut world, &connection_bind(bound)).code(), 0);
        world.pass(290);
        client.permit(&mut world, &[PEER]);
        world.pass(295);
        let waiting = connected(&mut world, &mut client, SECOND);
        let (accepted, ..) = world.peer_connects(relay, addr("198.51.100.1:9")).unwrap();
        let trying = connecting(&mut world, &mut client, "198.51.100.3:5000");
        end(&mut world, &mut client);
        world.disconnected.sort();
        let mut expected = vec![bound, waiting, accepted, trying];
        expected.sort();
        assert_eq!(world.disconnected, expected, "{reason}");
        let ended = world.records.iter().rev().find_map(|record| match record {
            Record::Ended(ended) => Some(ended.reason),
            Record::Started(_)
            | Record::AuthFailed(_)
            | Record::VolumeSpent(_)
            | Record::Moved(_) => None,
        });
        assert_eq!(ended, Some(reason));
        let stats = world.stats();
        assert_eq!(stats.connections_ended[ConnectionEnd::AllocationEnded.index()], 4);
        world.assert_empty();
    }
}

#[test]
fn a_connection_outlives_its_permission_but_not_the_policy() {
    let mut world = World::plain();
    let (mut client, relay) = allocated(&mut world);
    client.permit(&mut world, &[PEER]);
    let (accepted, ..) = world.peer_connects(relay, addr(PEER)).unwrap();
    let mut data = data_connection(&client, 40_002);
    assert_eq!(data.ask(&mut world, &connection_bind(accepted)).code(), 0);
    let made = connected(&mut world, &mut client, SECOND);
    let mut second = data_connection(&client, 40_003);
    assert_eq!(second.ask(&mut world, &connection_bind(made)).code(), 0);
    world.pass(400);
    assert!(world.disconnected.is_empty());
    world.configure(&Settings { deny: vec!["198.51.100.2/32"], ..Settings::default() });
    assert_eq!(world.disconnected, [made]);
    let stats = world.stats();
    assert_eq!(stats.connections_ended[ConnectionEnd::PeerDenied.index()], 1);
    assert_eq!(stats.connections, 1);
}

#[test]
fn what_is_for_datagrams_does_nothing_on_a_tcp_allocation() {
    let mut world = World::plain();
    let (mut client, _) = allocated(&mut world);
    client.permit(&mut world, &[PEER]);
    assert_eq!(client.ask(&mut world, &Ask::channel_bind(0x4000, PEER)).code(), 403);
    assert_eq!(client.send(&mut world, PEER, b"x"), Err(Reason::Unexpected));
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x"), Err(Reason::NoChannel));
}

#[test]
fn a_udp_allocation_has_no_connections() {
    let mut world = World::plain();
    let mut client = TestClient::tcp();
    client.allocate(&mut world);
    assert_eq!(client.ask(&mut world, &connect(PEER)).code(), 403);
    assert!(world.connecting.is_empty());
}

#[test]
fn a_request_must_be_signed_and_understood() {
    let mut world = World::plain();
    let (client, _) = allocated(&mut world);
    let mut stranger = client.clone();
    (stranger.realm, stranger.nonce) = (Vec::new(), Vec::new());
    assert_eq!(stranger.ask_once(&mut world, &connect(PEER)).code(), 401);
    let mut client = client;
    let strange = connect(PEER).with(Raw::<0x7F00>(vec![]));
    let response = client.ask(&mut world, &strange);
    assert_eq!(response.code(), 420);
    assert!(response.attributes().contains(&AttributeType::UNKNOWN_ATTRIBUTES));
    let mut thief = client.clone().of("bob", "hunter2");
    assert_eq!(thief.ask(&mut world, &connect(PEER)).code(), 441);
}
