//! Mobility (RFC 8016): a client goes on from another five-tuple. `mobility/moves.rs` has what goes
//! along with it, `mobility/shards.rs` what is so on several servers.

mod moves;
mod shards;

use std::net::SocketAddr;

use turnway_relay::limits::Limits;
use turnway_relay::mobility::TICKET_LEN;
use turnway_relay::{EndReason, Event, Outcome, Reason, Record, Request, Transport};
use turnway_wire::{
    Family, Lifetime, Method, MobilityTicket, RequestedAddressFamily, RequestedTransport,
};

use crate::common::client::{Ask, Raw, Response, TestClient};
use crate::common::{PEER, Settings, World};

const CHANNEL: u16 = 0x4000;

fn settings(servers: usize) -> Settings {
    let limits = Limits { mobility: true, ..Limits::default() };
    Settings { servers, limits, ..Settings::default() }
}

fn world(servers: usize) -> World {
    World::new(&settings(servers))
}

/// MOBILITY-TICKET.
type TicketAttribute = Raw<0x8030>;

fn mobile_allocate() -> Ask {
    Ask::allocate().with(Raw::<0x8030>(Vec::new()))
}

fn resume(ticket: &[u8]) -> Ask {
    Ask::new(Method::REFRESH).with::<TicketAttribute>(Raw(ticket.to_vec()))
}

fn ticket_of(response: &Response) -> Vec<u8> {
    let message = response.message();
    let ticket = message.get::<MobilityTicket<'_>>().unwrap();
    ticket.expect("a ticket").0.to_vec()
}

/// A client with a mobile allocation and a channel: its relayed transport address and ticket.
fn allocated(world: &mut World, client: &mut TestClient) -> (SocketAddr, Vec<u8>) {
    let response = client.ask(world, &mobile_allocate());
    assert_eq!(response.code(), 0, "{response:?}");
    client.bind(world, CHANNEL, PEER);
    (response.relayed()[0], ticket_of(&response))
}

/// The same client at another port, knowing what it knew.
fn moved(client: &TestClient, port: u16) -> TestClient {
    let mut moved = client.clone();
    moved.at.tuple.client.set_port(port);
    moved.at.link = turnway_relay::Link(u32::from(port));
    moved
}

/// Whom data from the peer reaches.
fn reached(world: &mut World, relay: SocketAddr) -> Result<SocketAddr, Reason> {
    let delivered = world.peer_sends(relay, PEER.parse().unwrap(), b"to the client")?;
    Ok(delivered.to.tuple.client)
}

#[test]
fn an_empty_ticket_gets_one() {
    //= rfc8016#section-3.1.2
    //= type=test
    //# If the server can successfully process the request and create an allocation, the server replies
    //# with a success response that includes a STUN MOBILITY-TICKET attribute.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let response = client.ask(&mut world, &mobile_allocate());
    assert_eq!((response.code(), ticket_of(&response).len()), (0, TICKET_LEN));
    //= rfc8016#section-3.1.2
    //= type=test
    //# The TURN server to support mobility must assume that the path MTU is unknown and use a ticket
    //# length in accordance with the published guidance on STUN UDP fragmentation (Section 7.1 of
    //# [RFC5389]).
    assert!(response.bytes.len() < 576 - 28);
    // Who asks for none gets none.
    let mut plain = TestClient::new("192.0.2.9:9");
    let response = plain.ask(&mut world, &Ask::allocate());
    assert!(response.message().get::<MobilityTicket<'_>>().unwrap().is_none());
}

#[test]
fn a_retransmitted_allocate_gets_the_same_ticket() {
    let mut world = world(1);
    let mut client = TestClient::udp();
    client.ask(&mut world, &Ask::refresh(0)); // a challenge
    let request = client.request(&mobile_allocate());
    let first = client.exchange(&mut world, &request).unwrap();
    let second = client.exchange(&mut world, &request).unwrap();
    assert_eq!(ticket_of(&first), ticket_of(&second));
}

#[test]
fn a_ticket_in_an_allocate_is_a_bad_request() {
    //= rfc8016#section-3.1.2
    //= type=test
    //# If the MOBILITY-TICKET attribute is included and has a non-zero length, then the server
    //# will generate an error response with an error code of 400 (Bad Request).
    let mut world = world(1);
    let ask = Ask::allocate().with(Raw::<0x8030>(vec![b'x'; TICKET_LEN]));
    assert_eq!(TestClient::udp().ask(&mut world, &ask).code(), 400);
    world.assert_empty();
}

#[test]
fn where_mobility_is_forbidden_nobody_gets_a_ticket() {
    //= rfc8016#section-3.1.2
    //= type=test
    //# If the MOBILITY-TICKET attribute is included, and has a length of zero, but TURN session
    //# mobility is forbidden by local policy, the server will reject the request with the new
    //# error code 405 (Mobility Forbidden).
    let mut world = World::plain();
    assert_eq!(TestClient::udp().ask(&mut world, &mobile_allocate()).code(), 405);
    world.assert_empty();
    assert_eq!(world.stats().count(Request::Allocate, Outcome::MobilityForbidden), 1);
}

#[test]
fn tcp_allocations_are_not_mobile() {
    let mut world = world(1);
    let ask = Ask::new(Method::ALLOCATE).with(RequestedTransport(6)).with(Raw::<0x8030>(vec![]));
    assert_eq!(TestClient::tcp().ask(&mut world, &ask).code(), 405);
    world.assert_empty();
}

#[test]
fn where_mobility_became_forbidden_a_ticket_is_refused() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# If the STUN MOBILITY-TICKET attribute is included in the Refresh request, and the server
    //# configuration changed to forbid mobility or the server transparently fails over to another
    //# server instance that forbids mobility, then the server rejects the Refresh request with a
    //# 405 (Mobility Forbidden) error and the client starts afresh with a new allocation.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    world.configure(&Settings::default());
    let mut elsewhere = moved(&client, 50_000);
    assert_eq!(elsewhere.ask(&mut world, &resume(&ticket)).code(), 405);
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
}

