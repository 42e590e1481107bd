//! Against a reference in exact arithmetic: billionths of a byte in `u128`.

use proptest::prelude::*;

use super::*;

/// What an ideal token bucket holds, in billionths of a byte.
struct Ideal {
    level: u128,
    at_ns: u64,
}

impl Ideal {
    fn bring(&mut self, limit: &Bandwidth, now_ns: u64) {
        let elapsed = u128::from(now_ns.saturating_sub(self.at_ns));
        self.at_ns = self.at_ns.max(now_ns);
        self.level += elapsed * u128::from(limit.bytes_per_second);
        self.level = self.level.min(u128::from(limit.burst_bytes) * BILLION);
    }
}

const BILLION: u128 = 1_000_000_000;
const MONTH_NS: u64 = 31 * 86_400 * NANOS_PER_SECOND;

/// 1 B/s to 1 Tbit/s, every magnitude alike.
fn rates() -> impl Strategy<Value = u64> {
    (0..37_u32, any::<u64>()).prop_map(|(bits, word)| (word >> (63 - bits)).min(125_000_000_000))
}

fn limits() -> impl Strategy<Value = Bandwidth> {
    (rates(), 0..36_u32, any::<u64>()).prop_map(|(rate, bits, word)| Bandwidth {
        bytes_per_second: rate.max(1),
        burst_bytes: (word >> (63 - bits)).clamp(1_500, 18_000_000_000),
    })
}

/// 0 ns to a month, every magnitude alike; some go back.
fn steps() -> impl Strategy<Value = i64> {
    let step = (0..52_u32, any::<u64>()).prop_map(|(bits, word)| (word >> (63 - bits)) as i64);
    let step = step.prop_map(|ns| ns.min(MONTH_NS as i64));
    (step, 0..10_u32).prop_map(|(ns, dice)| if dice == 0 { -ns } else { ns })
}

fn traffic() -> impl Strategy<Value = Vec<(i64, u64)>> {
    prop::collection::vec((steps(), 1..=65_507_u64), 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Both: never more than burst and rate, and never less by a byte.
    #[test]
    fn a_bucket_lets_pass_what_the_ideal_one_does(limit in limits(), traffic in traffic()) {
        let start_ns = MONTH_NS;
        let mut bucket = Bucket::full(&limit, start_ns);
        let mut ideal =
            Ideal { level: u128::from(limit.burst_bytes) * BILLION, at_ns: start_ns };
        let mut now_ns = start_ns;
        for (step_ns, len) in traffic {
            now_ns = now_ns.saturating_add_signed(step_ns);
            ideal.bring(&limit, now_ns);
            let passes = bucket.has(&limit, len, now_ns);
            prop_assert_eq!(passes, ideal.level >= u128::from(len) * BILLION);
            if passes {
                bucket.take(len);
                ideal.level -= u128::from(len) * BILLION;
            }
        }
    }

    /// The same said without a bucket: whatever the window.
    #[test]
    fn no_window_has_more_than_burst_and_rate(limit in limits(), traffic in traffic()) {
        let mut bucket = Bucket::full(&limit, 0);
        let (mut now_ns, mut passed) = (0_u64, Vec::new());
        for (step_ns, len) in traffic {
            now_ns = now_ns.saturating_add(step_ns.unsigned_abs());
            if bucket.has(&limit, len, now_ns) {
                bucket.take(len);
                passed.push((now_ns, len));
            }
        }
        for (from, &(begin_ns, _)) in passed.iter().enumerate() {
            let mut sum = 0_u128;
            for &(end_ns, len) in &passed[from..] {
                sum += u128::from(len) * BILLION;
                let rate = u128::from(end_ns - begin_ns) * u128::from(limit.bytes_per_second);
                prop_assert!(sum <= u128::from(limit.burst_bytes) * BILLION + rate);
            }
        }
    }

    /// However often it is asked, nothing is lost and nothing made.
    #[test]
    fn a_flow_brings_every_byte_once(
        rate in rates(),
        steps in prop::collection::vec(steps(), 1..300),
    ) {
        let rate = rate.max(1);
        let mut flow = Flow::starting(MONTH_NS);
        let (mut now_ns, mut latest_ns, mut brought) = (MONTH_NS, MONTH_NS, 0_u128);
        for step_ns in steps {
            now_ns = now_ns.saturating_add_signed(step_ns);
            latest_ns = latest_ns.max(now_ns);
            brought += u128::from(flow.advance(rate, now_ns, u64::MAX));
            let ideal = u128::from(latest_ns - MONTH_NS) * u128::from(rate) / BILLION;
            prop_assert_eq!(brought, ideal);
        }
    }

    /// What there is no room for is gone, and no more than that.
    #[test]
    fn a_flow_brings_no_more_than_there_is_room_for(
        rate in rates(),
        steps in prop::collection::vec((steps(), 0..100_000_u64), 1..300),
    ) {
        let rate = rate.max(1);
        let mut flow = Flow::starting(0);
        let (mut now_ns, mut level) = (0_u64, 0_u128);
        for (step_ns, room) in steps {
            let step_ns = step_ns.unsigned_abs();
            now_ns = now_ns.saturating_add(step_ns);
            level += u128::from(step_ns) * u128::from(rate);
            let brought = flow.advance(rate, now_ns, room);
            prop_assert_eq!(u128::from(brought), (level / BILLION).min(u128::from(room)));
            level = if brought == room { 0 } else { level - u128::from(brought) * BILLION };
        }
    }
}

#[test]
fn a_pause_does_not_count_twice() {
    let limit = Bandwidth { bytes_per_second: 1_000, burst_bytes: 10_000 };
    let mut bucket = Bucket::full(&limit, 0);
    let later = 3_600 * NANOS_PER_SECOND;
    let mut passed = 0;
    while bucket.has(&limit, 1_000, later) {
        bucket.take(1_000);
        passed += 1_000;
    }
    assert_eq!(passed, limit.burst_bytes);
}

#[test]
fn months_of_small_steps_do_not_drift() {
    // A rate that no step of 1 ms brings whole bytes of.
    let rate = 12_345_679;
    let mut flow = Flow::starting(0);
    let mut brought = 0;
    let month_ms = MONTH_NS / 1_000_000;
    for step in (1..=month_ms).step_by(97) {
        brought += flow.advance(rate, step * 1_000_000, u64::MAX);
    }
    brought += flow.advance(rate, MONTH_NS, u64::MAX);
    assert_eq!(brought, rate * (MONTH_NS / NANOS_PER_SECOND));
}

#[test]
fn a_smaller_limit_holds_at_once_and_a_larger_one_fills_with_time() {
    let large = Bandwidth { bytes_per_second: 1_000, burst_bytes: 50_000 };
    let small = Bandwidth { bytes_per_second: 1_000, burst_bytes: 5_000 };
    let mut bucket = Bucket::full(&large, 0);
    assert!(!bucket.has(&small, 5_001, 0) && bucket.has(&small, 5_000, 0));
    assert!(!bucket.has(&large, 5_001, 0), "what was given up does not come back");
    assert!(bucket.has(&large, 6_000, NANOS_PER_SECOND));
}
