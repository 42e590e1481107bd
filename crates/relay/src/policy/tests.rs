use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn peer(text: &str) -> PeerAddr {
    PeerAddr::new(text.parse().unwrap())
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn no_relays() -> LivePorts {
    LivePorts::new(&[])
}

fn allowing(allow: &[&str]) -> PolicyConfig {
    PolicyConfig { allow: nets(allow), ..PolicyConfig::default() }
}

/// Asserts that `ip` is refused by permission (CreatePermission) and by address (ChannelBind, Send
/// and every datagram), however it is written.
#[track_caller]
fn assert_denied(policy: &Policy, text: &str) {
    assert_eq!(policy.check_ip(ip(text)), Verdict::Denied, "{text}");
    assert!(!policy.check(Protocol::Udp, peer_of(text, 50_000), &no_relays()), "{text}");
    if let IpAddr::V4(v4) = ip(text) {
        let mapped = IpAddr::V6(v4.to_ipv6_mapped());
        assert_eq!(policy.check_ip(mapped), Verdict::Denied, "{mapped}");
        assert!(
            !policy.check(Protocol::Udp, peer_of(&mapped.to_string(), 50_000), &no_relays()),
            "{mapped}"
        );
    }
}

#[track_caller]
fn assert_open(policy: &Policy, text: &str) {
    assert_eq!(policy.check_ip(ip(text)), Verdict::Open, "{text}");
    assert!(policy.check(Protocol::Udp, peer_of(text, 50_000), &no_relays()), "{text}");
}

fn peer_of(text: &str, port: u16) -> PeerAddr {
    PeerAddr::new(SocketAddr::new(ip(text), port))
}

/// First and last address of every range that is refused without configuration, and single ones
/// within them that must not be forgotten.
const REFUSED: [(&str, &str); 36] = [
    ("0.0.0.0", "0.255.255.255"),
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("100.100.100.200", "100.100.100.200"),
    ("127.0.0.0", "127.255.255.255"),
    ("169.254.0.0", "169.254.255.255"),
    ("169.254.169.254", "169.254.169.254"),
    ("168.63.129.16", "168.63.129.16"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "239.255.255.255"),
    ("240.0.0.0", "255.255.255.254"),
    ("255.255.255.255", "255.255.255.255"),
    ("::", "::1"),
    ("::2", "::ffff:ffff"),
    ("::ffff:0:0:0", "::ffff:0:ffff:ffff"),
    ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
    ("100::", "100::1:ffff:ffff:ffff:ffff"),
    ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff"),
    ("2001:10::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fd00:ec2::254", "fd00:ec2::254"),
    ("fe80::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
];

/// The addresses just outside of [`REFUSED`], and ordinary ones.
const PERMITTED: [&str; 37] = [
    "1.0.0.0",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.1.255",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "64:ff9b::8.8.8.8",
    "64:ff9b:2::1",
    "100:0:0:2::1",
    "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:200::",
    "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db9::",
    "2003::",
    "3fff:1000::",
    "2606:4700::1111",
];

#[test]
fn special_purpose_ranges_are_refused_to_their_ends_and_not_beyond() {
    let policy = Policy::new(PolicyConfig::default());
    for (first, last) in REFUSED {
        assert_denied(&policy, first);
        assert_denied(&policy, last);
    }
    for outside in PERMITTED {
        assert_open(&policy, outside);
    }
}

#[test]
fn every_special_purpose_range_can_be_allowed() {
    let policy = Policy::new(allowing(&["0.0.0.0/0", "::/0"]));
    let never = ["::2", "2001::", "2002::", "64:ff9b:1::"];
    for (first, last) in REFUSED {
        if never.contains(&first) {
            continue;
        }
        for text in [first, last] {
            let own = ip(text).is_loopback() || ip(text).is_unspecified();
            let expected = if own { Verdict::OwnPorts } else { Verdict::Open };
            assert_eq!(policy.check_ip(ip(text)), expected, "{text}");
            assert!(policy.check(Protocol::Udp, peer_of(text, 50_000), &no_relays()), "{text}");
        }
    }
}

//= rfc8656#section-21.4
//= type=test
//# In particular, a TURN server MUST NOT accept Teredo
//# or 6to4 addresses in these requests.
#[test]
fn tunnels_are_refused_although_allowed() {
    let allow = ["::/0", "2001::/32", "2002::/16", "2002:0808:0808::/48", "::/96", "::8.8.8.8/128"];
    let policy = Policy::new(allowing(&allow));
    for text in [
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2002::1",
        "2002:808:808::1",
        "2002:7f00:1::",
        "::8.8.8.8",
        "::127.0.0.1",
        "::2",
    ] {
        assert_denied(&policy, text);
    }
}

#[test]
fn ipv4_within_ipv6_must_pass_as_well() {
    let nat64 = ["2600:1::/32", "2600:2:0::/40", "2600:3::/48", "2600:4::/56", "2600:5::/64"];
    let nat64 = nat64.iter().chain(&["2600:6::/96", "2600:7:0::/44"]);
    let policy = Policy::new(PolicyConfig {
        nat64: nat64.map(|net| net.parse().unwrap()).collect(),
        deny: nets(&["9.9.9.0/24", "2600:6::9.9.8.0/120"]),
        ..PolicyConfig::default()
    });
    for refused in [
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::0.0.0.0",
        "64:ff9b::9.9.9.9",
        "2600:1:a9fe:a9fe::",
        "2600:2:a9:fea9:fe::",
        "2600:3:0:a9fe:a9:fe00::",
        "2600:4:0:a9:fe:a9fe::",
        "2600:5::a9:fea9:fe00:0",
        "2600:6::169.254.169.254",
        "2600:6::9.9.9.9",
        "2600:6::9.9.8.8",
        "2600:7::8.8.8.8",
    ] {
        assert_denied(&policy, refused);
    }
    for permitted in ["64:ff9b::8.8.8.8", "2600:1:808:808::", "2600:5::8:808:800:0"] {
        assert_open(&policy, permitted);
    }
    assert_open(&policy, "2600:6::8.8.8.8");
    // Allowing the range around says nothing about what is inside.
    let policy = Policy::new(allowing(&["64:ff9b::/96", "::/0"]));
    assert_denied(&policy, "64:ff9b::10.0.0.1");
    let policy = Policy::new(allowing(&["10.0.0.0/8"]));
    assert_open(&policy, "64:ff9b::10.0.0.1");
}

#[test]
fn the_local_use_nat64_range_is_opened_by_allow_and_prefix() {
    let refused =
        ["64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:7f00:0:1::"];
    let policy = Policy::new(allowing(&["64:ff9b:1::/48"]));
    for text in refused {
        assert_denied(&policy, text);
    }
    // Where the IPv4 address is depends on the prefix, which nobody has told.
    assert_denied(&policy, "64:ff9b:1::8.8.8.8");
    let policy = Policy::new(PolicyConfig {
        nat64: vec!["64:ff9b:1::/96".parse().unwrap()],
        ..allowing(&["64:ff9b:1::/48"])
    });
    for text in refused {
        assert_denied(&policy, text);
    }
    assert_open(&policy, "64:ff9b:1::8.8.8.8");
}

#[test]
fn the_longest_prefix_wins_and_deny_wins_a_tie() {
    let policy = Policy::new(PolicyConfig {
        allow: nets(&["10.0.0.0/8", "10.1.2.0/24", "8.8.0.0/16", "fd00::/8"]),
        deny: nets(&[
            "10.1.0.0/16",
            "8.8.0.0/16",
            "9.0.0.0/8",
            "fd00:1::/32",
            "::ffff:7.7.7.0/120",
        ]),
        ..PolicyConfig::default()
    });
    for permitted in ["10.0.0.1", "10.2.0.1", "10.1.2.3", "fd00:2::1"] {
        assert_open(&policy, permitted);
    }
    for refused in ["10.1.1.1", "10.1.3.1", "8.8.8.8", "9.1.2.3", "fd00:1::1"] {
        assert_denied(&policy, refused);
    }
    // A range may be written as IPv4-mapped.
    assert_denied(&policy, "7.7.7.7");
    assert_open(&policy, "7.7.8.7");
}

#[test]
fn port_zero_is_no_peer() {
    let policy = Policy::new(allowing(&["127.0.0.1/32"]));
    assert!(!policy.check(Protocol::Udp, peer("8.8.8.8:0"), &no_relays()));
    assert!(!policy.check(Protocol::Udp, peer("127.0.0.1:0"), &no_relays()));
    assert!(policy.check(Protocol::Udp, peer("8.8.8.8:1"), &no_relays()));
}

/// A machine with two addresses, one behind 1:1 NAT, a database on loopback and its metrics.
fn cloud_machine() -> PolicyConfig {
    let listeners = ["10.0.0.5:3478", "127.0.0.1:9641", "[::]:3479", "0.0.0.0:443"];
    PolicyConfig {
        listeners: listeners.map(|listener| listener.parse().unwrap()).to_vec(),
        own: ["10.0.0.5", "192.168.7.7", "2600::5", "1.2.3.4"].map(ip).to_vec(),
        relays: vec![(ip("10.0.0.5"), ip("5.6.7.8")), (ip("2600::5"), ip("2600::5"))],
        ..PolicyConfig::default()
    }
}

#[test]
fn own_addresses_are_judged_port_by_port() {
    let policy = Policy::new(cloud_machine());
    assert_eq!(policy.check_ip(ip("10.0.0.5")), Verdict::OwnPorts, "a relay address");
    assert_eq!(policy.check_ip(ip("2600::5")), Verdict::OwnPorts, "a public relay address");
    assert_eq!(policy.check_ip(ip("1.2.3.4")), Verdict::OwnPorts, "public");
    assert_eq!(policy.check_ip(ip("192.168.7.7")), Verdict::Denied, "private and not for relays");
    assert_eq!(policy.check_ip(ip("127.0.0.1")), Verdict::Denied);

    let live = LivePorts::new(&[ip("10.0.0.5"), ip("2600::5")]);
    live.set(Protocol::Udp, "10.0.0.5:50000".parse().unwrap(), true);
    assert!(
        policy.check(Protocol::Udp, peer("10.0.0.5:50000"), &live),
        "another client's relayed address"
    );
    assert!(policy.check(Protocol::Udp, peer("[::ffff:10.0.0.5]:50000"), &live));
    assert!(
        !policy.check(Protocol::Udp, peer("10.0.0.5:50001"), &live),
        "nobody's port on a private address"
    );
    assert!(!policy.check(Protocol::Udp, peer("10.0.0.5:22"), &live));
    assert!(
        policy.check(Protocol::Udp, peer("[2600::5]:50001"), &live),
        "a public address of ours"
    );
    live.set(Protocol::Udp, "10.0.0.5:50000".parse().unwrap(), false);
    assert!(
        !policy.check(Protocol::Udp, peer("10.0.0.5:50000"), &live),
        "the allocation has ended"
    );
}

#[test]
fn connections_to_ourselves_reach_live_tcp_relays_and_what_is_allowed() {
    let allow = vec!["1.2.3.4/32".parse().unwrap()];
    let policy = Policy::new(PolicyConfig { allow, ..cloud_machine() });
    let live = LivePorts::new(&[ip("10.0.0.5"), ip("2600::5")]);
    live.set(Protocol::Udp, "[2600::5]:50000".parse().unwrap(), true);
    live.set(Protocol::Tcp, "[2600::5]:50001".parse().unwrap(), true);
    let connects = |at: &str| policy.check(Protocol::Tcp, peer(at), &live);
    assert!(!connects("[2600::5]:50000"), "a service with the number of a UDP relay");
    assert!(connects("[2600::5]:50001"), "another client's relayed address");
    assert!(!connects("[2600::5]:22"), "a public address of ours");
    assert!(!connects("10.0.0.5:22"));
    assert!(connects("1.2.3.4:80"), "allowed");
    assert!(!connects("1.2.3.4:443"), "allowed, but a listener");
    assert!(connects("8.8.8.8:22"), "another machine");
}

#[test]
fn our_listeners_are_never_peers() {
    let allow = nets(&["0.0.0.0/0", "::/0", "10.0.0.5/32", "127.0.0.1/32", "::1/128"]);
    let policy = Policy::new(PolicyConfig { allow, ..cloud_machine() });
    let live = LivePorts::new(&[ip("10.0.0.5"), ip("2600::5")]);
    live.set(Protocol::Udp, "10.0.0.5:3478".parse().unwrap(), true);
    live.set(Protocol::Udp, "[2600::5]:3479".parse().unwrap(), true);
    for listener in [
        "10.0.0.5:3478",
        "[::ffff:10.0.0.5]:3478",
        "5.6.7.8:3478",
        "127.0.0.1:9641",
        "0.0.0.0:9641",
        "[::]:3478",
    ] {
        assert!(!policy.check(Protocol::Udp, peer(listener), &live), "{listener}");
    }
    let everywhere = ["10.0.0.5", "5.6.7.8", "192.168.7.7", "1.2.3.4", "127.0.0.1", "127.9.8.7"];
    for own in everywhere.iter().chain(&["0.0.0.0", "::", "::1", "2600::5"]) {
        for port in [443, 3479] {
            assert!(!policy.check(Protocol::Udp, peer_of(own, port), &live), "{own} {port}");
            assert!(
                policy.check(Protocol::Udp, peer_of(own, port + 10), &live),
                "{own} {port} + 10"
            );
        }
    }
    // The same ports of others are nothing of ours.
    for other in ["8.8.8.8:3478", "8.8.8.8:443", "192.168.7.7:3478", "10.0.0.6:3478"] {
        assert!(policy.check(Protocol::Udp, peer(other), &live), "{other}");
    }
    // Nor is there a way around by a translator.
    for own in ["10.0.0.5", "5.6.7.8", "127.0.0.1", "1.2.3.4"] {
        assert_denied(&policy, &format!("64:ff9b::{own}"));
    }
}

#[test]
fn external_addresses_are_translated_there_and_back() {
    let policy = Policy::new(cloud_machine());
    let external = peer("5.6.7.8:50000");
    let local = peer("10.0.0.5:50000");
    assert_eq!(policy.to_local(external), local);
    assert_eq!(policy.to_external(local), external);
    assert_eq!(policy.to_local(peer("[::ffff:5.6.7.8]:50000")), local);
    for untouched in ["8.8.8.8:50000", "[2600::5]:50000", "1.2.3.4:50000"] {
        assert_eq!(policy.to_local(peer(untouched)), peer(untouched));
        assert_eq!(policy.to_external(peer(untouched)), peer(untouched));
    }
    // Two clients behind the same 1:1 NAT reach each other, and nothing else there.
    let live = LivePorts::new(&[ip("10.0.0.5")]);
    live.set(Protocol::Udp, local.socket(), true);
    assert!(policy.check(Protocol::Udp, policy.to_local(external), &live));
    assert!(!policy.check(Protocol::Udp, policy.to_local(peer("5.6.7.8:3478")), &live));
    assert!(!policy.check(Protocol::Udp, policy.to_local(peer("5.6.7.8:22")), &live));
}

#[test]
fn relays_on_loopback_reach_each_other_without_allowing_loopback() {
    let loopback = ip("127.0.0.1");
    let policy = Policy::new(PolicyConfig {
        relays: vec![(loopback, loopback)],
        listeners: vec!["127.0.0.1:3478".parse().unwrap()],
        ..PolicyConfig::default()
    });
    let live = LivePorts::new(&[loopback]);
    live.set(Protocol::Udp, "127.0.0.1:50000".parse().unwrap(), true);
    assert!(policy.check(Protocol::Udp, peer("127.0.0.1:50000"), &live));
    assert!(!policy.check(Protocol::Udp, peer("127.0.0.1:50001"), &live));
    assert!(!policy.check(Protocol::Udp, peer("127.0.0.1:3478"), &live));
    assert_eq!(policy.check_ip(ip("127.0.0.2")), Verdict::Denied);
}

#[test]
fn the_same_external_address_twice_goes_to_the_first_local_one() {
    let relays = [("10.0.0.5", "5.6.7.8"), ("10.0.0.4", "5.6.7.8")];
    let relays = relays.map(|(local, external)| (ip(local), ip(external))).to_vec();
    let policy = Policy::new(PolicyConfig { relays, ..PolicyConfig::default() });
    assert_eq!(policy.to_local(peer("5.6.7.8:1")), peer("10.0.0.5:1"));
    assert_eq!(policy.to_external(peer("10.0.0.4:1")), peer("5.6.7.8:1"));
}

/// The reference: the rules as sentences, with `ipnet` doing the comparing.
fn naive(config: &PolicyConfig, ip: IpAddr) -> bool {
    let within = |net: &str| net.parse::<IpNet>().unwrap().contains(&ip);
    if ["2001::/32", "2002::/16"].iter().any(|net| within(net)) {
        return false;
    }
    if within("::/96") && !within("::/127") {
        return false;
    }
    if within("64:ff9b::/96") {
        let IpAddr::V6(v6) = ip else { unreachable!("in an IPv6 range") };
        let [.., a, b, c, d] = v6.octets();
        let inside = IpAddr::from([a, b, c, d]);
        let own = inside.is_loopback() || inside.is_unspecified();
        if own || !naive(config, inside) {
            return false;
        }
    }
    let longest = |nets: &[IpNet]| {
        nets.iter().filter(|net| net.contains(&ip)).map(|net| net.prefix_len()).max()
    };
    match (longest(&config.allow), longest(&config.deny)) {
        (None, None) => !REFUSED.iter().any(|&(first, last)| {
            let (first, last) = (first.parse::<IpAddr>().unwrap(), last.parse().unwrap());
            first.is_ipv4() == ip.is_ipv4() && (first..=last).contains(&ip)
        }),
        (allow, deny) => allow > deny,
    }
}

/// Addresses near the edges of the built-in ranges, NAT64 addresses of them, and any others.
fn any_ip() -> impl Strategy<Value = IpAddr> {
    let near_edge = (0..REFUSED.len(), any::<bool>(), -2_i8..=2).prop_map(|(at, end, step)| {
        let text = if end { REFUSED[at].1 } else { REFUSED[at].0 };
        match ip(text) {
            IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits().wrapping_add_signed(step.into())).into(),
            IpAddr::V6(v6) => Ipv6Addr::from(v6.to_bits().wrapping_add_signed(step.into())).into(),
        }
    });
    let nat64 = near_edge.clone().prop_map(|ip| match ip {
        IpAddr::V4(v4) => Ipv6Addr::from((0x64_ff9b << 96) | u128::from(v4.to_bits())).into(),
        IpAddr::V6(_) => ip,
    });
    prop_oneof![near_edge, nat64, any::<IpAddr>()]
}

fn any_nets() -> impl Strategy<Value = Vec<IpNet>> {
    let net = (any_ip(), 0_u8..=128).prop_map(|(ip, length)| {
        let ip = canonical_ip(ip);
        let most = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length % (most + 1)).unwrap().trunc()
    });
    prop::collection::vec(net, 0..6)
}

proptest! {
    #[test]
    fn judges_as_the_sentences_say(
        allow in any_nets(),
        deny in any_nets(),
        ips in prop::collection::vec(any_ip(), 1..50),
    ) {
        let config = PolicyConfig { allow, deny, ..PolicyConfig::default() };
        let policy = Policy::new(config.clone());
        let inside = config.allow.iter().chain(&config.deny).map(|net| net.network());
        let local_use: IpNet = "64:ff9b:1::/48".parse().unwrap();
        for ip in ips.into_iter().chain(inside).map(canonical_ip) {
            // What is inside a local-use address depends on more: see above.
            if local_use.contains(&ip) {
                continue;
            }
            let permitted = policy.check(Protocol::Udp, PeerAddr::new(SocketAddr::new(ip, 1)), &no_relays());
            prop_assert_eq!(permitted, naive(&config, ip), "{}", ip);
        }
    }
}
