//! Flushing beside a writer, and going on after what went wrong.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use pagestrata::{
    Durability, Error, Key, Lsn, Options, Store, Timeline, Value,
    storage::Storage,
    testing::{Failing, SimulatedStorage},
};

use crate::support::{LayersAway, eventually, fresh, open_in, put};

fn small() -> Options {
    Options { open_layer_size_max_bytes: 64 << 10, frozen_layers_max: 1, ..Options::default() }
}

#[test]
fn blocks_that_are_dropped_twice_are_flushed() {
    let (_dir, _store, timeline) = fresh(small());
    let mut lease = timeline.write_lease().unwrap();
    lease.put(Key::new(1, 7), Lsn(2), Value::Image(b"x")).unwrap();
    lease.drop_blocks(1, 5, Lsn(3)).unwrap();
    lease.drop_blocks(1, 5, Lsn(3)).unwrap();
    lease.commit(Lsn(3)).unwrap();
    drop(lease);
    assert_eq!(timeline.flush().unwrap(), Lsn(3));
    assert_eq!(timeline.layers()[0].tombstones, 1);
}

/// A follower of a log passes records that change nothing, and may tell others that it has them.
#[test]
fn a_commit_without_values_becomes_durable_under_a_lease() {
    let options = Options { durability: Durability::External, ..small() };
    let (dir, store, timeline) = fresh(options.clone());
    let mut lease = timeline.write_lease().unwrap();
    lease.put(Key::new(1, 7), Lsn(2), Value::Image(b"x")).unwrap();
    lease.commit(Lsn(2)).unwrap();
    for lsn in [9, 20, 20] {
        lease.commit(Lsn(lsn)).unwrap();
        lease.roll().unwrap();
        assert_eq!(timeline.flush().unwrap(), Lsn(lsn));
        assert_eq!(timeline.stats().layer_files, 1);
    }
    let flushes = timeline.stats().flush.flushes;
    lease.roll().unwrap();
    timeline.flush().unwrap();
    assert_eq!(timeline.stats().flush.flushes, flushes, "there was nothing to roll");
    drop(lease);
    // As after a crash: nothing is flushed by closing.
    drop((timeline, store));
    let (store, _) = Store::open(dir.path(), options).unwrap();
    assert_eq!(store.timeline("main").unwrap().last_record_lsn(), Lsn(20));
}

#[test]
fn a_large_batch_that_is_aborted_does_not_stop_the_writer() {
    let (_dir, _store, timeline) = fresh(small());
    let mut lease = timeline.write_lease().unwrap();
    let key = Key::new(1, 1);
    for lsn in 2..10 {
        lease.put(key, Lsn(2), Value::Image(&[0; 200 << 10])).unwrap();
        lease.abort();
        lease.put(key, Lsn(lsn), Value::Image(b"small")).unwrap();
        lease.abort();
    }
    lease.put(key, Lsn(2), Value::Image(b"small")).unwrap();
    lease.commit(Lsn(2)).unwrap();
    drop(lease);
    assert_eq!(timeline.flush().unwrap(), Lsn(2));
    assert_eq!(timeline.stats().layer_files, 1);
}

#[test]
fn a_writer_that_was_stalled_goes_on_by_itself() {
    let (dir, _store, timeline) = fresh(small());
    let away = LayersAway::of(dir.path());
    let mut lease = timeline.write_lease().unwrap();
    let mut lsn = 1;
    let mut put = || {
        lease.put(Key::new(1, lsn as u32), Lsn(lsn), Value::Image(&[1; 4096]))?;
        lease.commit(Lsn(lsn))?;
        lsn += 1;
        Ok(())
    };
    while put().is_ok() {}
    assert!(matches!(put(), Err(Error::FlushStalled { .. })));
    away.back();
    timeline.flush().unwrap();
    put().unwrap();
}

/// Writes to `busy` while `flush` runs, which must not take for as long as the writer would go on.
fn beside_a_busy_writer(busy: &Timeline, flush: impl FnOnce()) {
    let (flushed, written) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut lease = busy.write_lease().unwrap();
            for lsn in 1.. {
                lease.put(Key::new(1, lsn as u32), Lsn(lsn), Value::Image(&[1; 8192])).unwrap();
                lease.commit(Lsn(lsn)).unwrap();
                // Long after any flush should have ended.
                if flushed.load(Ordering::Relaxed) || busy.stats().flush.flushes == 500 {
                    break;
                }
            }
            written.store(true, Ordering::Relaxed);
        });
        while busy.stats().flush.flushes < 3 {
            thread::yield_now();
        }
        flush();
        assert!(!written.load(Ordering::Relaxed), "the flush waited for the writer's end");
        flushed.store(true, Ordering::Relaxed);
    });
}

/// A flush is of what was there when it was asked for: a writer that goes on does not hold it up.
#[test]
fn a_flush_ends_beside_a_busy_writer() {
    let (_dir, _store, timeline) = fresh(Options { frozen_layers_max: 4, ..small() });
    beside_a_busy_writer(&timeline, || {
        timeline.flush().unwrap();
    });
}

/// Nor does the writer of another timeline.
#[test]
fn a_flush_ends_beside_a_busy_writer_of_another_timeline() {
    let (_dir, store, busy) = fresh(Options { frozen_layers_max: 4, ..small() });
    let quiet = store.create_timeline("quiet", Lsn(1)).unwrap();
    beside_a_busy_writer(&busy, || {
        put(&quiet, Key::new(1, 1), Lsn(1), b"x");
        assert_eq!(quiet.flush().unwrap(), Lsn(1));
    });
}

