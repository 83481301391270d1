//! [`WalReader`]: the records of a directory of segments, one after the other.
//!
//! ```text
//! Segments (pages) -> where the next record starts -> its bytes, gathered over pages -> checked -> lent
//! ```
//!
//! **Invariants:** a record within a page is lent from the window without a copy; one over several pages is gathered in a
//! buffer that is used again. A steady read allocates nothing per record. A record is lent only after its link to the
//! record before, its checksum and all of its headers were checked.
//!
//! What stops a reader is decided in one place, [`WalReader::finish`]: [`WalEnd`] if nothing is written behind it, an
//! error if something is ([`crate::survey`]).

use std::path::Path;

use pagestrata_layers::{Lsn, storage::SharedStorage};

use crate::{
    Error, Result,
    bytes::{u32_at, u64_at},
    error::LogCorruption,
    pages::{LOG_PAGE, PageHeader, PageState},
    record::{self, HEADER_LEN, Layout, RECORD_LEN_MAX, Record},
    segments::Segments,
    start,
    survey::{self, Loss, WalEnd},
};

/// Reads WAL records in order. One thread's; it holds one file open at a time.
#[derive(Debug)]
pub struct WalReader {
    segments: Segments,
    /// A record that lies on several pages.
    gathered: Vec<u8>,
    /// The end of the last record: the next one starts here, or behind the header of the page that does.
    next: u64,
    /// The start of the last record; none before the first.
    last: Option<Lsn>,
    /// A record that was given up after a crash: the next one has to say so.
    given_up: Option<Lsn>,
    to: Option<Lsn>,
    ended: Option<WalEnd>,
}

/// A record that was found and is good.
struct Found {
    lsn: u64,
    end: u64,
    len: usize,
    gathered: bool,
    layout: Layout,
}

/// Why there is no record here.
struct Fault {
    at: u64,
    torn: bool,
    /// The first page that was not looked at as a part of the record.
    next_page: u64,
    corruption: Box<LogCorruption>,
}

enum Step {
    Found(Found),
    Fault(Fault),
    /// The record stops at this page, and what is there now has replaced its rest.
    GivenUp {
        start: u64,
        page: u64,
    },
}

/// The bytes of a record.
enum Gathered {
    /// From here to there, on how many pages.
    Bytes {
        end: u64,
        gathered: bool,
    },
    Step(Step),
}

/// The page that `lsn` is in.
pub(crate) const fn page_of(lsn: u64) -> u64 {
    lsn & !(LOG_PAGE - 1)
}

/// Records start at multiples of 8.
pub(crate) const fn align(len: u64) -> u64 {
    (len + 7) & !7
}

impl WalReader {
    /// Opens the log in `dir` at the record that starts at `from` (or at the end of the one before it), to read the records
    /// that end at or before `to`, or all. Every segment must be of the cluster `expect_system_id`, or else
    /// of that of the segment that `from` is in. The timeline is that of this segment.
    ///
    /// # Errors
    /// [`Error::Start`] if no record starts at `from` or it is not in the log that is here; what is wrong with its segment.
    pub fn open(
        storage: SharedStorage,
        dir: &Path,
        from: Lsn,
        to: Option<Lsn>,
        expect_system_id: Option<u64>,
    ) -> Result<WalReader> {
        let mut segments = Segments::find(storage, dir, expect_system_id)?;
        start::enter_segment(&mut segments, from, expect_system_id)?;
        start::check_start(&mut segments, from)?;
        Ok(WalReader {
            segments,
            gathered: Vec::new(),
            next: from.0,
            last: None,
            given_up: None,
            to,
            ended: None,
        })
    }

