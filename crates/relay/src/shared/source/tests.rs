use core::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SECOND: u64 = NANOS_PER_SECOND;
const YEAR: u64 = 365 * 86_400 * SECOND;

/// The reference: a bucket of tokens, each 10^9 parts, driven by what the limiter decides.
struct Bucket {
    rate: u128,
    full: u128,
    level: u128,
    at_ns: u64,
}

impl Bucket {
    const TOKEN: u128 = SECOND as u128;

    fn new(rate: u32, burst: u32) -> Self {
        let full = u128::from(burst.max(1)) * Self::TOKEN;
        Self { rate: rate.into(), full, level: full, at_ns: 0 }
    }

    fn at(&mut self, now_ns: u64) -> &mut Self {
        let back = u128::from(now_ns - self.at_ns) * self.rate;
        self.level = self.full.min(self.level + back);
        self.at_ns = now_ns;
        self
    }
}

/// Time between two tries: none, within a burst, around a token, or long.
fn gap() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(0),
        4 => 0..1_000_000_u64,
        4 => 0..2 * SECOND,
        1 => 0..100 * 86_400 * SECOND,
    ]
}

proptest! {
    #[test]
    fn one_source_gets_what_a_bucket_gives(
        rate in prop_oneof![1_u32..20, 1_u32..=MAX_RATE],
        burst in prop_oneof![0_u32..5, 0_u32..200, any::<u32>()],
        start in 0..10 * YEAR,
        gaps in prop::collection::vec((gap(), 1_usize..40), 1..60),
    ) {
        let limiter = SourceLimiter::new(64, rate, burst, 1);
        let mut bucket = Bucket::new(rate, burst);
        // Rounding may keep back three units, never give one too many.
        let slack = 3 * Bucket::TOKEN / u128::from(limiter.token);
        let mut now_ns = start;
        for (gap, tries) in gaps {
            now_ns += gap;
            for _ in 0..tries {
                let level = &mut bucket.at(now_ns).level;
                if limiter.allow(SOURCE, now_ns) {
                    prop_assert!(*level >= Bucket::TOKEN, "one too many, {level} left");
                    *level -= Bucket::TOKEN;
                } else {
                    prop_assert!(*level < Bucket::TOKEN + slack, "refused with {level} left");
                }
            }
        }
    }
}

#[test]
fn nothing_adds_up_over_months() {
    // Seven does not divide a second, and every token is asked for when it is there.
    let limiter = SourceLimiter::new(64, 7, 3, 2);
    let mut served = 0_u64;
    let step = SECOND / 20;
    let seconds = 5_000;
    let months = YEAR / 4;
    for offset in [0, months] {
        for i in 0..seconds * 20 {
            served += u64::from(limiter.allow(SOURCE, offset + i * step));
        }
    }
    let most = 2 * (3 + 7 * seconds);
    assert!((most - 4..=most).contains(&served), "{served} of {most}");
}

#[test]
fn a_clock_that_stands_still_or_steps_back_gives_one_burst() {
    let limiter = SourceLimiter::new(64, 100, 50, 3);
    let served = (0..1_000).filter(|_| limiter.allow(SOURCE, SECOND)).count();
    assert_eq!(served, 50);
    // Another thread read its clock before this one did.
    assert!((0..1_000_u64).all(|i| !limiter.allow(SOURCE, SECOND - i * 1_000)));
    assert!((0..9).all(|_| limiter.allow(SOURCE, SECOND + SECOND / 10)));
}

#[test]
fn sources_are_ipv4_addresses_and_ipv6_networks() {
    let limiter = SourceLimiter::new(1 << 12, 1, 1, 4);
    let v6 = |last: u64| IpAddr::V6(Ipv6Addr::from_bits(0x2600 << 112 | u128::from(last)));
    assert!(limiter.allow(v6(1), 0));
    assert!(!limiter.allow(v6(u64::MAX), 0), "another host of the same /64");
    assert!(limiter.allow(IpAddr::V6(Ipv6Addr::from_bits(0x2600 << 112 | 1 << 64)), 0));
    assert!(limiter.allow(SOURCE, 0));
    let mapped = IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
    assert!(!limiter.allow(mapped, 0), "the same address, written as IPv6");
    assert!(limiter.allow(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 0));
}

#[test]
fn a_rate_of_zero_is_no_limit_and_a_burst_of_zero_is_one() {
    let unlimited = SourceLimiter::new(1 << 16, 0, 0, 5);
    assert!((0..10_000).all(|_| unlimited.allow(SOURCE, 0)));
    let paced = SourceLimiter::new(64, 1, 0, 5);
    assert!(paced.allow(SOURCE, 0));
    assert!(!paced.allow(SOURCE, SECOND - 1));
    assert!(paced.allow(SOURCE, SECOND));
}

/// A million sources within ten seconds, one source that keeps to its rate, and one that does not.
#[test]
fn a_flood_neither_grows_the_table_nor_frees_or_starves_a_source() {
    let limiter = SourceLimiter::new(1 << 16, 10, 10, 6);
    let polite = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
    let greedy = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
    let (mut refused, mut tries, mut taken) = (0, 0, 0);
    for i in 0..1_000_000_u32 {
        let now_ns = u64::from(i) * 10_000;
        limiter.allow(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + i)), now_ns);
        if i.is_multiple_of(10_000) {
            tries += 1;
            refused += u32::from(!limiter.allow(polite, now_ns));
        }
        if i.is_multiple_of(100) {
            taken += u32::from(limiter.allow(greedy, now_ns));
        }
    }
    assert_eq!((refused, tries), (0, 100));
    assert!((100..=110).contains(&taken), "{taken} with a burst of 10 and 10 a second");
    assert_eq!(size_of_val(&*limiter.sets), 8 << 16);
}

#[test]
fn threads_together_get_no_more_than_one_would() {
    let limiter = SourceLimiter::new(64, 1_000, 100, 7);
    let steps = 200_000_u64;
    // Two seconds in steps of 10 microseconds, each thread at its own pace.
    let served: u64 = std::thread::scope(|scope| {
        let hammer = || (0..steps).filter(|i| limiter.allow(SOURCE, i * 10_000)).count() as u64;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(hammer)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!((2_098..=2_100).contains(&served), "{served} served");
}

#[test]
fn threads_that_make_room_in_one_set_do_not_multiply_a_source() {
    // One set for everybody: sources are forgotten and remembered all the time.
    let limiter = SourceLimiter::new(1, 1, 4, 8);
    let served: usize = std::thread::scope(|scope| {
        let limiter = &limiter;
        let hammer = |thread: u32| {
            (0..50_000_u32)
                .filter(|i| {
                    let other = Ipv4Addr::from_bits((thread << 16) | (i % 3));
                    limiter.allow(IpAddr::V4(other), 0);
                    limiter.allow(SOURCE, 0)
                })
                .count()
        };
        let threads: Vec<_> = (0..4).map(|t| scope.spawn(move || hammer(t))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Thirteen sources have eight slots. Whoever comes anew takes the place of one with tokens
    // left, so a source that has used its burst stays; in the turmoil before, it may get another.
    assert!((4..=40).contains(&served), "{served} of 200000 tries served");
}
