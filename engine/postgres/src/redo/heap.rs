//! Redo of heap records: `heap_redo` and `heap2_redo` of `access/heap/heapam.c`.
//!
//! | record | main data |
//! |---|---|
//! | Heap INSERT (0x00) | number u16, flags u8 |
//! | DELETE (0x10) | xmax u32, number u16, infobits u8, flags u8 |
//! | UPDATE, HOT_UPDATE (0x20, 0x40) | old xmax u32, old number u16, infobits u8, flags u8, new xmax u32, new number u16 |
//! | CONFIRM, INPLACE (0x50, 0x70) | number u16 |
//! | LOCK (0x60), Heap2 LOCK_UPDATED (0x60) | xmax u32, number u16, infobits u8, flags u8 |
//! | Heap2 PRUNE (0x10) | conflict xid u32, redirected u16, dead u16 |
//! | VACUUM (0x20) | unused u16 |
//! | FREEZE_PAGE (0x30) | cutoff xid u32, tuples u16 |
//! | VISIBLE (0x40) | cutoff xid u32, bits u8 |
//! | MULTI_INSERT (0x50) | flags u8, padding, tuples u16, their numbers unless the page is new |
//!
//! 0x80 with INSERT, UPDATE and MULTI_INSERT: the page is new. Numbers are those of line pointers,
//! from 1.
//!
//! A tuple: xmin u32, xmax u32, command u32, ctid (block as upper and lower u16, number u16),
//! infomask2 u16, infomask u16, length of its header u8, then null bitmap and data.

use std::ops::Range;

use crate::{
    bytes::Cursor,
    redo::{
        change::Change,
        mask,
        page::{ALL_VISIBLE, ItemId, PageMut, short, u16_of},
        problem::{Checked, Problem},
        visibility_map,
    },
    rel::Fork,
};

/// Bytes of a tuple's fixed header.
const TUPLE_HEADER: usize = 23;
const XMIN: usize = 0;
const XMAX: usize = 4;
const COMMAND: usize = 8;
const CTID: usize = 12;
const INFOMASK2: usize = 18;
const INFOMASK: usize = 20;
const HEADER_LEN: usize = 22;
/// infomask2, infomask, header length: what a record has of a tuple's header.
const SHORT_HEADER: usize = 5;

const COMBO_COMMAND: u16 = 0x0020;
const XMAX_KEY_SHARE: u16 = 0x0010;
const XMAX_EXCLUSIVE: u16 = 0x0040;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMAX_IS_MULTI: u16 = 0x1000;
const LOCK_MASK: u16 = XMAX_KEY_SHARE | XMAX_EXCLUSIVE;
/// Committed, invalid, multi, the locks.
const XMAX_BITS: u16 = 0x0400 | 0x0800 | XMAX_IS_MULTI | LOCK_MASK | XMAX_LOCK_ONLY;
const MOVED: u16 = 0xC000;
/// infomask2:
const KEYS_UPDATED: u16 = 0x2000;
const HOT_UPDATED: u16 = 0x4000;

/// infomask2 that marks a tuple moved to another partition: its ctid.
const MOVED_PARTITIONS: (u32, u16) = (u32::MAX, 0xFFFD);
const FROZEN_XID: u32 = 2;

/// What clears or sets the page's flag of being all visible.
const ALL_VISIBLE_CLEARED: u8 = 1;
const NEW_ALL_VISIBLE_CLEARED: u8 = 2;
const ALL_FROZEN_SET: u8 = 0x20;
const DELETE_IS_SUPER: u8 = 8;
const DELETE_IS_PARTITION_MOVE: u8 = 16;
const PREFIX_FROM_OLD: u8 = 0x20;
const SUFFIX_FROM_OLD: u8 = 0x40;

/// The page is new.
const INIT: u8 = 0x80;

/// The fixed header of a tuple on a page, or of one that is about to be there.
struct Tuple<'p>(&'p mut [u8; TUPLE_HEADER]);

