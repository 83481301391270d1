//! Redo: what a record makes of a page, as PostgreSQL's recovery does it, in this process and
//! without one of PostgreSQL's.
//!
//! ```text
//! base image, or a page of zeros -> for each record
//!     by the block reference that names the page:
//!         an image that is restored | the access method's own change of the page (of few, both)
//!         -> the record's end is stamped
//!     without one: the visibility map bits that it clears
//! ```
//!
//! | file | what | after |
//! |---|---|---|
//! | `heap.rs` | heap, both managers | `access/heap/heapam.c` |
//! | `btree.rs` | B-trees | `access/nbtree/nbtxlog.c` |
//! | `gin.rs` | inverted indexes | `access/gin/ginxlog.c` |
//! | `hash.rs` | hash indexes | `access/hash/hash_xlog.c` |
//! | `brin.rs` | BRIN | `access/brin/brin_xlog.c` |
//! | `gist.rs` | GiST | `access/gist/gistxlog.c` |
//! | `spgist.rs` | SP-GiST | `access/spgist/spgxlog.c` |
//! | `sequence.rs`, `generic.rs` | sequences, pages of extensions | `commands/sequence.c`, `access/transam/generic_xlog.c` |
//! | `chain.rs` | base and records of a store | |
//! | `mask.rs` | what need not be equal | `access/common/bufmask.c` |
//! | `page.rs` | line pointers, items, flags | `storage/page/bufpage.c` |
//!
//! A page is changed by records whose end is above its `pd_lsn`, as there; images are restored and
//! visibility map bits are cleared in any case.
//!
//! **Invariants:** a function of settings, page and record alone: no clock, no file, no other page,
//! and no allocation but where an image in a record is inflated. No bytes of page or record can
//! cause a panic or a write outside the page. What makes no sense is a [`RedoError`], and the
//! page's bytes are then unspecified.

mod brin;
mod btree;
mod chain;
mod generic;
mod gin;
mod gist;
mod hash;
mod heap;
pub(crate) mod mask;
pub(crate) mod page;
mod sequence;
mod spgist;

use std::fmt;

use pagestrata_layers::Lsn;

use crate::{
    layout::Page,
    manager::ManagerId,
    rel::RelPage,
    visibility_map,
    wal::{block::BlockRef, image::ImageDecoder, record::Record},
};

pub use chain::PageRedo;
pub use mask::{manager_of, mask_page};
pub use page::stamp_lsn;
use page::{Checked, PageMut};

/// What redo depends on beside page and record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedoSettings {
    /// Whether hint bits are logged: the cluster has data checksums, or `wal_log_hints` is on. Then
    /// a heap page that becomes all visible is stamped (`XLogHintBitIsNeeded`).
    pub logs_hints: bool,
}

/// What kept a record from being redone on a page.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "redo of {} 0x{:02X} at {end} on {page}: {what}: expected {expected}, found {found}",
    manager_name(*.manager), .info
)]
pub struct RedoError {
    /// Whose record it is.
    pub manager: ManagerId,
    /// Which kind of it.
    pub info: u8,
    /// The record's end.
    pub end: Lsn,
    /// On which page.
    pub page: RelPage,
    /// What was looked at.
    pub what: &'static str,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

fn manager_name(manager: ManagerId) -> String {
    manager.to_string()
}

/// What makes no sense. The caller knows the record and the page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem(Box<Wrong>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Wrong {
    what: &'static str,
    expected: String,
    found: String,
}

impl Problem {
    #[cold]
    pub(crate) fn new(
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Problem {
        Problem(Box::new(Wrong { what, expected: expected.to_string(), found: found.to_string() }))
    }
}

/// A record's change of a page that one of its references names.
struct Change<'r, 'p> {
    record: &'r Record<'r>,
    block: &'r BlockRef<'r>,
    settings: RedoSettings,
    page: PageMut<'p>,
}

impl<'r> Change<'r, '_> {
    /// The reference with this number, if the record has it.
    fn find(&self, id: u8) -> Option<BlockRef<'r>> {
        self.record.blocks().find(|block| block.id == id)
    }

    /// The reference with this number.
    fn other(&self, id: u8) -> Checked<BlockRef<'r>> {
        self.find(id).ok_or_else(|| Problem::new("block reference", id, "none"))
    }

    fn stamp(&mut self) {
        let end = match cfg!(planted_bug = "redo_start_lsn") {
            true => self.record.lsn(),
            false => self.record.end(),
        };
        self.page.set_lsn(end);
    }

    #[cold]
    fn unknown(&self) -> Problem {
        Problem::new(
            "kind of record and block",
            "one that changes this page",
            format_args!("block {}", self.block.id),
        )
    }
}

