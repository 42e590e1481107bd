//! All that may be asked of a shard from outside, and all that it shows.
//!
//! A [`Mailbox`] takes a few commands, each rare; the shard is woken and finds them between two
//! batches. A [`Board`] is what the shard last published of its counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use turnway_relay as relay;
use turnway_udp::Waker;

use crate::io::tcp::Connection;
use crate::mobility::Word;

/// What a shard may be asked.
pub enum Command {
    /// Adopt a configuration.
    Configure(Arc<relay::Config>),
    /// Make no new allocations.
    Drain,
    /// Show some allocations.
    Sessions(SessionQuery, oneshot::Sender<SessionPage>),
    /// Show one allocation by its number.
    Session(u64, oneshot::Sender<Option<relay::Session>>),
    /// End an allocation by its number. Answered with what it was, if there was one.
    Kill(u64, oneshot::Sender<Option<relay::Session>>),
    /// Take over a client's connection, with what was read from it: it asks for a connection to a
    /// peer that this shard has.
    Adopt(Box<Connection>),
    /// What another shard says about a client that moves.
    Hear(Word),
    /// End everything and return.
    Stop,
}

/// Which allocations a shard is asked to show. It looks at [`PLACES_PER_PAGE`] places of its table
/// at most, so that no datagram waits; a page may be short although there is more.
#[derive(Clone, Debug)]
pub struct SessionQuery {
    /// Which are wanted.
    pub filter: relay::SessionFilter,
    /// The place in the table to begin at: 0, or [`SessionPage::next`].
    pub from: u32,
    /// How many are wanted at most.
    pub most: usize,
}

/// Places of its table that a shard looks at for one question: some 100 µs of work.
pub const PLACES_PER_PAGE: u32 = 1024;

/// The answer to a [`SessionQuery`].
#[derive(Debug, Default)]
pub struct SessionPage {
    /// Those found.
    pub sessions: Vec<relay::Session>,
    /// Where to go on; `None`: that was the end of the shard's table.
    pub next: Option<u32>,
}

/// The shard of a session number, as [`relay::Seed::first_session`] is given out.
pub fn shard_of(session: u64) -> usize {
    (session >> SESSION_BITS) as usize
}

/// Bits of a session number below its shard's.
pub const SESSION_BITS: u32 = 48;

/// The end that asks.
pub struct Mailbox {
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// A mailbox and the end that the shard reads.
    ///
    /// # Errors
    ///
    /// No descriptor for the waker.
    pub fn new() -> std::io::Result<(Self, Inbox)> {
        let (commands, receiver) = mpsc::channel();
        let waker = Arc::new(Waker::new()?);
        let inbox = Inbox { commands: receiver, waker: Arc::clone(&waker) };
        Ok((Self { commands, waker }, inbox))
    }

    /// Asks, and wakes the shard. A shard that has ended does not hear it.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.waker.wake();
        }
    }
}

/// The shard's end.
pub struct Inbox {
    commands: Receiver<Command>,
    /// To be polled beside the sockets.
    pub waker: Arc<Waker>,
}

impl Inbox {
    /// The next command, if there is one.
    pub fn next(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }
}

/// What a shard shows to metrics and health checks.
#[derive(Default)]
pub struct Board {
    published: Mutex<Snapshot>,
    /// `mono_ns` of the last turn of the shard's loop.
    heartbeat_ns: AtomicU64,
}

/// A shard's counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What the rules counted.
    pub rules: relay::Stats,
    /// What the sockets counted.
    pub io: IoStats,
}

