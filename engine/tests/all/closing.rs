//! Closing and flushing while tasks go on, and what a closed store gives back while timelines and
//! snapshots outlive it.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use pagestrata::{
    Background, CloseFuture, Error, FlushFuture, FlushRedo, Key, Lsn, Options, PageVersion, Redo,
    RedoResult, Store, Timeline, Value,
    testing::{Failing, SimulatedStorage},
};
use parking_lot::Mutex;

use crate::support::{Append, block_on, eventually, fresh, open_in, put};

const HOUR: Duration = Duration::from_secs(3600);

fn is_pending(future: impl Future) -> bool {
    let mut future = pin!(future);
    future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Both futures can be sent to a thread, and outlive what they were made of.
#[test]
fn futures_are_send_and_static() {
    fn check<F: Future + Send + Unpin + 'static>() {}
    check::<FlushFuture>();
    check::<CloseFuture>();
}

/// A snapshot that outlives the store keeps its layer, and no longer than itself.
#[test]
fn a_layer_that_a_snapshot_held_over_the_close_goes_with_the_snapshot() {
    for background in [Background::Threads, Background::Callers] {
        let (_dir, store, timeline) = fresh(Options { background, ..Options::default() });
        put(&timeline, Key::new(1, 1), Lsn(2), b"held");
        let snapshot = timeline.snapshot();
        let mut reader = timeline.reader();
        reader.pin();
        let report = store.close(Duration::ZERO).unwrap();
        assert_eq!(report.pins.len(), 2);
        assert_eq!(timeline.stats().retired_layers, 1, "{background:?}");
        assert!(snapshot.guard().exists(Key::new(1, 1), Lsn(2)).unwrap());
        drop(snapshot);
        assert_eq!(timeline.stats().retired_layers, 1, "{background:?}");
        // The reader pins the newest map instead.
        assert!(reader.pin().exists(Key::new(1, 1), Lsn(2)).unwrap());
        assert_eq!(timeline.stats().retired_layers, 0, "{background:?}");
        assert_eq!(timeline.stats().memory.retired_bytes, 0, "{background:?}");
    }
}

/// What is let go of between the close's flush and its end, when no thread reclaims, is freed by
/// the close.
#[test]
fn a_close_frees_what_is_let_go_of_while_it_waits_for_readers() {
    static IS_WAITING: AtomicBool = AtomicBool::new(false);
    fn clock() -> Duration {
        // After the flush, a close reads it to know how long it has waited.
        IS_WAITING.store(true, Ordering::Release);
        Duration::ZERO
    }
    let clock = pagestrata::Clock(clock);
    let options = Options { clock, background: Background::Callers, ..Options::default() };
    let (_dir, store, timeline) = fresh(options);
    put(&timeline, Key::new(1, 1), Lsn(2), b"held");
    let snapshot = timeline.snapshot();
    timeline.flush().unwrap();
    assert_eq!(timeline.stats().retired_layers, 1);
    IS_WAITING.store(false, Ordering::Release);
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually(|| IS_WAITING.load(Ordering::Acquire));
            drop(snapshot);
        });
        assert!(store.close(HOUR).unwrap().pins.is_empty());
    });
    assert_eq!(timeline.stats().retired_layers, 0);
}

/// Each of many holders may be the last one, on any thread, at the moment that the store is closed.
#[test]
fn nothing_is_left_when_holders_let_go_while_the_store_is_closed() {
    for round in 0..50 {
        let (_dir, store, timeline) = fresh(Options::default());
        put(&timeline, Key::new(1, 1), Lsn(2), b"held");
        let snapshots: Vec<_> = (0..4).map(|_| timeline.snapshot()).collect();
        timeline.flush().unwrap();
        thread::scope(|scope| {
            for (n, snapshot) in snapshots.into_iter().enumerate() {
                scope.spawn(move || {
                    (0..(n + round) % 7).for_each(|_| thread::yield_now());
                    drop(snapshot);
                });
            }
            scope.spawn(|| drop(timeline.stats()));
            store.close(Duration::ZERO).unwrap();
        });
        assert_eq!(timeline.stats().retired_layers, 0, "round {round}");
    }
}

/// Redo that waits until the test lets it go on, so that a flush is under way for as long as that.
struct Gated {
    gate: Arc<Mutex<()>>,
    calls: Arc<AtomicU64>,
}

