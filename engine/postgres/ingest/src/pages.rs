//! Pages of a timeline as redo makes them, and what their keys are called.

use pagestrata::{Guard, Key, Lsn, Scratch};
use pagestrata_postgres::{Error as PostgresError, PAGE_SIZE, Page, PageRedo, RelPage};

use crate::{Error, Result, sizes::blocks_at};

/// Returns a key in PostgreSQL's words, or in the engine's if it is no relation's page.
#[must_use]
pub fn key_name(key: Key) -> String {
    RelPage::from_key(key).map_or_else(|_| key.to_string(), |page| page.to_string())
}

/// Returns a page, and the Lsn of its newest version; none: it was never written and is zeros.
///
/// It does not ask whether the timeline is consistent at `lsn`:
/// [`Identity::at`](crate::identity::Identity::at) does.
///
/// # Errors
/// [`Error::NoPage`] for one that is not in its fork at that Lsn, and what reading and redo fail
/// with.
pub fn page_at(
    guard: Guard<'_>,
    page: RelPage,
    lsn: Lsn,
    redo: &PageRedo,
    scratch: &mut Scratch,
) -> Result<(Box<Page>, Option<Lsn>)> {
    let no_page = |why: String| Error::NoPage { page, lsn, why };
    let blocks = blocks_at(guard, page.rel, lsn, scratch)?;
    let blocks = blocks.ok_or_else(|| no_page(format!("no {} then", page.rel)))?;
    if page.block >= blocks {
        return Err(no_page(format!("{} has {blocks} blocks then", page.rel)));
    }
    let version_lsn = guard.history(page.key(), lsn, scratch)?.newest().map(|newest| newest.lsn);
    let mut bytes = Box::new([0; PAGE_SIZE]);
    if version_lsn.is_some() {
        *bytes = stored_page(guard, page, lsn, redo, scratch)?;
    }
    Ok((bytes, version_lsn))
}

fn stored_page(
    guard: Guard<'_>,
    page: RelPage,
    lsn: Lsn,
    redo: &PageRedo,
    scratch: &mut Scratch,
) -> Result<Page> {
    let found = guard.page(page.key(), lsn, redo, scratch)?;
    let found: &Page =
        found[..].try_into().map_err(|_| PostgresError::BaseLength { page, found: found.len() })?;
    Ok(*found)
}

/// Reads the pages of one Lsn.
pub(crate) struct PageSource<'g> {
    pub(crate) guard: Guard<'g>,
    pub(crate) lsn: Lsn,
    pub(crate) redo: PageRedo,
    pub(crate) scratch: Scratch,
}

impl PageSource<'_> {
    /// Returns a page that has a version.
    pub(crate) fn read(&mut self, page: RelPage) -> Result<Page> {
        stored_page(self.guard, page, self.lsn, &self.redo, &mut self.scratch)
    }
}

/// A page that cannot be redone and was passed over.
#[derive(Debug)]
#[non_exhaustive]
pub struct SkippedPage {
    /// Which page.
    pub page: RelPage,
    /// Why it cannot be redone.
    pub reason: pagestrata::Error,
}

impl SkippedPage {
    /// Returns the page and the error if it is redo that failed, and the error as it is otherwise.
    pub(crate) fn of(page: RelPage, error: Error) -> Result<SkippedPage> {
        match error {
            Error::Engine(reason @ pagestrata::Error::Redo { .. }) => {
                Ok(SkippedPage { page, reason })
            }
            error => Err(error),
        }
    }
}
