//! Layer files: delta layers and image layers on disk. Written once in one pass by a
//! [`LayerWriter`], read in place by a [`LayerFile`].
//!
//! **Invariants:**
//! - a file never changes after its footer is written, and the footer is written last;
//! - every byte is under a checksum, and no byte is believed before its checksum was verified;
//! - whatever a file holds, reading it ends with an answer or a typed error: no panic, no
//!   allocation beyond the block cap, no endless loop;
//! - a warm [`LayerFile::versions`] allocates nothing and copies no byte of an uncompressed value.
//!
//! # The rooms
//!
//! ```text
//! read   an open file: index, filter, tombstones, scans, verification   write   one pass, sorted
//!   |                                                                     |
//! access   a mapping, or a cache of blocks that are read                  |
//!   |                                                                     |
//! format   the bytes of blocks, chain parts, index pages, header, footer <+
//! ```
//!
//! Imports go down only: `read -> access -> format` and `write -> format`. All of them use the
//! types of this file. `write` and `read` do not know each other: what one writes and the other
//! reads is encoded and decoded in `format`.
//!
//! # The file
//!
//! All numbers are little-endian; a whole key is its 20 sortable bytes ([`Key::to_bytes`]).
//! Everything starts at a multiple of 64 bytes.
//!
//! | part | bytes |
//! |---|---|
//! | header | 64 |
//! | data blocks, index blocks and filter blocks, in the order in which they filled | |
//! | tombstone blocks | none without tombstones |
//! | table of the filter | none in a complete image layer |
//! | footer | 192 |
//!
//! Header. Its first 16 bytes and what its checksum covers are the same in every format version.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `PGSLAYER` |
//! | 8 | 4 | format version, 2; version 1, which is read too, has no filter |
//! | 12 | 4 | crc32c of the other 60 bytes |
//! | 16 | 32 | [`LayerId`]: store 16, timeline 8, sequence 8 |
//! | 48 | 1 | [`LayerKind`]: 0 delta, 1 sparse image, 2 complete image |
//! | 49 | 15 | zero |
//!
//! A block. It occupies at least 512 bytes and ends at a multiple of 64; the bytes behind its
//! payload are zero.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | crc32c of the 32 bytes of [`LayerId`], the block's offset in the file (8 bytes), and the block from byte 4 to its end |
//! | 4 | 1 | type: 1 data, 2 index, 3 tombstones, 4 filter, 5 table of the filter |
//! | 5 | 1 | codec of the payload: 0 as it is, 1 zstd (data blocks only) |
//! | 6 | 2 | zero |
//! | 8 | 4 | length of the payload when inflated, at most 16 MiB + 64 KiB |
//! | 12 | 4 | length of the payload as stored |
//! | 16 | | payload |
//!
//! Payload of a data block: chain parts without a gap, each at a multiple of 8. A part is the
//! versions of one key, oldest first; a chain that outgrows its block goes on as the only or first
//! part of the next data block. In a delta layer an image may follow a delta of its Lsn, in the
//! same part: the page that the delta leads to, at which a read from above stops.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | number of versions, n, at least 1 |
//! | 4 | 4 | length of the part, a multiple of 8 |
//! | 8 | 16 n | a version: Lsn 8, start of its bytes in the part 4, length × 4 + kind ([`Kind::to_bits`](crate::Kind::to_bits)) 4 |
//! | 8 + 16 n | | the values' bytes, oldest first; an image starts at a multiple of 8, the gap is zero |
//!
//! Payload of an index block: a page of a static B+tree, its rows in (key, Lsn) order, as columns.
//! A row of a leaf (level 0) is a chain part: its key, its oldest Lsn, its place. A row of an inner
//! page is a page one level below: that page's first row's key and Lsn, and its place.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 1 | level |
//! | 1 | 1 | zero |
//! | 2 | 2 | number of rows, r, from 1 to 256 |
//! | 4 | 2 | number of segments, s, at least 1: the runs of rows of one object |
//! | 6 | 2 | zero |
//! | 8 | 16 | object of the first segment |
//! | 24 | 24 | zero |
//! | 48 | 64 | fences: the block numbers of rows 0, 16, 32, ... again, then all ones |
//! | 112 | 64 ⌈r / 16⌉ | block numbers, then all ones |
//! | | 16 r | Lsn 8, place 8: block's offset / 64 in the upper 40 bits, part's start in the inflated payload / 8 in the lower 24 |
//! | | 20 (s - 1) | the further segments: object 16, first row 4 |
//!
//! Payload of a tombstone block: rows in order, 1,024 in each block but the last.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 16 | object |
//! | 16 | 8 | Lsn |
//! | 24 | 4 | first block |
//!
//! Payload of a filter block, a partition of the filter: n lines of 64 bytes. With h the xxh3-64 of
//! a key's 20 bytes, the key's line is ((h >> 32) n) >> 32. A line is eight words of 8 bytes; in
//! word i the key sets bit ((h mod 2^32) s mod 2^32) >> 26, where s is the i-th of 47B6137B,
//! 44974D91, 8824AD5B, A2B7289D, 705495C7, 2DF1424B, 9EFC4947, 5C6BFB31.
//!
//! Payload of a block of the filter's table: a row for each partition, 1,024 in each block but the
//! last. A key is in the last partition whose first key is not above it.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 20 | first key |
//! | 20 | 8 | offset of the filter block |
//! | 28 | 4 | number of lines |
//!
//! Footer.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `PGSLFOOT` |
//! | 8 | 4 | format version |
//! | 12 | 4 | crc32c of the other 188 bytes |
//! | 16 | 32 | [`LayerId`] |
//! | 48 | 1 | [`LayerKind`] |
//! | 49 | 1 | height of the index, 0 without versions |
//! | 50 | 1 | 1 if the key range has an end |
//! | 51 | 1 | zero |
//! | 52 | 4 | number of partitions of the filter, whose table ends where the footer begins; zero: no filter |
//! | 56 | 20 | start of the key range |
//! | 76 | 20 | end of the key range, or zero |
//! | 96 | 8 | start of the Lsn range |
//! | 104 | 8 | end of the Lsn range |
//! | 112 | 8 | offset of the index's root block, or zero |
//! | 120 | 8 | offset of the first tombstone block, or zero |
//! | 128 | 8 | number of tombstones |
//! | 136 | 8 | number of keys |
//! | 144 | 8 | number of versions |
//! | 152 | 8 | bytes in values |
//! | 160 | 8 | number of blocks |
//! | 168 | 8 | length of the file |
//! | 176 | 16 | xxh3-128 of everything before the footer |

