//! Redo of GiST records: `gist_redo` of `access/gist/gistxlog.c`.
//!
//! | record | main data | blocks, and their data |
//! |---|---|---|
//! | PAGE_UPDATE (0x00) | deleted u16, inserted u16 | 0 the page: deleted numbers, tuples; 1 the left child, whose split is complete |
//! | DELETE (0x10) | conflict xid u32, deleted u16, their numbers | 0 the page |
//! | PAGE_REUSE (0x20), ASSIGN_LSN (0x70) | | none |
//! | PAGE_SPLIT (0x30) | right link u32, padding, its NSN u64, was a leaf u8, padding, pages u16, follow right u8 | 0 the left child, whose split is complete; 1.. the pages from left to right: tuples i32, tuples |
//! | PAGE_DELETE (0x60) | delete xid u64, number in the parent u16 | 0 the page, 1 the parent |
//!
//! The special space: NSN (the Lsn of the page's last split, upper half first), right link u32,
//! flags u16, 0xFF81 u16. A tuple: block and number 6 bytes, info u16 (13 bits length), key.

use pagestrata_layers::Lsn;

use crate::{
    layout::PAGE_SIZE,
    redo::{
        change::Change,
        mask,
        page::{PageMut, short, u16_of},
        problem::{Checked, Problem},
    },
};

const OPAQUE: usize = 16;
const NSN: usize = 0;
const RIGHT: usize = 8;
const FLAGS: usize = 12;
const PAGE_ID: usize = 14;

const LEAF: u16 = 1;
const DELETED: u16 = 2;
const TUPLES_DELETED: u16 = 4;
const FOLLOW_RIGHT: u16 = 8;
const HAS_GARBAGE: u16 = 0x10;
/// What each page of such an index ends with.
const ID: u16 = 0xFF81;

const ROOT: u32 = 0;
const NO_BLOCK: u32 = u32::MAX;
/// A page's first data starts here.
const CONTENTS: usize = 24;
const TUPLE_HEADER: usize = 8;
const SIZE_MASK: u16 = 0x1FFF;

/// `gist_redo`.
pub(super) fn gist(change: &mut Change<'_, '_>) -> Checked<()> {
    let info = change.record.info() & 0xF0;
    match (info, change.block.id) {
        (0x00, 0) => update(change),
        (0x10, 0) => delete(change),
        (0x60, 0) => delete_page(change),
        (0x60, 1) => unlink_child(change),
        (_, id) if is_left_child(info, id) => split_is_complete(change),
        (0x30, _) => part_of_split(change),
        _ => Err(change.unknown()),
    }
}

/// Whether a reference is that of a left child. Its image is from before the change
/// (`gistRedoClearFollowRight`).
pub(super) const fn is_left_child(info: u8, id: u8) -> bool {
    matches!((info, id), (0x00, 1) | (0x30, 0))
}

fn set_flag(page: &mut PageMut<'_>, flag: u16, is_set: bool) -> Checked<()> {
    let at = page.special_at(OPAQUE)? + FLAGS;
    let flags = page.u16(at);
    page.set_u16(at, if is_set { flags | flag } else { flags & !flag });
    Ok(())
}

fn is_leaf(page: &mut PageMut<'_>) -> Checked<bool> {
    let at = page.special_at(OPAQUE)? + FLAGS;
    Ok(page.u16(at) & LEAF != 0)
}

/// `GistPageSetNSN`.
fn set_nsn(page: &mut PageMut<'_>, lsn: Lsn) -> Checked<()> {
    let at = page.special_at(OPAQUE)? + NSN;
    page.set_u32(at, (lsn.0 >> 32) as u32);
    page.set_u32(at + 4, lsn.0 as u32);
    Ok(())
}

/// Tuples that follow one another, each put behind the last of the page: how many.
fn push_tuples(page: &mut PageMut<'_>, mut data: &[u8]) -> Checked<usize> {
    let mut count = 0;
    while !data.is_empty() {
        let len = usize::from(u16_of(data, 6)? & SIZE_MASK);
        let (tuple, rest) =
            data.split_at_checked(len).filter(|_| len >= TUPLE_HEADER).ok_or_else(|| {
                let expected = format_args!("{TUPLE_HEADER} to {}", data.len());
                Problem::new("length of an index tuple", expected, len)
            })?;
        page.push_item(tuple)?;
        data = rest;
        count += 1;
    }
    Ok(count)
}

