//! Changes of visibility map pages that no block reference names.
//!
//! Heap records clear a heap page's map bits by a flag in their main data, and truncation of a
//! relation clears the bits behind its new end on the last map page that stays. Neither names the
//! map page, and neither touches its `pd_lsn`.
//!
//! | record | flags at | bit | heap page | cleared |
//! |---|---|---|---|---|
//! | Heap INSERT | 2 | 1 | block 0 | both bits |
//! | Heap DELETE | 7 | 1 | block 0 | both |
//! | Heap UPDATE, HOT_UPDATE | 7 | 1 | the old page: block 1, or 0 if there is no 1 | both |
//! | | 7 | 2 | the new page: block 0 | both |
//! | Heap LOCK, Heap2 LOCK_UPDATED | 7 | 1 | block 0 | frozen |
//! | Heap2 MULTI_INSERT | 0 | 1 | block 0 | both |
//!
//! **Invariant:** bits of a heap page are 2 x (page % 4) and the one above it (visible, frozen) of
//! byte 24 + (page % 32672) / 4 of map page page / 32672.

use pagestrata_layers::Key;

use crate::{
    bytes::u32_at,
    error::{Error, Result},
    layout::{HEAP_BLOCKS_PER_MAP_PAGE, PAGE_HEADER_LEN, Page},
    manager::ManagerId,
    rel::{Fork, RelFork},
    wal::{
        events::{TRUNCATE_LEN, TRUNCATES_MAP, is_truncate},
        record::Record,
    },
};

pub use crate::layout::{
    HEAP_BLOCKS_PER_MAP_PAGE as HEAP_BLOCKS_PER_PAGE, first_map_block_gone as first_block_gone,
};

/// Where the bits start on a map page, in bytes.
const BITS_START: usize = PAGE_HEADER_LEN;
const VISIBLE: u8 = 1;
const FROZEN: u8 = 2;

/// A change of a map page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapChange {
    /// The map page's fork.
    pub rel: RelFork,
    /// The heap page whose bits are cleared.
    pub heap_block: u32,
    /// Which bits: 1 visible, 2 frozen.
    pub bits: u8,
    /// Bits of all later heap pages on this map page are cleared, too.
    pub to_end: bool,
}

impl MapChange {
    /// The map page's key.
    #[must_use]
    pub const fn key(&self) -> Key {
        self.rel.key(self.heap_block / HEAP_BLOCKS_PER_MAP_PAGE)
    }

    /// Applies the change to the map page.
    pub fn apply(&self, page: &mut Page) {
        let bit = self.heap_block % HEAP_BLOCKS_PER_MAP_PAGE;
        let (byte, shift) = (BITS_START + bit as usize / 4, bit % 4 * 2);
        if self.to_end {
            page[byte] &= (1 << shift) - 1;
            page[byte + 1..].fill(0);
        } else {
            page[byte] &= !(self.bits << shift);
        }
    }
}

/// Sets bits of a heap page on its map page (`visibilitymap_set`). Returns whether they changed.
pub(crate) fn set_bits(page: &mut Page, heap_block: u32, bits: u8) -> bool {
    let bit = heap_block % HEAP_BLOCKS_PER_MAP_PAGE;
    let (byte, shift) = (BITS_START + bit as usize / 4, bit % 4 * 2);
    let bits = bits & (VISIBLE | FROZEN);
    let is_changed = page[byte] >> shift & (VISIBLE | FROZEN) != bits;
    page[byte] |= bits << shift;
    is_changed
}

/// Which flag in the main data clears the bits of which block.
fn flags(record: &Record<'_>) -> Option<(usize, u8)> {
    match (record.manager(), record.info() & 0x70) {
        (ManagerId::HEAP, 0x00) => Some((2, VISIBLE | FROZEN)),
        (ManagerId::HEAP, 0x10 | 0x20 | 0x40) => Some((7, VISIBLE | FROZEN)),
        (ManagerId::HEAP, 0x60) | (ManagerId::HEAP2, 0x60) => Some((7, FROZEN)),
        (ManagerId::HEAP2, 0x50) => Some((0, VISIBLE | FROZEN)),
        _ => None,
    }
}

/// The changes of map pages that `record` does not name, in the order in which redo makes them: the
/// old page of an update before the new one. Two can be of the same map page.
///
/// # Errors
/// [`Error::Corrupt`] if the record is too short to say.
pub fn changes(record: &Record<'_>) -> Result<[Option<MapChange>; 2]> {
    if is_truncate(record) {
        return truncation(record).map(|change| [change, None]);
    }
    let Some((offset, bits)) = flags(record) else { return Ok([None, None]) };
    let Some(&flags) = record.main_data().get(offset) else {
        let (expected, found) = (format!("{} bytes or more", offset + 1), record.main_data().len());
        return Err(Error::corrupt(record.place(), "heap record's main data", expected, found));
    };
    let change = |id: u8| {
        let block = record.blocks().find(|block| block.id == id)?;
        let rel = block.rel.with_fork(Fork::Vm);
        Some(MapChange { rel, heap_block: block.block, bits, to_end: false })
    };
    let is_update =
        record.manager() == ManagerId::HEAP && matches!(record.info() & 0x70, 0x20 | 0x40);
    Ok(match (flags & 1 != 0, is_update) {
        (false, false) => [None, None],
        (true, false) => [change(0), None],
        (old, true) => {
            let old = if old { change(1).or_else(|| change(0)) } else { None };
            [old, if flags & 2 != 0 { change(0) } else { None }]
        }
    })
}

fn truncation(record: &Record<'_>) -> Result<Option<MapChange>> {
    let main = record.main_data();
    let number = |offset| {
        u32_at(main, offset).ok_or_else(|| {
            let expected = format!("{TRUNCATE_LEN} bytes");
            Error::corrupt(record.place(), "truncation's main data", expected, main.len())
        })
    };
    let heap_block = number(0)?;
    let (tablespace, database, relation) = (number(4)?, number(8)?, number(12)?);
    if number(16)? & TRUNCATES_MAP == 0 || heap_block.is_multiple_of(HEAP_BLOCKS_PER_MAP_PAGE) {
        return Ok(None);
    }
    let rel = RelFork { tablespace, database, relation, fork: Fork::Vm };
    Ok(Some(MapChange { rel, heap_block, bits: VISIBLE | FROZEN, to_end: true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_postgresql_has_them() {
        let rel = RelFork { tablespace: 1, database: 2, relation: 3, fork: Fork::Vm };
        let mut page = [0xFF; 8192];
        let mut change =
            MapChange { rel, heap_block: HEAP_BLOCKS_PER_MAP_PAGE + 5, bits: 2, to_end: false };
        change.apply(&mut page);
        assert_eq!(change.key(), rel.key(1));
        assert_eq!((page[24], page[25], page[26]), (0xFF, 0b1111_0111, 0xFF));
        change.to_end = true;
        change.apply(&mut page);
        assert_eq!((page[24], page[25], page[26], page[8191]), (0xFF, 0b0000_0011, 0, 0));
        change.heap_block = HEAP_BLOCKS_PER_MAP_PAGE - 1;
        change.apply(&mut page);
        assert_eq!([0, 1, 32672, 32673].map(first_block_gone), [0, 1, 1, 2]);
    }
}
