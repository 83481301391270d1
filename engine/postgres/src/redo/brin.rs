//! Redo of records of BRIN indexes: `brin_redo` of `access/brin/brin_xlog.c`.
//!
//! | record | main data | blocks |
//! |---|---|---|
//! | CREATE_INDEX (0x00) | heap pages in a range u32, version u16 | 0 the metapage |
//! | INSERT (0x10) | heap page u32, heap pages in a range u32, number u16 | 0 the page: the tuple, 1 the map |
//! | UPDATE (0x20) | old number u16, padding, then as INSERT | as INSERT, 2 the old page |
//! | SAMEPAGE_UPDATE (0x30) | number u16 | 0 the page: the tuple |
//! | REVMAP_EXTEND (0x40) | the map page's block u32 | 0 the metapage, 1 the map page |
//! | DESUMMARIZE (0x50) | heap pages in a range u32, heap page u32, number u16 | 0 the map, 1 the page |
//!
//! 0x80 with INSERT and UPDATE: the page is new.
//!
//! The special space: padding, flags u16, type u16. The metapage, from byte 24 on: magic u32,
//! version u32, heap pages in a range u32, last map page u32. A map page, from byte 24 on: of each
//! of 1360 ranges where its tuple is, block as upper and lower u16, number u16.

use crate::{
    layout::{PAGE_HEADER_LEN, PAGE_SIZE},
    redo::{
        change::Change,
        mask,
        page::PageMut,
        problem::{Checked, Problem},
    },
};

const SPECIAL: usize = 8;
const FLAGS: usize = PAGE_SIZE - 4;
const TYPE: usize = PAGE_SIZE - 2;
const META: u16 = 0xF091;
const MAP: u16 = 0xF092;
const REGULAR: u16 = 0xF093;

/// A page's first data starts here.
const CONTENTS: usize = PAGE_HEADER_LEN;
const MAGIC: u32 = 0xA810_9CFA;
const PAGES_IN_RANGE: usize = CONTENTS + 8;
const LAST_MAP: usize = CONTENTS + 12;
const META_END: usize = CONTENTS + 16;
const TID: usize = 6;
const RANGES: u32 = ((PAGE_SIZE - CONTENTS - SPECIAL) / TID) as u32;
const _: () = assert!(RANGES == 1360);

const INIT: u8 = 0x80;

/// `brin_redo`.
pub(super) fn brin(change: &mut Change<'_, '_>) -> Checked<()> {
    match (change.record.info() & 0x70, change.block.id) {
        (0x00, 0) => new_metapage(change),
        (0x10, 0) => insert(change, 0),
        (0x10, 1) => point(change, 0),
        (0x20, 0) => insert(change, 4),
        (0x20, 1) => point(change, 4),
        (0x20, 2) => delete(change, 0),
        (0x30, 0) => overwrite(change),
        (0x40, 0) => new_map_in_metapage(change),
        (0x40, 1) => {
            init(&mut change.page, MAP);
            change.stamp();
            Ok(())
        }
        (0x50, 0) => {
            let (pages, heap_block) = (change.main_u32(0)?, change.main_u32(4)?);
            set_tid(change, heap_block, pages, (u32::MAX, 0))
        }
        (0x50, 1) => delete(change, 8),
        _ => Err(change.unknown()),
    }
}

/// An empty page of this type (`brin_page_init`).
fn init(page: &mut PageMut<'_>, page_type: u16) {
    page.init(SPECIAL);
    page.set_u16(TYPE, page_type);
}

/// `brin_xlog_createidx` (`brin_metapage_init`).
fn new_metapage(change: &mut Change<'_, '_>) -> Checked<()> {
    let (pages, version) = (change.main_u32(0)?, change.main_u16(4)?);
    let page = &mut change.page;
    init(page, META);
    page.set_u32(CONTENTS, MAGIC);
    page.set_u32(CONTENTS + 4, version.into());
    page.set_u32(PAGES_IN_RANGE, pages);
    page.set_lower(META_END);
    change.stamp();
    Ok(())
}

/// `brin_xlog_insert_update`, the page. What an insertion has is at `at` of the main data.
fn insert(change: &mut Change<'_, '_>, at: usize) -> Checked<()> {
    let number = change.main_u16(at + 8)?;
    if change.record.info() & INIT != 0 {
        init(&mut change.page, REGULAR);
    }
    let tuple = change.block.data;
    let to = change.page.add_item(number, tuple.len())?;
    change.page.0[to..to + tuple.len()].copy_from_slice(tuple);
    change.stamp();
    Ok(())
}

/// `brin_xlog_insert_update`, the map.
fn point(change: &mut Change<'_, '_>, at: usize) -> Checked<()> {
    let (heap_block, pages) = (change.main_u32(at)?, change.main_u32(at + 4)?);
    let tid = (change.other(0)?.block, change.main_u16(at + 8)?);
    set_tid(change, heap_block, pages, tid)
}

/// Where the tuple of a range is (`brinSetHeapBlockItemptr`).
fn set_tid(
    change: &mut Change<'_, '_>,
    heap_block: u32,
    pages_in_range: u32,
    (block, number): (u32, u16),
) -> Checked<()> {
    let range = heap_block.checked_div(pages_in_range);
    let range = range.ok_or_else(|| Problem::new("heap pages in a range", "1 or more", 0))?;
    let at = CONTENTS + (range % RANGES) as usize * TID;
    change.page.set_u16(at, (block >> 16) as u16);
    change.page.set_u16(at + 2, block as u16);
    change.page.set_u16(at + 4, number);
    change.stamp();
    Ok(())
}

/// A tuple that goes, whose number is at `at` of the main data: `brin_xlog_update`, the old page,
/// and `brin_xlog_desummarize_page`.
fn delete(change: &mut Change<'_, '_>, at: usize) -> Checked<()> {
    change.page.delete_item_in_place(change.main_u16(at)?)?;
    change.stamp();
    Ok(())
}

/// `brin_xlog_samepage_update`.
fn overwrite(change: &mut Change<'_, '_>) -> Checked<()> {
    change.page.overwrite_item(change.main_u16(0)?, change.block.data)?;
    change.stamp();
    Ok(())
}

/// `brin_xlog_revmap_extend`, the metapage.
fn new_map_in_metapage(change: &mut Change<'_, '_>) -> Checked<()> {
    change.page.set_u32(LAST_MAP, change.main_u32(0)?);
    change.page.set_lower(META_END);
    change.stamp();
    Ok(())
}

/// `brin_mask`, what is its own: free space, but of a map page; that a page is about to become one.
pub(super) fn mask(page: &mut PageMut<'_>) {
    const EVACUATE: u16 = 1;
    if matches!(page.u16(TYPE), REGULAR | META) {
        mask::free_space(page);
    }
    page.set_u16(FLAGS, page.u16(FLAGS) & !EVACUATE);
}
