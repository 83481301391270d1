//! [`FileMap`]: a file's bytes as memory. The one place that maps files, and one of the few with
//! `unsafe`.
#![allow(unsafe_code)]

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::AsRawFd,
    path::Path,
    sync::{Arc, OnceLock},
};

use super::{at::stat, uses::Mapping};
use crate::{Error, Result};

/// So much of a file may be on its way to the device when more is given to it: the thread that
/// writes waits seldom, and another file's sync waits for no more than this.
const UNDER_WAY_BYTES: u64 = 16 << 20;

/// What residency is told of at once, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// A file's bytes, as they were when it was mapped.
///
/// Of a real file it is a shared read-only mapping: no copy, and the operating system's page cache
/// is the only cache. A simulated storage lends its own bytes.
///
/// **Contract:** a file is not written to or truncated while it is mapped.
/// [`RealStorage`](super::RealStorage) refuses both. A program that does so by other means makes
/// the next touch of lost pages raise `SIGBUS`, as with every memory map.
///
/// Nothing but a storage of this crate maps a file:
///
/// ```compile_fail,E0624
/// # let (path, file): (&std::path::Path, &std::fs::File) = todo!();
/// pagestrata_layers::storage::FileMap::of_file(path, file);
/// ```
///
/// ```
/// let bytes = Box::new(*b"bytes");
/// assert_eq!(pagestrata_layers::storage::FileMap::of_bytes(bytes).bytes(), b"bytes");
/// ```
#[derive(Debug)]
pub struct FileMap(Bytes);

/// What the kernel is told about pages of a mapping. None of it changes what its bytes are.
#[derive(Clone, Copy)]
#[repr(i32)]
enum MapAdvice {
    /// To begin reading them.
    WillNeed = libc::MADV_WILLNEED,
    /// To read them before the call returns.
    Populate = libc::MADV_POPULATE_READ,
    /// To let go of them, unless another mapping shows them.
    PageOut = libc::MADV_PAGEOUT,
    /// To read no more than what is touched.
    Random = libc::MADV_RANDOM,
    /// To take them out of this mapping: the next touch reads the file again.
    #[cfg(any(test, feature = "testing"))]
    Unmap = libc::MADV_DONTNEED,
}

#[derive(Debug)]
enum Bytes {
    /// The mapping, and what marks the file as mapped: undone before the file may be written to
    /// again.
    ///
    /// Relied on: `Mmap::map` maps from the start of the file, so that its address begins a page,
    /// as mmap(2) documents; memmap2 does not say so. Where it did not, advice and questions would
    /// fail with `EINVAL`, and nothing worse.
    Mapped(memmap2::Mmap, #[allow(dead_code, reason = "there to be dropped")] Mapping),
    Owned(Box<[u8]>),
    Shared(Arc<Vec<u8>>),
}

impl FileMap {
    /// Maps a file, and marks it as mapped before.
    ///
    /// # Errors
    /// [`Error::FileInUse`] when this process has it open for writing, [`Error::Io`].
    pub(super) fn of_file(path: &Path, file: &fs::File) -> Result<FileMap> {
        let found = stat(file).map_err(|error| Error::io("inspect", path, error))?;
        let in_use = |found| Error::FileInUse { operation: "map", path: path.to_owned(), found };
        let mapping = Mapping::begin(found.identity).map_err(in_use)?;
        let len = file.metadata().map_err(|error| Error::io("inspect", path, error))?.len();
        if len == 0 {
            return Ok(FileMap(Bytes::Owned(Box::default())));
        }
        // SAFETY: the mapping is read-only and is lent as `&[u8]`, so its bytes must not change
        // while it lives. Through the storage they cannot: `mapping` is of this file, and as long
        // as it lives, which is as long as the memory map, every write and truncation of the file
        // is refused. Other processes are kept out by the store's lock; a program that writes past
        // it, or this process by other means, is outside the contract stated above.
        let mapped = unsafe { memmap2::Mmap::map(file) };
        let mapped = mapped.map_err(|error| Error::io("map", path, error))?;
        Ok(FileMap(Bytes::Mapped(mapped, mapping)))
    }

    /// Bytes that are in memory anyway, for a storage without files.
    #[must_use]
    pub fn of_bytes(bytes: Box<[u8]>) -> FileMap {
        FileMap(Bytes::Owned(bytes))
    }

    /// Bytes in memory that have other owners too.
    #[must_use]
    pub fn of_shared(bytes: Arc<Vec<u8>>) -> FileMap {
        FileMap(Bytes::Shared(bytes))
    }