/// What happens around the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Datagrams to peers that the kernel refused.
    pub send_errors_to_peer: u64,
    /// Datagrams and replies to clients that the kernel refused.
    pub send_errors_to_client: u64,
    /// Datagrams the kernel dropped because a listener's buffer was full.
    pub kernel_drops_listener: u64,
    /// Datagrams the kernel dropped because a relay socket's buffer was full.
    pub kernel_drops_relay: u64,
    /// Gauge: TCP connections now.
    pub tcp_connections: u64,
    /// TCP connections accepted.
    pub tcp_accepted: u64,
    /// TCP connections turned away because there were too many.
    pub tcp_refused: u64,
    /// TCP connections closed because what they sent is not TURN.
    pub tcp_protocol_errors: u64,
    /// TCP connections closed because they had no allocation for too long.
    pub tcp_idle_closed: u64,
    /// Datagrams dropped because a TCP client did not read.
    pub tcp_queue_drops: u64,
    /// TLS handshakes completed.
    pub tls_handshakes: u64,
    /// TLS handshakes that failed.
    pub tls_handshake_failures: u64,
    /// Connections and DTLS sessions ended because their handshake took too long.
    pub handshake_timeouts: u64,
    /// Connections of proxies that did not begin with a PROXY header.
    pub proxy_errors: u64,
    /// Connections and DTLS sessions turned away because their source had too many.
    pub source_refused: u64,
    /// Gauge: DTLS sessions now.
    pub dtls_sessions: u64,
    /// ClientHellos without a cookie that were answered with one.
    pub dtls_hellos: u64,
    /// Datagrams of strangers that are no ClientHello.
    pub dtls_ignored: u64,
    /// DTLS handshakes completed.
    pub dtls_handshakes: u64,
    /// DTLS handshakes that failed.
    pub dtls_handshake_failures: u64,
    /// DTLS sessions turned away because there were too many.
    pub dtls_refused: u64,
    /// DTLS sessions ended because they had no allocation for too long.
    pub dtls_idle_closed: u64,
    /// Messages dropped because a session that another shard has did not come in time, or too many
    /// were asked for.
    pub moving_drops: u64,
    /// How often accepting was paused because descriptors ran out.
    pub accept_paused: u64,
    /// Pauses that let datagrams gather.
    pub pauses: u64,
    /// What was relayed in the kernel; the rules have it in their counters, too.
    pub offloaded: relay::Traffic,
}

impl IoStats {
    /// Adds another shard's figures to these.
    pub fn add(&mut self, other: &Self) {
        self.send_errors_to_peer += other.send_errors_to_peer;
        self.send_errors_to_client += other.send_errors_to_client;
        self.kernel_drops_listener += other.kernel_drops_listener;
        self.kernel_drops_relay += other.kernel_drops_relay;
        self.tcp_connections += other.tcp_connections;
        self.tcp_accepted += other.tcp_accepted;
        self.tcp_refused += other.tcp_refused;
        self.tcp_protocol_errors += other.tcp_protocol_errors;
        self.tcp_idle_closed += other.tcp_idle_closed;
        self.tcp_queue_drops += other.tcp_queue_drops;
        self.tls_handshakes += other.tls_handshakes;
        self.tls_handshake_failures += other.tls_handshake_failures;
        self.handshake_timeouts += other.handshake_timeouts;
        self.proxy_errors += other.proxy_errors;
        self.source_refused += other.source_refused;
        self.dtls_sessions += other.dtls_sessions;
        self.dtls_hellos += other.dtls_hellos;
        self.dtls_ignored += other.dtls_ignored;
        self.dtls_handshakes += other.dtls_handshakes;
        self.dtls_handshake_failures += other.dtls_handshake_failures;
        self.dtls_refused += other.dtls_refused;
        self.dtls_idle_closed += other.dtls_idle_closed;
        self.moving_drops += other.moving_drops;
        self.accept_paused += other.accept_paused;
        self.pauses += other.pauses;
        self.offloaded.add(other.offloaded);
    }
}

impl Board {
    /// Shows counters. False if somebody is reading just now: try again later.
    pub fn publish(&self, rules: &relay::Stats, io: &IoStats) -> bool {
        let Ok(mut published) = self.published.try_lock() else { return false };
        published.rules.clone_from(rules);
        published.io.clone_from(io);
        true
    }

    /// What was last shown.
    pub fn read(&self) -> Snapshot {
        self.published.lock().map_or_else(|_| Snapshot::default(), |published| published.clone())
    }

    /// Says that the shard is alive.
    pub fn beat(&self, now_ns: u64) {
        self.heartbeat_ns.store(now_ns, Ordering::Relaxed);
    }

    /// When the shard last said so, in `mono_ns`.
    pub fn heartbeat_ns(&self) -> u64 {
        self.heartbeat_ns.load(Ordering::Relaxed)
    }
}
