//! Redo of SP-GiST records: `spg_redo` of `access/spgist/spgxlog.c`.
//!
//! | record | main data, and what follows it | blocks |
//! |---|---|---|
//! | ADD_LEAF (0x10) | new page u8, nulls u8, number u16, number of the chain's head u16, link; leaf tuple | 0 the page, 1 the parent |
//! | MOVE_LEAFS (0x20) | moved u16, new page u8, replaces a dead one u8, nulls u8, padding, link, padding, maker; numbers moved, new numbers, leaf tuples | 0 source, 1 destination, 2 the parent |
//! | ADD_NODE (0x30) | number u16, new number u16, new page u8, which block is the parent i8, link, padding, maker; inner tuple | 0 the page, 1 the new one, if another, 2 the parent |
//! | SPLIT_TUPLE (0x40) | number of the prefix u16, of the postfix u16, new page u8, same page u8; both inner tuples | 0 prefix, 1 postfix, if another |
//! | PICKSPLIT (0x50) | root u8, padding, deleted u16, inserted u16, new source u8, new destination u8, inner number u16, new inner page u8, nulls u8, inner page is the parent u8, padding, link, maker; numbers deleted, numbers inserted, on which page u8 each, inner tuple, leaf tuples | 0 source, unless the root is split, 1 destination, 2 inner, 3 the parent |
//! | VACUUM_LEAF (0x60) | dead u16, placeholders u16, moved u16, chained u16, maker; numbers dead, placeholders, moved from, moved to, chained, their next | 0 |
//! | VACUUM_ROOT (0x70) | deleted u16, padding, maker; numbers | 0 |
//! | VACUUM_REDIRECT (0x80) | placeholders u16, first at the end u16, conflict xid u32; numbers | 0 |
//!
//! Link: number of the parent's tuple u16, which of its nodes u16. Maker: xid u32, builds the index
//! u8, padding. What follows is not aligned.
//!
//! The special space: flags u16, redirections u16, placeholders u16, 0xFF82 u16. A leaf tuple: 2
//! bits state, 30 bits length, info u16 (14 bits number of the next in its chain), block and number
//! 6 bytes, key. One that is not live has 4 bytes more: an xid. An inner tuple: 2 bits state, 1
//! bit, 13 bits nodes, 16 bits length of the prefix, length u16, padding; prefix; nodes: block and
//! number 6 bytes, info u16 (13 bits length), label.

use crate::{
    bytes::u32_at,
    layout::{PAGE_HEADER_LEN, PAGE_SIZE},
    redo::{
        change::Change,
        page::{ITEM_ID_LEN, PageMut, short, u16_of},
        problem::{Checked, Problem},
    },
};

const OPAQUE: usize = 8;
const FLAGS: usize = 0;
const REDIRECTIONS: usize = 2;
const PLACEHOLDERS: usize = 4;
const PAGE_ID: usize = 6;

const LEAF: u16 = 4;
const NULLS: u16 = 8;
/// What each page of such an index ends with.
const ID: u16 = 0xFF82;

const LEAF_HEADER: usize = 12;
const INNER_HEADER: usize = 8;
const NODE_HEADER: usize = 8;
const NODE_SIZE_MASK: u16 = 0x1FFF;
const DEAD_LEN: usize = 16;
/// In a leaf tuple's info.
const NEXT_MASK: u16 = 0x3FFF;
const INFO: usize = 4;
const POINTER: usize = 6;
const XID: usize = 12;
/// Where nothing points to.
const NOWHERE: (u32, u16) = (u32::MAX, 0);
/// Line pointers that there can be.
const ITEMS_MAX: usize = (PAGE_SIZE - PAGE_HEADER_LEN) / ITEM_ID_LEN;

/// What a tuple is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The way to one that is elsewhere now.
    Redirect = 1,
    /// Nothing, but other tuples link to it.
    Dead = 2,
    /// Nothing: it keeps the numbers of those behind it.
    Placeholder = 3,
}

