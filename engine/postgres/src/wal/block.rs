//! Block references: the pages that a record names, with what it carries for each.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | id, 0 to 32, ascending within a record |
//! | 1 | the fork (low 4 bits), 0x10 image, 0x20 data, 0x40 will_init, 0x80 same relation as the block before |
//! | 2 | length of the data |
//! | 5 | with an image: length u16, hole offset u16, info u8 (1 hole, 2 apply, 4 pglz, 8 lz4, 16 zstd) |
//! | 2 | with a compressed image with a hole: the hole's length, else it is 8192 less the image's length |
//! | 12 | unless same relation: tablespace, database, relation |
//! | 4 | block |
//!
//! Headers are read twice: `record.rs` checks each of them once, in order; [`Blocks`] reads them
//! again together with the payload, so that no list of blocks is kept. Both call
//! [`BlockHeader::read`]. Redo of one page takes its reference from the first pass.

use pagestrata_layers::{Key, Lsn};

use crate::{
    bytes::Cursor,
    error::LogCorruption,
    layout::PAGE_SIZE,
    rel::{Fork, RelFork, RelPage},
};

/// PostgreSQL's number for no block.
const INVALID_BLOCK: u32 = u32::MAX;
/// The highest id of a block reference.
pub(crate) const BLOCK_ID_MAX: u8 = 32;
pub(crate) const ID_TOPLEVEL_XID: u8 = 252;
pub(crate) const ID_ORIGIN: u8 = 253;
pub(crate) const ID_MAIN_LONG: u8 = 254;
pub(crate) const ID_MAIN_SHORT: u8 = 255;

const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;
const FORK_BITS: u8 = 0x0F;

const IMAGE_HOLE: u8 = 1;
const IMAGE_APPLY: u8 = 2;
const IMAGE_PGLZ: u8 = 4;
const IMAGE_LZ4: u8 = 8;
const IMAGE_ZSTD: u8 = 16;
const IMAGE_COMPRESSED: u8 = IMAGE_PGLZ | IMAGE_LZ4 | IMAGE_ZSTD;

/// A page that a record names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRef<'a> {
    /// Its number within the record, by which redo routines tell pages apart.
    pub id: u8,
    /// Which relation fork.
    pub rel: RelFork,
    /// Which block of it.
    pub block: u32,
    /// 0x10 image, 0x20 data, 0x40 will_init, 0x80 same relation as the reference before; the
    /// fork's bits are zero.
    pub flags: u8,
    /// What the record carries for redo on this page.
    pub data: &'a [u8],
    /// The full-page image, if the record has one.
    pub image: Option<BlockImage<'a>>,
}

impl<'a> BlockRef<'a> {
    /// The page's key.
    #[must_use]
    pub const fn key(&self) -> Key {
        self.rel.key(self.block)
    }

    /// Whether redo starts from a fresh page.
    #[must_use]
    pub const fn will_init(&self) -> bool {
        self.flags & WILL_INIT != 0
    }

    /// The image, if redo restores the page from it. Images for `wal_consistency_checking` are
    /// not returned.
    #[must_use]
    pub fn applied_image(&self) -> Option<BlockImage<'a>> {
        self.image.filter(BlockImage::apply)
    }
}

/// How an image is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// PostgreSQL's own.
    Pglz,
    /// An LZ4 block.
    Lz4,
    /// A Zstandard frame.
    Zstd,
}

/// A full-page image: the page without its hole, perhaps compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockImage<'a> {
    /// The record's start, or its end if the record was decoded on its own; for errors.
    pub lsn: Lsn,
    /// Its bytes, without the hole.
    pub bytes: &'a [u8],
    /// Where the hole starts in the page, in bytes.
    pub hole_offset: u16,
    /// How long the hole is, in bytes; it is zeros in the page.
    pub hole_length: u16,
    /// 1 hole, 2 apply, 4 pglz, 8 lz4, 16 zstd.
    pub info: u8,
}

impl BlockImage<'_> {
    /// Whether redo restores the page from it; otherwise it is for checking a redo of the record
    /// (`wal_consistency_checking`), and its page's Lsn is the one before the change.
    #[must_use]
    pub fn apply(&self) -> bool {
        self.info & IMAGE_APPLY != 0
    }

    /// How it is compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        match self.info & IMAGE_COMPRESSED {
            IMAGE_PGLZ => Compression::Pglz,
            IMAGE_LZ4 => Compression::Lz4,
            IMAGE_ZSTD => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

#[derive(Clone, Copy)]
struct ImageHeader {
    len: u16,
    hole_offset: u16,
    hole_length: u16,
    info: u8,
}

/// The header of a block reference, behind its id.
#[derive(Clone, Copy)]
pub(crate) struct BlockHeader {
    rel: RelFork,
    block: u32,
    flags: u8,
    data_len: u16,
    image: Option<ImageHeader>,
}

type Checked<T> = std::result::Result<T, Box<LogCorruption>>;

