//! The walk of a read: layer after layer, newest first, until a base.

use std::{cmp::Reverse, sync::Arc};

use pagestrata_layers::{
    BlockCounts, Error as LayersError, Key, Kind, Lsn, MemLayer, PageVersion,
    Result as LayersResult, ScratchArena, WalkEnd,
    layer_file::{ReadScratch, VersionQuery},
    reserve,
};

use crate::{
    error::{Error, Result},
    layer_map::{LayerMap, MemSlot, file_layers::FileLayer, index::Visit},
    read::{
        fetch::MissingBytes,
        window::{Next, Window},
    },
};

/// Purpose of the memory, for errors.
const VERSIONS: &str = "the versions of a page";

#[cold]
fn out_of_memory(versions: usize) -> Error {
    let bytes = (versions + 1) * size_of::<PageVersion<'_>>();
    LayersError::OutOfMemory { what: VERSIONS, bytes }.into()
}

/// A layer that gave versions to a read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LayerRef<'a> {
    Memory(&'a Arc<MemLayer>),
    File(&'a Arc<FileLayer>),
}

/// What a read collects: versions, newest first, and the layer of each.
#[derive(Default)]
pub(crate) struct Found<'a> {
    pub(crate) versions: Vec<PageVersion<'a>>,
    /// Each layer that gave versions, with the index of its first.
    pub(crate) sources: Vec<(usize, LayerRef<'a>)>,
    /// What stopped a read that must not wait.
    pub(crate) missing: Option<MissingBytes>,
    /// Layers that were visited.
    pub(crate) layers: u64,
    /// The lengths of all values.
    pub(crate) value_bytes: u64,
    /// Statistics of blocks, once the read is over.
    pub(crate) counts: BlockCounts,
    /// Number of versions of a multi-page read, which keeps its own list.
    pub(crate) versions_elsewhere: u64,
    /// The list of versions could not grow, and lacks some: [`Found::check_memory`].
    is_out_of_memory: bool,
}

impl<'a> Found<'a> {
    pub(crate) fn clear(&mut self) {
        self.versions.clear();
        self.sources.clear();
        self.missing = None;
        self.layers = 0;
        self.value_bytes = 0;
        self.versions_elsewhere = 0;
        self.is_out_of_memory = false;
    }

    /// Called after a walk: an error if the list lacks versions.
    #[inline]
    pub(crate) fn check_memory(&self) -> Result<()> {
        match self.is_out_of_memory {
            false => Ok(()),
            true => Err(out_of_memory(self.versions.len())),
        }
    }

    /// Returns the result of a file, and records what it is missing.
    #[inline]
    fn given<T>(&mut self, file: &Arc<FileLayer>, given: LayersResult<T>) -> Result<T> {
        file.noted(given).map_err(|error| {
            if let LayersError::NotResident { offset, len } = error {
                self.missing = Some(MissingBytes { file: file.clone(), offset, len });
            }
            error.into()
        })
    }

    /// Collects the versions of one layer, and records which layer gave them.
    #[inline]
    fn collect<R>(&mut self, layer: LayerRef<'a>, give: impl FnOnce(&mut Self) -> R) -> R {
        let first = self.versions.len();
        self.layers += 1;
        let walk = give(self);
        if self.versions.len() > first {
            self.sources.push((first, layer));
        }
        walk
    }

    #[inline]
    fn push(&mut self, version: PageVersion<'a>) {
        let newer = self.versions.last();
        debug_assert!(newer.is_none_or(|newer| newer.lsn > version.lsn), "newest first");
        self.value_bytes += version.bytes.len() as u64;
        if self.versions.len() == self.versions.capacity()
            && reserve(&mut self.versions, 1, VERSIONS).is_err()
        {
            self.is_out_of_memory = true;
            return;
        }
        self.versions.push(version);
    }

    /// Whether the versions are a valid walk: at or below `lsn`, with a base at the end and nowhere
    /// else.
    pub(crate) fn is_walk(&self, lsn: Lsn, end: WalkEnd) -> bool {
        let older = self.versions.split_last();
        self.versions.first().is_none_or(|newest| newest.lsn <= lsn)
            && older.is_none_or(|(last, newer)| {
                (end == WalkEnd::Base) == last.kind.is_base()
                    && newer.iter().all(|version| !version.kind.is_base())
            })
            && (end != WalkEnd::Base || older.is_some())
    }

    /// Returns the layer of the version at `index`.
    pub(crate) fn source(&self, index: usize) -> Option<LayerRef<'a>> {
        self.sources.iter().rev().find(|(first, _)| *first <= index).map(|(_, layer)| *layer)
    }
}

