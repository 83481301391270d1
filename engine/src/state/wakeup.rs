//! [`Wakeup`]: tells a thread of the store that there is work, or that it must end.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Signal to a thread of the store: there is work, or it must end.
#[derive(Default)]
pub(crate) struct Wakeup {
    state: Mutex<WakeupState>,
    changed: Condvar,
}

#[derive(Default)]
struct WakeupState {
    work: bool,
    stop: bool,
}

impl Wakeup {
    /// Tells the thread that there is work. Returns false if it was told to end and may not do the
    /// work.
    pub(crate) fn wake(&self) -> bool {
        let mut state = self.state.lock();
        state.work = true;
        self.changed.notify_one();
        !state.stop
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_one();
    }

    /// Waits for work, at most for `retry` if given. Returns false if the thread must end.
    pub(crate) fn wait(&self, retry: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        while !state.work && !state.stop {
            match retry {
                None => self.changed.wait(&mut state),
                Some(delay) => {
                    if self.changed.wait_for(&mut state, delay).timed_out() {
                        break;
                    }
                }
            }
        }
        state.work = false;
        !state.stop
    }
}
