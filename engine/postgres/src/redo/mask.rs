//! [`mask_page`]: what of two pages need not be equal, as PostgreSQL compares them for
//! `wal_consistency_checking` (`access/common/bufmask.c` and the `*_mask` function of each
//! manager).

use crate::{
    layout::{PAGE_HEADER_LEN, PAGE_SIZE, PD_PRUNE_XID, Page},
    manager::ManagerId,
    redo::{
        brin, btree, gin, gist, hash, heap,
        page::{ALL_VISIBLE, HAS_FREE_LINES, ItemState, PageMut, max_align},
    },
};

const PAGE_FULL: u16 = 2;

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

/// `mask_page_hint_bits`.
fn hints(page: &mut PageMut<'_>) {
    page.set_u32(PD_PRUNE_XID, 0);
    page.set_flag(HAS_FREE_LINES | PAGE_FULL | ALL_VISIBLE, false);
}

/// `mask_unused_space`.
pub(super) fn free_space(page: &mut PageMut<'_>) {
    let (lower, upper) = (page.lower(), page.upper());
    if (PAGE_HEADER_LEN..=upper).contains(&lower) && upper <= PAGE_SIZE {
        page.0[lower..upper].fill(0);
    }
}

/// `mask_page_content`: everything behind the header, and where it is.
pub(super) fn content(page: &mut PageMut<'_>) {
    page.0[PAGE_HEADER_LEN..].fill(0);
    page.set_lower(0);
    page.set_upper(0);
}

/// `mask_lp_flags`: that an item is dead is only a hint.
pub(super) fn item_states(page: &mut PageMut<'_>) {
    for number in 1..=page.items() {
        if let Ok(id) = page.item_id(number)
            && id.state() != ItemState::Unused
        {
            let _ = page.set_item_id(number, id.unused());
        }
    }
}

/// `mask_page_content`: everything that a page has beside its header, and how much that is.
pub(super) fn contents(page: &mut PageMut<'_>) {
    page.0[PAGE_HEADER_LEN..].fill(0);
    page.set_lower(0);
    page.set_upper(0);
}

/// The bytes behind an item up to the next multiple of 8.
pub(super) fn padding(page: &mut PageMut<'_>, number: u16) {
    if let Ok(range) = page.stored_range(number, 0) {
        let end = (range.start + max_align(range.len())).min(PAGE_SIZE);
        page.0[range.end..end].fill(0);
    }
}

/// Whose page it seems to be, by its special space: each access method marks that in a way of its
/// own.
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