    /// Tells which pages are in memory now, from page number `first` on: a one in `pages` for each
    /// that is, a zero for each that is not or that the mapping does not have. They may go at any
    /// time.
    ///
    /// To processes that may not write to a file the kernel says that all of it is in memory
    /// (`can_do_mincore` in its `mm/mincore.c`).
    pub fn residency(&self, first: usize, pages: &mut [u8]) {
        let Bytes::Mapped(map, _) = &self.0 else { return pages.fill(1) };
        let count = map.len().div_ceil(PAGE_BYTES).saturating_sub(first).min(pages.len());
        let (asked, beyond) = pages.split_at_mut(count);
        beyond.fill(0);
        let larger = kernel_page_bytes() / PAGE_BYTES;
        if larger > 1 {
            // One of the kernel's for some of ours.
            let mut page = [0];
            for (at, asked) in (first..).zip(asked) {
                self.ask(at / larger * larger, kernel_page_bytes(), &mut page);
                *asked = page[0];
            }
        } else if count > 0 {
            self.ask(first, count * PAGE_BYTES, asked);
        }
    }

    /// Asks for pages of the kernel's size, from page number `first` on, which has to begin one.
    fn ask(&self, first: usize, len: usize, pages: &mut [u8]) {
        let Bytes::Mapped(map, _) = &self.0 else { return };
        assert!(first * PAGE_BYTES < map.len() && len <= pages.len() * kernel_page_bytes());
        // SAFETY: nothing is written but a byte for each page of the kernel's, and `pages` has
        // these; addresses that are not mapped are an error.
        let failed = unsafe {
            let start = map.as_ptr().wrapping_add(first * PAGE_BYTES);
            libc::mincore(start.cast_mut().cast(), len, pages.as_mut_ptr())
        };
        // The other bits are reserved.
        pages.iter_mut().for_each(|page| *page = if failed == 0 { *page & 1 } else { 0 });
    }

    /// Waits until these bytes are in memory, without touching them: where the file is shorter, or
    /// the device fails, it is an error and no signal.
    ///
    /// # Errors
    /// What the operating system says: `EFAULT` when the file has been truncated.
    pub fn populate(&self, offset: u64, len: usize) -> io::Result<()> {
        // As few reads as possible: populating alone reads page by page where random access was
        // advised.
        let _ = self.advise(offset, len, MapAdvice::WillNeed);
        self.advise(offset, len, MapAdvice::Populate)
    }

    /// Starts reading these bytes into the page cache, without waiting.
    pub fn read_ahead(&self, offset: u64, len: usize) {
        let _ = self.advise(offset, len, MapAdvice::WillNeed);
    }

    /// Drops these bytes from the page cache, unless another mapping shows them too.
    pub fn drop_behind(&self, offset: u64, len: usize) {
        let _ = self.advise(offset, len, MapAdvice::PageOut);
    }

    /// Advises random access: the system then does not read ahead.
    pub fn expect_random(&self) {
        let _ = self.advise(0, self.bytes().len(), MapAdvice::Random);
    }

    /// Has the system forget these bytes for sure, for tests: nothing shows them when the page
    /// cache is asked to let them go.
    ///
    /// # Errors
    /// As [`evict`].
    #[cfg(any(test, feature = "testing"))]
    pub fn evict(&self, path: &Path, offset: u64, len: usize) -> io::Result<()> {
        // A change of nothing: the mapping shows a file, which has these bytes still.
        self.advise(offset, len, MapAdvice::Unmap)?;
        evict(path, offset, len)
    }

    /// Advises on all pages that hold some of these bytes.
    fn advise(&self, offset: u64, len: usize, advice: MapAdvice) -> io::Result<()> {
        let Bytes::Mapped(map, _) = &self.0 else { return Ok(()) };
        let page = kernel_page_bytes() as u64;
        let first = offset / page * page;
        let end = offset.saturating_add(len as u64).min(map.len() as u64);
        let Some(len) = end.checked_sub(first).filter(|&len| len > 0) else { return Ok(()) };
        // SAFETY: the range lies in the mapping, and no `MapAdvice` changes what its bytes are.
        let failed = unsafe {
            let start = map.as_ptr().wrapping_add(first as usize);
            libc::madvise(start.cast_mut().cast(), len as usize, advice as libc::c_int)
        };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map, _) => map,
            Bytes::Owned(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }
}

/// Number of major page faults of this process since it began: memory accesses that waited for a
/// device.
#[must_use]
pub fn major_faults_of_process() -> u64 {
    major_faults(libc::RUSAGE_SELF)
}

/// Number of major page faults of this thread.
#[must_use]
pub fn major_faults_of_thread() -> u64 {
    major_faults(libc::RUSAGE_THREAD)
}

fn major_faults(who: libc::c_int) -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills in one structure, for which all zeros are a value too.
    let usage = unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_majflt).unwrap_or(0)
}

/// The size of the kernel's pages, which is ours or a multiple of it.
pub(super) fn kernel_page_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // SAFETY: asks for a number.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).unwrap_or(PAGE_BYTES).max(PAGE_BYTES)
    })
}

