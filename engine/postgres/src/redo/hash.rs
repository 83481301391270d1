//! Redo of records of hash indexes: `hash_redo` of `access/hash/hash_xlog.c`.
//!
//! | record | main data | blocks |
//! |---|---|---|
//! | INIT_META_PAGE (0x00) | tuples f64, procedure u32, tuples in a bucket u16 | 0 the metapage |
//! | INIT_BITMAP_PAGE (0x10) | bitmap bytes u16 | 0 the bitmap, 1 the metapage |
//! | INSERT (0x20) | number u16 | 0 the page: the tuple, 1 the metapage |
//! | ADD_OVFL_PAGE (0x30) | bitmap bytes u16, whether a free page was found u8 | 0 the page: bucket u32, 1 the one before, 2 the bitmap: bit u32, 3 a new bitmap, 4 the metapage: first free bit u32 |
//! | SPLIT_ALLOCATE_PAGE (0x40) | new bucket u32, old bucket's flags u16, new bucket's flags u16, what the metapage has u8 | 0 the old bucket, 1 the new one, 2 the metapage: if 1, low mask u32, high mask u32; if 2, splitpoint u32, its spare pages u32 |
//! | SPLIT_PAGE (0x50) | | 0, always an image |
//! | SPLIT_COMPLETE (0x60) | old bucket's flags u16, new bucket's flags u16 | 0 the old bucket, 1 the new one |
//! | MOVE_PAGE_CONTENTS (0x70) | tuples u16, whether they go to the bucket's first page u8 | 0 the bucket, only locked, 1 where they go: numbers, tuples, 2 where they were: numbers |
//! | SQUEEZE_PAGE (0x80) | page before u32, page behind u32, tuples u16, as above u8, whether they go to the page before u8 | 0 and 1 as above, 2 the page that is free, 3 the page before, 4 the page behind, 5 the bitmap: bit u32, 6 the metapage: first free bit u32 |
//! | DELETE (0x90) | whether no tuple is dead now u8, whether it is the bucket's first page u8 | 0 the bucket, only locked, 1 the page: numbers |
//! | SPLIT_CLEANUP (0xA0) | | 0 the bucket |
//! | UPDATE_META_PAGE (0xB0) | tuples f64 | 0 the metapage |
//! | VACUUM_ONE_PAGE (0xC0) | conflict xid u32, tuples u32, their numbers | 0 the page, 1 the metapage |
//!
//! The special space: page before u32, page behind u32, bucket u32, flags u16, 0xFF80. The
//! metapage, from byte 24 on: magic u32, version u32, tuples f64, tuples in a bucket u16, bytes of
//! a page u16, bitmap bytes u16 and the binary logarithm of its bits u16, last bucket u32, high
//! mask u32, low mask u32, splitpoint u32, first free bit u32, bitmaps u32, procedure u32, spare
//! pages at 98 splitpoints u32, places of 1024 bitmaps u32.

use crate::{
    layout::{PAGE_HEADER_LEN, PAGE_SIZE},
    redo::{
        change::Change,
        mask,
        page::{PageMut, max_align, short, u16_of, u32_of},
        problem::{Checked, Problem},
    },
};

const OPAQUE: usize = 16;
const PREV: usize = 0;
const NEXT: usize = 4;
const BUCKET: usize = 8;
const FLAGS: usize = 12;
const PAGE_ID: usize = 14;
const HASH_PAGE_ID: u16 = 0xFF80;
const NO_BLOCK: u32 = u32::MAX;
const NO_BUCKET: u32 = u32::MAX;

const UNUSED: u16 = 0;
const OVERFLOW: u16 = 1;
const BUCKET_PAGE: u16 = 2;
const BITMAP: u16 = 4;
const META: u16 = 8;
const PAGE_TYPE: u16 = OVERFLOW | BUCKET_PAGE | BITMAP | META;
const NEEDS_SPLIT_CLEANUP: u16 = 0x40;
const HAS_DEAD: u16 = 0x80;