fn check_count(found: usize, expected: usize) -> Checked<()> {
    if found == expected {
        return Ok(());
    }
    Err(Problem::new("number of tuples", expected, found))
}

/// `gistRedoPageUpdateRecord`.
fn update(change: &mut Change<'_, '_>) -> Checked<()> {
    let (deleted, inserted) = (change.main_u16(0)?, usize::from(change.main_u16(2)?));
    let data = change.block.data;
    let (numbers, tuples) =
        data.split_at_checked(usize::from(deleted) * 2).ok_or_else(|| short(data))?;
    let page = &mut change.page;
    page.special_at(OPAQUE)?;
    if (deleted, inserted) == (1, 1) {
        // In its place, as when it was done: another order of the items otherwise.
        let len = usize::from(u16_of(tuples, 6)? & SIZE_MASK);
        if len != tuples.len() {
            return Err(Problem::new("length of an index tuple", tuples.len(), len));
        }
        page.overwrite_item(u16_of(numbers, 0)?, tuples)?;
    } else {
        if deleted > 0 {
            page.delete_items(numbers.as_chunks().0)?;
            if is_leaf(page)? {
                set_flag(page, TUPLES_DELETED, true)?;
            }
        }
        check_count(push_tuples(page, tuples)?, inserted)?;
    }
    change.stamp();
    Ok(())
}

/// `gistRedoClearFollowRight`: the page has its right sibling's downlink beside its own now.
fn split_is_complete(change: &mut Change<'_, '_>) -> Checked<()> {
    set_nsn(&mut change.page, change.record.end())?;
    set_flag(&mut change.page, FOLLOW_RIGHT, false)?;
    change.stamp();
    Ok(())
}

/// `gistRedoDeleteRecord`. It sets a flag that the server that wrote the record had left alone.
fn delete(change: &mut Change<'_, '_>) -> Checked<()> {
    const NUMBERS: usize = 6;
    let main = change.record.main_data();
    let deleted = usize::from(change.main_u16(4)?);
    let numbers = main.get(NUMBERS..).unwrap_or_default().as_chunks().0;
    let numbers = numbers.get(..deleted).ok_or_else(|| short(main))?;
    change.page.delete_items(numbers)?;
    set_flag(&mut change.page, HAS_GARBAGE, false)?;
    set_flag(&mut change.page, TUPLES_DELETED, true)?;
    change.stamp();
    Ok(())
}

/// `gistRedoPageSplitRecord`, one of the pages.
fn part_of_split(change: &mut Change<'_, '_>) -> Checked<()> {
    let main = change.record.main_data();
    let (link_behind, nsn) = (change.main_u32(0)?, change.main_u64(8)?);
    let [was_leaf, _, _, _, follows_right] = *main.get(16..21).ok_or_else(|| short(main))? else {
        return Err(short(main));
    };
    let pages = change.main_u16(18)?;
    let id = change.block.id;
    let is_root = change.block.block == ROOT;
    let is_last = u16::from(id) >= pages;
    let right = match (is_root, is_last) {
        (true, _) => NO_BLOCK,
        (false, true) => link_behind,
        (false, false) => change.other(id.saturating_add(1))?.block,
    };
    let is_root_split = change.other(1)?.block == ROOT;
    let mut flags = if was_leaf != 0 && !is_root { LEAF } else { 0 };
    if follows_right != 0 && !is_last && !is_root_split {
        flags |= FOLLOW_RIGHT;
    }
    let data = change.block.data;
    let (count, tuples) = data.split_first_chunk().ok_or_else(|| short(data))?;
    let page = &mut change.page;
    page.init(OPAQUE);
    let at = PAGE_SIZE - OPAQUE;
    page.set_u32(at + RIGHT, right);
    page.set_u16(at + FLAGS, flags);
    page.set_u16(at + PAGE_ID, ID);
    set_nsn(page, Lsn(nsn))?;
    check_count(push_tuples(page, tuples)?, u32::from_le_bytes(*count) as usize)?;
    change.stamp();
    Ok(())
}

