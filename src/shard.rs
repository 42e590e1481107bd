//! One thread's life: wait, read the mailbox, receive a batch, route it, send it, carry out what
//! the rules want, keep the timers.
//!
//! A shard owns its rules, its share of the listeners, the relay sockets of its allocations and
//! its clients' connections. Nothing on a datagram's way is shared with another shard, locked or
//! allocated. A received datagram stays where the kernel put it until it is sent on.

mod datagrams;
mod dtls;
mod kernel;
mod mobility;
mod pace;
mod peers;
mod streams;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use turnway_offload::Offload;
use turnway_relay::effect::{ChannelPath, VolumeSpent};
use turnway_relay::ledger::{Count, Last, Release};
use turnway_relay::{
    AllocationId, Client, ConnectionId, Direction, Effect, Event, Mirror, Now, Record, RelayId,
    Server, Transport,
};
use turnway_udp::{self as udp, Events, Interest, Poller, ReceiveBatch, SendBatch};
use turnway_wire::Family;

use crate::io::door::Entrance;
use crate::io::peer::{self, Peers};
use crate::io::tcp::{Connection, Connections, Full};
use crate::io::udp::{Listener, RelaySockets};
use crate::ledger::SharedLedger;
use crate::log::Records;
use crate::mailbox::{Board, Command, Inbox, IoStats, Mailbox, PLACES_PER_PAGE, SessionPage};
use crate::mobility::Whereabouts;
use crate::ports::{self, Entry, Ports};

use dtls::Dtls;
use kernel::Kernel;
use mobility::Moving;
use pace::{Metronome, Pace, Rest};

/// Datagrams of one batch, or runs of them that the kernel has merged: larger batches were not
/// found to be faster, and each of these takes a [`SLOT`].
const BATCH: usize = 32;

/// Bytes of a batch's slot: the beginning of the largest frame of a stream and the largest TLS
/// record behind it, more than any datagram.
const SLOT: usize = 4 + 65_535 + RECORD;

/// A little more than the largest record of TLS.
const RECORD: usize = 17 * 1024;

/// After so many events, or as much work, the listeners have their turn again: behind each relay
/// socket is one client, behind a listener are all.
const LISTENER_EVERY: usize = 16;

/// A shard that has nothing to do still says this often that it is alive.
const IDLE: Duration = Duration::from_millis(1000);

/// Counters are published this long after they changed, at the latest.
const PUBLISH_NS: u64 = 50_000_000;

/// How long accepting pauses when descriptors have run out, and how often connections are swept.
const SECOND_NS: u64 = 1_000_000_000;

/// Connections to peers that are ended per turn because they waited for too long.
const EXPIRIES_PER_TURN: usize = 64;

/// Everything a shard is made of.
pub struct Parts {
    /// Its number among the shards.
    pub index: u16,
    /// The rules.
    pub server: Server,
    /// What all shards use of the quotas.
    pub ledger: Arc<SharedLedger>,
    /// Where relay ports come from.
    pub ports: Arc<Ports>,
    /// What others may ask.
    pub inbox: Inbox,
    /// How to reach every shard, this one among them.
    pub mailboxes: Arc<[Mailbox]>,
    /// Where sessions are that have moved.
    pub whereabouts: Arc<Whereabouts>,
    /// Where counters are shown.
    pub board: Arc<Board>,
    /// Where log records go.
    pub records: Records,
    /// Bound UDP listeners.
    pub udp: Vec<Listener>,
    /// Bound TCP listeners, in the order of the entrance's doors.
    pub tcp: Vec<udp::TcpListenerFd>,
    /// Who may come in through the TCP listeners, and the certificates.
    pub entrance: Arc<Entrance>,
    /// Bounds of connections and sessions.
    pub streams: StreamLimits,
    /// The data path in the kernel, where there is one.
    pub offload: Option<Arc<Offload>>,
    /// The longest pause that lets a wake-up serve several datagrams; zero for none.
    pub wakeup_delay: Duration,
}

/// What bounds a shard's connections and DTLS sessions.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Bytes queued for a client that does not read.
    pub send_queue: usize,
    /// How long a connection, or a DTLS session, may be without an allocation.
    pub idle: Duration,
    /// How long its handshake may take.
    pub handshake: Duration,
    /// DTLS sessions at a time.
    pub sessions: usize,
}

