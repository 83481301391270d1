//! Which pages of mapped files are in memory, so that a read that may not wait touches no other.
//!
//! Asking the kernel takes a call for each block (330 ns and more on the machines that this was measured on; a read of a page
//! from two layers needs seven), so the answer is remembered, a bit for each page. What is remembered can grow old: the
//! kernel takes pages away when memory is short, and tells nobody. So somebody has to look again in intervals ([`Resident::look_again`]), which
//! is cheap in bulk: a page that is still mapped takes a few nanoseconds. Where nobody does, nothing is remembered and each read asks.

use std::{
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::storage::{FileMap, PAGE_BYTES};

const PAGES_A_WORD: usize = u64::BITS as usize;
/// How many words are looked at with one call of the kernel, at the most: 16 MiB of a file.
const WORDS_AT_ONCE: usize = 64;

/// A mapped file, and what is known to be in memory of it.
///
/// **Threads:** any number of them. The bits need no order: they speak of pages, whose bytes never change.
#[derive(Debug)]
pub(super) struct MappedFile {
    map: FileMap,
    /// A bit for each page; none where nobody looks again.
    resident: Box<[AtomicU64]>,
    watch: Option<Arc<Watch>>,
}

impl MappedFile {
    /// One of which nothing is remembered.
    pub(super) fn unwatched(map: FileMap) -> MappedFile {
        MappedFile { map, resident: Box::default(), watch: None }
    }

    /// One that whoever looks after `watch` looks at.
    pub(super) fn watched(map: FileMap, watch: &Arc<Watch>) -> Arc<MappedFile> {
        let words = map.bytes().len().div_ceil(PAGE_BYTES).div_ceil(PAGES_A_WORD);
        let resident = (0..words).map(|_| AtomicU64::new(0)).collect();
        let file = Arc::new(MappedFile { map, resident, watch: Some(watch.clone()) });
        watch.add(&file);
        file
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    pub(super) fn map(&self) -> &FileMap {
        &self.map
    }

    /// Whether any of these pages is remembered to be in memory.
    pub(super) fn remembers(&self, pages: &Range<usize>) -> bool {
        let is_set = |(word, mask)| {
            self.resident.get::<usize>(word).is_some_and(|word| word.load(Relaxed) & mask != 0)
        };
        words_of(pages.clone()).any(is_set)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.resident)
    }

    /// Waits until these bytes are in memory; an error and no signal where that cannot be.
    pub(super) fn populate(&self, offset: u64, len: usize) -> std::io::Result<()> {
        self.map.populate(offset, len)
    }

    /// Whether these bytes are in memory, as far as is known.
    #[inline]
    pub(super) fn is_resident(&self, offset: u64, len: usize) -> bool {
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
            let found = &mut found[..mask.count_ones() as usize];
            self.map.residency(first, found);
            if found.contains(&0) {
                return false;
            }
            if let (Some(word), Some(watch)) = (self.resident.get(word), &self.watch) {
                word.fetch_or(mask, Relaxed);
                watch.wake_or(|| {
                    word.fetch_and(!mask, Relaxed);
                });
            }
        }
        true
    }

    /// Forgets what is not in memory any more; whether anything is remembered still.
    fn look_again(&self) -> bool {
        let mut found = [0; WORDS_AT_ONCE * PAGES_A_WORD];
        let mut remembers = false;
        for (n, words) in self.resident.chunks(WORDS_AT_ONCE).enumerate() {
            let used = |word: &AtomicU64| word.load(Relaxed) != 0;
            let Some(first) = words.iter().position(used) else { continue };
            let end = words.iter().rposition(used).map_or(first, |last| last + 1);
            let found = &mut found[..(end - first) * PAGES_A_WORD];
            self.map.residency((n * WORDS_AT_ONCE + first) * PAGES_A_WORD, found);
            for (word, found) in words[first..end].iter().zip(found.chunks(PAGES_A_WORD)) {
                let gone = found.iter().rev().fold(0, |bits, page| bits << 1 | u64::from(page ^ 1));
                remembers |= word.load(Relaxed) & !gone != 0;
                if word.load(Relaxed) & gone != 0 {
                    word.fetch_and(!gone, Relaxed);
                }
            }
        }
        remembers
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
        (word, (u64::MAX >> (PAGES_A_WORD - (end - first))) << first)
    })
}

