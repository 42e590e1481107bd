//! Limits of one user over those of everybody.

use turnway_relay::quota::{Bandwidth, UserLimits};

use super::*;

const BASE: UserLimits = UserLimits {
    allocations: Some(10),
    bandwidth: Some(Bandwidth { bytes_per_second: 1_000_000, burst_bytes: 70_000 }),
    bandwidth_per_allocation: Some(Bandwidth { bytes_per_second: 500_000, burst_bytes: 66_000 }),
    volume_per_day: Some(2_000_000_000),
    volume_per_month: Some(50_000_000_000),
};

#[test]
fn they_are_read_back_as_they_were_written() {
    let file = file();
    let mut database = file.open();
    let all = Overrides {
        allocations: Override::Limit(u32::MAX),
        bandwidth: Override::Unlimited,
        burst: Some(1_500),
        allocation_bandwidth: Override::Limit(1),
        allocation_burst: None,
        volume_day: Override::Limit(0),
        volume_month: Override::Inherit,
    };
    database.add_user(REALM, "alice", None, &all, 0).unwrap();
    assert_eq!(database.user(REALM, "alice").unwrap().unwrap().overrides, all);
    let beyond = |mut limits: Overrides| {
        assert_eq!(limits, all);
        limits.volume_month = Override::Limit(u64::MAX);
        Ok(limits)
    };
    database.set_overrides(REALM, "alice", beyond).unwrap();
    let alice = database.user(REALM, "alice").unwrap().unwrap();
    assert_eq!(alice.overrides.volume_month, Override::Limit(i64::MAX as u64));
}

#[test]
fn without_any_everything_is_as_configured() {
    assert_eq!(Overrides::default().over(&BASE), BASE);
    assert_eq!(Overrides::default().contradiction(&BASE), None);
}

#[test]
fn each_replaces_one_limit() {
    let none = Overrides {
        allocations: Override::Unlimited,
        bandwidth: Override::Unlimited,
        burst: None,
        allocation_bandwidth: Override::Unlimited,
        allocation_burst: None,
        volume_day: Override::Unlimited,
        volume_month: Override::Unlimited,
    };
    assert_eq!(none.over(&BASE), UserLimits::default());
    let some = Overrides {
        allocations: Override::Limit(3),
        volume_day: Override::Limit(7),
        ..Overrides::default()
    };
    let expected = UserLimits { allocations: Some(3), volume_per_day: Some(7), ..BASE };
    assert_eq!(some.over(&BASE), expected);
}

#[test]
fn a_burst_belongs_to_its_rate() {
    let limits = |bandwidth, burst| {
        Overrides { bandwidth, burst, ..Overrides::default() }.over(&BASE).bandwidth.unwrap()
    };
    let same = limits(Override::Limit(1_000_000), None);
    assert_eq!(same.burst_bytes, 70_000, "the configured one");
    let other = limits(Override::Limit(4_000_000), None);
    assert_eq!(other, Bandwidth::with_default_burst(4_000_000));
    let alone = limits(Override::Inherit, Some(9_000));
    assert_eq!(alone, Bandwidth { bytes_per_second: 1_000_000, burst_bytes: 9_000 });
    let both = limits(Override::Limit(4_000_000), Some(9_000));
    assert_eq!(both, Bandwidth { bytes_per_second: 4_000_000, burst_bytes: 9_000 });
}

#[test]
fn one_allocation_never_gets_more_than_its_user() {
    let slow = Overrides { bandwidth: Override::Limit(200_000), ..Overrides::default() };
    assert_eq!(slow.contradiction(&BASE), None, "nobody asked for more");
    let limits = slow.over(&BASE);
    assert_eq!(limits.bandwidth, Some(Bandwidth::with_default_burst(200_000)));
    let alone = limits.bandwidth_per_allocation.unwrap();
    assert_eq!((alone.bytes_per_second, alone.burst_bytes), (200_000, 66_000));
}

#[test]
fn what_nobody_can_mean_is_refused_with_advice() {
    let none = Overrides::default();
    for (overrides, advice) in [
        (Overrides { allocations: Override::Limit(0), ..none }, "user remove"),
        (Overrides { burst: Some(1_499), ..none }, "at least \"1500 B\""),
        (Overrides { allocation_burst: Some(100), ..none }, "--allocation-burst 100 B"),
        (
            Overrides { bandwidth: Override::Unlimited, burst: Some(9_000), ..none },
            "add --bandwidth",
        ),
        (
            Overrides {
                allocation_bandwidth: Override::Unlimited,
                allocation_burst: Some(9_000),
                ..none
            },
            "add --allocation-bandwidth",
        ),
        (
            Overrides { allocation_bandwidth: Override::Limit(1_000_001), ..none },
            "raise --bandwidth",
        ),
        (Overrides { allocation_burst: Some(70_001), ..none }, "raise --burst"),
        (
            Overrides { volume_day: Override::Limit(50_000_000_001), ..none },
            "raise --volume-per-month",
        ),
    ] {
        let why = overrides.contradiction(&BASE).unwrap();
        assert!(why.contains(advice), "{why}");
    }
    let both = Overrides {
        bandwidth: Override::Unlimited,
        allocation_bandwidth: Override::Limit(1_000_001),
        volume_month: Override::Limit(5),
        ..none
    };
    assert_eq!(both.contradiction(&BASE), None);
}
