//! [`LayerFile`]: an open layer file, read in place.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    LayerKind, LayerSummary, ReadKind, ReadSpace,
    access::{CountedMap, Fetched},
    block::{BlockType, Codec},
    chain::Part,
    format::{self, FOOTER_LEN, Footer, HEADER_LEN, array},
    index::HEIGHT_MAX,
    page::{Hit, Page, Place},
    source::{Block, BlockSource, Blocks, Lent},
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

/// A page of the index, checked to be one.
#[derive(Clone, Debug)]
pub(super) struct LentPage<'a>(Lent<'a>);

impl LentPage<'_> {
    #[inline]
    pub(super) fn page(&self) -> Page<'_> {
        Page::parse(&self.0).expect("it was one when it was lent")
    }
}

impl LayerFile {
    /// Opens a layer file and maps it; `expected` is what the manifest says of it. [`LayerAccess::open`](super::LayerAccess::open)
    /// reaches it in other ways.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is damaged, cut, or another file than expected, or when one is expected and there is none;
    /// [`Error::UnsupportedVersion`]; [`Error::Io`].
    pub fn open(
        storage: &dyn Storage,
        path: &Path,
        expected: Option<&LayerSummary>,
    ) -> Result<LayerFile> {
        let file = storage.open(path).map_err(|error| LayerFile::of_required(error, expected))?;
        let source = BlockSource::Mapped(CountedMap::uncounted(file.map()?));
        LayerFile::of_source(source, path, expected)
    }

    /// What a missing file is where the manifest says that there is one.
    pub(super) fn of_required(error: Error, expected: Option<&LayerSummary>) -> Error {
        match expected {
            Some(expected) => {
                error.of_required("layer file", format_args!("{} bytes", expected.file_len))
            }
            None => error,
        }
    }

