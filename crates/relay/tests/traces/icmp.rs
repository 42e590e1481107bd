//! ICMP errors (RFC 8656 section 11.5).

use turnway_relay::{IcmpError, Reason};
use turnway_wire::{Class, Family, Icmp, Method, XorPeerAddress};

use crate::common::client::{Response, TestClient};
use crate::common::{PEER, World, addr};

fn error(family: Family, icmp_type: u8, code: u8, data: u32) -> IcmpError {
    IcmpError { family, icmp_type, code, data }
}

const UNREACHABLE: IcmpError = IcmpError { family: Family::V4, icmp_type: 3, code: 3, data: 0 };

fn permitted(world: &mut World) -> (TestClient, std::net::SocketAddr) {
    let mut client = TestClient::udp();
    let relay = client.allocate(world);
    client.permit(world, &[PEER]);
    (client, relay)
}

#[test]
fn an_error_is_told_to_the_client_that_may_know() {
    //= rfc8656#section-11.5
    //= type=test
    //# Instead, the server extracts the destination IP address from the encapsulated IP
    //# header.
    let mut world = World::plain();
    let (client, relay) = permitted(&mut world);
    let (to, bytes) = world.icmp(relay, addr(PEER), UNREACHABLE).unwrap();
    assert_eq!(to, client.at);
    let indication = Response { bytes };
    let message = indication.message();
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    assert_eq!(message.get(), Ok(Some(XorPeerAddress(addr(PEER)))));
    let icmp = Icmp { icmp_type: 3, code: 3, data: 0 };
    assert_eq!(message.get(), Ok(Some(icmp)));
    assert_eq!(indication.data(), None);

    // Ports do not matter, addresses do.
    assert!(world.icmp(relay, addr("198.51.100.1:9"), UNREACHABLE).is_some());
    assert!(world.icmp(relay, addr("198.51.100.2:5000"), UNREACHABLE).is_none());
    world.pass(300);
    assert!(world.icmp(relay, addr(PEER), UNREACHABLE).is_none());
    let stats = world.stats();
    assert_eq!(stats.icmp_relayed, 2);
    assert_eq!(stats.peer_drops[Reason::IcmpIgnored.index()], 2);
}

#[test]
fn nothing_is_told_of_an_allocation_that_is_over() {
    let mut world = World::plain();
    let (mut client, relay) = permitted(&mut world);
    world.pass(400);
    client.permit(&mut world, &[PEER]);
    // The permission would last longer, and the timer has not run.
    world.pass_unnoticed(200);
    assert!(world.icmp(relay, addr(PEER), UNREACHABLE).is_none());
}

#[test]
fn only_errors_of_use_are_told() {
    //= rfc8656#section-11.5
    //= type=test
    //# When the server receives an ICMP packet, the server verifies that the type is either 3 or 11
    //# for an ICMPv4 [RFC0792] packet or either 1, 2, or 3 for an ICMPv6 [RFC4443] packet.
    for (family, told) in [(Family::V4, &[3, 11][..]), (Family::V6, &[1, 2, 3])] {
        for icmp_type in 0..=127 {
            let mut world = World::plain();
            let (_, relay) = permitted(&mut world);
            let reply = world.icmp(relay, addr(PEER), error(family, icmp_type, 0, 0));
            assert_eq!(reply.is_some(), told.contains(&icmp_type), "{family:?} {icmp_type}");
        }
    }
}

#[test]
fn the_mtu_is_passed_on() {
    let mut world = World::plain();
    let (_, relay) = permitted(&mut world);
    let reply = world.icmp(relay, addr(PEER), error(Family::V4, 3, 4, 1400));
    let (_, bytes) = reply.unwrap();
    let icmp: Icmp = Response { bytes }.message().get().unwrap().unwrap();
    assert_eq!((icmp.code, icmp.data), (4, 1400));
}

#[test]
fn a_peer_provokes_so_many_a_second() {
    let mut world = World::plain();
    let (_, relay) = permitted(&mut world);
    let told = |world: &mut World| {
        (0..25).filter(|_| world.icmp(relay, addr(PEER), UNREACHABLE).is_some()).count()
    };
    assert_eq!(told(&mut world), 10);
    world.pass(1);
    assert_eq!(told(&mut world), 10);
    assert_eq!(world.stats().peer_drops[Reason::IcmpIgnored.index()], 30);
}
