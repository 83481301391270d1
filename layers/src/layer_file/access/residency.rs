//! Which pages of mapped files are in memory, so that a read that may not wait touches no other.
//!
//! Asking the kernel takes a call for each block (330 ns and more on the machines that this was
//! measured on; a read of a page from two layers needs seven), so the answer is remembered, a bit
//! for each page. A mark can grow stale: the kernel reclaims pages when memory is short, without
//! notice. So a watcher thread checks the marks again in intervals ([`Watch::look_until_stopped`]).
//! In bulk that is cheap: a few nanoseconds for a page that is still mapped, and at most a
//! twentieth of a core. Without a watcher nothing is remembered, and each read asks.

use std::{
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::handshake::{Handshake, ReaderDuty};
use crate::{
    Result, reserve,
    storage::{FileMap, PAGE_BYTES},
};

const PAGES_A_WORD: usize = u64::BITS as usize;
/// How many pages are looked at with one call of the kernel, at the most.
const PAGES_AT_ONCE: usize = 4096;
/// Runs of marked pages at most this far apart are checked in one call of the kernel: a page
/// between them costs 50 ns, less than another call.
const GAP_PAGES: usize = 4;
/// The watcher takes one part in so many of a core: where very many pages are marked, its intervals
/// get longer.
const SHARE_OF_TIME: u32 = 20;

/// A mapped file, and what is known to be in memory of it.
///
/// **Threads:** any number of them. The bits need no order: they speak of pages, whose bytes never
/// change.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: FileMap,
    /// A bit for each page; empty without a watcher.
    resident: Box<[AtomicU64]>,
    watch: Option<Arc<Watch>>,
}

impl MappedFile {
    /// One without marks.
    pub(crate) fn unwatched(map: FileMap) -> MappedFile {
        MappedFile { map, resident: Box::default(), watch: None }
    }

    /// One whose marks the watcher of `watch` checks.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]
    pub(crate) fn watched(map: FileMap, watch: &Arc<Watch>) -> Result<Arc<MappedFile>> {
        let words = map.bytes().len().div_ceil(PAGE_BYTES).div_ceil(PAGES_A_WORD);
        let mut resident = Vec::new();
        reserve(&mut resident, words, "marks of resident pages")?;
        resident.extend((0..words).map(|_| AtomicU64::new(0)));
        let resident = resident.into_boxed_slice();
        let file = Arc::new(MappedFile { map, resident, watch: Some(watch.clone()) });
        watch.add(&file);
        Ok(file)
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    pub(crate) fn map(&self) -> &FileMap {
        &self.map
    }

    /// Whether any of these pages is remembered to be in memory.
    pub(crate) fn remembers(&self, pages: &Range<usize>) -> bool {
        let is_set = |(word, mask)| {
            self.resident.get::<usize>(word).is_some_and(|word| word.load(Relaxed) & mask != 0)
        };
        words_of(pages.clone()).any(is_set)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.resident)
    }

    /// Waits until these bytes are in memory; an error and no signal where that cannot be.
    pub(crate) fn populate(&self, offset: u64, len: usize) -> std::io::Result<()> {
        self.map.populate(offset, len)
    }

    /// Whether these bytes are in memory, as far as is known.
    #[inline]
    pub(crate) fn is_resident(&self, offset: u64, len: usize) -> bool {
        let pages = pages_of(offset, len);
        let mut words = words_of(pages.clone());
        let is_known = words.all(|(word, mask)| {
            self.resident.get(word).is_some_and(|word| word.load(Relaxed) & mask == mask)
        });
        is_known || self.ask(pages)
    }

    /// Asks the kernel, and remembers a yes.
    #[cold]
    fn ask(&self, pages: Range<usize>) -> bool {
        let mut found = [0; PAGES_A_WORD];
        for (word, mask) in words_of(pages) {
            let first = word * PAGES_A_WORD + mask.trailing_zeros() as usize;
            debug_assert!(
                mask >> mask.trailing_zeros()
                    == u64::MAX >> mask.leading_zeros() >> mask.trailing_zeros()
            );
            let found = &mut found[..mask.count_ones() as usize];
            self.map.residency(first, found);
            if found.contains(&0) {
                return false;
            }
            if let (Some(word), Some(watch)) = (self.resident.get(word), &self.watch) {
                word.fetch_or(mask, Relaxed);
                match watch.handshake.remembered() {
                    ReaderDuty::Go => {}
                    ReaderDuty::Wake => watch.wake(),
                    ReaderDuty::Forget => drop(word.fetch_and(!mask, Relaxed)),
                }
            }
        }
        true
    }

