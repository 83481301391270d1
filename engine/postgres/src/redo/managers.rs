//! Which resource manager's code a record or a page is for: redo, masks, and whose page it is.
//!
//! Each manager's redo and its mask, if it needs more than the common ones, are in its own file;
//! the tables that choose among them are all here.

use crate::{
    layout::{PAGE_SIZE, Page},
    manager::ManagerId,
    redo::{
        brin, btree,
        change::Change,
        generic, gin, gist, hash, heap,
        mask::{free_space, hints},
        page::PageMut,
        problem::{Checked, Problem},
        sequence, spgist,
    },
    wal::{block::BlockRef, record::Record},
};

/// Whether this crate can redo records of a manager.
#[must_use]
pub fn is_known(manager: ManagerId) -> bool {
    redo_of(manager).is_some()
}

pub(super) type RedoFn = fn(&mut Change<'_, '_>) -> Checked<()>;

#[inline]
pub(super) fn redo_of(manager: ManagerId) -> Option<RedoFn> {
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
#[inline]
pub(crate) fn changes_restored(record: &Record<'_>, block: &BlockRef<'_>) -> bool {
    match record.manager() {
        ManagerId::GIST => gist::is_left_child(record.info() & 0xF0, block.id),
        _ => false,
    }
}

/// Clears everything of a page that may differ between a server and its standby: Lsn, checksum,
/// hints that are not logged, free space, and what the record's manager leaves open besides.
pub fn mask_page(manager: ManagerId, block: u32, page: &mut Page) {
    let mut page = PageMut(page);
    page.0[..10].fill(0);
    match manager {
        ManagerId::HEAP | ManagerId::HEAP2 => {
            hints(&mut page);
            free_space(&mut page);
            heap::mask(&mut page, block);
        }
        ManagerId::BTREE => {
            hints(&mut page);
            free_space(&mut page);
            btree::mask(&mut page);
        }
        ManagerId::GIN => {
            hints(&mut page);
            gin::mask(&mut page);
        }
        ManagerId::HASH => {
            hints(&mut page);
            free_space(&mut page);
            hash::mask(&mut page);
        }
        ManagerId::BRIN => {
            hints(&mut page);
            brin::mask(&mut page);
        }
        ManagerId::GIST => {
            hints(&mut page);
            free_space(&mut page);
            gist::mask(&mut page);
        }
        ManagerId::SPGIST => {
            hints(&mut page);
            free_space(&mut page);
        }
        ManagerId::SEQUENCE | ManagerId::GENERIC => free_space(&mut page),
        _ => {}
    }
}

/// Returns the manager that a page seems to belong to, by the marks in its special space.
#[must_use]
pub fn manager_of(page: &Page) -> ManagerId {
    let bytes = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let special = usize::from(bytes(16));
    let last = bytes(PAGE_SIZE - 2);
    match PAGE_SIZE.saturating_sub(special) {
        16 => match last {
            0xFF80 => ManagerId::HASH,
            0xFF81 => ManagerId::GIST,
            _ => ManagerId::BTREE,
        },
        8 => match last {
            0xFF82 => ManagerId::SPGIST,
            0xF091..=0xF093 => ManagerId::BRIN,
            _ if page[special..special + 4] == [0x17, 0x17, 0, 0] => ManagerId::SEQUENCE,
            _ => ManagerId::GIN,
        },
        _ => ManagerId::HEAP,
    }
}
