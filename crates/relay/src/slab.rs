//! [`Slab`]: numbered places for large entries, in chunks that are taken from the system and given
//! back whole. Beyond the first chunk no entry ever moves.
//!
//! The lowest chunk with a free place is used first, so that after a peak the upper ones empty and
//! go. A place is used again and again, each time under another generation: who holds on to an
//! old [`AllocationId`] finds nothing.

use crate::address::AllocationId;

/// As in [`crate::pieces`]: what is as large goes back to the system when it is freed.
const CHUNK_BYTES: usize = 128 << 10;

/// The end of a list of free places.
const NONE: u32 = u32::MAX;

/// In no such list: the place is in use or set apart.
const IN_USE: u32 = u32::MAX - 1;

/// See the module.
pub(crate) struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    /// One bit per chunk: whether a place is free in it.
    open: Vec<u64>,
    /// Of the next use of any id.
    generation: u32,
    /// A chunk that is empty and keeps its memory, for a number of entries that swings.
    spare: Option<usize>,
    /// Places in use or set apart.
    used: usize,
}

struct Chunk<T> {
    /// Grows to `EACH`; memory that was never used is not touched.
    slots: Vec<Slot<T>>,
    /// The first free one of `slots`.
    free: u32,
    used: usize,
}

/// Aligned, so that what comes first in an entry lies in as few lines of the cache as it can.
#[repr(align(64))]
struct Slot<T> {
    generation: u32,
    /// The next free one of the chunk, or [`IN_USE`].
    free: u32,
    entry: Option<T>,
}

