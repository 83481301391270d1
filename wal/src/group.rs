//! Group commit: one sync serves all who wait for it.
//!
//! A thread that waits and finds no sync under way does one, for everything that was appended by
//! then; the others wait for it and check again. No thread waits for a thread of the log's own. A
//! future, which cannot wait, leaves a waker and asks the background for a sync.
//!
//! Protocol, checked by `loom` in `tests`:
//!
//! 1. `synced` only grows, and only after a sync that began when everything up to it was written.
//! 2. A sync that fails, or panics, is the last: every waiter, now and later, gets its cause.
//! 3. No thread waits without a sync under way, so none waits for ever.

use std::{
    sync::Arc,
    task::{Poll, Waker},
};

use crate::{Error, Result, format::Position};

#[cfg(not(all(test, loom)))]
mod primitives {
    pub(super) use parking_lot::{Condvar, Mutex, MutexGuard};

    pub(super) fn wait<'m, T>(
        changed: &Condvar,
        mut guard: MutexGuard<'m, T>,
    ) -> MutexGuard<'m, T> {
        changed.wait(&mut guard);
        guard
    }
}

#[cfg(all(test, loom))]
mod primitives {
    pub(super) use loom::sync::{Condvar, MutexGuard};

    #[derive(Debug, Default)]
    pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Mutex<T> {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    pub(super) fn wait<'m, T>(changed: &Condvar, guard: MutexGuard<'m, T>) -> MutexGuard<'m, T> {
        changed.wait(guard).unwrap()
    }
}

use primitives::{Condvar, Mutex, MutexGuard, wait};

/// The waiters of a log and how far it is synced.
#[derive(Debug)]
pub(crate) struct Group {
    state: Mutex<State>,
    /// A sync has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Everything before it is durable.
    synced: Position,
    syncing: bool,
    ended: Option<LogEnd>,
    /// Futures, and what they wait for.
    wakers: Vec<(Position, Waker)>,
    syncs: u64,
}

/// Why no more syncs are done.
#[derive(Clone, Debug)]
enum LogEnd {
    Failed(Arc<str>),
    Closed,
}

impl LogEnd {
    fn error(&self) -> Error {
        match self {
            LogEnd::Failed(cause) => Error::Failed { cause: cause.clone() },
            LogEnd::Closed => Error::Closed,
        }
    }
}

/// One thread's turn to sync. Ends it when dropped, also after a panic.
struct LeaderTurn<'g> {
    group: &'g Group,
    outcome: std::result::Result<Position, Arc<str>>,
}

