//! Whoever saturates a limit gets all of it, in equal parts; whoever uses less loses nothing.

use super::fleet::{Fleet, SECOND_NS, Sender, Sizes, Witness};
use crate::quota::{Bandwidth, DATAGRAM_BYTES, Quotas, UserLimits};

const STEP_NS: u64 = 500_000;

fn kbit(kbit_per_second: u64) -> u64 {
    kbit_per_second * 125
}

/// One user at one limit, spread over shards, saturating it `times`.
fn saturated(limit: Bandwidth, shards: usize, allocations: usize, times: f64) -> Fleet {
    let fills_ns = limit.burst_bytes * SECOND_NS / limit.bytes_per_second;
    let step_ns = STEP_NS.min(fills_ns / 5);
    let mut fleet = Fleet::of_users(limit, shards, step_ns);
    fleet.user_witnesses.push(Witness::new(limit, step_ns));
    let load = limit.bytes_per_second as f64 * times / allocations as f64;
    for allocation in 0..allocations {
        fleet.add(Sender::constant(allocation % shards, 0, 1_200, load as u64));
    }
    // Until the burst is spent, and what is held back for members is held back.
    let burst_s = limit.burst_bytes as f64 / limit.bytes_per_second as f64;
    fleet.run(3.0 + burst_s / (times - 1.0));
    fleet
}

fn sum_in_10_s(fleet: &mut Fleet, limit: Bandwidth) -> f64 {
    let passed: u64 = fleet.measure(10.0).iter().sum();
    passed as f64 / (10.0 * limit.bytes_per_second as f64)
}

fn bursts(rate: u64) -> [Bandwidth; 3] {
    let of = |burst_bytes| Bandwidth { bytes_per_second: rate, burst_bytes };
    [Bandwidth::with_default_burst(rate), of(DATAGRAM_BYTES), of(rate)]
}

#[test]
fn all_of_a_limit_passes() {
    let all = |rate: u64, fleets: &[(usize, usize)]| {
        for limit in bursts(kbit(rate)) {
            for &(shards, allocations) in fleets {
                let mut fleet = saturated(limit, shards, allocations, 2.0);
                let sum = sum_in_10_s(&mut fleet, limit);
                // A datagram more or less is much at a low rate.
                let datagrams = 3.0 * 1_200.0 / (10.0 * limit.bytes_per_second as f64);
                assert!(
                    (sum - 1.0).abs() < 0.01 + datagrams,
                    "{limit:?}, {shards} shards, {allocations} allocations: {sum:.3}"
                );
            }
        }
    };
    all(64, &[(1, 1), (1, 10), (2, 10), (8, 10)]);
    all(1_000, &[(1, 1), (1, 10), (2, 10), (8, 10)]);
    all(20_000, &[(1, 1), (2, 10), (8, 10), (1, 1_000), (2, 1_000), (8, 1_000)]);
    all(200_000, &[(1, 1), (2, 10), (8, 10), (2, 1_000)]);
    all(1_000_000, &[(1, 1), (8, 10)]);
}

#[test]
fn a_burst_of_one_datagram_starves_nobody() {
    for (rate, burst_bytes, len) in
        [(1_000, 1_500, 1_200), (20_000, 1_500, 1_200), (1_000, DATAGRAM_BYTES, DATAGRAM_BYTES)]
    {
        for shards in [1, 2, 8] {
            let limit = Bandwidth { bytes_per_second: kbit(rate), burst_bytes };
            let mut fleet = Fleet::of_users(limit, shards, STEP_NS);
            fleet.user_witnesses.push(Witness::new(limit, STEP_NS));
            for shard in 0..shards {
                fleet.add(Sender::constant(shard, 0, len, limit.bytes_per_second * 3));
            }
            fleet.run(10.0);
            let passed = fleet.measure(100.0);
            let sum = passed.iter().sum::<u64>() as f64;
            let part = sum / (100.0 * limit.bytes_per_second as f64);
            assert!(part > 0.25, "{limit:?} on {shards} shards: {part}");
            let least = *passed.iter().min().unwrap() as f64;
            assert!(least * shards as f64 > sum / 10.0, "{limit:?}: {passed:?}");
        }
    }
}

