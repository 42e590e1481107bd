//! The new five-tuple is another shard's than the allocation.

use super::*;
use turnway_relay::quota::{Bandwidth, UserLimits};
use turnway_relay::{Quotas, RelayId};

/// A client that has asked to go on from a port of another shard, and its new ticket.
fn about_to_move(
    world: &mut World,
    client: &TestClient,
    ticket: &[u8],
    port: u16,
    shard: usize,
) -> (TestClient, Vec<u8>) {
    let mut elsewhere = moved(client, port).on(shard);
    let response = elsewhere.ask(world, &resume(ticket));
    assert_eq!(response.code(), 0, "{response:?}");
    (elsewhere, ticket_of(&response))
}

#[test]
fn the_allocation_comes_to_the_shard_of_the_new_address() {
    let mut world = world(4);
    let mut client = TestClient::udp();
    let (relay, mut ticket) = allocated(&mut world, &mut client);
    let session = world.servers[0].find_session(1, world.now).unwrap().session;
    // To every shard, and home again.
    for (port, shard) in [(50_001, 1), (50_002, 3), (50_003, 2), (50_004, 2), (50_005, 0)] {
        let (mut elsewhere, newer) = about_to_move(&mut world, &client, &ticket, port, shard);
        assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
        assert_eq!(client.channel_data(&mut world, CHANNEL, b"old").unwrap().payload, b"old");
        let sent = elsewhere.channel_data(&mut world, CHANNEL, b"new").unwrap();
        assert_eq!((sent.from, &sent.payload[..]), (relay, &b"new"[..]));
        assert_eq!(reached(&mut world, relay), Ok(elsewhere.at.tuple.client));
        assert_eq!(client.channel_data(&mut world, CHANNEL, b"x"), Err(Reason::NoAllocation));
        assert_eq!(elsewhere.ask_once(&mut world, &Ask::refresh(600)).code(), 0);
        assert_eq!(world.home_of(session), Some(shard));
        let stats = world.stats();
        assert_eq!((stats.resuming, stats.total_allocations(), stats.channels), (0, 1, 1));
        (client, ticket) = (elsewhere, newer);
    }
    assert_eq!((world.stats().moves, world.stats().moves_between_shards), (5, 4));
    assert_eq!(world.ledger.allocations(), 1);
    client.ask(&mut world, &Ask::refresh(0));
    world.assert_empty();
    let Some(Record::Ended(ended)) = world.records.last() else { panic!("{:?}", world.records) };
    assert_eq!((ended.session, ended.traffic.to_peer, ended.traffic.to_client), (session, 10, 10));
}

#[test]
fn a_request_brings_it_along_as_well() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let (mut elsewhere, _) = about_to_move(&mut world, &client, &ticket, 50_000, 1);
    elsewhere.bind(&mut world, 0x4001, "198.51.100.2:7");
    assert_eq!(reached(&mut world, relay), Ok(elsewhere.at.tuple.client));
    assert_eq!(world.servers[1].find_session(1, world.now).unwrap().channels, 2);
}

#[test]
fn a_stale_nonce_a_wrong_user_and_a_bad_ticket_are_told_from_there_too() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000).on(1);
    assert_eq!(elsewhere.ask_once(&mut world, &resume(&ticket)).code(), 438);
    let mut bob = TestClient::new("192.0.2.66:666").of("bob", "hunter2").on(1);
    assert_eq!(bob.ask(&mut world, &resume(&ticket)).code(), 441);
    assert_eq!(bob.channel_data(&mut world, CHANNEL, b"x"), Err(Reason::NoAllocation));
    let mut stranger = TestClient::new("192.0.2.67:666").on(1);
    assert_eq!(stranger.ask_once(&mut world, &resume(&ticket)).code(), 401);
    assert_eq!(elsewhere.ask(&mut world, &resume(b"nothing of ours")).code(), 400);
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
    assert_eq!(world.stats().resuming, 0);
}

#[test]
fn a_retransmission_is_answered_by_whoever_has_the_allocation() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000).on(1);
    let stale = elsewhere.ask_once(&mut world, &resume(&ticket));
    elsewhere.learn(&stale);
    let request = elsewhere.request(&resume(&ticket));
    let first = elsewhere.exchange(&mut world, &request).unwrap();
    let second = elsewhere.exchange(&mut world, &request).unwrap();
    elsewhere.channel_data(&mut world, CHANNEL, b"here").unwrap();
    let third = elsewhere.exchange(&mut world, &request).unwrap();
    for response in [&second, &third] {
        assert_eq!(ticket_of(response), ticket_of(&first));
    }
}

