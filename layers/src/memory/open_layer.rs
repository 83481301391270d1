//! [`OpenLayer`]: appending to a layer, committing, taking back, freezing.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    ChunkPool, FrozenLayer, MemLayer, PUBLISH,
    index::{HeadPlace, Index, IndexWriter, Object, ValueRef},
    mem_layer::{CommittedLsn, Counts},
    space::{Appender, Id, Position, Space},
};
use crate::{Error, Key, Lsn, Result, VALUE_LEN_MAX, Value, reserve};

/// The right to append to a layer. Each layer has one.
///
/// `Send`, not `Sync`: one thread at a time. Every method that fails leaves the layer as it was.
///
/// A put finds the place of its key in the index, prefetches it, and defers the entry, which is
/// made together with others, at the commit at the latest. So no put waits for the cache miss that
/// a random key costs, and what was not committed need not be in the index. (Random 100-byte
/// records took 75 % of their time in that one miss.)
pub struct OpenLayer {
    pub(super) layer: Arc<MemLayer>,
    pub(super) index: IndexWriter,
    pub(super) values: Appender,
    /// The Lsn of the last append; at least the committed one.
    pub(super) last: Lsn,
    /// What was appended since the last commit, oldest first.
    pub(super) pending: Vec<PendingAppend>,
    /// How many of the pending ones, from the oldest on, have their entry in the index; at most
    /// [`DEFERRED_MAX`] have not.
    pub(super) indexed: usize,
    /// The lengths of the pending values, in bytes.
    pub(super) pending_value_bytes: u64,
}

/// How many entries wait until they are made together: about as many as a core can have cache
/// misses under way.
pub(super) const DEFERRED_MAX: usize = 16;
/// What memory is for.
const PENDING: &str = "appends that are not committed";

#[derive(Clone, Copy)]
pub(super) struct PendingAppend {
    pub(super) object: Id<Object>,
    pub(super) block: u32,
    pub(super) lsn: Lsn,
    pub(super) what: PendingKind,
}

#[derive(Clone, Copy)]
pub(super) enum PendingKind {
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
        self.pending.capacity() * size_of::<PendingAppend>()
    }

    /// Appends one value.
    ///
    /// # Errors
    /// [`Error::LsnOutOfOrder`], [`Error::DuplicateVersion`], [`Error::ValueTooLong`],
    /// [`Error::Full`], [`Error::OutOfMemory`]; nothing is changed.
    #[inline]
    pub fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<()> {
        self.append(key, lsn, value, None).map(drop)
    }

    /// As [`OpenLayer::put`]; a value with the very bytes of the version that was put before shares
    /// its copy.
    ///
    /// # Errors
    /// As [`OpenLayer::put`]; nothing is changed.
    pub fn put_shared(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<()> {
        let version = |pending: &PendingAppend| match pending.what {
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

    /// Appends several values, all or none. Neighbours that borrow the very same bytes (one log
    /// record that touches several pages) share one copy.
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
        // Lsns do not go back, so only another value of the last Lsn can be a duplicate: most puts
        // need not look.
        if lsn == self.last && self.is_pending_at(lsn, head) {
            return Err(Error::DuplicateVersion { key, lsn });
        }
        let position = match shared {
            Some(position) => position,
            None => self.values.append_bytes(bytes)?,
        };
        debug_assert!(lsn >= self.last && lsn > self.layer.committed_lsn(), "Lsns do not go back");
        let value = ValueRef { position, len: bytes.len(), kind: value.kind() };
        let what = PendingKind::Version(head, value.pack());
        self.pending.push(PendingAppend { object, block: key.block, lsn, what });
        self.pending_value_bytes += bytes.len() as u64;
        self.last = lsn;
        Ok(position)
    }

    /// Whether a version of this key was put at `lsn`, the last one.
    fn is_pending_at(&self, lsn: Lsn, place: HeadPlace) -> bool {
        let (indexed, deferred) = self.pending.split_at(self.indexed);
        let here = |pending: &PendingAppend| matches!(pending.what, PendingKind::Version(at, _) if at == place);
        deferred.iter().rev().take_while(|pending| pending.lsn == lsn).any(here)
            || indexed.last().is_some_and(|pending| pending.lsn == lsn)
                && self.index.newest_lsn(&self.layer.nodes, place) == Some(lsn)
    }

    /// One more may wait for its entry afterwards.
    #[inline]
    fn make_room_to_wait(&mut self) -> Result<()> {
        debug_assert!(self.indexed <= self.pending.len(), "appends are indexed in order");
        debug_assert!(self.pending.len() - self.indexed <= DEFERRED_MAX);
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
        debug_assert_eq!(self.indexed, self.pending.len(), "all appends are indexed");
        Ok(())
    }

    /// Drops the blocks of an object from `first_block` on: reads at or above `lsn` find nothing of
    /// what was put below `lsn`. A value of such a block that is put at `lsn` afterwards, or later,
    /// is found.
    ///
    /// # Errors
    /// As [`OpenLayer::put`]; [`Error::DropAfterPut`] when one of these blocks was put at this very
    /// Lsn already. Nothing is changed.
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
        self.pending.push(PendingAppend { object: id, block: first_block, lsn, what });
        self.last = lsn;
        Ok(())
    }

    /// A pending version at `lsn` of a block of `object` at or above `first_block`.
    fn pending_put_at(&self, lsn: Lsn, object: Id<Object>, first_block: u32) -> Option<u32> {
        let at_lsn = self.pending.iter().rev().take_while(|pending| pending.lsn == lsn);
        let is_version = |pending: &PendingAppend| matches!(pending.what, PendingKind::Version(..));
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

    /// Does all of a commit that can fail: a [`OpenLayer::commit`] of this Lsn that follows does
    /// not. Nothing is published.
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
    /// [`Error::LsnOutOfOrder`] when `lsn` is below an appended one; [`Error::Full`],
    /// [`Error::OutOfMemory`]. Nothing is published, and what was appended still waits for its
    /// commit.
    pub fn commit(&mut self, lsn: Lsn) -> Result<()> {
        self.prepare_commit(lsn)?;
        assert_eq!(self.indexed, self.pending.len(), "all appends are indexed");
        assert!(self.pending.last().is_none_or(|newest| newest.lsn <= lsn), "up to {lsn}");
        verify!(self.pending.is_sorted_by_key(|pending| pending.lsn), "Lsns do not go back");
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
        // Release: a reader that sees the Lsn sees every node, entry and value below it.
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
        assert!(keep <= self.pending.len(), "{keep} of {} appends", self.pending.len());
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
        debug_assert!(self.indexed <= keep, "what was taken back is not indexed");
        debug_assert!(keep > 0 || self.pending_value_bytes == 0, "nothing is pending");
    }

    /// Ends writing: the same memory, immutable from now on. Takes the same few instructions
    /// whatever the size. What was not committed is taken back first.
    #[must_use]
    pub fn freeze(mut self) -> FrozenLayer {
        self.abort();
        assert!(!self.has_pending(), "a frozen layer never grows");
        assert_eq!(self.last, self.layer.committed_lsn(), "a frozen layer ends with its commit");
        verify!(self.layer.is_in_order(), "a frozen layer holds what was committed, in order");
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