impl Tuple<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn set_ctid(&mut self, block: u32, number: u16) {
        self.set_u16(CTID, (block >> 16) as u16);
        self.set_u16(CTID + 2, block as u16);
        self.set_u16(CTID + 4, number);
    }

    /// Nothing of who deleted, updated or locked it before.
    fn clear_xmax(&mut self) {
        self.set_u16(INFOMASK, self.u16(INFOMASK) & !(XMAX_BITS | MOVED));
        self.set_u16(INFOMASK2, self.u16(INFOMASK2) & !KEYS_UPDATED);
    }

    fn set_hot_updated(&mut self, is_set: bool) {
        let bits = self.u16(INFOMASK2) & !HOT_UPDATED;
        self.set_u16(INFOMASK2, if is_set { bits | HOT_UPDATED } else { bits });
    }

    /// `fix_infomask_from_infobits`, where the bits are cleared.
    fn set_infobits(&mut self, infobits: u8) {
        const BITS: [(u8, u16); 4] =
            [(1, XMAX_IS_MULTI), (2, XMAX_LOCK_ONLY), (4, XMAX_EXCLUSIVE), (8, XMAX_KEY_SHARE)];
        let bits = BITS.iter().filter(|(bit, _)| infobits & bit != 0);
        let bits = bits.fold(0, |bits, (_, mask)| bits | mask);
        self.set_u16(INFOMASK, self.u16(INFOMASK) | bits);
        if infobits & 0x10 != 0 {
            self.set_u16(INFOMASK2, self.u16(INFOMASK2) | KEYS_UPDATED);
        }
    }

    /// The first command, not a combined one (`HeapTupleHeaderSetCmax` and `SetCmin`).
    fn set_first_command(&mut self) {
        if cfg!(planted_bug = "redo_command_kept") {
            return;
        }
        self.set_u32(COMMAND, 0);
        self.set_u16(INFOMASK, self.u16(INFOMASK) & !COMBO_COMMAND);
    }

    /// `HEAP_XMAX_IS_LOCKED_ONLY`.
    fn is_only_locked(&self) -> bool {
        let infomask = self.u16(INFOMASK);
        infomask & XMAX_LOCK_ONLY != 0 || infomask & (XMAX_IS_MULTI | LOCK_MASK) == XMAX_EXCLUSIVE
    }
}

/// The tuple that a line pointer has.
fn tuple<'p>(page: &'p mut PageMut<'_>, number: u16) -> Checked<Tuple<'p>> {
    let item = page.item_mut(number, TUPLE_HEADER)?;
    let len = item.len();
    item.first_chunk_mut().map(Tuple).ok_or_else(|| Problem::new("tuple", TUPLE_HEADER, len))
}

/// The fixed header of a new tuple at `number`; `short_header` is what the record has of it.
struct NewTuple<'r> {
    number: u16,
    block: u32,
    xmin: u32,
    xmax: u32,
    short_header: &'r [u8; SHORT_HEADER],
}

impl<'r> NewTuple<'r> {
    /// A tuple that the record's transaction inserts on the page that is changed.
    fn inserted(
        change: &Change<'_, '_>,
        number: u16,
        short_header: &'r [u8; SHORT_HEADER],
    ) -> NewTuple<'r> {
        let (block, xmin) = (change.block.block, change.record.xid());
        NewTuple { number, block, xmin, xmax: 0, short_header }
    }

    /// Adds it with so many bytes more, which the caller fills: where these are.
    #[inline]
    fn add(&self, page: &mut PageMut<'_>, len: usize) -> Checked<usize> {
        let len = TUPLE_HEADER + len;
        let at = page.add_item(self.number, len)?;
        let header = page.0[at..].first_chunk_mut();
        let mut tuple =
            header.map(Tuple).ok_or_else(|| Problem::new("tuple", TUPLE_HEADER, len))?;
        tuple.set_u32(XMIN, self.xmin);
        tuple.set_u32(XMAX, self.xmax);
        tuple.set_u32(COMMAND, 0);
        tuple.set_ctid(self.block, self.number);
        let [infomask2 @ .., _, _, _] = *self.short_header;
        let [_, _, infomask @ .., header_len] = *self.short_header;
        tuple.set_u16(INFOMASK2, u16::from_le_bytes(infomask2));
        tuple.set_u16(INFOMASK, u16::from_le_bytes(infomask) & !COMBO_COMMAND);
        tuple.0[HEADER_LEN] = header_len;
        Ok(at + TUPLE_HEADER)
    }

    /// Adds it with what the record has behind the header.
    #[inline]
    fn add_with(&self, page: &mut PageMut<'_>, rest: &[u8]) -> Checked<()> {
        let at = self.add(page, rest.len())?;
        page.0[at..at + rest.len()].copy_from_slice(rest);
        Ok(())
    }
}

