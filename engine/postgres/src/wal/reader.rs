//! [`WalReader`]: the records of a directory of segments, one after the other.
//!
//! ```text
//! Segments (pages) -> Assembly -> a record, lent
//! ```
//!
//! **Invariants:** a record within a page is lent from the window without a copy. A steady read
//! allocates nothing per record.
//!
//! [`WalReader::finish`] alone decides what stops a reader: a [`WalEnd`] if nothing is written
//! behind it, an error if something is (`survey.rs`). A record that looks damaged is read once more
//! from the file first, because a server may have written it in the meantime.

use std::path::Path;

use pagestrata_layers::{Lsn, storage::SharedStorage};

use crate::{
    error::{Error, LogCorruption, Result},
    wal::{
        assembly::{Assembly, Fault, Found, LogPages, Step, page_of},
        record::Record,
        segments::Segments,
        start,
        survey::{self, Loss, WalEnd},
    },
};

/// Reads the WAL records of a directory in order.
///
/// For one thread at a time. It holds one file open.
#[derive(Debug)]
pub struct WalReader {
    segments: Segments,
    assembly: Assembly,
    to: Option<Lsn>,
    ended: Option<WalEnd>,
    /// The fault of the next record at the last attempt, if it looked like damage.
    looked_at: Option<Box<LogCorruption>>,
    /// Number of such attempts.
    looks: u32,
}

/// Upper bound on attempts to read a record that looks damaged and changes between attempts.
const LOOKS_MAX: u32 = 16;

impl WalReader {
    /// Opens the log in `dir` at `from`, the start of a record or the end of the one before it.
    ///
    /// Records that end behind `to` are not read. Every segment must be of the cluster
    /// `expect_system_id`; without it, of the cluster that the segment of `from` names. The
    /// timeline is the one of that segment.
    ///
    /// # Errors
    /// [`Error::Start`] if no record starts at `from` or the log here does not contain it, and
    /// errors of its segment.
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
            assembly: Assembly::new(from.0),
            to,
            ended: None,
            looked_at: None,
            looks: 0,
        })
    }

    /// Returns the next record, or `None` at the end of the log; [`WalReader::end`] says which end.
    ///
    /// # Errors
    /// Damage, a missing or foreign segment, or an end before `to`. The position does not change,
    /// and the next call tries again.
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        let Some(found) = self.advance()? else { return Ok(None) };
        Ok(Some(self.assembly.lend(&self.segments, found)))
    }

    /// How the log ended; `None` while it has not.
    #[must_use]
    pub fn end(&self) -> Option<WalEnd> {
        self.ended
    }

    /// The end of the last record, or where reading started.
    #[must_use]
    pub fn position(&self) -> Lsn {
        Lsn(self.assembly.position())
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
        loop {
            if self.to.is_some_and(|to| self.assembly.at() >= to.0) {
                self.ended = Some(WalEnd::Reached { at: self.position() });
                return Ok(None);
            }
            match self.assembly.step(&mut self.segments)? {
                Step::Found(found) if self.to.is_some_and(|to| found.end > to.0) => {
                    self.ended = Some(WalEnd::Reached { at: self.position() });
                    return Ok(None);
                }
                Step::Found(found) => {
                    self.assembly.accept(&found);
                    (self.looked_at, self.looks) = (None, 0);
                    return Ok(Some(found));
                }
                Step::Fault(fault) => {
                    self.assembly.rewind();
                    if let Some(end) = self.finish(fault)? {
                        self.ended = Some(end);
                        return Ok(None);
                    }
                }
                Step::GivenUp => {}
            }
        }
    }

    /// Decides whether a fault is the end of the log or damage. Returns `None` if the record must
    /// be read again because the file may have changed.
    #[cold]
    fn finish(&mut self, fault: Fault) -> Result<Option<WalEnd>> {
        let Fault { at, torn, next_page, mut corruption, .. } = fault;
        let loss = Loss { at, last: self.assembly.last(), next_page };
        let mut is_being_written = false;
        if let Some(later) = survey::later(&mut self.segments, &loss)? {
            let has_changed = self.looked_at.as_ref().is_some_and(|before| *before != corruption);
            let is_first = self.looked_at.is_none();
            self.looks += 1;
            if (is_first || has_changed) && self.looks < LOOKS_MAX {
                self.looked_at = Some(corruption);
                self.segments.forget();
                return Ok(None);
            }
            is_being_written =
                later.is_on_page && (has_changed || self.segments.is_of_running_server());
            if !is_being_written {
                let stopped = next_page.max(page_of(at));
                if let Some(missing) = self.missing_before(page_of(at), stopped, later.lsn)? {
                    return Err(missing);
                }
                corruption.later = Some(later.lsn);
                return Err(Error::Corrupt(corruption).in_segment(&self.segments.path(at)));
            }
        }
        match self.to {
            Some(to) => {
                let (dir, end) = (self.segments.dir().to_owned(), self.position());
                Err(Error::EndsBefore { dir, to, end })
            }
            None if torn || is_being_written => Ok(Some(WalEnd::Torn { at: Lsn(at) })),
            None => Ok(Some(WalEnd::Clean { at: self.position() })),
        }
    }

    /// Returns the error of a missing segment, if one stopped the reader and a later one exists.
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
