//! Slots: which of the program's accounts are free.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A channel's place in the program's tables: two accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    /// The account of what the client sends to the peer.
    pub fn to_peer(self) -> u32 {
        self.0 * 2
    }

    /// The account of what the peer sends to the client.
    pub fn to_client(self) -> u32 {
        self.0 * 2 + 1
    }

    /// Its number, below the capacity: for tables with an entry for each slot.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn new(number: u32) -> Slot {
        Slot(number)
    }
}

/// All slots. The lock is held for a push or a pop.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Mutex<Vec<u32>>,
    capacity: u32,
    full: AtomicU64,
}

impl Slots {
    pub(crate) fn new(capacity: u32) -> Slots {
        Slots {
            // The lowest is taken first: maps are touched from their beginning.
            free: Mutex::new((0..capacity).rev().collect()),
            capacity,
            full: AtomicU64::new(0),
        }
    }

    pub(crate) fn take(&self) -> Option<Slot> {
        let slot = self.lock().pop().map(Slot);
        if slot.is_none() {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
        slot
    }

    pub(crate) fn give_back(&self, slot: Slot) {
        self.lock().push(slot.0);
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(crate) fn in_use(&self) -> u32 {
        self.capacity - self.lock().len() as u32
    }

    pub(crate) fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.free.lock().expect("nobody panics with the lock of the slots held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_held_once_and_what_finds_none_is_counted() {
        let slots = Slots::new(2);
        let first = slots.take().unwrap();
        let second = slots.take().unwrap();
        assert_ne!(first, second);
        assert_eq!((slots.take(), slots.full(), slots.in_use()), (None, 1, 2));
        slots.give_back(first);
        assert_eq!(slots.take(), Some(first));
        assert_eq!((first.to_peer(), first.to_client()), (0, 1));
        assert_eq!((second.to_peer(), second.to_client()), (2, 3));
    }
}
