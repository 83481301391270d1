//! The bytes of a segment. All numbers are little-endian.
//!
//! | segment header | bytes | |
//! |---|---|---|
//! | 0 | 8 | `PSLOGSEG` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 16 | store id |
//! | 32 | 8 | sequence number; also the file's name, in hexadecimal |
//! | 40 | 8 | length of the file |
//! | 48 | 456 | zero |
//! | 508 | 4 | crc32c of bytes 0..508 |
//!
//! The header is never written again while the segment is in use, and durable before: whatever a
//! crash leaves of the frames, it is whole. Frames follow, each at a multiple of 8:
//!
//! | frame | bytes | |
//! |---|---|---|
//! | 0 | 4 | crc32c of the segment's identity (header bytes 8..40) and bytes 4..48 |
//! | 4 | 4 | crc32c of the payload |
//! | 8 | 8 | [`Position`] of the frame itself |
//! | 16 | 8 | stream of a record |
//! | 24 | 8 | Lsn of a record |
//! | 32 | 8 | the log is synced up to this [`Position`] |
//! | 40 | 4 | length of the payload |
//! | 44 | 1 | kind: 1 record, 2 end of the segment, 3 part of a record |
//! | 45 | 3 | zero |
//! | 48 | | payload, then zeros up to a multiple of 8 |
//!
//! The end's payload is the next segment's sequence number, 8 bytes; there is always room for it.
//!
//! | `SYNCED` | bytes | |
//! |---|---|---|
//! | 0 | 8 | `PSSYNCED` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 16 | store id |
//! | 32 | 8 | the log is synced up to this [`Position`] |
//! | 40 | 4 | crc32c of bytes 0..40 |
//!
//! It is overwritten after each sync, and never synced itself: what it says was true, and a later
//! one may be lost.

use std::{fmt, path::Path};

use pagestrata_layers::{Error, Lsn, Result};

pub(crate) const SEGMENT_HEADER_LEN: usize = 512;
pub(crate) const FRAME_HEADER_LEN: usize = 48;
/// Length of the frame that ends a segment.
pub(crate) const END_LEN: u64 = FRAME_HEADER_LEN as u64 + 8;
/// Frames begin at multiples of it.
pub(crate) const FRAME_ALIGN: u64 = 8;
/// The smallest segment, in bytes.
pub const SEGMENT_SIZE_MIN: u64 = 4 << 10;
/// The largest segment, in bytes; one record and its frame fit in one.
pub const SEGMENT_SIZE_MAX: u64 = 2 << 30;

/// Length of `SYNCED`.
pub(crate) const SYNCED_LEN: usize = 44;

const MAGIC: &[u8; 8] = b"PSLOGSEG";
const SYNCED_MAGIC: &[u8; 8] = b"PSSYNCED";
const VERSION: u32 = 1;

/// A place in the log: a segment and an offset in it. Later places are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub(crate) u64);

impl Position {
    pub(crate) fn new(sequence: u32, offset: u64) -> Position {
        debug_assert!(offset <= u64::from(u32::MAX), "an offset has 32 bits: {offset}");
        Position(u64::from(sequence) << 32 | offset)
    }

    /// The segment's sequence number.
    #[must_use]
    pub fn sequence(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The offset in its file, in bytes.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.0 & 0xFFFF_FFFF
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}:{}", self.sequence(), self.offset())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `N` bytes from `at` on; the caller has checked that they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes")
}

