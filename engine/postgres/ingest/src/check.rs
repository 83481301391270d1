//! Checks what a timeline returns against the oracles of its capture.
//!
//! Pages are compared byte by byte, through a hash, as redo makes them; of the versions of the log,
//! kind, length and record too.

use std::fmt;

use pagestrata::{Guard, Key, Kind, Lsn, PageVersion, Redo, Scratch, Versions};
use pagestrata_postgres::{
    BaseBackup, PAGE_SIZE, Page, PageRedo, RelPage, decode_record, restore_image, stamp_lsn,
};

use crate::{
    Result,
    oracle::{Expected, Hashed, Reference, Sized, raw16},
    pages::key_name,
    sizes::blocks_at,
    text::sha256_hex,
};

/// How many of how many checks held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that held.
    pub good: u64,
    /// All.
    pub checked: u64,
    /// The first one that did not.
    pub first_failure: Option<String>,
}

impl Tally {
    fn add(&mut self, good: bool, failure: impl FnOnce() -> String) {
        self.checked += 1;
        self.good += u64::from(good);
        if !good && self.first_failure.is_none() {
            self.first_failure = Some(failure());
        }
    }

    /// Whether all held.
    #[must_use]
    pub fn all_good(&self) -> bool {
        self.good == self.checked
    }
}

/// `N of M`
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.good, self.checked)
    }
}

/// What the block references of a log were compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceTallies {
    /// Images that redo restores: the page, with its old Lsn put back.
    pub images: Tally,
    /// Other references: kind, length and record of the delta.
    pub deltas: Tally,
    /// Images that are only there for checking, in the deltas that carry them.
    pub checking_images: Tally,
}

/// Checks that each block reference is its page's newest version at the record's end.
///
/// # Errors
/// What reading fails with.
pub fn references(guard: Guard<'_>, references: &[Reference]) -> Result<ReferenceTallies> {
    let (mut tallies, mut scratch) = (ReferenceTallies::default(), Scratch::new());
    for Reference { key, end, expected } in references {
        let versions = guard.history(*key, *end, &mut scratch)?;
        let newest = versions.newest().filter(|newest| newest.lsn == *end);
        let failure =
            || format!("{} at {end}: expected {expected:?}, found {versions:?}", key_name(*key));
        match expected {
            Expected::Image { sha256, pd_lsn } => {
                let good = newest.is_some_and(|newest| {
                    newest.kind == Kind::Image
                        && unstamped_sha256(newest.bytes, pd_lsn.0).as_ref() == Some(sha256)
                });
                tallies.images.add(good, failure);
            }
            Expected::Delta { will_init, length, prev, image_sha256 } => {
                let record = newest.and_then(|newest| decode_record(newest.bytes, *end).ok());
                let good = newest.is_some_and(|newest| {
                    // A page that is not there before needs nothing older, whatever the record
                    // says.
                    matches!(newest.kind, Kind::Delta { will_init: found } if found >= *will_init)
                        && newest.bytes.len() == *length
                }) && record.is_some_and(|record| record.prev() == *prev);
                tallies.deltas.add(good, failure);
                if let Some(sha256) = image_sha256 {
                    let found = newest.and_then(|newest| checking_image(*key, &newest));
                    tallies.checking_images.add(found.as_ref() == Some(sha256), failure);
                }
            }
        }
    }
    Ok(tallies)
}

/// The hash of a page whose Lsn is put back to what it was before redo stamped it.
fn unstamped_sha256(page: &[u8], pd_lsn: u64) -> Option<String> {
    let mut page: Page = page.try_into().ok()?;
    stamp_lsn(&mut page, Lsn(pd_lsn));
    Some(sha256_hex(&page))
}

/// The hash of the image that a record has of a page.
fn checking_image(key: Key, version: &PageVersion<'_>) -> Option<String> {
    let record = decode_record(version.bytes, version.lsn).ok()?;
    let image = record.blocks().find(|block| block.key() == key)?.image?;
    let mut page = Box::new([0; PAGE_SIZE]);
    restore_image(&image, &mut page).ok()?;
    Some(sha256_hex(&page[..]))
}

