//! [`Consistency`]: redo against the images that records have for checking (`wal_consistency_checking`), record by record.

use pagestrata::{Reader, Scratch, Timeline};
use pagestrata_postgres::{ImageDecoder, PAGE_SIZE, Page, PageRedo, Record, RelPage, mask_page};
use serde::Serialize;

use crate::{Error, Result, record_name::record_name};

/// How much was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsistencyTally {
    /// Images that equal the page as redo left it, by PostgreSQL's masking rules.
    pub images: u64,
    /// Of these, those that do so without.
    pub exact: u64,
}

/// Compares pages with images.
pub(crate) struct Consistency {
    reader: Reader,
    scratch: Scratch,
    redo: PageRedo,
    images: ImageDecoder,
}

impl Consistency {
    pub(crate) fn new(timeline: &Timeline, redo: PageRedo) -> Consistency {
        let (reader, scratch) = (timeline.reader(), Scratch::new());
        Consistency { reader, scratch, redo, images: ImageDecoder::new() }
    }

    /// Redoes the records to come with this.
    pub(crate) fn set_redo(&mut self, redo: PageRedo) {
        self.redo = redo;
    }

    /// Compares the pages of a record that is committed.
    ///
    /// # Errors
    /// [`Error::Inconsistent`], and what reading fails with.
    pub(crate) fn check(
        &mut self,
        record: &Record<'_>,
        tally: &mut ConsistencyTally,
    ) -> Result<()> {
        let guard = self.reader.pin();
        for block in record.blocks() {
            let Some(image) = block.image.filter(|image| !image.apply()) else { continue };
            let mut expected = [0; PAGE_SIZE];
            self.images.restore(&image, &mut expected)?;
            let page = guard.page(block.key(), record.end(), &self.redo, &mut self.scratch)?;
            let of = RelPage { rel: block.rel, block: block.block };
            let mut found: Page = page[..]
                .try_into()
                .map_err(|_| Error::Inconsistent(Box::new(Inconsistency::at(record, of, 0))))?;
            // Lsn and checksum are written later.
            tally.exact += u64::from(expected[10..] == found[10..]);
            mask_page(record.manager(), block.block, &mut expected);
            mask_page(record.manager(), block.block, &mut found);
            if let Some(byte) = expected.iter().zip(&found).position(|(a, b)| a != b) {
                let at = Inconsistency {
                    expected: expected[byte],
                    found: found[byte],
                    ..Inconsistency::at(record, of, byte)
                };
                return Err(Error::Inconsistent(Box::new(at)));
            }
            tally.images += 1;
        }
        Ok(())
    }
}

/// A page that redo made otherwise than PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "redo of {record} at {lsn} made another page {page} than PostgreSQL: byte {byte} is {found:#04X}, expected {expected:#04X}"
)]
pub struct Inconsistency {
    /// What the record is called.
    pub record: String,
    /// Its start.
    pub lsn: pagestrata::Lsn,
    /// Which page.
    pub page: RelPage,
    /// The first byte that is not equal, by the masking rules.
    pub byte: usize,
    /// What it should be.
    pub expected: u8,
    /// What it is.
    pub found: u8,
}

impl Inconsistency {
    fn at(record: &Record<'_>, page: RelPage, byte: usize) -> Inconsistency {
        let (name, lsn) = (record_name(record), record.lsn());
        Inconsistency { record: name, lsn, page, byte, expected: 0, found: 0 }
    }
}
