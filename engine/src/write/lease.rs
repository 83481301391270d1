//! [`WriteLease`]: the exclusive right to append to a timeline.
//!
//! While the lease is held, the open layer stays the same: rolling needs the lease too. So no
//! append finds its layer frozen, and there is nothing to retry.

use std::{
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use pagestrata_layers::{Key, Lsn, OpenLayer, Value};
use pagestrata_wal::Position;

use crate::{
    error::{Error, Result},
    options::Durability,
    read::newest::{NewestVersion, newest_of_writer},
    state::timeline::TimelineShared,
    write::{
        commit::{CommitDurability, CommitTicket},
        import::ImageImport,
    },
};

/// Drop takes the open layer out of the lease.
const IN_PLACE: &str = "the lease holds the open layer until it is dropped";

/// The exclusive right to append to a timeline. Dropping it discards what was not committed.
///
/// ```compile_fail,E0382
/// # use pagestrata::{CommitTicket, WriteLease, Lsn};
/// # fn write(mut lease: WriteLease<'_>, ticket: CommitTicket) {
/// ticket.wait().unwrap();
/// ticket.wait().unwrap(); // a ticket is waited for once
/// # }
/// ```
///
/// ```
/// # use pagestrata::{CommitTicket, WriteLease, Lsn};
/// # fn write(mut lease: WriteLease<'_>, ticket: CommitTicket, other: CommitTicket) {
/// ticket.wait().unwrap();
/// other.wait().unwrap();
/// # }
/// ```
///
/// ```compile_fail,E0505
/// # fn write(timeline: pagestrata::Timeline) {
/// let lease = timeline.write_lease().unwrap();
/// drop(timeline); // the lease borrows it
/// drop(lease);
/// # }
/// ```
///
/// ```
/// # fn write(timeline: pagestrata::Timeline) {
/// let lease = timeline.write_lease().unwrap();
/// drop(lease);
/// drop(timeline);
/// # }
/// ```
///
/// `Send`, not `Sync`: one thread at a time.
///
/// ```
/// # use pagestrata::{OwnedWriteLease, Timeline, WriteLease};
/// fn may_be_sent<T: Send>() {}
/// fn may_be_stored<T: Send + 'static>() {}
/// # fn lease<'t>() {
/// may_be_sent::<WriteLease<'t>>();
/// may_be_stored::<OwnedWriteLease>();
/// # }
/// ```
///
/// ```compile_fail
/// # use pagestrata::{OwnedWriteLease, Timeline, WriteLease};
/// fn may_be_stored<T: Send + 'static>() {}
/// # fn lease<'t>() {
/// may_be_stored::<WriteLease<'t>>(); // borrowed from its timeline
/// # }
/// ```
pub struct WriteLease<'t> {
    timeline: Arc<TimelineShared>,
    /// Taken out only by drop.
    writer: Option<Box<OpenLayer>>,
    /// Memory of the open layer after the last commit, in bytes.
    used_at_commit: u64,
    borrowed: PhantomData<&'t TimelineShared>,
}

/// A write lease that borrows nothing, from
/// [`Timeline::write_lease_owned`](crate::Timeline::write_lease_owned).
///
/// ```
/// # fn write(timeline: pagestrata::Timeline) {
/// let lease = timeline.write_lease_owned().unwrap();
/// drop(timeline); // the lease keeps what it needs
/// std::thread::spawn(move || drop(lease));
/// # }
/// ```
pub type OwnedWriteLease = WriteLease<'static>;

/// Marks its timeline as having a commit in progress. [`Store::close`](crate::Store::close) first
/// marks the store as closed and then waits for this mark to go; a commit first sets this mark and
/// then checks whether the store is closed. Each has a fence between the two, so a commit is either
/// refused or waited for.
struct CommitUnderWay<'t>(&'t TimelineShared);

impl<'t> CommitUnderWay<'t> {
    fn begin(timeline: &'t TimelineShared) -> Result<CommitUnderWay<'t>> {
        let committing = CommitUnderWay(timeline);
        timeline.committing.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        timeline.store.check_open()?;
        Ok(committing)
    }
}

impl Drop for CommitUnderWay<'_> {
    fn drop(&mut self) {
        self.0.committing.store(false, Ordering::Release);
    }
}

