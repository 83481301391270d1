//! Reading a layer file in order: [`Scan`] over versions, [`Keys`] over keys.

use std::ops::Range;

use super::{
    block_reader::BlockSpan,
    page_source::{IndexPage, IndexPages, PageBytes, UncountedPages, span_of_row},
    reader::LayerFile,
};
use crate::{
    Key, Kind, Lsn, PageVersion, Result,
    layer_file::{
        access::{ahead::ReadAhead, scratch::ReadKind, source::BlockBytes},
        format::{block::Codec, chain::Part, index_page::Row},
    },
    reserve,
};

/// The rows of the leaves in order. Ends after an error.
#[derive(Debug, Clone)]
pub(crate) struct Rows<'a> {
    file: &'a LayerFile,
    /// The offset of the leaf, the leaf, and the next row of it; none: at the end.
    at: Option<(u64, PageBytes<'a>, usize)>,
    previous: Option<(Key, Lsn)>,
}

impl<'a> Rows<'a> {
    /// From the first row of the first key at or behind `start`.
    pub(crate) fn from(file: &'a LayerFile, start: Key) -> Result<Rows<'a>> {
        let at =
            match file.search(start, Lsn::INVALID, &mut UncountedPages(file, ReadKind::Once))? {
                Some((offset, page, hit)) => Some((offset, page, hit.row + 1)),
                None => file.leaf_after(None)?.map(|(offset, page)| (offset, page, 0)),
            };
        Ok(Rows { file, at, previous: None })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Row>> {
        let next = self.step();
        if next.is_err() {
            self.at = None;
        }
        next
    }

    /// The block that the row that was returned last is in.
    pub(crate) fn span(&self, row: &Row) -> BlockSpan {
        match &self.at {
            Some((offset, leaf, next)) if self.file.blocks().mapped().is_none() => {
                span_of_row(leaf.page(), next.wrapping_sub(1), *offset)
            }
            _ => BlockSpan::from(row.place.block_offset()),
        }
    }

    fn step(&mut self) -> Result<Option<Row>> {
        let Some((offset, leaf, next)) = &mut self.at else { return Ok(None) };
        let mut page = leaf.page();
        if *next >= page.rows() {
            let last = page.row(next.wrapping_sub(1)).map(|row| (row.key, row.lsn));
            let Some(after) = self.file.leaf_after(last)? else {
                self.at = None;
                return Ok(None);
            };
            (*offset, *leaf, *next) = (after.0, after.1, 0);
            page = leaf.page();
        }
        let row = page.row(*next);
        match row {
            Some(row) if self.previous < Some((row.key, row.lsn)) => {
                *next += 1;
                self.previous = Some((row.key, row.lsn));
                Ok(Some(row))
            }
            _ => Err(self.file.malformed(self.file.footer().root_offset, "order of the index")),
        }
    }
}

impl LayerFile {
    /// The leaf behind the one that has row (key, Lsn), with its offset; the first one for none.
    fn leaf_after(&self, row: Option<(Key, Lsn)>) -> Result<Option<(u64, PageBytes<'_>)>> {
        let footer = self.footer();
        let Some(mut level) = footer.height.checked_sub(1) else { return Ok(None) };
        let mut offset = footer.root_offset;
        // The next page beside the way down, as far down as there is one.
        let mut beside = None;
        while let (Some((key, lsn)), true) = (row, level > 0) {
            let lent = UncountedPages(self, ReadKind::Once).page(offset, level)?;
            let page = lent.page();
            let malformed = || self.malformed(offset, "index block");
            let index = page.search(key, lsn).ok_or_else(malformed)?.row;
            level -= 1;
            if let Some(next) = page.row(index + 1) {
                beside = Some((next.place.block_offset(), level));
            }
            offset = page.row(index).ok_or_else(malformed)?.place.block_offset();
        }
        if row.is_some() {
            let Some(found) = beside else { return Ok(None) };
            (offset, level) = found;
        }
        loop {
            let lent = UncountedPages(self, ReadKind::Once).page(offset, level)?;
            if level == 0 {
                return Ok(Some((offset, lent)));
            }
            level -= 1;
            let first = lent.page().row(0).ok_or_else(|| self.malformed(offset, "index block"))?;
            offset = first.place.block_offset();
        }
    }

    /// All versions in order, (key, Lsn) ascending, from the first key at or behind `start`.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]
    pub fn scan(&self, start: Key) -> Result<Scan<'_>> {
        Ok(Scan {
            file: self,
            rows: Rows::from(self, start)?,
            part: None,
            block: None,
            inflated: Vec::new(),
            ahead: ReadAhead::default(),
            current: None,
        })
    }

    /// All keys in order, from the first at or behind `start`. Touches only the index.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]
    pub fn keys_from(&self, start: Key) -> Result<Keys<'_>> {
        Ok(Keys { rows: Rows::from(self, start)?, previous: None })
    }
}

/// The keys of a layer file, as [`LayerFile::keys_from`] returns them. Ends after an error.
#[derive(Debug, Clone)]
pub struct Keys<'a> {
    rows: Rows<'a>,
    previous: Option<Key>,
}

