//! [`ReadAhead`]: reads a mapped file from front to back and leaves the page cache as it was.
//!
//! Mappings are advised for random access, so that one page is read when one page is wanted. A scan
//! of a whole file goes window by window: it prefetches the next window while it uses this one, and
//! drops from the page cache, afterwards, the pages that were not resident before.

use std::ops::Range;

use super::residency::MappedFile;
use crate::storage::PAGE_BYTES;

/// How much is asked for at once.
const WINDOW_PAGES: usize = (1 << 20) / PAGE_BYTES;

/// The position of a scan of a mapped file.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead<'a> {
    /// The window that is used and the one behind it.
    windows: [Option<Window<'a>>; 2],
}

#[derive(Debug)]
struct Window<'a> {
    file: &'a MappedFile,
    pages: Range<usize>,
    /// For each page whether it was in memory before.
    was_resident: Vec<u8>,
}

impl<'a> ReadAhead<'a> {
    /// Before bytes from `offset` on are read.
    pub(crate) fn go_to(&mut self, file: &'a MappedFile, offset: u64) {
        let page = (offset / PAGE_BYTES as u64) as usize;
        if self.windows[0].as_ref().is_some_and(|window| window.pages.contains(&page)) {
            return;
        }
        let [_, next] = std::mem::take(&mut self.windows);
        let next = next.filter(|next| next.pages.contains(&page));
        let current = next.unwrap_or_else(|| Window::open(file, page));
        let next = Window::open(file, current.pages.end);
        debug_assert!(current.pages.contains(&page) && current.pages.end == next.pages.start);
        self.windows = [Some(current), Some(next)];
    }
}

impl<'a> Window<'a> {
    fn open(file: &'a MappedFile, first: usize) -> Window<'a> {
        let mut was_resident = vec![0; WINDOW_PAGES];
        file.map().residency(first, &mut was_resident);
        if was_resident.contains(&0) {
            file.map().read_ahead((first * PAGE_BYTES) as u64, WINDOW_PAGES * PAGE_BYTES);
        }
        Window { file, pages: first..first + WINDOW_PAGES, was_resident }
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        let mut first = self.pages.start;
        for run in self.was_resident.chunk_by(|left, right| left == right) {
            let pages = first..first + run.len();
            first = pages.end;
            // Not what a reader has come to use meanwhile, as far as is known.
            if run[0] == 0 && !self.file.remembers(&pages) {
                let offset = (pages.start * PAGE_BYTES) as u64;
                self.file.map().drop_behind(offset, pages.len() * PAGE_BYTES);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{RealStorage, Storage};

    #[test]
    fn what_was_in_memory_before_stays_and_the_rest_goes() {
        const PAGES: usize = 16 * WINDOW_PAGES;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; PAGES * PAGE_BYTES]).unwrap();
        let file = RealStorage.open(&path).unwrap();
        file.sync().unwrap();
        let file = MappedFile::unwatched(file.map().unwrap());
        file.map().expect_random();
        let at = |page: usize| (page * PAGE_BYTES) as u64;
        file.map().evict(&path, 0, PAGES * PAGE_BYTES).unwrap();
        let before = [3, 4, 700, PAGES - 1];
        for page in before {
            file.populate(at(page), 1).unwrap();
        }
        let mut ahead = ReadAhead::default();
        let mut sum = 0;
        for page in 0..PAGES {
            ahead.go_to(&file, at(page));
            sum += u64::from(file.bytes()[page * PAGE_BYTES]);
        }
        drop(ahead);
        assert_eq!(sum, 7 * PAGES as u64);
        let mut resident = vec![0; PAGES];
        file.map().residency(0, &mut resident);
        assert!(before.iter().all(|page| resident[*page] == 1));
        // The system keeps what it has not put on its lists yet.
        let kept = resident.iter().filter(|page| **page == 1).count();
        assert!(kept < PAGES / 4, "{kept} of {PAGES}");
    }
}
