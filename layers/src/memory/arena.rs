//! Bump arenas whose memory never moves, and the pool that their chunks come from and go back to.
//!
//! Two users: an in-memory layer, whose values and nodes live in chunks that any number of threads
//! read while one appends ([`Chunk`], [`ChunkPool`]); and a reader's scratch, which is one thread's
//! alone ([`ScratchArena`]). This is the one file that names bumpalo.
//!
//! Memory that is touched for the first time costs more than everything else in a put (370-470 ns a
//! record on fresh memory against 35 ns on memory already backed, measured with 100-byte records).
//! So chunks are large, advised huge, and go back to a bounded pool when a layer is reclaimed:
//! steady ingest touches no fresh memory.
//!
//! **Invariant:** a chunk's bytes stay at their address until the chunk is dropped or reset, and
//! both need the chunk by value or by `&mut`.
#![allow(unsafe_code)]

use std::{
    alloc::Layout,
    cell::Cell,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bumpalo::Bump;
use parking_lot::Mutex;

use crate::{
    Error, Result, VALUE_LEN_MAX,
    layer_file::{CachedBlock, FetchedBlocks, ReadKind, ReadScratch},
};

/// The smallest chunk, in bytes; the classes double from here.
const CHUNK_MIN_BYTES: usize = 64 << 10;
/// How many sizes of chunk there are: 64 KiB to 32 MiB.
const CHUNK_CLASSES: usize = 10;
/// No offset in a chunk reaches this.
pub(crate) const CHUNK_SPAN_BYTES: usize = CHUNK_MIN_BYTES << (CHUNK_CLASSES - 1);
/// How much smaller a chunk is than its class, in bytes: room for the bookkeeping of the allocators
/// below it, so that what they take for a chunk is within the class (bumpalo rounds up to a page).
/// Where they take more, only the bound of the pool is reached earlier.
const CHUNK_OVERHEAD_BYTES: usize = 4096;
/// The base of a chunk has this alignment, and no allocation in a chunk may ask for more.
pub(crate) const CHUNK_ALIGN: usize = 64;
/// From this size on the kernel is asked for huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// One piece of memory, handed out from its end to its start.
///
/// It takes the whole piece from bumpalo as one allocation and hands it out with a cursor of its
/// own. All that it relies on is what bumpalo documents: [`Bump::try_alloc_layout`] returns memory
/// for the layout, which stays until the arena is reset or dropped. Where an arena's own chunks
/// lie, and in which order it hands them out, is documented nowhere and changes.
///
/// One owner at a time: `Send`, not `Sync`.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Start of the one allocation, aligned to [`CHUNK_ALIGN`]. Offsets are counted from here.
    base: NonNull<u8>,
    /// Length of the allocation, in bytes; less than [`CHUNK_SPAN_BYTES`].
    len: usize,
    /// Offset of what was handed out last, at least [`CHUNK_ALIGN`] and at most `len`. What lies
    /// below is free.
    free_end: usize,
    class: usize,
    /// Owns the memory. Never reset, and never asked for a second allocation. In a box because
    /// bumpalo does not document that memory stays in place when the arena itself is moved.
    arena: Box<Bump>,
}

// SAFETY: `base` points into memory that `arena` owns; `Bump` is `Send`. A chunk has one owner, and
// nothing in it is tied to the thread that made it.
unsafe impl Send for Chunk {}

impl Chunk {
    fn new(class: usize) -> Result<Chunk> {
        let len = (CHUNK_MIN_BYTES << class) - CHUNK_OVERHEAD_BYTES;
        let layout =
            Layout::from_size_align(len, CHUNK_ALIGN).expect("a class is far from the limit");
        let arena = Box::new(Bump::new());
        let base = arena
            .try_alloc_layout(layout)
            .map_err(|_| Error::OutOfMemory { what: "an in-memory layer", bytes: len })?;
        // All offsets, and the advice to the kernel, rest on this.
        assert!(
            base.addr().get().is_multiple_of(CHUNK_ALIGN)
                && base.addr().get().checked_add(len).is_some(),
            "bumpalo returned memory at {base:p} for {layout:?}"
        );
        if len >= HUGE_PAGE_BYTES {
            // SAFETY: the chunk's own memory.
            unsafe { advise(base.as_ptr(), len, ChunkAdvice::HugePages) };
        }
        Ok(Chunk { base, len, free_end: len, class, arena })
    }