    pub(super) fn of_source(
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
        let (id, kind) = format::decode_header(&array(&header, 0), path)?;
        let footer = format::decode_footer(&array(&footer, 0), path, footer_offset)?;
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
            self.index_page(*root_offset, *height - 1, ReadKind::Wait)?;
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

    /// Waits until bytes that an [`Error::NotResident`] of this file has named are in memory, or among `into`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corrupt`]
    pub fn fetch(&self, offset: u64, len: usize, into: &Fetched) -> Result<()> {
        self.blocks.fetch(offset, len, into, &self.path)
    }

    /// Whether there is a version of `key`. Touches only the index.
    ///
    /// # Errors
    /// [`Error::Corrupt`]
    pub fn contains(&self, key: Key) -> Result<bool> {
        Ok(self.part_at(key, Lsn::MAX, ReadKind::Wait)?.is_some())
    }

    /// Gives `out` the versions of `key` from `lsn` down to `floor`, both inclusive, newest first, up to a base.
    ///
    /// Says how it ended: [`Walk::Base`] with a version that needs nothing older; [`Walk::Dropped`] when a tombstone
    /// at or above `floor`, or the absence from a complete image layer, says that nothing older counts;
    /// else [`Walk::Older`].
    ///
    /// A compressed block is inflated into `space`, once for each call; values of others are borrowed from the mapping, or from
    /// blocks of the cache, which `space` keeps.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Io`]; [`Error::OutOfMemory`] from `space`; [`Error::NotResident`] if `space` does not want to wait. `out` may have been given versions before.
    pub fn versions<'a>(
        &'a self,
        key: Key,
        lsn: Lsn,
        floor: Lsn,
        space: &'a impl ReadSpace,
        out: &mut impl FnMut(PageVersion<'a>),
    ) -> Result<Walk> {
        let kind = space.kind();
        let dropped = match self.footer.summary.tombstones {
            0 => None,
            _ => self.newest_tombstone(key, lsn, kind)?.filter(|&dropped| dropped >= floor),
        };
        let lowest = dropped.unwrap_or(floor);
        let mut found = self.part_at(key, lsn, kind)?;
        if found.is_none() && dropped.is_none() && self.is_absence_final(key, lsn, floor) {
            return Ok(Walk::Dropped);
        }
        let mut upper = lsn;
        while let Some(at) = found {
            let offset = at.place.block_offset();
            let raw = self.lent(self.data_block(offset, kind)?, offset, space)?;
            let part = self.part(offset, raw, at.place, at.first_lsn)?;
            for index in (0..part.count_at_or_below(upper)).rev() {
                let Some(entry) = part.entry(index) else {
                    return Err(self.malformed(offset, "chain part"));
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
                true => self.previous_part(key, &at, kind)?,
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
    fn part_at(&self, key: Key, lsn: Lsn, kind: ReadKind<'_>) -> Result<Option<PartAt>> {
        let Some((leaf_offset, leaf, hit)) = self.search(key, lsn, kind)? else { return Ok(None) };
        match leaf.page().pair(hit.row) {
            Some((first_lsn, place)) if hit.is_of_key => {
                Ok(Some(PartAt { leaf_offset, row: hit.row, first_lsn, place }))
            }
            _ => Ok(None),
        }
    }

    /// The part of the same key before this one.
    fn previous_part(&self, key: Key, from: &PartAt, kind: ReadKind<'_>) -> Result<Option<PartAt>> {
        if from.row > 0 {
            // Most keys have one part, which the neighbouring row tells without a search.
            let leaf = self.index_page(from.leaf_offset, 0, kind)?;
            if leaf.page().row(from.row - 1).is_none_or(|row| row.key != key) {
                return Ok(None);
            }
        }
        // Parts were written in order, so who lies about it is caught here and the walk ends.
        match self.part_at(key, from.first_lsn.previous(), kind)? {
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
    pub(super) fn search(
        &self,
        key: Key,
        lsn: Lsn,
        kind: ReadKind<'_>,
    ) -> Result<Option<(u64, LentPage<'_>, Hit)>> {
        let mut offset = self.footer.root_offset;
        let mut guess = None;
        for level in (0..self.footer.height).rev() {
            let lent = self.index_page(offset, level, kind)?;
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

    /// The page of the index at `offset`, which has to be of this level.
    #[inline]
    pub(super) fn index_page(
        &self,
        offset: u64,
        level: u8,
        kind: ReadKind<'_>,
    ) -> Result<LentPage<'_>> {
        let bytes = self.raw_payload(offset, BlockType::Index, kind)?;
        match Page::parse(&bytes) {
            Some(page) if page.level() == level => Ok(LentPage(bytes)),
            _ => Err(self.malformed(offset, "index block")),
        }
    }

    /// The payload of a block that is never compressed.
    #[inline]
    pub(super) fn raw_payload(
        &self,
        offset: u64,
        block_type: BlockType,
        kind: ReadKind<'_>,
    ) -> Result<Lent<'_>> {
        Ok(self.blocks.block(offset, block_type, &self.path, kind)?.stored)
    }

    #[inline]
    pub(super) fn data_block(&self, offset: u64, kind: ReadKind<'_>) -> Result<Block<'_>> {
        self.blocks.block(offset, BlockType::Data, &self.path, kind)
    }

    /// The inflated payload of a data block, for as long as the space lives.
    #[inline]
    fn lent<'a>(
        &self,
        block: Block<'a>,
        offset: u64,
        space: &'a impl ReadSpace,
    ) -> Result<&'a [u8]> {
        match block.codec {
            Codec::Raw => Ok(block.stored.keep(space)),
            Codec::Zstd => {
                let raw = space.space(block.raw_len)?;
                self.inflate(&block, offset, raw)?;
                Ok(raw)
            }
        }
    }

    /// Inflates a compressed block into exactly `raw`.
    pub(super) fn inflate(&self, block: &Block<'_>, offset: u64, raw: &mut [u8]) -> Result<()> {
        let sound = compress::inflate(&block.stored, raw)
            .map_err(|error| Error::io("inflate", &self.path, error))?;
        if sound { Ok(()) } else { Err(self.malformed(offset, "compressed data block")) }
    }

    /// The chain part at `place`, in the inflated payload of its block.
    #[inline]
    pub(super) fn part<'a>(
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
