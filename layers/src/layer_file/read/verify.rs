//! Checks all of a layer file.

use xxhash_rust::xxh3::Xxh3;

use super::{
    block_reader::BlockSpan,
    page_source::{IndexPage, IndexPages, UncountedPages},
    reader::LayerFile,
    scan::Rows,
};
use crate::{
    Key, Lsn, Result,
    layer_file::{
        access::{ahead::ReadAhead, scratch::ReadKind},
        format::{
            block::{BlockType, Codec},
            chain::Entry,
            footer::HEADER_LEN,
            index_page::Row,
        },
    },
    reserve,
};

/// What [`LayerFile::verify`] went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Data blocks.
    pub data_blocks: u64,
    /// Index blocks.
    pub index_blocks: u64,
    /// Tombstone blocks.
    pub tombstone_blocks: u64,
    /// Blocks of the filter, its table included.
    pub filter_blocks: u64,
    /// Keys.
    pub keys: u64,
    /// Versions.
    pub versions: u64,
    /// Bytes in values, before compression.
    pub value_bytes: u64,
    /// Tombstones.
    pub tombstones: u64,
}

impl LayerFile {
    /// Reads all of the file and checks it: the checksum of every block, remembered or not, and the
    /// digest; that blocks, index and footer say the same; that everything is in order and in its
    /// range.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] with the place that is wrong.
    pub fn verify(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let mut ahead = ReadAhead::default();
        self.verify_blocks(&mut ahead, &mut report)?;
        self.verify_digest(&mut ahead)?;
        self.verify_data(&mut ahead, &mut report)?;
        drop(ahead);
        self.verify_index(&report)?;
        self.verify_tombstones(&mut report)?;
        let summary = self.summary();
        let blocks = report.data_blocks
            + report.index_blocks
            + report.tombstone_blocks
            + report.filter_blocks;
        let counts = [
            (report.keys, summary.keys),
            (report.versions, summary.versions),
            (report.value_bytes, summary.value_bytes),
            (report.tombstones, summary.tombstones),
            (blocks, self.footer().blocks),
        ];
        if counts.iter().any(|(found, expected)| found != expected) {
            return Err(self.malformed(self.blocks().end(), "footer's counts"));
        }
        Ok(report)
    }

