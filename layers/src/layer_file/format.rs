//! The bytes of a layer file: its parts, encoded and decoded. Nothing here opens, reads or writes
//! a file, and nothing here imports another room.

pub(super) mod block;
pub(super) mod chain;
pub(super) mod filter_lines;
pub(super) mod footer;
pub(super) mod index_page;
pub(super) mod tombstone_rows;
