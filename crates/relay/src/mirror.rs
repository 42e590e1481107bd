//! A shard's channels on a second data path, which relays for them by itself (the kernel's): what
//! [`Effect::ChannelUp`] and [`Effect::ChannelDown`] say is mirrored to it, and 20 times a second
//! its counters are folded into the rules and what it may spend is topped up.
//!
//! The pocket of a channel there is a lease like any other: bytes that the limits of the
//! allocation, the user, the realm and the server have let pass in advance. A direction of a
//! channel is lent what two turns need at the rate seen lately, and never more than a *chunk*: what
//! the limit brings in 1/10 s, at least 3,000 bytes and at most a quarter of its burst
//! ([`Terms::chunk`]). What lies unused is missed by others for some turns only.
//!
//! What was lent a moment ago may be spent when the limit has recovered. So over any time a limit
//! lets pass what it would without a second path, and one chunk more for each direction of a
//! channel that relays under it: for a user with one allocation over TCP and one that is relayed
//! there, one chunk.
//!
//! What a pocket does not cover is passed up, and the rules decide about each datagram, as long as
//! they let most of it pass. The first of them has more lent to its channel at once
//! ([`Mirror::passed_up`]), so that one that was idle, or sends ever faster, need not wait for its
//! turn. Of a flow that is over a limit the path drops it at once, and all that
//! passes does so there; unless a chunk is less than what passes in a turn, as with bursts shorter
//! than 1/5 s: then the rules decide.
//!
//! [`Effect::ChannelUp`]: crate::Effect::ChannelUp
//! [`Effect::ChannelDown`]: crate::Effect::ChannelDown

use core::net::SocketAddr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::address::{AllocationId, Now, RelayId, Transport};
use crate::effect::{ChannelPath, Record, Traffic};
use crate::ledger::{Direction, Release};
use crate::meter::Lent;
use crate::offload::{Late, Terms};
use crate::outcome::Reason;
use crate::server::Server;

/// How often pockets are topped up.
const TURN_NS: u64 = 50_000_000;

/// A channel that was not used lately is looked at once in so many turns.
const ROUND: usize = 5;

/// A pocket that was not used for so many turns is emptied: who is not there lends to those who
/// are.
const IDLE_TURNS: u8 = 4;

/// A channel that came up is lent twice so many bytes in its first turn: something mostly follows.
const EXPECTED: u64 = 1_000;

/// What is lent between two turns to a direction whose pocket was found empty: some tens of small
/// datagrams first, each further time four times as much, and so often at most.
const REFILL: u64 = 6_000;
const REFILLS: u8 = 5;

/// Leases taken for one top-up. They double, so that is enough for any.
const LEASES: usize = 32;

/// While a limit gives no more and the rules refuse more than this part of what comes, the second
/// path drops it at once: whoever sends too much shall not cost more than who does not. What is less
/// is passed up, so that the rules decide about each datagram.
const REFUSED: u64 = 8;

/// The second data path, as a mirror sees it. Each direction of a place has counters, a pocket of
/// bytes and a deadline.
pub trait SecondPath {
    /// The place of a channel there.
    type Place: Copy;

    /// A place for a channel, if there is one left.
    fn take(&self) -> Option<Self::Place>;
    /// Makes both directions relay until `deadline_ns`, with empty pockets, not shut.
    fn open(&self, place: Self::Place, deadline_ns: u64, metered: bool);
    /// Has datagrams of a channel find its place. `relay` is the relayed transport address.
    fn install(&self, place: Self::Place, path: &ChannelPath, relay: SocketAddr);
    /// Moves the deadline.
    fn set_deadline(&self, place: Self::Place, deadline_ns: u64);
    /// Says whether the pockets count.
    fn meter(&self, place: Self::Place, metered: bool);
    /// What was counted so far, and what is in the pocket.
    fn read(&self, place: Self::Place, direction: Direction) -> Counts;
    /// Puts bytes into a pocket.
    fn lend(&self, place: Self::Place, direction: Direction, bytes: u64);
    /// Takes out all that is in a pocket.
    fn reclaim(&self, place: Self::Place, direction: Direction) -> u64;
    /// Says whether what the pocket does not cover is dropped, or left to the rules.
    fn shut(&self, place: Self::Place, direction: Direction, shut: bool);
    /// Stops relaying at once and frees the place, which may be another's from then on.
    fn close(&self, place: Self::Place);
}

