//! Bump arenas whose memory never moves, and the pool that their chunks come from and go back to.
//!
//! Two users: an in-memory layer, whose values and nodes live in chunks that any number of threads read while one
//! appends ([`Chunk`], [`ChunkPool`]); and a reader's scratch, which is one thread's alone ([`ScratchArena`]). This is the one file that names
//! bumpalo.
//!
//! Memory that is touched for the first time costs more than everything else in a put (370-470 ns a record on fresh
//! memory against 35 ns on memory already backed, measured with 100-byte records). So chunks are large, advised huge, and
//! go back to a bounded pool when a layer is reclaimed: steady ingest touches no fresh memory.
//!
//! **Invariant:** a chunk's bytes stay at their address until the chunk is dropped or reset, and both need the chunk
//! by value or by `&mut`.
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
    Error, Result,
    layer_file::{CachedBlock, Fetched, ReadKind, ReadSpace},
};

/// The smallest chunk, in bytes; the classes double from here.
const CHUNK_MIN_BYTES: usize = 64 << 10;
/// How many sizes of chunk there are: 64 KiB to 32 MiB.
const CHUNK_CLASSES: usize = 10;
/// No offset in a chunk reaches this.
pub(crate) const CHUNK_SPAN_BYTES: usize = CHUNK_MIN_BYTES << (CHUNK_CLASSES - 1);
/// What a chunk leaves of its class for the allocators' own bookkeeping (bumpalo rounds up to a page) and for the alignment of its base.
const CHUNK_OVERHEAD_BYTES: usize = 8192;
/// Positions in a chunk are counted from a base with this alignment.
pub(crate) const CHUNK_ALIGN: usize = 64;
/// From this size on the kernel is asked for huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// One piece of memory, handed out from its end to its start.
#[derive(Debug)]
pub(crate) struct Chunk {
    bump: Bump,
    /// Below every byte of the chunk and less than a span away from it; aligned to [`CHUNK_ALIGN`]. Only a base for
    /// offsets: not in the chunk itself.
    base: NonNull<u8>,
    class: usize,
    bytes: usize,
}

// SAFETY: `base` points into memory that `bump` owns and that moves with it; `Bump` itself is `Send`. Nothing in a
// `Chunk` is tied to the thread that made it.
unsafe impl Send for Chunk {}

impl Chunk {
    fn new(class: usize) -> Result<Chunk> {
        let capacity = (CHUNK_MIN_BYTES << class) - CHUNK_OVERHEAD_BYTES;
        let out_of_memory = || Error::OutOfMemory { what: "an in-memory layer", bytes: capacity };
        let bump = Bump::try_with_capacity(capacity).map_err(|_| out_of_memory())?;
        // One chunk it is: with the limit reached, a failing allocation never adds a second one.
        bump.set_allocation_limit(Some(bump.allocated_bytes()));
        let room = bump.chunk_capacity();
        let end = bump
            .try_alloc_layout(Layout::from_size_align(0, 1).expect("valid"))
            .map_err(|_| out_of_memory())?;
        let start = end.as_ptr().wrapping_sub(room);
        // One alignment unit below the chunk's first byte, so that no offset is zero.
        let base = start.wrapping_sub(CHUNK_ALIGN + start.addr() % CHUNK_ALIGN);
        assert!(
            end.as_ptr().addr() - base.addr() < CHUNK_SPAN_BYTES,
            "a chunk is smaller than its span"
        );
        if room >= HUGE_PAGE_BYTES {
            advise(start, room, libc::MADV_HUGEPAGE);
        }
        let bytes = bump.allocated_bytes_including_metadata();
        Ok(Chunk { base: NonNull::new(base).expect("not at address zero"), bump, class, bytes })
    }

    /// Has the kernel back all of it now, rather than page by page when it is first written; from its end on, which is used
    /// first, until `stop` is set.
    fn populate(&self, stop: &AtomicBool) {
        let room = self.bump.chunk_capacity();
        let Ok(end) = self.bump.try_alloc_layout(Layout::from_size_align(0, 1).expect("valid"))
        else {
            return;
        };
        let mut left = room;
        while left > 0 && !stop.load(Ordering::Relaxed) {
            let piece = left.min(HUGE_PAGE_BYTES);
            let start = end.as_ptr().wrapping_sub(room - left + piece);
            advise(start, piece, libc::MADV_POPULATE_WRITE);
            left -= piece;
        }
    }

    /// Uninitialised memory, or `None` where the chunk has not that much left.
    #[inline]
    pub(crate) fn alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.bump.try_alloc_layout(layout).ok()
    }

    /// Where offsets are counted from.
    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// What the allocator gave for it, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Advises the kernel on the whole pages in `[start, start + len)`: to use huge ones, or to back them now. What becomes of it
/// changes nothing but speed.
fn advise(start: *mut u8, len: usize, advice: libc::c_int) {
    let first = start.addr().next_multiple_of(4096);
    let end = (start.addr() + len) / 4096 * 4096;
    if end > first {
        // SAFETY: the range lies in memory that the caller owns and is page aligned; neither MADV_HUGEPAGE nor
        // MADV_POPULATE_WRITE changes its contents or its mapping.
        unsafe { libc::madvise(start.with_addr(first).cast(), end - first, advice) };
    }
}

