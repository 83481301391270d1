//! Redo of B-tree records: `btree_redo` of `access/nbtree/nbtxlog.c`.
//!
//! | record | main data | blocks |
//! |---|---|---|
//! | INSERT_LEAF, UPPER, META, POST (0x00, 0x10, 0x20, 0x50) | number u16 | 0 the page, 1 the child, 2 the metapage |
//! | SPLIT_L, SPLIT_R (0x30, 0x40): the new item is on that side | level u32, first right number u16, new item's number u16, posting split u16 | 0 left, 1 right, 2 behind it, 3 the child |
//! | DEDUP (0x60) | intervals u16 | 0 |
//! | DELETE (0x70) | conflict xid u32, deleted u16, updated u16 | 0 |
//! | UNLINK_PAGE, with META (0x80, 0x90) | left u32, right u32, level u32, padding, safe xid u64, leaf's left, right, top parent u32 | 0 the page, 1 left, 2 right, 3 the leaf, 4 the metapage |
//! | NEWROOT (0xA0) | root u32, level u32 | 0 the root, 1 the left child, 2 the metapage |
//! | MARK_PAGE_HALFDEAD (0xB0) | number in the parent u16, padding, leaf, left, right, top parent u32 | 0 the leaf, 1 the parent |
//! | VACUUM (0xC0) | deleted u16, updated u16 | 0 |
//! | REUSE_PAGE (0xD0) | | none |
//! | META_CLEANUP (0xE0) | | 0 the metapage |
//!
//! The special space: left u32, right u32, level u32, flags u16, cycle u16. A tuple: block as upper
//! and lower u16, number u16, info u16 (13 bits length, 0x2000: block and number are something
//! else), key. A posting tuple, number 0x2000 and count: its list of tuple ids, 6 bytes each, is
//! where block says.

use crate::{
    layout::PAGE_SIZE,
    redo::{
        change::Change,
        mask,
        page::{PageMut, max_align, short, u16_of},
        problem::{Checked, Problem},
    },
};

const OPAQUE: usize = 16;
const PREV: usize = 0;
const NEXT: usize = 4;
const LEVEL: usize = 8;
const FLAGS: usize = 12;
const CYCLE: usize = 14;

const LEAF: u16 = 1;
const ROOT: u16 = 2;
const DELETED: u16 = 4;
const META: u16 = 8;
const HALF_DEAD: u16 = 0x10;
const HAS_GARBAGE: u16 = 0x40;
const INCOMPLETE_SPLIT: u16 = 0x80;
const HAS_FULL_XID: u16 = 0x100;

/// A page's first data starts here.
const CONTENTS: usize = 24;
const TUPLE_HEADER: usize = 8;
const TID: usize = 6;
const SIZE_MASK: u16 = 0x1FFF;
const ALT_TID: u16 = 0x2000;
const IS_POSTING: u16 = 0x2000;
const COUNT_MASK: u16 = 0x0FFF;
/// The metapage's.
const MAGIC: u32 = 0x0005_3162;
const META_LEN: usize = 48;

/// The number of a page's high key.
const HIGH_KEY: u16 = 1;

/// `btree_redo`.
pub(super) fn btree(change: &mut Change<'_, '_>) -> Checked<()> {
    match (change.record.info() & 0xF0, change.block.id) {
        (0x00, 0) | (0x10, 0) | (0x20, 0) => insert(change, false),
        (0x50, 0) => insert(change, true),
        (0x10 | 0x20, 1) | (0x30 | 0x40, 3) | (0xA0, 1) => split_is_complete(change),
        (0x20, 2) | (0x90, 4) | (0xA0, 2) | (0xE0, 0) => metapage(change),
        (0x30, 0) => left_half(change, true),
        (0x40, 0) => left_half(change, false),
        (0x30 | 0x40, 1) => right_half(change),
        (0x30 | 0x40, 2) => relink(change, PREV, change.other(1)?.block),
        (0x60, 0) => deduplicate(change),
        (0x70, 0) => delete(change, 4),
        (0xC0, 0) => delete(change, 0),
        (0x80 | 0x90, 0) => unlinked(change),
        (0x80 | 0x90, 1) => relink(change, NEXT, change.main_u32(4)?),
        (0x80 | 0x90, 2) => relink(change, PREV, change.main_u32(0)?),
        (0x80 | 0x90, 3) => {
            let links = [change.main_u32(24)?, change.main_u32(28)?, change.main_u32(32)?];
            half_dead(change, links)
        }
        (0xA0, 0) => new_root(change),
        (0xB0, 0) => {
            let links = [change.main_u32(8)?, change.main_u32(12)?, change.main_u32(16)?];
            half_dead(change, links)
        }
        (0xB0, 1) => unlink_child(change),
        _ => Err(change.unknown()),
    }
}

