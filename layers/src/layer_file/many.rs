//! Reading several keys of a layer file at once: each page of the index and each block is read once, and blocks that lie together
//! are read together.

use std::sync::Arc;

use super::{
    LayerFile, ReadKind, ReadSpace,
    access::CachedBlock,
    index::HEIGHT_MAX,
    reader::{Asked, BlocksOf, IndexPages, LentPage, Located, Plain},
};
use crate::{PageVersion, Result, Walk};

/// How many payloads are remembered: the next keys are most likely in one of these.
const RECENT: usize = 8;

impl LayerFile {
    /// As [`LayerFile::versions`], of several keys at once; in order of their keys it reads least. `out` is given each version with the
    /// index of what was asked, `ended` how it ended, with one's versions before the next one's. What fails for one does not fail for the others.
    pub fn versions_of_many<'a>(
        &'a self,
        asked: &[Asked],
        space: &'a impl ReadSpace,
        out: &mut impl FnMut(usize, PageVersion<'a>),
        ended: &mut impl FnMut(usize, Result<Walk>),
    ) {
        let mut visit = Visit::new(self, space);
        let located: Vec<Result<Located>> =
            asked.iter().map(|asked| self.locate(asked, &mut visit)).collect();
        if let ReadKind::Wait = visit.kind() {
            visit.read_together(&located);
        }
        for (index, (asked, located)) in asked.iter().zip(located).enumerate() {
            let walk = located.and_then(|located| match located {
                Located::Ended(walk) => Ok(walk),
                Located::At { part, dropped } => {
                    self.walk(asked, part, dropped, &mut visit, &mut |version| out(index, version))
                }
            });
            ended(index, walk);
        }
    }
}

/// The blocks of a file, with those in mind that are likely to be needed again.
struct Visit<'a, S> {
    plain: Plain<'a, S>,
    /// The page of each level that was used last.
    pages: [Option<(u64, LentPage<'a>)>; HEIGHT_MAX],
    /// The payloads that were used last.
    recent: [Option<(u64, &'a [u8])>; RECENT],
    next_recent: usize,
    /// Blocks that were read before they are needed, in order of their offsets.
    together: Vec<(u64, Arc<CachedBlock>)>,
}

impl<'a, S: ReadSpace> Visit<'a, S> {
    fn new(file: &'a LayerFile, space: &'a S) -> Visit<'a, S> {
        Visit {
            plain: Plain { file, space },
            pages: [const { None }; HEIGHT_MAX],
            recent: [None; RECENT],
            next_recent: 0,
            together: Vec::new(),
        }
    }

    /// Reads the blocks where these begin, as far as they are not in memory, with as few reads as it takes.
    fn read_together(&mut self, located: &[Result<Located>]) {
        let offset = |located: &Result<Located>| match located {
            Ok(Located::At { part, .. }) => Some(part.place.block_offset()),
            _ => None,
        };
        let mut offsets: Vec<u64> = located.iter().filter_map(offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        if offsets.len() > 1 {
            self.together = self.plain.file.blocks().read_together(&offsets);
        }
    }
}

impl<'a, S: ReadSpace> IndexPages<'a> for Visit<'a, S> {
    type Page = LentPage<'a>;

    fn page(&mut self, offset: u64, level: u8) -> Result<LentPage<'a>> {
        let last = self.pages.get_mut(usize::from(level));
        if let Some(Some((at, page))) = &last
            && *at == offset
        {
            return Ok(page.clone());
        }
        let page = self.plain.page(offset, level)?;
        if let Some(last) = last {
            *last = Some((offset, page.clone()));
        }
        Ok(page)
    }
}

impl<'a, S: ReadSpace> BlocksOf<'a> for Visit<'a, S> {
    fn kind(&self) -> ReadKind<'a> {
        self.plain.kind()
    }

    fn payload(&mut self, offset: u64) -> Result<&'a [u8]> {
        if let Some((_, payload)) = self.recent.iter().flatten().find(|(at, _)| *at == offset) {
            return Ok(payload);
        }
        let payload = match self.together.binary_search_by_key(&offset, |(at, _)| *at) {
            Ok(found) => self.plain.payload_of(offset, self.together[found].1.clone())?,
            Err(_) => self.plain.payload(offset)?,
        };
        self.recent[self.next_recent % RECENT] = Some((offset, payload));
        self.next_recent += 1;
        Ok(payload)
    }
}
