//! One limit in one direction, divided among the shards that use it.
//!
//! Bytes come into the pool at the limit's rate, up to the burst. While nobody lacks any, a shard
//! takes what it asks for. Once somebody lacks some, each shard is *due* a part of what comes, by
//! need: what its contented members use, and an equal share for each member that was refused. So
//! each member of each shard gets the same, and what one leaves goes to the others (max-min).
//!
//! What a shard is due is only a turn, and may be overdrawn for a whole datagram: parts of
//! datagrams that lie with many shards would be of use to none. What bounds the rate are the bytes.
//! At all times
//!
//! > pool + leased by shards and not known to be spent ≤ burst
//!
//! so that no more than the burst and what the rate brings ever passes, however many shards.

use crate::address::NANOS_PER_SECOND;
use crate::bucket::Flow;
use crate::quota::Bandwidth;

/// What contented members use is measured over at least this time.
const MEASURE_NS: u64 = 50_000_000;

/// See [`Answer::patience_ns`], where `members` share a limit: the time in which each can pass
/// some datagrams, within bounds.
fn patience_ns(limit: &Bandwidth, members: u64) -> u64 {
    const LEAST_NS: u64 = 500_000_000;
    const MOST_NS: u64 = 4 * NANOS_PER_SECOND;
    const BYTES: u128 = 4 * 1_500;
    let all = BYTES * u128::from(members) * u128::from(NANOS_PER_SECOND);
    let all_ns = all / u128::from(limit.bytes_per_second.max(1));
    all_ns.clamp(u128::from(LEAST_NS), u128::from(MOST_NS)) as u64
}

/// A shard that lacked nothing and asks for nothing is still provided for so much longer than one
/// that did: its members may send only now and then.
const CONTENT_PATIENCE: u64 = 4;

/// A member that is on one shard only. One that lacks something on several (a user of the realm
/// or the server) counts in part on each, so that it has no larger share than others.
pub const WHOLE: u32 = 240;

/// What a shard says of a limit when it asks for more of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes spent since the last report.
    pub used: u64,
    /// How many of these were spent by members that were not refused any lately.
    pub content: u64,
    /// Members that were refused lately, in [`WHOLE`]ths.
    pub hungry: u32,
    /// Members that used the limit or wanted to, the hungry ones among them, in [`WHOLE`]ths.
    pub active: u32,
    /// Leased bytes that are given back.
    pub give_back: u64,
    /// Bytes without which the rest is of no use: a datagram waits for them.
    pub need: u64,
    /// Bytes asked for; at least `need`.
    pub want: u64,
}

/// What a shard gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Bytes leased.
    pub granted: u64,
    /// The shard's part of the burst.
    pub part: u64,
    /// How many bytes may pass that are nobody's turn: so much of the burst is unspent.
    pub spare: u64,
    /// How long whoever was refused or silent is taken to be still hungry or still there.
    pub patience_ns: u64,
}

/// Shares of a low rate among many are small numbers.
const FINE: u128 = 1 << 16;

/// What a shard does not fetch is kept for it for 1/8 s; others lack it.
const DUES_PER_SECOND: u128 = 8;
const DUE_LEAST: u128 = 1_500;

/// See the module.
#[derive(Debug)]
pub(super) struct Divider {
    limit: Bandwidth,
    flow: Flow,
    pool: u64,
    /// Pool and leased together.
    unspent: u64,
    claims: Vec<Claim>,
}

/// What one shard has of the limit, and what it needs.
#[derive(Debug)]
struct Claim {
    shard: u16,
    /// What it may fetch, or took beyond that.
    due: i128,
    /// Leased and not known to be spent.
    leased: u64,
    seen_ns: u64,
    hungry: u32,
    active: u32,
    /// Bytes per second that contented members use.
    content_rate: u64,
    content: u64,
    measured_ns: u64,
    /// Its need: bytes per second, times [`FINE`].
    weight: u128,
}

impl Divider {
    /// With a full pool.
    pub(super) fn new(limit: Bandwidth, now_ns: u64) -> Self {
        let pool = limit.burst_bytes;
        Self { limit, flow: Flow::starting(now_ns), pool, unspent: pool, claims: Vec::new() }
    }

    /// Another limit from now on.
    pub(super) fn set_limit(&mut self, limit: Bandwidth, now_ns: u64) {
        self.advance(now_ns);
        self.limit = limit;
        self.clamp();
    }

