use core::net::{Ipv4Addr, Ipv6Addr};

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const HERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

#[test]
fn exactly_the_ports_that_were_set_are_live() {
    let live = LivePorts::new(&[HERE_V6, HERE, HERE]);
    let set = [0, 63, 64, 49_152, 65_535];
    for port in set {
        live.set(Protocol::Udp, SocketAddr::new(HERE, port), true);
    }
    for port in 0..=u16::MAX {
        assert_eq!(
            live.contains(Protocol::Udp, SocketAddr::new(HERE, port)),
            set.contains(&port),
            "{port}"
        );
        assert!(!live.contains(Protocol::Udp, SocketAddr::new(HERE_V6, port)), "another address");
    }
    live.set(Protocol::Udp, SocketAddr::new(HERE, 64), false);
    assert!(!live.contains(Protocol::Udp, SocketAddr::new(HERE, 64)));
    assert!(live.contains(Protocol::Udp, SocketAddr::new(HERE, 63)));
}

#[test]
fn addresses_of_others_are_never_live() {
    let live = LivePorts::new(&[HERE]);
    let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 50_000);
    live.set(Protocol::Udp, other, true);
    assert!(!live.contains(Protocol::Udp, other));
    assert!(!LivePorts::new(&[]).contains(Protocol::Udp, other));
}

#[test]
fn the_cap_is_reached_and_not_exceeded() {
    let count = AllocationCount::new(2);
    assert!(count.try_take() && count.try_take() && !count.try_take());
    count.give_back();
    assert_eq!((count.count(), count.try_take()), (1, true));
    count.set_cap(1);
    count.give_back();
    assert!(!count.try_take(), "one lives on, and one is the cap now");
    count.give_back();
    assert!(count.try_take());
    assert_eq!((count.count(), count.cap()), (1, 1));
}

#[test]
fn racing_shards_do_not_exceed_the_cap() {
    let count = AllocationCount::new(3);
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50_000 {
                    if count.try_take() {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3, "more than the cap");
                        inside.fetch_sub(1, Ordering::SeqCst);
                        count.give_back();
                    }
                }
            });
        }
    });
    assert_eq!(count.count(), 0);
}