    /// The next record; `None` once the log has ended, and [`WalReader::end`] says how.
    ///
    /// # Errors
    /// Damage, a missing or a foreign segment, or an end before the Lsn that was to be reached. The reader stays where it is:
    /// asked again, it tries again.
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        let Some(Found { lsn, end, len, gathered, layout }) = self.advance()? else {
            return Ok(None);
        };
        let raw = if gathered { &self.gathered[..] } else { &self.segments.in_window(lsn)[..len] };
        Ok(Some(Record::new(Lsn(lsn), Lsn(end), raw, layout)))
    }

    /// How the log ended; `None` while it has not.
    #[must_use]
    pub fn end(&self) -> Option<WalEnd> {
        self.ended
    }

    /// The end of the last record that was read, or where reading started.
    #[must_use]
    pub fn position(&self) -> Lsn {
        Lsn(self.next)
    }

    /// The cluster that the log is of.
    #[must_use]
    pub fn system_id(&self) -> u64 {
        self.segments.log().system_id
    }

    /// The timeline that is read.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        self.segments.log().timeline
    }

    /// Bytes of a segment.
    #[must_use]
    pub fn segment_size(&self) -> u64 {
        self.segments.log().segment_size
    }

    fn advance(&mut self) -> Result<Option<Found>> {
        if self.ended.is_some() {
            return Ok(None);
        }
        let mut next = self.next;
        loop {
            if self.to.is_some_and(|to| next >= to.0) {
                self.ended = Some(WalEnd::Reached { at: Lsn(self.next) });
                return Ok(None);
            }
            match self.step(next)? {
                Step::Found(found) if self.to.is_some_and(|to| found.end > to.0) => {
                    self.ended = Some(WalEnd::Reached { at: Lsn(self.next) });
                    return Ok(None);
                }
                Step::Found(found) => {
                    (self.next, self.last) = (found.end, Some(Lsn(found.lsn)));
                    self.given_up = None;
                    return Ok(Some(found));
                }
                Step::Fault(fault) => {
                    self.ended = Some(self.finish(fault)?);
                    return Ok(None);
                }
                Step::GivenUp { start, page } => {
                    self.given_up = Some(Lsn(start));
                    next = page;
                }
            }
        }
    }

    /// Looks for the record behind `next`.
    #[inline]
    fn step(&mut self, next: u64) -> Result<Step> {
        let mut start = next;
        if next.is_multiple_of(LOG_PAGE) {
            match self.segments.page(next)? {
                PageState::Valid(header) if header.continues => {
                    let found = format!("{} bytes of one", header.remaining);
                    let error =
                        Error::corrupt(Lsn(next), "page header", "no record to continue", found);
                    return Err(error.in_segment(&self.segments.path(next)));
                }
                PageState::Valid(header) => start = next + header.len,
                other => {
                    return Ok(Step::Fault(fault(
                        next,
                        false,
                        next + LOG_PAGE,
                        "page",
                        "a page",
                        other,
                    )));
                }
            }
        }
        let (end, gathered) = match self.gather(start)? {
            Gathered::Bytes { end, gathered } => (end, gathered),
            Gathered::Step(step) => return Ok(step),
        };
        let raw = if gathered {
            &self.gathered[..]
        } else {
            &self.segments.in_window(start)[..(end - start) as usize]
        };
        if let Err(corruption) = check(raw, start, self.last) {
            let next_page = page_of(end - 1) + LOG_PAGE;
            return Ok(Step::Fault(Fault { at: start, torn: true, next_page, corruption }));
        }
        let located = |error: Error| error.in_segment(&self.segments.path(start));
        if let Some(given_up) = self.given_up {
            check_replacement(raw, start, given_up).map_err(located)?;
        }
        let layout = Layout::read(raw, Lsn(start))
            .map_err(|corruption| located(Error::Corrupt(corruption)))?;
        let mut end = align(end);
        if record::is_switch(raw) && end != self.segments.segment_start(end) {
            end = self.segments.segment_end(end);
        }
        Ok(Step::Found(Found { lsn: start, end, len: raw.len(), gathered, layout }))
    }

    /// Makes the bytes of the record at `start` contiguous.
    #[inline]
    fn gather(&mut self, start: u64) -> Result<Gathered> {
        let room = LOG_PAGE - start % LOG_PAGE;
        let here = self.segments.rest_of_page(start)?;
        let header = &here[..here.len().min(HEADER_LEN)];
        let len = u32_at(here, 0).unwrap_or_default();
        if !(HEADER_LEN as u32..=RECORD_LEN_MAX).contains(&len) {
            let torn = header.iter().any(|byte| *byte != 0);
            let fault =
                fault(start, torn, page_of(start) + LOG_PAGE, "record length", "24 or more", len);
            return Ok(Gathered::Step(Step::Fault(fault)));
        }
        if len as usize <= here.len() {
            return Ok(Gathered::Bytes { end: start + u64::from(len), gathered: false });
        }
        if (here.len() as u64) < room {
            let (expected, next_page) = (format!("{len} bytes"), page_of(start) + LOG_PAGE);
            let fault = fault(start, true, next_page, "record", expected, "the end of the file");
            return Ok(Gathered::Step(Step::Fault(fault)));
        }
        self.gathered.clear();
        self.gathered.extend_from_slice(here);
        self.gather_rest(start, len as usize)
    }

    /// Appends the rest of a record from the pages behind its first.
    fn gather_rest(&mut self, start: u64, len: usize) -> Result<Gathered> {
        let mut page = page_of(start);
        loop {
            page += LOG_PAGE;
            let missing = len - self.gathered.len();
            let header = match self.segments.page(page)? {
                PageState::Valid(PageHeader { overwritten: true, .. }) => {
                    return Ok(Gathered::Step(Step::GivenUp { start, page }));
                }
                PageState::Valid(header) if header.remaining as usize == missing => header,
                other => {
                    let expected = format!("a page with {missing} bytes to continue");
                    let what = "continuation of a record";
                    let fault = fault(start, true, page, what, expected, other);
                    return Ok(Gathered::Step(Step::Fault(fault)));
                }
            };
            let body = page + header.len;
            let bytes = self.segments.in_window(body);
            let take = missing.min((LOG_PAGE - header.len) as usize);
            let Some(bytes) = bytes.get(..take) else {
                let expected = format!("{take} bytes on page {}", Lsn(page));
                let fault =
                    fault(start, true, page + LOG_PAGE, "record", expected, "the end of the file");
                return Ok(Gathered::Step(Step::Fault(fault)));
            };
            self.gathered.extend_from_slice(bytes);
            if take == missing {
                return Ok(Gathered::Bytes { end: body + take as u64, gathered: true });
            }
        }
    }

    /// Decides what a fault is: the end of the log, or damage.
    #[cold]
    fn finish(&mut self, fault: Fault) -> Result<WalEnd> {
        let Fault { at, torn, next_page, mut corruption } = fault;
        let loss = Loss { at, last: self.last, next_page };
        if let Some(later) = survey::later(&mut self.segments, &loss)? {
            let stopped = next_page.max(page_of(at));
            if let Some(missing) = self.missing_before(page_of(at), stopped, later)? {
                return Err(missing);
            }
            corruption.later = Some(later);
            return Err(Error::Corrupt(corruption).in_segment(&self.segments.path(at)));
        }
        match self.to {
            Some(to) => {
                let (dir, end) = (self.segments.dir().to_owned(), Lsn(self.next));
                Err(Error::EndsBefore { dir, to, end })
            }
            None if torn => Ok(WalEnd::Torn { at: Lsn(at) }),
            None => Ok(WalEnd::Clean { at: Lsn(self.next) }),
        }
    }

    /// Whether what stopped the reader is a segment that is not there, before one that is.
    fn missing_before(&self, first: u64, last: u64, later: Lsn) -> Result<Option<Error>> {
        for page in [first, last] {
            if page < later.0 && !self.segments.is_there(page)? {
                let name = |lsn| match self.segments.path(lsn).file_name() {
                    Some(name) => name.to_string_lossy().into_owned(),
                    None => String::new(),
                };
                let dir = self.segments.dir().to_owned();
                let (missing, later) = (name(page), name(later.0));
                return Ok(Some(Error::MissingSegment { dir, missing, at: Lsn(page), later }));
            }
        }
        Ok(None)
    }
}

