//! What is told to the ledger some times a second, whatever datagrams come: what was relayed and
//! dropped, and leases that nobody uses any more; and how users are judged by new quotas.

use super::{Asker, Meters, SETTLE_NS, Share, USERS_PER_EXCHANGE, empty_pocket, set_limit, user};
use crate::address::RealmId;
use crate::ledger::{Ask, Direction, Scope};

impl Meters {
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
        if self.settling.is_empty() && self.resting.is_empty() {
            self.epoch = self.epoch.wrapping_add(1);
            core::mem::swap(&mut self.settling, &mut self.touched);
            core::mem::swap(&mut self.resting, &mut self.watched);
            if self.settling.is_empty() {
                self.let_all_go();
            }
        }
        for _ in 0..USERS_PER_EXCHANGE {
            let Some(slot) = self.resting.pop() else { break };
            self.let_go(slot);
        }
        for _ in 0..USERS_PER_EXCHANGE {
            let Some(slot) = self.settling.pop() else { break };
            let Some(user) = user(&mut self.users, slot) else { continue };
            let purse = &mut self.purses[slot as usize];
            self.exchange.counts.push(user.count(purse));
            self.counted.push(slot);
            if user.shares.is_some() {
                self.watched.push(slot);
            }
        }
        if self.settling.is_empty() && self.resting.is_empty() {
            let more = !self.touched.is_empty() || !self.watched.is_empty();
            let realms = self.realms.iter().map(|realm| &realm.shares);
            let leased = realms.chain([&self.total]).flatten().flatten();
            let more = more || leased.map(Share::unspent).any(|unspent| unspent > 0);
            self.due_ns = more.then_some(now_ns + SETTLE_NS);
        }
    }

    /// Gives back what a user leased, if it was touched neither in the epoch that just ended nor in
    /// the present one.
    fn let_go(&mut self, slot: u32) {
        (0..2).for_each(|at| self.empty_pockets(slot, at));
        let Some(user) = user(&mut self.users, slot) else { return };
        let id = user.id;
        if self.epoch.wrapping_sub(self.purses[slot as usize].epoch) <= 1 {
            return;
        }
        for (direction, share) in
            Direction::BOTH.into_iter().zip(user.shares.iter_mut().flat_map(|s| s.iter_mut()))
        {
            let report = share.give_back();
            self.askers.push(Asker::User(slot));
            self.exchange.asks.push(Ask::new(Scope::User(id), direction, report));
        }
    }

    /// Gives back what was leased of the realms and the server.
    fn let_all_go(&mut self) {
        self.empty_shared_pockets();
        let realms = (0..).map(RealmId).zip(&mut self.realms);
        let realms =
            realms.map(|(id, realm)| (Asker::Realm(id), Scope::Realm(id), &mut realm.shares));
        for (asker, scope, shares) in realms.chain([(Asker::Total, Scope::Total, &mut self.total)])
        {
            for (direction, share) in Direction::BOTH.into_iter().zip(shares.iter_mut().flatten()) {
                let report = share.give_back();
                self.askers.push(asker);
                self.exchange.asks.push(Ask::new(scope, direction, report));
            }
        }
    }

    /// Judges some more users by the present quotas.
    fn judge(&mut self) {
        let from = self.judging.take().unwrap_or(0) as usize;
        let end = (from + USERS_PER_EXCHANGE).min(self.users.len());
        for slot in from..end {
            let Some(user) = self.users[slot].as_mut() else { continue };
            let limits = *self.quotas.of(&user.account);
            let purse = &mut self.purses[slot];
            purse.allocation = limits.bandwidth_per_allocation;
            (0..2).for_each(|at| empty_pocket(&mut user.shares, &mut purse.pockets[at], at));
            let mut returns = [None, None];
            let members = user.allocations as usize;
            let generation = &mut self.generation;
            set_limit(&mut user.shares, limits.bandwidth, members, generation, &mut returns);
            for (direction, report) in Direction::BOTH.into_iter().zip(returns) {
                if let Some(report) = report {
                    self.askers.push(Asker::User(slot as u32));
                    let scope = Scope::User(user.id);
                    self.exchange.asks.push(Ask::new(scope, direction, report));
                }
            }
            // Whether the volume is spent is the ledger's to say.
            self.exchange.counts.push(user.count(purse));
            self.counted.push(slot as u32);
        }
        self.judging = (end < self.users.len()).then_some(end as u32);
    }
}