impl<T> Slab<T> {
    /// Places of a chunk: a power of two.
    const EACH: usize = CHUNK_BYTES.div_ceil(size_of::<Slot<T>>()).next_power_of_two();

    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), open: Vec::new(), generation: 0, spare: None, used: 0 }
    }

    /// Sets a place apart, to be filled or released. O(1) but for one bit per chunk.
    pub(crate) fn reserve(&mut self) -> AllocationId {
        let at = self.open_chunk();
        if self.spare == Some(at) {
            self.spare = None;
        }
        let generation = self.generation;
        self.generation = generation.wrapping_add(1);
        let chunk = &mut self.chunks[at];
        let index = match chunk.free {
            NONE => {
                if at > 0 {
                    chunk.slots.reserve_exact(Self::EACH - chunk.slots.len());
                }
                chunk.slots.push(Slot { generation, free: IN_USE, entry: None });
                chunk.slots.len() - 1
            }
            free => {
                let slot = &mut chunk.slots[free as usize];
                chunk.free = slot.free;
                (slot.free, slot.generation) = (IN_USE, generation);
                free as usize
            }
        };
        chunk.used += 1;
        self.used += 1;
        if chunk.used == Self::EACH {
            self.open[at / 64] &= !(1 << (at % 64));
        }
        AllocationId { slot: (at * Self::EACH + index) as u32, generation }
    }

    /// Fills a place set apart by [`Self::reserve`].
    pub(crate) fn fill(&mut self, id: AllocationId, entry: T) {
        if let Some(slot) = self.slot_mut(id) {
            slot.entry = Some(entry);
        }
    }

    /// Gives back a place, and what was in it.
    pub(crate) fn release(&mut self, id: AllocationId) -> Option<T> {
        let (at, index) = Self::split(id.slot);
        let slot = self.slot_mut(id)?;
        let entry = slot.entry.take();
        let chunk = &mut self.chunks[at];
        chunk.slots[index].free = chunk.free;
        chunk.free = index as u32;
        chunk.used -= 1;
        self.used -= 1;
        self.open[at / 64] |= 1 << (at % 64);
        if chunk.used == 0 {
            self.emptied(at);
        }
        entry
    }

    #[inline]
    pub(crate) fn get(&self, id: AllocationId) -> Option<&T> {
        let slot = self.slot(id.slot)?;
        slot.entry.as_ref().filter(|_| slot.generation == id.generation)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: AllocationId) -> Option<&mut T> {
        self.slot_mut(id)?.entry.as_mut()
    }

    /// Whatever is in a slot now, and its id.
    #[inline]
    pub(crate) fn occupant(&self, slot: u32) -> Option<(AllocationId, &T)> {
        let Slot { generation, entry, .. } = self.slot(slot)?;
        entry.as_ref().map(|entry| (AllocationId { slot, generation: *generation }, entry))
    }

    /// All slots in use are below this.
    pub(crate) fn slots(&self) -> u32 {
        (self.chunks.len() * Self::EACH) as u32
    }

    fn split(slot: u32) -> (usize, usize) {
        (slot as usize / Self::EACH, slot as usize % Self::EACH)
    }

    #[inline]
    fn slot(&self, slot: u32) -> Option<&Slot<T>> {
        let (at, index) = Self::split(slot);
        self.chunks.get(at)?.slots.get(index)
    }

    #[inline]
    fn slot_mut(&mut self, id: AllocationId) -> Option<&mut Slot<T>> {
        let (at, index) = Self::split(id.slot);
        let slot = self.chunks.get_mut(at)?.slots.get_mut(index)?;
        (slot.generation == id.generation && slot.free == IN_USE).then_some(slot)
    }

    /// The lowest chunk with a free place, made if there is none.
    fn open_chunk(&mut self) -> usize {
        let word = self.open.iter().position(|&word| word != 0);
        if let Some(word) = word {
            return word * 64 + self.open[word].trailing_zeros() as usize;
        }
        let at = self.chunks.len();
        self.chunks.push(Chunk { slots: Vec::new(), free: NONE, used: 0 });
        if at / 64 == self.open.len() {
            self.open.push(0);
        }
        self.open[at / 64] |= 1 << (at % 64);
        at
    }

    /// Gives memory back when a chunk has become empty: not its own if there is no room in a lower
    /// one, since the next entry would need it, unless it was the last entry of all.
    fn emptied(&mut self, at: usize) {
        if self.used == 0 {
            (self.chunks, self.open, self.spare) = (Vec::new(), Vec::new(), None);
            return;
        }
        let gone = if self.open_chunk() < at {
            at
        } else if let Some(other) = self.spare.replace(at) {
            other
        } else {
            return;
        };
        let gone = &mut self.chunks[gone];
        (gone.slots, gone.free) = (Vec::new(), NONE);
        while self.chunks.last().is_some_and(|chunk| chunk.slots.capacity() == 0) {
            self.chunks.pop();
            let at = self.chunks.len();
            self.open[at / 64] &= !(1 << (at % 64));
        }
        self.open.truncate(self.chunks.len().div_ceil(64));
    }

    /// Bytes of memory taken, used or not.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.slots.capacity() * size_of::<Slot<T>>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// So large that few fill a chunk.
    type Large = [u64; 2000];

    proptest! {
        #[test]
        fn ids_find_what_was_put_there(
            steps in prop::collection::vec((0_u8..3, any::<u64>()), 0..300),
        ) {
            let mut slab = Slab::<Large>::new();
            let mut model = BTreeMap::<u32, (AllocationId, u64)>::new();
            let mut gone = Vec::new();
            for (step, value) in steps {
                if step > 0 {
                    let id = slab.reserve();
                    prop_assert!(slab.get(id).is_none());
                    if value % 5 == 0 {
                        prop_assert_eq!(slab.release(id), None);
                        gone.push(id);
                        continue;
                    }
                    slab.fill(id, [value; 2000]);
                    prop_assert!(model.insert(id.slot, (id, value)).is_none());
                } else if let Some(&slot) = model.keys().nth(value as usize % model.len().max(1)) {
                    let (id, value) = model.remove(&slot).unwrap();
                    prop_assert_eq!(slab.release(id), Some([value; 2000]));
                    gone.push(id);
                }
                for &(id, value) in model.values() {
                    prop_assert_eq!(slab.get(id), Some(&[value; 2000]));
                    prop_assert_eq!(slab.occupant(id.slot).map(|found| found.0), Some(id));
                    prop_assert!(id.slot < slab.slots());
                }
                for &id in &gone {
                    prop_assert!(slab.get(id).is_none() && slab.get_mut(id).is_none());
                    prop_assert_eq!(slab.release(id), None);
                }
            }
        }
    }

    #[test]
    fn memory_follows_the_number_of_entries() {
        let mut slab = Slab::<[u64; 61]>::new();
        let mut ids: Vec<AllocationId> = (0..100_000).map(|_| slab.reserve()).collect();
        ids.iter().for_each(|&id| slab.fill(id, [1; 61]));
        assert!(slab.bytes() < 100_000 * 512 + 2 * CHUNK_BYTES);
        // Those that are left in the end are not the oldest ones, but others take their ids.
        for id in ids.drain(..99_000) {
            slab.release(id);
        }
        for id in ids.drain(..) {
            let newer = slab.reserve();
            slab.fill(newer, [2; 61]);
            slab.release(id);
        }
        assert!(slab.bytes() < 1_000 * 512 + 4 * CHUNK_BYTES, "{}", slab.bytes());
        assert!(slab.slots() < 2_000);
    }
}
