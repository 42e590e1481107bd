//! One shard's part of the limits: for each user what was leased from the ledger, spent, dropped
//! and relayed. A datagram is checked against what is here; the ledger is asked when a lease
//! runs out ([`Admission::Lease`]) and told what happened some times a second ([`Meters::settle`]).

mod share;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::address::Now;
use crate::bucket::Bucket;
use crate::ledger::{
    Answer, Ask, Count, Direction, Dropped, Exchange, Grant, LIMITS, Last, Release, Report, Scope,
    UserId, limit_index,
};
use crate::outcome::{Period, Reason};
use crate::quota::{Bandwidth, Quotas};
use share::{Share, Ticket, Verdict};

/// How often volume and drops are told to the ledger: often enough for a spent volume to stop
/// relaying on all shards within a second.
const SETTLE_NS: u64 = 400_000_000;

/// Users told of in one exchange, so that the lock on the ledger is held for microseconds.
const USERS_PER_EXCHANGE: usize = 128;

/// Room for the leases that they ask for or give back, in both directions.
const ASKS_PER_EXCHANGE: usize = 2 * USERS_PER_EXCHANGE;

/// What an allocation keeps of its metering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    user: u32,
    prefix: IpAddr,
    /// Of the limit per allocation, by direction.
    buckets: [Bucket; 2],
    /// Its place among the user's allocations, by direction.
    tickets: [Ticket; 2],
    /// Datagrams dropped at any limit.
    pub(crate) dropped: u64,
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
    users: Vec<Option<User>>,
    free: Vec<u32>,
    by_account: BTreeMap<Arc<[u8]>, u32>,
    realm: Option<[Share; 2]>,
    total: Option<[Share; 2]>,
    epoch: u32,
    /// Users with datagrams since the last settlement, and those of the one before.
    touched: Vec<u32>,
    settling: Vec<u32>,
    watched: Vec<u32>,
    due_ns: Option<u64>,
    /// The next user to be judged by new quotas.
    judging: Option<u32>,
    exchange: Exchange,
    /// Who asked, beside `exchange.asks`, and who was counted, beside `exchange.counts`.
    askers: Vec<Asker>,
    counted: Vec<u32>,
}