/// Has the page cache let go of these bytes of a file, as far as no mapping shows them.
///
/// # Errors
/// When it cannot be opened, or the advice is not taken.
#[cfg(any(test, feature = "testing"))]
pub fn evict(path: &Path, offset: u64, len: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let file = fs::File::open(path)?;
    let range = i64::try_from(offset).and_then(|offset| Ok((offset, i64::try_from(len)?)));
    let (offset, len) = range.map_err(io::Error::other)?;
    // SAFETY: an advice on an open file.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Makes a file `len` bytes long, if it is shorter, with room on the device for all of them; an
/// error of kind `Unsupported` where the file system has no such call.
pub(super) fn reserve(file: &fs::File, len: u64) -> io::Result<()> {
    let len = libc::off64_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        // SAFETY: the call takes numbers only, and the file is open for as long as it is borrowed.
        match unsafe { libc::fallocate64(file.as_raw_fd(), 0, 0, len) } {
            0 => return Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Starts writing `len` bytes from `offset` on to the device, once all but [`UNDER_WAY_BYTES`] of
/// the file before it are written.
pub(super) fn write_back(file: &fs::File, offset: u64, len: u64) -> io::Result<()> {
    let range = |from: u64, len: u64, flags| {
        let signed =
            |number: u64| libc::off64_t::try_from(number).map_err(|_| io::ErrorKind::InvalidInput);
        let (from, len) = (signed(from)?, signed(len)?);
        // SAFETY: the call takes numbers only, and the file is open for as long as it is borrowed.
        match unsafe { libc::sync_file_range(file.as_raw_fd(), from, len, flags) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // A length of zero means up to the end.
    let awaited = offset.saturating_sub(UNDER_WAY_BYTES);
    if awaited > 0 {
        range(0, awaited, libc::SYNC_FILE_RANGE_WAIT_BEFORE)?;
    }
    range(offset, len, libc::SYNC_FILE_RANGE_WRITE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_BYTES as u64;

    fn mapped(pages: usize) -> (tempfile::TempDir, std::path::PathBuf, FileMap) {
        // Most likely on a disk: what a file system in memory holds is never dropped.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![7; pages * PAGE_BYTES]).unwrap();
        let file = fs::File::open(&path).unwrap();
        file.sync_all().unwrap();
        let map = FileMap::of_file(&path, &file).unwrap();
        map.expect_random();
        (dir, path, map)
    }

    fn resident(map: &FileMap, first: usize, pages: usize) -> Vec<u8> {
        let mut found = vec![9; pages];
        map.residency(first, &mut found);
        found
    }

    #[test]
    fn what_was_evicted_is_not_in_memory_until_it_is_populated() {
        let (_dir, path, map) = mapped(6);
        map.populate(0, 6 * PAGE_BYTES).unwrap();
        assert_eq!(resident(&map, 0, 8), [1, 1, 1, 1, 1, 1, 0, 0]);
        assert_eq!((resident(&map, 4, 3), resident(&map, 6, 1)), (vec![1, 1, 0], vec![0]));
        map.evict(&path, 0, 6 * PAGE_BYTES).unwrap();
        assert_eq!(resident(&map, 0, 8), [0; 8]);
        map.populate(2 * PAGE - 1, 2).unwrap();
        assert_eq!(resident(&map, 0, 6), [0, 1, 1, 0, 0, 0]);
        assert_eq!(map.bytes()[2 * PAGE_BYTES], 7);

        fs::File::options().write(true).open(&path).unwrap().set_len(PAGE).unwrap();
        assert_eq!(map.populate(PAGE, 1).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(resident(&map, 1, 1), [0]);
    }

    #[test]
    fn a_window_that_is_dropped_spares_what_is_beside() {
        const WINDOW: usize = 1024;
        let (_dir, path, map) = mapped(4 * WINDOW);
        map.evict(&path, 0, 4 * WINDOW * PAGE_BYTES).unwrap();
        // As it is read in again, so that the system holds no more pages together than were read
        // together.
        for window in 0..4 {
            map.populate((window * WINDOW) as u64 * PAGE, WINDOW * PAGE_BYTES).unwrap();
        }
        map.drop_behind(WINDOW as u64 * PAGE, 2 * WINDOW * PAGE_BYTES);
        let count = |first| resident(&map, first, WINDOW).iter().filter(|page| **page == 1).count();
        let counts = [0, 1, 2, 3].map(|window| count(window * WINDOW));
        assert_eq!((counts[0], counts[3]), (WINDOW, WINDOW), "{counts:?}");
        // The system keeps what it has not put on its lists yet.
        assert!(counts[1] + counts[2] < WINDOW / 2, "{counts:?}");
        map.read_ahead(0, 4 * WINDOW * PAGE_BYTES);
        assert!(map.bytes().iter().all(|byte| *byte == 7));
    }
}
