//! [`BlockWriter`]: where a writer's blocks go. It seals them, digests them and appends them to the
//! file in large pieces.

use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::{
    Error, Result,
    layer_file::format::{
        block::{
            BLOCK_ALIGN, BLOCK_EXTENT_MIN, BLOCK_HEADER_LEN, BlockHeader, BlockSeal, BlockType,
            Codec, RAW_LEN_MAX, extent,
        },
        footer::{FOOTER_LEN, HEADER_LEN},
    },
    reserve,
    storage::File,
};

/// As soon as so much is complete it is appended to the file.
const APPEND_LEN: usize = 256 << 10;
/// As soon as so much was appended the device begins to write it: a sync of the whole file at its
/// end would keep the device busy for long, and with it the log, whose segments are made and synced
/// meanwhile.
const WRITE_BACK_LEN: u64 = 4 << 20;
/// More than this is given back after an unusually large block.
const CAPACITY_MAX: usize = 2 << 20;

/// What memory is for.
const BLOCKS: &str = "blocks of a layer file";
/// What a block has beside its payload, at most: its header, and zeros up to the next block.
pub(crate) const BLOCK_OVERHEAD_MAX: usize = BLOCK_HEADER_LEN + BLOCK_EXTENT_MIN;

/// The file behind a writer.
///
/// Complete blocks and the one being filled share one buffer, so a value is copied once before the
/// operating system copies it again.
pub(crate) struct BlockWriter {
    file: Box<dyn File>,
    seal: BlockSeal,
    digest: Box<Xxh3>,
    /// What is not appended yet: complete blocks, then the block that is being filled, if any.
    buffer: Vec<u8>,
    /// Where in the buffer the block that is being filled begins.
    block_start: usize,
    appended_len: u64,
    /// Up to here the device has been asked to write.
    written_back_len: u64,
    blocks: u64,
    /// An append failed: what the file holds is unknown.
    failed: bool,
}

impl BlockWriter {
    /// # Errors
    /// [`Error::OutOfMemory`]
    pub(crate) fn new(
        file: Box<dyn File>,
        seal: BlockSeal,
        header: &[u8; HEADER_LEN],
    ) -> Result<BlockWriter> {
        let mut buffer = Vec::new();
        reserve(&mut buffer, APPEND_LEN * 5 / 4, BLOCKS)?;
        buffer.extend_from_slice(header);
        let digest = Box::new(Xxh3::new());
        Ok(BlockWriter {
            file,
            seal,
            digest,
            buffer,
            block_start: HEADER_LEN,
            appended_len: 0,
            written_back_len: 0,
            blocks: 0,
            failed: false,
        })
    }

    /// Makes room for so many bytes of blocks, headers and padding included: what is added within
    /// them allocates nothing.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; what was added before is as it was.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<()> {
        reserve(&mut self.buffer, len, BLOCKS)
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Where in the file the next block, or the one that is being filled, begins.
    pub(crate) fn block_offset(&self) -> u64 {
        self.appended_len + self.block_start as u64
    }

    /// Begins a block; its payload is appended to the returned buffer.
    pub(crate) fn begin(&mut self) -> &mut Vec<u8> {
        debug_assert_eq!(self.buffer.len(), self.block_start);
        self.buffer.extend_from_slice(&[0; BLOCK_HEADER_LEN]);
        &mut self.buffer
    }

    /// The buffer with the block that is being filled at its end.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Where in the buffer the payload of the block that is being filled begins.
    pub(crate) fn payload_start(&self) -> usize {
        self.block_start + BLOCK_HEADER_LEN
    }

    /// The payload so far.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.buffer[self.payload_start()..]
    }

    /// Completes the block with its payload as it is.
    pub(crate) fn end(&mut self, block_type: BlockType) -> Result<()> {
        let raw_len = self.payload().len();
        self.end_as(block_type, Codec::Raw, raw_len)
    }

    /// Completes the block with another form of its payload.
    pub(crate) fn end_compressed(&mut self, stored: &[u8]) -> Result<()> {
        let raw_len = self.payload().len();
        debug_assert!(stored.len() < raw_len, "compression makes a block smaller");
        let payload_start = self.payload_start();
        self.buffer.truncate(payload_start);
        self.buffer.extend_from_slice(stored);
        self.end_as(BlockType::Data, Codec::Zstd, raw_len)
    }

    fn end_as(&mut self, block_type: BlockType, codec: Codec, raw_len: usize) -> Result<()> {
        let stored_len = self.payload().len();
        assert!(raw_len <= RAW_LEN_MAX && stored_len <= raw_len, "{stored_len} of {raw_len} bytes");
        let header = BlockHeader {
            block_type: block_type as u8,
            codec: codec as u8,
            raw_len: u32::try_from(raw_len).expect("a block below its cap"),
            stored_len: u32::try_from(stored_len).expect("a block below its cap"),
        };
        self.buffer.resize(self.block_start + extent(stored_len), 0);
        let offset = self.block_offset();
        self.seal.seal(offset, header, &mut self.buffer[self.block_start..]);
        self.block_start = self.buffer.len();
        debug_assert!(self.block_offset().is_multiple_of(BLOCK_ALIGN as u64), "blocks are aligned");
        self.blocks += 1;
        if self.buffer.len() >= APPEND_LEN { self.append() } else { Ok(()) }
    }

    fn append(&mut self) -> Result<()> {
        if self.failed {
            let source = std::io::Error::other("an append failed before");
            return Err(Error::io("append to", self.path(), source));
        }
        assert_eq!(self.block_start, self.buffer.len(), "no block is being filled");
        verify!(
            self.file.len().map_or(true, |len| len == self.appended_len),
            "an append starts where the last one ended"
        );
        self.digest.update(&self.buffer);
        let appended = self.file.append(&self.buffer).and_then(|()| {
            self.appended_len += self.buffer.len() as u64;
            let begun = self.written_back_len;
            if self.appended_len - begun < WRITE_BACK_LEN {
                return Ok(());
            }
            self.written_back_len = self.appended_len;
            self.file.write_back(begun, self.appended_len - begun)
        });
        if let Err(error) = appended {
            self.failed = true;
            return Err(error);
        }
        self.buffer.clear();
        if self.buffer.capacity() > CAPACITY_MAX {
            // Not shrunk in place, which may not fail.
            self.buffer = Vec::new();
        }
        self.block_start = 0;
        Ok(())
    }

    /// Appends what is left; the digest and the length of all so far.
    pub(crate) fn digest(&mut self) -> Result<(u128, u64)> {
        self.append()?;
        Ok((self.digest.digest128(), self.appended_len))
    }

    /// Appends the footer and syncs the file.
    pub(crate) fn finish(mut self, footer: &[u8; FOOTER_LEN]) -> Result<()> {
        assert!(self.buffer.is_empty() && !self.failed, "the footer comes last");
        self.file.append(footer)?;
        if cfg!(planted_bug = "no_sync_before_rename") {
            return Ok(());
        }
        self.file.sync()
    }
}

/// Without the bytes in the buffer.
impl std::fmt::Debug for BlockWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockWriter")
            .field("path", &self.path())
            .field("appended_len", &self.appended_len)
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}
