//! What leaves for what arrives: every pair of families, both directions.

mod common;

use std::net::SocketAddr;

use common::packet::{Arrived, CLIENT_MAC, Checksum, PEER_MAC, Packet, ROUTER_MAC, SERVER_MAC};
use common::{
    CHANNEL, Channel, INGRESS, Kernel, OTHER_DEVICE, TO_CLIENTS, TO_PEERS, Verdict, framed, hop_to,
    payload,
};
use turnway_offload::maps::{Counts, Hop, HopState, NextHop, Outcome};

/// Client and server, relay and peer: all pairs of families.
const V4_V4: [&str; 4] =
    ["192.0.2.1:40000", "203.0.113.7:3478", "203.0.113.7:50000", "198.51.100.9:6000"];
const V4_V6: [&str; 4] =
    ["192.0.2.1:40000", "203.0.113.7:3478", "[2001:db8:7::7]:50001", "[2001:db8:99::9]:6001"];
const V6_V4: [&str; 4] =
    ["[2001:db8:1::1]:40002", "[2001:db8:7::7]:3478", "203.0.113.7:50002", "198.51.100.9:6002"];
const V6_V6: [&str; 4] = [
    "[2001:db8:1::1]:40003",
    "[2001:db8:7::7]:3478",
    "[2001:db8:7::7]:50003",
    "[2001:db8:99::9]:6003",
];
const ALL: [[&str; 4]; 4] = [V4_V4, V4_V6, V6_V4, V6_V6];

/// What must leave, but for the fields that only one family has.
struct Expected<'a> {
    mac: [u8; 6],
    from: SocketAddr,
    to: SocketAddr,
    payload: &'a [u8],
}

#[track_caller]
fn assert_left(arrived: &Arrived, sent: &Packet, expected: &Expected<'_>) {
    let Expected { mac, from, to, payload } = *expected;
    let (v4_in, v4_out) = (sent.from.is_ipv4(), to.is_ipv4());
    let fragment = match (v4_in, v4_out) {
        (true, true) => sent.fragment,
        (false, true) if 28 + payload.len() > 1260 => 0x4000,
        (false, true) | (_, false) => 0,
    };
    let wanted = Arrived {
        from_mac: ROUTER_MAC,
        to_mac: mac,
        vlan: None,
        from,
        to,
        ttl: sent.ttl - 1,
        tos: sent.tos,
        id: arrived.id,
        fragment,
        flow_label: 0,
        payload: payload.to_vec(),
        checksum: sent.checksum,
    };
    assert_eq!(*arrived, wanted);
}

fn to_peer<'a>(channel: &Channel, payload: &'a [u8]) -> Expected<'a> {
    Expected { mac: PEER_MAC, from: channel.relay, to: channel.peer, payload }
}

fn to_client<'a>(channel: &Channel, framed: &'a [u8]) -> Expected<'a> {
    Expected { mac: CLIENT_MAC, from: channel.server, to: channel.client, payload: framed }
}

#[test]
fn datagrams_of_every_length_go_both_ways_between_all_families() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        let mut bytes = 0;
        let lengths = (0..40).chain([172, 1199, 1200, 1440]);
        for (datagrams, length) in lengths.enumerate() {
            let data = payload(length);
            bytes += length as u64;
            let sent = channel.client_sends(&data);
            assert_left(&kernel.relayed(&sent), &sent, &to_peer(&channel, &data));
            let sent = channel.peer_sends(&data);
            let framed = framed(CHANNEL, &data, 0);
            assert_left(&kernel.relayed(&sent), &sent, &to_client(&channel, &framed));
            let datagrams = datagrams as u64 + 1;
            let counts = Counts { datagrams, bytes, ..Counts::default() };
            assert_eq!(kernel.counts(channel.to_peer), counts);
            assert_eq!(kernel.counts(channel.to_client), counts);
        }
    }
}

#[test]
fn padding_of_channel_data_and_of_frames_is_cut_off() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        for length in 0..20 {
            let data = payload(length);
            for padding in 0..4 {
                let mut sent = channel.client_sends(&data);
                sent.payload = framed(CHANNEL, &data, padding);
                sent.trailer = 3 * padding;
                assert_left(&kernel.relayed(&sent), &sent, &to_peer(&channel, &data));
            }
            let mut sent = channel.peer_sends(&data);
            sent.trailer = 20 - length;
            let framed = framed(CHANNEL, &data, 0);
            assert_left(&kernel.relayed(&sent), &sent, &to_client(&channel, &framed));
        }
        assert_eq!(kernel.counts(channel.to_peer).bytes, 4 * 190);
        assert_eq!(kernel.counts(channel.to_client).bytes, 190);
    }
}