impl BlockHeader {
    /// Reads and checks one; `previous` is the relation of the reference before.
    // A call, and what it returns by way of memory, would be half of its time.
    #[inline(always)]
    pub(crate) fn read(
        cursor: &mut Cursor<'_>,
        previous: Option<RelFork>,
        lsn: Lsn,
    ) -> Checked<BlockHeader> {
        let short = || LogCorruption::new(lsn, "block header", "all of it", "the record's end");
        let [fork_flags, data_len @ ..] = cursor.array::<3>().ok_or_else(short)?;
        let data_len = u16::from_le_bytes(data_len);
        let flags = fork_flags & !FORK_BITS;
        if (flags & HAS_DATA != 0) != (data_len != 0) {
            let (want, found) = (flags & HAS_DATA != 0, data_len);
            return Err(LogCorruption::new(
                lsn,
                "block data length",
                format_args!("data: {want}"),
                found,
            ));
        }
        let image = match flags & HAS_IMAGE {
            0 => None,
            _ => Some(ImageHeader::read(cursor, lsn)?),
        };
        let number = fork_flags & FORK_BITS;
        let fork = Fork::from_number(number)
            .ok_or_else(|| LogCorruption::new(lsn, "fork", "0 to 3", number))?;
        let rel = if flags & SAME_RELATION == 0 {
            let [tablespace, database, relation] = cursor.u32s().ok_or_else(short)?;
            RelFork { tablespace, database, relation, fork }
        } else {
            let previous = previous.ok_or_else(|| {
                LogCorruption::new(
                    lsn,
                    "block header",
                    "a relation",
                    "same as before, but none is before",
                )
            })?;
            previous.with_fork(fork)
        };
        let block = cursor.u32().ok_or_else(short)?;
        if block == INVALID_BLOCK {
            return Err(LogCorruption::new(lsn, "block number", "at most 4294967294", block));
        }
        Ok(BlockHeader { rel, block, flags, data_len, image })
    }

    /// Bytes of the record's payload that belong to this reference.
    #[inline]
    pub(crate) fn payload_len(&self) -> usize {
        usize::from(self.data_len) + self.image.map_or(0, |image| usize::from(image.len))
    }

    #[inline]
    pub(crate) fn rel(&self) -> RelFork {
        self.rel
    }

    /// Whether it names this page.
    #[inline]
    pub(crate) fn is_of(&self, page: RelPage) -> bool {
        self.block == page.block && self.rel == page.rel
    }

    /// Takes the reference's image and data off the front of `payload`; `None` if it is too short.
    #[inline]
    pub(crate) fn with_payload<'a>(
        &self,
        id: u8,
        payload: &mut Cursor<'a>,
        lsn: Lsn,
    ) -> Option<BlockRef<'a>> {
        let BlockHeader { rel, block, flags, data_len, image } = *self;
        let image = match image {
            None => None,
            Some(ImageHeader { len, hole_offset, hole_length, info }) => {
                let bytes = payload.take(usize::from(len))?;
                Some(BlockImage { lsn, bytes, hole_offset, hole_length, info })
            }
        };
        let data = payload.take(usize::from(data_len))?;
        Some(BlockRef { id, rel, block, flags, data, image })
    }
}

impl ImageHeader {
    fn read(cursor: &mut Cursor<'_>, lsn: Lsn) -> Checked<ImageHeader> {
        let short = || LogCorruption::new(lsn, "image header", "all of it", "the record's end");
        let len = cursor.u16().ok_or_else(short)?;
        let hole_offset = cursor.u16().ok_or_else(short)?;
        let info = cursor.u8().ok_or_else(short)?;
        let (hole, compressed) = (info & IMAGE_HOLE != 0, info & IMAGE_COMPRESSED);
        if compressed.count_ones() > 1 || info & !(IMAGE_HOLE | IMAGE_APPLY | IMAGE_COMPRESSED) != 0
        {
            let expected = "1 hole, 2 apply, and one of 4, 8, 16";
            return Err(LogCorruption::new(
                lsn,
                "image info",
                expected,
                format_args!("{info:#04X}"),
            ));
        }
        let hole_length = match (hole, compressed != 0) {
            (true, true) => cursor.u16().ok_or_else(short)?,
            (true, false) => (PAGE_SIZE as u16).checked_sub(len).ok_or_else(|| {
                LogCorruption::new(lsn, "image length", format_args!("at most {PAGE_SIZE}"), len)
            })?,
            (false, _) => 0,
        };
        let plausible = if hole {
            hole_offset != 0
                && hole_length != 0
                && usize::from(hole_offset) + usize::from(hole_length) <= PAGE_SIZE
        } else {
            hole_offset == 0
        };
        let len_ok = match compressed {
            0 => usize::from(len) + usize::from(hole_length) == PAGE_SIZE,
            _ => usize::from(len) < PAGE_SIZE,
        };
        if !plausible || !len_ok {
            return Err(LogCorruption::new(
                lsn,
                "image header",
                format_args!("an image and a hole that make {PAGE_SIZE} bytes"),
                format_args!(
                    "{len} bytes, hole of {hole_length} at {hole_offset}, info {info:#04X}"
                ),
            ));
        }
        Ok(ImageHeader { len, hole_offset, hole_length, info })
    }
}

/// The block references of a record, in order of their ids.
#[derive(Debug, Clone)]
pub struct Blocks<'a> {
    headers: Cursor<'a>,
    payload: Cursor<'a>,
    previous: Option<RelFork>,
    left: u8,
    lsn: Lsn,
}

impl<'a> Blocks<'a> {
    /// The headers must have been read once without an error.
    pub(crate) fn new(headers: &'a [u8], payload: &'a [u8], count: u8, lsn: Lsn) -> Blocks<'a> {
        Blocks {
            headers: Cursor(headers),
            payload: Cursor(payload),
            previous: None,
            left: count,
            lsn,
        }
    }

    #[inline]
    fn read(&mut self) -> Option<BlockRef<'a>> {
        let id = loop {
            match self.headers.u8()? {
                ID_ORIGIN => self.headers.take(2)?,
                ID_TOPLEVEL_XID => self.headers.take(4)?,
                id => break id,
            };
        };
        let header = BlockHeader::read(&mut self.headers, self.previous, self.lsn).ok()?;
        self.previous = Some(header.rel);
        header.with_payload(id, &mut self.payload, self.lsn)
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = BlockRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<BlockRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        let block = self.read();
        debug_assert!(block.is_some(), "the headers were read before without an error");
        block
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Blocks<'_> {}
