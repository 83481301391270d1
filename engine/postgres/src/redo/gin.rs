//! Redo of records of inverted indexes: `gin_redo` of `access/gin/ginxlog.c`.
//!
//! | record | main data | blocks, and their data |
//! |---|---|---|
//! | CREATE_PTREE (0x10) | length u32, segments | 0 the posting tree's root |
//! | INSERT (0x20) | flags u16 (1 of a posting tree, 2 on a leaf), unless on a leaf left child, right child block | 0 the page: see below, 1 the left child |
//! | SPLIT (0x30) | node 12 B, right link u32, left, right child u32, flags u16 | 0 left, 1 right, 2 the root if that was split: all images, 3 the left child |
//! | VACUUM_PAGE (0x40) | | 0 the page: an image |
//! | DELETE_PAGE (0x50) | number in the parent u16, padding, right link u32, delete xid u32 | 0 the page, 1 the parent, 2 the page to the left |
//! | UPDATE_META_PAGE (0x60) | node 12 B, padding, metadata 56 B, old tail u32, its right link u32, tuples i32 | 0 the metapage, 1 the tail: tuples, or the old tail |
//! | INSERT_LISTPAGE (0x70) | right link u32, tuples i32 | 0 the page: tuples |
//! | DELETE_LISTPAGE (0x80) | metadata 56 B, deleted i32 | 0 the metapage, 1.. the pages |
//! | VACUUM_DATA_LEAF_PAGE (0x90) | | 0 the page: actions |
//!
//! An insertion's data. Entry tree: number u16, whether it takes the place of the item u8, padding,
//! tuple. Inner page of a posting tree: number u16, posting item. Leaf of a posting tree: actions.
//! Actions: count u16, then for each: segment's number u8, what u8 (1 delete, 2 insert, 3 replace,
//! 4 add items), for 2 and 3 a segment, for 4 items: count u16, 6 bytes each.
//!
//! The special space: right u32, number of items u16, flags u16. A page of a posting tree has its
//! right bound at byte 24 and from byte 32 on, up to `pd_lower`, posting items (child block, key:
//! 10 bytes) or segments: first tuple id, count of bytes u16, these bytes: differences of tuple
//! ids, 7 bits in each byte, lowest first, 0x80: more follow; then zero to an even length. A block
//! or tuple id has the block's upper half first.

use crate::{
    bytes::Cursor,
    layout::{PAGE_SIZE, PD_PRUNE_XID},
    redo::{
        change::Change,
        mask,
        page::{PageMut, short, u16_of},
        problem::{Checked, Problem},
    },
};

const OPAQUE: usize = 8;
const RIGHT: usize = 0;
const ITEMS: usize = 4;
const FLAGS: usize = 6;

const DATA: u16 = 1;
const LEAF: u16 = 2;
const DELETED: u16 = 4;
const META: u16 = 8;
const LIST: u16 = 0x10;
const LIST_FULL_ROW: u16 = 0x20;
const INCOMPLETE_SPLIT: u16 = 0x40;
const COMPRESSED: u16 = 0x80;

const NO_BLOCK: u32 = u32::MAX;
/// The metapage's data starts here.
const CONTENTS: usize = 24;
const META_LEN: usize = 56;
/// A posting tree's items or segments start here.
const POSTINGS: usize = 32;
const POSTING_ITEM: usize = 10;
const TUPLE_HEADER: usize = 8;
const SIZE_MASK: u16 = 0x1FFF;
const TID: usize = 6;
/// A segment's first tuple id and its count of bytes.
const SEGMENT_HEADER: usize = 8;
/// Bits of a tuple id's number, in a segment.
const NUMBER_BITS: u32 = 11;
/// And of all of it.
const TID_BITS: u32 = NUMBER_BITS + 32;

/// `gin_redo`.
pub(super) fn gin(change: &mut Change<'_, '_>) -> Checked<()> {
    match (change.record.info() & 0xF0, change.block.id) {
        (0x10, 0) => create_posting_tree(change),
        (0x20, 0) => insert(change),
        (0x20, 1) | (0x30, 3) => split_is_complete(change),
        (0x30, 0..=2) | (0x40, 0) => Err(Problem::new("page image", "one", "none")),
        (0x50, 0) => delete_page(change),
        (0x50, 1) => unlink_child(change),
        (0x50, 2) => relink(change, change.main_u32(4)?),
        (0x60, 0) => metapage(change, 16),
        (0x60, 1) => tail(change),
        (0x70, 0) => list_page(change),
        (0x80, 0) => metapage(change, 0),
        (0x80, _) => deleted_list_page(change),
        (0x90, 0) => recompress_leaf(change),
        _ => Err(change.unknown()),
    }
}

