//! What all shards together use of the limits: counts of allocations, bandwidth, volume.
//!
//! A ledger only adds up and divides; [`crate::Server`] decides what becomes of a request or a
//! datagram. It is plain data, to be put behind one lock by whoever has several shards. No
//! datagram waits for it: a shard leases bytes in chunks and tells what it spent
//! ([`Ledger::exchange`]), some hundred times a second at most for a user at the limit.
//!
//! - `divider.rs`: one bandwidth limit divided among shards
//! - `resting.rs`: what users have left of theirs that went away a moment ago
//! - `usage.rs`: the volume of the day and the month, and what of it is not saved yet

mod divider;
mod resting;
#[cfg(test)]
mod tests;
mod usage;

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use divider::{Answer, Report, WHOLE};
pub use usage::{ACCOUNTS_MAX, Counters, Known, Periods, Used};

use crate::address::{NANOS_PER_SECOND, RealmId};
use crate::outcome::{Period, Quota, Reason};
use crate::quota::{Bandwidth, Quotas, UserLimits};
use divider::Divider;
use resting::Resting;
use usage::Usage;

/// A direction of relaying. Each has limits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From client to peer.
    ToPeer,
    /// From peer to client.
    ToClient,
}

impl Direction {
    /// Both, in index order.
    pub const BOTH: [Self; 2] = [Self::ToPeer, Self::ToClient];

    /// 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A user with allocations, as the ledger knows it. Never reused for another user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserId {
    slot: u32,
    generation: u32,
}

/// What a lease is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The bandwidth of one user.
    User(UserId),
    /// The bandwidth of a realm.
    Realm(RealmId),
    /// The bandwidth of the server.
    Total,
}

/// A shard asks for bytes of one limit, or gives some back.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Which limit.
    pub scope: Scope,
    /// Which of its directions.
    pub direction: Direction,
    /// What the shard says and wants.
    pub report: Report,
    /// The answer.
    pub answer: Answer,
}

impl Ask {
    /// One that is not answered yet.
    pub(crate) fn new(scope: Scope, direction: Direction, report: Report) -> Self {
        Self { scope, direction, report, answer: Answer::default() }
    }
}

/// What a user was seen to do on one shard since the last count.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Who.
    pub user: UserId,
    /// Payload bytes relayed, by [`Direction::index`].
    pub relayed: [u64; 2],
    /// Datagrams and payload bytes dropped at each limit, by [`limit_index`].
    pub dropped: [Dropped; LIMITS.len()],
    /// The answer: on how many shards it lacks bandwidth of the realm or the server; at least 1.
    pub spread: u32,
    /// The answer: whether the volume is spent, and of which period.
    pub spent: Option<Period>,
    /// The answer: whether it was this count that spent it.
    pub crossed: bool,
}

/// What a limit dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Datagrams.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

impl Dropped {
    /// Adds another limit's or shard's figures to these.
    pub fn add(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
    }
}

/// The limits that drop datagrams.
pub const LIMITS: [Reason; 5] = [
    Reason::AllocationBandwidth,
    Reason::UserBandwidth,
    Reason::RealmBandwidth,
    Reason::TotalBandwidth,
    Reason::VolumeSpent,
];

/// The place of a limit in [`LIMITS`]; of any other reason, none.
pub fn limit_index(reason: Reason) -> Option<usize> {
    LIMITS.iter().position(|limit| *limit == reason)
}

/// What a shard says to the ledger at once, with room for the answers.
#[derive(Debug, Default)]
pub struct Exchange {
    /// Leases.
    pub asks: Vec<Ask>,
    /// Volume and drops.
    pub counts: Vec<Count>,
}

/// The end of an allocation.
#[derive(Debug)]
pub struct Release {
    /// Whose it was.
    pub user: UserId,
    /// The user's place on the shard, if it has one.
    pub(crate) place: u32,
    /// As in [`Grant`].
    pub prefix: IpAddr,
    /// Set if the user has no allocation left on the shard.
    pub last: Option<Last>,
    /// The allocation has not ended, but goes on with another shard.
    pub stays_counted: bool,
}

