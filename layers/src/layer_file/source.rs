//! Where a reader's blocks come from, and which of them it has verified.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    LayerId,
    block::{
        BLOCK_EXTENT_MIN, BLOCK_HEADER_LEN, BlockHeader, BlockSeal, BlockType, Codec, RAW_LEN_MAX,
    },
    format::{FOOTER_LEN, HEADER_LEN, array},
};
use crate::{Error, Result, storage::FileMap};

/// How the bytes of a file are reached. Positional reads and direct I/O can join.
#[derive(Debug)]
pub(super) enum BlockSource {
    /// The whole file is mapped.
    Mapped(FileMap),
}

impl BlockSource {
    pub(super) fn len(&self) -> u64 {
        match self {
            BlockSource::Mapped(map) => map.bytes().len() as u64,
        }
    }

    /// Whether these bytes are the source's own: borrowed from it, not inflated elsewhere.
    pub(super) fn lends(&self, bytes: &[u8]) -> bool {
        match self {
            BlockSource::Mapped(map) => {
                let (own, asked) = (map.bytes().as_ptr_range(), bytes.as_ptr_range());
                own.start <= asked.start && asked.end <= own.end
            }
        }
    }

    /// Everything from `offset` on.
    #[inline]
    fn tail(&self, offset: u64) -> Option<&[u8]> {
        match self {
            BlockSource::Mapped(map) => map.bytes().get(usize::try_from(offset).ok()?..),
        }
    }

    pub(super) fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.tail(offset)?.get(..len)
    }
}

/// A verified block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) offset: u64,
    pub(super) codec: Codec,
    /// Length of the payload when inflated, below the cap.
    pub(super) raw_len: usize,
    /// The payload as stored; of `raw_len` if the codec is [`Codec::Raw`].
    pub(super) stored: &'a [u8],
}

/// The blocks of one file. A block is verified when it is touched for the first time.
///
/// **Threads:** any number of them; the only thing that changes is `verified`. Its bits need no order: the bytes they
/// speak of never change, and who misses one verifies again.
#[derive(Debug)]
pub(super) struct Blocks {
    source: BlockSource,
    seal: BlockSeal,
    /// A bit for each 512 bytes of the file: the block that starts there is sound. No two blocks start in the same.
    verified: Box<[AtomicU64]>,
}

impl Blocks {
    pub(super) fn lends(&self, bytes: &[u8]) -> bool {
        self.source.lends(bytes)
    }

    pub(super) fn new(source: BlockSource, id: LayerId) -> Blocks {
        let bits = source.len().div_ceil(BLOCK_EXTENT_MIN as u64);
        let words = bits.div_ceil(u64::from(u64::BITS));
        Blocks {
            source,
            seal: BlockSeal::new(id),
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn source(&self) -> &BlockSource {
        &self.source
    }

    /// Memory beside the mapping, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.verified)
    }

    /// Where the footer is.
    pub(super) fn end(&self) -> u64 {
        self.source.len().saturating_sub(FOOTER_LEN as u64)
    }

    /// The header and all bytes of the block at `offset`, verified or not.
    fn extent(&self, offset: u64) -> Option<(BlockHeader, &[u8])> {
        if offset < HEADER_LEN as u64 {
            return None;
        }
        let header = BlockHeader::parse(&array(self.source.bytes(offset, BLOCK_HEADER_LEN)?, 0));
        let extent = header.extent();
        if offset.checked_add(extent as u64)? > self.end() {
            return None;
        }
        Some((header, self.source.bytes(offset, extent)?))
    }

    /// The block at `offset`.
    #[inline]
    pub(super) fn block(&self, offset: u64, expected: BlockType, path: &Path) -> Result<Block<'_>> {
        let granule = offset / BLOCK_EXTENT_MIN as u64;
        let bit = 1 << (granule % u64::from(u64::BITS));
        let word = self.verified.get((granule / u64::from(u64::BITS)) as usize);
        if word.is_none_or(|word| word.load(Relaxed) & bit == 0) {
            self.verify(offset, expected.name(), path)?;
            if let Some(word) = word {
                word.fetch_or(bit, Relaxed);
            }
        }
        self.parse(offset, expected).ok_or_else(|| self.unsound(offset, expected, path))
    }

    /// A block that was verified, if it is one of this type that makes sense.
    #[inline]
    fn parse(&self, offset: u64, expected: BlockType) -> Option<Block<'_>> {
        let (header, rest) = self.source.tail(offset)?.split_first_chunk()?;
        let header = BlockHeader::parse(header);
        let (raw_len, stored_len) = (header.raw_len as usize, header.stored_len as usize);
        let stored = rest.get(..stored_len)?;
        let codec = Codec::from_byte(header.codec)?;
        let sound = match codec {
            Codec::Raw => raw_len == stored_len,
            Codec::Zstd => expected == BlockType::Data && stored_len < raw_len,
        };
        let sound = sound && header.block_type == expected as u8 && raw_len <= RAW_LEN_MAX;
        if !sound {
            return None;
        }
        Some(Block { offset, codec, raw_len, stored })
    }

    #[cold]
    fn unsound(&self, offset: u64, expected: BlockType, path: &Path) -> Error {
        match self.extent(offset) {
            Some((header, _)) => Error::corrupt(
                path,
                offset,
                expected.name(),
                "a sound header",
                format_args!("{header:?}"),
            ),
            None => Error::corrupt(path, offset, expected.name(), "a block in the file", "none"),
        }
    }

    /// The checksum of the block at `offset`, whatever is remembered of it; its type and where it ends.
    pub(super) fn verify_again(&self, offset: u64, path: &Path) -> Result<(BlockType, u64)> {
        let (header, len) = self.verify(offset, "block", path)?;
        match BlockType::from_byte(header.block_type) {
            Some(block_type) => Ok((block_type, offset + len as u64)),
            None => {
                Err(Error::corrupt(path, offset, "block", "a type from 1 to 3", header.block_type))
            }
        }
    }

    /// The header of the block at `offset` and how much the block occupies, if its checksum is right.
    #[cold]
    fn verify(&self, offset: u64, what: &'static str, path: &Path) -> Result<(BlockHeader, usize)> {
        let Some((header, bytes)) = self.extent(offset) else {
            return Err(Error::corrupt(path, offset, what, "a block in the file", "none"));
        };
        match self.seal.mismatch(offset, bytes) {
            None => Ok((header, bytes.len())),
            Some((stored, computed)) => {
                let expected = format_args!("checksum {stored:08X}");
                let found = format_args!("{computed:08X}");
                Err(Error::corrupt(path, offset, what, expected, found))
            }
        }
    }
}
