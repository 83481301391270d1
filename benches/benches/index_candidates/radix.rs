//! A page-table radix like the one that is built, but with all versions of a key in blocks: a head
//! is a number only, so a leaf is small, and the newest version costs one more wait for memory.

use std::collections::BTreeMap;

use pagestrata_layers::{Key, Lsn};

use crate::{
    candidates::{Candidate, Each},
    versions::{Chains, Entry, Values},
};

const BITS: u32 = 6;
const FANOUT: usize = 1 << BITS;

/// The newest block of versions of each block.
type Leaf = [u32; FANOUT];

#[derive(Clone, Copy)]
struct Root {
    /// A leaf at height 0, else a directory.
    node: u32,
    height: u32,
    prefix: u32,
}

impl Root {
    fn covers(self, block: u32) -> bool {
        u64::from(block) >> (BITS * (self.height + 1)) == u64::from(self.prefix)
    }
}

/// The page table, without the entries that are made together.
#[derive(Default)]
pub(crate) struct Chained {
    values: Values,
    chains: Chains,
    leaves: Vec<Leaf>,
    directories: Vec<[u32; FANOUT]>,
    /// Root by number of object; in order for iteration, hashed for lookups.
    roots: Vec<Root>,
    objects: BTreeMap<u128, u32>,
    hashed: Vec<(u128, u32)>,
    last: Option<(u128, u32)>,
}

fn slot(block: u32, level: u32) -> usize {
    (block >> (BITS * level)) as usize % FANOUT
}

fn hash(object: u128) -> usize {
    let mixed = ((object as u64) ^ ((object >> 64) as u64).rotate_left(29))
        .wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    (mixed ^ (mixed >> 29)) as usize
}

impl Chained {
    fn hashed_slot(&self, object: u128) -> usize {
        let mask = self.hashed.len() - 1;
        let mut at = hash(object) & mask;
        while self.hashed[at].1 != 0 && self.hashed[at].0 != object {
            at = (at + 1) & mask;
        }
        at
    }

    /// The number of an object, made if need be.
    fn object(&mut self, object: u128) -> u32 {
        if let Some((last, number)) = self.last
            && last == object
        {
            return number;
        }
        let mut at = self.hashed_slot(object);
        if self.hashed[at].1 == 0 {
            if self.objects.len() * 4 >= self.hashed.len() * 3 {
                let doubled = vec![(0, 0); self.hashed.len() * 2];
                for entry in std::mem::replace(&mut self.hashed, doubled) {
                    if entry.1 != 0 {
                        let at = self.hashed_slot(entry.0);
                        self.hashed[at] = entry;
                    }
                }
                at = self.hashed_slot(object);
            }
            let number = self.roots.len() as u32;
            self.roots.push(Root { node: 0, height: 0, prefix: 0 });
            self.objects.insert(object, number);
            self.hashed[at] = (object, number);
        }
        self.last = Some((object, self.hashed[at].1));
        self.hashed[at].1
    }

    fn add_leaf(&mut self) -> u32 {
        self.leaves.push([0; FANOUT]);
        self.leaves.len() as u32 - 1
    }

    fn add_directory(&mut self) -> u32 {
        self.directories.push([0; FANOUT]);
        self.directories.len() as u32 - 1
    }

    fn leaf_for(&mut self, number: u32, block: u32) -> usize {
        let mut root = self.roots[number as usize];
        if root.node == 0 {
            root = Root { node: self.add_leaf(), height: 0, prefix: block >> BITS };
        }
        while !root.covers(block) {
            let node = self.add_directory();
            self.directories[node as usize][root.prefix as usize % FANOUT] = root.node;
            root = Root { node, height: root.height + 1, prefix: root.prefix >> BITS };
        }
        self.roots[number as usize] = root;
        let mut node = root.node;
        for level in (1..=root.height).rev() {
            let child = self.directories[node as usize][slot(block, level)];
            node = match child {
                0 => {
                    let made = if level == 1 { self.add_leaf() } else { self.add_directory() };
                    self.directories[node as usize][slot(block, level)] = made;
                    made
                }
                child => child,
            };
        }
        node as usize
    }

    fn newest(&self, key: Key) -> Option<Entry> {
        let number = self.hashed[self.hashed_slot(key.object)].1;
        let root = self.roots[number as usize];
        if number == 0 || root.node == 0 || !root.covers(key.block) {
            return None;
        }
        let mut node = root.node;
        for level in (1..=root.height).rev() {
            node = self.directories[node as usize][slot(key.block, level)];
            if node == 0 {
                return None;
            }
        }
        self.chains.newest(self.leaves[node as usize][slot(key.block, 0)])
    }

    /// Everything under a node, in order.
    fn walk(&self, node: u32, level: u32, first: Key, entries: &mut Vec<Entry>, each: Each<'_>) {
        if level > 0 {
            for (slot, &child) in self.directories[node as usize].iter().enumerate() {
                if child != 0 {
                    let block = first.block + ((slot as u32) << (BITS * level));
                    self.walk(child, level - 1, Key { block, ..first }, entries, each);
                }
            }
            return;
        }
        let leaf = &self.leaves[node as usize];
        for (slot, &newest) in leaf.iter().enumerate().filter(|(_, newest)| **newest != 0) {
            entries.clear();
            self.chains.collect(newest, entries);
            let key = Key { block: first.block + slot as u32, ..first };
            for &(lsn, at) in &*entries {
                each(key, Lsn(lsn), self.values.get(at));
            }
        }
    }
}

impl Candidate for Chained {
    fn name(&self) -> &'static str {
        "page-table radix, all versions in blocks"
    }

    fn clear(&mut self) {
        self.values.clear();
        self.chains.clear();
        self.leaves.clear();
        self.directories.clear();
        self.roots.clear();
        self.objects.clear();
        self.hashed.clear();
        self.hashed.resize(16, (0, 0));
        self.last = None;
        // Number 0 is none, of each.
        self.add_leaf();
        self.add_directory();
        self.roots.push(Root { node: 0, height: 0, prefix: 0 });
    }

    fn put_all(&mut self, updates: &[Key], value: &[u8]) {
        for (n, &Key { object, block }) in updates.iter().enumerate() {
            let number = self.object(object);
            let leaf = self.leaf_for(number, block);
            let at = self.values.push(value);
            let newest = &mut self.leaves[leaf][slot(block, 0)];
            *newest = self.chains.push(*newest, Lsn(n as u64 + 1), at);
        }
    }

    fn newest_sum(&self, queries: &[Key]) -> u64 {
        queries.iter().filter_map(|&key| self.newest(key)).map(|entry| entry.0).sum()
    }

    fn for_each(&mut self, each: Each<'_>) {
        let mut entries = Vec::new();
        for (&object, &number) in &self.objects {
            let Root { node, height, prefix } = self.roots[number as usize];
            let block = (u64::from(prefix) << (BITS * (height + 1))) as u32;
            self.walk(node, height, Key::new(object, block), &mut entries, each);
        }
    }

    fn index_bytes(&self) -> usize {
        self.chains.bytes()
            + size_of_val(&*self.leaves)
            + size_of_val(&*self.directories)
            + size_of_val(&*self.roots)
            + size_of_val(&*self.hashed)
            + self.objects.len() * 40
    }
}
