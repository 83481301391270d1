//! [`CloseFuture`]: closes a store from a task.

use std::{
    fmt,
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    task::{Context, Poll, Waker},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use pagestrata_layers::{Lsn, storage::ProcessMark};
use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    options::Background,
    reports::CloseReport,
    store::{Store, timeline::Timeline},
};

/// The future of [`Store::close_async`].
///
/// A thread that is started for it closes the store, so that syncs and waits of the close block no
/// task. The future is `Send` and `'static` and needs no particular executor. With
/// [`Background::Callers`](crate::Background::Callers), or if no thread can be started, the first
/// poll closes the store, and blocks.
///
/// Dropping the future only stops the waiting: the thread still closes the store, and the directory
/// cannot be opened again before that. If there is no thread, dropping the future before the first
/// poll is the same as dropping the [`Store`].
#[must_use = "the close's outcome is lost unless it is awaited"]
pub struct CloseFuture {
    /// The process that closes.
    owner: ProcessMark,
    state: State,
}

enum State {
    /// The next poll takes the store and closes it.
    Here(Option<Box<Store>>, Duration),
    /// Taken by the poll that finds the thread ended.
    Thread(Arc<EndSignal>, Option<JoinHandle<Option<Result<CloseReport>>>>),
}

/// Whether the thread has ended, and the task to wake when it has.
#[derive(Default)]
struct EndSignal(Mutex<(bool, Option<Waker>)>);

/// Held by the thread and dropped when it ends, even by a panic.
struct TellEnd(Arc<EndSignal>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        let waker = {
            let mut ending = self.0.0.lock();
            ending.0 = true;
            ending.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl CloseFuture {
    fn of(state: State) -> CloseFuture {
        CloseFuture { owner: ProcessMark::current(), state }
    }

    /// If `is_blocking`, the first poll closes the store; otherwise a thread does.
    pub(crate) fn new(store: Store, is_blocking: bool, grace: Duration) -> CloseFuture {
        if is_blocking {
            return CloseFuture::of(State::Here(Some(Box::new(store)), grace));
        }
        // Shared with the closure, so that the store is not lost if the thread cannot be started.
        let slot = Arc::new(Mutex::new(Some(Box::new(store))));
        let ending = Arc::new(EndSignal::default());
        let spawned = Builder::new().name("pagestrata-close".to_owned()).spawn({
            let (slot, tell) = (slot.clone(), TellEnd(ending.clone()));
            move || {
                let _tell = tell;
                let store = slot.lock().take();
                store.map(|store| store.close(grace))
            }
        });
        CloseFuture::of(match spawned {
            Ok(thread) => State::Thread(ending, Some(thread)),
            Err(_) => State::Here(slot.lock().take(), grace),
        })
    }
}

impl Future for CloseFuture {
    type Output = Result<CloseReport>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<CloseReport>> {
        if !self.owner.is_current() {
            return Poll::Ready(Err(Error::Closed));
        }
        match &mut self.state {
            State::Here(store, grace) => {
                let store = store.take().expect("polled after it was ready");
                Poll::Ready(store.close(*grace))
            }
            State::Thread(ending, thread) => {
                {
                    let mut ending = ending.0.lock();
                    if !ending.0 {
                        ending.1 = Some(context.waker().clone());
                        return Poll::Pending;
                    }
                }
                let thread = thread.take().expect("polled after it was ready");
                // The thread has nothing left to do but to end.
                match thread.join() {
                    Ok(outcome) => Poll::Ready(outcome.expect("the store was given to the thread")),
                    Err(panic) => resume_unwind(panic),
                }
            }
        }
    }
}

impl Drop for CloseFuture {
    fn drop(&mut self) {
        if let State::Thread(_, thread) = &mut self.state
            && !self.owner.is_current()
        {
            // It is not a thread of this process, and cannot even be detached.
            std::mem::forget(thread.take());
        }
    }
}

impl fmt::Debug for CloseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseFuture").finish_non_exhaustive()
    }
}

/// Sleep between checks of whether a commit in progress has ended.
const COMMIT_NAP: Duration = Duration::from_micros(100);