/// `spg_redo`.
pub(super) fn spgist(change: &mut Change<'_, '_>) -> Checked<()> {
    let main = Main(change.record.main_data());
    match (change.record.info() & 0xF0, change.block.id) {
        (0x10, 0) => add_leaf(change, main),
        (0x10, 1) => {
            let to = (change.other(0)?.block, main.u16(2)?);
            update_link(&mut change.page, main, 6, to)
        }
        (0x20, 0) => moved_from(change, main),
        (0x20, 1) => moved_to(change, main),
        (0x20, 2) => {
            let to = MovedLeaves::of(main)?.target(change)?;
            update_link(&mut change.page, main, 6, to)
        }
        (0x30, 0) => outgrown(change, main),
        (0x30, 1) => grown(change, main),
        (0x30, 2) => {
            let to = (change.other(1)?.block, main.u16(2)?);
            update_link(&mut change.page, main, 6, to)
        }
        (0x40, 0) => prefix(change, main),
        (0x40, 1) => postfix(change, main),
        (0x50, 0) => split_source(change, main),
        (0x50, 1) => split_destination(change, main),
        (0x50, 2) => split_inner(change, main),
        (0x50, 3) => {
            let to = (change.other(2)?.block, main.u16(8)?);
            update_link(&mut change.page, main, 14, to)
        }
        (0x60, 0) => vacuum_leaf(change, main),
        (0x70, 0) => {
            let mut rest = main.behind(12)?;
            change.page.delete_items(take_numbers(&mut rest, main.u16(0)?)?)
        }
        (0x80, 0) => vacuum_redirect(change, main),
        _ => Err(change.unknown()),
    }?;
    change.stamp();
    Ok(())
}

/// A record's main data.
#[derive(Clone, Copy)]
struct Main<'r>(&'r [u8]);

impl<'r> Main<'r> {
    fn flag(self, at: usize) -> Checked<bool> {
        Ok(self.u8(at)? != 0)
    }

    fn u8(self, at: usize) -> Checked<u8> {
        self.0.get(at).copied().ok_or_else(|| short(self.0))
    }

    fn u16(self, at: usize) -> Checked<u16> {
        u16_of(self.0, at)
    }

    fn maker(self, at: usize) -> Checked<Maker> {
        let xid = u32_at(self.0, at).ok_or_else(|| short(self.0))?;
        Ok(Maker { xid, is_build: self.flag(at + 4)? })
    }

    /// What follows the fixed part.
    fn behind(self, at: usize) -> Checked<&'r [u8]> {
        self.0.get(at..).ok_or_else(|| short(self.0))
    }
}

/// Who makes tuples that are not live (`spgxlogState`).
#[derive(Clone, Copy)]
struct Maker {
    xid: u32,
    /// Nobody reads the index yet, so that nobody needs the way to what was moved.
    is_build: bool,
}

impl Maker {
    /// What a tuple that moves leaves behind.
    const fn left_behind(self) -> State {
        if self.is_build { State::Placeholder } else { State::Redirect }
    }

    /// `spgFormDeadTuple`.
    fn form(self, state: State, to: (u32, u16)) -> [u8; DEAD_LEN] {
        let mut tuple = [0; DEAD_LEN];
        tuple[..4].copy_from_slice(&(state as u32 | (DEAD_LEN as u32) << 2).to_le_bytes());
        let (to, xid) = if state == State::Redirect { (to, self.xid) } else { (NOWHERE, 0) };
        set_pointer(&mut tuple[POINTER..], to);
        tuple[XID..].copy_from_slice(&xid.to_le_bytes());
        tuple
    }
}

/// `ItemPointerSet`.
fn set_pointer(bytes: &mut [u8], (block, number): (u32, u16)) {
    bytes[..2].copy_from_slice(&((block >> 16) as u16).to_le_bytes());
    bytes[2..4].copy_from_slice(&(block as u16).to_le_bytes());
    bytes[4..6].copy_from_slice(&number.to_le_bytes());
}

