//! Headers of log pages, and whether a page belongs at its address.
//!
//! | bytes | what |
//! |---|---|
//! | 0, 2 | magic (the version of the format), info: 1 starts with the rest of a record, 2 long header, 4 removable, 8 the record that should go on here was given up |
//! | 4 | timeline |
//! | 8 | address of the page: its Lsn |
//! | 16 | how much of the record that started before is still to come, in bytes; 4 bytes of padding |
//! | 24, 32, 36 | first page of a segment only: system identifier, segment size, page size |
//!
//! A server recycles segments under new names before it overwrites them, so a page with another
//! address is not damage by itself. [`PageState`] says what was found; the reader decides whether
//! that is damage.

use std::{fmt, path::Path};

use pagestrata_layers::Lsn;

use crate::{
    bytes::Cursor,
    error::{Error, Result},
    layout::{LOG_PAGE, is_segment_size},
};

/// The page magic of PostgreSQL 15.
const MAGIC: u16 = 0xD110;
/// Those of other versions.
const MAGICS: [(u16, &str); 15] = [
    (0xD064, "9.0"),
    (0xD066, "9.1"),
    (0xD071, "9.2"),
    (0xD075, "9.3"),
    (0xD07E, "9.4"),
    (0xD087, "9.5"),
    (0xD093, "9.6"),
    (0xD097, "10"),
    (0xD098, "11"),
    (0xD101, "12"),
    (0xD106, "13"),
    (0xD10D, "14"),
    (0xD113, "16"),
    (0xD116, "17"),
    (0xD118, "18"),
];

const CONTINUES: u16 = 1;
const LONG: u16 = 2;
const OVERWRITTEN: u16 = 8;
const KNOWN: u16 = 0x0F;
const SHORT_LEN: u64 = 24;
const LONG_LEN: u64 = 40;

/// Header of a page that belongs at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    /// Its own length, in bytes.
    pub(crate) len: u64,
    /// The page starts with the rest of a record.
    pub(crate) continues: bool,
    /// The record that should go on here was given up after a crash.
    pub(crate) overwritten: bool,
    /// Bytes of that rest, on this page and behind it.
    pub(crate) remaining: u32,
}

/// What was found at the address of a page.
#[derive(Clone, Debug)]
pub(crate) enum PageState {
    /// The page that belongs there.
    Valid(PageHeader),
    /// No file, or it ends before the page's header does.
    Absent,
    /// Zeros: never written.
    Unwritten,
    /// A page from when the segment had another name.
    Recycled(Lsn),
    /// Neither.
    Damaged { what: &'static str, expected: String, found: String },
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageState::Valid(header) => {
                write!(f, "a page with {} bytes to continue", header.remaining)
            }
            PageState::Absent => write!(f, "no page"),
            PageState::Unwritten => write!(f, "zeros"),
            PageState::Recycled(address) => write!(f, "page {address}"),
            PageState::Damaged { what, found, .. } => write!(f, "{what} {found}"),
        }
    }
}

/// Cluster, timeline and segment size, which all pages of a log share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster that it is of.
    pub system_id: u64,
    /// The timeline.
    pub timeline: u32,
    /// Bytes of a segment: a power of two, 1 MiB to 1 GiB.
    pub segment_size: u64,
}

impl LogIdentity {
    /// The start of the segment of `lsn`.
    #[inline]
    pub(crate) fn segment_start(&self, lsn: u64) -> u64 {
        lsn & !(self.segment_size - 1)
    }

    /// The end of the segment of `lsn`.
    #[inline]
    pub(crate) fn segment_end(&self, lsn: u64) -> u64 {
        self.segment_start(lsn).saturating_add(self.segment_size)
    }
}

