//! Datagrams that are wrong at random: what the program relays is what a strict reader of our own
//! relays too, and nothing else.

mod common;

use std::cell::RefCell;

use common::packet::{Arrived, Checksum, Packet};
use common::{CHANNEL, Channel, Kernel, Verdict, framed};
use proptest::prelude::*;

const ADDRESSES: [[&str; 4]; 4] = [
    ["192.0.2.1:40000", "203.0.113.7:3478", "203.0.113.7:50000", "198.51.100.9:6000"],
    ["192.0.2.1:40000", "203.0.113.7:3479", "[2001:db8:7::7]:50001", "[2001:db8:99::9]:6001"],
    ["[2001:db8:1::1]:40002", "[2001:db8:7::7]:3478", "203.0.113.7:50002", "198.51.100.9:6002"],
    ["[2001:db8:1::1]:4003", "[2001:db8:7::7]:3479", "[2001:db8:7::7]:5003", "[2001:db8:99::9]:63"],
];

thread_local! {
    /// Loading takes longer than a thousand datagrams.
    static LOADED: RefCell<Option<(Kernel, Vec<Channel>)>> = RefCell::new(load());
}

fn load() -> Option<(Kernel, Vec<Channel>)> {
    let mut kernel = Kernel::load()?;
    let channels = ADDRESSES.map(|addresses| kernel.channel(addresses)).to_vec();
    Some((kernel, channels))
}

#[derive(Clone, Debug)]
enum Mutation {
    Set { at: usize, to: u8 },
    Flip { at: usize, bit: u8 },
    Cut { by: usize },
    Grow { by: usize },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        // Headers are what matters most.
        (0..80_usize, any::<u8>()).prop_map(|(at, to)| Mutation::Set { at, to }),
        (0..200_usize, 0..8_u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        (1..120_usize).prop_map(|by| Mutation::Cut { by }),
        (1..9_usize).prop_map(|by| Mutation::Grow { by }),
    ]
}

fn apply(frame: &mut Vec<u8>, mutation: &Mutation) {
    let length = frame.len();
    match *mutation {
        Mutation::Set { at, to } => frame[at % length] = to,
        Mutation::Flip { at, bit } => frame[at % length] ^= 1 << bit,
        Mutation::Cut { by } => frame.truncate(length.saturating_sub(by).max(14)),
        Mutation::Grow { by } => frame.resize(length + by, 0xC3),
    }
}

/// What must leave for a frame if it is relayed at all: addresses and payload.
fn allowed(frame: &[u8], channels: &[Channel]) -> Option<Arrived> {
    // Frames may have padding behind the IP packet, which the strict reader does not like.
    let tag = if frame.get(12..14)? == [0x81, 0] { 4 } else { 0 };
    let length =
        |at: usize| Some(usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])));
    let end = match frame.get(tag + 12..tag + 14)? {
        [0x08, 0x00] => tag + 14 + length(tag + 16)?,
        [0x86, 0xDD] => tag + 14 + 40 + length(tag + 18)?,
        _ => return None,
    };
    let came = Arrived::decode(frame.get(..end)?).ok()?;
    if came.fragment & 0xBFFF != 0 || came.ttl < 2 || frame[0] & 1 != 0 {
        return None;
    }
    let (from, to, payload) = channels.iter().find_map(|channel| leaves(channel, &came))?;
    let both_v4 = came.from.is_ipv4() && to.is_ipv4();
    if came.checksum == Checksum::Zero && !both_v4 {
        return None;
    }
    Some(Arrived { from, to, payload, ttl: came.ttl - 1, ..came })
}

fn leaves(
    channel: &Channel,
    came: &Arrived,
) -> Option<(std::net::SocketAddr, std::net::SocketAddr, Vec<u8>)> {
    if (came.from, came.to) == (channel.client, channel.server) {
        let (number, length) = (came.payload.get(..2)?, came.payload.get(2..4)?);
        let length = usize::from(u16::from_be_bytes(length.try_into().unwrap()));
        let fits = (length..=length + 3).contains(&(came.payload.len() - 4));
        let data = came.payload.get(4..4 + length).filter(|_| fits)?;
        return (number == CHANNEL.to_be_bytes())
            .then(|| (channel.relay, channel.peer, data.to_vec()));
    }
    ((came.from, came.to) == (channel.peer, channel.relay))
        .then(|| (channel.server, channel.client, framed(CHANNEL, &came.payload, 0)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_relayed_that_a_strict_reader_would_not_relay(
        which in 0..4_usize,
        to_peer in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        padding in 0..4_usize,
        trailer in 0..6_usize,
        vlan in proptest::option::of(0..0x1000_u16),
        checksum in prop_oneof![4 => Just(Checksum::Right), 1 => Just(Checksum::Zero), 1 => Just(Checksum::Wrong)],
        mutations in proptest::collection::vec(mutation(), 0..4),
    ) {
        LOADED.with_borrow_mut(|loaded| {
            let Some((kernel, channels)) = loaded else { return Ok(()) };
            let channel = channels[which];
            let packet = match to_peer {
                true => Packet {
                    payload: framed(CHANNEL, &payload, padding), ..channel.client_sends(&[])
                },
                false => channel.peer_sends(&payload),
            };
            let packet = Packet { trailer, vlan, checksum, ..packet };
            let mut frame = packet.encode();
            // One in 65,536 looks as if its checksum were not yet filled in.
            let partial = Packet { checksum: Checksum::Partial, ..packet }.encode();
            let right = checksum == Checksum::Right && mutations.is_empty() && frame != partial;
            for mutation in &mutations {
                apply(&mut frame, mutation);
            }
            // What is passed up has been compared byte by byte.
            let (verdict, left) = kernel.run(&frame);
            let allowed = allowed(&frame, channels);
            if verdict == Verdict::Pass {
                prop_assert!(!right, "what is right was passed up");
                return Ok(());
            }
            prop_assert_eq!(verdict, Verdict::Transmit);
            let left = Arrived::decode(&left).unwrap();
            let Some(allowed) = allowed else {
                return Err(TestCaseError::fail(format!("{left:?} was relayed")));
            };
            prop_assert_eq!((left.from, left.to), (allowed.from, allowed.to));
            prop_assert_eq!((left.ttl, left.tos), (allowed.ttl, allowed.tos));
            prop_assert_eq!(left.checksum, allowed.checksum);
            prop_assert_eq!(left.payload, allowed.payload);
            Ok(())
        })?;
    }
}
