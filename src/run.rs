//! Start-up and shutdown, in order.
//!
//! 1. What the machine gives: descriptors, CPUs, addresses.
//! 2. Everything that can fail is tried: sockets are bound, the configuration is turned into
//!    rules. Nothing runs yet, so a failure leaves nothing behind.
//! 3. Shards start, each in its thread; the control plane runs on this one.
//! 4. Signals: SIGHUP reloads, SIGTERM drains, SIGINT or a second SIGTERM stops at once.

mod certificates;
mod control;
mod doors;
pub(crate) mod machine;
mod rules;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use tokio::sync::mpsc;
use turnway_offload::Offload;
use turnway_relay::shared::{AllocationCount, LivePorts, SourceLimiter};
use turnway_relay::{Seed, Server, Shared, Tickets};
use turnway_udp as udp;

use crate::accounts::{Accounts, Clerk};
use crate::admin::Token;
use crate::config::Config;
use crate::database::{Database, DatabaseError, UserRow};
use crate::io::door::Entrance;
use crate::ledger::SharedLedger;
use crate::log::{self, Records};
use crate::mailbox::{Board, Mailbox, SESSION_BITS};
use crate::metrics::View;
use crate::mobility::Whereabouts;
use crate::offload;
use crate::ports::{Ports, RelayAddrs};
use crate::shard::{Parts, Shard, StreamLimits};

use certificates::Keeper;
use doors::{Doors, bind_admin, bind_listeners, bind_metrics, entrance};
use machine::Capacity;