fn clear_flag(page: &mut PageMut<'_>, flag: u16) -> Checked<()> {
    let flags = page.special_at(OPAQUE)? + FLAGS;
    page.set_u16(flags, page.u16(flags) & !flag);
    Ok(())
}

/// An empty page (`_bt_pageinit`) with these links, level and flags.
fn init(page: &mut PageMut<'_>, [prev, next]: [u32; 2], level: u32, flags: u16) {
    page.init(OPAQUE);
    let at = PAGE_SIZE - OPAQUE;
    page.set_u32(at + PREV, prev);
    page.set_u32(at + NEXT, next);
    page.set_u32(at + LEVEL, level);
    page.set_u16(at + FLAGS, flags);
}

/// The first number that is not a high key (`P_FIRSTDATAKEY`).
fn first_data(page: &mut PageMut<'_>) -> Checked<u16> {
    let at = page.special_at(OPAQUE)?;
    Ok(if page.u32(at + NEXT) == 0 { HIGH_KEY } else { HIGH_KEY + 1 })
}

/// The length of the tuple that data starts with, as it is on a page.
fn tuple_len(data: &[u8]) -> Checked<usize> {
    let len = max_align(usize::from(u16_of(data, 6)? & SIZE_MASK));
    if len < TUPLE_HEADER || len > data.len() {
        let expected = format_args!("{TUPLE_HEADER} to {}", data.len());
        return Err(Problem::new("length of an index tuple", expected, len));
    }
    Ok(len)
}

/// Takes a tuple off the front of some data.
fn take_tuple<'r>(data: &mut &'r [u8]) -> Checked<&'r [u8]> {
    let (tuple, rest) = data.split_at(tuple_len(data)?);
    *data = rest;
    Ok(tuple)
}

/// Where a posting tuple has its list, and how many are in it; none for a plain tuple.
fn posting(tuple: &[u8]) -> Checked<Option<(usize, usize)>> {
    let number = u16_of(tuple, 4)?;
    if u16_of(tuple, 6)? & ALT_TID == 0 || number & IS_POSTING == 0 {
        return Ok(None);
    }
    let at = usize::from(u16_of(tuple, 0)?) << 16 | usize::from(u16_of(tuple, 2)?);
    let count = usize::from(number & COUNT_MASK);
    if at < TUPLE_HEADER || at + count * TID > tuple.len() || count == 0 {
        let found = format_args!("{count} at {at}");
        return Err(Problem::new("posting list", format_args!("in {} bytes", tuple.len()), found));
    }
    Ok(Some((at, count)))
}

/// Forms tuples on the side.
struct Draft {
    bytes: [u8; PAGE_SIZE],
    len: usize,
    list_at: usize,
    count: usize,
}

impl Draft {
    fn new() -> Draft {
        Draft { bytes: [0; PAGE_SIZE], len: 0, list_at: 0, count: 0 }
    }

    /// Begins with the key of `base`, and no tuple id.
    fn start(&mut self, base: &[u8]) -> Checked<()> {
        let key_len = posting(base)?.map_or(base.len(), |(at, _)| at);
        self.bytes[..key_len].copy_from_slice(&base[..key_len]);
        (self.len, self.list_at, self.count) = (key_len, key_len, 0);
        Ok(())
    }

    /// Adds tuple ids.
    fn add(&mut self, tids: &[u8]) -> Checked<()> {
        let end = self.len + tids.len();
        if end > PAGE_SIZE {
            return Err(Problem::new("length of a posting tuple", PAGE_SIZE, end));
        }
        self.bytes[self.len..end].copy_from_slice(tids);
        (self.len, self.count) = (end, self.count + tids.len() / TID);
        Ok(())
    }

    /// The tuple: with its list, or with its only tuple id in front (`_bt_form_posting`).
    fn finish(&mut self) -> Checked<&[u8]> {
        let list_at = self.list_at;
        let info = u16_of(&self.bytes, 6)? & !SIZE_MASK;
        let (len, info) = match self.count {
            0 => return Err(Problem::new("posting list", "a tuple id", "none")),
            1 => {
                self.bytes.copy_within(list_at..list_at + TID, 0);
                (list_at, info & !ALT_TID)
            }
            count => {
                let at = (list_at as u32).to_le_bytes();
                self.bytes[..2].copy_from_slice(&at[2..]);
                self.bytes[2..4].copy_from_slice(&at[..2]);
                let number = count as u16 & COUNT_MASK | IS_POSTING;
                self.bytes[4..6].copy_from_slice(&number.to_le_bytes());
                let len = max_align(self.len).min(PAGE_SIZE);
                self.bytes[self.len..len].fill(0);
                (len, info | ALT_TID)
            }
        };
        let info = info | len as u16 & SIZE_MASK;
        self.bytes[6..8].copy_from_slice(&info.to_le_bytes());
        Ok(&self.bytes[..len])
    }
}

