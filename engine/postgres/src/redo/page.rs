//! [`PageMut`]: the operations of `storage/page/bufpage.c` on a page.
//!
//! The header is laid out in `layout.rs`.
//!
//! **Invariants:** nothing outside the page is read or written, whatever offsets its bytes state. A
//! page that makes no sense is a [`Problem`], and its bytes are then unspecified.

use std::ops::Range;

use pagestrata_layers::Lsn;

use crate::{
    bytes::{u16_at, u32_at, u64_at},
    layout::{
        PAGE_HEADER_LEN, PAGE_SIZE, PD_FLAGS, PD_LOWER, PD_PAGESIZE_VERSION, PD_PRUNE_XID,
        PD_SPECIAL, PD_UPPER, Page,
    },
    redo::problem::{Checked, Problem},
};

/// Bytes of a line pointer.
pub(crate) const ITEM_ID_LEN: usize = 4;
/// Page size and layout version 4.
const SIZE_AND_VERSION: u16 = PAGE_SIZE as u16 | 4;

pub(crate) const HAS_FREE_LINES: u16 = 1;
pub(crate) const ALL_VISIBLE: u16 = 4;

/// The state of a line pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ItemState {
    Unused = 0,
    Normal = 1,
    Redirect = 2,
    Dead = 3,
}

/// A line pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ItemId(u32);

impl ItemId {
    pub(crate) const UNUSED: ItemId = ItemId(0);
    pub(crate) const DEAD: ItemId = ItemId((ItemState::Dead as u32) << 15);

    pub(crate) const fn normal(offset: usize, len: usize) -> ItemId {
        ItemId(offset as u32 | (ItemState::Normal as u32) << 15 | (len as u32) << 17)
    }

    pub(crate) const fn redirect(to: u16) -> ItemId {
        ItemId(to as u32 | (ItemState::Redirect as u32) << 15)
    }

    #[inline]
    pub(crate) const fn offset(self) -> usize {
        (self.0 & 0x7FFF) as usize
    }

    #[inline]
    pub(crate) const fn len(self) -> usize {
        (self.0 >> 17) as usize
    }

    #[inline]
    pub(crate) const fn state(self) -> ItemState {
        match self.0 >> 15 & 3 {
            0 => ItemState::Unused,
            1 => ItemState::Normal,
            2 => ItemState::Redirect,
            _ => ItemState::Dead,
        }
    }

    /// Whether the item has bytes on the page (`ItemIdHasStorage`).
    #[inline]
    pub(crate) const fn has_storage(self) -> bool {
        self.len() != 0
    }

    /// The same pointer with another place (`lp_off`).
    pub(crate) const fn at(self, offset: usize) -> ItemId {
        ItemId(self.0 & !0x7FFF | offset as u32)
    }

    /// The same place and length, unused.
    pub(crate) const fn unused(self) -> ItemId {
        ItemId(self.0 & !(3 << 15))
    }

    /// The same pointer with another length (`lp_len`).
    pub(crate) const fn of_len(self, len: usize) -> ItemId {
        ItemId(self.0 & 0x1_FFFF | (len as u32) << 17)
    }
}

/// Up to the next multiple of 8 (`MAXALIGN`).
#[inline]
pub(crate) const fn max_align(len: usize) -> usize {
    (len + 7) & !7
}

