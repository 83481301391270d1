//! [`Scratch`]: the working memory of reads, so that a warm read allocates nothing.
//!
//! A scratch outlives what reads borrow, so between two reads no lifetime describes its list of
//! versions. The list is stored as `'static` and **emptied before it is lent under another
//! lifetime**; this is the file's only use of `unsafe`.
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

/// Working memory of reads: one per thread or task, reused.
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
/// The result of a read borrows the scratch as well as the guard, so a scratch serves one read at a
/// time. The borrow checker enforces this.
#[derive(Default)]
pub struct Scratch {
    arena: ScratchArena,
    found: Found<'static>,
    page: Vec<u8>,
    /// The cached page that is lent.
    cached_page: Option<Arc<[u8]>>,
    /// The next read may repeat the last one.
    is_retried: bool,
    /// The arena may hold what was fetched for the last read.
    has_fetched: bool,
    /// Statistics of all reads but the last.
    total: ReadStats,
    /// Cold fetches of the last read, repetitions included.
    cold_fetches: u64,
    /// Statistics of the last read's parts, except its last part.
    carried: ReadStats,
}

/// The parts of a scratch, ready for one read.
pub(crate) struct Parts<'s> {
    pub(crate) arena: &'s ScratchArena,
    pub(crate) found: &'s mut Found<'s>,
    pub(crate) page: &'s mut Vec<u8>,
    pub(crate) cached_page: &'s mut Option<Arc<[u8]>>,
}

impl Scratch {
    /// Creates an empty one. Memory is allocated on use and kept.
    #[must_use]
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// Creates an empty one with a limit on inflated blocks, in bytes. A read that needs more fails
    /// with [`LayersError::OutOfMemory`](crate::LayersError::OutOfMemory).
    #[must_use]
    pub fn with_limit(max_bytes: usize) -> Scratch {
        let mut scratch = Scratch::default();
        scratch.arena.set_limit(max_bytes);
        scratch
    }

    /// Returns the statistics of the last read.
    #[must_use]
    pub fn last_read(&self) -> ReadStats {
        let last = stats_of(self.arena.counts(), &self.found, self.cold_fetches);
        [self.carried, last].into_iter().sum()
    }

    /// Returns the statistics of all reads that used it.
    #[must_use]
    pub fn all_reads(&self) -> ReadStats {
        [self.total, self.last_read()].into_iter().sum()
    }

    pub(crate) fn fetched(&self) -> &Arc<FetchedBlocks> {
        self.arena.fetched()
    }

    /// Returns its memory from the allocator and what it keeps of caches, in bytes. What a read was
    /// lent is kept until the next read.
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

    /// Lends its parts for a read that must not wait. If the read is missing something in memory,
    /// returns the scratch and what is missing.
    ///
    /// # Safety
    /// `read` must keep nothing of the parts, except in the value that it returns on success.
    pub(crate) unsafe fn lend_or_miss<'s, T>(
        &'s mut self,
        read: impl FnOnce(Parts<'s>) -> Result<T>,
    ) -> Result<std::result::Result<T, (MissingBytes, &'s mut Scratch)>> {
        // A repeated read finds what was fetched for it; no other read does.
        if !std::mem::take(&mut self.is_retried) {
            self.begin();
        }
        self.arena.set_may_wait(false);
        let this: *mut Scratch = self;
        // SAFETY: the only reference made from `self`, for its whole lifetime. A second one is made
        // only after this one is gone.
        let error = match read(unsafe { &mut *this }.emptied()) {
            Ok(found) => return Ok(Ok(found)),
            Err(error) => error,
        };
        // SAFETY: the read has failed, and by contract it keeps nothing of the parts.
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

    /// Releases everything that the last read has borrowed, and memory beyond the usual amount. Its
    /// result is gone by now.
    fn let_go(&mut self) {
        const KEPT_BYTES: usize = 1 << 20;
        self.begin();
        let _ = self.emptied();
        if self.memory_bytes() > KEPT_BYTES {
            *self = Scratch::default();
        }
    }

    /// Called before a read that does not repeat the last one: adds the statistics of the last read
    /// to the total, and releases what was fetched for it.
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
        // SAFETY: the two types differ only in a lifetime, so they have the same layout. The list
        // is empty here, so no entry claims to live longer than it does. The holder of the result
        // can only put in what lives for `'s`, and `self` stays borrowed for `'s`, so the entries
        // are never seen under the field's `'static`: the field is next reached by this function,
        // which empties it first (versions and layer references have no drop that would read them),
        // or by `lend_or_miss`, which reads only `missing`, and that borrows nothing.
        let found: &'s mut Found<'s> = unsafe { &mut *found.cast::<Found<'s>>() };
        let Scratch { arena, page, cached_page, .. } = self;
        Parts { arena, found, page, cached_page }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the entries: between two reads they may dangle.
        f.debug_struct("Scratch")
            .field("memory_bytes", &self.memory_bytes())
            .finish_non_exhaustive()
    }
}

/// Returns the statistics of a read.
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

/// Runs `read` with this thread's scratch, or with a new one if that is in use further up the
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