/// Takes numbers of line pointers off the front of some data.
fn take_numbers<'r>(data: &mut &'r [u8], count: u16) -> Checked<&'r [[u8; 2]]> {
    Ok(take(data, usize::from(count) * 2)?.as_chunks().0)
}

fn take<'r>(data: &mut &'r [u8], len: usize) -> Checked<&'r [u8]> {
    let (bytes, rest) = data.split_at_checked(len).ok_or_else(|| short(data))?;
    *data = rest;
    Ok(bytes)
}

fn take_leaf<'r>(data: &mut &'r [u8]) -> Checked<&'r [u8]> {
    let len = u32_at(data, 0).ok_or_else(|| short(data))? >> 2;
    take_tuple(data, len as usize, LEAF_HEADER)
}

fn take_inner<'r>(data: &mut &'r [u8]) -> Checked<&'r [u8]> {
    let len = usize::from(u16_of(data, 4)?);
    take_tuple(data, len, INNER_HEADER)
}

fn take_tuple<'r>(data: &mut &'r [u8], len: usize, len_min: usize) -> Checked<&'r [u8]> {
    if len < len_min || len > data.len() {
        let expected = format_args!("{len_min} to {}", data.len());
        return Err(Problem::new("length of a tuple", expected, len));
    }
    take(data, len)
}

/// An empty page (`SpGistInitPage`).
fn init(page: &mut PageMut<'_>, flags: u16) {
    page.init(OPAQUE);
    let at = PAGE_SIZE - OPAQUE;
    page.set_u16(at + FLAGS, flags);
    page.set_u16(at + PAGE_ID, ID);
}

const fn leaf_flags(has_nulls: bool) -> u16 {
    if has_nulls { LEAF | NULLS } else { LEAF }
}

/// Adds to one of the counts of the special space.
fn count(page: &mut PageMut<'_>, field: usize, more: u16) -> Checked<()> {
    let at = page.special_at(OPAQUE)? + field;
    page.set_u16(at, page.u16(at).wrapping_add(more));
    Ok(())
}

/// And takes from one.
fn uncount(page: &mut PageMut<'_>, field: usize, fewer: u16) -> Checked<()> {
    count(page, field, fewer.wrapping_neg())
}

/// The state of a tuple.
fn set_state(tuple: &mut [u8], state: State) {
    tuple[0] = tuple[0] & !3 | state as u8;
}

/// A new tuple, in place of a placeholder if there is one with that number (`addOrReplaceTuple`).
fn add(page: &mut PageMut<'_>, number: u16, tuple: &[u8]) -> Checked<()> {
    page.special_at(OPAQUE)?;
    if number <= page.items() {
        let old = page.item(number, INNER_HEADER)?[0] & 3;
        if old != State::Placeholder as u8 {
            return Err(Problem::new(
                "state of a tuple to be replaced",
                State::Placeholder as u8,
                old,
            ));
        }
        uncount(page, PLACEHOLDERS, 1)?;
        page.delete_item(number)?;
    }
    page.insert_item(number, tuple)
}

/// A tuple in place of whatever has that number.
fn replace(page: &mut PageMut<'_>, number: u16, tuple: &[u8]) -> Checked<()> {
    page.special_at(OPAQUE)?;
    page.delete_item(number)?;
    page.insert_item(number, tuple)
}

