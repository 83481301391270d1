//! [`Fetch`]: the blocks that a read is missing, and the threads that wait for them.

use std::{
    fmt,
    future::Future,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use pagestrata_layers::{Key, Lsn, layer_file::FetchedBlocks, storage::ProcessMark};
use parking_lot::{Condvar, Mutex};

#[cfg(doc)]
use crate::read::guard::Guard;
use crate::{
    error::{Error, Result},
    layer_map::file_layers::FileLayer,
    options::Background,
    read::snapshot::Snapshot,
    state::store::StoreShared,
};

/// Bytes of layer files that a read needs and that are not in memory, as [`Guard::try_page`] found
/// them. Once they are fetched, try the read again. It may miss again, at most once for each level
/// of an index and each layer of the page.
///
/// There are four ways to fetch them:
///
/// - call [`Fetch::run_blocking`] on a thread that may wait;
/// - await the fetch, on any executor, while a thread of the store waits (with
///   [`Background::Callers`], and once the store is closed, the first poll fetches, and blocks);
/// - call [`Fetch::start`], which does not wait;
/// - for mapped files, read [`Fetch::extents`] by other means.
#[must_use = "nothing is fetched unless it is run or awaited"]
pub struct Fetch(State);

enum State {
    New(Job),
    Running(Arc<Running>),
    /// The outcome was returned.
    Told,
}

/// A range of bytes of a layer file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The file.
    pub path: std::path::PathBuf,
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes, as far as known.
    pub len: usize,
}

/// The blocks that must be in memory.
pub(crate) struct MissingBytes {
    pub(crate) file: Arc<FileLayer>,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

struct Job {
    work: Work,
    /// Behind the work, which is dropped first.
    store: WakingStore,
}

/// Wakes the reclaimer when a job has let go of its file, which may have been merged meanwhile.
struct WakingStore(Arc<StoreShared>);

impl Drop for WakingStore {
    fn drop(&mut self) {
        // A store that is closed leaves the file to the next open.
        let _ = self.0.wake_reclaimer();
    }
}

enum Work {
    /// The blocks that a read is missing, and where the fetched blocks are put for the next try.
    MissingBytes(MissingBytes, Arc<FetchedBlocks>),
    /// Everything that some pages need.
    Pages(Snapshot, Vec<Key>, Lsn),
}

impl Job {
    fn new(store: &Arc<StoreShared>, work: Work) -> Job {
        Job { work, store: WakingStore(store.clone()) }
    }

    fn run(&self) -> Result<()> {
        if self.store.0.is_inherited() {
            return Err(Error::Closed);
        }
        match &self.work {
            Work::MissingBytes(MissingBytes { file, offset, len }, into) => {
                Ok(file.noted(file.fetch(*offset, *len, into))?)
            }
            Work::Pages(snapshot, keys, lsn) => snapshot.guard().touch(keys, *lsn),
        }
    }
}

/// A fetch that a thread is doing.
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

    /// Does the job, and passes the outcome to the waiters.
    fn run(&self, job: Job) {
        // A panic would be a defect: it becomes the waiters' outcome, and this thread continues
        // with other jobs.
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| job.run()));
        let panicked = |_| Err(Error::Thread(io::Error::other("a fetch panicked")));
        // Before the outcome is passed on: a store that is closed then finds nothing that the job
        // holds.
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
        missing: MissingBytes,
        into: &Arc<FetchedBlocks>,
    ) -> Fetch {
        Fetch(State::New(Job::new(store, Work::MissingBytes(missing, into.clone()))))
    }

    pub(crate) fn of_pages(
        store: &Arc<StoreShared>,
        snapshot: Snapshot,
        keys: Vec<Key>,
        lsn: Lsn,
    ) -> Fetch {
        Fetch(State::New(Job::new(store, Work::Pages(snapshot, keys, lsn))))
    }

    /// Returns the missing bytes. Empty once the fetch was started, and for
    /// [`Timeline::prefetch`](crate::Timeline::prefetch), which finds what is missing as it goes.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        match &self.0 {
            State::New(Job {
                work: Work::MissingBytes(MissingBytes { file, offset, len }, _),
                ..
            }) => {
                vec![Extent { path: file.path().to_owned(), offset: *offset, len: *len }]
            }
            _ => Vec::new(),
        }
    }

    /// Fetches on this thread, and waits for the device; if a thread of the store has begun the
    /// fetch, waits for that thread.
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

    /// Lets a thread of the store begin the fetch, if none has, and does not wait. The fetch
    /// continues if this is dropped. If the store has no threads for it, fetches before returning.
    pub fn start(&mut self) {
        let State::New(_) = self.0 else { return };
        let running = Arc::new(Running::new());
        let State::New(job) = std::mem::replace(&mut self.0, State::Running(running.clone()))
        else {
            unreachable!("it was")
        };
        let store = job.store.0.clone();
        let threads_max = match store.options.background {
            Background::Threads => store.options.fetch_threads_max,
            Background::Callers => 0,
        };
        let work: Box<dyn FnOnce() + Send> = Box::new(move || running.run(job));
        // A forked child must not take locks.
        let unwanted = match store.is_inherited() {
            true => Err(work),
            false => store.fetchers.submit(threads_max, work),
        };
        if let Err(work) = unwanted {
            work();
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