    /// Has the kernel back all of it now, rather than page by page when it is first written. Begins
    /// with its end, which is used first, and goes on until `stop` is set.
    fn populate(&self, stop: &AtomicBool) {
        let mut end = self.len;
        while end > 0 && !stop.load(Ordering::Relaxed) {
            let piece = end.min(HUGE_PAGE_BYTES);
            end -= piece;
            let start = self.base.as_ptr().wrapping_add(end);
            // SAFETY: the chunk's own memory: `end` and `piece` are within its length.
            unsafe { advise(start, piece, ChunkAdvice::BackNow) };
        }
    }

    /// Hands out uninitialised memory and its offset from the base, or `None` where the chunk has
    /// not that much left.
    ///
    /// The memory lies below all that was handed out before: right below it where the alignment is
    /// 1. No offset is zero.
    ///
    /// # Panics
    /// When the alignment is above [`CHUNK_ALIGN`].
    #[inline]
    pub(crate) fn alloc(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        assert!(layout.align() <= CHUNK_ALIGN, "an offset is as aligned as its base at most");
        let offset = self.free_end.checked_sub(layout.size())? & !(layout.align() - 1);
        if offset < CHUNK_ALIGN {
            return None;
        }
        debug_assert!(offset + layout.size() <= self.free_end && self.free_end <= self.len);
        self.free_end = offset;
        // SAFETY: `offset` is at most `len`, so the address lies in the allocation at `base`, or
        // right behind it where nothing but zero bytes were asked for.
        Some((unsafe { self.base.add(offset) }, offset))
    }

    /// Takes back all memory that was handed out, which must not be used any more.
    fn reset(&mut self) {
        self.free_end = self.len;
    }

    /// Where offsets are counted from.
    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The memory that its allocator took for it, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.allocated_bytes_including_metadata()
    }
}

/// What the kernel is told about a chunk's memory. None of it changes what the memory holds.
#[derive(Clone, Copy)]
#[repr(i32)]
enum ChunkAdvice {
    /// To use huge pages.
    HugePages = libc::MADV_HUGEPAGE,
    /// To back the memory now, not when it is first written.
    BackNow = libc::MADV_POPULATE_WRITE,
}

/// Advises the kernel on the whole pages in `[start, start + len)`. It may ignore the advice:
/// nothing but speed depends on it.
///
/// # Safety
/// - The range lies in one allocation that the caller owns.
unsafe fn advise(start: *mut u8, len: usize, advice: ChunkAdvice) {
    let first = start.addr().next_multiple_of(4096);
    let end = (start.addr() + len) / 4096 * 4096;
    if end > first {
        // SAFETY: by the caller's promise the range lies in memory that it owns, and it is page
        // aligned; neither advice changes the memory's contents or its mapping.
        unsafe { libc::madvise(start.with_addr(first).cast(), end - first, advice as libc::c_int) };
    }
}

/// Chunks that wait for their next layer. Shared by all timelines of a store; the lock is taken
/// once a chunk, never per value.
#[derive(Debug)]
pub struct ChunkPool {
    retained_max_bytes: usize,
    retained: Mutex<RetainedChunks>,
}

#[derive(Debug, Default)]
struct RetainedChunks {
    classes: [Vec<Chunk>; CHUNK_CLASSES],
    bytes: usize,
    /// Nothing is kept any more.
    is_closed: bool,
}

impl ChunkPool {
    /// A pool that keeps at most this much memory for reuse, in bytes.
    #[must_use]
    pub fn new(retained_max_bytes: usize) -> ChunkPool {
        ChunkPool { retained_max_bytes, retained: Mutex::default() }
    }