/// What one direction of a place counted. The counters only grow, and wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams relayed.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams that the pocket did not cover and that were dropped.
    pub dropped: u64,
    /// Their payload bytes.
    pub dropped_bytes: u64,
    /// Payload bytes that the pocket did not cover and that were left to the rules.
    pub passed_bytes: u64,
    /// Gauge: bytes in the pocket.
    pub pocket: u64,
}

/// See the module.
pub struct Mirror<P: SecondPath> {
    path: P,
    entries: Vec<Option<Entry<P::Place>>>,
    free: Vec<u32>,
    by_channel: HashMap<(RelayId, u16), u32, FixedState>,
    /// Those that are looked at in every turn; `listed` says of each entry whether it is there.
    active: Vec<u32>,
    listed: Vec<bool>,
    /// Where the round of all others goes on.
    next: usize,
    due_ns: Option<u64>,
    tally: Tally,
}

/// What was folded in.
#[derive(Default)]
struct Tally {
    /// Of allocations that are no more.
    late: Late,
    relayed: Traffic,
}

/// A channel there.
struct Entry<S> {
    allocation: AllocationId,
    place: S,
    metered: bool,
    ways: [Way; 2],
}

/// One direction of it.
struct Way {
    /// What was folded in already.
    seen: Counts,
    /// What both paths relayed of the allocation until then.
    relayed: u64,
    /// Payload bytes that came in a turn lately, the most and slowly forgotten.
    recent: u64,
    idle: u8,
    /// How often its pocket was found empty since the last turn.
    refills: u8,
    /// Whether the path drops what the pocket does not cover, and for which limit it did last.
    shut: bool,
    reason: Reason,
}

impl<P: SecondPath> Mirror<P> {
    /// Nothing mirrored yet. The seed is that of the server.
    pub fn new(path: P, seed: u64) -> Self {
        Self {
            path,
            entries: Vec::new(),
            free: Vec::new(),
            by_channel: HashMap::with_hasher(FixedState::with_seed(seed)),
            active: Vec::new(),
            listed: Vec::new(),
            next: 0,
            due_ns: None,
            tally: Tally::default(),
        }
    }

