//! One limit in one direction, divided among the shards that use it.
//!
//! Bytes come at the limit's rate. While nobody lacks any they pile up in the pool, up to the
//! burst, and a shard takes what it asks for. Once somebody lacks some, what comes is divided at
//! once by need: a shard's need is what its contented members use, and an equal share for each
//! member that was refused. So each member of each shard gets the same, and what one leaves goes
//! to the others (max-min). At all times
//!
//! > pool + owed to shards + leased by shards and not known to be spent ≤ burst
//!
//! so that no more than the burst and what the rate brings ever passes, however many shards.

use crate::address::NANOS_PER_SECOND;
use crate::bucket::Flow;
use crate::quota::Bandwidth;

/// A shard that has not asked for so long neither uses the limit nor lacks anything of it.
const LIVE_NS: u64 = 500_000_000;

/// What contented members use is measured over at least this time.
const MEASURE_NS: u64 = 50_000_000;

/// What a shard says of a limit when it asks for more of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes spent since the last report.
    pub used: u64,
    /// How many of these were spent by members that were not refused any lately.
    pub content: u64,
    /// Members that were refused lately.
    pub hungry: u32,
    /// Members that used the limit or wanted to, the hungry ones among them.
    pub active: u32,
    /// Leased bytes that are given back.
    pub give_back: u64,
    /// Bytes asked for.
    pub want: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Divider {
    limit: Bandwidth,
    flow: Flow,
    pool: u64,
    /// Pool, owed and leased together.
    unspent: u64,
    claims: Vec<Claim>,
}

/// What one shard has of the limit, and what it needs.
#[derive(Debug)]
struct Claim {
    shard: u16,
    /// Set apart and not fetched yet.
    owed: u64,
    /// Leased and not known to be spent.
    leased: u64,
    seen_ns: u64,
    hungry: u32,
    active: u32,
    /// Bytes per second that contented members use.
    content_rate: u64,
    content: u64,
    measured_ns: u64,
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
    pub(super) fn exchange(&mut self, shard: u16, report: Report, now_ns: u64) -> u64 {
        self.advance(now_ns);
        let index = self.claim(shard, now_ns);
        let claim = &mut self.claims[index];
        let used = report.used.min(claim.leased);
        let give_back = report.give_back.min(claim.leased - used);
        claim.leased -= used + give_back;
        claim.measure(&report, now_ns);
        self.unspent -= used;
        self.pool += give_back;
        self.clamp();
        self.weigh();
        self.grant(index, report.want)
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
        self.pool += claim.owed + unspent;
        self.clamp();
        self.weigh();
    }

    /// Divides what has come since the last call.
    fn advance(&mut self, now_ns: u64) {
        let room = self.limit.burst_bytes.saturating_sub(self.unspent);
        let mut gained = self.flow.advance(self.limit.bytes_per_second, now_ns, room);
        self.unspent += gained;
        self.forget(now_ns);
        let hungry = self.claims.iter().any(|claim| claim.hungry > 0);
        let weights: u128 = self.claims.iter().map(|claim| claim.weight).sum();
        if hungry && weights > 0 {
            let all = u128::from(gained);
            for claim in &mut self.claims {
                let part = (all * claim.weight / weights) as u64;
                claim.owed += part;
                gained -= part;
            }
        }
        self.pool += gained;
    }

    /// Takes back what is owed to shards that ask no more.
    fn forget(&mut self, now_ns: u64) {
        let mut changed = false;
        for claim in &mut self.claims {
            if now_ns.saturating_sub(claim.seen_ns) > LIVE_NS && claim.active > 0 {
                self.pool += core::mem::take(&mut claim.owed);
                (claim.hungry, claim.active, claim.content_rate) = (0, 0, 0);
                changed = true;
            }
        }
        if changed {
            self.claims.retain(|claim| claim.active > 0 || claim.leased > 0);
            self.weigh();
        }
    }

    fn claim(&mut self, shard: u16, now_ns: u64) -> usize {
        self.claims.iter().position(|claim| claim.shard == shard).unwrap_or_else(|| {
            self.claims.push(Claim {
                shard,
                owed: 0,
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

    /// Weighs the claims by need.
    fn weigh(&mut self) {
        let rate = self.limit.bytes_per_second;
        let content: u64 = self.claims.iter().map(|claim| claim.content_rate).sum();
        let hungry: u64 = self.claims.iter().map(|claim| u64::from(claim.hungry)).sum();
        let active: u64 = self.claims.iter().map(|claim| u64::from(claim.active)).sum();
        // An equal share of all that there is, or of all that the contented leave.
        let of_all = rate / active.max(1);
        let share = (rate.saturating_sub(content) / hungry.max(1)).max(of_all).max(1);
        for claim in &mut self.claims {
            // A little more than was used, so that a content shard is not held to its past.
            let content = u128::from(claim.content_rate) * 9 / 8;
            claim.weight = content + u128::from(claim.hungry) * u128::from(share);
        }
    }

    fn grant(&mut self, index: usize, want: u64) -> u64 {
        let weights: u128 = self.claims.iter().map(|claim| claim.weight).sum();
        let hungry: u32 = self.claims.iter().map(|claim| claim.hungry).sum();
        let claim = &mut self.claims[index];
        let owed = core::mem::take(&mut claim.owed);
        let from_owed = owed.min(want);
        self.pool += owed - from_owed;
        // While others lack some, nobody takes the whole pool.
        let others_lack = hungry > claim.hungry;
        let reach = match others_lack {
            true => (u128::from(self.pool) * claim.weight / weights.max(1)) as u64,
            false => self.pool,
        };
        let from_pool = reach.min(want - from_owed);
        self.pool -= from_pool;
        claim.leased += from_owed + from_pool;
        from_owed + from_pool
    }

    /// Gives up what is above the burst, after it became smaller or more came back than fits.
    fn clamp(&mut self) {
        let excess = self.unspent.saturating_sub(self.limit.burst_bytes).min(self.pool);
        self.pool -= excess;
        self.unspent -= excess;
    }

    /// Bytes that may still pass at once, for whoever checks the sums.
    #[cfg(test)]
    pub(super) fn unspent(&self) -> u64 {
        let owed: u64 = self.claims.iter().map(|claim| claim.owed + claim.leased).sum();
        assert_eq!(self.unspent, self.pool + owed, "bytes were lost or made");
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
            self.content_rate = u64::try_from(per_second).unwrap_or(u64::MAX);
            self.content = 0;
            self.measured_ns = now_ns;
        }
        if report.active == 0 {
            self.content_rate = 0;
        }
    }
}
