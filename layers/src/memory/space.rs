//! The memory of one in-memory layer: chunks that never move, and typed nodes in them with 32-bit
//! ids. All pointers of the in-memory layer are here. What is behind an [`Id`] is looked up by a
//! safe call, because only this file and `index/nodes.rs` make ids; a length and a [`Position`] are
//! numbers that anyone can make up, so what takes one is an `unsafe fn`, and the few callers,
//! beside the data that they have it from, say why it is right.
//!
//! One writer appends ([`Appender`]); readers on other threads look nodes and values up by id
//! through [`Space`]. What makes that sound:
//!
//! 1. An [`Id`] or [`Position`] is made only here, by an append. Its holder got it from the append
//!    itself (the writer) or by an Acquire load of a [`Link`], an object's root or a word of a head
//!    that the writer stored with Release *after* the append. So the chunk's address in the table
//!    and the node's bytes happen before the look-up.
//! 2. Chunks are handed back only when the [`Space`] is dropped, so a node borrowed from a `&Space`
//!    lives as long as the borrow.
//! 3. A node's plain fields are written once, before its id is published; what changes later is
//!    atomic.
//! 4. Ids are not mixed between layers: links live inside the space that their ids belong to, and
//!    this module is private to the in-memory layer.
#![allow(unsafe_code)]

use std::{
    alloc::Layout,
    marker::PhantomData,
    num::NonZeroU32,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    Error, Result,
    memory::arena::{CHUNK_ALIGN, CHUNK_SPAN_BYTES, Chunk, ChunkPool},
    prefetch::prefetch,
};

/// How many chunks a space may have: 8 GiB less the small first ones.
const CHUNKS_MAX: usize = 256;
const OFFSET_BITS: u32 = CHUNK_SPAN_BYTES.trailing_zeros();
/// Bits that a [`Position`] needs.
pub(super) const POSITION_BITS: u32 = OFFSET_BITS + CHUNKS_MAX.trailing_zeros();
/// Ids count memory in these units; every node is aligned to it.
const UNIT_BYTES: usize = 32;
const UNIT_BITS: u32 = UNIT_BYTES.trailing_zeros();

/// How much of a value is fetched ahead.
const VALUE_PREFETCH_MAX: usize = 256;

const _: () = assert!(CHUNK_SPAN_BYTES.is_power_of_two() && CHUNKS_MAX.is_power_of_two());
const _: () = assert!(POSITION_BITS - UNIT_BITS <= 32, "an id fits 32 bits");
const _: () = assert!(UNIT_BYTES <= CHUNK_ALIGN);

/// What lives in chunks as a node.
///
/// # Safety
/// It holds plain bytes and atomics only (no drop, no padding that is read), and its size is a
/// multiple of its alignment, which is at most [`CHUNK_ALIGN`].
pub(super) unsafe trait Node: Sized {}

/// The id of a published node: its chunk and its unit in the chunk.
pub(super) struct Id<T>(NonZeroU32, PhantomData<fn() -> T>);

impl<T> Clone for Id<T> {
    fn clone(&self) -> Id<T> {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Id<T>) -> bool {
        self.0 == other.0
    }
}

impl<T> Id<T> {
    /// The id as a number, to be packed with others.
    #[inline]
    pub(super) fn raw(self) -> u32 {
        self.0.get()
    }

    /// Back from [`Id::raw`]; zero is none.
    ///
    /// # Safety
    /// - `raw` is zero, or what [`Id::raw`] gave for a node of this layer's space of nodes.
    /// - Before the node is looked up, the id has the type that the node was appended as. (A link
    ///   to either of two kinds of node has one's type.)
    #[inline]
    pub(super) unsafe fn from_raw(raw: u32) -> Option<Id<T>> {
        NonZeroU32::new(raw).map(|raw| Id(raw, PhantomData))
    }
}

/// A link to a node, empty or published. Readers see it whole or not at all.
#[repr(transparent)]
pub(super) struct Link<T>(AtomicU32, PhantomData<fn() -> T>);

// SAFETY: an atomic number.
unsafe impl<T> Node for Link<T> {}

impl<T> Link<T> {
    pub(super) const fn empty() -> Link<T> {
        Link(AtomicU32::new(0), PhantomData)
    }

    /// A link that points somewhere before it is published itself.
    pub(super) fn to(target: Option<Id<T>>) -> Link<T> {
        Link(AtomicU32::new(target.map_or(0, Id::raw)), PhantomData)
    }