    /// How much memory waits for reuse, in bytes as the allocator gave them.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        self.retained.lock().bytes
    }

    /// Makes one of the largest chunks, backed by memory, unless `chunks` of them wait already or
    /// the pool would keep no more. Returns its size in bytes, or `None` where none was made and
    /// kept.
    ///
    /// For a thread with a core to spare while another fills layers: touching memory for the first
    /// time costs as much as filling it does. Once `stop` is set it returns soon.
    pub fn stock(&self, chunks: usize, stop: &AtomicBool) -> Option<usize> {
        let class = CHUNK_CLASSES - 1;
        let is_enough = |retained: &RetainedChunks| {
            retained.is_closed
                || retained.classes[class].len() >= chunks
                || retained.bytes + (CHUNK_MIN_BYTES << class) > self.retained_max_bytes
        };
        if is_enough(&self.retained.lock()) {
            return None;
        }
        let chunk = Chunk::new(class).ok()?;
        chunk.populate(stop);
        let bytes = chunk.bytes();
        self.put_back(chunk).then_some(bytes)
    }

    /// A chunk with room for `needed` bytes, as large as a layer that holds `held` bytes already
    /// deserves: layers grow by doubling up to the largest class.
    pub(crate) fn take(&self, needed: usize, held: usize) -> Result<Chunk> {
        let wanted = needed
            .saturating_add(CHUNK_OVERHEAD_BYTES + CHUNK_ALIGN)
            .max(held.min(CHUNK_SPAN_BYTES));
        let class = (0..CHUNK_CLASSES).find(|class| CHUNK_MIN_BYTES << class >= wanted);
        let class = class.ok_or(Error::ValueTooLong { len: needed })?;
        {
            let mut retained = self.retained.lock();
            if let Some(chunk) = retained.classes[class].pop() {
                assert!(retained.bytes >= chunk.bytes(), "the pool counts what it holds");
                debug_assert!(chunk.class == class && chunk.free_end == chunk.len, "an empty one");
                retained.bytes -= chunk.bytes();
                return Ok(chunk);
            }
        }
        Chunk::new(class)
    }

    /// Takes a chunk back, or frees it where enough are kept. Whether it was kept.
    pub(crate) fn put_back(&self, mut chunk: Chunk) -> bool {
        chunk.reset();
        let mut retained = self.retained.lock();
        let is_kept =
            !retained.is_closed && retained.bytes + chunk.bytes() <= self.retained_max_bytes;
        if is_kept {
            retained.bytes += chunk.bytes();
            retained.classes[chunk.class].push(chunk);
            verify!(
                retained.bytes
                    == retained.classes.iter().flatten().map(Chunk::bytes).sum::<usize>(),
                "the pool counts what it holds"
            );
            debug_assert!(retained.bytes <= self.retained_max_bytes, "the pool keeps its bound");
        }
        is_kept
    }

    /// Frees all chunks that wait for their next layer. From now on chunks that come back are freed
    /// at once.
    pub fn close(&self) {
        let freed = {
            let mut retained = self.retained.lock();
            std::mem::replace(
                &mut *retained,
                RetainedChunks { is_closed: true, ..RetainedChunks::default() },
            )
        };
        // Outside the lock: this gives memory back to the system.
        drop(freed);
    }
}

/// One reader's scratch memory: compressed blocks are inflated into it. Emptied as a whole; the
/// largest piece of memory that it has taken is kept for the next use.
///
/// Relied on, and documented by bumpalo: what a method that allocates returns is borrowed from the
/// arena, and apart from all else that was; the limit is enforced when the arena takes more memory;
/// `reset` needs the arena by `&mut`.
#[derive(Debug)]
pub struct ScratchArena {
    bump: Bump,
    /// Whether anything is in it: most reads inflate nothing.
    used: Cell<bool>,
    kept: KeptBlocks,
    /// Whether what is read into it may wait for a device.
    may_wait: bool,
    /// What was fetched for a read that had to be tried again.
    fetched: Arc<FetchedBlocks>,
    counts: Cell<BlockCounts>,
}

/// Blocks of the cache that something was lent from. Its lock is one thread's alone, but what was
/// lent may go to other threads, which [detach](KeptBlocks::block_of) it.
#[derive(Debug, Default)]
pub struct KeptBlocks(Mutex<Vec<Arc<CachedBlock>>>);

impl KeptBlocks {
    /// The block that these bytes lie in, if they lie in one.
    #[must_use]
    pub fn block_of(&self, bytes: &[u8]) -> Option<Arc<CachedBlock>> {
        let range = bytes.as_ptr_range();
        let lies_in = |block: &&Arc<CachedBlock>| {
            let own = block.bytes().as_ptr_range();
            own.start <= range.start && range.end <= own.end
        };
        self.0.lock().iter().find(lies_in).cloned()
    }
}

/// What reads have done with blocks of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockCounts {
    /// Blocks that were used, as often as they were.
    pub blocks: u64,
    /// What was read of them, as stored, in bytes; see [`ReadScratch::touched`].
    pub block_bytes: u64,
    /// What was read from files for them, in bytes.
    pub read_bytes: u64,
    /// What was inflated, in bytes.
    pub inflated_bytes: u64,
}

impl Default for ScratchArena {
    fn default() -> ScratchArena {
        ScratchArena {
            bump: Bump::new(),
            used: Cell::new(false),
            kept: KeptBlocks::default(),
            may_wait: true,
            fetched: Arc::default(),
            counts: Cell::default(),
        }
    }
}

