//! Room in the log: commits wait for it, and flushes that free it are asked for.

use std::sync::Arc;

use pagestrata_layers::Lsn;

use crate::{
    error::{Error, Result},
    options::Durability,
    state::{store::StoreShared, timeline::TimelineShared},
};

impl StoreShared {
    /// Whether the log is so long that layers have to be flushed to free it.
    fn is_log_overdue(&self) -> bool {
        self.log.get().is_some_and(|log| log.bytes() > self.options.log_size_max_bytes / 2)
    }

    /// The timelines that the oldest segment waits for, and up to which Lsn each has to be flushed.
    fn overdue_timelines(&self) -> Vec<(Arc<TimelineShared>, Lsn)> {
        let needs = self.log().oldest_needs();
        let lsn_of = |number| needs.iter().find(|need| need.0 == number).map(|need| need.1);
        let all = self.all_timelines().into_iter();
        all.filter_map(|timeline| lsn_of(timeline.number).map(|lsn| (timeline, lsn))).collect()
    }

    /// Rolls the timelines that keep the log from being freed, but for those whose write lease is
    /// taken: they roll at their next commit.
    pub(crate) fn roll_overdue(&self) {
        if self.is_log_overdue() {
            for (timeline, lsn) in self.overdue_timelines() {
                // What cannot be frozen now is when the next flush has made room.
                timeline.roll_unless_leased(lsn);
            }
        }
    }

    /// Before a commit of the timeline `own`: as long as the log has its full length, waits for
    /// flushes that free some of it.
    ///
    /// Where this timeline's own open layer has to be flushed, whoever else's too, the commit goes
    /// on: the layer cannot be rolled before the commit, and is right after it
    /// ([`StoreShared::is_overdue`]).
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
                // Until also the log is freed: that is the last thing a flush does.
                drop(timeline.flushing.lock());
            }
        }
        Ok(())
    }

    /// After a commit: whether the open layer of its timeline, which begins at `start`, keeps the
    /// log from being freed.
    pub(crate) fn is_overdue(&self, timeline: u64, start: Lsn) -> bool {
        if !self.is_log_overdue() {
            return false;
        }
        // Those that nobody writes to now are rolled by whoever flushes.
        self.wake_flusher();
        self.log().oldest_needs().iter().any(|&(of, lsn)| of == timeline && start <= lsn)
    }
}
