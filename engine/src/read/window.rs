//! [`Window`]: the layer files that a read visits next, looked up together.
//!
//! A look-up of one key in one layer is a chain of dependent loads: the filter's cache line, the
//! pages of the index, the chain part. Look-ups in different layers are independent, so a window
//! takes one step in each of its layers before it takes the next. A layer whose filter excludes the
//! key costs one step of the map and one cache line of the filter.

use std::sync::Arc;

use pagestrata_layers::{
    Key, Lsn,
    layer_file::{KeyHash, Lookup, ReadKind},
};

use crate::layer_map::{
    LayerMap,
    file_layers::FileLayer,
    index::{Visit, Visits},
};

/// Visits of the first window: most pages are a few deltas above an image, and look-ups below the
/// image are wasted.
const FIRST: usize = 4;
/// Visits of each further window: about the number of cache misses that a core can have in flight.
const FURTHER: usize = 12;

/// The next visits of a read.
pub(super) struct Window<'a> {
    map: &'a LayerMap,
    key: Key,
    hash: KeyHash,
    kind: ReadKind<'a>,
    further: Visits<'a>,
    next: [Option<Next<'a>>; FURTHER],
    len: usize,
    len_max: usize,
    /// Layers below the last visit whose filters exclude the key.
    absent: u32,
}

/// A visit of a layer that may hold the key.
pub(super) struct Next<'a> {
    pub(super) file: &'a Arc<FileLayer>,
    pub(super) visit: Visit,
    pub(super) lookup: Lookup,
    /// Layers between the visit before and this one whose filters exclude the key.
    pub(super) absent: u32,
}

impl<'a> Window<'a> {
    /// Creates an empty one.
    #[inline]
    pub(super) fn new(map: &'a LayerMap, key: Key, lsn: Lsn, kind: ReadKind<'a>) -> Window<'a> {
        Window {
            map,
            key,
            hash: KeyHash::of(key),
            kind,
            further: map.index.visits(key, lsn),
            next: [const { None }; FURTHER],
            len: 0,
            len_max: FIRST,
            absent: 0,
        }
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// Returns how many layers were skipped since the last visit.
    pub(super) fn absent(&self) -> u32 {
        self.absent
    }

    /// Replaces the visits by the next ones and takes their look-ups to the leaves; false if there
    /// are none.
    pub(super) fn fill(&mut self) -> bool {
        debug_assert!(self.len <= self.next.len() && self.len_max <= self.next.len());
        self.len = 0;
        while self.len == 0 {
            if !self.take_some() {
                return false;
            }
        }
        let (key, next) = (self.key, &mut self.next[..self.len]);
        loop {
            let mut is_done = true;
            for Next { file, visit, lookup, .. } in next.iter_mut().flatten() {
                if !lookup.is_at_leaf() {
                    file.advance(lookup, key, visit.upper);
                    is_done &= lookup.is_at_leaf();
                }
            }
            if is_done {
                return true;
            }
        }
    }

    /// Takes some visits and keeps those of layers that may hold the key; false if there are no
    /// more.
    #[inline]
    fn take_some(&mut self) -> bool {
        let Window { map, kind, .. } = *self;
        let mut taken = [const { None }; FURTHER];
        let mut count = 0;
        while count < self.len_max
            && let Some(visit) = self.further.next()
        {
            debug_assert!(visit.hit.floor <= visit.upper);
            let file = map.files.get(visit.hit.layer);
            taken[count] = Some((file, visit, file.probe_filter(&self.hash)));
            count += 1;
        }
        self.len_max = FURTHER;
        for (file, visit, probe) in taken.into_iter().take(count).flatten() {
            // Layers with overlapping Lsns are read together, not one by one.
            let lookup = match visit.hit.shared {
                true => Lookup::default(),
                false => file.lookup(&self.hash, probe, kind),
            };
            if lookup.is_absent() {
                self.absent += 1;
                continue;
            }
            let absent = std::mem::take(&mut self.absent);
            self.next[self.len] = Some(Next { file, visit, lookup, absent });
            self.len += 1;
        }
        count > 0
    }

    /// Takes the look-ups from the leaves to the chain parts.
    pub(super) fn locate(&mut self) {
        for Next { file, visit, lookup, .. } in self.next[..self.len].iter_mut().flatten() {
            file.advance(lookup, self.key, visit.upper);
        }
    }

    /// Returns the visits, newest first.
    #[inline]
    pub(super) fn visits(&self) -> impl Iterator<Item = &Next<'a>> {
        self.next[..self.len].iter().flatten()
    }
}
