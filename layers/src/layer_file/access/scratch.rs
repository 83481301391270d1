//! What a read asks of its caller: scratch memory, and whether it may wait.

use std::sync::Arc;

use super::layer_access::{CachedBlock, FetchedBlocks};
#[cfg(doc)]
use crate::Error;
use crate::Result;

/// How far a read of a block may go.
#[derive(Clone, Copy, Debug)]
pub enum ReadKind<'s> {
    /// The block, whatever it takes.
    Wait,
    /// The block if it is in memory or among these, else [`Error::NotResident`].
    NoWait(&'s FetchedBlocks),
    /// The block, which is not likely to be read again soon: it is not put into a cache.
    Once,
}

/// Scratch memory that a read's caller provides.
pub trait ReadScratch {
    /// Whether it may wait for a device, and whether what it reads is worth keeping.
    fn kind(&self) -> ReadKind<'_>;

    /// Keeps a block of the cache, as long as the scratch is borrowed: what was read lies in it.
    fn keep(&self, block: Arc<CachedBlock>) -> &CachedBlock;

    /// Called for each block that a read touches, with the bytes that it looks at as they are
    /// stored (the whole payload, or one chain part where nothing else has to be touched) and the
    /// bytes read from the file.
    #[inline]
    fn touched(&self, stored_bytes: usize, read_bytes: usize) {
        let _ = (stored_bytes, read_bytes);
    }

    /// As [`ReadScratch::touched`], of several blocks that were in memory.
    #[inline]
    fn touched_blocks(&self, blocks: usize, stored_bytes: usize) {
        let _ = (blocks, stored_bytes);
    }

    /// `len` bytes of any content, valid as long as the scratch is borrowed.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when there is not as much.
    #[allow(clippy::mut_from_ref, reason = "a bump arena hands out disjoint memory")]
    fn space(&self, len: usize) -> Result<&mut [u8]>;
}
