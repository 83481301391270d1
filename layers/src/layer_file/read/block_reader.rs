//! Where a reader's blocks come from, and which of them it has verified.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    Error, Result,
    layer_file::{
        LayerId,
        access::{
            ahead::ReadAhead,
            layer_access::{CachedBlock, CachedFile, FetchedBlocks},
            residency::MappedFile,
            scratch::ReadKind,
            source::{BlockBytes, BlockSource},
        },
        format::{
            block::{
                BLOCK_EXTENT_MIN, BLOCK_HEADER_LEN, BlockHeader, BlockSeal, BlockType, Codec,
                DATA_GUESS, RAW_LEN_MAX,
            },
            footer::{FOOTER_LEN, HEADER_LEN, array},
        },
    },
    reserve,
};

/// Length of the read of a block of this type of which nothing else is known.
fn guess_of(block_type: BlockType) -> usize {
    match block_type {
        BlockType::Data => DATA_GUESS,
        BlockType::Index => 4 << 10,
        BlockType::Tombstones => 32 << 10,
        BlockType::Filter => 24 << 10,
        BlockType::FilterTable => 4 << 10,
    }
}

/// Where a block is, before any of it has been read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct BlockSpan {
    pub(crate) offset: u64,
    /// The block ends here or before: what the index says, unchecked. Zero where nothing is known.
    pub(crate) end_max: u64,
}

impl BlockSpan {
    /// A block of which nothing is known but where it begins.
    pub(crate) fn from(offset: u64) -> BlockSpan {
        BlockSpan { offset, end_max: 0 }
    }

    /// The length that holds all of the block, if one is known that a block can have.
    fn len_max(self) -> Option<usize> {
        let len = usize::try_from(self.end_max.checked_sub(self.offset)?).ok()?;
        (BLOCK_EXTENT_MIN..=RAW_LEN_MAX + BLOCK_EXTENT_MIN).contains(&len).then_some(len)
    }

    /// Length of the read that gets the block, if one read can.
    fn read_len(self, expected: Option<BlockType>) -> usize {
        self.len_max().unwrap_or_else(|| expected.map_or(DATA_GUESS, guess_of))
    }
}

/// A verified block.
#[derive(Clone, Debug)]
pub(crate) struct Block<'a> {
    pub(crate) codec: Codec,
    /// Length of the payload when inflated, below the cap.
    pub(crate) raw_len: usize,
    /// The payload as stored; of `raw_len` if the codec is [`Codec::Raw`].
    pub(crate) stored: BlockBytes<'a>,
    /// What was read from the file for it: nothing of one that is mapped or was in the cache.
    pub(crate) read_bytes: usize,
}

/// A verified block of a file that is mapped: as [`Block`], without what costs a warm read time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MappedBlock<'a> {
    pub(crate) codec: Codec,
    pub(crate) raw_len: usize,
    pub(crate) stored: &'a [u8],
}

/// The blocks of one file. A block is verified when it is touched for the first time, or each time
/// it is read into the cache.
///
/// **Threads:** any number of them; the only thing that changes is `verified`. Its bits need no
/// order: the bytes they speak of never change, and a reader that misses one verifies again.
#[derive(Debug)]
pub(crate) struct Blocks {
    source: BlockSource,
    seal: BlockSeal,
    /// Two bits for each 512 bytes of a mapped file: the block that starts there is sound
    /// ([`VERIFIED`]), and it is a data block that is not compressed ([`RAW_DATA`]). No two blocks
    /// start in the same 512 bytes.
    verified: Box<[AtomicU64]>,
}

impl Blocks {
    pub(crate) fn lends(&self, bytes: &[u8]) -> bool {
        self.source.lends(bytes)
    }

    /// # Errors
    /// [`Error::OutOfMemory`]
    pub(crate) fn new(source: BlockSource, id: LayerId) -> Result<Blocks> {
        let words = match &source {
            BlockSource::Mapped(_) => {
                let granules = source.len().div_ceil(BLOCK_EXTENT_MIN as u64);
                granules.div_ceil(GRANULES_PER_WORD)
            }
            BlockSource::Cached(_) => 0,
        };
        let mut verified = Vec::new();
        reserve(&mut verified, words as usize, "marks of verified blocks")?;
        verified.extend((0..words).map(|_| AtomicU64::new(0)));
        debug_assert!(
            verified.len() as u64 * GRANULES_PER_WORD * BLOCK_EXTENT_MIN as u64 >= source.len()
                || words == 0
        );
        let verified = verified.into_boxed_slice();
        Ok(Blocks { source, seal: BlockSeal::new(id), verified })
    }