impl LayerMap {
    /// Collects the versions of `key` from `lsn` back to its base. Returns how the walk ended.
    pub(crate) fn versions<'a>(
        &'a self,
        key: Key,
        lsn: Lsn,
        arena: &'a ScratchArena,
        found: &mut Found<'a>,
    ) -> Result<WalkEnd> {
        self.versions_until(key, lsn, arena, found, &mut |_| false)
    }

    /// As [`LayerMap::versions`], but stops after the layer with the newest version if `is_enough`
    /// returns true for it.
    pub(crate) fn versions_until<'a>(
        &'a self,
        key: Key,
        lsn: Lsn,
        arena: &'a ScratchArena,
        found: &mut Found<'a>,
        is_enough: &mut impl FnMut(&PageVersion<'a>) -> bool,
    ) -> Result<WalkEnd> {
        let mut stops = |found: &Found<'a>, before: usize| {
            before == 0 && found.versions.first().is_some_and(&mut *is_enough)
        };
        debug_assert!(found.versions.is_empty() && found.sources.is_empty());
        let mut window = Window::new(self, key, lsn, arena.kind());
        window.fill();
        for slot in self.in_memory() {
            let before = found.versions.len();
            let end = self.versions_in_memory(slot, key, lsn, found);
            if stops(found, before) {
                return Ok(WalkEnd::Older);
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
        self.versions_in_files(&mut window, arena, found, &mut stops)
    }

    /// Collects the versions of a layer in memory. Returns how the walk ended, if it ended there.
    #[inline]
    fn versions_in_memory<'a>(
        &'a self,
        slot: &'a MemSlot,
        key: Key,
        lsn: Lsn,
        found: &mut Found<'a>,
    ) -> Option<WalkEnd> {
        if slot.layer.start_lsn() > lsn {
            return None;
        }
        let walk = found.collect(LayerRef::Memory(&slot.layer), |found| {
            slot.layer.versions(key, lsn, &mut |version| found.push(version))
        });
        // Planted bug for the model: tombstones of frozen layers hide nothing.
        let missed = cfg!(planted_bug = "frozen_tombstones")
            && walk == WalkEnd::Dropped
            && !Arc::ptr_eq(&slot.layer, &self.open.layer);
        (walk != WalkEnd::Older && !missed).then_some(walk)
    }

    fn versions_in_files<'a>(
        &'a self,
        window: &mut Window<'a>,
        arena: &'a ScratchArena,
        found: &mut Found<'a>,
        stops: &mut impl FnMut(&Found<'a>, usize) -> bool,
    ) -> Result<WalkEnd> {
        let key = window.key();
        loop {
            window.locate();
            for &Next { file, visit: Visit { upper, hit }, ref lookup, absent } in window.visits() {
                let before = found.versions.len();
                found.layers += u64::from(absent);
                let walk = if hit.shared {
                    self.versions_shared(key, upper, hit.floor, arena, found)?
                } else {
                    let asked = VersionQuery { key, lsn: upper, floor: hit.floor };
                    let walk = found.collect(LayerRef::File(file), |found| {
                        file.versions_by(lookup, asked, arena, &mut |version| found.push(version))
                    });
                    found.given(file, walk)?
                };
                if stops(found, before) || walk != WalkEnd::Older {
                    return Ok(walk);
                }
            }
            if !window.fill() {
                found.layers += u64::from(window.absent());
                return Ok(WalkEnd::Older);
            }
        }
    }

    /// For delta layers with overlapping Lsns: collects the versions of all of them and sorts them.
    #[cold]
    pub(crate) fn versions_shared<'a>(
        &'a self,
        key: Key,
        upper: Lsn,
        floor: Lsn,
        arena: &'a ScratchArena,
        found: &mut Found<'a>,
    ) -> Result<WalkEnd> {
        let mut all: Vec<(PageVersion<'a>, LayerRef<'a>)> = Vec::new();
        let mut memory = Ok(());
        let mut dropped_at: Option<Lsn> = None;
        for index in self.index.deltas_at(key, floor) {
            let file = self.files.get(index);
            found.layers += 1;
            let walk = file.versions(key, upper, floor, arena, &mut |version| match reserve(
                &mut all, 1, VERSIONS,
            ) {
                Ok(()) => all.push((version, LayerRef::File(file))),
                Err(error) => memory = Err(error),
            });
            if found.given(file, walk)? == WalkEnd::Dropped {
                let newest = file.newest_tombstone(key, upper, arena.kind());
                dropped_at = dropped_at.max(found.given(file, newest)?);
            }
        }
        memory?;
        // A page sorts before the delta that it was made with.
        all.sort_unstable_by_key(|(version, _)| {
            (Reverse(version.lsn), version.kind != Kind::Image)
        });
        all.dedup_by_key(|(version, _)| version.lsn);
        for (version, layer) in all {
            if dropped_at.is_some_and(|dropped_at| version.lsn < dropped_at) {
                break;
            }
            found.sources.push((found.versions.len(), layer));
            found.push(version);
            if version.kind.is_base() {
                return Ok(WalkEnd::Base);
            }
        }
        Ok(if dropped_at.is_some() { WalkEnd::Dropped } else { WalkEnd::Older })
    }
}
