//! The segment files of a directory, as pages: names, sizes, and a window of bytes that moves
//! along.
//!
//! A segment's name is 24 hexadecimal digits: timeline, and the segment's number as a pair whose
//! second half counts to 4 GiB. Other names are none of ours and are passed over.
//!
//! **Invariants:** memory is one window, whatever the size of a segment; a window never crosses a
//! segment, and a page never crosses a window. Every byte comes through the storage trait.

use std::path::{Path, PathBuf};

use pagestrata_layers::{
    Lsn,
    storage::{File, SharedStorage},
};

use crate::{
    bytes::u32_at,
    error::{Error, Result},
    layout::{LOG_PAGE, is_segment_size},
    wal::{
        assembly::LogPages,
        pages::{LogIdentity, PageState, read_header, read_long_header},
    },
};

/// Bytes of a window: small enough to stay in a core's cache between the read and the decoding.
const WINDOW_LEN: u64 = 256 << 10;

/// A segment's name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SegmentName {
    timeline: u32,
    upper: u32,
    lower: u32,
}

impl SegmentName {
    fn parse(name: &str) -> Option<SegmentName> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
        if name.len() != 24 || !name.bytes().all(digit) {
            return None;
        }
        let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
        Some(SegmentName { timeline: part(0..8)?, upper: part(8..16)?, lower: part(16..24)? })
    }
}

/// A segment that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentId {
    pub(crate) number: u64,
    pub(crate) timeline: u32,
}

#[derive(Debug)]
struct OpenSegment {
    number: u64,
    path: PathBuf,
    /// None: there is no such file.
    file: Option<(Box<dyn File>, u64)>,
}

/// The log in a directory, page by page.
#[derive(Debug)]
pub(crate) struct Segments {
    storage: SharedStorage,
    dir: PathBuf,
    log: LogIdentity,
    open: Option<OpenSegment>,
    /// The bytes of `window_start..window_end`; never longer than a window.
    window: Vec<u8>,
    window_start: u64,
    window_end: u64,
}

fn names(storage: &SharedStorage, dir: &Path) -> Result<Vec<SegmentName>> {
    let names = storage.list(dir)?;
    Ok(names.iter().filter_map(|name| SegmentName::parse(name)).collect())
}

/// Where a segment starts, for errors: by the size that its header states, if a server makes such,
/// or else by the usual one.
fn start_of(name: SegmentName, header: &[u8]) -> Lsn {
    const SIZE_OFFSET: usize = 32;
    const USUAL_SIZE: u64 = 16 << 20;
    let stated = u32_at(header, SIZE_OFFSET).map(u64::from).filter(|size| is_segment_size(*size));
    let size = stated.unwrap_or(USUAL_SIZE);
    Lsn((u64::from(name.upper) << 32).saturating_add(u64::from(name.lower).saturating_mul(size)))
}

/// The name of a segment.
pub(crate) fn name_of(timeline: u32, number: u64, segment_size: u64) -> String {
    let per_upper = (1 << 32) / segment_size;
    format!("{timeline:08X}{:08X}{:08X}", number / per_upper, number % per_upper)
}

fn path_of(dir: &Path, timeline: u32, number: u64, segment_size: u64) -> PathBuf {
    dir.join(name_of(timeline, number, segment_size))
}