impl Redo for Gated {
    fn apply(
        &self,
        key: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        drop(self.gate.lock());
        Append.apply(key, base, deltas, page)
    }
}

/// A timeline whose flushes wait for the gate: each makes one page of two deltas.
fn gated() -> (tempfile::TempDir, Store, Timeline, Arc<Mutex<()>>, Arc<AtomicU64>) {
    let (dir, store, timeline) = fresh(Options { deltas_per_page_max: 1, ..Options::default() });
    let (gate, calls) = (Arc::new(Mutex::new(())), Arc::new(AtomicU64::new(0)));
    let redo = Gated { gate: gate.clone(), calls: calls.clone() };
    timeline.set_flush_redo(FlushRedo(Arc::new(redo)));
    put_chain(&timeline, 2);
    (dir, store, timeline, gate, calls)
}

fn put_chain(timeline: &Timeline, from: u64) {
    let mut lease = timeline.write_lease().unwrap();
    for (n, will_init) in [(0, true), (1, false)] {
        let value = Value::Delta { bytes: b"x", will_init };
        lease.put(Key::new(1, 1), Lsn(from + n), value).unwrap();
    }
    lease.commit(Lsn(from + 1)).unwrap();
}

#[test]
fn a_task_that_flushes_is_pending_until_the_flush_has_ended() {
    let (_dir, _store, timeline, gate, calls) = gated();
    let closed_gate = gate.lock();
    let mut flush = timeline.flush_async();
    assert!(is_pending(&mut flush));
    let others: Vec<_> = (0..4).map(|_| timeline.flush_async()).collect();
    let waiting: Vec<_> =
        others.into_iter().map(|flush| thread::spawn(move || block_on(flush).unwrap())).collect();
    eventually(|| calls.load(Ordering::Relaxed) == 1);
    assert!(is_pending(&mut flush));
    // What is committed after the freeze is none of its business.
    put(&timeline, Key::new(1, 2), Lsn(9), b"later");
    drop(closed_gate);
    assert!(block_on(flush).unwrap() >= Lsn(3));
    waiting.into_iter().for_each(|thread| assert!(thread.join().unwrap() >= Lsn(3)));
}

#[test]
fn a_flush_goes_on_when_its_future_is_dropped() {
    let (_dir, _store, timeline, gate, calls) = gated();
    let closed_gate = gate.lock();
    drop(timeline.flush_async());
    assert_eq!(timeline.stats().frozen_layers, 0, "not polled, not begun");
    let mut flush = timeline.flush_async();
    assert!(is_pending(&mut flush));
    drop(flush);
    drop(closed_gate);
    eventually(|| timeline.disk_consistent_lsn() == Lsn(3));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    // Nothing is left to do, so the first poll is the last.
    assert_eq!(block_on(timeline.flush_async()).unwrap(), Lsn(3));
}

#[test]
fn flushes_and_closes_run_under_tokio_too() {
    for background in [Background::Threads, Background::Callers] {
        let (dir, store, timeline) = fresh(Options { background, ..Options::default() });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            put(&timeline, Key::new(1, 1), Lsn(2), b"x");
            let flush = tokio::spawn(timeline.flush_async());
            assert_eq!(flush.await.unwrap().unwrap(), Lsn(2));
            put(&timeline, Key::new(1, 1), Lsn(3), b"y");
            let report = tokio::spawn(store.close_async(Duration::ZERO)).await.unwrap().unwrap();
            assert_eq!(report.disk_consistent_lsns, [("main".to_owned(), "0/3".to_owned())]);
            assert!(matches!(timeline.flush_async().await, Err(Error::Closed)));
        });
        let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
        assert_eq!(store.timeline("main").unwrap().disk_consistent_lsn(), Lsn(3));
    }
}

