//! Limits that come and go, users that do, and what is said to the ledger at once meanwhile.

use super::fleet::{Fleet, Sender};
use crate::meter::share::Share;
use crate::quota::{Bandwidth, Quotas, UserLimits};

const STEP_NS: u64 = 500_000;

fn limited(limit: Option<Bandwidth>) -> Quotas {
    let default = UserLimits { bandwidth: limit, ..UserLimits::default() };
    Quotas { default, count_volume: true, ..Quotas::default() }
}

/// Each time all that a limit allows passes again, also when it came back while its old shares
/// were contended, or full of leases.
#[test]
fn a_limit_that_comes_back_is_a_new_one() {
    let limit = Bandwidth::with_default_burst(1_250_000);
    let of_user = |bandwidth| limited(bandwidth);
    let of_realm = |realm_bandwidth| Quotas { realm_bandwidth, ..limited(None) };
    let cases: [&dyn Fn(Option<Bandwidth>) -> Quotas; 2] = [&of_user, &of_realm];
    for (place, quotas) in cases.into_iter().enumerate() {
        let mut fleet = Fleet::new(quotas(Some(limit)), 2, STEP_NS, 1);
        for sender in 0..8 {
            let account = sender as u32 * place as u32;
            fleet.add(Sender::constant(sender % 2, account, 1_200, 400_000));
        }
        for _ in 0..20 {
            fleet.run(1.2);
            fleet.configure(quotas(None));
            fleet.run(0.1);
            fleet.configure(quotas(Some(limit)));
        }
        fleet.run(2.0);
        let passed: u64 = fleet.measure(4.0).iter().sum();
        assert!(passed > 4 * limit.bytes_per_second * 98 / 100, "{passed} in case {place}");
    }
}

/// Leases that lie with shards which hardly use them are missed nowhere for long.
#[test]
fn who_is_far_below_a_limit_loses_nothing_on_many_shards() {
    for shards in [2, 4, 8, 16, 32] {
        for burst_bytes in [65_507, 250_000, 625_000] {
            let limit = Bandwidth { bytes_per_second: 1_250_000, burst_bytes };
            let mut fleet = Fleet::of_users(limit, shards, STEP_NS);
            let load = limit.bytes_per_second / 10 / shards as u64;
            for shard in 0..shards {
                fleet.add(Sender::constant(shard, 0, 1_200, load));
            }
            fleet.run(20.0);
            for live in &fleet.senders {
                assert_eq!(live.passed, live.offered, "{shards} shards, {limit:?}");
            }
        }
    }
}

/// However many users fall silent together, their leases come back some at a time: the fleet
/// asserts how much is said at once.
#[test]
fn leases_of_many_users_come_back_in_pieces() {
    let limit = Bandwidth::with_default_burst(1_250_000);
    let mut fleet = Fleet::of_users(limit, 1, 10_000_000);
    for account in 0..1_000 {
        let mut sender = Sender::constant(0, account, 1_200, 120_000);
        sender.on_off = Some((100_000_000, 900_000_000_000));
        fleet.add(sender);
    }
    fleet.run(2.0);
    assert!(fleet.exchanges > 3 * 1_000 / 128, "nothing was said");
    for (limit, unspent) in fleet.ledger.check_sums() {
        assert!(unspent + 3 * 1_200 > limit.burst_bytes, "{unspent} of {limit:?}");
    }
}

#[test]
fn of_what_a_larger_limit_lent_no_more_comes_back_than_the_smaller_one_has() {
    let limit = |bytes| Bandwidth { bytes_per_second: bytes, burst_bytes: bytes };
    let mut share = Share::new(limit(100_000_000), 1);
    share.set_limit(limit(2_000));
    share.take_back(500);
    assert_eq!(share.unspent(), 500);
    share.take_back(10_000_000);
    share.take_back(10_000_000);
    assert_eq!(share.unspent(), 2_000);
}
