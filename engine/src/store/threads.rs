//! The store's threads, and what stands in for them when it has none: how work is asked for, done,
//! and ended.

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

/// For so long nothing must have been appended to a log until it gives its spare segments back.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// How often it is looked, while there is something to give back.
const IDLE_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many spare segments an idle log keeps.
const IDLE_SPARES_MAX: u64 = 1;

/// Since when nothing was appended to the log.
#[derive(Debug, Default)]
struct IdleLog {
    appended_bytes: u64,
    since: Duration,
}

/// What is to be done about spare segments.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// There are no more than an idle log keeps.
    Nothing,
    /// To look again.
    Later,
    /// To remove them.
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

/// Does something when its thread panics, which would be a defect: nobody waits for ever for what
/// the thread has left.
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
    /// One layer of each timeline at a time: a busy writer of one does not keep those of the others
    /// waiting. A timeline whose flush has failed has a time of its own for its next try, whatever
    /// wakes the thread meanwhile.
    fn flush_until_stopped(&self) {
        let _told = OnPanic(|| {
            // Before the list is taken: a timeline that is not in it yet sees this when it is put
            // there.
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

    /// Frees what nobody holds any more, each time that somebody has let go.
    ///
    /// No timer: a layer that is held for ever costs its memory and nothing else. All who hold a
    /// version of the map or a layer in memory let go first and wake then: a reader when it pins
    /// anew, unpins or is dropped, a snapshot, a detached version, a look at the map, a flush.
    /// Guards, scans and what reads return borrow from one of these.
    fn reclaim_until_stopped(&self) {
        while self.reclaimer.wait(None) {
            self.all_timelines().iter().for_each(|timeline| timeline.reclaim());
        }
    }

    /// Prepares segments of the log ahead. On a thread of its own: commits that are waited for do
    /// not wait for a segment to be made, and the next segment does not wait for a sync. Gives
    /// spare segments back when nothing was appended for a while.
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

    /// Syncs for futures, when asked; and in intervals if the durability is
    /// [`Durability::Buffered`].
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
                // Everybody who writes is told, and `stats` tells too.
                #[cfg(feature = "tracing")]
                tracing::error!(%error, "the log cannot be synced: the store is read-only");
                drop(error);
                return;
            }
        }
    }
}