    /// Pairs with [`Link::publish`].
    #[inline]
    pub(super) fn load(&self) -> Option<Id<T>> {
        // SAFETY: a link holds zero or the number of an id of its own type, and is in the space
        // that the id is of.
        unsafe { Id::from_raw(self.0.load(Ordering::Acquire)) }
    }

    /// Makes all that was written to the target visible to a thread that loads the link.
    #[inline]
    pub(super) fn publish(&self, target: Option<Id<T>>) {
        self.0.store(target.map_or(0, Id::raw), super::PUBLISH);
    }
}

/// Where a value begins: its chunk and the offset in the chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position(u64);

impl Position {
    /// As a number of [`POSITION_BITS`] bits.
    #[inline]
    pub(super) fn raw(self) -> u64 {
        self.0
    }

    /// Back from [`Position::raw`]. A number only: what is read at it is for the caller of
    /// [`Space::bytes`] to answer for.
    #[inline]
    pub(super) fn from_raw(raw: u64) -> Position {
        Position(raw)
    }
}

/// The chunks of a layer, as all its threads share them.
pub(super) struct Space {
    /// Base addresses by chunk number; written once each, by the appender.
    bases: [AtomicPtr<u8>; CHUNKS_MAX],
    /// Chunks that are full, or whose appender is gone.
    full: Mutex<Vec<Chunk>>,
    /// Bytes taken from the allocator or the pool. Written by the appender only.
    allocated_bytes: AtomicUsize,
    pool: Arc<ChunkPool>,
    /// How many appends still find memory.
    #[cfg(test)]
    appends_left: AtomicUsize,
}

