//! The [`Ledger`] that all shards share, behind one lock.
//!
//! It is held for microseconds: by a shard at an Allocate, at the end of an allocation and when a
//! lease runs out; by the control plane for one page of users at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use turnway_relay::{Ledger, Quotas};

/// See the module.
#[derive(Debug)]
pub struct SharedLedger(Mutex<Ledger>);

impl SharedLedger {
    /// Nothing used so far.
    pub fn new(quotas: Arc<Quotas>, now_ns: u64) -> Self {
        Self(Mutex::new(Ledger::new(quotas, now_ns)))
    }

    /// The ledger, for a moment. Its sums stay usable if a thread ended while it had it.
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use turnway_relay::ledger::Release;
    use turnway_relay::quota::{PrefixLimit, UserLimits};

    use super::*;

    const THREADS: u8 = 8;
    const ROUNDS: usize = 5_000;

    /// Reserves and releases as shards do, and gives how often a slot was had and refused.
    fn hammer(ledger: &SharedLedger, live: &AtomicU32, most: u32, thread: u8) -> (usize, usize) {
        let account: Arc<[u8]> = b"alice".as_slice().into();
        let (mut held, mut had, mut refused) = (Vec::new(), 0, 0);
        for round in 0..ROUNDS {
            match ledger.lock().reserve(&account, [192, 0, 2, thread].into(), 0) {
                Ok(grant) => {
                    assert!(live.fetch_add(1, Ordering::SeqCst) < most, "over the limit");
                    held.push(grant);
                    had += 1;
                }
                Err(_) => refused += 1,
            }
            if round % 3 == 0 || round + 1 == ROUNDS {
                for grant in held.drain(..) {
                    let mut release = Release::of(grant);
                    let mut ledger = ledger.lock();
                    live.fetch_sub(1, Ordering::SeqCst);
                    ledger.release(thread.into(), &mut release, 0);
                }
            }
        }
        (had, refused)
    }

    fn hammered(quotas: Quotas, most: u32) {
        let ledger = SharedLedger::new(Arc::new(quotas), 0);
        let live = AtomicU32::new(0);
        let (had, refused) = std::thread::scope(|scope| {
            let one = |thread| {
                let (ledger, live) = (&ledger, &live);
                scope.spawn(move || hammer(ledger, live, most, thread))
            };
            let threads: Vec<_> = (0..THREADS).map(one).collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap());
            results.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        });
        assert_eq!(had + refused, usize::from(THREADS) * ROUNDS);
        assert!(had > 0 && refused > 0, "{had} had, {refused} refused");
        let ledger = ledger.lock();
        assert_eq!((ledger.allocations(), ledger.users()), (0, 0));
    }

    #[test]
    fn shards_that_race_never_get_more_than_there_is() {
        for most in [1, 2] {
            let default = UserLimits { allocations: Some(most), ..UserLimits::default() };
            hammered(Quotas { default, ..Quotas::default() }, most);
            hammered(Quotas { realm_allocations: Some(most), ..Quotas::default() }, most);
            let prefix = PrefixLimit { allocations: Some(most), v4_bits: 24, v6_bits: 64 };
            hammered(Quotas { prefix, ..Quotas::default() }, most);
        }
    }
}
