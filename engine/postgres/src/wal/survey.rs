//! Tells a torn tail from damage: searches for log behind the place where reading stopped.
//!
//! A record that cannot be read is the torn end of the log if nothing was written behind it, and
//! damage otherwise. These show that something was, up to the end of the next segment:
//! - a page whose header belongs there (address, timeline, cluster), or
//! - a record, on any page that is there, that follows what was lost: its link to the record before
//!   points to the place of the loss or behind it. Records from before a segment was recycled point
//!   to far before it.
//!
//! and in every later segment the header of its first page. A crash of the machine can leave the
//! same picture, if the operating system wrote a later page and not an earlier one. It is reported
//! as damage all the same: the error names the place, and a user who knows better can read up to
//! it, while a silent end would go unnoticed.
//!
//! **A log that is being written** ends like that, too. A server writes whole pages, and waits for
//! all records on a page before it writes the next one. On the last page, though, one backend may
//! have copied half of its record or none of it, while later records of other backends are
//! complete. So an unreadable record is the end if what follows is on the same page only
//! ([`Later::is_on_page`]) and the log is being written: a server runs in the data directory
//! (`postmaster.pid` beside `pg_wal`), or the record changed between two reads. Damage that this
//! rule takes for an end is found as soon as the server has written the next page.

use pagestrata_layers::Lsn;

use crate::{
    bytes::{u32_at, u64_at},
    error::{Error, Result},
    layout::LOG_PAGE,
    wal::{
        assembly::LogPages,
        pages::PageState,
        record::{self, HEADER_LEN, RECORD_LEN_MAX},
        segments::{SegmentId, Segments},
    },
};

/// How the log ended, and the Lsn behind the last record, where reading can continue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalEnd {
    /// At the Lsn that the caller named. Records that end behind it were not read.
    Reached {
        /// Behind the last record.
        at: Lsn,
    },
    /// Nothing was ever written behind the last record.
    Clean {
        /// Behind the last record.
        at: Lsn,
    },
    /// With an incomplete record: cut off by a crash, or still being written.
    Torn {
        /// Behind the last record, where the incomplete one starts (on a page's edge: behind the
        /// page's header).
        at: Lsn,
    },
}

impl WalEnd {
    /// Behind the last record.
    #[must_use]
    pub fn at(self) -> Lsn {
        match self {
            WalEnd::Reached { at } | WalEnd::Clean { at } | WalEnd::Torn { at } => at,
        }
    }
}

/// An unreadable part of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    /// Where the record that cannot be read starts, or should start.
    pub(crate) at: u64,
    /// The start of the last readable record.
    pub(crate) last: Option<Lsn>,
    /// The first page behind the loss: a valid header from here on is log that follows it.
    pub(crate) next_page: u64,
}

impl Loss {
    fn follows(&self, prev: u64, record: u64) -> bool {
        (self.at..record).contains(&prev) || self.last.is_some_and(|last| last.0 == prev)
    }
}

/// A place where the log continues behind a loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Later {
    pub(crate) lsn: Lsn,
    /// All of the log that continues is on the page of the loss, whose header is valid.
    pub(crate) is_on_page: bool,
}

/// Returns a place behind `loss` where the log continues, if there is one.
///
/// # Errors
/// [`Error::OtherTimeline`] if it continues on another timeline, and errors of
/// [`Segments::page`].
pub(crate) fn later(segments: &mut Segments, loss: &Loss) -> Result<Option<Later>> {
    let first = loss.at & !(LOG_PAGE - 1);
    let is_valid = matches!(segments.page(first)?, PageState::Valid(_));
    let on_page = match in_pages(segments, loss, first, first + LOG_PAGE)? {
        Some(lsn) => lsn,
        None => {
            let behind = behind_page(segments, loss, first + LOG_PAGE)?;
            return Ok(behind.map(|lsn| Later { lsn, is_on_page: false }));
        }
    };
    // What cannot be read there is not known to be nothing.
    let is_last = matches!(behind_page(segments, loss, first + LOG_PAGE), Ok(None));
    Ok(Some(Later { lsn: on_page, is_on_page: is_valid && is_last }))
}

/// As [`later`], from `page` on, which is behind the page of the loss.
fn behind_page(segments: &mut Segments, loss: &Loss, page: u64) -> Result<Option<Lsn>> {
    let behind = segments.segment_end(loss.at);
    if let Some(lsn) = in_pages(segments, loss, page, behind)? {
        return Ok(Some(lsn));
    }
    let size = segments.log().segment_size;
    let timeline = segments.log().timeline;
    for id in segments.list()? {
        let start = id.number * size;
        if start < behind || id.timeline < timeline {
            continue;
        }
        if id.timeline > timeline {
            return Err(other_timeline(segments, id));
        }
        let pages_end = if start == behind { start + size } else { start + LOG_PAGE };
        if let Some(lsn) = in_pages(segments, loss, start, pages_end)? {
            return Ok(Some(lsn));
        }
    }
    Ok(None)
}

fn other_timeline(segments: &Segments, id: SegmentId) -> Error {
    Error::OtherTimeline {
        segment: segments.path_of(id),
        lsn: Lsn(id.number * segments.log().segment_size),
        expected: segments.log().timeline,
        found: id.timeline,
    }
}

fn in_pages(segments: &mut Segments, loss: &Loss, from: u64, to: u64) -> Result<Option<Lsn>> {
    let mut page = from;
    while page < to {
        match segments.page(page)? {
            PageState::Valid(_) if page >= loss.next_page => return Ok(Some(Lsn(page))),
            PageState::Absent => return Ok(None),
            _ => {}
        }
        if let Some(lsn) = record_in_page(segments.in_window(page), page, loss) {
            return Ok(Some(lsn));
        }
        page += LOG_PAGE;
    }
    Ok(None)
}

/// Returns the place of a record on this page that follows the loss.
fn record_in_page(bytes: &[u8], page: u64, loss: &Loss) -> Option<Lsn> {
    let offsets = (0..bytes.len().saturating_sub(HEADER_LEN - 1)).step_by(8);
    offsets.map(|offset| (offset, page + offset as u64)).find_map(|(offset, lsn)| {
        let prev = u64_at(bytes, offset + 8)?;
        if lsn <= loss.at || !loss.follows(prev, lsn) {
            return None;
        }
        let len = u32_at(bytes, offset)?;
        if !(HEADER_LEN as u32..=RECORD_LEN_MAX).contains(&len) {
            return None;
        }
        let good = match bytes.get(offset..offset + len as usize) {
            Some(raw) => u32_at(raw, 20)? == record::checksum(raw),
            // Its end is elsewhere: the link must then be exactly to what was lost, and the padding
            // zero.
            None => prev == loss.at && bytes[offset + 18] == 0 && bytes[offset + 19] == 0,
        };
        good.then_some(Lsn(lsn))
    })
}
