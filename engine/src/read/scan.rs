//! Scanning: all pages of a range of objects at an Lsn.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    ops::{Bound, RangeBounds},
};

use pagestrata_layers::{Key, KeyRange, Lsn, MemLayer, SortedVersions, layer_file::Keys};

use crate::{
    error::{Error, Result},
    layer_map::file_layers::FileLayer,
    read::guard::Guard,
};

impl<'g> Guard<'g> {
    /// Returns the pages of a range of objects at `lsn`, in order of their keys, each with the Lsn
    /// of its newest version.
    ///
    /// Layers are merged lazily: a layer's keys are read when the scan reaches its key range. No
    /// layer below the newest version of a page is read.
    pub fn scan(
        self,
        objects: impl RangeBounds<u128>,
        lsn: Lsn,
    ) -> impl Iterator<Item = Result<(Key, Lsn)>> + 'g {
        let mut pages = Pages::new(self, key_range(&objects), lsn);
        match pages.start() {
            Ok(()) => {}
            Err(error) => pages.failed = Some(error),
        }
        pages
    }

    /// Returns the keys of a range that have versions at or below `lsn`, and possibly some with
    /// versions only above it.
    pub(crate) fn candidates(self, range: KeyRange, lsn: Lsn) -> Result<Pages<'g>> {
        let mut pages = Pages::new(self, (!range.is_empty()).then_some(range), lsn);
        pages.start()?;
        Ok(pages)
    }
}

/// Returns the keys of a range of objects; `None` if the range is empty.
fn key_range(objects: &impl RangeBounds<u128>) -> Option<KeyRange> {
    let start = match objects.start_bound() {
        Bound::Included(&object) => object,
        Bound::Excluded(&object) => object.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let end = match objects.end_bound() {
        Bound::Included(&object) => object.checked_add(1),
        Bound::Excluded(&object) => Some(object),
        Bound::Unbounded => None,
    };
    let range = KeyRange { start: Key::new(start, 0), end: end.map(|object| Key::new(object, 0)) };
    (!range.is_empty()).then_some(range)
}

/// The pages of a range.
pub(crate) struct Pages<'g> {
    guard: Guard<'g>,
    lsn: Lsn,
    range: Option<KeyRange>,
    /// By next key; for an unopened layer, by the first key that it may have.
    sources: BinaryHeap<Reverse<Source<'g>>>,
    last: Option<Key>,
    failed: Option<Error>,
}

struct Source<'g> {
    next: Key,
    keys: LayerKeys<'g>,
}

enum LayerKeys<'g> {
    /// A file whose keys were not read yet.
    Unopened(&'g FileLayer),
    File(&'g FileLayer, Keys<'g>),
    Memory(SortedVersions<'g>),
}

impl PartialEq for Source<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.next == other.next
    }
}
impl Eq for Source<'_> {}
impl PartialOrd for Source<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Source<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.next.cmp(&other.next)
    }
}

impl<'g> Pages<'g> {
    fn new(guard: Guard<'g>, range: Option<KeyRange>, lsn: Lsn) -> Pages<'g> {
        Pages { guard, lsn, range, sources: BinaryHeap::new(), last: None, failed: None }
    }

    fn start(&mut self) -> Result<()> {
        let Some(range) = self.range else { return Ok(()) };
        // Checked once, so that an unreadable Lsn is an error even if there is no page.
        self.guard.check(self.lsn)?;
        let map = self.guard.map();
        for slot in map.in_memory() {
            let layer: &'g MemLayer = &slot.layer;
            if layer.start_lsn() <= self.lsn {
                self.push(LayerKeys::Memory(layer.sorted_from(range.start)))?;
            }
        }
        for (index, _) in map.index.layers_overlapping(range, Lsn(0)..self.lsn.next()) {
            let file: &'g FileLayer = map.files.get(index);
            let next = file.summary().key_range.start.max(range.start);
            self.sources.push(Reverse(Source { next, keys: LayerKeys::Unopened(file) }));
        }
        Ok(())
    }

    /// Puts a source back with its next key.
    fn push(&mut self, mut keys: LayerKeys<'g>) -> Result<()> {
        let next = loop {
            let next = match &mut keys {
                LayerKeys::Unopened(_) => unreachable!("opened before"),
                LayerKeys::File(file, keys) => file.noted(keys.next().transpose())?,
                LayerKeys::Memory(versions) => versions.next().map(|(key, _)| key),
            };
            if next.is_none_or(|next| Some(next) > self.last) {
                break next;
            }
        };
        if let Some(next) = next {
            self.sources.push(Reverse(Source { next, keys }));
        }
        Ok(())
    }

    /// Returns the next key that any layer has.
    pub(crate) fn next_key(&mut self) -> Result<Option<Key>> {
        let Some(range) = self.range else { return Ok(None) };
        while let Some(Reverse(Source { next, keys })) = self.sources.pop() {
            if !range.contains(next) {
                return Ok(None);
            }
            if let LayerKeys::Unopened(file) = keys {
                self.push(LayerKeys::File(file, file.noted(file.keys_from(next))?))?;
                continue;
            }
            debug_assert!(self.last <= Some(next), "keys ascend");
            let is_new = self.last < Some(next);
            self.last = Some(next);
            self.push(keys)?;
            if is_new {
                debug_assert!(range.contains(next));
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> Result<Option<(Key, Lsn)>> {
        while let Some(key) = self.next_key()? {
            if let Some(lsn) = self.guard.newest_lsn(key, self.lsn)? {
                return Ok(Some((key, lsn)));
            }
        }
        Ok(None)
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<(Key, Lsn)>;

    fn next(&mut self) -> Option<Result<(Key, Lsn)>> {
        if let Some(error) = self.failed.take() {
            self.range = None;
            return Some(Err(error));
        }
        match self.step() {
            Ok(page) => page.map(Ok),
            Err(error) => {
                self.range = None;
                Some(Err(error))
            }
        }
    }
}