impl ScratchArena {
    /// Empties the arena.
    #[inline]
    pub fn reset(&mut self) {
        self.counts.take();
        if self.used.replace(false) {
            self.bump.reset();
            self.kept.0.get_mut().clear();
        }
    }

    /// The blocks that something was lent from since the last reset.
    #[must_use]
    pub fn kept(&self) -> &KeptBlocks {
        &self.kept
    }

    /// Bounds the memory for inflated blocks, in bytes; a read that needs more fails.
    pub fn set_limit(&mut self, max_bytes: usize) {
        self.bump.set_allocation_limit(Some(max_bytes));
    }

    /// What reads have done since the last reset.
    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        self.counts.get()
    }

    /// Says whether what is read into it may wait for a device; in a new one it may.
    pub fn set_may_wait(&mut self, may_wait: bool) {
        self.may_wait = may_wait;
    }

    /// Where blocks are put that are fetched for a read that may not wait.
    #[must_use]
    pub fn fetched(&self) -> &Arc<FetchedBlocks> {
        &self.fetched
    }

    /// Lets go of what was fetched: the read is over.
    pub fn forget_fetched(&mut self) {
        match Arc::get_mut(&mut self.fetched) {
            Some(fetched) => *fetched = FetchedBlocks::default(),
            // An abandoned fetch may still put its block there.
            None => self.fetched = Arc::default(),
        }
    }

    /// Memory of its own and of the cached blocks that it keeps alive, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let kept = self.kept.0.lock();
        let kept: usize = kept.iter().map(|block| block.memory_bytes() as usize).sum();
        self.bump.allocated_bytes_including_metadata() + kept + self.fetched.bytes()
    }
}

