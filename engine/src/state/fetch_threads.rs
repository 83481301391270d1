//! [`FetchThreads`]: threads that wait for devices in place of reads that must not.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use pagestrata_layers::storage::major_faults_of_thread;
use parking_lot::{Condvar, Mutex};

/// Work for one of the threads; it must not panic.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// The threads that fetch for futures. They are started on demand and stopped with the store.
#[derive(Default)]
pub(crate) struct FetchThreads(Arc<Queue>);

#[derive(Default)]
struct Queue {
    /// Major page faults of its threads, whose purpose is to wait for devices.
    major_faults: AtomicU64,
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Work>,
    threads: usize,
    idle: usize,
    stop: bool,
}

impl FetchThreads {
    /// Hands work to a thread; starts one if all are busy and there are fewer than `threads_max`.
    ///
    /// # Errors
    /// Returns the work if no thread takes it: the caller must do it.
    pub(crate) fn submit(&self, threads_max: usize, work: Work) -> std::result::Result<(), Work> {
        let mut state = self.0.state.lock();
        if state.stop {
            return Err(work);
        }
        if state.idle <= state.waiting.len() && state.threads < threads_max {
            let queue = self.0.clone();
            let name = "pagestrata-fetch".to_owned();
            let spawned = std::thread::Builder::new().name(name).spawn(move || queue.work());
            state.threads += usize::from(spawned.is_ok());
        }
        if state.threads == 0 {
            return Err(work);
        }
        debug_assert!(state.idle <= state.threads);
        state.waiting.push_back(work);
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Returns the number of major page faults of its threads.
    pub(crate) fn major_faults(&self) -> u64 {
        self.0.major_faults.load(Relaxed)
    }

    /// Stops the threads once they have done the queued work.
    pub(crate) fn stop(&self) {
        self.0.state.lock().stop = true;
        self.0.changed.notify_all();
    }
}

impl Queue {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                drop(state);
                let before = major_faults_of_thread();
                work();
                self.major_faults.fetch_add(major_faults_of_thread() - before, Relaxed);
                state = self.state.lock();
                continue;
            }
            if state.stop {
                return;
            }
            state.idle += 1;
            self.changed.wait(&mut state);
            state.idle -= 1;
        }
    }
}