/// Why the daemon could not start, or had to end.
#[derive(Debug)]
pub enum ServeError {
    /// The configuration asks for what cannot be had here: an address, a port. The text says what
    /// to do; starting again would change nothing.
    Input(String),
    /// Something the process needs failed; starting again may help.
    Runtime(String),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(text) | Self::Runtime(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ServeError {}

/// The sources a rate is kept for at once: 1 MiB of memory, whatever a flood brings.
const RATE_SLOTS: usize = 1 << 17;

/// Kernel buffer of a relay socket, each way: a quarter of a second of a fast peer. It is a bound,
/// not a reservation; without the privilege to exceed net.core.rmem_max the kernel gives less.
const RELAY_BUFFER: usize = 1 << 20;

/// Runs the relay until it is told to stop. `path` is where a reload reads the configuration;
/// `announce` is called once everything is bound and nothing can fail for want of it any more.
///
/// # Errors
///
/// What cannot be had: an address, a port, a descriptor. Nothing is left running then.
pub fn serve(
    config: Config,
    path: Option<PathBuf>,
    announce: impl FnOnce(),
) -> Result<(), ServeError> {
    let (level, log) = log::init(config.log.level, config.log.format);
    let (records, writer) = log::records();
    let relays = machine::relay_addresses(&config)?;
    let shards = config.shards.map_or_else(udp::system::usable_cpus, usize::from);
    let capacity = Capacity::of(&config, &relays, shards)?;
    capacity.say(shards);

    let certificates = certificates::open(&config)?;
    let doors = bind_listeners(&config, shards)?;
    let entrance = Arc::new(entrance(&config, certificates.clone())?);
    let metrics = bind_metrics(&config)?;
    let admin = bind_admin(&config)?;
    let shared = Arc::new(shared(&config, &relays, capacity)?);
    let range = config.relay.ports.clone();
    let buffer = RELAY_BUFFER.min(config.limits.socket_buffer);
    let ports = Arc::new(Ports::new(relays.clone(), range, buffer, Arc::clone(&shared)));
    let context = rules::Context { relays, nonce_secret: rules::NonceSecret::random()? };
    let own = machine::own_addresses()?;
    let (users, changed_users) = mpsc::unbounded_channel();
    let ledger = Arc::new(SharedLedger::new(Arc::default(), udp::system::monotonic_ns()));
    let (accounts, users) = open_accounts(&config, &ledger, users)?;
    let rules = rules::build(&config, &context, &own, &users).map_err(ServeError::Input)?;
    let rules = Arc::new(rules);
    ledger.lock().configure(Arc::clone(&rules.quotas), udp::system::monotonic_ns());
    let offload = offload::start(&config, &context.relays);
    let crew = Crew::gather(&config, capacity, doors, |seed| Common {
        server: Server::new(Arc::clone(&rules), Arc::clone(&shared), seed),
        ledger: Arc::clone(&ledger),
        ports: Arc::clone(&ports),
        records: records.clone(),
        offload: offload.clone(),
        entrance: Arc::clone(&entrance),
    })?;
    let view = Arc::new(View {
        boards: crew.boards,
        ports: Arc::clone(&ports),
        shared: Arc::clone(&shared),
        ledger,
        offload,
        certificates: certificates.clone(),
        database_errors: accounts.as_ref().map_or_else(Arc::default, Accounts::errors),
        log_drops: log.drops(&records),
        ready: Arc::new(AtomicBool::new(false)),
        started: SystemTime::now(),
        mono_ns: udp::system::monotonic_ns,
    });
    drop(records); // the log's thread ends with the last shard
    let clerk = accounts.map(Accounts::start).transpose().map_err(|error| no_thread(&error))?;
    let threads = start(crew.shards, writer)?;
    announce();
    let controlled = control::run(control::Control {
        certificates: certificates.map(|store| Keeper::new(store, config.tls.clone())),
        token: Arc::new(Token::new(config.admin.token.clone())),
        config,
        path,
        context,
        own,
        users,
        changed_users,
        rules: [Some(rules), None],
        zones: clerk.as_ref().map(Clerk::zones),
        level,
        mailboxes: crew.mailboxes,
        view,
        metrics,
        admin,
        shared,
        ports,
    });
    controlled.and(threads.join(clerk))
}

/// Opens the database, if there is one, and reads what it has of users and used volume.
fn open_accounts(
    config: &Config,
    ledger: &Arc<SharedLedger>,
    changed: mpsc::UnboundedSender<Vec<UserRow>>,
) -> Result<(Option<Accounts>, Vec<UserRow>), ServeError> {
    let Some(path) = &config.auth.database else { return Ok((None, Vec::new())) };
    let failed = |error: DatabaseError| match error.is_input() {
        true => ServeError::Input(error.to_string()),
        false => ServeError::Runtime(error.to_string()),
    };
    let database = Database::open(path).map_err(failed)?;
    let realms = config.realms.iter().map(|realm| &realm.name);
    let realms = [&config.realm].into_iter().chain(realms).cloned().collect();
    let zone = config.quota.time_zone.clone();
    let (accounts, users) =
        Accounts::new(database, realms, zone, Arc::clone(ledger), changed).map_err(failed)?;
    tracing::info!(path = %path.display(), users = users.len(), "database opened");
    Ok((Some(accounts), users))
}

/// The shards before they start, and the ends to reach them by.
struct Crew {
    shards: Vec<Shard>,
    mailboxes: Arc<[Mailbox]>,
    boards: Vec<Arc<Board>>,
}

/// What a shard gets beside its share of the listeners.
struct Common {
    server: Server,
    ledger: Arc<SharedLedger>,
    ports: Arc<Ports>,
    records: Records,
    offload: Option<Arc<Offload>>,
    entrance: Arc<Entrance>,
}

impl Crew {
    /// One shard for each share of the listeners.
    fn gather(
        config: &Config,
        capacity: Capacity,
        doors: Vec<Doors>,
        common: impl Fn(Seed) -> Common,
    ) -> Result<Self, ServeError> {
        let streams = StreamLimits {
            connections: (capacity.connections as usize).div_ceil(doors.len()),
            send_queue: config.limits.tcp_send_queue,
            idle: config.limits.tcp_idle_timeout,
            handshake: config.tls.handshake_timeout,
            sessions: (config.limits.dtls_sessions as usize).div_ceil(doors.len()),
        };
        let boxes: Result<Vec<_>, _> = doors.iter().map(|_| Mailbox::new()).collect();
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) =
            boxes.map_err(|error| no_descriptor(&error))?.into_iter().unzip();
        let mut crew = Self { shards: Vec::new(), mailboxes: mailboxes.into(), boards: Vec::new() };
        let whereabouts = Arc::new(Whereabouts::default());
        for (index, (doors, inbox)) in doors.into_iter().zip(inboxes).enumerate() {
            let first_session = (index as u64) << SESSION_BITS;
            let Common { server, ledger, ports, records, offload, entrance } =
                common(Seed { shard: index as u16, random: random_u64()?, first_session });
            let board = Arc::new(Board::default());
            board.beat(udp::system::monotonic_ns());
            crew.boards.push(Arc::clone(&board));
            let Doors { udp, tcp } = doors;
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            let parts = Parts {
                index,
                server,
                ledger,
                ports,
                inbox,
                mailboxes: Arc::clone(&crew.mailboxes),
                whereabouts: Arc::clone(&whereabouts),
                board,
                records,
                udp,
                tcp,
                entrance,
                streams,
                offload: offload.clone(),
                wakeup_delay: config.limits.wakeup_delay,
            };
            crew.shards.push(Shard::new(parts).map_err(|error| no_descriptor(&error))?);
        }
        Ok(crew)
    }
}

/// What the shards share on the way of a request.
fn shared(
    config: &Config,
    relays: &[RelayAddrs],
    capacity: Capacity,
) -> Result<Shared, ServeError> {
    let locals: Vec<_> = relays.iter().map(|relay| relay.local).collect();
    let limits = &config.limits;
    Ok(Shared {
        live: LivePorts::new(&locals),
        allocations: AllocationCount::new(capacity.allocations),
        sources: SourceLimiter::new(
            RATE_SLOTS,
            limits.unauthenticated_per_source.per_second,
            limits.unauthenticated_burst,
            random_u64()?,
        ),
        tickets: Tickets::new(random_secret()?),
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
        thread::Builder::new().name(name).spawn(work).map_err(|error| no_thread(&error))
    };
    let log = spawn("log".to_owned(), Box::new(move || writer.run()))?;
    let mut threads = Threads { log, shards: Vec::with_capacity(shards.len()) };
    for (index, shard) in shards.into_iter().enumerate() {
        let name = format!("shard-{index}");
        threads.shards.push(spawn(name, Box::new(move || shard.run()))?);
    }
    Ok(threads)
}

impl Threads {
    /// Waits for the shards, which have been told to stop, then for their last log records, and
    /// then for the clerk, who saves what they counted last.
    fn join(self, clerk: Option<Clerk>) -> Result<(), ServeError> {
        let mut result = Ok(());
        for shard in self.shards {
            if shard.join().is_err() {
                result = Err(ServeError::Runtime("a shard panicked; see the log".to_owned()));
            }
        }
        // It ends by itself once no shard is left that could send a record.
        let _ = self.log.join();
        if let Some(clerk) = clerk {
            clerk.finish();
        }
        result
    }
}

fn no_thread(error: &std::io::Error) -> ServeError {
    ServeError::Runtime(format!("cannot start a thread: {error}"))
}

fn no_descriptor(error: &std::io::Error) -> ServeError {
    ServeError::Input(format!("cannot set up a shard: {error}; {}", doors::advice(error)))
}

fn random_secret() -> Result<[u8; 32], ServeError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| ServeError::Runtime(format!("the system has no randomness: {error}")))?;
    Ok(secret)
}

fn random_u64() -> Result<u64, ServeError> {
    getrandom::u64()
        .map_err(|error| ServeError::Runtime(format!("the system has no randomness: {error}")))
}
