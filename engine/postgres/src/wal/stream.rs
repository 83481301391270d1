//! [`StreamDecoder`]: decodes a log that arrives in pieces of any size.
//!
//! ```text
//! pieces -> Pending (pages, as far as they are there) -> Assembly -> a record, lent
//! ```
//!
//! Bytes can be understood only from a page header on, so a stream must start with the page of the
//! position: [`StreamDecoder::stream_from`]. The records before the position on that page are
//! checked, too: the position must be where a record of this log ends.
//!
//! **Invariants:** memory holds the bytes that are not decoded yet, and of decoded ones at most as
//! many again or [`DEAD_LEN_MAX`], whichever is more. Each piece must start where the one before
//! ended. Bytes that have not arrived are no error; bytes that are not log are one, because a
//! server sends only what it has flushed.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use pagestrata_layers::Lsn;

use crate::{
    error::{Error, LogCorruption, Result},
    layout::{LOG_PAGE, is_segment_size},
    wal::{
        assembly::{Assembly, Fault, Found, LogPages, Step, page_of},
        pages::{LogIdentity, PageState, read_header},
        record::Record,
        segments::name_of,
        start::{cannot_start, check_page},
    },
};

/// Decoded bytes that are kept before the rest is moved down.
const DEAD_LEN_MAX: usize = 256 << 10;
/// Positions from here on are refused, as in segment files, so that positions can be added to.
const POSITION_MAX: u64 = 0xFFFF_FFFF << 32;

/// Decodes records from pieces of a log. For one thread at a time.
#[derive(Debug)]
pub struct StreamDecoder {
    pending: Pending,
    assembly: Assembly,
    /// The position is not known to be where a record ends.
    is_unchecked: bool,
}

impl StreamDecoder {
    /// Reads the log behind `from`: the end of a record, or where one starts.
    ///
    /// # Errors
    /// [`Error::Start`] if `from` is no position in a log; [`Error::Corrupt`] for a segment size
    /// that no server has.
    pub fn new(log: LogIdentity, from: Lsn) -> Result<StreamDecoder> {
        if !is_segment_size(log.segment_size) {
            let expected = "a power of two, 1 MiB to 1 GiB";
            return Err(Error::corrupt(from, "segment size", expected, log.segment_size));
        }
        let start = page_of(from.0);
        let pending = Pending { log, start, bytes: Vec::new() };
        if !from.is_valid() || from.0 >= POSITION_MAX {
            return Err(cannot_start(&pending, from, "this is no position"));
        }
        Ok(StreamDecoder { pending, assembly: Assembly::new(from.0), is_unchecked: true })
    }

    /// Where the bytes have to start that come first, now or after [`StreamDecoder::restart`]: in
    /// the page of [`StreamDecoder::position`].
    #[must_use]
    pub fn stream_from(&self) -> Lsn {
        Lsn(page_of(self.assembly.position()))
    }

    /// The end of the last record that was lent, or where reading started.
    #[must_use]
    pub fn position(&self) -> Lsn {
        Lsn(self.assembly.position())
    }

    /// Behind the last byte that was taken in; the next piece starts here.
    #[must_use]
    pub fn received(&self) -> Lsn {
        Lsn(self.pending.end())
    }

    /// What the log has to be.
    #[must_use]
    pub fn log(&self) -> LogIdentity {
        self.pending.log
    }

    /// Takes in the bytes of the log that start at `lsn`.
    ///
    /// # Errors
    /// [`Error::Discontinuous`] if that is not where the ones before ended; nothing was taken then.
    pub fn push(&mut self, lsn: Lsn, bytes: &[u8]) -> Result<()> {
        let expected = self.received();
        let is_behind_all =
            lsn.0.checked_add(bytes.len() as u64).is_none_or(|end| end > POSITION_MAX);
        if lsn != expected || is_behind_all {
            return Err(Error::Discontinuous { expected, found: lsn, len: bytes.len() });
        }
        self.pending.forget_before(self.needed_from());
        self.pending.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next record; `None` if more bytes are needed for it.
    ///
    /// # Errors
    /// [`Error::Start`] if no record ends at the position that reading started at, damage, another
    /// cluster or timeline. The decoder is then as after [`StreamDecoder::restart`].
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        match self.advance() {
            Ok(Some(found)) => Ok(Some(self.assembly.lend(&self.pending, found))),
            Ok(None) => Ok(None),
            Err(error) => {
                self.restart();
                Err(error)
            }
        }
    }

