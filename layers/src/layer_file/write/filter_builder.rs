//! [`FilterBuilder`]: the filter of a layer that is being written, one partition at a time.

use super::block_writer::BlockWriter;
use crate::{
    Key, Result,
    layer_file::format::{
        block::BlockType,
        filter_lines::{BITS_PER_KEY, LINE_LEN, Lines, PARTITION_KEYS, ROWS_PER_BLOCK, hash_of},
    },
};

/// Makes the filter of a layer that is being written.
#[derive(Debug, Default)]
pub(crate) struct FilterBuilder {
    /// Of the keys of the open partition.
    hashes: Vec<u64>,
    first: Option<Key>,
    /// First key, offset and number of lines of the partitions that were written.
    rows: Vec<(Key, u64, u32)>,
}

impl FilterBuilder {
    /// Adds a key behind those that were added.
    pub(crate) fn push(&mut self, key: Key) {
        if self.hashes.capacity() == 0 {
            self.hashes.reserve_exact(PARTITION_KEYS);
        }
        debug_assert!(self.first.is_none_or(|first| first < key), "keys are pushed in order");
        debug_assert!(self.rows.last().is_none_or(|row| row.0 < key), "partitions are in order");
        self.first.get_or_insert(key);
        self.hashes.push(hash_of(key));
    }

    /// Writes the open partition if it is complete. No block may be open in the sink.
    pub(crate) fn write_complete(&mut self, sink: &mut BlockWriter) -> Result<()> {
        if self.hashes.len() >= PARTITION_KEYS { self.write_partition(sink) } else { Ok(()) }
    }

    /// Writes the open partition: no key follows. No block may be open in the sink.
    pub(crate) fn write_partition(&mut self, sink: &mut BlockWriter) -> Result<()> {
        let Some(first) = self.first.take() else { return Ok(()) };
        let count = (self.hashes.len() * BITS_PER_KEY).div_ceil(LINE_LEN * 8);
        debug_assert!(count > 0, "a partition has a key");
        let mut lines = Lines::zeroed(count)?;
        self.hashes.drain(..).for_each(|hash| lines.insert(hash));
        self.rows.push((first, sink.block_offset(), count as u32));
        let payload = sink.begin();
        let words = lines.0.iter().flat_map(|line| line.0);
        words.for_each(|word| payload.extend_from_slice(&word.to_le_bytes()));
        sink.end(BlockType::Filter)
    }

    /// Writes the table, behind everything else; how many partitions there are.
    pub(crate) fn finish(self, sink: &mut BlockWriter) -> Result<u32> {
        assert!(self.hashes.is_empty(), "all partitions are written");
        verify!(self.rows.is_sorted_by_key(|row| (row.0, row.1)), "partitions are in order");
        for rows in self.rows.chunks(ROWS_PER_BLOCK) {
            let payload = sink.begin();
            for (first, offset, lines) in rows {
                payload.extend_from_slice(&first.to_bytes());
                payload.extend_from_slice(&offset.to_le_bytes());
                payload.extend_from_slice(&lines.to_le_bytes());
            }
            sink.end(BlockType::FilterTable)?;
        }
        Ok(u32::try_from(self.rows.len()).expect("a partition has thousands of keys"))
    }
}