impl Segments {
    /// Finds what segments there are, and their size: the first readable header states it.
    pub(crate) fn find(
        storage: SharedStorage,
        dir: &Path,
        system_id: Option<u64>,
    ) -> Result<Segments> {
        let names = names(&storage, dir)?;
        let mut first_error = None;
        for name in &names {
            let SegmentName { timeline, upper, lower } = *name;
            let path = dir.join(format!("{timeline:08X}{upper:08X}{lower:08X}"));
            let file = storage.open(&path)?;
            let mut header = vec![0; file.len()?.min(40) as usize];
            file.read_at(0, &mut header)?;
            match read_long_header(&header, start_of(*name, &header), &path) {
                Ok((found, segment_size)) => {
                    let system_id = system_id.unwrap_or(found);
                    let log = LogIdentity { system_id, timeline, segment_size };
                    let (dir, window) = (dir.to_owned(), Vec::new());
                    return Ok(Segments {
                        storage,
                        dir,
                        log,
                        open: None,
                        window,
                        window_start: 0,
                        window_end: 0,
                    });
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or(Error::NoSegments { dir: dir.to_owned() }))
    }

    /// Reads what comes next from the files again.
    pub(crate) fn forget(&mut self) {
        self.open = None;
        self.window_end = self.window_start;
    }

    /// Whether this is the `pg_wal` of a data directory that a server runs in, as far as its lock
    /// file says: it may be left from a server that crashed. What cannot be looked at is not there.
    pub(crate) fn is_of_running_server(&self) -> bool {
        const LOCK_FILE: &str = "postmaster.pid";
        let path = match (self.dir.file_name(), self.dir.parent()) {
            (Some(_), Some(parent)) => parent.join(LOCK_FILE),
            // `.` and the like.
            _ => self.dir.join("..").join(LOCK_FILE),
        };
        self.storage.exists(&path).unwrap_or(false)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Follows this timeline from now on.
    pub(crate) fn set_timeline(&mut self, timeline: u32) {
        self.log.timeline = timeline;
        self.open = None;
        self.window_end = self.window_start;
    }

    /// Takes the system identifier that the segment of `lsn` states, if it can be read.
    pub(crate) fn adopt_system_id(&mut self, lsn: u64) -> Result<()> {
        let start = self.segment_start(lsn);
        let path = self.path(lsn);
        let bytes = self.rest_of_page(start)?;
        if let Ok((system_id, _)) = read_long_header(bytes, Lsn(start), &path) {
            self.log.system_id = system_id;
        }
        Ok(())
    }

    /// The segments that are there now, in order.
    pub(crate) fn list(&self) -> Result<Vec<SegmentId>> {
        let size = self.log.segment_size;
        let per_upper = (1 << 32) / size;
        let mut ids = Vec::new();
        for SegmentName { timeline, upper, lower } in names(&self.storage, &self.dir)? {
            // The last 4 GiB of the 64-bit space are refused with it, so that positions can be
            // added to.
            if u64::from(lower) >= per_upper || upper == u32::MAX {
                let segment = self.dir.join(format!("{timeline:08X}{upper:08X}{lower:08X}"));
                return Err(Error::SegmentName { segment, segment_size: size });
            }
            ids.push(SegmentId {
                number: u64::from(upper) * per_upper + u64::from(lower),
                timeline,
            });
        }
        ids.sort_unstable();
        Ok(ids)
    }

    pub(crate) fn path_of(&self, id: SegmentId) -> PathBuf {
        path_of(&self.dir, id.timeline, id.number, self.log.segment_size)
    }

    pub(crate) fn segment_start(&self, lsn: u64) -> u64 {
        self.log.segment_start(lsn)
    }

    /// The segment behind that of `lsn`.
    pub(crate) fn segment_end(&self, lsn: u64) -> u64 {
        self.log.segment_end(lsn)
    }

    /// Whether the file that `lsn` is in is there.
    pub(crate) fn is_there(&self, lsn: u64) -> Result<bool> {
        Ok(self.storage.exists(&self.path(lsn))?)
    }

    /// Moves the window so that it has `lsn`, as far as the file does.
    #[cold]
    fn fill(&mut self, lsn: u64) -> Result<()> {
        if (self.window_start..self.window_end).contains(&lsn) {
            return Ok(());
        }
        self.open_segment(lsn)?;
        let start = lsn & !(WINDOW_LEN - 1);
        (self.window_start, self.window_end) = (start, start);
        let Some(OpenSegment { file: Some((file, len)), .. }) = &self.open else { return Ok(()) };
        let offset = start & (self.log.segment_size - 1);
        let there = len.saturating_sub(offset).min(WINDOW_LEN) as usize;
        if self.window.len() < there {
            self.window.resize(there, 0);
        }
        file.read_at(offset, &mut self.window[..there])?;
        self.window_end = start + there as u64;
        Ok(())
    }

    fn open_segment(&mut self, lsn: u64) -> Result<()> {
        let number = lsn / self.log.segment_size;
        if self.open.as_ref().is_some_and(|open| open.number == number) {
            return Ok(());
        }
        let path = self.path(lsn);
        let file = if self.storage.exists(&path)? {
            let file = self.storage.open(&path)?;
            let len = file.len()?;
            if len > self.log.segment_size {
                let expected = format_args!("{} bytes", self.log.segment_size).to_string();
                let error =
                    pagestrata_layers::Error::corrupt(&path, 0, "WAL segment", expected, len);
                return Err(error.into());
            }
            Some((file, len))
        } else {
            None
        };
        self.open = Some(OpenSegment { number, path, file });
        Ok(())
    }
}

impl LogPages for Segments {
    fn log(&self) -> &LogIdentity {
        &self.log
    }

    fn page(&mut self, page: u64) -> Result<PageState> {
        debug_assert!(page.is_multiple_of(LOG_PAGE));
        self.fill(page)?;
        let path = self.open.as_ref().map_or(Path::new(""), |open| &open.path);
        read_header(self.in_window(page), Lsn(page), &self.log, path)
    }

    #[inline]
    fn rest_of_page(&mut self, lsn: u64) -> Result<&[u8]> {
        if !(self.window_start..self.window_end).contains(&lsn) {
            self.fill(lsn)?;
        }
        Ok(self.in_window(lsn))
    }

    #[inline]
    fn in_window(&self, lsn: u64) -> &[u8] {
        let page_end = (lsn | (LOG_PAGE - 1)).saturating_sub(self.window_start).saturating_add(1);
        let end = page_end.min(self.window_end - self.window_start) as usize;
        let start = lsn.saturating_sub(self.window_start) as usize;
        self.window.get(start..end).unwrap_or_default()
    }

    fn path(&self, lsn: u64) -> PathBuf {
        self.path_of(SegmentId { number: lsn / self.log.segment_size, timeline: self.log.timeline })
    }

    fn place(&self) -> PathBuf {
        self.dir.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_server() {
        let name = SegmentName::parse("0000000A000000010000004F");
        assert_eq!(name, Some(SegmentName { timeline: 10, upper: 1, lower: 0x4F }));
        for other in
            ["", "00000001.history", "0000000A000000010000004f", "0000000A000000010000004F.partial"]
        {
            assert_eq!(SegmentName::parse(other), None);
        }
        let path = path_of(Path::new("d"), 10, 256 + 0x4F, 16 << 20);
        assert_eq!(path, Path::new("d/0000000A000000010000004F"));
        assert_eq!(
            path_of(Path::new("d"), 1, 4095, 1 << 20),
            Path::new("d/000000010000000000000FFF")
        );
    }
}
