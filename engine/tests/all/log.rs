//! The log as a user of the engine sees it: what is there after the store was dropped, killed or
//! opened with other options.

use std::{path::Path, time::Duration};

use pagestrata::{
    Background, Durability, Error, Key, Lsn, OpenReport, Options, Scratch, Store, Timeline, Value,
};

use crate::support::put;

fn options() -> Options {
    Options {
        log_segment_size_bytes: 16 << 10,
        log_size_max_bytes: 1 << 20,
        open_layer_size_max_bytes: 64 << 10,
        ..Options::default()
    }
}

fn key(n: u64) -> Key {
    Key::new(1, (n % 7) as u32)
}

fn value(n: u64) -> Vec<u8> {
    let len = 20 + (n * 37 % 300) as usize;
    (0..len).map(|at| (n as usize * 31 + at) as u8).collect()
}

fn write(timeline: &Timeline, numbers: std::ops::Range<u64>) {
    let mut lease = timeline.write_lease().unwrap();
    for n in numbers {
        let lsn = Lsn(10 * n);
        if n % 10 == 3 {
            lease.drop_blocks(9, 2, lsn).unwrap();
        }
        lease.put(key(n), lsn, Value::Image(&value(n))).unwrap();
        lease.put(Key::new(9, 1), lsn, Value::Delta { bytes: &value(n), will_init: true }).unwrap();
        lease.commit(lsn).unwrap().wait().unwrap();
    }
}

fn check(timeline: &Timeline, last: u64) {
    assert_eq!(timeline.last_record_lsn(), Lsn(10 * last).max(timeline.start_lsn()));
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for n in 1..=last {
        for page in [key(n), Key::new(9, 1)] {
            let found = guard.versions(page, Lsn(10 * n), &mut scratch).unwrap();
            let newest = found.newest().unwrap();
            assert_eq!((newest.lsn, newest.bytes), (Lsn(10 * n), &value(n)[..]));
        }
    }
}

fn reopen(dir: &Path, options: Options) -> (Store, Timeline, OpenReport) {
    let (store, report) = Store::open(dir, options).unwrap();
    let timeline = store.timeline("main").unwrap();
    (store, timeline, report)
}

#[test]
fn what_was_acknowledged_is_there_after_every_reopen() {
    for durability in
        [Durability::Synced, Durability::Buffered { sync_interval: Duration::from_millis(1) }]
    {
        for background in [Background::Threads, Background::Callers] {
            let dir = tempfile::tempdir().unwrap();
            let options = Options { durability, background, ..options() };
            let (store, _) = Store::open(dir.path(), options.clone()).unwrap();
            let timeline = store.create_timeline("main", Lsn(1)).unwrap();
            write(&timeline, 1..40);
            drop((timeline, store));
            let mut replayed = 0;
            for round in 1..12 {
                let (store, timeline, report) = reopen(dir.path(), options.clone());
                assert_eq!((report.log_torn_at, report.read_only), (None, None));
                replayed += report.log_commits;
                check(&timeline, 40 * round - 1);
                write(&timeline, 40 * round..40 * (round + 1));
                check(&timeline, 40 * (round + 1) - 1);
                if round % 4 == 3 {
                    timeline.flush().unwrap();
                }
                drop((timeline, store));
            }
            assert!(replayed > 300, "{replayed}");
            let (store, timeline, _) = reopen(dir.path(), options.clone());
            let segments = store.stats().log.segments;
            drop(timeline);
            store.close(Duration::ZERO).unwrap();
            let (store, timeline, report) = reopen(dir.path(), options.clone());
            assert_eq!((report.log_commits, report.log_segments), (0, 1), "of {segments}");
            check(&timeline, 479);
            drop((timeline, store));
        }
    }
}

#[test]
fn a_log_is_read_by_a_store_that_writes_none() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    write(&store.create_timeline("main", Lsn(1)).unwrap(), 1..20);
    drop(store);
    let external = Options { durability: Durability::External, ..options() };
    let (store, timeline, report) = reopen(dir.path(), external.clone());
    assert_eq!(report.log_commits, 19);
    check(&timeline, 19);
    write(&timeline, 20..30);
    drop((timeline, store));
    // What no log was written for is gone, and the log is as it was.
    let (store, timeline, _) = reopen(dir.path(), external);
    check(&timeline, 19);
    write(&timeline, 20..25);
    timeline.flush().unwrap();
    drop((timeline, store));
    let (store, timeline, report) = reopen(dir.path(), options());
    assert_eq!(report.log_commits, 0);
    check(&timeline, 24);
    write(&timeline, 25..30);
    drop((timeline, store));
    let (_store, timeline, report) = reopen(dir.path(), options());
    assert_eq!(report.log_commits, 5);
    check(&timeline, 29);
}

