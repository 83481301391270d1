//! [`Timeline`]: one line of history, and the state that its writer, readers and flush share.
//!
//! Locks, each taken only before those further down: the open layer's place (`writer`), the flush
//! state, the edits (`edits`, one publisher at a time), the store's manifest. Readers take none of
//! them while the store is open; after it was closed, a reader that lets go of a map version takes
//! the edits, because it frees what it has held.

use std::{
    fmt,
    ops::Deref,
    panic::Location,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use pagestrata_layers::{FrozenLayer, Lsn, MemLayer, OpenLayer};
use parking_lot::{Condvar, Mutex};

use crate::{
    Background, Error, Fetch, FlushFuture, FlushRedo, Key, OwnedWriteLease, PinInfo, Reader,
    Result, Snapshot, TimelineStats, WriteLease,
    coverage::{CoverageMap, LayerIndex},
    flush::{FlushState, SharedRedo},
    map::{FileLayer, Files, MapVersion, MemSlot},
    options::Clock,
    pacing::Pacer,
    pins::{PinHandle, PinKind, PinRegistry, RetiredBytes},
    publish::{Held, Published, never_current},
    slots::Slots,
    store::StoreShared,
    wait::{Reached, Waiters},
};

/// One line of history. A handle: clone it freely, it keeps the timeline's memory and files open.
#[derive(Clone)]
pub struct Timeline(pub(crate) Arc<TimelineShared>);

/// What everybody who works on a timeline shares.
pub(crate) struct TimelineShared {
    pub(crate) number: u64,
    pub(crate) name: String,
    /// No value is below it.
    pub(crate) start: Lsn,
    pub(crate) dir: PathBuf,
    pub(crate) store: Arc<StoreShared>,
    pub(crate) published: Published<MapVersion>,
    /// What a reader holds that holds nothing.
    pub(crate) unpinned: Held<MapVersion>,
    pub(crate) pins: PinRegistry,
    /// The open layer, unless the holder of the write lease has taken it out. Locked for a moment,
    /// also by a flush that rolls.
    pub(crate) writer: Mutex<Option<Box<OpenLayer>>>,
    /// Held by whoever publishes.
    pub(crate) edits: Mutex<Edits>,
    pub(crate) flush: Mutex<FlushState>,
    /// What makes pages of long chains when they are flushed.
    pub(crate) flush_redo: Mutex<Option<SharedRedo>>,
    /// Held by whoever flushes a layer: one at a time.
    pub(crate) flushing: Mutex<()>,
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

/// The map as it is now, for a look outside of any pin. What was retired meanwhile is reclaimed after it.
pub(crate) struct Look<'t> {
    /// Taken out by drop alone, so that the count is gone before the reclaimer is woken.
    map: Option<Held<MapVersion>>,
    timeline: &'t TimelineShared,
}

impl Deref for Look<'_> {
    type Target = MapVersion;

    fn deref(&self) -> &MapVersion {
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
    retired: Vec<Retired>,
}

struct Retired {
    slot: MemSlot,
    /// The last map version that had it.
    last_number: u64,
}

impl Edits {
    pub(crate) fn take_slot(&mut self) -> LayerIndex {
        LayerIndex(self.slots.insert(()).index())
    }
}

/// Where a timeline begins when it is opened.
pub(crate) struct Opening {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) start: Lsn,
    pub(crate) disk_consistent_lsn: Lsn,
    pub(crate) dir: PathBuf,
    pub(crate) layers: Vec<FileLayer>,
}

