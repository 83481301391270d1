//! Segment files: their names, how one comes to be, and reading one from front to back.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
};

use pagestrata_layers::{
    Error, Result, reserve,
    storage::{File, Storage},
};

use crate::format::{
    FRAME_HEADER_LEN, FrameHeader, FrameKind, Position, SEGMENT_HEADER_LEN, SYNCED_LEN,
    SegmentHeader, decode_synced, encode_synced,
};

/// The file that says up to where the log is synced.
const SYNCED_NAME: &str = "SYNCED";
const EXTENSION: &str = "log";
const TEMPORARY_EXTENSION: &str = "tmp";
/// How much is read, and written when a file is made, at once. Small enough that what was just read
/// is still in a core's cache when it is checked and copied.
const CHUNK_BYTES: usize = 256 << 10;

pub(crate) fn segment_path(dir: &Path, sequence: u32) -> PathBuf {
    dir.join(format!("{sequence:016X}.{EXTENSION}"))
}

fn temporary_path(dir: &Path, sequence: u32) -> PathBuf {
    dir.join(format!("{sequence:016X}.{TEMPORARY_EXTENSION}"))
}

/// The sequence number in a file's name, and whether the file is one that was on its way.
pub(crate) fn parse_name(name: &str) -> Option<(u32, bool)> {
    let (stem, extension) = name.rsplit_once('.')?;
    let is_temporary = match extension {
        EXTENSION => false,
        TEMPORARY_EXTENSION => true,
        _ => return None,
    };
    let digits = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    let is_name = stem.len() == 16 && stem.bytes().all(digits);
    let sequence = u64::from_str_radix(stem, 16).ok().filter(|_| is_name)?;
    Some((u32::try_from(sequence).ok()?, is_temporary))
}

/// Makes a segment under a temporary name, its whole length durable: nothing of it has to be
/// allocated later. `is_written`: with zeros, which takes longer, but blocks that were written
/// before sync in half the time of new ones (112 us against 204, 4 KiB each); else only their room
/// is taken. Returns its path.
///
/// An error leaves nothing but, at worst, the temporary file.
pub(crate) fn create_unnamed(
    storage: &dyn Storage,
    dir: &Path,
    header: &SegmentHeader,
    is_written: bool,
) -> Result<PathBuf> {
    let temporary = temporary_path(dir, header.sequence);
    if storage.exists(&temporary)? {
        storage.remove(&temporary)?;
    }
    let made = write_new(storage, &temporary, header, is_written);
    if made.is_err() {
        // At best: what is left is removed when the log is opened.
        let _ = storage.remove(&temporary);
    }
    made.map(|()| temporary)
}

/// Gives segments their names, durably, all or none: one sync of the directory serves them all.
pub(crate) fn name_all(
    storage: &dyn Storage,
    dir: &Path,
    unnamed: impl Iterator<Item = (PathBuf, u32)> + Clone,
) -> Result<()> {
    let name =
        |(from, sequence): (PathBuf, u32)| storage.rename(&from, &segment_path(dir, sequence));
    let named = unnamed.clone().try_for_each(name).and_then(|()| sync_names(storage, dir));
    if named.is_err() {
        // At best: they are of no use where they are, and are removed when the log is opened.
        for (from, sequence) in unnamed {
            let _ = storage.remove(&segment_path(dir, sequence));
            let _ = storage.remove(&from);
        }
    }
    named
}

fn write_new(
    storage: &dyn Storage,
    path: &Path,
    header: &SegmentHeader,
    is_written: bool,
) -> Result<()> {
    assert!(header.len > SEGMENT_HEADER_LEN as u64, "a segment of {} bytes", header.len);
    let mut file = storage.create(path)?;
    if !is_written {
        file.append(&header.encode())?;
        file.reserve(header.len)?;
        return file.sync();
    }
    let len = usize::try_from(header.len).expect("a segment's length");
    static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];
    let zeros = &ZEROS[..CHUNK_BYTES.min(len)];
    file.append(&header.encode())?;
    let mut left = len - SEGMENT_HEADER_LEN;
    while left > 0 {
        let piece = left.min(zeros.len());
        file.append(&zeros[..piece])?;
        left -= piece;
    }
    file.sync()
}

