//! What a datagram passes in the kernel, and would pass by in XDP: nftables, IPsec policies; and
//! what a driver can do with frames of XDP.

use std::collections::BTreeSet;
use std::io;

use super::Netlink;
use super::codec::{Message, Request, attributes, text, u16_at, u32_at, u64_at};

const NFGENMSG: usize = 4;
const GENLMSG: usize = 4;

const fn nft(message: i32) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;

const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
/// Where `xfrm_userpolicy_info` says whether a policy is for in, out or forward (0 to 2); those of
/// single sockets come after.
const XFRM_DIRECTION: usize = 160;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 4;

/// A chain of nftables that packets of IP come through, with rules or a policy to drop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chain {
    /// As `nft` writes it: family, table, chain.
    pub(crate) name: String,
    /// A chain of type `nat`.
    pub(crate) nat: bool,
    /// Of the netdev family: only packets of these interfaces. Otherwise `None`.
    pub(crate) devices: Option<Vec<String>>,
}

/// Chains of this network namespace that do something. A kernel without nftables has none.
pub(crate) fn chains() -> io::Result<Vec<Chain>> {
    let mut netlink = match Netlink::open(libc::NETLINK_NETFILTER) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        netlink => netlink?,
    };
    let chains = netlink.dump(Request::new(nft(libc::NFT_MSG_GETCHAIN), &[0; NFGENMSG]));
    let chains = match chains {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            return Ok(Vec::new());
        }
        chains => chains?,
    };
    let rules = netlink.dump(Request::new(nft(libc::NFT_MSG_GETRULE), &[0; NFGENMSG]))?;
    Ok(effective(&chains, &rules))
}

/// The hooked chains that have rules, or drop what no rule accepts.
fn effective(chains: &[Message], rules: &[Message]) -> Vec<Chain> {
    let filled: BTreeSet<_> = rules.iter().filter_map(parse_rule).collect();
    let mut found: Vec<_> = (chains.iter().filter_map(parse_chain))
        .filter(|(place, drops, _)| *drops || filled.contains(place))
        .map(|(_, _, chain)| chain)
        .collect();
    found.sort();
    found
}

/// Family, table, chain.
type Place = (u8, String, String);

/// Where it is, whether it drops by itself, and the chain; those without a hook are only called.
fn parse_chain(message: &Message) -> Option<(Place, bool, Chain)> {
    if message.kind != nft(libc::NFT_MSG_NEWCHAIN) {
        return None;
    }
    let family = *message.payload.first()?;
    let (mut table, mut name) = (String::new(), String::new());
    let (mut hooked, mut drops, mut nat) = (false, false, false);
    let mut devices = Vec::new();
    for (kind, value) in attributes(&message.payload, NFGENMSG) {
        match kind {
            NFTA_CHAIN_TABLE => table = text(value),
            NFTA_CHAIN_NAME => name = text(value),
            NFTA_CHAIN_POLICY => drops = value == [0; 4],
            NFTA_CHAIN_TYPE => nat = text(value) == "nat",
            NFTA_CHAIN_HOOK => {
                hooked = true;
                devices = parse_hook(value);
            }
            _ => {}
        }
    }
    let label = family_name(family).filter(|_| hooked)?;
    let devices = (i32::from(family) == libc::NFPROTO_NETDEV).then_some(devices);
    let chain = Chain { name: format!("{label} {table} {name}"), nat, devices };
    Some(((family, table, name), drops, chain))
}

fn parse_hook(value: &[u8]) -> Vec<String> {
    let mut devices = Vec::new();
    for (kind, value) in attributes(value, 0) {
        match kind {
            NFTA_HOOK_DEV => devices.push(text(value)),
            NFTA_HOOK_DEVS => devices.extend(attributes(value, 0).map(|(_, name)| text(name))),
            _ => {}
        }
    }
    devices
}

fn parse_rule(message: &Message) -> Option<Place> {
    if message.kind != nft(libc::NFT_MSG_NEWRULE) {
        return None;
    }
    let (mut table, mut chain) = (None, None);
    for (kind, value) in attributes(&message.payload, NFGENMSG) {
        match kind {
            NFTA_RULE_TABLE => table = Some(text(value)),
            NFTA_RULE_CHAIN => chain = Some(text(value)),
            _ => {}
        }
    }
    Some((*message.payload.first()?, table?, chain?))
}

/// Families whose chains see IP packets of ours; ARP's and a bridge's do not.
fn family_name(family: u8) -> Option<&'static str> {
    match i32::from(family) {
        libc::NFPROTO_INET => Some("inet"),
        libc::NFPROTO_IPV4 => Some("ip"),
        libc::NFPROTO_IPV6 => Some("ip6"),
        libc::NFPROTO_NETDEV => Some("netdev"),
        _ => None,
    }
}

/// How many IPsec policies there are. A kernel without IPsec has none.
pub(crate) fn ipsec_policies() -> io::Result<usize> {
    let mut netlink = match Netlink::open(libc::NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        netlink => netlink?,
    };
    let answers = netlink.dump(Request::new(XFRM_MSG_GETPOLICY, &[]))?;
    let policies = answers.iter().filter(|answer| answer.kind == XFRM_MSG_NEWPOLICY);
    Ok(policies
        .filter(|policy| policy.payload.get(XFRM_DIRECTION).is_some_and(|&d| d <= 2))
        .count())
}

