//! Reading a layer file: an open file, and the ways to read it. Imports `access` and `format`.

pub(super) mod block_reader;
pub(super) mod filter;
pub(super) mod lookup;
pub(super) mod many;
pub(super) mod page_source;
pub(super) mod reader;
pub(super) mod scan;
pub(super) mod tombstones;
pub(super) mod verify;
