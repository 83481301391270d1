//! Bulk loading of the index: one page a level is being filled; a full one is written and becomes a
//! row one level up.

use super::block_writer::{BLOCK_OVERHEAD_MAX, BlockWriter};
use crate::{
    Lsn, Result,
    layer_file::format::{
        block::BlockType,
        index_page::{HEIGHT_MAX, PAGE_LEN_MAX, PageBuilder, Place, Row},
    },
};

/// The pages that are being filled, leaf first. None is ever empty.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    levels: Vec<PageBuilder>,
}

impl IndexBuilder {
    /// Adds a row to the leaf, and what follows from it. No block may be open in the sink.
    pub(crate) fn push(&mut self, row: Row, sink: &mut BlockWriter) -> Result<()> {
        self.push_at(0, row, sink)
    }

    fn push_at(&mut self, first_level: usize, mut row: Row, sink: &mut BlockWriter) -> Result<()> {
        for level in first_level.. {
            if level == self.levels.len() {
                assert!(level < HEIGHT_MAX, "an index of {HEIGHT_MAX} levels is full");
                self.levels.push(PageBuilder::new(level as u8));
            }
            let page = &mut self.levels[level];
            debug_assert!(page.last() < Some((row.key, row.lsn)), "rows are pushed in order");
            if page.push(&row) {
                break;
            }
            let parent = write(page, sink)?;
            let fits = page.push(&row);
            debug_assert!(fits, "an empty page takes a row");
            row = parent;
        }
        Ok(())
    }

    /// Writes what is left; height and root, zero and zero if there was no row.
    pub(crate) fn finish(mut self, sink: &mut BlockWriter) -> Result<(u8, u64)> {
        let mut level = 0;
        // Each step may add a level, by filling the page above.
        while level < self.levels.len() {
            let row = write(&mut self.levels[level], sink)?;
            level += 1;
            assert!(level <= HEIGHT_MAX, "an index of {level} levels");
            if level == self.levels.len() {
                return Ok((level as u8, row.place.block_offset()));
            }
            self.push_at(level, row, sink)?;
        }
        Ok((0, 0))
    }
}

/// Writes a page; the row that stands for it one level up.
fn write(page: &mut PageBuilder, sink: &mut BlockWriter) -> Result<Row> {
    debug_assert!(page.first().is_some(), "no page is empty");
    let (key, lsn) = page.first().unwrap_or((crate::Key::MIN, Lsn::INVALID));
    let place = Place::new(sink.block_offset(), 0);
    sink.reserve(PAGE_LEN_MAX + BLOCK_OVERHEAD_MAX)?;
    page.write(sink.begin());
    sink.end(BlockType::Index)?;
    Ok(Row { key, lsn, place })
}
