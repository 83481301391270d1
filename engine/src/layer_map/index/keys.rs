//! [`KeyTable`]: the lower bounds of a node's children, eight bytes each.
//!
//! Page keys have 160 bits, but the objects of a node's keys nearly always differ only in their
//! lower 32 bits. Then these bits and the block form one `u64` in the order of the keys, and a
//! search needs nothing else. Other tables, above all the root's, store each object once; a key in
//! such a table is the rank of its object, and its block.
//!
//! **Invariant:** keys ascend strictly. A search must not ask for a key below the first one.

use std::hint::select_unpredictable;

use pagestrata_layers::Key;

use super::rank_table::Table;

/// Sorted keys, packed into the bits in which they differ.
#[derive(Debug)]
pub(super) struct KeyTable {
    /// For each key, the lower half of its object (or the rank of its object) and its block, minus
    /// `first`.
    keys: Table,
    /// The first key, in the same form.
    first: u64,
    /// The upper bits of all objects; only without `objects`.
    upper: u128,
    /// The objects of the keys, ascending; empty if they differ only in the lower 32 bits.
    objects: Box<[u128]>,
}

impl KeyTable {
    /// Creates a table of `keys`, of which there must be at least one.
    pub(super) fn new(keys: &[Key]) -> KeyTable {
        debug_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        let upper = keys[0].object >> 32;
        let mut objects: Vec<u128> = Vec::new();
        if keys[keys.len() - 1].object >> 32 != upper {
            objects.extend(keys.iter().map(|key| key.object));
            objects.dedup();
        }
        let mut rank = 0;
        let numbers = keys.iter().map(|key| {
            if objects.is_empty() {
                return number(key.object as u32, key.block);
            }
            rank += u32::from(objects[rank as usize] != key.object);
            number(rank, key.block)
        });
        let mut numbers: Vec<u64> = numbers.collect();
        let first = numbers[0];
        numbers.iter_mut().for_each(|number| *number -= first);
        KeyTable { keys: Table::new(&numbers), first, upper, objects: objects.into() }
    }

    /// How many keys.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns the key at a position.
    pub(super) fn get(&self, at: usize) -> Key {
        let number = self.keys.get(at) + self.first;
        let upper = (number >> 32) as u32;
        let object = match &*self.objects {
            [] => self.upper << 32 | u128::from(upper),
            objects => objects[upper as usize],
        };
        Key { object, block: number as u32 }
    }

    /// All keys.
    pub(super) fn to_vec(&self) -> Vec<Key> {
        (0..self.len()).map(|at| self.get(at)).collect()
    }

    /// Returns the position of the highest key that is not above `key`.
    #[inline(always)]
    pub(super) fn position(&self, key: Key) -> usize {
        let number = if self.objects.is_empty() {
            // If the upper half differs, the key is above all keys: it is not below the first one.
            let same = key.object >> 32 == self.upper;
            select_unpredictable(same, number(key.object as u32, key.block), u64::MAX)
        } else {
            ranked(&self.objects, key)
        };
        self.keys.not_above(number - self.first) - 1
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.objects) + self.keys.heap_bytes()
    }
}

/// Combines the upper and the lower half of a number.
fn number(upper: u32, block: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(block)
}

/// Returns the rank of the highest object that is not above the key's, and the key's block, or the
/// highest block if that object is another one. In both cases no key of the table lies between the
/// two.
#[inline(always)]
fn ranked(objects: &[u128], key: Key) -> u64 {
    let rank = objects.partition_point(|&object| object <= key.object) - 1;
    let block = select_unpredictable(objects[rank] == key.object, key.block, u32::MAX);
    number(rank as u32, block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys that differ only in high, middle or low bits, or in all of them.
    fn key() -> impl Strategy<Value = Key> {
        let object = prop_oneof![
            Just(0),
            Just(u128::MAX),
            0..4u128,
            any::<u128>(),
            (0..4u128).prop_map(|high| high << 90),
            (0..1u128 << 40).prop_map(|low| (7 << 100) | low),
            (0..1u128 << 32).prop_map(|low| (7 << 100) | low),
        ];
        let block = prop_oneof![Just(0), Just(u32::MAX), 0..4u32, any::<u32>()];
        (object, block).prop_map(|(object, block)| Key { object, block })
    }

    proptest! {
        #[test]
        fn positions_in_one_upper_half_equal_a_search_of_the_keys(
            keys in prop::collection::btree_set((any::<u32>(), any::<u32>()), 1..40),
            asked in prop::collection::vec((key(), any::<u32>()), 1..40),
        ) {
            let near = |low: u32, block| Key { object: 9 << 64 | u128::from(low), block };
            let keys: Vec<Key> = keys.into_iter().map(|(low, block)| near(low, block)).collect();
            let table = KeyTable::new(&keys);
            prop_assert_eq!(table.to_vec(), keys.clone());
            let asked = asked.into_iter().flat_map(|(far, low)| [far, near(low, far.block)]);
            for key in asked.chain(keys.clone()).filter(|&key| key >= keys[0]) {
                prop_assert_eq!(table.position(key), keys.partition_point(|&other| other <= key) - 1);
            }
        }

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
