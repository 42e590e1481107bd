//! One thread: its clients, their peer, what it sends and what it made of what came.
//!
//! - [`Worker::phase`]: transactions of all clients
//! - [`Worker::traffic`]: payloads, for a while
//!
//! `source.rs` makes datagrams, `sink.rs` judges what has come.

mod sink;
mod source;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use turnway_udp::ReceiveBatch;
use turnway_udp::system::monotonic_ns;
use turnway_wire::{ChannelData, Class, Data, Kind, Message, Method, XorPeerAddress, classify};

use crate::LoadError;
use crate::clients::{Clients, Transport};
use crate::pace::Pace;
use crate::payload::Direction;
use crate::peers::Peers;
use crate::server::Usage;
use crate::transact::{PhaseReport, Transactions};
use crate::turn::{Ask, CHANNEL, Credentials};

pub(crate) use sink::Sink;
use source::{BATCH, Source};

/// How often timers are looked at.
const TICK_NS: u64 = 1_000_000;

/// After the measured time, what is under way has so long to arrive: since the last one, and in
/// all.
const DRAIN_SILENCE_NS: u64 = 100_000_000;
const DRAIN_NS: u64 = 1_000_000_000;

/// Each client's permission and channel, and its allocation, are refreshed this often: a
/// permission lives for 300 s (RFC 8656 section 9).
const UPKEEP_NS: u64 = 200_000_000_000;

/// See the module.
pub(crate) struct Worker {
    pub(crate) clients: Clients,
    pub(crate) peers: Peers,
    pub(crate) transactions: Option<Transactions>,
    arrived: ReceiveBatch,
    source: Source,
    pub(crate) sink: Sink,
    upkeep: Upkeep,
}

/// What a worker is made for.
pub(crate) struct Plan {
    pub(crate) server: SocketAddr,
    pub(crate) transport: Transport,
    /// Where this machine is seen from the server.
    pub(crate) own: IpAddr,
    /// Where peers are, if not there.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) run: u32,
    /// The number of its first allocation.
    pub(crate) first: u32,
    pub(crate) count: usize,
    /// Payload bytes.
    pub(crate) size: usize,
}

/// When datagrams are sent.
#[derive(Clone, Copy)]
pub(crate) enum Drive {
    /// So many datagrams a second.
    Rate(f64),
    /// As soon as fewer than so many are under way.
    Window(usize),
}

/// Payloads for a while.
#[derive(Clone)]
pub(crate) struct Traffic {
    pub(crate) drive: Drive,
    pub(crate) directions: Vec<Direction>,
    /// Datagrams of one allocation and direction that follow each other.
    pub(crate) burst: usize,
    pub(crate) start_ns: u64,
    pub(crate) from_ns: u64,
    pub(crate) until_ns: u64,
    /// Whose usage is read, by the first worker.
    pub(crate) server_pids: Vec<u32>,
}

/// What each client asks for, by its peer.
pub(crate) type Asks = fn(SocketAddr) -> Ask;

/// What keeps allocations alive beside the traffic.
struct Upkeep {
    asks: Option<Asks>,
    next_ns: u64,
    count: usize,
}

/// What a traffic's time was spent on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Nanoseconds of the measured time in which there was something to do.
    pub(crate) busy_ns: u64,
    /// What the server's processes used in it.
    pub(crate) usage: Option<Usage>,
}

impl Worker {
    /// Opens the sockets.
    pub(crate) fn open(plan: &Plan) -> Result<Self, LoadError> {
        let clients = Clients::open(plan.server, plan.transport, plan.count)?;
        let peers = Peers::open(plan.peer, plan.own)?;
        Ok(Self {
            source: Source::new(plan, &peers),
            sink: Sink::new(plan.run, plan.first, plan.count, peers.addresses),
            transactions: None,
            arrived: ReceiveBatch::new(64),
            upkeep: Upkeep { asks: None, next_ns: u64::MAX, count: 0 },
            clients,
            peers,
        })
    }

