//! [`Wakeup`]: how a thread of the store learns that there is work, or that it must end.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How a thread of the store is told that there is work, or that it shall end.
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
    /// Tells the thread that there is work. False: it was told to end and may not do it.
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

    /// Waits for work, at most as long as `retry` says if it says so; false: the thread shall end.
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
