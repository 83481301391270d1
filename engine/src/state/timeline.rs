//! [`TimelineShared`]: the state that the writer, readers and flush of a timeline share.
//!
//! Locks, in the order in which they must be taken: the open layer's place (`writer`), the flush
//! state, the edits (`edits`, one publisher at a time), the store's manifest. Readers take none of
//! them while the store is open. After it is closed, a reader that releases a map version takes
//! `edits`, because it frees what it held.

use std::{
    collections::BTreeMap,
    ops::Deref,
    panic::Location,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use pagestrata_layers::{Lsn, MemLayer, OpenLayer};
use parking_lot::{Condvar, Mutex};

use crate::{
    layer_map::{
        LayerMap, MemSlot,
        file_layers::{FileLayer, Files},
        index::{LayerIndex, LayerSlot},
        published::{Held, Published, never_current},
    },
    options::{Clock, FlushRedo},
    reports::PinKind,
    state::{
        compaction_state::CompactionState,
        flush_state::FlushState,
        pacer::Pacer,
        pins::{PinHandle, PinRegistry, RetiredBytes},
        retired_files::{remove_marked, take_unheld},
        slots::{SlotKey, Slots},
        store::StoreShared,
        waiters::Waiters,
    },
};

/// State of a timeline, shared by everything that works on it.
pub(crate) struct TimelineShared {
    pub(crate) number: u64,
    pub(crate) name: String,
    /// No value is below this.
    pub(crate) start: Lsn,
    pub(crate) dir: PathBuf,
    pub(crate) store: Arc<StoreShared>,
    pub(crate) published: Published<LayerMap>,
    /// Placeholder map of an unpinned reader.
    pub(crate) unpinned: Held<LayerMap>,
    pub(crate) pins: PinRegistry,
    /// The open layer, unless the holder of the write lease has taken it out. Locked briefly, also
    /// by a flush that rolls.
    pub(crate) writer: Mutex<Option<Box<OpenLayer>>>,
    /// Locked by the publisher.
    pub(crate) edits: Mutex<Edits>,
    pub(crate) flush: Mutex<FlushState>,
    /// The redo that materializes pages of long chains in flushes.
    pub(crate) flush_redo: Mutex<Option<FlushRedo>>,
    /// Locked while a layer is flushed: one at a time.
    pub(crate) flushing: Mutex<()>,
    /// Held by the thread that merges layer files: one at a time.
    pub(crate) compacting: Mutex<()>,
    pub(crate) compaction: Mutex<CompactionState>,
    /// Signalled when a flush has ended, successfully or not.
    pub(crate) flush_ended: Condvar,
    /// Tasks that wait for a flush to end.
    pub(crate) flush_waiters: Waiters,
    pub(crate) last_record_lsn: AtomicU64,
    pub(crate) waiters: Waiters,
    /// Delays commits while flushing is behind.
    pub(crate) pacer: Pacer,
    /// A commit is in progress: it has found the store open, and is not visible yet.
    pub(crate) committing: AtomicBool,
    pub(crate) disk_consistent_lsn: AtomicU64,
}

/// The current map, for use outside of a pin. After use, what was retired meanwhile is reclaimed.
pub(crate) struct Look<'t> {
    /// Taken out only by drop, so that the count is gone before the reclaimer is woken.
    map: Option<Held<LayerMap>>,
    timeline: &'t TimelineShared,
}

impl Deref for Look<'_> {
    type Target = LayerMap;

    fn deref(&self) -> &LayerMap {
        self.map.as_ref().expect("held until drop").value()
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let number = self.map.take().map(|map| map.number());
        if number.is_none_or(|number| self.timeline.published.is_replaced(number)) {
            self.timeline.wake_reclaimer();
        }
    }
}

/// State of publishers.
#[derive(Default)]
pub(crate) struct Edits {
    /// Which slots of the map hold a layer file.
    slots: Slots<()>,
    /// In-memory layers that are out of the map but still held.
    pub(crate) retired: Vec<RetiredLayer>,
    /// Layer files that are out of the map, until nothing holds them.
    pub(crate) retired_files: Vec<Arc<FileLayer>>,
    /// By sequence number, the slots of the files that the map has.
    by_sequence: BTreeMap<u64, SlotKey>,
}

pub(crate) struct RetiredLayer {
    pub(crate) slot: MemSlot,
    /// The last map version that contained it.
    pub(crate) last_number: u64,
}

impl Edits {
    pub(crate) fn take_slot(&mut self, file: &FileLayer) -> LayerSlot {
        let slot = self.slots.insert(());
        let before = self.by_sequence.insert(file.sequence(), slot);
        assert!(before.is_none(), "a sequence number is used once");
        LayerSlot(slot.index())
    }

    /// Frees the slot of a file that the map has, for the edits after this one.
    pub(crate) fn free_slot(&mut self, sequence: u64) -> LayerSlot {
        let slot = self.by_sequence.remove(&sequence).expect("the map has it");
        let freed = self.slots.remove(slot);
        assert!(freed.is_some(), "a slot is freed once");
        LayerSlot(slot.index())
    }
}