/// A user with allocations on this shard. What a datagram needs comes first, in one line of the
/// cache; its share is in another, and neither waits for the other.
#[repr(C, align(64))]
struct User {
    epoch: u32,
    spent: Option<Period>,
    relayed: [u64; 2],
    allocation: Option<Bandwidth>,
    shares: Option<[Share; 2]>,
    allocations: u32,
    id: UserId,
    account: Arc<[u8]>,
    dropped: [Dropped; LIMITS.len()],
    /// Places among the users of the realm and of the server, by direction.
    realm: [Ticket; 2],
    total: [Ticket; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    User(u32),
    Realm,
    Total,
}

/// The volume of an account was spent just now.
pub(crate) struct Crossed {
    pub(crate) account: Arc<[u8]>,
    pub(crate) period: Period,
}

impl Meters {
    pub(crate) fn new(quotas: Arc<Quotas>) -> Self {
        let mut meters = Self {
            quotas: Arc::new(Quotas::default()),
            on: false,
            users: Vec::new(),
            free: Vec::new(),
            by_account: BTreeMap::new(),
            realm: None,
            total: None,
            epoch: 1,
            touched: Vec::new(),
            settling: Vec::new(),
            watched: Vec::new(),
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
        for (shares, limit, asker) in [
            (&mut self.realm, quotas.realm_bandwidth, Asker::Realm),
            (&mut self.total, quotas.total_bandwidth, Asker::Total),
        ] {
            let mut returns = [None, None];
            set_limit(shares, limit, users, &mut returns);
            for (direction, report) in Direction::BOTH.into_iter().zip(returns) {
                if let Some(report) = report {
                    self.askers.push(asker);
                    let scope = if asker == Asker::Realm { Scope::Realm } else { Scope::Total };
                    self.exchange.asks.push(Ask {
                        scope,
                        direction,
                        report,
                        answer: Answer::default(),
                    });
                }
            }
        }
        self.quotas = quotas;
        self.judging = (!self.users.is_empty()).then_some(0);
    }

    /// Whether datagrams must be metered at all. If not, do not ask [`Self::admit`].
    pub(crate) fn on(&self) -> bool {
        self.on
    }

    /// An allocation begins under a grant.
    pub(crate) fn join(&mut self, account: &Arc<[u8]>, grant: Grant, now_ns: u64) -> Meter {
        let slot = match self.by_account.get(account) {
            Some(&slot) => slot,
            None => self.add(account, grant.user),
        };
        let users = self.by_account.len();
        for shares in [&mut self.realm, &mut self.total].into_iter().flatten() {
            shares.iter_mut().for_each(|share| share.make_room(users));
        }
        let user = self.users[slot as usize].as_mut().expect("the index holds users only");
        user.allocations += 1;
        for share in user.shares.iter_mut().flat_map(|shares| shares.iter_mut()) {
            share.make_room(user.allocations as usize);
        }
        let bucket = match &user.allocation {
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
        let entry = &mut self.users[meter.user as usize];
        let user = entry.as_mut().expect("an allocation's user is there until it leaves");
        user.allocations -= 1;
        let id = user.id;
        if user.allocations > 0 {
            return Release { user: id, prefix: meter.prefix, last: None };
        }
        let unspent = match &user.shares {
            Some(shares) => [shares[0].unspent(), shares[1].unspent()],
            None => [0; 2],
        };
        let last = Some(Last { count: user.count(), unspent });
        self.by_account.remove(&user.account);
        *entry = None;
        self.free.push(meter.user);
        self.shrink();
        Release { user: id, prefix: meter.prefix, last }
    }

    /// Holds a datagram of `len` payload bytes to every limit, and charges it if it passes.
    pub(crate) fn admit(
        &mut self,
        meter: &mut Meter,
        direction: Direction,
        len: usize,
        now: Now,
    ) -> Admission {
        let (at, len, now_ns) = (direction.index(), len as u64, now.mono_ns);
        let slot = &mut self.users[meter.user as usize];
        let user = slot.as_mut().expect("an allocation's user is there until it leaves");
        if user.epoch != self.epoch {
            user.epoch = self.epoch;
            self.touched.push(meter.user);
            self.due_ns.get_or_insert(now_ns + SETTLE_NS);
        }
        let refusal = if user.spent.is_some() {
            Some(Reason::VolumeSpent)
        } else if user.allocation.is_some_and(|limit| !meter.buckets[at].has(&limit, len, now_ns)) {
            Some(Reason::AllocationBandwidth)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return user.drop(meter, reason, len);
        }
        let verdict = |share: Option<&mut [Share; 2]>, ticket: &mut Ticket| {
            share.map_or(Verdict::Pass, |shares| shares[at].check(ticket, len, now_ns))
        };
        let verdicts = [
            verdict(user.shares.as_mut(), &mut meter.tickets[at]),
            verdict(self.realm.as_mut(), &mut user.realm[at]),
            verdict(self.total.as_mut(), &mut user.total[at]),
        ];
        if verdicts == [Verdict::Pass; 3] {
            user.relayed[at] += len;
            if user.allocation.is_some() {
                meter.buckets[at].take(len);
            }
            if let Some(shares) = &mut user.shares {
                shares[at].spend(meter.tickets[at], len);
            }
            if let Some(shares) = &mut self.realm {
                shares[at].spend(user.realm[at], len);
            }
            if let Some(shares) = &mut self.total {
                shares[at].spend(user.total[at], len);
            }
            return Admission::Pass;
        }
        let reasons = [Reason::UserBandwidth, Reason::RealmBandwidth, Reason::TotalBandwidth];
        if let Some(place) = verdicts.iter().position(|verdict| *verdict == Verdict::Refuse) {
            return user.drop(meter, reasons[place], len);
        }
        self.ask(meter.user, verdicts, direction, len, now_ns);
        Admission::Lease
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
                (Asker::Realm, _) => self.realm.as_mut(),
                (Asker::Total, _) => self.total.as_mut(),
                (Asker::User(_), Scope::Realm | Scope::Total) => None,
            };
            if let Some(shares) = shares {
                shares[ask.direction.index()].answered(&ask.report, ask.answer, now_ns);
            }
        }
        for (count, slot) in self.exchange.counts.drain(..).zip(self.counted.drain(..)) {
            let user = user(&mut self.users, slot).filter(|user| user.id == count.user);
            let Some(user) = user else { continue };
            user.spent = count.spent;
            if let (true, Some(period)) = (count.crossed, count.spent) {
                crossed(Crossed { account: Arc::clone(&user.account), period });
            }
        }
    }

