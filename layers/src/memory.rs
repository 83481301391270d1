//! The in-memory layer: open while it is appended to, then frozen in place.
//!
//! ```text
//! put -> values arena (the one copy) -> pending -> index -> commit(lsn): published
//!                                                                     |
//! freeze: the same memory, no writer any more ----------------------- v -> sorted iterator -> delta layer
//! ```
//!
//! One writer ([`OpenLayer`]) and any number of readers ([`MemLayer`], shared) at the same time. Readers take no lock and write
//! nothing: a version is found through links that the writer stored with Release, and everything above the committed Lsn
//! is ignored. Reading and iterating are bounded by [`MemLayer::committed_lsn`], whatever the caller asks for.
//!
//! **Invariant:** there is no "is it still writable?" check: an [`OpenLayer`] is the right to write, and freezing takes it
//! by value.

mod arena;
mod index;
mod newest;
mod records;
mod sorted;
mod space;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    Error, Key, Lsn, PageVersion, Result, VALUE_LEN_MAX, Value, Walk, layer_file::Tombstone,
    reserve,
};
pub use arena::{BlockCounts, ChunkPool, KeptBlocks, ScratchArena};
use index::{Head, HeadPlace, Index, IndexWriter, Newest, Object, ValueRef};
pub use newest::NewestInLayer;
pub use sorted::SortedVersions;
use space::{Appender, Id, Position, Space};

/// How much of a version's value is asked for when it is found.
const VERSION_PREFETCH_BYTES: usize = 64;

/// A layer in memory, as readers share it.
pub struct MemLayer {
    /// The committed Lsn, on a line of its own: the writer stores it once a commit, readers load it.
    committed: CommittedLsn,
    /// No value is below it.
    start: Lsn,
    index: Index,
    nodes: Arc<Space>,
    values: Arc<Space>,
    counts: Counts,
}

#[repr(align(128))]
struct CommittedLsn(AtomicU64);

/// How everything that readers follow is stored: they load it with Acquire and see all that was written before. Planted for the
/// thread sanitizer: an order that is too weak.
const PUBLISH: Ordering =
    if cfg!(planted_bug = "relaxed_publish") { Ordering::Relaxed } else { Ordering::Release };

/// What was committed so far. Stored by the writer alone, at commit.
#[derive(Default)]
struct Counts {
    versions: AtomicU64,
    value_bytes: AtomicU64,
    tombstones: AtomicU64,
}

impl MemLayer {
    /// The Lsn that its range begins at.
    #[must_use]
    #[inline]
    pub fn start_lsn(&self) -> Lsn {
        self.start
    }

    /// Up to here everything is visible, and nothing beyond.
    #[must_use]
    #[inline]
    pub fn committed_lsn(&self) -> Lsn {
        Lsn(self.committed.0.load(Ordering::Acquire))
    }

    /// How many versions are committed.
    #[must_use]
    pub fn versions_count(&self) -> u64 {
        self.counts.versions.load(Ordering::Relaxed)
    }

    /// The lengths of all committed values, in bytes.
    #[must_use]
    pub fn value_bytes(&self) -> u64 {
        self.counts.value_bytes.load(Ordering::Relaxed)
    }

    /// Planted for the stress test: its memory is used again, or freed, while it is held.
    #[cfg(planted_bug = "early_reclaim")]
    pub fn reclaim_early(&self) {
        self.nodes.reclaim_early();
        self.values.reclaim_early();
    }

