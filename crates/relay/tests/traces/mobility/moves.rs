//! When an allocation moves, and what goes along with it.

use super::*;
use turnway_relay::{Now, Protocol};

use crate::common::second_path::Fate;

#[test]
fn everything_stays_until_data_comes_from_the_new_address() {
    //= rfc8016#section-3.2.2
    //= type=test
    //# The TURN server MUST continue receiving and processing data on the old 5-tuple and MUST
    //# continue transmitting data on the old-5 tuple until it receives a Send Indication or
    //# ChannelData message from the client on the new 5-tuple or a message from the client to close
    //# the old connection (e.g., a TLS fatal alert or TCP RST).
    for indication in [false, true] {
        let mut world = world(1);
        let mut client = TestClient::udp();
        let (relay, ticket) = allocated(&mut world, &mut client);
        let mut elsewhere = moved(&client, 50_000);
        assert_eq!(elsewhere.ask(&mut world, &resume(&ticket)).code(), 0);
        assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
        assert_eq!(client.channel_data(&mut world, CHANNEL, b"old").unwrap().payload, b"old");
        assert_eq!(client.ask_once(&mut world, &Ask::refresh(600)).code(), 0);
        let sent = match indication {
            true => elsewhere.send(&mut world, PEER, b"new").unwrap(),
            false => elsewhere.channel_data(&mut world, CHANNEL, b"new").unwrap(),
        };
        assert_eq!((sent.from, &sent.payload[..]), (relay, &b"new"[..]));
        //= rfc8016#section-3.2.2
        //= type=test
        //# After receiving any of those messages, a TURN server discards the old ticket and the old
        //# 5-tuple associated with the old ticket from its state data.
        assert_eq!(reached(&mut world, relay), Ok(elsewhere.at.tuple.client));
        assert_eq!(client.channel_data(&mut world, CHANNEL, b"x"), Err(Reason::NoAllocation));
        assert_eq!(client.ask_once(&mut world, &Ask::refresh(600)).code(), 437);
        let stats = world.stats();
        assert_eq!((stats.moves, stats.resuming, stats.total_allocations()), (1, 0, 1));
    }
}

#[test]
fn a_request_from_the_new_address_moves_it_as_data_does() {
    let asks = [
        Ask::create_permission(&[PEER]),
        Ask::channel_bind(0x4001, "198.51.100.9:9"),
        Ask::refresh(700),
    ];
    for ask in asks {
        let mut world = world(1);
        let mut client = TestClient::udp();
        let (relay, ticket) = allocated(&mut world, &mut client);
        let mut elsewhere = moved(&client, 50_000);
        assert_eq!(elsewhere.ask(&mut world, &resume(&ticket)).code(), 0);
        assert_eq!(elsewhere.ask_once(&mut world, &ask).code(), 0);
        assert_eq!(reached(&mut world, relay), Ok(elsewhere.at.tuple.client));
    }
}

#[test]
fn a_binding_request_moves_nothing() {
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000);
    assert_eq!(elsewhere.ask(&mut world, &resume(&ticket)).code(), 0);
    assert_eq!(elsewhere.ask(&mut world, &Ask::new(Method::BINDING)).code(), 0);
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
}

#[test]
fn channels_permissions_timers_and_numbers_go_along() {
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let before = world.servers[0].find_session(1, world.now).unwrap();
    world.pass(200);
    let mut elsewhere = moved(&client, 50_000);
    elsewhere.ask(&mut world, &resume(&ticket));
    elsewhere.channel_data(&mut world, CHANNEL, b"12345").unwrap();
    let after = world.servers[0].find_session(1, world.now).unwrap();
    assert_eq!((after.v4, after.user, after.age_s), (before.v4, before.user, 200));
    assert_eq!((after.channels, after.permissions, after.traffic.to_peer_bytes), (1, 1, 5));
    assert_eq!(after.tuple, elsewhere.at.tuple);
    // The permission is as old as before.
    world.pass(99);
    assert!(reached(&mut world, relay).is_ok());
    world.pass(1);
    assert_eq!(reached(&mut world, relay), Err(Reason::NoPermission));
    world.pass(500);
    world.assert_empty();
    let moves = world.records.iter().filter(|record| matches!(record, Record::Moved(_)));
    assert_eq!(moves.count(), 1);
    let Some(Record::Ended(ended)) = world.records.last() else { panic!("{:?}", world.records) };
    assert_eq!((ended.session, ended.tuple, ended.traffic.to_peer), (1, elsewhere.at.tuple, 1));
}