/// Whether records of a manager are understood: those of others change no page, or are refused.
#[must_use]
pub fn is_known(manager: ManagerId) -> bool {
    redo_of(manager).is_some()
}

type RedoFn = fn(&mut Change<'_, '_>) -> Checked<()>;

fn redo_of(manager: ManagerId) -> Option<RedoFn> {
    Some(match manager {
        ManagerId::XLOG => image_only,
        ManagerId::HEAP => heap::heap,
        ManagerId::HEAP2 => heap::heap2,
        ManagerId::BTREE => btree::btree,
        ManagerId::GIN => gin::gin,
        ManagerId::HASH => hash::hash,
        ManagerId::BRIN => brin::brin,
        ManagerId::GIST => gist::gist,
        ManagerId::SPGIST => spgist::spgist,
        ManagerId::SEQUENCE => sequence::sequence,
        ManagerId::GENERIC => generic::generic,
        _ => return None,
    })
}

/// `xlog_redo`: a reference of a hint that needed no image changes nothing; one of a full-page
/// image has to have it.
fn image_only(change: &mut Change<'_, '_>) -> Checked<()> {
    match change.record.info() & 0xF0 {
        0xA0 => Ok(()),
        _ => Err(Problem::new("full-page image", "one", "none")),
    }
}

/// Whether a record also makes its own change of a page that it has restored from its image,
/// because the image is from before that.
pub(crate) fn changes_restored(record: &Record<'_>, block: &BlockRef<'_>) -> bool {
    match record.manager() {
        ManagerId::GIST => gist::is_left_child(record.info() & 0xF0, block.id),
        _ => false,
    }
}

/// Makes a record's change of one page. No two references of a record name one page
/// (`XLogRegisterBuffer`); of a damaged one that has such, the first counts.
///
/// # Errors
/// [`RedoError`]
pub fn redo(
    settings: RedoSettings,
    record: &Record<'_>,
    of: RelPage,
    page: &mut Page,
) -> Result<(), RedoError> {
    let block = record.blocks().find(|block| (block.rel, block.block) == (of.rel, of.block));
    redo_at(settings, record, block.as_ref(), of, page)
}

/// As [`redo`], with the reference that names the page.
fn redo_at(
    settings: RedoSettings,
    record: &Record<'_>,
    block: Option<&BlockRef<'_>>,
    of: RelPage,
    page: &mut Page,
) -> Result<(), RedoError> {
    let done = match block {
        Some(block) => redo_block(settings, record, block, page),
        None => clear_map_bits(record, of, page),
    };
    done.map_err(|problem| error(record, of, problem))
}

fn redo_block(
    settings: RedoSettings,
    record: &Record<'_>,
    block: &BlockRef<'_>,
    page: &mut Page,
) -> Checked<()> {
    let mut page = PageMut(page);
    let end = record.end();
    let image = block.applied_image();
    // An image is put in place whatever is there: of a backup that is a page that was written while
    // it was copied.
    if image.is_none() && !block.will_init() && page.lsn() >= end {
        return Ok(());
    }
    if let Some(image) = image {
        let restored = ImageDecoder::new().restore(&image, page.0);
        restored.map_err(|error| Problem::new("page image", "that of a page", error))?;
        page.stamp(end);
        if !changes_restored(record, block) {
            return Ok(());
        }
    }
    let change = &mut Change { record, block, settings, page };
    match redo_of(record.manager()) {
        Some(redo) => redo(change),
        None => Err(Problem::new("resource manager", "one that is known", record.manager())),
    }
}

/// The changes of a map page that no reference names. The page is stamped by none of them.
fn clear_map_bits(record: &Record<'_>, of: RelPage, page: &mut Page) -> Checked<()> {
    if of.rel.fork != crate::Fork::Vm {
        return Ok(());
    }
    let changes = visibility_map::changes(record)
        .map_err(|error| Problem::new("main data", "all of it", error))?;
    for change in changes.into_iter().flatten().filter(|change| change.key() == of.key()) {
        let mut page = PageMut(page);
        if page.is_new() {
            page.init(0);
        }
        if !cfg!(planted_bug = "redo_map_bits_kept") {
            change.apply(page.0);
        }
    }
    Ok(())
}

#[cold]
fn error(record: &Record<'_>, page: RelPage, problem: Problem) -> RedoError {
    let Wrong { what, expected, found } = *problem.0;
    let (manager, info, end) = (record.manager(), record.info() & 0xF0, record.end());
    RedoError { manager, info, end, page, what, expected, found }
}
