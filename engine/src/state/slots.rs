//! Numbered slots for objects that come and go: layers, pins. Only this file names slab.
//!
//! slab may reuse a number once it is free, and a stale number then means another value. So a
//! [`SlotKey`] carries a generation beside the number, and a stale key finds nothing. slab does not
//! say which free number comes next, and nothing here relies on it.

use slab::Slab;

/// Key of a value in a slot, valid for as long as the value is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotKey {
    index: u32,
    generation: u64,
}

impl SlotKey {
    /// Returns the slot's number: dense, and reused.
    pub(crate) fn index(self) -> u32 {
        self.index
    }
}

#[derive(Debug)]
pub(crate) struct Slots<T> {
    slab: Slab<(u64, T)>,
    next_generation: u64,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { slab: Slab::new(), next_generation: 0 }
    }
}

impl<T> Slots<T> {
    /// Puts a value into a free slot.
    pub(crate) fn insert(&mut self, value: T) -> SlotKey {
        let generation = self.next_generation;
        self.next_generation += 1;
        let index = self.slab.insert((generation, value));
        SlotKey { index: u32::try_from(index).expect("fewer than 2^32 slots"), generation }
    }

    /// Removes a value; returns `None` if it is not there any more.
    pub(crate) fn remove(&mut self, key: SlotKey) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.index as usize).1)
    }

    pub(crate) fn get(&self, key: SlotKey) -> Option<&T> {
        self.slab
            .get(key.index as usize)
            .filter(|slot| slot.0 == key.generation)
            .map(|slot| &slot.1)
    }

    /// Returns a number above those of all slots in use.
    pub(crate) fn index_end(&self) -> usize {
        self.slab.capacity()
    }

    /// Returns the value in the slot of this number.
    pub(crate) fn at(&self, index: usize) -> Option<&T> {
        self.slab.get(index).map(|slot| &slot.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slots = Slots::default();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(first.index(), second.index(), "the number is used again, or nothing is tested");
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        let used = (0..slots.index_end()).filter(|&index| slots.at(index).is_some());
        assert_eq!((slots.get(second), used.count()), (Some(&"second"), 1));
    }
}
