//! All versions of an in-memory layer in order of (Key, Lsn): what a flush and a scan read.
//!
//! Values lie in the arena in the order they came in, so taking them by key is a walk over random memory. The nodes
//! and values of a leaf's 64 keys are therefore asked for before the first of them is needed: misses overlap.

use super::{
    MemLayer,
    index::{Entry, Leaf, Object, Run},
};
use crate::{Key, Lsn, PageVersion};

/// How many values of a key's newest block are asked for ahead.
const VALUES_AHEAD: usize = 4;

/// A cursor over a layer's versions, by key and then Lsn. Its own memory is one list of a chain's blocks.
pub struct SortedVersions<'a> {
    layer: &'a MemLayer,
    upper: Lsn,
    object: Option<&'a Object>,
    /// The first block of the current leaf.
    leaf_start: u32,
    leaf: Option<&'a Leaf>,
    /// The next head of the leaf to look at.
    slot: usize,
    /// Runs of the current chain that come after `entries`: the newest first.
    newer: Vec<Run>,
    entries: &'a [Entry],
}

impl<'a> SortedVersions<'a> {
    pub(super) fn new(layer: &'a MemLayer, from: Key, upper: Lsn) -> SortedVersions<'a> {
        let object = layer.index.first_object_from(&layer.nodes, from.object);
        let mut sorted = SortedVersions {
            layer,
            upper,
            object,
            leaf_start: 0,
            leaf: None,
            slot: 0,
            newer: Vec::new(),
            entries: &[],
        };
        let from_block =
            object.filter(|object| object.object() == from.object).map_or(0, |_| from.block);
        sorted.enter_leaf_from(from_block);
        if sorted.leaf.is_some() && sorted.leaf_start < from_block {
            sorted.slot = (from_block - sorted.leaf_start) as usize;
        }
        sorted
    }

    /// Goes to the first leaf at or after `block` of the current object, or none.
    fn enter_leaf_from(&mut self, block: u32) {
        self.slot = 0;
        self.leaf = None;
        let Some(object) = self.object else { return };
        if let Some((start, leaf)) = self.layer.index.leaf_from(&self.layer.nodes, object, block) {
            self.leaf_start = start;
            self.leaf = Some(leaf);
            self.ask_for(leaf);
        }
    }

    /// Three rounds over the leaf, so that each finds what the one before asked for: newest runs; their values and the
    /// next older runs; the values of those.
    fn ask_for(&self, leaf: &Leaf) {
        let nodes = &*self.layer.nodes;
        let runs = || leaf.heads.iter().filter_map(super::index::Head::load);
        runs().for_each(|run| run.prefetch(nodes));
        for run in runs() {
            if let Some(older) = run.older(nodes) {
                older.prefetch(nodes);
            }
            self.ask_for_values(run);
        }
        runs().filter_map(|run| run.older(nodes)).for_each(|older| self.ask_for_values(older));
    }

    fn ask_for_values(&self, run: Run) {
        for entry in run.entries(&self.layer.nodes).iter().take(VALUES_AHEAD) {
            let value = entry.value();
            self.layer.values.prefetch_bytes(value.position, value.len);
        }
    }

    /// The current key's remaining entries, going on to the next key that has some; false at the end.
    fn advance(&mut self) -> bool {
        loop {
            if let Some(run) = self.newer.pop() {
                self.entries = run.entries(&self.layer.nodes);
                if !self.entries.is_empty() {
                    return true;
                }
                continue;
            }
            let Some(leaf) = self.leaf else {
                let Some(object) = self.object else { return false };
                self.object = self.layer.object_after(object);
                self.enter_leaf_from(0);
                continue;
            };
            if let Some(head) = leaf.heads.get(self.slot) {
                self.slot += 1;
                let mut next = head.load();
                while let Some(run) = next {
                    self.newer.push(run);
                    next = run.older(&self.layer.nodes);
                }
            } else {
                match self.leaf_start.checked_add(leaf.heads.len() as u32) {
                    Some(next) => self.enter_leaf_from(next),
                    None => self.leaf = None,
                }
            }
        }
    }
}

impl<'a> Iterator for SortedVersions<'a> {
    type Item = (Key, PageVersion<'a>);

    fn next(&mut self) -> Option<(Key, PageVersion<'a>)> {
        loop {
            if let Some((first, rest)) = self.entries.split_first() {
                self.entries = rest;
                let lsn = first.lsn();
                if lsn > self.upper {
                    // Later ones of this key are above it too.
                    self.entries = &[];
                    self.newer.clear();
                    continue;
                }
                let object = self.object.expect("entries belong to an object").object();
                let key = Key { object, block: self.leaf_start + (self.slot - 1) as u32 };
                return Some((key, self.layer.page_version(lsn, first.value())));
            }
            if !self.advance() {
                return None;
            }
        }
    }
}

impl std::fmt::Debug for SortedVersions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SortedVersions")
            .field("layer", &self.layer)
            .field("upper", &self.upper)
            .finish_non_exhaustive()
    }
}
