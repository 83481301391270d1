//! How whoever remembers that something is in memory, and the thread that looks again, do not miss each other.
//!
//! Who remembers sets its bit and then looks whether the thread is awake; the thread says that it is not and then looks at the
//! bits. Each puts a fence between the two, so one of them sees the other: no bit is set that nobody looks at again. The same holds
//! for whoever stops it all: says so, and then clears the bits.
//!
//! Checked by `loom` in `tests`, which is the same code on loom's types.

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};

/// Between who remembers and who looks again.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The thread is going to look at all that was remembered before this was seen.
    is_awake: AtomicBool,
    /// Nobody looks any more, and nothing is remembered.
    is_stopped: AtomicBool,
}

/// What whoever has remembered something has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReaderDuty {
    /// Nothing.
    Go,
    /// Wake the thread.
    Wake,
    /// Forget it: there is no thread any more.
    Forget,
}

impl Default for Handshake {
    fn default() -> Handshake {
        Handshake { is_awake: AtomicBool::new(false), is_stopped: AtomicBool::new(false) }
    }
}

impl Handshake {
    /// After a bit was set.
    pub(crate) fn remembered(&self) -> ReaderDuty {
        fence(SeqCst);
        match (self.is_stopped.load(Relaxed), self.is_awake.load(Relaxed)) {
            (true, _) => ReaderDuty::Forget,
            (false, true) => ReaderDuty::Go,
            (false, false) => ReaderDuty::Wake,
        }
    }

    /// The thread is told to look.
    pub(crate) fn wake(&self) {
        self.is_awake.store(true, Relaxed);
    }

    pub(crate) fn is_awake(&self) -> bool {
        self.is_awake.load(Relaxed)
    }

    /// Before the thread looks at the bits.
    pub(crate) fn begin(&self) {
        // Planted for the model: it says so once it has looked.
        if !cfg!(planted_bug = "sleeps_late") {
            self.is_awake.store(false, Relaxed);
        }
        fence(SeqCst);
    }

    /// After it has; whether there is something to look at again.
    pub(crate) fn end(&self, remembers: bool) {
        match remembers {
            true => self.is_awake.store(true, Relaxed),
            false if cfg!(planted_bug = "sleeps_late") => self.is_awake.store(false, Relaxed),
            false => {}
        }
    }

    /// Before all bits are cleared for good.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Relaxed);
        fence(SeqCst);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::{sync::Arc, thread};

    use super::*;

    /// A bit that is remembered by one thread, looked at by another, and perhaps cleared for good by a third.
    fn model(stops: bool) {
        loom::model(move || {
            let shared = Arc::new((Handshake::default(), AtomicBool::new(false)));
            // Somebody has woken the thread for another bit, which is gone.
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
                    assert!(!bit.load(Relaxed), "nothing is remembered when nobody looks");
                }
                None => assert!(!bit.load(Relaxed) || handshake.is_awake(), "nobody looks again"),
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