impl Drop for LeaderTurn<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        debug_assert!(state.syncing, "one sync at a time");
        state.syncing = false;
        state.syncs += 1;
        match &self.outcome {
            Ok(end) => {
                debug_assert!(*end >= state.synced, "what is synced stays so");
                state.synced = state.synced.max(*end);
            }
            Err(cause) => {
                state.ended.get_or_insert_with(|| LogEnd::Failed(cause.clone()));
            }
        }
        let (synced, has_ended) = (state.synced, state.ended.is_some());
        let is_done = |waiting: &(Position, Waker)| has_ended || waiting.0 <= synced;
        let done: Vec<_> = state.wakers.extract_if(.., |waiting| is_done(waiting)).collect();
        drop(state);
        self.group.changed.notify_all();
        done.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl Group {
    /// Everything before `synced` is durable already.
    pub(crate) fn new(synced: Position, failed: Option<Arc<str>>) -> Group {
        let state = State { synced, ended: failed.map(LogEnd::Failed), ..State::default() };
        Group { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until everything before `position` is durable. Calls `sync`, which returns how far it
    /// went, if no other thread is syncing.
    pub(crate) fn wait_for(
        &self,
        position: Position,
        sync: impl Fn() -> std::result::Result<Position, Arc<str>>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            if state.synced >= position {
                return Ok(());
            }
            if let Some(ended) = &state.ended {
                return Err(ended.error());
            }
            if state.syncing {
                if cfg!(planted_bug = "acknowledged_early") {
                    return Ok(());
                }
                state = wait(&self.changed, state);
                continue;
            }
            state.syncing = true;
            drop(state);
            let mut leading = LeaderTurn { group: self, outcome: Err("a sync panicked".into()) };
            leading.outcome = sync();
            debug_assert!(
                leading.outcome.as_ref().map_or(true, |end| *end >= position),
                "a sync covers what was appended before it began"
            );
            drop(leading);
            state = self.state.lock();
        }
    }

    /// Whether everything before `position` is durable; if that is not known yet, `waker` is woken
    /// when it is.
    pub(crate) fn poll(&self, position: Position, waker: &Waker) -> Poll<Result<()>> {
        let mut state = self.state.lock();
        if state.synced >= position {
            return Poll::Ready(Ok(()));
        }
        if let Some(ended) = &state.ended {
            return Poll::Ready(Err(ended.error()));
        }
        if !state.wakers.iter().any(|(at, other)| *at == position && other.will_wake(waker)) {
            state.wakers.push((position, waker.clone()));
        }
        Poll::Pending
    }

    /// The furthest that a future waits for.
    pub(crate) fn wanted(&self) -> Option<Position> {
        self.state.lock().wakers.iter().map(|(position, _)| *position).max()
    }

    /// From now on everything fails, with the cause of the first failure.
    pub(crate) fn fail(&self, cause: Arc<str>) -> Error {
        self.end(self.state.lock(), LogEnd::Failed(cause))
    }

    /// As [`Group::fail`] because it is closed, once no sync is under way.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        while state.syncing {
            state = wait(&self.changed, state);
        }
        self.end(state, LogEnd::Closed);
    }

    fn end(&self, mut state: MutexGuard<'_, State>, why: LogEnd) -> Error {
        let error = state.ended.get_or_insert(why).error();
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.changed.notify_all();
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
        error
    }

    /// Why everything fails, if something has failed.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        match &self.state.lock().ended {
            Some(LogEnd::Failed(cause)) => Some(cause.clone()),
            Some(LogEnd::Closed) | None => None,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.state.lock().ended.as_ref().map_or(Ok(()), |ended| Err(ended.error()))
    }

    /// How far the log is synced, and how many syncs that took.
    pub(crate) fn synced(&self) -> (Position, u64) {
        let state = self.state.lock();
        (state.synced, state.syncs)
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::{
        sync::{
            Arc as LoomArc,
            atomic::{AtomicU64, Ordering},
        },
        thread,
    };

    use super::*;

    /// A log that is a number: what was appended, and what is durable of it.
    struct Appended {
        group: Group,
        end: AtomicU64,
        durable: AtomicU64,
    }

    fn sync(appended: &Appended) -> std::result::Result<Position, Arc<str>> {
        let end = appended.end.load(Ordering::Acquire);
        appended.durable.store(end, Ordering::Release);
        Ok(Position(end))
    }

    fn appended() -> LoomArc<Appended> {
        LoomArc::new(Appended {
            group: Group::new(Position(0), None),
            end: AtomicU64::new(0),
            durable: AtomicU64::new(0),
        })
    }

    /// Every interleaving with at most three preemptions.
    fn model(check: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(check);
    }

    #[test]
    fn nobody_is_told_before_it_is_durable_and_nobody_waits_for_ever() {
        model(|| {
            let log = appended();
            let commit = |log: &Appended| {
                let position = log.end.fetch_add(1, Ordering::AcqRel) + 1;
                log.group.wait_for(Position(position), || sync(log)).unwrap();
                assert!(log.durable.load(Ordering::Acquire) >= position, "told too early");
            };
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let log = log.clone();
                    thread::spawn(move || commit(&log))
                })
                .collect();
            commit(&log);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn a_failure_reaches_everybody_who_is_not_durable() {
        model(|| {
            let log = appended();
            let commit = |log: &Appended| {
                let position = log.end.fetch_add(1, Ordering::AcqRel) + 1;
                log.group.wait_for(Position(position), || Err("planted".into())).is_err()
            };
            let other = {
                let log = log.clone();
                thread::spawn(move || commit(&log))
            };
            assert!(commit(&log));
            assert!(other.join().unwrap());
            assert_eq!(log.durable.load(Ordering::Acquire), 0);
        });
    }

    #[test]
    fn a_future_is_woken_by_whoever_syncs() {
        model(|| {
            let log = appended();
            log.end.store(1, Ordering::Release);
            let other = {
                let log = log.clone();
                thread::spawn(move || log.group.wait_for(Position(1), || sync(&log)).unwrap())
            };
            loom::future::block_on(std::future::poll_fn(|context| {
                log.group.poll(Position(1), context.waker())
            }))
            .unwrap();
            other.join().unwrap();
        });
    }
}
