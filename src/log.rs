//! Log lines on standard output: text for people, or one JSON object a line for machines.
//!
//! The control plane writes with `tracing` directly. Shards hand a [`Record`] to [`Records`], which
//! never blocks; [`Writer`] turns each into one line in a thread of its own.
//!
//! What the levels mean: *error*: something is broken and users notice. *warn*: it works, but an
//! operator should change something. *info*: what happened. *debug*, *trace*: for finding faults.
//!
//! User names come from strangers. What is not printable in them is percent-encoded and their
//! length is bounded, so none can end a line, a field or a JSON string, or steer a terminal.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use tracing::field::{DisplayValue, display};
use tracing::{Dispatch, dispatcher, info, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, fmt as lines, reload};
use turnway_relay::Record;
use turnway_relay::effect::{AuthFailed, Ended, Moved, Started, VolumeSpent};
use turnway_relay::outcome::AuthFailure;
use turnway_relay::quota;

use crate::config::{LogFormat, LogLevel};

/// How many records may wait for the writer.
const QUEUE: usize = 4096;

/// How long records gather before they are written: [`QUEUE`] has room for as many as a busy
/// server has in ten times as long.
const GATHERED: Duration = Duration::from_millis(10);

/// The longest user name in a line, in bytes; what is left out is shown as `…`.
const MAX_NAME: usize = 256;

/// A credential that expired at most so many seconds ago may be the fault of a clock.
const CLOCK_SKEW_S: u64 = 300;

/// A credential that expired so many seconds ago never had a sensible time in it.
const NO_TIME_S: u64 = 5 * 365 * 24 * 3600;

/// How many lines may wait for whoever reads standard output. Enough for the ends of all
/// allocations of a large server that stops.
const LINES: usize = 32_768;

/// Keeps the log's own thread alive; when it is dropped, what waits is written, unless nobody reads
/// for a second.
pub struct Log {
    lost: ErrorCounter,
    _worker: WorkerGuard,
}

impl Log {
    /// What is left out of the log: `records` that shards could not hand over, and lines that
    /// nobody read.
    pub fn drops(&self, records: &Records) -> Drops {
        Drops { lines: Some(self.lost.clone()), ..records.drops() }
    }
}

/// Changes what is written while the daemon runs.
pub struct Level(reload::Handle<LevelFilter, Registry>);

impl Level {
    /// From now on, lines less severe than `level` are left out.
    pub fn set(&self, level: LogLevel) {
        // Fails only if the log itself is gone, and then there is nothing to change.
        let _ = self.0.reload(filter_of(level));
    }
}

/// Starts the log of the whole process, on standard output, with times in UTC (RFC 3339). Only a
/// terminal gets colours, and none if `NO_COLOR` is set.
///
/// Nobody who logs is ever kept waiting: a thread of its own writes. A line that cannot be written
/// (closed pipe, full disk, a pipe that nobody reads) is lost, and nothing else happens.
/// To be called once; the lines of a second call's log go to the first one.
pub fn init(level: LogLevel, format: LogFormat) -> (Level, Log) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = io::stdout().is_terminal() && !plain;
    let (lines, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES)
        .thread_name("log-lines")
        .finish(io::stdout());
    let lost = lines.error_counter();
    let (log, level) = new_log(level, format, colours, lines);
    // Fails only if there is a log already, as documented.
    let _ = dispatcher::set_global_default(log);
    (level, Log { lost, _worker: worker })
}

fn new_log<W>(level: LogLevel, format: LogFormat, colours: bool, writer: W) -> (Dispatch, Level)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter_of(level));
    let registry = Registry::default().with(filter);
    // Internal errors would be printed with a macro that panics when standard error is closed.
    let lines = lines::layer()
        .with_writer(writer)
        .with_ansi(colours)
        .with_target(false)
        .log_internal_errors(false);
    let log =
        match format {
            LogFormat::Text => Dispatch::new(registry.with(lines)),
            LogFormat::Json => Dispatch::new(registry.with(
                lines.json().flatten_event(true).with_current_span(false).with_span_list(false),
            )),
        };
    (log, Level(handle))
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// A shard's way to the log.
#[derive(Clone)]
pub struct Records {
    queue: SyncSender<Record>,
    drops: Drops,
}

/// How many records were left out because the writer could not keep up.
///
/// Unlike [`Records`] it does not keep the writer waiting for more.
#[derive(Clone, Debug, Default)]
pub struct Drops {
    records: Arc<AtomicU64>,
    lines: Option<ErrorCounter>,
}

/// The end of the queue that writes.
pub struct Writer(Receiver<Record>);

/// A bounded queue between shards and the log.
pub fn records() -> (Records, Writer) {
    let (queue, waiting) = mpsc::sync_channel(QUEUE);
    let drops = Drops::default();
    (Records { queue, drops }, Writer(waiting))
}