/// Most tuples lack some of the parts, and a copy of nothing is a call like any other.
#[inline]
fn put(page: &mut PageMut<'_>, at: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        page.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn take_header<'r>(data: &mut Cursor<'r>) -> Checked<&'r [u8; SHORT_HEADER]> {
    data.take(SHORT_HEADER).and_then(|header| header.try_into().ok()).ok_or_else(|| short(data.0))
}

/// The numbers of a record's main data, one after the other.
struct Main<'r>(Cursor<'r>);

impl<'r> Main<'r> {
    fn of(change: &Change<'r, '_>) -> Main<'r> {
        Main(Cursor(change.record.main_data()))
    }

    fn u8(&mut self) -> Checked<u8> {
        self.0.u8().ok_or_else(|| short(self.0.0))
    }

    fn u16(&mut self) -> Checked<u16> {
        self.0.u16().ok_or_else(|| short(self.0.0))
    }

    fn u32(&mut self) -> Checked<u32> {
        self.0.u32().ok_or_else(|| short(self.0.0))
    }
}

/// `heap_redo`.
pub(super) fn heap(change: &mut Change<'_, '_>) -> Checked<()> {
    match change.record.info() & 0x70 {
        0x00 => insert(change),
        0x10 => delete(change),
        0x20 => update(change, false),
        0x40 => update(change, true),
        0x50 => confirm(change),
        0x60 => lock(change, true),
        0x70 => inplace(change),
        _ => Err(change.unknown()),
    }
}

/// `heap2_redo`.
pub(super) fn heap2(change: &mut Change<'_, '_>) -> Checked<()> {
    match change.record.info() & 0x70 {
        0x10 => prune(change),
        0x20 => vacuum(change),
        0x30 => freeze(change),
        0x40 => visible(change),
        0x50 => multi_insert(change),
        0x60 => lock(change, false),
        _ => Err(change.unknown()),
    }
}

/// Starts afresh if the record says that the page is new.
fn init_if_new(change: &mut Change<'_, '_>) {
    if change.record.info() & INIT != 0 {
        change.page.init(0);
    }
}

/// `heap_xlog_insert`.
fn insert(change: &mut Change<'_, '_>) -> Checked<()> {
    let mut main = Main::of(change);
    let (number, flags) = (main.u16()?, main.u8()?);
    init_if_new(change);
    let mut data = Cursor(change.block.data);
    let short_header = take_header(&mut data)?;
    let new = NewTuple::inserted(change, number, short_header);
    new.add_with(&mut change.page, data.0)?;
    set_all_visible(&mut change.page, flags & ALL_VISIBLE_CLEARED != 0, flags);
    change.stamp();
    Ok(())
}

fn set_all_visible(page: &mut PageMut<'_>, is_cleared: bool, flags: u8) {
    if is_cleared {
        page.set_flag(ALL_VISIBLE, false);
    }
    if flags & ALL_FROZEN_SET != 0 {
        page.set_flag(ALL_VISIBLE, true);
    }
}

/// `heap_xlog_delete`.
fn delete(change: &mut Change<'_, '_>) -> Checked<()> {
    let mut main = Main::of(change);
    let (xmax, number) = (main.u32()?, main.u16()?);
    let (infobits, flags) = (main.u8()?, main.u8()?);
    let mut tuple = tuple(&mut change.page, number)?;
    tuple.clear_xmax();
    tuple.set_hot_updated(false);
    tuple.set_infobits(infobits);
    match flags & DELETE_IS_SUPER {
        0 => tuple.set_u32(XMAX, xmax),
        _ => tuple.set_u32(XMIN, 0),
    }
    tuple.set_first_command();
    let (block, number) = match flags & DELETE_IS_PARTITION_MOVE {
        0 => (change.block.block, number),
        _ => MOVED_PARTITIONS,
    };
    tuple.set_ctid(block, number);
    change.page.set_prunable(change.record.xid());
    if flags & ALL_VISIBLE_CLEARED != 0 {
        change.page.set_flag(ALL_VISIBLE, false);
    }
    change.stamp();
    Ok(())
}

