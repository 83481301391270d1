//! Where a read takes its index pages and data blocks from: [`IndexPages`] and [`BlocksOf`], and
//! how each is done for mapped files and others.

use std::sync::Arc;

use super::{
    block_reader::{BlockSpan, MappedBlock},
    reader::{LayerFile, PartAt},
};
use crate::{
    Result,
    layer_file::{
        access::{
            layer_access::CachedBlock,
            residency::MappedFile,
            scratch::{ReadKind, ReadScratch},
            source::BlockBytes,
        },
        format::{
            block::{BlockType, Codec},
            chain::Part,
            index_page::Page,
        },
    },
};

/// Where the pages of an index come from.
pub(crate) trait IndexPages<'a> {
    type Page: IndexPage + Clone;

    /// Whether blocks are read from a file, so that their lengths must be known, and not mapped.
    const READS_BLOCKS: bool;

    /// The page of the index at `offset`, which has to be of this level.
    fn page(&mut self, offset: u64, level: u8) -> Result<Self::Page>;
}

/// A page of the index, wherever it is.
pub(crate) trait IndexPage {
    fn page(&self) -> Page<'_>;
}

/// Where the blocks of a read come from.
pub(crate) trait BlocksOf<'a>: IndexPages<'a> {
    /// Whether it may wait.
    fn kind(&self) -> ReadKind<'a>;

    /// The inflated payload of the data block at `span`.
    fn payload(&mut self, span: BlockSpan) -> Result<&'a [u8]>;

    /// A chain part.
    #[inline]
    fn part(&mut self, file: &LayerFile, at: &PartAt) -> Result<Part<'a>> {
        let payload = self.payload(at.span())?;
        file.part(at.place.block_offset(), payload, at.place, at.first_lsn)
    }
}

/// Index pages on demand, without updating statistics.
pub(crate) struct UncountedPages<'a, 's>(pub(crate) &'a LayerFile, pub(crate) ReadKind<'s>);

impl<'a> IndexPages<'a> for UncountedPages<'a, '_> {
    type Page = PageBytes<'a>;

    /// Nothing but the index.
    const READS_BLOCKS: bool = false;

    fn page(&mut self, offset: u64, level: u8) -> Result<PageBytes<'a>> {
        let UncountedPages(file, kind) = *self;
        let payload = file.raw_payload(offset, BlockType::Index, kind)?;
        file.index_page(offset, level, &payload)?;
        Ok(PageBytes(payload))
    }
}

/// Blocks of a mapped file, on demand.
pub(crate) struct MappedBlocks<'a, S> {
    pub(crate) file: &'a LayerFile,
    pub(crate) map: &'a MappedFile,
    pub(crate) scratch: &'a S,
}

impl<'a, S: ReadScratch> MappedBlocks<'a, S> {
    #[inline]
    fn block(&self, offset: u64, expected: BlockType) -> Result<MappedBlock<'a>> {
        let LayerFile { blocks, path, .. } = self.file;
        let block = blocks.mapped_block(self.map, offset, expected, path, self.scratch.kind())?;
        self.scratch.touched(block.stored.len(), 0);
        Ok(block)
    }
}

impl<'a, S: ReadScratch> IndexPages<'a> for MappedBlocks<'a, S> {
    type Page = Page<'a>;

    const READS_BLOCKS: bool = false;

    #[inline]
    fn page(&mut self, offset: u64, level: u8) -> Result<Page<'a>> {
        self.file.index_page(offset, level, self.block(offset, BlockType::Index)?.stored)
    }
}

