//! [`Timers`]: the next deadline of every slot, and which comes first.
//!
//! An indexed four-ary min-heap: `heap` is ordered by (deadline, slot), `position` says where in it
//! a slot stands. A slot has one deadline, so moving it is one sift and nothing is left behind.

use crate::pieces::Pieces;

const ARITY: usize = 4;

/// Marks a slot without a deadline. No heap can grow to this index.
const ABSENT: u32 = u32::MAX;

/// One deadline per slot, the earliest at hand.
///
/// Slots are small dense numbers (indices into a table): memory is proportional to the highest
/// slot that has a deadline.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: Pieces<(u64, u32)>,
    position: Pieces<u32>,
}

impl Timers {
    /// The earliest deadline (nanoseconds) and its slot; the lowest slot among equals. O(1).
    pub(crate) fn peek(&self) -> Option<(u64, u32)> {
        self.heap.first().copied()
    }

    /// The deadline of `slot`, if it has one. O(1).
    pub(crate) fn get(&self, slot: u32) -> Option<u64> {
        let at = *self.position.get(slot as usize)?;
        self.heap.get(at as usize).map(|&(deadline_ns, _)| deadline_ns)
    }

    /// Gives `slot` the deadline `deadline_ns`, in place of the one it may have. O(log n).
    pub(crate) fn set(&mut self, slot: u32, deadline_ns: u64) {
        let index = slot as usize;
        while index >= self.position.len() {
            self.position.push(ABSENT);
        }
        let at = match self.position[index] {
            ABSENT => {
                self.heap.push((deadline_ns, slot));
                self.heap.len() - 1
            }
            at => {
                self.heap[at as usize].0 = deadline_ns;
                at as usize
            }
        };
        self.settle(at);
    }

    /// Takes the deadline of `slot` away, if it has one. O(log n).
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(&at) = self.position.get(slot as usize) else {
            return;
        };
        if at == ABSENT {
            return;
        }
        self.position[slot as usize] = ABSENT;
        self.heap.swap_remove(at as usize);
        if (at as usize) < self.heap.len() {
            self.settle(at as usize);
        }
        self.give_memory_back();
    }

    /// Moves the entry at `at` up or down to where it belongs.
    fn settle(&mut self, at: usize) {
        let top = self.sift_up(at);
        self.sift_down(top);
    }

    fn sift_up(&mut self, mut at: usize) -> usize {
        let entry = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.heap[parent] <= entry {
                break;
            }
            self.place(at, self.heap[parent]);
            at = parent;
        }
        self.place(at, entry);
        at
    }

    fn sift_down(&mut self, mut at: usize) {
        let entry = self.heap[at];
        loop {
            let first = at * ARITY + 1;
            let last = (first + ARITY).min(self.heap.len());
            let Some(child) = (first..last).min_by_key(|&child| self.heap[child]) else {
                break;
            };
            if entry <= self.heap[child] {
                break;
            }
            self.place(at, self.heap[child]);
            at = child;
        }
        self.place(at, entry);
    }

    fn place(&mut self, at: usize, entry: (u64, u32)) {
        self.heap[at] = entry;
        self.position[entry.1 as usize] =
            u32::try_from(at).expect("there are at most 2^32 slots, each in the heap once");
    }

    /// Forgets slots at the end that have no deadline, some at a time: no removal is dear, and
    /// each slot that was once remembered is forgotten at most once. Where nothing is left, all are
    /// forgotten: the last one to go is the one at the end, as a rule.
    fn give_memory_back(&mut self) {
        if self.heap.is_empty() {
            *self = Self::default();
            return;
        }
        for _ in 0..FORGOTTEN_PER_REMOVAL {
            if self.position.last() != Some(&ABSENT) {
                break;
            }
            self.position.pop();
        }
    }
}

/// Two would do for memory to follow the number of deadlines; more are as cheap.
const FORGOTTEN_PER_REMOVAL: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(
            steps in prop::collection::vec((0_u32..40, prop::option::of(0_u64..50)), 0..400),
        ) {
            let mut timers = Timers::default();
            let mut model = BTreeMap::new();
            for (slot, deadline) in steps {
                match deadline {
                    Some(deadline) => {
                        timers.set(slot, deadline);
                        model.insert(slot, deadline);
                    }
                    None => {
                        timers.remove(slot);
                        model.remove(&slot);
                    }
                }
                let first = model.iter().map(|(&slot, &deadline)| (deadline, slot)).min();
                prop_assert_eq!(timers.peek(), first);
                prop_assert_eq!(timers.heap.len(), model.len());
                prop_assert_eq!(timers.get(slot), model.get(&slot).copied());
            }
            let mut left: Vec<_> = model.iter().map(|(&slot, &at)| (at, slot)).collect();
            left.sort_unstable();
            for expected in left {
                prop_assert_eq!(timers.peek(), Some(expected));
                timers.remove(expected.1);
            }
            prop_assert_eq!(timers.peek(), None);
        }
    }

    #[test]
    fn a_moved_deadline_is_not_seen_twice() {
        let mut timers = Timers::default();
        timers.set(3, 10);
        timers.set(3, 20);
        timers.set(1, 15);
        assert_eq!(timers.peek(), Some((15, 1)));
        timers.remove(1);
        assert_eq!(timers.peek(), Some((20, 3)));
        timers.remove(3);
        timers.remove(3);
        assert_eq!(timers.peek(), None);
    }

    #[test]
    fn memory_is_given_back() {
        let mut timers = Timers::default();
        for slot in 0..100_000 {
            timers.set(slot, u64::from(slot % 977));
        }
        let most = timers.heap.bytes() + timers.position.bytes();
        assert!(most < 20 * 100_000 + 400_000, "{most}");
        for slot in 10..100_000 {
            timers.remove(slot);
        }
        for slot in 0..10 {
            assert_eq!(timers.get(slot), Some(u64::from(slot % 977)));
        }
        // A long-lived slot, set over and over: the rest of the memory goes.
        for _ in 0..10_001 {
            timers.set(10, 1);
            timers.remove(10);
        }
        let least = timers.heap.bytes() + timers.position.bytes();
        assert!(least < most / 3, "{least} of {most}");
        for slot in 0..10 {
            timers.remove(slot);
        }
        assert_eq!(timers.heap.bytes() + timers.position.bytes(), 0);
        // As they end when nothing keeps them: the oldest first.
        (0..1_000).for_each(|slot| timers.set(slot, 1));
        (0..1_000).for_each(|slot| timers.remove(slot));
        assert_eq!(timers.heap.bytes() + timers.position.bytes(), 0);
    }

    #[test]
    fn deadlines_at_the_end_of_time_are_kept() {
        let mut timers = Timers::default();
        timers.set(0, u64::MAX);
        timers.set(1, u64::MAX - 1);
        assert_eq!(timers.peek(), Some((u64::MAX - 1, 1)));
    }
}