impl ReadScratch for ScratchArena {
    fn kind(&self) -> ReadKind<'_> {
        match self.may_wait {
            true => ReadKind::Wait,
            false => ReadKind::NoWait(&self.fetched),
        }
    }

    fn keep(&self, block: Arc<CachedBlock>) -> &CachedBlock {
        self.used.set(true);
        let kept = Arc::as_ptr(&block);
        self.kept.0.lock().push(block);
        // SAFETY: the block lies in an allocation of its own, which the count in `kept` keeps until
        // `reset`, and that needs the arena by `&mut`: not while what is returned borrows it. A
        // block is never borrowed by `&mut` once it is counted.
        unsafe { &*kept }
    }

    #[inline]
    fn touched(&self, stored_bytes: usize, read_bytes: usize) {
        let mut counts = self.counts.get();
        counts.blocks += 1;
        counts.block_bytes += stored_bytes as u64;
        counts.read_bytes += read_bytes as u64;
        self.counts.set(counts);
    }

    #[inline]
    fn touched_blocks(&self, blocks: usize, stored_bytes: usize) {
        let mut counts = self.counts.get();
        counts.blocks += blocks as u64;
        counts.block_bytes += stored_bytes as u64;
        self.counts.set(counts);
    }

    fn space(&self, len: usize) -> Result<&mut [u8]> {
        self.used.set(true);
        debug_assert!(len <= VALUE_LEN_MAX + (64 << 10), "a block inflates to {len} bytes");
        let mut counts = self.counts.get();
        counts.inflated_bytes += len as u64;
        self.counts.set(counts);
        self.bump
            .try_alloc_slice_fill_copy(len, 0)
            .map_err(|_| Error::OutOfMemory { what: "an inflated block", bytes: len })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn a_chunk_hands_out_all_its_room_and_no_more() {
        for class in 0..CHUNK_CLASSES {
            let mut chunk = Chunk::new(class).unwrap();
            let (mut given, size) = (0, 1 << (10 + class));
            while let Some((piece, offset)) = chunk.alloc(layout(size, 32)) {
                assert_eq!(piece.as_ptr().addr() - chunk.base().as_ptr().addr(), offset);
                assert!(
                    offset > 0 && offset.is_multiple_of(32) && offset + size < CHUNK_SPAN_BYTES
                );
                given += size;
            }
            assert!(
                given >= (CHUNK_MIN_BYTES << class) - CHUNK_OVERHEAD_BYTES - 2 * size,
                "{given}"
            );
            assert!(chunk.bytes() >= given && chunk.bytes() <= CHUNK_MIN_BYTES << class);
        }
    }

    /// An allocator may return any address at all for nothing; a chunk has an offset for it.
    #[test]
    fn nothing_has_an_offset_in_the_chunk() {
        let mut chunk = Chunk::new(0).unwrap();
        let mut last = chunk.len;
        while let Some((address, offset)) = chunk.alloc(layout(0, 1)) {
            assert_eq!((offset, address.as_ptr().addr()), (last, chunk.base().addr().get() + last));
            match chunk.alloc(layout(1000, 1)) {
                Some((_, offset)) => last = offset,
                None => break,
            }
        }
        assert!((CHUNK_ALIGN..CHUNK_ALIGN + 1000).contains(&last), "{last}");
    }

    #[test]
    fn bytes_lie_right_below_those_before_them() {
        let mut chunk = Chunk::new(0).unwrap();
        let mut below = chunk.alloc(layout(5, 1)).unwrap().1;
        for size in [1, 0, 64, 7, 4096] {
            let offset = chunk.alloc(layout(size, 1)).unwrap().1;
            assert_eq!(offset + size, below);
            below = offset;
        }
    }

    #[test]
    #[should_panic(expected = "as aligned as its base")]
    fn an_alignment_that_the_base_has_not_is_refused() {
        Chunk::new(0).unwrap().alloc(layout(1, 2 * CHUNK_ALIGN));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Every byte of every piece is written, and is there when all of them have been.
        #[test]
        fn pieces_are_aligned_and_apart(
            asked in prop::collection::vec((0..3000_usize, 0..=6_u32), 1..200),
            class in 0..3_usize,
        ) {
            let mut chunk = Chunk::new(class).unwrap();
            for round in 0..2_u8 {
                let mut pieces = Vec::new();
                for (n, &(size, align)) in asked.iter().enumerate() {
                    let Some((piece, _)) = chunk.alloc(layout(size, 1 << align)) else { break };
                    prop_assert!(piece.addr().get().is_multiple_of(1 << align));
                    // SAFETY: the chunk handed it out with this size.
                    unsafe { piece.write_bytes(n as u8 ^ round, size) };
                    pieces.push((piece, size, n as u8 ^ round));
                }
                prop_assert!(pieces.len() >= asked.len().min(15), "the smallest chunk has room for 15");
                for (piece, size, byte) in pieces {
                    // SAFETY: as above; all of it was written.
                    let bytes = unsafe { std::slice::from_raw_parts(piece.as_ptr(), size) };
                    prop_assert!(bytes.iter().all(|b| *b == byte));
                }
                chunk.reset();
            }
        }
    }

    #[test]
    fn the_pool_is_stocked_with_as_many_as_it_is_told() {
        let pool = ChunkPool::new(100 << 20);
        let stop = AtomicBool::new(false);
        let stock = |chunks| pool.stock(chunks, &stop).is_some();
        assert!(stock(2) && stock(2) && !stock(2));
        assert!(stock(3) && !stock(4), "its bound is its bound");
        let chunk = pool.take(1, 64 << 20).unwrap();
        assert_eq!(chunk.class, CHUNK_CLASSES - 1);
        stop.store(true, Ordering::Relaxed);
        assert!(stock(3), "it is whole, though not backed");
    }

    #[test]
    fn a_closed_pool_keeps_nothing() {
        let pool = ChunkPool::new(usize::MAX);
        let (early, late) = (pool.take(1, 0).unwrap(), pool.take(1, 0).unwrap());
        assert!(pool.put_back(early) && pool.retained_bytes() > 0);
        pool.close();
        assert_eq!(pool.retained_bytes(), 0);
        assert!(!pool.put_back(late) && pool.retained_bytes() == 0);
        assert_eq!(pool.stock(1, &AtomicBool::new(false)), None);
        assert!(pool.take(1, 0).is_ok(), "a layer can still be made");
    }

    #[test]
    fn the_pool_recycles_within_its_bound() {
        let pool = ChunkPool::new(200 << 10);
        let (first, second) = (pool.take(100, 0).unwrap(), pool.take(100, 100_000).unwrap());
        assert_eq!((first.class, second.class), (0, 1));
        let (address, kept) = (first.base(), first.bytes());
        pool.put_back(first);
        assert_eq!(pool.retained_bytes(), kept);
        let again = pool.take(1, 0).unwrap();
        assert_eq!((again.base(), pool.retained_bytes()), (address, 0));
        pool.put_back(second);
        let third = pool.take(150 << 10, 0).unwrap();
        pool.put_back(third);
        assert!(pool.retained_bytes() <= 200 << 10, "a chunk too many was freed");
        assert!(
            pool.stock(1, &AtomicBool::new(false)).is_none(),
            "it would keep none of the largest"
        );
        assert!(pool.take(CHUNK_SPAN_BYTES, 0).is_err());
    }
}