/// Clients of RFC 5766 chose among twice as many bits.
#[test]
fn every_number_that_a_channel_can_have_is_relayed() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        for number in [0x4000, 0x4FFF, 0x5000, 0x5ABC, 0x6001, 0x7000, 0x7FFF] {
            let channel = Channel { number, ..kernel.channel(addresses) };
            kernel.install(&channel, [NextHop::At(TO_PEERS), NextHop::At(TO_CLIENTS)]);
            let data = payload(33);
            let sent = channel.client_sends(&data);
            assert_left(&kernel.relayed(&sent), &sent, &to_peer(&channel, &data));
            let sent = channel.peer_sends(&data);
            let framed = framed(number, &data, 0);
            assert_left(&kernel.relayed(&sent), &sent, &to_client(&channel, &framed));
        }
    }
}

#[test]
fn dscp_ecn_and_df_are_copied_and_a_hop_is_counted() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        for (tos, ttl, fragment) in [(0, 2, 0), (0xFF, 255, 0x4000), (0x03, 64, 0), (0xB8, 9, 0)] {
            for mut sent in [channel.client_sends(b"voice"), channel.peer_sends(b"voice")] {
                (sent.tos, sent.ttl, sent.fragment) = (tos, ttl, fragment);
                let arrived = kernel.relayed(&sent);
                //= rfc8656#section-14
                //= type=test
                //# Preferred Behavior: Set the outgoing value to the incoming value.
                assert_eq!((arrived.tos, arrived.ttl), (tos, ttl - 1));
                let both_v4 = sent.from.is_ipv4() && arrived.to.is_ipv4();
                assert_eq!(arrived.fragment, if both_v4 { fragment } else { 0 });
            }
        }
    }
}

#[test]
fn what_would_end_here_is_passed_up() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        for ttl in [0, 1] {
            for mut sent in [channel.client_sends(b"late"), channel.peer_sends(b"late")] {
                sent.ttl = ttl;
                kernel.passes(&sent.encode(), Some(Outcome::PassTtl));
            }
        }
        assert_eq!(kernel.counts(channel.to_peer), Counts::default());
    }
}

#[test]
fn tags_come_and_go_as_the_next_hop_says() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        for (arriving, leaving) in [(None, 7), (Some(0x6005), 0), (Some(5), 0xFFE)] {
            kernel.maps().hops.set(TO_PEERS, &Hop { vlan: leaving, ..hop_to(PEER_MAC) });
            kernel.maps().hops.set(TO_CLIENTS, &Hop { vlan: leaving, ..hop_to(CLIENT_MAC) });
            for length in [0, 1, 33] {
                let data = payload(length);
                let vlan = Some(leaving).filter(|&vlan| vlan != 0);
                let mut sent = channel.client_sends(&data);
                sent.vlan = arriving;
                let arrived = kernel.relayed(&sent);
                assert_eq!(arrived.vlan, vlan);
                let untagged = Arrived { vlan: None, ..arrived };
                assert_left(&untagged, &sent, &to_peer(&channel, &data));
                let mut sent = channel.peer_sends(&data);
                sent.vlan = arriving;
                let arrived = kernel.relayed(&sent);
                assert_eq!(arrived.vlan, vlan);
                let untagged = Arrived { vlan: None, ..arrived };
                let framed = framed(CHANNEL, &data, 0);
                assert_left(&untagged, &sent, &to_client(&channel, &framed));
            }
        }
    }
}

#[test]
fn checksums_say_what_they_said_before() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        for packet in [channel.client_sends(&payload(33)), channel.peer_sends(&payload(33))] {
            let wrong = Packet { checksum: Checksum::Wrong, ..packet.clone() };
            assert_eq!(kernel.relayed(&wrong).checksum, Checksum::Wrong);
            let zero = Packet { checksum: Checksum::Zero, ..packet.clone() };
            if addresses == V4_V4 {
                assert_eq!(kernel.relayed(&zero).checksum, Checksum::Zero);
            } else {
                kernel.passes(&zero.encode(), Some(Outcome::PassChecksum));
            }
            let partial = Packet { checksum: Checksum::Partial, ..packet.clone() };
            kernel.passes(&partial.encode(), Some(Outcome::PassChecksum));
            if packet.from.is_ipv4() {
                let wrong = Packet { ip_checksum_off: 0x0010, ..packet };
                kernel.passes(&wrong.encode(), Some(Outcome::PassChecksum));
            }
        }
    }
}