    /// A channel of a UDP client may be relayed, or its deadline moved.
    pub fn up(&mut self, path: &ChannelPath, relay: SocketAddr, server: &Server, now: Now) {
        if path.client.tuple.transport != Transport::Udp {
            return;
        }
        let key = (path.relay, path.number);
        if let Some(entry) = self.by_channel.get(&key).and_then(|&at| self.entry(at)) {
            return self.path.set_deadline(entry.place, path.deadline_ns);
        }
        let allocation = path.relay.allocation;
        let Some(terms) = server.terms(allocation) else { return };
        // Full: the rules route it, as everything before.
        let Some(place) = self.path.take() else { return };
        let metered = terms.metered();
        self.path.open(place, path.deadline_ns, metered);
        let ways = Direction::BOTH.map(|direction| Way {
            seen: self.path.read(place, direction),
            relayed: terms.relayed[direction.index()],
            recent: if metered { EXPECTED } else { 0 },
            idle: 0,
            refills: 0,
            shut: false,
            reason: Reason::UserBandwidth,
        });
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.listed.push(false);
            // Whoever is listed for a datagram finds room.
            self.active.reserve(self.entries.len() - self.active.len());
            (self.entries.len() - 1) as u32
        });
        self.entries[at as usize] = Some(Entry { allocation, place, metered, ways });
        self.by_channel.insert(key, at);
        if metered {
            self.list(at);
        }
        self.due_ns.get_or_insert(now.mono_ns + TURN_NS);
        self.path.install(place, path, relay);
    }

    /// A channel may no longer be relayed: from this moment on it is not.
    pub fn down(&mut self, relay: RelayId, number: u16, server: &mut Server, now: Now) {
        let Some(at) = self.by_channel.remove(&(relay, number)) else { return };
        let Some(mut entry) = self.entries[at as usize].take() else { return };
        self.free.push(at);
        // What is counted is read before the place is another's.
        self.path.set_deadline(entry.place, 0);
        for direction in Direction::BOTH {
            let unused = self.path.reclaim(entry.place, direction);
            fold(&self.path, &mut entry, direction, server, &mut self.tally, now);
            server.take_back(entry.allocation, direction, unused);
        }
        self.path.close(entry.place);
        if self.by_channel.is_empty() {
            (self.due_ns, self.next) = (None, 0);
            (self.entries, self.free) = (Vec::new(), Vec::new());
            (self.active, self.listed) = (Vec::new(), Vec::new());
        }
    }

    /// The rules relayed a datagram of a UDP client that the second path passed up, maybe because a
    /// pocket is empty: then it is filled. `message` is what came from the client, or leaves to it;
    /// of interest are its first two bytes, a channel's number or the sign that there is none.
    /// `exchange` as for [`Self::turn`].
    ///
    /// Allocates nothing, and does more than to look into a table for some datagrams of a turn only.
    pub fn passed_up(
        &mut self,
        relay: RelayId,
        direction: Direction,
        message: &[u8],
        server: &mut Server,
        now: Now,
        mut exchange: impl FnMut(&mut Server),
    ) {
        let &[high @ 0x40..=0x7F, low, ..] = message else { return };
        let number = u16::from_be_bytes([high, low]);
        let Some(&at) = self.by_channel.get(&(relay, number)) else { return };
        let Some(entry) = self.entries[at as usize].as_mut() else { return };
        let (allocation, place) = (entry.allocation, entry.place);
        let way = &mut entry.ways[direction.index()];
        if !entry.metered || way.shut || way.refills >= REFILLS {
            return;
        }
        let Some(terms) = server.terms(allocation).filter(|terms| !terms.spent) else { return };
        let wanted = (2 * way.recent).max(REFILL << (2 * way.refills));
        let wanted = wanted.min(terms.chunk.unwrap_or(0));
        way.refills += 1;
        let missing = wanted.saturating_sub(self.path.read(place, direction).pocket);
        let (path, tally, exchange) = (&self.path, &mut self.tally, &mut exchange);
        let mut round = Round { path, server, tally, exchange, now };
        if round.lend(allocation, place, direction, missing).is_some() {
            way.refills = REFILLS;
        }
        self.list(at);
    }

    /// When [`Self::turn`] is due, in `mono_ns`.
    pub fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// Folds what the second path counted into the rules, and tops up its pockets. `exchange` lets
    /// the rules and the ledger speak: [`Server::exchange`], then [`Event::Exchanged`].
    ///
    /// [`Event::Exchanged`]: crate::Event::Exchanged
    pub fn turn(&mut self, server: &mut Server, now: Now, mut exchange: impl FnMut(&mut Server)) {
        if self.due_ns.is_none_or(|due_ns| now.mono_ns < due_ns) {
            return;
        }
        self.due_ns = Some(now.mono_ns + TURN_NS);
        let (path, tally, exchange) = (&self.path, &mut self.tally, &mut exchange);
        let mut round = Round { path, server, tally, exchange, now };
        let (entries, listed) = (&mut self.entries, &mut self.listed);
        self.active.retain(|&at| {
            let at = at as usize;
            listed[at] = round.visit(&mut entries[at]);
            listed[at]
        });
        let end = (self.next + entries.len().div_ceil(ROUND)).min(entries.len());
        for at in self.next..end {
            if !listed[at] && round.visit(&mut entries[at]) {
                listed[at] = true;
                self.active.push(at as u32);
            }
        }
        self.next = if end == entries.len() { 0 } else { end };
    }

    /// What the second path relayed so far; the rules have it in their figures, too.
    pub fn relayed(&self) -> Traffic {
        self.tally.relayed
    }

    /// Adds what came too late for the rules to what the ledger hears of an allocation's end.
    pub fn complete_release(&mut self, release: &mut Release, server: &mut Server, now: Now) {
        self.tally.late.add_to_release(release, server, now);
    }

    /// The same for its last record.
    pub fn complete_record(&mut self, record: &mut Record) {
        self.tally.late.add_to_record(record);
    }

    /// Has an entry looked at in the next turn.
    fn list(&mut self, at: u32) {
        if !core::mem::replace(&mut self.listed[at as usize], true) {
            self.active.push(at);
        }
    }

    fn entry(&self, at: u32) -> Option<&Entry<P::Place>> {
        self.entries.get(at as usize)?.as_ref()
    }
}

/// What one direction did in one turn, and what is in its pocket.
struct Turn {
    relayed: u64,
    stopped: u64,
    pocket: u64,
}

