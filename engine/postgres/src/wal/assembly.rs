//! [`Assembly`]: makes records out of log pages, whatever their source.
//!
//! ```text
//! LogPages -> where the next record starts -> its bytes, gathered over pages -> checked -> Found
//! ```
//!
//! The pages of a directory are complete from the start; those of a stream arrive piece by piece. A
//! step that runs out of bytes returns a fault with [`Fault::is_short`] and keeps the bytes that it
//! has gathered: the next step continues at the page where this one stopped.
//!
//! **Invariants:** a record within one page is not copied; a record that spans pages is gathered in
//! a buffer that is reused. A record is returned only after its link to the previous record, its
//! checksum and all of its headers were checked. The position does not change before
//! [`Assembly::accept`].

use std::path::PathBuf;

use pagestrata_layers::Lsn;

use crate::{
    bytes::{u32_at, u64_at},
    error::{Error, LogCorruption, Result},
    layout::LOG_PAGE,
    wal::{
        pages::{LogIdentity, PageHeader, PageState},
        record::{self, HEADER_LEN, Layout, RECORD_LEN_MAX, Record},
    },
};

/// Access to a log by pages. The page that was read last stays available through `in_window`.
pub(crate) trait LogPages {
    fn log(&self) -> &LogIdentity;

    /// Reads and classifies the page of address `page`.
    fn page(&mut self, page: u64) -> Result<PageState>;

    /// Returns the bytes from `lsn` to the end of its page, or to the end of the log.
    fn rest_of_page(&mut self, lsn: u64) -> Result<&[u8]>;

    /// As [`LogPages::rest_of_page`], without a read: the page must be the one that was read last.
    fn in_window(&self, lsn: u64) -> &[u8];

    /// Returns the path of the segment that contains `lsn`, for errors.
    fn path(&self, lsn: u64) -> PathBuf;

    /// Returns the place of the whole log, for errors.
    fn place(&self) -> PathBuf;
}

/// Place and layout of a record that passed all checks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) lsn: u64,
    pub(crate) end: u64,
    len: usize,
    gathered: bool,
    layout: Layout,
}

/// Reason why no record can be read at a position.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) torn: bool,
    /// The bytes end here, and those that are present are valid.
    pub(crate) is_short: bool,
    /// The first page behind those that were read as part of the record.
    pub(crate) next_page: u64,
    pub(crate) corruption: Box<LogCorruption>,
}

#[derive(Debug)]
pub(crate) enum Step {
    Found(Found),
    Fault(Fault),
    /// A record ends at a page boundary because a crash cut it off; the server wrote on over its
    /// rest. The next step continues there.
    GivenUp,
}

/// The bytes of a record.
enum Gathered {
    Bytes { end: u64, gathered: bool },
    Step(Step),
}

/// A record whose first pages are gathered.
#[derive(Clone, Copy, Debug)]
struct Partial {
    start: u64,
    len: usize,
    /// The page that has its next bytes.
    page: u64,
}

/// The page that `lsn` is in.
pub(crate) const fn page_of(lsn: u64) -> u64 {
    lsn & !(LOG_PAGE - 1)
}

/// Records start at multiples of 8.
pub(crate) const fn align(len: u64) -> u64 {
    (len + 7) & !7
}

/// State of reading records one after the other.
#[derive(Debug)]
pub(crate) struct Assembly {
    /// Bytes of a record that spans pages.
    gathered: Vec<u8>,
    partial: Option<Partial>,
    /// The end of the last record.
    position: u64,
    /// Where to look: the next record starts here, or behind the header of the page that does.
    /// Behind `position` only when a record was given up.
    at: u64,
    /// The start of the last record; none before the first.
    last: Option<Lsn>,
    /// A record that was given up after a crash: the next record must name it.
    given_up: Option<Lsn>,
}

impl Assembly {
    /// From the end of a record, or from where one starts.
    pub(crate) fn new(from: u64) -> Assembly {
        let (gathered, partial) = (Vec::new(), None);
        Assembly { gathered, partial, position: from, at: from, last: None, given_up: None }
    }

    /// The end of the last record.
    #[inline]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Where the next step looks first.
    #[inline]
    pub(crate) fn at(&self) -> u64 {
        self.partial.map_or(self.at, |partial| partial.page)
    }

    /// The start of the last record; none before the first.
    pub(crate) fn last(&self) -> Option<Lsn> {
        self.last
    }

    /// Sets the start of the record that ends at the position.
    pub(crate) fn set_last(&mut self, last: Lsn) {
        self.last = Some(last);
    }

    /// Moves the position behind `found`.
    #[inline]
    pub(crate) fn accept(&mut self, found: &Found) {
        (self.position, self.at) = (found.end, found.end);
        self.last = Some(Lsn(found.lsn));
        self.given_up = None;
    }

    /// Forgets all that was read behind the last accepted record.
    #[cold]
    pub(crate) fn rewind(&mut self) {
        (self.at, self.partial, self.given_up) = (self.position, None, None);
    }

    /// Returns the record that was found last.
    #[inline]
    pub(crate) fn lend<'a>(&'a self, pages: &'a impl LogPages, found: Found) -> Record<'a> {
        let Found { lsn, end, len, gathered, layout } = found;
        let raw = if gathered { &self.gathered[..] } else { &pages.in_window(lsn)[..len] };
        Record::new(Lsn(lsn), Lsn(end), raw, layout)
    }

