//! Writing a layer file, in one pass, from versions in order. Imports `format` only.

pub(super) mod block_writer;
pub(super) mod filter_builder;
pub(super) mod index_builder;
pub(super) mod tombstones;
pub(super) mod writer;
