//! Sizes and offsets that PostgreSQL 15 compiles in and that more than one room reads by.
//!
//! A page of a relation starts with this header (`storage/bufpage.h`):
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `pd_lsn`, upper half first |
//! | 8..10 | `pd_checksum` |
//! | 10..12 | `pd_flags`: 1 has free line pointers, 2 full, 4 all visible |
//! | 12..18 | `pd_lower`, `pd_upper`, `pd_special` |
//! | 18..20 | page size and version of the layout |
//! | 20..24 | `pd_prune_xid` |
//! | 24.. | line pointers, 4 bytes each: 15 bits offset, 2 bits state, 15 bits length |
//!
//! What only one room reads stands there: the header of a log page in `wal/pages.rs`, that of a
//! record in `wal/record.rs`, the control file in `backup/control_file.rs`, special spaces with
//! their access methods in `redo/`.
//!
//! **Invariant:** plain numbers. This file imports nothing of the crate.

use std::ops::Range;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 8192;

/// The bytes of a page.
pub type Page = [u8; PAGE_SIZE];

/// Bytes of a page's header.
pub(crate) const PAGE_HEADER_LEN: usize = 24;
pub(crate) const PD_CHECKSUM: Range<usize> = 8..10;
pub(crate) const PD_FLAGS: usize = 10;
pub(crate) const PD_LOWER: usize = 12;
/// End of the free space; 0 in a page that was never initialized.
pub(crate) const PD_UPPER: usize = 14;
pub(crate) const PD_SPECIAL: usize = 16;
pub(crate) const PD_PAGESIZE_VERSION: usize = 18;
pub(crate) const PD_PRUNE_XID: usize = 20;

/// Blocks of a relation's file before the next one starts: 1 GiB.
pub(crate) const SEGMENT_BLOCKS: u32 = 131_072;

/// Heap pages whose bits are on one page of a visibility map.
pub const HEAP_BLOCKS_PER_MAP_PAGE: u32 = 32672;

/// The first map page that goes when a relation is cut to `heap_blocks` blocks.
#[must_use]
pub const fn first_map_block_gone(heap_blocks: u32) -> u32 {
    heap_blocks.div_ceil(HEAP_BLOCKS_PER_MAP_PAGE)
}

/// Bytes of a log page.
pub(crate) const LOG_PAGE: u64 = 8192;

/// Whether a server makes log segments of this many bytes.
pub(crate) fn is_segment_size(size: u64) -> bool {
    size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size)
}

const _: () = {
    assert!(HEAP_BLOCKS_PER_MAP_PAGE as usize == (PAGE_SIZE - PAGE_HEADER_LEN) * 4);
    assert!(SEGMENT_BLOCKS as usize * PAGE_SIZE == 1 << 30);
    assert!(LOG_PAGE as usize == PAGE_SIZE);
};