    /// Whether it has neither versions nor tombstones.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions_count() == 0 && self.counts.tombstones.load(Ordering::Relaxed) == 0
    }

    /// What it has taken from the allocator, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.nodes.allocated_bytes()
            + self.values.allocated_bytes()
            + size_of::<Self>()
            + 2 * size_of::<Space>()
    }

    /// Walks back from the newest version of `key` at or below `upper` to the first image or `will_init`, newest
    /// first, and says how the walk ended. Allocates and copies nothing.
    pub fn versions<'a>(
        &'a self,
        key: Key,
        upper: Lsn,
        out: &mut impl FnMut(PageVersion<'a>),
    ) -> Walk {
        let upper = upper.min(self.committed_lsn());
        let Some(object) = self.index.object(&self.nodes, key.object) else { return Walk::Older };
        let dropped = object.dropped_at(&self.nodes, key.block, upper);
        // Whether the walk ends with this version, and how.
        let mut visit = |lsn, value: ValueRef| {
            if dropped.is_some_and(|dropped| lsn < dropped) {
                return Some(Walk::Dropped);
            }
            #[allow(unsafe_code)]
            // SAFETY: called below alone, for what the head and the runs of the key say at or below
            // the committed Lsn.
            out(unsafe { self.page_version(lsn, value) });
            value.kind.is_base().then_some(Walk::Base)
        };
        // Whoever collects a chain reads its values next: their lines come while the walk waits for its own.
        let ask_for = |value: ValueRef| {
            self.values.prefetch_bytes(value.position, value.len.min(VERSION_PREFETCH_BYTES));
        };
        let head = self.index.head(&self.nodes, object, key.block);
        let (mut next, upper) = match head.map_or(Newest::None, |head| head.newest(upper)) {
            Newest::None => (None, upper),
            Newest::Older => (head.and_then(Head::older), upper),
            Newest::Here(lsn, packed) => {
                let value = ValueRef::unpack(packed);
                if let Some(end) = visit(lsn, value) {
                    return end;
                }
                ask_for(value);
                (head.and_then(Head::older), lsn.previous())
            }
        };
        while let Some(run) = next {
            let entries = run.entries(&self.nodes);
            let visible = match entries.last() {
                Some(last) if last.lsn() <= upper => entries,
                _ => &entries[..entries.partition_point(|entry| entry.lsn() <= upper)],
            };
            for entry in visible.iter().rev() {
                let value = entry.value();
                ask_for(value);
                if let Some(end) = visit(entry.lsn(), value) {
                    return end;
                }
            }
            next = run.older(&self.nodes);
        }
        if dropped.is_some() { Walk::Dropped } else { Walk::Older }
    }

    /// # Safety
    /// `value` is that of a visible version of this layer, as a head or an entry of it says.
    #[inline]
    #[allow(unsafe_code)]
    unsafe fn page_version(&self, lsn: Lsn, value: ValueRef) -> PageVersion<'_> {
        // SAFETY: heads and entries hold a value as `append_bytes` has placed it, and were
        // published after it.
        let bytes = unsafe { self.values.bytes(value.position, value.len) };
        PageVersion { lsn, kind: value.kind, bytes }
    }

    /// All committed versions from `from` on, by key and then Lsn, at any time: also while the writer appends.
    /// What is committed later than this call is not in it.
    #[must_use]
    pub fn sorted_from(&self, from: Key) -> SortedVersions<'_> {
        SortedVersions::new(self, from, self.committed_lsn())
    }

    /// The committed tombstones, sorted by object and then Lsn, each once.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]
    pub fn tombstones(&self) -> Result<Vec<Tombstone>> {
        let committed = self.committed_lsn();
        let mut found = Vec::new();
        if self.counts.tombstones.load(Ordering::Relaxed) == 0 {
            return Ok(found);
        }
        let mut next = self.index.first_object_from(&self.nodes, 0);
        while let Some(object) = next {
            let of_object = object.drops(&self.nodes, committed);
            for (first_block, lsn) in of_object {
                reserve(&mut found, 1, "tombstones")?;
                found.push(Tombstone { object: object.object(), first_block, lsn });
            }
            next = object.next_in_order(&self.nodes);
        }
        found.sort_unstable_by_key(|tombstone| {
            (tombstone.object, tombstone.lsn, tombstone.first_block)
        });
        // Dropping the same blocks again at the same Lsn says nothing new.
        found.dedup();
        Ok(found)
    }
}

impl fmt::Debug for MemLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemLayer")
            .field("start", &self.start)
            .field("committed", &self.committed_lsn())
            .field("versions", &self.versions_count())
            .field("memory_bytes", &self.memory_bytes())
            .finish_non_exhaustive()
    }
}

/// A layer that nobody writes any more. Immutable: readers and the flush share it.
#[derive(Clone, Debug)]
pub struct FrozenLayer(Arc<MemLayer>);

impl FrozenLayer {
    /// The layer, to be shared.
    #[must_use]
    pub fn layer(&self) -> &Arc<MemLayer> {
        &self.0
    }

    /// The Lsn behind its last one.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        self.0.committed_lsn().next()
    }
}

