//! [`PageRedo`]: a page from the versions that a store has of it.

use pagestrata_layers::{Key, PageVersion, Redo, RedoResult};

use super::{RedoSettings, redo_at};
use crate::{Error, PAGE_SIZE, Page, RelPage, record::read_record_of};

/// Applies records to a page as PostgreSQL's recovery does, for `Guard::page` and its like.
///
/// A base is an image of 8192 bytes; without one the page starts as zeros. A delta is a whole record, or nothing: then the page stays as it is.
/// The records' checksums are not computed again: layers and log have their own.
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
#[derive(Clone, Copy, Debug)]
pub struct PageRedo {
    settings: RedoSettings,
}

impl PageRedo {
    /// For the pages of a cluster with these settings.
    #[must_use]
    pub const fn new(settings: RedoSettings) -> PageRedo {
        PageRedo { settings }
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
                redo_at(self.settings, &record, block.as_ref(), of, page)?;
            }
        }
        Ok(())
    }
}
