//! [`PageCache`]: materialized pages, kept for the next reads. Off by default.

use std::sync::Arc;

use pagestrata_layers::{Key, Lsn};
use quick_cache::{Weighter, sync::Cache};

/// Pages by timeline, key, and the Lsn of the newest version that was applied.
///
/// The page is the same at every Lsn from there up to the next version. Documented by quick_cache
/// and relied on: the weights never add up to more than the capacity. Not relied on: that a page is
/// found after it was put.
pub(crate) struct PageCache(Cache<Name, Arc<[u8]>, ByBytes>);

/// Longer pages are not cached, in bytes.
const PAGE_LEN_MAX: usize = 256 << 10;

type Name = (u64, Key, Lsn);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Name, Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &Name, page: &Arc<[u8]>) -> u64 {
        // The reference counts before the bytes, and the entry in the cache.
        (page.len() + 2 * size_of::<usize>() + size_of::<(Name, Arc<[u8]>)>()) as u64
    }
}

impl PageCache {
    /// Creates one of at most `max_bytes`; `None` for zero.
    pub(crate) fn new(max_bytes: u64) -> Option<PageCache> {
        const PAGE_GUESS: u64 = 8 << 10;
        let pages = usize::try_from(max_bytes / PAGE_GUESS).unwrap_or(usize::MAX);
        (max_bytes > 0).then(|| PageCache(Cache::with_weighter(pages.max(16), max_bytes, ByBytes)))
    }

    pub(crate) fn get(&self, timeline: u64, key: Key, newest: Lsn) -> Option<Arc<[u8]>> {
        self.0.get(&(timeline, key, newest))
    }

    pub(crate) fn put(&self, timeline: u64, key: Key, newest: Lsn, page: &[u8]) {
        // An allocation for the copy cannot fail gracefully: a large one may abort the process.
        if page.len() < PAGE_LEN_MAX {
            self.0.insert((timeline, key, newest), page.into());
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.weight()
    }
}
