//! What stands in the way: missing privileges, and what XDP would pass by.
//!
//! A datagram that the program relays is not seen by packet filters, address translation, traffic
//! control, IPsec and whatever else the kernel has between its drivers and its sockets. Where such
//! a thing is set up, it is there for a reason: `auto` keeps off.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use aya::programs::{SchedClassifier, TcAttachType};

use crate::netlink::Netlink;
use crate::netlink::firewall::{self, Chain};
use crate::netlink::route::Link;
use crate::report::Refused;

/// Queueing disciplines that do not treat our datagrams in a way an operator asked for.
const PLAIN_QDISCS: [&str; 5] = ["noqueue", "mq", "pfifo_fast", "fq_codel", "fq"];
/// Devices that are made of others: the program belongs on those.
const UPPER_KINDS: [&str; 8] =
    ["bridge", "vlan", "vrf", "macvlan", "macvtap", "ipvlan", "ipvtap", "dummy"];
/// Devices that are several at once.
const JOINED_KINDS: [&str; 2] = ["bond", "team"];

const CAPABILITIES: [(u32, &str); 3] =
    [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Stands for the other two, as before Linux 5.8.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_NET_ADMIN: u32 = 12;

/// The machine's network as it was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) addresses: Vec<(u32, IpAddr)>,
    pub(crate) candidates: Vec<Candidate>,
}

/// An interface on which the program might run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// 0: there is no such interface.
    pub(crate) index: u32,
    /// `veth` and the like; empty for a plain device.
    pub(crate) kind: String,
    /// Has VLAN devices on top.
    pub(crate) vlans: bool,
    /// Switched on.
    pub(crate) up: bool,
    /// Why it cannot be.
    pub(crate) unfit: Option<String>,
    /// What would be passed by.
    pub(crate) bypassed: Vec<String>,
    /// The XDP program that is attached.
    pub(crate) xdp: Option<u32>,
    /// A veth whose far end takes no frames of XDP: what leaves natively would be lost.
    pub(crate) deaf: bool,
}

/// What filters and policies there are, beside what is on the links themselves.
#[derive(Clone, Debug, Default)]
struct Filters {
    chains: Vec<Chain>,
    /// Tables of legacy iptables.
    legacy: Vec<String>,
    ipsec: usize,
    /// Priorities of routing rules by port or DSCP.
    rules: Vec<u32>,
    /// Links with BPF programs of traffic control.
    tcx: Vec<u32>,
    qdiscs: Vec<(u32, String)>,
}

/// Looks around. `named`: the interfaces that the operator names; none: all that have an address.
pub(crate) fn survey(netlink: &mut Netlink, named: &[String]) -> io::Result<Survey> {
    let links: BTreeMap<u32, Link> =
        netlink.links()?.into_iter().map(|link| (link.index, link)).collect();
    let addresses = netlink.addresses()?;
    let filters = Filters {
        chains: firewall::chains()?,
        legacy: legacy_tables(),
        ipsec: firewall::ipsec_policies()?,
        rules: netlink.choosy_rules()?,
        tcx: links.values().filter(|link| has_tcx(&link.name)).map(|link| link.index).collect(),
        qdiscs: netlink.qdiscs()?,
    };
    let mut candidates = candidates(&links, &addresses, &filters, named);
    for candidate in candidates.iter_mut().filter(|it| it.kind == "veth") {
        // A kernel that cannot say so is believed to be able.
        candidate.deaf = firewall::sends_frames(candidate.index).is_ok_and(|it| it == Some(false));
    }
    Ok(Survey { links, addresses, candidates })
}

fn candidates(
    links: &BTreeMap<u32, Link>,
    addresses: &[(u32, IpAddr)],
    filters: &Filters,
    named: &[String],
) -> Vec<Candidate> {
    let serves = |link: &Link| {
        let on_top = |index: u32| {
            index == link.index || links.get(&index).is_some_and(|it| is_on(it, link.index))
        };
        addresses.iter().any(|&(index, address)| is_routable(address) && on_top(index))
    };
    let mut found: Vec<Candidate> = if named.is_empty() {
        (links.values())
            .filter(|link| link.ethernet && link.vlan.is_none() && serves(link))
            .map(|link| candidate(link, links, filters))
            .collect()
    } else {
        (named.iter())
            .map(|name| match links.values().find(|link| link.name == *name) {
                Some(link) => candidate(carrier(link, links), links, filters),
                None => absent(name),
            })
            .collect()
    };
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    found
}

/// What carries a VLAN; anything else carries itself.
fn carrier<'a>(link: &'a Link, links: &'a BTreeMap<u32, Link>) -> &'a Link {
    link.vlan.and_then(|vlan| links.get(&vlan.parent)).unwrap_or(link)
}

fn absent(name: &str) -> Candidate {
    Candidate {
        name: name.to_owned(),
        index: 0,
        kind: String::new(),
        vlans: false,
        up: false,
        unfit: Some("there is no such interface".into()),
        bypassed: Vec::new(),
        xdp: None,
        deaf: false,
    }
}

fn candidate(link: &Link, links: &BTreeMap<u32, Link>, filters: &Filters) -> Candidate {
    let upper: Vec<&Link> = links.values().filter(|it| is_on(it, link.index)).collect();
    Candidate {
        name: link.name.clone(),
        index: link.index,
        kind: link.kind.clone(),
        vlans: !upper.is_empty(),
        up: link.up,
        unfit: unfit(link),
        bypassed: bypassed(link, &upper, links, filters),
        xdp: link.xdp,
        deaf: false,
    }
}

