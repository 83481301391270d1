//! [`ImageImport`]: writes the pages of a base backup straight into image layers.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use pagestrata_layers::{
    Key, KeyRange, Lsn, OpenLayer, VALUE_LEN_MAX, Value,
    layer_file::LayerKind,
    manifest::edit::{Edit, LayerRecord},
};

use crate::{
    error::{Error, Result},
    jobs::{new_layer::NewLayer, publish_edit::LayerEdit},
    layer_map::MemSlot,
    reports::ImportReport,
    state::timeline::TimelineShared,
};

/// An import of images at one Lsn. Nothing of it is visible until [`ImageImport::finish`]. If it is
/// dropped before that, its files are removed by the next open of the store.
pub struct ImageImport<'l> {
    timeline: &'l Arc<TimelineShared>,
    writer: &'l mut OpenLayer,
    lsn: Lsn,
    /// The image layer that is being written.
    current: Option<Current<'l>>,
    /// The layers that are durable under their names.
    records: Vec<LayerRecord>,
    /// The last key of the import so far.
    last: Option<Key>,
    /// Images may be missing: the import can no longer be finished.
    failed: bool,
    images: u64,
    image_bytes: u64,
}

struct Current<'l> {
    file: NewLayer<'l>,
    first: Key,
    last: Key,
}

impl Current<'_> {
    fn finish(self, lsn: Lsn) -> Result<LayerRecord> {
        self.file.finish(KeyRange::inclusive(self.first, self.last), lsn..lsn.next(), &[])
    }
}

impl<'l> ImageImport<'l> {
    pub(crate) fn new(
        timeline: &'l Arc<TimelineShared>,
        writer: &'l mut OpenLayer,
        lsn: Lsn,
    ) -> ImageImport<'l> {
        assert!(lsn > writer.last_lsn(), "images are imported above everything");
        debug_assert!(!writer.has_pending());
        ImageImport {
            timeline,
            writer,
            lsn,
            current: None,
            records: Vec::new(),
            last: None,
            failed: false,
            images: 0,
            image_bytes: 0,
        }
    }

    /// Adds an image. Keys must be in ascending order.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] and [`Error::ValueTooLong`] leave the import as it was. After any
    /// other error images may be missing, and every further call fails.
    pub fn put(&mut self, key: Key, image: &[u8]) -> Result<()> {
        self.check()?;
        if let Some(last) = self.last.filter(|&last| key <= last) {
            let (previous, found) = (last.to_string(), key.to_string());
            return Err(Error::OutOfOrder { previous, found });
        }
        let len = image.len();
        if len > VALUE_LEN_MAX {
            return Err(Error::ValueTooLong { len });
        }
        self.failed = true;
        self.add(key, image)?;
        self.failed = false;
        self.last = Some(key);
        self.images += 1;
        self.image_bytes += len as u64;
        Ok(())
    }

    fn add(&mut self, key: Key, image: &[u8]) -> Result<()> {
        let full = self.timeline.store.options.image_layer_size_max_bytes;
        if self.current.as_ref().is_some_and(|current| current.file.file_len() >= full) {
            self.finish_layer()?;
        }
        let current = match &mut self.current {
            Some(current) => current,
            none => {
                let kind = LayerKind::Image { complete: false };
                let file = NewLayer::create(self.timeline, kind, 0)?;
                none.insert(Current { file, first: key, last: key })
            }
        };
        current.file.put(key, self.lsn, Value::Image(image))?;
        current.last = key;
        Ok(())
    }

    fn finish_layer(&mut self) -> Result<()> {
        if let Some(current) = self.current.take() {
            self.records.push(current.finish(self.lsn)?);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.timeline.store.is_inherited() {
            return Err(Error::Closed);
        }
        if self.failed {
            let source = std::io::Error::other("it failed before");
            let error = pagestrata_layers::Error::io(
                "go on with the import in",
                &self.timeline.dir,
                source,
            );
            return Err(error.into());
        }
        Ok(())
    }

    /// Makes all images durable and then visible at once, and commits their Lsn.
    ///
    /// # Errors
    /// [`Error::Layers`](crate::Error::Layers): nothing is visible.
    pub fn finish(mut self) -> Result<ImportReport> {
        self.check()?;
        self.finish_layer()?;
        let starts = self.records.iter().map(|record| record.summary.key_range.start);
        debug_assert!(starts.is_sorted_by(|left, right| left < right), "image layers are disjoint");
        let timeline = self.timeline;
        let report = ImportReport {
            images: self.images,
            image_bytes: self.image_bytes,
            layers: self.records.len() as u64,
            file_bytes: self.records.iter().map(|record| record.summary.file_len).sum(),
        };
        let log_start = timeline.store.log_start_after(timeline.number, self.lsn);
        let consistent = Some((self.lsn, log_start));
        let edit = LayerEdit { added: &self.records, removed: &[], consistent };
        let next = OpenLayer::new(self.lsn.next(), &timeline.store.pool);
        debug_assert!(self.writer.layer().is_empty() && !self.writer.has_pending());
        let append = |edits: &[Edit]| timeline.store.append_in_doubt(edits);
        timeline.publish_edit(&edit, append, |map, since| {
            // The empty open layer stays at its Lsn: earlier pins of it see nothing of the import.
            let open = MemSlot { layer: next.layer().clone(), since };
            Some(std::mem::replace(&mut map.open, open))
        })?;
        *self.writer = next;
        timeline.last_record_lsn.store(self.lsn.0, Ordering::Release);
        timeline.waiters.reached(self.lsn);
        timeline.disk_consistent_lsn.store(self.lsn.0, Ordering::Release);
        timeline.wake_reclaimer();
        timeline.store.free_log(log_start, timeline.number, self.lsn);
        Ok(report)
    }
}

impl fmt::Debug for ImageImport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageImport")
            .field("lsn", &self.lsn)
            .field("images", &self.images)
            .finish_non_exhaustive()
    }
}
