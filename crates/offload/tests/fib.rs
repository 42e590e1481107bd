//! Next hops that are asked of the kernel's own tables, in a network namespace of the test's own.
#![allow(unsafe_code)] // unshare(2)

mod common;

use std::process::Command;

use common::packet::Arrived;
use common::{INGRESS, Kernel, OTHER_DEVICE, TO_PEERS, Verdict, hop_to, skipped};
use turnway_offload::maps::{Hop, HopState, Outcome};

const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// What the hop says, and the kernel does not.
const OUTDATED: [u8; 6] = [2, 0, 0, 0, 0xFF, 0xFF];

/// A cable whose far end is a router to the peers, whose MAC address is known.
const CABLE: &[&str] = &[
    "link add near address 02:00:00:00:00:01 type veth peer name far",
    "link set near up",
    "link set far up",
    "addr add 10.9.0.1/24 dev near",
    "addr add fd09::1/64 dev near nodad",
    "route add 198.51.100.0/24 via 10.9.0.2",
    "route add 2001:db8:99::/48 via fd09::2",
    "neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev near",
    "neigh add fd09::2 lladdr 02:00:00:00:00:02 dev near",
];

fn ip(command: &str) {
    let done = Command::new("ip").args(command.split(' ')).status().expect("ip runs");
    assert!(done.success(), "ip {command}");
}

/// The calling thread goes where nobody else is.
fn alone() -> bool {
    // SAFETY: it concerns this thread only, which has no socket yet.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    if !done {
        skipped("a network namespace cannot be made: no next hop was asked for");
    }
    done
}

#[test]
fn an_outdated_hop_is_asked_of_the_kernel() {
    if !alone() {
        return;
    }
    CABLE.iter().for_each(|command| ip(command));
    let Some(mut kernel) = Kernel::load() else { return };
    let v4 = ["192.0.2.1:40000", "203.0.113.7:3478", "10.9.0.1:50000", "198.51.100.9:6000"];
    let v6 = ["192.0.2.1:40001", "203.0.113.7:3478", "[fd09::1]:50000", "[2001:db8:99::9]:6000"];
    let near = std::fs::read_to_string("/proc/thread-self/net/dev_mcast").expect("interfaces");
    let near = near.lines().find(|line| line.contains(" near ")).expect("the cable");
    let near = near.split_whitespace().next().unwrap().parse().unwrap();
    let hop = Hop {
        state: HopState::Ask,
        device: OTHER_DEVICE,
        ifindex: near,
        route_ifindex: near,
        ..hop_to(OUTDATED)
    };
    kernel.maps().devices.set(OTHER_DEVICE, near).unwrap();
    for (addresses, family) in [(v4, "ipv4"), (v6, "ipv6")] {
        let channel = kernel.channel(addresses);
        let sent = channel.client_sends(b"payload").encode();
        kernel.maps().hops.set(TO_PEERS, &hop);
        // The kernel tells no program of its routes on an interface that forwards nothing.
        kernel.passes(&sent, Some(Outcome::PassHop));
        std::fs::write(format!("/proc/sys/net/{family}/conf/near/forwarding"), "1").unwrap();
        let (verdict, frame) = kernel.run(&sent);
        assert_eq!(verdict, Verdict::Redirect);
        let left = Arrived::decode(&frame).unwrap();
        assert_eq!((left.from_mac, left.to_mac), (NEAR, FAR));
        assert_eq!((left.from, left.to), (channel.relay, channel.peer));
        // By another interface than the one we know, it is user space's matter.
        kernel.maps().hops.set(TO_PEERS, &Hop { route_ifindex: INGRESS, ..hop });
        kernel.passes(&sent, Some(Outcome::PassHop));
    }
    ip("neigh del 10.9.0.2 dev near");
    kernel.maps().hops.set(TO_PEERS, &hop);
    let again = kernel.channel(v4).client_sends(b"payload").encode();
    kernel.passes(&again, Some(Outcome::PassHop));
}
