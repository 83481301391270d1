//! What pages of several managers may differ in, as `access/common/bufmask.c` clears it before
//! PostgreSQL compares them for `wal_consistency_checking`. Which manager clears what is in
//! `managers.rs`.

use crate::{
    layout::{PAGE_HEADER_LEN, PAGE_SIZE, PD_PRUNE_XID},
    redo::page::{ALL_VISIBLE, HAS_FREE_LINES, ItemState, PageMut, max_align},
};

const PAGE_FULL: u16 = 2;

/// `mask_page_hint_bits`.
pub(super) fn hints(page: &mut PageMut<'_>) {
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

/// The bytes behind an item up to the next multiple of 8.
pub(super) fn padding(page: &mut PageMut<'_>, number: u16) {
    if let Ok(range) = page.stored_range(number, 0) {
        let end = (range.start + max_align(range.len())).min(PAGE_SIZE);
        page.0[range.end..end].fill(0);
    }
}
