//! Torn tail or damage? Looks for log behind a place where reading stopped.
//!
//! A record that cannot be read is the torn end of the log if nothing was written behind it, and
//! damage otherwise. Written behind it is, until the end of the segment after it:
//! - a page whose header belongs there (address, timeline, cluster), or
//! - a record, on any page that is there, that follows what was lost: its link to the record before
//!   points to the place of the loss or behind it. Records from before a segment was recycled point
//!   to far before it.
//!
//! and in every later segment the first page's header. A server that crashed can leave such a
//! picture of its own accord, when the operating system wrote a later page and not an earlier one.
//! It is reported as damage all the same: a user who knows better can read up to the place that the
//! error names, and a silent end would tell nobody.
//!
//! **A log that is being written** ends with such a picture, too. A server writes whole pages. All
//! records of all pages but the last one that it has written are complete, for it waits for them;
//! on the last page a backend may not have copied its record yet, or half of it, while the records
//! of others behind it are there. So a loss is the end, and no damage, if what follows it is on the
//! same page only ([`Later::is_on_page`]) and somebody is writing: a server runs in the data
//! directory (`postmaster.pid` beside `pg_wal`), or the record was another one when it was read
//! again. Damage that is taken for an end by that is found as soon as the server has written the
//! next page.

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

/// How the log ended, with the Lsn behind the last record that was read: reading can go on from
/// there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalEnd {
    /// The Lsn up to which it was to be read. A record that ends behind it was not read.
    Reached {
        /// Behind the last record.
        at: Lsn,
    },
    /// Nothing was ever written behind the last record.
    Clean {
        /// Behind the last record.
        at: Lsn,
    },
    /// An incomplete record: the last thing that was written before a crash, or is just being
    /// written.
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

/// What was lost, and from where on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    /// Where the record starts, or would start, that cannot be read.
    pub(crate) at: u64,
    /// The start of the last record that could be.
    pub(crate) last: Option<Lsn>,
    /// The first page that is not part of the loss: a good header from here on is log behind it.
    pub(crate) next_page: u64,
}

impl Loss {
    fn follows(&self, prev: u64, record: u64) -> bool {
        (self.at..record).contains(&prev) || self.last.is_some_and(|last| last.0 == prev)
    }
}

/// A place where the log goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Later {
    pub(crate) lsn: Lsn,
    /// It is on the page of the loss, behind it, and so is all that goes on. The page's header is
    /// good.
    pub(crate) is_on_page: bool,
}

/// A place behind `loss` where the log goes on, if there is one.
///
/// # Errors
/// [`Error::OtherTimeline`] if it goes on in another one, and what [`Segments::page`] returns.
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

/// As [`later`], from a page on that is behind that of the loss.
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

/// A record on a page that follows what was lost.
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