/// `gistRedoPageDelete`, the page itself (`GistPageSetDeleted`).
fn delete_page(change: &mut Change<'_, '_>) -> Checked<()> {
    let main = change.record.main_data();
    let xid = main.first_chunk::<8>().ok_or_else(|| short(main))?;
    let page = &mut change.page;
    set_flag(page, DELETED, true)?;
    page.set_lower(CONTENTS + xid.len());
    page.0[CONTENTS..CONTENTS + xid.len()].copy_from_slice(xid);
    change.stamp();
    Ok(())
}

/// `gistRedoPageDelete`, the parent.
fn unlink_child(change: &mut Change<'_, '_>) -> Checked<()> {
    change.page.delete_item(change.main_u16(8)?)?;
    change.stamp();
    Ok(())
}

/// `gist_mask`, what is its own: NSN, whether to follow right, dead items of leaves, garbage.
pub(super) fn mask(page: &mut PageMut<'_>) {
    let Ok(at) = page.special_at(OPAQUE) else { return };
    page.0[at + NSN..at + NSN + 8].fill(0);
    let flags = page.u16(at + FLAGS);
    page.set_u16(at + FLAGS, (flags | FOLLOW_RIGHT) & !HAS_GARBAGE);
    if flags & LEAF != 0 {
        mask::item_states(page);
    }
}

#[cfg(test)]
mod tests {
    use pagestrata_layers::Value;

    use super::*;
    use crate::{
        error::Error,
        layout::Page,
        redo::{apply::redo, change::RedoSettings, versions::PageVersions},
        rel::{RelFork, RelPage},
        wal::record::read_record,
    };

    const CHILD: u32 = 7;

    /// A PAGE_UPDATE that has only the image of the left child.
    fn update_with_image(image: &Page) -> Vec<u8> {
        const HAS_IMAGE: u8 = 0x10;
        const APPLY: u8 = 2;
        let mut raw = vec![0; 24];
        raw[17] = 14;
        raw.extend([1, HAS_IMAGE, 0, 0]);
        raw.extend((PAGE_SIZE as u16).to_le_bytes());
        raw.extend([0, 0, APPLY]);
        [1663, 5, 16384, CHILD].iter().for_each(|number: &u32| raw.extend(number.to_le_bytes()));
        raw.extend([255, 4]);
        raw.extend(image);
        raw.extend([0; 4]);
        let len = raw.len() as u32;
        raw[..4].copy_from_slice(&len.to_le_bytes());
        raw
    }

    #[test]
    fn left_child_is_changed_behind_its_image() {
        let mut image = [0; PAGE_SIZE];
        let mut page = PageMut(&mut image);
        page.init(OPAQUE);
        set_flag(&mut page, LEAF | FOLLOW_RIGHT, true).unwrap();
        let raw = update_with_image(&image);
        let end = Lsn(0x1_0000_2000);
        let record = read_record(&raw, end).unwrap();
        let rel =
            RelFork { tablespace: 1663, database: 5, relation: 16384, fork: crate::Fork::Main };
        let of = RelPage { rel, block: CHILD };

        let mut kinds = Vec::new();
        let mut put = |_, value: Value<'_>| {
            kinds.push(matches!(value, Value::Delta { will_init: true, .. }));
            Ok::<_, Error>(())
        };
        PageVersions::new().versions(&record, &mut put).unwrap();
        assert_eq!(kinds, [true], "redo has to see the record");

        let mut older = [0xAA; PAGE_SIZE];
        older[..8].fill(0);
        // In a backup a page can be newer, and only half of it.
        let pages = [older, [0xAA; PAGE_SIZE]].map(|mut page| {
            redo(RedoSettings { logs_hints: true }, &record, of, &mut page).unwrap();
            page
        });
        let mut wanted = PageMut(&mut image);
        set_flag(&mut wanted, FOLLOW_RIGHT, false).unwrap();
        set_nsn(&mut wanted, end).unwrap();
        wanted.set_lsn(end);
        assert!(pages == [image; 2], "flag cleared, NSN and Lsn those of the record's end");
    }
}