    pub(crate) fn source(&self) -> &BlockSource {
        &self.source
    }

    /// Memory beside mapping and cache, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let own = match &self.source {
            BlockSource::Mapped(file) => file.heap_bytes(),
            BlockSource::Cached(file) => file.heap_bytes(),
        };
        size_of_val(&*self.verified) + own
    }

    /// Where the footer is.
    pub(crate) fn end(&self) -> u64 {
        self.source.len().saturating_sub(FOOTER_LEN as u64)
    }

    /// The file, if it is mapped.
    #[inline]
    pub(crate) fn mapped(&self) -> Option<&MappedFile> {
        match &self.source {
            BlockSource::Mapped(file) => Some(file),
            BlockSource::Cached(_) => None,
        }
    }

    /// The block at `span`.
    pub(crate) fn block(
        &self,
        span: BlockSpan,
        expected: BlockType,
        path: &Path,
        kind: ReadKind<'_>,
    ) -> Result<Block<'_>> {
        match &self.source {
            BlockSource::Mapped(file) => {
                let MappedBlock { codec, raw_len, stored } =
                    self.mapped_block(file, span.offset, expected, path, kind)?;
                Ok(Block { codec, raw_len, stored: BlockBytes::Mapped(stored), read_bytes: 0 })
            }
            BlockSource::Cached(file) => {
                let (block, read_bytes) = self.cached(file, span, Some(expected), path, kind)?;
                let block = self.of_cached(span.offset, expected, block, path)?;
                Ok(Block { read_bytes, ..block })
            }
        }
    }

    /// The block at `offset` of a file that is mapped.
    #[inline]
    pub(crate) fn mapped_block<'a>(
        &self,
        file: &'a MappedFile,
        offset: u64,
        expected: BlockType,
        path: &Path,
        kind: ReadKind<'_>,
    ) -> Result<MappedBlock<'a>> {
        if let ReadKind::NoWait(_) = kind {
            self.check_resident(file, offset, expected)?;
        }
        let marks = marks_of(offset);
        let word = self.verified.get(marks.word);
        if word.is_none_or(|word| !marks.are_in(word, VERIFIED)) {
            let (header, _) = self.verify_mapped(file, offset, expected.name(), path)?;
            if let Some(word) = word {
                let is_raw_data =
                    (header.block_type, header.codec) == (BlockType::Data as u8, Codec::Raw as u8);
                let bits = if is_raw_data { VERIFIED | RAW_DATA } else { VERIFIED };
                word.fetch_or(bits << marks.shift, Relaxed);
            }
        }
        let bytes = usize::try_from(offset).ok().and_then(|at| file.bytes().get(at..));
        let block = bytes.and_then(|bytes| {
            let (codec, raw_len, range) = parse(bytes, expected)?;
            Some(MappedBlock { codec, raw_len, stored: bytes.get(range)? })
        });
        match block {
            Some(block) => Ok(block),
            None => Err(self.unsound(offset, expected, path)),
        }
    }

    /// The payload of a block that is not compressed, if it was verified before, and so is most
    /// likely in memory.
    #[inline]
    pub(crate) fn verified_payload<'a>(
        &self,
        file: &'a MappedFile,
        offset: u64,
        expected: BlockType,
    ) -> Option<&'a [u8]> {
        let marks = marks_of(offset);
        if !marks.are_in(self.verified.get(marks.word)?, VERIFIED) {
            return None;
        }
        let bytes = file.bytes().get(usize::try_from(offset).ok()?..)?;
        match parse(bytes, expected)? {
            (Codec::Raw, _, range) => bytes.get(range),
            (Codec::Zstd, ..) => None,
        }
    }

    /// The payload of a data block that is not compressed, if it was verified before, with all that
    /// follows it in the file: the block's header, which is mostly on another page of memory than
    /// what is read, is not touched.
    #[inline]
    pub(crate) fn verified_data<'a>(&self, file: &'a MappedFile, offset: u64) -> Option<&'a [u8]> {
        let marks = marks_of(offset);
        if !marks.are_in(self.verified.get(marks.word)?, VERIFIED | RAW_DATA) {
            return None;
        }
        file.bytes().get(usize::try_from(offset).ok()?.checked_add(BLOCK_HEADER_LEN)?..)
    }

    /// That the block at `offset` can be touched without waiting for a device.
    fn check_resident(&self, file: &MappedFile, offset: u64, expected: BlockType) -> Result<()> {
        let check = |len: usize| match file.is_resident(offset, len) {
            true => Ok(()),
            false => Err(Error::NotResident { offset, len }),
        };
        // What is not in the file at all, or no block, is told by the verification.
        if offset >= self.source.len() {
            return Ok(());
        }
        check(BLOCK_HEADER_LEN)
            .map_err(|_| self.not_resident(BlockSpan::from(offset), Some(expected)))?;
        match extent_in(file.bytes(), offset, self.end()) {
            Some((_, bytes)) => check(bytes.len()),
            None => Ok(()),
        }
    }

    /// That the block at `span` is not in memory; with the length that is worth reading.
    fn not_resident(&self, span: BlockSpan, expected: Option<BlockType>) -> Error {
        let BlockSpan { offset, .. } = span;
        let len = self.source.len().saturating_sub(offset).min(span.read_len(expected) as u64);
        Error::NotResident { offset, len: len as usize }
    }

    /// The verified bytes of the block at `span`, with its header, and how many were read for it.
    fn cached(
        &self,
        file: &CachedFile,
        span: BlockSpan,
        expected: Option<BlockType>,
        path: &Path,
        kind: ReadKind<'_>,
    ) -> Result<(Arc<CachedBlock>, usize)> {
        let (mut read_bytes, offset) = (0, span.offset);
        let load = || {
            let block = self.load(file, span, expected, path)?;
            read_bytes = block.bytes().len();
            Ok(Arc::new(block))
        };
        let block = match kind {
            ReadKind::Wait => file.get_or_load(offset, load),
            ReadKind::NoWait(fetched) => match fetched.get(file, offset) {
                Some(block) => {
                    read_bytes = block.bytes().len();
                    Ok(block)
                }
                None => file.get(offset).ok_or_else(|| self.not_resident(span, expected)),
            },
            ReadKind::Once => file.get(offset).map_or_else(load, Ok),
        }?;
        Ok((block, read_bytes))
    }

    /// Reads the block at `span` and verifies it: with one read where its end is known, else with a
    /// second one if it is longer than most.
    fn load(
        &self,
        file: &CachedFile,
        span: BlockSpan,
        expected: Option<BlockType>,
        path: &Path,
    ) -> Result<CachedBlock> {
        let BlockSpan { offset, .. } = span;
        let what = expected.map_or("block", BlockType::name);
        let none = || Error::corrupt(path, offset, what, "a block in the file", "none");
        let room = self.end().checked_sub(offset).filter(|_| offset >= HEADER_LEN as u64);
        let room = room.filter(|&room| room >= BLOCK_EXTENT_MIN as u64).ok_or_else(none)?;
        let mut block = file.read(offset, span.read_len(expected).min(room as usize))?;
        let header = BlockHeader::parse(&array(block.bytes(), 0));
        let extent = header.extent();
        if extent as u64 > room {
            return Err(none());
        }
        if extent > RAW_LEN_MAX + BLOCK_EXTENT_MIN {
            // Nothing is believed of it, its length neither.
            let found = format_args!("{header:?}");
            return Err(Error::corrupt(path, offset, what, "a sound header", found));
        }
        if block.bytes().len() < extent {
            block = file.read(offset, extent)?;
        }
        let block = file.fitted(block, extent)?;
        match self.seal.mismatch(offset, block.bytes()) {
            None => Ok(block),
            Some(crcs) => Err(wrong_checksum(crcs, offset, what, path)),
        }
    }

    /// Called before the block at `offset` is read by a scan of the whole file.
    pub(crate) fn read_ahead<'a>(&'a self, offset: u64, ahead: &mut ReadAhead<'a>) {
        if let BlockSource::Mapped(file) = &self.source {
            ahead.go_to(file, offset);
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn evict(&self, path: &Path) -> std::io::Result<()> {
        match &self.source {
            BlockSource::Mapped(file) => file.map().evict(path, 0, file.bytes().len()),
            BlockSource::Cached(file) => {
                let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
                crate::storage::evict(path, 0, len)
            }
        }
    }

    /// A block of this file that was read before.
    pub(crate) fn of_cached(
        &self,
        offset: u64,
        expected: BlockType,
        block: Arc<CachedBlock>,
        path: &Path,
    ) -> Result<Block<'_>> {
        let (read_bytes, parsed) = (block.bytes().len(), parse(block.bytes(), expected));
        let (codec, raw_len, range) = parsed.ok_or_else(|| self.unsound(offset, expected, path))?;
        Ok(Block { codec, raw_len, stored: BlockBytes::Kept(block, range), read_bytes })
    }

    /// Called before these data blocks, in order, are needed. Of a mapped file it has the system
    /// read those that are not in memory. Of others it reads those that are not in the cache, with
    /// one read where they lie together, and returns them. A block that cannot be read so is left
    /// out: the read that needs it will return the error.
    pub(crate) fn read_together(&self, spans: &[BlockSpan]) -> Vec<(u64, Arc<CachedBlock>)> {
        debug_assert!(spans.is_sorted_by(|left, right| left.offset < right.offset));
        let mut read = Vec::new();
        match &self.source {
            BlockSource::Mapped(file) => {
                for run in runs(spans) {
                    let (start, len) = self.bytes_of(run);
                    if !file.is_resident(start, len) {
                        file.map().read_ahead(start, len);
                    }
                }
            }
            BlockSource::Cached(file) => {
                let is_missing = |span: &BlockSpan| file.get(span.offset).is_none();
                let missing: Vec<BlockSpan> = spans.iter().copied().filter(is_missing).collect();
                for run in runs(&missing).filter(|run| run.len() > 1) {
                    let (start, len) = self.bytes_of(run);
                    let Ok(bytes) = file.read(start, len) else { continue };
                    read.extend(run.iter().filter_map(|&BlockSpan { offset, .. }| {
                        let bytes = bytes.bytes().get((offset - start) as usize..)?;
                        let header = BlockHeader::parse(bytes.first_chunk()?);
                        let bytes = bytes.get(..header.extent())?;
                        if self.seal.mismatch(offset, bytes).is_some() {
                            return None;
                        }
                        let block = Arc::new(file.copied(bytes).ok()?);
                        file.put(offset, block.clone());
                        Some((offset, block))
                    }));
                }
            }
        }
        read
    }

    /// Where the blocks of a run begin, and how many bytes they have at the most, as far as is
    /// known.
    fn bytes_of(&self, run: &[BlockSpan]) -> (u64, usize) {
        debug_assert!(run[0] <= run[run.len() - 1], "blocks of a run are in order");
        let (start, last) = (run[0].offset, run[run.len() - 1]);
        let last_len = last.read_len(Some(BlockType::Data)) as u64;
        let end = last.offset.saturating_add(last_len).min(self.source.len());
        (start, end.saturating_sub(start) as usize)
    }

    /// Waits until bytes that [`Error::NotResident`] has named are in memory. A block of a file
    /// that is not mapped is put among `into` too, so that the retried read finds it even if the
    /// cache has dropped it.
    pub(crate) fn fetch(
        &self,
        offset: u64,
        len: usize,
        into: &FetchedBlocks,
        path: &Path,
    ) -> Result<()> {
        match &self.source {
            BlockSource::Mapped(file) => {
                file.populate(offset, len).map_err(|error| Error::io("read", path, error))
            }
            BlockSource::Cached(file) => {
                let span = BlockSpan { offset, end_max: offset.saturating_add(len as u64) };
                let (block, _) = self.cached(file, span, None, path, ReadKind::Wait)?;
                into.put(file, offset, block);
                Ok(())
            }
        }
    }

    #[cold]
    fn unsound(&self, offset: u64, expected: BlockType, path: &Path) -> Error {
        let header = self.source.bytes(offset, BLOCK_HEADER_LEN);
        match header {
            Ok(Some(bytes)) => {
                let header = BlockHeader::parse(&array(&bytes, 0));
                let found = format_args!("{header:?}");
                Error::corrupt(path, offset, expected.name(), "a sound header", found)
            }
            Ok(None) => {
                Error::corrupt(path, offset, expected.name(), "a block in the file", "none")
            }
            Err(error) => error,
        }
    }

    /// The checksum of the block at `offset`, whatever is remembered of it; its type and where it
    /// ends.
    pub(crate) fn verify_again(&self, offset: u64, path: &Path) -> Result<(BlockType, u64)> {
        let (header, len) = match &self.source {
            BlockSource::Mapped(file) => self.verify_mapped(file, offset, "block", path)?,
            BlockSource::Cached(file) => {
                let block = self.load(file, BlockSpan::from(offset), None, path)?;
                (BlockHeader::parse(&array(block.bytes(), 0)), block.bytes().len())
            }
        };
        match BlockType::from_byte(header.block_type) {
            Some(block_type) => Ok((block_type, offset + len as u64)),
            None => {
                Err(Error::corrupt(path, offset, "block", "a type from 1 to 5", header.block_type))
            }
        }
    }

    /// The header of the block at `offset` and how much the block occupies, if its checksum is
    /// right.
    #[cold]
    fn verify_mapped(
        &self,
        file: &MappedFile,
        offset: u64,
        what: &'static str,
        path: &Path,
    ) -> Result<(BlockHeader, usize)> {
        let Some((header, bytes)) = extent_in(file.bytes(), offset, self.end()) else {
            return Err(Error::corrupt(path, offset, what, "a block in the file", "none"));
        };
        match self.seal.mismatch(offset, bytes) {
            None => Ok((header, bytes.len())),
            Some(crcs) => Err(wrong_checksum(crcs, offset, what, path)),
        }
    }
}