    /// Becomes able to make transactions.
    pub(crate) fn introduce(
        &mut self,
        server: SocketAddr,
        credentials: Credentials,
        run: u32,
    ) -> Result<(), LoadError> {
        let (reliable, count) = (self.clients.is_reliable(), self.clients.count());
        self.transactions = Some(Transactions::new(server, reliable, credentials, run, count)?);
        Ok(())
    }

    /// One transaction of each client, at most `window` at a time.
    pub(crate) fn phase(&mut self, asks: Asks, window: usize) -> Result<PhaseReport, LoadError> {
        let Self { clients, peers, transactions, arrived, .. } = self;
        let transactions = transactions.as_mut().expect("introduced before");
        let started_ns = monotonic_ns();
        let (mut next, mut tick_ns) = (0, started_ns);
        loop {
            let now = monotonic_ns();
            while next < clients.count() && transactions.under_way() < window {
                transactions.begin(next, asks(peers.addresses.of(next)), now);
                next += 1;
            }
            transactions.outbox(|client, message| clients.send(client, message))?;
            let mut result = Ok(());
            let came = clients.receive(arrived, |client, message| {
                if result.is_ok() {
                    result = transactions.receive(client, message, monotonic_ns());
                }
            })?;
            result?;
            if next == clients.count() && transactions.under_way() == 0 {
                let took = Duration::from_nanos(monotonic_ns() - started_ns);
                return Ok(transactions.report(took));
            }
            if now - tick_ns >= TICK_NS {
                tick_ns = now;
                transactions.expire(now)?;
            }
            if came == 0 {
                std::thread::yield_now();
            }
        }
    }

