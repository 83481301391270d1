//! [`NewLayer`]: a layer file that is being written and made durable.

use std::{ops::Range, path::PathBuf};

use pagestrata_layers::{
    Key, KeyRange, Lsn, Value,
    layer_file::{LayerId, LayerKind, LayerWriter, Tombstone, WriterOptions},
    manifest::edit::LayerRecord,
};

use crate::{
    error::Result,
    layer_map::file_names::{layer_file_name, marker_name, temporary_name},
    state::timeline::TimelineShared,
};

/// A layer file under a temporary name, removed on drop unless it is finished.
///
/// Its marker lies beside it until the manifest names the layer; see `store/leftovers.rs`.
pub(crate) struct NewLayer<'t> {
    timeline: &'t TimelineShared,
    temporary: PathBuf,
    marker: PathBuf,
    /// Taken by [`NewLayer::finish`].
    writer: Option<LayerWriter>,
    level: u8,
}

impl<'t> NewLayer<'t> {
    pub(crate) fn create(
        timeline: &'t TimelineShared,
        kind: LayerKind,
        level: u8,
    ) -> Result<NewLayer<'t>> {
        let store = &timeline.store;
        assert!(!store.reads_only, "a store that is only read is not written");
        let sequence = store.take_sequence()?;
        let id = LayerId { store: store.id, timeline: timeline.number, sequence };
        let temporary = timeline.dir.join(temporary_name(sequence));
        let marker = timeline.dir.join(marker_name(sequence));
        let options = WriterOptions {
            block_size_target_bytes: store.options.block_size_target_bytes,
            compression: store.options.compression,
        };
        let _directory = store.lock_directory()?;
        drop(store.storage.create(&marker)?);
        let mut new = NewLayer { timeline, temporary, marker, writer: None, level };
        match LayerWriter::create(&*store.storage, &new.temporary, id, kind, options) {
            Ok(writer) => new.writer = Some(writer),
            Err(error) => {
                new.remove();
                return Err(error.into());
            }
        }
        Ok(new)
    }

    /// Adds a version. Versions must come in order of (Key, Lsn).
    pub(crate) fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<()> {
        Ok(self.writer.as_mut().expect("not finished").put(key, lsn, value)?)
    }

    /// Adds a delta and the page that it results in.
    pub(crate) fn put_with_page(
        &mut self,
        key: Key,
        lsn: Lsn,
        delta: Value<'_>,
        page: &[u8],
    ) -> Result<()> {
        let writer = self.writer.as_mut().expect("not finished");
        Ok(writer.put_with_page(key, lsn, delta, page)?)
    }

    /// Returns the length of the file so far, in bytes.
    pub(crate) fn file_len(&self) -> u64 {
        self.writer.as_ref().map_or(0, LayerWriter::file_len)
    }

    /// Makes the file durable under its own name: footer, sync, sync of the directory with its
    /// marker, rename, sync of the directory. `retired_files::unmark` must remove the marker once
    /// the manifest names the layer.
    pub(crate) fn finish(
        mut self,
        key_range: KeyRange,
        lsn_range: Range<Lsn>,
        tombstones: &[Tombstone],
    ) -> Result<LayerRecord> {
        assert!(
            !key_range.is_empty() && lsn_range.start < lsn_range.end,
            "a layer covers something"
        );
        let writer = self.writer.take().expect("finished once");
        let finished = writer.finish(key_range, lsn_range, tombstones);
        let _directory = self.timeline.store.lock_directory()?;
        let mut is_named = false;
        let finished = finished.and_then(|summary| {
            debug_assert_eq!(summary.id.timeline, self.timeline.number);
            let record = LayerRecord { level: self.level, summary };
            let (storage, dir) = (&*self.timeline.store.storage, &self.timeline.dir);
            let path = dir.join(layer_file_name(&record));
            let sync_dir = || match cfg!(planted_bug = "no_dir_sync") {
                true => Ok(()),
                false => storage.sync_dir(dir),
            };
            // Without its marker, open would take a finished file for one that a lost manifest
            // named.
            sync_dir()?;
            is_named = true;
            let named = storage.rename(&self.temporary, &path).and_then(|()| sync_dir());
            if named.is_err() {
                // No manifest names the file, and the next try uses another name: repeated failures
                // must leave no files.
                let _ = storage.remove(&path);
                is_named = storage.exists(&path).unwrap_or(true) || sync_dir().is_err();
            }
            named.map(|()| record)
        });
        match finished {
            Ok(_) => {}
            // Whether the rename survives a crash is unknown: the marker stays for the next open.
            Err(_) if is_named => drop(self.timeline.store.storage.remove(&self.temporary)),
            Err(_) => self.remove(),
        }
        Ok(finished?)
    }

    /// Best effort: the next open removes what is left.
    fn remove(&self) {
        let storage = &self.timeline.store.storage;
        let _ = storage.remove(&self.temporary);
        let _ = storage.remove(&self.marker);
    }
}

/// Puts markers beside layers that an edit is about to take from the manifest, durably: what is
/// left of them then is known to be of no use.
pub(crate) fn mark_removed(timeline: &TimelineShared, sequences: &[u64]) -> Result<()> {
    if sequences.is_empty() {
        return Ok(());
    }
    let storage = &timeline.store.storage;
    let _directory = timeline.store.lock_directory()?;
    for &sequence in sequences {
        let marker = timeline.dir.join(marker_name(sequence));
        // A try that failed may have left it.
        if !storage.exists(&marker)? {
            drop(storage.create(&marker)?);
        }
    }
    Ok(storage.sync_dir(&timeline.dir)?)
}

impl Drop for NewLayer<'_> {
    fn drop(&mut self) {
        if self.writer.is_some()
            && !self.timeline.store.is_inherited()
            && let Ok(_directory) = self.timeline.store.lock_directory()
        {
            self.remove();
        }
    }
}
