//! A layer file's filter: says of most keys that the layer does not hold that it does not, with one
//! cache line and without touching the index.
//!
//! It is a blocked Bloom filter (F. Putze, P. Sanders, J. Singler, "Cache-, Hash- and
//! Space-Efficient Bloom Filters", 2007) in its split form, as Apache Parquet and Impala have it: a
//! key sets one bit in each of the eight words of one line. With [`BITS_PER_KEY`] about one absent
//! key in a hundred is let through (the unit test counts them); a key that is there always is.
//!
//! A writer makes a *partition* of the filter for each run of [`PARTITION_KEYS`] keys, so that its
//! memory does not grow with their number. A table at the end of the file says where each partition
//! begins. Table and partitions are read when a read first asks for them and stay on the heap, so
//! that a layer without the key costs a cold read no device access.
//!
//! **Invariant:** a filter never hides a key that the index holds. `verify` checks it key by key.

use xxhash_rust::xxh3::xxh3_64;

use super::block::extent;
use crate::{Error, Key, Result};

/// Bits of the filter for each key of the layer.
pub(crate) const BITS_PER_KEY: usize = 10;
/// A partition is complete when it has so many keys, or a data block more: it has 20 KiB.
pub(crate) const PARTITION_KEYS: usize = 16_000;
/// A line of the filter, in bytes: a cache line.
pub(crate) const LINE_LEN: usize = 64;
pub(crate) const WORDS: usize = LINE_LEN / 8;
/// A row of the table: the first key, the offset of the block, the number of lines.
pub(crate) const ROW_LEN: usize = 32;
pub(crate) const OFFSET: usize = Key::ENCODED_LEN;
pub(crate) const LINES: usize = OFFSET + 8;
const _: () = assert!(LINES + 4 == ROW_LEN);
/// Rows of a block of the table, but for the last one.
pub(crate) const ROWS_PER_BLOCK: usize = 1024;

/// Odd multipliers, one for each word of a line: those of Parquet's format, where they pick one of
/// 32 bits. Multiples of one number will not do: they let through five times as many absent keys.
pub(crate) const SALTS: [u32; WORDS] = [
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
    pub(crate) key: Key,
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
pub(crate) fn hash_of(key: Key) -> u64 {
    xxh3_64(&key.to_bytes())
}

/// What picks the line, and the bit in each of its words.
#[inline]
pub(crate) fn split(hash: u64) -> (u32, [u64; WORDS]) {
    let lower = hash as u32;
    ((hash >> 32) as u32, SALTS.map(|salt| 1 << (lower.wrapping_mul(salt) >> 26)))
}

/// Which of so many lines a key is in.
#[inline]
pub(crate) fn line_of(upper: u32, lines: usize) -> usize {
    ((u64::from(upper) * lines as u64) >> 32) as usize
}

/// A line, on the heap where a cache line begins.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [u64; WORDS]);

impl Line {
    #[inline]
    pub(crate) fn may_hold(&self, hash: &KeyHash) -> bool {
        let words = self.0.iter().zip(&hash.bits);
        words.fold(0, |missing, (word, bit)| missing | (!word & bit)) == 0
    }
}

/// The lines of a partition; none if it is damaged: then every key may be there.
#[derive(Debug)]
pub(crate) struct Lines(pub(crate) Box<[Line]>);

impl Lines {
    pub(crate) fn zeroed(count: usize) -> Result<Lines> {
        let mut lines = reserved(count)?;
        lines.resize(count, Line([0; WORDS]));
        Ok(Lines(lines.into()))
    }

    pub(crate) fn insert(&mut self, hash: u64) {
        debug_assert!(!self.0.is_empty(), "a filter has a line");
        let (upper, bits) = split(hash);
        let line = line_of(upper, self.0.len());
        self.0[line].0.iter_mut().zip(bits).for_each(|(word, bit)| *word |= bit);
    }

    #[inline]
    pub(crate) fn line(&self, hash: &KeyHash) -> Option<&Line> {
        self.0.get(line_of(hash.upper, self.0.len()))
    }

    #[inline]
    pub(crate) fn may_hold(&self, hash: &KeyHash) -> bool {
        self.line(hash).is_none_or(|line| line.may_hold(hash))
    }
}

/// An empty list with room for so many.
pub(crate) fn reserved<T>(count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    let bytes = count * size_of::<T>();
    match list.try_reserve_exact(count) {
        Ok(()) => Ok(list),
        Err(_) => Err(Error::OutOfMemory { what: "the filter of a layer file", bytes }),
    }
}

/// What the table of so many partitions occupies of the file.
pub(crate) fn table_len(partitions: u32) -> u64 {
    let partitions = partitions as usize;
    let (full, rest) = (partitions / ROWS_PER_BLOCK, partitions % ROWS_PER_BLOCK);
    let last = if rest > 0 { extent(rest * ROW_LEN) } else { 0 };
    (full * extent(ROWS_PER_BLOCK * ROW_LEN) + last) as u64
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