fn unfit(link: &Link) -> Option<String> {
    if link.loopback || !link.ethernet {
        return Some("it has no Ethernet frames".into());
    }
    if UPPER_KINDS.contains(&link.kind.as_str()) {
        return Some(format!("a {} device: name what carries it", link.kind));
    }
    None
}

fn bypassed(
    link: &Link,
    upper: &[&Link],
    links: &BTreeMap<u32, Link>,
    filters: &Filters,
) -> Vec<String> {
    let mut found = Vec::new();
    if JOINED_KINDS.contains(&link.kind.as_str()) {
        found.push(format!("a {} of several devices", link.kind));
    }
    if let Some((master, kind)) = &link.member {
        let name = links.get(master).map_or("another device", |master| &master.name);
        found.push(format!("a member of {kind} {name}"));
    }
    let here: Vec<&Link> = std::iter::once(link).chain(upper.iter().copied()).collect();
    let concerns = |chain: &Chain| match &chain.devices {
        None => true,
        Some(devices) => here.iter().any(|link| devices.contains(&link.name)),
    };
    for chain in filters.chains.iter().filter(|chain| concerns(chain)) {
        let what = if chain.nat { "address translation by nftables" } else { "nftables" };
        found.push(format!("{what} {}", chain.name));
    }
    found.extend(filters.legacy.iter().map(|table| format!("iptables table {table}")));
    if filters.ipsec > 0 {
        found.push(format!("IPsec policies ({})", filters.ipsec));
    }
    let rules =
        filters.rules.iter().map(|priority| format!("routing rule {priority} (ports, DSCP)"));
    found.extend(rules);
    for link in here {
        let mut kinds: Vec<&str> = (filters.qdiscs.iter())
            .filter(|(index, kind)| *index == link.index && !PLAIN_QDISCS.contains(&kind.as_str()))
            .map(|(_, kind)| kind.as_str())
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        found.extend(kinds.iter().map(|kind| format!("qdisc {kind} on {}", link.name)));
        if filters.tcx.contains(&link.index) {
            found.push(format!("BPF programs of traffic control (tcx) on {}", link.name));
        }
    }
    found
}

/// Whether programs are attached that no qdisc shows. A kernel before 6.6 has none.
fn has_tcx(name: &str) -> bool {
    [TcAttachType::Ingress, TcAttachType::Egress].into_iter().any(|side| {
        let found = SchedClassifier::query_tcx(name, side);
        found.is_ok_and(|(_, programs)| !programs.is_empty())
    })
}

fn is_on(link: &Link, parent: u32) -> bool {
    link.vlan.is_some_and(|vlan| vlan.parent == parent)
}

/// Every link has a link-local IPv6 address, the ports of a bridge as well.
fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

/// Tables of the iptables that came before nftables. One that is there may still be empty: nobody
/// but iptables knows, and a machine that has used it is taken at its word.
fn legacy_tables() -> Vec<String> {
    let read = |family: &str, path: &str| -> Vec<String> {
        let tables = std::fs::read_to_string(path).unwrap_or_default();
        tables.lines().map(|table| format!("{family} {table}")).collect()
    };
    let mut tables = read("ip", "/proc/thread-self/net/ip_tables_names");
    tables.extend(read("ip6", "/proc/thread-self/net/ip6_tables_names"));
    tables
}

/// Whether this process has the privileges that the program needs.
pub(crate) fn privileges() -> Result<(), Refused> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if missing.is_empty() {
        return Ok(());
    }
    let verb = if missing.len() == 1 { "is" } else { "are" };
    Err(Refused::new(format!("{} {verb} missing", missing.join(" and ")))
        .helped_by("grant it, as the drop-in systemd/offload.conf does"))
}

/// Of what `/proc/self/status` says. One that cannot be read lacks nothing: the kernel will say.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(mask) = field.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else {
        return Vec::new();
    };
    let has = |capability: u32| mask & 1 << capability != 0;
    let granted = |number: u32| has(number) || number != CAP_NET_ADMIN && has(CAP_SYS_ADMIN);
    let missing = CAPABILITIES.iter().filter(|&&(number, _)| !granted(number));
    missing.map(|&(_, name)| name).collect()
}

/// What may be behind a bpf(2) that fails although the capabilities are there.
pub(crate) fn explain(error: &io::Error) -> Option<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    explain_with(error.raw_os_error()?, &status, &lockdown)
}

fn explain_with(errno: i32, status: &str, lockdown: &str) -> Option<String> {
    let filtered = status.lines().any(|line| line.starts_with("Seccomp:") && !line.ends_with('0'));
    match errno {
        libc::EPERM if filtered => Some(
            "system calls are filtered: SystemCallFilter= of the unit, or the container's seccomp \
             profile, must allow bpf"
                .into(),
        ),
        libc::EPERM if lockdown.contains("[confidentiality]") => {
            Some("the kernel is locked down (lockdown=confidentiality)".into())
        }
        libc::EPERM => Some("outside the first user namespace it is not to be had".into()),
        libc::ENOSYS => Some("this kernel is built without bpf(2)".into()),
        libc::ENOMEM => Some("lower offload.max_channels".into()),
        libc::EINVAL => Some("it needs Linux 5.15 or newer".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
