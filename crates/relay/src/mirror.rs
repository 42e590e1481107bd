//! A shard's channels on a second data path, which relays for them by itself (the kernel's): what
//! [`Effect::ChannelUp`] and [`Effect::ChannelDown`] say is mirrored to it, and some times a second
//! its counters are folded into the rules and what it may spend is topped up.
//!
//! The pocket of a channel there is a lease like any other: bytes that the limits of the
//! allocation, the user, the realm and the server have let pass in advance. What is lent is what
//! two turns need at the rate seen lately, so a limit is never exceeded, and what lies unused in a
//! pocket is missed by others for a moment only.
//!
//! [`Effect::ChannelUp`]: crate::Effect::ChannelUp
//! [`Effect::ChannelDown`]: crate::Effect::ChannelDown

use core::net::SocketAddr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::address::{AllocationId, Now, RelayId};
use crate::effect::{ChannelPath, Record, Traffic};
use crate::ledger::{Direction, Release};
use crate::meter::Lent;
use crate::offload::Late;
use crate::outcome::Reason;
use crate::server::Server;

/// How often pockets are topped up while anything is limited or counted...
const METERED_NS: u64 = 50_000_000;
/// ...and how often counters are folded in otherwise.
const FREE_NS: u64 = 250_000_000;

/// A pocket that was not used for so many turns is emptied: who is not there lends to those who
/// are.
const IDLE_TURNS: u8 = 4;

/// The least that is worth lending.
const LEAST: u64 = 1_500;

/// Leases taken for one top-up. They double, so that is enough for any.
const LEASES: usize = 32;

/// While so many times more comes than a limit lets pass, the second path drops it at once; what is
/// less is passed up, so that the rules decide about each datagram.
const FLOOD: u64 = 4;

/// The second data path, as a mirror sees it. Each direction of a place has counters, a pocket of
/// bytes and a deadline.
pub trait SecondPath {
    /// The place of a channel there.
    type Place: Copy;

    /// A place for a channel, if there is one left.
    fn take(&self) -> Option<Self::Place>;
    /// Makes both directions relay until `deadline_ns`, with empty pockets.
    fn open(&self, place: Self::Place, deadline_ns: u64, metered: bool);
    /// Has datagrams of a channel find its place. `relay` is the relayed transport address.
    fn install(&self, place: Self::Place, path: &ChannelPath, relay: SocketAddr);
    /// Moves the deadline.
    fn set_deadline(&self, place: Self::Place, deadline_ns: u64);
    /// Says whether the pockets count.
    fn meter(&self, place: Self::Place, metered: bool);
    /// What was counted since the place was first used, and what is in the pocket.
    fn read(&self, place: Self::Place, direction: Direction) -> Counts;
    /// Puts bytes into a pocket.
    fn lend(&self, place: Self::Place, direction: Direction, bytes: u64);
    /// Takes out all that is in a pocket.
    fn reclaim(&self, place: Self::Place, direction: Direction) -> u64;
    /// Says whether what the pocket does not cover is dropped, or left to the rules.
    fn shut(&self, place: Self::Place, direction: Direction, shut: bool);
    /// Stops relaying at once, and has the place freed.
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
    metered: bool,
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
    ways: [Way; 2],
}

/// One direction of it.
#[derive(Default)]
struct Way {
    /// What was folded in already.
    seen: Counts,
    /// Payload bytes that came in a turn lately, the most and slowly forgotten.
    recent: u64,
    idle: u8,
    /// The limit for which the path drops what the pocket does not cover.
    shut: Option<Reason>,
}

impl<P: SecondPath> Mirror<P> {
    /// Nothing mirrored yet. The seed is that of the server.
    pub fn new(path: P, seed: u64) -> Self {
        Self {
            path,
            entries: Vec::new(),
            free: Vec::new(),
            by_channel: HashMap::with_hasher(FixedState::with_seed(seed)),
            metered: false,
            due_ns: None,
            tally: Tally::default(),
        }
    }