/// A segment's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) store: u128,
    pub(crate) sequence: u32,
    pub(crate) len: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.to_le_bytes());
        bytes[32..40].copy_from_slice(&u64::from(self.sequence).to_le_bytes());
        bytes[40..48].copy_from_slice(&self.len.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..508]);
        bytes[508..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What every frame's checksum begins with.
    pub(crate) fn seed(&self) -> u32 {
        crc32c::crc32c(&self.encode()[8..40])
    }

    /// Reads the header of the segment that `sequence` and `store` call for, in a file of
    /// `file_len` bytes.
    pub(crate) fn decode(
        bytes: &[u8; SEGMENT_HEADER_LEN],
        path: &Path,
        store: u128,
        sequence: u32,
        file_len: u64,
    ) -> Result<SegmentHeader> {
        if &bytes[..8] != MAGIC {
            let show = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
            return Err(Error::corrupt(path, 0, "magic", show(MAGIC), show(&bytes[..8])));
        }
        // Read before the checksum is known to be good: a newer format may have another checksum.
        let version = u32::from_le_bytes(array(bytes, 8));
        if version != VERSION {
            return Err(Error::UnsupportedVersion {
                path: path.to_owned(),
                expected: VERSION,
                found: version,
            });
        }
        let (expected, found) =
            (u32::from_le_bytes(array(bytes, 508)), crc32c::crc32c(&bytes[..508]));
        if expected != found {
            let (expected, found) = (format_args!("{expected:08x}"), format_args!("{found:08x}"));
            return Err(Error::corrupt(path, 508, "checksum", expected, found));
        }
        let (found_store, found_sequence) =
            (u128::from_le_bytes(array(bytes, 16)), u64::from_le_bytes(array(bytes, 32)));
        if (found_store, found_sequence) != (store, u64::from(sequence)) {
            let expected = format_args!("store {store:032X} sequence {sequence:X}");
            let found = format_args!("store {found_store:032X} sequence {found_sequence:X}");
            return Err(Error::corrupt(path, 16, "log segment", expected, found));
        }
        let len = u64::from_le_bytes(array(bytes, 40));
        if len != file_len {
            return Err(Error::corrupt(path, file_len.min(len), "segment length", len, file_len));
        }
        if len > SEGMENT_SIZE_MAX {
            // A position has 32 bits for the offset.
            let expected = format_args!("at most {SEGMENT_SIZE_MAX}");
            return Err(Error::corrupt(path, 40, "segment length", expected, len));
        }
        Ok(SegmentHeader { store, sequence, len })
    }
}

/// `SYNCED`, saying that the log is synced up to `position`.
pub(crate) fn encode_synced(store: u128, position: Position) -> [u8; SYNCED_LEN] {
    let mut bytes = [0; SYNCED_LEN];
    bytes[..8].copy_from_slice(SYNCED_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&store.to_le_bytes());
    bytes[32..40].copy_from_slice(&position.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..40]);
    bytes[40..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What `SYNCED` says, if it says anything of this store.
pub(crate) fn decode_synced(bytes: &[u8; SYNCED_LEN], store: u128) -> Option<Position> {
    let position = Position(u64::from_le_bytes(array(bytes, 32)));
    (*bytes == encode_synced(store, position)).then_some(position)
}

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameKind {
    /// A record of its user's, or the last part of one.
    Record,
    /// A part of one, not the last: of no use by itself.
    Part,
    /// Says which segment is the next.
    End,
}

/// A frame's header, without the checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) position: Position,
    pub(crate) stream: u64,
    pub(crate) lsn: Lsn,
    pub(crate) synced: Position,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
}

impl FrameHeader {
    pub(crate) fn encode(&self, seed: u32) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.position.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.stream.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.synced.0.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[44] = match self.kind {
            FrameKind::Record => 1,
            FrameKind::End => 2,
            FrameKind::Part => 3,
        };
        let crc = crc32c::crc32c_append(seed, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header of the frame at `position`, if these bytes are one.
    pub(crate) fn decode(
        bytes: &[u8; FRAME_HEADER_LEN],
        seed: u32,
        position: Position,
    ) -> Option<FrameHeader> {
        if !is_placed_at(bytes, position) {
            return None;
        }
        let crc = crc32c::crc32c_append(seed, &bytes[4..]);
        if !cfg!(planted_bug = "skip_log_checksum") && crc != u32::from_le_bytes(array(bytes, 0)) {
            return None;
        }
        let kind = match (bytes[44], &bytes[45..]) {
            (1, [0, 0, 0]) => FrameKind::Record,
            (2, [0, 0, 0]) => FrameKind::End,
            (3, [0, 0, 0]) => FrameKind::Part,
            _ => return None,
        };
        Some(FrameHeader {
            kind,
            position,
            stream: u64::from_le_bytes(array(bytes, 16)),
            lsn: Lsn(u64::from_le_bytes(array(bytes, 24))),
            synced: Position(u64::from_le_bytes(array(bytes, 32))),
            payload_len: u32::from_le_bytes(array(bytes, 40)),
            payload_crc: u32::from_le_bytes(array(bytes, 4)),
        })
    }

    /// Its whole length in the segment, in bytes.
    pub(crate) fn frame_len(&self) -> u64 {
        frame_len(u64::from(self.payload_len))
    }
}

/// Whether the bytes of a frame's header say that it was written to `position`.
#[inline]
pub(crate) fn is_placed_at(bytes: &[u8], position: Position) -> bool {
    bytes[8..16] == position.0.to_le_bytes()
}

/// The length of a frame with so much payload, in bytes.
pub(crate) fn frame_len(payload_len: u64) -> u64 {
    (FRAME_HEADER_LEN as u64 + payload_len).next_multiple_of(FRAME_ALIGN)
}
