//! [`Scratch`]: the memory that reads work in, so that a warm read allocates nothing.
//!
//! A scratch outlives what reads borrow, so between two reads its list of versions has no honest
//! lifetime. It is kept as `'static` and **emptied before it is lent under another lifetime**; that
//! is this file's one use of `unsafe`.
#![allow(unsafe_code)]

use std::{cell::RefCell, fmt, sync::Arc};

use pagestrata_layers::{BlockCounts, PageVersion, ScratchArena, layer_file::FetchedBlocks};

use crate::{
    error::Result,
    read::{
        fetch::MissingBytes,
        walk::{Found, LayerRef},
    },
    reports::read_stats::ReadStats,
};

/// Working memory of reads: one per thread or task, used again and again.
///
/// ```
/// fn may_be_sent<T: Send>() {}
/// fn may_be_shared<T: Send + Sync>() {}
/// may_be_sent::<pagestrata::Scratch>();
/// may_be_shared::<pagestrata::Versions<'_>>(); // what reads lend
/// may_be_shared::<pagestrata::Page<'_>>();
/// may_be_shared::<pagestrata::Guard<'_>>();
/// may_be_shared::<pagestrata::DetachedVersion>();
/// may_be_sent::<pagestrata::Fetch>();
/// ```
///
/// What a read returns is borrowed from the scratch as well as from the guard, so one scratch
/// serves one read at a time: the borrow checker sees to it.
#[derive(Default)]
pub struct Scratch {
    arena: ScratchArena,
    found: Found<'static>,
    page: Vec<u8>,
    /// A page of the cache that is lent.
    cached_page: Option<Arc<[u8]>>,
    /// The next read may be the last one tried again.
    is_retried: bool,
    /// The arena may have what was fetched for the last read.
    has_fetched: bool,
    /// Of all reads but the last.
    total: ReadStats,
    /// Of the last read, or of the one that is tried again.
    cold_fetches: u64,
    /// Of the parts of the last read that came before its last one.
    carried: ReadStats,
}

/// A scratch made ready for one read.
pub(crate) struct Parts<'s> {
    pub(crate) arena: &'s ScratchArena,
    pub(crate) found: &'s mut Found<'s>,
    pub(crate) page: &'s mut Vec<u8>,
    pub(crate) cached_page: &'s mut Option<Arc<[u8]>>,
}

impl Scratch {
    /// An empty one. Memory comes with use and stays.
    #[must_use]
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// An empty one that takes no more than this for inflated blocks, in bytes: a read that needs
    /// more fails, with [`LayersError::OutOfMemory`](crate::LayersError::OutOfMemory).
    #[must_use]
    pub fn with_limit(max_bytes: usize) -> Scratch {
        let mut scratch = Scratch::default();
        scratch.arena.set_limit(max_bytes);
        scratch
    }

    /// What the last read has done.
    #[must_use]
    pub fn last_read(&self) -> ReadStats {
        let last = stats_of(self.arena.counts(), &self.found, self.cold_fetches);
        [self.carried, last].into_iter().sum()
    }

    /// What all reads have done that were made with it.
    #[must_use]
    pub fn all_reads(&self) -> ReadStats {
        [self.total, self.last_read()].into_iter().sum()
    }

    pub(crate) fn fetched(&self) -> &Arc<FetchedBlocks> {
        self.arena.fetched()
    }

    /// What it takes from the allocator and keeps of caches, in bytes: what a read was lent stays
    /// until the next one.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let Found { versions, sources, .. } = &self.found;
        let lists = versions.capacity() * size_of::<PageVersion<'static>>()
            + sources.capacity() * size_of::<(usize, LayerRef<'static>)>();
        let cached_page = self.cached_page.as_ref().map_or(0, |page| page.len());
        self.arena.bytes() + self.page.capacity() + cached_page + lists
    }

