//! Writers, flushes and the log's threads that must not hold each other up, and what is promised
//! meanwhile.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use pagestrata::{
    Background, Clock, CommitDurability, Durability, Error, Key, Lsn, Options, Store, Timeline,
    Value,
    testing::{Failing, SimulatedStorage, none_kept},
};

use crate::support::{eventually, open_in, put};

fn options() -> Options {
    Options {
        open_layer_size_max_bytes: 64 << 10,
        log_segment_size_bytes: 4 << 10,
        log_size_max_bytes: 256 << 10,
        ..Options::default()
    }
}

fn commit(timeline: &Timeline, lsn: u64) -> Result<(), Error> {
    let mut lease = timeline.write_lease()?;
    lease.put(Key::new(1, 1), Lsn(lsn), Value::Image(&[lsn as u8; 100]))?;
    lease.commit(Lsn(lsn))?.wait()
}

/// Closing while a commit is between its look at the store and its place in the log.
#[test]
fn a_commit_that_passes_just_before_close_is_reported_or_refused() {
    for durability in
        [Durability::Synced, Durability::Buffered { sync_interval: Duration::from_secs(3600) }]
    {
        for background in [Background::Threads, Background::Callers] {
            let storage = SimulatedStorage::new();
            let store = open_in(&storage, Options { durability, background, ..options() }).unwrap();
            let main = store.create_timeline("main", Lsn(1)).unwrap();
            let other = store.create_timeline("other", Lsn(1)).unwrap();
            commit(&main, 2).unwrap();
            assert_eq!(main.flush().unwrap(), Lsn(2));
            let mut lease = main.write_lease().unwrap();
            lease.put(Key::new(1, 2), Lsn(3), Value::Image(b"x")).unwrap();
            let (send, reports) = mpsc::channel();
            storage.before_next("write", move || {
                thread::spawn(move || send.send(store.close(Duration::ZERO)).unwrap());
                eventually(|| matches!(other.write_lease(), Err(Error::Closed)));
                // For a close that would not wait, to write its report; one that waits cannot go
                // on.
                thread::sleep(Duration::from_millis(50));
            });
            let committed = lease.commit(Lsn(3));
            let report = reports.recv().unwrap().unwrap();
            let consistent = &report.disk_consistent_lsns[0];
            assert_eq!(consistent.0, "main");
            let is_flushed = consistent.1 == Lsn(3).to_string();
            let is_reported = report.leases_held.contains(&"main".to_owned());
            match committed {
                Ok(_) => assert!(is_flushed || is_reported, "{report:?}"),
                Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
            }
        }
    }
}

/// Milliseconds that the tests advance; one for each test.
static FLUSH_CLOCK: AtomicU64 = AtomicU64::new(0);
static IDLE_CLOCK: AtomicU64 = AtomicU64::new(0);

#[test]
fn a_failing_flush_is_tried_again_in_its_own_time_whoever_else_flushes() {
    let storage = SimulatedStorage::new();
    let options = Options {
        flush_retry_delay: Duration::from_secs(5),
        flush_retry_delay_max: Duration::from_secs(5),
        clock: Clock(|| Duration::from_millis(FLUSH_CLOCK.load(Ordering::Relaxed))),
        ..options()
    };
    let store = open_in(&storage, options).unwrap();
    let bad = store.create_timeline("bad", Lsn(1)).unwrap();
    let good = store.create_timeline("good", Lsn(1)).unwrap();
    let failing = Failing { operation: "create", at: "timelines/1", panics: false };
    storage.set_failing(Some(failing));
    put(&bad, Key::new(1, 1), Lsn(2), b"x");
    assert!(matches!(bad.flush(), Err(Error::FlushFailed { .. })));
    let tries = || bad.stats().flush.failures_total;
    let others = |from: u64| {
        for lsn in from..from + 50 {
            put(&good, Key::new(1, 1), Lsn(lsn), b"y");
            good.flush().unwrap();
        }
    };
    others(2);
    assert_eq!(tries(), 1, "the delay is not over");
    FLUSH_CLOCK.fetch_add(4_999, Ordering::Relaxed);
    others(100);
    assert_eq!(tries(), 1, "it is not over yet");
    FLUSH_CLOCK.fetch_add(1, Ordering::Relaxed);
    others(200);
    assert_eq!(tries(), 2, "it is over");
    assert!(matches!(bad.flush(), Err(Error::FlushFailed { .. })), "asked for, and tried at once");
    assert_eq!(tries(), 3);
    storage.set_failing(None);
    assert_eq!(bad.flush().unwrap(), Lsn(2));
}