/// `heap_xlog_update`. Block 0 is the new page; block 1 the old one, unless they are the same.
fn update(change: &mut Change<'_, '_>, is_hot: bool) -> Checked<()> {
    let mut main = Main::of(change);
    let (old_xmax, old_number) = (main.u32()?, main.u16()?);
    let (infobits, flags) = (main.u8()?, main.u8()?);
    let (new_xmax, new_number) = (main.u32()?, main.u16()?);
    let new_block = match change.block.id {
        0 => change.block.block,
        _ => change.other(0)?.block,
    };
    let mut blocks = change.record.blocks();
    let has_old = blocks.len() > 1 && blocks.any(|block| block.id == 1);
    let is_new = change.block.id == 0;
    if is_new && has_old {
        init_if_new(change);
    } else {
        let mut old = tuple(&mut change.page, old_number)?;
        old.clear_xmax();
        old.set_hot_updated(is_hot);
        old.set_infobits(infobits);
        old.set_u32(XMAX, old_xmax);
        old.set_first_command();
        old.set_ctid(new_block, new_number);
        change.page.set_prunable(change.record.xid());
        if flags & ALL_VISIBLE_CLEARED != 0 {
            change.page.set_flag(ALL_VISIBLE, false);
        }
    }
    if is_new {
        let new = Updated { number: new_number, xmax: new_xmax, block: new_block, flags };
        add_updated(change, &new, old_number, has_old)?;
    }
    change.stamp();
    Ok(())
}

/// The new version of a row that is updated.
struct Updated {
    number: u16,
    xmax: u32,
    block: u32,
    flags: u8,
}

/// Adds the new version to its page, with what it shares with the old one there.
fn add_updated(
    change: &mut Change<'_, '_>,
    updated: &Updated,
    old_number: u16,
    has_old: bool,
) -> Checked<()> {
    let Updated { number: new_number, xmax: new_xmax, block: new_block, flags } = *updated;
    let mut data = Cursor(change.block.data);
    let mut part = |is_there: u8| match is_there {
        0 => Ok(0),
        _ => data.u16().map(usize::from).ok_or_else(|| short(change.block.data)),
    };
    let prefix_len = part(flags & PREFIX_FROM_OLD)?;
    let suffix_len = part(flags & SUFFIX_FROM_OLD)?;
    let short_header = take_header(&mut data)?;
    let (prefix, suffix) = match prefix_len + suffix_len {
        0 => (0..0, 0..0),
        _ if has_old => {
            let found = "a part of one on another page";
            return Err(Problem::new("new tuple", "one that is whole", found));
        }
        _ => parts_of_old(&change.page, old_number, prefix_len, suffix_len)?,
    };
    // The null bitmap comes before the prefix.
    let bitmap_len = match prefix_len {
        0 => 0,
        _ => usize::from(short_header[SHORT_HEADER - 1]).saturating_sub(TUPLE_HEADER),
    };
    let bitmap = data.take(bitmap_len).ok_or_else(|| short(change.block.data))?;
    let new = NewTuple {
        number: new_number,
        block: new_block,
        xmin: change.record.xid(),
        xmax: new_xmax,
        short_header,
    };
    let middle = data.0;
    let len = bitmap.len() + prefix.len() + middle.len() + suffix.len();
    let page = &mut change.page;
    let mut at = new.add(page, len)?;
    put(page, at, bitmap);
    at += bitmap.len();
    if !prefix.is_empty() {
        page.0.copy_within(prefix.clone(), at);
    }
    at += prefix.len();
    put(page, at, middle);
    if !suffix.is_empty() {
        page.0.copy_within(suffix, at + middle.len());
    }
    if cfg!(planted_bug = "redo_tuple_byte") && !middle.is_empty() {
        page.0[at] ^= 1;
    }
    if flags & NEW_ALL_VISIBLE_CLEARED != 0 {
        change.page.set_flag(ALL_VISIBLE, false);
    }
    Ok(())
}