/// Recycles a segment that is not needed any more into one of the same length, under its old name.
/// What it held stays in it: no frame of it is valid under the new header. Returns its path.
pub(crate) fn recycle_unnamed(
    storage: &dyn Storage,
    dir: &Path,
    old: u32,
    header: &SegmentHeader,
) -> Result<PathBuf> {
    assert!(old < header.sequence, "segment {old:X} is recycled for a later one");
    let path = segment_path(dir, old);
    let mut file = storage.open(&path)?;
    let found = file.len()?;
    if found != header.len {
        return Err(Error::corrupt(&path, 0, "segment length", header.len, found));
    }
    file.write_at(0, &[IoSlice::new(&header.encode())])?;
    file.sync()?;
    Ok(path)
}

fn sync_names(storage: &dyn Storage, dir: &Path) -> Result<()> {
    if cfg!(planted_bug = "no_dir_sync") {
        return Ok(());
    }
    storage.sync_dir(dir)
}

/// What `SYNCED` says. Nothing, where it is missing or not whole: it only adds to what the segments
/// say.
///
/// # Errors
/// When it cannot be opened: then it cannot be written either, and the first sync would fail.
pub(crate) fn read_synced(
    storage: &dyn Storage,
    dir: &Path,
    store: u128,
) -> Result<Option<Position>> {
    let mut bytes = [0; SYNCED_LEN];
    let file = match storage.open(&dir.join(SYNCED_NAME)) {
        Ok(file) => file,
        Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let is_whole = file.read_at(0, &mut bytes).is_ok();
    Ok(is_whole.then(|| decode_synced(&bytes, store)).flatten())
}

/// Opens `SYNCED` for writing, or makes it, with the room it needs.
pub(crate) fn open_synced(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn File>> {
    let path = dir.join(SYNCED_NAME);
    if storage.exists(&path)? {
        return storage.open(&path);
    }
    let mut file = storage.create(&path)?;
    let made = file.append(&[0; SYNCED_LEN]).and_then(|()| file.sync());
    if made.is_err() {
        // At best: with less than its length it says nothing, and a full disk would be noticed at
        // the next sync.
        let _ = storage.remove(&path);
    }
    made.map(|()| file)
}

/// Says in `SYNCED` that everything before `position` is durable, because it is.
pub(crate) fn write_synced(file: &mut dyn File, store: u128, position: Position) -> Result<()> {
    file.write_at(0, &[IoSlice::new(&encode_synced(store, position))])
}

/// A segment that is read from front to back.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    pub(crate) file: Box<dyn File>,
    pub(crate) header: SegmentHeader,
    pub(crate) seed: u32,
    /// What is in memory, and where in the file it begins.
    buffer: Vec<u8>,
    buffer_start: u64,
    buffer_len: usize,
}

impl SegmentReader {
    /// Opens a segment and checks its header.
    pub(crate) fn open(
        storage: &dyn Storage,
        dir: &Path,
        store: u128,
        sequence: u32,
    ) -> Result<SegmentReader> {
        let path = segment_path(dir, sequence);
        let file = storage.open(&path).map_err(|error| {
            error.of_required("log segment", format_args!("a segment, sequence {sequence:X}"))
        })?;
        let len = file.len()?;
        if len < SEGMENT_HEADER_LEN as u64 {
            let expected = format_args!("at least {SEGMENT_HEADER_LEN}");
            return Err(Error::corrupt(&path, len, "segment length", expected, len));
        }
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        file.read_at(0, &mut bytes)?;
        let header = SegmentHeader::decode(&bytes, &path, store, sequence, len)?;
        let seed = header.seed();
        Ok(SegmentReader { file, header, seed, buffer: Vec::new(), buffer_start: 0, buffer_len: 0 })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn position(&self, offset: u64) -> Position {
        Position::new(self.header.sequence, offset)
    }

    /// `len` bytes from `offset` on; `None`: the segment ends before.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.header.len);
        let Some(end) = end else { return Ok(None) };
        if offset < self.buffer_start || end > self.buffer_start + self.buffer_len as u64 {
            let rest = usize::try_from(self.header.len - offset).expect("a segment's length");
            let wanted = len.max(CHUNK_BYTES).min(rest);
            if self.buffer.len() < wanted {
                let more = wanted - self.buffer.len();
                reserve(&mut self.buffer, more, "a record of the log")?;
                self.buffer.resize(wanted, 0);
            }
            self.buffer_len = 0;
            self.file.read_at(offset, &mut self.buffer[..wanted])?;
            (self.buffer_start, self.buffer_len) = (offset, wanted);
        }
        let from = (offset - self.buffer_start) as usize;
        debug_assert!(from + len <= self.buffer_len, "the bytes were read");
        Ok(Some(&self.buffer[from..from + len]))
    }

    /// The header of the frame at `offset`, if there is one that fits in the segment.
    pub(crate) fn frame_header(&mut self, offset: u64) -> Result<Option<FrameHeader>> {
        let (seed, position, len) = (self.seed, self.position(offset), self.header.len);
        let Some(bytes) = self.bytes(offset, FRAME_HEADER_LEN)? else { return Ok(None) };
        let bytes = bytes.try_into().expect("a header's length");
        let header = FrameHeader::decode(bytes, seed, position);
        Ok(header.filter(|header| offset + header.frame_len() <= len))
    }

    /// The payload of a frame, if it is whole.
    pub(crate) fn payload(&mut self, header: &FrameHeader) -> Result<Option<&[u8]>> {
        let offset = header.position.offset() + FRAME_HEADER_LEN as u64;
        let bytes = self.bytes(offset, header.payload_len as usize)?;
        Ok(bytes.filter(|bytes| crc32c::crc32c(bytes) == header.payload_crc))
    }

    /// Writes the frames from `from` to `to`, or to the segment's end, again, so that the next sync
    /// writes them to the device whatever became of the sync before. What is written was checked
    /// where it lies in memory: what is read may have changed since the replay, where the system
    /// has let go of pages that a failed sync had left.
    pub(crate) fn rewrite(&mut self, from: u64, to: Option<u64>) -> Result<()> {
        let mut at = from;
        while to.is_none_or(|to| at < to) {
            let corrupt = |reader: &SegmentReader| {
                let expected = "the frame that was there before";
                Error::corrupt(reader.path(), at, "log", expected, "none")
            };
            let Some(header) = self.frame_header(at)? else { return Err(corrupt(self)) };
            // One piece of the buffer: header and payload are checked again, for they may have been
            // read again.
            let mut frame = Vec::new();
            let Some(bytes) = self.bytes(at, header.frame_len() as usize)? else {
                return Err(corrupt(self));
            };
            reserve(&mut frame, bytes.len(), "a record of the log")?;
            frame.extend_from_slice(bytes);
            let position = self.position(at);
            let is_whole = |frame: &Vec<u8>| {
                let (head, rest) = frame.split_first_chunk().expect("as long as a header");
                FrameHeader::decode(head, self.seed, position) == Some(header)
                    && crc32c::crc32c(&rest[..header.payload_len as usize]) == header.payload_crc
            };
            if !is_whole(&frame) {
                return Err(corrupt(self));
            }
            self.file.write_at(at, &[IoSlice::new(&frame)])?;
            at += header.frame_len();
            if header.kind == FrameKind::End {
                break;
            }
        }
        Ok(())
    }
}
