//! [`Lookup`]: the search of a mapped file's index, one level at a time.
//!
//! A read that goes through several layers waits for memory at each level of each index, and again
//! for the chain part. It takes these waits together instead: it has all layers make one step, each
//! step prefetches the cache lines of the next one, and when the last layer has made its step those
//! of the first have arrived.
//!
//! A step looks only at blocks that were verified before. Where one was not, or anything else is
//! not as in most layers, the lookup is [`State::Unknown`], and [`LayerFile::versions_by`] does the
//! whole read.

use super::{
    filter::FilterProbe,
    page_source::MappedBlocks,
    reader::{LayerFile, PartAt, VersionQuery},
};
use crate::{
    Key, Lsn, PageVersion, Result, WalkEnd,
    layer_file::{
        access::scratch::{ReadKind, ReadScratch},
        format::{
            block::{BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockType},
            filter_lines::KeyHash,
            index_page::Page,
        },
    },
    prefetch::prefetch,
};

/// How far the search for a key has come in a layer file.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    state: State,
    /// Blocks of the index that were searched, and the length of their payloads.
    blocks: u32,
    block_bytes: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// At a page of the index whose cache lines were asked for.
    Page {
        offset: u64,
        level: u8,
        /// Which row of it is likely to be the one.
        row: Option<usize>,
    },
    /// At a chain part whose cache lines were asked for.
    Part(PartAt),
    /// The layer has no version of the key at or below the Lsn.
    Absent,
    /// Nothing is known.
    Unknown,
}

impl Default for Lookup {
    fn default() -> Lookup {
        Lookup::UNKNOWN
    }
}

impl Lookup {
    const UNKNOWN: Lookup = Lookup { state: State::Unknown, blocks: 0, block_bytes: 0 };

    /// Whether it is known that the layer holds no version of the key at or below the Lsn.
    #[inline]
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.state, State::Absent)
    }

    /// Whether the next step searches a leaf, or there is no next step.
    #[inline]
    #[must_use]
    pub fn is_at_leaf(&self) -> bool {
        !matches!(self.state, State::Page { level: 1.., .. })
    }
}

impl LayerFile {
    /// Begins the search for a key with this hash, of which [`LayerFile::probe_filter`] has found
    /// `probe`: asks the filter, and prefetches the root of the index.
    ///
    /// When the filter says that the key is not here, a read of it ends with [`WalkEnd::Older`]:
    /// complete image layers, whose absence would say more, have no filter.
    #[must_use]
    #[inline]
    pub fn lookup(&self, hash: &KeyHash, probe: FilterProbe<'_>, kind: ReadKind<'_>) -> Lookup {
        let footer = self.footer();
        // Tombstones are looked for by the whole read.
        if footer.summary.tombstones > 0 {
            return Lookup::UNKNOWN;
        }
        match probe.may_hold(hash) {
            // The whole read will read it, if it comes to this layer at all.
            None => return Lookup::UNKNOWN,
            Some(false) => return Lookup { state: State::Absent, ..Lookup::UNKNOWN },
            Some(true) => {}
        }
        match (kind, self.blocks().mapped()) {
            (ReadKind::Wait, Some(map)) if footer.height > 0 => {
                let (offset, level) = (footer.root_offset, footer.height - 1);
                let page = map.bytes().as_ptr().wrapping_add(offset as usize);
                prefetch(page);
                prefetch(page.wrapping_add(BLOCK_ALIGN));
                let state = State::Page { offset, level, row: None };
                Lookup { state, ..Lookup::UNKNOWN }
            }
            // What may not wait must not touch a mapping before it is known to be resident.
            _ => Lookup::UNKNOWN,
        }
    }

    /// Searches the page that the lookup is at and prefetches what it leads to: one level down, or
    /// from a leaf to the chain part.
    #[inline]
    pub fn advance(&self, lookup: &mut Lookup, key: Key, lsn: Lsn) {
        if let State::Page { offset, level, row } = lookup.state {
            let next = self.step(offset, level, row, key, lsn);
            let (state, bytes) = next.unwrap_or((State::Unknown, 0));
            lookup.state = state;
            lookup.blocks += 1;
            lookup.block_bytes += bytes;
        }
    }

    /// The next state and the length of the page's payload; none if that cannot be told from here.
    #[inline]
    fn step(
        &self,
        offset: u64,
        level: u8,
        row: Option<usize>,
        key: Key,
        lsn: Lsn,
    ) -> Option<(State, u32)> {
        let map = self.blocks().mapped()?;
        let payload = self.blocks().verified_payload(map, offset, BlockType::Index)?;
        let page = Page::parse(payload).filter(|page| page.level() == level)?;
        let len = payload.len() as u32;
        let guessed = row.and_then(|row| page.hit_at(row, key, lsn));
        let Some(hit) = guessed.or_else(|| page.search(key, lsn)) else {
            return Some((State::Absent, len));
        };
        let (first_lsn, place) = page.pair(hit.row)?;
        let block = map.bytes().as_ptr().wrapping_add(place.block_offset() as usize);
        if level > 0 {
            let row = if level == 1 { page.guess(hit.row, key) } else { None };
            prefetch(block);
            match row {
                Some(row) => Page::offsets_of_row(row)
                    .into_iter()
                    .for_each(|at| prefetch(block.wrapping_add(BLOCK_HEADER_LEN + at))),
                None => prefetch(block.wrapping_add(BLOCK_ALIGN)),
            }
            let offset = place.block_offset();
            return Some((State::Page { offset, level: level - 1, row }, len));
        }
        if !hit.is_of_key {
            return Some((State::Absent, len));
        }
        // The part's entries and what follows them; the block's header where it will be looked at.
        let part = block.wrapping_add(BLOCK_HEADER_LEN + place.part_start());
        [part, part.wrapping_add(BLOCK_ALIGN)].into_iter().for_each(prefetch);
        if self.blocks().verified_data(map, place.block_offset()).is_none() {
            prefetch(block);
        }
        let is_oldest = page.is_oldest(hit.row, key);
        // The file is mapped: the block is not read.
        let end_max = 0;
        let part = PartAt { leaf_offset: offset, first_lsn, place, is_oldest, end_max };
        Some((State::Part(part), len))
    }

    /// As [`LayerFile::versions`], from where a lookup of the same key and `lsn` has come to.
    ///
    /// # Errors
    /// As [`LayerFile::versions`].
    #[inline]
    pub fn versions_by<'a>(
        &'a self,
        lookup: &Lookup,
        query: VersionQuery,
        scratch: &'a impl ReadScratch,
        out: &mut impl FnMut(PageVersion<'a>),
    ) -> Result<WalkEnd> {
        let VersionQuery { key, lsn, floor } = query;
        match (lookup.state, self.blocks().mapped()) {
            (State::Part(part), Some(map)) => {
                scratch.touched_blocks(lookup.blocks as usize, lookup.block_bytes as usize);
                let mut blocks = MappedBlocks { file: self, map, scratch };
                self.walk(&query, part, None, &mut blocks, out)
            }
            (State::Absent, _) => {
                scratch.touched_blocks(lookup.blocks as usize, lookup.block_bytes as usize);
                Ok(match self.is_absence_final(key, lsn, floor) {
                    true => WalkEnd::Dropped,
                    false => WalkEnd::Older,
                })
            }
            _ => self.versions(key, lsn, floor, scratch, out),
        }
    }
}
