//! What arrives of what is relayed, and that it was the kernel that did it.

use std::cell::Cell;
use std::net::SocketAddr;

use turnway_wire::Family;

use crate::common::await_some;
use crate::common::client::{Client, Random};
use crate::in_each_world;
use crate::net::{End, Fields, PAIRS, Relayed, Talk, World, address, framed};

/// DSCP EF with ECT(1), AF41 with CE, best effort with ECT(0), and nothing special.
const KINDS: [Fields; 4] = [
    Fields { ttl: 64, tos: 0xB9 },
    Fields { ttl: 3, tos: 0x8B },
    Fields { ttl: 255, tos: 0x02 },
    Fields { ttl: 33, tos: 0x00 },
];

/// The cables'.
const MTU: usize = 1500;
const CHANNEL_HEADER: usize = 4;

/// Bytes of an IP and a UDP header.
fn headers(family: Family) -> usize {
    match family {
        Family::V4 => 28,
        Family::V6 => 48,
    }
}

/// The longest payload that is one packet on either side.
fn longest((near, far): (Family, Family)) -> usize {
    MTU - (headers(near) + CHANNEL_HEADER).max(headers(far))
}

#[test]
fn every_length_and_header_goes_both_ways_between_all_families() {
    in_each_world(|world| {
        for (index, pair) in PAIRS.into_iter().enumerate() {
            // Numbers of old clients as well.
            let number = [0x4000, 0x4FFF, 0x5ABC, 0x7FFF][index];
            let talk = world.talk(pair, number);
            let before = world.counts();
            let mut expected = Relayed::default();
            let mut random = Random(index as u64);
            let lengths = [0, 1, 2, 3, 171, 172, 1200, longest(pair)];
            for (length, kind) in lengths.into_iter().zip(KINDS.into_iter().cycle()) {
                let data = random.bytes(length);
                relay_both_ways(&talk, &data, kind);
                expected.count_to_peer(length);
                expected.count_to_client(length);
            }
            world.expect_relayed(&before, expected, Relayed::default());
        }
        assert_eq!(world.net.checksum_errors(), 0);
    });
}

#[track_caller]
fn relay_both_ways(talk: &Talk, data: &[u8], kind: Fields) {
    talk.near.choose(kind);
    talk.to_peer(data);
    //= rfc8656#section-14
    //= type=test
    //# Preferred Behavior: Set the outgoing value to the incoming value.
    assert_eq!(talk.far.receive(), talk.at_peer(data, kind));
    talk.far.choose(kind);
    talk.to_client(data);
    assert_eq!(talk.near.receive(), talk.at_client(data, kind));
}

#[test]
fn padding_is_not_relayed() {
    in_each_world(|world| {
        for pair in PAIRS {
            let talk = world.talk(pair, 0x4001);
            let before = world.counts();
            let mut expected = Relayed::default();
            for length in 0..5 {
                for padding in 0..4 {
                    let data = [0xA5; 5][..length].to_vec();
                    talk.near.send(&framed(0x4001, &data, padding), talk.client.server());
                    assert_eq!(talk.far.receive(), talk.at_peer(&data, Fields::USUAL));
                    expected.count_to_peer(length);
                }
            }
            world.expect_relayed(&before, expected, Relayed::default());
        }
        assert_eq!(world.net.checksum_errors(), 0);
    });
}

#[test]
fn what_does_not_fit_one_packet_arrives_by_user_space() {
    in_each_world(|world| {
        for pair in PAIRS {
            let talk = world.talk(pair, 0x4002);
            let before = world.counts();
            let (mut kernel, mut user) = (Relayed::default(), Relayed::default());
            let fits = longest(pair);
            for length in [fits, fits + 1, 2_000, 9_000] {
                let expected = if length == fits { &mut kernel } else { &mut user };
                relay_both_ways(&talk, &Random(length as u64).bytes(length), KINDS[0]);
                expected.count_to_peer(length);
                expected.count_to_client(length);
            }
            world.expect_relayed(&before, kernel, user);
        }
        assert_eq!(world.net.checksum_errors(), 0);
    });
}

#[test]
fn a_peer_behind_the_interface_of_the_client_is_reached() {
    in_each_world(|world| {
        let far = SocketAddr::new(address(Family::V4, 1, 3), 0);
        for near in [Family::V4, Family::V6] {
            let far = End::on(&world.net.clients, far);
            let talk = world.talk_anywhere(world.near(near), far, 0x4003);
            world.await_kernel(&talk);
            let before = world.counts();
            let mut expected = Relayed::default();
            for length in [0, 1, 1200] {
                relay_both_ways(&talk, &Random(7).bytes(length), KINDS[1]);
                expected.count_to_peer(length);
                expected.count_to_client(length);
            }
            world.expect_relayed(&before, expected, Relayed::default());
        }
        assert_eq!(world.net.checksum_errors(), 0);
    });
}

#[test]
fn two_clients_of_the_relay_talk_through_both_their_allocations() {
    in_each_world(|world| {
        for families in [[Family::V4, Family::V4], [Family::V6, Family::V4]] {
            for relays in [Family::V4, Family::V6] {
                let [one, other] = between_relays(world, families, relays);
                let before = world.counts();
                let mut expected = Relayed::default();
                for (index, length) in [0, 1, 171, 1200].into_iter().enumerate() {
                    let data = Random(length as u64).bytes(length);
                    for [from, to] in [[&one, &other], [&other, &one]] {
                        from.near.choose(KINDS[index]);
                        from.to_peer(&data);
                        // It goes through the relay twice.
                        let fields = KINDS[index].one_hop_on();
                        assert_eq!(to.near.receive(), to.at_client(&data, fields));
                        expected.count_to_peer(length);
                        expected.count_to_client(length);
                    }
                }
                world.expect_relayed(&before, expected, Relayed::default());
            }
        }
        assert_eq!(world.net.checksum_errors(), 0);
    });
}

/// Two clients, each with a channel to the relayed transport address of the other.
fn between_relays(world: &World, families: [Family; 2], relays: Family) -> [Talk; 2] {
    let mut halves = families.map(|family| {
        let near = world.near(family);
        let mut client = Client::udp_from(near.twin(), world.server(family));
        let relayed = client.allocate_family(relays);
        (client, near, relayed)
    });
    let relayed = [halves[0].2, halves[1].2];
    halves[0].0.bind(0x4004, relayed[1]).expect_success();
    halves[1].0.bind(0x4005, relayed[0]).expect_success();
    let [one, other] = halves.map(|(client, near, relayed)| {
        // Nobody uses its peer.
        Talk {
            client,
            near,
            far: world.far(relays),
            relayed,
            number: 0x4004,
            pinged: Cell::default(),
        }
    });
    let other = Talk { number: 0x4005, ..other };
    world.expect_paths(4);
    await_some("datagrams in the kernel", || {
        let before = world.kernel();
        let mut sent = Relayed::default();
        for [from, to] in [[&one, &other], [&other, &one]] {
            from.to_peer(b"is the way known?");
            let _ = to.near.receive();
            sent.count_to_peer(17);
            sent.count_to_client(17);
        }
        (world.settle(sent).kernel.minus(before) == sent).then_some(())
    });
    [one, other]
}
