//! [`Records`]: a manifest's records, read one after the other in bounded memory.

use std::{ops::Range, path::Path};

use super::{RECORD, RECORD_HEADER_LEN, RECORD_LEN_MAX, array};
use crate::{Error, Result, reserve, storage::File};

/// How much is read at once, in bytes, unless a record is longer.
const CHUNK_LEN: u64 = 64 << 10;

/// Reads records from a range of a file.
pub(super) struct Records<'f> {
    file: &'f dyn File,
    /// Where the next record begins.
    at: u64,
    end: u64,
    /// Bytes of the file from `buffer_start` on.
    buffer: Vec<u8>,
    buffer_start: u64,
}

/// A record whose checksum is not verified yet.
pub(super) struct Record<'r> {
    /// Where it is in the file.
    pub(super) offset: u64,
    /// What it says that its checksum is.
    pub(super) crc: u32,
    pub(super) payload: &'r [u8],
}

impl<'f> Records<'f> {
    /// The range must be within the file.
    pub(super) fn new(file: &'f dyn File, range: Range<u64>) -> Records<'f> {
        let Range { start, end } = range;
        assert!(start <= end, "records from {start} to {end}");
        Records { file, at: start, end, buffer: Vec::new(), buffer_start: start }
    }

    /// The next record; `None` at the end of the range.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when its length is over the bound or leads out of the range;
    /// [`Error::OutOfMemory`], [`Error::Io`].
    pub(super) fn next(&mut self, path: &Path) -> Result<Option<Record<'_>>> {
        let (offset, left) = (self.at, self.end - self.at);
        if left == 0 {
            return Ok(None);
        }
        let wrong_len = |expected: std::fmt::Arguments<'_>, found: &dyn std::fmt::Display| {
            Error::corrupt(path, offset, "record length", expected, found)
        };
        let header_len = RECORD_HEADER_LEN as u64;
        if left < header_len {
            return Err(wrong_len(format_args!("{left} bytes or less"), &"more"));
        }
        let header = self.bytes(offset, RECORD_HEADER_LEN)?;
        let (len, crc): (u32, _) =
            (u32::from_le_bytes(array(header, 0)), u32::from_le_bytes(array(header, 4)));
        if u64::from(len) > left - header_len {
            return Err(wrong_len(format_args!("{left} bytes or less"), &"more"));
        }
        if len > RECORD_LEN_MAX {
            return Err(wrong_len(format_args!("at most {RECORD_LEN_MAX} bytes"), &len));
        }
        self.at = offset + header_len + u64::from(len);
        let payload = self.bytes(offset + header_len, len as usize)?;
        Ok(Some(Record { offset, crc, payload }))
    }

    /// `len` bytes at `from`, which are within the range.
    fn bytes(&mut self, from: u64, len: usize) -> Result<&[u8]> {
        debug_assert!(from + len as u64 <= self.end, "{len} bytes at {from} of {}", self.end);
        let in_buffer = from.checked_sub(self.buffer_start);
        let in_buffer = in_buffer.and_then(|start| usize::try_from(start).ok());
        let in_buffer = in_buffer.filter(|start| start + len <= self.buffer.len());
        let start = match in_buffer {
            Some(start) => start,
            None => {
                let wanted = (len as u64).max(CHUNK_LEN).min(self.end - from) as usize;
                self.buffer.clear();
                reserve(&mut self.buffer, wanted, RECORD)?;
                self.buffer.resize(wanted, 0);
                self.buffer_start = from;
                self.file.read_at(from, &mut self.buffer)?;
                0
            }
        };
        Ok(&self.buffer[start..start + len])
    }
}
