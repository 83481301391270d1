//! A page of the index: built row by row, searched in place.
//!
//! A search reads the header's cache line and the fences' line, then one line of 16 block numbers,
//! then one Lsn and its place: three steps that have to wait for each other. That is why the first
//! two are at fixed places and why a page of many objects is searched otherwise. Where keys are
//! evenly spaced, as the blocks of a whole relation are, the page above tells the row of the leaf,
//! and nothing has to wait ([`Page::guess`], [`Page::hit_at`]).

use std::ops::Range;

use crate::layer_file::{
    format::block::{BLOCK_ALIGN, BLOCK_HEADER_LEN},
    format::footer::{array, u64_at},
};
use crate::{Key, Lsn};

/// The most that a page's payload takes, so that its block occupies 4 KiB.
pub(crate) const PAGE_LEN_MAX: usize = 4096 - BLOCK_HEADER_LEN;
/// The most levels of an index. A page has at least 92 rows, so no file fills them.
pub(crate) const HEIGHT_MAX: usize = 16;
/// Level, rows, segments, the first segment's object, the fences.
const HEAD_LEN: usize = FENCES + WINDOW_LEN;
const ROWS: usize = 2;
const SEGMENTS: usize = ROWS + 2;
const OBJECT: usize = SEGMENTS + 4;
/// The fences take the block's second cache line.
const FENCES: usize = BLOCK_ALIGN - BLOCK_HEADER_LEN;
/// Rows whose block numbers fill a cache line. Each window has a fence.
const WINDOW_ROWS: usize = 16;
const WINDOW_LEN: usize = 4 * WINDOW_ROWS;
/// Lsn and place.
const PAIR_LEN: usize = 16;
const SEGMENT_LEN: usize = 20;
/// Rows of a full page of one object.
const FULL_ROWS: usize = 196;
const _: () =
    assert!(page_len(1, FULL_ROWS) <= PAGE_LEN_MAX && page_len(1, FULL_ROWS + 1) > PAGE_LEN_MAX);
const _: () = assert!(OBJECT + 16 <= FENCES && WINDOW_LEN == BLOCK_ALIGN);
const _: () = assert!(PAGE_LEN_MAX / (PAIR_LEN + 4) <= WINDOW_ROWS * WINDOW_ROWS);

/// Where a chain part is, or, with a part start of zero, an index block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u64);

impl Place {
    const PART_BITS: u32 = 24;
    const PART_ALIGN: u64 = 8;

    pub(crate) fn new(block_offset: u64, part_start: usize) -> Place {
        let block = block_offset / BLOCK_ALIGN as u64;
        let part = part_start as u64 / Place::PART_ALIGN;
        debug_assert!(block_offset.is_multiple_of(BLOCK_ALIGN as u64) && block >> 40 == 0);
        debug_assert!(
            (part_start as u64).is_multiple_of(Place::PART_ALIGN) && part >> Place::PART_BITS == 0
        );
        Place(block << Place::PART_BITS | part)
    }

    #[inline]
    pub(crate) fn block_offset(self) -> u64 {
        (self.0 >> Place::PART_BITS) * BLOCK_ALIGN as u64
    }

    /// Start of the part in the inflated payload.
    #[inline]
    pub(crate) fn part_start(self) -> usize {
        // At most 128 MiB.
        ((self.0 & ((1 << Place::PART_BITS) - 1)) * Place::PART_ALIGN) as usize
    }
}

/// A row of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) lsn: Lsn,
    pub(crate) place: Place,
}

/// The page of one level that is being filled.
#[derive(Debug)]
pub(crate) struct PageBuilder {
    level: u8,
    segments: Vec<(u128, u32)>,
    blocks: Vec<u32>,
    pairs: Vec<(u64, u64)>,
}

impl PageBuilder {
    pub(crate) fn new(level: u8) -> PageBuilder {
        debug_assert!(usize::from(level) < HEIGHT_MAX, "level {level}");
        let rows = PAGE_LEN_MAX / PAIR_LEN;
        PageBuilder {
            level,
            segments: Vec::with_capacity(PAGE_LEN_MAX / (SEGMENT_LEN + PAIR_LEN)),
            blocks: Vec::with_capacity(rows),
            pairs: Vec::with_capacity(rows),
        }
    }

