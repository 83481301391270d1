//! Tombstones in a layer file: blocks of fixed size, so that one of them is found by its number.

use super::{
    block::extent,
    footer::{array, u64_at},
};
use crate::{Lsn, layer_file::Tombstone};

pub(crate) const TOMBSTONE_LEN: usize = 28;
pub(crate) const LSN: usize = 16;
pub(crate) const FIRST_BLOCK: usize = LSN + 8;
const _: () = assert!(FIRST_BLOCK + 4 == TOMBSTONE_LEN);

pub(crate) const TOMBSTONES_PER_BLOCK: usize = 1024;

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

/// Appends a row.
pub(crate) fn encode(tombstone: &Tombstone, payload: &mut Vec<u8>) {
    payload.extend_from_slice(&tombstone.object.to_le_bytes());
    payload.extend_from_slice(&tombstone.lsn.0.to_le_bytes());
    payload.extend_from_slice(&tombstone.first_block.to_le_bytes());
}

/// Reads a row.
pub(crate) fn decode(row: &[u8; TOMBSTONE_LEN]) -> Tombstone {
    Tombstone {
        object: u128::from_le_bytes(array(row, 0)),
        lsn: Lsn(u64_at(row, LSN)),
        first_block: u32::from_le_bytes(array(row, FIRST_BLOCK)),
    }
}