#[test]
fn a_task_is_told_that_its_flush_failed() {
    let storage = SimulatedStorage::new();
    let store = open_in(&storage, Options::default()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    put(&timeline, Key::new(1, 1), Lsn(2), b"x");
    storage.set_failing(Some(Failing { operation: "create", at: ".tmp", panics: false }));
    assert!(matches!(block_on(timeline.flush_async()), Err(Error::FlushFailed { .. })));
    storage.set_failing(None);
    assert_eq!(block_on(timeline.flush_async()).unwrap(), Lsn(2));
}

#[test]
fn a_close_waits_for_readers_beside_the_task_and_takes_no_commits() {
    let (_dir, store, timeline) = fresh(Options::default());
    put(&timeline, Key::new(1, 1), Lsn(2), b"x");
    let mut lease = timeline.write_lease().unwrap();
    let snapshot = timeline.snapshot();
    let mut close = store.close_async(HOUR);
    assert!(matches!(lease.commit(Lsn(3)), Err(Error::Closed)));
    drop(lease);
    assert!(is_pending(&mut close));
    drop(snapshot);
    assert!(block_on(close).unwrap().pins.is_empty());
}

#[test]
fn a_close_goes_on_when_its_future_is_dropped() {
    let (dir, store, timeline) = fresh(Options::default());
    put(&timeline, Key::new(1, 1), Lsn(2), b"x");
    drop(store.close_async(HOUR));
    eventually(|| match Store::open(dir.path(), Options::default()) {
        Ok((store, _)) => {
            assert_eq!(store.timeline("main").unwrap().disk_consistent_lsn(), Lsn(2));
            true
        }
        Err(Error::Locked { .. }) => false,
        Err(error) => panic!("{error}"),
    });
}

/// A close reads the clock on the thread that closes.
#[test]
fn a_close_that_panics_hands_the_panic_to_the_task() {
    static PANICS: AtomicBool = AtomicBool::new(false);
    fn clock() -> Duration {
        assert!(!PANICS.load(Ordering::Relaxed), "planted");
        Duration::ZERO
    }
    let options = Options { clock: pagestrata::Clock(clock), ..Options::default() };
    let (_dir, store, _timeline) = fresh(options);
    PANICS.store(true, Ordering::Relaxed);
    let task = thread::spawn(move || block_on(store.close_async(Duration::ZERO)).is_ok());
    let panic = task.join().unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"planted"));
}

/// Polled by two tasks one after the other: the second one is woken.
#[test]
fn the_task_that_polled_last_is_woken() {
    let (_dir, store, timeline) = fresh(Options::default());
    let snapshot = timeline.snapshot();
    let mut close = store.close_async(HOUR);
    assert!(is_pending(&mut close));
    let closing = thread::spawn(move || block_on(close));
    drop(snapshot);
    assert!(matches!(closing.join().unwrap(), Ok(report) if report.pins.is_empty()));
}

/// A flush of a caller, or an import, makes a layer file while its store is dropped and the
/// directory is opened again: what it goes on with does not keep the directory from being opened a
/// third time.
#[test]
fn what_outlives_its_store_leaves_nothing_in_the_directory_of_the_next() {
    for is_import in [false, true] {
        let storage = SimulatedStorage::new();
        let options = Options { background: Background::Callers, ..Options::default() };
        let store = open_in(&storage, options.clone()).unwrap();
        let timeline = store.create_timeline("main", Lsn(1)).unwrap();
        let page = Key::new(1, 1);
        // From here on nothing but a layer's marker and its file are created.
        put(&timeline, page, Lsn(2), b"first");
        timeline.flush().unwrap();
        if !is_import {
            put(&timeline, page, Lsn(3), b"second");
        }
        let (send, opened) = mpsc::channel();
        let next = storage.clone();
        let in_between = move || {
            let (tell, told) = mpsc::channel();
            let next = next.clone();
            thread::spawn(move || {
                drop(store);
                send.send(open_in(&next, Options::default())).unwrap();
                let _ = tell.send(());
            });
            // A drop that waits for the thread that makes the file cannot be waited for here.
            let _ = told.recv_timeout(Duration::from_millis(500));
        };
        let between_both = storage.clone();
        storage.before_next("create", move || between_both.before_next("create", in_between));
        let made = if is_import {
            let mut lease = timeline.write_lease_owned().unwrap();
            let mut import = lease.import_images(Lsn(9)).unwrap();
            import.put(page, b"imported").and_then(|()| import.finish()).map(drop)
        } else {
            timeline.flush().map(drop)
        };
        drop(opened.recv().unwrap().unwrap());
        let third = open_in(&storage, options).unwrap_or_else(|error| panic!("{error} ({made:?})"));
        let main = third.timeline("main").unwrap();
        assert_eq!(main.last_record_lsn(), Lsn(if is_import { 2 } else { 3 }), "{made:?}");
    }
}