    /// Takes in what a shard says and gives it what it may have, at most what it wants.
    pub(super) fn exchange(&mut self, shard: u16, report: Report, now_ns: u64) -> Answer {
        self.advance(now_ns);
        let index = self.claim(shard, now_ns);
        let claim = &mut self.claims[index];
        let used = report.used.min(claim.leased);
        let give_back = report.give_back.min(claim.leased - used);
        claim.leased -= used + give_back;
        claim.due += i128::from(give_back);
        claim.measure(&report, now_ns);
        self.unspent -= used;
        self.pool += give_back;
        self.clamp();
        self.weigh();
        self.grant(index, &report)
    }

    /// A shard has no member left: everything it had comes back, less what it spent.
    pub(super) fn leave(&mut self, shard: u16, unspent: u64, now_ns: u64) {
        self.advance(now_ns);
        let Some(index) = self.claims.iter().position(|claim| claim.shard == shard) else {
            return;
        };
        let claim = self.claims.swap_remove(index);
        let unspent = unspent.min(claim.leased);
        self.unspent -= claim.leased - unspent;
        self.pool += unspent;
        self.clamp();
        self.weigh();
    }

    /// When the pool will be full if nobody takes anything.
    pub(super) fn full_ns(&mut self, now_ns: u64) -> u64 {
        self.advance(now_ns);
        let lacks = u128::from(self.limit.burst_bytes.saturating_sub(self.unspent));
        let rate = u128::from(self.limit.bytes_per_second.max(1));
        let fills_ns = (lacks * u128::from(NANOS_PER_SECOND)).div_ceil(rate);
        now_ns.saturating_add(u64::try_from(fills_ns).unwrap_or(u64::MAX))
    }

    /// Takes in what has come since the last call, and says whose turn it is to have it.
    fn advance(&mut self, now_ns: u64) {
        let room = self.limit.burst_bytes.saturating_sub(self.unspent);
        let gained = self.flow.advance(self.limit.bytes_per_second, now_ns, room);
        self.unspent += gained;
        self.pool += gained;
        self.forget(now_ns);
        let weights: u128 = self.claims.iter().map(|claim| claim.weight).sum();
        let least = -i128::from(self.limit.burst_bytes);
        for claim in &mut self.claims {
            let part = (u128::from(gained) * claim.weight).checked_div(weights).unwrap_or(0);
            let most = (claim.weight / FINE / DUES_PER_SECOND).max(DUE_LEAST);
            claim.due = (claim.due + part as i128).clamp(least, most as i128);
        }
    }

    /// Nothing is due to shards that ask no more. One that lacked something lacks it no longer;
    /// what its other members use is provided for a while more.
    fn forget(&mut self, now_ns: u64) {
        let patience_ns = self.patience_ns();
        let mut changed = false;
        for claim in self.claims.iter_mut().filter(|claim| claim.active > 0) {
            let silent_ns = now_ns.saturating_sub(claim.seen_ns);
            if silent_ns > CONTENT_PATIENCE * patience_ns {
                (claim.hungry, claim.active, claim.content_rate) = (0, 0, 0);
                changed = true;
            } else if silent_ns > patience_ns && claim.hungry > 0 {
                // Should it come back, it has a turn.
                (claim.hungry, claim.due) = (0, 1);
                changed = true;
            }
        }
        if changed {
            self.claims.retain(|claim| claim.active > 0 || claim.leased > 0);
            self.weigh();
        }
    }

    fn patience_ns(&self) -> u64 {
        let active: u64 = self.claims.iter().map(|claim| u64::from(claim.active)).sum();
        patience_ns(&self.limit, active / u64::from(WHOLE))
    }

    fn claim(&mut self, shard: u16, now_ns: u64) -> usize {
        self.claims.iter().position(|claim| claim.shard == shard).unwrap_or_else(|| {
            self.claims.push(Claim {
                shard,
                due: 1,
                leased: 0,
                seen_ns: now_ns,
                hungry: 0,
                active: 0,
                content_rate: 0,
                content: 0,
                measured_ns: now_ns,
                weight: 0,
            });
            self.claims.len() - 1
        })
    }

