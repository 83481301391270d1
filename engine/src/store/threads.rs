//! The store's threads, and the calls that replace them when it has none.

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    error::{Error, Result},
    options::{Background, Durability},
    state::store::StoreShared,
};

/// A log without appends for this long releases its spare segments.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// Interval between checks, while there are segments to release.
const IDLE_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Number of spare segments that an idle log keeps.
const IDLE_SPARES_MAX: u64 = 1;

/// Since when nothing was appended to the log.
#[derive(Debug, Default)]
struct IdleLog {
    appended_bytes: u64,
    since: Duration,
}

/// Decision about spare segments.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// There are no more than an idle log keeps.
    Nothing,
    /// Check again later.
    Later,
    /// Remove them.
    GiveBack,
}

impl IdleLog {
    fn look(&mut self, now: Duration, appended_bytes: u64, spares: u64) -> Look {
        if appended_bytes != self.appended_bytes {
            (self.appended_bytes, self.since) = (appended_bytes, now);
        }
        if spares <= IDLE_SPARES_MAX {
            Look::Nothing
        } else if now.saturating_sub(self.since) < IDLE_AFTER {
            Look::Later
        } else {
            Look::GiveBack
        }
    }
}

/// Runs a function if its thread panics, which would be a defect, so that no waiter waits forever.
struct OnPanic<F: Fn()>(F);

impl<F: Fn()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

/// Starts the threads that the options ask for.
pub(crate) fn spawn_threads(
    shared: &Arc<StoreShared>,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<()> {
    if shared.options.background == Background::Callers {
        return Ok(());
    }
    let mut spawn = |name: &str, work: fn(&StoreShared)| -> Result<()> {
        let shared = shared.clone();
        let spawned =
            std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared));
        threads.push(spawned.map_err(Error::Thread)?);
        Ok(())
    };
    if !shared.reads_only {
        spawn("pagestrata-flush", StoreShared::flush_until_stopped)?;
        if shared.options.compaction_fan_in > 0 {
            spawn("pagestrata-compact", StoreShared::compact_until_stopped)?;
            // What was flushed before may be worth a merge.
            let _ = shared.compactor.wake();
        }
    }
    spawn("pagestrata-reclaim", StoreShared::reclaim_until_stopped)?;
    if shared.options.residency_interval().is_some() {
        spawn("pagestrata-watch", |shared| {
            let interval = shared.options.residency_interval().unwrap_or_default();
            shared.access.watch_until_stopped(interval, shared.options.clock.0);
        })?;
    }
    if shared.options.durability != Durability::External && !shared.reads_only {
        spawn("pagestrata-log", StoreShared::log_until_stopped)?;
        spawn("pagestrata-segments", StoreShared::prepare_until_stopped)?;
    }
    Ok(())
}

impl StoreShared {
    /// Flushes one layer of each timeline in turn, so that a busy writer of one does not delay the
    /// others. A timeline whose flush failed has its own retry time, whatever else wakes the
    /// thread.
    fn flush_until_stopped(&self) {
        let _told = OnPanic(|| {
            // Before the list is taken: a timeline that is not in the list yet sees this when it is
            // added.
            self.flusher_panicked.store(true, Ordering::Relaxed);
            self.all_timelines().iter().for_each(|timeline| timeline.stop_flushing());
        });
        let mut retry = None;
        while self.flusher.wait(retry) {
            self.roll_overdue();
            let delays =
                self.all_timelines().into_iter().filter_map(|timeline| timeline.flush_if_due());
            retry = delays.min();
        }
    }

    /// Merges layer files of each timeline, after each flush.
    fn compact_until_stopped(&self) {
        let mut retry = None;
        while self.compactor.wait(retry) {
            let delays =
                self.all_timelines().into_iter().filter_map(|timeline| timeline.compact_if_due());
            retry = delays.min();
        }
    }

    /// Frees what is not held any more, each time that a holder has released something.
    ///
    /// There is no timer: a layer that is held forever costs its memory and nothing else. Every
    /// holder of a map version or in-memory layer releases first and wakes this thread then: a
    /// reader when it pins anew, unpins or is dropped, a snapshot, a detached version, a look at
    /// the map, a flush. Guards, scans and read results borrow from one of these.
    fn reclaim_until_stopped(&self) {
        while self.reclaimer.wait(None) {
            self.all_timelines().iter().for_each(|timeline| timeline.reclaim());
        }
    }

    /// Prepares segments of the log ahead. On its own thread: commits do not wait for the creation
    /// of a segment, and the next segment does not wait for a sync. Releases spare segments when
    /// nothing was appended for a while.
    fn prepare_until_stopped(&self) {
        let panicked = "the thread that prepares the log's segments panicked";
        let _told = OnPanic(|| drop(self.log().fail(panicked)));
        let (mut idle, mut next_look) = (IdleLog::default(), None);
        while self.preparer.wait(next_look) {
            let log = self.log();
            log.prepare();
            let (stats, now) = (log.stats(), self.options.clock.now());
            next_look = match idle.look(now, stats.appended_bytes, stats.spare_segments) {
                Look::Nothing => None,
                Look::Later => Some(IDLE_LOOK_INTERVAL),
                Look::GiveBack => {
                    log.give_back_spares();
                    None
                }
            };
        }
    }

    /// Syncs for futures on request, and at intervals with [`Durability::Buffered`].
    fn log_until_stopped(&self) {
        let _told = OnPanic(|| drop(self.log().fail("the log's thread panicked")));
        let interval = match self.options.durability {
            Durability::Buffered { sync_interval } => Some(sync_interval),
            Durability::Synced | Durability::External => None,
        };
        while self.logger.wait(interval) {
            let log = self.log();
            log.work();
            if interval.is_some()
                && let Err(error) = log.sync()
            {
                // Every writer gets the error, and `stats` reports it too.
                #[cfg(feature = "tracing")]
                tracing::error!(%error, "the log cannot be synced: the store is read-only");
                drop(error);
                return;
            }
        }
    }
}