impl<'a, S: ReadScratch> BlocksOf<'a> for MappedBlocks<'a, S> {
    #[inline]
    fn kind(&self) -> ReadKind<'a> {
        self.scratch.kind()
    }

    #[inline]
    fn payload(&mut self, span: BlockSpan) -> Result<&'a [u8]> {
        let MappedBlock { codec, raw_len, stored } = self.block(span.offset, BlockType::Data)?;
        match codec {
            Codec::Raw => Ok(stored),
            Codec::Zstd => self.file.inflated(stored, raw_len, span.offset, self.scratch),
        }
    }

    #[inline]
    fn part(&mut self, file: &LayerFile, at: &PartAt) -> Result<Part<'a>> {
        let offset = at.place.block_offset();
        let is_warm = matches!(self.scratch.kind(), ReadKind::Wait);
        if is_warm && let Some(rest) = file.blocks.verified_data(self.map, offset) {
            let part = file.part(offset, rest, at.place, at.first_lsn)?;
            self.scratch.touched(part.len(), 0);
            return Ok(part);
        }
        file.part(offset, self.payload(at.span())?, at.place, at.first_lsn)
    }
}

/// Blocks of any file, on demand.
pub(crate) struct FileBlocks<'a, S> {
    pub(crate) file: &'a LayerFile,
    pub(crate) scratch: &'a S,
}

impl<'a, S: ReadScratch> IndexPages<'a> for FileBlocks<'a, S> {
    type Page = PageBytes<'a>;

    const READS_BLOCKS: bool = true;

    fn page(&mut self, offset: u64, level: u8) -> Result<PageBytes<'a>> {
        let FileBlocks { file, scratch } = *self;
        let span = BlockSpan::from(offset);
        let block = file.blocks.block(span, BlockType::Index, &file.path, scratch.kind())?;
        scratch.touched(block.stored.len(), block.read_bytes);
        file.index_page(offset, level, &block.stored)?;
        Ok(PageBytes(block.stored))
    }
}

impl<'a, S: ReadScratch> FileBlocks<'a, S> {
    /// The inflated payload of a data block that was read for this.
    pub(crate) fn payload_of(&self, offset: u64, block: Arc<CachedBlock>) -> Result<&'a [u8]> {
        let FileBlocks { file, scratch } = *self;
        let block = file.blocks.of_cached(offset, BlockType::Data, block, &file.path)?;
        scratch.touched(block.stored.len(), block.read_bytes);
        file.lent(block, offset, scratch)
    }
}

impl<'a, S: ReadScratch> BlocksOf<'a> for FileBlocks<'a, S> {
    #[inline]
    fn kind(&self) -> ReadKind<'a> {
        self.scratch.kind()
    }

    #[inline]
    fn payload(&mut self, span: BlockSpan) -> Result<&'a [u8]> {
        let FileBlocks { file, scratch } = *self;
        let block = file.data_block(span, scratch.kind())?;
        scratch.touched(block.stored.len(), block.read_bytes);
        file.lent(block, span.offset, scratch)
    }
}

/// A page of the index that may be in a block of the cache, checked to be one.
#[derive(Clone, Debug)]
pub(crate) struct PageBytes<'a>(BlockBytes<'a>);

impl IndexPage for PageBytes<'_> {
    fn page(&self) -> Page<'_> {
        debug_assert!(!self.0.is_empty(), "a page was checked when it was read");
        Page::parse(&self.0).expect("it was one when it was lent")
    }
}

impl IndexPage for Page<'_> {
    #[inline]
    fn page(&self) -> Page<'_> {
        *self
    }
}

/// The last block of a leaf ends before the leaf, but with another block between them if it filled
/// the leaf. Up to this distance both are read, in bytes; a block whose leaf is farther away is
/// read as if its end were not known.
const LAST_SPAN_MAX: u64 = 64 << 10;

/// The data block that a row of the leaf at `leaf_offset` is in, with what the leaf says of its
/// end. The file has a leaf behind the blocks of its rows.
pub(crate) fn span_of_row(leaf: Page<'_>, row: usize, leaf_offset: u64) -> BlockSpan {
    let offset = leaf.pair(row).map_or(0, |(_, place)| place.block_offset());
    let end_max = match leaf.next_block_offset(row) {
        Some(next) => next,
        None if leaf_offset.saturating_sub(offset) <= LAST_SPAN_MAX => leaf_offset,
        None => 0,
    };
    BlockSpan { offset, end_max }
}