#[test]
fn flushing_again_and_again_keeps_the_bound_on_frozen_layers() {
    let options = Options { frozen_layers_max: 2, ..small() };
    let (dir, _store, timeline) = fresh(options);
    let away = LayersAway::of(dir.path());
    for lsn in 1..10 {
        put(&timeline, Key::new(1, 1), Lsn(lsn), b"x");
        assert!(matches!(timeline.flush(), Err(Error::FlushFailed { .. })));
    }
    assert_eq!(timeline.stats().frozen_layers, 2);
    away.back();
    assert_eq!(timeline.flush().unwrap(), Lsn(9));
}

/// Nothing that only looks at the map for a while keeps a retired layer after it has ended.
#[test]
fn a_layer_that_is_retired_during_verify_is_reclaimed() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease().unwrap();
    let page = vec![1; 1 << 20];
    for block in 0..100 {
        lease.put(Key::new(1, block), Lsn(2), Value::Image(&page)).unwrap();
    }
    lease.commit(Lsn(2)).unwrap();
    lease.roll().unwrap();
    timeline.flush().unwrap();
    lease.put(Key::new(1, 1), Lsn(3), Value::Image(b"x")).unwrap();
    lease.commit(Lsn(3)).unwrap();
    lease.roll().unwrap();
    thread::scope(|scope| {
        let verify = scope.spawn(|| timeline.verify().unwrap());
        timeline.flush().unwrap();
        verify.join().unwrap();
    });
    eventually(|| timeline.stats().retired_layers == 0);
}

/// Whichever step goes on failing, the tries leave no more and more files behind.
#[test]
fn flushes_that_fail_again_and_again_leave_nothing_behind() {
    let layers = "timelines/1";
    for (operation, at) in [
        ("create", layers),
        ("append to", ".tmp"),
        ("sync", layers),
        ("rename", layers),
        ("sync directory", layers),
        ("open", layers),
        ("map", layers),
        ("create", "/store"),
        ("append to", "/store"),
        ("sync", "/store"),
        ("sync", "CURRENT.tmp"),
        ("sync directory", "/store"),
    ] {
        let what = format!("{operation} {at}");
        let storage = SimulatedStorage::new();
        let delay = Duration::from_millis(1);
        let options = Options { flush_retry_delay: delay, flush_retry_delay_max: delay, ..small() };
        let store = open_in(&storage, options).unwrap();
        let timeline = store.create_timeline("main", Lsn(1)).unwrap();
        put(&timeline, Key::new(1, 1), Lsn(2), b"x");
        let files = |dir: &str| storage.list(dir.as_ref()).unwrap();
        storage.set_failing(Some(Failing { operation, at, panics: false }));
        while timeline.stats().flush.failures < 10 {
            assert!(timeline.flush().is_err(), "{what}");
        }
        let manifests = || files("/store").into_iter().filter(|name| name.starts_with("MANIFEST"));
        assert!(manifests().count() <= 2, "{what}: {:?}", files("/store"));
        storage.set_failing(None);
        assert_eq!(timeline.flush().unwrap(), Lsn(2), "{what}");
        let layer = timeline.layers().remove(0).path;
        let name = layer.file_name().unwrap().to_str().unwrap();
        assert_eq!(files("/store/timelines/1"), [name], "{what}");
        assert_eq!(manifests().count(), 1, "{what}");
        assert!(!files("/store").contains(&"CURRENT.tmp".to_owned()), "{what}");
    }
}

/// A storage that panics takes the flush thread with it: every waiter for a flush gets an error,
/// and none waits forever.
#[test]
fn nobody_waits_for_a_flushing_thread_that_panicked() {
    let storage = SimulatedStorage::new();
    let store = open_in(&storage, small()).unwrap();
    let first = store.create_timeline("first", Lsn(1)).unwrap();
    put(&first, Key::new(1, 1), Lsn(2), b"x");
    storage.set_failing(Some(Failing { operation: "create", at: ".tmp", panics: true }));
    assert!(first.flush().is_err());
    storage.set_failing(None);
    let second = store.create_timeline("second", Lsn(1)).unwrap();
    for timeline in [&first, &second] {
        put(timeline, Key::new(1, 2), Lsn(3), b"y");
        assert!(timeline.flush().is_err());
        assert!(timeline.snapshot().guard().exists(Key::new(1, 2), Lsn(3)).unwrap());
    }
    assert!(store.close(Duration::ZERO).is_err());
    let store = open_in(&storage, small()).unwrap();
    assert_eq!(store.timelines().len(), 2);
}

#[test]
fn an_opening_that_fails_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), small()).unwrap();
    store.create_timeline("first", Lsn(1)).unwrap();
    store.create_timeline("second", Lsn(1)).unwrap();
    drop(store);
    let orphan = dir.path().join("timelines/1/00000007.tmp");
    fs::write(&orphan, b"half a layer").unwrap();
    let second = dir.path().join("timelines/2");
    fs::remove_dir(&second).unwrap();
    assert!(Store::open(dir.path(), small()).is_err());
    assert!(orphan.exists());
    fs::create_dir(&second).unwrap();
    let (_store, report) = Store::open(dir.path(), small()).unwrap();
    assert_eq!(report.orphans_removed, ["00000007.tmp"]);
}