    /// Empties it and lends its parts, for a read that may wait.
    #[inline]
    pub(crate) fn parts<'s>(&'s mut self) -> Parts<'s> {
        self.is_retried = false;
        self.begin();
        self.arena.set_may_wait(true);
        self.emptied()
    }

    /// Lends its parts for a read that may not wait. When that is stopped by something that is not
    /// in memory, the scratch comes back, with what is missing.
    ///
    /// # Safety
    /// `read` keeps nothing of the parts, but in what it returns when it does not fail.
    pub(crate) unsafe fn lend_or_miss<'s, T>(
        &'s mut self,
        read: impl FnOnce(Parts<'s>) -> Result<T>,
    ) -> Result<std::result::Result<T, (MissingBytes, &'s mut Scratch)>> {
        // A read that is tried again finds what was fetched for it; no other does.
        if !std::mem::take(&mut self.is_retried) {
            self.begin();
        }
        self.arena.set_may_wait(false);
        let this: *mut Scratch = self;
        // SAFETY: the one reference made of `self`, for its whole lifetime. A second one is made
        // only once this one is gone.
        let error = match read(unsafe { &mut *this }.emptied()) {
            Ok(found) => return Ok(Ok(found)),
            Err(error) => error,
        };
        // SAFETY: the read has failed and by contract nothing of the parts is left.
        let scratch = unsafe { &mut *this };
        match scratch.found.missing.take() {
            Some(missing) => {
                (scratch.is_retried, scratch.has_fetched) = (true, true);
                scratch.cold_fetches += 1;
                Ok(Err((missing, scratch)))
            }
            None => Err(error),
        }
    }

    /// As [`Scratch::parts`], for the next part of the same read.
    pub(crate) fn more_parts<'s>(&'s mut self) -> Parts<'s> {
        self.carried = ReadStats { reads: 0, ..self.last_read() };
        self.emptied()
    }

    /// Lets go of all that the last read has borrowed, and of memory that was an exception: nobody
    /// is going to look at it.
    fn let_go(&mut self) {
        const KEPT_BYTES: usize = 1 << 20;
        self.begin();
        let _ = self.emptied();
        if self.memory_bytes() > KEPT_BYTES {
            *self = Scratch::default();
        }
    }

    /// Before a read that is not the last one tried again: adds what that has done to the others,
    /// and lets go of what was fetched for it.
    #[inline]
    fn begin(&mut self) {
        if std::mem::take(&mut self.has_fetched) {
            self.arena.forget_fetched();
        }
        self.total += self.last_read();
        self.cold_fetches = 0;
        self.carried = ReadStats::default();
    }

    /// Empties it and lends its parts.
    fn emptied<'s>(&'s mut self) -> Parts<'s> {
        self.arena.reset();
        self.page.clear();
        self.cached_page = None;
        self.found.clear();
        let found: *mut Found<'static> = &raw mut self.found;
        // SAFETY: the two types differ in a lifetime only, so their layout is the same. The list is
        // empty here, so nothing in it claims to live longer than it does. Whoever holds the result
        // can put in only what lives for `'s`, and `self` stays borrowed for `'s`, so nobody sees
        // these entries under the `'static` of the field: the next one to reach the field is this
        // function, which empties it first (versions and layer references have no drop that would
        // look at them), and `lend_or_miss`, which looks at `missing` alone, and that borrows
        // nothing.
        let found: &'s mut Found<'s> = unsafe { &mut *found.cast::<Found<'s>>() };
        let Scratch { arena, page, cached_page, .. } = self;
        Parts { arena, found, page, cached_page }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the entries: they are as good as dangling between two reads.
        f.debug_struct("Scratch")
            .field("memory_bytes", &self.memory_bytes())
            .finish_non_exhaustive()
    }
}

/// What a read has done.
#[inline]
pub(crate) fn stats_of(counts: BlockCounts, found: &Found<'_>, cold_fetches: u64) -> ReadStats {
    let BlockCounts { blocks, block_bytes, read_bytes, inflated_bytes } = counts;
    ReadStats {
        reads: u64::from(found.layers > 0),
        layers: found.layers,
        versions: found.versions.len() as u64 + found.versions_elsewhere,
        value_bytes: found.value_bytes,
        blocks,
        block_bytes,
        copied_bytes: read_bytes,
        inflated_bytes,
        cold_fetches,
    }
}

/// Runs `read` with a scratch of this thread, or with a new one when that is in use further up the
/// stack.
pub(crate) fn with_thread_scratch<R>(read: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => {
            let outcome = read(&mut scratch);
            scratch.let_go();
            outcome
        }
        Err(_) => read(&mut Scratch::new()),
    })
}
