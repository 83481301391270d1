//! [`PageVersions`]: turns a record into page versions, each with its key.
//!
//! | the record has for the page | the version is |
//! |---|---|
//! | an image that redo restores | the image: 8192 bytes, restored and stamped with the record's end |
//! | one that redo restores and then changes | a delta: the whole record, with will_init |
//! | anything else, with or without an image for checking | a delta: the whole record, with the reference's will_init |
//!
//! All versions of a record are at its end Lsn, and a key has one version at an Lsn. A record that
//! names a page twice (none of PostgreSQL's in the captures does) gives one delta for it, whatever
//! images it has: redo finds all of them in the record, and will_init is whether the first of them
//! needs nothing older.

use pagestrata_layers::{Key, Value};

use crate::{
    error::{Error, Result},
    layout::{PAGE_SIZE, Page},
    redo::{managers::changes_restored, page::stamp_lsn, visibility_map},
    wal::{block::BlockRef, image::ImageDecoder, record::Record},
};

/// Turns records into page versions, with buffers that are allocated once.
#[derive(Debug)]
pub struct PageVersions {
    images: ImageDecoder,
    page: Box<Page>,
}

impl Default for PageVersions {
    fn default() -> PageVersions {
        PageVersions::new()
    }
}

impl PageVersions {
    /// With buffers of its own.
    #[must_use]
    pub fn new() -> PageVersions {
        PageVersions { images: ImageDecoder::new(), page: Box::new([0; PAGE_SIZE]) }
    }

    /// Gives `put` the version of each page that `record` names, in the order of its references.
    /// They are at [`Record::end`].
    ///
    /// # Errors
    /// An image that cannot be restored, or what `put` returned; pages before it were put.
    #[inline]
    pub fn versions<E: From<Error>>(
        &mut self,
        record: &Record<'_>,
        mut put: impl FnMut(Key, Value<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let several = record.blocks().len() > 1;
        for block in record.blocks() {
            let key = block.key();
            let mut repeated = false;
            if several {
                let same = |other: &BlockRef<'_>| other.id != block.id && other.key() == key;
                match record.blocks().find(same) {
                    Some(other) if other.id < block.id => continue,
                    other => repeated = other.is_some(),
                }
            }
            match block.applied_image() {
                Some(image) if !repeated && !changes_restored(record, &block) => {
                    self.images.restore(&image, &mut self.page)?;
                    stamp_lsn(&mut self.page, record.end());
                    put(key, Value::Image(&self.page[..]))?;
                }
                image => {
                    let will_init = block.will_init() || image.is_some();
                    put(key, Value::Delta { bytes: record.raw(), will_init })?;
                }
            }
        }
        Ok(())
    }

    /// Gives `put` a delta for each visibility map page that redo of `record` changes although no
    /// block reference names it ([`visibility_map`]); a map page that is named has its version
    /// already.
    ///
    /// The map page need not exist: redo then starts from zeros.
    ///
    /// # Errors
    /// A record too short to say, or what `put` returned.
    #[inline]
    pub fn implied<E: From<Error>>(
        &self,
        record: &Record<'_>,
        mut put: impl FnMut(Key, Value<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let [first, second] = visibility_map::changes(record)?;
        let second = second.filter(|second| first.is_none_or(|first| first.key() != second.key()));
        for change in [first, second].into_iter().flatten() {
            let key = change.key();
            if record.blocks().all(|block| block.key() != key) {
                put(key, Value::Delta { bytes: record.raw(), will_init: false })?;
            }
        }
        Ok(())
    }

    /// Restores the image of one reference, and stamps the page if redo would.
    ///
    /// # Errors
    /// As [`ImageDecoder::restore`].
    pub fn image(&mut self, record: &Record<'_>, block: &BlockRef<'_>) -> Result<Option<&Page>> {
        let Some(image) = block.image else { return Ok(None) };
        self.images.restore(&image, &mut self.page)?;
        if image.apply() {
            stamp_lsn(&mut self.page, record.end());
        }
        Ok(Some(&self.page))
    }
}
