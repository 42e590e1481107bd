//! One shard's relay: the state, and the doors through which the world reaches it.
//!
//! Datagrams go through [`Server::route_client`] and [`Server::route_peer`] (file `route`).
//! Everything rare goes through [`Server::handle`] and [`Server::expire`], after each of which
//! the shell drains [`Server::poll`]. One call writes at most one reply, into the buffer it gets.

use std::collections::VecDeque;
use std::sync::Arc;

use turnway_wire::{Family, TransactionId};

use crate::address::{FiveTuple, Now, RealmId};
use crate::allocate::Pending;
use crate::alternate::Selection;
use crate::connections::Connections;
use crate::discovery::Discovery;
use crate::effect::{Effect, Event, Record, VolumeSpent};
use crate::ledger::Exchange;
use crate::limits::Limits;
use crate::meter::Meters;
use crate::mobility::Resumes;
use crate::outcome::EndReason;
use crate::quota::Quotas;
use crate::realms::Realms;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::table::{Table, Window};
use crate::timers::Timers;

/// What all shards are configured with. Replaced as a whole by [`Event::Configure`].
#[derive(Debug)]
pub struct Config {
    /// Who may use the relay, and which peers they may reach.
    pub realms: Realms,
    /// What bounds a server.
    pub limits: Limits,
    /// Which other servers clients are sent to.
    pub alternates: Selection,
    /// What users may use. The ledger must know the same.
    pub quotas: Arc<Quotas>,
    /// Where NAT behaviour discovery (RFC 5780) answers; `None`: nowhere.
    pub discovery: Option<Discovery>,
    /// Whether there are IPv4 relay addresses.
    pub v4: bool,
    /// Whether there are IPv6 relay addresses.
    pub v6: bool,
}

impl Config {
    /// Whether relayed transport addresses of a family can be had.
    pub fn supports(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// The rules of one shard. Plain data: no clock, no socket, no lock.
pub struct Server {
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) table: Table,
    pub(crate) timers: Timers,
    pub(crate) connections: Connections,
    pub(crate) meters: Meters,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) stats: Stats,
    pub(crate) pending: Option<Box<Pending>>,
    pub(crate) draining: bool,
    pub(crate) resumes: Resumes,
    /// The shard whose client's request is looked at, if it is another's.
    pub(crate) asking: Option<u16>,
    /// The next slot to be judged by a new configuration.
    pub(crate) judging: Option<u32>,
    pub(crate) auth_records: Window,
    pub(crate) auth_suppressed: u64,
    /// Whose turn it is among the alternate servers.
    pub(crate) next_alternate: u64,
    next_session: u64,
    next_transaction: u64,
    transaction_salt: u32,
}

/// What makes one shard's server differ from another's.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    /// Its number among the servers of the process, below 1024.
    pub shard: u16,
    /// From the system's CSPRNG: seeds the hash table and the transaction ids of indications.
    pub random: u64,
    /// The first session number; give each shard a range of its own.
    pub first_session: u64,
}

impl Server {
    /// An empty server.
    pub fn new(config: Arc<Config>, shared: Arc<Shared>, seed: Seed) -> Self {
        let meters = Meters::new(Arc::clone(&config.quotas));
        Self {
            config,
            shared,
            table: Table::new(seed.random),
            timers: Timers::default(),
            connections: Connections::new(seed.shard, seed.random),
            meters,
            effects: VecDeque::with_capacity(EFFECTS),
            stats: Stats::default(),
            pending: None,
            draining: false,
            resumes: Resumes::default(),
            asking: None,
            judging: None,
            auth_records: Window::default(),
            auth_suppressed: 0,
            // Shards begin at different servers.
            next_alternate: seed.random,
            next_session: seed.first_session,
            next_transaction: seed.random.rotate_left(32),
            transaction_salt: (seed.random >> 32) as u32,
        }
    }

    /// Takes in something that happened. At most one reply is written to `out`, which should hold
    /// 2,048 bytes; [`Effect::Reply`] says how many were. Drain [`Self::poll`] before the next
    /// call.
    pub fn handle(&mut self, event: Event<'_>, now: Now, out: &mut [u8]) {
        match event {
            Event::Request { from, data } => self.request(from, data, now, out),
            Event::Resume { from, data, shard } => {
                self.asking = Some(shard);
                self.request(from, data, now, out);
                self.asking = None;
            }
            Event::Reserved(reserved) => self.reserved(reserved, now, out),
            Event::Bound(bound) => self.bound(bound, now, out),
            Event::Exchanged => self.exchanged(now),
            Event::VolumeSpent(spent) => {
                self.stats.volumes_spent += 1;
                self.effects.push_back(Effect::Log(Record::VolumeSpent(Box::new(spent))));
            }
            Event::Icmp { relay, peer, error } => self.icmp(relay, peer, error, now, out),
            Event::Connected { connection, result } => {
                self.connected(connection, result, now, out);
            }
            Event::ConnectionClosed { connection } => self.connection_closed(connection),
            Event::Disconnected { tuple } => {
                self.disconnected(&tuple, now);
            }
            Event::Configure(config) => self.configure(config, now),
            Event::Drain => self.draining = true,
            Event::Kill { session } => {
                if let Some(id) = self.table.find_session(session) {
                    self.end(id, EndReason::Killed, now);
                }
            }
        }
    }