/// Reads system identifier and segment size from the long header of a segment's first page.
///
/// # Errors
/// [`Error::OtherVersion`], or [`Error::Corrupt`] if this is no long header.
pub(crate) fn read_long_header(bytes: &[u8], lsn: Lsn, path: &Path) -> Result<(u64, u64)> {
    let wrong = |what, expected: &str, found: String| {
        Err(Error::corrupt(lsn, what, expected, found).in_segment(path))
    };
    if (bytes.len() as u64) < LONG_LEN {
        return wrong("segment header", "40 bytes", format!("{} bytes", bytes.len()));
    }
    let mut cursor = Cursor(bytes);
    let (magic, info) = (cursor.u16().unwrap_or_default(), cursor.u16().unwrap_or_default());
    check_version(magic, lsn, path)?;
    if magic != MAGIC || info & LONG == 0 {
        return wrong(
            "segment header",
            "magic 0xD110, long",
            format!("{magic:#06X}, info {info:#X}"),
        );
    }
    cursor = Cursor(bytes.get(24..).unwrap_or_default());
    let system_id = cursor.u64().unwrap_or_default();
    let segment_size = u64::from(cursor.u32().unwrap_or_default());
    let page_size = u64::from(cursor.u32().unwrap_or_default());
    if !is_segment_size(segment_size) {
        return wrong("segment size", "a power of two, 1 MiB to 1 GiB", segment_size.to_string());
    }
    if page_size != LOG_PAGE {
        return wrong("log page size", "8192", page_size.to_string());
    }
    Ok((system_id, segment_size))
}

fn check_version(magic: u16, lsn: Lsn, path: &Path) -> Result<()> {
    match MAGICS.iter().find(|(known, _)| *known == magic) {
        Some(&(magic, version)) => {
            Err(Error::OtherVersion { segment: path.to_owned(), lsn, magic, version })
        }
        None => Ok(()),
    }
}

/// Classifies the page of address `lsn`; `bytes` may end before the page does.
///
/// # Errors
/// [`Error::OtherVersion`], [`Error::OtherCluster`], [`Error::OtherTimeline`].
pub(crate) fn read_header(
    bytes: &[u8],
    lsn: Lsn,
    log: &LogIdentity,
    path: &Path,
) -> Result<PageState> {
    let first = lsn.0.is_multiple_of(log.segment_size);
    let len = if first { LONG_LEN } else { SHORT_LEN };
    let Some(header) = bytes.get(..len as usize) else { return Ok(PageState::Absent) };
    if header.iter().all(|byte| *byte == 0) {
        return Ok(PageState::Unwritten);
    }
    let mut cursor = Cursor(header);
    let (magic, info) = (cursor.u16().unwrap_or_default(), cursor.u16().unwrap_or_default());
    let timeline = cursor.u32().unwrap_or_default();
    let address = Lsn(cursor.u64().unwrap_or_default());
    let remaining = cursor.u32().unwrap_or_default();
    check_version(magic, lsn, path)?;
    let damaged =
        |what, expected: String, found: String| Ok(PageState::Damaged { what, expected, found });
    if magic != MAGIC {
        return damaged("page magic", format!("{MAGIC:#06X}"), format!("{magic:#06X}"));
    }
    if info & !KNOWN != 0 || (info & LONG != 0) != first {
        return damaged("page info", format!("long: {first}"), format!("{info:#06X}"));
    }
    if first {
        let found = Cursor(&header[24..]).u64().unwrap_or_default();
        if found != log.system_id {
            let (segment, expected) = (path.to_owned(), log.system_id);
            return Err(Error::OtherCluster { segment, lsn, expected, found });
        }
        let (_, segment_size) = read_long_header(header, lsn, path)?;
        if segment_size != log.segment_size {
            return damaged("segment size", log.segment_size.to_string(), segment_size.to_string());
        }
    }
    if address != lsn {
        return Ok(PageState::Recycled(address));
    }
    if timeline != log.timeline {
        let (segment, expected) = (path.to_owned(), log.timeline);
        return Err(Error::OtherTimeline { segment, lsn, expected, found: timeline });
    }
    let continues = info & CONTINUES != 0;
    if continues != (remaining != 0) {
        return damaged("page remainder", format!("some: {continues}"), remaining.to_string());
    }
    Ok(PageState::Valid(PageHeader {
        len,
        continues,
        overwritten: info & OVERWRITTEN != 0,
        remaining,
    }))
}
