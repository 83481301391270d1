//! The bytes of a layer file: its parts, encoded and decoded. Nothing here reads or writes a file.

pub(super) mod block;
pub(super) mod chain;
pub(super) mod footer;
pub(super) mod index_page;