    /// Forgets what is no record yet: the bytes come again, from [`StreamDecoder::stream_from`] on.
    /// The next record still has to follow the last one.
    pub fn restart(&mut self) {
        self.assembly.rewind();
        self.pending.start = self.stream_from().0;
        self.pending.bytes.clear();
        self.is_unchecked = true;
    }

    /// The first byte that is still needed.
    fn needed_from(&self) -> u64 {
        let at = if self.is_unchecked { self.assembly.position() } else { self.assembly.at() };
        page_of(at)
    }

    fn advance(&mut self) -> Result<Option<Found>> {
        if self.is_unchecked && !self.check_position()? {
            return Ok(None);
        }
        loop {
            match self.assembly.step(&mut self.pending)? {
                Step::Found(found) => {
                    self.assembly.accept(&found);
                    return Ok(Some(found));
                }
                Step::Fault(Fault { is_short: true, .. }) => return Ok(None),
                Step::Fault(Fault { at, corruption, .. }) => {
                    return Err(Error::Corrupt(corruption).in_segment(&self.pending.path(at)));
                }
                Step::GivenUp => {}
            }
        }
    }

    /// Checks that a record ends at the position, once its page is there up to it.
    #[cold]
    fn check_position(&mut self) -> Result<bool> {
        let position = self.position();
        let page = page_of(position.0);
        let state = self.pending.page(page)?;
        if matches!(state, PageState::Absent) || self.pending.end() < position.0 {
            return Ok(false);
        }
        let last = check_page(&self.pending, page, state, position)?;
        match (self.assembly.last(), last) {
            (Some(expected), Some(found)) if expected != found => {
                let what = "record before the position";
                let corruption = LogCorruption::new(position, what, expected, found);
                return Err(Error::Corrupt(corruption).in_segment(&self.pending.path(page)));
            }
            (None, Some(last)) => self.assembly.set_last(last),
            _ => {}
        }
        self.is_unchecked = false;
        Ok(true)
    }
}

/// The bytes that are there.
struct Pending {
    log: LogIdentity,
    /// Where `bytes` starts.
    start: u64,
    bytes: Vec<u8>,
}

/// Without the bytes.
impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({:?}, {} to {})", self.log, Lsn(self.start), Lsn(self.end()))
    }
}

impl Pending {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Nothing before `lsn` will be looked at again.
    fn forget_before(&mut self, lsn: u64) {
        let dead = lsn.saturating_sub(self.start).min(self.bytes.len() as u64) as usize;
        let live = self.bytes.len() - dead;
        if live == 0 || (dead >= DEAD_LEN_MAX && dead >= live) {
            self.bytes.drain(..dead);
            self.start += dead as u64;
        }
    }
}

impl LogPages for Pending {
    fn log(&self) -> &LogIdentity {
        &self.log
    }

    fn page(&mut self, page: u64) -> Result<PageState> {
        debug_assert!(page.is_multiple_of(LOG_PAGE));
        let bytes = self.in_window(page);
        // The path is for errors, which are rare, and there is none to lend.
        read_header(bytes, Lsn(page), &self.log, Path::new("")).map_err(|error| match error {
            Error::OtherVersion { lsn, magic, version, .. } => {
                Error::OtherVersion { segment: self.path(page), lsn, magic, version }
            }
            Error::OtherCluster { lsn, expected, found, .. } => {
                Error::OtherCluster { segment: self.path(page), lsn, expected, found }
            }
            Error::OtherTimeline { lsn, expected, found, .. } => {
                Error::OtherTimeline { segment: self.path(page), lsn, expected, found }
            }
            other => other,
        })
    }

    #[inline]
    fn rest_of_page(&mut self, lsn: u64) -> Result<&[u8]> {
        Ok(self.in_window(lsn))
    }

    #[inline]
    fn in_window(&self, lsn: u64) -> &[u8] {
        let Some(start) = lsn.checked_sub(self.start) else { return &[] };
        let page_end = (lsn | (LOG_PAGE - 1)) - self.start + 1;
        let end = page_end.min(self.bytes.len() as u64);
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }

    /// The segment's name on the server.
    fn path(&self, lsn: u64) -> PathBuf {
        let LogIdentity { timeline, segment_size, .. } = self.log;
        PathBuf::from(name_of(timeline, lsn / segment_size, segment_size))
    }

    fn place(&self) -> PathBuf {
        PathBuf::from("WAL stream")
    }
}