#[test]
fn an_old_nonce_is_stale_at_the_new_address_and_the_next_one_works() {
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000);
    let stale = elsewhere.ask_once(&mut world, &resume(&ticket));
    assert_eq!(stale.code(), 438);
    elsewhere.learn(&stale);
    assert_eq!(elsewhere.ask_once(&mut world, &resume(&ticket)).code(), 0);
}

#[test]
fn nobody_resumes_without_credentials() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# If the source IP address and port of the Refresh request is different from the stored 5-tuple
    //# allocation, the TURN server proceeds with a MESSAGE-INTEGRITY validation to identify that it is
    //# the same user that had previously created the TURN allocation.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let mut thief = TestClient::new("192.0.2.66:666");
    assert_eq!(thief.ask_once(&mut world, &resume(&ticket)).code(), 401);
    let mut thief = TestClient::new("192.0.2.66:666").of("alice", "guess");
    assert_eq!(thief.ask(&mut world, &resume(&ticket)).code(), 401);
    assert_eq!(thief.channel_data(&mut world, CHANNEL, b"x"), Err(Reason::NoAllocation));
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
}

#[test]
fn another_user_does_not_resume() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# If the above check is not successful, then the server MUST reject the request with a 441
    //# (Wrong Credentials) error.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let mut bob = TestClient::new("192.0.2.66:666").of("bob", "hunter2");
    assert_eq!(bob.ask(&mut world, &resume(&ticket)).code(), 441);
    assert_eq!(bob.channel_data(&mut world, CHANNEL, b"x"), Err(Reason::NoAllocation));
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
    assert_eq!(client.ask_once(&mut world, &Ask::refresh(600)).code(), 0);
}

#[test]
fn an_invalid_ticket_is_a_bad_request() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# If the ticket is invalid, then the server MUST reject the request with a 400 (Bad Request)
    //# error.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    let foreign = {
        let mut other = World::new(&Settings { ticket_secret: [8; 32], ..settings(1) });
        allocated(&mut other, &mut TestClient::udp()).1
    };
    let mut changed = ticket.clone();
    changed[5] ^= 1;
    let mut elsewhere = moved(&client, 50_000);
    for bad in [&foreign[..], &changed, &ticket[1..], b"", b"no ticket"] {
        assert_eq!(elsewhere.ask(&mut world, &resume(bad)).code(), 400);
    }
    // Also of one that has an allocation, which would be refreshed without it.
    assert_eq!(client.ask(&mut world, &resume(&foreign)).code(), 400);
}

#[test]
fn the_ticket_of_an_ended_allocation_is_a_mismatch() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# If this 5-tuple obtained does not identify an existing allocation, then the server MUST
    //# reject the request with a 437 (Allocation Mismatch) error.
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    client.ask(&mut world, &Ask::refresh(0));
    for shard in [0, 1] {
        let mut elsewhere = moved(&client, 50_000).on(shard);
        assert_eq!(elsewhere.ask(&mut world, &resume(&ticket)).code(), 437);
    }
    // One that is over is not revived, though nobody has looked at the clock.
    let (_, ticket) = allocated(&mut world, &mut client);
    world.pass_unnoticed(600);
    assert_eq!(moved(&client, 50_001).ask(&mut world, &resume(&ticket)).code(), 437);
    world.expire();
    world.assert_empty();
}

#[test]
fn a_client_that_has_not_moved_has_no_use_for_its_ticket() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# If the source IP address and port of the Refresh request with the STUN MOBILITY-TICKET
    //# attribute is the same as the stored 5-tuple allocation, then the TURN server rejects the
    //# request with a 400 (Bad Request) error.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    assert_eq!(client.ask(&mut world, &resume(&ticket)).code(), 400);
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 0);
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
}

#[test]
fn a_five_tuple_with_an_allocation_gets_no_other() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    for shard in [0, 1] {
        let mut busy = moved(&client, 50_000).on(shard);
        busy.allocate(&mut world);
        let refused = busy.ask(&mut world, &resume(&ticket));
        assert_eq!(refused.code(), 437);
    }
    assert_eq!(world.shared.allocations.count(), 3);
}

