//! What several tests begin with.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake},
    thread::{self, Thread},
};

use pagestrata::{
    Key, Lsn, Options, PageVersion, Redo, RedoResult, Store, Timeline, Value,
    testing::SimulatedStorage,
};

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, Options::default()).unwrap().0
}

/// The store at `/store`, opened or made.
pub(crate) fn open_in(storage: &SimulatedStorage, options: Options) -> pagestrata::Result<Store> {
    Ok(Store::open_with(storage.shared(), "/store", options)?.0)
}

/// A new store in a directory of its own, with the timeline `main` from Lsn 1 on.
pub(crate) fn fresh(options: Options) -> (tempfile::TempDir, Store, Timeline) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), options).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    (dir, store, timeline)
}

/// Puts one image and commits it; the lease is free again afterwards.
#[track_caller]
pub(crate) fn put(timeline: &Timeline, key: Key, lsn: Lsn, image: &[u8]) {
    let mut lease = timeline.write_lease().unwrap();
    lease.put(key, lsn, Value::Image(image)).unwrap();
    lease.commit(lsn).unwrap().wait().unwrap();
}

/// The layer files of the timeline `main`, moved away: until they are back no flush can succeed.
pub(crate) struct LayersAway {
    layers: PathBuf,
    aside: PathBuf,
}

impl LayersAway {
    pub(crate) fn of(store: &Path) -> LayersAway {
        let away = LayersAway { layers: store.join("timelines/1"), aside: store.join("aside") };
        fs::rename(&away.layers, &away.aside).unwrap();
        away
    }

    pub(crate) fn back(self) {
        fs::rename(&self.aside, &self.layers).unwrap();
    }
}

/// A small executor: polls one future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Waits for something that a background thread does, without end: a test that hangs is killed by
/// its runner.
pub(crate) fn eventually(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

/// The base and all deltas, one behind the other.
pub(crate) struct Append;

impl Redo for Append {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        page.extend_from_slice(base.unwrap_or_default());
        deltas.for_each(|delta| page.extend_from_slice(delta.bytes));
        Ok(())
    }
}
