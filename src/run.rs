//! Start-up and shutdown, in order.
//!
//! 1. What the machine gives: descriptors, CPUs, addresses.
//! 2. Everything that can fail is tried: sockets are bound, the configuration is turned into
//!    rules. Nothing runs yet, so a failure leaves nothing behind.
//! 3. Shards start, each in its thread; the control plane runs on this one.
//! 4. Signals: SIGHUP reloads, SIGTERM drains, SIGINT or a second SIGTERM stops at once.

mod control;
mod machine;
mod rules;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use turnway_relay::shared::{AllocationCount, LivePorts, SourceLimiter};
use turnway_relay::{Seed, Server, Shared};
use turnway_udp as udp;

use crate::config::{Config, Transport};
use crate::io::udp::Listener;
use crate::log::{self, Records};
use crate::mailbox::{Board, Inbox, Mailbox};
use crate::metrics::View;
use crate::ports::Ports;
use crate::shard::{Parts, Shard, StreamLimits};

use machine::Capacity;

/// Why the daemon could not start. The text says what to do.
#[derive(Debug)]
pub struct ServeError(String);

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServeError {}

/// The sources a rate is kept for at once: 1 MiB of memory, whatever a flood brings.
const RATE_SLOTS: usize = 1 << 17;

/// How long the end waits for a log that nobody reads.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Runs the relay until it is told to stop. `path` is where a reload reads the configuration.
///
/// # Errors
///
/// What cannot be had: an address, a port, a descriptor. Nothing is left running then.
pub fn serve(config: Config, path: Option<PathBuf>) -> Result<(), ServeError> {
    let level = log::init(config.log.level, config.log.format);
    let (records, writer) = log::records();
    let relays = machine::relay_addresses(&config)?;
    let shards = config
        .shards
        .map_or_else(udp::system::usable_cpus, usize::from);
    let capacity = Capacity::of(&config, &relays, shards)?;
    capacity.say(shards);

    let doors = bind_listeners(&config, shards)?;
    let metrics = config.metrics.listen.map(bind_metrics).transpose()?;
    let locals: Vec<_> = relays.iter().map(|relay| relay.local).collect();
    let limits = &config.limits;
    let shared = Arc::new(Shared {
        live: LivePorts::new(&locals),
        allocations: AllocationCount::new(capacity.allocations),
        sources: SourceLimiter::new(
            RATE_SLOTS,
            limits.unauthenticated_per_source.per_second,
            limits.unauthenticated_burst,
            random_u64()?,
        ),
    });
    let nonce_secret = rules::NonceSecret::random()?;
    let context = rules::Context {
        relays: relays.clone(),
        nonce_secret,
    };
    let rules = Arc::new(rules::build(&config, &context).map_err(ServeError)?);
    let ports = Arc::new(Ports::new(
        relays,
        config.relay.ports.clone(),
        0,
        Arc::clone(&shared),
    ));

    let mut mailboxes = Vec::with_capacity(shards);
    let mut boards = Vec::with_capacity(shards);
    let mut ready = Vec::with_capacity(shards);
    let streams = StreamLimits {
        connections: (capacity.connections as usize).div_ceil(shards),
        send_queue: limits.tcp_send_queue,
        idle: limits.tcp_idle_timeout,
    };
    for (index, door) in doors.into_iter().enumerate() {
        let (mailbox, inbox) = Mailbox::new().map_err(|error| no_descriptor(&error))?;
        let board = Arc::new(Board::default());
        board.beat(udp::system::monotonic_ns());
        mailboxes.push(mailbox);
        boards.push(Arc::clone(&board));
        let seed = Seed {
            random: random_u64()?,
            first_session: (index as u64) << 48,
        };
        let server = Server::new(Arc::clone(&rules), Arc::clone(&shared), seed);
        let ports = Arc::clone(&ports);
        let records = records.clone();
        ready.push(
            Shard::new(door.parts(server, ports, inbox, board, records, streams))
                .map_err(|error| no_descriptor(&error))?,
        );
    }
    let threads = start(ready, writer)?;
    let view = Arc::new(View {
        boards,
        ports: Arc::clone(&ports),
        shared: Arc::clone(&shared),
        log_drops: records.drops(),
        ready: Arc::new(AtomicBool::new(false)),
        started: SystemTime::now(),
        mono_ns: udp::system::monotonic_ns,
    });
    drop(records); // the log's thread ends with the last shard
    control::run(control::Control {
        config,
        path,
        context,
        level,
        mailboxes,
        view,
        metrics,
        shared,
        ports,
    })?;
    for shard in threads.shards {
        // A thread that panicked has said so; the process ends either way.
        let _ = shard.join();
    }
    wait_for_log(&threads.log);
    Ok(())
}