/// A page's first data starts here.
const CONTENTS: usize = PAGE_HEADER_LEN;
const MAGIC: u32 = 0x0644_0640;
const VERSION: u32 = 4;
const TUPLES: usize = CONTENTS + 8;
const TUPLES_IN_BUCKET: usize = CONTENTS + 16;
const PAGE_BYTES: usize = CONTENTS + 18;
const BITMAP_BYTES: usize = CONTENTS + 20;
const BITMAP_SHIFT: usize = CONTENTS + 22;
const LAST_BUCKET: usize = CONTENTS + 24;
const HIGH_MASK: usize = CONTENTS + 28;
const LOW_MASK: usize = CONTENTS + 32;
const SPLITPOINT: usize = CONTENTS + 36;
const FIRST_FREE: usize = CONTENTS + 40;
const BITMAPS: usize = CONTENTS + 44;
const PROCEDURE: usize = CONTENTS + 48;
const SPARES: usize = CONTENTS + 52;
const SPARES_LEN: u32 = 98;
const BITMAP_PLACES: usize = SPARES + SPARES_LEN as usize * 4;
const BITMAP_PLACES_LEN: u32 = 1024;
const META_END: usize = (BITMAP_PLACES + BITMAP_PLACES_LEN as usize * 4).next_multiple_of(8);
const _: () = assert!(META_END == 4568);

const TUPLE_HEADER: usize = 8;
const SIZE_MASK: u16 = 0x1FFF;

/// `hash_redo`.
pub(super) fn hash(change: &mut Change<'_, '_>) -> Checked<()> {
    match (change.record.info() & 0xF0, change.block.id) {
        (0x00, 0) => new_metapage(change),
        (0x10, 0) | (0x30, 3) => new_bitmap(change),
        (0x10, 1) => first_bitmap(change),
        (0x20, 0) => insert(change),
        (0x20, 1) => count(change, 1.0),
        (0x30, 0) => new_overflow(change),
        (0x30, 1) => relink(change, NEXT, change.other(0)?.block),
        (0x30, 2) => set_bit(change, true),
        (0x30, 4) => overflow_in_metapage(change),
        (0x40, 0) => split_bucket(change),
        (0x40, 1) => new_bucket(change),
        (0x40, 2) => bucket_in_metapage(change),
        (0x50, 0) => Err(Problem::new("full-page image", "one", "none")),
        (0x60, 0) => set_flags(change, change.main_u16(0)?),
        (0x60, 1) => set_flags(change, change.main_u16(2)?),
        // These are locked, and not changed.
        (0x70 | 0x80 | 0x90, 0) => Ok(()),
        (0x70, 1) => add_moved(change, change.main_u16(0)?, None),
        (0x70, 2) => delete(change, false),
        (0x80, 1) => {
            let is_before = change.main_u8(11)? != 0;
            let next = change.main_u32(4)?;
            add_moved(change, change.main_u16(8)?, is_before.then_some(next))
        }
        (0x80, 2) => free_page(change),
        (0x80, 3) => relink(change, NEXT, change.main_u32(4)?),
        (0x80, 4) => relink(change, PREV, change.main_u32(0)?),
        (0x80, 5) => set_bit(change, false),
        (0x80, 6) => set_first_free(change),
        (0x90, 1) => delete(change, change.main_u8(0)? != 0),
        (0xA0, 0) => {
            clear_flag(&mut change.page, NEEDS_SPLIT_CLEANUP)?;
            change.stamp();
            Ok(())
        }
        (0xB0, 0) => {
            let tuples = f64::from_bits(change.main_u64(0)?);
            set_tuples(change, |_| tuples)
        }
        (0xC0, 0) => delete_dead(change),
        (0xC0, 1) => count(change, -f64::from(change.main_u32(4)? as i32)),
        _ => Err(change.unknown()),
    }
}

fn clear_flag(page: &mut PageMut<'_>, flag: u16) -> Checked<()> {
    let flags = page.special_at(OPAQUE)? + FLAGS;
    page.set_u16(flags, page.u16(flags) & !flag);
    Ok(())
}

/// An empty page (`_hash_pageinit`) with these links, bucket and flags.
fn init(page: &mut PageMut<'_>, [prev, next]: [u32; 2], bucket: u32, flags: u16) {
    page.init(OPAQUE);
    let at = PAGE_SIZE - OPAQUE;
    page.set_u32(at + PREV, prev);
    page.set_u32(at + NEXT, next);
    page.set_u32(at + BUCKET, bucket);
    page.set_u16(at + FLAGS, flags);
    page.set_u16(at + PAGE_ID, HASH_PAGE_ID);
}