    /// Adds a row; false if the page is full.
    pub(crate) fn push(&mut self, row: &Row) -> bool {
        let rows = self.blocks.len();
        let new_segment = self.segments.last().is_none_or(|last| last.0 != row.key.object);
        let segments = self.segments.len() + usize::from(new_segment);
        if page_len(segments, rows + 1) > PAGE_LEN_MAX {
            return false;
        }
        if new_segment {
            self.segments.push((row.key.object, rows as u32));
        }
        self.blocks.push(row.key.block);
        self.pairs.push((row.lsn.0, row.place.0));
        true
    }

    /// Key and Lsn of the last row.
    pub(crate) fn last(&self) -> Option<(Key, Lsn)> {
        let object = self.segments.last()?.0;
        Some((Key::new(object, *self.blocks.last()?), Lsn(self.pairs.last()?.0)))
    }

    /// Key and Lsn of the first row.
    pub(crate) fn first(&self) -> Option<(Key, Lsn)> {
        let object = self.segments.first()?.0;
        Some((Key::new(object, *self.blocks.first()?), Lsn(self.pairs.first()?.0)))
    }

    /// Appends the page to `out` and starts the next one.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) {
        let rows = u16::try_from(self.blocks.len()).expect("a page of 4 KiB");
        let segments = u16::try_from(self.segments.len()).expect("a page of 4 KiB");
        assert!(rows > 0 && segments <= rows, "{rows} rows of {segments} objects");
        debug_assert!(page_len(self.segments.len(), self.blocks.len()) <= PAGE_LEN_MAX);
        let mut head = [0; FENCES];
        head[0] = self.level;
        head[ROWS..SEGMENTS].copy_from_slice(&rows.to_le_bytes());
        head[SEGMENTS..SEGMENTS + 2].copy_from_slice(&segments.to_le_bytes());
        let object = self.segments.first().map_or(0, |first| first.0);
        head[OBJECT..OBJECT + 16].copy_from_slice(&object.to_le_bytes());
        out.extend_from_slice(&head);
        let fences = self.blocks.iter().step_by(WINDOW_ROWS).copied();
        for fence in fences.chain(std::iter::repeat(u32::MAX)).take(WINDOW_ROWS) {
            out.extend_from_slice(&fence.to_le_bytes());
        }
        self.blocks.resize(self.blocks.len().next_multiple_of(WINDOW_ROWS), u32::MAX);
        for block in self.blocks.drain(..) {
            out.extend_from_slice(&block.to_le_bytes());
        }
        for (lsn, place) in self.pairs.drain(..) {
            out.extend_from_slice(&lsn.to_le_bytes());
            out.extend_from_slice(&place.to_le_bytes());
        }
        for (object, first_row) in self.segments.drain(..).skip(1) {
            out.extend_from_slice(&object.to_le_bytes());
            out.extend_from_slice(&first_row.to_le_bytes());
        }
    }
}

/// `segments` includes the first one, which is in the head.
const fn page_len(segments: usize, rows: usize) -> usize {
    let windows = WINDOW_LEN * rows.div_ceil(WINDOW_ROWS);
    HEAD_LEN + windows + PAIR_LEN * rows + SEGMENT_LEN * segments.saturating_sub(1)
}

/// A page of the index as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'a> {
    head: &'a [u8; HEAD_LEN],
    windows: &'a [[u8; WINDOW_LEN]],
    pairs: &'a [[u8; PAIR_LEN]],
    /// All but the first.
    segments: &'a [[u8; SEGMENT_LEN]],
}

/// Where a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hit {
    pub(crate) row: usize,
    /// Whether the row is of the key that was searched for.
    pub(crate) is_of_key: bool,
}

/// The rows of one object, as many as are in the page.
struct Segment {
    object: u128,
    rows: Range<usize>,
}

