//! Refresh (RFC 8656 section 8.2) and the end of allocations.

use turnway_relay::{EndReason, Reason, Record};
use turnway_wire::{Family, Lifetime, Method, RequestedAddressFamily};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{PEER, World, addr};

#[test]
fn a_refresh_sets_the_time_to_expiry() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    world.pass(599);
    let response = client.ask(&mut world, &Ask::new(Method::REFRESH));
    assert_eq!(response.lifetime(), Some(600));
    world.pass(599);
    assert_eq!(world.shared.allocations.count(), 1);
    world.pass(1);
    world.assert_empty();
}

#[test]
fn a_lifetime_has_the_bounds_of_an_allocate() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    for (asked, granted) in [(1, 600), (601, 601), (3600, 3600), (u32::MAX, 3600), (600, 600)] {
        let response = client.ask(&mut world, &Ask::refresh(asked));
        assert_eq!(response.lifetime(), Some(granted));
    }
    // The last one counts, though it is shorter than the one before.
    world.pass(600);
    world.assert_empty();
}

#[test]
fn lifetime_0_ends_the_allocation() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    let response = client.ask(&mut world, &Ask::refresh(0));
    assert_eq!((response.code(), response.lifetime()), (0, Some(0)));
    world.assert_empty();
    let Some(Record::Ended(ended)) = world.records.last() else { panic!("{:?}", world.records) };
    assert_eq!((ended.reason, ended.v4), (EndReason::Deleted, Some(relay)));
    assert_eq!(client.ask(&mut world, &Ask::refresh(0)).code(), 437);
    let late = client.channel_data(&mut world, 0x4000, b"late");
    assert_eq!(late, Err(Reason::NoAllocation));
}

#[test]
fn the_family_must_be_the_allocations() {
    //= rfc8656#section-8.2
    //= type=test
    //# If the server receives a Refresh Request with a REQUESTED-ADDRESS-FAMILY attribute and the
    //# attribute value does not match the address family of the allocation, the server MUST reply
    //# with a 443 (Peer Address Family Mismatch) Refresh error response.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    let family = |family| RequestedAddressFamily { family };
    let v6 = Ask::refresh(0).with(family(Some(Family::V6)));
    assert_eq!(client.ask(&mut world, &v6).code(), 443);
    let nonsense = Ask::refresh(0).with(Raw::<0x0017>(vec![7, 0, 0, 0]));
    assert_eq!(client.ask(&mut world, &nonsense).code(), 443);
    assert_eq!(world.shared.allocations.count(), 1);
    let v4 = Ask::refresh(900).with(family(Some(Family::V4)));
    assert_eq!(client.ask(&mut world, &v4).lifetime(), Some(900));
}

#[test]
fn malformed_attributes_are_a_bad_request() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    let lifetime = Ask::new(Method::REFRESH).with(Raw::<0x000D>(vec![0; 3]));
    assert_eq!(client.ask(&mut world, &lifetime).code(), 400);
    let family = Ask::refresh(0).with(Raw::<0x0017>(vec![1]));
    assert_eq!(client.ask(&mut world, &family).code(), 400);
    assert_eq!(world.shared.allocations.count(), 1);
}

#[test]
fn without_an_allocation_every_request_but_allocate_is_a_mismatch() {
    //= rfc8656#section-5
    //= type=test
    //# For all TURN messages (including ChannelData) EXCEPT an Allocate request, if the
    //# 5-tuple does not identify an existing allocation, then the message MUST either be
    //# rejected with a 437 Allocation Mismatch error (if it is a request) or be silently
    //# ignored (if it is an indication or a ChannelData message).
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let asks =
        [Ask::refresh(600), Ask::create_permission(&[PEER]), Ask::channel_bind(0x4000, PEER)];
    for ask in &asks {
        assert_eq!(client.ask(&mut world, ask).code(), 437);
    }
    assert_eq!(client.send(&mut world, PEER, b"x"), Err(Reason::NoAllocation));
    let data = client.channel_data(&mut world, 0x4000, b"x");
    assert_eq!(data, Err(Reason::NoAllocation));
    assert_eq!(world.drops_of_clients(Reason::NoAllocation), 2);
}

