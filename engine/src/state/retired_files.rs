//! Layer files that are out of the map: removed when nothing holds them any more.
//!
//! **Invariant:** a marker lies beside such a file, durably, before the manifest stops naming it
//! (`store/leftovers.rs` says what a marker means), and stays until the removal of the file is
//! durable. Whatever a crash leaves, the next open removes.

use std::sync::Arc;

use pagestrata_layers::manifest::edit::LayerRecord;

use crate::{
    layer_map::{
        file_layers::FileLayer,
        file_names::{layer_file_name, marker_name},
    },
    state::timeline::TimelineShared,
};

/// Removes the marker of a layer that the manifest names, or whose file is gone for good.
pub(crate) fn unmark(timeline: &TimelineShared, record: &LayerRecord) {
    let marker = timeline.dir.join(marker_name(record.summary.id.sequence));
    // At best: beside a layer that the manifest names it means nothing, and the next open removes
    // it.
    let _ = timeline.store.storage.remove(&marker);
}

/// Removes layer files that have markers and that no manifest names, and then the markers. What
/// cannot be removed is left to the next open.
pub(crate) fn remove_marked(timeline: &TimelineShared, records: &[LayerRecord]) {
    let storage = &timeline.store.storage;
    let Ok(_directory) = timeline.store.lock_directory() else { return };
    let mut removed = Vec::with_capacity(records.len());
    for record in records {
        if storage.remove(&timeline.dir.join(layer_file_name(record))).is_ok() {
            removed.push(record);
        }
    }
    if storage.sync_dir(&timeline.dir).is_ok() {
        removed.into_iter().for_each(|record| unmark(timeline, record));
    }
}

/// Takes out of `retired` the files that nothing else holds. To drop one unmaps it, which takes
/// time.
pub(super) fn take_unheld(retired: &mut Vec<Arc<FileLayer>>) -> Vec<FileLayer> {
    let mut unheld = Vec::new();
    for mut file in std::mem::take(retired) {
        // A load before the fence of `try_unwrap`, as in `Published::reclaim`.
        let _ = Arc::get_mut(&mut file);
        match Arc::try_unwrap(file) {
            Ok(file) => unheld.push(file),
            Err(file) => retired.push(file),
        }
    }
    unheld
}
