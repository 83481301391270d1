//! Publishing an edit: the only way to change the set of a timeline's layer files.
//!
//! Order: open the files; put markers beside files that go (see `leftovers`); append the edit to
//! the manifest and sync; remove the markers of files that came; publish the next layer map; retire
//! the in-memory layer and the files that it replaces. The caller then frees the log below the edit
//! ([`StoreShared::free_log`]). Retired files are removed when no map holds them any more
//! ([`TimelineShared::reclaim`]).
//!
//! **Invariant:** the manifest never names a file that cannot be read back, and a map never names a
//! file that the manifest does not.
//!
//! [`StoreShared::free_log`]: crate::state::store::StoreShared::free_log

use std::sync::Arc;

use pagestrata_layers::{
    Lsn,
    manifest::edit::{Edit, LayerRecord},
};

use crate::{
    error::Result,
    jobs::new_layer::mark_removed,
    layer_map::{LayerMap, MemSlot, file_layers::FileLayer},
    state::{
        retired_files::unmark,
        timeline::{RetiredLayer, TimelineShared},
    },
};

/// An edit of a timeline's layers.
pub(crate) struct LayerEdit<'e> {
    /// The layer files that it adds, durable under their names.
    pub(crate) added: &'e [LayerRecord],
    /// The sequence numbers of the files that it removes.
    pub(crate) removed: &'e [u64],
    /// For an edit that adds what was in memory: once it is durable, everything up to this Lsn is
    /// in layer files, and this is the first segment of the log that is still needed, if known.
    pub(crate) consistent: Option<(Lsn, Option<u32>)>,
}

impl TimelineShared {
    /// Makes an edit durable and publishes it. `append` appends it to the manifest. `replace` is
    /// called after that, with the number of the next map: it changes that map and returns the
    /// in-memory layer that the map no longer holds.
    ///
    /// # Errors
    /// Those of opening the files, and those of `append`. After an error of `append`, whether the
    /// edit is durable is unknown. Nothing is published in either case.
    pub(crate) fn publish_edit(
        &self,
        edit: &LayerEdit<'_>,
        append: impl FnOnce(&[Edit]) -> Result<()>,
        replace: impl FnOnce(&mut LayerMap, u64) -> Option<MemSlot>,
    ) -> Result<()> {
        let &LayerEdit { added, removed, consistent } = edit;
        let before = self.disk_consistent_lsn();
        let lsn = consistent.map_or(before, |(lsn, _)| lsn);
        assert!(lsn >= before, "the disk-consistent Lsn never goes back");
        for LayerRecord { summary, .. } in added {
            assert!(summary.lsn_range.end <= lsn.next(), "a layer holds nothing above its edit");
            let (id, own) = (&summary.id, (self.store.id, self.number));
            assert_eq!((id.store, id.timeline), own, "a layer is of this timeline");
            debug_assert!(!summary.key_range.is_empty() && summary.file_len > 0);
        }
        let open =
            |record: &LayerRecord| FileLayer::open(&self.store.access, &self.dir, record.clone());
        let files = added.iter().map(open).collect::<Result<Vec<_>>>()?;
        let added_edits = added.iter().cloned().map(Edit::AddLayer);
        let timeline = self.number;
        let gone = removed.iter().map(|&sequence| Edit::RemoveLayer { timeline, sequence });
        let moved = consistent.map(|(lsn, _)| Edit::DiskConsistent { timeline, lsn });
        let log_start = consistent.and_then(|(_, start)| start).map(Edit::LogStart);
        let edits: Vec<Edit> = gone.chain(added_edits).chain(moved).chain(log_start).collect();
        mark_removed(self, removed)?;
        append(&edits)?;
        // Not once another store has the directory: a marker there may be its own.
        if let Ok(_directory) = self.store.lock_directory() {
            added.iter().for_each(|record| unmark(self, record));
        }
        let mut edits = self.edits.lock();
        let last_number = self.published.number();
        let files: Vec<_> =
            files.into_iter().map(|file| (edits.take_slot(&file), Arc::new(file))).collect();
        let gone: Vec<_> = removed.iter().map(|&sequence| edits.free_slot(sequence)).collect();
        let mut retired = None;
        self.published.publish(|map| {
            edits.retired_files.extend(gone.iter().map(|&slot| map.files.get(slot).clone()));
            let mut next = map.with_edit(files.into_iter(), &gone);
            retired = replace(&mut next, last_number + 1);
            let count = map.index.layer_count() + added.len() - removed.len();
            debug_assert_eq!(next.index.layer_count(), count);
            verify!(next.is_sound(), "layers in memory are above each other and above all files");
            next
        });
        edits.retired.extend(retired.map(|slot| RetiredLayer { slot, last_number }));
        Ok(())
    }
}