/// A shard at work.
pub struct Shard {
    parts: Parts,
    poller: Poller,
    relays: RelaySockets,
    connections: Connections,
    dtls: Option<Dtls>,
    peers: Peers,
    /// What is read from a peer.
    peer_buffer: Box<[u8]>,
    /// Connections that came from other shards.
    adopted: Vec<Connection>,
    moving: Moving,
    sends: SendBatch,
    reply: Box<[u8; 2048]>,
    stats: IoStats,
    mirror: Option<Mirror<Kernel>>,
    now: Now,
    pace: Pace,
    metronome: Metronome,
    /// Datagrams and messages received in this turn.
    received: u64,
    /// Events since the listeners had their turn; a large one counts as several.
    turns: usize,
    published_ns: u64,
    unpublished: bool,
    swept_ns: u64,
    accept_resumes_ns: Option<u64>,
}

impl Shard {
    /// Registers the sockets; nothing is received before [`Self::run`].
    ///
    /// # Errors
    ///
    /// No descriptor or memory for the poller.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(parts.inbox.waker.as_fd(), Token::Waker.pack(), Interest::READ)?;
        for (index, listener) in parts.udp.iter().enumerate() {
            let token = Token::UdpListener(index as u32);
            poller.add(listener.fd(), token.pack(), Interest::READ)?;
        }
        for (index, listener) in parts.tcp.iter().enumerate() {
            let token = Token::TcpListener(index as u32);
            poller.add(listener.as_fd(), token.pack(), Interest::READ)?;
        }
        let seed = u64::from(parts.index);
        let kernel = parts.offload.as_ref().map(|offload| Kernel(Arc::clone(offload)));
        let pace = Pace::new(parts.wakeup_delay);
        let now = clock();
        let secured = parts.udp.iter().any(Listener::takes_dtls);
        let dtls = secured.then(|| Dtls::new(parts.entrance.certificates(), now.mono_ns));
        Ok(Self {
            parts,
            poller,
            relays: RelaySockets::default(),
            connections: Connections::default(),
            dtls,
            peers: Peers::default(),
            peer_buffer: vec![0; peer::READ].into_boxed_slice(),
            adopted: Vec::new(),
            moving: Moving::default(),
            sends: SendBatch::new(),
            reply: Box::new([0; 2048]),
            stats: IoStats::default(),
            mirror: kernel.map(|kernel| Mirror::new(kernel, seed)),
            now,
            pace,
            metronome: Metronome::new()?,
            received: 0,
            turns: 0,
            published_ns: 0,
            unpublished: true,
            swept_ns: 0,
            accept_resumes_ns: None,
        })
    }

    /// Works until told to stop.
    pub fn run(mut self) {
        let mut batch = ReceiveBatch::with_slot_size(BATCH, SLOT);
        batch.prefault();
        let mut events = Events::new(256);
        loop {
            let timeout = self.timeout();
            if let Err(error) = self.poller.wait(&mut events, Some(timeout)) {
                // epoll_wait fails only on a programming error; do not spin on it.
                tracing::error!(%error, "epoll");
                std::thread::sleep(IDLE);
            }
            self.now = clock();
            self.parts.board.beat(self.now.mono_ns);
            // Before the datagrams: what comes after a reload is judged by the new rules.
            if self.read_mail(&mut batch) == Mail::Stop {
                break;
            }
            for connection in std::mem::take(&mut self.adopted) {
                self.take_over(connection, &mut batch);
            }
            self.turns = 0;
            for event in events.iter() {
                self.turns += 1;
                if self.turns >= LISTENER_EVERY {
                    self.turns = 0;
                    self.visit_listeners(&mut batch);
                }
                self.on_event(event, &mut batch);
            }
            self.finish(&mut batch);
            self.on_time(&batch);
            self.publish();
            self.rest();
        }
        self.shut_down();
    }

    /// Lets datagrams gather, if they come at a pace at which each would wake this thread.
    fn rest(&mut self) {
        let received = std::mem::take(&mut self.received);
        let now_ns = udp::system::monotonic_ns();
        match self.pace.rest(self.now.mono_ns, now_ns, received) {
            Rest::Wait => {}
            Rest::WaitOften => self.metronome.stay_set(now_ns),
            Rest::Pause(pause_ns) => {
                self.stats.pauses += 1;
                self.metronome.pause(now_ns, pause_ns);
            }
        }
    }

    /// Ends every allocation. The sockets close with the shard; every record is written.
    fn shut_down(mut self) {
        self.parts.server.shut_down(self.now);
        while let Some(effect) = self.parts.server.poll() {
            match effect {
                Effect::Log(record) => {
                    let record = self.complete(record);
                    self.parts.records.send_last(record);
                }
                Effect::Release(mut release) => self.release(&mut release),
                Effect::Exchange => self.exchange(),
                Effect::ChannelDown { relay, number, .. } => self.channel_down(relay, number),
                Effect::Reply { .. }
                | Effect::ReplyFrom { .. }
                | Effect::Indicate { .. }
                | Effect::Reserve { .. }
                | Effect::Bind { .. }
                | Effect::Close { .. }
                | Effect::Depart { .. }
                | Effect::Connect { .. }
                | Effect::Splice { .. }
                | Effect::Disconnect { .. }
                | Effect::ChannelUp(_) => {}
            }
        }
        for mut connection in self.connections.drain() {
            connection.farewell();
        }
        self.close_sessions();
        self.parts.board.publish(self.parts.server.stats(), &self.stats);
    }

    /// Reckoned from the beginning of the turn, whose length matters to none of these.
    fn timeout(&self) -> Duration {
        let until = |at_ns: u64| Duration::from_nanos(at_ns.saturating_sub(self.now.mono_ns));
        let deadline = self.parts.server.deadline().map_or(IDLE, until);
        let turn = self.mirror.as_ref().and_then(Mirror::due_ns).map_or(IDLE, until);
        let publish = if self.unpublished { until(self.published_ns + PUBLISH_NS) } else { IDLE };
        let waiting = self.peers.next_wait_ns().map_or(IDLE, until);
        deadline.min(publish).min(turn).min(waiting).min(IDLE)
    }

    fn on_event(&mut self, event: udp::Event, batch: &mut ReceiveBatch) {
        self.unpublished = true;
        match Token::unpack(event.token) {
            Token::Waker => self.parts.inbox.waker.drain(),
            Token::UdpListener(index) => self.on_listener(index, batch),
            Token::TcpListener(index) => self.on_accept(index),
            Token::Relay(slot, family) => {
                if event.error() {
                    self.on_icmp(slot, family, batch);
                }
                if event.readable() {
                    self.on_relay(slot, family, batch);
                }
            }
            Token::PeerListener(slot, family) => self.on_peers(slot, family, batch),
            Token::Peer(id) => self.on_peer(ConnectionId(id), event, batch),
            Token::Connection(index) => {
                if event.writable() {
                    self.connections.mark_dirty(index);
                }
                let spliced = self.connections.get_mut(index).and_then(|data| data.splice);
                if let Some(id) = spliced {
                    self.on_data(index, id, event, batch);
                } else if event.readable() || event.hangup() || event.error() {
                    self.on_stream(index, batch);
                }
            }
        }
    }

    /// Carries out all that the rules want.
    fn carry_out(&mut self, batch: &ReceiveBatch) {
        while let Some(effect) = self.parts.server.poll() {
            match effect {
                Effect::Reply { to, len } => self.answer(&to, len, batch),
                Effect::ReplyFrom { from, to, len } => self.answer_from(from, to, len),
                Effect::Indicate { to, len } => self.indicate(&to, len),
                Effect::Reserve { account, client } => {
                    let mut ledger = self.parts.ledger.lock();
                    let reserved = ledger.reserve(&account, client, self.now.mono_ns);
                    drop(ledger);
                    let event = Event::Reserved(reserved);
                    self.parts.server.handle(event, self.now, &mut self.reply[..]);
                }
                Effect::Release(mut release) => self.release(&mut release),
                Effect::Exchange => self.exchange(),
                Effect::Bind { allocation, want, protocol, near, owner, until_ns } => {
                    let near = near.ip();
                    let (want, owner, now_ns) = (&want, &owner, self.now.mono_ns);
                    self.bind(&ports::Request {
                        allocation,
                        want,
                        protocol,
                        near,
                        owner,
                        until_ns,
                        now_ns,
                    });
                }
                Effect::Close { relay } => self.close(relay, batch),
                Effect::Connect { connection, via, to } => {
                    self.connect(connection, via, to, batch);
                }
                Effect::Splice { connection, client } => self.splice(connection, &client, batch),
                Effect::Disconnect { connection } => self.disconnect_peer(connection),
                Effect::Depart { allocation, shard } => self.depart(allocation, shard, batch),
                Effect::ChannelUp(path) => self.channel_up(&path),
                Effect::ChannelDown { relay, number, .. } => self.channel_down(relay, number),
                Effect::Log(record) => {
                    let record = self.complete(record);
                    self.parts.records.send(record);
                }
            }
        }
    }

    /// The kernel may relay for a channel.
    fn channel_up(&mut self, path: &ChannelPath) {
        let (Some(mirror), Some(relay)) = (&mut self.mirror, self.relays.get(path.relay)) else {
            return;
        };
        mirror.up(path, relay.local, &self.parts.server, self.now);
    }

    /// It no longer may.
    fn channel_down(&mut self, relay: RelayId, number: u16) {
        if let Some(mirror) = &mut self.mirror {
            mirror.down(relay, number, &mut self.parts.server, self.now);
            // After the last channel there are no turns.
            self.stats.offloaded = mirror.relayed();
        }
    }

    /// Adds what the kernel relayed to the last record of an allocation.
    fn complete(&mut self, mut record: Record) -> Record {
        if let Some(mirror) = &mut self.mirror {
            mirror.complete_record(&mut record);
        }
        self.forget_whereabouts(&record);
        record
    }

    /// Takes in what the kernel relayed, and lends it what it may relay next.
    fn mirror_turn(&mut self) {
        let Some(mirror) = &mut self.mirror else { return };
        if mirror.due_ns().is_none_or(|due_ns| self.now.mono_ns < due_ns) {
            return;
        }
        let (ledger, index, now) = (&self.parts.ledger, self.parts.index, self.now);
        mirror.turn(&mut self.parts.server, now, |server| {
            ledger.lock().exchange(index, server.exchange(), now.mono_ns);
            server.handle(Event::Exchanged, now, &mut []);
        });
        self.stats.offloaded = mirror.relayed();
        self.unpublished = true;
    }

    /// User space relayed a datagram of a UDP client that the kernel might have: `message` is what
    /// came from the client, or leaves to it.
    #[inline]
    fn passed_up(&mut self, relay: RelayId, direction: Direction, message: &[u8]) {
        let Some(mirror) = &mut self.mirror else { return };
        let (ledger, index, now) = (&self.parts.ledger, self.parts.index, self.now);
        mirror.passed_up(relay, direction, message, &mut self.parts.server, now, |server| {
            ledger.lock().exchange(index, server.exchange(), now.mono_ns);
            server.handle(Event::Exchanged, now, &mut []);
        });
    }

    /// Tells the ledger what was spent and leases more.
    fn exchange(&mut self) {
        let exchange = self.parts.server.exchange();
        self.parts.ledger.lock().exchange(self.parts.index, exchange, self.now.mono_ns);
        self.parts.server.handle(Event::Exchanged, self.now, &mut self.reply[..]);
    }

    fn release(&mut self, release: &mut Release) {
        if let Some(mirror) = &mut self.mirror {
            mirror.complete_release(release, &mut self.parts.server, self.now);
        }
        self.parts.ledger.lock().release(self.parts.index, release, self.now.mono_ns);
        if let Some(Last {
            account, count: Count { spent: Some(period), crossed: true, .. }, ..
        }) = &release.last
        {
            let spent = VolumeSpent { account: Arc::clone(account), period: *period };
            let event = Event::VolumeSpent(spent);
            self.parts.server.handle(event, self.now, &mut self.reply[..]);
        }
    }

    fn answer(&mut self, to: &Client, len: usize, batch: &ReceiveBatch) {
        if let Some(reply) = &mut self.moving.elsewhere {
            return reply.keep(&self.reply[..len]);
        }
        match to.tuple.transport {
            // To a Binding request: it leaves with the others of the batch.
            Transport::Udp if len <= udp::send::MAX_PREFIX => return self.queue_answer(to, len),
            Transport::Udp => return self.send_to_client(to, len),
            Transport::Dtls => return self.reply_dtls(to, len),
            Transport::Tcp | Transport::Tls => {}
        }
        let limit = self.parts.streams.send_queue;
        let Some(connection) = self.connections.of(to) else { return };
        let mut queued = connection.queue_answer(&self.reply[..len], limit);
        if queued.is_err() && !connection.is_blocked() {
            // Many requests in one read, for whose answers the kernel may have room.
            self.write_stream(to.link.0, batch);
            let Some(connection) = self.connections.of(to) else { return };
            queued = connection.queue_answer(&self.reply[..len], limit);
        }
        match queued {
            Ok(()) => self.connections.mark_dirty(to.link.0),
            // It asks and never reads.
            Err(full) => self.overflowed(to, full),
        }
    }

    /// A connection took no more.
    fn overflowed(&mut self, to: &Client, full: Full) {
        self.stats.tcp_queue_drops += 1;
        match full {
            Full::Dropped => {}
            // That shows at the next event.
            Full::Close => {
                if let Some(connection) = self.connections.of(to) {
                    let _ = connection.stream.shutdown(std::net::Shutdown::Both);
                }
            }
        }
    }

    fn indicate(&mut self, to: &Client, len: usize) {
        match to.tuple.transport {
            Transport::Udp => return self.send_to_client(to, len),
            Transport::Dtls => return self.reply_dtls(to, len),
            Transport::Tcp | Transport::Tls => {}
        }
        let limit = self.parts.streams.send_queue;
        let Some(connection) = self.connections.of(to) else { return };
        match connection.queue_data([&self.reply[..len], &[], &[]], limit) {
            Ok(()) => self.connections.mark_dirty(to.link.0),
            Err(full) => self.overflowed(to, full),
        }
    }

    /// Sends the reply buffer to a client over UDP, from the address the client uses.
    fn send_to_client(&mut self, to: &Client, len: usize) {
        let listener = &self.parts.udp[to.link.0 as usize];
        let source = listener.source(to);
        if udp::send_one(listener.fd(), &self.reply[..len], to.tuple.client, source).is_err() {
            self.stats.send_errors_to_client += 1;
        }
    }

    fn bind(&mut self, request: &ports::Request<'_>) {
        let mut opened = self.parts.ports.bind(request);
        let AllocationId { slot, .. } = request.allocation;
        for (family, entry, local) in opened.sockets {
            let id = RelayId { allocation: request.allocation, family };
            let (token, fd) = match &entry {
                Entry::Datagrams(socket) => (Token::Relay(slot, family), socket.as_fd()),
                Entry::Connections(listener) => {
                    (Token::PeerListener(slot, family), listener.as_fd())
                }
            };
            if self.poller.add(fd, token.pack(), Interest::READ).is_ok() {
                match entry {
                    Entry::Datagrams(socket) => self.relays.insert(id, socket, local),
                    Entry::Connections(listener) => self.peers.listen(id, listener, local),
                }
            } else {
                drop(entry);
                self.parts.ports.release(local);
                ports::refuse(&mut opened.bound, family);
            }
        }
        self.parts.server.handle(Event::Bound(opened.bound), self.now, &mut self.reply[..]);
    }

    fn close(&mut self, relay: RelayId, batch: &ReceiveBatch) {
        // Datagrams may be queued on the socket, and its number may soon be another's.
        self.flush(batch);
        if let Some(socket) = self.relays.remove(relay) {
            let local = socket.local;
            drop(socket);
            self.parts.ports.release(local);
        } else if let Some(local) = self.peers.close(relay) {
            self.parts.ports.release(local);
        }
    }

    /// Sends what is queued and makes room for the next batch.
    fn finish(&mut self, batch: &mut ReceiveBatch) {
        self.flush(batch);
        while let Some(index) = self.connections.next_dirty() {
            self.write_stream(index, batch);
        }
        batch.clear();
    }

    /// What is due by the clock.
    fn on_time(&mut self, batch: &ReceiveBatch) {
        let deadline = self.parts.server.deadline();
        // What ends by the clock shows in the metrics, also of a server that nobody talks to.
        self.unpublished |= deadline.is_some_and(|at_ns| at_ns <= self.now.mono_ns);
        self.parts.server.expire(self.now);
        self.mirror_turn();
        self.carry_out(batch);
        for _ in 0..EXPIRIES_PER_TURN {
            if !self.parts.server.expire_connection(self.now, &mut self.reply[..]) {
                break;
            }
            self.carry_out(batch);
        }
        self.pump_waiting(batch);
        if self.accept_resumes_ns.is_some_and(|at_ns| at_ns <= self.now.mono_ns) {
            self.accept_resumes_ns = None;
            self.watch_listeners(Interest::READ);
        }
        if self.now.mono_ns - self.swept_ns >= SECOND_NS {
            self.swept_ns = self.now.mono_ns;
            self.close_idle(batch);
            self.look_after_sessions(batch);
            self.let_go_of_old();
        }
    }

    fn read_mail(&mut self, batch: &mut ReceiveBatch) -> Mail {
        while let Some(command) = self.parts.inbox.next() {
            match command {
                Command::Configure(config) => self.happen(Event::Configure(config), batch),
                Command::Drain => self.happen(Event::Drain, batch),
                Command::Sessions(query, reply) => {
                    let mut page = SessionPage::default();
                    page.next = self.parts.server.sessions(
                        &query.filter,
                        query.from,
                        PLACES_PER_PAGE,
                        query.most,
                        self.now,
                        &mut page.sessions,
                    );
                    // Whoever asked may have gone away.
                    let _ = reply.send(page);
                }
                Command::Session(session, reply)
                    if let Some(shard) = self.went_elsewhere(session) =>
                {
                    self.parts.mailboxes[shard].send(Command::Session(session, reply));
                }
                Command::Kill(session, reply) if let Some(shard) = self.went_elsewhere(session) => {
                    self.parts.mailboxes[shard].send(Command::Kill(session, reply));
                }
                Command::Session(session, reply) => {
                    let _ = reply.send(self.parts.server.find_session(session, self.now));
                }
                Command::Kill(session, reply) => {
                    let found = self.parts.server.find_session(session, self.now);
                    self.happen(Event::Kill { session }, batch);
                    let _ = reply.send(found);
                }
                Command::Adopt(connection) => self.adopted.push(*connection),
                Command::Hear(word) => self.hear(word, batch),
                Command::Stop => return Mail::Stop,
            }
        }
        Mail::Read
    }

    /// Lets the rules know, and carries out what they want.
    fn happen(&mut self, event: Event<'_>, batch: &ReceiveBatch) {
        self.unpublished = true;
        self.parts.server.handle(event, self.now, &mut self.reply[..]);
        self.carry_out(batch);
    }

    fn publish(&mut self) {
        let due = self.now.mono_ns >= self.published_ns + PUBLISH_NS;
        if self.unpublished && due {
            self.stats.tcp_connections = self.connections.len() as u64;
            self.stats.dtls_sessions =
                self.dtls.as_ref().map_or(0, |dtls| dtls.sessions.len() as u64);
            let shown = self.parts.board.publish(self.parts.server.stats(), &self.stats);
            self.published_ns = self.now.mono_ns;
            self.unpublished = !shown;
        }
    }
}