#[test]
fn the_end_of_the_old_connection_sends_it_there() {
    let mut world = world(2);
    let mut client = TestClient::tcp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let (elsewhere, _) = about_to_move(&mut world, &client, &ticket, 50_000, 1);
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    assert_eq!(reached(&mut world, relay), Ok(elsewhere.at.tuple.client));
    assert_eq!(world.home_of(1), Some(1));
}

#[test]
fn an_allocation_whose_client_went_meanwhile_waits_where_it_arrived() {
    let mut world = world(2);
    let mut client = TestClient::tcp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let (elsewhere, newer) = about_to_move(&mut world, &client, &ticket, 50_000, 1);
    world.handle(1, Event::Disconnected { tuple: elsewhere.at.tuple });
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    assert_eq!(world.home_of(1), Some(1));
    assert_eq!(reached(&mut world, relay), Err(Reason::ClientAway));
    let (third, _) = about_to_move(&mut world, &client, &newer, 50_001, 0);
    third.channel_data(&mut world, CHANNEL, b"here").unwrap();
    assert_eq!(reached(&mut world, relay), Ok(third.at.tuple.client));
    assert_eq!(world.home_of(1), Some(0));
}

#[test]
fn whoever_was_overtaken_gets_nothing() {
    let mut world = world(3);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let (first, _) = about_to_move(&mut world, &client, &ticket, 50_001, 1);
    let (second, _) = about_to_move(&mut world, &client, &ticket, 50_002, 2);
    // The first was told that it may go on, and has been replaced since.
    let late = first.channel_data(&mut world, CHANNEL, b"x");
    assert_eq!(late, Err(Reason::NoAllocation));
    assert_eq!(reached(&mut world, relay), Ok(client.at.tuple.client));
    second.channel_data(&mut world, CHANNEL, b"here").unwrap();
    assert_eq!(reached(&mut world, relay), Ok(second.at.tuple.client));
    assert_eq!(world.stats().resuming, 0);
}

#[test]
fn quotas_count_it_once_wherever_it_is() {
    let user = UserLimits { allocations: Some(2), ..UserLimits::default() };
    let quotas = Quotas { default: user, ..Quotas::default() };
    let mut world = World::new(&Settings { quotas, ..settings(2) });
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    let mut other = TestClient::new("192.0.2.2:2");
    other.allocate(&mut world);
    let (mut elsewhere, _) = about_to_move(&mut world, &client, &ticket, 50_000, 1);
    elsewhere.channel_data(&mut world, CHANNEL, b"here").unwrap();
    for shard in [0, 1] {
        let mut third = TestClient::new("192.0.2.3:3").on(shard);
        assert_eq!(third.ask(&mut world, &Ask::allocate()).code(), 486);
    }
    elsewhere.ask(&mut world, &Ask::refresh(0));
    TestClient::new("192.0.2.3:3").allocate(&mut world);
    assert_eq!((world.ledger.allocations(), world.ledger.users()), (2, 1));
}

#[test]
fn nobody_gets_another_burst_by_moving() {
    let limit = Bandwidth { bytes_per_second: 1_000, burst_bytes: 5_000 };
    let of_user = UserLimits { bandwidth: Some(limit), ..UserLimits::default() };
    let of_each = UserLimits { bandwidth_per_allocation: Some(limit), ..UserLimits::default() };
    for default in [of_user, of_each] {
        let quotas = Quotas { default, ..Quotas::default() };
        let mut world = World::new(&Settings { quotas, ..settings(2) });
        let mut client = TestClient::udp();
        let (_, mut ticket) = allocated(&mut world, &mut client);
        let mut passed = 0;
        for port in 50_000..50_010 {
            for _ in 0..10 {
                let sent = client.channel_data(&mut world, CHANNEL, &[7; 1_000]);
                passed += usize::from(sent.is_ok());
            }
            let shard = usize::from(port % 2 == 0);
            (client, ticket) = about_to_move(&mut world, &client, &ticket, port, shard);
        }
        assert!((4..=5).contains(&passed), "{passed} datagrams of a burst of 5");
    }
}

