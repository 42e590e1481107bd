//! [`Few`]: a short list that is mostly one entry long, which then lies in place.

use core::ops::{Deref, DerefMut};

/// A list. Without or with one entry it takes no memory of its own.
#[derive(Clone, Debug)]
pub(crate) enum Few<T> {
    None,
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    /// Puts an entry before the one at `index`.
    pub(crate) fn insert(&mut self, index: usize, entry: T) {
        *self = match core::mem::replace(self, Self::None) {
            Self::None => Self::One(entry),
            Self::One(other) => {
                let mut list = Vec::with_capacity(4);
                list.push(other);
                list.insert(index, entry);
                Self::Many(list)
            }
            Self::Many(mut list) => {
                list.insert(index, entry);
                Self::Many(list)
            }
        };
    }

    /// Leaves only the entries for which `stays` is true, and gives back what memory they do not
    /// need.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        match self {
            Self::None => {}
            Self::One(entry) => {
                if !stays(entry) {
                    *self = Self::None;
                }
            }
            Self::Many(list) => {
                list.retain(stays);
                if list.len() <= 1 {
                    *self = list.pop().map_or(Self::None, Self::One);
                } else {
                    list.shrink_to(2 * list.len());
                }
            }
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(entry) => core::slice::from_ref(entry),
            Self::Many(list) => list,
        }
    }
}

impl<T> DerefMut for Few<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(entry) => core::slice::from_mut(entry),
            Self::Many(list) => list,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_vector(steps in prop::collection::vec((0_u8..4, 0_usize..20), 0..60)) {
            let (mut few, mut model) = (Few::None, Vec::new());
            for (step, value) in steps {
                if step == 0 {
                    few.retain(|entry| entry % 3 != value % 3);
                    model.retain(|entry| entry % 3 != value % 3);
                } else {
                    let index = value % (model.len() + 1);
                    few.insert(index, value);
                    model.insert(index, value);
                }
                prop_assert_eq!(&*few, &*model);
                prop_assert_eq!(&mut *few, &mut *model);
                prop_assert!(model.len() > 1 || !matches!(few, Few::Many(_)));
            }
        }
    }
}
