//! What goes up the stack as it came: [`Kernel::run`] compares every byte.

mod common;

use common::packet::Packet;
use common::{CHANNEL, Channel, Kernel, framed, payload};
use turnway_offload::maps::Outcome;

const V4: [&str; 4] =
    ["192.0.2.1:40000", "203.0.113.7:3478", "203.0.113.7:50000", "198.51.100.9:6000"];
const V6: [&str; 4] = [
    "[2001:db8:1::1]:40003",
    "[2001:db8:7::7]:3478",
    "[2001:db8:7::7]:50003",
    "[2001:db8:99::9]:6003",
];

fn both(channel: &Channel) -> [Packet; 2] {
    [channel.client_sends(&payload(100)), channel.peer_sends(&payload(100))]
}

#[test]
fn an_unknown_channel_peer_client_or_server_is_not_relayed() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in [V4, V6] {
        let channel = kernel.channel(addresses);
        let sent = channel.client_sends(b"payload");
        for number in [0x4000, CHANNEL - 1, CHANNEL + 1, 0x4FFF, 0x5ABC, 0x7FFF] {
            let other = Packet { payload: framed(number, b"payload", 0), ..sent.clone() };
            kernel.passes(&other.encode(), Some(Outcome::PassUnknown));
        }
        // No channel's number, and so no peer's datagram that is known.
        for number in [0x3FFF, 0x8000] {
            let other = Packet { payload: framed(number, b"payload", 0), ..sent.clone() };
            kernel.passes(&other.encode(), None);
        }
        for packet in both(&channel) {
            let unknown = Some(Outcome::PassUnknown).filter(|_| packet.from == channel.client);
            let mut other = packet.clone();
            other.from.set_port(packet.from.port() + 1);
            kernel.passes(&other.encode(), unknown);
            let mut other = packet.clone();
            other.to.set_port(packet.to.port() + 1);
            kernel.passes(&other.encode(), unknown);
            let mut other = packet.clone();
            other.from.set_ip(packet.to.ip());
            kernel.passes(&other.encode(), unknown);
            let mut other = packet.clone();
            other.to.set_ip(packet.from.ip());
            kernel.passes(&other.encode(), unknown);
        }
    }
}

#[test]
fn a_peer_may_send_what_looks_like_channel_data() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in [V4, V6] {
        let channel = kernel.channel(addresses);
        let datas = [framed(CHANNEL, b"payload", 0), framed(0x4000, b"payload", 9), vec![0x40; 4]];
        for data in datas.into_iter().chain([vec![0x4F; 3], vec![0, 1, 0, 0]]) {
            let arrived = kernel.relayed(&channel.peer_sends(&data));
            assert_eq!(arrived.payload, framed(CHANNEL, &data, 0));
        }
    }
}

#[test]
fn lengths_that_are_wrong_by_one_are_passed_up() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in [V4, V6] {
        let channel = kernel.channel(addresses);
        for packet in both(&channel) {
            for off in [-1, 1] {
                let wrong = Packet { ip_length_off: off, ..packet.clone() };
                kernel.passes(&wrong.encode(), Some(Outcome::PassLength));
                let wrong = Packet { udp_length_off: off, ..packet.clone() };
                kernel.passes(&wrong.encode(), Some(Outcome::PassLength));
                // Both agree, and the frame is longer: that is padding of the frame, but the
                // ChannelData is cut short.
                let mut wrong = packet.clone();
                (wrong.ip_length_off, wrong.udp_length_off) = (off, off);
                let cut_channel_data = packet.from == channel.client && off < 0;
                if off > 0 || cut_channel_data {
                    kernel.passes(&wrong.encode(), Some(Outcome::PassLength));
                }
            }
            let frame = packet.encode();
            kernel.passes(&frame[..frame.len() - 1], Some(Outcome::PassLength));
        }
        let sent = channel.client_sends(b"payload");
        for (length, fits) in [(3, false), (4, true), (7, true), (8, false), (0xFFFF, false)] {
            let mut other = sent.clone();
            other.payload[2..4].copy_from_slice(&u16::to_be_bytes(length));
            match fits {
                true => assert_eq!(kernel.relayed(&other).payload.len(), usize::from(length)),
                false => kernel.passes(&other.encode(), Some(Outcome::PassLength)),
            }
        }
        let short = Packet { payload: sent.payload[..3].to_vec(), ..sent };
        kernel.passes(&short.encode(), None);
    }
}