/// All files of which something is remembered, for the thread that looks again in intervals.
///
/// Who remembers something sets its bit and then looks whether the thread is awake; the thread says that it is not and then looks at
/// the bits. Each puts a fence between the two, so one of them sees the other: no bit is set that nobody looks at again.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The thread is going to look at all that was remembered before this was seen.
    is_awake: AtomicBool,
    /// Nobody looks any more, and nothing is remembered.
    is_stopped: AtomicBool,
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

    /// Something was remembered: has the thread look at it, or has it forgotten where there is none any more.
    fn wake_or(&self, forget: impl FnOnce()) {
        fence(SeqCst);
        if self.is_stopped.load(Relaxed) {
            return forget();
        }
        if !self.is_awake.load(Relaxed) {
            // Under the lock, so that whoever is about to sleep sees it.
            let _state = self.state.lock();
            self.is_awake.store(true, Relaxed);
            self.changed.notify_all();
        }
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
    pub(super) fn look_again(&self) -> bool {
        self.files().iter().fold(false, |remembers, file| file.look_again() | remembers)
    }

    /// Looks again each `interval` as long as anything is remembered, until it is stopped.
    pub(super) fn look_until_stopped(&self, interval: Duration) {
        let mut state = self.state.lock();
        while !state.stop {
            if !self.is_awake.load(Relaxed) {
                self.changed.wait(&mut state);
                continue;
            }
            self.changed.wait_for(&mut state, interval);
            self.is_awake.store(false, Relaxed);
            drop(state);
            fence(SeqCst);
            let remembers = self.look_again();
            state = self.state.lock();
            if remembers {
                self.is_awake.store(true, Relaxed);
            }
        }
    }

    /// Ends that, and forgets everything: from here on each read asks.
    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
        self.is_stopped.store(true, Relaxed);
        fence(SeqCst);
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
    fn what_is_gone_is_forgotten_when_somebody_looks_again() {
        const PAGES: usize = 3 * WORDS_AT_ONCE * PAGES_A_WORD / 2;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; PAGES * PAGE_BYTES]).unwrap();
        let map = || {
            let file = crate::storage::Storage::open(&crate::storage::RealStorage, &path).unwrap();
            file.sync().unwrap();
            file.map().unwrap()
        };
        let watch = Arc::new(Watch::default());
        let (file, unwatched) = (MappedFile::watched(map(), &watch), MappedFile::unwatched(map()));
        file.populate(0, PAGES * PAGE_BYTES).unwrap();
        let at = |page: usize| (page * PAGE_BYTES) as u64;
        let pages = [0, 1, 63, 64, 4095, 4096, PAGES - 1];
        assert!(!watch.look_again(), "nothing was asked");
        for page in pages {
            assert!(file.is_resident(at(page), PAGE_BYTES));
        }
        assert!(watch.is_awake.load(Relaxed) && watch.look_again());
        // All of it and some of it back: the kernel holds neighbouring pages together, and drops them together.
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
        let file = MappedFile::watched(file.map().unwrap(), &watch);
        std::thread::scope(|scope| {
            scope.spawn(|| watch.look_until_stopped(Duration::from_millis(1)));
            file.populate(0, 1).unwrap();
            assert!(file.is_resident(0, 1) && watch.is_awake.load(Relaxed));
            file.map.evict(&path, 0, PAGE_BYTES).unwrap();
            while watch.is_awake.load(Relaxed) {
                std::thread::yield_now();
            }
            assert!(!file.is_resident(0, 1));
            watch.stop();
        });
    }

    fn one_page(path: &std::path::Path, watch: &Arc<Watch>) -> Arc<MappedFile> {
        let file = crate::storage::Storage::open(&crate::storage::RealStorage, path).unwrap();
        MappedFile::watched(file.map().unwrap(), watch)
    }

    #[test]
    fn whatever_is_remembered_is_looked_at_again() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; PAGE_BYTES]).unwrap();
        let watch = Arc::new(Watch::default());
        std::thread::scope(|scope| {
            scope.spawn(|| watch.look_until_stopped(Duration::from_micros(20)));
            for n in 0..30_000 {
                let before = one_page(&path, &watch);
                before.populate(0, 1).unwrap();
                let file = one_page(&path, &watch);
                assert!(before.is_resident(0, 1));
                // The thread is going to find nothing of this one, and to sleep.
                drop(before);
                (0..n % 6000).for_each(|_| std::hint::spin_loop());
                assert!(file.is_resident(0, 1));
                // The thread is awake, or looks just now and says so then.
                let mut looks = 0;
                while !watch.is_awake.load(Relaxed) && file.remembers(&(0..1)) {
                    looks += 1;
                    assert!(looks < 10_000_000, "nobody is going to look again, after {n} rounds");
                    std::thread::yield_now();
                }
            }
            watch.stop();
        });
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