    /// Looks for the next record.
    ///
    /// # Errors
    /// Damage that no end of a log explains. Gathered bytes are dropped, and the next step starts
    /// at the beginning of the record.
    #[inline]
    pub(crate) fn step<P: LogPages>(&mut self, pages: &mut P) -> Result<Step> {
        let (start, gathered) = match self.partial.take() {
            Some(partial) => (partial.start, self.gather_rest(pages, partial)?),
            None => match find_start(pages, self.at)? {
                Ok(start) => (start, self.gather(pages, start)?),
                Err(fault) => return Ok(Step::Fault(fault)),
            },
        };
        let (end, gathered) = match gathered {
            Gathered::Bytes { end, gathered } => (end, gathered),
            Gathered::Step(step) => return Ok(step),
        };
        let raw = if gathered {
            &self.gathered[..]
        } else {
            &pages.in_window(start)[..(end - start) as usize]
        };
        if let Err(corruption) = check(raw, start, self.last) {
            let next_page = page_of(end - 1) + LOG_PAGE;
            let (at, torn, is_short) = (start, true, false);
            return Ok(Step::Fault(Fault { at, torn, is_short, next_page, corruption }));
        }
        let located = |error: Error| error.in_segment(&pages.path(start));
        if let Some(given_up) = self.given_up {
            check_replacement(raw, start, given_up).map_err(located)?;
        }
        let layout = Layout::read(raw, Lsn(start))
            .map_err(|corruption| located(Error::Corrupt(corruption)))?;
        let mut end = align(end);
        if record::is_switch(raw) && end != pages.log().segment_start(end) {
            end = pages.log().segment_end(end);
        }
        Ok(Step::Found(Found { lsn: start, end, len: raw.len(), gathered, layout }))
    }

    /// Makes the bytes of the record at `start` contiguous.
    #[inline]
    fn gather<P: LogPages>(&mut self, pages: &mut P, start: u64) -> Result<Gathered> {
        let room = LOG_PAGE - start % LOG_PAGE;
        let here = pages.rest_of_page(start)?;
        let header = &here[..here.len().min(HEADER_LEN)];
        let stated = u32_at(here, 0);
        let len = stated.unwrap_or_default();
        if !(HEADER_LEN as u32..=RECORD_LEN_MAX).contains(&len) {
            let torn = header.iter().any(|byte| *byte != 0);
            let mut fault =
                fault(start, torn, page_of(start) + LOG_PAGE, "record length", "24 or more", len);
            fault.is_short = stated.is_none();
            return Ok(Gathered::Step(Step::Fault(fault)));
        }
        if len as usize <= here.len() {
            return Ok(Gathered::Bytes { end: start + u64::from(len), gathered: false });
        }
        if (here.len() as u64) < room {
            let (expected, next_page) = (format_args!("{len} bytes"), page_of(start) + LOG_PAGE);
            return Ok(short(start, next_page, expected));
        }
        self.gathered.clear();
        self.gathered.extend_from_slice(here);
        let page = page_of(start) + LOG_PAGE;
        self.gather_rest(pages, Partial { start, len: len as usize, page })
    }

    /// Appends the rest of a record from the pages behind its first.
    fn gather_rest<P: LogPages>(&mut self, pages: &mut P, partial: Partial) -> Result<Gathered> {
        let Partial { start, len, mut page } = partial;
        loop {
            let missing = len - self.gathered.len();
            let header = match pages.page(page)? {
                PageState::Valid(PageHeader { overwritten: true, .. }) => {
                    (self.given_up, self.at) = (Some(Lsn(start)), page);
                    return Ok(Gathered::Step(Step::GivenUp));
                }
                PageState::Valid(header) if header.remaining as usize == missing => header,
                other => {
                    let expected = format!("a page with {missing} bytes to continue");
                    let what = "continuation of a record";
                    let mut fault = fault(start, true, page, what, expected, &other);
                    if matches!(other, PageState::Absent) {
                        fault.is_short = true;
                        self.partial = Some(Partial { start, len, page });
                    }
                    return Ok(Gathered::Step(Step::Fault(fault)));
                }
            };
            let body = page + header.len;
            let take = missing.min((LOG_PAGE - header.len) as usize);
            let Some(bytes) = pages.in_window(body).get(..take) else {
                self.partial = Some(Partial { start, len, page });
                let expected = format_args!("{take} bytes on page {}", Lsn(page));
                return Ok(short(start, page + LOG_PAGE, expected));
            };
            self.gathered.extend_from_slice(bytes);
            if take == missing {
                return Ok(Gathered::Bytes { end: body + take as u64, gathered: true });
            }
            page += LOG_PAGE;
        }
    }
}

/// Returns where the next record at or behind `at` starts.
#[inline]
fn find_start<P: LogPages>(pages: &mut P, at: u64) -> Result<std::result::Result<u64, Fault>> {
    if !at.is_multiple_of(LOG_PAGE) {
        return Ok(Ok(at));
    }
    match pages.page(at)? {
        PageState::Valid(header) if header.continues => {
            let found = format!("{} bytes of one", header.remaining);
            let error = Error::corrupt(Lsn(at), "page header", "no record to continue", found);
            Err(error.in_segment(&pages.path(at)))
        }
        PageState::Valid(header) => Ok(Ok(at + header.len)),
        other => {
            let mut fault = fault(at, false, at + LOG_PAGE, "page", "a page", &other);
            fault.is_short = matches!(other, PageState::Absent);
            Ok(Err(fault))
        }
    }
}

/// Fault of a record whose bytes are not all there.
#[cold]
fn short(start: u64, next_page: u64, expected: impl std::fmt::Display) -> Gathered {
    let mut fault = fault(start, true, next_page, "record", expected, "the end of the file");
    fault.is_short = true;
    Gathered::Step(Step::Fault(fault))
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
    let corruption = LogCorruption::new(Lsn(at), what, expected, found);
    Fault { at, torn, is_short: false, next_page, corruption }
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

/// Checks that a record names the one that was given up after a crash.
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