/// An empty page (`GinInitPage`) with these flags.
fn init(page: &mut PageMut<'_>, flags: u16) {
    page.init(OPAQUE);
    page.set_u32(PAGE_SIZE - OPAQUE + RIGHT, NO_BLOCK);
    page.set_u16(PAGE_SIZE - OPAQUE + FLAGS, flags);
}

/// Offset of the special space, of a page with all of these flags and none of the others.
fn opaque_of(page: &mut PageMut<'_>, has: u16, has_not: u16) -> Checked<usize> {
    let at = page.special_at(OPAQUE)?;
    let flags = page.u16(at + FLAGS);
    if flags & has != has || flags & has_not != 0 {
        let expected = format_args!("{has:#X} and not {has_not:#X}");
        return Err(Problem::new("flags of the page", expected, format_args!("{flags:#X}")));
    }
    Ok(at)
}

/// Takes a tuple off the front of some data.
fn take_tuple<'r>(data: &mut &'r [u8]) -> Checked<&'r [u8]> {
    let len = usize::from(u16_of(data, 6)? & SIZE_MASK);
    if len < TUPLE_HEADER || len > data.len() {
        let expected = format_args!("{TUPLE_HEADER} to {}", data.len());
        return Err(Problem::new("length of an index tuple", expected, len));
    }
    let (tuple, rest) = data.split_at(len);
    *data = rest;
    Ok(tuple)
}

/// A block's number as items have it (`BlockIdSet`).
fn block_id(block: u32) -> [u8; 4] {
    let [a, b, c, d] = block.to_le_bytes();
    [c, d, a, b]
}

/// `ginRedoCreatePTree`.
fn create_posting_tree(change: &mut Change<'_, '_>) -> Checked<()> {
    let len = change.main_u32(0)? as usize;
    let main = change.record.main_data();
    let segments = main.get(4..).and_then(|rest| rest.get(..len)).ok_or_else(|| short(main))?;
    let page = &mut change.page;
    init(page, DATA | LEAF | COMPRESSED);
    let mut out = Segments::of(page);
    out.put(segments)?;
    let end = out.at;
    page.set_lower(end);
    change.stamp();
    Ok(())
}

/// `ginRedoClearIncompleteSplit`.
fn split_is_complete(change: &mut Change<'_, '_>) -> Checked<()> {
    let flags = change.page.special_at(OPAQUE)? + FLAGS;
    change.page.set_u16(flags, change.page.u16(flags) & !INCOMPLETE_SPLIT);
    change.stamp();
    Ok(())
}

/// `ginRedoInsert`, on the page itself.
fn insert(change: &mut Change<'_, '_>) -> Checked<()> {
    const IS_DATA: u16 = 1;
    const IS_LEAF: u16 = 2;
    let flags = change.main_u16(0)?;
    let right_child = match flags & IS_LEAF {
        0 => Some(u32::from(change.main_u16(6)?) << 16 | u32::from(change.main_u16(8)?)),
        _ => None,
    };
    let (page, data) = (&mut change.page, change.block.data);
    match (flags & IS_DATA != 0, right_child) {
        (false, _) => insert_entry(page, right_child, data)?,
        (true, Some(right_child)) => insert_posting_item(page, right_child, data)?,
        (true, None) => recompress(page, data)?,
    }
    change.stamp();
    Ok(())
}

/// `ginRedoInsertEntry`.
fn insert_entry(page: &mut PageMut<'_>, right_child: Option<u32>, data: &[u8]) -> Checked<()> {
    opaque_of(page, 0, DATA)?;
    let number = u16_of(data, 0)?;
    let (replaces, mut rest) = match data {
        [_, _, replaces, _, rest @ ..] => (*replaces != 0, rest),
        _ => return Err(short(data)),
    };
    if let Some(right_child) = right_child {
        let link = page.item_mut(number, TUPLE_HEADER)?;
        link[..4].copy_from_slice(&block_id(right_child));
        link[4..TID].fill(0);
    }
    if replaces {
        page.delete_item(number)?;
    }
    page.insert_item(number, take_tuple(&mut rest)?)
}

