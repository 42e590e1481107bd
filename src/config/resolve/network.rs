//! Listeners, relay addresses and peers.

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};
use toml::Spanned;

use super::Checks;
use crate::config::cidr::Cidr;
use crate::config::raw::{RawListen, RawPeers, RawRelay, RawRelayAddress, RawRelayPair};
use crate::config::{Listen, Peers, Relay, RelayAddress, Transport};

/// What is opened by `allow` that nobody opens on purpose.
const SENSITIVE: [(&str, &str); 4] = [
    ("127.0.0.1/32", "the services of this machine (127.0.0.1)"),
    ("169.254.169.254/32", "the cloud's metadata service (169.254.169.254)"),
    ("::1/128", "the services of this machine (::1)"),
    ("fd00:ec2::254/128", "the cloud's metadata service (fd00:ec2::254)"),
];

/// What to write where a relay address is private and has no external one; `None` if it is public.
#[must_use]
pub fn private_relay_warning(address: IpAddr) -> Option<String> {
    is_private(address).then(|| {
        format!(
            "{address} is a private address, which peers on the Internet cannot reach; behind 1:1 \
             NAT write addresses = [{{ local = \"{address}\", external = \"your public \
             address\" }}] in [relay]"
        )
    })
}

pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        // RFC 6598 (carrier-grade NAT) has no method in std.
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

