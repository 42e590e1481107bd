//! Which server addresses answer Binding requests: the configured ones, wildcards spelled out.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::maps::Maps;

/// What is configured, what the machine has, and what the program was told.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    configured: Vec<SocketAddr>,
    addresses: Vec<IpAddr>,
    told: BTreeSet<SocketAddr>,
    /// What the map had no room for, so that it is said once.
    untold: BTreeSet<SocketAddr>,
}

impl Listeners {
    pub(super) fn new(configured: Vec<SocketAddr>) -> Listeners {
        Listeners { configured, ..Listeners::default() }
    }

    pub(super) fn configure(&mut self, configured: Vec<SocketAddr>) {
        self.configured = configured;
    }

    pub(super) fn set_addresses(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        self.addresses = addresses.collect();
    }

    /// Tells the program what changed.
    pub(super) fn update(&mut self, maps: &Maps) {
        let wanted = expand(&self.configured, &self.addresses);
        for &listener in self.told.difference(&wanted) {
            // One that is gone already is as wished.
            let _ = maps.remove_listener(listener);
        }
        self.told.retain(|listener| wanted.contains(listener));
        self.untold.retain(|listener| wanted.contains(listener));
        for &listener in &wanted {
            if self.told.contains(&listener) {
                continue;
            }
            match maps.add_listener(listener) {
                Ok(()) => drop(self.told.insert(listener)),
                Err(error) if self.untold.insert(listener) => {
                    tracing::warn!(%listener, %error, "offload: Binding requests are not answered");
                }
                Err(_) => {}
            }
        }
    }
}

fn expand(configured: &[SocketAddr], addresses: &[IpAddr]) -> BTreeSet<SocketAddr> {
    let mut found = BTreeSet::new();
    for listener in configured {
        let ip = listener.ip().to_canonical();
        if ip.is_unspecified() {
            let family = addresses.iter().filter(|address| address.is_ipv4() == ip.is_ipv4());
            found.extend(family.map(|&address| SocketAddr::new(address, listener.port())));
        } else {
            found.insert(SocketAddr::new(ip, listener.port()));
        }
    }
    // Nobody on a wire has business with these.
    found.retain(|listener| !listener.ip().is_loopback());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_every_address_of_its_family() {
        let configured =
            ["0.0.0.0:3478", "[2001:db8::2]:5349", "[::1]:3478"].map(|it| it.parse().unwrap());
        let addresses = ["192.0.2.1", "127.0.0.1", "2001:db8::1"].map(|it| it.parse().unwrap());
        let found: Vec<String> =
            expand(&configured, &addresses).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:3478", "[2001:db8::2]:5349"]);
        assert_eq!(expand(&configured[..1], &[]).len(), 0);
    }
}