impl WriteLease<'_> {
    pub(crate) fn new<'t>(timeline: Arc<TimelineShared>, writer: Box<OpenLayer>) -> WriteLease<'t> {
        let used_at_commit = writer.used_bytes();
        WriteLease { timeline, writer: Some(writer), used_at_commit, borrowed: PhantomData }
    }

    #[inline]
    fn writer(&self) -> &OpenLayer {
        self.writer.as_deref().expect(IN_PLACE)
    }

    /// Returns the timeline and the open layer separately.
    #[inline]
    fn parts(&mut self) -> (&Arc<TimelineShared>, &mut OpenLayer) {
        (&self.timeline, self.writer.as_deref_mut().expect(IN_PLACE))
    }

    /// Appends one value: copies it once, into the open layer. It is invisible until it is
    /// committed.
    ///
    /// A delta is accepted without checking for a base, because that may need a read from a file.
    /// The caller must know whether the page has one, or call [`WriteLease::exists`] first. If
    /// there is none, reads of the page fail with [`Error::MissingBase`].
    ///
    /// # Errors
    /// [`Error::LsnOutOfOrder`] (below the last append, or at or below the last commit),
    /// [`Error::DuplicateVersion`], [`Error::ValueTooLong`]; [`Error::Layers`] with `Full` or
    /// `OutOfMemory`; [`Error::FlushStalled`]; [`Error::Closed`] while the store closes and in a
    /// forked child. Nothing is changed, and the put can be repeated once flushing succeeds again.
    #[inline]
    pub fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<()> {
        self.check_room()?;
        Ok(self.parts().1.put(key, lsn, value)?)
    }

    /// Appends several values, all or none. Adjacent entries that borrow the very same bytes, as of
    /// a log record that touches several pages, share one copy.
    ///
    /// # Errors
    /// As [`WriteLease::put`]; nothing is changed.
    pub fn put_batch(&mut self, batch: &[(Key, Lsn, Value<'_>)]) -> Result<()> {
        self.check_room()?;
        Ok(self.parts().1.put_batch(batch)?)
    }

    /// Drops the blocks of an object from `first_block` on, as a truncation or removal does: reads
    /// at or above `lsn` find no value that was put below `lsn`. Values at `lsn` itself come after
    /// the drop.
    ///
    /// # Errors
    /// As [`WriteLease::put`], and [`Error::DropAfterPut`] if one of these blocks was already put
    /// at this very Lsn. Nothing is changed.
    pub fn drop_blocks(&mut self, object: u128, first_block: u32, lsn: Lsn) -> Result<()> {
        self.check_room()?;
        Ok(self.parts().1.drop_blocks(object, first_block, lsn)?)
    }

    /// Makes everything appended so far visible at once, as of `lsn`, and writes it to the log
    /// first. Nothing can be put at or below `lsn` afterwards. [`CommitTicket::wait`] returns when
    /// it is durable.
    ///
    /// Rolls if the open layer has reached its size, or keeps the log from being freed; if too many
    /// frozen layers wait for their flush, waits for one first. To avoid that wait, a commit is
    /// delayed while flushing is behind, after it has become visible
    /// ([`Options::write_delay_max`](crate::Options::write_delay_max)).
    ///
    /// # Errors
    /// [`Error::LsnOutOfOrder`] if `lsn` is below an appended one; [`Error::Layers`] with `Full` or
    /// `OutOfMemory`; [`Error::NoSpace`], [`Error::LogFull`], [`Error::FlushFailed`] if the log has
    /// reached its maximum length; [`Error::ReadOnly`], [`Error::Closed`]. Nothing is published,
    /// and the values still wait for their commit.
    pub fn commit(&mut self, lsn: Lsn) -> Result<CommitTicket> {
        self.commit_with(lsn, CommitDurability::OfStore)
    }

    /// As [`WriteLease::commit`], with a durability for this commit: in a store that syncs
    /// periodically ([`Durability::Buffered`]), a single commit can ask to survive a power loss.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use pagestrata::{CommitDurability, Durability, Key, Lsn, Options, Store, Value};
    ///
    /// # fn main() -> pagestrata::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let durability = Durability::Buffered { sync_interval: Duration::from_secs(1) };
    /// let options = Options { durability, ..Options::default() };
    /// let (store, _) = Store::open(dir.path().join("pages"), options)?;
    /// let timeline = store.create_timeline("main", Lsn(0x10))?;
    /// let mut lease = timeline.write_lease()?;
    /// lease.put(Key::new(1, 0), Lsn(0x20), Value::Image(b"a page"))?;
    /// lease.commit_with(Lsn(0x20), CommitDurability::Synced)?.wait()?; // survives a power failure
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`WriteLease::commit`]; [`Error::NoLogToSync`] for a synced commit with
    /// [`Durability::External`].
    pub fn commit_with(&mut self, lsn: Lsn, durability: CommitDurability) -> Result<CommitTicket> {
        let used_before = self.used_at_commit;
        let (timeline, writer) = self.parts();
        let store = &timeline.store;
        if durability == CommitDurability::Synced
            && store.options.durability == Durability::External
        {
            return Err(Error::NoLogToSync { timeline: timeline.name.clone() });
        }
        let end = log_and_publish(timeline, writer, lsn)?;
        timeline.waiters.reached(lsn);
        let used = writer.used_bytes();
        let is_full = used >= store.options.open_layer_size_max_bytes;
        if (is_full || store.is_overdue(timeline.number, writer.layer().start_lsn()))
            && timeline.wait_for_frozen_slot().is_ok()
        {
            timeline.roll(writer);
        }
        let used_after = writer.used_bytes();
        timeline.pace(used.saturating_sub(used_before), used_after);
        let ticket = CommitTicket::new(lsn, store.log(), end, (&store.options, durability));
        self.used_at_commit = used_after;
        Ok(ticket)
    }

    /// Discards everything that was appended since the last commit.
    pub fn abort(&mut self) {
        self.parts().1.abort();
    }

    /// Whether the page exists for the next put: it was put, by this lease or before, committed or
    /// not, and not dropped since. Does not tell whether the page can be materialized: deltas
    /// without a base exist too.
    ///
    /// Looks in memory first, and reads layer files only if needed; it may wait for a device.
    ///
    /// ```
    /// # use pagestrata::{Key, Lsn, Result, Value, WriteLease};
    /// fn append(lease: &mut WriteLease<'_>, key: Key, lsn: Lsn, bytes: &[u8]) -> Result<()> {
    ///     // The first delta of a page says that it needs nothing older.
    ///     let will_init = !lease.exists(key)?;
    ///     lease.put(key, lsn, Value::Delta { bytes, will_init })
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Layers`] for a layer file that is damaged or cannot be read; [`Error::Closed`] in a
    /// forked child.
    pub fn exists(&self, key: Key) -> Result<bool> {
        Ok(self.newest(key)?.is_some())
    }

    /// Returns the newest version of a page as this lease sees it: its own uncommitted puts, then
    /// everything committed. `None`: the page was never put, or was dropped since. Like
    /// [`WriteLease::exists`], it may wait for a device.
    ///
    /// # Errors
    /// As [`WriteLease::exists`].
    pub fn newest(&self, key: Key) -> Result<Option<NewestVersion>> {
        if self.timeline.store.is_inherited() {
            return Err(Error::Closed);
        }
        newest_of_writer(&self.timeline, self.writer(), key)
    }

    /// Freezes the open layer, for a flush in the background, and starts an empty one. Does no I/O
    /// and copies nothing. A layer without commits is not rolled. A layer with commits but without
    /// values is rolled: its flush writes no file, but advances the disk-consistent Lsn.
    ///
    /// # Errors
    /// [`Error::Uncommitted`]; [`Error::FlushStalled`] if too many frozen layers wait and flushing
    /// fails; [`Error::ReadOnly`], [`Error::Closed`].
    pub fn roll(&mut self) -> Result<()> {
        self.check_committed()?;
        let layer = self.writer().layer();
        if layer.committed_lsn() < layer.start_lsn() {
            return Ok(());
        }
        self.roll_now()
    }

    /// Rolls and flushes like [`Timeline::flush`](crate::Timeline::flush), under the lease: waits
    /// until everything committed is in synced layer files. Returns the disk-consistent Lsn, which
    /// is that of the last commit then.
    ///
    /// # Errors
    /// [`Error::Uncommitted`]: nothing was rolled or flushed, and the values still wait for their
    /// commit. [`Error::FlushFailed`], [`Error::FlushStalled`]: nothing is lost, and the flush is
    /// retried; [`Error::ReadOnly`], [`Error::Closed`].
    pub fn flush(&mut self) -> Result<Lsn> {
        self.check_committed()?;
        // Also if commits without values have only advanced the last record.
        if self.timeline.is_flush_due(self.writer()) {
            self.roll_now()?;
        }
        self.timeline.wait_flushed_and_reclaim()
    }

    fn check_committed(&self) -> Result<()> {
        self.timeline.store.check_writable()?;
        match self.writer().has_pending() {
            true => Err(Error::Uncommitted { timeline: self.timeline.name.clone() }),
            false => Ok(()),
        }
    }

    /// Starts an import of images at `lsn`, straight into image layers: for a base backup.
    ///
    /// Flushes everything in memory first.
    ///
    /// # Errors
    /// [`Error::ImportBehind`] if the timeline holds anything at or above `lsn`;
    /// [`Error::Uncommitted`]; [`Error::FlushFailed`]; [`Error::Closed`].
    pub fn import_images(&mut self, lsn: Lsn) -> Result<ImageImport<'_>> {
        self.check_committed()?;
        let last = self.writer().last_lsn();
        if lsn <= last || lsn == Lsn::MAX {
            return Err(Error::ImportBehind { lsn, last_record_lsn: last });
        }
        if !self.writer().layer().is_empty() {
            self.roll()?;
        }
        self.timeline.wait_flushed()?;
        let (timeline, writer) = self.parts();
        Ok(ImageImport::new(timeline, writer, lsn))
    }

    /// Returns the Lsn of the last append, committed or not.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.writer().last_lsn()
    }

    /// An open layer that could not be rolled may grow to at most twice its size.
    #[inline]
    fn check_room(&mut self) -> Result<()> {
        if self.timeline.store.is_inherited() {
            return Err(Error::Closed);
        }
        let max = self.timeline.store.options.open_layer_size_max_bytes;
        let writer = self.writer();
        if writer.used_bytes() >= 2 * max && !writer.has_pending() {
            return self.make_room();
        }
        Ok(())
    }

    /// Tries to roll again: flushing may work by now, or the layer is full of aborted values, which
    /// no commit has rolled.
    #[cold]
    fn make_room(&mut self) -> Result<()> {
        self.timeline.store.check_writable()?;
        self.roll_now()
    }

    /// Rolls once one more layer may be frozen. Nothing may be uncommitted.
    fn roll_now(&mut self) -> Result<()> {
        let (timeline, writer) = self.parts();
        timeline.wait_for_frozen_slot()?;
        debug_assert!(!writer.has_pending());
        timeline.roll(writer);
        Ok(())
    }
}

/// Commits, up to the point where readers see it. A store that is being closed waits for it.
fn log_and_publish(
    timeline: &TimelineShared,
    writer: &mut OpenLayer,
    lsn: Lsn,
) -> Result<Option<Position>> {
    let store = &timeline.store;
    let _committing = CommitUnderWay::begin(timeline)?;
    writer.prepare_commit(lsn)?;
    if store.options.durability != Durability::External {
        store.wait_for_log_room(timeline.number)?;
    }
    let end = store.log_commit(timeline.number, writer, lsn)?;
    writer.commit(lsn).expect("prepared, and nothing was appended since");
    debug_assert_eq!(writer.layer().committed_lsn(), lsn);
    debug_assert_eq!(end.is_some(), store.options.durability != Durability::External);
    debug_assert!(timeline.last_record_lsn.load(Ordering::Relaxed) <= lsn.0);
    timeline.last_record_lsn.store(lsn.0, Ordering::Release);
    Ok(end)
}

impl Drop for WriteLease<'_> {
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        if self.timeline.store.is_inherited() {
            // What it would release belongs to the parent.
            std::mem::forget(writer);
            return;
        }
        writer.abort();
        let taken = self.timeline.writer.lock().replace(writer);
        assert!(taken.is_none(), "one write lease is out at a time");
    }
}

impl fmt::Debug for WriteLease<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteLease")
            .field("timeline", &self.timeline.name)
            .field("open", &self.writer)
            .finish()
    }
}