/// Where posting item `number` of an inner page of a posting tree is, how many there are, and where
/// the special space is.
fn posting_item(page: &mut PageMut<'_>, number: u16) -> Checked<(usize, u16, usize)> {
    let special = opaque_of(page, DATA, LEAF)?;
    let items = page.u16(special + ITEMS);
    let end = POSTINGS + usize::from(items) * POSTING_ITEM;
    if number == 0 || number > items || end > special {
        let expected = format_args!("1 to {items}");
        return Err(Problem::new("number of a posting item", expected, number));
    }
    Ok((POSTINGS + usize::from(number - 1) * POSTING_ITEM, items, special))
}

/// `GinDataPageSetDataSize`, for so many posting items.
fn set_posting_items(page: &mut PageMut<'_>, special: usize, items: u16) {
    page.set_u16(special + ITEMS, items);
    page.set_lower(POSTINGS + usize::from(items) * POSTING_ITEM);
}

/// `ginRedoInsertData`, on an inner page: the item of the page that was split leads to the right
/// half, and the new one in front of it to the left.
fn insert_posting_item(page: &mut PageMut<'_>, right_child: u32, data: &[u8]) -> Checked<()> {
    let number = u16_of(data, 0)?;
    let new = data.get(2..2 + POSTING_ITEM).ok_or_else(|| short(data))?;
    let (at, items, special) = posting_item(page, number)?;
    let end = POSTINGS + usize::from(items) * POSTING_ITEM;
    if end + POSTING_ITEM > special {
        return Err(Problem::new("room for a posting item", POSTING_ITEM, special - end));
    }
    page.0[at..at + 4].copy_from_slice(&block_id(right_child));
    page.0.copy_within(at..end, at + POSTING_ITEM);
    page.0[at..at + POSTING_ITEM].copy_from_slice(new);
    set_posting_items(page, special, items + 1);
    Ok(())
}

/// `ginRedoDeletePage`, the parent (`GinPageDeletePostingItem`).
fn unlink_child(change: &mut Change<'_, '_>) -> Checked<()> {
    let number = change.main_u16(0)?;
    let page = &mut change.page;
    let (at, items, special) = posting_item(page, number)?;
    let end = POSTINGS + usize::from(items) * POSTING_ITEM;
    page.0.copy_within(at + POSTING_ITEM..end, at);
    set_posting_items(page, special, items - 1);
    change.stamp();
    Ok(())
}

/// `ginRedoDeletePage`, the page itself.
fn delete_page(change: &mut Change<'_, '_>) -> Checked<()> {
    let xid = change.main_u32(8)?;
    let flags = opaque_of(&mut change.page, DATA, 0)? + FLAGS;
    change.page.set_u16(flags, change.page.u16(flags) | DELETED);
    change.page.set_u32(PD_PRUNE_XID, xid);
    change.stamp();
    Ok(())
}

/// A right link that leads elsewhere now.
fn relink(change: &mut Change<'_, '_>, to: u32) -> Checked<()> {
    let at = change.page.special_at(OPAQUE)? + RIGHT;
    change.page.set_u32(at, to);
    change.stamp();
    Ok(())
}

/// `ginRedoUpdateMetapage` and `ginRedoDeleteListPages`, the metapage: made anew of what is at `at`
/// of the main data.
fn metapage(change: &mut Change<'_, '_>, at: usize) -> Checked<()> {
    let main = change.record.main_data();
    let metadata = main.get(at..at + META_LEN).ok_or_else(|| short(main))?;
    let page = &mut change.page;
    init(page, META);
    page.0[CONTENTS..CONTENTS + META_LEN].copy_from_slice(metadata);
    page.set_lower(CONTENTS + META_LEN);
    change.stamp();
    Ok(())
}

/// `ginRedoUpdateMetapage`, the tail of the list: tuples are added to it, or others are behind it
/// now.
fn tail(change: &mut Change<'_, '_>) -> Checked<()> {
    let tuples = change.main_u32(80)? as i32;
    if tuples <= 0 {
        let right = change.main_u32(76)?;
        return relink(change, right);
    }
    let items = change.page.special_at(OPAQUE)? + ITEMS;
    push_tuples(&mut change.page, change.block.data, tuples)?;
    // Of rows, not of tuples.
    change.page.set_u16(items, change.page.u16(items).wrapping_add(1));
    change.stamp();
    Ok(())
}

/// So many tuples, behind those of the page.
fn push_tuples(page: &mut PageMut<'_>, mut data: &[u8], tuples: i32) -> Checked<()> {
    (0..tuples).try_for_each(|_| page.push_item(take_tuple(&mut data)?))
}