impl TimelineShared {
    pub(crate) fn new(store: Arc<StoreShared>, opening: Opening) -> Arc<TimelineShared> {
        let flush_redo = store.options.flush_redo.clone().map(|redo| redo.0);
        let Opening { number, name, start, disk_consistent_lsn, dir, layers } = opening;
        let open = OpenLayer::new(disk_consistent_lsn.next(), &store.pool);
        let empty = OpenLayer::new(Lsn(1), &store.pool).freeze();
        let map = |layer: &Arc<MemLayer>| MapVersion {
            open: MemSlot { layer: layer.clone(), since: 0 },
            frozen: Vec::new(),
            coverage: CoverageMap::new(),
            files: Files::default(),
        };
        let mut edits = Edits::default();
        let layers = layers.into_iter().map(|file| (edits.take_slot(), Arc::new(file)));
        let published = Published::new(map(open.layer()).with_files(layers));
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
    fn current_map(&self) -> Held<MapVersion> {
        if self.store.is_inherited() { self.unpinned.clone() } else { self.published.load() }
    }

    /// Rolls, unless somebody has the lease, and waits until what is frozen then is flushed.
    pub(crate) fn flush_now(self: &Arc<Self>) -> Result<Lsn> {
        self.check_flushable()?;
        while !self.roll_unless_leased(Lsn::MAX) {
            self.wait_flushed()?;
        }
        self.wait_flushed_and_reclaim()
    }

    /// Waits as [`TimelineShared::wait_flushed`] does, and frees what that retired where no thread
    /// does. Returns the disk-consistent Lsn.
    pub(crate) fn wait_flushed_and_reclaim(&self) -> Result<Lsn> {
        self.wait_flushed()?;
        if self.store.options.background == Background::Callers {
            self.reclaim();
        }
        Ok(self.disk_consistent_lsn())
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

    /// Nothing is flushed once the log has failed.
    pub(crate) fn check_flushable(&self) -> Result<()> {
        self.store.read_only_cause().map_or(Ok(()), |cause| Err(Error::ReadOnly { cause }))
    }

    /// Called by each holder of a map version or a layer in memory that has let go of it. Once the
    /// store is closed there is no thread that reclaims: then the caller does.
    pub(crate) fn wake_reclaimer(&self) {
        if !self.store.wake_reclaimer() {
            self.reclaim();
        }
    }

    /// Whether something that is committed in the open layer is in no layer file yet.
    pub(crate) fn is_flush_due(&self, writer: &OpenLayer) -> bool {
        let layer = writer.layer();
        let committed = layer.committed_lsn();
        committed > self.disk_consistent_lsn() && committed >= layer.start_lsn()
    }

    pub(crate) fn disk_consistent_lsn(&self) -> Lsn {
        Lsn(self.disk_consistent_lsn.load(Ordering::Acquire))
    }

    /// Freezes the open layer and puts an empty one in its place: a few allocations of fixed size, whatever the layer
    /// holds. The caller has the write lease and nothing is uncommitted.
    pub(crate) fn roll(self: &Arc<Self>, writer: &mut OpenLayer) {
        self.pacer.froze(writer.used_bytes(), self.clock().now());
        let next = OpenLayer::new(writer.last_lsn().next(), &self.store.pool);
        let shared = next.layer().clone();
        let frozen: FrozenLayer = std::mem::replace(writer, next).freeze();
        {
            let _edits = self.edits.lock();
            self.published.publish(|map| {
                debug_assert!(Arc::ptr_eq(&map.open.layer, frozen.layer()));
                // Before anybody can flush and retire the layer: whoever reclaims it then finds no count of ours.
                drop(frozen);
                map.rolled(shared, self.published.number() + 1)
            });
        }
        self.store.wake_flusher();
    }

    /// Rolls the open layer if something at or below `upper` is committed in it, unless somebody has the write lease. False: as
    /// many layers as may be are frozen already.
    pub(crate) fn roll_unless_leased(self: &Arc<Self>, upper: Lsn) -> bool {
        let mut slot = self.writer.lock();
        let Some(writer) = slot.as_deref_mut() else { return true };
        if !self.is_flush_due(writer) || upper < writer.layer().start_lsn() {
            return true;
        }
        if self.look().frozen.len() >= self.store.options.frozen_layers_max {
            return false;
        }
        self.roll(writer);
        true
    }

    /// After a commit was taken from the log: as after any other, but that a flush is done here, for nobody else does any yet.
    /// Where that fails, memory has to do.
    pub(crate) fn recovered(self: &Arc<Self>, lsn: Lsn, writer: &mut OpenLayer) {
        self.last_record_lsn.store(lsn.0, Ordering::Release);
        if writer.used_bytes() < self.store.options.open_layer_size_max_bytes {
            return;
        }
        let is_crowded = self.look().frozen.len() >= self.store.options.frozen_layers_max;
        // A store that is only salvaged or read is not written to.
        let may_write = !self.store.options.salvage_log && !self.store.reads_only;
        if is_crowded && may_write && self.flush.lock().failures == 0 {
            self.flush_oldest();
            // The thread that does it is not there yet.
            self.reclaim();
        }
        self.roll(writer);
    }

    /// Publishes that the oldest frozen layer is durable, in `file` unless it was empty.
    pub(crate) fn publish_flushed(&self, end: Lsn, file: Option<FileLayer>) {
        // First: whoever waits for the flush looks at the map, and then takes this for how far it went.
        self.disk_consistent_lsn.fetch_max(end.previous().0, Ordering::AcqRel);
        let mut edits = self.edits.lock();
        let last_number = self.published.number();
        // Before it is published: whoever finds nothing frozen any more reads this next.
        self.disk_consistent_lsn.fetch_max(end.previous().0, Ordering::AcqRel);
        let file = file.map(|file| (edits.take_slot(), Arc::new(file)));
        let mut retired = None;
        self.published.publish(|map| {
            retired = map.frozen.last().cloned();
            map.flushed(file)
        });
        let slot = retired.expect("a flush is of a frozen layer");
        edits.retired.push(Retired { slot, last_number });
        drop(edits);
        self.pacer.flushed(self.clock().now());
        self.wake_reclaimer();
    }

    /// Publishes files that were imported at `lsn`, and behind them an open layer that begins above it. The old one, which
    /// is empty, stays at its Lsn: whoever pinned it before sees nothing of the import.
    pub(crate) fn publish_imported(&self, files: Vec<FileLayer>, lsn: Lsn, writer: &mut OpenLayer) {
        debug_assert!(writer.layer().is_empty() && !writer.has_pending());
        let next = OpenLayer::new(lsn.next(), &self.store.pool);
        let mut edits = self.edits.lock();
        let last_number = self.published.number();
        let files: Vec<_> =
            files.into_iter().map(|file| (edits.take_slot(), Arc::new(file))).collect();
        let mut retired = None;
        self.published.publish(|map| {
            retired = Some(map.open.clone());
            let open = MemSlot { layer: next.layer().clone(), since: last_number + 1 };
            MapVersion { open, ..map.with_files(files.into_iter()) }
        });
        *writer = next;
        let slot = retired.expect("there is an open layer");
        edits.retired.push(Retired { slot, last_number });
        drop(edits);
        self.last_record_lsn.store(lsn.0, Ordering::Release);
        self.waiters.reached(lsn);
        self.disk_consistent_lsn.store(lsn.0, Ordering::Release);
        self.wake_reclaimer();
    }

    /// Frees what nobody holds any more. On the reclaimer's thread; once the store is closed, on
    /// that of each who lets go.
    pub(crate) fn reclaim(&self) {
        drop(self.published.reclaim());
        let mut reclaimed = Vec::new();
        {
            let mut edits = self.edits.lock();
            for retired in std::mem::take(&mut edits.retired) {
                let Retired { slot: MemSlot { mut layer, since }, last_number } = retired;
                // A load before the fence of `try_unwrap`, as in `Published::reclaim`.
                let _ = Arc::get_mut(&mut layer);
                match Arc::try_unwrap(layer) {
                    Ok(layer) => reclaimed.push(layer),
                    Err(layer) => {
                        #[cfg(planted_bug = "early_reclaim")]
                        layer.reclaim_early();
                        edits.retired.push(Retired { slot: MemSlot { layer, since }, last_number })
                    }
                }
            }
        }
        // Outside the lock: this is where memory goes back to the pool.
        drop(reclaimed);
    }

    /// The layers in memory that are out of the map and still held.
    pub(crate) fn retired(&self) -> Vec<RetiredBytes> {
        let describe = |retired: &Retired| RetiredBytes {
            start: retired.slot.layer.start_lsn().0,
            first_number: retired.slot.since,
            last_number: retired.last_number,
            bytes: retired.slot.layer.memory_bytes() as u64,
        };
        self.edits.lock().retired.iter().map(describe).collect()
    }
}

impl Timeline {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The Lsn that it starts at: nothing below it can be put or read.
    #[must_use]
    pub fn start_lsn(&self) -> Lsn {
        self.0.start
    }

    /// Takes the exclusive right to append. It is free again when the lease is dropped, and what was not committed
    /// by then is taken back.
    ///
    /// # Errors
    /// [`Error::LeaseHeld`] at once when another lease is out; [`Error::ReadOnly`],
    /// [`Error::Closed`].
    pub fn write_lease(&self) -> Result<WriteLease<'_>> {
        self.write_lease_owned()
    }

    /// As [`Timeline::write_lease`], but returns `None` when another lease is out.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Closed`].
    pub fn try_write_lease(&self) -> Result<Option<WriteLease<'_>>> {
        match self.write_lease() {
            Ok(lease) => Ok(Some(lease)),
            Err(Error::LeaseHeld { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Timeline::write_lease`], with a lease that borrows nothing: it can be stored beside its
    /// timeline, sent to another thread, and held across an `.await`.
    ///
    /// ```
    /// # use pagestrata::{Key, Lsn, OwnedWriteLease, Result, Timeline, Value};
    /// struct Connection {
    ///     timeline: Timeline,
    ///     lease: OwnedWriteLease,
    /// }
    ///
    /// fn connect(timeline: Timeline) -> Result<Connection> {
    ///     let lease = timeline.write_lease_owned()?;
    ///     Ok(Connection { timeline, lease })
    /// }
    ///
    /// fn write(mut connection: Connection) -> std::thread::JoinHandle<Result<()>> {
    ///     std::thread::spawn(move || {
    ///         let lsn = connection.timeline.last_record_lsn().next();
    ///         connection.lease.put(Key::new(1, 0), lsn, Value::Image(b"as it is"))?;
    ///         connection.lease.commit(lsn)?.wait()
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Timeline::write_lease`].
    pub fn write_lease_owned(&self) -> Result<OwnedWriteLease> {
        self.0.store.check_writable()?;
        // Waits for no one but a flush that rolls.
        let writer = self.0.writer.lock().take();
        match writer {
            Some(writer) => Ok(WriteLease::new(self.0.clone(), writer)),
            None => Err(Error::LeaseHeld { timeline: self.0.name.clone() }),
        }
    }

    /// A reader: one for each thread or connection.
    #[must_use]
    #[track_caller]
    pub fn reader(&self) -> Reader {
        Reader::new(self.0.clone(), Location::caller())
    }

    /// An owned pin at the last record.
    #[must_use]
    #[track_caller]
    pub fn snapshot(&self) -> Snapshot {
        let map = self.0.current_map();
        let committed = map.value().last_record_lsn();
        Snapshot::new(map, committed, self.0.clone(), Location::caller())
    }

    /// An owned pin at an Lsn.
    ///
    /// # Errors
    /// [`Error::NotYet`], [`Error::BelowCutoff`]; [`Error::Closed`] in a forked child.
    #[track_caller]
    pub fn snapshot_at(&self, lsn: Lsn) -> Result<Snapshot> {
        if self.0.store.is_inherited() {
            return Err(Error::Closed);
        }
        let committed = self.0.look().last_record_lsn();
        let last_record_lsn = committed.max(self.0.start);
        if lsn > last_record_lsn {
            return Err(Error::NotYet { lsn, last_record_lsn });
        }
        if lsn < self.0.start {
            return Err(Error::BelowCutoff { lsn, cutoff: self.0.start });
        }
        let lsn = lsn.min(committed);
        Ok(Snapshot::new(self.0.published.load(), lsn, self.0.clone(), Location::caller()))
    }

    /// What brings into memory all that the pages at `lsn` need, as far as a mapping or the cache has room: [`Fetch::start`] it, or
    /// await it. What is found wrong on the way is its error.
    ///
    /// ```
    /// # use pagestrata::{Key, Lsn, Result, Timeline};
    /// # fn example(timeline: &Timeline, next: &[Key], lsn: Lsn) -> Result<()> {
    /// timeline.prefetch(next, lsn)?.start();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotYet`], [`Error::BelowCutoff`]
    #[track_caller]
    pub fn prefetch(&self, keys: &[Key], lsn: Lsn) -> Result<Fetch> {
        let snapshot = self.snapshot_at(lsn)?;
        Ok(Fetch::of_pages(&self.0.store, snapshot, keys.to_vec(), lsn))
    }

    /// Becomes ready once everything up to `lsn` is committed, so that it can be read. Needs no runtime and holds no layer.
    ///
    /// ```
    /// # use pagestrata::{Lsn, Result, Snapshot, Timeline};
    /// async fn snapshot_as_soon_as(timeline: &Timeline, lsn: Lsn) -> Result<Snapshot> {
    ///     timeline.wait_for(lsn).await?;
    ///     timeline.snapshot_at(lsn)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`], when the store is closed before.
    pub fn wait_for(&self, lsn: Lsn) -> Reached {
        Reached::new(self.0.clone(), lsn)
    }

    /// Everything that holds a version of the layer map or a layer, and what each of them alone
    /// keeps in memory. Readers and snapshots can be made and dropped meanwhile: those are in the
    /// list or not.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        if self.0.store.is_inherited() {
            return Vec::new();
        }
        self.0.pins.list(self.0.clock(), &self.0.retired())
    }

    /// Rolls and flushes, and waits until everything that was committed before this call is in synced layer files. Returns
    /// the disk-consistent Lsn.
    ///
    /// While a write lease is out the open layer cannot be rolled: then what is frozen is flushed,
    /// and the returned Lsn says how far that goes ([`WriteLease::flush`] flushes everything under
    /// a lease).
    ///
    /// # Errors
    /// [`Error::FlushFailed`]: nothing is lost, and it will be tried again; [`Error::ReadOnly`], [`Error::Closed`].
    pub fn flush(&self) -> Result<Lsn> {
        self.0.store.check_open()?;
        self.0.flush_now()
    }

    /// As [`Timeline::flush`], for a task: no thread is blocked. Nothing happens before the first
    /// poll; dropped after it, the flush goes on in the background.
    ///
    /// ```
    /// # use pagestrata::{Lsn, Result, Timeline};
    /// async fn flushed_up_to(timeline: &Timeline) -> Result<Lsn> {
    ///     timeline.flush_async().await // no runtime of ours is needed
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Timeline::flush`].
    pub fn flush_async(&self) -> FlushFuture {
        FlushFuture::new(self.0.clone())
    }

    /// Gives the flushes of this timeline the redo that makes pages of long chains
    /// ([`Options::deltas_per_page_max`](crate::Options::deltas_per_page_max)), in the place of
    /// [`Options::flush_redo`](crate::Options::flush_redo): from the next flush on, until the store
    /// is closed.
    pub fn set_flush_redo(&self, redo: FlushRedo) {
        if self.0.store.is_inherited() {
            return;
        }
        let before = self.0.flush_redo.lock().replace(redo.0);
        drop(before);
    }

    /// The last committed Lsn; before anything was put, the start.
    #[must_use]
    pub fn last_record_lsn(&self) -> Lsn {
        Lsn(self.0.last_record_lsn.load(Ordering::Acquire)).max(self.0.start)
    }

    /// Up to here everything is in synced layer files: a crash takes nothing at or below it, and the log is free. Without a
    /// log, stream again from here after a reopen.
    #[must_use]
    pub fn disk_consistent_lsn(&self) -> Lsn {
        self.0.disk_consistent_lsn()
    }

    /// Sizes, counts and the state of flushing.
    #[must_use]
    pub fn stats(&self) -> TimelineStats {
        if self.0.store.is_inherited() {
            return TimelineStats::default();
        }
        TimelineStats::of(&self.0)
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeline")
            .field("name", &self.0.name)
            .field("last_record_lsn", &self.last_record_lsn())
            .finish()
    }
}