/// The right to append to a layer: one for each.
///
/// `Send`, not `Sync`: one thread at a time. Every method that fails leaves the layer as it was.
///
/// A put finds the place of its key in the index, asks the processor for it, and leaves the entry to be made together with others, at
/// the commit at the latest: the cache miss that a random key costs is waited for by none of them, and what was not
/// committed need not be in the index. (Random 100-byte records took 75 % of their time in that one miss.)
pub struct OpenLayer {
    layer: Arc<MemLayer>,
    index: IndexWriter,
    values: Appender,
    /// The Lsn of the last append; at least the committed one.
    last: Lsn,
    /// What was appended since the last commit, oldest first.
    pending: Vec<Pending>,
    /// How many of the pending ones, from the oldest on, have their entry in the index; at most [`DEFERRED_MAX`] have not.
    indexed: usize,
    /// The lengths of the pending values, in bytes.
    pending_value_bytes: u64,
}

/// How many entries wait until they are made together: about as many as a core can have cache misses under way.
const DEFERRED_MAX: usize = 16;
/// What memory is for.
const PENDING: &str = "what waits for its commit";

#[derive(Clone, Copy)]
struct Pending {
    object: Id<Object>,
    block: u32,
    lsn: Lsn,
    what: PendingKind,
}

#[derive(Clone, Copy)]
enum PendingKind {
    /// A version: where its head is, and its packed value.
    Version(HeadPlace, u64),
    Tombstone,
}

impl OpenLayer {
    /// An empty layer for values at `start` and above.
    #[must_use]
    pub fn new(start: Lsn, pool: &Arc<ChunkPool>) -> OpenLayer {
        let (nodes, values) =
            (Arc::new(Space::new(pool.clone())), Arc::new(Space::new(pool.clone())));
        let last = start.previous();
        let layer = Arc::new(MemLayer {
            committed: CommittedLsn(AtomicU64::new(last.0)),
            start,
            index: Index::new(),
            nodes: nodes.clone(),
            values: values.clone(),
            counts: Counts::default(),
        });
        let index = IndexWriter::new(Appender::new(nodes));
        OpenLayer {
            layer,
            index,
            values: Appender::new(values),
            last,
            pending: Vec::new(),
            indexed: 0,
            pending_value_bytes: 0,
        }
    }

    /// The layer as readers see it.
    #[must_use]
    pub fn layer(&self) -> &Arc<MemLayer> {
        &self.layer
    }

    /// The Lsn of the last append, committed or not.
    #[must_use]
    #[inline]
    pub fn last_lsn(&self) -> Lsn {
        self.last
    }

    /// Whether anything waits for a commit.
    #[must_use]
    #[inline]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What values and index take of the layer's memory, in bytes.
    #[must_use]
    #[inline]
    pub fn used_bytes(&self) -> u64 {
        self.values.used_bytes() + self.index.used_bytes()
    }