/// Whatever the payload, 0 never leaves as the checksum: it would say that there is none.
#[test]
fn a_checksum_that_is_there_never_becomes_zero() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        let mut turned = 0;
        for word in 0..=u16::MAX {
            let sent = channel.client_sends(&word.to_be_bytes());
            // One in 65,536 has the sum of nothing but the pseudo-header.
            if let (Verdict::Transmit, frame) = kernel.run(&sent.encode()) {
                let arrived = Arrived::decode(&frame).unwrap();
                assert_eq!(arrived.checksum, Checksum::Right);
                turned += 1;
            }
        }
        assert!(turned >= 0xFFFE, "{turned} of 65,536 were relayed");
    }
}

#[test]
fn a_packet_as_long_as_the_next_link_carries_fits_and_no_longer_one() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        for mtu in [576, 577, 1280] {
            kernel.maps().hops.set(TO_PEERS, &Hop { mtu, ..hop_to(PEER_MAC) });
            kernel.maps().hops.set(TO_CLIENTS, &Hop { mtu, ..hop_to(CLIENT_MAC) });
            let header = |to: SocketAddr| if to.is_ipv4() { 28 } else { 48 };
            let most = usize::from(mtu) - header(channel.peer);
            kernel.relayed(&channel.client_sends(&payload(most)));
            let long = channel.client_sends(&payload(most + 1));
            kernel.passes(&long.encode(), Some(Outcome::PassMtu));
            let most = usize::from(mtu) - header(channel.client) - 4;
            kernel.relayed(&channel.peer_sends(&payload(most)));
            let long = channel.peer_sends(&payload(most + 1));
            kernel.passes(&long.encode(), Some(Outcome::PassMtu));
        }
    }
}

#[test]
fn what_leaves_by_another_interface_is_redirected_if_that_is_ours() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        let other =
            Hop { ifindex: 77, route_ifindex: 77, device: OTHER_DEVICE, ..hop_to(PEER_MAC) };
        kernel.maps().hops.set(TO_PEERS, &other);
        let sent = channel.client_sends(b"payload");
        kernel.passes(&sent.encode(), Some(Outcome::PassHop));
        kernel.maps().devices.set(OTHER_DEVICE, INGRESS).unwrap();
        let (verdict, frame) = kernel.run(&sent.encode());
        assert_eq!(verdict, Verdict::Redirect);
        let arrived = Arrived::decode(&frame).unwrap();
        assert_left(&arrived, &sent, &to_peer(&channel, b"payload"));
        kernel.maps().devices.clear(OTHER_DEVICE).unwrap();
        kernel.passes(&sent.encode(), Some(Outcome::PassHop));
        assert_eq!(kernel.counts(channel.to_peer).datagrams, 1);
    }
}

#[test]
fn a_next_hop_that_nobody_knows_is_user_spaces_matter() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in ALL {
        let channel = kernel.channel(addresses);
        let sent = channel.client_sends(b"payload").encode();
        kernel.maps().hops.clear(TO_PEERS);
        kernel.passes(&sent, Some(Outcome::PassHop));
        // No interface has this index, so the FIB knows no way by it.
        let ask = Hop { state: HopState::Ask, route_ifindex: 0x7FFF, ..hop_to(PEER_MAC) };
        kernel.maps().hops.set(TO_PEERS, &ask);
        kernel.passes(&sent, Some(Outcome::PassHop));
        kernel.maps().hops.set(TO_PEERS, &hop_to(PEER_MAC));
        kernel.relayed(&channel.client_sends(b"payload"));
    }
}