impl Store {
    /// Flushes everything committed, syncs the log, waits up to `grace` for readers and snapshots
    /// to be dropped, and closes.
    ///
    /// It never waits longer than `grace` for a reader: the remaining ones are in the report and
    /// can still read, until another open of the directory removes the files that they read. Memory
    /// of retired layers is freed; a pinned layer is freed with its pin.
    ///
    /// # Errors
    /// [`Error::FlushFailed`], [`Error::ReadOnly`]: acknowledged commits are in the log; without a
    /// log ([`Durability::External`](crate::Durability::External)) what was not flushed is lost.
    /// The store is closed in either case. [`Error::Closed`] in a forked child: nothing is done.
    pub fn close(mut self, grace: Duration) -> Result<CloseReport> {
        if self.shared.is_inherited() {
            return Err(Error::Closed);
        }
        let mut report = CloseReport::default();
        let mut failed = Ok(());
        // From here on no commit is accepted that would be neither flushed nor reported. A commit
        // that has found the store open is waited for, see `CommitUnderWay`.
        self.shared.closed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        for timeline in self.timelines() {
            while timeline.0.committing.load(Ordering::Acquire) {
                std::thread::sleep(COMMIT_NAP);
            }
        }
        for timeline in self.timelines() {
            if let Err(error) = timeline.0.flush_now() {
                failed = failed.and(Err(error));
            }
            if timeline.last_record_lsn() > timeline.disk_consistent_lsn().max(timeline.start_lsn())
            {
                report.leases_held.push(timeline.name().to_owned());
            }
            let lsn = timeline.disk_consistent_lsn().to_string();
            report.disk_consistent_lsns.push((timeline.name().to_owned(), lsn));
        }
        debug_assert_eq!(report.disk_consistent_lsns.len(), self.timelines().len());
        // Covers what could not be flushed.
        failed = failed.and(self.shared.log().sync().map_err(Error::from));
        // A flush frees the log last, when its waiters may have continued already.
        self.timelines().iter().for_each(|timeline| drop(timeline.0.flushing.lock()));
        self.shared.log().give_back_spares();
        let clock = self.shared.options.clock;
        let (began, nap) = (clock.now(), Duration::from_millis(1).min(grace));
        let mut napped = Duration::ZERO;
        let timelines = self.timelines();
        let is_any_held = || timelines.iter().any(|timeline| timeline.0.pins.is_any_held());
        // Naps count too: the clock is the embedder's and may stand still.
        let waited = |napped: Duration| napped.max(clock.now().saturating_sub(began));
        while is_any_held() && waited(napped) < grace {
            std::thread::sleep(nap);
            napped = napped.saturating_add(nap);
        }
        report.pins = timelines.iter().flat_map(Timeline::pins).collect();
        self.stop();
        failed.map(|()| report)
    }

    /// As [`Store::close`], for a task: a thread that is started for it closes the store. No commit
    /// is accepted after the call. Dropping the future does not stop the close; see
    /// [`CloseFuture`].
    ///
    /// ```
    /// # use pagestrata::{CloseReport, Result, Store};
    /// # use std::time::Duration;
    /// async fn shut_down(store: Store) -> Result<CloseReport> {
    ///     store.close_async(Duration::from_secs(5)).await // no runtime of ours is needed
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Store::close`].
    ///
    /// # Panics
    /// The future panics if closing panicked, with the same payload.
    pub fn close_async(self, grace: Duration) -> CloseFuture {
        self.shared.closed.store(true, Ordering::Release);
        let is_blocking =
            self.shared.options.background == Background::Callers || self.shared.is_inherited();
        CloseFuture::new(self, is_blocking, grace)
    }

    pub(super) fn stop(&mut self) {
        let shared = &self.shared;
        if shared.is_inherited() {
            // The threads are the parent's, and the locks may be held there. Not even detached:
            // they are not threads of this process.
            self.threads.drain(..).for_each(std::mem::forget);
            return;
        }
        shared.closed.store(true, Ordering::Release);
        shared.flusher.stop();
        shared.reclaimer.stop();
        shared.compactor.stop();
        shared.logger.stop();
        shared.preparer.stop();
        shared.access.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                #[cfg(feature = "tracing")]
                tracing::error!("a background thread of the store panicked");
            }
        }
        debug_assert!(self.threads.is_empty(), "nothing runs in the background any more");
        // Taken out first: a waker may call back into the store.
        let timelines = std::mem::take(&mut *shared.timelines.lock());
        for timeline in timelines {
            timeline.stop_flushing();
            timeline.waiters.wake_up_to(Lsn::MAX);
            // Reclaims what was released before the reclaimer was told to end. Whatever is released
            // later is freed by its holder.
            timeline.reclaim();
        }
        shared.pool.close();
        shared.fetchers.stop();
        // These locks wait for a commit, a sync or an edit in progress; there are no others before
        // the lock of the directory is released.
        if let Some(log) = shared.log.get() {
            log.close();
        }
        *shared.manifest.lock() = None;
        // No layer file is made or removed from here on.
        *shared.owns_directory.write() = false;
    }
}
