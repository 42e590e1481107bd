//! CPUs, the default route and the clock.

mod common;

use std::thread;

use common::in_namespace;
use turnway_udp::Family;
use turnway_udp::system::{
    allowed_cpus, default_route_address, monotonic_ns, pin_thread, usable_cpus,
};

#[test]
fn a_pinned_thread_may_use_its_cpu_alone() {
    let allowed = allowed_cpus().unwrap();
    assert!((1..=allowed.len()).contains(&usable_cpus()));
    for cpu in allowed {
        thread::spawn(move || {
            pin_thread(cpu).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [cpu]);
            assert_eq!(usable_cpus(), 1);
        })
        .join()
        .unwrap();
    }
    for nowhere in [1023, usize::MAX] {
        assert_eq!(pin_thread(nowhere).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}

#[test]
fn the_default_route_says_the_address_of_each_family() {
    let setup = [
        "link set lo up",
        "link add name left type veth peer name right",
        "link set left up",
        "link set right up",
        "address add 10.9.0.1/24 dev left",
        "address add 10.9.1.1/24 dev left",
        "address add fd00:9::1/64 dev left nodad",
        "route add 192.0.2.0/24 via 10.9.0.2",
    ];
    in_namespace(&setup, || {
        assert_eq!(default_route_address(Family::V4), None);
        assert_eq!(default_route_address(Family::V6), None);
    });
    let routes = ["route add default via 10.9.1.2", "-6 route add default via fd00:9::2"];
    in_namespace(&[&setup[..], &routes].concat(), || {
        assert_eq!(default_route_address(Family::V4), Some("10.9.1.1".parse().unwrap()));
        assert_eq!(default_route_address(Family::V6), Some("fd00:9::1".parse().unwrap()));
    });
}

#[test]
fn the_clock_goes_on() {
    let start = monotonic_ns();
    let wall = std::time::Instant::now();
    while wall.elapsed().as_millis() < 3 {
        assert!(monotonic_ns() >= start);
    }
    let passed = monotonic_ns() - start;
    assert!((3_000_000..20_000_000_000).contains(&passed), "{passed} ns");
}
