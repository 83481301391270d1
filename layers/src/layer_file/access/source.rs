//! [`BlockSource`]: the bytes of one file, mapped or read into the cache.

use std::{
    ops::{Deref, Range},
    sync::Arc,
};

use super::{
    layer_access::{CachedBlock, CachedFile, CountedMap},
    scratch::ReadScratch,
};
use crate::Result;

/// How the bytes of a file are reached.
#[derive(Debug)]
pub(crate) enum BlockSource {
    /// The whole file is mapped.
    Mapped(CountedMap),
    /// Positional reads into a cache.
    Cached(CachedFile),
}

/// Bytes of a block: borrowed from a mapping, or from a cached block that this keeps alive.
#[derive(Clone, Debug)]
pub(crate) enum BlockBytes<'a> {
    Mapped(&'a [u8]),
    Kept(Arc<CachedBlock>, Range<usize>),
}

impl Deref for BlockBytes<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            BlockBytes::Mapped(bytes) => bytes,
            BlockBytes::Kept(block, range) => &block.bytes()[range.clone()],
        }
    }
}

impl<'a> BlockBytes<'a> {
    /// For as long as the reader's scratch lives.
    #[inline]
    pub(crate) fn keep(self, scratch: &'a impl ReadScratch) -> &'a [u8] {
        match self {
            BlockBytes::Mapped(bytes) => bytes,
            BlockBytes::Kept(block, range) => &scratch.keep(block).bytes()[range],
        }
    }
}

impl BlockSource {
    pub(crate) fn len(&self) -> u64 {
        match self {
            BlockSource::Mapped(file) => file.bytes().len() as u64,
            BlockSource::Cached(file) => file.len(),
        }
    }

    /// Whether these bytes are the source's own: borrowed from it, neither inflated nor cached
    /// elsewhere.
    pub(crate) fn lends(&self, bytes: &[u8]) -> bool {
        match self {
            BlockSource::Mapped(file) => {
                let (own, query) = (file.bytes().as_ptr_range(), bytes.as_ptr_range());
                own.start <= query.start && query.end <= own.end
            }
            BlockSource::Cached(_) => false,
        }
    }

    /// Bytes that need not be those of a block, for the parts of a file that are no blocks.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Result<Option<BlockBytes<'_>>> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len()) {
            return Ok(None);
        }
        Ok(match self {
            BlockSource::Mapped(file) => {
                file.bytes()[offset as usize..].get(..len).map(BlockBytes::Mapped)
            }
            BlockSource::Cached(file) => {
                Some(BlockBytes::Kept(Arc::new(file.read(offset, len)?), 0..len))
            }
        })
    }
}