    /// The next thing the rules want done.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::expire`] or [`Self::expire_connection`] wants to be called next, in `mono_ns`.
    pub fn deadline(&self) -> Option<u64> {
        let timer = self.timers.peek().map(|(deadline_ns, _)| deadline_ns);
        let judging = self.judging.map(|_| 0);
        let connection = self.connections.next_deadline().map(|(deadline_ns, _)| deadline_ns);
        let resumes = self.resumes.due_ns();
        [timer, self.meters.due_ns(), judging, connection, resumes].into_iter().flatten().min()
    }

    /// What is to be told to the [`crate::Ledger`], and where it answers: for [`Route::Lease`]
    /// and [`Effect::Exchange`]. Say [`Event::Exchanged`] then.
    ///
    /// [`Route::Lease`]: crate::Route::Lease
    pub fn exchange(&mut self) -> &mut Exchange {
        self.meters.exchange()
    }

    /// Ends what has run out. Returns true if some is left for another call, so that a mass
    /// expiry does not hold up relaying.
    pub fn expire(&mut self, now: Now) -> bool {
        self.judge_some(now);
        let mut swept = 0;
        while swept < EXPIRIES_PER_CALL
            && let Some((deadline_ns, slot)) = self.timers.peek()
            && deadline_ns <= now.mono_ns
        {
            self.sweep(slot, now);
            swept += 1;
        }
        let unfinished = self.expire_resumes(now);
        // After the ends: who is told of must still be there when the ledger answers.
        let due = |meters: &Meters| meters.due_ns().is_some_and(|due_ns| due_ns <= now.mono_ns);
        if due(&self.meters) && self.meters.settle(now.mono_ns) {
            self.effects.push_back(Effect::Exchange);
        }
        swept == EXPIRIES_PER_CALL || unfinished || self.judging.is_some() || due(&self.meters)
    }

    /// Ends every allocation, for a server that stops.
    pub fn shut_down(&mut self, now: Now) {
        for slot in 0..self.table.slots() {
            if let Some(id) = self.table.occupant(slot) {
                self.end(id, EndReason::Shutdown, now);
            }
        }
    }

    /// What was counted so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The realm whose clients connect by this server name (SNI), over TLS or DTLS.
    pub fn realm_of(&self, server_name: &str) -> Option<RealmId> {
        self.config.realms.of_server_name(server_name)
    }

    /// Allocations now.
    pub fn allocations(&self) -> usize {
        self.table.len()
    }

    /// Whether a five-tuple has an allocation, or its client is about to go on with one: a connection
    /// with one may idle, one without not.
    pub fn has_allocation(&self, tuple: &FiveTuple) -> bool {
        self.table.find(tuple).is_some() || self.resumes.get(tuple).is_some()
    }

    fn exchanged(&mut self, now: Now) {
        let (effects, stats) = (&mut self.effects, &mut self.stats);
        self.meters.exchanged(now.mono_ns, |crossed| {
            stats.volumes_spent += 1;
            let crossed = VolumeSpent { account: crossed.account, period: crossed.period };
            effects.push_back(Effect::Log(Record::VolumeSpent(Box::new(crossed))));
        });
    }

    pub(crate) fn new_session(&mut self) -> u64 {
        self.next_session += 1;
        self.next_session
    }

    /// Transaction ids of indications need only differ from each other.
    pub(crate) fn new_transaction(&mut self) -> TransactionId {
        self.next_transaction = self.next_transaction.wrapping_add(1);
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.transaction_salt.to_be_bytes());
        id[4..].copy_from_slice(&self.next_transaction.to_be_bytes());
        TransactionId(id)
    }
}

/// Effects there is room for from the start: those of a mass expiry's call, so that it asks for no
/// large piece of memory in the middle of freeing many small ones.
const EFFECTS: usize = EXPIRIES_PER_CALL * 5;

/// Allocations swept per [`Server::expire`]: some 100 µs of work.
const EXPIRIES_PER_CALL: usize = 64;
