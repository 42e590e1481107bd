//! What the machine gives: relay addresses, descriptors, socket buffers.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use turnway_udp as udp;

use super::ServeError;
use crate::config::{self, Config};
use crate::ports::RelayAddrs;

/// Descriptors for everything but allocations and connections: logs, metrics, polling.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Descriptors per shard: poller, waker, two timers.
const DESCRIPTORS_PER_SHARD: u64 = 4;

/// The share of descriptors that TCP connections may have unless configured: one in this many.
const CONNECTION_SHARE: u64 = 4;

/// The share of descriptors set apart for the sockets of reservations: one in this many.
const RESERVATION_SHARE: u64 = 8;

/// The configured relay addresses, or those of the default routes. Each is checked to be ours.
pub(super) fn relay_addresses(config: &Config) -> Result<Vec<RelayAddrs>, ServeError> {
    let mut relays: Vec<RelayAddrs> = config
        .relay
        .addresses
        .iter()
        .map(|address| RelayAddrs { local: address.local, external: address.external })
        .collect();
    if relays.is_empty() {
        for local in default_addresses() {
            tracing::info!(address = %local, "relaying from the address of the default route");
            if let Some(warning) = config::private_relay_warning(local) {
                tracing::warn!("{warning}");
            }
            relays.push(RelayAddrs { local, external: local });
        }
    }
    if relays.is_empty() {
        return Err(ServeError::Input(
            "[relay] addresses: none is configured and there is no default route to take one \
             from; write for example addresses = [\"203.0.113.7\"]"
                .to_owned(),
        ));
    }
    for (index, relay) in relays.iter().enumerate() {
        if let Err(error) = UdpSocket::bind(SocketAddr::new(relay.local, 0)) {
            let place = config.places.relay.get(index).map_or("[relay] addresses", String::as_str);
            return Err(ServeError::Input(format!(
                "{place}: cannot bind to {}: {error}; it must be an address of this machine (see \
                 `ip address`); behind 1:1 NAT write {{ local = \"the machine's own\", external = \
                 \"{}\" }}",
                relay.local, relay.local
            )));
        }
    }
    Ok(relays)
}

/// The addresses from which the default routes are used: what is relayed from unless configured.
pub(crate) fn default_addresses() -> Vec<IpAddr> {
    let families = [udp::Family::V4, udp::Family::V6];
    families.into_iter().filter_map(udp::system::default_route_address).collect()
}

/// Every address of this machine: peers are not to reach our listeners through any of them.
///
/// # Errors
///
/// Where they cannot be listed the relay must not start: it could not tell itself from a peer.
pub(super) fn own_addresses() -> Result<Vec<IpAddr>, ServeError> {
    let interfaces = if_addrs::get_if_addrs().map_err(|error| {
        ServeError::Runtime(format!(
            "cannot list this machine's addresses: {error}; under systemd the unit must allow \
             AF_NETLINK"
        ))
    })?;
    let mut own: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
    own.sort_unstable();
    own.dedup();
    Ok(own)
}

/// How many allocations and connections there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) allocations: u32,
    pub(super) connections: u32,
    descriptors: u64,
    ports: u64,
}

impl Capacity {
    /// Raises the descriptor limit and derives the rest from it.
    pub(super) fn of(
        config: &Config,
        relays: &[RelayAddrs],
        shards: usize,
    ) -> Result<Self, ServeError> {
        let (descriptors, _) = udp::system::raise_nofile().map_err(|error| {
            ServeError::Runtime(format!("cannot read the descriptor limit: {error}"))
        })?;
        let per_address = u64::from(*config.relay.ports.end() - *config.relay.ports.start()) + 1;
        let ports = per_address * relays.len() as u64;
        let per_shard = DESCRIPTORS_PER_SHARD + config.listen.len() as u64;
        let beside = DESCRIPTORS_BESIDE + per_shard * shards as u64;
        let available = descriptors.saturating_sub(beside);
        if available < 16 {
            return Err(ServeError::Input(format!(
                "the descriptor limit of {descriptors} is too low for {shards} shards: raise \
                 LimitNOFILE (ulimit -n)"
            )));
        }
        let has_tcp = config.listen.iter().any(|listen| listen.transport.uses_tcp());
        let share = if has_tcp { available / CONNECTION_SHARE } else { 0 };
        let connections = config.limits.tcp_connections.map_or(share, u64::from);
        let reservations = ports.min(available) / RESERVATION_SHARE;
        let room = available.saturating_sub(connections + reservations).min(ports);
        if room == 0 {
            return Err(ServeError::Input(format!(
                "[limits] tcp_connections = {connections} leaves no descriptor of {descriptors} \
                 for allocations: lower it or raise LimitNOFILE"
            )));
        }
        let allocations = config.limits.allocations.map_or(room, u64::from);
        if allocations > room {
            tracing::warn!(
                configured = allocations,
                possible = room,
                descriptors,
                ports,
                "[limits] allocations is more than descriptors and ports allow; those beyond get 508"
            );
        }
        let bounded = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Self {
            allocations: bounded(allocations),
            connections: bounded(connections),
            descriptors,
            ports,
        })
    }

    pub(super) fn say(&self, shards: usize) {
        tracing::info!(
            shards,
            allocations = self.allocations,
            tcp_connections = self.connections,
            descriptors = self.descriptors,
            relay_ports = self.ports,
            "capacity"
        );
    }
}

/// Names the setting to change where the kernel gave smaller buffers than were asked for.
pub(super) fn warn_of_small_buffers(granted: &udp::BufferGrant) {
    for (got, sysctl) in
        [(granted.receive_got, "net.core.rmem_max"), (granted.send_got, "net.core.wmem_max")]
    {
        if got < granted.asked {
            tracing::warn!(
                asked = granted.asked,
                got,
                "listener buffers are smaller than socket_buffer; datagrams may be lost in bursts: \
                 sysctl -w {sysctl}={}",
                granted.asked
            );
        }
    }
}
