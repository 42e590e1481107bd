//! Which peers may be relayed to and from: [`Policy`].
//!
//! The order of judgement, first match wins:
//!
//! 1. tunnel addresses (Teredo, 6to4, IPv4-compatible) are refused, whatever is configured;
//! 2. our own listeners are refused, whatever is configured;
//! 3. our live relayed transport addresses are permitted, whatever their range: two clients of one
//!    server may talk to each other. Over TCP nothing else of ours is, unless 4 allows it: what
//!    else this machine serves would take a connection of ours for one of its own;
//! 4. the operator's `allow` and `deny`, the longest prefix winning and `deny` winning a tie;
//! 5. the special-purpose ranges of the IANA registries (`special.rs`) are refused;
//! 6. everything else is permitted.
//!
//! An IPv4 address inside an IPv6 address (`nat64.rs`) must pass as well as the address around it.
//! Ranges are compared as whole numbers, never byte by byte (`table.rs`).
//!
//! A policy is immutable and a judgement costs a few comparisons, so it can be asked again for
//! every datagram: a permission or channel made under an older policy holds no longer than that.

mod nat64;
mod special;
mod table;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::nat64::PREFIX_LENGTHS as NAT64_PREFIX_LENGTHS;
pub use self::special::{Special, special_purpose};

use self::nat64::Nat64;
use self::table::RangeTable;
use crate::address::{PeerAddr, Protocol, canonical_ip};
use crate::shared::LivePorts;

/// What a [`Policy`] is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Ranges that are permitted although a wider `deny` or a built-in range says otherwise.
    pub allow: Vec<IpNet>,
    /// Ranges that are refused.
    pub deny: Vec<IpNet>,
    /// The NAT64 prefixes of the networks around, beside the well-known one. Their lengths are
    /// among [`NAT64_PREFIX_LENGTHS`]; of a prefix of another length every address is refused.
    pub nat64: Vec<Ipv6Net>,
    /// Every transport address this process listens on, for clients or otherwise. An unspecified
    /// IP address stands for every own address.
    pub listeners: Vec<SocketAddr>,
    /// Every IP address of this machine. The loopback addresses need not be named.
    pub own: Vec<IpAddr>,
    /// The relay addresses, as bound (first) and as announced (second).
    pub relays: Vec<(IpAddr, IpAddr)>,
}

/// What is known of an IP address before its port is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every port of it is a permitted peer.
    Open,
    /// It is one of our own: [`Policy::check`] decides for each port.
    OwnPorts,
    /// No port of it is a permitted peer.
    Denied,
}

/// The judgement over peers. Immutable; made anew when the configuration changes.
#[derive(Clone, Debug)]
pub struct Policy {
    configured_v4: RangeTable,
    configured_v6: RangeTable,
    nat64: Nat64,
    /// Sorted, like the next four: own addresses, local and external, except loopback.
    own: Vec<IpAddr>,
    /// The addresses relay sockets are bound to, and those they are announced as.
    relays: Vec<IpAddr>,
    listeners: Vec<SocketAddr>,
    /// Ports of listeners on every own address.
    wildcard_ports: Vec<u16>,
    /// (from, to) where they differ.
    external_to_local: Vec<(IpAddr, IpAddr)>,
    local_to_external: Vec<(IpAddr, IpAddr)>,
}

impl Policy {
    /// Compiles a configuration; O(n log n) in the number of its ranges.
    pub fn new(config: PolicyConfig) -> Self {
        let relays: Vec<(IpAddr, IpAddr)> = config
            .relays
            .iter()
            .map(|&(local, external)| (canonical_ip(local), canonical_ip(external)))
            .collect();
        let listeners = listeners(&config.listeners, &relays);
        let relay_ips = relays.iter().flat_map(|&(local, external)| [local, external]);
        let own = config.own.iter().map(|&ip| canonical_ip(ip)).chain(relay_ips.clone());
        let own = own.chain(listeners.iter().map(|listener| listener.ip()));
        let wildcards = config.listeners.iter().filter(|listener| is_wildcard(listener));
        let ranges: Vec<(IpNet, bool)> = config
            .allow
            .iter()
            .map(|&net| (canonical_net(net), true))
            .chain(config.deny.iter().map(|&net| (canonical_net(net), false)))
            .collect();
        Self {
            configured_v4: RangeTable::new(ranges.iter().filter(|(net, _)| is_v4(net)).copied()),
            configured_v6: RangeTable::new(ranges.iter().filter(|(net, _)| !is_v4(net)).copied()),
            nat64: Nat64::new(config.nat64),
            own: sorted(own),
            wildcard_ports: sorted(wildcards.map(SocketAddr::port)),
            listeners: sorted(listeners),
            external_to_local: translation(
                relays.iter().map(|&(local, external)| (external, local)),
            ),
            local_to_external: translation(relays.iter().copied()),
            relays: sorted(relay_ips),
        }
    }

    /// The address a datagram to `peer` is really for: one of our external addresses is the local
    /// one behind it, which a 1:1 NAT need not know how to reach. Others are unchanged.
    pub fn to_local(&self, peer: PeerAddr) -> PeerAddr {
        translate(&self.external_to_local, peer)
    }

    /// The address by which clients know `peer`: the inverse of [`Policy::to_local`].
    pub fn to_external(&self, peer: PeerAddr) -> PeerAddr {
        translate(&self.local_to_external, peer)
    }