impl<'a> Page<'a> {
    /// None if the payload is no page.
    #[inline]
    pub(crate) fn parse(payload: &'a [u8]) -> Option<Page<'a>> {
        let (head, rest) = payload.split_first_chunk::<HEAD_LEN>()?;
        let rows = usize::from(u16::from_le_bytes(array(head, ROWS)));
        let segments = usize::from(u16::from_le_bytes(array(head, SEGMENTS)));
        let sound = rows > 0 && rows <= WINDOW_ROWS * WINDOW_ROWS && segments > 0;
        if !sound || payload.len() != page_len(segments, rows) {
            return None;
        }
        let (windows, rest) = rest.split_at_checked(WINDOW_LEN * rows.div_ceil(WINDOW_ROWS))?;
        let (pairs, segments) = rest.split_at_checked(PAIR_LEN * rows)?;
        Some(Page {
            head,
            windows: windows.as_chunks().0,
            pairs: pairs.as_chunks().0,
            segments: segments.as_chunks().0,
        })
    }

    #[inline]
    pub(crate) fn level(&self) -> u8 {
        self.head[0]
    }

    pub(crate) fn rows(&self) -> usize {
        self.pairs.len()
    }

    fn block(&self, row: usize) -> Option<u32> {
        let window = self.windows.get(row / WINDOW_ROWS)?;
        Some(u32::from_le_bytes(array(window, row % WINDOW_ROWS * 4)))
    }

    /// Segment `index`, if the page can have it.
    fn segment(&self, index: usize) -> Option<Segment> {
        let (object, start) = match index.checked_sub(1) {
            None => (u128::from_le_bytes(array(self.head, OBJECT)), 0),
            Some(further) => split(self.segments.get(further)?),
        };
        let end = self.segments.get(index).map_or(self.rows(), |next| split(next).1);
        (start < end && end <= self.rows()).then_some(Segment { object, rows: start..end })
    }

    /// Row `index`; none if there is no such row or no object for it.
    pub(crate) fn row(&self, index: usize) -> Option<Row> {
        let pair = self.pairs.get(index)?;
        let segment = self.segments.partition_point(|segment| split(segment).1 <= index);
        Some(Row {
            key: Key::new(self.segment(segment)?.object, self.block(index)?),
            lsn: Lsn(u64_at(pair, 0)),
            place: Place(u64_at(pair, 8)),
        })
    }

    /// Lsn and place of row `index`.
    #[inline]
    pub(crate) fn pair(&self, index: usize) -> Option<(Lsn, Place)> {
        let pair = self.pairs.get(index)?;
        Some((Lsn(u64_at(pair, 0)), Place(u64_at(pair, 8))))
    }

    /// In a leaf: where the next data block begins that a row behind row `index` is in. The rows of
    /// a leaf are in the order of their blocks.
    pub(crate) fn next_block_offset(&self, index: usize) -> Option<u64> {
        let offset = |pair: &[u8; PAIR_LEN]| Place(u64_at(pair, 8)).block_offset();
        let (row, behind) = self.pairs.get(index..)?.split_first()?;
        let same_block = behind.partition_point(|pair| offset(pair) <= offset(row));
        behind.get(same_block).map(offset)
    }

    /// The last row at or below (`key`, `lsn`).
    ///
    /// In a page that lies about its order it is some row or none.
    pub(crate) fn search(&self, key: Key, lsn: Lsn) -> Option<Hit> {
        let after = match self.segments {
            [] => 0,
            segments => segments.partition_point(|segment| split(segment).0 <= key.object),
        };
        let Segment { object, rows } = self.segment(after)?;
        if object != key.object {
            let row = if object < key.object { rows.end.checked_sub(1) } else { None };
            return row.map(|row| Hit { row, is_of_key: false });
        }
        let upper = match self.segments {
            [] => self.count_at_or_below(key.block),
            _ => {
                let not_above =
                    |row: &usize| self.block(*row).is_some_and(|block| block <= key.block);
                partition_point(&rows, not_above)
            }
        };
        let row = upper.checked_sub(1)?;
        if row < rows.start || self.block(row)? < key.block {
            return Some(Hit { row, is_of_key: false });
        }
        if self.pair(row)?.0 <= lsn {
            return Some(Hit { row, is_of_key: true });
        }
        // The key's newest part is above the Lsn.
        let not_above = |row: &usize| {
            let lsn_of_row = self.pair(*row).map(|pair| pair.0);
            (self.block(*row), lsn_of_row) <= (Some(key.block), Some(lsn))
        };
        let row = partition_point(&(rows.start..upper), not_above).checked_sub(1)?;
        let is_of_key = row >= rows.start && self.block(row)? == key.block;
        Some(Hit { row, is_of_key })
    }

    /// In a leaf: whether the row before this one, which is of `key`, is known to be of another
    /// key.
    #[inline]
    pub(crate) fn is_oldest(&self, row: usize, key: Key) -> bool {
        let Some(before) = row.checked_sub(1) else { return false };
        match self.segments {
            [] => self.block(before) != Some(key.block),
            _ => self.row(before).is_none_or(|row| row.key != key),
        }
    }

    /// In a page above the leaves: which row of the leaf below `row` the key is in, if the leaf is
    /// full and its keys are evenly spaced.
    #[inline]
    pub(crate) fn guess(&self, row: usize, key: Key) -> Option<usize> {
        if !self.segments.is_empty() || row + 1 >= self.rows() {
            return None;
        }
        let first = self.block(row)?;
        let span = self.block(row + 1)?.checked_sub(first)?;
        let rows = u64::from(key.block.checked_sub(first)?) * FULL_ROWS as u64;
        Some(rows.checked_div(u64::from(span))? as usize)
    }

    /// Row `row`, if it is what a search finds. Its loads wait for nothing but the guess, where a
    /// search's wait for each other three times.
    #[inline]
    pub(crate) fn hit_at(&self, row: usize, key: Key, lsn: Lsn) -> Option<Hit> {
        let is_it = self.segments.is_empty()
            && self.block(row)? == key.block
            && self.pair(row)?.0 <= lsn
            && u128::from_le_bytes(array(self.head, OBJECT)) == key.object
            && (row + 1 == self.rows() || self.block(row + 1)? > key.block);
        is_it.then_some(Hit { row, is_of_key: true })
    }

    /// Where a full page of one object has block number and pair of this row, from the start of the
    /// payload.
    pub(crate) fn offsets_of_row(row: usize) -> [usize; 2] {
        let pairs = HEAD_LEN + WINDOW_LEN * FULL_ROWS.div_ceil(WINDOW_ROWS);
        [HEAD_LEN + 4 * row, pairs + PAIR_LEN * row]
    }

    /// How many of all rows have a block number of at most `block`, in a page of one object.
    fn count_at_or_below(&self, block: u32) -> usize {
        let fences = self.head.last_chunk().expect("the head ends with the fences");
        let passed = count_at_or_below(fences, block).min(self.windows.len());
        let Some((window, before)) = self.windows[..passed].split_last() else { return 0 };
        (before.len() * WINDOW_ROWS + count_at_or_below(window, block)).min(self.rows())
    }

    /// Whether fences and segments are as the rows want them. For verification.
    pub(crate) fn is_consistent(&self) -> bool {
        let (fences, _) = self.head[FENCES..].as_chunks::<4>();
        let firsts = self.windows.iter().filter_map(|window| window.first_chunk::<4>());
        let segments = || (0..=self.segments.len()).map(|index| self.segment(index));
        fences.iter().zip(firsts).all(|(fence, first)| fence == first)
            && segments().all(|segment| segment.is_some())
            && segments().flatten().is_sorted_by(|left, right| left.object < right.object)
    }
}

/// How many of 16 numbers are at most `block`.
fn count_at_or_below(window: &[u8; WINDOW_LEN], block: u32) -> usize {
    let (numbers, _) = window.as_chunks::<4>();
    let count = |number: &[u8; 4]| u32::from(u32::from_le_bytes(*number) <= block);
    numbers.iter().map(count).sum::<u32>() as usize
}

/// The first of `rows` for which `is_before` does not hold, if it holds for a part at the start
/// only.
fn partition_point(rows: &Range<usize>, is_before: impl Fn(&usize) -> bool) -> usize {
    let Range { mut start, mut end } = *rows;
    while start < end {
        let middle = start + (end - start) / 2;
        match is_before(&middle) {
            true => start = middle + 1,
            false => end = middle,
        }
    }
    start
}

/// Object and first row of a segment.
fn split(segment: &[u8; SEGMENT_LEN]) -> (u128, usize) {
    let object = u128::from_le_bytes(array(segment, 0));
    (object, u32::from_le_bytes(array(segment, 16)) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn built(rows: &[Row]) -> Vec<u8> {
        let mut builder = PageBuilder::new(3);
        assert!(rows.iter().all(|row| builder.push(row)));
        assert_eq!(builder.first(), rows.first().map(|row| (row.key, row.lsn)));
        let mut bytes = Vec::new();
        builder.write(&mut bytes);
        bytes
    }

    fn rows_of(mut keys: Vec<(u128, u32, u64)>) -> Vec<Row> {
        keys.sort_unstable();
        keys.dedup();
        let row = |(index, &(object, block, lsn)): (usize, &(u128, u32, u64))| Row {
            key: Key::new(object, block),
            lsn: Lsn(lsn),
            place: Place::new(index as u64 * 64, index * 8),
        };
        keys.iter().enumerate().map(row).collect()
    }

    #[test]
    fn a_page_occupies_4_kib() {
        for object_rows in [1, 3, 1000] {
            let mut builder = PageBuilder::new(0);
            let row = |index: u32| Row {
                key: Key::new(u128::from(index / object_rows), index),
                lsn: Lsn(1),
                place: Place::new(64, 0),
            };
            let rows = (0..).take_while(|&index| builder.push(&row(index))).count();
            let mut bytes = Vec::new();
            builder.write(&mut bytes);
            assert!(bytes.len() <= PAGE_LEN_MAX && bytes.len() > PAGE_LEN_MAX - 120);
            assert_eq!(Page::parse(&bytes).unwrap().rows(), rows);
            assert!(rows >= 92, "{rows}");
        }
    }

    #[test]
    fn evenly_spaced_keys_are_guessed() {
        let row = |number: u32| Row {
            key: Key::new(7, 1000 + number * 3),
            lsn: Lsn(1),
            place: Place::new(64, 0),
        };
        let above = built(&[row(0), row(FULL_ROWS as u32), row(2 * FULL_ROWS as u32)]);
        let above = Page::parse(&above).unwrap();
        for number in 0..2 * FULL_ROWS {
            let guess = above.guess(number / FULL_ROWS, row(number as u32).key);
            assert_eq!(guess, Some(number % FULL_ROWS));
        }
        assert_eq!(above.guess(2, row(2 * FULL_ROWS as u32).key), None, "nothing to measure by");
    }

    proptest! {
        #[test]
        fn a_search_finds_the_last_row_at_or_below(
            keys in prop::collection::vec((0..3_u128, 0..40_u32, 1..4_u64), 1..90),
            object in 0..4_u128, block in 0..45_u32, lsn in 0..5_u64,
        ) {
            let rows = rows_of(keys);
            let bytes = built(&rows);
            let page = Page::parse(&bytes).unwrap();
            prop_assert!(page.is_consistent());
            prop_assert_eq!((page.rows(), page.level()), (rows.len(), 3));
            for (index, row) in rows.iter().enumerate() {
                prop_assert_eq!(page.row(index), Some(*row));
            }
            prop_assert_eq!(page.row(rows.len()), None);
            for index in 0..rows.len() {
                let next = rows.get(index + 1).map(|next| next.place.block_offset());
                prop_assert_eq!(page.next_block_offset(index), next, "each row has its own block");
            }
            prop_assert_eq!(page.next_block_offset(rows.len()), None);
            let key = Key::new(object, block);
            let below = rows.partition_point(|row| (row.key, row.lsn) <= (key, Lsn(lsn)));
            let expected = below.checked_sub(1);
            let expected = expected.map(|row| Hit { row, is_of_key: rows[row].key == key });
            prop_assert_eq!(page.search(key, Lsn(lsn)), expected);
            // A guess is taken only where it is right.
            for row in 0..rows.len() + 2 {
                let right = expected.filter(|hit| hit.row == row && hit.is_of_key);
                let one_object = rows.iter().all(|row| row.key.object == rows[0].key.object);
                prop_assert_eq!(page.hit_at(row, key, Lsn(lsn)), right.filter(|_| one_object));
                page.guess(row, key);
            }
        }

        #[test]
        fn a_hostile_page_is_searched_without_panic(
            flips in prop::collection::vec((0..1900_usize, any::<u8>()), 1..40),
            object in 0..4_u128, block in 0..45_u32,
        ) {
            let rows = rows_of((0..70).map(|row| (row / 30, row as u32 % 30, 1)).collect());
            let mut bytes = built(&rows);
            let len = bytes.len();
            for (at, value) in flips {
                bytes[at % len] = value;
            }
            if let Some(page) = Page::parse(&bytes) {
                page.search(Key::new(object, block), Lsn(1));
                for row in 0..=page.rows() {
                    page.row(row);
                    page.next_block_offset(row);
                }
                page.is_consistent();
            }
        }
    }
}