#[test]
fn a_configuration_that_came_on_the_way_is_heeded() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    let (mut elsewhere, _) = about_to_move(&mut world, &client, &ticket, 50_000, 1);
    assert!(world.servers[0].claim(1, &elsewhere.at.tuple, world.now));
    let mut relays = Vec::new();
    let departure = loop {
        match world.servers[0].poll().expect("an allocation that departs") {
            turnway_relay::Effect::Depart { allocation, shard } => {
                assert_eq!(shard, 1);
                relays.push(RelayId { allocation, family: Family::V4 });
                break world.servers[0].depart(allocation).expect("it is there");
            }
            turnway_relay::Effect::ChannelDown { relay, number, .. } => {
                world.channels[0].remove(&(relay, number));
            }
            other => panic!("{other:?} before it departs"),
        }
    };
    let strict = Settings { deny: vec!["198.51.100.0/24"], allow: vec![], ..settings(2) };
    world.configure(&strict);
    let socket = world.sockets[0].remove(&relays[0]).expect("a relay socket");
    let id = world.servers[1].arrive(departure, world.now);
    world.sockets[1].insert(RelayId { allocation: id, family: Family::V4 }, socket);
    world.expire();
    let denied = elsewhere.channel_data(&mut world, CHANNEL, b"x");
    assert_eq!(denied, Err(Reason::NoChannel));
    elsewhere.ask(&mut world, &Ask::refresh(0));
    world.assert_empty();
}

#[test]
fn a_claim_for_what_is_not_there_is_refused() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (_, ticket) = allocated(&mut world, &mut client);
    let (elsewhere, _) = about_to_move(&mut world, &client, &ticket, 50_000, 1);
    let server = &mut world.servers[0];
    assert!(!server.claim(2, &elsewhere.at.tuple, world.now));
    assert!(!server.claim(1, &client.at.tuple, world.now));
    let late = turnway_relay::Now { mono_ns: world.now.mono_ns + 301_000_000_000, ..world.now };
    assert!(!server.claim(1, &elsewhere.at.tuple, late));
    assert!(server.poll().is_none());
}

#[test]
fn an_allocation_made_while_another_shard_was_asked_keeps_its_five_tuple() {
    let mut world = world(2);
    let mut client = TestClient::tcp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let mut elsewhere = moved(&client, 50_000).on(1);
    let stale = elsewhere.ask_once(&mut world, &resume(&ticket));
    elsewhere.learn(&stale);
    let request = elsewhere.request(&resume(&ticket));
    // Its shard has not heard yet that the other one has agreed.
    world.handle(0, Event::Resume { from: elsewhere.at, data: &request, shard: 1 });
    assert!(world.servers[0].awaits(1, &elsewhere.at.tuple));
    let own = elsewhere.ask(&mut world, &Ask::allocate()).relayed()[0];
    elsewhere.bind(&mut world, CHANNEL, PEER);
    world.servers[1].expect(&elsewhere.at, 1, world.now);
    assert_eq!(reached(&mut world, own), Ok(elsewhere.at.tuple.client));
    elsewhere.channel_data(&mut world, CHANNEL, b"its own").unwrap();
    // What comes nevertheless waits for a client with its ticket.
    world.handle(0, Event::Disconnected { tuple: client.at.tuple });
    assert_eq!(world.home_of(1), Some(1));
    assert_eq!(reached(&mut world, relay), Err(Reason::ClientAway));
    assert_eq!(elsewhere.channel_data(&mut world, CHANNEL, b"x").unwrap().from, own);
    elsewhere.ask(&mut world, &Ask::refresh(0));
    assert_eq!(elsewhere.channel_data(&mut world, CHANNEL, b"x"), Err(Reason::NoAllocation));
    world.pass(600);
    world.assert_empty();
}

#[test]
fn where_a_client_did_not_go_on_nobody_waits_for_what_has_come() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let (mut first, _) = about_to_move(&mut world, &client, &ticket, 50_001, 1);
    let (mut second, _) = about_to_move(&mut world, &client, &ticket, 50_002, 1);
    second.channel_data(&mut world, CHANNEL, b"here").unwrap();
    assert_eq!((world.home_of(1), world.stats().resuming), (Some(1), 1));
    assert_eq!(world.servers[1].settle(&first.at), None, "there is nothing to claim");
    assert_eq!(world.stats().resuming, 0);
    assert_eq!(first.ask(&mut world, &Ask::refresh(600)).code(), 437);
    assert_eq!(reached(&mut world, relay), Ok(second.at.tuple.client));
    second.ask(&mut world, &Ask::refresh(0));
    world.assert_empty();
}

#[test]
fn a_refusal_is_for_one_session_only() {
    let mut world = world(2);
    let mut client = TestClient::udp();
    let (relay, ticket) = allocated(&mut world, &mut client);
    let (elsewhere, _) = about_to_move(&mut world, &client, &ticket, 50_000, 1);
    world.servers[1].stop_expecting(2, &elsewhere.at.tuple);
    elsewhere.channel_data(&mut world, CHANNEL, b"here").unwrap();
    assert_eq!(reached(&mut world, relay), Ok(elsewhere.at.tuple.client));
}
