//! [`LayerFile`]: an open layer file, read in place.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use super::{
    block_reader::{Block, BlockSpan, Blocks},
    filter::FilterState,
    page_source::{
        BlocksOf, FileBlocks, IndexPage, IndexPages, MappedBlocks, UncountedPages, span_of_row,
    },
};
use crate::{
    Error, Key, Lsn, PageVersion, Result, WalkEnd, compress,
    layer_file::{
        LayerKind, LayerSummary,
        access::{
            layer_access::{CountedMap, FetchedBlocks, LayerAccess, of_required},
            scratch::{ReadKind, ReadScratch},
            source::{BlockBytes, BlockSource},
        },
        format::{
            block::{BlockType, Codec},
            chain::Part,
            filter_lines::{self, KeyHash},
            footer::{self, FOOTER_LEN, Footer, HEADER_LEN, array},
            index_page::{HEIGHT_MAX, Hit, Page, Place},
            tombstone_rows,
        },
    },
    storage::Storage,
};

/// An open layer file.
///
/// **Threads:** shared freely; reads take no lock and write nothing but the marks of blocks
/// verified for the first time.
///
/// Opening reads header, footer, tombstones and the root of the index. Every other block is
/// verified by the first read that touches it; a read that meets a damaged block fails with
/// [`Error::Corrupt`], other reads go on.
#[derive(Debug)]
pub struct LayerFile {
    pub(super) path: PathBuf,
    pub(super) blocks: Blocks,
    footer: Footer,
    /// Empty until a read asks for it.
    filter: OnceLock<FilterState>,
}

/// A query for the versions of `key` from `lsn` down to `floor`, both inclusive.
#[derive(Clone, Copy, Debug)]
pub struct VersionQuery {
    /// Of which page.
    pub key: Key,
    /// From here,
    pub lsn: Lsn,
    /// down to here.
    pub floor: Lsn,
}

/// Where the walk of a query starts, or how it ended before it began.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WalkStart {
    /// Where the versions begin, and the tombstone above which they count.
    At { part: PartAt, dropped: Option<Lsn> },
    /// There are none.
    Ended(WalkEnd),
}

/// Where a chain part is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartAt {
    /// The offset of the leaf that has its row.
    pub(crate) leaf_offset: u64,
    pub(crate) first_lsn: Lsn,
    pub(crate) place: Place,
    /// Whether the row before is of another key: then there is no earlier part.
    pub(crate) is_oldest: bool,
    /// The block ends here or before; set only where blocks are read: see
    /// [`IndexPages::READS_BLOCKS`].
    pub(crate) end_max: u64,
}

impl PartAt {
    /// The block that the part is in.
    pub(crate) fn span(&self) -> BlockSpan {
        BlockSpan { offset: self.place.block_offset(), end_max: self.end_max }
    }
}

impl LayerFile {
    /// Opens a layer file and maps it; `expected` is what the manifest says of it.
    /// [`LayerAccess::open`](crate::layer_file::LayerAccess::open) reaches it in other ways.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is damaged, cut, or another file than expected, or when one is
    /// expected and there is none; [`Error::UnsupportedVersion`]; [`Error::Io`].
    pub fn open(
        storage: &dyn Storage,
        path: &Path,
        expected: Option<&LayerSummary>,
    ) -> Result<LayerFile> {
        let file = storage.open(path).map_err(|error| of_required(error, expected))?;
        let source = BlockSource::Mapped(CountedMap::uncounted(file.map()?));
        LayerFile::of_source(source, path, expected)
    }

