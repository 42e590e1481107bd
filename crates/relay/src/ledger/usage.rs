//! The volume that accounts have used in the present day and month.
//!
//! Kept here for as long as the periods last, since a user with a volume limit may come back;
//! whatever is not saved yet is handed to whoever saves it ([`Usage::take_unsaved`]). How many
//! accounts are remembered is bounded: beyond [`ACCOUNTS_MAX`] the one of a few that has used
//! least is forgotten, or the new one if none of these is saved yet; either is counted.
//!
//! Who holds a lock on it holds it shortly: what a period begins with ([`Known`]) is made before,
//! and what it replaces is handed out, to be dropped after.

use core::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::outcome::Period;
use crate::quota::UserLimits;

/// The most accounts whose volume is kept in mind: some 100 MB. Whoever stores volume keeps as many.
pub const ACCOUNTS_MAX: usize = if cfg!(test) { 64 } else { 1 << 19 };

/// Payload bytes of each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// From clients to peers.
    pub to_peer: u64,
    /// From peers to clients.
    pub to_client: u64,
}

impl Used {
    /// Both directions together.
    pub fn total(&self) -> u64 {
        self.to_peer.saturating_add(self.to_client)
    }

    /// Adds other use to this.
    pub fn add(&mut self, other: Self) {
        self.to_peer = self.to_peer.saturating_add(other.to_peer);
        self.to_client = self.to_client.saturating_add(other.to_client);
    }
}

/// What an account has used in the present periods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Today.
    pub day: Used,
    /// This month.
    pub month: Used,
}

/// The present periods by name, such as `2026-11-20` and `2026-11`. What begins and ends them
/// (time zones, calendars) is not known here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Periods {
    /// The day.
    pub day: String,
    /// The month.
    pub month: String,
}

/// What accounts are known to have used in some periods.
#[derive(Debug, Default)]
pub struct Known {
    accounts: BTreeMap<Arc<[u8]>, Account>,
    forgotten: u64,
}

impl Known {
    /// Of more than [`ACCOUNTS_MAX`] accounts, those that used most in the month.
    pub fn new(known: impl IntoIterator<Item = (Arc<[u8]>, Counters)>) -> Self {
        let mut known: Vec<_> = known.into_iter().collect();
        let forgotten = known.len().saturating_sub(ACCOUNTS_MAX);
        if forgotten > 0 {
            known.select_nth_unstable_by_key(ACCOUNTS_MAX, |(_, counters)| {
                Reverse(counters.month.total())
            });
            known.truncate(ACCOUNTS_MAX);
        }
        let entry = |(account, counters)| (account, Account { counters, unsaved: Used::default() });
        Self { accounts: known.into_iter().map(entry).collect(), forgotten: forgotten as u64 }
    }

    /// What is still known when another day of the same month begins. What `begin` took
    /// over into that day is no part of it.
    #[must_use]
    pub fn another_day(mut self) -> Self {
        for Account { counters, unsaved } in self.accounts.values_mut() {
            let late = core::mem::take(unsaved);
            counters.day = Used::default();
            counters.month.to_peer = counters.month.to_peer.saturating_sub(late.to_peer);
            counters.month.to_client = counters.month.to_client.saturating_sub(late.to_client);
        }
        self
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Usage {
    periods: Periods,
    accounts: BTreeMap<Arc<[u8]>, Account>,
    unsaved: Vec<Arc<[u8]>>,
    forgotten: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    counters: Counters,
    unsaved: Used,
}

impl Usage {
    /// The present periods.
    pub fn periods(&self) -> &Periods {
        &self.periods
    }

    /// Begins other periods, or the present ones anew, with what is known to have been used in
    /// them. Save what is unsaved before: what is not counts in the new periods. Gives what was
    /// known before, which takes long to drop where there were many accounts.
    #[must_use = "it is to be dropped without a lock on the ledger"]
    pub fn begin(&mut self, periods: Periods, known: Known) -> Known {
        let unsaved = core::mem::take(&mut self.unsaved);
        let old = core::mem::replace(&mut self.accounts, known.accounts);
        self.forgotten += known.forgotten;
        self.periods = periods;
        for account in unsaved {
            if let Some(late) = old.get(&account) {
                self.add(&account, [late.unsaved.to_peer, late.unsaved.to_client]);
            }
        }
        Known { accounts: old, forgotten: 0 }
    }

    /// Adds to what an account has used.
    pub(super) fn add(&mut self, account: &Arc<[u8]>, relayed: [u64; 2]) {
        let used = Used { to_peer: relayed[0], to_client: relayed[1] };
        if used.total() == 0 {
            return;
        }
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(account) {
            self.forgotten += 1;
            if !self.forget_one(account) {
                return;
            }
        }
        let entry = self.accounts.entry(Arc::clone(account)).or_default();
        if entry.unsaved == Used::default() {
            self.unsaved.push(Arc::clone(account));
        }
        entry.unsaved.add(used);
        entry.counters.day.add(used);
        entry.counters.month.add(used);
    }

    /// What an account has used.
    pub fn of(&self, account: &[u8]) -> Option<Counters> {
        self.accounts.get(account).map(|entry| entry.counters)
    }

    /// The period whose volume an account has used up. If both are, the longer one.
    pub fn spent(&self, account: &[u8], limits: &UserLimits) -> Option<Period> {
        let reached =
            |limit: Option<u64>, used: Used| limit.is_some_and(|most| used.total() >= most);
        limits.volume_per_day.or(limits.volume_per_month)?;
        let counters = self.of(account).unwrap_or_default();
        if reached(limits.volume_per_month, counters.month) {
            return Some(Period::Month);
        }
        reached(limits.volume_per_day, counters.day).then_some(Period::Day)
    }

    /// What was used since it was last taken, of at most `most` accounts. Whoever takes it must
    /// save it, for the periods of [`Self::periods`].
    pub fn take_unsaved(&mut self, most: usize) -> Vec<(Arc<[u8]>, Used)> {
        let from = self.unsaved.len().saturating_sub(most);
        let taken = self.unsaved.split_off(from);
        let take = |account: Arc<[u8]>| {
            let entry = self.accounts.get_mut(&account)?;
            Some((account, core::mem::take(&mut entry.unsaved)))
        };
        taken.into_iter().filter_map(take).collect()
    }

    /// How often an account was forgotten because there were too many.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    pub(super) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// Makes room, if it can: of the saved ones among the few next to `account`, the one that used
    /// least goes.
    fn forget_one(&mut self, account: &Arc<[u8]>) -> bool {
        let after = self.accounts.range::<Arc<[u8]>, _>(account..);
        let near = after.chain(self.accounts.iter()).take(NEAR);
        let saved = near.filter(|(_, entry)| entry.unsaved == Used::default());
        let least = saved.min_by_key(|(_, entry)| entry.counters.month.total());
        let least = least.map(|(account, _)| Arc::clone(account));
        least.is_some_and(|least| self.accounts.remove(&least).is_some())
    }
}

/// The accounts among which one is chosen to be forgotten.
const NEAR: usize = 16;