/// The tuple ids of a tuple: its list, or the one in front.
fn tids(tuple: &[u8]) -> Checked<&[u8]> {
    match posting(tuple)? {
        Some((at, count)) => Ok(&tuple[at..at + count * TID]),
        None => tuple.get(..TID).ok_or_else(|| short(tuple)),
    }
}

/// Splits a posting list (`_bt_swap_posting`): the new item's tuple id goes into the list at
/// `split`, and the list's last one to the new item.
fn swap_posting(new: &mut [u8], list: &mut [u8], split: usize) -> Checked<()> {
    let Some((at, count)) = posting(list)?.filter(|(_, count)| (1..*count).contains(&split)) else {
        return Err(Problem::new("posting split", "within a list", split));
    };
    let end = at + count * TID;
    let gap = at + split * TID;
    let mut last = [0; TID];
    last.copy_from_slice(&list[end - TID..end]);
    list.copy_within(gap..end - TID, gap + TID);
    list[gap..gap + TID].copy_from_slice(&new[..TID]);
    new[..TID].copy_from_slice(&last);
    Ok(())
}

/// `btree_xlog_insert`, on the page itself.
fn insert(change: &mut Change<'_, '_>, splits_posting: bool) -> Checked<()> {
    let number = change.main_u16(0)?;
    let mut data = change.block.data;
    if splits_posting {
        let split = usize::from(u16_of(data, 0)?);
        data = &data[2..];
        let mut new = [0; PAGE_SIZE];
        let new = new.get_mut(..data.len()).ok_or_else(|| short(data))?;
        new.copy_from_slice(data);
        tuple_len(new)?;
        let list = change.page.item_mut(number.wrapping_sub(1), TUPLE_HEADER)?;
        swap_posting(new, list, split)?;
        change.page.insert_item(number, new)?;
    } else {
        change.page.insert_item(number, data)?;
    }
    change.stamp();
    Ok(())
}

/// `_bt_clear_incomplete_split`.
fn split_is_complete(change: &mut Change<'_, '_>) -> Checked<()> {
    clear_flag(&mut change.page, INCOMPLETE_SPLIT)?;
    change.stamp();
    Ok(())
}

/// `_bt_restore_meta`.
fn metapage(change: &mut Change<'_, '_>) -> Checked<()> {
    const LOGGED_LEN: usize = 28;
    let data = change.block.data.get(..LOGGED_LEN).ok_or_else(|| short(change.block.data))?;
    let page = &mut change.page;
    init(page, [0, 0], 0, META);
    page.set_u32(CONTENTS, MAGIC);
    // Version, root, its level, the fast root, its level, deleted pages.
    page.0[CONTENTS + 4..CONTENTS + 28].copy_from_slice(&data[..24]);
    page.0[CONTENTS + 32..CONTENTS + 40].copy_from_slice(&(-1.0_f64).to_le_bytes());
    page.0[CONTENTS + 40] = data[24];
    page.set_lower(CONTENTS + META_LEN);
    change.stamp();
    Ok(())
}

/// A left or right link that leads elsewhere now.
fn relink(change: &mut Change<'_, '_>, link: usize, to: u32) -> Checked<()> {
    let at = change.page.special_at(OPAQUE)? + link;
    change.page.set_u32(at, to);
    change.stamp();
    Ok(())
}

/// `_bt_restore_page`: the record has the items last first, so that they lie on the page as they
/// did.
fn restore_items(page: &mut PageMut<'_>, data: &[u8]) -> Checked<()> {
    let mut starts = [0_u16; PAGE_SIZE / TUPLE_HEADER];
    let (mut items, mut at) = (0, 0);
    while at < data.len() {
        let start = starts.get_mut(items).ok_or_else(|| short(data))?;
        *start = at as u16;
        at += tuple_len(&data[at..])?;
        items += 1;
    }
    for &start in starts[..items].iter().rev() {
        page.push_item(take_tuple(&mut &data[usize::from(start)..])?)?;
    }
    Ok(())
}

