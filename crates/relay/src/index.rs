//! [`Index`]: from a hash to the slots of a table that have it.
//!
//! Linear hashing: with each entry two buckets are added, and what belongs into them is taken out
//! of the two that are next in turn; with each entry that goes they are merged again. So there is
//! never a moment at which all entries are hashed anew, which for a million of them takes a tenth
//! of a second, and memory follows the number of entries both ways.
//!
//! A bucket is the head of a chain of slots. With twice as many buckets as entries a slot that is
//! looked for is mostly the first of its chain: one line of the cache here, then the row itself.

use crate::pieces::Pieces;

/// The end of a chain. No table has so many slots.
const NONE: u32 = u32::MAX;

/// Buckets for each entry.
const BUCKETS_EACH: usize = 2;

/// See the module. What is hashed, and how, is the caller's to know: hashes must be spread well
/// over their low bits, and nobody outside may be able to choose them.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The first slot of each bucket. A slot is in the bucket that the low bits of its hash name.
    heads: Pieces<u32>,
    /// For each slot the next one of its bucket.
    next: Pieces<u32>,
    len: usize,
}

impl Index {
    /// How many slots it has.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first thing that `look` finds in a slot with this hash. It is shown slots with other
    /// hashes, too. O(1).
    #[inline]
    pub(crate) fn find<F>(&self, hash: u64, look: impl Fn(u32) -> Option<F>) -> Option<F> {
        let mut slot = *self.heads.get(self.bucket(hash))?;
        while slot != NONE {
            let found = look(slot);
            if found.is_some() {
                return found;
            }
            slot = self.next[slot as usize];
        }
        None
    }

    /// Adds a slot that is not there yet. `hash_of` gives the hash of any slot that is. O(1).
    pub(crate) fn insert(&mut self, slot: u32, hash: u64, hash_of: impl Fn(u32) -> u64) {
        self.len += 1;
        while self.heads.len() < BUCKETS_EACH * self.len {
            self.split(&hash_of);
        }
        while self.next.len() <= slot as usize {
            self.next.push(NONE);
        }
        self.link(slot, self.bucket(hash));
    }

    /// Takes a slot out. O(1).
    pub(crate) fn remove(&mut self, slot: u32, hash: u64) {
        let bucket = self.bucket(hash);
        let Some(&head) = self.heads.get(bucket) else { return };
        if head == slot {
            self.heads[bucket] = self.next[slot as usize];
        } else {
            let Some(before) = self.chain(head).find(|&at| self.next[at as usize] == slot) else {
                return;
            };
            self.next[before as usize] = self.next[slot as usize];
        }
        self.len -= 1;
        while self.heads.len() > BUCKETS_EACH * self.len {
            self.merge();
        }
    }

    /// Gives back what was kept for slots from `slots` on, none of which is here.
    pub(crate) fn forget_from(&mut self, slots: u32) {
        self.next.truncate(slots as usize);
    }

    /// The bucket of a hash: as many low bits as number all buckets, or one bit less where the
    /// bucket of that number is not there yet.
    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        let buckets = self.heads.len();
        let bits = buckets.next_power_of_two();
        let bucket = hash as usize & (bits - 1);
        if bucket < buckets { bucket } else { bucket & (bits / 2).wrapping_sub(1) }
    }

    /// Adds a bucket and moves into it what belongs there, all of which is in one other.
    fn split(&mut self, hash_of: impl Fn(u32) -> u64) {
        let new = self.heads.len();
        self.heads.push(NONE);
        if new == 0 {
            return;
        }
        let old = buddy(new);
        let mut slot = core::mem::replace(&mut self.heads[old], NONE);
        while slot != NONE {
            let next = self.next[slot as usize];
            let bucket = self.bucket(hash_of(slot));
            self.link(slot, bucket);
            slot = next;
        }
    }

    /// Takes the last bucket away and puts what is in it where it was before.
    fn merge(&mut self) {
        let Some(head) = self.heads.pop() else { return };
        let bucket = self.heads.len();
        if head == NONE || bucket == 0 {
            return;
        }
        let old = buddy(bucket);
        let last = self.chain(head).last().unwrap_or(head);
        self.next[last as usize] = self.heads[old];
        self.heads[old] = head;
    }

    fn link(&mut self, slot: u32, bucket: usize) {
        self.next[slot as usize] = self.heads[bucket];
        self.heads[bucket] = slot;
    }

    fn chain(&self, head: u32) -> impl Iterator<Item = u32> {
        let some = |slot: u32| (slot != NONE).then_some(slot);
        core::iter::successors(some(head), move |&slot| some(self.next[slot as usize]))
    }
}

/// The bucket that another one, not the first, was split off: its number without the highest bit.
fn buddy(bucket: usize) -> usize {
    bucket & !(1 << bucket.ilog2())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Bad on purpose: chains are long, and some hashes equal.
    fn hash(key: u16) -> u64 {
        u64::from(key % 97).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec((any::<bool>(), 0_u16..300), 0..600)) {
            let mut index = Index::default();
            // From a key to its slot, and back. Slots are not given in order.
            let mut model = BTreeMap::new();
            let mut keys = BTreeMap::new();
            for (add, key) in steps {
                let slot = u32::from(key) * 7 % 1_999;
                if add && !model.contains_key(&key) {
                    model.insert(key, slot);
                    keys.insert(slot, key);
                    index.insert(slot, hash(key), |slot| hash(keys[&slot]));
                } else if !add && model.remove(&key).is_some() {
                    index.remove(slot, hash(key));
                    keys.remove(&slot);
                }
                prop_assert_eq!(index.len(), model.len());
                let found = index.find(hash(key), |slot| (keys[&slot] == key).then_some(slot));
                prop_assert_eq!(found, model.get(&key).copied());
            }
            for (&key, &slot) in &model {
                let found = index.find(hash(key), |slot| (keys[&slot] == key).then_some(slot));
                prop_assert_eq!(found, Some(slot));
            }
        }
    }

    #[test]
    fn a_slot_that_is_not_there_is_not_removed() {
        let mut index = Index::default();
        index.remove(3, 1);
        index.insert(3, 1, |_| 1);
        index.remove(4, 1);
        assert_eq!((index.len(), index.find(1, Some)), (1, Some(3)));
    }

    #[test]
    fn memory_is_proportional_and_given_back() {
        let hash_of =
            |slot: u32| u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
        let mut index = Index::default();
        (0..300_000).for_each(|slot| index.insert(slot, hash_of(slot), hash_of));
        assert!(index.heads.bytes() + index.next.bytes() < 14 * 300_000);
        (10..300_000).for_each(|slot| index.remove(slot, hash_of(slot)));
        index.forget_from(10);
        assert!(index.heads.bytes() + index.next.bytes() < 600_000);
        assert!(
            (0..10)
                .all(|slot| index.find(hash_of(slot), |at| (at == slot).then_some(at)).is_some())
        );
        (0..10).for_each(|slot| index.remove(slot, hash_of(slot)));
        index.forget_from(0);
        assert_eq!(index.heads.bytes() + index.next.bytes(), 0);
    }
}
