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

/// A handle of one line of history: cheap to clone. It keeps the timeline's memory and files open.
#[derive(Clone)]
pub struct Timeline(pub(crate) Arc<TimelineShared>);

impl Timeline {
    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the Lsn that it starts at: nothing below it can be put or read.
    #[must_use]
    pub fn start_lsn(&self) -> Lsn {
        self.0.start
    }

    /// Takes the exclusive right to append. Dropping the lease releases it and discards what was
    /// not committed.
    ///
    /// # Errors
    /// [`Error::LeaseHeld`] at once if the lease is held elsewhere; [`Error::ReadOnly`],
    /// [`Error::Closed`].
    pub fn write_lease(&self) -> Result<WriteLease<'_>> {
        self.write_lease_owned()
    }

    /// As [`Timeline::write_lease`], but returns `None` if the lease is held elsewhere.
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
        // Waits only for a flush that rolls.
        let writer = self.0.writer.lock().take();
        match writer {
            Some(writer) => Ok(WriteLease::new(self.0.clone(), writer)),
            None => Err(Error::LeaseHeld { timeline: self.0.name.clone() }),
        }
    }

    /// Returns a reader; use one per thread or connection.
    #[must_use]
    #[track_caller]
    pub fn reader(&self) -> Reader {
        Reader::new(self.0.clone(), Location::caller())
    }

    /// Returns an owned pin at the last record.
    #[must_use]
    #[track_caller]
    pub fn snapshot(&self) -> Snapshot {
        let map = self.0.current_map();
        let committed = map.value().last_record_lsn();
        Snapshot::new(map, committed, self.0.clone(), Location::caller())
    }

    /// Returns an owned pin at an Lsn.
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

    /// Returns a fetch of everything that the pages at `lsn` need, as far as the mapping or the
    /// cache has room: [`Fetch::start`] or await it. An error found on the way is the error of the
    /// fetch.
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

    /// Returns a future that completes once everything up to `lsn` is committed and can be read.
    /// Needs no particular executor and holds no layer.
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
    /// [`Error::Closed`] if the store is closed before that.
    pub fn wait_for(&self, lsn: Lsn) -> WaitForLsn {
        WaitForLsn::new(self.0.clone(), lsn)
    }

    /// Lists every holder of a map version or layer, and how much memory each of them alone keeps.
    /// Readers and snapshots that are created or dropped meanwhile may be in the list or not.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        if self.0.store.is_inherited() {
            return Vec::new();
        }
        self.0.pins.list(self.0.clock(), &self.0.retired())
    }

    /// Rolls and flushes, and waits until everything committed before this call is in synced layer
    /// files. Returns the disk-consistent Lsn.
    ///
    /// While a write lease is held the open layer cannot be rolled. Then only frozen layers are
    /// flushed, and the returned Lsn tells how far they reach ([`WriteLease::flush`] flushes
    /// everything, under the lease).
    ///
    /// # Errors
    /// [`Error::FlushFailed`]: nothing is lost, and the flush is retried; [`Error::ReadOnly`],
    /// [`Error::Closed`].
    pub fn flush(&self) -> Result<Lsn> {
        self.0.store.check_open()?;
        self.0.flush_now()
    }

    /// As [`Timeline::flush`], for a task: no thread is blocked. Nothing happens before the first
    /// poll. If the future is dropped after that, the flush continues in the background.
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

    /// Merges layer files until no group of neighbours reaches the fan-in
    /// ([`Options::compaction_fan_in`](crate::Options::compaction_fan_in)), and returns the number
    /// of merges. Reads continue, and find what they found before. A store with
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

    /// Sets the redo that flushes of this timeline materialize pages of long chains with
    /// ([`Options::deltas_per_page_max`](crate::Options::deltas_per_page_max)), instead of
    /// [`Options::flush_redo`](crate::Options::flush_redo): from the next flush on, until the store
    /// is closed.
    pub fn set_flush_redo(&self, redo: FlushRedo) {
        if self.0.store.is_inherited() {
            return;
        }
        let before = self.0.flush_redo.lock().replace(redo);
        drop(before);
    }

    /// Returns the last committed Lsn; the start if nothing was committed yet.
    #[must_use]
    pub fn last_record_lsn(&self) -> Lsn {
        Lsn(self.0.last_record_lsn.load(Ordering::Acquire)).max(self.0.start)
    }

    /// Returns the Lsn up to which everything is in synced layer files: a crash loses nothing at or
    /// below it, and its log may be freed. Without a log, stream again from here after a reopen.
    #[must_use]
    pub fn disk_consistent_lsn(&self) -> Lsn {
        self.0.disk_consistent_lsn()
    }

    /// Returns sizes, counts and the state of flushing.
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
