//! One shard's part of the limits: for each user what was leased from the ledger, spent, dropped
//! and relayed. A datagram is checked against what is here; the ledger is asked when a lease
//! runs out ([`Admission::Lease`]) and told what happened some times a second.
//!
//! - here: users come and go, datagrams are admitted
//! - `share.rs`: a shard's share of one limit, and whose turn it is
//! - `lend.rs`: what another data path may spend on its own
//! - `settle.rs`: what is told to the ledger, and judging users by new quotas

mod lend;
mod settle;
mod share;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::address::{Now, RealmId};
use crate::bucket::Bucket;
use crate::ledger::{
    Ask, Count, Direction, Dropped, Exchange, Grant, LIMITS, Last, Release, Report, Scope, UserId,
    WHOLE, limit_index,
};
use crate::outcome::{Period, Reason};
use crate::pieces::Pieces;
use crate::quota::{Bandwidth, Quotas};
pub use lend::Lent;
use share::{Share, Ticket, Verdict};

/// How often volume and drops are told to the ledger: often enough for a spent volume to stop
/// relaying on all shards within a second.
const SETTLE_NS: u64 = 400_000_000;

/// Users told of in one exchange, so that the lock on the ledger is held for microseconds.
const USERS_PER_EXCHANGE: usize = 128;

/// Room for the leases that they, the realm and the server ask for or give back, in both
/// directions.
const ASKS_PER_EXCHANGE: usize = 2 * (USERS_PER_EXCHANGE + 2);

/// What an allocation keeps of its metering.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Meter {
    user: u32,
    /// Of the limit per allocation, by direction.
    buckets: [Bucket; 2],
    /// Its place among the user's allocations, by direction.
    tickets: [Ticket; 2],
    /// Datagrams dropped at any limit.
    pub(crate) dropped: u64,
    prefix: IpAddr,
}

/// What becomes of a datagram at the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It passes, and is charged.
    Pass,
    /// A lease has run out: exchange with the ledger and ask again.
    Lease,
    /// It is over a limit.
    Drop(Reason),
}

/// See the module.
pub(crate) struct Meters {
    quotas: Arc<Quotas>,
    /// Whether any datagram must be metered at all.
    on: bool,
    users: Pieces<Option<User>>,
    /// Beside `users`.
    purses: Pieces<Purse>,
    free: Vec<u32>,
    by_account: BTreeMap<Arc<[u8]>, u32>,
    realms: Vec<RealmShare>,
    total: Shares,
    /// As in [`Purse`], of the server's share.
    total_pockets: [u64; 2],
    /// No ticket for a share that is no more is of a later generation.
    generation: u32,
    epoch: u32,
    /// Users with datagrams since the last settlement, and those of the one before.
    touched: Vec<u32>,
    settling: Vec<u32>,
    /// Users that may have leased something, and those of the epoch before: who was not touched
    /// since lets go of it.
    watched: Vec<u32>,
    resting: Vec<u32>,
    due_ns: Option<u64>,
    /// The next user to be judged by new quotas.
    judging: Option<u32>,
    exchange: Exchange,
    /// Who asked, beside `exchange.asks`, and who was counted, beside `exchange.counts`.
    askers: Vec<Asker>,
    counted: Vec<u32>,
}

/// What a datagram needs of its user if it simply passes, in one line of the cache.
#[derive(Default)]
#[repr(C, align(64))]
struct Purse {
    epoch: u32,
    realm: RealmId,
    spent: Option<Period>,
    /// The limit of each allocation.
    allocation: Option<Bandwidth>,
    relayed: [u64; 2],
    /// Bytes of each direction that may pass without asking the user's share.
    pockets: [u64; 2],
}

/// A shard's share of one realm's limit.
#[derive(Default)]
struct RealmShare {
    shares: Shares,
    /// As in [`Purse`].
    pockets: [u64; 2],
    /// Its users with allocations on this shard.
    users: u32,
}

/// Of one limit, by direction. Most users have none.
type Shares = Option<Box<[Share]>>;

