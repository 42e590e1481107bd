//! The bandwidth of users without allocations, until all of the burst has come back: ending an
//! allocation and making another brings nobody a new burst.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::divider::Divider;

/// The most users kept in mind: some 20 MB. Beyond, the one that left first is forgotten.
const USERS_MAX: usize = if cfg!(test) { 64 } else { 1 << 16 };

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Resting {
    users: BTreeMap<Arc<[u8]>, Rest>,
    /// In the order they left. One that came back is still here, with another time.
    left: VecDeque<(u64, Arc<[u8]>)>,
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
            self.left.push_back((until_ns, Arc::clone(&account)));
            self.users.insert(account, Rest { until_ns, bandwidth });
        }
    }

    /// A user is back: what it had left, and what has come since.
    pub(super) fn wake(&mut self, account: &[u8], now_ns: u64) -> Option<[Divider; 2]> {
        self.forget(now_ns);
        self.users.remove(account).map(|rest| rest.bandwidth)
    }

    /// Forgets who has all of the burst again.
    fn forget(&mut self, now_ns: u64) {
        while let Some((until_ns, account)) = self.left.front() {
            if *until_ns > now_ns && self.left.len() < USERS_MAX {
                break;
            }
            if self.users.get(account).is_some_and(|rest| rest.until_ns == *until_ns) {
                self.users.remove(account);
            }
            self.left.pop_front();
        }
        if self.left.is_empty() {
            self.left = VecDeque::new();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.users.len().max(self.left.len())
    }
}