impl Iterator for Keys<'_> {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Result<Key>> {
        loop {
            match self.rows.next() {
                Ok(Some(row)) if self.previous == Some(row.key) => {}
                Ok(Some(row)) => {
                    self.previous = Some(row.key);
                    return Some(Ok(row.key));
                }
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The versions of a layer file in order, as [`LayerFile::scan`] returns them.
///
/// It stands before the first version; [`Scan::advance`] takes it to the next one. Compressed
/// blocks are inflated, one at a time, into a buffer of its own, so a version is borrowed until it
/// advances.
#[derive(Debug)]
pub struct Scan<'a> {
    file: &'a LayerFile,
    rows: Rows<'a>,
    /// The part that it is in, and the next version of it.
    part: Option<(Row, usize)>,
    /// The block of the part: its offset, and its payload unless that is in `inflated`.
    block: Option<(u64, Option<BlockBytes<'a>>)>,
    inflated: Vec<u8>,
    ahead: ReadAhead<'a>,
    current: Option<ScanItem>,
}

#[derive(Debug)]
struct ScanItem {
    key: Key,
    lsn: Lsn,
    kind: Kind,
    /// Where the bytes are in the block's payload.
    range: Range<usize>,
}

impl Scan<'_> {
    /// Goes to the next version; false: there is none.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]; it then stands at the end.
    pub fn advance(&mut self) -> Result<bool> {
        let next = self.step();
        if next.is_err() {
            self.rows.at = None;
            self.part = None;
        }
        self.current = next?;
        Ok(self.current.is_some())
    }

    /// Key and Lsn of the version that it stands at.
    #[must_use]
    pub fn position(&self) -> Option<(Key, Lsn)> {
        self.current.as_ref().map(|current| (current.key, current.lsn))
    }

    /// The version that it stands at.
    #[must_use]
    pub fn current(&self) -> Option<(Key, PageVersion<'_>)> {
        let ScanItem { key, lsn, kind, range } = self.current.as_ref()?;
        let bytes = &self.payload()[range.clone()];
        Some((*key, PageVersion { lsn: *lsn, kind: *kind, bytes }))
    }

    /// The page that the delta it stands at leads to, where the file has one
    /// ([`LayerWriter::put_with_page`]): the next version, at the same Lsn.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]
    ///
    /// [`LayerWriter::put_with_page`]: crate::layer_file::LayerWriter::put_with_page
    pub fn page_behind(&self) -> Result<Option<&[u8]>> {
        let (Some(current), Some((row, next))) = (&self.current, &self.part) else {
            return Ok(None);
        };
        let malformed = || self.file.malformed(row.place.block_offset(), "chain part");
        let part = Part::parse(self.payload(), row.place).ok_or_else(malformed)?;
        let entry = part.entry(*next).ok_or_else(malformed)?;
        let is_page =
            entry.lsn == current.lsn && entry.kind == Kind::Image && current.kind != Kind::Image;
        let start = row.place.part_start();
        let range = start + entry.range.start..start + entry.range.end;
        Ok(is_page.then(|| &self.payload()[range]))
    }

    /// Advances and returns the version; none at the end.
    ///
    /// # Errors
    /// As [`Scan::advance`].
    #[expect(clippy::should_implement_trait, reason = "an item borrows the iterator")]
    pub fn next(&mut self) -> Result<Option<(Key, PageVersion<'_>)>> {
        self.advance()?;
        Ok(self.current())
    }

    fn payload(&self) -> &[u8] {
        match &self.block {
            Some((_, Some(payload))) => payload,
            _ => &self.inflated,
        }
    }

    fn step(&mut self) -> Result<Option<ScanItem>> {
        self.current = None;
        let (row, index) = match self.part.take() {
            Some(part) => part,
            None => match self.rows.next()? {
                Some(row) => (row, 0),
                None => return Ok(None),
            },
        };
        if index == 0 {
            self.load(self.rows.span(&row))?;
        }
        let offset = row.place.block_offset();
        let malformed = || self.file.malformed(offset, "chain part");
        let part = Part::parse(self.payload(), row.place).ok_or_else(malformed)?;
        let entry = part.entry(index).ok_or_else(malformed)?;
        let in_order = match index.checked_sub(1) {
            None => entry.lsn == row.lsn,
            Some(before) => part.entry(before).is_some_and(|before| entry.may_follow(&before)),
        };
        if !in_order {
            return Err(malformed());
        }
        let last = part.count() == index + 1;
        let start = row.place.part_start();
        let range = start + entry.range.start..start + entry.range.end;
        self.part = (!last).then_some((row, index + 1));
        Ok(Some(ScanItem { key: row.key, lsn: entry.lsn, kind: entry.kind, range }))
    }

    /// Makes the block at `span` the one that versions are taken from.
    fn load(&mut self, span: BlockSpan) -> Result<()> {
        let BlockSpan { offset, .. } = span;
        if self.block.as_ref().is_some_and(|(loaded, _)| *loaded == offset) {
            return Ok(());
        }
        self.block = None;
        self.file.blocks().read_ahead(offset, &mut self.ahead);
        let block = self.file.data_block(span, ReadKind::Once)?;
        let payload = match block.codec {
            Codec::Raw => Some(block.stored),
            Codec::Zstd => {
                self.inflated.clear();
                reserve(&mut self.inflated, block.raw_len, "a block that is scanned")?;
                self.inflated.resize(block.raw_len, 0);
                self.file.inflate(&block.stored, offset, &mut self.inflated)?;
                None
            }
        };
        self.block = Some((offset, payload));
        Ok(())
    }
}
