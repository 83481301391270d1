//! [`LayerFile`]: an open layer file, read in place.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    InflateSpace, LayerKind, LayerSummary,
    block::{BlockType, Codec},
    chain::Part,
    format::{self, FOOTER_LEN, Footer, HEADER_LEN, array},
    index::HEIGHT_MAX,
    page::{Hit, Page, Place},
    source::{Block, BlockSource, Blocks},
    tombstones,
};
use crate::{Error, Key, Lsn, PageVersion, Result, Walk, compress, storage::Storage};

/// An open layer file.
///
/// **Threads:** shared freely; reads take no lock and write nothing but the marks of blocks verified for the first time.
///
/// Opening reads header, footer, tombstones and the root of the index. Every other block is verified by the first read
/// that touches it; a read that meets a damaged block fails with [`Error::Corrupt`], other reads go on.
#[derive(Debug)]
pub struct LayerFile {
    path: PathBuf,
    blocks: Blocks,
    footer: Footer,
}

/// Where a chain part is.
#[derive(Clone, Copy, Debug)]
struct PartAt {
    /// The offset of the leaf that has its row.
    leaf_offset: u64,
    /// Which row of the leaf.
    row: usize,
    first_lsn: Lsn,
    place: Place,
}

impl LayerFile {
    /// Opens a layer file; `expected` is what the manifest says of it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is damaged, cut, or another file than expected, or when one is expected and there is none;
    /// [`Error::UnsupportedVersion`]; [`Error::Io`].
    pub fn open(
        storage: &dyn Storage,
        path: &Path,
        expected: Option<&LayerSummary>,
    ) -> Result<LayerFile> {
        let file = storage.open(path).map_err(|error| match expected {
            Some(expected) => {
                error.of_required("layer file", format_args!("{} bytes", expected.file_len))
            }
            None => error,
        })?;
        let source = BlockSource::Mapped(file.map()?);
        let len = source.len();
        let wrong = |what, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
            Err(Error::corrupt(path, 0, what, expected, found))
        };
        if let Some(expected) = expected.filter(|expected| expected.file_len != len) {
            return wrong("file length", &expected.file_len, &len);
        }
        let footer_offset = len.saturating_sub(FOOTER_LEN as u64);
        let (Some(header), Some(footer)) =
            (source.bytes(0, HEADER_LEN), source.bytes(footer_offset, FOOTER_LEN))
        else {
            return wrong("file length", &"a header and a footer", &len);
        };
        let (id, kind) = format::decode_header(&array(header, 0), path)?;
        let footer = format::decode_footer(&array(footer, 0), path, footer_offset)?;
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
        let blocks = Blocks::new(source, id);
        let file = LayerFile { path: path.to_owned(), blocks, footer };
        file.check_footer()?;
        Ok(file)
    }

    /// What the footer leads to: the tombstones and the root.
    fn check_footer(&self) -> Result<()> {
        let Footer { summary, height, root_offset, tombstones_offset, .. } = &self.footer;
        let damaged = |what| Err(self.malformed(self.blocks.end(), what));
        if usize::from(*height) > HEIGHT_MAX || (*height == 0) != (summary.versions == 0) {
            return damaged("footer's index height");
        }
        if *height > 0 {
            self.index_page(*root_offset, *height - 1)?;
        }
        if summary.tombstones > 0
            && tombstones::section_end(*tombstones_offset, summary.tombstones)
                != Some(self.blocks.end())
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
        self.blocks.heap_bytes() + self.path.as_os_str().len()
    }

    /// Whether a value's bytes are borrowed from the file itself; else they were inflated into a caller's space.
    #[must_use]
    pub fn lends(&self, bytes: &[u8]) -> bool {
        self.blocks.lends(bytes)
    }

    /// Whether there is a version of `key`. Touches only the index.
    ///
    /// # Errors
    /// [`Error::Corrupt`]
    pub fn contains(&self, key: Key) -> Result<bool> {
        Ok(self.part_at(key, Lsn::MAX)?.is_some())
    }

    /// Gives `out` the versions of `key` from `lsn` down to `floor`, both inclusive, newest first, up to a base.
    ///
    /// Says how it ended: [`Walk::Base`] with a version that needs nothing older; [`Walk::Dropped`] when a tombstone
    /// at or above `floor`, or the absence from a complete image layer, says that nothing older counts;
    /// else [`Walk::Older`].
    ///
    /// A compressed block is inflated into `space`, once for each call; values of others are borrowed from the file.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::OutOfMemory`] from `space`. `out` may have been given versions before.
    pub fn versions<'a>(
        &'a self,
        key: Key,
        lsn: Lsn,
        floor: Lsn,
        space: &'a impl InflateSpace,
        out: &mut impl FnMut(PageVersion<'a>),
    ) -> Result<Walk> {
        let dropped = match self.footer.summary.tombstones {
            0 => None,
            _ => self.newest_tombstone(key, lsn)?.filter(|&dropped| dropped >= floor),
        };
        let lowest = dropped.unwrap_or(floor);
        let mut found = self.part_at(key, lsn)?;
        if found.is_none() && dropped.is_none() && self.is_absence_final(key, lsn, floor) {
            return Ok(Walk::Dropped);
        }
        let mut upper = lsn;
        while let Some(at) = found {
            let block = self.data_block(at.place.block_offset())?;
            let part = self.part(&block, self.inflated(&block, space)?, at.place, at.first_lsn)?;
            for index in (0..part.count_at_or_below(upper)).rev() {
                let Some(entry) = part.entry(index) else {
                    return Err(self.malformed(block.offset, "chain part"));
                };
                if entry.lsn < lowest {
                    return Ok(dropped.map_or(Walk::Older, |_| Walk::Dropped));
                }
                let bytes = part.value(&entry);
                out(PageVersion { lsn: entry.lsn, kind: entry.kind, bytes });
                if entry.kind.is_base() {
                    return Ok(Walk::Base);
                }
            }
            upper = at.first_lsn.previous();
            found = match upper >= lowest {
                true => self.previous_part(key, &at)?,
                false => None,
            };
        }
        Ok(dropped.map_or(Walk::Older, |_| Walk::Dropped))
    }

    /// Whether a key that is not here did not exist.
    fn is_absence_final(&self, key: Key, lsn: Lsn, floor: Lsn) -> bool {
        let summary = self.summary();
        let at = summary.lsn_range.start;
        summary.kind == LayerKind::Image { complete: true }
            && summary.key_range.contains(key)
            && (floor..=lsn).contains(&at)
    }

    /// The part of `key` with its newest version at or below `lsn`.
    fn part_at(&self, key: Key, lsn: Lsn) -> Result<Option<PartAt>> {
        let Some((leaf_offset, page, hit)) = self.search(key, lsn)? else { return Ok(None) };
        match page.pair(hit.row) {
            Some((first_lsn, place)) if hit.is_of_key => {
                Ok(Some(PartAt { leaf_offset, row: hit.row, first_lsn, place }))
            }
            _ => Ok(None),
        }
    }

    /// The part of the same key before this one.
    fn previous_part(&self, key: Key, from: &PartAt) -> Result<Option<PartAt>> {
        if from.row > 0 {
            // Most keys have one part, which the neighbouring row tells without a search.
            let page = self.index_page(from.leaf_offset, 0)?;
            if page.row(from.row - 1).is_none_or(|row| row.key != key) {
                return Ok(None);
            }
        }
        // Parts were written in order, so who lies about it is caught here and the walk ends.
        match self.part_at(key, from.first_lsn.previous())? {
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
    pub(super) fn search(&self, key: Key, lsn: Lsn) -> Result<Option<(u64, Page<'_>, Hit)>> {
        let mut offset = self.footer.root_offset;
        let mut guess = None;
        for level in (0..self.footer.height).rev() {
            let page = self.index_page(offset, level)?;
            let guessed = guess.and_then(|row| page.hit_at(row, key, lsn));
            let Some(hit) = guessed.or_else(|| page.search(key, lsn)) else { return Ok(None) };
            if level == 1 {
                guess = page.guess(hit.row, key);
            }
            if level == 0 {
                return Ok(Some((offset, page, hit)));
            }
            let Some((_, place)) = page.pair(hit.row) else {
                return Err(self.malformed(offset, "index block"));
            };
            offset = place.block_offset();
        }
        Ok(None)
    }

    /// The page of the index at `offset`, which has to be of this level.
    pub(super) fn index_page(&self, offset: u64, level: u8) -> Result<Page<'_>> {
        match Page::parse(self.raw_payload(offset, BlockType::Index)?) {
            Some(page) if page.level() == level => Ok(page),
            _ => Err(self.malformed(offset, "index block")),
        }
    }

    /// The payload of a block that is never compressed.
    pub(super) fn raw_payload(&self, offset: u64, block_type: BlockType) -> Result<&[u8]> {
        Ok(self.blocks.block(offset, block_type, &self.path)?.stored)
    }

    #[inline]
    pub(super) fn data_block(&self, offset: u64) -> Result<Block<'_>> {
        self.blocks.block(offset, BlockType::Data, &self.path)
    }

    #[inline]
    fn inflated<'a>(&self, block: &Block<'a>, space: &'a impl InflateSpace) -> Result<&'a [u8]> {
        match block.codec {
            Codec::Raw => Ok(block.stored),
            Codec::Zstd => {
                let raw = space.space(block.raw_len)?;
                self.inflate(block, raw)?;
                Ok(raw)
            }
        }
    }

    /// Inflates a compressed block into exactly `raw`.
    pub(super) fn inflate(&self, block: &Block<'_>, raw: &mut [u8]) -> Result<()> {
        let sound = compress::inflate(block.stored, raw)
            .map_err(|error| Error::io("inflate", &self.path, error))?;
        if sound { Ok(()) } else { Err(self.malformed(block.offset, "compressed data block")) }
    }

    /// The chain part at `place`, in the inflated payload of its block.
    #[inline]
    pub(super) fn part<'a>(
        &self,
        block: &Block<'_>,
        raw: &'a [u8],
        place: Place,
        first_lsn: Lsn,
    ) -> Result<Part<'a>> {
        match Part::parse(raw, place) {
            Some(part) if part.first_lsn() == first_lsn => Ok(part),
            _ => Err(self.malformed(block.offset, "chain part")),
        }
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    pub(super) fn footer(&self) -> &Footer {
        &self.footer
    }

    pub(super) fn tombstones_offset(&self) -> u64 {
        self.footer.tombstones_offset
    }

    /// Bytes with a right checksum that make no sense.
    #[cold]
    pub(super) fn malformed(&self, offset: u64, what: &'static str) -> Error {
        Error::corrupt(&self.path, offset, what, "what a writer writes", "something else")
    }
}