/// A user with allocations on this shard.
struct User {
    shares: Shares,
    allocations: u32,
    home: RealmId,
    id: UserId,
    account: Arc<[u8]>,
    dropped: [Dropped; LIMITS.len()],
    /// Of [`WHOLE`]: what it counts for among the users of its realm and of the server here.
    part: u32,
    /// Its places among them, by direction.
    realm: [Ticket; 2],
    total: [Ticket; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    User(u32),
    Realm(RealmId),
    Total,
}

/// The volume of an account was spent just now.
pub(crate) struct Crossed {
    pub(crate) account: Arc<[u8]>,
    pub(crate) period: Period,
}

impl Meter {
    /// In place of another shard's: what the allocation may send at once stays the same.
    pub(crate) fn succeeding(self, before: &Self) -> Self {
        Self { buckets: before.buckets, dropped: before.dropped, ..self }
    }
}

impl Meters {
    pub(crate) fn new(quotas: Arc<Quotas>) -> Self {
        let mut meters = Self {
            quotas: Arc::new(Quotas::default()),
            on: false,
            users: Pieces::default(),
            purses: Pieces::default(),
            free: Vec::new(),
            by_account: BTreeMap::new(),
            realms: Vec::new(),
            total: None,
            total_pockets: [0; 2],
            generation: 0,
            epoch: 1,
            touched: Vec::new(),
            settling: Vec::new(),
            watched: Vec::new(),
            resting: Vec::new(),
            due_ns: None,
            judging: None,
            exchange: Exchange {
                asks: Vec::with_capacity(ASKS_PER_EXCHANGE),
                counts: Vec::with_capacity(USERS_PER_EXCHANGE),
            },
            askers: Vec::with_capacity(ASKS_PER_EXCHANGE),
            counted: Vec::with_capacity(USERS_PER_EXCHANGE),
        };
        meters.configure(quotas);
        meters
    }

    /// Other limits from now on. Users are judged by them in [`Self::settle`], some at a time.
    pub(crate) fn configure(&mut self, quotas: Arc<Quotas>) {
        self.on = quotas.meters();
        let users = self.by_account.len();
        let realms = quotas.realms().max(self.realms.len());
        self.realms.resize_with(realms, RealmShare::default);
        self.empty_shared_pockets();
        let of_realms = (0..).map(RealmId).zip(&mut self.realms).map(|(id, realm)| {
            (&mut realm.shares, quotas.bandwidth_of(id), Asker::Realm(id), Scope::Realm(id))
        });
        let of_total = (&mut self.total, quotas.total_bandwidth, Asker::Total, Scope::Total);
        for (shares, limit, asker, scope) in of_realms.chain([of_total]) {
            let mut returns = [None, None];
            set_limit(shares, limit, users, &mut self.generation, &mut returns);
            for (direction, report) in Direction::BOTH.into_iter().zip(returns) {
                if let Some(report) = report {
                    self.askers.push(asker);
                    self.exchange.asks.push(Ask::new(scope, direction, report));
                }
            }
        }
        self.quotas = quotas;
        // Also without users the ledger must hear what came back.
        let any = !self.users.is_empty() || !self.exchange.asks.is_empty();
        self.judging = any.then_some(0);
    }

    /// An allocation begins under a grant.
    pub(crate) fn join(&mut self, account: &Arc<[u8]>, grant: Grant, now_ns: u64) -> Meter {
        let slot = match self.by_account.get(account) {
            Some(&slot) => slot,
            None => self.add(account, grant.user),
        };
        let users = self.by_account.len();
        let user = self.users[slot as usize].as_mut().expect("the index holds users only");
        let realm = &mut self.realms[usize::from(user.home.0)];
        for shares in [&mut realm.shares, &mut self.total].into_iter().flatten() {
            shares.iter_mut().for_each(|share| share.make_room(users));
        }
        user.allocations += 1;
        for share in user.shares.iter_mut().flat_map(|shares| shares.iter_mut()) {
            share.make_room(user.allocations as usize);
        }
        let bucket = match &self.purses[slot as usize].allocation {
            Some(limit) => Bucket::full(limit, now_ns),
            None => Bucket::empty(now_ns),
        };
        Meter {
            user: slot,
            prefix: grant.prefix,
            buckets: [bucket; 2],
            tickets: [Ticket::default(); 2],
            dropped: 0,
        }
    }

    /// An allocation has ended; what it was counted under is to be given back.
    pub(crate) fn leave(&mut self, meter: &Meter) -> Release {
        let place = meter.user;
        let entry = &mut self.users[place as usize];
        let user = entry.as_mut().expect("an allocation's user is there until it leaves");
        user.allocations -= 1;
        let id = user.id;
        if user.allocations > 0 {
            return Release {
                user: id,
                place,
                prefix: meter.prefix,
                last: None,
                stays_counted: false,
            };
        }
        let purse = &mut self.purses[meter.user as usize];
        (0..2).for_each(|at| empty_pocket(&mut user.shares, &mut purse.pockets[at], at));
        let unspent = match &user.shares {
            Some(shares) => [shares[0].unspent(), shares[1].unspent()],
            None => [0; 2],
        };
        let account = Arc::clone(&user.account);
        let last = Some(Last { account, count: user.count(purse), unspent });
        self.by_account.remove(&user.account);
        self.realms[usize::from(user.home.0)].users -= 1;
        *entry = None;
        self.free.push(meter.user);
        self.shrink();
        Release { user: id, place, prefix: meter.prefix, last, stays_counted: false }
    }