/// Alice's client sends to the relayed transport address of Bob's allocation, which is on the same
/// server.
fn two_allocations(kernel: &Kernel, [alice, bob]: [[&str; 2]; 2]) -> [Channel; 2] {
    let v4 = alice[1].starts_with("203");
    let server = |client: &str| {
        common::addr(if client.starts_with('[') {
            "[2001:db8:7::7]:3478"
        } else {
            "203.0.113.7:3478"
        })
    };
    let channel = |[client, relay]: [&str; 2], peer: &str, first: u32| Channel {
        client: common::addr(client),
        server: server(client),
        relay: common::addr(relay),
        peer: common::addr(peer),
        number: CHANNEL + first as u16,
        to_peer: first,
        to_client: first + 1,
    };
    assert_eq!(v4, bob[1].starts_with("203"), "relayed transport addresses of one family");
    let channels = [channel(alice, bob[1], 40), channel(bob, alice[1], 42)];
    for channel in &channels {
        kernel.install(channel, [NextHop::Local, NextHop::At(TO_CLIENTS)]);
    }
    channels
}

#[test]
fn from_one_relayed_transport_address_to_another_counts_two_hops_and_both_accounts() {
    let Some(mut kernel) = Kernel::load() else { return };
    let clients =
        [["192.0.2.1:40000", "192.0.2.2:41000"], ["192.0.2.1:40000", "[2001:db8:1::1]:9"]];
    let relays =
        [["203.0.113.7:50000", "203.0.113.7:50001"], ["[2001:db8:7::7]:1", "[2001:db8:7::7]:2"]];
    for [alice, bob] in clients {
        for [relay, other] in relays {
            let [alice, bob] = two_allocations(&kernel, [[alice, relay], [bob, other]]);
            for (from, to) in [(alice, bob), (bob, alice)] {
                let data = payload(101);
                let mut sent = from.client_sends(&data);
                let arrived = kernel.relayed(&sent);
                assert_eq!(arrived.ttl, sent.ttl - 2);
                let framed = framed(to.number, &data, 0);
                let one_more = Arrived { ttl: arrived.ttl + 1, ..arrived };
                assert_left(&one_more, &sent, &to_client(&to, &framed));
                let counts = Counts { datagrams: 1, bytes: 101, ..Counts::default() };
                assert_eq!(kernel.counts(from.to_peer), counts);
                assert_eq!(kernel.counts(to.to_client), counts);
                sent.ttl = 2;
                kernel.passes(&sent.encode(), Some(Outcome::PassTtl));
                // Nobody else is believed to be a relayed transport address of ours.
                let pretended = to.peer_sends(&data);
                assert_eq!(pretended.from, from.relay);
                kernel.passes(&pretended.encode(), None);
            }
        }
    }
}

#[test]
fn either_of_two_accounts_ends_it_and_the_other_is_not_charged() {
    let Some(mut kernel) = Kernel::load() else { return };
    let [alice, bob] =
        [["192.0.2.1:40000", "203.0.113.7:50000"], ["192.0.2.2:41000", "203.0.113.7:50001"]];
    let [alice, bob] = two_allocations(&kernel, [alice, bob]);
    let sent = alice.client_sends(&payload(100)).encode();
    kernel.maps().accounts.meter(alice.to_peer, true);
    kernel.maps().accounts.lend(alice.to_peer, 150);
    kernel.maps().accounts.meter(bob.to_client, true);
    kernel.passes(&sent, Some(Outcome::PassLimit));
    assert_eq!(kernel.counts(alice.to_peer), Counts { pocket: 150, ..Counts::default() });
    assert_eq!(kernel.counts(bob.to_client), Counts { passed_bytes: 100, ..Counts::default() });
    kernel.maps().accounts.lend(bob.to_client, 100);
    kernel.relayed(&alice.client_sends(&payload(100)));
    kernel.passes(&sent, Some(Outcome::PassLimit));
    assert_eq!(kernel.counts(alice.to_peer).pocket, 50);
    assert_eq!(kernel.counts(bob.to_client).pocket, 0);
    kernel.maps().accounts.close(bob.to_client);
    kernel.passes(&sent, Some(Outcome::PassExpired));
    // Nobody has a channel to Alice there.
    let nobody = turnway_offload::maps::PathKey::from_relay(alice.relay, bob.relay).unwrap();
    kernel.maps().paths.remove(&nobody).unwrap();
    kernel.passes(&sent, Some(Outcome::PassUnknown));
}

#[test]
fn a_frame_to_a_group_of_stations_is_not_for_the_relay() {
    let Some(mut kernel) = Kernel::load() else { return };
    let channel = kernel.channel(V4_V4);
    let mut sent = channel.client_sends(b"payload");
    sent.macs[0] = [0xFF; 6];
    kernel.passes(&sent.encode(), None);
    sent.macs[0] = SERVER_MAC;
    kernel.relayed(&sent);
}
