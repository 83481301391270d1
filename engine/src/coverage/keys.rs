//! [`KeyTable`]: the lower bounds of a node's children, eight bytes each.
//!
//! Page keys have 160 bits, but the keys of a node name few objects. A table has each object once; a key in it is the rank
//! of its object and its block, together one `u64` in the keys' order.
//!
//! **Invariant:** keys ascend strictly; a key asked for is not below the first one.

use pagestrata_layers::Key;

use super::ranking::Table;

/// Sorted keys, searched by what tells them apart.
#[derive(Debug)]
pub(super) struct KeyTable {
    /// The objects of the keys, ascending.
    objects: Box<[u128]>,
    /// Of each key, its object's rank and its block.
    keys: Table,
}

impl KeyTable {
    /// A table of `keys`, of which there is at least one.
    pub(super) fn new(keys: &[Key]) -> KeyTable {
        debug_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        let mut objects: Vec<u128> = keys.iter().map(|key| key.object).collect();
        objects.dedup();
        let keys = Table::new(keys.iter().map(|&key| packed(&objects, key)));
        KeyTable { objects: objects.into(), keys }
    }

    /// How many keys.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key at a place.
    pub(super) fn get(&self, at: usize) -> Key {
        let key = self.keys.get(at);
        Key { object: self.objects[(key >> 32) as usize], block: key as u32 }
    }

    /// All keys.
    pub(super) fn to_vec(&self) -> Vec<Key> {
        (0..self.len()).map(|at| self.get(at)).collect()
    }

    /// The place of the highest key that is not above `key`.
    #[inline(always)]
    pub(super) fn position(&self, key: Key) -> usize {
        self.keys.below(packed(&self.objects, key) + 1) - 1
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.objects) + self.keys.heap_bytes()
    }
}

/// The rank of the highest object that is not above the key's, and the key's block, or the highest block if the object is
/// another one: in both cases no number of a key in the table lies between the two keys.
#[inline(always)]
fn packed(objects: &[u128], key: Key) -> u64 {
    let rank = objects.partition_point(|&object| object <= key.object) - 1;
    let block = if objects[rank] == key.object { key.block } else { u32::MAX };
    (rank as u64) << 32 | u64::from(block)
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