/// Takes tuples away, and puts ones that are not live in their place: of the first given another
/// than of the rest (`spgPageIndexMultiDelete`).
fn kill(
    page: &mut PageMut<'_>,
    numbers: &[[u8; 2]],
    maker: Maker,
    [first, rest]: [State; 2],
    to: (u32, u16),
) -> Checked<()> {
    let Some(first_number) = numbers.first() else { return Ok(()) };
    let mut sorted = [[0; 2]; ITEMS_MAX];
    let sorted = sorted.get_mut(..numbers.len()).ok_or_else(|| {
        Problem::new("number of tuples", format_args!("at most {ITEMS_MAX}"), numbers.len())
    })?;
    sorted.copy_from_slice(numbers);
    sorted.sort_unstable_by_key(|number| u16::from_le_bytes(*number));
    page.delete_items(sorted)?;
    for number in &*sorted {
        let state = if number == first_number { first } else { rest };
        page.insert_item(u16::from_le_bytes(*number), &maker.form(state, to))?;
        match state {
            State::Redirect => count(page, REDIRECTIONS, 1)?,
            State::Placeholder => count(page, PLACEHOLDERS, 1)?,
            State::Dead => {}
        }
    }
    Ok(())
}

/// Lets the next one of a leaf tuple's chain be another (`SGLT_SET_NEXTOFFSET`).
fn set_next(page: &mut PageMut<'_>, number: u16, next: u16) -> Checked<()> {
    let tuple = page.item_mut(number, LEAF_HEADER)?;
    let info = u16_of(tuple, INFO)? & !NEXT_MASK | next & NEXT_MASK;
    tuple[INFO..INFO + 2].copy_from_slice(&info.to_le_bytes());
    Ok(())
}

/// Lets the node that the main data names at `link` lead elsewhere (`spgUpdateNodeLink`).
fn update_link(page: &mut PageMut<'_>, main: Main<'_>, link: usize, to: (u32, u16)) -> Checked<()> {
    let (number, node) = (main.u16(link)?, main.u16(link + 2)?);
    page.special_at(OPAQUE)?;
    let tuple = page.item_mut(number, INNER_HEADER)?;
    let nodes = u16_of(tuple, 0)? >> 3;
    if node >= nodes {
        return Err(Problem::new("number of a node", format_args!("below {nodes}"), node));
    }
    let mut at = INNER_HEADER + usize::from(u16_of(tuple, 2)?);
    for _ in 0..node {
        at += usize::from(u16_of(tuple, at + 6)? & NODE_SIZE_MASK);
    }
    let len = tuple.len();
    let place = tuple.get_mut(at..at + NODE_HEADER);
    let place =
        place.ok_or_else(|| Problem::new("place of a node", format_args!("in {len} bytes"), at))?;
    set_pointer(place, to);
    Ok(())
}

/// `spgRedoAddLeaf`, the leaf page.
fn add_leaf(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let (number, head) = (main.u16(2)?, main.u16(4)?);
    let tuple = take_leaf(&mut main.behind(10)?)?;
    let page = &mut change.page;
    if main.flag(0)? {
        init(page, leaf_flags(main.flag(1)?));
    }
    if number == head {
        return replace(page, number, tuple);
    }
    add(page, number, tuple)?;
    if head != 0 { set_next(page, head, number) } else { Ok(()) }
}

/// What MOVE_LEAFS has behind the fixed part.
struct MovedLeaves<'r> {
    old_numbers: &'r [[u8; 2]],
    new_numbers: &'r [[u8; 2]],
    tuples: &'r [u8],
}