    /// Every block, one behind the other, from header to footer.
    fn verify_blocks<'a>(
        &'a self,
        ahead: &mut ReadAhead<'a>,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let mut offset = HEADER_LEN as u64;
        while offset < self.blocks().end() {
            self.blocks().read_ahead(offset, ahead);
            let (block_type, end) = self.blocks().verify_again(offset, self.path())?;
            match block_type {
                BlockType::Data => report.data_blocks += 1,
                BlockType::Index => report.index_blocks += 1,
                BlockType::Tombstones => report.tombstone_blocks += 1,
                BlockType::Filter | BlockType::FilterTable => report.filter_blocks += 1,
            }
            offset = end;
        }
        Ok(())
    }

    fn verify_digest<'a>(&'a self, ahead: &mut ReadAhead<'a>) -> Result<()> {
        const PIECE: u64 = 1 << 20;
        let (mut digest, end) = (Xxh3::new(), self.blocks().end());
        let mut offset = 0;
        while offset < end {
            let len = PIECE.min(end - offset);
            self.blocks().read_ahead(offset, ahead);
            let bytes = self.blocks().source().bytes(offset, len as usize)?;
            digest.update(&bytes.ok_or_else(|| self.malformed(offset, "file length"))?);
            offset += len;
        }
        if digest.digest128() == self.summary().digest {
            return Ok(());
        }
        Err(self.malformed(self.blocks().end(), "footer's digest"))
    }

    /// Every version of every part, along the index: nothing in a data block is outside of it, and
    /// the filter hides no key.
    fn verify_data<'a>(
        &'a self,
        ahead: &mut ReadAhead<'a>,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let mut rows = Rows::from(self, Key::MIN)?;
        let mut previous: Option<(Key, Lsn)> = None;
        // The open data block: its offset, its inflated length, where its next part has to start.
        let mut block: Option<(u64, usize, usize)> = None;
        let (mut blocks, mut inflated) = (0, Vec::new());
        let filter = self.read_filter(ReadKind::Once)?;
        while let Some(row) = rows.next()? {
            let offset = row.place.block_offset();
            let malformed = |what| Err(self.malformed(offset, what));
            self.check_filter_of(filter.as_ref(), row.key)?;
            let (raw_len, start) = match block {
                Some((open, raw_len, end)) if open == offset => (raw_len, end),
                Some((_, raw_len, end)) if raw_len != end => {
                    return malformed("chain parts of the block before");
                }
                Some((open, ..)) if open > offset => return malformed("order of blocks"),
                _ => {
                    blocks += 1;
                    self.blocks().read_ahead(offset, ahead);
                    let raw_len = self.load_for_verify(rows.span(&row), &mut inflated)?;
                    (raw_len, 0)
                }
            };
            if row.place.part_start() != start {
                return malformed("place of a chain part");
            }
            let end = start + self.verify_part(&row, &inflated, previous, report)?;
            previous = Some((row.key, self.last_lsn(&row, &inflated)?));
            block = Some((offset, raw_len, end));
        }
        let complete = block.is_none_or(|(_, raw_len, end)| raw_len == end);
        if complete && blocks == report.data_blocks {
            return Ok(());
        }
        Err(self.malformed(self.footer().root_offset, "index of the data blocks"))
    }

    /// The inflated payload of a data block, copied.
    fn load_for_verify(&self, span: BlockSpan, inflated: &mut Vec<u8>) -> Result<usize> {
        let BlockSpan { offset, .. } = span;
        let block = self.data_block(span, ReadKind::Once)?;
        inflated.clear();
        reserve(inflated, block.raw_len, "a block that is verified")?;
        match block.codec {
            Codec::Raw => inflated.extend_from_slice(&block.stored),
            Codec::Zstd => {
                inflated.resize(block.raw_len, 0);
                self.inflate(&block.stored, offset, inflated)?;
            }
        }
        Ok(block.raw_len)
    }

    fn last_lsn(&self, row: &Row, raw: &[u8]) -> Result<Lsn> {
        let offset = row.place.block_offset();
        let part = self.part(offset, raw, row.place, row.lsn)?;
        part.lsn(part.count() - 1).ok_or_else(|| self.malformed(offset, "chain part"))
    }

    /// One part; its length.
    fn verify_part(
        &self,
        row: &Row,
        raw: &[u8],
        previous: Option<(Key, Lsn)>,
        report: &mut VerifyReport,
    ) -> Result<usize> {
        let offset = row.place.block_offset();
        let part = self.part(offset, raw, row.place, row.lsn)?;
        let malformed = |what| Err(self.malformed(offset, what));
        let summary = self.summary();
        if !summary.key_range.contains(row.key) {
            return malformed("key range");
        }
        report.keys += u64::from(previous.is_none_or(|(key, _)| key != row.key));
        let mut before: Option<Entry> = None;
        for index in 0..part.count() {
            let Some(entry) = part.entry(index) else { return malformed("chain part") };
            let is_in_order = match &before {
                None => previous < Some((row.key, entry.lsn)),
                Some(before) => entry.may_follow(before),
            };
            if !is_in_order {
                return malformed("order of versions");
            }
            if !summary.lsn_range.contains(&entry.lsn) {
                return malformed("Lsn range");
            }
            report.versions += 1;
            report.value_bytes += entry.range.len() as u64;
            before = Some(entry);
        }
        Ok(part.len())
    }

    /// Every page of the index: consistent in itself, and below the row that it was promised by.
    fn verify_index(&self, report: &VerifyReport) -> Result<()> {
        let mut pages_left = report.index_blocks;
        if let Some(level) = self.footer().height.checked_sub(1) {
            self.verify_page(self.footer().root_offset, level, None, &mut pages_left)?;
        }
        if pages_left == 0 {
            return Ok(());
        }
        Err(self.malformed(self.footer().root_offset, "index"))
    }

    fn verify_page(
        &self,
        offset: u64,
        level: u8,
        promised: Option<(Key, Lsn)>,
        pages_left: &mut u64,
    ) -> Result<()> {
        let lent = UncountedPages(self, ReadKind::Once).page(offset, level)?;
        let page = lent.page();
        let first = page.row(0).map(|row| (row.key, row.lsn));
        // The bound keeps pages that are promised many times from being visited as often.
        let Some(left) = pages_left.checked_sub(1) else {
            return Err(self.malformed(offset, "number of index blocks"));
        };
        *pages_left = left;
        if !page.is_consistent() || promised.is_some_and(|promised| Some(promised) != first) {
            return Err(self.malformed(offset, "index block"));
        }
        for index in (0..page.rows()).filter(|_| level > 0) {
            let Some(row) = page.row(index) else {
                return Err(self.malformed(offset, "index block"));
            };
            let below = row.place.block_offset();
            self.verify_page(below, level - 1, Some((row.key, row.lsn)), pages_left)?;
        }
        Ok(())
    }

    fn verify_tombstones(&self, report: &mut VerifyReport) -> Result<()> {
        for tombstone in self.tombstones() {
            if !self.summary().lsn_range.contains(&tombstone?.lsn) {
                return Err(self.malformed(self.tombstones_offset(), "Lsn range of tombstones"));
            }
            report.tombstones += 1;
        }
        Ok(())
    }
}
