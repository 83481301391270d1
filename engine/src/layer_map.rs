//! One version of a timeline's layer map: which layers exist, and the order in which a read visits
//! them.
//!
//! A [`LayerMap`] never changes; an edit makes the next one and shares what stays the same.
//! **Invariant:** every Lsn of the layers in memory is above every Lsn of the layer files, and each
//! layer in memory is above the next older one. A read that visits them in this order meets
//! versions newest first.

use crate::layer_map::file_layers::{FileLayer, Files};

pub(crate) mod file_layers;
pub(crate) mod file_names;
#[cfg_attr(
    not(feature = "testing"),
    expect(unreachable_pub, reason = "public through the feature `testing`, to a bench")
)]
pub mod index;
pub(crate) mod published;
pub(crate) mod quarantine;

use std::sync::Arc;

use pagestrata_layers::{
    Key, Lsn, MemLayer,
    layer_file::{LayerKind, LayerSummary},
};

use crate::layer_map::index::{Change, LayerIndex, LayerShape, LayerSlot};

/// A layer in memory, and the number of the first map version that contained it.
#[derive(Clone, Debug)]
pub(crate) struct MemSlot {
    pub(crate) layer: Arc<MemLayer>,
    pub(crate) since: u64,
}

/// The layers of a timeline at one moment.
#[derive(Clone, Debug)]
pub(crate) struct LayerMap {
    pub(crate) open: MemSlot,
    /// Newest first.
    pub(crate) frozen: Vec<MemSlot>,
    pub(crate) index: LayerIndex,
    pub(crate) files: Files,
}

impl LayerMap {
    /// Returns the layers in memory, newest first.
    #[inline]
    pub(crate) fn in_memory(&self) -> impl Iterator<Item = &MemSlot> + Clone {
        std::iter::once(&self.open).chain(&self.frozen)
    }

    /// Returns a map with an empty open layer, from number `since` on.
    pub(crate) fn rolled(&self, open: Arc<MemLayer>, since: u64) -> LayerMap {
        assert!(open.start_lsn() >= self.open.layer.start_lsn(), "the open layer is the highest");
        let mut frozen = Vec::with_capacity(self.frozen.len() + 1);
        frozen.push(self.open.clone());
        frozen.extend_from_slice(&self.frozen);
        let open = MemSlot { layer: open, since };
        LayerMap { open, frozen, index: self.index.clone(), files: self.files.clone() }
    }

    /// Returns a map with more layer files, and without some.
    pub(crate) fn with_edit(
        &self,
        added: impl Iterator<Item = (LayerSlot, Arc<FileLayer>)>,
        removed: &[LayerSlot],
    ) -> LayerMap {
        let mut next = self.clone();
        let mut changes = Vec::new();
        for &slot in removed {
            changes.push(Change::Remove(slot));
            next.files.take(slot);
        }
        for (index, file) in added {
            changes.push(Change::Insert(index, shape_of(file.summary())));
            next.files.set(index, file);
        }
        if !changes.is_empty() {
            next.index = next.index.edit(&changes);
        }
        next
    }

    /// Whether no layer in memory is below an older one, all of them are above every layer file,
    /// and the index contains the files. O(layers), for the feature `verify`.
    pub(crate) fn is_sound(&self) -> bool {
        let starts = self.in_memory().map(|slot| slot.layer.start_lsn());
        let lowest = starts.clone().last().unwrap_or(Lsn::MAX);
        let are_apart = self
            .in_memory()
            .zip(starts.clone().skip(1))
            .all(|(newer, older)| newer.layer.start_lsn() >= older);
        let ends = self.files.iter().map(|file| file.summary().lsn_range.end);
        are_apart
            && ends.max() <= Some(lowest)
            && self.files.iter().count() == self.index.layer_count()
    }

    /// Returns the Lsn up to which its layers are visible.
    #[inline]
    pub(crate) fn last_record_lsn(&self) -> Lsn {
        self.open.layer.committed_lsn()
    }

    /// Lists the layers that a read of `key` at `lsn` visits, newest first, for people.
    pub(crate) fn visited(&self, key: Key, lsn: Lsn) -> String {
        let mut names = Vec::new();
        for (n, slot) in self.in_memory().enumerate() {
            if slot.layer.start_lsn() <= lsn {
                names.push(format!(
                    "{} layer from {}",
                    if n == 0 { "open" } else { "frozen" },
                    slot.layer.start_lsn()
                ));
            }
        }
        let files = self.index.visits(key, lsn);
        names.extend(files.map(|visit| self.files.get(visit.hit.layer).name()));
        names.join(", ")
    }

    /// Returns the memory of this version's own structures, in bytes, including shared ones.
    pub(crate) fn memory_bytes(&self) -> usize {
        let slots = self.frozen.capacity() * size_of::<MemSlot>();
        size_of::<LayerMap>() + slots + self.index.memory_bytes() + self.files.memory_bytes()
    }
}

fn shape_of(summary: &LayerSummary) -> LayerShape {
    let kind = match summary.kind {
        LayerKind::Delta => {
            index::LayerKind::Delta { start: summary.lsn_range.start, end: summary.lsn_range.end }
        }
        LayerKind::Image { .. } => index::LayerKind::Image { lsn: summary.lsn_range.start },
    };
    LayerShape { key_range: summary.key_range, kind }
}
