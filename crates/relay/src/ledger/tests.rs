//! What is used of the limits, against counts that are too simple to be wrong.

mod counts;
mod usage;

use super::*;

impl Ledger {
    /// Asserts that no byte was lost or made, and gives what may still pass at once under each
    /// limit.
    pub(crate) fn check_sums(&self) -> Vec<(Bandwidth, u64)> {
        let users = self.users.iter().filter_map(|slot| slot.user.as_ref());
        let users = users.filter_map(|user| user.bandwidth.as_ref());
        let realms = self.realms.iter().filter_map(|realm| realm.bandwidth.as_ref());
        let all = users.chain(realms).chain(&self.total).flatten();
        all.map(|divider| (divider.limit(), divider.unspent())).collect()
    }
}
