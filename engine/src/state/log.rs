//! The store's log as its timelines use it. It is begun with the first commit and freed as flushes
//! complete; flushes are requested to keep it within its bound.

use std::{path::PathBuf, sync::Arc};

use pagestrata_layers::{Lsn, OpenLayer, manifest::edit::Edit};
use pagestrata_wal::{Log, LogOptions, Position, ReplayOutcome};

use crate::{
    error::{Error, Result},
    options::{Background, Durability},
    state::{store::StoreShared, wakeup::Wakeup},
};

/// A commit is cut into records of about a quarter of a segment, and at most this long, in bytes:
/// so segments are filled well, and what a replay reads at once fits in a core's cache.
const PART_BYTES_MAX: u64 = 256 << 10;

pub(crate) const LOG_NAME: &str = "log";

impl StoreShared {
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.join(LOG_NAME)
    }

    /// Continues the log at the end of its replay. Called once, before the store is shared.
    pub(crate) fn set_log(self: &Arc<Self>, replayed: ReplayOutcome) {
        let wake = |which: fn(&StoreShared) -> &Wakeup| -> Option<Arc<dyn Fn() + Send + Sync>> {
            let weak = Arc::downgrade(self);
            let wake = move || {
                if let Some(shared) = weak.upgrade() {
                    let _ = which(&shared).wake();
                }
            };
            match self.options.background {
                Background::Threads => Some(Arc::new(wake)),
                Background::Callers => None,
            }
        };
        let options = LogOptions {
            store: self.id,
            segment_size: self.options.log_segment_size_bytes,
            free_max_bytes: self.options.log_size_max_bytes / 4,
            segments_written: self.options.durability == Durability::Synced,
            wake: wake(|shared| &shared.logger),
            wake_preparer: wake(|shared| &shared.preparer),
        };
        let log = Log::new(self.storage.clone(), &self.log_dir(), options, replayed);
        for timeline in self.all_timelines() {
            log.free_below(None, timeline.number, timeline.disk_consistent_lsn());
        }
        assert!(self.log.set(Arc::new(log)).is_ok(), "a store takes up its log once");
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        self.log.get().expect("set when the store was opened")
    }

    /// Returns an error if the store is closed or read-only.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        self.read_only_cause().map_or(Ok(()), |cause| Err(Error::ReadOnly { cause }))
    }

    /// Returns why the store is read-only, if it is.
    pub(crate) fn read_only_cause(&self) -> Option<String> {
        // While the store is being opened there is no log yet that could have failed.
        self.log.get()?.failure().map(|cause| cause.to_string())
    }

    /// Writes the uncommitted values of a layer to the log, as the commit of `lsn`. Returns `None`
    /// if the store's durability needs no log.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Layers`], [`Error::ReadOnly`]: the values are not committed.
    pub(crate) fn log_commit(
        &self,
        timeline: u64,
        writer: &OpenLayer,
        lsn: Lsn,
    ) -> Result<Option<Position>> {
        if self.options.durability == Durability::External {
            return Ok(None);
        }
        self.begin_log()?;
        self.settle_edits()?;
        let log = self.log();
        let mut end = Position::default();
        let part_bytes = (self.options.log_segment_size_bytes / 4).min(PART_BYTES_MAX) as usize;
        debug_assert!(part_bytes > 0 && !self.reads_only);
        let written = writer.write_records(part_bytes, |payload, is_last| -> Result<()> {
            end = match is_last {
                true => log.append(timeline, lsn, payload)?,
                false => log.append_part(timeline, lsn, payload)?,
            };
            Ok(())
        });
        if written.is_err() {
            log.give_up(timeline);
        }
        written.map(|()| Some(end))
    }

    /// Creates the first segment if there is none, and records it in the manifest: from then on it
    /// must exist.
    pub(crate) fn begin_log(&self) -> Result<()> {
        if self.log_begun.get().is_some() {
            return Ok(());
        }
        let _one_at_a_time = self.log_beginning.lock();
        if self.log_begun.get().is_none() {
            let start = self.log().start()?;
            self.append_edits(&[Edit::LogStart(start)])?;
            let _ = self.log_begun.set(());
        }
        Ok(())
    }

    /// Returns where the log will begin once everything of a timeline up to `lsn` is in layer
    /// files.
    pub(crate) fn log_start_after(&self, timeline: u64, lsn: Lsn) -> Option<u32> {
        self.log.get()?.start_after(timeline, lsn)
    }

    /// Frees the log below `start`, which the manifest has recorded, after everything of a timeline
    /// up to `lsn` has reached layer files.
    pub(crate) fn free_log(&self, start: Option<u32>, timeline: u64, lsn: Lsn) {
        if let Some(log) = self.log.get() {
            log.free_below(start, timeline, lsn);
            // So that it checks, after a while, whether the freed segments are needed again.
            self.preparer.wake();
        }
    }
}