    /// Holds a datagram of `len` payload bytes to every limit, and charges it if it passes.
    pub(crate) fn admit(
        &mut self,
        meter: &mut Meter,
        direction: Direction,
        len: usize,
        now: Now,
    ) -> Admission {
        if !self.on {
            return Admission::Pass;
        }
        let admission = self.admit_piece(meter, direction, len, now);
        if let Admission::Drop(reason) = admission {
            self.dropped(meter, reason, Dropped { datagrams: 1, bytes: len as u64 });
        }
        admission
    }

    /// The same for a piece of a stream, which is kept back and not dropped: nothing counts it.
    pub(crate) fn admit_piece(
        &mut self,
        meter: &mut Meter,
        direction: Direction,
        len: usize,
        now: Now,
    ) -> Admission {
        if !self.on {
            return Admission::Pass;
        }
        let len = len as u64;
        let admission = self.judge_bytes(meter, direction, len, now.mono_ns);
        if admission == Admission::Pass {
            self.purses[meter.user as usize].relayed[direction.index()] += len;
        }
        admission
    }

    /// The most bytes that every limit of an allocation ever lets pass at once.
    pub(crate) fn smallest_burst(&self, meter: &Meter) -> usize {
        if !self.on {
            return usize::MAX;
        }
        let user = self.users.get(meter.user as usize).and_then(Option::as_ref);
        let shares = [
            user.map(|user| &user.shares),
            user.map(|user| &self.realms[usize::from(user.home.0)].shares),
            Some(&self.total),
        ];
        let shared = shares.into_iter().flatten().flatten().map(|shares| shares[0].limit());
        let own = self.purses.get(meter.user as usize).and_then(|purse| purse.allocation);
        let bursts = shared.chain(own).map(|limit| limit.burst_bytes);
        bursts.min().map_or(usize::MAX, |burst| usize::try_from(burst).unwrap_or(usize::MAX))
    }

    /// Holds bytes to every limit, and takes them out of each if they pass.
    fn judge_bytes(
        &mut self,
        meter: &mut Meter,
        direction: Direction,
        len: u64,
        now_ns: u64,
    ) -> Admission {
        let at = direction.index();
        self.touch(meter.user, now_ns);
        let purse = &mut self.purses[meter.user as usize];
        if purse.spent.is_some() {
            return Admission::Drop(Reason::VolumeSpent);
        }
        if purse.allocation.is_some_and(|limit| !meter.buckets[at].has(&limit, len, now_ns)) {
            return Admission::Drop(Reason::AllocationBandwidth);
        }
        let realm = &mut self.realms[usize::from(purse.realm.0)];
        let pockets = [&mut purse.pockets[at], &mut realm.pockets[at], &mut self.total_pockets[at]];
        let enough = pockets.iter().all(|pocket| **pocket >= len);
        if enough {
            pockets.into_iter().for_each(|pocket| *pocket -= len);
        } else {
            match self.ask_shares(meter, direction, len, now_ns) {
                Admission::Pass => {}
                other @ (Admission::Lease | Admission::Drop(_)) => return other,
            }
        }
        if self.purses[meter.user as usize].allocation.is_some() {
            meter.buckets[at].take(len);
        }
        Admission::Pass
    }

    /// Has the user told of in the next settlement.
    fn touch(&mut self, slot: u32, now_ns: u64) {
        let purse = &mut self.purses[slot as usize];
        if purse.epoch != self.epoch {
            purse.epoch = self.epoch;
            self.touched.push(slot);
            self.due_ns.get_or_insert(now_ns + SETTLE_NS);
        }
    }

