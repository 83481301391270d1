//! What is left of commits that came to nothing, a log or a disk that is full, and the log's own
//! thread.

use std::{
    future::IntoFuture,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake},
    thread::{self, Thread},
    time::Duration,
};

use pagestrata::{
    Background, Error, Key, Lsn, Options, Store, Timeline, Value,
    testing::{Failing, Fault, SimulatedStorage, none_kept},
};

fn options() -> Options {
    Options {
        open_layer_size_max_bytes: 4 << 20,
        log_segment_size_bytes: 1 << 20,
        log_size_max_bytes: 4 << 20,
        background: Background::Callers,
        ..Options::default()
    }
}

fn open(storage: &SimulatedStorage, options: Options) -> Store {
    Store::open_with(storage.shared(), "/store", options).unwrap().0
}

/// Commits one image of so many bytes.
fn write(timeline: &Timeline, lsn: u64, len: usize) -> Result<(), Error> {
    let mut lease = timeline.write_lease().unwrap();
    lease.put(Key::new(1, 1), Lsn(lsn), Value::Image(&vec![lsn as u8; len])).unwrap();
    lease.commit(Lsn(lsn))?.wait()
}

/// A commit of 90, then a process that is killed, or a write that fails, between the parts of the
/// commit of 100.
fn cut_between_parts() -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    let store = open(&storage, options());
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    store.create_timeline("other", Lsn(1)).unwrap();
    write(&main, 90, 2).unwrap();
    let mut lease = main.write_lease().unwrap();
    for lsn in [91, 95, 99] {
        lease.put(Key::new(1, 1), Lsn(lsn), Value::Image(&vec![lsn as u8; 200_000])).unwrap();
    }
    // The first call is the write of the first part.
    let second = storage.calls() + 1;
    storage.set_fault(Some(Fault { call: second, for_good: true, ..Fault::default() }));
    assert!(lease.commit(Lsn(100)).is_err());
    drop(lease);
    drop((main, store));
    let killed = storage.killed();
    let (store, report) = Store::open_with(killed.shared(), "/store", options()).unwrap();
    assert_eq!((report.log_records, report.log_commits), (2, 1), "a part is there");
    drop(store);
    killed.killed()
}

#[test]
fn commits_take_the_place_of_one_that_was_cut_short() {
    for lsn in [91, 95, 99, 100, 101] {
        let storage = cut_between_parts();
        let store = open(&storage, options());
        let main = store.timeline("main").unwrap();
        write(&main, lsn, 100).unwrap();
        assert_eq!(main.flush().unwrap(), Lsn(lsn));
        write(&main, 200, 100).unwrap();
        drop((main, store));
        let store = open(&storage.killed(), options());
        assert_eq!(store.timeline("main").unwrap().last_record_lsn(), Lsn(200), "after {lsn}");
    }
}

/// A commit of many parts that came to nothing for want of room, and another timeline's commit in
/// the segment of its last part: when all else is in layer files, the log begins with that segment.
#[test]
fn the_log_may_begin_between_the_parts_of_a_commit_that_came_to_nothing() {
    let options = Options { log_segment_size_bytes: 64 << 10, ..options() };
    let mut begins_between = 0;
    for free in 0..12 {
        let storage = SimulatedStorage::new();
        let store = open(&storage, options.clone());
        let main = store.create_timeline("main", Lsn(1)).unwrap();
        let other = store.create_timeline("other", Lsn(1)).unwrap();
        write(&main, 90, 2).unwrap();
        let mut lease = main.write_lease().unwrap();
        for lsn in 91..100 {
            lease.put(Key::new(1, 1), Lsn(lsn), Value::Image(&vec![lsn as u8; 30_000])).unwrap();
        }
        storage.set_free_bytes(Some(free * (32 << 10)));
        if lease.commit(Lsn(100)).is_ok() {
            break;
        }
        storage.set_free_bytes(None);
        lease.abort();
        drop(lease);
        write(&other, 1, 2).unwrap();
        assert_eq!(main.flush().unwrap(), Lsn(90));
        drop((main, other, store));
        let mut storage = storage.killed();
        for lsn in [110, 120] {
            let opened = Store::open_with(storage.shared(), "/store", options.clone());
            let (store, report) = opened.unwrap_or_else(|error| panic!("{free}, {lsn}: {error}"));
            let main = store.timeline("main").unwrap();
            begins_between += u64::from(report.log_records > report.log_commits);
            let before = if lsn == 110 { 90 } else { 110 };
            assert_eq!(main.last_record_lsn(), Lsn(before), "{free}");
            assert_eq!(store.timeline("other").unwrap().last_record_lsn(), Lsn(1), "{free}");
            write(&main, lsn, 100).unwrap();
            drop((main, store));
            storage = storage.killed();
        }
    }
    assert!(begins_between > 0, "no part was left in the log, so nothing was tested");
}