impl Checks<'_> {
    pub(super) fn listeners(&mut self, raw: &[Spanned<RawListen>]) -> Vec<Spanned<Listen>> {
        if raw.is_empty() {
            self.error(
                0..0,
                "there is no [[listen]]; add one with transport = \"udp\" and address = \
                 \"0.0.0.0:3478\"",
            );
        }
        let mut listeners: Vec<Spanned<Listen>> = Vec::new();
        for table in raw {
            let RawListen { transport, address, proxy_protocol, realm } = table.get_ref();
            let Some(transport) = transport else {
                self.error(table.span(), "`transport` is missing; write transport = \"udp\"");
                continue;
            };
            let Some(address) = address else {
                self.error(table.span(), "`address` is missing; write address = \"0.0.0.0:3478\"");
                continue;
            };
            let Some(parsed) = self.socket_address(address, 3478) else {
                continue;
            };
            let transport = *transport.get_ref();
            let proxies = self.proxies(transport, proxy_protocol);
            let realm = realm.as_ref().map(|realm| realm.get_ref().clone());
            let listener = Listen { transport, address: parsed, proxies, realm };
            if let Some(other) = listeners.iter().find(|other| overlap(other.get_ref(), &listener))
            {
                let Listen { transport: by, address: other, .. } = other.get_ref();
                self.error(
                    address.span(),
                    format!("{transport} {parsed} is already covered by {by} {other}; remove one"),
                );
            }
            listeners.push(Spanned::new(address.span(), listener));
        }
        listeners
    }

    fn proxies(&mut self, transport: Transport, raw: &Spanned<Vec<Spanned<Cidr>>>) -> Vec<IpNet> {
        let proxies: Vec<IpNet> = raw.get_ref().iter().map(|entry| entry.get_ref().0).collect();
        if !proxies.is_empty() && !transport.uses_tcp() {
            self.error(
                raw.span(),
                format!(
                    "the PROXY protocol is for TCP, and transport = \"{transport}\" has none; \
                     remove it"
                ),
            );
        }
        for entry in raw.get_ref().iter().filter(|entry| entry.get_ref().0.prefix_len() == 0) {
            let net = entry.get_ref().0;
            self.warn(
                entry.span(),
                format!("{net} lets every client say that it is any other; name the proxies"),
            );
        }
        proxies
    }

    pub(super) fn metrics(
        &mut self,
        raw: Option<&Spanned<String>>,
        listeners: &[Spanned<Listen>],
    ) -> Option<SocketAddr> {
        let raw = raw?;
        let address = self.socket_address(raw, 9641)?;
        let metrics = Listen::new(Transport::Tcp, address);
        if let Some(other) = listeners.iter().find(|other| overlap(other.get_ref(), &metrics)) {
            let other = other.get_ref().address;
            self.error(
                raw.span(),
                format!(
                    "{address} is already covered by the TCP listener {other}; change one port"
                ),
            );
        }
        Some(address)
    }

    /// An address with a port to listen on.
    pub(super) fn socket_address(
        &mut self,
        raw: &Spanned<String>,
        port: u16,
    ) -> Option<SocketAddr> {
        let text = raw.get_ref();
        let Ok(address) = text.parse::<SocketAddr>() else {
            let advice = match text.parse::<IpAddr>() {
                Ok(ip) => format!("has no port; write \"{}\"", SocketAddr::new(ip, port)),
                Err(_) => format!(
                    "is not an address with a port; write \"0.0.0.0:{port}\" or \"[::]:{port}\" \
                     (names are not looked up)"
                ),
            };
            self.error(raw.span(), format!("\"{text}\" {advice}"));
            return None;
        };
        if address.port() == 0 {
            self.error(
                raw.span(),
                format!("\"{text}\" has port 0; clients must know the port, so write one ({port})"),
            );
            return None;
        }
        if let Some(why) = not_ours(address.ip()) {
            self.error(raw.span(), format!("\"{text}\" {why}"));
            return None;
        }
        Some(address)
    }

    pub(super) fn relay(&mut self, raw: &RawRelay, listeners: &[Spanned<Listen>]) -> Relay {
        let ports = raw.ports.get_ref().0.clone();
        if ports.len() < 2 {
            self.error(
                raw.ports.span(),
                format!(
                    "\"{}\" is too small: EVEN-PORT needs pairs of ports, and each allocation \
                     needs one; write \"49152-65535\"",
                    raw.ports.get_ref()
                ),
            );
        } else if *ports.start() < 1024 {
            self.warn(
                raw.ports.span(),
                format!("\"{}\" contains ports below 1024", raw.ports.get_ref()),
            );
        }
        let mut addresses: Vec<RelayAddress> = Vec::new();
        if let Some(list) = &raw.addresses {
            if list.get_ref().is_empty() {
                self.error(
                    list.span(),
                    "is empty; remove the key to relay from the address of the default route",
                );
            }
            for entry in list.get_ref() {
                if let Some(address) = self.relay_address(entry, &addresses, listeners) {
                    addresses.push(address);
                }
            }
        }
        let relay =
            Relay { addresses, ports, tcp: *raw.tcp.get_ref(), mobility: *raw.mobility.get_ref() };
        for listener in listeners {
            self.not_among_relay_ports(listener, &relay, raw.addresses.is_none());
        }
        relay
    }

    fn relay_address(
        &mut self,
        raw: &Spanned<RawRelayAddress>,
        earlier: &[RelayAddress],
        listeners: &[Spanned<Listen>],
    ) -> Option<RelayAddress> {
        let RelayAddress { local, external } = self.own_address(raw)?;
        let span = raw.span();
        if earlier.iter().any(|other| other.local == local || other.external == external) {
            self.error(span, format!("{local} / {external} is there already; remove one"));
            return None;
        }
        let all_loopback =
            listeners.iter().all(|listener| listener.get_ref().address.ip().is_loopback());
        if external.is_loopback() && !all_loopback {
            self.warn(span, format!("peers on other machines cannot reach {external}"));
        } else if local == external
            && let Some(warning) = private_relay_warning(local)
        {
            self.warn(span, warning);
        }
        Some(RelayAddress { local, external })
    }

    /// An address of this machine with what the world calls it.
    pub(super) fn own_address(&mut self, raw: &Spanned<RawRelayAddress>) -> Option<RelayAddress> {
        let (local, external) = match raw.get_ref() {
            RawRelayAddress::Plain(text) => {
                let local = self.ip_address(&Spanned::new(raw.span(), text.clone()))?;
                (local, local)
            }
            RawRelayAddress::Pair(RawRelayPair {
                local: Some(local),
                external: Some(external),
            }) => {
                let local = self.ip_address(local);
                (local?, self.ip_address(external)?)
            }
            RawRelayAddress::Pair(_) => {
                self.error(
                    raw.span(),
                    "needs both `local` and `external`; write \
                     { local = \"10.0.0.5\", external = \"203.0.113.7\" }",
                );
                return None;
            }
        };
        if local.is_ipv4() != external.is_ipv4() {
            self.error(
                raw.span(),
                format!(
                    "local {local} and external {external} are of different families; NAT does \
                     not change the family, so write one pair for each"
                ),
            );
            return None;
        }
        Some(RelayAddress { local, external })
    }

    fn ip_address(&mut self, raw: &Spanned<String>) -> Option<IpAddr> {
        let text = raw.get_ref();
        let Ok(address) = text.parse::<IpAddr>() else {
            self.error(
                raw.span(),
                format!("\"{text}\" is not an IP address; write \"203.0.113.7\", without a port"),
            );
            return None;
        };
        let why = if address.is_unspecified() {
            Some("is not one address; write the address that peers shall see".to_owned())
        } else {
            not_ours(address)
        };
        if let Some(why) = why {
            self.error(raw.span(), format!("\"{text}\" {why}"));
            return None;
        }
        Some(address)
    }

    fn not_among_relay_ports(
        &mut self,
        listener: &Spanned<Listen>,
        relay: &Relay,
        default_route: bool,
    ) {
        let address = listener.get_ref().address;
        let same_address = |relay: &RelayAddress| {
            relay.local == address.ip()
                || (address.ip().is_unspecified() && relay.local.is_ipv4() == address.is_ipv4())
        };
        if relay.ports.contains(&address.port())
            // The default route's address is not known here, but it is no loopback address.
            && ((default_route && !address.ip().is_loopback())
                || relay.addresses.iter().any(same_address))
        {
            self.error(
                listener.span(),
                format!(
                    "{address} lies among the relay ports {}-{} of the same address; move the \
                     listener, or change `ports` in [relay]",
                    relay.ports.start(),
                    relay.ports.end()
                ),
            );
        }
    }

    pub(super) fn peers(&mut self, raw: &RawPeers) -> Peers {
        let nets = |list: &Spanned<Vec<Spanned<Cidr>>>| -> Vec<IpNet> {
            list.get_ref().iter().map(|entry| entry.get_ref().0).collect()
        };
        let (allow, deny) = (nets(&raw.allow), nets(&raw.deny));
        for entry in raw.deny.get_ref() {
            let net = entry.get_ref().0;
            if allow.contains(&net) {
                self.error(entry.span(), format!("{net} is in `allow` too; remove one"));
            }
        }
        for entry in raw.allow.get_ref() {
            self.warn_if_sensitive(entry, &deny);
        }
        let nat64 = raw.nat64.get_ref().iter().filter_map(|entry| self.nat64(entry)).collect();
        Peers { allow, deny, nat64 }
    }

    /// Opening one host on purpose is the operator's business; opening it with a wide range
    /// mostly is not.
    fn warn_if_sensitive(&mut self, entry: &Spanned<Cidr>, deny: &[IpNet]) {
        let net = entry.get_ref().0;
        for (host, what) in SENSITIVE {
            let host: IpNet = host.parse().expect("the table holds ranges");
            let denied =
                |deny: &IpNet| deny.contains(&host) && deny.prefix_len() > net.prefix_len();
            if net.contains(&host) && net != host && !deny.iter().any(denied) {
                self.warn(entry.span(), format!("{net} lets every user of the relay reach {what}"));
            }
        }
    }

    fn nat64(&mut self, entry: &Spanned<Cidr>) -> Option<Ipv6Net> {
        match entry.get_ref().0 {
            IpNet::V6(net) if [32, 40, 48, 56, 64, 96].contains(&net.prefix_len()) => Some(net),
            IpNet::V6(net) => {
                self.error(
                    entry.span(),
                    format!(
                        "{net} has a length that NAT64 does not know; it is one of /32, /40, /48, \
                         /56, /64 and /96 (RFC 6052 section 2.2)"
                    ),
                );
                None
            }
            IpNet::V4(net) => {
                self.error(
                    entry.span(),
                    format!("{net} is IPv4; a NAT64 prefix is IPv6, such as \"64:ff9b:1::/48\""),
                );
                None
            }
        }
    }
}

/// Whether the kernel would refuse to bind both. IPv6 listeners are IPv6 only.
pub(super) fn overlap(one: &Listen, other: &Listen) -> bool {
    let (a, b) = (one.address, other.address);
    let of_a_kind = (one.transport.uses_udp() && other.transport.uses_udp())
        || (one.transport.uses_tcp() && other.transport.uses_tcp());
    of_a_kind
        && a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Why an address can be no interface's.
fn not_ours(address: IpAddr) -> Option<String> {
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address".to_owned()),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("is IPv4 written as IPv6; write it as IPv4".to_owned())
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("is link-local, which names no interface; write a global address".to_owned())
        }
        ip if ip.is_multicast() => Some("is a multicast address; write one of this machine".into()),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}