    /// Memory of its own beside the shared layer's, in bytes.
    #[must_use]
    pub fn writer_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<Pending>()
    }

    /// Appends one value.
    ///
    /// # Errors
    /// [`Error::LsnOutOfOrder`], [`Error::DuplicateVersion`], [`Error::ValueTooLong`], [`Error::Full`],
    /// [`Error::OutOfMemory`]; nothing is changed.
    #[inline]
    pub fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<()> {
        self.append(key, lsn, value, None).map(drop)
    }

    /// As [`OpenLayer::put`]; a value with the very bytes of the version that was put before shares its copy.
    ///
    /// # Errors
    /// As [`OpenLayer::put`]; nothing is changed.
    pub fn put_shared(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<()> {
        let version = |pending: &Pending| match pending.what {
            PendingKind::Version(_, value) => Some(ValueRef::unpack(value)),
            PendingKind::Tombstone => None,
        };
        let before = self.pending.iter().rev().find_map(version);
        #[allow(unsafe_code)]
        // SAFETY: the value of a pending version of this layer, as `append` has placed it.
        let bytes =
            |before: &ValueRef| unsafe { self.layer.values.bytes(before.position, before.len) };
        let is_same = |before: &ValueRef| bytes(before) == value.bytes();
        let shared = before.filter(is_same).map(|before| before.position);
        self.append(key, lsn, value, shared).map(drop)
    }

    /// Appends several values, all or none. Neighbours that borrow the very same bytes (one log record that touches
    /// several pages) share one copy.
    ///
    /// # Errors
    /// As [`OpenLayer::put`]; nothing is changed.
    pub fn put_batch(&mut self, batch: &[(Key, Lsn, Value<'_>)]) -> Result<()> {
        let (pending, last) = (self.pending.len(), self.last);
        let mut previous: Option<(&[u8], Position)> = None;
        for &(key, lsn, value) in batch {
            let bytes = value.bytes();
            let shared = previous
                .filter(|(other, _)| std::ptr::eq(*other, bytes))
                .map(|(_, position)| position);
            match self.append(key, lsn, value, shared) {
                Ok(position) => previous = Some((bytes, position)),
                Err(error) => {
                    self.take_back(pending);
                    self.last = last;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn append(
        &mut self,
        key: Key,
        lsn: Lsn,
        value: Value<'_>,
        shared: Option<Position>,
    ) -> Result<Position> {
        self.check_lsn(lsn)?;
        let bytes = value.bytes();
        if bytes.len() > VALUE_LEN_MAX {
            return Err(Error::ValueTooLong { len: bytes.len() });
        }
        self.make_room_to_wait()?;
        reserve(&mut self.pending, 1, PENDING)?;
        let space = &*self.layer.nodes;
        let object = self.index.object(space, &self.layer.index, key.object)?;
        let head = self.index.head(space, object, key.block)?;
        head.prefetch(space);
        // Lsns do not go back, so only another value of the last Lsn can be a duplicate: most puts need not look.
        if lsn == self.last && self.is_pending_at(lsn, head) {
            return Err(Error::DuplicateVersion { key, lsn });
        }
        let position = match shared {
            Some(position) => position,
            None => self.values.append_bytes(bytes)?,
        };
        let value = ValueRef { position, len: bytes.len(), kind: value.kind() };
        let what = PendingKind::Version(head, value.pack());
        self.pending.push(Pending { object, block: key.block, lsn, what });
        self.pending_value_bytes += bytes.len() as u64;
        self.last = lsn;
        Ok(position)
    }

    /// Whether a version of this key was put at `lsn`, the last one.
    fn is_pending_at(&self, lsn: Lsn, place: HeadPlace) -> bool {
        let (indexed, deferred) = self.pending.split_at(self.indexed);
        let here =
            |pending: &Pending| matches!(pending.what, PendingKind::Version(at, _) if at == place);
        deferred.iter().rev().take_while(|pending| pending.lsn == lsn).any(here)
            || indexed.last().is_some_and(|pending| pending.lsn == lsn)
                && self.index.newest_lsn(&self.layer.nodes, place) == Some(lsn)
    }

    /// One more may wait for its entry afterwards.
    #[inline]
    fn make_room_to_wait(&mut self) -> Result<()> {
        if self.pending.len() - self.indexed == DEFERRED_MAX {
            self.index_pending()?;
        }
        Ok(())
    }

    /// Makes the entries of what is pending. If it fails, those that are not made stay to be made.
    fn index_pending(&mut self) -> Result<()> {
        let space = &*self.layer.nodes;
        for pending in &self.pending[self.indexed..] {
            if let PendingKind::Version(place, _) = pending.what {
                place.prefetch_older(space);
            }
        }
        while let Some(pending) = self.pending.get(self.indexed) {
            if let PendingKind::Version(place, value) = pending.what {
                self.index.push(space, place, pending.lsn, value)?;
            }
            self.indexed += 1;
        }
        Ok(())
    }

    /// Drops the blocks of an object from `first_block` on: reads at or above `lsn` find nothing of what was put
    /// below `lsn`. A value of such a block that is put at `lsn` afterwards, or later, is found.
    ///
    /// # Errors
    /// As [`OpenLayer::put`]; [`Error::DropAfterPut`] when one of these blocks was put at this very Lsn already.
    /// Nothing is changed.
    pub fn drop_blocks(&mut self, object: u128, first_block: u32, lsn: Lsn) -> Result<()> {
        self.check_lsn(lsn)?;
        self.make_room_to_wait()?;
        reserve(&mut self.pending, 1, PENDING)?;
        let space = &*self.layer.nodes;
        let id = self.index.object(space, &self.layer.index, object)?;
        if let Some(block) = self.pending_put_at(lsn, id, first_block) {
            return Err(Error::DropAfterPut { key: Key { object, block }, lsn });
        }
        self.index.push_drop(space, id, first_block, lsn)?;
        let what = PendingKind::Tombstone;
        self.pending.push(Pending { object: id, block: first_block, lsn, what });
        self.last = lsn;
        Ok(())
    }

    /// A pending version at `lsn` of a block of `object` at or above `first_block`.
    fn pending_put_at(&self, lsn: Lsn, object: Id<Object>, first_block: u32) -> Option<u32> {
        let at_lsn = self.pending.iter().rev().take_while(|pending| pending.lsn == lsn);
        let is_version = |pending: &Pending| matches!(pending.what, PendingKind::Version(..));
        at_lsn
            .filter(|pending| pending.object == object && is_version(pending))
            .map(|pending| pending.block)
            .find(|&block| block >= first_block)
    }

    #[inline]
    fn check_lsn(&self, lsn: Lsn) -> Result<()> {
        let committed = Lsn(self.layer.committed.0.load(Ordering::Relaxed));
        if lsn < self.last || lsn <= committed || lsn == Lsn::MAX {
            return Err(Error::LsnOutOfOrder { last: self.last, committed, found: lsn });
        }
        Ok(())
    }

    /// Does all of a commit that can fail: a [`OpenLayer::commit`] of this Lsn that follows does not. Nothing is published.
    ///
    /// # Errors
    /// As [`OpenLayer::commit`].
    pub fn prepare_commit(&mut self, lsn: Lsn) -> Result<()> {
        let committed = Lsn(self.layer.committed.0.load(Ordering::Relaxed));
        if lsn < self.last || lsn < committed || lsn == Lsn::MAX {
            return Err(Error::LsnOutOfOrder { last: self.last, committed, found: lsn });
        }
        self.index_pending()
    }

    /// Publishes everything up to `lsn` at once; nothing can be put at or below it afterwards.
    ///
    /// # Errors
    /// [`Error::LsnOutOfOrder`] when `lsn` is below an appended one; [`Error::Full`], [`Error::OutOfMemory`]. Nothing is
    /// published, and what was appended still waits for its commit.
    pub fn commit(&mut self, lsn: Lsn) -> Result<()> {
        self.prepare_commit(lsn)?;
        let counts = &self.layer.counts;
        if !self.pending.is_empty() {
            let tombstones = self
                .pending
                .iter()
                .filter(|pending| matches!(pending.what, PendingKind::Tombstone))
                .count() as u64;
            let versions = self.pending.len() as u64 - tombstones;
            let add = |count: &AtomicU64, more| {
                count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed)
            };
            add(&counts.versions, versions);
            add(&counts.value_bytes, self.pending_value_bytes);
            add(&counts.tombstones, tombstones);
            self.pending.clear();
            self.indexed = 0;
            self.pending_value_bytes = 0;
        }
        self.last = lsn;
        // Release: whoever sees the Lsn sees every node, entry and value below it.
        self.layer.committed.0.store(lsn.0, PUBLISH);
        Ok(())
    }

    /// Takes back everything since the last commit. Its memory comes back with the layer's.
    pub fn abort(&mut self) {
        self.take_back(0);
        self.last = Lsn(self.layer.committed.0.load(Ordering::Relaxed));
    }

    /// Takes back the newest appends until `keep` are left.
    fn take_back(&mut self, keep: usize) {
        let space = &*self.layer.nodes;
        let indexed = self.indexed.max(keep) - keep;
        self.indexed -= indexed;
        for (n, pending) in self.pending.drain(keep..).enumerate().rev() {
            match pending.what {
                PendingKind::Version(place, value) => {
                    if n < indexed {
                        self.index.pop(space, place);
                    }
                    self.pending_value_bytes -= ValueRef::unpack(value).len as u64;
                }
                PendingKind::Tombstone => self.index.pop_drop(space, pending.object),
            }
        }
    }

    /// Ends writing: the same memory, immutable from now on. Takes the same few instructions whatever the size.
    /// What was not committed is taken back first.
    #[must_use]
    pub fn freeze(mut self) -> FrozenLayer {
        self.abort();
        FrozenLayer(self.layer)
    }
}

impl fmt::Debug for OpenLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenLayer")
            .field("layer", &self.layer)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}
