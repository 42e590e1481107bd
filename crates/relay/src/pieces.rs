//! [`Pieces`]: a list that grows and shrinks piece by piece. Beyond the first piece nothing ever
//! moves to a larger place, so that growing to a million entries holds up no datagram and never
//! takes twice the memory; and what a peak took goes back to the system when the peak is over.

use core::ops::{Index, IndexMut};

/// A piece has at least so many bytes: glibc's allocator takes what is as large from the system
/// by itself, and gives it back when it is freed.
const PIECE_BYTES: usize = 128 << 10;

/// A list in pieces. Memory that was never used is not touched, and so is none.
#[derive(Debug)]
pub struct Pieces<T> {
    /// All but the last are full, but for one that may be kept empty behind it. The first one grows
    /// as it must: a short list is small.
    pieces: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), len: 0 }
    }
}

impl<T> Pieces<T> {
    /// Entries of a piece: a power of two.
    const EACH: usize = PIECE_BYTES.div_ceil(size_of::<T>()).next_power_of_two();

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.pieces.get(index / Self::EACH)?.get(index % Self::EACH)
    }

    /// The entry at `index`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.pieces.get_mut(index / Self::EACH)?.get_mut(index % Self::EACH)
    }

    /// The first entry.
    pub fn first(&self) -> Option<&T> {
        self.get(0)
    }

    /// The last entry.
    pub fn last(&self) -> Option<&T> {
        self.get(self.len.checked_sub(1)?)
    }

    /// Adds an entry at the end. O(1), never more than a new piece or a first one that grows.
    pub fn push(&mut self, entry: T) {
        let piece = self.len / Self::EACH;
        if piece == self.pieces.len() {
            let room = if piece == 0 { 0 } else { Self::EACH };
            self.pieces.push(Vec::with_capacity(room));
        }
        self.pieces[piece].push(entry);
        self.len += 1;
    }

    /// Takes the last entry away. O(1).
    pub fn pop(&mut self) -> Option<T> {
        let last = self.len.checked_sub(1)?;
        let entry = self.pieces[last / Self::EACH].pop();
        self.len = last;
        if last == 0 {
            self.pieces = Vec::new();
        } else {
            // One empty piece is kept, for a list whose length swings about a multiple of a piece.
            self.pieces.truncate(last.div_ceil(Self::EACH) + 1);
        }
        entry
    }

    /// Takes entries away until there are `len` at most. Those that have nothing to drop cost
    /// nothing, only the pieces do.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        let kept = len.div_ceil(Self::EACH);
        self.pieces.truncate(if len == 0 { 0 } else { kept + 1 });
        // As in `pop`: the last piece with entries, and an empty one behind it.
        for (piece, from) in self.pieces.iter_mut().zip((0..).step_by(Self::EACH)) {
            piece.truncate(len.saturating_sub(from));
        }
        if len == 0 {
            self.pieces = Vec::new();
        }
    }

    /// Takes the entry at `index` away and puts the last one in its place. O(1).
    ///
    /// # Panics
    ///
    /// If there is no such entry.
    pub fn swap_remove(&mut self, index: usize) -> T {
        let last = self.pop().expect("an entry to remove");
        if index == self.len {
            return last;
        }
        core::mem::replace(&mut self[index], last)
    }

    /// Bytes of memory taken, used or not.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.capacity() * size_of::<T>()).sum()
    }
}

impl<T> Index<usize> for Pieces<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.pieces[index / Self::EACH][index % Self::EACH]
    }
}

impl<T> IndexMut<usize> for Pieces<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.pieces[index / Self::EACH][index % Self::EACH]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// So large that few make a piece.
    type Large = [u64; 4096];

    proptest! {
        #[test]
        fn behaves_as_a_vector(steps in prop::collection::vec((0_u8..12, any::<u64>()), 0..200)) {
            let mut pieces = Pieces::<Large>::default();
            let mut model = Vec::<Large>::new();
            for (step, value) in steps {
                match step {
                    0 => prop_assert_eq!(pieces.pop(), model.pop()),
                    1 => {
                        // Also to more than there are, and to none.
                        let len = value as usize % (model.len() + 2);
                        pieces.truncate(len);
                        model.truncate(len);
                    }
                    2 | 3 => prop_assert_eq!(pieces.pop(), model.pop()),
                    4 if !model.is_empty() => {
                        let at = value as usize % model.len();
                        prop_assert_eq!(pieces.swap_remove(at), model.swap_remove(at));
                    }
                    _ => {
                        pieces.push([value; 4096]);
                        model.push([value; 4096]);
                    }
                }
                prop_assert_eq!(pieces.len(), model.len());
                prop_assert_eq!(pieces.last(), model.last());
                prop_assert_eq!(pieces.get(model.len()), None);
                prop_assert!((0..model.len()).all(|at| pieces[at] == model[at]));
                // At most one piece is empty; without entries there is none.
                let most = (model.len().div_ceil(4) + 1) * usize::from(!model.is_empty());
                prop_assert!(pieces.pieces.len() <= most, "{}", pieces.pieces.len());
            }
        }
    }

    #[test]
    fn nothing_moves_and_memory_follows_the_length() {
        let mut pieces = Pieces::<u64>::default();
        pieces.push(0);
        assert!(pieces.bytes() < 100, "{}", pieces.bytes());
        (1..500_000).for_each(|value| pieces.push(value));
        let places = [0, 499_999].map(|at| core::ptr::from_ref(&pieces[at]));
        (500_000..1_000_000).for_each(|value| pieces.push(value));
        assert_eq!([0, 499_999].map(|at| core::ptr::from_ref(&pieces[at])), places);
        assert!(pieces.bytes() <= 8_000_000 + PIECE_BYTES, "{}", pieces.bytes());
        pieces.truncate(1);
        assert!(pieces.bytes() <= 2 * PIECE_BYTES, "{}", pieces.bytes());
        pieces.pop();
        assert_eq!(pieces.bytes(), 0);
    }
}