mod access;
mod format;
mod read;
mod write;

#[cfg(all(test, feature = "testing"))]
mod malformed;

use std::{fmt, ops::Range};

use crate::{Key, KeyRange, Lsn};

pub use crate::compress::Compression;
pub use access::{
    layer_access::{
        AccessMode, AccessOptions, AccessStats, CachedBlock, FetchedBlocks, LayerAccess,
    },
    scratch::{ReadKind, ReadScratch},
};
pub use format::filter_lines::KeyHash;
pub use read::{
    filter::FilterProbe,
    lookup::Lookup,
    reader::{LayerFile, VersionQuery},
    scan::{Keys, Scan},
    tombstones::Tombstones,
    verify::VerifyReport,
};
pub use write::writer::LayerWriter;

/// Names one layer file for ever: no two files ever written have the same.
///
/// It goes into every checksum, so that a block of another layer is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LayerId {
    /// Which store.
    pub store: u128,
    /// Which timeline of it.
    pub timeline: u64,
    /// Which layer of it.
    pub sequence: u64,
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032X}-{:X}-{:X}", self.store, self.timeline, self.sequence)
    }
}

/// What a layer file holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LayerKind {
    /// Versions over a range of Lsns.
    Delta,
    /// Images at one Lsn.
    Image {
        /// Every key of the range that existed at the Lsn is here: a key that is not did not exist.
        complete: bool,
    },
}

/// From `lsn` on, the blocks of `object` from `first_block` on are gone, until they are written
/// again.
///
/// It hides versions below its Lsn from reads at or above it; a version at its very Lsn was written
/// after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tombstone {
    /// Of which object.
    pub object: u128,
    /// From when on.
    pub lsn: Lsn,
    /// From which block on.
    pub first_block: u32,
}

impl Tombstone {
    /// Whether it is about `key`.
    #[must_use]
    pub fn covers(&self, key: Key) -> bool {
        self.object == key.object && self.first_block <= key.block
    }
}

/// What is known of a layer file without opening it; the manifest holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerSummary {
    /// Its name for ever.
    pub id: LayerId,
    /// What it holds.
    pub kind: LayerKind,
    /// Its keys are in this range.
    pub key_range: KeyRange,
    /// Its Lsns are in this range.
    pub lsn_range: Range<Lsn>,
    /// Length of the file, in bytes.
    pub file_len: u64,
    /// xxh3-128 of the file up to its footer.
    pub digest: u128,
    /// Number of keys.
    pub keys: u64,
    /// Number of versions.
    pub versions: u64,
    /// Bytes in values, before compression.
    pub value_bytes: u64,
    /// Number of tombstones.
    pub tombstones: u64,
}

/// How to write a layer file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriterOptions {
    /// A data block is closed when it holds this many bytes before compression; between 1 KiB and 1
    /// MiB, what is outside is brought inside.
    pub block_size_target_bytes: u32,
    /// What data blocks are compressed with.
    pub compression: Compression,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions { block_size_target_bytes: 16 << 10, compression: Compression::None }
    }
}