/// `hash_xlog_init_meta_page` (`_hash_init_metabuffer`).
fn new_metapage(change: &mut Change<'_, '_>) -> Checked<()> {
    const BITMAP_BYTES_SHIFT: u16 = (PAGE_SIZE - CONTENTS - OPAQUE).ilog2() as u16;
    let (tuples, procedure) = (f64::from_bits(change.main_u64(0)?), change.main_u32(8)?);
    let tuples_in_bucket = change.main_u16(12)?;
    let buckets = first_buckets(tuples / f64::from(tuples_in_bucket));
    let splitpoint = splitpoint_of(buckets);
    let high_mask = (buckets + 1).next_power_of_two() - 1;
    let page = &mut change.page;
    init(page, [NO_BLOCK; 2], NO_BUCKET, META);
    page.set_u32(CONTENTS, MAGIC);
    page.set_u32(CONTENTS + 4, VERSION);
    page.set_u16(TUPLES_IN_BUCKET, tuples_in_bucket);
    page.set_u16(PAGE_BYTES, (PAGE_SIZE - CONTENTS - OPAQUE) as u16);
    page.set_u16(BITMAP_BYTES, 1 << BITMAP_BYTES_SHIFT);
    page.set_u16(BITMAP_SHIFT, BITMAP_BYTES_SHIFT + 3);
    page.set_u32(LAST_BUCKET, buckets - 1);
    page.set_u32(HIGH_MASK, high_mask);
    page.set_u32(LOW_MASK, high_mask >> 1);
    page.set_u32(SPLITPOINT, splitpoint);
    page.set_u32(PROCEDURE, procedure);
    let spares = spares_of(splitpoint)?;
    page.set_u32(spares, 1);
    page.set_lower(META_END);
    change.stamp();
    Ok(())
}

/// How many buckets an index starts with that should have so many.
fn first_buckets(wanted: f64) -> u32 {
    const MOST: u32 = 0x4000_0000;
    match wanted {
        ..=2.0 => 2,
        wanted if wanted < f64::from(MOST) => all_buckets(splitpoint_of(wanted as u32)),
        _ => MOST,
    }
}

/// Up to this one a splitpoint doubles the buckets; from there on it takes four of them.
const FIRST_OF_FOUR: u32 = 10;

/// The splitpoint at which so many buckets are there (`_hash_spareindex`).
fn splitpoint_of(buckets: u32) -> u32 {
    let doubled = buckets.next_power_of_two().ilog2();
    if doubled < FIRST_OF_FOUR {
        return doubled;
    }
    FIRST_OF_FOUR + (doubled - FIRST_OF_FOUR) * 4 + ((buckets - 1) >> (doubled - 3) & 3)
}

/// How many buckets there are at a splitpoint (`_hash_get_totalbuckets`).
fn all_buckets(splitpoint: u32) -> u32 {
    if splitpoint < FIRST_OF_FOUR {
        return 1 << splitpoint;
    }
    let behind = splitpoint - FIRST_OF_FOUR;
    let half = 1 << (FIRST_OF_FOUR + behind / 4 - 1);
    half + half / 4 * (behind % 4 + 1)
}

/// Where the metapage counts the spare pages of a splitpoint.
fn spares_of(splitpoint: u32) -> Checked<usize> {
    if splitpoint >= SPARES_LEN {
        return Err(Problem::new("splitpoint", format_args!("below {SPARES_LEN}"), splitpoint));
    }
    Ok(SPARES + splitpoint as usize * 4)
}

/// A bitmap in which all pages are in use: `hash_xlog_init_bitmap_page` and
/// `hash_xlog_add_ovfl_page` (`_hash_initbitmapbuffer`).
fn new_bitmap(change: &mut Change<'_, '_>) -> Checked<()> {
    let len = usize::from(change.main_u16(0)?);
    let end = CONTENTS + len;
    if end > PAGE_SIZE - OPAQUE {
        return Err(Problem::new("bytes of a bitmap", PAGE_SIZE - OPAQUE - CONTENTS, len));
    }
    init(&mut change.page, [NO_BLOCK; 2], NO_BUCKET, BITMAP);
    change.page.0[CONTENTS..end].fill(0xFF);
    change.page.set_lower(end);
    change.stamp();
    Ok(())
}

/// A bit of a bitmap: `hash_xlog_add_ovfl_page` and `hash_xlog_squeeze_page`.
fn set_bit(change: &mut Change<'_, '_>, is_set: bool) -> Checked<()> {
    let bit = u32_of(change.block.data, 0)? as usize;
    let bits = &mut change.page.0[CONTENTS..PAGE_SIZE - OPAQUE];
    let expected = bits.len() * 8;
    let Some(byte) = bits.get_mut(bit / 8) else {
        return Err(Problem::new("bit of a bitmap", format_args!("below {expected}"), bit));
    };
    *byte = if is_set { *byte | 1 << (bit % 8) } else { *byte & !(1 << (bit % 8)) };
    change.stamp();
    Ok(())
}