/// Lets the log's thread write what is queued, unless nobody reads it.
fn wait_for_log(log: &JoinHandle<()>) {
    let deadline = Instant::now() + LOG_PATIENCE;
    while !log.is_finished() && Instant::now() < deadline {
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// One shard's share of every listener.
struct Doors {
    udp: Vec<Listener>,
    tcp: Vec<udp::TcpListenerFd>,
}

impl Doors {
    fn parts(
        self,
        server: Server,
        ports: Arc<Ports>,
        inbox: Inbox,
        board: Arc<Board>,
        records: Records,
        streams: StreamLimits,
    ) -> Parts {
        Parts {
            server,
            ports,
            inbox,
            board,
            records,
            udp: self.udp,
            tcp: self.tcp,
            streams,
        }
    }
}

/// Binds every listener once for each shard, after making sure that nobody else has it.
fn bind_listeners(config: &Config, shards: usize) -> Result<Vec<Doors>, ServeError> {
    for listen in &config.listen {
        let probed = match listen.transport {
            Transport::Udp => udp::probe_exclusive_udp(listen.address),
            Transport::Tcp => udp::probe_exclusive_tcp(listen.address),
        };
        probed.map_err(|error| cannot_listen(listen.transport, listen.address, &error))?;
    }
    let mut granted: Option<udp::BufferGrant> = None;
    let mut doors = Vec::with_capacity(shards);
    for _ in 0..shards {
        let mut door = Doors {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for listen in &config.listen {
            let refused = |error| cannot_listen(listen.transport, listen.address, &error);
            match listen.transport {
                Transport::Udp => {
                    let buffer = config.limits.socket_buffer;
                    let (socket, grant) =
                        udp::listener_udp(listen.address, buffer).map_err(refused)?;
                    granted = Some(grant);
                    door.udp.push(Listener::new(socket).map_err(refused)?);
                }
                Transport::Tcp => {
                    door.tcp
                        .push(udp::listener_tcp(listen.address, BACKLOG).map_err(refused)?);
                }
            }
        }
        doors.push(door);
    }
    if let Some(granted) = granted {
        machine::warn_of_small_buffers(&granted);
    }
    Ok(doors)
}

fn bind_metrics(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        ServeError(format!(
            "[metrics] listen: cannot listen on tcp {address}: {error}; {}",
            advice(&error)
        ))
    })
}

/// The threads at work beside the control plane's.
struct Threads {
    log: JoinHandle<()>,
    shards: Vec<JoinHandle<()>>,
}

/// Starts the log's thread and one for each shard.
fn start(shards: Vec<Shard>, writer: log::Writer) -> Result<Threads, ServeError> {
    let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
        let thread = thread::Builder::new().name(name).spawn(work);
        thread.map_err(|error| ServeError(format!("cannot start a thread: {error}")))
    };
    let log = spawn("log".to_owned(), Box::new(move || writer.run()))?;
    let mut threads = Threads {
        log,
        shards: Vec::with_capacity(shards.len()),
    };
    for (index, shard) in shards.into_iter().enumerate() {
        threads.shards.push(spawn(
            format!("shard-{index}"),
            Box::new(move || shard.run()),
        )?);
    }
    Ok(threads)
}

fn cannot_listen(transport: Transport, address: SocketAddr, error: &std::io::Error) -> ServeError {
    ServeError(format!(
        "[[listen]]: cannot listen on {transport} {address}: {error}; {}",
        advice(error)
    ))
}

/// What to do about a failed bind.
fn advice(error: &std::io::Error) -> &'static str {
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

fn no_descriptor(error: &std::io::Error) -> ServeError {
    ServeError(format!("cannot set up a shard: {error}; {}", advice(error)))
}

fn random_u64() -> Result<u64, ServeError> {
    getrandom::u64().map_err(|error| ServeError(format!("the system has no randomness: {error}")))
}