#[cold]
fn fault(
    at: u64,
    torn: bool,
    next_page: u64,
    what: &'static str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Fault {
    Fault { at, torn, next_page, corruption: LogCorruption::new(Lsn(at), what, expected, found) }
}

/// Checks a record's link and checksum.
#[inline]
fn check(raw: &[u8], start: u64, last: Option<Lsn>) -> std::result::Result<(), Box<LogCorruption>> {
    let prev = Lsn(u64_at(raw, 8).unwrap_or_default());
    let linked = match last {
        Some(last) => prev == last,
        None => prev.0 < start,
    };
    if !linked {
        let expected = last.map_or_else(|| "an earlier one".to_owned(), |last| last.to_string());
        return Err(LogCorruption::new(Lsn(start), "link to the record before", expected, prev));
    }
    let (stored, computed) = (u32_at(raw, 20).unwrap_or_default(), record::checksum(raw));
    // Planted for the fuzzer: damaged records are read.
    if stored != computed && !cfg!(planted_bug = "skip_record_checksum") {
        let (computed, stored) = (format!("{computed:#010X}"), format!("{stored:#010X}"));
        return Err(LogCorruption::new(Lsn(start), "record checksum", computed, stored));
    }
    Ok(())
}

/// Checks that a record says that it stands for one that was given up after a crash.
fn check_replacement(raw: &[u8], start: u64, given_up: Lsn) -> Result<()> {
    const OVERWRITE_CONTRECORD: u8 = 0xD0;
    // One short header in front of the main data, which starts with the Lsn.
    let overwritten = u64_at(raw, HEADER_LEN + 2).map(Lsn);
    if raw[17] == 0 && raw[16] & 0xF0 == OVERWRITE_CONTRECORD && overwritten == Some(given_up) {
        return Ok(());
    }
    let expected = format!("one that replaces {given_up}");
    Err(Error::corrupt(Lsn(start), "record after a torn one", expected, "another"))
}
