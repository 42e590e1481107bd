use super::*;
use crate::netlink::route::Vlan;

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.into(), up: true, ethernet: true, mtu: 1500, ..Link::default() }
}

/// eth0 with a VLAN on top that has the address, eth1 with an address, br0 with eth2 as its port.
fn machine() -> (BTreeMap<u32, Link>, Vec<(u32, IpAddr)>) {
    let lo = Link { loopback: true, ethernet: true, ..link(1, "lo") };
    let vlan = Vlan { parent: 2, identifier: 7, plain: true };
    let vlan = Link { kind: "vlan".into(), vlan: Some(vlan), ..link(3, "eth0.7") };
    let bridge = Link { kind: "bridge".into(), ..link(5, "br0") };
    let port = Link { member: Some((5, "bridge".into())), ..link(6, "eth2") };
    let links = [lo, link(2, "eth0"), vlan, link(4, "eth1"), bridge, port];
    let addresses = [
        (1, "127.0.0.1"),
        (2, "fe80::2"),
        (3, "192.0.2.3"),
        (4, "2001:db8::4"),
        (5, "192.0.2.5"),
        (6, "fe80::6"),
    ];
    (
        links.into_iter().map(|link| (link.index, link)).collect(),
        addresses.into_iter().map(|(index, address)| (index, address.parse().unwrap())).collect(),
    )
}

fn look(filters: &Filters, named: &[&str]) -> Vec<Candidate> {
    let (links, addresses) = machine();
    let named: Vec<String> = named.iter().map(ToString::to_string).collect();
    candidates(&links, &addresses, filters, &named)
}

fn chain(name: &str, devices: Option<&[&str]>) -> Chain {
    let devices = devices.map(|devices| devices.iter().map(ToString::to_string).collect());
    Chain { name: name.into(), nat: false, devices }
}

#[test]
fn interfaces_with_an_address_are_considered() {
    let found = look(&Filters::default(), &[]);
    let names: Vec<_> = found.iter().map(|it| (&it.name[..], it.unfit.is_none())).collect();
    assert_eq!(names, [("br0", false), ("eth0", true), ("eth1", true)]);
    assert!(found[1].vlans && !found[2].vlans);
    assert!(found.iter().all(|candidate| candidate.bypassed.is_empty()));
}

#[test]
fn a_named_interface_is_considered_whatever_it_is() {
    let found = look(&Filters::default(), &["eth2", "lo", "eth9", "eth2"]);
    let names: Vec<_> = found.iter().map(|it| (&it.name[..], it.unfit.as_deref())).collect();
    assert_eq!(
        names,
        [
            ("eth2", None),
            ("eth9", Some("there is no such interface")),
            ("lo", Some("it has no Ethernet frames"))
        ]
    );
    assert_eq!(found[0].bypassed, ["a member of bridge br0"]);
    // The program belongs on what carries a VLAN.
    let found = look(&Filters::default(), &["eth0.7"]);
    assert_eq!((found.len(), &found[0].name[..], found[0].unfit.is_none()), (1, "eth0", true));
}

#[test]
fn rules_concern_every_interface_and_those_of_devices_their_own() {
    let filters = Filters {
        chains: vec![
            chain("inet filter input", None),
            chain("netdev t in", Some(&["eth0.7"])),
            Chain { nat: true, ..chain("ip nat postrouting", None) },
        ],
        legacy: vec!["ip mangle".into()],
        ipsec: 2,
        rules: vec![100],
        ..Filters::default()
    };
    let found = look(&filters, &["eth0", "eth1"]);
    let everywhere = [
        "nftables inet filter input",
        "address translation by nftables ip nat postrouting",
        "iptables table ip mangle",
        "IPsec policies (2)",
        "routing rule 100 (ports, DSCP)",
    ];
    assert_eq!(found[1].bypassed, everywhere);
    assert_eq!(found[0].bypassed.len(), 6);
    assert!(found[0].bypassed.contains(&"nftables netdev t in".into()));
}

#[test]
fn a_queueing_discipline_that_somebody_chose_is_named() {
    let of =
        |index, kinds: &[&str]| kinds.iter().map(move |kind| (index, kind.to_string())).collect();
    let qdiscs: Vec<Vec<_>> = vec![
        of(2, &["mq", "fq_codel", "fq_codel", "noqueue", "pfifo_fast", "fq"]),
        of(3, &["htb", "sfq", "sfq"]),
        of(4, &["clsact"]),
    ];
    let filters = Filters { qdiscs: qdiscs.concat(), tcx: vec![4], ..Filters::default() };
    let found = look(&filters, &["eth0", "eth1"]);
    assert_eq!(found[0].bypassed, ["qdisc htb on eth0.7", "qdisc sfq on eth0.7"]);
    assert_eq!(
        found[1].bypassed,
        ["qdisc clsact on eth1", "BPF programs of traffic control (tcx) on eth1"]
    );
}

#[test]
fn exactly_the_missing_capabilities_are_named() {
    let status = |mask: u64| format!("Name:\tturnway\nCapEff:\t{mask:016x}\nSeccomp:\t0\n");
    let all = 1_u64 << 12 | 1 << 38 | 1 << 39;
    assert_eq!(missing_capabilities(&status(all)), [""; 0]);
    assert_eq!(missing_capabilities(&status(all & !(1 << 38))), ["CAP_PERFMON"]);
    assert_eq!(missing_capabilities(&status(1 << 12)), ["CAP_PERFMON", "CAP_BPF"]);
    assert_eq!(missing_capabilities(&status(1 << 21)), ["CAP_NET_ADMIN"]);
    assert_eq!(missing_capabilities(&status(1 << 21 | 1 << 12)), [""; 0]);
    assert_eq!(missing_capabilities("nothing that we know"), [""; 0]);
}

#[test]
fn a_refused_system_call_is_explained() {
    let explain = |errno, seccomp, lockdown| {
        explain_with(errno, &format!("Seccomp:\t{seccomp}\n"), lockdown).unwrap_or_default()
    };
    assert!(explain(libc::EPERM, 2, "").contains("SystemCallFilter="));
    assert!(explain(libc::EPERM, 0, "none integrity [confidentiality]").contains("lockdown"));
    assert!(explain(libc::EPERM, 0, "[none]").contains("user namespace"));
    assert_eq!(explain(libc::EEXIST, 0, ""), "");
}