/// The block that starts here is sound.
const VERIFIED: u64 = 1;
/// It is a data block that is not compressed.
const RAW_DATA: u64 = 2;
const MARK_BITS: u64 = 2;
const GRANULES_PER_WORD: u64 = u64::BITS as u64 / MARK_BITS;

/// Where the marks of a block are.
#[derive(Clone, Copy, Debug)]
struct Marks {
    word: usize,
    shift: u64,
}

impl Marks {
    #[inline]
    fn are_in(self, word: &AtomicU64, bits: u64) -> bool {
        word.load(Relaxed) >> self.shift & bits == bits
    }
}

/// Where the marks of the block at `offset` are.
#[inline]
fn marks_of(offset: u64) -> Marks {
    let granule = offset / BLOCK_EXTENT_MIN as u64;
    Marks {
        word: (granule / GRANULES_PER_WORD) as usize,
        shift: granule % GRANULES_PER_WORD * MARK_BITS,
    }
}

/// Data blocks, in order, cut into runs that are worth one read.
fn runs(spans: &[BlockSpan]) -> impl Iterator<Item = &[BlockSpan]> {
    /// The length of a read from where on another one costs hardly anything.
    const RUN_MAX_BYTES: u64 = 1 << 20;
    let mut rest = spans;
    std::iter::from_fn(move || {
        let first = rest.first()?.offset;
        let follows = |pair: &[BlockSpan]| {
            let (before, start) = (pair[0], pair[1].offset);
            let is_near = start - before.offset <= 2 * DATA_GUESS as u64
                || before.len_max().is_some()
                    && start <= before.end_max.saturating_add(DATA_GUESS as u64);
            is_near && start - first < RUN_MAX_BYTES
        };
        let len = 1 + rest.windows(2).take_while(|pair| follows(pair)).count();
        let (run, further) = rest.split_at(len);
        rest = further;
        Some(run)
    })
}