/// Checks pages against their hashes, each at its Lsn.
///
/// A page's versions are read at each of its Lsns; redo goes on from the page at the Lsn before, as
/// far as the same versions are below.
///
/// # Errors
/// What reading fails with.
pub fn hashed_pages(guard: Guard<'_>, pages: &[Hashed], redo: &PageRedo) -> Result<Tally> {
    let (mut tally, mut scratch) = (Tally::default(), Scratch::new());
    let mut sorted: Vec<&Hashed> = pages.iter().collect();
    sorted.sort_by_key(|hashed| (hashed.key, hashed.lsn));
    let mut made = Made::default();
    for Hashed { key, lsn, raw16: expected } in sorted {
        let page = RelPage::from_key(*key)?;
        let found = match blocks_at(guard, page.rel, *lsn, &mut scratch)? {
            Some(blocks) if page.block < blocks => {
                let versions = guard.history(*key, *lsn, &mut scratch)?;
                match made.go_to(*key, &versions, redo) {
                    Ok(bytes) => raw16(bytes),
                    Err(error) => error.to_string(),
                }
            }
            blocks => format!("{blocks:?} blocks"),
        };
        tally.add(found == *expected, || {
            format!("{page} at {lsn}: expected {expected}, found {found}")
        });
    }
    Ok(tally)
}

/// A page as it was at an Lsn.
#[derive(Default)]
struct Made {
    at: Option<(Key, Lsn)>,
    bytes: Vec<u8>,
}

impl Made {
    fn go_to(
        &mut self,
        key: Key,
        versions: &Versions<'_>,
        redo: &PageRedo,
    ) -> std::result::Result<&[u8], Box<dyn std::error::Error + Send + Sync>> {
        let above = self.at.filter(|(of, _)| *of == key).map(|(_, lsn)| lsn);
        let base = versions.newest_first().next_back().filter(|base| base.kind.is_base());
        // From the page before, unless there is a newer base.
        let from = above.filter(|above| base.is_none_or(|base| base.lsn <= *above));
        let before = from.map(|_| std::mem::take(&mut self.bytes));
        self.bytes.clear();
        self.at = None;
        let base = before
            .as_deref()
            .or_else(|| base.filter(|base| base.kind == Kind::Image).map(|base| base.bytes));
        let is_delta = |found: &PageVersion<'_>| found.kind != Kind::Image;
        let is_new = |found: &PageVersion<'_>| from.is_none_or(|from| found.lsn > from);
        let mut deltas = versions.newest_first().rev().filter(is_delta).filter(is_new);
        redo.apply(key, base, &mut deltas, &mut self.bytes)?;
        self.at = versions.newest().map(|newest| (key, newest.lsn));
        Ok(&self.bytes)
    }
}

/// Checks how many blocks forks have, each at its Lsn; none: it is gone.
///
/// # Errors
/// What reading fails with.
pub fn sizes(guard: Guard<'_>, sizes: &[Sized]) -> Result<Tally> {
    let (mut tally, mut scratch) = (Tally::default(), Scratch::new());
    for Sized { rel, lsn, blocks } in sizes {
        let found = blocks_at(guard, *rel, *lsn, &mut scratch)?;
        tally.add(found == *blocks, || {
            format!("{rel} at {lsn}: expected {blocks:?}, found {found:?}")
        });
    }
    Ok(tally)
}

/// Checks that the pages of a base are images where it starts.
///
/// # Errors
/// What reading fails with.
pub fn base_pages(guard: Guard<'_>, base: &BaseBackup) -> Result<Tally> {
    let (mut tally, mut scratch) = (Tally::default(), Scratch::new());
    let (mut pages, lsn) = (base.pages(), base.start_lsn());
    while let Some((key, page)) = pages.next_page()? {
        let versions = guard.history(key, lsn, &mut scratch)?;
        let expected = PageVersion { lsn, kind: Kind::Image, bytes: page };
        tally.add(versions.len() == 1 && versions.newest() == Some(expected), || {
            format!("{} at {lsn}: expected the base's page, found {versions:?}", key_name(key))
        });
    }
    Ok(tally)
}
