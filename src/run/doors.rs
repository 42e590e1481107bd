//! Listeners: bound once for each shard before anything runs, or refused with what to do.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use turnway_relay::RealmId;
use turnway_relay::shared::SourceLimiter;
use turnway_udp as udp;

use super::{RATE_SLOTS, ServeError, machine, random_u64, rules};
use crate::admin::Door;
use crate::config::{AdminListen, Config, Listen, Transport};
use crate::io::door::{Entrance, Speaks};
use crate::io::sources::Sources;
use crate::io::udp::Listener;
use crate::tls::Store;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Seconds' worth of handshakes that a source which was quiet may have at once.
const HANDSHAKE_BURST: u32 = 10;

/// One shard's share of every listener.
pub(super) struct Doors {
    pub(super) udp: Vec<Listener>,
    pub(super) tcp: Vec<udp::TcpListenerFd>,
}

/// Binds every listener once for each shard, after making sure that nobody else has it.
pub(super) fn bind_listeners(config: &Config, shards: usize) -> Result<Vec<Doors>, ServeError> {
    for (index, listen) in config.listen.iter().enumerate() {
        let refused = |error| cannot_listen(config, index, &error);
        if listen.transport.uses_udp() {
            udp::probe_exclusive_udp(listen.address).map_err(refused)?;
        }
        if listen.transport.uses_tcp() {
            udp::probe_exclusive_tcp(listen.address).map_err(refused)?;
        }
    }
    let mut granted: Option<udp::BufferGrant> = None;
    let mut doors = Vec::with_capacity(shards);
    for _ in 0..shards {
        let mut door = Doors { udp: Vec::new(), tcp: Vec::new() };
        for (index, listen) in config.listen.iter().enumerate() {
            let refused = |error| cannot_listen(config, index, &error);
            if listen.transport.uses_udp() {
                let buffer = config.limits.socket_buffer;
                let (socket, grant) = udp::listener_udp(listen.address, buffer).map_err(refused)?;
                granted = Some(grant);
                let speaks = speaks(listen.transport);
                let realm = realm_of(config, listen);
                door.udp.push(Listener::new(socket, speaks, realm).map_err(refused)?);
            }
            if listen.transport.uses_tcp() {
                door.tcp.push(udp::listener_tcp(listen.address, BACKLOG).map_err(refused)?);
            }
        }
        doors.push(door);
    }
    if let Some(granted) = granted {
        machine::warn_of_small_buffers(&granted);
    }
    Ok(doors)
}

/// Who may come in through the TCP listeners that [`bind_listeners`] binds, in their order.
pub(super) fn entrance(config: &Config, store: Option<Arc<Store>>) -> Result<Entrance, ServeError> {
    let streams = config.listen.iter().filter(|listen| listen.transport.uses_tcp());
    let door = |listen: &Listen| crate::io::door::Door {
        speaks: speaks(listen.transport),
        proxies: listen.proxies.clone(),
        realm: realm_of(config, listen),
    };
    let per_second = config.limits.handshakes_per_source.per_second;
    let burst = per_second.saturating_mul(HANDSHAKE_BURST);
    Ok(Entrance {
        doors: streams.map(door).collect(),
        store,
        sources: Arc::new(Sources::new(config.limits.connections_per_source)),
        handshakes: SourceLimiter::new(RATE_SLOTS, per_second, burst, random_u64()?),
    })
}

fn realm_of(config: &Config, listen: &Listen) -> RealmId {
    rules::realm_id(config, listen.realm.as_deref())
        .expect("a listener names a realm that is there")
}

fn speaks(transport: Transport) -> Speaks {
    match transport {
        Transport::Udp | Transport::Tcp => Speaks::Plain,
        Transport::Tls | Transport::Dtls => Speaks::Secured,
        Transport::Auto => Speaks::Either,
    }
}

/// Binds the metrics' listener, if there is to be one.
pub(super) fn bind_metrics(config: &Config) -> Result<Option<TcpListener>, ServeError> {
    let Some(address) = config.metrics.listen else { return Ok(None) };
    let place = config.places.metrics.as_deref().unwrap_or("[metrics] listen");
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(Some(listener))
    });
    bound.map_err(|error| {
        let advice = advice(&error);
        ServeError::Input(format!("{place}: cannot listen on tcp {address}: {error}; {advice}"))
    })
}

/// Binds the admin API's listener, if there is to be one.
pub(super) fn bind_admin(config: &Config) -> Result<Option<Door>, ServeError> {
    let Some(listen) = &config.admin.listen else { return Ok(None) };
    let place = config.places.admin.as_deref().unwrap_or("[admin] listen");
    Door::bind(listen).map(Some).map_err(|error| {
        let advice = match listen {
            AdminListen::Tcp(_) => advice(&error),
            AdminListen::Unix(_) => socket_advice(&error),
        };
        ServeError::Input(format!("{place}: cannot listen on {listen}: {error}; {advice}"))
    })
}

fn cannot_listen(config: &Config, index: usize, error: &io::Error) -> ServeError {
    let Listen { transport, address, .. } = &config.listen[index];
    let place = config.places.listen.get(index).map_or("[[listen]]", String::as_str);
    let advice = advice(error);
    ServeError::Input(format!("{place}: cannot listen on {transport} {address}: {error}; {advice}"))
}

/// What to do about a failed bind.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another program, perhaps another turnway, has the port: stop it or choose another port"
        }
        Some(libc::EADDRNOTAVAIL) => "no interface has this address: see `ip address`",
        Some(libc::EACCES) => {
            "ports below 1024 need CAP_NET_BIND_SERVICE, as systemd/turnway.service gives it"
        }
        Some(libc::EAFNOSUPPORT) => "this machine has no IPv6: remove the listener",
        Some(libc::EMFILE | libc::ENFILE) => "too few descriptors: raise LimitNOFILE",
        _ => "see the message above",
    }
}

/// What to do about a Unix socket that could not be made.
fn socket_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another turnway answers there: stop it or choose another path",
        io::ErrorKind::AlreadyExists => {
            "choose another path, or remove the file if nobody needs it"
        }
        io::ErrorKind::NotFound => {
            "make its directory first; systemd makes /run/turnway for RuntimeDirectory=turnway"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "the user Turnway runs as must be able to write into its directory"
        }
        _ => "see the message above",
    }
}