/// The log's files.
fn segments(storage: &SimulatedStorage) -> usize {
    let is_segment = |path: &std::path::Path| path.extension().is_some_and(|of| of == "log");
    storage.files().keys().filter(|path| is_segment(path)).count()
}

fn write_much(timeline: &Timeline, lsns: std::ops::Range<u64>) {
    for lsn in lsns {
        put(timeline, Key::new(1, 1), Lsn(lsn), &[lsn as u8; 1500]);
    }
}

#[test]
fn an_idle_log_gives_its_spare_segments_back() {
    let storage = SimulatedStorage::new();
    let clock = Clock(|| Duration::from_millis(IDLE_CLOCK.load(Ordering::Relaxed)));
    let store = open_in(&storage, Options { clock, ..options() }).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    write_much(&main, 2..60);
    main.flush().unwrap();
    assert!(store.stats().log.spare_segments > 5, "{:?}", store.stats().log);
    // The log's thread may look for the first time only now, and then counts from here.
    eventually(|| {
        IDLE_CLOCK.fetch_add(11_000, Ordering::Relaxed);
        store.stats().log.spare_segments <= 1
    });
    // They are out of the count before they are out of the directory.
    eventually(|| segments(&storage) <= 2);
    // And it goes on.
    write_much(&main, 60..120);
    drop(store);
    let store = open_in(&storage.killed(), options()).unwrap();
    assert_eq!(store.timeline("main").unwrap().last_record_lsn(), Lsn(119));
}

#[test]
fn a_closed_store_keeps_no_spare_segments() {
    for background in [Background::Threads, Background::Callers] {
        let storage = SimulatedStorage::new();
        let store = open_in(&storage, Options { background, ..options() }).unwrap();
        let main = store.create_timeline("main", Lsn(1)).unwrap();
        write_much(&main, 2..60);
        drop(main);
        store.close(Duration::ZERO).unwrap();
        assert!(segments(&storage) <= 2, "{:?}", storage.files().keys());
    }
}

#[test]
fn a_synced_commit_of_a_buffered_store_survives_a_power_failure() {
    let durability = Durability::Buffered { sync_interval: Duration::from_secs(3600) };
    for is_awaited in [false, true] {
        let storage = SimulatedStorage::new();
        let options = Options { durability, background: Background::Callers, ..options() };
        let store = open_in(&storage, options.clone()).unwrap();
        let main = store.create_timeline("main", Lsn(1)).unwrap();
        let end = |durability| {
            let before = main.last_record_lsn();
            let mut lease = main.write_lease().unwrap();
            let lsn = before.next();
            lease.put(Key::new(1, 1), lsn, Value::Image(b"x")).unwrap();
            let ticket = lease.commit_with(lsn, durability).unwrap();
            match is_awaited {
                true => {
                    assert!(matches!(poll(&mut ticket.into_future(), &noop()), Poll::Ready(Ok(()))))
                }
                false => ticket.wait().unwrap(),
            }
            let left = storage.crash(&mut none_kept);
            let store = open_in(&left, options.clone()).unwrap();
            let end = store.timeline("main").unwrap().last_record_lsn();
            (lsn, end)
        };
        let (first, kept) = end(CommitDurability::OfStore);
        assert!(kept < first, "one that is not synced is lost with the power");
        let (second, kept) = end(CommitDurability::Synced);
        assert_eq!(kept, second, "with everything before it");
        let (_, kept) = end(CommitDurability::OfStore);
        assert_eq!(kept, second);
    }
}

#[test]
fn a_store_without_a_log_refuses_a_synced_commit() {
    let storage = SimulatedStorage::new();
    let options = Options { durability: Durability::External, ..options() };
    let store = open_in(&storage, options).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = main.write_lease().unwrap();
    lease.put(Key::new(1, 1), Lsn(2), Value::Image(b"x")).unwrap();
    let refused = lease.commit_with(Lsn(2), CommitDurability::Synced).unwrap_err();
    assert!(matches!(&refused, Error::NoLogToSync { timeline } if timeline == "main"), "{refused}");
    assert_eq!(main.last_record_lsn(), Lsn(1), "nothing was committed");
    lease.commit(Lsn(2)).unwrap().wait().unwrap();
    assert_eq!(main.last_record_lsn(), Lsn(2));
}

type Work = Box<dyn FnOnce() + Send>;