/// Chunks that wait for their next layer. Shared by all timelines of a store; the lock is taken once a chunk,
/// never per value.
#[derive(Debug)]
pub struct ChunkPool {
    retained_max_bytes: usize,
    retained: Mutex<Retained>,
}

#[derive(Debug, Default)]
struct Retained {
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

    /// Makes one of the largest chunks, backed by memory, unless `chunks` of them wait already or the pool would keep no more.
    /// How large it is, in bytes. For whoever has a core to spare while another fills layers: memory that is touched for the first time costs
    /// the one that touches it as much as filling it does. Once `stop` is set it returns soon.
    pub fn stock(&self, chunks: usize, stop: &AtomicBool) -> Option<usize> {
        let class = CHUNK_CLASSES - 1;
        let is_enough = |retained: &Retained| {
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
        self.put_back(chunk);
        Some(bytes)
    }

    /// A chunk with room for `needed` bytes, as large as a layer that holds `held` bytes already deserves: layers grow
    /// by doubling up to the largest class.
    pub(crate) fn take(&self, needed: usize, held: usize) -> Result<Chunk> {
        let wanted = needed
            .saturating_add(CHUNK_OVERHEAD_BYTES + CHUNK_ALIGN)
            .max(held.min(CHUNK_SPAN_BYTES));
        let class = (0..CHUNK_CLASSES).find(|class| CHUNK_MIN_BYTES << class >= wanted);
        let class = class.ok_or(Error::ValueTooLong { len: needed })?;
        {
            let mut retained = self.retained.lock();
            if let Some(chunk) = retained.classes[class].pop() {
                retained.bytes -= chunk.bytes;
                return Ok(chunk);
            }
        }
        Chunk::new(class)
    }

    /// Takes a chunk back, or frees it where enough are kept.
    pub(crate) fn put_back(&self, mut chunk: Chunk) {
        chunk.bump.reset();
        let mut retained = self.retained.lock();
        if !retained.is_closed && retained.bytes + chunk.bytes <= self.retained_max_bytes {
            retained.bytes += chunk.bytes;
            retained.classes[chunk.class].push(chunk);
        }
    }

    /// Frees all chunks that wait for their next layer. From now on chunks that come back are freed at once.
    pub fn close(&self) {
        let freed = {
            let mut retained = self.retained.lock();
            std::mem::replace(&mut *retained, Retained { is_closed: true, ..Retained::default() })
        };
        // Outside the lock: this gives memory back to the system.
        drop(freed);
    }
}

/// One reader's scratch memory: compressed blocks are inflated into it. Emptied as a whole; what it has taken it keeps for
/// the next use.
#[derive(Debug)]
pub struct ScratchArena {
    bump: Bump,
    /// Whether anything is in it: most reads inflate nothing.
    used: Cell<bool>,
    kept: KeptBlocks,
    /// Whether what is read into it may wait for a device.
    may_wait: bool,
    /// What was fetched for a read that had to be tried again.
    fetched: Arc<Fetched>,
    counts: Cell<BlockCounts>,
}

/// Blocks of the cache that something was lent from. Its lock is one thread's alone, but what was lent may go to other threads, which
/// [detach](KeptBlocks::block_of) it.
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
    /// Their payloads as they are stored, in bytes.
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
    /// Empties it.
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

    /// Has no more than this for inflated blocks, in bytes; a read that needs more fails.
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
    pub fn fetched(&self) -> &Arc<Fetched> {
        &self.fetched
    }

    /// Lets go of what was fetched: the read is over.
    pub fn forget_fetched(&mut self) {
        match Arc::get_mut(&mut self.fetched) {
            Some(fetched) => *fetched = Fetched::default(),
            // A fetch that nobody waited for may put its block there still.
            None => self.fetched = Arc::default(),
        }
    }

    /// What it takes from the allocator and keeps of the cache, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let kept = self.kept.0.lock();
        let kept: usize = kept.iter().map(|block| block.memory_bytes() as usize).sum();
        self.bump.allocated_bytes_including_metadata() + kept + self.fetched.bytes()
    }
}

impl ReadSpace for ScratchArena {
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
        // SAFETY: the block lies in an allocation of its own, which the count in `kept` keeps until `reset`, and that needs the arena
        // by `&mut`: not while what is returned borrows it. Nobody has a block by `&mut` once it is counted.
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

    fn space(&self, len: usize) -> Result<&mut [u8]> {
        self.used.set(true);
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
    use super::*;

    #[test]
    fn a_chunk_hands_out_all_its_room_and_no_more() {
        for class in 0..CHUNK_CLASSES {
            let chunk = Chunk::new(class).unwrap();
            let (mut given, size) = (0, 1 << (10 + class));
            while let Some(piece) = chunk.alloc(Layout::from_size_align(size, 32).unwrap()) {
                let offset = piece.as_ptr().addr() - chunk.base().as_ptr().addr();
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
        pool.put_back(early);
        assert!(pool.retained_bytes() > 0);
        pool.close();
        assert_eq!(pool.retained_bytes(), 0);
        pool.put_back(late);
        assert_eq!(pool.retained_bytes(), 0);
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