/// Writes the end of a record as the Lsn of a page: the upper and then the lower 32 bits.
///
/// A page that was never initialized is left alone.
pub fn stamp_lsn(page: &mut Page, end: Lsn) {
    if u16_at(page, PD_UPPER) != Some(0) {
        page[..4].copy_from_slice(&((end.0 >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(end.0 as u32).to_le_bytes());
    }
}

/// A page that is changed.
#[derive(Debug)]
pub(crate) struct PageMut<'p>(pub(crate) &'p mut Page);

impl PageMut<'_> {
    #[inline]
    fn field(&self, at: usize) -> usize {
        usize::from(self.u16(at))
    }

    #[inline]
    pub(crate) fn u16(&self, at: usize) -> u16 {
        let bytes = &self.0[at..at + 2];
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    #[inline]
    pub(crate) fn set_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn u32(&self, at: usize) -> u32 {
        let bytes = &self.0[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    #[inline]
    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// `pd_lsn`: the end of the record that changed it last.
    #[inline]
    pub(crate) fn lsn(&self) -> Lsn {
        Lsn(u64::from(self.u32(0)) << 32 | u64::from(self.u32(4)))
    }

    /// Stamps it (`PageSetLSN`).
    #[inline]
    pub(crate) fn set_lsn(&mut self, end: Lsn) {
        self.set_u32(0, (end.0 >> 32) as u32);
        self.set_u32(4, end.0 as u32);
    }

    /// Stamps it unless it was never initialized, as images are.
    pub(crate) fn stamp(&mut self, end: Lsn) {
        stamp_lsn(self.0, end);
    }

    /// Whether it was never initialized (`PageIsNew`).
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.upper() == 0
    }

    #[inline]
    pub(crate) fn lower(&self) -> usize {
        self.field(PD_LOWER)
    }

    #[inline]
    pub(crate) fn set_lower(&mut self, lower: usize) {
        self.set_u16(PD_LOWER, lower as u16);
    }

    #[inline]
    pub(crate) fn upper(&self) -> usize {
        self.field(PD_UPPER)
    }

    #[inline]
    pub(crate) fn set_upper(&mut self, upper: usize) {
        self.set_u16(PD_UPPER, upper as u16);
    }

    #[inline]
    pub(crate) fn special(&self) -> usize {
        self.field(PD_SPECIAL)
    }

    #[inline]
    pub(crate) fn flags(&self) -> u16 {
        self.u16(PD_FLAGS)
    }

    #[inline]
    pub(crate) fn set_flag(&mut self, flag: u16, is_set: bool) {
        let flags = if is_set { self.flags() | flag } else { self.flags() & !flag };
        self.set_u16(PD_FLAGS, flags);
    }

    /// Keeps the oldest transaction that left something to prune (`PageSetPrunable`).
    #[inline]
    pub(crate) fn set_prunable(&mut self, xid: u32) {
        if cfg!(planted_bug = "redo_no_prune_xid") {
            return;
        }
        let old = self.u32(PD_PRUNE_XID);
        if old == 0 || precedes(xid, old) {
            self.set_u32(PD_PRUNE_XID, xid);
        }
    }

    /// An empty page with so much room at its end (`PageInit`).
    pub(crate) fn init(&mut self, special_len: usize) {
        let special = PAGE_SIZE - max_align(special_len);
        self.0.fill(0);
        self.set_lower(PAGE_HEADER_LEN);
        self.set_upper(special);
        self.set_u16(PD_SPECIAL, special as u16);
        self.set_u16(PD_PAGESIZE_VERSION, SIZE_AND_VERSION);
    }

    /// Where the special space is, if the page says of it what its access method writes.
    #[inline]
    pub(crate) fn special_at(&self, len: usize) -> Checked<usize> {
        let special = self.special();
        if special < PAGE_HEADER_LEN || special != PAGE_SIZE - max_align(len) {
            return Err(Problem::new("pd_special", PAGE_SIZE - max_align(len), special));
        }
        Ok(special)
    }

    /// Number of line pointers (`PageGetMaxOffsetNumber`).
    #[inline]
    pub(crate) fn items(&self) -> u16 {
        let len = self.lower().min(PAGE_SIZE).saturating_sub(PAGE_HEADER_LEN);
        (len / ITEM_ID_LEN) as u16
    }

    /// All line pointers.
    #[inline]
    fn item_ids(&self) -> impl Iterator<Item = ItemId> + '_ {
        let end = PAGE_HEADER_LEN + usize::from(self.items()) * ITEM_ID_LEN;
        let (ids, _) = self.0[PAGE_HEADER_LEN..end].as_chunks();
        ids.iter().map(|id| ItemId(u32::from_le_bytes(*id)))
    }

    /// Line pointer `number`, which has to be there: from 1 on.
    #[inline]
    pub(crate) fn item_id(&self, number: u16) -> Checked<ItemId> {
        if number == 0 || number > self.items() {
            return Err(Problem::new(
                "line pointer",
                format_args!("1 to {}", self.items()),
                number,
            ));
        }
        Ok(self.item_id_at(usize::from(number) - 1))
    }

    #[inline]
    fn item_id_at(&self, index: usize) -> ItemId {
        ItemId(self.u32(PAGE_HEADER_LEN + index * ITEM_ID_LEN))
    }

    #[inline]
    fn set_item_id_at(&mut self, index: usize, id: ItemId) {
        self.set_u32(PAGE_HEADER_LEN + index * ITEM_ID_LEN, id.0);
    }

    #[inline]
    pub(crate) fn set_item_id(&mut self, number: u16, id: ItemId) -> Checked<()> {
        self.item_id(number)?;
        self.set_item_id_at(usize::from(number) - 1, id);
        Ok(())
    }

    /// Where a line pointer's bytes are, if they are on the page, behind its line pointers.
    #[inline]
    fn range_of(&self, id: ItemId) -> Checked<Range<usize>> {
        let range = id.offset()..id.offset() + id.len();
        if range.start < self.lower().max(PAGE_HEADER_LEN) || range.end > PAGE_SIZE {
            let expected = format_args!("between {} and {PAGE_SIZE}", self.lower());
            return Err(Problem::new("place of an item", expected, format_args!("{range:?}")));
        }
        Ok(range)
    }

    /// The bytes of a normal item of at least `len_min` bytes.
    #[inline]
    pub(crate) fn item_range(&self, number: u16, len_min: usize) -> Checked<Range<usize>> {
        let id = self.item_id(number)?;
        if id.state() != ItemState::Normal || id.len() < len_min {
            let expected = format_args!("normal, {len_min} bytes or more");
            let found = format_args!("{:?}, {} bytes", id.state(), id.len());
            return Err(Problem::new("line pointer's item", expected, found));
        }
        self.range_of(id)
    }

    /// The bytes of an item that may be dead, as those of an index may.
    pub(crate) fn stored_range(&self, number: u16, len_min: usize) -> Checked<Range<usize>> {
        let id = self.item_id(number)?;
        if !id.has_storage() || id.len() < len_min {
            let expected = format_args!("{len_min} bytes or more");
            return Err(Problem::new("length of an item", expected, id.len()));
        }
        self.range_of(id)
    }

    #[inline]
    pub(crate) fn item(&self, number: u16, len_min: usize) -> Checked<&[u8]> {
        let range = self.item_range(number, len_min)?;
        Ok(&self.0[range])
    }

    #[inline]
    pub(crate) fn item_mut(&mut self, number: u16, len_min: usize) -> Checked<&mut [u8]> {
        let range = self.item_range(number, len_min)?;
        Ok(&mut self.0[range])
    }

    /// `pd_lower`, `pd_upper` and `pd_special`, which are in order, so that what is between them
    /// can be moved.
    #[inline]
    pub(crate) fn check_header(&self) -> Checked<[usize; 3]> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        if PAGE_HEADER_LEN <= lower && lower <= upper && upper <= special && special <= PAGE_SIZE {
            return Ok([lower, upper, special]);
        }
        let found = format_args!("{lower}, {upper}, {special}");
        Err(Problem::new("pd_lower, pd_upper, pd_special", "24 to 8192, in order", found))
    }

    /// Room for an item of `len` bytes under a line pointer that is unused, or the next one
    /// (`PageAddItemExtended` with `PAI_OVERWRITE`): where it starts. The caller fills it; the
    /// padding behind it keeps what was there.
    #[inline]
    pub(crate) fn add_item(&mut self, number: u16, len: usize) -> Checked<usize> {
        let [mut lower, upper, _] = self.check_header()?;
        let (index, items) =
            (usize::from(number).wrapping_sub(1), (lower - PAGE_HEADER_LEN) / ITEM_ID_LEN);
        if index == items {
            lower += ITEM_ID_LEN;
        } else if index > items {
            let next = items + 1;
            return Err(Problem::new("new line pointer", format_args!("1 to {next}"), number));
        } else {
            let id = self.item_id_at(index);
            if id.state() != ItemState::Unused || id.has_storage() {
                return Err(Problem::new("new line pointer", "an unused one", number));
            }
        }
        self.add_at(index, len, lower, upper)
    }

    /// An item in front of the one that has this number now, or behind the last (`PageAddItem`
    /// without `overwrite`).
    pub(crate) fn insert_item(&mut self, number: u16, item: &[u8]) -> Checked<()> {
        let [lower, upper, _] = self.check_header()?;
        let len = item.len();
        let next = self.items() + 1;
        if number == 0 || number > next {
            return Err(Problem::new("new line pointer", format_args!("1 to {next}"), number));
        }
        if lower + ITEM_ID_LEN + max_align(len) > upper {
            return Err(self.no_room(len));
        }
        let index = usize::from(number) - 1;
        let start = PAGE_HEADER_LEN + index * ITEM_ID_LEN;
        self.0.copy_within(start..lower, start + ITEM_ID_LEN);
        let at = self.add_at(index, len, lower + ITEM_ID_LEN, upper)?;
        self.0[at..at + len].copy_from_slice(item);
        Ok(())
    }

    /// An item behind the last.
    pub(crate) fn push_item(&mut self, item: &[u8]) -> Checked<()> {
        self.insert_item(self.items() + 1, item)
    }

    #[cold]
    fn no_room(&self, len: usize) -> Problem {
        let room = self.upper().saturating_sub(self.lower());
        Problem::new("room for an item", format_args!("{len} bytes"), room)
    }

    #[inline]
    fn add_at(&mut self, index: usize, len: usize, lower: usize, upper: usize) -> Checked<usize> {
        let upper = upper.checked_sub(max_align(len)).filter(|upper| lower <= *upper);
        let upper = upper.ok_or_else(|| self.no_room(len))?;
        self.set_item_id_at(index, ItemId::normal(upper, len));
        self.set_lower(lower);
        self.set_upper(upper);
        Ok(upper)
    }

    /// Takes an item and its line pointer away and moves what was below it up
    /// (`PageIndexTupleDelete`).
    pub(crate) fn delete_item(&mut self, number: u16) -> Checked<()> {
        self.check_header()?;
        let id = self.index_item(number)?;
        let (offset, len, upper) = (id.offset(), max_align(id.len()), self.upper());
        let start = PAGE_HEADER_LEN + (usize::from(number) - 1) * ITEM_ID_LEN;
        let lower = self.lower();
        self.0.copy_within(start + ITEM_ID_LEN..lower, start);
        self.set_lower(lower - ITEM_ID_LEN);
        self.0.copy_within(upper..offset, upper + len);
        self.set_upper(upper + len);
        self.move_items(offset, len as isize);
        Ok(())
    }

    /// Takes an item away, but its line pointer only if it is the last, so that others keep their
    /// numbers (`PageIndexTupleDeleteNoCompact`).
    pub(crate) fn delete_item_in_place(&mut self, number: u16) -> Checked<()> {
        self.check_header()?;
        let id = self.index_item(number)?;
        let (offset, len, upper) = (id.offset(), max_align(id.len()), self.upper());
        if number < self.items() {
            self.set_item_id(number, ItemId::UNUSED)?;
        } else {
            self.set_lower(self.lower() - ITEM_ID_LEN);
        }
        self.0.copy_within(upper..offset, upper + len);
        self.set_upper(upper + len);
        self.move_items(offset, len as isize);
        Ok(())
    }

    /// The line pointer of an item of an index, which lies where it should.
    fn index_item(&self, number: u16) -> Checked<ItemId> {
        let id = self.item_id(number)?;
        check_index_item(id, self.upper(), self.special())?;
        Ok(id)
    }

    /// Line pointers of what lies at `offset` or below, whose bytes were moved by so much.
    fn move_items(&mut self, offset: usize, by: isize) {
        for index in 0..usize::from(self.items()) {
            let id = self.item_id_at(index);
            if id.has_storage() && id.offset() <= offset {
                self.set_item_id_at(index, id.at(id.offset().wrapping_add_signed(by) & 0x7FFF));
            }
        }
    }

    /// Takes items away, given by their numbers in ascending order (`PageIndexMultiDelete`).
    pub(crate) fn delete_items(&mut self, numbers: &[[u8; 2]]) -> Checked<()> {
        // Which of the two ways leaves another order of the items behind.
        if numbers.len() <= 2 {
            return numbers
                .iter()
                .rev()
                .try_for_each(|number| self.delete_item(u16::from_le_bytes(*number)));
        }
        self.check_header()?;
        let (mut numbers, mut kept) = (numbers.iter().map(|number| u16::from_le_bytes(*number)), 0);
        let mut next = numbers.next();
        let (upper, special) = (self.upper(), self.special());
        for number in 1..=self.items() {
            if next == Some(number) {
                next = numbers.next();
                continue;
            }
            let id = self.item_id_at(usize::from(number) - 1);
            check_index_item(id, upper, special)?;
            self.set_item_id_at(kept, id);
            kept += 1;
        }
        if let Some(number) = next {
            let expected = format_args!("at most {}, ascending", self.items());
            return Err(Problem::new("number of a deleted item", expected, number));
        }
        self.set_lower(PAGE_HEADER_LEN + kept * ITEM_ID_LEN);
        self.compact()
    }

    /// Writes another item over one, in its place as far as the end of it goes
    /// (`PageIndexTupleOverwrite`).
    pub(crate) fn overwrite_item(&mut self, number: u16, item: &[u8]) -> Checked<()> {
        self.check_header()?;
        let id = self.index_item(number)?;
        let (offset, upper) = (id.offset(), self.upper());
        let (old_len, new_len) = (max_align(id.len()), max_align(item.len()));
        if new_len > old_len + (upper - self.lower()) {
            return Err(self.no_room(item.len()));
        }
        let by = old_len as isize - new_len as isize;
        if by != 0 {
            let to = upper.wrapping_add_signed(by);
            self.0.copy_within(upper..offset, to);
            self.set_upper(to);
            self.move_items(offset, by);
        }
        let at = offset.wrapping_add_signed(by);
        self.set_item_id_at(usize::from(number) - 1, id.at(at).of_len(item.len()));
        self.0[at..at + item.len()].copy_from_slice(item);
        Ok(())
    }

    /// Packs the items towards the end in the order of their line pointers, and cuts off unused
    /// line pointers at the end (`PageRepairFragmentation`). The hole keeps its old bytes.
    pub(crate) fn repair_fragmentation(&mut self) -> Checked<()> {
        self.check_header()?;
        let items = usize::from(self.items());
        let (ids, _) =
            self.0[PAGE_HEADER_LEN..PAGE_HEADER_LEN + items * ITEM_ID_LEN].as_chunks_mut();
        let is_unused = |id: &[u8; 4]| ItemId(u32::from_le_bytes(*id)).state() == ItemState::Unused;
        // Apart, these loops take many line pointers at once.
        for id in &mut *ids {
            *id = if is_unused(id) { ItemId::UNUSED.0.to_le_bytes() } else { *id };
        }
        let unused: usize = ids.iter().map(|id| usize::from(is_unused(id))).sum();
        let cut = ids.iter().rev().take_while(|id| is_unused(id)).count();
        self.compact()?;
        if cfg!(planted_bug = "redo_hole_zeroed") {
            let hole = self.lower()..self.upper();
            self.0[hole].fill(0);
        }
        self.set_lower(self.lower() - cut * ITEM_ID_LEN);
        self.set_flag(HAS_FREE_LINES, unused > cut);
        Ok(())
    }

    /// That all items lie between the line pointers and the special space, and are no more than
    /// that.
    fn check_places(&self) -> Checked<()> {
        let [lower, upper, special] = self.check_header()?;
        let (mut total, mut lowest, mut highest) = (0, special, upper);
        for id in self.item_ids().filter(|id| id.has_storage()) {
            let (offset, len) = (id.offset(), max_align(id.len()));
            (lowest, highest) = (lowest.min(offset), highest.max(offset + len));
            total += len;
        }
        if lowest < upper || highest > special {
            let (expected, found) = (format!("{upper} to {special}"), lowest..highest);
            return Err(Problem::new("place of all items", expected, format_args!("{found:?}")));
        }
        let room = special - lower;
        if total > room {
            return Err(Problem::new("length of all items", format_args!("at most {room}"), total));
        }
        Ok(())
    }

    /// Puts the items one below the other from the special space down, in the order of their line
    /// pointers (`compactify_tuples`).
    pub(crate) fn compact(&mut self) -> Checked<()> {
        let (items, upper, special) = (usize::from(self.items()), self.upper(), self.special());
        // Where each already lies below the one before it, every move is upwards and takes nothing
        // that is still needed.
        let mut below = special;
        let is_in_order = self.item_ids().filter(|id| id.has_storage()).all(|id| {
            let end = id.offset() + max_align(id.len());
            let is_below = end <= below;
            below = id.offset();
            is_below
        });
        if !is_in_order || below < upper {
            self.check_places()?;
        }
        let copy = if is_in_order { None } else { Some(*self.0) };
        let (head, body) = self.0.split_at_mut(PAGE_HEADER_LEN + items * ITEM_ID_LEN);
        let (start, (ids, _)) = (head.len(), head[PAGE_HEADER_LEN..].as_chunks_mut());
        // To where it ends at `end`; from the copy where it may have been overwritten.
        let mut move_run = |run: Range<usize>, end: usize| {
            let to = end - run.len();
            match &copy {
                _ if to == run.start => {}
                None => body.copy_within(run.start - start..run.end - start, to - start),
                Some(copy) => copy_short(&mut body[to - start..end - start], &copy[run]),
            }
        };
        // Neighbours that stay neighbours are moved together.
        let (mut to, mut run, mut run_end) = (special, special..special, special);
        for bytes in ids {
            let id = ItemId(u32::from_le_bytes(*bytes));
            if !id.has_storage() {
                continue;
            }
            let (offset, len) = (id.offset(), max_align(id.len()));
            if offset + len != run.start {
                move_run(run, run_end);
                (run, run_end) = (offset + len..offset + len, to);
            }
            run.start = offset;
            to -= len;
            if to != offset {
                *bytes = id.at(to).0.to_le_bytes();
            }
        }
        move_run(run, run_end);
        self.set_upper(to);
        Ok(())
    }

    /// Cuts off unused line pointers at the end, but for the first one
    /// (`PageTruncateLinePointerArray`).
    pub(crate) fn truncate_line_pointers(&mut self) -> Checked<()> {
        self.check_header()?;
        let is_unused = |id: ItemId| id.state() == ItemState::Unused;
        let mut items = usize::from(self.items());
        while items > 1 && is_unused(self.item_id_at(items - 1)) {
            items -= 1;
        }
        self.set_lower(PAGE_HEADER_LEN + items * ITEM_ID_LEN);
        let has_free = self.item_ids().any(is_unused);
        self.set_flag(HAS_FREE_LINES, has_free);
        Ok(())
    }
}

