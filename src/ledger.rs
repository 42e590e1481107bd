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