impl<'r> MovedLeaves<'r> {
    fn of(main: Main<'r>) -> Checked<MovedLeaves<'r>> {
        let moved = main.u16(0)?;
        let new = if main.flag(3)? { 1 } else { moved.saturating_add(1) };
        let mut rest = main.behind(20)?;
        let old_numbers = take_numbers(&mut rest, moved)?;
        let new_numbers = take_numbers(&mut rest, new)?;
        Ok(MovedLeaves { old_numbers, new_numbers, tuples: rest })
    }

    /// The last one moved is the chain's head.
    fn target(&self, change: &Change<'_, '_>) -> Checked<(u32, u16)> {
        let number = self.new_numbers.last().ok_or_else(|| short(self.tuples))?;
        Ok((change.other(1)?.block, u16::from_le_bytes(*number)))
    }
}

/// `spgRedoMoveLeafs`, the source.
fn moved_from(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let (moved, maker) = (MovedLeaves::of(main)?, main.maker(12)?);
    let to = moved.target(change)?;
    let states = [maker.left_behind(), State::Placeholder];
    kill(&mut change.page, moved.old_numbers, maker, states, to)
}

/// `spgRedoMoveLeafs`, the destination.
fn moved_to(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let mut moved = MovedLeaves::of(main)?;
    let page = &mut change.page;
    if main.flag(2)? {
        init(page, leaf_flags(main.flag(4)?));
    }
    for number in moved.new_numbers {
        add(page, u16::from_le_bytes(*number), take_leaf(&mut moved.tuples)?)?;
    }
    Ok(())
}

/// Which block of ADD_NODE has the parent.
const PARENT: usize = 5;

/// `spgRedoAddNode`, the page where the tuple was.
fn outgrown(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let number = main.u16(0)?;
    let Some(new) = change.find(1) else {
        return replace(&mut change.page, number, take_inner(&mut main.behind(20)?)?);
    };
    let maker = main.maker(12)?;
    let to = (new.block, main.u16(2)?);
    let page = &mut change.page;
    replace(page, number, &maker.form(maker.left_behind(), to))?;
    count(page, if maker.is_build { PLACEHOLDERS } else { REDIRECTIONS }, 1)?;
    if main.u8(PARENT)? == 0 { update_link(page, main, 6, to) } else { Ok(()) }
}

/// `spgRedoAddNode`, the page where the tuple is now.
fn grown(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let tuple = take_inner(&mut main.behind(20)?)?;
    let to = (change.block.block, main.u16(2)?);
    let page = &mut change.page;
    if main.flag(4)? {
        init(page, 0);
    }
    add(page, to.1, tuple)?;
    if main.u8(PARENT)? == 1 { update_link(page, main, 6, to) } else { Ok(()) }
}

/// `spgRedoSplitTuple`, the page of the prefix.
fn prefix(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let mut tuples = main.behind(6)?;
    let page = &mut change.page;
    replace(page, main.u16(0)?, take_inner(&mut tuples)?)?;
    if main.flag(5)? { add(page, main.u16(2)?, take_inner(&mut tuples)?) } else { Ok(()) }
}

/// `spgRedoSplitTuple`, the page of the postfix.
fn postfix(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let mut tuples = main.behind(6)?;
    take_inner(&mut tuples)?;
    if main.flag(4)? {
        init(&mut change.page, 0);
    }
    add(&mut change.page, main.u16(2)?, take_inner(&mut tuples)?)
}

/// What PICKSPLIT has behind the fixed part.
struct PickedSplit<'r> {
    deleted: &'r [[u8; 2]],
    inserted: &'r [[u8; 2]],
    /// For each that is inserted: 0 the source, otherwise the destination.
    places: &'r [u8],
    inner: &'r [u8],
    leaves: &'r [u8],
}

