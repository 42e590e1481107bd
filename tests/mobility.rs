//! Clients of a real daemon that go on with their allocations from other addresses (RFC 8016):
//! between shards, between transports, under traffic both ways.

mod common;

use std::net::UdpSocket;

use common::client::{Answer, Client, Transport, UDP};
use common::{PATIENCE, Relay, Setup, own_address};
use turnway_wire::{Method, MobilityTicket};

const CHANNEL: u16 = 0x4000;

/// How often a client moves: with four shards, from one to another three times in four. It may do so
/// ten times in a second.
const MOVES: u32 = 8;

/// Datagrams each way between two moves.
const BURST: u32 = 20;

fn relay(transports: &'static [&'static str]) -> Relay {
    let own = own_address();
    let addresses = format!("addresses = [\"{own}\"]\nmobility = true");
    Relay::start(Setup {
        shards: 4,
        listen: vec![(own, 3478).into()],
        relay: Some(addresses),
        transports,
        ..Setup::default()
    })
}

fn peer() -> UdpSocket {
    let peer = UdpSocket::bind((own_address(), 0)).expect("a free port");
    peer.set_read_timeout(Some(PATIENCE)).expect("a socket");
    peer
}

fn ticket(answer: &Answer) -> Vec<u8> {
    let ticket = answer.message().get::<MobilityTicket<'_>>().expect("well-formed");
    ticket.expect("a ticket").0.to_vec()
}

/// A mobile allocation with a channel: its relayed transport address and its ticket.
fn allocate(client: &mut Client, peer: &UdpSocket) -> (std::net::SocketAddr, Vec<u8>) {
    let answer = client.request(Method::ALLOCATE, &|b| {
        b.add(&UDP)?;
        b.add(&MobilityTicket(b""))
    });
    let answer = answer.expect_success();
    client.bind(CHANNEL, peer.local_addr().expect("bound")).expect_success();
    (answer.relayed()[0], ticket(&answer))
}

fn resume(client: &mut Client, ticket: &[u8]) -> Answer {
    client.request(Method::REFRESH, &|b| b.add(&MobilityTicket(ticket)))
}

/// What a peer gets next.
fn received(peer: &UdpSocket) -> u32 {
    let mut buffer = [0; 64];
    let len = peer.recv(&mut buffer).expect("a datagram arrives");
    u32::from_be_bytes(buffer[..len].try_into().expect("a number of ours"))
}

#[test]
fn nothing_is_lost_while_a_client_goes_from_address_to_address() {
    let (mut relay, peer) = (relay(&["udp", "tcp"]), peer());
    let mut client = Client::udp(relay.address);
    let (relayed, mut ticket_now) = allocate(&mut client, &peer);
    let (mut to_peer, mut to_client) = (0_u32, 0_u32);
    for _ in 0..MOVES {
        // Both ways from the old address, also when the new one is known already.
        let mut elsewhere = Client::udp(relay.address);
        let answer = resume(&mut elsewhere, &ticket_now).expect_success();
        ticket_now = ticket(&answer);
        for client in [&mut client, &mut elsewhere] {
            // The first ones from the new address bring the allocation there.
            for _ in 0..BURST {
                client.send_channel(CHANNEL, &to_peer.to_be_bytes());
                to_peer += 1;
            }
            for number in to_peer - BURST..to_peer {
                assert_eq!(received(&peer), number);
            }
            for _ in 0..BURST {
                peer.send_to(&to_client.to_be_bytes(), relayed).expect("sent");
                to_client += 1;
            }
            for number in to_client - BURST..to_client {
                assert_eq!(client.receive_data(), number.to_be_bytes());
            }
        }
        client.send_channel(CHANNEL, b"late");
        client = elsewhere;
    }
    relay.await_samples("moves", |samples| {
        samples["turnway_mobility_moves_total"] == f64::from(MOVES)
            && samples["turnway_mobility_moves_between_shards_total"] > 0.0
            && samples["turnway_mobility_resuming"] == 0.0
            && samples["turnway_mobility_dropped_messages_total"] == 0.0
    });
    relay.await_line("a move", |line| line.contains("client moved"));
    client.refresh(0).expect_success();
    relay.await_no_allocations();
}

#[test]
fn a_client_goes_on_over_any_transport_also_when_its_connection_is_gone() {
    let (relay, peer) = (relay(&["auto"]), peer());
    let roots = relay.roots();
    let over = |transport| Client::over(transport, relay.address, &roots);
    let mut client = over(Transport::Tcp);
    let (relayed, mut ticket_now) = allocate(&mut client, &peer);
    let order = [Transport::Tls, Transport::Udp, Transport::Dtls, Transport::Tcp, Transport::Tls];
    for (break_first, transport) in [false, true].iter().cycle().zip(order) {
        let old = (!break_first).then_some(client);
        let mut elsewhere = over(transport);
        ticket_now = ticket(&resume(&mut elsewhere, &ticket_now).expect_success());
        elsewhere.send_channel(CHANNEL, &7_u32.to_be_bytes());
        assert_eq!(received(&peer), 7);
        peer.send_to(b"to you", relayed).expect("sent");
        assert_eq!(elsewhere.receive_data(), b"to you");
        drop(old);
        client = elsewhere;
    }
    relay.await_samples("the allocation", |samples| {
        samples["turnway_allocations{transport=\"tls\"}"] == 1.0
    });
    client.refresh(0).expect_success();
    relay.await_no_allocations();
}

#[test]
fn other_users_and_other_servers_tickets_are_refused() {
    let (here, there, peer) = (relay(&["udp"]), relay(&["udp"]), peer());
    let mut client = Client::udp(here.address);
    let (relayed, ticket) = allocate(&mut client, &peer);
    resume(&mut Client::udp(there.address), &ticket).expect_code(400);
    let expiry = "4000000000:somebody";
    let password = turnway_relay::auth::rest_password(common::SECRET.as_bytes(), expiry.as_bytes());
    let mut other = Client::udp(here.address).with_credentials(expiry, &password);
    resume(&mut other, &ticket).expect_code(441);
    peer.send_to(b"still here", relayed).expect("sent");
    assert_eq!(client.receive_data(), b"still here");
    resume(&mut Client::udp(here.address), &ticket).expect_success();
    client.refresh(0).expect_success();
    here.await_no_allocations();
}