    /// Forgets what is not in memory any more; whether anything is remembered still.
    fn look_again(&self) -> bool {
        let mut remembers = false;
        let mut found = [0; PAGES_AT_ONCE];
        let mut look = |pages: Range<usize>| {
            debug_assert!(pages.len() <= PAGES_AT_ONCE, "{} pages at once", pages.len());
            let found = &mut found[..pages.len()];
            self.map.residency(pages.start, found);
            remembers |= found.contains(&1);
            for (page, _) in pages.zip(&*found).filter(|(_, found)| **found == 0) {
                self.resident[page / PAGES_A_WORD]
                    .fetch_and(!(1 << (page % PAGES_A_WORD)), Relaxed);
            }
        };
        let mut run = 0..0;
        for pages in self.remembered() {
            let len = pages.end - run.start;
            if pages.start <= run.end + GAP_PAGES && len <= PAGES_AT_ONCE && !run.is_empty() {
                run.end = pages.end;
            } else {
                if !run.is_empty() {
                    look(run);
                }
                run = pages;
            }
        }
        if !run.is_empty() {
            look(run);
        }
        remembers
    }

    /// The pages that are remembered, in order, in runs within a word.
    fn remembered(&self) -> impl Iterator<Item = Range<usize>> {
        let words = self.resident.iter().enumerate();
        words.flat_map(|(n, word)| {
            let (mut bits, mut at) = (word.load(Relaxed), n * PAGES_A_WORD);
            std::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let gap = bits.trailing_zeros();
                bits >>= gap;
                let len = bits.trailing_ones();
                bits = bits.checked_shr(len).unwrap_or(0);
                let start = at + gap as usize;
                at = start + len as usize;
                Some(start..at)
            })
        })
    }
}

/// The numbers of the pages that hold some of these bytes.
#[inline]
fn pages_of(offset: u64, len: usize) -> Range<usize> {
    let end = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(len);
    (offset / PAGE_BYTES as u64) as usize..end.div_ceil(PAGE_BYTES)
}

/// The words that have the bits of these pages, each with a mask of them.
#[inline]
fn words_of(pages: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let words = match pages.is_empty() {
        true => 0..0,
        false => pages.start / PAGES_A_WORD..pages.end.div_ceil(PAGES_A_WORD),
    };
    words.map(move |word| {
        let first = pages.start.saturating_sub(word * PAGES_A_WORD);
        let end = (pages.end - word * PAGES_A_WORD).min(PAGES_A_WORD);
        debug_assert!(first < end, "a word has one of the pages");
        (word, (u64::MAX >> (PAGES_A_WORD - (end - first))) << first)
    })
}

/// All files of which something is remembered, for the thread that looks again in intervals.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    handshake: Handshake,
    state: Mutex<WatchState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WatchState {
    files: Vec<Weak<MappedFile>>,
    /// Those that are gone are taken out when there are so many.
    prune_at: usize,
    stop: bool,
}

impl Watch {
    fn add(&self, file: &Arc<MappedFile>) {
        let mut state = self.state.lock();
        if state.files.len() >= state.prune_at {
            state.files.retain(|file| file.strong_count() > 0);
            state.prune_at = (2 * state.files.len()).max(64);
        }
        state.files.push(Arc::downgrade(file));
    }

    fn wake(&self) {
        // Under the lock, so that a watcher about to sleep sees it.
        let _state = self.state.lock();
        self.handshake.wake();
        self.changed.notify_all();
    }

    fn files(&self) -> Vec<Arc<MappedFile>> {
        let mut files = Vec::new();
        self.state.lock().files.retain(|file| match file.upgrade() {
            Some(file) => {
                files.push(file);
                true
            }
            None => false,
        });
        files
    }

    /// Looks at all files now; whether anything is remembered still.
    pub(crate) fn look_again(&self) -> bool {
        self.files().iter().fold(false, |remembers, file| file.look_again() | remembers)
    }

    /// Looks again each `interval` as long as anything is remembered, until it is stopped. `clock`
    /// tells how long a look takes.
    pub(crate) fn look_until_stopped(&self, interval: Duration, clock: fn() -> Duration) {
        let (mut state, mut taken) = (self.state.lock(), Duration::ZERO);
        while !state.stop {
            if !self.handshake.is_awake() {
                self.changed.wait(&mut state);
                continue;
            }
            self.changed.wait_for(&mut state, interval.max(taken * SHARE_OF_TIME));
            drop(state);
            let began = clock();
            self.handshake.begin();
            let remembers = self.look_again();
            taken = clock().saturating_sub(began);
            state = self.state.lock();
            self.handshake.end(remembers);
        }
    }

