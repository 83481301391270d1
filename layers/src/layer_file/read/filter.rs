//! A layer file's filter: says of most keys that the layer does not hold that it does not, with one
//! cache line and without touching the index.
//!
//! It is a blocked Bloom filter (F. Putze, P. Sanders, J. Singler, "Cache-, Hash- and Space-Efficient
//! Bloom Filters", 2007) in its split form, as Apache Parquet and Impala have it: a key sets one bit in
//! each of the eight words of one line. With [`BITS_PER_KEY`] about one absent key in a hundred is let
//! through (the unit test counts them); a key that is there always is.
//!
//! A writer makes a *partition* of the filter for each run of [`PARTITION_KEYS`] keys, so that its memory
//! does not grow with their number. A table at the end of the file says where each partition begins.
//! Table and partitions are read when a read first asks for them and stay on the heap, so that a layer
//! without the key costs a cold read no device access.
//!
//! **Invariant:** a filter never hides a key that the index holds. `verify` checks it key by key.

use std::sync::OnceLock;

use xxhash_rust::xxh3::xxh3_64;

use crate::layer_file::{
    LayerFile, ReadKind,
    format::block::{BlockType, extent},
    format::footer::{array, u64_at},
    write::block_writer::BlockSink,
};
use crate::{Error, Key, Result, prefetch::prefetch};

/// Bits of the filter for each key of the layer.
const BITS_PER_KEY: usize = 10;
/// A partition is complete when it has so many keys, or a data block more: it has 20 KiB.
const PARTITION_KEYS: usize = 16_000;
/// A line of the filter, in bytes: a cache line.
const LINE_LEN: usize = 64;
const WORDS: usize = LINE_LEN / 8;
/// A row of the table: the first key, the offset of the block, the number of lines.
const ROW_LEN: usize = 32;
const OFFSET: usize = Key::ENCODED_LEN;
const LINES: usize = OFFSET + 8;
const _: () = assert!(LINES + 4 == ROW_LEN);
/// Rows of a block of the table, but for the last one.
const ROWS_PER_BLOCK: usize = 1024;

/// Odd multipliers, one for each word of a line: those of Parquet's format, where they pick one of 32 bits.
/// Multiples of one number will not do: they let through five times as many absent keys.
const SALTS: [u32; WORDS] = [
    0x47B6_137B,
    0x4497_4D91,
    0x8824_AD5B,
    0xA2B7_289D,
    0x7054_95C7,
    0x2DF1_424B,
    0x9EFC_4947,
    0x5C6B_FB31,
];

/// What the filter of any layer is asked for a key, computed once for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHash {
    key: Key,
    /// Picks the line.
    upper: u32,
    /// The key's bit in each word of its line.
    bits: [u64; WORDS],
}

impl KeyHash {
    /// Hashes a key.
    #[must_use]
    #[inline]
    pub fn of(key: Key) -> KeyHash {
        let (upper, bits) = split(hash_of(key));
        KeyHash { key, upper, bits }
    }
}

/// xxh3-64 of the key's 20 bytes.
#[inline]
fn hash_of(key: Key) -> u64 {
    xxh3_64(&key.to_bytes())
}

/// What picks the line, and the bit in each of its words.
#[inline]
fn split(hash: u64) -> (u32, [u64; WORDS]) {
    let lower = hash as u32;
    ((hash >> 32) as u32, SALTS.map(|salt| 1 << (lower.wrapping_mul(salt) >> 26)))
}

/// Which of so many lines a key is in.
#[inline]
fn line_of(upper: u32, lines: usize) -> usize {
    ((u64::from(upper) * lines as u64) >> 32) as usize
}

/// A line, on the heap where a cache line begins.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u64; WORDS]);

impl Line {
    #[inline]
    fn may_hold(&self, hash: &KeyHash) -> bool {
        let words = self.0.iter().zip(&hash.bits);
        words.fold(0, |missing, (word, bit)| missing | (!word & bit)) == 0
    }
}

/// Where a filter has what it knows of a key, before it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct FilterProbe<'a>(Probe<'a>);