/// Whether a driver says that it can send frames of XDP now. `None`: it cannot be asked (before
/// Linux 6.3), or says that it has no XDP at all.
pub(crate) fn sends_frames(link: u32) -> io::Result<Option<bool>> {
    let mut netlink = Netlink::open(libc::NETLINK_GENERIC)?;
    let header = [libc::CTRL_CMD_GETFAMILY as u8, 1, 0, 0];
    let request = Request::new(libc::GENL_ID_CTRL as u16, &header)
        .attribute(libc::CTRL_ATTR_FAMILY_NAME as u16, b"netdev\0");
    let answers = match netlink.ask(request) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        answers => answers?,
    };
    let value = |answers: &[Message], kind: u16| {
        let mut all = answers.iter().flat_map(|answer| attributes(&answer.payload, GENLMSG));
        all.find(|&(found, _)| found == kind).map(|(_, value)| value.to_vec())
    };
    let family = value(&answers, libc::CTRL_ATTR_FAMILY_ID as u16);
    let Some(family) = family.and_then(|value| u16_at(&value, 0)) else { return Ok(None) };
    let request = Request::new(family, &[NETDEV_CMD_DEV_GET, 1, 0, 0])
        .attribute(NETDEV_A_DEV_IFINDEX, &link.to_ne_bytes());
    let answers = netlink.ask(request)?;
    let features = value(&answers, NETDEV_A_DEV_XDP_FEATURES)
        .and_then(|value| u64_at(&value, 0).or_else(|| u32_at(&value, 0).map(u64::from)));
    let features = features.filter(|&features| features != 0);
    Ok(features.map(|features| features & NETDEV_XDP_ACT_NDO_XMIT != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: i32, family: i32, attributes: &[(u16, &[u8])]) -> Message {
        let header = [family as u8, 0, 0, 0];
        let request = (attributes.iter())
            .fold(Request::new(nft(kind), &header), |request, it| request.attribute(it.0, it.1));
        let bytes = request.finish(0, 1);
        super::super::codec::messages(&bytes).next().unwrap()
    }

    fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let request = (attributes.iter())
            .fold(Request::new(0, &[]), |request, it| request.attribute(it.0, it.1));
        request.finish(0, 0)[16..].to_vec()
    }

    fn chain(family: i32, name: &str, attributes: &[(u16, &[u8])]) -> Message {
        let named = [(NFTA_CHAIN_TABLE, &b"t\0"[..]), (NFTA_CHAIN_NAME, name.as_bytes())];
        message(libc::NFT_MSG_NEWCHAIN, family, &[&named[..], attributes].concat())
    }

    fn rule(family: i32, name: &str) -> Message {
        let place = [(NFTA_RULE_TABLE, &b"t\0"[..]), (NFTA_RULE_CHAIN, name.as_bytes())];
        message(libc::NFT_MSG_NEWRULE, family, &place)
    }

    #[test]
    fn a_chain_counts_when_packets_come_through_it_and_it_does_something() {
        let hook = (NFTA_CHAIN_HOOK, &nested(&[(1, &[0, 0, 0, 1])])[..]);
        let drop = (NFTA_CHAIN_POLICY, &[0_u8, 0, 0, 0][..]);
        let accept = (NFTA_CHAIN_POLICY, &[0_u8, 0, 0, 1][..]);
        let nat = (NFTA_CHAIN_TYPE, &b"nat\0"[..]);
        let chains = [
            chain(libc::NFPROTO_INET, "input", &[hook, accept]),
            chain(libc::NFPROTO_INET, "idle", &[hook, accept]),
            chain(libc::NFPROTO_INET, "called", &[]),
            chain(libc::NFPROTO_IPV4, "closed", &[hook, drop]),
            chain(libc::NFPROTO_IPV4, "post", &[hook, accept, nat]),
            chain(libc::NFPROTO_ARP, "arp", &[hook, drop]),
            chain(libc::NFPROTO_BRIDGE, "bridge", &[hook, drop]),
        ];
        let rules = [
            rule(libc::NFPROTO_INET, "input"),
            rule(libc::NFPROTO_INET, "called"),
            rule(libc::NFPROTO_IPV4, "post"),
            // Of another family's chain with the same name.
            rule(libc::NFPROTO_IPV6, "idle"),
        ];
        let found = effective(&chains, &rules);
        let names: Vec<_> = found.iter().map(|chain| (&chain.name[..], chain.nat)).collect();
        assert_eq!(names, [("inet t input", false), ("ip t closed", false), ("ip t post", true)]);
        assert!(found.iter().all(|chain| chain.devices.is_none()));
    }

    #[test]
    fn a_chain_of_a_device_names_it() {
        let devices = nested(&[(1, b"eth1\0"), (1, b"eth2\0")]);
        let hook = nested(&[(NFTA_HOOK_DEV, b"eth0\0"), (NFTA_HOOK_DEVS, &devices)]);
        let chains = [chain(libc::NFPROTO_NETDEV, "in", &[(NFTA_CHAIN_HOOK, &hook)])];
        let found = effective(&chains, &[rule(libc::NFPROTO_NETDEV, "in")]);
        let names: Vec<String> = ["eth0", "eth1", "eth2"].map(String::from).to_vec();
        assert_eq!(found[0].devices, Some(names));
    }

    #[test]
    fn what_is_cut_is_no_chain_and_no_panic() {
        let hook = nested(&[(NFTA_HOOK_DEV, b"eth0\0")]);
        let whole = chain(libc::NFPROTO_NETDEV, "in", &[(NFTA_CHAIN_HOOK, &hook)]);
        for cut in 0..whole.payload.len() {
            let payload = whole.payload[..cut].to_vec();
            effective(&[Message { payload, ..whole.clone() }], &[]);
        }
    }
}
