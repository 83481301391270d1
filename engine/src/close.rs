//! [`CloseFuture`]: a store that is closed while a task goes on.

use std::{
    fmt,
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use pagestrata_layers::storage::ProcessMark;
use parking_lot::Mutex;

use crate::{Background, CloseReport, Error, Result, Store};

/// The future of [`Store::close_async`].
///
/// A thread that was started for it closes the store: syncs and waits of a close block no task. `Send` and `'static`; it
/// needs no particular executor. With [`Background::Callers`](crate::Background::Callers), or where no thread can be
/// started, the first poll closes the store, and blocks.
///
/// Dropping it stops waiting and nothing else: the thread closes the store all the same, and only then can the directory be
/// opened again. Where there is no thread, dropping it before the first poll is dropping the [`Store`].
#[must_use = "the close's outcome is lost unless it is awaited"]
pub struct CloseFuture {
    state: State,
    /// The process whose thread closes the store.
    owner: ProcessMark,
}

enum State {
    /// The next poll closes it. Taken by that poll.
    Here(Option<Box<Store>>, Duration),
    /// Taken by the poll that finds it ended.
    Thread(Arc<Ending>, Option<JoinHandle<Option<Result<CloseReport>>>>),
}

/// Whether the thread has ended, and the task to wake when it has.
#[derive(Default)]
struct Ending(Mutex<(bool, Option<Waker>)>);

/// Held by the thread; dropped at its end, also when it panics.
struct TellEnd(Arc<Ending>);

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
        CloseFuture { state, owner: ProcessMark::current() }
    }

    pub(crate) fn new(store: Store, background: Background, grace: Duration) -> CloseFuture {
        if background == Background::Callers {
            return CloseFuture::of(State::Here(Some(Box::new(store)), grace));
        }
        // Shared with the closure, so that the store survives a thread that cannot be started.
        let slot = Arc::new(Mutex::new(Some(Box::new(store))));
        let ending = Arc::new(Ending::default());
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
                // It has nothing left to do but to end.
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
            // A thread of the parent's, of which a forked child knows nothing.
            std::mem::forget(thread.take());
        }
    }
}

impl fmt::Debug for CloseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseFuture").finish_non_exhaustive()
    }
}
