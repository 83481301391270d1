//! What is compared: the layer as built, a hash table to leaves, an ordered map.

use std::{collections::BTreeMap, sync::Arc};

use pagestrata_benches::updates::BATCH;
use pagestrata_layers::{ChunkPool, Key, Lsn, OpenLayer, Value};

use crate::versions::{At, Chains, Entry, Values};

/// Called for each version in order.
pub(crate) type Each<'a> = &'a mut dyn FnMut(Key, Lsn, &[u8]);

/// An index of versions. Update `n` is at Lsn `n + 1`.
pub(crate) trait Candidate {
    fn name(&self) -> &'static str;
    /// Empties it; its memory stays.
    fn clear(&mut self);
    fn put_all(&mut self, updates: &[Key], value: &[u8]);
    /// The sum of the newest Lsns.
    fn newest_sum(&self, queries: &[Key]) -> u64;
    fn for_each(&mut self, each: Each<'_>);
    /// What it holds beside the values.
    fn index_bytes(&self) -> usize;
}

/// The in-memory layer.
pub(crate) struct AsBuilt {
    pool: Arc<ChunkPool>,
    layer: Option<OpenLayer>,
}

impl AsBuilt {
    pub(crate) fn new(pool: Arc<ChunkPool>) -> AsBuilt {
        AsBuilt { pool, layer: None }
    }

    fn layer(&self) -> &OpenLayer {
        self.layer.as_ref().expect("filled")
    }
}

impl Candidate for AsBuilt {
    fn name(&self) -> &'static str {
        "page-table radix, as built"
    }

    fn clear(&mut self) {
        self.layer = None;
    }

    fn put_all(&mut self, updates: &[Key], value: &[u8]) {
        let mut layer = OpenLayer::new(Lsn(1), &self.pool);
        for (n, &key) in updates.iter().enumerate() {
            let lsn = Lsn(n as u64 + 1);
            let value = Value::Delta { bytes: value, will_init: true };
            layer.put(key, lsn, value).expect("a put");
            if (n + 1) % BATCH == 0 || n + 1 == updates.len() {
                layer.commit(lsn).expect("a commit");
            }
        }
        self.layer = Some(layer);
    }

    fn newest_sum(&self, queries: &[Key]) -> u64 {
        let (layer, mut sum) = (self.layer().layer(), 0);
        for &key in queries {
            layer.versions(key, Lsn::MAX, &mut |version| sum += version.lsn.0);
        }
        sum
    }

    fn for_each(&mut self, each: Each<'_>) {
        for (key, version) in self.layer().layer().sorted_from(Key::MIN) {
            each(key, version.lsn, version.bytes);
        }
    }

    fn index_bytes(&self) -> usize {
        (self.layer().used_bytes() - self.layer().layer().value_bytes()) as usize
    }
}

const LEAF: usize = 64;

/// A hash table from object and block / 64 to a leaf of 64 heads.
#[derive(Default)]
pub(crate) struct HashLeaves {
    values: Values,
    chains: Chains,
    leaves: Vec<[u32; LEAF]>,
    /// Open addressing; leaf 0 is none.
    slots: Vec<(u128, u32, u32)>,
    last: (u128, u32, u32),
}