#[test]
fn a_second_data_path_goes_on_from_the_new_address() {
    let mut world = world(2);
    let path = world.offload(8);
    let mut client = TestClient::udp();
    let (_, mut ticket) = allocated(&mut world, &mut client);
    // On the same shard, on the other one, over TLS, and back.
    let steps =
        [(0, Transport::Udp), (1, Transport::Udp), (1, Transport::Tls), (0, Transport::Udp)];
    for (port, (shard, transport)) in (50_000..).zip(steps) {
        let fate = |client: &TestClient, now: Now| {
            path.client_sends(client.at.tuple, CHANNEL, 100, now.mono_ns)
        };
        let mut elsewhere = moved(&client, port).on(shard);
        elsewhere.at.tuple.transport = transport;
        ticket = ticket_of(&elsewhere.ask(&mut world, &resume(&ticket)));
        let offloaded = match client.at.tuple.transport {
            Transport::Udp => Fate::Relayed,
            Transport::Tcp | Transport::Tls | Transport::Dtls => Fate::PassedUp,
        };
        assert_eq!(fate(&client, world.now), offloaded);
        assert_eq!(fate(&elsewhere, world.now), Fate::PassedUp);
        elsewhere.channel_data(&mut world, CHANNEL, b"here").unwrap();
        assert_eq!(fate(&client, world.now), Fate::PassedUp);
        client = elsewhere;
    }
    client.ask(&mut world, &Ask::refresh(0));
    assert_eq!(path.open_places(), 0);
    let Some(Record::Ended(ended)) = world.records.last() else { panic!("{:?}", world.records) };
    // Three times it was relayed there before it moved.
    assert_eq!(ended.traffic.to_peer_bytes, 3 * 100 + 4 * 4);
    world.assert_empty();
}

#[test]
fn a_client_may_go_on_over_any_transport() {
    for from in Transport::ALL {
        for to in Transport::ALL {
            let mut world = world(1);
            let mut client = TestClient::udp();
            client.at.tuple.transport = from;
            let (relay, ticket) = allocated(&mut world, &mut client);
            let mut elsewhere = moved(&client, 50_000);
            elsewhere.at.tuple.transport = to;
            assert_eq!(elsewhere.ask(&mut world, &resume(&ticket)).code(), 0);
            elsewhere.channel_data(&mut world, CHANNEL, b"abc").unwrap();
            let delivered = world.peer_sends(relay, PEER.parse().unwrap(), b"abc").unwrap();
            assert_eq!(delivered.to.tuple, elsewhere.at.tuple);
            // ChannelData is padded over streams only.
            assert_eq!(delivered.bytes.len(), if to.is_stream() { 8 } else { 7 });
            let stats = world.stats();
            assert_eq!((stats.allocations_of(to), stats.total_allocations()), (1, 1));
        }
    }
}

#[test]
fn an_allocation_outlives_its_connection_and_waits() {
    let mut world = world(1);
    let mut client = TestClient::tcp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    assert_eq!(world.stats().total_allocations(), 1);
    assert_eq!(reached(&mut world, relay), Err(Reason::ClientAway));
    // Whoever has the same address next is somebody else, whatever he says.
    let data = client.channel_data(&mut world, CHANNEL, b"x");
    assert_eq!(data, Err(Reason::NoAllocation));
    assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 437);
    // But the client may well have the same address again.
    let response = client.ask(&mut world, &resume(&ticket));
    assert_eq!(response.code(), 0);
    client.channel_data(&mut world, CHANNEL, b"back").unwrap();
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
    // It does not wait for longer than it lives.
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    world.pass(599);
    assert_eq!(world.shared.allocations.count(), 1);
    world.pass(1);
    world.assert_empty();
    let Some(Record::Ended(ended)) = world.records.last() else { panic!("{:?}", world.records) };
    assert_eq!(ended.reason, EndReason::Expired);
}

#[test]
fn without_a_ticket_an_allocation_ends_with_its_connection() {
    let mut world = world(1);
    let mut client = TestClient::tcp();
    client.allocate(&mut world);
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    world.assert_empty();
}

