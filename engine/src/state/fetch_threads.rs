//! [`FetchThreads`]: threads that wait for devices in place of reads that may not.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use pagestrata_layers::storage::major_faults_of_thread;
use parking_lot::{Condvar, Mutex};

/// What one of the threads does; it does not panic.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// The threads that fetch for futures: started when there is more to do than they are, ended with
/// the store.
#[derive(Default)]
pub(crate) struct FetchThreads(Arc<Queue>);

#[derive(Default)]
struct Queue {
    /// How often its threads had to wait for a device inside a memory access: it is what they are
    /// for.
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
    /// The work, if there is no thread for it: the caller does it.
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

    /// How often its threads had to wait for a device inside a memory access.
    pub(crate) fn major_faults(&self) -> u64 {
        self.0.major_faults.load(Relaxed)
    }

    /// Lets the threads end once they have done what there is to do.
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
