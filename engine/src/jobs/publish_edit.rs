//! Publishing an edit: the one way in which the set of a timeline's layer files changes.
//!
//! Order: the files are opened, files that go get markers (see `leftovers`), the edit is appended
//! to the manifest and synced, markers of the files that came are removed, the next layer map is
//! published, the layer in memory and the files that it replaces are retired. The caller then frees
//! the log below the edit ([`StoreShared::free_log`]). Retired files are removed when no map holds
//! them any more ([`TimelineShared::reclaim`]).
//!
//! **Invariant:** a file that cannot be read back is never named by the manifest, and a map never
//! names a file that the manifest does not.
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
    /// The sequence numbers of those that it takes out.
    pub(crate) removed: &'e [u64],
    /// Of an edit that adds what was in memory: everything up to this Lsn is in layer files once it
    /// is durable, and the segment at which the log begins from then on, if that is known.
    pub(crate) consistent: Option<(Lsn, Option<u32>)>,
}

impl TimelineShared {
    /// Makes an edit durable and publishes it. `append` gives the edits to the manifest. `replace`
    /// is called after that: it changes the next map, whose number it is given, and returns the
    /// layer in memory that the map no longer holds.
    ///
    /// # Errors
    /// Those of opening the files, and those of `append`: whether the edit is durable is not known
    /// then, and nothing is published.
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
        added.iter().for_each(|record| unmark(self, record));
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
