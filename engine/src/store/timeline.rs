//! [`Timeline`]: the public handle of one line of history.

use std::{
    fmt,
    panic::Location,
    sync::{Arc, atomic::Ordering},
};

use pagestrata_layers::{Key, Lsn};

use crate::{
    error::{Error, Result},
    jobs::flush_future::FlushFuture,
    options::FlushRedo,
    read::{fetch::Fetch, guard::Reader, snapshot::Snapshot},
    reports::{PinInfo, stats::TimelineStats},
    state::timeline::TimelineShared,
    store::wait_for::WaitForLsn,
    write::lease::{OwnedWriteLease, WriteLease},
};

/// One line of history. A handle: clone it freely, it keeps the timeline's memory and files open.
#[derive(Clone)]
pub struct Timeline(pub(crate) Arc<TimelineShared>);

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

    /// Takes the exclusive right to append. It is free again when the lease is dropped, and what
    /// was not committed by then is taken back.
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

    /// What brings into memory all that the pages at `lsn` need, as far as a mapping or the cache
    /// has room: [`Fetch::start`] it, or await it. What is found wrong on the way is its error.
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

    /// Becomes ready once everything up to `lsn` is committed, so that it can be read. Needs no
    /// runtime and holds no layer.
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
    pub fn wait_for(&self, lsn: Lsn) -> WaitForLsn {
        WaitForLsn::new(self.0.clone(), lsn)
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

    /// Rolls and flushes, and waits until everything that was committed before this call is in
    /// synced layer files. Returns the disk-consistent Lsn.
    ///
    /// While a write lease is out the open layer cannot be rolled: then what is frozen is flushed,
    /// and the returned Lsn says how far that goes ([`WriteLease::flush`] flushes everything under
    /// a lease).
    ///
    /// # Errors
    /// [`Error::FlushFailed`]: nothing is lost, and it will be tried again; [`Error::ReadOnly`],
    /// [`Error::Closed`].
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

    /// Merges layer files until no merge is worth its bytes any more
    /// ([`Options::compaction_fan_in`](crate::Options::compaction_fan_in)), and returns how many
    /// merges that were. Reads go on meanwhile, and find what they found before. A store with
    /// [`Background::Threads`](crate::Background::Threads) does it after each flush; then this
    /// waits for the merge that is under way.
    ///
    /// # Errors
    /// [`Error::CompactionFailed`]: the layers that could not be merged stay as they were;
    /// [`Error::ReadOnly`], [`Error::Closed`].
    pub fn compact(&self) -> Result<u64> {
        self.0.store.check_open()?;
        self.0.compact()
    }

    /// Gives the flushes of this timeline the redo that makes pages of long chains
    /// ([`Options::deltas_per_page_max`](crate::Options::deltas_per_page_max)), in the place of
    /// [`Options::flush_redo`](crate::Options::flush_redo): from the next flush on, until the store
    /// is closed.
    pub fn set_flush_redo(&self, redo: FlushRedo) {
        if self.0.store.is_inherited() {
            return;
        }
        let before = self.0.flush_redo.lock().replace(redo);
        drop(before);
    }

    /// The last committed Lsn; before anything was put, the start.
    #[must_use]
    pub fn last_record_lsn(&self) -> Lsn {
        Lsn(self.0.last_record_lsn.load(Ordering::Acquire)).max(self.0.start)
    }

    /// Up to here everything is in synced layer files: a crash takes nothing at or below it, and
    /// the log is free. Without a log, stream again from here after a reopen.
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