#[test]
fn a_udp_length_shorter_than_its_header_is_passed_up() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in [V4, V6] {
        let channel = kernel.channel(addresses);
        for length in 0..8 {
            let mut sent = channel.peer_sends(b"");
            (sent.udp_length_off, sent.ip_length_off) = (length - 8, length - 8);
            kernel.passes(&sent.encode(), Some(Outcome::PassLength));
        }
    }
}

#[test]
fn fragments_and_options_are_passed_up() {
    let Some(mut kernel) = Kernel::load() else { return };
    let channel = kernel.channel(V4);
    for packet in both(&channel) {
        for fragment in [0x2000, 0x6000, 0x0001, 0x1FFF, 0x2001, 0x8000, 0xC000] {
            let sent = Packet { fragment, ..packet.clone() };
            kernel.passes(&sent.encode(), Some(Outcome::PassFragment));
        }
        for words in [6, 7, 15] {
            let mut frame = packet.encode();
            frame[14] = 0x40 | words;
            kernel.passes(&frame, Some(Outcome::PassFragment));
        }
    }
}

#[test]
fn extension_headers_are_passed_up() {
    let Some(mut kernel) = Kernel::load() else { return };
    let channel = kernel.channel(V6);
    for packet in both(&channel) {
        let mut frame = packet.encode();
        for next in [0, 43, 44, 51, 60] {
            frame[20] = next;
            kernel.passes(&frame, Some(Outcome::PassFragment));
        }
        for next in [1, 6, 58, 59, 132, 136] {
            frame[20] = next;
            kernel.passes(&frame, None);
        }
    }
}

#[test]
fn other_traffic_is_passed_up_without_a_word() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in [V4, V6] {
        let channel = kernel.channel(addresses);
        for packet in both(&channel) {
            let frame = packet.encode();
            // TCP; another version of IP; an unknown type; a second tag.
            let protocol = if packet.from.is_ipv4() { 23 } else { 20 };
            for (at, value) in [(protocol, 6), (12, 0x99)] {
                let mut other = frame.clone();
                other[at] = value;
                kernel.passes(&other, None);
            }
            let tagged = Packet { vlan: Some(5), ..packet.clone() }.encode();
            let twice = [&tagged[..12], &[0x81, 0, 0, 9], &tagged[12..]].concat();
            kernel.passes(&twice, None);
            let service_tag = [&frame[..12], &[0x88, 0xA8, 0, 9], &frame[12..]].concat();
            kernel.passes(&service_tag, None);
            let headers = frame.len() - packet.payload.len();
            for length in 14..headers {
                kernel.passes(&frame[..length], None);
            }
            let mut version = frame.clone();
            version[14] = 0x55;
            let outcome = Some(Outcome::PassFragment).filter(|_| packet.from.is_ipv4());
            kernel.passes(&version, outcome);
        }
    }
}

/// Generic XDP sees what a sender's UDP_SEGMENT or our own GRO has merged as one datagram, whose
/// checksum is not yet filled in.
#[test]
fn several_datagrams_in_one_are_user_spaces_to_part() {
    let Some(mut kernel) = Kernel::load() else { return };
    for addresses in [V4, V6] {
        let channel = kernel.channel(addresses);
        let merged = Packet {
            payload: framed(CHANNEL, &payload(200), 0).repeat(5),
            ..channel.client_sends(b"")
        };
        kernel.passes(&merged.encode(), Some(Outcome::PassLength));
        let partial = Packet {
            payload: payload(1000),
            checksum: common::packet::Checksum::Partial,
            ..channel.peer_sends(b"")
        };
        kernel.passes(&partial.encode(), Some(Outcome::PassChecksum));
    }
}