impl Release {
    /// Of an allocation that was granted.
    pub fn of(grant: Grant) -> Self {
        Self {
            user: grant.user,
            place: u32::MAX,
            prefix: grant.prefix,
            last: None,
            stays_counted: false,
        }
    }
}

/// What a shard still has to say of a user that leaves it.
#[derive(Debug)]
pub struct Last {
    /// The user.
    pub account: Arc<[u8]>,
    /// What was not counted yet.
    pub count: Count,
    /// Leased bytes that were not spent, by [`Direction::index`].
    pub unspent: [u64; 2],
}

/// An allocation may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The user.
    pub user: UserId,
    /// What it is counted under, to be given back with.
    pub prefix: IpAddr,
}

/// A user with allocations, for whoever looks.
#[derive(Clone, Debug)]
pub struct UserReport {
    /// Who. Hostile bytes: escape before printing.
    pub account: Arc<[u8]>,
    /// Allocations now.
    pub allocations: u32,
    /// What it may use.
    pub limits: UserLimits,
    /// Payload bytes relayed since the first of its present allocations, by
    /// [`Direction::index`].
    pub relayed: [u64; 2],
    /// Payload bytes per second over the last seconds, by [`Direction::index`].
    pub rates: [u64; 2],
    /// What each limit dropped in the same time, by [`limit_index`].
    pub dropped: [Dropped; LIMITS.len()],
    /// The volume used, if it is counted.
    pub volume: Option<Counters>,
    /// The period whose volume is spent, if one is.
    pub spent: Option<Period>,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    quotas: Arc<Quotas>,
    version: u64,
    users: Vec<Slot>,
    free: Vec<u32>,
    /// No two users had the same one.
    next_generation: u32,
    by_account: BTreeMap<Arc<[u8]>, u32>,
    resting: Resting,
    prefixes: BTreeMap<IpAddr, u32>,
    allocations: u32,
    realms: Vec<RealmBook>,
    total: Option<[Divider; 2]>,
    usage: Usage,
}

/// What is used of one realm's limits.
#[derive(Debug, Default)]
struct RealmBook {
    allocations: u32,
    bandwidth: Option<[Divider; 2]>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    user: Option<Box<User>>,
}

#[derive(Debug)]
struct User {
    account: Arc<[u8]>,
    realm: RealmId,
    allocations: u32,
    /// Of the quotas that `limits` were taken from.
    version: u64,
    limits: UserLimits,
    bandwidth: Option<[Divider; 2]>,
    relayed: [u64; 2],
    dropped: [Dropped; LIMITS.len()],
    /// The shards where realm or server dropped something of it, and when that was said.
    lacking: Vec<(u16, u64)>,
    /// The period that was said to be spent.
    announced: Option<Period>,
    rates: Rates,
}

/// Payload bytes per second over a window of some seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    since_ns: u64,
    bytes: [u64; 2],
    rates: [u64; 2],
}

impl Ledger {
    /// Nothing used so far.
    pub fn new(quotas: Arc<Quotas>, now_ns: u64) -> Self {
        let mut ledger = Self {
            quotas: Arc::new(Quotas::default()),
            version: 0,
            users: Vec::new(),
            free: Vec::new(),
            next_generation: 0,
            by_account: BTreeMap::new(),
            resting: Resting::default(),
            prefixes: BTreeMap::new(),
            allocations: 0,
            realms: Vec::new(),
            total: None,
            usage: Usage::default(),
        };
        ledger.configure(quotas, now_ns);
        ledger
    }

    /// Other limits from now on. Whoever has more than they allow keeps it; bandwidth and volume
    /// are held to them at once. Tell the ledger before the shards.
    pub fn configure(&mut self, quotas: Arc<Quotas>, now_ns: u64) {
        // Realms do not become fewer: what is counted in one is given back there.
        let realms = quotas.realms().max(self.realms.len());
        self.realms.resize_with(realms, RealmBook::default);
        for (number, realm) in (0..).zip(&mut self.realms) {
            set_limit(&mut realm.bandwidth, quotas.bandwidth_of(RealmId(number)), now_ns);
        }
        set_limit(&mut self.total, quotas.total_bandwidth, now_ns);
        self.quotas = quotas;
        self.version += 1;
    }

