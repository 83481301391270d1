//! A page of the index: built row by row, searched in place.
//!
//! A search reads the header's line, the fences (at most 52 bytes) and one run of 16 block numbers; then one Lsn and
//! one place.

use super::block::{BLOCK_ALIGN, BLOCK_HEADER_LEN};
use crate::{Key, Lsn};

/// The most that a page's payload takes, so that its block occupies 4 KiB.
const PAGE_LEN_MAX: usize = 4096 - BLOCK_HEADER_LEN;
const PAGE_HEADER_LEN: usize = 8;
const SEGMENT_LEN: usize = 20;
/// Block number, Lsn, place.
const ROW_LEN: usize = 4 + 8 + 8;
/// Every so many rows there is a fence.
const FENCE_ROWS: usize = 16;

/// Where a chain part is, or, with a part start of zero, an index block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(u64);

impl Place {
    const PART_BITS: u32 = 24;
    const PART_ALIGN: u64 = 8;

    pub(super) fn new(block_offset: u64, part_start: usize) -> Place {
        let block = block_offset / BLOCK_ALIGN as u64;
        let part = part_start as u64 / Place::PART_ALIGN;
        debug_assert!(block_offset.is_multiple_of(BLOCK_ALIGN as u64) && block >> 40 == 0);
        debug_assert!(
            (part_start as u64).is_multiple_of(Place::PART_ALIGN) && part >> Place::PART_BITS == 0
        );
        Place(block << Place::PART_BITS | part)
    }

    pub(super) fn block_offset(self) -> u64 {
        (self.0 >> Place::PART_BITS) * BLOCK_ALIGN as u64
    }

    /// Start of the part in the inflated payload.
    pub(super) fn part_start(self) -> usize {
        // At most 128 MiB.
        ((self.0 & ((1 << Place::PART_BITS) - 1)) * Place::PART_ALIGN) as usize
    }
}

/// A row of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) lsn: Lsn,
    pub(super) place: Place,
}

/// The page of one level that is being filled.
#[derive(Debug)]
pub(super) struct PageBuilder {
    level: u8,
    segments: Vec<(u128, u32)>,
    blocks: Vec<u32>,
    lsns: Vec<u64>,
    places: Vec<u64>,
}

impl PageBuilder {
    pub(super) fn new(level: u8) -> PageBuilder {
        let rows = PAGE_LEN_MAX / ROW_LEN;
        PageBuilder {
            level,
            segments: Vec::with_capacity(PAGE_LEN_MAX / (SEGMENT_LEN + ROW_LEN)),
            blocks: Vec::with_capacity(rows),
            lsns: Vec::with_capacity(rows),
            places: Vec::with_capacity(rows),
        }
    }

    /// Adds a row; false if the page is full.
    pub(super) fn push(&mut self, row: &Row) -> bool {
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
        self.lsns.push(row.lsn.0);
        self.places.push(row.place.0);
        true
    }

    /// Key and Lsn of the first row.
    pub(super) fn first(&self) -> Option<(Key, Lsn)> {
        let object = self.segments.first()?.0;
        Some((Key::new(object, *self.blocks.first()?), Lsn(*self.lsns.first()?)))
    }

