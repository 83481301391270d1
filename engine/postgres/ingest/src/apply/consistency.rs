//! [`Consistency`]: redo against the images that records have for checking
//! (`wal_consistency_checking`), record by record.
//!
//! A page that was compared is kept, and the records that come for it are redone on it as they are
//! put: each once, and not all of a page's records for each image. At the end, what is kept is
//! compared with what the timeline makes of all records of a page at once.

use pagestrata::{Key, Kind, Lsn, PageVersion, Reader, Redo as _, Scratch, Timeline, Value};
use pagestrata_postgres::{
    ImageDecoder, PAGE_SIZE, Page, PageRedo, Record, RelPage, mask_page, record_name,
};
use serde::Serialize;

use super::made_pages::MadePages;
use crate::{Error, Inconsistency, Result, pages::key_name};

/// How many pages are kept: 128 MiB of them.
const PAGES_MAX: usize = 16_384;

/// How much was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsistencyTally {
    /// Images that equal the page as redo left it, by PostgreSQL's masking rules.
    pub images: u64,
    /// Of these, those that do so without.
    pub exact: u64,
    /// How many records were redone for that, a record that changes two pages twice. It grows with
    /// the number of records, and not with its square.
    pub redone: u64,
}

/// Compares pages with images.
pub(crate) struct Consistency {
    reader: Reader,
    scratch: Scratch,
    redo: PageRedo,
    images: ImageDecoder,
    made: MadePages,
    /// A page that is being made.
    next: Vec<u8>,
    /// Records that were redone on pages that are kept.
    redone: u64,
}

impl Consistency {
    pub(crate) fn new(timeline: &Timeline, redo: PageRedo) -> Consistency {
        Consistency {
            reader: timeline.reader(),
            scratch: Scratch::new(),
            redo,
            images: ImageDecoder::new(),
            made: MadePages::new(PAGES_MAX),
            next: Vec::new(),
            redone: 0,
        }
    }

    /// Redoes the records to come with this.
    pub(crate) fn set_redo(&mut self, redo: PageRedo) {
        self.redo = redo;
    }

    /// Makes the change of a page that is kept; to be called for each version that is put, in their
    /// order.
    pub(crate) fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) {
        let Some(page) = self.made.get(key) else { return };
        match value {
            Value::Image(bytes) => bytes.clone_into(page),
            Value::Delta { bytes, will_init } => {
                let delta = PageVersion { lsn, kind: Kind::Delta { will_init }, bytes };
                let base = (!will_init).then_some(&page[..]);
                self.next.clear();
                let done = self.redo.apply(key, base, &mut [delta].into_iter(), &mut self.next);
                self.redone += 1;
                match done {
                    Ok(()) => std::mem::swap(page, &mut self.next),
                    // A read of the page says what is wrong.
                    Err(_) => self.made.remove(key),
                }
            }
        }
    }

    /// Forgets the blocks of an object from here on, which are gone.
    pub(crate) fn drop_blocks(&mut self, object: u128, first_block: u32) {
        self.made.remove_range(Key::new(object, first_block)..Key::new(object + 1, 0));
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
        for block in record.blocks() {
            let Some(image) = block.image.filter(|image| !image.apply()) else { continue };
            let mut expected = [0; PAGE_SIZE];
            self.images.restore(&image, &mut expected)?;
            let of = RelPage { rel: block.rel, block: block.block };
            let mut found: Page = self
                .page(block.key(), record.end())?
                .try_into()
                .map_err(|_| Error::Inconsistent(Box::new(inconsistency(record, of, 0))))?;
            // Lsn and checksum are written later.
            tally.exact += u64::from(expected[10..] == found[10..]);
            mask_page(record.manager(), block.block, &mut expected);
            mask_page(record.manager(), block.block, &mut found);
            if let Some(byte) = expected.iter().zip(&found).position(|(a, b)| a != b) {
                let at = Inconsistency {
                    expected: expected[byte],
                    found: found[byte],
                    ..inconsistency(record, of, byte)
                };
                return Err(Error::Inconsistent(Box::new(at)));
            }
            tally.images += 1;
        }
        tally.redone = self.redone + self.scratch.all_reads().versions;
        Ok(())
    }

    /// The page at `lsn`, behind which nothing was put; kept from now on.
    fn page(&mut self, key: Key, lsn: Lsn) -> Result<&[u8]> {
        if self.made.get(key).is_none() {
            let page = self.reader.pin().page(key, lsn, &self.redo, &mut self.scratch)?;
            self.made.insert(key, page[..].to_vec());
        }
        Ok(self.made.get(key).map_or(&[][..], |page| &page[..]))
    }

    /// Compares the pages that are kept, each made record by record, with what the timeline makes
    /// of all their records.
    ///
    /// # Errors
    /// [`Error::Mismatch`], and what reading fails with.
    pub(crate) fn finish(&mut self, tally: &mut ConsistencyTally) -> Result<()> {
        let guard = self.reader.pin();
        let lsn = guard.last_record_lsn();
        let (mut checked, mut failed, mut first) = (0, 0, None);
        for (key, page) in self.made.iter() {
            checked += 1;
            let whole = guard.page(key, lsn, &self.redo, &mut self.scratch)?;
            if whole[..] != *page {
                failed += 1;
                first.get_or_insert(key);
            }
        }
        tally.redone = self.redone + self.scratch.all_reads().versions;
        match first {
            None => Ok(()),
            Some(key) => {
                let first = format!(
                    "{} at {lsn}: redo of its records one by one made another page than of all at once",
                    key_name(key)
                );
                Err(Error::Mismatch { failed, checked, first })
            }
        }
    }
}

/// The place of an inconsistency, with the values of its byte not filled in.
fn inconsistency(record: &Record<'_>, page: RelPage, byte: usize) -> Inconsistency {
    let (name, lsn) = (record_name(record), record.lsn());
    Inconsistency { record: name, lsn, page, byte, expected: 0, found: 0 }
}