impl Records {
    /// Has `record` written, waiting for room: for a shard that has ended and keeps nobody waiting.
    /// The writer never stalls, whatever becomes of standard output.
    pub fn send_last(&self, record: Record) {
        if self.queue.send(record).is_err() {
            self.drops.records.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has `record` written soon. Never blocks: when the queue is full, it is dropped and counted.
    pub fn send(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.drops.records.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The count of what was left out.
    pub fn drops(&self) -> Drops {
        self.drops.clone()
    }
}

impl Drops {
    /// So many so far.
    pub fn count(&self) -> u64 {
        let lines = self.lines.as_ref().map_or(0, ErrorCounter::dropped_lines);
        self.records.load(Ordering::Relaxed) + lines as u64
    }
}

impl Writer {
    /// Writes one line for each record. Returns when every [`Records`] is gone and the queue is
    /// empty.
    pub fn run(self) {
        while let Ok(record) = self.0.recv() {
            write(&record);
            // Each record that finds this thread waiting costs its shard a wake-up, which is as
            // dear as a relayed datagram. So some gather first.
            thread::sleep(GATHERED);
            self.0.try_iter().for_each(|record| write(&record));
        }
    }
}

fn write(record: &Record) {
    match record {
        Record::Started(started) => write_started(started),
        Record::Ended(ended) => write_ended(ended),
        Record::Moved(moved) => write_moved(moved),
        Record::AuthFailed(failed) => write_auth_failed(failed),
        Record::VolumeSpent(spent) => write_volume_spent(spent),
    }
}

fn write_started(started: &Started) {
    info!(
        id = started.session,
        user = Name(&started.user).to_string(),
        client = %started.tuple.client,
        transport = %started.tuple.transport,
        relay_v4 = shown(started.v4),
        relay_v6 = shown(started.v6),
        lifetime_seconds = started.lifetime_s,
        "allocation started"
    );
}

fn write_ended(ended: &Ended) {
    info!(
        id = ended.session,
        user = Name(&ended.user).to_string(),
        client = %ended.tuple.client,
        transport = %ended.tuple.transport,
        relay_v4 = shown(ended.v4),
        relay_v6 = shown(ended.v6),
        seconds = ended.seconds,
        to_peer_datagrams = ended.traffic.to_peer,
        to_peer_bytes = ended.traffic.to_peer_bytes,
        to_client_datagrams = ended.traffic.to_client,
        to_client_bytes = ended.traffic.to_client_bytes,
        reason = %ended.reason,
        "allocation ended"
    );
}

fn write_moved(moved: &Moved) {
    info!(
        id = moved.session,
        user = Name(&moved.user).to_string(),
        client = %moved.to.client,
        transport = %moved.to.transport,
        old_client = %moved.from.client,
        old_transport = %moved.from.transport,
        "client moved"
    );
}

fn write_auth_failed(failed: &AuthFailed) {
    let expired_seconds = match failed.cause {
        AuthFailure::Expired { by_s } => Some(by_s),
        AuthFailure::UnknownUser
        | AuthFailure::WrongKey
        | AuthFailure::NotTimeLimited
        | AuthFailure::BadToken
        | AuthFailure::NotYetValid { .. } => None,
    };
    info!(
        user = Name(&failed.user).to_string(),
        client = %failed.tuple.client,
        transport = %failed.tuple.transport,
        cause = failed.cause.label(),
        expired_seconds,
        suppressed = failed.suppressed,
        "authentication failed: {}",
        Explained(failed.cause)
    );
}

fn write_volume_spent(spent: &VolumeSpent) {
    let (user, realm) = quota::split(&spent.account);
    let realm = realm.map(|realm| display(Name(realm).to_string()));
    warn!(
        user = Name(user).to_string(),
        realm,
        period = %spent.period,
        "volume used up: nothing is relayed for this user until the period ends"
    );
}

fn shown(address: Option<SocketAddr>) -> Option<DisplayValue<SocketAddr>> {
    address.map(display)
}

/// Why credentials were refused, in words that help.
struct Explained(AuthFailure);

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            AuthFailure::UnknownUser => f.write_str("unknown user"),
            AuthFailure::WrongKey => f.write_str("wrong key: the password or secret differs"),
            AuthFailure::NotTimeLimited => f.write_str(
                "not a time-limited user name: it must contain the time of expiry, in seconds \
                 since 1970",
            ),
            AuthFailure::BadToken => f.write_str(
                "the access token is not for this server or of another key: compare key, \
                 algorithm and server name with those of the authorization server",
            ),
            AuthFailure::NotYetValid { in_s } => write!(
                f,
                "the access token begins in {in_s} s; check the clocks of this machine and of the \
                 authorization server"
            ),
            AuthFailure::Expired { by_s } => {
                write!(f, "expired by {by_s} s")?;
                if by_s <= CLOCK_SKEW_S {
                    f.write_str("; check the clocks of this machine and of the credential issuer")
                } else if by_s >= NO_TIME_S {
                    f.write_str(
                        "; the number in the user name must be the time of expiry in seconds \
                         since 1970, not a duration; check the clocks of this machine and of the \
                         credential issuer",
                    )
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// A user name as sent by a stranger, made harmless.
///
/// Printable characters stand for themselves. Everything else is percent-encoded byte by byte, as
/// in a URL: control characters, line ends, bidirectional controls, quotes, backslashes, `%` itself
/// and bytes that are not UTF-8. The result has at most [`MAX_NAME`] bytes before a `…`.
pub(crate) struct Name<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = 0;
        let mut piece = String::with_capacity(12);
        for chunk in self.0.utf8_chunks() {
            let valid = chunk.valid().chars().map(Ok);
            let invalid = chunk.invalid().iter().map(|&byte| Err(byte));
            for part in valid.chain(invalid) {
                piece.clear();
                match part {
                    Ok(c) if is_harmless(c) => piece.push(c),
                    Ok(c) => percent(&mut piece, c.encode_utf8(&mut [0; 4]).as_bytes())?,
                    Err(byte) => percent(&mut piece, &[byte])?,
                }
                shown += piece.len();
                if shown > MAX_NAME {
                    return f.write_char('…');
                }
                f.write_str(&piece)?;
            }
        }
        Ok(())
    }
}

fn percent(out: &mut String, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "%{byte:02X}"))
}

/// Whether the standard library would print `c` unescaped in a literal. That leaves out everything
/// invisible and all that changes its surroundings; the line formats do not escape the rest again.
fn is_harmless(c: char) -> bool {
    c == '\'' || (c != '%' && c.escape_debug().eq([c]))
}

#[cfg(test)]
mod tests;
