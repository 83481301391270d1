//! Reading several keys of a layer file at once: each page of the index and each block is read
//! once, and blocks that lie together are read together.

use std::sync::Arc;

use super::{
    block_reader::BlockSpan,
    page_source::{BlocksOf, FileBlocks, IndexPages, MappedBlocks, PageBytes},
    reader::{LayerFile, VersionQuery, WalkStart},
};
use crate::{
    PageVersion, Result, WalkEnd,
    layer_file::{
        access::{
            layer_access::CachedBlock,
            scratch::{ReadKind, ReadScratch},
        },
        format::index_page::HEIGHT_MAX,
    },
};

/// How many payloads are remembered: the next keys are most likely in one of these.
const RECENT: usize = 8;

impl LayerFile {
    /// As [`LayerFile::versions`], of several keys at once; in order of their keys it reads least.
    /// `out` is given each version with the index of what was asked, `ended` how it ended, with
    /// one's versions before the next one's. What fails for one does not fail for the others.
    pub fn versions_of_many<'a>(
        &'a self,
        queries: &[VersionQuery],
        scratch: &'a impl ReadScratch,
        out: &mut impl FnMut(usize, PageVersion<'a>),
        ended: &mut impl FnMut(usize, Result<WalkEnd>),
    ) {
        match self.blocks().mapped() {
            Some(map) => {
                let blocks = MappedBlocks { file: self, map, scratch };
                self.visit(
                    queries,
                    blocks,
                    |_, spans| drop(self.blocks().read_together(spans)),
                    out,
                    ended,
                );
            }
            None => {
                let blocks =
                    BatchedBlocks { plain: FileBlocks { file: self, scratch }, blocks: Vec::new() };
                let read = |blocks: &mut BatchedBlocks<'_, _>, spans: &[BlockSpan]| {
                    blocks.blocks = self.blocks().read_together(spans);
                };
                self.visit(queries, blocks, read, out, ended);
            }
        }
    }

    /// Where each key's versions are, then the blocks of all, with `read_together`, then the
    /// versions.
    fn visit<'a, B: BlocksOf<'a>>(
        &'a self,
        queries: &[VersionQuery],
        blocks: B,
        read_together: impl FnOnce(&mut B, &[BlockSpan]),
        out: &mut impl FnMut(usize, PageVersion<'a>),
        ended: &mut impl FnMut(usize, Result<WalkEnd>),
    ) {
        let mut visit = RecentBlocks {
            blocks,
            pages: [const { None }; HEIGHT_MAX],
            recent: [None; RECENT],
            next_recent: 0,
        };
        let located: Vec<Result<WalkStart>> =
            queries.iter().map(|query| self.locate(query, &mut visit)).collect();
        if let ReadKind::Wait = visit.kind() {
            let span = |located: &Result<WalkStart>| match located {
                Ok(WalkStart::At { part, .. }) => Some(part.span()),
                _ => None,
            };
            let mut spans: Vec<BlockSpan> = located.iter().filter_map(span).collect();
            spans.sort_unstable();
            spans.dedup_by_key(|span| span.offset);
            debug_assert!(spans.len() <= queries.len(), "a query needs one block at first");
            if spans.len() > 1 {
                read_together(&mut visit.blocks, &spans);
            }
        }
        for (index, (query, located)) in queries.iter().zip(located).enumerate() {
            let walk = located.and_then(|located| match located {
                WalkStart::Ended(walk) => Ok(walk),
                WalkStart::At { part, dropped } => {
                    self.walk(query, part, dropped, &mut visit, &mut |version| out(index, version))
                }
            });
            ended(index, walk);
        }
    }
}

/// The blocks of a file that is not mapped, some of which were read before they are needed.
struct BatchedBlocks<'a, S> {
    plain: FileBlocks<'a, S>,
    /// In order of their offsets.
    blocks: Vec<(u64, Arc<CachedBlock>)>,
}

impl<'a, S: ReadScratch> IndexPages<'a> for BatchedBlocks<'a, S> {
    type Page = PageBytes<'a>;

    const READS_BLOCKS: bool = true;

    fn page(&mut self, offset: u64, level: u8) -> Result<PageBytes<'a>> {
        self.plain.page(offset, level)
    }
}

impl<'a, S: ReadScratch> BlocksOf<'a> for BatchedBlocks<'a, S> {
    fn kind(&self) -> ReadKind<'a> {
        self.plain.kind()
    }

    fn payload(&mut self, span: BlockSpan) -> Result<&'a [u8]> {
        match self.blocks.binary_search_by_key(&span.offset, |(at, _)| *at) {
            Ok(found) => self.plain.payload_of(span.offset, self.blocks[found].1.clone()),
            Err(_) => self.plain.payload(span),
        }
    }
}

/// The blocks of a file, with those in mind that are likely to be needed again.
struct RecentBlocks<'a, B: BlocksOf<'a>> {
    blocks: B,
    /// The page of each level that was used last.
    pages: [Option<(u64, B::Page)>; HEIGHT_MAX],
    /// The payloads that were used last.
    recent: [Option<(u64, &'a [u8])>; RECENT],
    next_recent: usize,
}

impl<'a, B: BlocksOf<'a>> IndexPages<'a> for RecentBlocks<'a, B> {
    type Page = B::Page;

    const READS_BLOCKS: bool = B::READS_BLOCKS;

    fn page(&mut self, offset: u64, level: u8) -> Result<B::Page> {
        let last = self.pages.get_mut(usize::from(level));
        if let Some(Some((at, page))) = &last
            && *at == offset
        {
            return Ok(page.clone());
        }
        let page = self.blocks.page(offset, level)?;
        if let Some(last) = last {
            *last = Some((offset, page.clone()));
        }
        Ok(page)
    }
}

impl<'a, B: BlocksOf<'a>> BlocksOf<'a> for RecentBlocks<'a, B> {
    fn kind(&self) -> ReadKind<'a> {
        self.blocks.kind()
    }

    fn payload(&mut self, span: BlockSpan) -> Result<&'a [u8]> {
        let BlockSpan { offset, .. } = span;
        if let Some((_, payload)) = self.recent.iter().flatten().find(|(at, _)| *at == offset) {
            return Ok(payload);
        }
        let payload = self.blocks.payload(span)?;
        self.recent[self.next_recent % RECENT] = Some((offset, payload));
        self.next_recent += 1;
        Ok(payload)
    }
}