    /// When [`Self::settle`] is due, in `mono_ns`.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        if self.judging.is_some() { Some(0) } else { self.due_ns }
    }

    /// Gathers what the ledger should hear of: what was relayed and dropped, leases that nobody
    /// uses any more. Some users at a time; it stays due while there are more. True if there is
    /// something to exchange.
    pub(crate) fn settle(&mut self, now_ns: u64) -> bool {
        if self.judging.is_some() {
            self.judge();
        } else if self.due_ns.is_some_and(|due_ns| due_ns <= now_ns) {
            self.gather(now_ns);
        }
        !self.exchange.asks.is_empty() || !self.exchange.counts.is_empty()
    }

    fn gather(&mut self, now_ns: u64) {
        if self.settling.is_empty() {
            self.epoch = self.epoch.wrapping_add(1);
            core::mem::swap(&mut self.settling, &mut self.touched);
            // Who was watched and not touched since lets go of what it leased.
            for slot in core::mem::take(&mut self.watched) {
                self.let_go(slot);
            }
            for (asker, scope) in [(Asker::Realm, Scope::Realm), (Asker::Total, Scope::Total)] {
                if self.settling.is_empty() {
                    self.let_all_go(asker, scope);
                }
            }
        }
        for _ in 0..USERS_PER_EXCHANGE {
            let Some(slot) = self.settling.pop() else { break };
            let Some(user) = user(&mut self.users, slot) else { continue };
            self.exchange.counts.push(user.count());
            self.counted.push(slot);
            if user.shares.is_some() {
                self.watched.push(slot);
            }
        }
        if self.settling.is_empty() {
            let more = !self.touched.is_empty() || !self.watched.is_empty();
            let leased = [&self.realm, &self.total].into_iter().flatten().flatten();
            let more = more || leased.map(Share::unspent).any(|unspent| unspent > 0);
            self.due_ns = more.then_some(now_ns + SETTLE_NS);
        }
    }

    /// Gives back what a user leased, if it was not touched in the epoch that just ended.
    fn let_go(&mut self, slot: u32) {
        let ended = self.epoch.wrapping_sub(1);
        let Some(user) = user(&mut self.users, slot) else { return };
        let id = user.id;
        if user.epoch == ended {
            return;
        }
        for (direction, share) in
            Direction::BOTH.into_iter().zip(user.shares.iter_mut().flat_map(|s| s.iter_mut()))
        {
            let report = share.give_back();
            self.askers.push(Asker::User(slot));
            self.exchange.asks.push(Ask {
                scope: Scope::User(id),
                direction,
                report,
                answer: Answer::default(),
            });
        }
    }

    fn let_all_go(&mut self, asker: Asker, scope: Scope) {
        let shares = if asker == Asker::Realm { &mut self.realm } else { &mut self.total };
        for (direction, share) in Direction::BOTH.into_iter().zip(shares.iter_mut().flatten()) {
            let report = share.give_back();
            self.askers.push(asker);
            self.exchange.asks.push(Ask { scope, direction, report, answer: Answer::default() });
        }
    }