#[derive(PartialEq, Eq)]
enum Mail {
    Read,
    Stop,
}

/// What an event is about, packed into the poller's 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Waker,
    UdpListener(u32),
    TcpListener(u32),
    Relay(u32, Family),
    Connection(u32),
    PeerListener(u32, Family),
    Peer(u32),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Waker => (0, 0),
            Self::UdpListener(index) => (1, index),
            Self::TcpListener(index) => (2, index),
            Self::Relay(slot, Family::V4) => (3, slot),
            Self::Relay(slot, Family::V6) => (4, slot),
            Self::Connection(index) => (5, index),
            Self::PeerListener(slot, Family::V4) => (6, slot),
            Self::PeerListener(slot, Family::V6) => (7, slot),
            Self::Peer(id) => (8, id),
        };
        (kind << 32) | u64::from(index)
    }

    fn unpack(packed: u64) -> Self {
        let index = packed as u32;
        match packed >> 32 {
            1 => Self::UdpListener(index),
            2 => Self::TcpListener(index),
            3 => Self::Relay(index, Family::V4),
            4 => Self::Relay(index, Family::V6),
            5 => Self::Connection(index),
            6 => Self::PeerListener(index, Family::V4),
            7 => Self::PeerListener(index, Family::V6),
            8 => Self::Peer(index),
            _ => Self::Waker,
        }
    }
}

/// Both clocks, read once per turn.
pub fn clock() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    Now { mono_ns: udp::system::monotonic_ns(), unix_s: unix.map_or(0, |since| since.as_secs()) }
}
