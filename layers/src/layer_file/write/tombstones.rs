//! The section of tombstones of a layer file that is being written.

use std::ops::Range;

use super::block_writer::{BLOCK_OVERHEAD_MAX, BlockWriter};
use crate::{
    Error, Lsn, Result,
    layer_file::{
        Tombstone,
        format::{
            block::BlockType,
            tombstone_rows::{TOMBSTONE_LEN, TOMBSTONES_PER_BLOCK, encode},
        },
    },
};

/// Writes the section; where it begins, or zero if there is none.
pub(crate) fn write(
    tombstones: &[Tombstone],
    lsn_range: &Range<Lsn>,
    sink: &mut BlockWriter,
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
        debug_assert!(rows.len() <= TOMBSTONES_PER_BLOCK);
        for row in rows {
            encode(row, payload);
        }
        sink.end(BlockType::Tombstones)?;
    }
    Ok(offset)
}