/// `btree_xlog_split`, the right page.
fn right_half(change: &mut Change<'_, '_>) -> Checked<()> {
    let level = change.main_u32(0)?;
    let next = change.find(2).map_or(0, |next| next.block);
    let links = [change.other(0)?.block, next];
    init(&mut change.page, links, level, if level == 0 { LEAF } else { 0 });
    restore_items(&mut change.page, change.block.data)?;
    change.stamp();
    Ok(())
}

/// `btree_xlog_split`, the page that was split.
fn left_half(change: &mut Change<'_, '_>, is_new_on_left: bool) -> Checked<()> {
    let (level, first_right) = (change.main_u32(0)?, change.main_u16(4)?);
    let (new_number, split) = (change.main_u16(6)?, usize::from(change.main_u16(8)?));
    let right = change.other(1)?.block;
    let mut data = change.block.data;
    let mut old = *change.page.0;
    let mut old = PageMut(&mut old);
    let first = first_data(&mut old)?;
    let mut new = [0; PAGE_SIZE];
    let mut new_len = 0;
    if is_new_on_left || split != 0 {
        let logged = take_tuple(&mut data)?;
        new_len = logged.len();
        new.get_mut(..new_len).ok_or_else(|| short(logged))?.copy_from_slice(logged);
    }
    let new = &mut new[..new_len];
    if split != 0 {
        let list = old.item_mut(new_number.wrapping_sub(1), TUPLE_HEADER)?;
        swap_posting(new, list, split)?;
    }
    let high_key = take_tuple(&mut data)?;
    if !data.is_empty() {
        return Err(Problem::new("data behind the high key", "none", data.len()));
    }
    let page = &mut change.page;
    let special = page.special_at(OPAQUE)?;
    page.init(OPAQUE);
    page.0[special..].copy_from_slice(&old.0[special..]);
    page.push_item(high_key)?;
    for number in first..first_right {
        if is_new_on_left && number == new_number {
            page.push_item(new)?;
        }
        let item = old.stored_range(number, TUPLE_HEADER)?;
        page.push_item(&old.0[item])?;
    }
    if is_new_on_left && first_right.max(first) == new_number {
        page.push_item(new)?;
    }
    let leaf = if level == 0 { LEAF } else { 0 };
    page.set_u16(special + FLAGS, INCOMPLETE_SPLIT | leaf);
    page.set_u32(special + NEXT, right);
    page.set_u16(special + CYCLE, 0);
    change.stamp();
    Ok(())
}

/// `btree_xlog_dedup`. An interval: first number u16, items u16.
fn deduplicate(change: &mut Change<'_, '_>) -> Checked<()> {
    let count = usize::from(change.main_u16(0)?);
    let intervals = change.block.data.as_chunks::<4>().0;
    let intervals = intervals.get(..count).ok_or_else(|| short(change.block.data))?;
    let mut intervals = intervals
        .iter()
        .map(|[a, b, c, d]| (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])));
    let mut old = *change.page.0;
    let mut old = PageMut(&mut old);
    let first = first_data(&mut old)?;
    let page = &mut change.page;
    let special = page.special_at(OPAQUE)?;
    page.init(OPAQUE);
    page.0[special..].copy_from_slice(&old.0[special..]);
    if first > HIGH_KEY {
        let item = old.stored_range(HIGH_KEY, TUPLE_HEADER)?;
        page.push_item(&old.0[item])?;
    }
    let mut draft = Draft::new();
    let (mut number, mut next) = (first, intervals.next());
    while number <= old.items() {
        let base = old.stored_range(number, TUPLE_HEADER)?;
        match next {
            Some((start, items)) if start == number && items > 1 => {
                draft.start(&old.0[base])?;
                for merged in number..number.saturating_add(items) {
                    let item = old.stored_range(merged, TUPLE_HEADER)?;
                    draft.add(tids(&old.0[item])?)?;
                }
                page.push_item(draft.finish()?)?;
                number += items;
                next = intervals.next();
            }
            _ => {
                page.push_item(&old.0[base])?;
                number += 1;
            }
        }
    }
    if let Some((start, _)) = next {
        return Err(Problem::new("start of an interval", "an item, ascending", start));
    }
    clear_flag(page, HAS_GARBAGE)?;
    change.stamp();
    Ok(())
}

