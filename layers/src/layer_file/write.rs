//! Writing a layer file, in one pass, from versions in order.

pub(super) mod block_writer;
pub(super) mod index_builder;
pub(super) mod writer;