/// Has the rules count what the path counted since the last turn.
fn fold<P: SecondPath>(
    path: &P,
    entry: &mut Entry<P::Place>,
    direction: Direction,
    server: &mut Server,
    tally: &mut Tally,
    now: Now,
) -> Turn {
    let counts = path.read(entry.place, direction);
    let way = &mut entry.ways[direction.index()];
    let seen = core::mem::replace(&mut way.seen, counts);
    let since = |now: u64, then: u64| now.wrapping_sub(then);
    let (datagrams, bytes) =
        (since(counts.datagrams, seen.datagrams), since(counts.bytes, seen.bytes));
    if datagrams > 0 {
        tally.relayed.add(Traffic::of(direction, datagrams, bytes));
        if !server.relayed(entry.allocation, direction, datagrams, bytes, now) {
            tally.late.count(direction, datagrams, bytes);
        }
    }
    let dropped = since(counts.dropped, seen.dropped);
    let dropped_bytes = since(counts.dropped_bytes, seen.dropped_bytes);
    if dropped > 0 {
        server.dropped(entry.allocation, direction, way.reason, dropped, dropped_bytes, now);
    }
    let stopped = dropped_bytes + since(counts.passed_bytes, seen.passed_bytes);
    Turn { relayed: bytes, stopped, pocket: counts.pocket }
}

/// One turn of all channels, with what it takes.
struct Round<'a, P, X> {
    path: &'a P,
    server: &'a mut Server,
    tally: &'a mut Tally,
    exchange: &'a mut X,
    now: Now,
}

impl<P: SecondPath, X: FnMut(&mut Server)> Round<'_, P, X> {
    /// A channel's turn. True if it is to have one in the next round, too.
    fn visit(&mut self, entry: &mut Option<Entry<P::Place>>) -> bool {
        let Some(entry) = entry else { return false };
        let turns = Direction::BOTH
            .map(|way| fold(self.path, entry, way, self.server, self.tally, self.now));
        let Some(terms) = self.server.terms(entry.allocation) else { return false };
        if terms.metered() != entry.metered {
            entry.metered = terms.metered();
            self.path.meter(entry.place, entry.metered);
        }
        for (direction, turn) in Direction::BOTH.into_iter().zip(turns) {
            self.top_up(entry, direction, turn, &terms);
        }
        self.server.meters() && entry.ways.iter().any(|way| way.recent > 0)
    }

    /// Lends what the next two turns need, as far as the limits allow, and takes back what is too
    /// much.
    fn top_up(
        &mut self,
        entry: &mut Entry<P::Place>,
        direction: Direction,
        mut turn: Turn,
        terms: &Terms,
    ) {
        let (allocation, place) = (entry.allocation, entry.place);
        let way = &mut entry.ways[direction.index()];
        way.refills = 0;
        let came = turn.relayed + turn.stopped;
        way.idle = if came == 0 { way.idle.saturating_add(1) } else { 0 };
        way.recent = if way.idle < IDLE_TURNS { came.max(way.recent - way.recent / 8) } else { 0 };
        let relayed = terms.relayed[direction.index()];
        let passed = relayed.wrapping_sub(core::mem::replace(&mut way.relayed, relayed));

        let chunk = terms.chunk.unwrap_or(0);
        let wanted = if terms.spent { 0 } else { (2 * way.recent).min(chunk) };
        if turn.pocket > 2 * wanted {
            let unused = self.path.reclaim(place, direction);
            self.server.take_back(allocation, direction, unused);
            turn.pocket = 0;
        }
        let over = if terms.spent {
            Some(Reason::VolumeSpent)
        } else {
            self.lend(allocation, place, direction, wanted.saturating_sub(turn.pocket))
        };
        // Where a pocket cannot hold what passes in a turn, nothing would be gained.
        let shut = over.filter(|_| passed < came - came / REFUSED && passed <= chunk);
        if shut.is_some() != way.shut {
            way.shut = shut.is_some();
            self.path.shut(place, direction, way.shut);
        }
        way.reason = shut.unwrap_or(way.reason);
    }

    /// Fills a pocket. Says which limit gave less than was wanted.
    fn lend(
        &mut self,
        allocation: AllocationId,
        place: P::Place,
        direction: Direction,
        wanted: u64,
    ) -> Option<Reason> {
        let (bytes, over) = self.borrow(allocation, direction, wanted);
        if bytes > 0 {
            self.path.lend(place, direction, bytes);
        }
        over
    }

    /// Borrows from the rules, and has them lease more where that is what it takes. Says also which
    /// limit gave no more.
    fn borrow(
        &mut self,
        allocation: AllocationId,
        direction: Direction,
        wanted: u64,
    ) -> (u64, Option<Reason>) {
        let mut all = 0;
        for _ in 0..LEASES {
            match self.server.lend(allocation, direction, wanted - all, self.now) {
                Lent::All(bytes) => return (all + bytes, None),
                Lent::Over(bytes, reason) => return (all + bytes, Some(reason)),
                Lent::Lease(bytes) => all += bytes,
            }
            (self.exchange)(self.server);
        }
        (all, None)
    }
}