/// `ginRedoInsertListPage`.
fn list_page(change: &mut Change<'_, '_>) -> Checked<()> {
    let (right, tuples) = (change.main_u32(0)?, change.main_u32(4)? as i32);
    let page = &mut change.page;
    let is_last = right == NO_BLOCK;
    init(page, if is_last { LIST | LIST_FULL_ROW } else { LIST });
    page.set_u32(PAGE_SIZE - OPAQUE + RIGHT, right);
    page.set_u16(PAGE_SIZE - OPAQUE + ITEMS, u16::from(is_last));
    push_tuples(page, change.block.data, tuples)?;
    change.stamp();
    Ok(())
}

/// `ginRedoDeleteListPages`, one of the pages.
fn deleted_list_page(change: &mut Change<'_, '_>) -> Checked<()> {
    init(&mut change.page, DELETED);
    change.stamp();
    Ok(())
}

/// `ginRedoVacuumDataLeafPage`.
fn recompress_leaf(change: &mut Change<'_, '_>) -> Checked<()> {
    recompress(&mut change.page, change.block.data)?;
    change.stamp();
    Ok(())
}

/// A tuple id as segments have it (`itemptr_to_uint64`).
fn tid(bytes: &[u8; TID]) -> Checked<u64> {
    let [b1, b2, b3, b4, n1, n2] = bytes.map(u64::from);
    let (block, number) = (b2 << 24 | b1 << 16 | b4 << 8 | b3, n2 << 8 | n1);
    if number >> NUMBER_BITS != 0 {
        let expected = format_args!("{NUMBER_BITS} bits");
        return Err(Problem::new("number of a tuple id", expected, number));
    }
    Ok(block << NUMBER_BITS | number)
}

/// And back (`uint64_to_itemptr`).
fn tid_bytes(tid: u64) -> [u8; TID] {
    let [b1, b2, b3, b4] = block_id((tid >> NUMBER_BITS) as u32);
    let [n1, n2] = ((tid & ((1 << NUMBER_BITS) - 1)) as u16).to_le_bytes();
    [b1, b2, b3, b4, n1, n2]
}

/// Takes a segment off the front of some, padding and all.
fn take_segment<'r>(segments: &mut &'r [u8]) -> Checked<&'r [u8]> {
    let len = SEGMENT_HEADER + usize::from(u16_of(segments, TID)?).next_multiple_of(2);
    let (segment, rest) = segments.split_at_checked(len).ok_or_else(|| {
        Problem::new("length of a segment", format_args!("at most {}", segments.len()), len)
    })?;
    *segments = rest;
    Ok(segment)
}

/// The tuple ids of a segment (`ginPostingListDecode`).
struct Tids<'r> {
    first: Option<u64>,
    last: u64,
    differences: Cursor<'r>,
}

impl<'r> Tids<'r> {
    fn of(segment: &'r [u8]) -> Checked<Tids<'r>> {
        let (head, rest) = segment.split_first_chunk::<TID>().ok_or_else(|| short(segment))?;
        let (first, len) = (tid(head)?, usize::from(u16_of(rest, 0)?));
        let differences = rest.get(2..2 + len).ok_or_else(|| short(segment))?;
        Ok(Tids { first: Some(first), last: first, differences: Cursor(differences) })
    }

    fn next(&mut self) -> Checked<Option<u64>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.differences.len() == 0 {
            return Ok(None);
        }
        let mut difference = 0;
        for shift in (0..TID_BITS).step_by(7) {
            let Some(byte) = self.differences.u8() else { break };
            difference |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                self.last += difference;
                if self.last >> TID_BITS != 0 {
                    break;
                }
                return Ok(Some(self.last));
            }
        }
        let expected = format_args!("{TID_BITS} bits, all of them");
        Err(Problem::new("tuple id of a segment", expected, "more or fewer"))
    }
}

/// Writes segments to a leaf of a posting tree, one behind the other. What is behind the last keeps
/// its old bytes.
struct Segments<'p> {
    /// The page in front of its special space.
    page: &'p mut [u8],
    /// Where the next byte goes.
    at: usize,
}