/// `hash_xlog_init_bitmap_page`, the metapage: the bitmap is behind the buckets.
fn first_bitmap(change: &mut Change<'_, '_>) -> Checked<()> {
    let place = change.page.u32(LAST_BUCKET).wrapping_add(2);
    add_bitmap(&mut change.page, place)?;
    change.stamp();
    Ok(())
}

fn add_bitmap(page: &mut PageMut<'_>, place: u32) -> Checked<()> {
    let bitmaps = page.u32(BITMAPS);
    if bitmaps >= BITMAP_PLACES_LEN {
        let expected = format_args!("below {BITMAP_PLACES_LEN}");
        return Err(Problem::new("number of bitmaps", expected, bitmaps));
    }
    page.set_u32(BITMAP_PLACES + bitmaps as usize * 4, place);
    page.set_u32(BITMAPS, bitmaps + 1);
    Ok(())
}

fn set_tuples(change: &mut Change<'_, '_>, tuples: impl FnOnce(f64) -> f64) -> Checked<()> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&change.page.0[TUPLES..TUPLES + 8]);
    let tuples = tuples(f64::from_le_bytes(bytes));
    change.page.0[TUPLES..TUPLES + 8].copy_from_slice(&tuples.to_le_bytes());
    change.stamp();
    Ok(())
}

/// So many tuples more, in the metapage: `hash_xlog_insert` and `hash_xlog_vacuum_one_page`.
fn count(change: &mut Change<'_, '_>, by: f64) -> Checked<()> {
    set_tuples(change, |tuples| tuples + by)
}

/// `hash_xlog_insert`, the page.
fn insert(change: &mut Change<'_, '_>) -> Checked<()> {
    change.page.insert_item(change.main_u16(0)?, change.block.data)?;
    change.stamp();
    Ok(())
}

/// `hash_xlog_add_ovfl_page`, the page (`_hash_initbuf`).
fn new_overflow(change: &mut Change<'_, '_>) -> Checked<()> {
    let bucket = u32_of(change.block.data, 0)?;
    let prev = change.other(1)?.block;
    init(&mut change.page, [prev, NO_BLOCK], bucket, OVERFLOW);
    change.stamp();
    Ok(())
}

/// A link that leads elsewhere now.
fn relink(change: &mut Change<'_, '_>, link: usize, to: u32) -> Checked<()> {
    let at = change.page.special_at(OPAQUE)? + link;
    change.page.set_u32(at, to);
    change.stamp();
    Ok(())
}

/// `hash_xlog_add_ovfl_page`, the metapage.
fn overflow_in_metapage(change: &mut Change<'_, '_>) -> Checked<()> {
    let first_free = u32_of(change.block.data, 0)?;
    let is_free_page = change.main_u8(2)? != 0;
    let bitmap = change.find(3);
    let page = &mut change.page;
    page.set_u32(FIRST_FREE, first_free);
    if !is_free_page {
        let spares = spares_of(page.u32(SPLITPOINT))?;
        let mut more = 1;
        if let Some(bitmap) = bitmap {
            add_bitmap(page, bitmap.block)?;
            more += 1;
        }
        page.set_u32(spares, page.u32(spares).wrapping_add(more));
    }
    change.stamp();
    Ok(())
}

/// `hash_xlog_squeeze_page`, the metapage.
fn set_first_free(change: &mut Change<'_, '_>) -> Checked<()> {
    change.page.set_u32(FIRST_FREE, u32_of(change.block.data, 0)?);
    change.stamp();
    Ok(())
}

fn set_flags(change: &mut Change<'_, '_>, flags: u16) -> Checked<()> {
    let at = change.page.special_at(OPAQUE)? + FLAGS;
    change.page.set_u16(at, flags);
    change.stamp();
    Ok(())
}

/// `hash_xlog_split_allocate_page`, the old bucket: its link back has the last bucket of when it
/// was split.
fn split_bucket(change: &mut Change<'_, '_>) -> Checked<()> {
    let (bucket, flags) = (change.main_u32(0)?, change.main_u16(4)?);
    relink(change, PREV, bucket)?;
    set_flags(change, flags)
}

/// `hash_xlog_split_allocate_page`, the new bucket (`_hash_initbuf`).
fn new_bucket(change: &mut Change<'_, '_>) -> Checked<()> {
    let (bucket, flags) = (change.main_u32(0)?, change.main_u16(6)?);
    init(&mut change.page, [bucket, NO_BLOCK], bucket, flags);
    change.stamp();
    Ok(())
}