#[test]
fn what_was_cut_short_does_not_keep_the_log() {
    let storage = cut_between_parts();
    let store = open(&storage, options());
    assert_eq!(store.timeline("main").unwrap().flush().unwrap(), Lsn(90));
    let other = store.timeline("other").unwrap();
    for lsn in 1..100 {
        write(&other, lsn, 200_000).unwrap();
    }
    assert!(store.stats().log.bytes <= options().log_size_max_bytes + (1 << 20));
}

#[test]
fn a_log_that_can_be_freed_is_not_full() {
    let storage = SimulatedStorage::new();
    let options = Options { open_layer_size_max_bytes: 64 << 10, ..options() };
    let store = open(&storage, options);
    let (main, other) = (
        store.create_timeline("main", Lsn(1)).unwrap(),
        store.create_timeline("other", Lsn(1)).unwrap(),
    );
    // As many frozen layers as may be, and something in the open one.
    for lsn in 1..=4 {
        write(&other, lsn, 100_000).unwrap();
    }
    write(&other, 5, 100).unwrap();
    for lsn in 1..200 {
        write(&main, lsn, 100_000).unwrap();
    }
}

#[test]
fn a_full_disk_does_not_fail_a_sync() {
    let storage = SimulatedStorage::new();
    let store = open(&storage, options());
    write(&store.create_timeline("main", Lsn(1)).unwrap(), 9, 1).unwrap();
    drop(store);
    let storage = storage.crash(&mut none_kept);
    let store = open(&storage, options());
    storage.set_free_bytes(Some(0));
    write(&store.timeline("main").unwrap(), 10, 1).unwrap();
}

#[test]
fn whoever_awaits_a_commit_is_told_that_the_logs_thread_has_panicked() {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let storage = SimulatedStorage::new();
    let store = open(&storage, Options { background: Background::Threads, ..options() });
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    write(&main, 1, 1).unwrap();
    storage.set_failing(Some(Failing { operation: "create", at: "/log", panics: true }));
    // More than half a segment: its thread prepares another one.
    let mut lease = main.write_lease().unwrap();
    let mut last = None;
    for lsn in 2..6 {
        lease.put(Key::new(1, 1), Lsn(lsn), Value::Image(&vec![0; 180_000])).unwrap();
        // It may have panicked by then.
        last = lease.commit(Lsn(lsn)).ok().or(last);
    }
    let future = last.expect("half of a segment has room for the first").into_future();
    let (send, outcome) = mpsc::channel();
    thread::spawn(move || {
        let mut future = pin!(future);
        let waker = Arc::new(Unpark(thread::current())).into();
        let outcome = loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(outcome) => break outcome,
                Poll::Pending => thread::park(),
            }
        };
        send.send(outcome).unwrap();
    });
    // The sync may come first, or the panic.
    let outcome = outcome.recv().unwrap();
    assert!(matches!(outcome, Ok(()) | Err(Error::ReadOnly { .. })), "{outcome:?}");
    while store.stats().log.failure.is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    storage.set_failing(None);
    lease.put(Key::new(1, 1), Lsn(9), Value::Image(b"9")).unwrap();
    assert!(matches!(lease.commit(Lsn(9)), Err(Error::ReadOnly { .. })));
}