    pub(crate) fn of_source(
        source: BlockSource,
        path: &Path,
        expected: Option<&LayerSummary>,
    ) -> Result<LayerFile> {
        let len = source.len();
        let wrong = |what, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
            Err(Error::corrupt(path, 0, what, expected, found))
        };
        if let Some(expected) = expected.filter(|expected| expected.file_len != len) {
            return wrong("file length", &expected.file_len, &len);
        }
        let footer_offset = len.saturating_sub(FOOTER_LEN as u64);
        let (Some(header), Some(footer)) =
            (source.bytes(0, HEADER_LEN)?, source.bytes(footer_offset, FOOTER_LEN)?)
        else {
            return wrong("file length", &"a header and a footer", &len);
        };
        let (id, kind) = footer::decode_header(&array(&header, 0), path)?;
        let footer = footer::decode_footer(&array(&footer, 0), path, footer_offset)?;
        let summary = &footer.summary;
        if (id, kind) != (summary.id, summary.kind) {
            return wrong("footer", &format_args!("layer {id}"), &summary.id);
        }
        if summary.file_len != len {
            return wrong("file length", &summary.file_len, &len);
        }
        if let Some(expected) = expected.filter(|expected| *expected != summary) {
            let (expected, found) = (format_args!("{expected:?}"), format_args!("{summary:?}"));
            return wrong("layer file", &expected, &found);
        }
        drop(header);
        let blocks = Blocks::new(source, id)?;
        let file = LayerFile { path: path.to_owned(), blocks, footer, filter: OnceLock::new() };
        file.check_footer()?;
        Ok(file)
    }

    /// What the footer leads to: the filter's place, the tombstones and the root.
    fn check_footer(&self) -> Result<()> {
        let Footer { summary, height, root_offset, tombstones_offset, filter_partitions, .. } =
            &self.footer;
        let damaged = |what| Err(self.malformed(self.blocks.end(), what));
        if usize::from(*height) > HEIGHT_MAX || (*height == 0) != (summary.versions == 0) {
            return damaged("footer's index height");
        }
        let blocks_end = self.blocks.end().checked_sub(filter_lines::table_len(*filter_partitions));
        let Some(blocks_end) = blocks_end.filter(|&end| end >= HEADER_LEN as u64) else {
            return damaged("footer's number of filter partitions");
        };
        if *height > 0 {
            UncountedPages(self, ReadKind::Wait).page(*root_offset, *height - 1)?;
        }
        if summary.tombstones > 0
            && tombstone_rows::section_end(*tombstones_offset, summary.tombstones)
                != Some(blocks_end)
        {
            return damaged("footer's tombstone section");
        }
        let mut previous = None;
        for tombstone in self.tombstones() {
            let tombstone = tombstone?;
            if previous >= Some(tombstone) {
                return Err(self.malformed(*tombstones_offset, "order of tombstones"));
            }
            previous = Some(tombstone);
        }
        Ok(())
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds.
    #[must_use]
    pub fn summary(&self) -> &LayerSummary {
        &self.footer.summary
    }

    /// Memory that it takes beside the mapping, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let filter = match self.filter.get() {
            Some(FilterState::Loaded(filter)) => filter.heap_bytes(),
            _ => 0,
        };
        self.blocks.heap_bytes() + self.path.as_os_str().len() + filter
    }

    /// Whether a value's bytes are borrowed from the file itself; else they were inflated into a
    /// caller's scratch.
    #[must_use]
    pub fn lends(&self, bytes: &[u8]) -> bool {
        self.blocks.lends(bytes)
    }

    /// Waits until bytes that an [`Error::NotResident`] of this file has named are in memory, or
    /// among `into`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corrupt`]
    pub fn fetch(&self, offset: u64, len: usize, into: &FetchedBlocks) -> Result<()> {
        self.blocks.fetch(offset, len, into, &self.path)
    }

    /// Has the system forget what it has in memory of the file, if it is mapped.
    ///
    /// # Errors
    /// As [`FileMap::evict`](crate::storage::FileMap::evict).
    #[cfg(feature = "testing")]
    pub fn evict(&self) -> std::io::Result<()> {
        self.blocks.evict(&self.path)
    }

    /// Whether there is a version of `key`. Touches only the index.
    ///
    /// # Errors
    /// [`Error::Corrupt`]
    pub fn contains(&self, key: Key) -> Result<bool> {
        Ok(self.part_at(key, Lsn::MAX, &mut UncountedPages(self, ReadKind::Wait))?.is_some())
    }

    /// Gives `out` the versions of `key` from `lsn` down to `floor`, both inclusive, newest first,
    /// up to a base.
    ///
    /// Says how it ended: [`WalkEnd::Base`] with a version that needs nothing older;
    /// [`WalkEnd::Dropped`] when a tombstone at or above `floor`, or the absence from a complete
    /// image layer, says that nothing older counts; else [`WalkEnd::Older`].
    ///
    /// A compressed block is inflated into `scratch`, once for each call; values of others are
    /// borrowed from the mapping, or from blocks of the cache, which `scratch` keeps.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Io`]; [`Error::OutOfMemory`] from `scratch`;
    /// [`Error::NotResident`] if `scratch` does not want to wait. `out` may have been given
    /// versions before.
    pub fn versions<'a>(
        &'a self,
        key: Key,
        lsn: Lsn,
        floor: Lsn,
        scratch: &'a impl ReadScratch,
        out: &mut impl FnMut(PageVersion<'a>),
    ) -> Result<WalkEnd> {
        let query = VersionQuery { key, lsn, floor };
        match self.blocks.mapped() {
            Some(map) => self.read(&query, &mut MappedBlocks { file: self, map, scratch }, out),
            None => self.read(&query, &mut FileBlocks { file: self, scratch }, out),
        }
    }

    #[inline]
    fn read<'a>(
        &'a self,
        query: &VersionQuery,
        blocks: &mut impl BlocksOf<'a>,
        out: &mut impl FnMut(PageVersion<'a>),
    ) -> Result<WalkEnd> {
        match self.locate(query, blocks)? {
            WalkStart::Ended(walk) => Ok(walk),
            WalkStart::At { part, dropped } => self.walk(query, part, dropped, blocks, out),
        }
    }

    /// Where the walk for `query` begins, if it does not end before.
    #[inline]
    pub(crate) fn locate<'a>(
        &'a self,
        query: &VersionQuery,
        blocks: &mut impl BlocksOf<'a>,
    ) -> Result<WalkStart> {
        let &VersionQuery { key, lsn, floor } = query;
        let dropped = match self.footer.summary.tombstones {
            0 => None,
            _ => self.newest_tombstone(key, lsn, blocks.kind())?.filter(|&lsn| lsn >= floor),
        };
        let part = match self.ask_filter(&KeyHash::of(key), blocks.kind())? {
            true => self.part_at(key, lsn, blocks)?,
            false => None,
        };
        Ok(match part {
            Some(part) => WalkStart::At { part, dropped },
            None if dropped.is_some() || self.is_absence_final(key, lsn, floor) => {
                WalkStart::Ended(WalkEnd::Dropped)
            }
            None => WalkStart::Ended(WalkEnd::Older),
        })
    }

    /// Gives `out` the versions from a part on, newest first; how it ended.
    #[inline]
    pub(crate) fn walk<'a>(
        &'a self,
        query: &VersionQuery,
        first: PartAt,
        dropped: Option<Lsn>,
        blocks: &mut impl BlocksOf<'a>,
        out: &mut impl FnMut(PageVersion<'a>),
    ) -> Result<WalkEnd> {
        let end = dropped.map_or(WalkEnd::Older, |_| WalkEnd::Dropped);
        let lowest = dropped.unwrap_or(query.floor);
        let (mut found, mut upper) = (Some(first), query.lsn);
        while let Some(at) = found {
            let part = blocks.part(self, &at)?;
            for index in (0..part.count_at_or_below(upper)).rev() {
                let Some(entry) = part.entry(index) else {
                    return Err(self.malformed(at.place.block_offset(), "chain part"));
                };
                if entry.lsn < lowest {
                    return Ok(end);
                }
                let bytes = part.value(&entry);
                out(PageVersion { lsn: entry.lsn, kind: entry.kind, bytes });
                if entry.kind.is_base() {
                    return Ok(WalkEnd::Base);
                }
            }
            upper = at.first_lsn.previous();
            found = match upper >= lowest {
                true => self.previous_part(query.key, &at, blocks)?,
                false => None,
            };
        }
        Ok(end)
    }

    /// Whether a key that is not here did not exist.
    pub(crate) fn is_absence_final(&self, key: Key, lsn: Lsn, floor: Lsn) -> bool {
        let summary = self.summary();
        let at = summary.lsn_range.start;
        summary.kind == LayerKind::Image { complete: true }
            && summary.key_range.contains(key)
            && (floor..=lsn).contains(&at)
    }

    /// The part of `key` with its newest version at or below `lsn`.
    fn part_at<'a, P: IndexPages<'a>>(
        &'a self,
        key: Key,
        lsn: Lsn,
        pages: &mut P,
    ) -> Result<Option<PartAt>> {
        let Some((leaf_offset, leaf, hit)) = self.search(key, lsn, pages)? else { return Ok(None) };
        match leaf.page().pair(hit.row) {
            Some((first_lsn, place)) if hit.is_of_key => {
                let is_oldest = leaf.page().is_oldest(hit.row, key);
                let end_max = match P::READS_BLOCKS {
                    true => span_of_row(leaf.page(), hit.row, leaf_offset).end_max,
                    false => 0,
                };
                Ok(Some(PartAt { leaf_offset, first_lsn, place, is_oldest, end_max }))
            }
            _ => Ok(None),
        }
    }

    /// The part of the same key before this one.
    fn previous_part<'a>(
        &'a self,
        key: Key,
        from: &PartAt,
        pages: &mut impl IndexPages<'a>,
    ) -> Result<Option<PartAt>> {
        // Most keys have one part, which the neighbouring row tells without a search.
        if from.is_oldest {
            return Ok(None);
        }
        // Parts were written in order, so who lies about it is caught here and the walk ends.
        match self.part_at(key, from.first_lsn.previous(), pages)? {
            Some(earlier)
                if earlier.first_lsn >= from.first_lsn
                    || earlier.place.block_offset() >= from.place.block_offset() =>
            {
                Err(self.malformed(from.leaf_offset, "order of chain parts"))
            }
            found => Ok(found),
        }
    }

    /// The last row at or below (`key`, `lsn`), in its leaf.
    #[inline]
    pub(crate) fn search<'a, P: IndexPages<'a>>(
        &'a self,
        key: Key,
        lsn: Lsn,
        pages: &mut P,
    ) -> Result<Option<(u64, P::Page, Hit)>> {
        let mut offset = self.footer.root_offset;
        let mut guess = None;
        for level in (0..self.footer.height).rev() {
            let lent = pages.page(offset, level)?;
            let page = lent.page();
            let guessed = guess.and_then(|row| page.hit_at(row, key, lsn));
            let Some(hit) = guessed.or_else(|| page.search(key, lsn)) else { return Ok(None) };
            if level == 1 {
                guess = page.guess(hit.row, key);
            }
            if level == 0 {
                return Ok(Some((offset, lent, hit)));
            }
            let Some((_, place)) = page.pair(hit.row) else {
                return Err(self.malformed(offset, "index block"));
            };
            offset = place.block_offset();
        }
        Ok(None)
    }

    /// The page of the index that a block holds, which has to be of this level.
    #[inline]
    pub(super) fn index_page<'a>(
        &self,
        offset: u64,
        level: u8,
        payload: &'a [u8],
    ) -> Result<Page<'a>> {
        match Page::parse(payload) {
            Some(page) if page.level() == level => Ok(page),
            _ => Err(self.malformed(offset, "index block")),
        }
    }

    /// The payload of a block that is never compressed.
    #[inline]
    pub(crate) fn raw_payload(
        &self,
        offset: u64,
        block_type: BlockType,
        kind: ReadKind<'_>,
    ) -> Result<BlockBytes<'_>> {
        Ok(self.blocks.block(BlockSpan::from(offset), block_type, &self.path, kind)?.stored)
    }

    /// A data block as it is stored.
    #[inline]
    pub(crate) fn data_block(&self, span: BlockSpan, kind: ReadKind<'_>) -> Result<Block<'_>> {
        self.blocks.block(span, BlockType::Data, &self.path, kind)
    }

    /// The inflated payload of a data block, for as long as the scratch lives.
    pub(crate) fn lent<'a>(
        &self,
        block: Block<'a>,
        offset: u64,
        scratch: &'a impl ReadScratch,
    ) -> Result<&'a [u8]> {
        match block.codec {
            Codec::Raw => Ok(block.stored.keep(scratch)),
            Codec::Zstd => self.inflated(&block.stored, block.raw_len, offset, scratch),
        }
    }

    pub(super) fn inflated<'a>(
        &self,
        stored: &[u8],
        raw_len: usize,
        offset: u64,
        scratch: &'a impl ReadScratch,
    ) -> Result<&'a [u8]> {
        let raw = scratch.space(raw_len)?;
        self.inflate(stored, offset, raw)?;
        Ok(raw)
    }

    /// Inflates a compressed block into exactly `raw`.
    pub(crate) fn inflate(&self, stored: &[u8], offset: u64, raw: &mut [u8]) -> Result<()> {
        let sound = compress::inflate(stored, raw)
            .map_err(|error| Error::io("inflate", &self.path, error))?;
        if sound { Ok(()) } else { Err(self.malformed(offset, "compressed data block")) }
    }

    /// The chain part at `place`, in the inflated payload of its block.
    #[inline]
    pub(crate) fn part<'a>(
        &self,
        offset: u64,
        raw: &'a [u8],
        place: Place,
        first_lsn: Lsn,
    ) -> Result<Part<'a>> {
        match Part::parse(raw, place) {
            Some(part) if part.first_lsn() == first_lsn => Ok(part),
            _ => Err(self.malformed(offset, "chain part")),
        }
    }

    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    pub(crate) fn filter_state(&self) -> &OnceLock<FilterState> {
        &self.filter
    }

    pub(crate) fn footer(&self) -> &Footer {
        &self.footer
    }

    pub(crate) fn tombstones_offset(&self) -> u64 {
        self.footer.tombstones_offset
    }

    /// Bytes with a right checksum that make no sense.
    #[cold]
    pub(crate) fn malformed(&self, offset: u64, what: &'static str) -> Error {
        Error::corrupt(&self.path, offset, what, "what a writer writes", "something else")
    }
}

impl LayerAccess {
    /// Opens a layer file; see [`LayerFile::open`].
    ///
    /// # Errors
    /// As [`LayerFile::open`].
    pub fn open(
        self: &Arc<Self>,
        path: &Path,
        expected: Option<&LayerSummary>,
    ) -> Result<LayerFile> {
        LayerFile::of_source(self.source(path, expected)?, path, expected)
    }
}