    /// What [`Self::judge_bytes`] does when a pocket is empty: lets the shares themselves decide, and
    /// fills the pockets from those that are not contended.
    #[cold]
    fn ask_shares(
        &mut self,
        meter: &mut Meter,
        direction: Direction,
        len: u64,
        now_ns: u64,
    ) -> Admission {
        let at = direction.index();
        self.empty_pockets(meter.user, at);
        let Some(user) = user(&mut self.users, meter.user) else { return Admission::Pass };
        let realm = &mut self.realms[usize::from(user.home.0)];
        let verdict = |share: Option<&mut Box<[Share]>>, ticket: &mut Ticket, part: u32| {
            share.map_or(Verdict::Pass, |shares| shares[at].check(ticket, part, len, now_ns))
        };
        let verdicts = [
            verdict(user.shares.as_mut(), &mut meter.tickets[at], WHOLE),
            verdict(realm.shares.as_mut(), &mut user.realm[at], user.part),
            verdict(self.total.as_mut(), &mut user.total[at], user.part),
        ];
        if verdicts == [Verdict::Pass; 3] {
            let purse = &mut self.purses[meter.user as usize];
            for (shares, ticket, pocket) in [
                (&mut user.shares, meter.tickets[at], &mut purse.pockets[at]),
                (&mut realm.shares, user.realm[at], &mut realm.pockets[at]),
                (&mut self.total, user.total[at], &mut self.total_pockets[at]),
            ] {
                *pocket = shares.as_mut().map_or(u64::MAX, |shares| {
                    shares[at].spend(ticket, len);
                    shares[at].fill_pocket(now_ns)
                });
            }
            return Admission::Pass;
        }
        let reasons = [Reason::UserBandwidth, Reason::RealmBandwidth, Reason::TotalBandwidth];
        if let Some(place) = verdicts.iter().position(|verdict| *verdict == Verdict::Refuse) {
            return Admission::Drop(reasons[place]);
        }
        self.ask(meter.user, verdicts, direction, len, now_ns);
        Admission::Lease
    }

    /// Has the shares know what was spent of the pockets they filled. Needed before anything else
    /// is done with a share.
    fn empty_pockets(&mut self, slot: u32, at: usize) {
        if let (Some(user), Some(purse)) =
            (user(&mut self.users, slot), self.purses.get_mut(slot as usize))
        {
            empty_pocket(&mut user.shares, &mut purse.pockets[at], at);
            let realm = &mut self.realms[usize::from(user.home.0)];
            empty_pocket(&mut realm.shares, &mut realm.pockets[at], at);
        }
        empty_pocket(&mut self.total, &mut self.total_pockets[at], at);
    }

    /// The same for the shares of all realms and of the server.
    fn empty_shared_pockets(&mut self) {
        for at in 0..2 {
            for realm in &mut self.realms {
                empty_pocket(&mut realm.shares, &mut realm.pockets[at], at);
            }
            empty_pocket(&mut self.total, &mut self.total_pockets[at], at);
        }
    }

    /// Counts what a limit stopped.
    pub(crate) fn dropped(&mut self, meter: &mut Meter, reason: Reason, dropped: Dropped) {
        meter.dropped += dropped.datagrams;
        if let (Some(index), Some(user)) = (limit_index(reason), user(&mut self.users, meter.user))
        {
            user.dropped[index].add(dropped);
        }
    }