    /// What is to be said of an IP address as such: for CreatePermission, which has no port.
    ///
    /// `ip` is [local](Policy::to_local).
    pub fn check_ip(&self, ip: IpAddr) -> Verdict {
        let ip = canonical_ip(ip);
        if is_tunnel(ip) {
            return Verdict::Denied;
        }
        let in_range = self.range_permits(ip);
        if self.is_own(ip) {
            let some_port = in_range || self.relays.binary_search(&ip).is_ok();
            return if some_port { Verdict::OwnPorts } else { Verdict::Denied };
        }
        if in_range && self.contents_permitted(ip) { Verdict::Open } else { Verdict::Denied }
    }

    /// Whether datagrams may be sent to and received from `peer`, or connections made to and
    /// accepted from it: for ChannelBind, Send, Connect and every datagram relayed. Port 0 is no
    /// peer.
    ///
    /// `peer` is [local](Policy::to_local); `live` are our relayed transport addresses in use.
    pub fn check(&self, protocol: Protocol, peer: PeerAddr, live: &LivePorts) -> bool {
        if peer.port() == 0 {
            return false;
        }
        match self.check_ip(peer.ip()) {
            Verdict::Open => true,
            Verdict::OwnPorts => {
                let in_range = || match protocol {
                    Protocol::Udp => self.range_permits(peer.ip()),
                    Protocol::Tcp => self.configured(peer.ip()) == Some(true),
                };
                !self.is_listener(peer) && (live.contains(protocol, peer.socket()) || in_range())
            }
            Verdict::Denied => false,
        }
    }

    /// What the configured and built-in ranges say.
    fn range_permits(&self, ip: IpAddr) -> bool {
        self.configured(ip).unwrap_or_else(|| special_purpose(ip).is_none())
    }

    /// What the configured ranges say, if they say anything.
    fn configured(&self, ip: IpAddr) -> Option<bool> {
        match ip {
            IpAddr::V4(_) => self.configured_v4.lookup(ip),
            IpAddr::V6(_) => self.configured_v6.lookup(ip),
        }
    }

    /// Whether every IPv4 address that a NAT64 would find in `ip` is a permitted peer. Our own are
    /// not: a way to us through a translator has no use, and makes loops.
    fn contents_permitted(&self, ip: IpAddr) -> bool {
        let IpAddr::V6(ip) = ip else { return true };
        self.nat64.contents(ip).permit(|v4| self.check_ip(IpAddr::V4(v4)) == Verdict::Open)
    }

    /// Whether datagrams to `ip` come to this machine. To an unspecified address they do.
    fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified() || self.own.binary_search(&ip).is_ok()
    }

    fn is_listener(&self, peer: PeerAddr) -> bool {
        self.wildcard_ports.binary_search(&peer.port()).is_ok()
            || self.listeners.binary_search(&peer.socket()).is_ok()
            || (peer.ip().is_unspecified()
                && self.listeners.iter().any(|listener| listener.port() == peer.port()))
    }
}

/// Addresses that are refused without appeal.
fn is_tunnel(ip: IpAddr) -> bool {
    let IpAddr::V6(ip) = ip else { return false };
    //= rfc8656#section-21.4
    //# In particular, a TURN server MUST NOT accept Teredo
    //# or 6to4 addresses in these requests.
    let teredo = ip.to_bits() >> 96 == 0x2001_0000;
    let six_to_four = ip.to_bits() >> 112 == 0x2002;
    // ::/96 without :: and ::1. Automatic tunnelling is long gone (RFC 4291 section 2.5.5.1), so
    // the only use of such an address is to write an IPv4 address where nobody looks for it.
    let compatible = ip.to_bits() >> 32 == 0 && ip.to_bits() > 1;
    teredo || six_to_four || compatible
}

/// The listeners of one address, those of a local address under its external ones as well, so
/// that none is reached even if an address comes here untranslated.
fn listeners(configured: &[SocketAddr], relays: &[(IpAddr, IpAddr)]) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for listener in configured.iter().filter(|listener| !is_wildcard(listener)) {
        let ip = canonical_ip(listener.ip());
        let externals = relays.iter().filter(|(local, _)| *local == ip).map(|&(_, ext)| ext);
        let ips = externals.chain([ip]);
        all.extend(ips.map(|ip| SocketAddr::new(ip, listener.port())));
    }
    all
}

fn is_wildcard(listener: &SocketAddr) -> bool {
    canonical_ip(listener.ip()).is_unspecified()
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

/// A range of IPv4-mapped addresses as the IPv4 range it is, for peers are canonical as well.
fn canonical_net(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.network().to_ipv4_mapped();
    let length = v6.prefix_len().checked_sub(96);
    let v4 = mapped.zip(length).and_then(|(ip, length)| Ipv4Net::new(ip, length).ok());
    v4.map_or(net, IpNet::V4)
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items
}

/// Pairs to translate by: the first pair for an address counts.
fn translation(pairs: impl Iterator<Item = (IpAddr, IpAddr)>) -> Vec<(IpAddr, IpAddr)> {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by_key(|&(from, _)| from);
    pairs.dedup_by_key(|&mut (from, _)| from);
    pairs.retain(|(from, to)| from != to);
    pairs
}

fn translate(pairs: &[(IpAddr, IpAddr)], peer: PeerAddr) -> PeerAddr {
    match pairs.binary_search_by_key(&peer.ip(), |&(from, _)| from) {
        Ok(at) => PeerAddr::new(SocketAddr::new(pairs[at].1, peer.port())),
        Err(_) => peer,
    }
}

#[cfg(test)]
mod tests;