/// `btree_xlog_vacuum` and `btree_xlog_delete`: the counts are at `at` of the main data. In the
/// block's data: deleted numbers, updated numbers, then for each of these how many tuple ids of its
/// list go u16, and which u16.
fn delete(change: &mut Change<'_, '_>, at: usize) -> Checked<()> {
    let deleted = usize::from(change.main_u16(at)?);
    let updated = usize::from(change.main_u16(at + 2)?);
    let data = change.block.data;
    let numbers = data.as_chunks::<2>().0;
    let deleted_numbers = numbers.get(..deleted).ok_or_else(|| short(data))?;
    let rest = numbers.get(deleted..).unwrap_or_default();
    let updated_numbers = rest.get(..updated).ok_or_else(|| short(data))?;
    let mut rest =
        rest.get(updated..).unwrap_or_default().iter().map(|number| u16::from_le_bytes(*number));
    if updated > 0 {
        let mut draft = Draft::new();
        for number in updated_numbers {
            let number = u16::from_le_bytes(*number);
            let item = change.page.stored_range(number, TUPLE_HEADER)?;
            let tuple = &change.page.0[item];
            draft.start(tuple)?;
            let mut going = rest.next().ok_or_else(|| short(data))?;
            let mut next = if going > 0 { rest.next() } else { None };
            for (index, tid) in tids(tuple)?.chunks(TID).enumerate() {
                if next.map(usize::from) == Some(index) {
                    going -= 1;
                    next = if going > 0 { rest.next() } else { None };
                } else {
                    draft.add(tid)?;
                }
            }
            if going > 0 {
                return Err(Problem::new("deleted tuple ids", "of the list, ascending", going));
            }
            change.page.overwrite_item(number, draft.finish()?)?;
        }
    }
    change.page.delete_items(deleted_numbers)?;
    clear_flag(&mut change.page, HAS_GARBAGE)?;
    change.stamp();
    Ok(())
}

/// `btree_xlog_mark_page_halfdead` and `btree_xlog_unlink_page`, the leaf: links, and in place of
/// its high key the top of what is going to be deleted (`BTreeTupleSetTopParent`).
fn half_dead(change: &mut Change<'_, '_>, [prev, next, top]: [u32; 3]) -> Checked<()> {
    init(&mut change.page, [prev, next], 0, HALF_DEAD | LEAF);
    let mut tuple = [0; TUPLE_HEADER];
    tuple[..2].copy_from_slice(&((top >> 16) as u16).to_le_bytes());
    tuple[2..4].copy_from_slice(&(top as u16).to_le_bytes());
    tuple[6..].copy_from_slice(&(TUPLE_HEADER as u16 | ALT_TID).to_le_bytes());
    change.page.push_item(&tuple)?;
    change.stamp();
    Ok(())
}

/// `btree_xlog_mark_page_halfdead`, the parent: the child's tuple leads to its right sibling, whose
/// own goes.
fn unlink_child(change: &mut Change<'_, '_>) -> Checked<()> {
    let number = change.main_u16(0)?;
    let next = number.wrapping_add(1);
    let mut link = [0; 4];
    link.copy_from_slice(&change.page.item(next, TUPLE_HEADER)?[..4]);
    change.page.item_mut(number, TUPLE_HEADER)?[..4].copy_from_slice(&link);
    change.page.delete_item(next)?;
    change.stamp();
    Ok(())
}

/// `btree_xlog_unlink_page`, the page itself (`BTPageSetDeleted`).
fn unlinked(change: &mut Change<'_, '_>) -> Checked<()> {
    let (prev, next, level) = (change.main_u32(0)?, change.main_u32(4)?, change.main_u32(8)?);
    let safe_xid = change.main_u64(16)?;
    let leaf = if level == 0 { LEAF } else { 0 };
    let page = &mut change.page;
    init(page, [prev, next], level, DELETED | HAS_FULL_XID | leaf);
    page.0[CONTENTS..CONTENTS + 8].copy_from_slice(&safe_xid.to_le_bytes());
    page.set_lower(CONTENTS + 8);
    change.stamp();
    Ok(())
}

/// `btree_xlog_newroot`, the root.
fn new_root(change: &mut Change<'_, '_>) -> Checked<()> {
    let level = change.main_u32(4)?;
    let leaf = if level == 0 { LEAF } else { 0 };
    init(&mut change.page, [0, 0], level, ROOT | leaf);
    if level > 0 {
        restore_items(&mut change.page, change.block.data)?;
    }
    change.stamp();
    Ok(())
}

/// `btree_mask`, what is its own: dead items of leaves, garbage, the end of a split, the vacuum
/// cycle.
pub(super) fn mask(page: &mut PageMut<'_>) {
    const SPLIT_END: u16 = 0x20;
    let Ok(at) = page.special_at(OPAQUE) else { return };
    let flags = page.u16(at + FLAGS);
    if flags & LEAF != 0 {
        mask::item_states(page);
    }
    page.set_u16(at + FLAGS, flags & !(HAS_GARBAGE | SPLIT_END));
    page.set_u16(at + CYCLE, 0);
}