#[test]
fn the_log_stays_within_its_bound() {
    for background in [Background::Threads, Background::Callers] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            log_size_max_bytes: 64 << 10,
            open_layer_size_max_bytes: 4 << 20,
            background,
            ..options()
        };
        let (store, _) = Store::open(dir.path(), options.clone()).unwrap();
        let busy = store.create_timeline("main", Lsn(1)).unwrap();
        let idle = store.create_timeline("idle", Lsn(1)).unwrap();
        put(&idle, Key::new(1, 1), Lsn(5), b"idle");
        for from in (1..2000).step_by(100) {
            write(&busy, from..from + 100);
            assert!(store.stats().log.bytes <= (64 + 32) << 10, "{:?}", store.stats().log);
        }
        assert!(idle.disk_consistent_lsn() >= Lsn(5), "flushed, for it kept the log");
        check(&busy, 2000);
        // A lease that is never dropped keeps its layer, and with it the log.
        let mut lease = idle.write_lease().unwrap();
        lease.put(Key::new(1, 2), Lsn(6), Value::Image(b"held")).unwrap();
        lease.commit(Lsn(6)).unwrap().wait().unwrap();
        let mut writer = busy.write_lease().unwrap();
        let full = (2001..9000).find_map(|n| {
            writer.put(key(n), Lsn(10 * n), Value::Image(&value(n))).unwrap();
            writer.commit(Lsn(10 * n)).err().map(|error| (n, error))
        });
        let (n, error) = full.expect("the log is full some time");
        assert!(matches!(&error, Error::LogFull { timeline, .. } if timeline == "idle"), "{error}");
        lease.roll().unwrap();
        writer.commit(Lsn(10 * n)).unwrap().wait().unwrap();
        drop((lease, writer));
        let (mut reader, mut scratch) = (busy.reader(), Scratch::new());
        assert_eq!(reader.pin().versions(key(n), Lsn(10 * n), &mut scratch).unwrap().len(), 1);
    }
}

/// Writers that each keep the log from being freed for the others, and for themselves.
#[test]
fn a_writer_whose_own_layer_keeps_the_log_can_commit() {
    for background in [Background::Threads, Background::Callers] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { log_size_max_bytes: 64 << 10, background, ..options() };
        let (store, _) = Store::open(dir.path(), options).unwrap();
        let slow = ["first", "second"].map(|name| store.create_timeline(name, Lsn(1)).unwrap());
        let fast = store.create_timeline("fast", Lsn(1)).unwrap();
        let of_slow = slow.each_ref().map(|slow| {
            put(slow, key(1), Lsn(5), b"in the first segment");
            let mut lease = slow.write_lease().unwrap();
            lease.put(key(1), Lsn(6), Value::Image(b"not committed yet")).unwrap();
            lease
        });
        let mut of_fast = fast.write_lease().unwrap();
        let mut n = 1;
        for (slow, mut of_slow) in slow.iter().zip(of_slow) {
            let full = loop {
                of_fast.put(key(n), Lsn(10 * n), Value::Image(&value(n))).unwrap();
                match of_fast.commit(Lsn(10 * n)) {
                    Ok(_) => n += 1,
                    Err(full) => break full,
                }
            };
            of_fast.abort();
            let expected =
                matches!(&full, Error::LogFull { timeline, .. } if timeline == slow.name());
            assert!(expected, "{full}");
            of_slow.commit(Lsn(6)).unwrap().wait().unwrap();
        }
        of_fast.put(key(n), Lsn(10 * n), Value::Image(&value(n))).unwrap();
        of_fast.commit(Lsn(10 * n)).unwrap().wait().unwrap();
    }
}

#[test]
fn tickets_can_be_awaited_without_a_runtime() {
    use std::{
        future::IntoFuture,
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Wake, Waker},
        thread::Thread,
    };
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    for background in [Background::Threads, Background::Callers] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), Options { background, ..options() }).unwrap();
        let timeline = store.create_timeline("main", Lsn(1)).unwrap();
        let mut lease = timeline.write_lease().unwrap();
        for n in 1..50 {
            lease.put(key(n), Lsn(10 * n), Value::Image(&value(n))).unwrap();
            let ticket = lease.commit(Lsn(10 * n)).unwrap();
            let mut acknowledged = pin!(ticket.into_future());
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            let mut context = Context::from_waker(&waker);
            loop {
                match acknowledged.as_mut().poll(&mut context) {
                    Poll::Ready(done) => break done.unwrap(),
                    Poll::Pending => std::thread::park(),
                }
            }
        }
        assert!(store.stats().log.syncs > 0);
    }
}