/// The header and all bytes of the block at `offset` of a file's bytes, verified or not.
fn extent_in(file: &[u8], offset: u64, end: u64) -> Option<(BlockHeader, &[u8])> {
    if offset < HEADER_LEN as u64 {
        return None;
    }
    let bytes = file.get(usize::try_from(offset).ok()?..)?;
    let header = BlockHeader::parse(bytes.first_chunk()?);
    let extent = header.extent();
    if offset.checked_add(extent as u64)? > end {
        return None;
    }
    Some((header, bytes.get(..extent)?))
}

/// Codec, inflated length and stored payload of a block that was verified, if it is one of this
/// type that makes sense.
#[inline]
fn parse(bytes: &[u8], expected: BlockType) -> Option<(Codec, usize, Range<usize>)> {
    let header = BlockHeader::parse(bytes.first_chunk()?);
    let (raw_len, stored_len) = (header.raw_len as usize, header.stored_len as usize);
    let codec = Codec::from_byte(header.codec)?;
    let sound = match codec {
        Codec::Raw => raw_len == stored_len,
        Codec::Zstd => expected == BlockType::Data && stored_len < raw_len,
    };
    let sound = sound && header.block_type == expected as u8 && raw_len <= RAW_LEN_MAX;
    let end = BLOCK_HEADER_LEN + stored_len;
    (sound && end <= bytes.len()).then_some((codec, raw_len, BLOCK_HEADER_LEN..end))
}

fn wrong_checksum(
    (stored, computed): (u32, u32),
    offset: u64,
    what: &'static str,
    path: &Path,
) -> Error {
    let (expected, found) = (format_args!("checksum {stored:08X}"), format_args!("{computed:08X}"));
    Error::corrupt(path, offset, what, expected, found)
}