    /// Judges some more users by the present quotas.
    fn judge(&mut self) {
        let from = self.judging.take().unwrap_or(0) as usize;
        let end = (from + USERS_PER_EXCHANGE).min(self.users.len());
        for slot in from..end {
            let Some(user) = self.users[slot].as_mut() else { continue };
            let limits = *self.quotas.of(&user.account);
            user.allocation = limits.bandwidth_per_allocation;
            let mut returns = [None, None];
            let members = user.allocations as usize;
            set_limit(&mut user.shares, limits.bandwidth, members, &mut returns);
            for (direction, report) in Direction::BOTH.into_iter().zip(returns) {
                if let Some(report) = report {
                    self.askers.push(Asker::User(slot as u32));
                    let scope = Scope::User(user.id);
                    self.exchange.asks.push(Ask {
                        scope,
                        direction,
                        report,
                        answer: Answer::default(),
                    });
                }
            }
            // Whether the volume is spent is the ledger's to say.
            self.exchange.counts.push(user.count());
            self.counted.push(slot as u32);
        }
        self.judging = (end < self.users.len()).then_some(end as u32);
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
        let all = [
            (Asker::User(slot), Scope::User(user.id), user.shares.as_mut(), user.allocations),
            (Asker::Realm, Scope::Realm, self.realm.as_mut(), users),
            (Asker::Total, Scope::Total, self.total.as_mut(), users),
        ];
        for ((asker, scope, shares, members), verdict) in all.into_iter().zip(verdicts) {
            if let (Some(shares), Verdict::Ask) = (shares, verdict) {
                let report = shares[direction.index()].ask(len, members, now_ns);
                self.askers.push(asker);
                self.exchange.asks.push(Ask {
                    scope,
                    direction,
                    report,
                    answer: Answer::default(),
                });
            }
        }
    }

    /// Gives memory back when the last user has gone.
    fn shrink(&mut self) {
        if self.by_account.is_empty() {
            for list in [&mut self.free, &mut self.touched, &mut self.settling, &mut self.watched] {
                *list = Vec::new();
            }
            self.users = Vec::new();
            self.judging = None;
            if self.realm.is_none() && self.total.is_none() {
                self.due_ns = None;
            }
        }
    }

    fn add(&mut self, account: &Arc<[u8]>, id: UserId) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.users.push(None);
            (self.users.len() - 1) as u32
        });
        let limits = *self.quotas.of(account);
        let shares = limits.bandwidth.map(|limit| [Share::new(limit), Share::new(limit)]);
        self.users[slot as usize] = Some(User {
            epoch: 0,
            spent: None,
            relayed: [0; 2],
            shares,
            allocation: limits.bandwidth_per_allocation,
            allocations: 0,
            id,
            account: Arc::clone(account),
            dropped: [Dropped::default(); LIMITS.len()],
            realm: [Ticket::default(); 2],
            total: [Ticket::default(); 2],
        });
        self.by_account.insert(Arc::clone(account), slot);
        // Datagrams find room in these lists.
        for list in [&mut self.touched, &mut self.settling, &mut self.watched] {
            list.reserve(self.users.len().saturating_sub(list.len()));
        }
        slot
    }
}

fn user(users: &mut [Option<User>], slot: u32) -> Option<&mut User> {
    users.get_mut(slot as usize)?.as_mut()
}

impl User {
    fn drop(&mut self, meter: &mut Meter, reason: Reason, len: u64) -> Admission {
        meter.dropped += 1;
        if let Some(index) = limit_index(reason) {
            self.dropped[index].add(Dropped { datagrams: 1, bytes: len });
        }
        Admission::Drop(reason)
    }

    /// What was not told yet.
    fn count(&mut self) -> Count {
        Count {
            user: self.id,
            relayed: core::mem::take(&mut self.relayed),
            dropped: core::mem::take(&mut self.dropped),
            spent: None,
            crossed: false,
        }
    }
}

/// Puts shares under another limit, and says what they give back for it.
fn set_limit(
    shares: &mut Option<[Share; 2]>,
    limit: Option<Bandwidth>,
    members: usize,
    returns: &mut [Option<Report>; 2],
) {
    let unchanged = shares.as_ref().map(|shares| shares[0].limit()) == limit;
    if unchanged {
        return;
    }
    match (shares.as_mut(), limit) {
        (_, None) => *shares = None,
        (None, Some(limit)) => {
            let mut new = [Share::new(limit), Share::new(limit)];
            new.iter_mut().for_each(|share| share.make_room(members));
            *shares = Some(new);
        }
        (Some(shares), Some(limit)) => {
            for (share, back) in shares.iter_mut().zip(returns) {
                *back = Some(share.give_back());
                share.set_limit(limit);
            }
        }
    }
}