impl FilterProbe<'_> {
    /// Whether the layer may hold the key of this hash, which was probed with; none if the filter was not
    /// read yet. Reads nothing.
    #[inline]
    pub(crate) fn may_hold(self, hash: &KeyHash) -> Option<bool> {
        match self.0 {
            Probe::Line(line) => Some(line.may_hold(hash)),
            Probe::Absent => Some(false),
            Probe::Unusable => Some(true),
            Probe::NotLoaded => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Probe<'a> {
    /// In this line, whose cache line was prefetched.
    Line(&'a Line),
    /// The key is in front of all of the layer's.
    Absent,
    /// There is no filter, or none that can be used.
    Unusable,
    /// What tells was not read yet.
    NotLoaded,
}

/// The lines of a partition; none if it is damaged: then every key may be there.
#[derive(Debug)]
struct Lines(Box<[Line]>);

impl Lines {
    fn zeroed(count: usize) -> Result<Lines> {
        let mut lines = reserved(count)?;
        lines.resize(count, Line([0; WORDS]));
        Ok(Lines(lines.into()))
    }

    fn insert(&mut self, hash: u64) {
        let (upper, bits) = split(hash);
        let line = line_of(upper, self.0.len());
        self.0[line].0.iter_mut().zip(bits).for_each(|(word, bit)| *word |= bit);
    }

    #[inline]
    fn line(&self, hash: &KeyHash) -> Option<&Line> {
        self.0.get(line_of(hash.upper, self.0.len()))
    }

    #[inline]
    fn may_hold(&self, hash: &KeyHash) -> bool {
        self.line(hash).is_none_or(|line| line.may_hold(hash))
    }
}

/// What is kept on the heap need not take room in the cache of blocks.
fn uncached(kind: ReadKind<'_>) -> ReadKind<'_> {
    match kind {
        ReadKind::Wait => ReadKind::Once,
        kind => kind,
    }
}

/// An empty list with room for so many.
fn reserved<T>(count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    let bytes = count * size_of::<T>();
    match list.try_reserve_exact(count) {
        Ok(()) => Ok(list),
        Err(_) => Err(Error::OutOfMemory { what: "the filter of a layer file", bytes }),
    }
}

/// One partition.
#[derive(Debug)]
struct Partition {
    /// The partition is of this key and those behind it, up to the next partition's.
    first: Key,
    offset: u64,
    lines: u32,
    /// Empty until a read asks for it.
    loaded: OnceLock<Lines>,
}

/// The table of a filter, once it was read.
#[derive(Debug)]
pub(crate) struct Filter(Box<[Partition]>);

impl Filter {
    /// The partition of a key; none if the key is in front of all keys of the layer.
    #[inline]
    fn partition(&self, key: Key) -> Option<&Partition> {
        match &*self.0 {
            // Nearly always the key is behind its first one.
            [only] => (only.first <= key).then_some(only),
            all => all.get(all.partition_point(|partition| partition.first <= key).wrapping_sub(1)),
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let lines = self.0.iter().filter_map(|partition| partition.loaded.get());
        size_of_val(&*self.0) + lines.map(|lines| size_of_val(&*lines.0)).sum::<usize>()
    }
}

/// What is known of a file's filter, once it was looked for.
#[derive(Debug)]
pub(crate) enum FilterState {
    /// Its table.
    Loaded(Filter),
    /// The file has none, or its table is damaged: every key may be there.
    Absent,
}

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
        self.first.get_or_insert(key);
        self.hashes.push(hash_of(key));
    }

    /// Writes the open partition if it is complete. No block may be open in the sink.
    pub(crate) fn write_complete(&mut self, sink: &mut BlockSink) -> Result<()> {
        if self.hashes.len() >= PARTITION_KEYS { self.write_partition(sink) } else { Ok(()) }
    }

    /// Writes the open partition: no key follows. No block may be open in the sink.
    pub(crate) fn write_partition(&mut self, sink: &mut BlockSink) -> Result<()> {
        let Some(first) = self.first.take() else { return Ok(()) };
        let count = (self.hashes.len() * BITS_PER_KEY).div_ceil(LINE_LEN * 8);
        let mut lines = Lines::zeroed(count)?;
        self.hashes.drain(..).for_each(|hash| lines.insert(hash));
        self.rows.push((first, sink.block_offset(), count as u32));
        let payload = sink.begin();
        let words = lines.0.iter().flat_map(|line| line.0);
        words.for_each(|word| payload.extend_from_slice(&word.to_le_bytes()));
        sink.end(BlockType::Filter)
    }

    /// Writes the table, behind everything else; how many partitions there are.
    pub(crate) fn finish(self, sink: &mut BlockSink) -> Result<u32> {
        assert!(self.hashes.is_empty(), "all partitions are written");
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

/// What the table of so many partitions occupies of the file.
pub(crate) fn table_len(partitions: u32) -> u64 {
    let partitions = partitions as usize;
    let (full, rest) = (partitions / ROWS_PER_BLOCK, partitions % ROWS_PER_BLOCK);
    let last = if rest > 0 { extent(rest * ROW_LEN) } else { 0 };
    (full * extent(ROWS_PER_BLOCK * ROW_LEN) + last) as u64
}

impl LayerFile {
    /// Whether the layer may hold a key with this hash. False means that it does not. True for about one
    /// absent key in a hundred; for all of them where there is no filter, or a damaged one (which
    /// [`LayerFile::verify`] reports), or one that cannot be read.
    #[inline]
    #[must_use]
    pub fn may_hold(&self, hash: &KeyHash, kind: ReadKind<'_>) -> bool {
        self.ask_filter(hash, kind).unwrap_or(true)
    }

    /// As [`LayerFile::may_hold`], but what keeps the filter from being read is an error: that it is not
    /// resident, or an error of the system.
    #[inline]
    pub(crate) fn ask_filter(&self, hash: &KeyHash, kind: ReadKind<'_>) -> Result<bool> {
        if let Some(may_hold) = self.probe_filter(hash).may_hold(hash) {
            return Ok(may_hold);
        }
        if let FilterState::Loaded(filter) = self.load_filter(kind)?
            && let Some(partition) = filter.partition(hash.key)
        {
            self.load_partition(partition, kind)?;
        }
        Ok(self.probe_filter(hash).may_hold(hash) != Some(false))
    }

    /// Finds where the filter has what it knows of a key, and prefetches that.
    #[inline]
    #[must_use]
    pub fn probe_filter(&self, hash: &KeyHash) -> FilterProbe<'_> {
        let filter = match self.filter_state().get() {
            Some(FilterState::Loaded(filter)) => filter,
            Some(FilterState::Absent) => return FilterProbe(Probe::Unusable),
            None => return FilterProbe(Probe::NotLoaded),
        };
        let Some(partition) = filter.partition(hash.key) else {
            return FilterProbe(Probe::Absent);
        };
        let Some(lines) = partition.loaded.get() else { return FilterProbe(Probe::NotLoaded) };
        FilterProbe(match lines.line(hash) {
            Some(line) => {
                prefetch(std::ptr::from_ref(line).cast());
                Probe::Line(line)
            }
            None => Probe::Unusable,
        })
    }

    #[cold]
    fn load_filter(&self, kind: ReadKind<'_>) -> Result<&FilterState> {
        if let Some(state) = self.filter_state().get() {
            return Ok(state);
        }
        let state = match self.read_filter(kind) {
            Ok(Some(filter)) => FilterState::Loaded(filter),
            Ok(None) | Err(Error::Corrupt(_)) => FilterState::Absent,
            Err(error) => return Err(error),
        };
        // Of two threads that read it at once the first one's stays.
        Ok(self.filter_state().get_or_init(|| state))
    }

    #[cold]
    fn load_partition(&self, partition: &Partition, kind: ReadKind<'_>) -> Result<()> {
        if partition.loaded.get().is_none() {
            let lines = match self.read_partition(partition, kind) {
                // Without a line every key may be there.
                Err(Error::Corrupt(_)) => Lines(Box::default()),
                lines => lines?,
            };
            partition.loaded.get_or_init(|| lines);
        }
        Ok(())
    }

    /// The table of the filter as it is in the file; none if there is no filter.
    pub(crate) fn read_filter(&self, kind: ReadKind<'_>) -> Result<Option<Filter>> {
        let count = self.footer().filter_partitions as usize;
        if count == 0 {
            return Ok(None);
        }
        let (kind, mut partitions): (_, Vec<Partition>) = (uncached(kind), reserved(count)?);
        let mut offset = self.filter_table_offset();
        while partitions.len() < count {
            let payload = self.raw_payload(offset, BlockType::FilterTable, kind)?;
            let (rows, rest) = payload.as_chunks::<ROW_LEN>();
            let expected = (count - partitions.len()).min(ROWS_PER_BLOCK);
            if rows.len() != expected || !rest.is_empty() {
                return Err(self.malformed(offset, "table of the filter"));
            }
            for row in rows {
                let first = Key::from_bytes(&array(row, 0));
                if partitions.last().is_some_and(|before| before.first >= first) {
                    return Err(self.malformed(offset, "order of the filter's partitions"));
                }
                partitions.push(Partition {
                    first,
                    offset: u64_at(row, OFFSET),
                    lines: u32::from_le_bytes(array(row, LINES)),
                    loaded: OnceLock::new(),
                });
            }
            offset += extent(payload.len()) as u64;
        }
        Ok(Some(Filter(partitions.into())))
    }

    fn read_partition(&self, partition: &Partition, kind: ReadKind<'_>) -> Result<Lines> {
        let Partition { offset, lines: count, .. } = *partition;
        let payload = self.raw_payload(offset, BlockType::Filter, uncached(kind))?;
        let (found, rest) = payload.as_chunks::<LINE_LEN>();
        if found.is_empty() || found.len() != count as usize || !rest.is_empty() {
            return Err(self.malformed(offset, "filter block"));
        }
        let mut lines = reserved(found.len())?;
        lines.extend(
            found.iter().map(|bytes| Line(std::array::from_fn(|word| u64_at(bytes, word * 8)))),
        );
        Ok(Lines(lines.into()))
    }

    /// Where the table begins: it ends where the footer begins.
    pub(crate) fn filter_table_offset(&self) -> u64 {
        self.blocks().end().saturating_sub(table_len(self.footer().filter_partitions))
    }

    /// Checks that the filter, if there is one, lets a key through that the layer holds. For verification.
    pub(crate) fn check_filter_of(&self, filter: Option<&Filter>, key: Key) -> Result<()> {
        let Some(filter) = filter else { return Ok(()) };
        let Some(partition) = filter.partition(key) else {
            return Err(self.malformed(self.filter_table_offset(), "first key of the filter"));
        };
        let lines = match partition.loaded.get() {
            Some(lines) => lines,
            None => {
                let lines = self.read_partition(partition, ReadKind::Once)?;
                partition.loaded.get_or_init(|| lines)
            }
        };
        match lines.may_hold(&KeyHash::of(key)) {
            true => Ok(()),
            false => Err(self.malformed(partition.offset, "filter: a key is not in it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_absent_key_in_a_hundred_is_let_through_and_no_present_key_is_held_back() {
        // Every third block of a relation, scattered blocks of many, few keys, very few.
        let of = |object: u128, block: u32| Key::new(object, block);
        let cases: [(Vec<Key>, Vec<Key>); 4] = [
            (
                (0..30_000).map(|n| of(7, 3 * n)).collect(),
                (0..60_000).map(|n| of(7, n / 2 * 3 + n % 2 + 1)).collect(),
            ),
            (
                (0..30_000).map(|n| of(u128::from(n) << 64, n * 17)).collect(),
                (0..60_000).map(|n| of(u128::from(n) << 64, n * 17 + 1)).collect(),
            ),
            ((0..100).map(|n| of(1, n)).collect(), (100..60_000).map(|n| of(1, n)).collect()),
            ((0..2).map(|n| of(1, n)).collect(), (2..60_000).map(|n| of(1, n)).collect()),
        ];
        for (present, absent) in cases {
            let lines = (present.len() * BITS_PER_KEY).div_ceil(512);
            let mut lines = Lines::zeroed(lines).unwrap();
            present.iter().for_each(|&key| lines.insert(hash_of(key)));
            assert!(present.iter().all(|&key| lines.may_hold(&KeyHash::of(key))));
            let passed = absent.iter().filter(|&&key| lines.may_hold(&KeyHash::of(key))).count();
            let share = passed as f64 / absent.len() as f64;
            assert!(share < 0.02, "{} keys: {share} of those absent", present.len());
        }
    }

    #[test]
    fn hashes_are_those_of_files_that_were_written_before() {
        // As another implementation of xxh3 has it.
        assert_eq!(hash_of(Key::new(1, 2)), 0xC504_F74E_8804_9C5D);
        assert_eq!((line_of(u32::MAX, 7), line_of(0, 7)), (6, 0));
        let (upper, bits) = split(5 << 32 | 1);
        assert_eq!((upper, bits.map(u64::ilog2)), (5, [17, 17, 34, 40, 28, 11, 39, 23]));
    }

    #[test]
    fn the_table_of_any_number_of_partitions_has_the_length_of_its_blocks() {
        assert_eq!(table_len(0), 0);
        assert_eq!(table_len(1), 512);
        let block = extent(ROWS_PER_BLOCK * ROW_LEN) as u64;
        assert_eq!(table_len(1024), block);
        assert_eq!(table_len(2049), 2 * block + 512);
    }
}