/// Where the first and the last bytes of an old tuple's data are on the page.
fn parts_of_old(
    page: &PageMut<'_>,
    number: u16,
    prefix: usize,
    suffix: usize,
) -> Checked<(Range<usize>, Range<usize>)> {
    let old = page.item_range(number, TUPLE_HEADER)?;
    let data = old.start + usize::from(page.0[old.start + HEADER_LEN]);
    if data + prefix > old.end || suffix > old.len() {
        let expected = format_args!("{prefix} and {suffix} bytes of the old one");
        return Err(Problem::new("new tuple", expected, format_args!("{} bytes", old.len())));
    }
    Ok((data..data + prefix, old.end - suffix..old.end))
}

/// `heap_xlog_confirm`: a speculative insertion stays.
fn confirm(change: &mut Change<'_, '_>) -> Checked<()> {
    let number = Main::of(change).u16()?;
    let block = change.block.block;
    tuple(&mut change.page, number)?.set_ctid(block, number);
    change.stamp();
    Ok(())
}

/// `heap_xlog_lock`, and `heap_xlog_lock_updated`, which leaves everything but the lock alone.
fn lock(change: &mut Change<'_, '_>, is_whole: bool) -> Checked<()> {
    let mut main = Main::of(change);
    let (xmax, number, infobits) = (main.u32()?, main.u16()?, main.u8()?);
    let block = change.block.block;
    let mut tuple = tuple(&mut change.page, number)?;
    tuple.clear_xmax();
    tuple.set_infobits(infobits);
    if is_whole && tuple.is_only_locked() {
        tuple.set_hot_updated(false);
        tuple.set_ctid(block, number);
    }
    tuple.set_u32(XMAX, xmax);
    if is_whole {
        tuple.set_first_command();
    }
    change.stamp();
    Ok(())
}

/// `heap_xlog_inplace`: the data of a tuple is written over.
fn inplace(change: &mut Change<'_, '_>) -> Checked<()> {
    let number = Main::of(change).u16()?;
    let tuple = change.page.item_mut(number, TUPLE_HEADER)?;
    let header_len = usize::from(tuple[HEADER_LEN]);
    let found = tuple.len();
    match tuple.get_mut(header_len..) {
        Some(data) if data.len() == change.block.data.len() => {
            data.copy_from_slice(change.block.data);
        }
        _ => {
            let expected = format_args!("{} bytes", header_len + change.block.data.len());
            return Err(Problem::new("tuple", expected, found));
        }
    }
    change.stamp();
    Ok(())
}

/// `heap_xlog_prune`.
fn prune(change: &mut Change<'_, '_>) -> Checked<()> {
    let mut main = Main::of(change);
    let (_, redirected, dead) = (main.u32()?, main.u16()?, main.u16()?);
    let data = change.block.data;
    let (redirected, dead) = (usize::from(redirected) * 4, usize::from(dead) * 2);
    let redirects = data.get(..redirected).ok_or_else(|| short(data))?;
    let deads = data.get(redirected..redirected + dead).ok_or_else(|| short(data))?;
    let page = &mut change.page;
    for (pair, _) in redirects.as_chunks::<4>().0.iter().zip(0..) {
        page.set_item_id(u16_of(pair, 0)?, ItemId::redirect(u16_of(pair, 2)?))?;
    }
    for dead in deads.as_chunks().0 {
        page.set_item_id(u16::from_le_bytes(*dead), ItemId::DEAD)?;
    }
    for unused in data[redirected + dead..].as_chunks().0 {
        page.set_item_id(u16::from_le_bytes(*unused), ItemId::UNUSED)?;
    }
    page.repair_fragmentation()?;
    change.stamp();
    Ok(())
}

/// `heap_xlog_vacuum`.
fn vacuum(change: &mut Change<'_, '_>) -> Checked<()> {
    for unused in change.block.data.as_chunks().0 {
        change.page.set_item_id(u16::from_le_bytes(*unused), ItemId::UNUSED)?;
    }
    change.page.truncate_line_pointers()?;
    change.stamp();
    Ok(())
}