fn hash(object: u128, group: u32) -> usize {
    let folded = (object as u64) ^ ((object >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (folded ^ u64::from(group).wrapping_mul(0xC2B2_AE3D_27D4_EB4F))
        .wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ (mixed >> 32)) as usize
}

impl HashLeaves {
    fn slot(&self, object: u128, group: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash(object, group) & mask;
        while self.slots[at].2 != 0 && (self.slots[at].0, self.slots[at].1) != (object, group) {
            at = (at + 1) & mask;
        }
        at
    }

    fn leaf(&mut self, object: u128, group: u32) -> usize {
        if (self.last.0, self.last.1) == (object, group) && self.last.2 != 0 {
            return self.last.2 as usize;
        }
        let mut at = self.slot(object, group);
        if self.slots[at].2 == 0 {
            if self.leaves.len() * 4 > self.slots.len() * 3 {
                let doubled = vec![(0, 0, 0); self.slots.len() * 2];
                for slot in std::mem::replace(&mut self.slots, doubled) {
                    if slot.2 != 0 {
                        let at = self.slot(slot.0, slot.1);
                        self.slots[at] = slot;
                    }
                }
                at = self.slot(object, group);
            }
            self.slots[at] = (object, group, self.leaves.len() as u32);
            self.leaves.push([0; LEAF]);
        }
        self.last = self.slots[at];
        self.last.2 as usize
    }
}

impl Candidate for HashLeaves {
    fn name(&self) -> &'static str {
        "hash table to leaves of 64, sorted when needed"
    }

    fn clear(&mut self) {
        self.values.clear();
        self.chains.clear();
        self.leaves.clear();
        self.leaves.push([0; LEAF]);
        self.slots.clear();
        self.slots.resize(16, (0, 0, 0));
        self.last = (0, 0, 0);
    }

    fn put_all(&mut self, updates: &[Key], value: &[u8]) {
        for (n, &Key { object, block }) in updates.iter().enumerate() {
            let leaf = self.leaf(object, block / LEAF as u32);
            let at = self.values.push(value);
            let head = &mut self.leaves[leaf][block as usize % LEAF];
            *head = self.chains.push(*head, Lsn(n as u64 + 1), at);
        }
    }

    fn newest_sum(&self, queries: &[Key]) -> u64 {
        let newest = |key: &Key| {
            let leaf = self.slots[self.slot(key.object, key.block / LEAF as u32)].2;
            self.chains.newest(self.leaves[leaf as usize][key.block as usize % LEAF])
        };
        queries.iter().filter_map(newest).map(|entry| entry.0).sum()
    }

    fn for_each(&mut self, each: Each<'_>) {
        let mut sorted: Vec<_> = self.slots.iter().filter(|slot| slot.2 != 0).copied().collect();
        sorted.sort_unstable();
        let mut entries: Vec<Entry> = Vec::new();
        for (object, group, leaf) in sorted {
            for (slot, &head) in self.leaves[leaf as usize].iter().enumerate() {
                entries.clear();
                self.chains.collect(head, &mut entries);
                for &(lsn, at) in &entries {
                    let key = Key::new(object, group * LEAF as u32 + slot as u32);
                    each(key, Lsn(lsn), self.values.get(at));
                }
            }
        }
    }

    fn index_bytes(&self) -> usize {
        self.chains.bytes() + size_of_val(&*self.leaves) + size_of_val(&*self.slots)
    }
}

/// An ordered map of all versions.
#[derive(Default)]
pub(crate) struct Ordered {
    values: Values,
    map: BTreeMap<(Key, Lsn), At>,
}

impl Candidate for Ordered {
    fn name(&self) -> &'static str {
        "BTreeMap<(Key, Lsn), place>"
    }

    fn clear(&mut self) {
        self.values.clear();
        self.map.clear();
    }

    fn put_all(&mut self, updates: &[Key], value: &[u8]) {
        for (n, &key) in updates.iter().enumerate() {
            let at = self.values.push(value);
            self.map.insert((key, Lsn(n as u64 + 1)), at);
        }
    }

    fn newest_sum(&self, queries: &[Key]) -> u64 {
        let newest = |&key: &Key| self.map.range((key, Lsn(0))..=(key, Lsn::MAX)).next_back();
        queries.iter().filter_map(newest).map(|(&(_, lsn), _)| lsn.0).sum()
    }

    fn for_each(&mut self, each: Each<'_>) {
        for (&(key, lsn), &at) in &self.map {
            each(key, lsn, self.values.get(at));
        }
    }

    /// A node holds 5 to 11 entries; insertion at random fills two thirds of it.
    fn index_bytes(&self) -> usize {
        let node = 11 * size_of::<((Key, Lsn), At)>() + 16;
        self.map.len() * node * 3 / (11 * 2)
    }
}
