//! [`WriteLease`]: the exclusive right to append to a timeline.
//!
//! It keeps the open layer in place while it is held: rolling needs the lease too, so no append ever finds its layer
//! frozen, and there is nothing to retry.

use std::{fmt, sync::Arc, sync::atomic::Ordering};

use pagestrata_layers::{Key, Lsn, OpenLayer, Value};
use parking_lot::MutexGuard;

use crate::{CommitTicket, Durability, Error, ImageImport, Result, timeline::TimelineShared};

/// The exclusive right to append to a timeline. Dropping it takes back what was not committed.
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
pub struct WriteLease<'t> {
    timeline: &'t Arc<TimelineShared>,
    writer: MutexGuard<'t, OpenLayer>,
}

impl<'t> WriteLease<'t> {
    pub(crate) fn new(
        timeline: &'t Arc<TimelineShared>,
        writer: MutexGuard<'t, OpenLayer>,
    ) -> WriteLease<'t> {
        WriteLease { timeline, writer }
    }

    /// Appends one value: copies it once, into the open layer. Invisible until it is committed.
    ///
    /// # Errors
    /// [`Error::Layers`] with `LsnOutOfOrder` (below the last append, or at or below the last commit),
    /// `DuplicateVersion`, `ValueTooLong`, `Full` or `OutOfMemory`; [`Error::FlushStalled`]. Nothing is changed, and a
    /// stalled writer goes on when flushing does.
    #[inline]
    pub fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<()> {
        self.check_room()?;
        Ok(self.writer.put(key, lsn, value)?)
    }

    /// Appends several values, all or none. Neighbours that borrow the very same bytes, as of a log record that touches
    /// several pages, share one copy.
    ///
    /// # Errors
    /// As [`WriteLease::put`]; nothing is changed.
    pub fn put_batch(&mut self, batch: &[(Key, Lsn, Value<'_>)]) -> Result<()> {
        self.check_room()?;
        Ok(self.writer.put_batch(batch)?)
    }

    /// Drops the blocks of an object from `first_block` on, as a truncation or removal does: reads at or above `lsn`
    /// find nothing of what was put below `lsn`. Values at `lsn` itself come after it.
    ///
    /// # Errors
    /// As [`WriteLease::put`], and `DropAfterPut` when one of these blocks was put at this very Lsn already. Nothing is
    /// changed.
    pub fn drop_blocks(&mut self, object: u128, first_block: u32, lsn: Lsn) -> Result<()> {
        self.check_room()?;
        Ok(self.writer.drop_blocks(object, first_block, lsn)?)
    }

    /// Makes everything appended so far visible at once, as of `lsn`, and writes it to the log first. Nothing can be put at or
    /// below it afterwards. It is durable when the ticket says so.
    ///
    /// Rolls when the open layer has its size, or keeps the log from being freed; when too many frozen layers wait for their
    /// flush already, it waits for one first.
    ///
    /// # Errors
    /// [`Error::Layers`] with `LsnOutOfOrder` when `lsn` is below an appended one, or with `Full` or `OutOfMemory`;
    /// [`Error::NoSpace`], [`Error::LogFull`], [`Error::FlushFailed`] when the log has its full length; [`Error::ReadOnly`],
    /// [`Error::Closed`]. Nothing is published, and what was appended still waits for its commit.
    pub fn commit(&mut self, lsn: Lsn) -> Result<CommitTicket> {
        let store = &self.timeline.store;
        store.check_open()?;
        self.writer.prepare_commit(lsn)?;
        if store.options.durability != Durability::External {
            store.wait_for_log_room(self.timeline.number)?;
        }
        let end = store.log_commit(self.timeline.number, &self.writer, lsn)?;
        self.writer.commit(lsn).expect("prepared, and nothing was appended since");
        self.timeline.last_record_lsn.store(lsn.0, Ordering::Release);
        self.timeline.waiters.reached(lsn);
        let is_full = self.writer.used_bytes() >= store.options.open_layer_size_max_bytes;
        if (is_full || store.is_overdue(self.timeline.number, self.writer.layer().start_lsn()))
            && self.timeline.wait_for_frozen_slot()
        {
            self.timeline.roll(&mut self.writer);
        }
        Ok(CommitTicket::new(lsn, store.log(), end, &store.options))
    }

    /// Takes back everything that was appended since the last commit.
    pub fn abort(&mut self) {
        self.writer.abort();
    }

    /// Freezes the open layer, to be flushed in the background, and begins an empty one. Does no I/O and copies
    /// nothing. A layer to which nothing was committed stays. One to which only Lsns were
    /// committed, without values, is rolled: its flush makes no file and moves the disk-consistent
    /// Lsn on.
    ///
    /// # Errors
    /// [`Error::Uncommitted`]; [`Error::FlushStalled`] when too many frozen layers wait and flushing fails;
    /// [`Error::ReadOnly`], [`Error::Closed`].
    pub fn roll(&mut self) -> Result<()> {
        self.timeline.store.check_writable()?;
        if self.writer.has_pending() {
            return Err(Error::Uncommitted { timeline: self.timeline.name.clone() });
        }
        let layer = self.writer.layer();
        if layer.committed_lsn() < layer.start_lsn() {
            return Ok(());
        }
        if !self.timeline.wait_for_frozen_slot() {
            return Err(self.timeline.stalled());
        }
        self.timeline.roll(&mut self.writer);
        Ok(())
    }

    /// Begins to import images at `lsn`, straight into image layers: for a base backup.
    ///
    /// Everything in memory is flushed first.
    ///
    /// # Errors
    /// [`Error::ImportBehind`] when the timeline holds anything at or above `lsn`; [`Error::Uncommitted`];
    /// [`Error::FlushFailed`]; [`Error::Closed`].
    pub fn import_images(&mut self, lsn: Lsn) -> Result<ImageImport<'_>> {
        self.timeline.store.check_writable()?;
        if self.writer.has_pending() {
            return Err(Error::Uncommitted { timeline: self.timeline.name.clone() });
        }
        let last = self.writer.last_lsn();
        if lsn <= last || lsn == Lsn::MAX {
            return Err(Error::ImportBehind { lsn, last_record_lsn: last });
        }
        if !self.writer.layer().is_empty() {
            self.roll()?;
        }
        self.timeline.wait_flushed()?;
        Ok(ImageImport::new(self.timeline, &mut self.writer, lsn))
    }

    /// The Lsn of the last append, committed or not.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.writer.last_lsn()
    }

    /// An open layer that could not be rolled may grow to twice its size, and no further.
    #[inline]
    fn check_room(&mut self) -> Result<()> {
        let max = self.timeline.store.options.open_layer_size_max_bytes;
        if self.writer.used_bytes() >= 2 * max && !self.writer.has_pending() {
            return self.make_room();
        }
        Ok(())
    }

    /// Rolls after all: flushing may work again, or the layer is full of what was taken back, which no commit has rolled.
    #[cold]
    fn make_room(&mut self) -> Result<()> {
        self.timeline.store.check_writable()?;
        if !self.timeline.wait_for_frozen_slot() {
            return Err(self.timeline.stalled());
        }
        self.timeline.roll(&mut self.writer);
        Ok(())
    }
}

impl Drop for WriteLease<'_> {
    fn drop(&mut self) {
        self.writer.abort();
        // The lock itself is given back right after this; whoever takes the lease now waits for it.
        self.timeline.leased.store(false, Ordering::Release);
    }
}

impl fmt::Debug for WriteLease<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteLease")
            .field("timeline", &self.timeline.name)
            .field("open", &*self.writer)
            .finish()
    }
}