    /// Ends the allocations of those clients that have one, and nothing else. Where the server
    /// refuses that to one, the others' are ended all the same.
    pub(crate) fn delete(&mut self, window: usize) -> Result<(), LoadError> {
        let mut refused = None;
        while let Some(transactions) = &mut self.transactions {
            transactions.forget();
            match self.phase(|_| Ask::Delete, window) {
                Ok(_) => break,
                Err(error @ LoadError::Refused { .. }) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Where peers send to reach each client.
    pub(crate) fn route(&mut self, relayed: &[SocketAddr]) {
        self.sink.route(relayed);
        self.source.route(relayed);
    }

    /// What precedes payloads on their way to the server, by the client's peer.
    pub(crate) fn wrap(
        &mut self,
        head: impl Fn(SocketAddr) -> Result<Vec<u8>, LoadError>,
    ) -> Result<(), LoadError> {
        self.source.wrap(|client| head(self.peers.addresses.of(client)))
    }

    /// What keeps permissions or channels alive from now on.
    pub(crate) fn keep_up(&mut self, asks: Asks) {
        let next_ns = monotonic_ns() + UPKEEP_NS / 2;
        self.upkeep = Upkeep { asks: Some(asks), next_ns, count: 0 };
    }

    /// Sends and receives payloads for a while. The counts are in `sink` then.
    pub(crate) fn traffic(&mut self, traffic: &Traffic) -> Result<Spent, LoadError> {
        self.sink.begin(traffic.from_ns, traffic.until_ns);
        let steps = match traffic.drive {
            Drive::Rate(rate) => rate / traffic.burst as f64,
            Drive::Window(_) => 0.0,
        };
        let mut pace = Pace::new(steps, traffic.start_ns);
        let (mut spent, mut begun, mut tick_ns) = (Spent::default(), None, 0);
        let mut now = monotonic_ns();
        while now < traffic.until_ns {
            if now >= traffic.from_ns && begun.is_none() {
                begun = Some(Usage::read(&traffic.server_pids)?);
            }
            let sent = self.send(traffic, &mut pace, now)?;
            let came = self.receive()?;
            if now - tick_ns >= TICK_NS {
                tick_ns = now;
                self.look_after(now)?;
            }
            let then = now;
            now = monotonic_ns();
            if sent + came == 0 {
                std::thread::yield_now();
                now = monotonic_ns();
            } else if begun.is_some() {
                spent.busy_ns += now - then;
            }
        }
        if let Some(begun) = begun.filter(|_| !traffic.server_pids.is_empty()) {
            spent.usage = Some(Usage::read(&traffic.server_pids)?.since(&begun));
        }
        self.drain()?;
        Ok(spent)
    }

    /// Sends what is due and tells how many datagrams that was.
    fn send(&mut self, traffic: &Traffic, pace: &mut Pace, now: u64) -> Result<usize, LoadError> {
        let most = (BATCH / traffic.burst).max(1);
        let steps = match traffic.drive {
            Drive::Rate(_) => {
                let due = pace.due(now).min(most as u64);
                pace.take(due);
                due as usize
            }
            Drive::Window(window) => self.sink.room(window, traffic.burst, now).min(most),
        };
        for _ in 0..steps {
            let (client, direction) = self.source.next_flow(&traffic.directions);
            for _ in 0..traffic.burst {
                self.source.add(&mut self.clients, &mut self.sink, client, direction, now);
            }
        }
        if steps > 0 {
            self.source.flush(&mut self.clients, &mut self.sink, now)?;
        }
        Ok(steps * traffic.burst)
    }

    /// Takes in what has come and tells how many datagrams or messages that was.
    fn receive(&mut self) -> Result<usize, LoadError> {
        let Self { clients, peers, arrived, sink, transactions, .. } = self;
        let now = monotonic_ns();
        let came = peers.receive(arrived, |received| {
            for range in received.segments() {
                sink.at_peer(received.from, received.local, &received.data[range], now);
            }
        })?;
        let now = monotonic_ns();
        let mut result = Ok(());
        let more = clients.receive(arrived, |client, message| {
            if !sink.relayed(client, message, now)
                && result.is_ok()
                && let Some(transactions) = transactions
            {
                result = transactions.receive(client, message, now);
            }
        })?;
        result?;
        Ok(came + more)
    }

    /// What the clock wants: allocations that live on.
    fn look_after(&mut self, now: u64) -> Result<(), LoadError> {
        let Some(transactions) = &mut self.transactions else { return Ok(()) };
        let clients = &mut self.clients;
        while let Some(asks) = self.upkeep.asks.filter(|_| self.upkeep.next_ns <= now) {
            let (count, clients) = (self.upkeep.count, clients.count());
            let (round, client) = (count / clients, count % clients);
            let bind = asks(self.peers.addresses.of(client));
            let ask = if round.is_multiple_of(2) { bind } else { Ask::Refresh(600) };
            transactions.begin(client, ask, now);
            self.upkeep.count += 1;
            self.upkeep.next_ns += UPKEEP_NS / 2 / clients as u64;
        }
        transactions.expire(now)?;
        transactions.outbox(|client, message| clients.send(client, message))
    }

    fn drain(&mut self) -> Result<(), LoadError> {
        let begun = monotonic_ns();
        let mut last = begun;
        loop {
            let now = monotonic_ns();
            if self.receive()? > 0 {
                last = now;
            } else if self.sink.is_complete()
                || now > last + DRAIN_SILENCE_NS
                || now > begun + DRAIN_NS
            {
                break;
            }
            if let Some(streams) = self.clients.streams() {
                streams.flush()?;
            }
            std::thread::yield_now();
        }
        self.sink.end();
        Ok(())
    }
}

/// The payload in a message from the server, and whom it says that it is from: a channel's is from
/// our only peer.
fn unwrap(message: &[u8]) -> Option<(&[u8], Option<SocketAddr>)> {
    match message.first().map(|first| classify(*first)) {
        Some(Kind::Channel) => {
            let data = ChannelData::parse(message)?;
            (data.number == CHANNEL).then_some((data.data, None))
        }
        Some(Kind::Stun) => {
            let message = Message::parse(message).ok()?;
            if (message.class(), message.method()) != (Class::Indication, Method::DATA) {
                return None;
            }
            let peer = message.get::<XorPeerAddress>().ok()??;
            Some((message.get::<Data<'_>>().ok()??.0, Some(peer.0)))
        }
        _ => None,
    }
}