/// `hash_xlog_split_allocate_page`, the metapage.
fn bucket_in_metapage(change: &mut Change<'_, '_>) -> Checked<()> {
    const HAS_MASKS: u8 = 1;
    const HAS_SPLITPOINT: u8 = 2;
    let (bucket, has) = (change.main_u32(0)?, change.main_u8(8)?);
    let mut data = change.block.data;
    let page = &mut change.page;
    page.set_u32(LAST_BUCKET, bucket);
    if has & HAS_MASKS != 0 {
        page.set_u32(LOW_MASK, u32_of(data, 0)?);
        page.set_u32(HIGH_MASK, u32_of(data, 4)?);
        data = &data[8..];
    }
    if has & HAS_SPLITPOINT != 0 {
        let (splitpoint, spares) = (u32_of(data, 0)?, u32_of(data, 4)?);
        page.set_u32(spares_of(splitpoint)?, spares);
        page.set_u32(SPLITPOINT, splitpoint);
    }
    change.stamp();
    Ok(())
}

/// Tuples that come from another page of the bucket: `hash_xlog_move_page_contents` and
/// `hash_xlog_squeeze_page`. The page behind it may be another one now.
fn add_moved(change: &mut Change<'_, '_>, tuples: u16, next: Option<u32>) -> Checked<()> {
    let data = change.block.data;
    if tuples > 0 {
        let numbers = usize::from(tuples) * 2;
        let (numbers, mut rest) = data.split_at_checked(numbers).ok_or_else(|| short(data))?;
        for number in numbers.as_chunks().0 {
            let len = max_align(usize::from(u16_of(rest, 6)? & SIZE_MASK));
            let tuple = rest.split_at_checked(len).filter(|_| len >= TUPLE_HEADER);
            let (tuple, behind) = tuple.ok_or_else(|| short(rest))?;
            change.page.insert_item(u16::from_le_bytes(*number), tuple)?;
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(Problem::new("data behind the tuples", "none", rest.len()));
        }
    }
    match next {
        Some(next) => relink(change, NEXT, next)?,
        None => change.stamp(),
    }
    Ok(())
}

/// `hash_xlog_squeeze_page`, the page that is free now.
fn free_page(change: &mut Change<'_, '_>) -> Checked<()> {
    init(&mut change.page, [NO_BLOCK; 2], NO_BUCKET, UNUSED);
    change.stamp();
    Ok(())
}

/// `hash_xlog_delete`, and the page that tuples were moved from of `hash_xlog_move_page_contents`.
fn delete(change: &mut Change<'_, '_>, clears_dead: bool) -> Checked<()> {
    change.page.delete_items(change.block.data.as_chunks().0)?;
    if clears_dead {
        clear_flag(&mut change.page, HAS_DEAD)?;
    }
    change.stamp();
    Ok(())
}

/// `hash_xlog_vacuum_one_page`, the page.
fn delete_dead(change: &mut Change<'_, '_>) -> Checked<()> {
    const NUMBERS: usize = 8;
    let tuples = change.main_u32(4)? as usize;
    let main = change.record.main_data();
    let numbers = main.get(NUMBERS..).unwrap_or_default().as_chunks().0;
    change.page.delete_items(numbers.get(..tuples).ok_or_else(|| short(main))?)?;
    clear_flag(&mut change.page, HAS_DEAD)?;
    change.stamp();
    Ok(())
}

/// `hash_mask`, what is its own: all of free pages, dead items.
pub(super) fn mask(page: &mut PageMut<'_>) {
    let Ok(at) = page.special_at(OPAQUE) else { return };
    let flags = page.u16(at + FLAGS);
    match flags & PAGE_TYPE {
        UNUSED => mask::content(page),
        BUCKET_PAGE | OVERFLOW => {
            mask::item_states(page);
            page.set_u16(at + FLAGS, flags & !HAS_DEAD);
        }
        _ => page.set_u16(at + FLAGS, flags & !HAS_DEAD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_starts_with_as_many_buckets_as_in_postgresql() {
        let few = [0.0, 2.0, 2.5, 3.0, 4.0, 5.9, 300.0, 512.0];
        assert_eq!(few.map(first_buckets), [2, 2, 2, 4, 4, 8, 512, 512]);
        let many = [513.0, 641.0, 769.0, 1000.0, 1025.0, 5000.0, 2e9];
        assert_eq!(many.map(first_buckets), [640, 768, 896, 1024, 1280, 5120, 0x4000_0000]);
        assert_eq!([2, 512, 640, 1024, 1280].map(splitpoint_of), [1, 9, 10, 13, 14]);
        assert_eq!(splitpoint_of(0x4000_0000), 93);
    }
}