    /// Counts an allocation that is about to be made by a client at `client`.
    ///
    /// # Errors
    ///
    /// The limit that does not allow it; nothing was counted then.
    pub fn reserve(
        &mut self,
        account: &Arc<[u8]>,
        client: IpAddr,
        now_ns: u64,
    ) -> Result<Grant, Quota> {
        let quotas = Arc::clone(&self.quotas);
        let limits = quotas.of(account);
        let slot = self.by_account.get(account).copied();
        let held = slot.and_then(|slot| self.users[slot as usize].user.as_ref());
        let held = held.map_or(0, |user| user.allocations);
        if limits.allocations.is_some_and(|most| held >= most) {
            return Err(Quota::UserAllocations);
        }
        if self.usage.spent(account, limits).is_some() {
            return Err(Quota::UserVolume);
        }
        let prefix = quotas.prefix.prefix_of(client);
        let beside = self.prefixes.get(&prefix).copied().unwrap_or(0);
        if quotas.prefix.allocations.is_some_and(|most| beside >= most) {
            return Err(Quota::PrefixAllocations);
        }
        let realm = quotas.realm_of(account);
        let of_realm = self.realms[usize::from(realm.0)].allocations;
        if quotas.allocations_of(realm).is_some_and(|most| of_realm >= most) {
            return Err(Quota::RealmAllocations);
        }
        self.prefixes.insert(prefix, beside + 1);
        self.allocations += 1;
        let slot = slot.unwrap_or_else(|| self.add(account, now_ns));
        let Slot { generation, user } = &mut self.users[slot as usize];
        let user = user.as_mut().expect("the index holds users only");
        user.allocations += 1;
        self.realms[usize::from(user.realm.0)].allocations += 1;
        Ok(Grant { user: UserId { slot, generation: *generation }, prefix })
    }

    /// Gives back what an allocation was counted under.
    pub fn release(&mut self, shard: u16, release: &mut Release, now_ns: u64) {
        if let Some(last) = &mut release.last {
            self.count(shard, &mut last.count, now_ns);
        }
        let ended = u32::from(!release.stays_counted);
        let Some(count) = self.prefixes.get_mut(&release.prefix) else { return };
        *count -= ended;
        if *count == 0 {
            self.prefixes.remove(&release.prefix);
        }
        self.allocations = self.allocations.saturating_sub(ended);
        let Some(user) = self.user_mut(release.user) else { return };
        user.allocations = user.allocations.saturating_sub(ended);
        let (realm, none_left) = (user.realm, user.allocations == 0);
        if let (Some(last), Some(dividers)) = (&release.last, &mut user.bandwidth) {
            for (divider, unspent) in dividers.iter_mut().zip(last.unspent) {
                divider.leave(shard, unspent, now_ns);
            }
        }
        let of_realm = &mut self.realms[usize::from(realm.0)].allocations;
        *of_realm = of_realm.saturating_sub(ended);
        if none_left {
            self.remove(release.user, now_ns);
        }
    }

    /// Takes in what a shard says, and answers in place.
    pub fn exchange(&mut self, shard: u16, exchange: &mut Exchange, now_ns: u64) {
        for count in &mut exchange.counts {
            self.count(shard, count, now_ns);
        }
        for ask in &mut exchange.asks {
            let dividers = match ask.scope {
                Scope::User(id) => {
                    self.refresh_limits(id, now_ns);
                    self.user_mut(id).and_then(|user| user.bandwidth.as_mut())
                }
                Scope::Realm(RealmId(realm)) => {
                    self.realms.get_mut(usize::from(realm)).and_then(|it| it.bandwidth.as_mut())
                }
                Scope::Total => self.total.as_mut(),
            };
            // A limit that is no more bounds nothing; the shard will hear of it soon.
            let unbounded = Answer { granted: ask.report.want, ..Answer::default() };
            ask.answer = dividers.map_or(unbounded, |dividers| {
                dividers[ask.direction.index()].exchange(shard, ask.report, now_ns)
            });
        }
    }