    /// A channel of a UDP client may be relayed, or its deadline moved.
    pub fn up(&mut self, path: &ChannelPath, relay: SocketAddr, server: &Server, now: Now) {
        if path.client.tuple.transport.is_stream() {
            return;
        }
        let key = (path.relay, path.number);
        if let Some(entry) = self.by_channel.get(&key).and_then(|&at| self.entry(at)) {
            return self.path.set_deadline(entry.place, path.deadline_ns);
        }
        // Full: the rules route it, as everything before.
        let Some(place) = self.path.take() else { return };
        if self.due_ns.is_none() {
            self.metered = server.meters();
            self.due_ns = Some(now.mono_ns + self.turn_ns());
        }
        self.path.open(place, path.deadline_ns, self.metered);
        let seen = Direction::BOTH.map(|direction| self.path.read(place, direction));
        let ways = seen.map(|seen| Way { seen, ..Way::default() });
        let entry = Entry { allocation: path.relay.allocation, place, ways };
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            (self.entries.len() - 1) as u32
        });
        self.entries[at as usize] = Some(entry);
        self.by_channel.insert(key, at);
        self.path.install(place, path, relay);
    }

    /// A channel may no longer be relayed: from this moment on it is not.
    pub fn down(&mut self, relay: RelayId, number: u16, server: &mut Server, now: Now) {
        let Some(at) = self.by_channel.remove(&(relay, number)) else { return };
        let Some(mut entry) = self.entries[at as usize].take() else { return };
        self.free.push(at);
        let unused = Direction::BOTH.map(|way| self.path.reclaim(entry.place, way));
        self.path.close(entry.place);
        for (direction, unused) in Direction::BOTH.into_iter().zip(unused) {
            fold(&self.path, &mut entry, direction, server, &mut self.tally, now);
            server.take_back(entry.allocation, direction, unused);
        }
        if self.by_channel.is_empty() {
            (self.due_ns, self.entries, self.free) = (None, Vec::new(), Vec::new());
        }
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
        let metered = server.meters();
        let changed = metered != self.metered;
        self.metered = metered;
        self.due_ns = Some(now.mono_ns + self.turn_ns());
        for entry in self.entries.iter_mut().flatten() {
            if changed {
                self.path.meter(entry.place, metered);
            }
            for direction in Direction::BOTH {
                let turn = fold(&self.path, entry, direction, server, &mut self.tally, now);
                if metered {
                    top_up(&self.path, entry, direction, turn, server, now, &mut exchange);
                }
            }
        }
    }

    /// What the second path relayed so far; the rules have it in their figures, too.
    pub fn relayed(&self) -> Traffic {
        self.tally.relayed
    }

    /// Adds what came too late for the rules to what the ledger hears of an allocation's end.
    pub fn complete_release(&self, release: &mut Release, server: &mut Server, now: Now) {
        self.tally.late.add_to_release(release, server, now);
    }

    /// The same for its last record.
    pub fn complete_record(&mut self, record: &mut Record) {
        self.tally.late.add_to_record(record);
    }

    fn turn_ns(&self) -> u64 {
        if self.metered { METERED_NS } else { FREE_NS }
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
        let reason = way.shut.unwrap_or(Reason::UserBandwidth);
        server.dropped(entry.allocation, direction, reason, dropped, dropped_bytes);
    }
    let stopped = dropped_bytes + since(counts.passed_bytes, seen.passed_bytes);
    Turn { relayed: bytes, stopped, pocket: counts.pocket }
}

/// Lends what the next two turns need, as far as the limits allow.
fn top_up<P: SecondPath>(
    path: &P,
    entry: &mut Entry<P::Place>,
    direction: Direction,
    turn: Turn,
    server: &mut Server,
    now: Now,
    exchange: &mut impl FnMut(&mut Server),
) {
    let (allocation, place) = (entry.allocation, entry.place);
    let way = &mut entry.ways[direction.index()];
    let came = turn.relayed + turn.stopped;
    way.recent = came.max(way.recent - way.recent / 4);
    way.idle = if came == 0 { way.idle.saturating_add(1) } else { 0 };
    let spent = server.volume_spent(allocation);
    if spent || way.idle >= IDLE_TURNS {
        if turn.pocket > 0 {
            server.take_back(allocation, direction, path.reclaim(place, direction));
        }
        way.recent = 0;
        return set_shut(path, place, direction, way, spent.then_some(Reason::VolumeSpent));
    }
    let wanted = (2 * way.recent).max(LEAST).saturating_sub(turn.pocket);
    if way.recent == 0 || wanted == 0 {
        return set_shut(path, place, direction, way, None);
    }
    let (bytes, over) = borrow(allocation, direction, wanted, server, now, exchange);
    if bytes > 0 {
        path.lend(place, direction, bytes);
    }
    let flood = turn.stopped > FLOOD * turn.relayed;
    set_shut(path, place, direction, way, over.filter(|_| flood));
}

/// Borrows from the rules, and has them lease more where that is what it takes.
fn borrow(
    allocation: AllocationId,
    direction: Direction,
    wanted: u64,
    server: &mut Server,
    now: Now,
    exchange: &mut impl FnMut(&mut Server),
) -> (u64, Option<Reason>) {
    let mut all = 0;
    for _ in 0..LEASES {
        match server.lend(allocation, direction, wanted.saturating_sub(all), now) {
            Lent::All(bytes) => return (all + bytes, None),
            Lent::Over(bytes, reason) => return (all + bytes, Some(reason)),
            Lent::Lease(bytes) => all += bytes,
        }
        exchange(server);
    }
    (all, None)
}

fn set_shut<P: SecondPath>(
    path: &P,
    place: P::Place,
    direction: Direction,
    way: &mut Way,
    reason: Option<Reason>,
) {
    if way.shut.is_some() != reason.is_some() {
        path.shut(place, direction, reason.is_some());
    }
    way.shut = reason;
}
