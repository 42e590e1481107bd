//! NAT behaviour discovery: its addresses and ports, and the listeners it needs.

use std::net::SocketAddr;

use toml::Spanned;

use super::Checks;
use super::network::{is_private, overlap};
use crate::config::raw::RawNatDiscovery;
use crate::config::{Listen, NatDiscovery, RelayAddress, Transport};

impl Checks<'_> {
    /// What `[nat_discovery]` says. The listeners that it needs and `[[listen]]` does not have are
    /// added to `listeners`.
    pub(super) fn nat_discovery(
        &mut self,
        raw: &RawNatDiscovery,
        listeners: &mut Vec<Spanned<Listen>>,
    ) -> Option<NatDiscovery> {
        let list = raw.addresses.as_ref()?;
        let ports = self.two_ports(&raw.ports);
        let mut addresses = Vec::new();
        for entry in list.get_ref() {
            let address = self.own_address(entry)?;
            self.warn_if_unreachable(entry, address);
            addresses.push(Spanned::new(entry.span(), address));
        }
        let (v4, v6): (Vec<_>, Vec<_>) =
            addresses.iter().partition(|address| address.get_ref().local.is_ipv4());
        let mut pairs = Vec::new();
        for family in [v4, v6] {
            match family.as_slice() {
                [] => {}
                [one, two] if are_two(*one.get_ref(), *two.get_ref()) => {
                    pairs.push([*one.get_ref(), *two.get_ref()]);
                }
                _ => {
                    self.error(
                        list.span(),
                        "needs two different addresses of one family, or two of IPv4 and two of \
                         IPv6; write addresses = [\"203.0.113.7\", \"203.0.113.8\"]",
                    );
                    return None;
                }
            }
        }
        if pairs.is_empty() {
            self.error(list.span(), "is empty; remove the key to have no NAT behaviour discovery");
            return None;
        }
        let ports = ports?;
        for (address, port) in addresses.iter().flat_map(|it| ports.map(|port| (it, port))) {
            self.listen_for_discovery(address, port, listeners);
        }
        Some(NatDiscovery { addresses: pairs, ports })
    }

    fn two_ports(&mut self, raw: &Spanned<Vec<u16>>) -> Option<[u16; 2]> {
        match *raw.get_ref().as_slice() {
            [one, two] if one != two && one != 0 && two != 0 => Some([one, two]),
            _ => {
                self.error(
                    raw.span(),
                    format!(
                        "{:?} are not two different ports; write ports = [3478, 3479]",
                        raw.get_ref()
                    ),
                );
                None
            }
        }
    }

    fn listen_for_discovery(
        &mut self,
        address: &Spanned<RelayAddress>,
        port: u16,
        listeners: &mut Vec<Spanned<Listen>>,
    ) {
        let at = SocketAddr::new(address.get_ref().local, port);
        let wanted = Listen::new(Transport::Udp, at);
        let there = listeners.iter().map(Spanned::get_ref).find(|other| overlap(other, &wanted));
        let Some(Listen { transport, address: other, .. }) = there else {
            return listeners.push(Spanned::new(address.span(), wanted));
        };
        match transport {
            Transport::Udp | Transport::Auto => {}
            Transport::Tcp | Transport::Tls | Transport::Dtls => {
                let message = format!(
                    "needs {at} for plain UDP, where {transport} {other} listens; move that \
                     listener, or change `ports` in [nat_discovery]"
                );
                self.error(address.span(), message);
            }
        }
    }

    fn warn_if_unreachable<T>(
        &mut self,
        entry: &Spanned<T>,
        RelayAddress { local, external }: RelayAddress,
    ) {
        if local == external && is_private(local) {
            self.warn(
                entry.span(),
                format!(
                    "{local} is a private address, which clients on the Internet cannot reach; \
                     behind 1:1 NAT write {{ local = \"{local}\", external = \"your public \
                     address\" }}"
                ),
            );
        }
    }
}

fn are_two(one: RelayAddress, two: RelayAddress) -> bool {
    one.local != two.local && one.external != two.external
}