impl<'r> PickedSplit<'r> {
    fn of(main: Main<'r>) -> Checked<PickedSplit<'r>> {
        let (deleted, inserted) = (main.u16(2)?, main.u16(4)?);
        let mut rest = main.behind(28)?;
        let deleted = take_numbers(&mut rest, deleted)?;
        let inserted = take_numbers(&mut rest, inserted)?;
        let places = take(&mut rest, inserted.len())?;
        let inner = take_inner(&mut rest)?;
        Ok(PickedSplit { deleted, inserted, places, inner, leaves: rest })
    }

    /// Adds those leaf tuples that belong to one of the two pages.
    fn add_leaves(mut self, page: &mut PageMut<'_>, is_destination: bool) -> Checked<()> {
        for (number, place) in self.inserted.iter().zip(self.places) {
            let leaf = take_leaf(&mut self.leaves)?;
            if (*place != 0) == is_destination {
                add(page, u16::from_le_bytes(*number), leaf)?;
            }
        }
        Ok(())
    }
}

/// `spgRedoPickSplit`, the page whose tuples are split.
fn split_source(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let (split, maker) = (PickedSplit::of(main)?, main.maker(20)?);
    let to = (change.other(2)?.block, main.u16(8)?);
    let page = &mut change.page;
    if main.flag(6)? {
        init(page, leaf_flags(main.flag(11)?));
    } else {
        kill(page, split.deleted, maker, [maker.left_behind(), State::Placeholder], to)?;
    }
    split.add_leaves(page, false)
}

/// `spgRedoPickSplit`, the page that some of the tuples go to.
fn split_destination(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    if main.flag(7)? {
        init(&mut change.page, leaf_flags(main.flag(11)?));
    }
    PickedSplit::of(main)?.add_leaves(&mut change.page, true)
}

/// `spgRedoPickSplit`, the page of the new inner tuple.
fn split_inner(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let split = PickedSplit::of(main)?;
    let to = (change.block.block, main.u16(8)?);
    let page = &mut change.page;
    if main.flag(10)? {
        init(page, if main.flag(11)? { NULLS } else { 0 });
    }
    add(page, to.1, split.inner)?;
    if main.flag(12)? { update_link(page, main, 14, to) } else { Ok(()) }
}

/// `spgRedoVacuumLeaf`.
fn vacuum_leaf(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let [dead, placeholders, moved, chained] =
        [main.u16(0)?, main.u16(2)?, main.u16(4)?, main.u16(6)?];
    let (maker, mut rest) = (main.maker(8)?, main.behind(16)?);
    let mut numbers = |count| take_numbers(&mut rest, count);
    let (dead, placeholders) = (numbers(dead)?, numbers(placeholders)?);
    let (from, to) = (numbers(moved)?, numbers(moved)?);
    let (chained, next) = (numbers(chained)?, numbers(chained)?);
    let page = &mut change.page;
    page.special_at(OPAQUE)?;
    kill(page, dead, maker, [State::Dead; 2], NOWHERE)?;
    kill(page, placeholders, maker, [State::Placeholder; 2], NOWHERE)?;
    // A tuple moves as its line pointer and that of what is in its way change places.
    for (from, to) in from.iter().zip(to) {
        let (from, to) = (u16::from_le_bytes(*from), u16::from_le_bytes(*to));
        let (moved, other) = (page.item_id(from)?, page.item_id(to)?);
        page.set_item_id(from, other)?;
        page.set_item_id(to, moved)?;
    }
    kill(page, from, maker, [State::Placeholder; 2], NOWHERE)?;
    for (number, next) in chained.iter().zip(next) {
        set_next(page, u16::from_le_bytes(*number), u16::from_le_bytes(*next))?;
    }
    Ok(())
}

/// `spgRedoVacuumRedirect`.
fn vacuum_redirect(change: &mut Change<'_, '_>, main: Main<'_>) -> Checked<()> {
    let (redirects, first) = (main.u16(0)?, main.u16(2)?);
    let numbers = take_numbers(&mut main.behind(8)?, redirects)?;
    let page = &mut change.page;
    page.special_at(OPAQUE)?;
    for number in numbers {
        let tuple = page.item_mut(u16::from_le_bytes(*number), DEAD_LEN)?;
        set_state(tuple, State::Placeholder);
        set_pointer(&mut tuple[POINTER..], NOWHERE);
    }
    uncount(page, REDIRECTIONS, redirects)?;
    count(page, PLACEHOLDERS, redirects)?;
    if first == 0 {
        return Ok(());
    }
    // All from there on are placeholders.
    let mut numbers = [[0; 2]; ITEMS_MAX];
    let mut going = 0;
    for (slot, number) in numbers.iter_mut().zip(first..=page.items()) {
        *slot = number.to_le_bytes();
        going += 1;
    }
    uncount(page, PLACEHOLDERS, going)?;
    page.delete_items(&numbers[..usize::from(going)])
}