#[test]
fn each_answer_has_another_ticket() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# The new ticket sent in the refresh response MUST be different from the old ticket.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (_, mut ticket) = allocated(&mut world, &mut client);
    for port in 50_000..50_005 {
        client = moved(&client, port);
        let response = client.ask(&mut world, &resume(&ticket));
        assert_eq!((response.code(), response.lifetime()), (0, Some(600)));
        assert_ne!(ticket_of(&response), ticket);
        ticket = ticket_of(&response);
        client.channel_data(&mut world, CHANNEL, b"here").unwrap();
        world.pass(1);
    }
}

#[test]
fn a_retransmission_is_answered_as_before() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# To accommodate the potential loss of Refresh responses, a server must retain the old STUN
    //# MOBILITY-TICKET attribute for a period of at least 30 seconds to be able to recognize a
    //# retransmission of the Refresh request with the old STUN MOBILITY-TICKET attribute from the
    //# client.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000);
    let stale = elsewhere.ask_once(&mut world, &resume(&ticket));
    elsewhere.learn(&stale);
    let request = elsewhere.request(&resume(&ticket));
    let first = elsewhere.exchange(&mut world, &request).unwrap();
    let second = elsewhere.exchange(&mut world, &request).unwrap();
    assert_eq!((first.code(), ticket_of(&first)), (0, ticket_of(&second)));
    // Also one that is on its way when the client has gone on already.
    elsewhere.channel_data(&mut world, CHANNEL, b"here").unwrap();
    world.pass(29);
    let third = elsewhere.exchange(&mut world, &request).unwrap();
    assert_eq!((third.code(), ticket_of(&third)), (0, ticket_of(&first)));
    world.pass(1);
    assert_eq!(elsewhere.exchange(&mut world, &request).unwrap().code(), 400);
    assert_eq!(world.stats().resumes, 1);
}

#[test]
fn a_used_ticket_is_void_once_the_client_has_gone_on() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# The old ticket can only be used for the purposes of retransmission.
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (relay, first) = allocated(&mut world, &mut client);
    let mut second = moved(&client, 50_000);
    let newer = ticket_of(&second.ask(&mut world, &resume(&first)));
    // The answer may have been lost: until the client has gone on, both are good.
    let mut third = moved(&client, 50_001);
    let newest = ticket_of(&third.ask(&mut world, &resume(&first)));
    third.channel_data(&mut world, CHANNEL, b"here").unwrap();
    let mut fourth = moved(&client, 50_002);
    for void in [&first, &newer] {
        assert_eq!(fourth.ask(&mut world, &resume(void)).code(), 400);
    }
    assert_eq!(reached(&mut world, relay), Ok(third.at.tuple.client));
    assert_eq!(fourth.ask(&mut world, &resume(&newest)).code(), 0);
}

#[test]
fn a_lifetime_is_granted_as_by_any_refresh() {
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    world.pass(500);
    let mut elsewhere = moved(&client, 50_000);
    let wrong = resume(&ticket).with(RequestedAddressFamily { family: Some(Family::V6) });
    assert_eq!(elsewhere.ask(&mut world, &wrong).code(), 443);
    let response = elsewhere.ask(&mut world, &resume(&ticket).with(Lifetime(900)));
    assert_eq!(response.lifetime(), Some(900));
    world.pass(899);
    assert_eq!(world.shared.allocations.count(), 1);
    world.pass(1);
    world.assert_empty();
}

#[test]
fn a_client_may_come_back_to_say_that_it_is_gone() {
    let mut world = world(2);
    for shard in [0, 1] {
        let mut client = TestClient::udp();
        let (_, ticket) = allocated(&mut world, &mut client);
        let mut elsewhere = moved(&client, 50_000).on(shard);
        let response = elsewhere.ask(&mut world, &resume(&ticket).with(Lifetime(0)));
        assert_eq!((response.code(), response.lifetime()), (0, Some(0)));
        assert!(response.message().get::<MobilityTicket<'_>>().unwrap().is_none());
        world.assert_empty();
    }
}

#[test]
fn a_storm_of_resumptions_is_bounded() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let (mut answered, mut silent) = (0, 0);
    for port in 1..=1_000 {
        let mut elsewhere = moved(&client, port).on(usize::from(port % 2));
        let stale = elsewhere.ask_once(&mut world, &resume(&ticket));
        elsewhere.learn(&stale);
        let request = elsewhere.request(&resume(&ticket));
        match elsewhere.exchange(&mut world, &request) {
            Some(response) => {
                assert_eq!(response.code(), 0);
                answered += 1;
            }
            None => silent += 1,
        }
    }
    assert_eq!((answered, silent), (10, 990));
    assert_eq!(world.drops_of_clients(Reason::RateLimited), 990);
    // Of the own shard's only the last one is remembered.
    assert!(world.stats().resuming <= 1 + 5, "{}", world.stats().resuming);
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
    world.pass(600);
    assert_eq!(world.stats().resuming, 0);
    world.assert_empty();
}
