//! Where reading may start: at a record, at the end of the last one, or at the first complete one.
//!
//! A page says where its first record starts, and each record how long it is, so one page is enough
//! to tell whether a record starts at a given place in it.

use std::path::Path;

use pagestrata_layers::{Lsn, storage::SharedStorage};

use crate::{
    bytes::u32_at,
    error::{Error, Result},
    layout::LOG_PAGE,
    wal::{
        assembly::{LogPages, align, page_of},
        pages::{PageHeader, PageState},
        record::{self, HEADER_LEN},
        segments::Segments,
    },
};

pub(crate) fn cannot_start(pages: &impl LogPages, from: Lsn, reason: impl Into<String>) -> Error {
    Error::Start { dir: pages.place(), from, reason: reason.into() }
}

/// Takes timeline and cluster from the segment that contains `from`.
pub(crate) fn enter_segment(
    segments: &mut Segments,
    from: Lsn,
    system_id: Option<u64>,
) -> Result<()> {
    if !from.is_valid() {
        return Err(cannot_start(segments, from, "zero is no position"));
    }
    let (ids, mut number) = (segments.list()?, from.0 / segments.log().segment_size);
    if from.0 == segments.segment_start(from.0) && ids.iter().all(|id| id.number != number) {
        // The end of a log that fills its last segment.
        number = number.saturating_sub(1);
    }
    let mut here = ids.iter().filter(|id| id.number == number);
    let Some(first) = here.next() else {
        let name = |id| segments.path_of(id).file_name().unwrap_or_default().to_owned();
        let range = match (ids.first(), ids.last()) {
            (Some(first), Some(last)) => format!("{:?} to {:?}", name(*first), name(*last)),
            _ => "none".to_owned(),
        };
        return Err(cannot_start(segments, from, format!("no such segment, there are {range}")));
    };
    if let Some(other) = here.next() {
        let (segment, lsn) = (segments.path_of(*other), Lsn(number * segments.log().segment_size));
        let (expected, found) = (first.timeline, other.timeline);
        return Err(Error::OtherTimeline { segment, lsn, expected, found });
    }
    segments.set_timeline(first.timeline);
    let start = number * segments.log().segment_size;
    if system_id.is_none() {
        segments.adopt_system_id(start)?;
    }
    // A foreign segment is refused even if the page of `from` does not show it.
    segments.page(start).map(|_| ())
}

/// Checks that a record starts, or would start, at `from`, by walking the records of its page.
pub(crate) fn check_start(segments: &mut Segments, from: Lsn) -> Result<()> {
    let page = page_of(from.0);
    match segments.page(page)? {
        // All before the edge has been read, and nothing is behind it: the end of a log can be
        // opened again.
        PageState::Absent | PageState::Unwritten | PageState::Recycled(_) if from.0 == page => {
            match segments.page(page - LOG_PAGE)? {
                PageState::Valid(header) => {
                    check_count(segments, page - LOG_PAGE, header, from).map(|_| ())
                }
                _ if page == segments.segment_start(page) => Ok(()),
                other => Err(cannot_start(segments, from, format!("there is {other}"))),
            }
        }
        state => check_page(segments, page, state, from).map(|_| ()),
    }
}

/// As [`check_start`], with the state of the page of `from`. Returns the start of the record that
/// ends at `from`, if it is on the page.
pub(crate) fn check_page(
    pages: &impl LogPages,
    page: u64,
    state: PageState,
    from: Lsn,
) -> Result<Option<Lsn>> {
    match state {
        PageState::Valid(header) if from.0 == page && !header.continues => Ok(None),
        PageState::Valid(header) => check_count(pages, page, header, from),
        PageState::Damaged { what, expected, found } => {
            let error = Error::corrupt(Lsn(page), what, expected, found);
            Err(error.in_segment(&pages.path(page)))
        }
        other => Err(cannot_start(pages, from, format!("there is {other}"))),
    }
}

fn check_count(
    pages: &impl LogPages,
    page: u64,
    header: PageHeader,
    from: Lsn,
) -> Result<Option<Lsn>> {
    let (start, last) = count_records(pages, page, header, from)?;
    if start == from.0 {
        return Ok(last.map(Lsn));
    }
    let reason = format!("no record starts there, the next does at {} or behind", Lsn(start));
    Err(cannot_start(pages, from, reason))
}

/// Returns the first place at or behind `from` where a record of this page starts or ends, and the
/// start of the record before it on the page.
fn count_records(
    pages: &impl LogPages,
    page: u64,
    header: PageHeader,
    from: Lsn,
) -> Result<(u64, Option<u64>)> {
    let rest = if header.continues { align(u64::from(header.remaining)) } else { 0 };
    let (mut start, mut last) = (page + header.len + rest, None);
    while start < from.0 && page_of(start) == page {
        let bytes = pages.in_window(start);
        let len = u32_at(bytes, 0).unwrap_or_default();
        if len < HEADER_LEN as u32 {
            let reason = format!("the log ends before, at {}", Lsn(start));
            return Err(cannot_start(pages, from, reason));
        }
        last = Some(start);
        let end = start + align(u64::from(len));
        let switch = bytes.len() >= HEADER_LEN && record::is_switch(bytes);
        start = if switch { pages.log().segment_end(start) } else { end };
    }
    Ok((start, last))
}

/// Returns the start of the first complete record of the log in `dir`.
///
/// # Errors
/// [`Error::Start`] if none starts in the first segment, and errors of that segment.
pub fn first_record(storage: SharedStorage, dir: &Path) -> Result<Lsn> {
    let mut segments = Segments::find(storage, dir, None)?;
    let first = segments.list()?.first().copied();
    let Some(first) = first else { return Err(Error::NoSegments { dir: dir.to_owned() }) };
    segments.set_timeline(first.timeline);
    let start = first.number * segments.log().segment_size;
    segments.adopt_system_id(start)?;
    let mut page = start;
    while page < segments.segment_end(start) {
        let header = match segments.page(page)? {
            PageState::Valid(header) => header,
            other => return Err(cannot_start(&segments, Lsn(page), format!("there is {other}"))),
        };
        let (first, _) = count_records(&segments, page, header, Lsn(page))?;
        if page_of(first) == page {
            return Ok(Lsn(first));
        }
        page += LOG_PAGE;
    }
    Err(cannot_start(&segments, Lsn(start), "one record fills the first segment"))
}
