//! [`KeyTable`]: the lower bounds of a node's children, eight bytes each.
//!
//! Page keys have 160 bits, but the objects of a node's keys nearly always differ in their lower 32
//! bits only. Then these and the block are one `u64` in the keys' order, and a search needs nothing
//! else. The other tables, the root's above all, have each object once; a key in it is the rank of
//! its object and its block.
//!
//! **Invariant:** keys ascend strictly; a key asked for is not below the first one.

use std::hint::select_unpredictable;

use pagestrata_layers::Key;

use super::rank_table::Table;

/// Sorted keys, searched by what tells them apart.
#[derive(Debug)]
pub(super) struct KeyTable {
    /// Of each key, the lower half of its object, or its object's rank, and its block; less
    /// `first`.
    keys: Table,
    /// What would be the first of them.
    first: u64,
    /// All of the objects but the lower 32 bits; only without `objects`.
    upper: u128,
    /// The objects of the keys, ascending; none if they differ in the lower 32 bits only.
    objects: Box<[u128]>,
}

impl KeyTable {
    /// A table of `keys`, of which there is at least one.
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

    /// The key at a place.
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

    /// The place of the highest key that is not above `key`.
    #[inline(always)]
    pub(super) fn position(&self, key: Key) -> usize {
        let number = if self.objects.is_empty() {
            // Above all keys if not in the same upper half: it is not below the first one.
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

/// The upper and the lower half of a number.
fn number(upper: u32, block: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(block)
}

/// The rank of the highest object that is not above the key's, and the key's block, or the highest
/// block if the object is another one: in both cases no number of a key in the table lies between
/// the two keys.
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

    /// Keys that differ in high, middle or low bits only, and in all of them.
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