/// A waker that works on the thread that wakes.
struct Inline(Mutex<Option<Work>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let work = self.0.lock().unwrap().take();
        if let Some(work) = work {
            work();
        }
    }
}

fn noop() -> Waker {
    Waker::noop().clone()
}

/// Does `work` when it is woken; the receiver gets what it returns.
fn inline<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> (Waker, mpsc::Receiver<T>) {
    let (send, done) = mpsc::channel();
    let work: Work = Box::new(move || send.send(work()).unwrap());
    (Arc::new(Inline(Mutex::new(Some(work)))).into(), done)
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn with_two_timelines(
    storage: &SimulatedStorage,
    background: Background,
) -> (Store, [Timeline; 2]) {
    let store = open_in(storage, Options { background, ..options() }).unwrap();
    let timelines = ["main", "other"].map(|name| store.create_timeline(name, Lsn(1)).unwrap());
    (store, timelines)
}

#[test]
fn a_waker_commits_within_the_commit_that_wakes_it() {
    for background in [Background::Threads, Background::Callers] {
        let storage = SimulatedStorage::new();
        let (_store, [main, other]) = with_two_timelines(&storage, background);
        let mut reached = main.wait_for(Lsn(2));
        let (own, of_other) = (main.clone(), other.clone());
        let (waker, done) = inline(move || {
            assert!(matches!(own.write_lease(), Err(Error::LeaseHeld { .. })));
            commit(&of_other, 2).and_then(|()| of_other.flush())
        });
        assert!(poll(&mut reached, &waker).is_pending());
        commit(&main, 2).unwrap();
        assert_eq!(done.recv().unwrap().unwrap(), Lsn(2));
        assert!(matches!(poll(&mut reached, &noop()), Poll::Ready(Ok(()))));
    }
}

#[test]
fn a_waker_commits_and_waits_on_the_thread_that_has_synced_for_it() {
    let storage = SimulatedStorage::new();
    let (_store, [main, other]) = with_two_timelines(&storage, Background::Threads);
    for lsn in 2..40 {
        let mut lease = main.write_lease().unwrap();
        lease.put(Key::new(1, 1), Lsn(lsn), Value::Image(&[0; 300])).unwrap();
        let mut acknowledged = lease.commit(Lsn(lsn)).unwrap().into_future();
        drop(lease);
        let (own, of_other) = (main.clone(), other.clone());
        let (waker, done) = inline(move || {
            let at = own.last_record_lsn().0;
            commit(&own, at + 1_000).is_err() || commit(&of_other, at).is_err()
        });
        // Whichever thread syncs wakes the future; it may have been faster than the poll.
        if poll(&mut acknowledged, &waker).is_pending() {
            assert!(!done.recv().unwrap());
            return;
        }
    }
}

#[test]
fn a_waker_that_is_woken_by_a_failure_or_by_closing_comes_back_to_the_store() {
    let storage = SimulatedStorage::new();
    let (store, [main, other]) = with_two_timelines(&storage, Background::Threads);
    let mut reached = main.wait_for(Lsn(1000));
    let (own, of_other) = (main.clone(), other.clone());
    let (waker, done) = inline(move || [commit(&own, 900), commit(&of_other, 900)]);
    assert!(poll(&mut reached, &waker).is_pending());
    commit(&main, 2).unwrap();
    store.close(Duration::ZERO).unwrap();
    let refused = done.recv().unwrap();
    assert!(refused.iter().all(|done| matches!(done, Err(Error::Closed))), "{refused:?}");

    let storage = SimulatedStorage::new();
    let (_store, [main, _]) = with_two_timelines(&storage, Background::Threads);
    commit(&main, 2).unwrap();
    let mut lease = main.write_lease().unwrap();
    lease.put(Key::new(1, 1), Lsn(3), Value::Image(b"x")).unwrap();
    let mut acknowledged = lease.commit(Lsn(3)).unwrap().into_future();
    drop(lease);
    storage.set_failing(Some(Failing { operation: "sync", at: "/log", panics: false }));
    let own = main.clone();
    let (waker, done) = inline(move || commit(&own, 4));
    match poll(&mut acknowledged, &waker) {
        Poll::Ready(outcome) => assert!(matches!(outcome, Err(Error::ReadOnly { .. }))),
        Poll::Pending => {
            let refused = done.recv().unwrap();
            assert!(matches!(refused, Err(Error::ReadOnly { .. })), "{refused:?}");
        }
    }
}