#[test]
fn the_end_of_the_old_connection_moves_it() {
    let mut world = world(1);
    let mut client = TestClient::tcp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000);
    assert_eq!(elsewhere.ask(&mut world, &resume(&ticket)).code(), 0);
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    assert_eq!(reached(&mut world, relay), Ok(elsewhere.at.tuple.client));
}

#[test]
fn a_new_connection_that_ends_at_once_changes_nothing() {
    let mut world = world(1);
    let mut client = TestClient::tcp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000);
    let newer = ticket_of(&elsewhere.ask(&mut world, &resume(&ticket)));
    world.handle(0, Event::Disconnected { tuple: elsewhere.at.tuple });
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
    let late = elsewhere.channel_data(&mut world, CHANNEL, b"x");
    assert_eq!(late, Err(Reason::NoAllocation));
    // Then the old one ends too, and the client comes back with what it was told last.
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    let mut third = moved(&client, 50_001);
    assert_eq!(third.ask(&mut world, &resume(&newer)).code(), 0);
    third.channel_data(&mut world, CHANNEL, b"here").unwrap();
    assert_eq!(reached(&mut world, relay), Ok(third.at.tuple.client));
}

#[test]
fn who_does_not_go_on_in_time_has_to_ask_again() {
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000);
    let newer = ticket_of(&elsewhere.ask(&mut world, &resume(&ticket)));
    world.pass(299);
    client.permit(&mut world, &[PEER]);
    assert_eq!(world.stats().resuming, 1);
    world.pass(1);
    assert_eq!(world.stats().resuming, 0);
    let late = elsewhere.channel_data(&mut world, CHANNEL, b"x");
    assert_eq!(late, Err(Reason::NoAllocation));
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
    assert_eq!(elsewhere.ask(&mut world, &resume(&newer)).code(), 0);
    elsewhere.channel_data(&mut world, CHANNEL, b"here").unwrap();
    assert_eq!(reached(&mut world, relay), Ok(elsewhere.at.tuple.client));
}

#[test]
fn an_allocation_that_ends_takes_its_resumption_along() {
    let mut world = world(1);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000);
    elsewhere.ask(&mut world, &resume(&ticket));
    client.ask(&mut world, &Ask::refresh(0));
    assert_eq!(world.stats().resuming, 0);
    world.assert_empty();
    // The address is free for an allocation of its own.
    elsewhere.allocate(&mut world);
    let session = world.servers[0].find_session(2, world.now).unwrap();
    assert_eq!(session.protocol, Protocol::Udp);
}

#[test]
fn two_that_were_to_go_on_from_one_address_do_not_both() {
    let mut world = world(1);
    let (mut one, mut other) = (TestClient::tcp(), moved(&TestClient::tcp(), 40_000));
    let (relay, ticket) = allocated(&mut world, &mut one);
    let (relay_of_other, ticket_of_other) = allocated(&mut world, &mut other);
    let mut elsewhere = moved(&one, 50_000);
    let newer = ticket_of(&elsewhere.ask(&mut world, &resume(&ticket)));
    assert_eq!(elsewhere.ask(&mut world, &resume(&ticket_of_other)).code(), 0);
    elsewhere.channel_data(&mut world, CHANNEL, b"here").unwrap();
    assert_eq!(reached(&mut world, relay_of_other), Ok(elsewhere.at.tuple.client));
    // Whoever was displaced stays where it is, and has to ask again when that ends.
    assert_eq!(reached(&mut world, relay), Ok(one.at.tuple.client));
    world.handle(0, Event::Disconnected { tuple: one.at.tuple });
    assert_eq!(reached(&mut world, relay), Err(Reason::ClientAway));
    assert_eq!(reached(&mut world, relay_of_other), Ok(elsewhere.at.tuple.client));
    let mut third = moved(&one, 50_001);
    assert_eq!(third.ask(&mut world, &resume(&newer)).code(), 0);
    third.channel_data(&mut world, CHANNEL, b"here").unwrap();
    assert_eq!(reached(&mut world, relay), Ok(third.at.tuple.client));
    for client in [&mut elsewhere, &mut third] {
        client.ask(&mut world, &Ask::refresh(0));
    }
    world.assert_empty();
}