    /// Appends the page to `out` and starts the next one.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        let rows = u16::try_from(self.blocks.len()).expect("a page of 4 KiB");
        let segments = u16::try_from(self.segments.len()).expect("a page of 4 KiB");
        out.extend_from_slice(&[self.level, 0]);
        out.extend_from_slice(&rows.to_le_bytes());
        out.extend_from_slice(&segments.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        for (object, first_row) in self.segments.drain(..) {
            out.extend_from_slice(&object.to_le_bytes());
            out.extend_from_slice(&first_row.to_le_bytes());
        }
        for fence in self.blocks.iter().step_by(FENCE_ROWS) {
            out.extend_from_slice(&fence.to_le_bytes());
        }
        for block in self.blocks.drain(..) {
            out.extend_from_slice(&block.to_le_bytes());
        }
        for number in self.lsns.drain(..).chain(self.places.drain(..)) {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

fn page_len(segments: usize, rows: usize) -> usize {
    PAGE_HEADER_LEN + SEGMENT_LEN * segments + 4 * rows.div_ceil(FENCE_ROWS) + ROW_LEN * rows
}

/// A page of the index as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    level: u8,
    segments: &'a [[u8; SEGMENT_LEN]],
    fences: &'a [[u8; 4]],
    blocks: &'a [[u8; 4]],
    lsns: &'a [[u8; 8]],
    places: &'a [[u8; 8]],
}

impl<'a> Page<'a> {
    /// None if the payload is no page.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Page<'a>> {
        let (header, rest) = payload.split_first_chunk::<PAGE_HEADER_LEN>()?;
        let rows = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let segments = usize::from(u16::from_le_bytes([header[4], header[5]]));
        if rows == 0 || segments == 0 || payload.len() != page_len(segments, rows) {
            return None;
        }
        let (segments, rest) = rest.split_at_checked(SEGMENT_LEN * segments)?;
        let (fences, rest) = rest.split_at_checked(4 * rows.div_ceil(FENCE_ROWS))?;
        let (blocks, rest) = rest.split_at_checked(4 * rows)?;
        let (lsns, places) = rest.split_at_checked(8 * rows)?;
        Some(Page {
            level: header[0],
            segments: segments.as_chunks().0,
            fences: fences.as_chunks().0,
            blocks: blocks.as_chunks().0,
            lsns: lsns.as_chunks().0,
            places: places.as_chunks().0,
        })
    }

    pub(super) fn level(&self) -> u8 {
        self.level
    }

    pub(super) fn rows(&self) -> usize {
        self.blocks.len()
    }

    /// Row `index`; none if there is no such row or no object for it.
    pub(super) fn row(&self, index: usize) -> Option<Row> {
        let block = u32::from_le_bytes(*self.blocks.get(index)?);
        let after = self.segments.partition_point(|segment| split(segment).1 <= index);
        let (object, _) = split(self.segments.get(after.checked_sub(1)?)?);
        Some(Row {
            key: Key::new(object, block),
            lsn: Lsn(u64::from_le_bytes(*self.lsns.get(index)?)),
            place: Place(u64::from_le_bytes(*self.places.get(index)?)),
        })
    }

    /// The index of the last row at or below (`key`, `lsn`).
    ///
    /// In a page that lies about its order it is some row or none.
    pub(super) fn search(&self, key: Key, lsn: Lsn) -> Option<usize> {
        let after = self.segments.partition_point(|segment| split(segment).0 <= key.object);
        let (object, start) = split(self.segments.get(after.checked_sub(1)?)?);
        let end = self.segments.get(after).map_or(self.rows(), |next| split(next).1);
        if object < key.object {
            return end.checked_sub(1).filter(|&row| row < self.rows());
        }
        let upper = start + self.count_at_or_below(start, end, key.block)?;
        let row = upper.checked_sub(1)?;
        if row < start || block_below(self.blocks.get(row)?, key.block) || self.lsn(row)? <= lsn {
            return Some(row);
        }
        // The key's newest part is above the Lsn: among the parts of the key.
        let run = self.lsns.get(start..upper)?.iter().zip(self.blocks.get(start..upper)?);
        let later = run
            .rev()
            .take_while(|(row_lsn, block)| {
                !block_below(block, key.block) && Lsn(u64::from_le_bytes(**row_lsn)) > lsn
            })
            .count();
        (upper - later).checked_sub(1)
    }

    fn lsn(&self, row: usize) -> Option<Lsn> {
        Some(Lsn(u64::from_le_bytes(*self.lsns.get(row)?)))
    }

    /// How many of the rows `start..end`, all of one object, have a block number of at most `block`.
    fn count_at_or_below(&self, start: usize, end: usize, block: u32) -> Option<usize> {
        let count = |numbers: &[[u8; 4]]| {
            numbers.iter().filter(|number| u32::from_le_bytes(**number) <= block).count()
        };
        // The fences that stand on rows of this object.
        let (first, last) = (start.div_ceil(FENCE_ROWS), end.div_ceil(FENCE_ROWS));
        let passed = count(self.fences.get(first..last.max(first))?);
        let window_end = ((first + passed) * FENCE_ROWS).min(end);
        let window_start = match passed {
            0 => start,
            _ => (first + passed - 1) * FENCE_ROWS,
        };
        Some(window_start - start + count(self.blocks.get(window_start..window_end)?))
    }

    /// Whether fences and segments are as the rows want them. For verification.
    pub(super) fn is_consistent(&self) -> bool {
        let starts = || self.segments.iter().map(|segment| split(segment).1);
        self.fences.iter().eq(self.blocks.iter().step_by(FENCE_ROWS))
            && starts().next() == Some(0)
            && starts().is_sorted_by(|left, right| left < right)
            && starts().all(|start| start < self.rows())
            && self.segments.is_sorted_by(|left, right| split(left).0 < split(right).0)
    }
}

fn block_below(bytes: &[u8; 4], block: u32) -> bool {
    u32::from_le_bytes(*bytes) < block
}

/// Object and first row of a segment.
fn split(segment: &[u8; SEGMENT_LEN]) -> (u128, usize) {
    let (object, first_row) = segment.split_first_chunk::<16>().expect("20 bytes");
    let first_row: [u8; 4] = first_row.try_into().expect("4 bytes");
    (u128::from_le_bytes(*object), u32::from_le_bytes(first_row) as usize)
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
            assert!(bytes.len() <= PAGE_LEN_MAX && bytes.len() > PAGE_LEN_MAX - 44);
            assert_eq!(Page::parse(&bytes).unwrap().rows(), rows);
            assert!(rows >= 92, "{rows}");
        }
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
            let key = Key::new(object, block);
            let below = rows.partition_point(|row| (row.key, row.lsn) <= (key, Lsn(lsn)));
            prop_assert_eq!(page.search(key, Lsn(lsn)), below.checked_sub(1));
        }

        #[test]
        fn a_hostile_page_is_searched_without_panic(
            flips in prop::collection::vec((0..1600_usize, any::<u8>()), 1..40),
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
                }
                page.is_consistent();
            }
        }
    }
}