/// Fleets of two shards: how many senders on each, what each offers in fair shares, and how long
/// their datagrams are.
struct Two {
    counts: [usize; 2],
    loads: [f64; 2],
    sizes: [Sizes; 2],
}

impl Two {
    fn fleet(&self, limit: Bandwidth, shards: usize) -> Fleet {
        let mut fleet = Fleet::of_users(limit, shards, STEP_NS);
        fleet.user_witnesses.push(Witness::new(limit, STEP_NS));
        let fair = limit.bytes_per_second as f64 / (self.counts[0] + self.counts[1]) as f64;
        for side in 0..2 {
            for _ in 0..self.counts[side] {
                let load = (fair * self.loads[side]) as u64;
                let mut sender = Sender::constant(side % shards, 0, 0, load);
                sender.sizes = self.sizes[side];
                fleet.add(sender);
            }
        }
        fleet.run(2.0);
        fleet
    }
}

const ONE_SIZE: [Sizes; 2] = [Sizes::One(1_200); 2];
const UNLIKE: [Sizes; 2] = [Sizes::One(1_200), Sizes::One(160)];
const MIXED: [Sizes; 2] = [Sizes::Mixed(1, 3_000); 2];

#[test]
fn saturating_allocations_have_equal_parts() {
    for counts in [[9, 1], [5, 5], [99, 1]] {
        for loads in [[2.0, 2.0], [2.0, 20.0], [20.0, 2.0], [1.3, 1.3]] {
            for sizes in [ONE_SIZE, UNLIKE, MIXED] {
                for shards in [1, 2] {
                    let limit = Bandwidth::with_default_burst(kbit(20_000));
                    let mut fleet = Two { counts, loads, sizes }.fleet(limit, shards);
                    let passed = fleet.measure(10.0);
                    let fair = 10.0 * limit.bytes_per_second as f64 / passed.len() as f64;
                    for passed in passed {
                        let part = passed as f64 / fair;
                        assert!(
                            (part - 1.0).abs() < 0.1,
                            "{counts:?} {loads:?} {sizes:?} on {shards} shards: {part:.3}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn who_uses_less_than_its_part_loses_nothing_and_the_others_have_the_rest() {
    for (counts, loads) in [
        ([9, 1], [3.0, 0.5]),
        ([1, 9], [20.0, 0.5]),
        ([5, 5], [3.0, 0.9]),
        ([5, 5], [20.0, 0.1]),
        ([99, 1], [3.0, 0.5]),
        ([1, 99], [300.0, 0.5]),
    ] {
        for sizes in [ONE_SIZE, UNLIKE] {
            for shards in [1, 2] {
                let limit = Bandwidth::with_default_burst(kbit(20_000));
                let mut fleet = Two { counts, loads, sizes }.fleet(limit, shards);
                let offered: Vec<u64> = fleet.senders.iter().map(|live| live.offered).collect();
                let passed = fleet.measure(10.0);
                let what = format!("{counts:?} {loads:?} {sizes:?} on {shards} shards");
                for (index, live) in fleet.senders.iter().enumerate().skip(counts[0]) {
                    let offered = (live.offered - offered[index]) as f64;
                    let part = passed[index] as f64 / offered;
                    assert!(part >= 0.99, "{what}: {part:.3}");
                }
                let sum = passed.iter().sum::<u64>() as f64;
                let part = sum / (10.0 * limit.bytes_per_second as f64);
                assert!((part - 1.0).abs() < 0.01, "{what}: {part:.3}");
            }
        }
    }
}

#[test]
fn what_one_leaves_the_others_have_within_a_second() {
    for rate in [1_000, 20_000, 200_000] {
        for (shards, senders) in [(1, 2), (2, 2), (2, 10), (8, 16)] {
            let limit = Bandwidth::with_default_burst(kbit(rate));
            let mut fleet = Fleet::of_users(limit, shards, STEP_NS);
            let leave_ns = 5 * SECOND_NS;
            for index in 0..senders {
                let load = limit.bytes_per_second * 2;
                let mut sender = Sender::constant(index % shards, 0, 1_200, load);
                // All but one are silent for a while, half of these for good.
                if index > 0 {
                    sender.on_off = Some((leave_ns, leave_ns));
                    sender.until_ns = if index % 2 == 1 { leave_ns } else { u64::MAX };
                }
                fleet.add(sender);
            }
            fleet.run(6.0);
            let second = fleet.measure(1.0)[0] as f64 / limit.bytes_per_second as f64;
            assert!(second > 0.97, "{rate} kbit/s, {senders} on {shards}: {second}");
            fleet.run(3.0);
            // Some are back, and have their parts within a second.
            fleet.run(1.0);
            let passed = fleet.measure(3.0);
            let back = senders.div_ceil(2) as f64;
            let part = passed[0] as f64 * back / (3.0 * limit.bytes_per_second as f64);
            assert!((part - 1.0).abs() < 0.1, "{rate} kbit/s, {senders} on {shards}: {part}");
        }
    }
}

#[test]
fn realm_and_server_are_divided_among_users() {
    for total in [false, true] {
        for shards in [1, 2, 8] {
            let limit = Some(Bandwidth::with_default_burst(kbit(50_000)));
            let quotas = match total {
                false => Quotas { realm_bandwidth: limit, ..Quotas::default() },
                true => Quotas { total_bandwidth: limit, ..Quotas::default() },
            };
            let mut fleet = Fleet::new(quotas.clone(), shards, STEP_NS, 1);
            fleet.witness(&quotas, 0);
            let fair = kbit(50_000) / 10;
            // The first has very many allocations, and each user has all on one shard.
            for user in 0..10 {
                let allocations = if user == 0 { 40 } else { 1 };
                for _ in 0..allocations {
                    let shard = user as usize % shards;
                    fleet.add(Sender::constant(shard, user, 1_200, fair * 3 / allocations));
                }
            }
            fleet.run(3.0);
            let passed = fleet.measure(10.0);
            let mut users = [0.0; 10];
            for (live, passed) in fleet.senders.iter().zip(passed) {
                users[live.sender.account as usize] += passed as f64 / (10 * fair) as f64;
            }
            for part in users {
                assert!((part - 1.0).abs() < 0.1, "{shards} shards: {users:.2?}");
            }
            let sum = users.iter().sum::<f64>() / 10.0;
            assert!((sum - 1.0).abs() < 0.01, "{shards} shards: {sum}");
        }
    }
}

#[test]
fn every_level_holds_at_once() {
    let limit = |rate| Some(Bandwidth::with_default_burst(kbit(rate)));
    let quotas = Quotas {
        default: UserLimits {
            bandwidth: limit(8_000),
            bandwidth_per_allocation: limit(3_000),
            ..UserLimits::default()
        },
        realm_bandwidth: limit(40_000),
        total_bandwidth: limit(35_000),
        ..Quotas::default()
    };
    for shards in [1, 2, 8] {
        let mut fleet = Fleet::new(quotas.clone(), shards, STEP_NS, 1);
        fleet.witness(&quotas, 7);
        // Five users reach their own limit, one each of its allocations', one neither.
        for user in 0..5 {
            for place in 0..4 {
                fleet.add(Sender::constant((user + place) % shards, user as u32, 1_200, 800_000));
            }
        }
        fleet.add(Sender::constant(0, 5, 1_200, 800_000));
        fleet.add(Sender::constant(shards - 1, 6, 400, kbit(1_000)));
        fleet.run(3.0);
        let passed = fleet.measure(10.0);
        let of = |user| {
            let mine =
                fleet.senders.iter().zip(&passed).filter(|(live, _)| live.sender.account == user);
            mine.map(|(_, passed)| *passed).sum::<u64>() as f64 / 10.0 / 125.0
        };
        // 35 Mbit/s in all: 1 and 3 for those who reach no limit of several, 31/5 for the rest.
        let kbits: Vec<f64> = (0..7).map(of).collect();
        for (user, due) in
            [6_200.0, 6_200.0, 6_200.0, 6_200.0, 6_200.0, 3_000.0, 1_000.0].into_iter().enumerate()
        {
            let part = kbits[user] / due;
            let least = if user == 6 { 0.99 } else { 0.9 };
            assert!(part > least && part < 1.1, "{shards} shards: {kbits:.0?} kbit/s");
        }
        let sum: f64 = kbits.iter().sum();
        assert!((sum / 35_000.0 - 1.0).abs() < 0.01, "{shards} shards: {sum}");
        fleet.disband();
    }
}