impl<'p> Segments<'p> {
    fn of(page: &'p mut PageMut<'_>) -> Segments<'p> {
        Segments { page: &mut page.0[..PAGE_SIZE - OPAQUE], at: POSTINGS }
    }

    fn put(&mut self, bytes: &[u8]) -> Checked<()> {
        let room = self.page.len() - self.at;
        let to = self.page.get_mut(self.at..self.at + bytes.len());
        to.ok_or_else(|| Problem::new("room for segments", bytes.len(), room))?
            .copy_from_slice(bytes);
        self.at += bytes.len();
        Ok(())
    }

    /// A segment of the tuple ids that `next` gives, which ascend (`ginCompressPostingList`);
    /// nothing if there are none.
    fn put_tids(&mut self, mut next: impl FnMut() -> Checked<Option<u64>>) -> Checked<()> {
        let Some(mut last) = next()? else { return Ok(()) };
        let start = self.at;
        self.put(&tid_bytes(last))?;
        self.put(&[0; 2])?;
        while let Some(tid) = next()? {
            if tid <= last {
                return Err(Problem::new("tuple id", format_args!("above {last:#X}"), tid));
            }
            let mut difference = tid - last;
            while difference > 0x7F {
                self.put(&[difference as u8 | 0x80])?;
                difference >>= 7;
            }
            self.put(&[difference as u8])?;
            last = tid;
        }
        let len = (self.at - start - SEGMENT_HEADER) as u16;
        self.page[start + TID..start + SEGMENT_HEADER].copy_from_slice(&len.to_le_bytes());
        if !len.is_multiple_of(2) {
            self.put(&[0])?;
        }
        Ok(())
    }

    /// A segment of what another one has and of more (`ginMergeItemPointers`), each once.
    fn put_merged(&mut self, segment: &[u8], more: &[[u8; TID]]) -> Checked<()> {
        let (mut old, mut more) = (Tids::of(segment)?, more.iter());
        let (mut next_old, mut next_new) = (old.next()?, more.next().map(tid).transpose()?);
        self.put_tids(|| {
            let next = match (next_old, next_new) {
                (Some(old), Some(new)) => old.min(new),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return Ok(None),
            };
            if next_old == Some(next) {
                next_old = old.next()?;
            }
            if next_new == Some(next) {
                next_new = more.next().map(tid).transpose()?;
            }
            Ok(Some(next))
        })
    }
}

/// A leaf as servers before 9.4 left it, a plain array of tuple ids, as the one segment that it is
/// now (first part of `ginRedoRecompress`).
fn compress(page: &mut PageMut<'_>, special: usize) -> Checked<()> {
    let (old, items) = (*page.0, usize::from(page.u16(special + ITEMS)));
    let tids = old[POSTINGS..special].as_chunks::<TID>().0;
    let tids = tids.get(..items).ok_or_else(|| {
        Problem::new("number of tuple ids", format_args!("at most {}", tids.len()), items)
    })?;
    let (mut tids, mut out) = (tids.iter(), Segments::of(page));
    out.put_tids(|| tids.next().map(tid).transpose())?;
    let end = out.at;
    page.set_lower(end);
    page.set_u16(special + ITEMS, 0);
    page.set_u16(special + FLAGS, page.u16(special + FLAGS) | COMPRESSED);
    Ok(())
}

/// `ginRedoRecompress`.
fn recompress(page: &mut PageMut<'_>, data: &[u8]) -> Checked<()> {
    const DELETE: u8 = 1;
    const INSERT: u8 = 2;
    const REPLACE: u8 = 3;
    const ADD_ITEMS: u8 = 4;
    let special = opaque_of(page, DATA | LEAF, 0)?;
    if page.u16(special + FLAGS) & COMPRESSED == 0 {
        compress(page, special)?;
    }
    let end = page.lower();
    if end < POSTINGS || end > special {
        return Err(Problem::new("pd_lower", format_args!("{POSTINGS} to {special}"), end));
    }
    let old = *page.0;
    let (mut old, mut number) = (&old[POSTINGS..end], 0);
    let mut out = Segments::of(page);
    let mut actions = Cursor(data);
    let count = actions.u16().ok_or_else(|| short(data))?;
    for _ in 0..count {
        let (at, what) = (actions.u8(), actions.u8());
        let (Some(at), Some(what)) = (at, what) else { return Err(short(data)) };
        if at < number {
            let expected = format_args!("{number} or more");
            return Err(Problem::new("number of a segment", expected, at));
        }
        while number < at {
            out.put(take_segment(&mut old)?)?;
            number += 1;
        }
        match what {
            DELETE => drop(take_segment(&mut old)?),
            INSERT => out.put(take_segment(&mut actions.0)?)?,
            REPLACE => {
                take_segment(&mut old)?;
                out.put(take_segment(&mut actions.0)?)?;
            }
            ADD_ITEMS => {
                let items = usize::from(actions.u16().ok_or_else(|| short(data))?);
                let items = actions.take(items * TID).ok_or_else(|| short(data))?;
                out.put_merged(take_segment(&mut old)?, items.as_chunks::<TID>().0)?;
            }
            _ => return Err(Problem::new("action on a segment", "1 to 4", what)),
        }
        // What is put in front of a segment leaves its number to it.
        if what != INSERT {
            number = number.saturating_add(1);
        }
    }
    out.put(old)?;
    let end = out.at;
    page.set_lower(end);
    Ok(())
}

