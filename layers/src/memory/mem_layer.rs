//! [`MemLayer`], the layer as readers share it, and [`FrozenLayer`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    SortedVersions,
    index::{Head, Index, NewestVersion, ValueRef},
    space::Space,
};
use crate::{
    Key, Lsn, PageVersion, Result, VALUE_LEN_MAX, WalkEnd, layer_file::Tombstone, reserve,
};

/// How much of a version's value is asked for when it is found.
const VERSION_PREFETCH_BYTES: usize = 64;

/// An in-memory layer, as readers share it.
pub struct MemLayer {
    /// The committed Lsn, on a line of its own: the writer stores it once a commit, readers load
    /// it.
    pub(super) committed: CommittedLsn,
    /// No value is below it.
    pub(super) start: Lsn,
    pub(super) index: Index,
    pub(super) nodes: Arc<Space>,
    pub(super) values: Arc<Space>,
    pub(super) counts: Counts,
}

#[repr(align(128))]
pub(super) struct CommittedLsn(pub(super) AtomicU64);

/// What was committed so far. Stored by the writer alone, at commit.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) versions: AtomicU64,
    pub(super) value_bytes: AtomicU64,
    pub(super) tombstones: AtomicU64,
}

impl MemLayer {
    /// The Lsn that its range begins at.
    #[must_use]
    #[inline]
    pub fn start_lsn(&self) -> Lsn {
        self.start
    }

    /// The committed Lsn: everything up to it is visible, and nothing beyond.
    #[must_use]
    #[inline]
    pub fn committed_lsn(&self) -> Lsn {
        Lsn(self.committed.0.load(Ordering::Acquire))
    }

    /// The number of committed versions.
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

    /// Memory taken from the allocator, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.nodes.allocated_bytes()
            + self.values.allocated_bytes()
            + size_of::<Self>()
            + 2 * size_of::<Space>()
    }

    /// Walks back from the newest version of `key` at or below `upper` to the first image or
    /// `will_init`, newest first, and says how the walk ended. Allocates and copies nothing.
    pub fn versions<'a>(
        &'a self,
        key: Key,
        upper: Lsn,
        out: &mut impl FnMut(PageVersion<'a>),
    ) -> WalkEnd {
        let upper = upper.min(self.committed_lsn());
        let Some(object) = self.index.object(&self.nodes, key.object) else {
            return WalkEnd::Older;
        };
        let dropped = object.dropped_at(&self.nodes, key.block, upper);
        // Whether the walk ends with this version, and how.
        let mut visit = |lsn, value: ValueRef| {
            if dropped.is_some_and(|dropped| lsn < dropped) {
                return Some(WalkEnd::Dropped);
            }
            debug_assert!(lsn <= upper, "a version at {lsn} is above {upper}");
            #[allow(unsafe_code)]
            // SAFETY: called below alone, for what the head and the runs of the key say at or below
            // the committed Lsn.
            out(unsafe { self.page_version(lsn, value) });
            value.kind.is_base().then_some(WalkEnd::Base)
        };
        // A caller that collects a chain reads its values next: prefetch them while the walk waits
        // for its own cache misses.
        let ask_for = |value: ValueRef| {
            self.values.prefetch_bytes(value.position, value.len.min(VERSION_PREFETCH_BYTES));
        };
        let head = self.index.head(&self.nodes, object, key.block);
        let (mut next, upper) = match head.map_or(NewestVersion::None, |head| head.newest(upper)) {
            NewestVersion::None => (None, upper),
            NewestVersion::Older => (head.and_then(Head::older), upper),
            NewestVersion::Here(lsn, packed) => {
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
        if dropped.is_some() { WalkEnd::Dropped } else { WalkEnd::Older }
    }

    /// # Safety
    /// `value` is that of a visible version of this layer, as a head or an entry of it says.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) unsafe fn page_version(&self, lsn: Lsn, value: ValueRef) -> PageVersion<'_> {
        debug_assert!(lsn.is_valid() && lsn <= self.committed_lsn(), "{lsn} is committed");
        debug_assert!(value.len <= VALUE_LEN_MAX, "a value of {} bytes", value.len);
        // SAFETY: heads and entries hold a value as `append_bytes` has placed it, and were
        // published after it.
        let bytes = unsafe { self.values.bytes(value.position, value.len) };
        PageVersion { lsn, kind: value.kind, bytes }
    }

    /// All committed versions from `from` on, by key and then Lsn, at any time: also while the
    /// writer appends. What is committed later than this call is not in it.
    #[must_use]
    pub fn sorted_from(&self, from: Key) -> SortedVersions<'_> {
        SortedVersions::new(self, from, self.committed_lsn())
    }

    /// Whether its versions are in order of key and Lsn, within its Lsns, and as many as it counts.
    pub(super) fn is_in_order(&self) -> bool {
        let (mut previous, mut count) = (None, 0);
        for (key, version) in self.sorted_from(Key::MIN) {
            let here = Some((key, version.lsn));
            if previous >= here || version.lsn < self.start || version.lsn > self.committed_lsn() {
                return false;
            }
            (previous, count) = (here, count + 1);
        }
        count == self.versions_count()
    }

    /// The committed tombstones, sorted by object and then Lsn, each once.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]
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
                debug_assert!((self.start..=committed).contains(&lsn), "a tombstone at {lsn}");
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

/// An immutable layer, shared by readers and the flush.
#[derive(Clone, Debug)]
pub struct FrozenLayer(pub(super) Arc<MemLayer>);

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