    /// Allocations now.
    pub fn allocations(&self) -> u32 {
        self.allocations
    }

    /// Allocations of a realm now.
    pub fn allocations_of(&self, realm: RealmId) -> u32 {
        self.realms.get(usize::from(realm.0)).map_or(0, |realm| realm.allocations)
    }

    /// Users with allocations now.
    pub fn users(&self) -> usize {
        self.by_account.len()
    }

    /// One user: with allocations, or with volume used or limits of its own.
    pub fn user(&self, account: &[u8], now_ns: u64) -> Option<UserReport> {
        if let Some(&slot) = self.by_account.get(account) {
            return self.report(slot, now_ns);
        }
        let volume = self.usage.of(account);
        if volume.is_none() && !self.quotas.users.contains_key(account) {
            return None;
        }
        let limits = *self.quotas.of(account);
        Some(UserReport {
            account: Arc::from(account),
            allocations: 0,
            limits,
            relayed: [0; 2],
            rates: [0; 2],
            dropped: [Dropped::default(); LIMITS.len()],
            volume,
            spent: self.usage.spent(account, &limits),
        })
    }

    /// Users with allocations, from a place in the ledger on, `most` places at a time. Gives the
    /// next place to look from, until there is none: a long list is read in pieces, so that no
    /// shard waits for it.
    pub fn page(
        &self,
        from: u32,
        most: u32,
        now_ns: u64,
        out: &mut Vec<UserReport>,
    ) -> Option<u32> {
        let end = from.saturating_add(most).min(self.users.len() as u32);
        out.extend((from..end).filter_map(|slot| self.report(slot, now_ns)));
        (end < self.users.len() as u32).then_some(end)
    }

    /// The volume that accounts have used, to be loaded and saved.
    pub fn usage(&mut self) -> &mut Usage {
        &mut self.usage
    }

    fn report(&self, slot: u32, now_ns: u64) -> Option<UserReport> {
        let user = self.users.get(slot as usize)?.user.as_ref()?;
        let limits = *self.quotas.of(&user.account);
        Some(UserReport {
            account: Arc::clone(&user.account),
            allocations: user.allocations,
            limits,
            relayed: user.relayed,
            rates: user.rates.now(now_ns),
            dropped: user.dropped,
            volume: self.usage.of(&user.account),
            spent: self.usage.spent(&user.account, &limits),
        })
    }

    fn count(&mut self, shard: u16, count: &mut Count, now_ns: u64) {
        let quotas = Arc::clone(&self.quotas);
        let Some(Slot { user: Some(user), .. }) = self
            .users
            .get_mut(count.user.slot as usize)
            .filter(|slot| slot.generation == count.user.generation)
        else {
            return;
        };
        for direction in Direction::BOTH {
            user.relayed[direction.index()] += count.relayed[direction.index()];
        }
        user.rates.add(count.relayed, now_ns);
        count.spread = user.spread(shard, &count.dropped, now_ns);
        for (mine, new) in user.dropped.iter_mut().zip(count.dropped) {
            mine.add(new);
        }
        let limits = quotas.of(&user.account);
        if quotas.count_volume || limits.volume_per_day.or(limits.volume_per_month).is_some() {
            self.usage.add(&user.account, count.relayed);
        }
        count.spent = self.usage.spent(&user.account, limits);
        count.crossed = count.spent.is_some() && count.spent != user.announced;
        user.announced = count.spent;
    }