/// `gin_mask`: of a deleted page everything.
pub(super) fn mask(page: &mut PageMut<'_>) {
    let is_deleted =
        page.special_at(OPAQUE).is_ok_and(|special| page.u16(special + FLAGS) & DELETED != 0);
    if is_deleted {
        mask::content(page);
    } else {
        mask::free_space(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tids_of(page: &PageMut<'_>) -> Vec<u64> {
        let (mut segments, mut found) = (&page.0[POSTINGS..page.lower()], Vec::new());
        while !segments.is_empty() {
            let mut tids = Tids::of(take_segment(&mut segments).unwrap()).unwrap();
            found.extend(std::iter::from_fn(|| tids.next().unwrap()));
        }
        found
    }

    /// No server that is asked here writes such pages.
    #[test]
    fn a_leaf_of_old_is_compressed_first() {
        // Differences of one byte up to seven.
        let old: Vec<u64> = (0..7).map(|n| (1 << (7 * n)) + n).collect();
        let mut page = [0xAA; PAGE_SIZE];
        let mut page = PageMut(&mut page);
        init(&mut page, DATA | LEAF);
        for (at, tid) in old.iter().enumerate() {
            page.0[POSTINGS + at * TID..][..TID].copy_from_slice(&tid_bytes(*tid));
        }
        page.set_u16(PAGE_SIZE - OPAQUE + ITEMS, 7);
        let mut actions = vec![1, 0, 0, 4, 2, 0];
        actions.extend([tid_bytes(2), tid_bytes(1 << 42 | 7)].concat());
        recompress(&mut page, &actions).unwrap();
        let mut expected = [&old[..], &[2, 1 << 42 | 7]].concat();
        expected.sort_unstable();
        assert_eq!(tids_of(&page), expected);
        assert_eq!(page.u16(PAGE_SIZE - OPAQUE + FLAGS), DATA | LEAF | COMPRESSED);
        assert_eq!(page.u16(PAGE_SIZE - OPAQUE + ITEMS), 0);
    }

    #[test]
    fn actions_that_make_no_sense_are_refused() {
        let segment = [0, 0, 1, 0, 1, 0, 1, 0, 5, 0];
        let whole = |page: &mut PageMut<'_>| {
            init(page, DATA | LEAF | COMPRESSED);
            let mut out = Segments::of(page);
            out.put(&segment).unwrap();
            let end = out.at;
            page.set_lower(end);
        };
        let actions: [&[u8]; 8] = [
            &[1],                                  // no count
            &[1, 0, 1, 1],                         // no such segment
            &[1, 0, 0, 5],                         // no such action
            &[2, 0, 0, 1, 0, 1],                   // a segment that is gone
            &[1, 0, 0, 4, 1, 0],                   // fewer items than it says
            &[1, 0, 0, 4, 1, 0, 0, 0, 9, 0, 0, 8], // a number of 12 bits
            &[1, 0, 0, 2, 0, 0, 1, 0, 1, 0, 9, 0], // a segment that is cut
            &[0, 0, 0],                            // none: as it was
        ];
        for (number, actions) in actions.iter().enumerate() {
            let mut page = [0; PAGE_SIZE];
            let mut page = PageMut(&mut page);
            whole(&mut page);
            let is_refused = recompress(&mut page, actions).is_err();
            assert_eq!(is_refused, number < 7, "{actions:?}");
        }
        let unended: [&[u8]; 2] = [&[0x80], &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]];
        for differences in unended {
            let mut segment = [0, 0, 1, 0, 1, 0, differences.len() as u8, 0].to_vec();
            segment.extend_from_slice(differences);
            let mut tids = Tids::of(&segment).unwrap();
            assert!(tids.next().is_ok_and(|first| first.is_some()) && tids.next().is_err());
        }
    }
}