#[inline]
fn check_index_item(id: ItemId, upper: usize, special: usize) -> Checked<()> {
    let (offset, end) = (id.offset(), id.offset() + max_align(id.len()));
    if offset >= upper && end <= special && offset == max_align(offset) {
        return Ok(());
    }
    let expected = format_args!("{upper} to {special}, aligned");
    Err(Problem::new("place of an item", expected, format_args!("{offset}..{end}")))
}

/// Of two slices of one length. Items of an index are a few words of 8 bytes long, and a call for
/// each takes longer than they do.
#[inline]
fn copy_short(to: &mut [u8], from: &[u8]) {
    const SHORT: usize = 8;
    let ((to_words, []), (from_words, [])) = (to.as_chunks_mut::<8>(), from.as_chunks::<8>())
    else {
        return to.copy_from_slice(from);
    };
    match to_words.len() {
        ..=SHORT => to_words.iter_mut().zip(from_words).for_each(|(to, from)| *to = *from),
        _ => to.copy_from_slice(from),
    }
}

/// Whether one transaction is older than the other: modulo 2^32, but for the first three, which are
/// older than all (`TransactionIdPrecedes`).
pub(crate) fn precedes(xid: u32, other: u32) -> bool {
    const FIRST_NORMAL: u32 = 3;
    if xid < FIRST_NORMAL || other < FIRST_NORMAL {
        return xid < other;
    }
    (xid.wrapping_sub(other) as i32) < 0
}

/// The number at `at` of some data of a record.
#[inline]
pub(crate) fn u16_of(data: &[u8], at: usize) -> Checked<u16> {
    u16_at(data, at).ok_or_else(|| short(data))
}

/// The number at `at` of a record's data.
pub(crate) fn u32_of(data: &[u8], at: usize) -> Checked<u32> {
    u32_at(data, at).ok_or_else(|| short(data))
}

/// The number at `at` of a record's data.
pub(crate) fn u64_of(data: &[u8], at: usize) -> Checked<u64> {
    u64_at(data, at).ok_or_else(|| short(data))
}

/// Data that ends too early.
#[cold]
pub(crate) fn short(data: &[u8]) -> Problem {
    Problem::new("data of the record", "more of it", format_args!("{} bytes", data.len()))
}
