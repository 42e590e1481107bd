//! Whatever anybody does, no more passes than burst and rate allow.

use proptest::prelude::*;

use super::fleet::{Fleet, Rng, SECOND_NS, Sender, Sizes, Witness};
use crate::quota::{Bandwidth, DATAGRAM_BYTES, MIN_BURST_BYTES, Quotas, UserLimits};

const USERS: u32 = 4;

/// 64 kbit/s to 1 Gbit/s, with bursts of one datagram to two seconds.
fn bandwidth(rng: &mut Rng) -> Bandwidth {
    let bytes_per_second = (8_000 << rng.below(14)) + rng.below(8_000);
    let burst_bytes = match rng.below(4) {
        0 => MIN_BURST_BYTES,
        1 => DATAGRAM_BYTES,
        2 => bytes_per_second * 2,
        _ => Bandwidth::with_default_burst(bytes_per_second).burst_bytes,
    };
    Bandwidth { bytes_per_second, burst_bytes: burst_bytes.max(MIN_BURST_BYTES) }
}

fn maybe(rng: &mut Rng) -> Option<Bandwidth> {
    (rng.below(3) > 0).then(|| bandwidth(rng))
}

fn quotas(rng: &mut Rng) -> Quotas {
    Quotas {
        default: UserLimits {
            bandwidth: maybe(rng),
            bandwidth_per_allocation: maybe(rng),
            ..UserLimits::default()
        },
        realm_bandwidth: maybe(rng),
        total_bandwidth: maybe(rng),
        count_volume: true,
        ..Quotas::default()
    }
}

/// Anything between silence and many times the limits, on and off, coming and going.
fn sender(shards: usize, rng: &mut Rng) -> Sender {
    let most = match rng.below(3) {
        0 => 200,
        1 => 1_472,
        _ => DATAGRAM_BYTES,
    };
    let from_ns = rng.below(2) * rng.below(SECOND_NS * 3);
    let on_off = (rng.below(1_000_000_000) + 1, rng.below(2_000_000_000) + 1);
    Sender {
        shard: rng.below(shards as u64) as usize,
        account: rng.below(USERS.into()) as u32,
        sizes: Sizes::Mixed(1, most),
        load: 1_000 << rng.below(15),
        on_off: (rng.below(2) == 0).then_some(on_off),
        from_ns,
        until_ns: match rng.below(2) {
            0 => u64::MAX,
            _ => from_ns + rng.below(SECOND_NS),
        },
    }
}

fn assert_within_bursts(fleet: &Fleet) {
    for (limit, unspent) in fleet.ledger.check_sums() {
        assert!(unspent <= limit.burst_bytes, "{unspent} unspent of {limit:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Each step asserts that no byte was lost or made; each datagram that passes is held to an
    /// ideal bucket per user, realm and server.
    #[test]
    fn no_limit_is_ever_exceeded(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let shards = rng.below(8) as usize + 1;
        let first = quotas(&mut rng);
        let mut fleet = Fleet::new(first.clone(), shards, 1_000_000, seed);
        fleet.witness(&first, USERS as usize);
        let senders = rng.below(20) + 1;
        for _ in 0..senders {
            let sender = sender(shards, &mut rng);
            fleet.add(sender);
        }
        for _ in 0..3 {
            fleet.run(1.0);
            assert_within_bursts(&fleet);
        }
        // Other limits: at first what was leased under the old ones may still pass.
        let next = quotas(&mut rng);
        fleet.configure(next.clone());
        fleet.run(2.0);
        assert_within_bursts(&fleet);
        fleet.witness(&next, USERS as usize);
        fleet.run(2.0);
        assert_within_bursts(&fleet);
        fleet.disband();
    }
}

#[test]
fn coming_back_brings_no_new_burst() {
    let limit = Bandwidth::with_default_burst(125_000);
    let mut fleet = Fleet::of_users(limit, 2, 1_000_000);
    fleet.user_witnesses.push(Witness::new(limit, 1_000_000));
    // An allocation lives for 10 ms, then comes the next one on the other shard.
    for place in 0..500 {
        let mut sender = Sender::constant(place % 2, 0, 1_200, 1_250_000);
        sender.from_ns = place as u64 * 10_000_000;
        sender.until_ns = sender.from_ns + 10_000_000;
        fleet.add(sender);
    }
    fleet.run(5.0);
    let passed: u64 = fleet.senders.iter().map(|live| live.passed).sum();
    let most = limit.burst_bytes + 5 * limit.bytes_per_second;
    assert!(passed > most * 9 / 10 && passed <= most, "{passed} of {most}");
}
