//! [`redo`]: applies one record to one page.

use pagestrata_layers::Lsn;

use crate::{
    layout::Page,
    manager::ManagerId,
    redo::{
        change::{Change, RedoSettings},
        managers::{changes_restored, redo_of},
        page::PageMut,
        problem::{Checked, Problem, Wrong},
        visibility_map,
    },
    rel::{Fork, RelPage},
    wal::{block::BlockRef, image::ImageDecoder, record::Record},
};

/// A record that could not be redone on a page.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "redo of {} 0x{:02X} at {end} on {page}: {what}: expected {expected}, found {found}",
    manager_name(*.manager), .info
)]
pub struct RedoError {
    /// The record's resource manager.
    pub manager: ManagerId,
    /// The kind of record, the upper 4 bits of its info.
    pub info: u8,
    /// The record's end.
    pub end: Lsn,
    /// The page.
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

/// Applies the change that a record makes to one page.
///
/// No two references of a record name the same page (`XLogRegisterBuffer`). In a damaged record
/// that has such references, the first one counts.
///
/// # Errors
/// [`RedoError`]. The page's bytes are then unspecified.
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
pub(super) fn redo_at(
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

/// Applies the changes of a map page that no reference names. None of them stamps the page.
fn clear_map_bits(record: &Record<'_>, of: RelPage, page: &mut Page) -> Checked<()> {
    if of.rel.fork != Fork::Vm {
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