    /// What is to be told to the ledger, with room for its answers. [`Self::exchanged`] takes
    /// them in.
    pub(crate) fn exchange(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    /// Takes in the ledger's answers. Hands over users whose volume was spent just now.
    pub(crate) fn exchanged(&mut self, now_ns: u64, mut crossed: impl FnMut(Crossed)) {
        for (ask, asker) in self.exchange.asks.drain(..).zip(self.askers.drain(..)) {
            let shares = match (asker, ask.scope) {
                (Asker::User(slot), Scope::User(id)) => user(&mut self.users, slot)
                    .filter(|user| user.id == id)
                    .and_then(|user| user.shares.as_mut()),
                (Asker::Realm(id), _) => self.realms[usize::from(id.0)].shares.as_mut(),
                (Asker::Total, _) => self.total.as_mut(),
                (Asker::User(_), Scope::Realm(_) | Scope::Total) => None,
            };
            if let Some(shares) = shares {
                shares[ask.direction.index()].answered(&ask.report, ask.answer, now_ns);
            }
        }
        for (count, slot) in self.exchange.counts.drain(..).zip(self.counted.drain(..)) {
            let user = user(&mut self.users, slot).filter(|user| user.id == count.user);
            let Some(user) = user else { continue };
            user.part = WHOLE / count.spread.clamp(1, WHOLE);
            self.purses[slot as usize].spent = count.spent;
            if let (true, Some(period)) = (count.crossed, count.spent) {
                crossed(Crossed { account: Arc::clone(&user.account), period });
            }
        }
    }

    fn ask(
        &mut self,
        slot: u32,
        verdicts: [Verdict; 3],
        direction: Direction,
        len: u64,
        now_ns: u64,
    ) {
        let users = self.by_account.len() as u32;
        let Some(user) = user(&mut self.users, slot) else { return };
        let id = user.home;
        let realm = &mut self.realms[usize::from(id.0)];
        let all = [
            (Asker::User(slot), Scope::User(user.id), user.shares.as_mut(), user.allocations),
            (Asker::Realm(id), Scope::Realm(id), realm.shares.as_mut(), realm.users),
            (Asker::Total, Scope::Total, self.total.as_mut(), users),
        ];
        for ((asker, scope, shares, members), verdict) in all.into_iter().zip(verdicts) {
            if let (Some(shares), Verdict::Ask) = (shares, verdict) {
                let report = shares[direction.index()].ask(len, members, now_ns);
                self.askers.push(asker);
                self.exchange.asks.push(Ask::new(scope, direction, report));
            }
        }
    }

    /// Gives memory back when the last user has gone.
    fn shrink(&mut self) {
        if self.by_account.is_empty() {
            for list in [&mut self.touched, &mut self.settling, &mut self.watched] {
                *list = Vec::new();
            }
            (self.free, self.resting) = (Vec::new(), Vec::new());
            (self.users, self.purses) = (Pieces::default(), Pieces::default());
            if self.exchange.asks.is_empty() {
                self.judging = None;
            }
            let shares = self.realms.iter().map(|realm| &realm.shares).chain([&self.total]);
            if shares.flatten().next().is_none() {
                self.due_ns = None;
            }
        }
    }

    fn add(&mut self, account: &Arc<[u8]>, id: UserId) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.users.push(None);
            self.purses.push(Purse::default());
            (self.users.len() - 1) as u32
        });
        let limits = *self.quotas.of(account);
        let home = self.quotas.realm_of(account);
        self.realms[usize::from(home.0)].users += 1;
        let mut shares = None;
        set_limit(&mut shares, limits.bandwidth, 1, &mut self.generation, &mut [None, None]);
        self.users[slot as usize] = Some(User {
            shares,
            allocations: 0,
            home,
            id,
            account: Arc::clone(account),
            dropped: [Dropped::default(); LIMITS.len()],
            part: WHOLE,
            realm: [Ticket::default(); 2],
            total: [Ticket::default(); 2],
        });
        let allocation = limits.bandwidth_per_allocation;
        self.purses[slot as usize] = Purse { allocation, realm: home, ..Purse::default() };
        self.by_account.insert(Arc::clone(account), slot);
        // Datagrams find room in these lists.
        let lists = [&mut self.touched, &mut self.settling, &mut self.watched, &mut self.resting];
        for list in lists {
            list.reserve(self.users.len().saturating_sub(list.len()));
        }
        slot
    }
}

fn user(users: &mut Pieces<Option<User>>, slot: u32) -> Option<&mut User> {
    users.get_mut(slot as usize)?.as_mut()
}

impl User {
    /// What was not told yet.
    fn count(&mut self, purse: &mut Purse) -> Count {
        Count {
            user: self.id,
            relayed: core::mem::take(&mut purse.relayed),
            dropped: core::mem::take(&mut self.dropped),
            spread: 1,
            spent: None,
            crossed: false,
        }
    }
}

/// Gives what is left in a pocket back to the share that filled it.
fn empty_pocket(shares: &mut Shares, pocket: &mut u64, at: usize) {
    let left = core::mem::take(pocket);
    if let Some(shares) = shares {
        shares[at].empty_pocket(left);
    }
}

/// Puts shares under another limit, and says what they give back for it: also if there is none any
/// more, since the ledger may know of the next one already.
fn set_limit(
    shares: &mut Shares,
    limit: Option<Bandwidth>,
    members: usize,
    generation: &mut u32,
    returns: &mut [Option<Report>; 2],
) {
    let unchanged = shares.as_ref().map(|shares| shares[0].limit()) == limit;
    if unchanged {
        return;
    }
    for (share, back) in shares.iter_mut().flatten().zip(returns) {
        *back = Some(share.give_back());
        *generation = share.generation().max(*generation);
    }
    match (shares.as_mut(), limit) {
        (_, None) => *shares = None,
        (None, Some(limit)) => {
            let share = || Share::new(limit, share::after(*generation));
            *shares = Some(Box::new([share(), share()]));
            shares.iter_mut().flatten().for_each(|share| share.make_room(members));
        }
        (Some(shares), Some(limit)) => {
            shares.iter_mut().for_each(|share| share.set_limit(limit));
        }
    }
}