    fn add(&mut self, account: &Arc<[u8]>, now_ns: u64) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.users.push(Slot { generation: 0, user: None });
            (self.users.len() - 1) as u32
        });
        self.next_generation = self.next_generation.wrapping_add(1);
        self.users[slot as usize].generation = self.next_generation;
        let limits = *self.quotas.of(account);
        let mut bandwidth = self.resting.wake(account, now_ns);
        set_limit(&mut bandwidth, limits.bandwidth, now_ns);
        self.users[slot as usize].user = Some(Box::new(User {
            account: Arc::clone(account),
            realm: self.quotas.realm_of(account),
            allocations: 0,
            version: self.version,
            limits,
            bandwidth,
            relayed: [0; 2],
            dropped: [Dropped::default(); LIMITS.len()],
            lacking: Vec::new(),
            announced: None,
            rates: Rates { since_ns: now_ns, ..Rates::default() },
        }));
        self.by_account.insert(Arc::clone(account), slot);
        slot
    }

    fn remove(&mut self, id: UserId, now_ns: u64) {
        let slot = &mut self.users[id.slot as usize];
        if let Some(user) = slot.user.take() {
            self.by_account.remove(&user.account);
            self.free.push(id.slot);
            if let Some(bandwidth) = user.bandwidth {
                self.resting.rest(user.account, bandwidth, now_ns);
            }
        }
        // The memory of a peak is given back when the last user has gone.
        if self.by_account.is_empty() {
            (self.users, self.free) = (Vec::new(), Vec::new());
        }
    }

    fn user_mut(&mut self, id: UserId) -> Option<&mut User> {
        let slot = self.users.get_mut(id.slot as usize)?;
        slot.user.as_deref_mut().filter(|_| slot.generation == id.generation)
    }

    /// Has a user judged by the present quotas.
    fn refresh_limits(&mut self, id: UserId, now_ns: u64) {
        let (quotas, version) = (Arc::clone(&self.quotas), self.version);
        if let Some(user) = self.user_mut(id)
            && user.version != version
        {
            user.version = version;
            user.limits = *quotas.of(&user.account);
            set_limit(&mut user.bandwidth, user.limits.bandwidth, now_ns);
        }
    }
}

fn set_limit(dividers: &mut Option<[Divider; 2]>, limit: Option<Bandwidth>, now_ns: u64) {
    match (dividers.as_mut(), limit) {
        (_, None) => *dividers = None,
        (None, Some(limit)) => {
            *dividers = Some(Direction::BOTH.map(|_| Divider::new(limit, now_ns)));
        }
        (Some(dividers), Some(limit)) => {
            for divider in dividers {
                divider.set_limit(limit, now_ns);
            }
        }
    }
}

impl User {
    /// On how many shards it lacked bandwidth of the realm or the server in the last second.
    fn spread(&mut self, shard: u16, dropped: &[Dropped; LIMITS.len()], now_ns: u64) -> u32 {
        let lacks = LIMITS.iter().zip(dropped).any(|(limit, dropped)| {
            matches!(limit, Reason::RealmBandwidth | Reason::TotalBandwidth)
                && dropped.datagrams > 0
        });
        let recent = |at_ns: u64| now_ns.saturating_sub(at_ns) < NANOS_PER_SECOND;
        self.lacking.retain(|&(other, at_ns)| recent(at_ns) && !(lacks && other == shard));
        if lacks {
            self.lacking.push((shard, now_ns));
        }
        self.lacking.len().max(1) as u32
    }
}

impl Rates {
    const WINDOW_NS: u64 = 2 * NANOS_PER_SECOND;

    fn add(&mut self, relayed: [u64; 2], now_ns: u64) {
        for (mine, new) in self.bytes.iter_mut().zip(relayed) {
            *mine += new;
        }
        let elapsed_ns = now_ns.saturating_sub(self.since_ns);
        if elapsed_ns >= Self::WINDOW_NS {
            let per_second = |bytes: u64| {
                (u128::from(bytes) * u128::from(NANOS_PER_SECOND) / u128::from(elapsed_ns)) as u64
            };
            *self = Self { since_ns: now_ns, bytes: [0; 2], rates: self.bytes.map(per_second) };
        }
    }

    /// Whoever was silent for two windows has no rate.
    fn now(&self, now_ns: u64) -> [u64; 2] {
        let stale = now_ns.saturating_sub(self.since_ns) > 2 * Self::WINDOW_NS;
        if stale { [0; 2] } else { self.rates }
    }
}
