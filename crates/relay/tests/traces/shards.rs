//! Several servers with one port pool.

use std::collections::BTreeSet;

use turnway_relay::Reason;
use turnway_wire::{EvenPort, ReservationToken};

use crate::common::client::{Ask, TestClient};
use crate::common::{PEER, Settings, World};

fn world(servers: usize, ports: (u16, u16)) -> World {
    World::new(&Settings {
        servers,
        ports,
        relays: vec![("203.0.113.7", "203.0.113.7")],
        ..Settings::default()
    })
}

#[test]
fn an_allocation_is_known_to_its_server_alone() {
    let mut world = world(2, (49152, 65535));
    let mut here = TestClient::udp();
    here.allocate(&mut world);
    here.bind(&mut world, 0x4000, PEER);
    // The nonce of one server is good at another; the allocation is not there.
    let mut there = here.clone().on(1);
    assert_eq!(there.ask_once(&mut world, &Ask::refresh(600)).code(), 437);
    let data = there.channel_data(&mut world, 0x4000, b"x");
    assert_eq!(data, Err(Reason::NoAllocation));
    assert_eq!(there.send(&mut world, PEER, b"x"), Err(Reason::NoAllocation));
    there.allocate(&mut world);
    assert_eq!(world.shared.allocations.count(), 2);
}

#[test]
fn a_thousand_pairs_on_four_servers() {
    let mut world = world(4, (49152, 65535));
    for pair in 0..1000_usize {
        let client = |port: usize| TestClient::new(&format!("192.0.2.{}:{port}", pair % 250));
        let mut rtp = client(1 + pair * 2).on(pair % 4);
        let ask = Ask::allocate().with(EvenPort { reserve_next: true });
        let response = rtp.ask(&mut world, &ask);
        assert_eq!(response.code(), 0);
        let even = response.relayed()[0].port();
        assert_eq!(even % 2, 0);
        // The client's second socket ends up at whatever server its five-tuple hashes to.
        let mut rtcp = client(2 + pair * 2).on((pair / 4 + pair) % 4);
        let ask = Ask::allocate().with(ReservationToken(response.token().unwrap()));
        let response = rtcp.ask(&mut world, &ask);
        assert_eq!(response.code(), 0);
        assert_eq!(response.relayed()[0].port(), even + 1);
    }
    let counts = world.pool.counts();
    assert_eq!((counts.claimed, counts.reserved), (2000, 0));
    world.pass(600);
    world.assert_empty();
}

#[test]
fn ten_ports_and_eight_servers_are_ten_allocations() {
    let mut world = world(8, (50_000, 50_009));
    for round in 0..20_u16 {
        let mut clients: Vec<_> = (0..10_u16)
            .map(|index| {
                let port = 1 + round * 100 + index;
                TestClient::new(&format!("192.0.2.1:{port}")).on(usize::from(index % 8))
            })
            .collect();
        let ports: BTreeSet<_> =
            clients.iter_mut().map(|client| client.allocate(&mut world).port()).collect();
        assert!(ports.iter().copied().eq(50_000..=50_009), "to the last port");
        let mut eleventh = TestClient::new("192.0.2.2:1").on(usize::from(round % 8));
        assert_eq!(eleventh.ask(&mut world, &Ask::allocate()).code(), 508);
        for client in &mut clients {
            assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0);
        }
        world.assert_empty();
    }
}

#[test]
fn five_pairs_fill_ten_ports() {
    let mut world = world(8, (50_000, 50_009));
    let ask = Ask::allocate().with(EvenPort { reserve_next: true });
    let mut tokens = Vec::new();
    for pair in 0..5 {
        let mut client = TestClient::new(&format!("192.0.2.1:{}", pair + 1)).on(pair);
        tokens.push(client.ask(&mut world, &ask).token().expect("a pair"));
    }
    let mut late = TestClient::new("192.0.2.1:99").on(7);
    assert_eq!(late.ask(&mut world, &ask).code(), 508);
    assert_eq!(late.ask(&mut world, &Ask::allocate()).code(), 508);
    // A reservation that is not redeemed comes back.
    world.pass(30);
    assert_eq!(world.pool.counts().free, 5);
    assert_eq!(late.allocate(&mut world).port() % 2, 1);
    let redeemed = Ask::allocate().with(ReservationToken(tokens[0]));
    assert_eq!(TestClient::tcp().ask(&mut world, &redeemed).code(), 508);
    world.pass(600);
    world.assert_empty();
}
