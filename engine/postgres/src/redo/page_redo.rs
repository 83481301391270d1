//! [`PageRedo`]: makes a page from the versions that a store has of it.

use std::sync::Arc;

use pagestrata_layers::{Key, Lsn, PageVersion, Redo, RedoResult};

use crate::{
    error::Error,
    layout::{PAGE_SIZE, Page},
    redo::{apply::redo_at, change::RedoSettings},
    rel::RelPage,
    wal::record::read_record_of,
};

/// Applies records to a page as PostgreSQL's recovery does, for `Guard::page` and its like.
///
/// The base must be an image of 8192 bytes; without one the page starts as zeros. A delta is a
/// whole record; an empty delta leaves the page as it is. Checksums of records are not verified
/// again, because layers and log have their own.
///
/// ```
/// # use pagestrata_layers::{Kind, Lsn, PageVersion, Redo};
/// # use pagestrata_postgres::{PageRedo, RedoSettings, RelPage};
/// let redo = PageRedo::new(RedoSettings { logs_hints: true });
/// let page: RelPage = "1663/5/16384/main/7".parse()?;
/// let nothing = PageVersion { lsn: Lsn(0x40), kind: Kind::Delta { will_init: true }, bytes: &[] };
/// let mut bytes = Vec::new();
/// redo.apply(page.key(), None, &mut [nothing].into_iter(), &mut bytes)?;
/// assert_eq!(bytes, [0; 8192]);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// Settings may change along the log: each record is redone with those that it was written with.
#[derive(Clone, Debug)]
pub struct PageRedo {
    /// Before the first change.
    settings: RedoSettings,
    /// Which settings hold for records that end behind which Lsn; ascending.
    changes: Arc<[(Lsn, RedoSettings)]>,
}

impl PageRedo {
    /// Redo for a cluster whose settings never change.
    #[must_use]
    pub fn new(settings: RedoSettings) -> PageRedo {
        PageRedo { settings, changes: Arc::new([]) }
    }

    /// Redo for a cluster whose settings change.
    ///
    /// Each of `changes` holds for the records that end behind its Lsn, up to the Lsn of the next
    /// change. They may come in any order.
    ///
    /// ```
    /// # use pagestrata_layers::Lsn;
    /// # use pagestrata_postgres::{PageRedo, RedoSettings};
    /// let (off, on) = (RedoSettings { logs_hints: false }, RedoSettings { logs_hints: true });
    /// let redo = PageRedo::with_changes(off, [(Lsn(0x2000), on)]);
    /// assert_eq!(redo.settings_at(Lsn(0x2000)), off);
    /// assert_eq!(redo.settings_at(Lsn(0x2001)), on);
    /// ```
    #[must_use]
    pub fn with_changes(
        settings: RedoSettings,
        changes: impl IntoIterator<Item = (Lsn, RedoSettings)>,
    ) -> PageRedo {
        let mut changes: Vec<(Lsn, RedoSettings)> = changes.into_iter().collect();
        changes.sort_by_key(|(since, _)| *since);
        PageRedo { settings, changes: changes.into() }
    }

    /// Returns the settings for a record that ends at `end`.
    #[must_use]
    #[inline]
    pub fn settings_at(&self, end: Lsn) -> RedoSettings {
        let newest = self.changes.iter().rev().find(|(since, _)| *since < end);
        newest.map_or(self.settings, |(_, settings)| *settings)
    }
}

impl Redo for PageRedo {
    fn apply(
        &self,
        key: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        let of = RelPage::from_key(key)?;
        match base {
            Some(base) => page.extend_from_slice(base),
            None => page.resize(PAGE_SIZE, 0),
        }
        let found = page.len();
        let page: &mut Page =
            (&mut page[..]).try_into().map_err(|_| Error::BaseLength { page: of, found })?;
        for PageVersion { lsn, bytes, .. } in deltas {
            if !bytes.is_empty() {
                let (record, block) = read_record_of(bytes, lsn, of)?;
                redo_at(self.settings_at(lsn), &record, block.as_ref(), of, page)?;
            }
        }
        Ok(())
    }
}