    /// Ends that, and forgets everything: from here on each read asks.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
        self.handshake.stop();
        for file in self.files() {
            file.resident.iter().for_each(|word| word.store(0, Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_has_its_bit() {
        for (offset, len, expected) in [
            (0, 1, vec![(0, 1)]),
            (4095, 2, vec![(0, 0b11)]),
            (4096, 4096, vec![(0, 0b10)]),
            (63 * 4096, 8192, vec![(0, 1 << 63), (1, 1)]),
            (64 * 4096, 64 * 4096, vec![(1, u64::MAX)]),
            (1, 129 * 4096, vec![(0, u64::MAX), (1, u64::MAX), (2, 0b11)]),
            (4096, 0, vec![]),
            (64 * 4096, 0, vec![]),
        ] {
            let found: Vec<_> = words_of(pages_of(offset, len)).collect();
            assert_eq!(found, expected, "{offset} {len}");
        }
    }

    #[test]
    fn what_is_gone_is_forgotten_when_the_watcher_looks_again() {
        const PAGES: usize = 3 * PAGES_AT_ONCE / 2;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; PAGES * PAGE_BYTES]).unwrap();
        let map = || {
            let file = crate::storage::Storage::open(&crate::storage::RealStorage, &path).unwrap();
            file.sync().unwrap();
            file.map().unwrap()
        };
        let watch = Arc::new(Watch::default());
        let (file, unwatched) =
            (MappedFile::watched(map(), &watch).unwrap(), MappedFile::unwatched(map()));
        file.populate(0, PAGES * PAGE_BYTES).unwrap();
        let at = |page: usize| (page * PAGE_BYTES) as u64;
        let pages = [0, 1, 63, 64, 4095, 4096, PAGES - 1];
        assert!(!watch.look_again(), "nothing was asked");
        for page in pages {
            assert!(file.is_resident(at(page), PAGE_BYTES));
        }
        assert!(watch.handshake.is_awake() && watch.look_again());
        // All of it and some of it back: the kernel holds neighbouring pages together, and drops
        // them together.
        file.map.evict(&path, 0, PAGES * PAGE_BYTES).unwrap();
        for page in pages.iter().filter(|page| ![1, 63, 4096].contains(page)) {
            file.populate(at(*page), 1).unwrap();
        }
        for page in pages {
            let gone = [1, 63, 4096].contains(&page);
            assert!(file.is_resident(at(page), 1), "{page} was in memory");
            assert_eq!(unwatched.is_resident(at(page), 1), !gone, "{page}");
        }
        assert!(watch.look_again());
        for page in pages {
            assert_eq!(file.is_resident(at(page), 1), ![1, 63, 4096].contains(&page), "{page}");
        }
        file.map.evict(&path, 0, PAGES * PAGE_BYTES).unwrap();
        assert!(!watch.look_again());
        drop(file);
        assert!(!watch.look_again() && watch.state.lock().files.is_empty());
    }

    #[test]
    fn the_thread_sleeps_until_something_is_remembered_and_stops_when_told() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; PAGE_BYTES]).unwrap();
        let file = crate::storage::Storage::open(&crate::storage::RealStorage, &path).unwrap();
        file.sync().unwrap();
        let watch = Arc::new(Watch::default());
        let file = MappedFile::watched(file.map().unwrap(), &watch).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| watch.look_until_stopped(Duration::from_millis(1), || Duration::ZERO));
            file.populate(0, 1).unwrap();
            assert!(file.is_resident(0, 1) && watch.handshake.is_awake());
            file.map.evict(&path, 0, PAGE_BYTES).unwrap();
            while file.remembers(&(0..1)) || watch.handshake.is_awake() {
                std::thread::yield_now();
            }
            assert!(!file.is_resident(0, 1));
            watch.stop();
        });
    }

    fn one_page(path: &std::path::Path, watch: &Arc<Watch>) -> Arc<MappedFile> {
        let file = crate::storage::Storage::open(&crate::storage::RealStorage, path).unwrap();
        MappedFile::watched(file.map().unwrap(), watch).unwrap()
    }

    #[test]
    fn a_watch_that_was_stopped_remembers_nothing() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; PAGE_BYTES]).unwrap();
        let watch = Arc::new(Watch::default());
        let file = one_page(&path, &watch);
        assert!(file.is_resident(0, 1) && file.remembers(&(0..1)));
        watch.stop();
        assert!(!file.remembers(&(0..1)));
        assert!(file.is_resident(0, 1) && !file.remembers(&(0..1)), "each read asks");
    }

    #[test]
    fn files_that_are_gone_are_not_kept_in_mind() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; PAGE_BYTES]).unwrap();
        let watch = Arc::new(Watch::default());
        (0..1000).for_each(|_| drop(one_page(&path, &watch)));
        assert!(watch.state.lock().files.len() <= 64);
        let kept: Vec<_> = (0..200).map(|_| one_page(&path, &watch)).collect();
        assert_eq!(watch.files().len(), kept.len());
    }
}
