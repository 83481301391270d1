//! [`KeyTable`]: the lower bounds of a node's children, eight bytes each.
//!
//! Page keys have 160 bits, but neighbours differ in few of them. A table keeps its first key whole and of every key a
//! 63-bit *window*: the distance from the first key, shifted right until the largest fits. The window keeps the order, so
//! one search over `u64`s finds a child. Where the shift cuts off bits that are not zero the table keeps the keys as well,
//! and looks at them only among keys of the same window.
//!
//! **Invariant:** keys ascend strictly; a key asked for is not below the first one.

use pagestrata_layers::Key;

use super::ranking::Table;

/// Sorted keys, searched by what tells them apart.
#[derive(Debug)]
pub(super) struct KeyTable {
    /// The first key.
    base: Key,
    /// By how many bits a distance is shifted to become a window.
    shift: u32,
    /// The window of each key.
    windows: Table,
    /// The keys; empty if the windows say everything.
    exact: Box<[Key]>,
}

impl KeyTable {
    /// A table of `keys`, of which there is at least one.
    pub(super) fn new(keys: &[Key]) -> KeyTable {
        debug_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        let (base, last) = (keys[0], keys[keys.len() - 1]);
        let (object, _) = distance(base, last);
        let shift = (128 - object.leading_zeros()).saturating_sub(31);
        let windows = Table::new(keys.iter().map(|&key| window(base, shift, key)));
        let mut table = KeyTable { base, shift, windows, exact: Box::default() };
        if (0..keys.len()).any(|at| table.get(at) != keys[at]) {
            table.exact = keys.into();
        }
        table
    }

    /// How many keys.
    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// The key at a place.
    pub(super) fn get(&self, at: usize) -> Key {
        if let Some(&key) = self.exact.get(at) {
            return key;
        }
        let window = u128::from(self.windows.get(at));
        let (object, block) = match self.shift {
            shift @ 0..=32 => (window << shift >> 32, (window << shift) as u32),
            shift => (window << (shift - 32), 0),
        };
        let (block, carry) = self.base.block.overflowing_add(block);
        Key { object: self.base.object.wrapping_add(object).wrapping_add(carry.into()), block }
    }

    /// All keys.
    pub(super) fn to_vec(&self) -> Vec<Key> {
        (0..self.len()).map(|at| self.get(at)).collect()
    }

    /// The place of the highest key that is not above `key`.
    #[inline]
    pub(super) fn position(&self, key: Key) -> usize {
        let window = window(self.base, self.shift, key);
        let end = self.windows.below(window + 1);
        if self.exact.is_empty() {
            return end - 1;
        }
        let start = self.windows.below(window);
        start + self.exact[start..end].partition_point(|&other| other <= key) - 1
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.windows.heap_bytes() + size_of_val(&*self.exact)
    }
}

/// A window above those of all keys of a table.
const ABOVE_ALL: u64 = 1 << 63;

/// How far `key` is above `base`: a number of 160 bits, as its upper 128 and its lower 32.
#[inline]
fn distance(base: Key, key: Key) -> (u128, u32) {
    debug_assert!(base <= key);
    let (block, borrow) = key.block.overflowing_sub(base.block);
    (key.object.wrapping_sub(base.object).wrapping_sub(borrow.into()), block)
}

/// The distance shifted right, or [`ABOVE_ALL`] if it does not fit.
#[inline]
fn window(base: Key, shift: u32, key: Key) -> u64 {
    let (object, block) = distance(base, key);
    let shifted = if shift <= 32 {
        if object >> (32 + shift) != 0 {
            return ABOVE_ALL;
        }
        ((object << 32) | u128::from(block)) >> shift
    } else {
        object >> (shift - 32)
    };
    if shifted < u128::from(ABOVE_ALL) { shifted as u64 } else { ABOVE_ALL }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys that differ in high, middle or low bits only, and in all of them.
    fn key() -> impl Strategy<Value = Key> {
        let object = prop_oneof![
            Just(0),
            Just(u128::MAX),
            0..4u128,
            any::<u128>(),
            (0..4u128).prop_map(|high| high << 90),
            (0..1u128 << 40).prop_map(|low| (7 << 100) | low),
        ];
        let block = prop_oneof![Just(0), Just(u32::MAX), 0..4u32, any::<u32>()];
        (object, block).prop_map(|(object, block)| Key { object, block })
    }

    proptest! {
        #[test]
        fn positions_equal_a_search_of_the_keys(
            keys in prop::collection::btree_set(key(), 1..40),
            asked in prop::collection::vec(key(), 1..40),
        ) {
            let keys: Vec<Key> = keys.into_iter().collect();
            let table = KeyTable::new(&keys);
            prop_assert_eq!(table.to_vec(), keys.clone());
            for key in asked.into_iter().chain(keys.clone()).filter(|&key| key >= keys[0]) {
                prop_assert_eq!(table.position(key), keys.partition_point(|&other| other <= key) - 1);
            }
        }
    }
}
