//! Wake-up protocol between readers, which mark pages as resident, and the watcher thread, which
//! clears stale marks: no mark is left without a watcher.
//!
//! A reader sets its mark and then checks whether the watcher is awake; the watcher says that it is
//! not, and then checks the marks. Each puts a fence between the two steps, so at least one of them
//! sees the other's. Stopping works the same way: the stopping thread says so, and then clears all
//! marks.
//!
//! Checked by `loom` in `tests`, which is the same code on loom's types.

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};

/// State that readers and the watcher share.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The watcher is going to check every mark that was set before a reader saw this.
    is_awake: AtomicBool,
    /// There is no watcher any more, and no mark may stay.
    is_stopped: AtomicBool,
}

/// What a reader that has set a mark must do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReaderDuty {
    /// Nothing.
    Go,
    /// Wake the watcher.
    Wake,
    /// Clear the mark: there is no watcher any more.
    Forget,
}

impl Default for Handshake {
    fn default() -> Handshake {
        Handshake { is_awake: AtomicBool::new(false), is_stopped: AtomicBool::new(false) }
    }
}

impl Handshake {
    /// Called by a reader after it has set a mark.
    pub(crate) fn remembered(&self) -> ReaderDuty {
        fence(SeqCst);
        match (self.is_stopped.load(Relaxed), self.is_awake.load(Relaxed)) {
            (true, _) => ReaderDuty::Forget,
            (false, true) => ReaderDuty::Go,
            (false, false) => ReaderDuty::Wake,
        }
    }

    /// Called by a reader that wakes the watcher.
    pub(crate) fn wake(&self) {
        self.is_awake.store(true, Relaxed);
    }

    pub(crate) fn is_awake(&self) -> bool {
        self.is_awake.load(Relaxed)
    }

    /// Called by the watcher before it checks the marks.
    pub(crate) fn begin(&self) {
        // Planted for the model: it says so once it has looked.
        if !cfg!(planted_bug = "sleeps_late") {
            self.is_awake.store(false, Relaxed);
        }
        fence(SeqCst);
    }

    /// Called by the watcher after that; `remembers` tells whether a mark is left to check again.
    pub(crate) fn end(&self, remembers: bool) {
        match remembers {
            true => self.is_awake.store(true, Relaxed),
            false if cfg!(planted_bug = "sleeps_late") => self.is_awake.store(false, Relaxed),
            false => {}
        }
    }

    /// Called before all marks are cleared for good.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Relaxed);
        fence(SeqCst);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::{sync::Arc, thread};

    use super::*;

    /// A bit that is remembered by one thread, looked at by another, and perhaps cleared for good
    /// by a third.
    fn model(stops: bool) {
        loom::model(move || {
            let shared = Arc::new((Handshake::default(), AtomicBool::new(false)));
            // The watcher was woken for another mark, which is gone.
            shared.0.wake();
            let of_reader = shared.clone();
            let reader = thread::spawn(move || {
                let (handshake, bit) = &*of_reader;
                bit.store(true, Relaxed);
                match handshake.remembered() {
                    ReaderDuty::Go => {}
                    ReaderDuty::Wake => handshake.wake(),
                    ReaderDuty::Forget => bit.store(false, Relaxed),
                }
            });
            let of_stopper = shared.clone();
            let stopper = stops.then(|| {
                thread::spawn(move || {
                    let (handshake, bit) = &*of_stopper;
                    handshake.stop();
                    bit.store(false, Relaxed);
                })
            });
            let (handshake, bit) = &*shared;
            handshake.begin();
            handshake.end(bit.load(Relaxed));
            reader.join().unwrap();
            match stopper {
                Some(stopper) => {
                    stopper.join().unwrap();
                    assert!(!bit.load(Relaxed), "no mark stays without a watcher");
                }
                None => assert!(
                    !bit.load(Relaxed) || handshake.is_awake(),
                    "the watcher sleeps beside a mark"
                ),
            }
        });
    }

    #[test]
    fn whatever_is_remembered_is_looked_at_again() {
        model(false);
    }

    #[test]
    fn nothing_is_remembered_once_it_is_stopped() {
        model(true);
    }
}
