//! Other servers that clients are sent to.

use std::net::SocketAddr;
use std::sync::Arc;

use toml::Spanned;
use turnway_relay::Transport;
use turnway_relay::alternate::Alternate;

use super::Checks;
use crate::config::raw::{RawAlternate, RawAlternateServer};
use crate::config::{Alternates, Listen, Relay};

/// RFC 8489 section 14.16.
const MAX_DOMAIN_BYTES: usize = 255;

impl Checks<'_> {
    pub(super) fn alternates(
        &mut self,
        raw: RawAlternate,
        listeners: &[Spanned<Listen>],
        relay: &Relay,
    ) -> Alternates {
        let servers = raw.server.iter();
        let servers = servers.filter_map(|table| self.alternate(table, listeners, relay)).collect();
        Alternates { when: raw.when.into_inner(), servers }
    }

    fn alternate(
        &mut self,
        table: &Spanned<RawAlternateServer>,
        listeners: &[Spanned<Listen>],
        relay: &Relay,
    ) -> Option<Alternate> {
        let raw = table.get_ref();
        let Some(texts) = raw.addresses.as_ref().filter(|texts| !texts.get_ref().is_empty()) else {
            self.error(
                table.span(),
                "`addresses` is missing; write addresses = [\"203.0.113.9:3478\"]",
            );
            return None;
        };
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for text in texts.get_ref() {
            let address = text.get_ref().parse().ok().filter(is_reachable);
            let Some(address) = address else {
                let message = format!(
                    "\"{}\" is not the address and port of a server; write for example \
                     \"203.0.113.9:3478\" or \"[2001:db8::9]:3478\"",
                    text.get_ref()
                );
                self.error(text.span(), message);
                continue;
            };
            if listeners.iter().any(|listener| is_ours(address, listener.get_ref(), relay)) {
                self.error(text.span(), format!("{address} is this server; name another"));
            }
            if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                self.error(
                    text.span(),
                    "is a second address of the same family; write a [[alternate.server]] for each \
                     server, with at most one IPv4 and one IPv6 address",
                );
            }
            addresses.push(address);
        }
        let mut transports = Vec::new();
        for text in raw.transports.get_ref() {
            match transport(text.get_ref()) {
                Some(transport) => transports.push(transport),
                None => self.error(
                    text.span(),
                    format!(
                        "\"{}\" is not a transport; write \"udp\", \"tcp\", \"tls\" or \"dtls\"",
                        text.get_ref()
                    ),
                ),
            }
        }
        if raw.transports.get_ref().is_empty() {
            self.error(raw.transports.span(), "is empty, so nobody would be sent there");
        }
        let domain = raw.domain.as_ref().and_then(|domain| self.domain(domain));
        Some(Alternate { addresses, domain, transports })
    }

    fn domain(&mut self, domain: &Spanned<String>) -> Option<Arc<str>> {
        let text = domain.get_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if text.is_empty() || text.len() > MAX_DOMAIN_BYTES || !text.chars().all(allowed) {
            let message = format!(
                "{text:?} is not a domain; write the name in the other server's certificate, such \
                 as \"turn2.example.org\""
            );
            self.error(domain.span(), message);
            return None;
        }
        Some(text.as_str().into())
    }
}

fn transport(text: &str) -> Option<Transport> {
    Transport::ALL.into_iter().find(|transport| transport.label() == text)
}

fn is_reachable(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

/// Whether clients of an address reach one of our listeners. On all addresses it is reached at
/// those that we relay from, too.
fn is_ours(address: SocketAddr, listener: &Listen, relay: &Relay) -> bool {
    let ours = listener.address;
    let of_relay = || {
        let mut relays = relay.addresses.iter();
        relays.any(|relay| [relay.local, relay.external].contains(&address.ip()))
    };
    let same_ip = ours.ip() == address.ip() || (ours.ip().is_unspecified() && of_relay());
    ours.port() == address.port() && same_ip
}
