//! The kernel's data path, as the daemon starts it: on which interfaces, and what the operator is
//! told of it. Shards feed it (`shard/kernel.rs`), the metrics read it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use turnway_offload::{BindingRate, Mode, Offload, Refused, Settings, Started};

use crate::config::{self, Config, OffloadMode, Transport};
use crate::ports::RelayAddrs;

/// Starts it, if the configuration wants it and the machine has it. User space relays whatever it
/// does not, so nothing of this stops the daemon; one line says what became of it.
pub fn start(config: &Config, relays: &[RelayAddrs]) -> Option<Arc<Offload>> {
    let mode = match config.offload.mode {
        OffloadMode::Auto => Mode::Auto,
        OffloadMode::Native => Mode::Native,
        OffloadMode::Generic => Mode::Generic,
        OffloadMode::Off => return None,
    };
    let started = interfaces(config, relays).and_then(|interfaces| {
        Offload::start(Settings {
            mode,
            interfaces,
            max_channels: config.offload.max_channels,
            // Its answers say nothing of what NAT behaviour discovery is about.
            binding: config.nat_discovery.is_none().then(|| binding(&config.limits)),
            listeners: udp_listeners(config).collect(),
        })
    });
    match started {
        Ok(Started { offload, report }) => {
            tracing::info!("relaying in the kernel: {report}");
            Some(Arc::new(offload))
        }
        Err(refused) if mode == Mode::Auto => {
            tracing::info!("relaying in user space only: {refused}");
            None
        }
        Err(refused) => {
            let mode = config.offload.mode;
            tracing::warn!("[offload] mode = \"{mode}\": relaying in user space only: {refused}");
            None
        }
    }
}

/// The rate of answers to strangers, which the kernel's answers are held to as well.
fn binding(limits: &config::Limits) -> BindingRate {
    BindingRate {
        per_second: limits.unauthenticated_per_source.per_second,
        burst: limits.unauthenticated_burst,
    }
}

fn udp_listeners(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let is_plain = |transport| match transport {
        Transport::Udp | Transport::Auto => true,
        Transport::Tcp | Transport::Tls | Transport::Dtls => false,
    };
    let udp = config.listen.iter().filter(move |listen| is_plain(listen.transport));
    udp.map(|listen| listen.address)
}

/// The interfaces to consider; none means all.
fn interfaces(config: &Config, relays: &[RelayAddrs]) -> Result<Vec<String>, Refused> {
    let ours = udp_listeners(config)
        .map(|address| address.ip())
        .chain(relays.iter().map(|relay| relay.local));
    let ours: Vec<IpAddr> = ours.collect();
    if !config.offload.interfaces.is_empty() || ours.iter().any(IpAddr::is_unspecified) {
        return Ok(config.offload.interfaces.clone());
    }
    if ours.iter().all(IpAddr::is_loopback) {
        return Err(refused("every address is a loopback address"));
    }
    let all = if_addrs::get_if_addrs()
        .map_err(|error| refused(&format!("cannot list the interfaces: {error}")))?;
    let mut names: Vec<String> = all
        .into_iter()
        .filter(|interface| !interface.is_loopback() && ours.contains(&interface.ip()))
        .map(|interface| interface.name)
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(refused("no interface has one of our addresses"));
    }
    Ok(names)
}

fn refused(why: &str) -> Refused {
    Refused { why: why.to_owned(), help: None }
}
