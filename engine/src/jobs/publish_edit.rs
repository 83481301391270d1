//! Publishing an edit: the only way to change the set of a timeline's layer files.
//!
//! Order: open the files; append the edit to the manifest and sync; remove markers; publish the
//! next layer map; retire the in-memory layer that it replaces. The caller then frees the log below
//! the edit ([`StoreShared::free_log`]).
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
    jobs::new_layer::unmark,
    layer_map::{LayerMap, MemSlot, file_layers::FileLayer},
    state::timeline::{RetiredLayer, TimelineShared},
};

/// An edit of a timeline's layers.
pub(crate) struct LayerEdit<'e> {
    /// The layer files that it adds, durable under their names.
    pub(crate) added: &'e [LayerRecord],
    /// Once the edit is durable, everything up to here is in layer files.
    pub(crate) lsn: Lsn,
    /// The first segment of the log that is still needed then, if known.
    pub(crate) log_start: Option<u32>,
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
        replace: impl FnOnce(&mut LayerMap, u64) -> MemSlot,
    ) -> Result<()> {
        let &LayerEdit { added, lsn, log_start } = edit;
        assert!(lsn >= self.disk_consistent_lsn(), "the disk-consistent Lsn never goes back");
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
        let consistent = Edit::DiskConsistent { timeline: self.number, lsn };
        let edits: Vec<Edit> =
            added_edits.chain([consistent]).chain(log_start.map(Edit::LogStart)).collect();
        append(&edits)?;
        added.iter().for_each(|record| unmark(self, record));
        let mut edits = self.edits.lock();
        let last_number = self.published.number();
        let files: Vec<_> =
            files.into_iter().map(|file| (edits.take_slot(), Arc::new(file))).collect();
        let mut retired = None;
        self.published.publish(|map| {
            let mut next = map.with_files(files.into_iter());
            retired = Some(replace(&mut next, last_number + 1));
            debug_assert_eq!(next.index.layer_count(), map.index.layer_count() + added.len());
            verify!(next.is_sound(), "layers in memory are above each other and above all files");
            next
        });
        edits.retired.extend(retired.map(|slot| RetiredLayer { slot, last_number }));
        Ok(())
    }
}