/// `heap_xlog_freeze_page`. A tuple in the record: xmax u32, number u16, infomask2 u16, infomask
/// u16, flags u8, padding.
fn freeze(change: &mut Change<'_, '_>) -> Checked<()> {
    const FREEZE_XVAC: u8 = 2;
    const INVALID_XVAC: u8 = 4;
    let mut main = Main::of(change);
    let (_, tuples) = (main.u32()?, main.u16()?);
    let (plans, _) = change.block.data.as_chunks::<12>();
    let plans = plans.get(..usize::from(tuples)).ok_or_else(|| short(change.block.data))?;
    for plan in plans {
        let [xmax @ .., _, _, _, _, _, _, _, _] = *plan;
        let mut tuple = tuple(&mut change.page, u16_of(plan, 4)?)?;
        tuple.set_u32(XMAX, u32::from_le_bytes(xmax));
        if plan[10] & FREEZE_XVAC != 0 {
            tuple.set_u32(COMMAND, FROZEN_XID);
        }
        if plan[10] & INVALID_XVAC != 0 {
            tuple.set_u32(COMMAND, 0);
        }
        tuple.set_u16(INFOMASK, u16_of(plan, 8)?);
        tuple.set_u16(INFOMASK2, u16_of(plan, 6)?);
    }
    change.stamp();
    Ok(())
}

/// `heap_xlog_visible`. Block 0 is the map page, block 1 the heap page.
fn visible(change: &mut Change<'_, '_>) -> Checked<()> {
    let mut main = Main::of(change);
    let (_, bits) = (main.u32()?, main.u8()?);
    if change.block.id == 1 {
        change.page.set_flag(ALL_VISIBLE, true);
        if change.settings.logs_hints || cfg!(planted_bug = "redo_visible_stamps") {
            change.stamp();
        }
        return Ok(());
    }
    if change.block.rel.fork != Fork::Vm {
        return Err(Problem::new("fork of block 0", Fork::Vm, change.block.rel.fork));
    }
    if change.page.is_new() {
        change.page.init(0);
    }
    if visibility_map::set_bits(change.page.0, change.other(1)?.block, bits) {
        change.stamp();
    }
    Ok(())
}

/// `heap_xlog_multi_insert`. A tuple in the record, 2-aligned: length of the body u16, infomask2
/// u16, infomask u16, header length u8, body.
fn multi_insert(change: &mut Change<'_, '_>) -> Checked<()> {
    let mut main = Main::of(change);
    let (flags, _, tuples) = (main.u8()?, main.u8()?, main.u16()?);
    let numbers = main.0.0;
    let is_new = change.record.info() & INIT != 0;
    init_if_new(change);
    let data = change.block.data;
    let mut at = 0_usize;
    for index in 0..tuples {
        let number = match is_new {
            true => index + 1,
            false => u16_of(numbers, usize::from(index) * 2)?,
        };
        at = at.next_multiple_of(2);
        let mut rest = Cursor(data.get(at..).unwrap_or_default());
        let len = rest.u16().map(usize::from).ok_or_else(|| short(data))?;
        let short_header = take_header(&mut rest)?;
        let body = rest.take(len).ok_or_else(|| short(data))?;
        let new = NewTuple::inserted(change, number, short_header);
        new.add_with(&mut change.page, body)?;
        at += 2 + SHORT_HEADER + len;
    }
    if at != data.len() {
        return Err(Problem::new("length of all tuples", data.len(), at));
    }
    set_all_visible(&mut change.page, flags & ALL_VISIBLE_CLEARED != 0, flags);
    change.stamp();
    Ok(())
}

/// `heap_mask`, what is its own: hints about transactions, command numbers, places of speculative
/// tuples, padding.
pub(super) fn mask(page: &mut PageMut<'_>, block: u32) {
    const XMIN_FROZEN: u16 = 0x0300;
    const TRANSACTION_HINTS: u16 = 0xFFF0;
    const XMAX_HINTS: u16 = 0x0C00;
    const SPECULATIVE: u16 = 0xFFFE;
    for number in 1..=page.items() {
        if let Ok(mut tuple) = tuple(page, number) {
            let infomask = tuple.u16(INFOMASK);
            let is_frozen = infomask & XMIN_FROZEN == XMIN_FROZEN;
            let hints = if is_frozen { XMAX_HINTS } else { TRANSACTION_HINTS };
            tuple.set_u16(INFOMASK, infomask & !hints);
            tuple.set_u32(COMMAND, 0);
            if tuple.u16(CTID + 4) == SPECULATIVE {
                tuple.set_ctid(block, number);
            }
        }
        mask::padding(page, number);
    }
}