impl Space {
    pub(super) fn new(pool: Arc<ChunkPool>) -> Space {
        Space {
            bases: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS_MAX],
            full: Mutex::default(),
            allocated_bytes: AtomicUsize::new(0),
            pool,
            #[cfg(test)]
            appends_left: AtomicUsize::new(usize::MAX),
        }
    }

    /// As if the allocator had memory for `appends` more, and none after them.
    #[cfg(test)]
    pub(super) fn fail_after(&self, appends: usize) {
        self.appends_left.store(appends, Ordering::Relaxed);
    }

    #[cfg(test)]
    fn spend_append(&self) -> Result<()> {
        match self.appends_left.load(Ordering::Relaxed) {
            usize::MAX => Ok(()),
            0 => Err(Error::OutOfMemory { what: "a test", bytes: 0 }),
            left => {
                self.appends_left.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    #[cfg(planted_bug = "early_reclaim")]
    pub(super) fn reclaim_early(&self) {
        for chunk in std::mem::take(&mut *self.full.lock()) {
            self.pool.put_back(chunk);
        }
    }

    /// What it has taken from the allocator, in bytes.
    pub(super) fn allocated_bytes(&self) -> usize {
        self.allocated_bytes.load(Ordering::Relaxed)
    }

    #[inline]
    fn address(&self, position: u64) -> *mut u8 {
        let chunk = (position >> OFFSET_BITS) as usize % CHUNKS_MAX;
        // Relaxed: the position itself came by an Acquire edge that this store is behind (rule 1).
        let base = self.bases[chunk].load(Ordering::Relaxed);
        debug_assert!(!base.is_null());
        base.wrapping_add(position as usize % CHUNK_SPAN_BYTES)
    }

    #[inline]
    fn node_address<T>(&self, id: Id<T>) -> *mut u8 {
        self.address(u64::from(id.raw()) << UNIT_BITS)
    }

    /// The node behind an id.
    #[inline]
    pub(super) fn node<T: Node>(&self, id: Id<T>) -> &T {
        let address = self.node_address(id).cast::<T>();
        debug_assert!(address.is_aligned());
        // SAFETY: by rules 1 and 4 the id was made by `Appender::append_node` for a `T` in this
        // space, which wrote a whole `T` at this address before the id was published; by rule 2 the
        // memory outlives the borrow of `self`; by rule 3 what is shared is either never written
        // again or atomic.
        unsafe { &*address }
    }

    /// The `len` items that follow a header of type `T`; both were appended as one node.
    ///
    /// # Safety
    /// - The node was appended by [`Appender::append_with_tail`] with items of type `I`.
    /// - `len` is at most the number of items that it was given: it comes from the header, or by
    ///   the same load as the id.
    #[inline]
    pub(super) unsafe fn tail<T: Node, I: Node>(&self, id: Id<T>, len: usize) -> &[I] {
        let address = self.node_address(id).wrapping_add(size_of::<T>()).cast::<I>();
        debug_assert!(address.is_aligned());
        // SAFETY: as for `node`; by the caller's promise `append_with_tail` wrote at least this
        // many items behind the header before the id was published.
        unsafe { std::slice::from_raw_parts(address, len) }
    }

    /// The bytes of a value.
    ///
    /// # Safety
    /// `position` and `len` are those of one [`Appender::append_bytes`] in this space, known as
    /// rule 1 says.
    #[inline]
    pub(super) unsafe fn bytes(&self, position: Position, len: usize) -> &[u8] {
        debug_assert!(position.0 as usize % CHUNK_SPAN_BYTES + len <= CHUNK_SPAN_BYTES);
        // SAFETY: by the caller's promise and rule 1 the bytes were copied there before the head or
        // entry that holds position and length was published, they are never written again, and by
        // rule 2 they outlive the borrow of `self`.
        unsafe { std::slice::from_raw_parts(self.address(position.0), len) }
    }

    /// The bytes of values that lie one behind the other from `position` on, `len` in all.
    ///
    /// # Safety
    /// They are those of several [`Appender::append_bytes`] in this space, each of which begins
    /// where the one that was made after it ends; `position` is that of the last one.
    pub(super) unsafe fn neighbours(&self, position: Position, len: usize) -> &[u8] {
        debug_assert!(position.0 as usize % CHUNK_SPAN_BYTES + len <= CHUNK_SPAN_BYTES);
        // SAFETY: as for `bytes`, for each of the values. Together they are one range of one chunk:
        // a value ends where one of another chunk begins only if that one's offset is zero, and no
        // offset is.
        unsafe { std::slice::from_raw_parts(self.address(position.0), len) }
    }

    /// Prefetches the cache line of a node that holds its byte at `offset`.
    #[inline]
    pub(super) fn prefetch_node<T>(&self, id: Id<T>, offset: usize) {
        prefetch(self.node_address(id).wrapping_add(offset));
    }

    /// Prefetches a value's first cache lines: the hardware prefetcher that follows a copy does the
    /// rest.
    #[inline]
    pub(super) fn prefetch_bytes(&self, position: Position, len: usize) {
        let address = self.address(position.0);
        let last = len.clamp(1, VALUE_PREFETCH_MAX) - 1;
        (0..last).step_by(64).for_each(|offset| prefetch(address.wrapping_add(offset)));
        prefetch(address.wrapping_add(last));
    }
}

/// Prefetches all cache lines of a node.
#[inline]
pub(super) fn prefetch_whole<T: Node>(node: &T) {
    let address = ptr::from_ref(node).cast::<u8>();
    (0..size_of::<T>()).step_by(64).for_each(|offset| prefetch(address.wrapping_add(offset)));
}

impl Drop for Space {
    fn drop(&mut self) {
        let chunks = std::mem::take(self.full.get_mut());
        let added =
            self.bases.iter().filter(|base| !base.load(Ordering::Relaxed).is_null()).count();
        debug_assert!(
            chunks.len() == added
                || std::thread::panicking()
                || cfg!(planted_bug = "early_reclaim"),
            "all of {added} chunks come home, found {}",
            chunks.len()
        );
        for chunk in chunks {
            self.pool.put_back(chunk);
        }
    }
}

/// The right to append to a [`Space`]: one for each.
pub(super) struct Appender {
    space: Arc<Space>,
    current: Option<Chunk>,
    /// How many chunks there are, the current one among them.
    chunks: usize,
    /// Bytes appended so far.
    used_bytes: u64,
}

impl Drop for Appender {
    fn drop(&mut self) {
        if let Some(chunk) = self.current.take() {
            self.space.full.lock().push(chunk);
        }
    }
}

impl Appender {
    /// The appender of a space that has none yet.
    pub(super) fn new(space: Arc<Space>) -> Appender {
        assert!(space.bases[0].load(Ordering::Relaxed).is_null(), "a space has one appender");
        Appender { space, current: None, chunks: 0, used_bytes: 0 }
    }

    /// Bytes appended so far.
    #[inline]
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Uninitialised memory that is not published, and its position.
    #[inline]
    fn append(&mut self, layout: Layout) -> Result<(NonNull<u8>, u64)> {
        #[cfg(test)]
        self.space.spend_append()?;
        let in_current = self.current.as_mut().and_then(|chunk| chunk.alloc(layout));
        let (address, offset) = match in_current {
            Some(found) => found,
            None => self.append_to_new(layout)?,
        };
        debug_assert!(self.chunks > 0 && offset < CHUNK_SPAN_BYTES, "chunk {}", self.chunks);
        self.used_bytes += layout.size() as u64;
        Ok((address, ((self.chunks - 1) as u64) << OFFSET_BITS | offset as u64))
    }

    #[cold]
    fn append_to_new(&mut self, layout: Layout) -> Result<(NonNull<u8>, usize)> {
        self.add_chunk(layout)?;
        let chunk = self.current.as_mut().expect("just added");
        Ok(chunk.alloc(layout).expect("a new chunk has room for what it was taken for"))
    }

    fn add_chunk(&mut self, layout: Layout) -> Result<()> {
        let space = &*self.space;
        if self.chunks == CHUNKS_MAX {
            let max = (CHUNKS_MAX * CHUNK_SPAN_BYTES) as u64;
            return Err(Error::Full { what: "an in-memory layer's memory, in bytes,", max });
        }
        let held = space.allocated_bytes();
        let chunk = space.pool.take(layout.size() + layout.align(), held)?;
        assert!(chunk.bytes() > 0 && chunk.base().addr().get().is_multiple_of(CHUNK_ALIGN));
        assert!(
            space.bases[self.chunks].load(Ordering::Relaxed).is_null(),
            "chunk {} is added once",
            self.chunks
        );
        // Relaxed: no id of this chunk is published yet.
        space.bases[self.chunks].store(chunk.base().as_ptr(), Ordering::Relaxed);
        space.allocated_bytes.store(held + chunk.bytes(), Ordering::Relaxed);
        self.chunks += 1;
        if let Some(full) = self.current.replace(chunk) {
            space.full.lock().push(full);
        }
        // The appender's drop puts one more there: with room for it, freezing allocates nothing.
        space.full.lock().reserve(1);
        Ok(())
    }

    /// Copies a value in: the one copy of the write path.
    #[inline]
    pub(super) fn append_bytes(&mut self, bytes: &[u8]) -> Result<Position> {
        let layout =
            Layout::from_size_align(bytes.len(), 1).expect("a slice's length is a valid size");
        let (address, position) = self.append(layout)?;
        debug_assert!(position >> POSITION_BITS == 0, "a position has {POSITION_BITS} bits");
        // SAFETY: `address` is `bytes.len()` bytes of fresh memory that is not published yet; it
        // does not overlap `bytes`, which is borrowed from elsewhere.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), address.as_ptr(), bytes.len()) };
        Ok(Position(position))
    }

    /// Moves a node in.
    pub(super) fn append_node<T: Node>(&mut self, node: T) -> Result<Id<T>> {
        self.append_with_tail::<T, Link<T>>(node, 0, Link::empty)
    }

    /// Moves a header in, with `len` items right behind it.
    pub(super) fn append_with_tail<T: Node, I: Node>(
        &mut self,
        header: T,
        len: usize,
        mut item: impl FnMut() -> I,
    ) -> Result<Id<T>> {
        const {
            assert!(
                size_of::<T>().is_multiple_of(align_of::<I>()),
                "the tail begins where the header ends"
            );
            assert!(align_of::<I>() <= UNIT_BYTES, "a node is aligned for its tail");
        };
        let size = size_of::<T>() + len * size_of::<I>();
        // Whole lines where it fills them, so that a node straddles as few as it can.
        let align = size.next_power_of_two().clamp(UNIT_BYTES, CHUNK_ALIGN).max(align_of::<T>());
        let layout = Layout::from_size_align(size, align).expect("a small node");
        let (address, position) = self.append(layout)?;
        // SAFETY: fresh memory of this size, aligned for `T`; the tail is aligned for `I` by the
        // assertion above (and `I` is at most as aligned as the node). No other thread knows of it
        // until the id is published.
        unsafe {
            address.cast::<T>().write(header);
            let tail = address.add(size_of::<T>()).cast::<I>();
            for at in 0..len {
                tail.add(at).write(item());
            }
        }
        debug_assert!(position.is_multiple_of(UNIT_BYTES as u64), "a node begins a unit");
        let raw = u32::try_from(position >> UNIT_BITS).ok();
        // SAFETY: the node was appended above, as a `T`.
        let id = raw.and_then(|raw| unsafe { Id::from_raw(raw) });
        // Never zero: no offset is.
        id.ok_or(Error::Full { what: "an in-memory layer's nodes", max: u64::from(u32::MAX) })
    }
}