/// Initial state of a timeline that is opened.
pub(crate) struct TimelineParts {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) start: Lsn,
    pub(crate) disk_consistent_lsn: Lsn,
    pub(crate) dir: PathBuf,
    pub(crate) layers: Vec<FileLayer>,
}

impl TimelineShared {
    pub(crate) fn new(store: Arc<StoreShared>, opening: TimelineParts) -> Arc<TimelineShared> {
        let flush_redo = store.options.flush_redo.clone();
        let TimelineParts { number, name, start, disk_consistent_lsn, dir, layers } = opening;
        assert!(disk_consistent_lsn < Lsn::MAX, "there are Lsns above");
        let open = OpenLayer::new(disk_consistent_lsn.next(), &store.pool);
        let empty = OpenLayer::new(Lsn(1), &store.pool).freeze();
        let map = |layer: &Arc<MemLayer>| LayerMap {
            open: MemSlot { layer: layer.clone(), since: 0 },
            frozen: Vec::new(),
            index: LayerIndex::new(),
            files: Files::default(),
        };
        let mut edits = Edits::default();
        let layers = layers.into_iter().map(|file| (edits.take_slot(&file), Arc::new(file)));
        let published = Published::new(map(open.layer()).with_edit(layers, &[]));
        Arc::new(TimelineShared {
            number,
            name,
            start,
            dir,
            store,
            published,
            unpinned: never_current(map(empty.layer())),
            pins: PinRegistry::default(),
            writer: Mutex::new(Some(Box::new(open))),
            edits: Mutex::new(edits),
            flush: Mutex::default(),
            flush_redo: Mutex::new(flush_redo),
            flushing: Mutex::default(),
            compacting: Mutex::default(),
            compaction: Mutex::default(),
            flush_ended: Condvar::new(),
            flush_waiters: Waiters::default(),
            last_record_lsn: AtomicU64::new(disk_consistent_lsn.0),
            waiters: Waiters::default(),
            pacer: Pacer::default(),
            committing: AtomicBool::new(false),
            disk_consistent_lsn: AtomicU64::new(disk_consistent_lsn.0),
        })
    }

    pub(crate) fn clock(&self) -> Clock {
        self.store.options.clock
    }

    /// Returns the current map.
    pub(crate) fn look(&self) -> Look<'_> {
        Look { map: Some(self.current_map()), timeline: self }
    }

    /// Returns the current map, counted; in a forked child an empty one, without a lock.
    pub(crate) fn current_map(&self) -> Held<LayerMap> {
        if self.store.is_inherited() { self.unpinned.clone() } else { self.published.load() }
    }

    /// Registers a holder of a map version.
    pub(crate) fn pin(
        &self,
        kind: PinKind,
        caller: &'static Location<'static>,
        number: u64,
    ) -> PinHandle {
        match self.store.is_inherited() {
            true => PinHandle::unregistered(),
            false => self.pins.add(kind, caller, self.clock(), number),
        }
    }

    /// Must be called after releasing a map version or an in-memory layer. Once the store is closed
    /// no thread reclaims, so the caller does.
    pub(crate) fn wake_reclaimer(&self) {
        if !self.store.wake_reclaimer() {
            self.reclaim();
        }
    }

    pub(crate) fn disk_consistent_lsn(&self) -> Lsn {
        Lsn(self.disk_consistent_lsn.load(Ordering::Acquire))
    }

    /// Frees what is not held any more. Runs on the reclaimer's thread; once the store is closed,
    /// on each thread that releases something.
    pub(crate) fn reclaim(&self) {
        drop(self.published.reclaim());
        let mut reclaimed = Vec::new();
        let unheld = {
            let mut edits = self.edits.lock();
            for retired in std::mem::take(&mut edits.retired) {
                let RetiredLayer { slot: MemSlot { mut layer, since }, last_number } = retired;
                debug_assert!(since <= last_number, "a map had it");
                // A load before the fence of `try_unwrap`, as in `Published::reclaim`.
                let _ = Arc::get_mut(&mut layer);
                match Arc::try_unwrap(layer) {
                    Ok(layer) => reclaimed.push(layer),
                    Err(layer) => {
                        #[cfg(planted_bug = "early_reclaim")]
                        layer.reclaim_early();
                        edits
                            .retired
                            .push(RetiredLayer { slot: MemSlot { layer, since }, last_number })
                    }
                }
            }
            take_unheld(&mut edits.retired_files)
        };
        // Outside the lock: here memory returns to the pool.
        drop(reclaimed);
        if !unheld.is_empty() {
            let records: Vec<_> = unheld.iter().map(|file| file.record().clone()).collect();
            drop(unheld);
            remove_marked(self, &records);
        }
    }

    /// Returns the in-memory layers that are out of the map but still held.
    pub(crate) fn retired(&self) -> Vec<RetiredBytes> {
        let describe = |retired: &RetiredLayer| RetiredBytes {
            start: retired.slot.layer.start_lsn().0,
            first_number: retired.slot.since,
            last_number: retired.last_number,
            bytes: retired.slot.layer.memory_bytes() as u64,
        };
        self.edits.lock().retired.iter().map(describe).collect()
    }
}
