//! Tombstones in a layer file: blocks of fixed size, so that one of them is found by its number.

use std::ops::Range;

use super::reader::LayerFile;
use crate::{
    Key, Lsn, Result,
    layer_file::{
        Tombstone,
        access::scratch::ReadKind,
        format::{
            block::{BlockType, extent},
            tombstone_rows::{TOMBSTONE_LEN, TOMBSTONES_PER_BLOCK, decode},
        },
    },
};

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
            Some(row) if rest.is_empty() => Ok(decode(row)),
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
