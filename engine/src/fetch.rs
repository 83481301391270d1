//! [`Fetch`]: what a read that may not wait needs first, and the threads that wait in its place.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use pagestrata_layers::{
    layer_file::FetchedBlocks,
    storage::{ProcessMark, major_faults_of_thread},
};
use parking_lot::{Condvar, Mutex};

use crate::{Background, Error, Key, Lsn, Result, Snapshot, map::FileLayer, store::StoreShared};

#[cfg(doc)]
use crate::Guard;

/// Bytes of layer files that a read needs and that are not in memory, as [`Guard::try_page`] has found them. Once it is done, the read is tried
/// again; it may need more then, as many times as an index has levels and a page has layers.
///
/// Ways to have it done: [`Fetch::run_blocking`] on a thread that may wait; awaiting it, on any executor, while a thread of
/// the store waits (with [`Background::Callers`], and once the store is closed, the first poll does it, and blocks); [`Fetch::start`], which does not wait at all; or reading
/// [`Fetch::extents`] by other means, where the files are mapped.
#[must_use = "nothing is fetched unless it is run or awaited"]
pub struct Fetch(State);

enum State {
    New(Job),
    Running(Arc<Running>),
    /// It was told what came of it.
    Told,
}

/// Bytes of a layer file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which file.
    pub path: std::path::PathBuf,
    /// Where they begin, in bytes.
    pub offset: u64,
    /// How many, as far as is known.
    pub len: usize,
}

/// What has to be in memory.
pub(crate) struct Missing {
    pub(crate) file: Arc<FileLayer>,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

struct Job {
    store: Arc<StoreShared>,
    work: Work,
}

enum Work {
    /// What a read is missing, and where blocks go that the read finds when it is tried again.
    Missing(Missing, Arc<FetchedBlocks>),
    /// All that some pages need.
    Pages(Snapshot, Vec<Key>, Lsn),
}

impl Job {
    fn run(&self) -> Result<()> {
        if self.store.is_inherited() {
            return Err(Error::Closed);
        }
        match &self.work {
            Work::Missing(Missing { file, offset, len }, into) => {
                Ok(file.noted(file.fetch(*offset, *len, into))?)
            }
            Work::Pages(snapshot, keys, lsn) => snapshot.guard().touch(keys, *lsn),
        }
    }
}

/// A fetch that some thread does.
struct Running {
    /// The process whose thread does it.
    owner: ProcessMark,
    progress: Mutex<Progress>,
    ended: Condvar,
}

#[derive(Default)]
struct Progress {
    outcome: Option<Result<()>>,
    waker: Option<Waker>,
}

impl Running {
    fn new() -> Running {
        let (progress, ended) = Default::default();
        Running { owner: ProcessMark::current(), progress, ended }
    }

    /// Does the job, and tells who waits what came of it.
    fn run(&self, job: Job) {
        // A panic would be a defect; whoever waits is told, and this thread goes on for the others.
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| job.run()));
        let panicked = |_| Err(Error::Thread(io::Error::other("a fetch panicked")));
        // Before it is told: a store that is closed then finds nothing of it.
        drop(job);
        let mut progress = self.progress.lock();
        progress.outcome = Some(outcome.unwrap_or_else(panicked));
        let waker = progress.waker.take();
        drop(progress);
        self.ended.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wait(&self) -> Result<()> {
        if !self.owner.is_current() {
            return Err(Error::Closed);
        }
        let mut progress = self.progress.lock();
        loop {
            match progress.outcome.take() {
                Some(outcome) => return outcome,
                None => self.ended.wait(&mut progress),
            }
        }
    }
}

impl Fetch {
    pub(crate) fn of_missing(
        store: &Arc<StoreShared>,
        missing: Missing,
        into: &Arc<FetchedBlocks>,
    ) -> Fetch {
        Fetch(State::New(Job { store: store.clone(), work: Work::Missing(missing, into.clone()) }))
    }

    pub(crate) fn of_pages(
        store: &Arc<StoreShared>,
        snapshot: Snapshot,
        keys: Vec<Key>,
        lsn: Lsn,
    ) -> Fetch {
        Fetch(State::New(Job { store: store.clone(), work: Work::Pages(snapshot, keys, lsn) }))
    }

    /// What is missing; nothing once it was started, and nothing of [`Timeline::prefetch`](crate::Timeline::prefetch), which finds that out
    /// as it goes.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        match &self.0 {
            State::New(Job { work: Work::Missing(Missing { file, offset, len }, _), .. }) => {
                vec![Extent { path: file.path().to_owned(), offset: *offset, len: *len }]
            }
            _ => Vec::new(),
        }
    }

    /// Fetches it on this thread, which waits for the device, or for the thread of the store that has begun to.
    ///
    /// # Errors
    /// [`Error::Layers`]: the file is damaged, shorter than it was, or cannot be read.
    /// [`Error::Closed`] in a forked child.
    pub fn run_blocking(self) -> Result<()> {
        match self.0 {
            State::New(job) => job.run(),
            State::Running(running) => running.wait(),
            State::Told => Ok(()),
        }
    }

    /// Has a thread of the store begin to fetch it, if none has, and does not wait; it goes on when this is dropped. Where the store has no
    /// threads for it, it is fetched here and now.
    pub fn start(&mut self) {
        let State::New(_) = self.0 else { return };
        let running = Arc::new(Running::new());
        let State::New(job) = std::mem::replace(&mut self.0, State::Running(running.clone()))
        else {
            unreachable!("it was")
        };
        let store = job.store.clone();
        if let Err(job) = store.fetchers.submit(job, running.clone()) {
            running.run(job);
        }
    }
}

impl Future for Fetch {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.start();
        let State::Running(running) = &self.0 else { panic!("polled after it was ready") };
        if !running.owner.is_current() {
            return Poll::Ready(Err(Error::Closed));
        }
        let mut progress = running.progress.lock();
        let Some(outcome) = progress.outcome.take() else {
            progress.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        drop(progress);
        self.0 = State::Told;
        Poll::Ready(outcome)
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch").field("extents", &self.extents()).finish_non_exhaustive()
    }
}

/// The threads that fetch for futures: started when there is more to do than they are, ended with the store.
#[derive(Default)]
pub(crate) struct Fetchers(Arc<Queue>);

#[derive(Default)]
struct Queue {
    /// How often its threads had to wait for a device inside a memory access: it is what they are for.
    major_faults: AtomicU64,
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<(Job, Arc<Running>)>,
    threads: usize,
    idle: usize,
    stop: bool,
}

impl Fetchers {
    /// Has a thread do it; the job comes back if there is none and none can be started.
    fn submit(&self, job: Job, running: Arc<Running>) -> std::result::Result<(), Job> {
        if job.store.is_inherited() {
            return Err(job);
        }
        let options = &job.store.options;
        let threads_max = match options.background {
            Background::Threads => options.fetch_threads_max,
            Background::Callers => 0,
        };
        let mut state = self.0.state.lock();
        if state.stop {
            return Err(job);
        }
        if state.idle <= state.jobs.len() && state.threads < threads_max {
            let queue = self.0.clone();
            let name = "pagestrata-fetch".to_owned();
            let spawned = std::thread::Builder::new().name(name).spawn(move || queue.work());
            state.threads += usize::from(spawned.is_ok());
        }
        if state.threads == 0 {
            return Err(job);
        }
        state.jobs.push_back((job, running));
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
            if let Some((job, running)) = state.jobs.pop_front() {
                drop(state);
                let before = major_faults_of_thread();
                running.run(job);
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