    /// Weighs the claims by need. While nobody lacks anything, nothing is due to anybody.
    fn weigh(&mut self) {
        let rate = u128::from(self.limit.bytes_per_second) * FINE;
        let hungry: u128 = self.claims.iter().map(|claim| u128::from(claim.hungry)).sum();
        let active: u128 = self.claims.iter().map(|claim| u128::from(claim.active)).sum();
        if hungry == 0 {
            for claim in &mut self.claims {
                (claim.due, claim.weight) = (0, 0);
            }
            return;
        }
        let content: u128 = self.claims.iter().map(|claim| u128::from(claim.content_rate)).sum();
        // An equal share of all that there is, or of all that the contented leave.
        let of_all = rate / active.max(1);
        let share = (rate.saturating_sub(content * FINE) / hungry).max(of_all).max(1);
        for claim in &mut self.claims {
            // A little more than was used, so that a content shard is not held to its past.
            let used = u128::from(claim.content_rate) * FINE * 5 / 4;
            let content = u128::from(claim.active.saturating_sub(claim.hungry));
            claim.weight = used.min(content * share) + u128::from(claim.hungry) * share;
        }
    }

    fn grant(&mut self, index: usize, report: &Report) -> Answer {
        let (need, want) = (report.need, report.want.max(report.need));
        let weights: u128 = self.claims.iter().map(|claim| claim.weight).sum();
        let hungry: u32 = self.claims.iter().map(|claim| claim.hungry).sum();
        let due = |claim: &Claim| claim.due.clamp(0, i128::from(self.pool)) as u64;
        let to_all: u64 = self.claims.iter().map(due).sum();
        let claim = &self.claims[index];
        let part = |bytes: u64| {
            (u128::from(bytes) * claim.weight).checked_div(weights).unwrap_or(bytes.into()) as u64
        };
        let mine = due(claim).min(self.pool.saturating_sub(to_all - due(claim)));
        let nobodys = self.pool.saturating_sub(to_all);
        // While others lack some, nobody takes all that is left.
        let others_lack = hungry > claim.hungry;
        let extra = if others_lack { part(nobodys) } else { nobodys };
        let brimming = self.unspent >= self.limit.burst_bytes - self.limit.burst_bytes / 8;
        let turn = claim.due > 0 || !others_lack || nobodys >= need || brimming;
        let reach = match mine + extra {
            enough if enough >= need => enough,
            _ if turn && self.pool >= need => need,
            _ => 0,
        };
        let granted = reach.min(want);
        let ample = self.limit.burst_bytes / 2;
        let (spare, part) = (part(self.unspent.saturating_sub(ample)), part(ample));
        self.pool -= granted;
        let claim = &mut self.claims[index];
        claim.due -= i128::from(granted.saturating_sub(extra));
        claim.leased += granted;
        Answer { granted, part, spare, patience_ns: self.patience_ns() }
    }

    /// Gives up what is above the burst, after it became smaller or more came back than fits.
    fn clamp(&mut self) {
        let excess = self.unspent.saturating_sub(self.limit.burst_bytes).min(self.pool);
        self.pool -= excess;
        self.unspent -= excess;
    }

    #[cfg(test)]
    pub(super) fn limit(&self) -> Bandwidth {
        self.limit
    }

    /// Bytes that may still pass at once, for whoever checks the sums.
    #[cfg(test)]
    pub(super) fn unspent(&self) -> u64 {
        let leased: u64 = self.claims.iter().map(|claim| claim.leased).sum();
        assert_eq!(self.unspent, self.pool + leased, "bytes were lost or made");
        self.unspent
    }
}

impl Claim {
    fn measure(&mut self, report: &Report, now_ns: u64) {
        self.seen_ns = now_ns;
        self.hungry = report.hungry;
        self.active = report.active;
        self.content = self.content.saturating_add(report.content);
        let elapsed_ns = now_ns.saturating_sub(self.measured_ns);
        if elapsed_ns >= MEASURE_NS {
            let per_second =
                u128::from(self.content) * u128::from(NANOS_PER_SECOND) / u128::from(elapsed_ns);
            // A few datagrams less in so short a time are no lesser need.
            let before = self.content_rate - self.content_rate / 8;
            self.content_rate = u64::try_from(per_second).unwrap_or(u64::MAX).max(before);
            self.content = 0;
            self.measured_ns = now_ns;
        }
        if report.active == 0 {
            self.content_rate = 0;
        }
    }
}
