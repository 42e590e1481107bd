//! Accounting: whatever happens, everything comes back.

use turnway_relay::Event;
use turnway_wire::{AdditionalAddressFamily, EvenPort, Family, Lifetime};

use crate::common::client::{Ask, TestClient};
use crate::common::{PEER, PEER_V6, Settings, World};

#[test]
fn every_way_to_end_gives_everything_back() {
    let mut world = World::new(&Settings { ports: (50_000, 50_999), ..Settings::default() });
    let all = world.pool.counts();
    for round in 0..200_u16 {
        let mut client = match round % 2 {
            0 => TestClient::new(&format!("192.0.2.1:{}", round + 1)),
            _ => TestClient::tcp(),
        };
        let ask = match round % 4 {
            0 => Ask::allocate(),
            1 => Ask::allocate().with(AdditionalAddressFamily { family: Some(Family::V6) }),
            2 => Ask::allocate().with(EvenPort { reserve_next: true }),
            _ => Ask::allocate().with(Lifetime(3600)),
        };
        let relayed = client.ask(&mut world, &ask).relayed();
        client.bind(&mut world, 0x4000, PEER);
        if relayed.len() == 2 {
            client.bind(&mut world, 0x4001, PEER_V6);
        }
        match round % 3 {
            0 => world.pass(3600),
            1 => assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 0),
            _ => {
                let tuple = client.at.tuple;
                world.handle(0, Event::Disconnected { tuple });
            }
        }
        world.pass(30);
        world.assert_empty();
        assert_eq!(world.pool.counts(), all);
    }
    let stats = world.stats();
    assert_eq!(stats.allocations_started, 200);
    assert_eq!(stats.allocations_ended.iter().sum::<u64>(), 200);
}

#[test]
fn hostile_bytes_are_not_worth_a_crash() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    let asks = [
        Ask::allocate(),
        Ask::refresh(600),
        Ask::create_permission(&[PEER]),
        Ask::channel_bind(0x4000, PEER),
    ];
    for ask in &asks {
        let request = client.request(ask);
        for at in 0..request.len() {
            for bit in 0..8 {
                let mut bytes = request.clone();
                bytes[at] ^= 1 << bit;
                let from = client.at;
                let now = world.now;
                let route = world.servers[0].route_client(&from, &bytes, None, now);
                if matches!(route, turnway_relay::Route::Request) {
                    let event = Event::Request { from, data: &bytes };
                    let reply = world.handle(0, event);
                    assert!(reply.is_none_or(|(_, bytes)| bytes.len() < 200));
                }
            }
            let cut = &request[..at];
            world.handle(0, Event::Request { from: client.at, data: cut });
        }
    }
    // What was signed was not what arrived, so nothing has changed.
    let stats = world.stats();
    assert_eq!(
        (stats.allocations_of(turnway_relay::Transport::Udp), stats.permissions, stats.channels),
        (1, 1, 1)
    );
}
