//! Tombstones in a layer file: blocks of fixed size, so that one of them is found by its number.

use std::ops::Range;

use crate::layer_file::{
    LayerFile, ReadKind, Tombstone,
    format::block::{BlockType, extent},
    format::footer::{array, u64_at},
    write::block_writer::{BLOCK_OVERHEAD_MAX, BlockSink},
};
use crate::{Error, Key, Lsn, Result};

const TOMBSTONE_LEN: usize = 28;
const LSN: usize = 16;
const FIRST_BLOCK: usize = LSN + 8;
const _: () = assert!(FIRST_BLOCK + 4 == TOMBSTONE_LEN);

const TOMBSTONES_PER_BLOCK: usize = 1024;

/// Writes the section; where it begins, or zero if there is none.
pub(crate) fn write(
    tombstones: &[Tombstone],
    lsn_range: &Range<Lsn>,
    sink: &mut BlockSink,
) -> Result<u64> {
    if let Some(pair) = tombstones.windows(2).find(|pair| pair[0] >= pair[1]) {
        let text = |tombstone: Tombstone| format!("{tombstone:?}");
        return Err(Error::OutOfOrder { previous: text(pair[0]), found: text(pair[1]) });
    }
    let inside = |tombstone: &Tombstone| lsn_range.contains(&tombstone.lsn);
    assert!(tombstones.iter().all(inside), "a tombstone is outside {lsn_range:?}");
    let offset = if tombstones.is_empty() { 0 } else { sink.block_offset() };
    for rows in tombstones.chunks(TOMBSTONES_PER_BLOCK) {
        sink.reserve(rows.len() * TOMBSTONE_LEN + BLOCK_OVERHEAD_MAX)?;
        let payload = sink.begin();
        for row in rows {
            payload.extend_from_slice(&row.object.to_le_bytes());
            payload.extend_from_slice(&row.lsn.0.to_le_bytes());
            payload.extend_from_slice(&row.first_block.to_le_bytes());
        }
        sink.end(BlockType::Tombstones)?;
    }
    Ok(offset)
}

/// Where the section of so many tombstones ends; none if nowhere.
pub(crate) fn section_end(offset: u64, count: u64) -> Option<u64> {
    let per_block = TOMBSTONES_PER_BLOCK as u64;
    let full = (count / per_block).checked_mul(extent(TOMBSTONES_PER_BLOCK * TOMBSTONE_LEN) as u64);
    let last = match (count % per_block) as usize {
        0 => 0,
        rows => extent(rows * TOMBSTONE_LEN) as u64,
    };
    offset.checked_add(full?)?.checked_add(last)
}

impl LayerFile {
    /// The tombstones, in order of object, Lsn, first block.
    pub fn tombstones(&self) -> Tombstones<'_> {
        Tombstones { file: self, rows: 0..self.summary().tombstones }
    }

    /// The newest tombstone at or below `lsn` that covers `key`.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]
    pub fn newest_tombstone(&self, key: Key, lsn: Lsn, kind: ReadKind<'_>) -> Result<Option<Lsn>> {
        let limit = Tombstone { object: key.object, lsn, first_block: u32::MAX };
        let (mut low, mut high) = (0, self.summary().tombstones);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.tombstone(middle, kind)? <= limit {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        while low > 0 {
            low -= 1;
            let tombstone = self.tombstone(low, kind)?;
            if tombstone.object != key.object {
                break;
            }
            if tombstone.covers(key) {
                return Ok(Some(tombstone.lsn));
            }
        }
        Ok(None)
    }

    fn tombstone(&self, index: u64, kind: ReadKind<'_>) -> Result<Tombstone> {
        let per_block = TOMBSTONES_PER_BLOCK as u64;
        let block_len = extent(TOMBSTONES_PER_BLOCK * TOMBSTONE_LEN) as u64;
        let offset = self.tombstones_offset() + index / per_block * block_len;
        let payload = self.raw_payload(offset, BlockType::Tombstones, kind)?;
        let (rows, rest) = payload.as_chunks::<TOMBSTONE_LEN>();
        match rows.get((index % per_block) as usize) {
            Some(row) if rest.is_empty() => Ok(Tombstone {
                object: u128::from_le_bytes(array(row, 0)),
                lsn: Lsn(u64_at(row, LSN)),
                first_block: u32::from_le_bytes(array(row, FIRST_BLOCK)),
            }),
            _ => Err(self.malformed(offset, "tombstone block")),
        }
    }
}

/// The tombstones of a layer file, as [`LayerFile::tombstones`] returns them. Ends after an error.
#[derive(Debug, Clone)]
pub struct Tombstones<'a> {
    file: &'a LayerFile,
    rows: Range<u64>,
}

impl Iterator for Tombstones<'_> {
    type Item = Result<Tombstone>;

    fn next(&mut self) -> Option<Result<Tombstone>> {
        let tombstone = self.file.tombstone(self.rows.next()?, ReadKind::Once);
        if tombstone.is_err() {
            self.rows.start = self.rows.end;
        }
        Some(tombstone)
    }
}
