//! [`Timeline`]: one line of history, and the state that its writer, readers and flush share.
//!
//! Locks, each taken only before those further down: the open layer's place (`writer`), the flush
//! state, the edits (`edits`, one publisher at a time), the store's manifest. Readers take none of
//! them while the store is open; after it was closed, a reader that lets go of a map version takes
//! the edits, because it frees what it has held.

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

/// What everybody who works on a timeline shares.
pub(crate) struct TimelineShared {
    pub(crate) number: u64,
    pub(crate) name: String,
    /// No value is below it.
    pub(crate) start: Lsn,
    pub(crate) dir: PathBuf,
    pub(crate) store: Arc<StoreShared>,
    pub(crate) published: Published<LayerMap>,
    /// What a reader holds that holds nothing.
    pub(crate) unpinned: Held<LayerMap>,
    pub(crate) pins: PinRegistry,
    /// The open layer, unless the holder of the write lease has taken it out. Locked for a moment,
    /// also by a flush that rolls.
    pub(crate) writer: Mutex<Option<Box<OpenLayer>>>,
    /// Held by whoever publishes.
    pub(crate) edits: Mutex<Edits>,
    pub(crate) flush: Mutex<FlushState>,
    /// What makes pages of long chains when they are flushed.
    pub(crate) flush_redo: Mutex<Option<FlushRedo>>,
    /// Held by whoever flushes a layer: one at a time.
    pub(crate) flushing: Mutex<()>,
    /// Held by the thread that merges layer files: one at a time.
    pub(crate) compacting: Mutex<()>,
    pub(crate) compaction: Mutex<CompactionState>,
    /// A flush ended, well or not.
    pub(crate) flush_ended: Condvar,
    /// Tasks that wait for that.
    pub(crate) flush_waiters: Waiters,
    pub(crate) last_record_lsn: AtomicU64,
    pub(crate) waiters: Waiters,
    /// How long commits are delayed while flushing is behind.
    pub(crate) pacer: Pacer,
    /// A commit is under way: it has found the store open, and has not become visible yet.
    pub(crate) committing: AtomicBool,
    pub(crate) disk_consistent_lsn: AtomicU64,
}

/// The map as it is now, for a look outside of any pin. What was retired meanwhile is reclaimed
/// after it.
pub(crate) struct Look<'t> {
    /// Taken out by drop alone, so that the count is gone before the reclaimer is woken.
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

/// What only publishers see.
#[derive(Default)]
pub(crate) struct Edits {
    /// Which slots of the map hold a layer file.
    slots: Slots<()>,
    /// Layers in memory that are out of the map, until nobody holds them.
    pub(crate) retired: Vec<RetiredLayer>,
    /// Layer files that are out of the map, until nothing holds them.
    pub(crate) retired_files: Vec<Arc<FileLayer>>,
    /// By sequence number, the slots of the files that the map has.
    by_sequence: BTreeMap<u64, SlotKey>,
}

pub(crate) struct RetiredLayer {
    pub(crate) slot: MemSlot,
    /// The last map version that had it.
    pub(crate) last_number: u64,
}

impl Edits {
    pub(crate) fn take_slot(&mut self, file: &FileLayer) -> LayerSlot {
        let slot = self.slots.insert(());
        let before = self.by_sequence.insert(file.record().summary.id.sequence, slot);
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

/// Where a timeline begins when it is opened.
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

    /// The map as it is now.
    pub(crate) fn look(&self) -> Look<'_> {
        Look { map: Some(self.current_map()), timeline: self }
    }

    /// The map as it is now, counted; in a forked child an empty one, without a lock.
    pub(crate) fn current_map(&self) -> Held<LayerMap> {
        if self.store.is_inherited() { self.unpinned.clone() } else { self.published.load() }
    }

    /// Registers what holds a map version.
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

    /// Called by each holder of a map version or a layer in memory that has let go of it. Once the
    /// store is closed there is no thread that reclaims: then the caller does.
    pub(crate) fn wake_reclaimer(&self) {
        if !self.store.wake_reclaimer() {
            self.reclaim();
        }
    }

    pub(crate) fn disk_consistent_lsn(&self) -> Lsn {
        Lsn(self.disk_consistent_lsn.load(Ordering::Acquire))
    }

    /// Frees what nobody holds any more. On the reclaimer's thread; once the store is closed, on
    /// that of each who lets go.
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
        // Outside the lock: this is where memory goes back to the pool.
        drop(reclaimed);
        if !unheld.is_empty() {
            remove_marked(self, &unheld);
        }
    }

    /// The layers in memory that are out of the map and still held.
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
