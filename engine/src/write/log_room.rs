//! Space in the log: commits wait for it, and request the flushes that free it.

use std::sync::Arc;

use pagestrata_layers::Lsn;

use crate::{
    error::{Error, Result},
    options::Durability,
    state::{store::StoreShared, timeline::TimelineShared},
};

impl StoreShared {
    /// Whether the log is so long that layers must be flushed to free it.
    fn is_log_overdue(&self) -> bool {
        self.log.get().is_some_and(|log| log.bytes() > self.options.log_size_max_bytes / 2)
    }

    /// Returns the timelines that the oldest segment waits for, and the Lsn up to which each must
    /// be flushed.
    fn overdue_timelines(&self) -> Vec<(Arc<TimelineShared>, Lsn)> {
        let needs = self.log().oldest_needs();
        let lsn_of = |number| needs.iter().find(|need| need.0 == number).map(|need| need.1);
        let all = self.all_timelines().into_iter();
        all.filter_map(|timeline| lsn_of(timeline.number).map(|lsn| (timeline, lsn))).collect()
    }

    /// Rolls the timelines that keep the log from being freed, except those whose write lease is
    /// held: they roll at their next commit.
    pub(crate) fn roll_overdue(&self) {
        if self.is_log_overdue() {
            for (timeline, lsn) in self.overdue_timelines() {
                // A layer that cannot be frozen now is frozen when the next flush has made room.
                timeline.roll_unless_leased(lsn);
            }
        }
    }

    /// Called before a commit of the timeline `own`: while the log has its maximum length, waits
    /// for flushes that free some of it.
    ///
    /// If this timeline's own open layer must be flushed too, the commit proceeds: the layer cannot
    /// be rolled before the commit, and is rolled right after it ([`StoreShared::is_overdue`]).
    pub(crate) fn wait_for_log_room(&self, own: u64) -> Result<()> {
        debug_assert_ne!(self.options.durability, Durability::External);
        while self.log().bytes() > self.options.log_size_max_bytes {
            let timelines = self.overdue_timelines();
            if timelines.is_empty() {
                return Ok(());
            }
            if let Some((own, lsn)) = timelines.iter().find(|(of, _)| of.number == own) {
                own.check_flushing()?;
                own.wait_flushed()?;
                if own.disk_consistent_lsn() < *lsn {
                    return Ok(());
                }
            }
            for (timeline, lsn) in timelines {
                timeline.check_flushing()?;
                while !timeline.roll_unless_leased(lsn) {
                    timeline.wait_flushed()?;
                }
                timeline.wait_flushed()?;
                if timeline.disk_consistent_lsn() < lsn {
                    let (bytes, timeline) = (self.log().bytes(), timeline.name.clone());
                    return Err(Error::LogFull { bytes, timeline });
                }
                // Wait until the log is freed too, which a flush does last.
                drop(timeline.flushing.lock());
            }
        }
        Ok(())
    }

    /// Called after a commit: whether the open layer of its timeline, which begins at `start`,
    /// keeps the log from being freed.
    pub(crate) fn is_overdue(&self, timeline: u64, start: Lsn) -> bool {
        if !self.is_log_overdue() {
            return false;
        }
        // The flush thread rolls timelines without a writer.
        self.wake_flusher();
        self.log().oldest_needs().iter().any(|&(of, lsn)| of == timeline && start <= lsn)
    }
}
