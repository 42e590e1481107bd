//! The bandwidth of users without allocations, until all of the burst has come back: ending an
//! allocation and making another brings nobody a new burst.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::divider::Divider;

/// The most users kept in mind: some 20 MB. Beyond, the one that has all back first is forgotten.
const USERS_MAX: usize = if cfg!(test) { 64 } else { 1 << 16 };

/// Users forgotten at a time: more than come, and few enough for a lock to be held shortly.
const FORGOTTEN_AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Resting {
    users: BTreeMap<Arc<[u8]>, Rest>,
    /// The same users, by the time when all has come back.
    order: BTreeSet<(u64, Arc<[u8]>)>,
}

#[derive(Debug)]
struct Rest {
    until_ns: u64,
    bandwidth: [Divider; 2],
}

impl Resting {
    /// A user has left.
    pub(super) fn rest(&mut self, account: Arc<[u8]>, mut bandwidth: [Divider; 2], now_ns: u64) {
        self.forget(now_ns);
        let full_ns = bandwidth.each_mut().map(|divider| divider.full_ns(now_ns));
        let until_ns = full_ns[0].max(full_ns[1]);
        if until_ns > now_ns {
            self.order.insert((until_ns, Arc::clone(&account)));
            self.users.insert(account, Rest { until_ns, bandwidth });
        }
    }

    /// A user is back: what it had left, and what has come since.
    pub(super) fn wake(&mut self, account: &Arc<[u8]>, now_ns: u64) -> Option<[Divider; 2]> {
        self.forget(now_ns);
        let rest = self.users.remove(account)?;
        self.order.remove(&(rest.until_ns, Arc::clone(account)));
        Some(rest.bandwidth)
    }

    /// Forgets some of those who have all of the burst again.
    fn forget(&mut self, now_ns: u64) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let full = self.users.len() >= USERS_MAX;
            match self.order.first() {
                Some((until_ns, _)) if *until_ns <= now_ns || full => {}
                Some(_) | None => return,
            }
            if let Some((_, account)) = self.order.pop_first() {
                self.users.remove(&account);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.users.len(), self.order.len());
        self.users.len()
    }
}