#[test]
fn an_allocation_belongs_to_the_user_who_made_it() {
    //= rfc8656#section-5
    //= type=test
    //# then the request MUST be rejected with a 441 (Wrong Credentials) error.
    let mut world = World::plain();
    let mut alice = TestClient::udp();
    alice.allocate(&mut world);
    let mut bob = TestClient::udp().of("bob", "hunter2");
    let asks = [Ask::refresh(0), Ask::create_permission(&[PEER]), Ask::channel_bind(0x4000, PEER)];
    for ask in &asks {
        assert_eq!(bob.ask(&mut world, ask).code(), 441);
    }
    let stats = world.stats();
    assert_eq!((stats.permissions, stats.channels), (0, 0));
    assert_eq!(alice.ask(&mut world, &Ask::refresh(600)).code(), 0);
}

#[test]
fn a_step_of_the_wall_clock_ends_nothing() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    for unix_s in [0, 4_000_000_000] {
        world.now.unix_s = unix_s;
        world.expire();
        assert_eq!(world.shared.allocations.count(), 1);
        assert!(client.channel_data(&mut world, 0x4000, b"on").is_ok());
        assert!(world.peer_sends(relay, addr(PEER), b"on").is_ok());
        // The nonce is stale now; the dance gives a fresh one, and all goes on.
        assert_eq!(client.ask(&mut world, &Ask::refresh(600)).code(), 0);
    }
}

#[test]
fn what_ran_out_is_over_even_if_nobody_looked_at_the_clock() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let relay = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    world.pass(299);
    client.permit(&mut world, &[PEER]);
    world.pass(1);
    world.pass_unnoticed(300);
    let data = client.channel_data(&mut world, 0x4000, b"late");
    assert_eq!(data, Err(Reason::Expired));
    assert_eq!(client.send(&mut world, PEER, b"late"), Err(Reason::Expired));
    let late = world.peer_sends(relay, addr(PEER), b"late");
    assert_eq!(late.unwrap_err(), Reason::Expired);
    // No Refresh brings it back to life, and a new Allocate finds the five-tuple free.
    assert_eq!(client.ask(&mut world, &Ask::new(Method::REFRESH)).code(), 437);
    world.assert_empty();
    client.allocate(&mut world);
    world.pass_unnoticed(600);
    client.allocate(&mut world);
    assert_eq!(world.shared.allocations.count(), 1);
}

#[test]
fn lifetimes_after_the_attributes_that_are_signed_do_not_count() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    let mut request = client.request(&Ask::new(Method::REFRESH));
    // LIFETIME 0 behind MESSAGE-INTEGRITY, as an attacker on the path would append it.
    request.extend_from_slice(&[0x00, 0x0D, 0x00, 0x04, 0, 0, 0, 0]);
    let len = (request.len() - 20) as u16;
    request[2..4].copy_from_slice(&len.to_be_bytes());
    let response = client.exchange(&mut world, &request).unwrap();
    assert_eq!(response.lifetime(), Some(600));
    assert_eq!(world.shared.allocations.count(), 1);
}

#[test]
fn a_shut_down_ends_everything() {
    let mut world = World::plain();
    for port in 1..=5 {
        let mut client = TestClient::new(&format!("192.0.2.1:{port}"));
        client.ask(&mut world, &Ask::allocate().with(Lifetime(3600)));
        client.bind(&mut world, 0x4000, PEER);
    }
    let now = world.now;
    world.servers[0].shut_down(now);
    world.expire();
    world.assert_empty();
    assert_eq!(world.stats().allocations_ended[EndReason::Shutdown.index()], 5);
}

#[test]
fn a_mass_expiry_is_done_in_parts() {
    let mut world = World::plain();
    for port in 1..=300 {
        TestClient::new(&format!("192.0.2.1:{port}")).allocate(&mut world);
    }
    world.pass_unnoticed(600);
    let now = world.now;
    assert!(world.servers[0].expire(now), "some is left for another call");
    assert!(world.servers[0].allocations() > 200);
    world.expire();
    world.assert_empty();
}
