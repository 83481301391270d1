//! Write leases: owned ones, what they see, flushing under them; and timelines that are opened or
//! created.

use std::{collections::BTreeMap, sync::Barrier, thread};

use pagestrata::{
    Background, Error, Key, Kind, Lsn, Options, OwnedWriteLease, Timeline, Value, WriteLease,
    testing::{Failing, SimulatedStorage},
};

use crate::support::{fresh, open, open_in};

fn image(lease: &mut WriteLease<'_>, key: Key, lsn: Lsn) {
    lease.put(key, lsn, Value::Image(b"image")).unwrap();
}

/// What an embedder has for each connection: a timeline and the right to write to it.
struct Connection {
    timeline: Timeline,
    lease: OwnedWriteLease,
}

#[test]
fn an_owned_lease_is_stored_beside_its_timeline_and_moves_to_a_thread() {
    let (_dir, store, timeline) = fresh(Options::default());
    let lease = timeline.write_lease_owned().unwrap();
    let mut connection = Connection { timeline: timeline.clone(), lease };
    image(&mut connection.lease, Key::new(1, 1), Lsn(2));
    assert!(matches!(timeline.write_lease(), Err(Error::LeaseHeld { .. })));
    assert!(timeline.try_write_lease().unwrap().is_none());
    let writer = thread::spawn(move || {
        let Connection { timeline, mut lease } = connection;
        // The lease keeps all it needs.
        drop(timeline);
        image(&mut lease, Key::new(1, 2), Lsn(3));
        lease.commit(Lsn(3)).unwrap().wait().unwrap();
        image(&mut lease, Key::new(1, 3), Lsn(4));
    });
    writer.join().unwrap();
    let mut lease = timeline.try_write_lease().unwrap().expect("the other one was dropped");
    assert_eq!(lease.last_lsn(), Lsn(3), "what was not committed is taken back");
    image(&mut lease, Key::new(1, 3), Lsn(4));
    lease.commit(Lsn(4)).unwrap();
    // It outlives the store, and writes no more.
    store.close(std::time::Duration::ZERO).unwrap();
    assert!(matches!(lease.commit(Lsn(5)), Err(Error::Closed)));
    assert!(matches!(lease.flush(), Err(Error::Closed)));
    drop(lease);
    assert!(matches!(timeline.try_write_lease(), Err(Error::Closed)));
}

/// A thread that panics with a lease gives it back.
#[test]
fn a_lease_is_free_again_when_its_thread_panics() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease_owned().unwrap();
    let panicked = thread::spawn(move || {
        image(&mut lease, Key::new(1, 1), Lsn(2));
        panic!("planted");
    });
    assert!(panicked.join().is_err());
    let mut lease = timeline.write_lease().unwrap();
    assert!(!lease.exists(Key::new(1, 1)).unwrap());
    image(&mut lease, Key::new(1, 1), Lsn(2));
    lease.commit(Lsn(2)).unwrap();
}

/// What each key's newest version is, kept beside the lease.
#[derive(Default)]
struct Expected {
    /// By key: Lsn and kind of the newest put; none after a drop.
    newest: BTreeMap<Key, Option<(Lsn, Kind)>>,
}

impl Expected {
    fn check(&self, lease: &WriteLease<'_>, committed: Lsn, when: &str) {
        for (&key, &expected) in &self.newest {
            let found = lease.newest(key).unwrap();
            let is_committed =
                found.is_none_or(|newest| newest.is_committed == (newest.lsn <= committed));
            let found = found.map(|newest| (newest.lsn, newest.kind));
            assert_eq!((found, is_committed), (expected, true), "{key} {when}");
            assert_eq!(lease.exists(key).unwrap(), expected.is_some(), "{key} {when}");
        }
    }
}

#[test]
fn a_lease_sees_what_it_has_put_and_everything_below() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease().unwrap();
    let mut expected = Expected::default();
    let keys: Vec<Key> = (0..12).map(|block| Key::new(1, block)).collect();
    expected.newest.extend(keys.iter().map(|&key| (key, None)));
    let mut committed = Lsn(1);
    expected.check(&lease, committed, "in an empty timeline");
    for round in 0..6_usize {
        let lsn = Lsn(10 * (round as u64 + 1));
        let committed_newest = expected.newest.clone();
        for &key in &keys[round..round + 4] {
            let value = match round % 2 {
                0 => Value::Image(b"image"),
                _ => Value::Delta { bytes: b"delta", will_init: false },
            };
            lease.put(key, lsn, value).unwrap();
            expected.newest.insert(key, Some((lsn, value.kind())));
        }
        expected.check(&lease, committed, "before the commit");
        lease.drop_blocks(1, 3, lsn.next()).unwrap();
        let dropped = expected.newest.iter_mut().filter(|(key, _)| key.block >= 3);
        dropped.for_each(|(_, newest)| *newest = None);
        expected.check(&lease, committed, "after a drop of blocks");
        lease.put(keys[3], lsn.next(), Value::Image(b"again")).unwrap();
        expected.newest.insert(keys[3], Some((lsn.next(), Kind::Image)));
        expected.check(&lease, committed, "after a put behind the drop");
        if round % 3 == 2 {
            lease.abort();
            expected.newest = committed_newest;
            expected.check(&lease, committed, "after an abort");
            image(&mut lease, keys[0], lsn);
            expected.newest.insert(keys[0], Some((lsn, Kind::Image)));
        }
        lease.commit(lsn.next()).unwrap();
        committed = lsn.next();
        expected.check(&lease, committed, "after the commit");
        match round % 3 {
            0 => lease.roll().unwrap(),
            1 => assert_eq!(lease.flush().unwrap(), committed),
            _ => {}
        }
        expected.check(&lease, committed, "after a roll or a flush");
    }
}

/// A delta without a base is accepted; a writer that asks first need not put one.
#[test]
fn a_writer_can_ask_for_the_base_that_put_does_not_check() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease().unwrap();
    for lsn in 2..5 {
        let will_init = !lease.exists(Key::new(1, 1)).unwrap();
        assert_eq!(will_init, lsn == 2);
        let delta = Value::Delta { bytes: b"delta", will_init };
        lease.put(Key::new(1, 1), Lsn(lsn), delta).unwrap();
    }
    let delta = Value::Delta { bytes: b"delta", will_init: false };
    lease.put(Key::new(1, 2), Lsn(5), delta).unwrap();
    lease.commit(Lsn(5)).unwrap();
    let (snapshot, mut scratch) = (timeline.snapshot(), pagestrata::Scratch::new());
    assert_eq!(snapshot.guard().versions(Key::new(1, 1), Lsn(5), &mut scratch).unwrap().len(), 3);
    let missing = snapshot.guard().versions(Key::new(1, 2), Lsn(5), &mut scratch).map(|_| ());
    assert!(matches!(missing, Err(Error::MissingBase { .. })));
    assert!(lease.exists(Key::new(1, 2)).unwrap(), "a delta without a base exists");
}

#[test]
fn a_flush_under_the_lease_ends_at_the_last_commit() {
    for background in [Background::Threads, Background::Callers] {
        let (_dir, _store, timeline) = fresh(Options { background, ..Options::default() });
        let mut lease = timeline.write_lease().unwrap();
        assert_eq!(lease.flush().unwrap(), timeline.disk_consistent_lsn(), "nothing to flush");
        image(&mut lease, Key::new(1, 1), Lsn(2));
        let uncommitted = lease.flush();
        assert!(matches!(uncommitted, Err(Error::Uncommitted { .. })));
        assert_eq!((timeline.stats().frozen_layers, timeline.stats().flush.flushes), (0, 0));
        lease.commit(Lsn(2)).unwrap();
        assert_eq!(lease.flush().unwrap(), Lsn(2));
        // A commit without values moves the last record, and the flush follows.
        lease.commit(Lsn(7)).unwrap();
        assert_eq!(lease.flush().unwrap(), Lsn(7));
        assert_eq!(timeline.disk_consistent_lsn(), Lsn(7));
        image(&mut lease, Key::new(1, 1), Lsn(8));
        lease.commit(Lsn(8)).unwrap();
        assert_eq!(lease.flush().unwrap(), Lsn(8));
        assert_eq!(timeline.stats().layer_files, 2);
        assert!(matches!(timeline.write_lease(), Err(Error::LeaseHeld { .. })));
    }
}

#[test]
fn a_flush_under_the_lease_that_fails_loses_nothing() {
    let storage = SimulatedStorage::new();
    let store = open_in(&storage, Options::default()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    image(&mut lease, Key::new(1, 1), Lsn(2));
    lease.commit(Lsn(2)).unwrap();
    storage.set_failing(Some(Failing { operation: "create", at: ".tmp", panics: false }));
    assert!(matches!(lease.flush(), Err(Error::FlushFailed { .. })));
    image(&mut lease, Key::new(1, 2), Lsn(3));
    lease.commit(Lsn(3)).unwrap();
    storage.set_failing(None);
    assert_eq!(lease.flush().unwrap(), Lsn(3));
}

#[test]
fn threads_that_open_or_create_a_timeline_at_once_get_the_same_one() {
    const THREADS: u64 = 8;
    let (dir, store, _main) = fresh(Options::default());
    let barrier = Barrier::new(THREADS as usize);
    for name in ["a", "b", "c"] {
        let open = |start: u64| {
            barrier.wait();
            store.open_or_create_timeline(name, Lsn(start)).unwrap().start_lsn()
        };
        let starts: Vec<Lsn> = thread::scope(|scope| {
            let threads: Vec<_> =
                (1..=THREADS).map(|n| scope.spawn(move || open(10 * n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(starts.iter().all(|start| *start == starts[0]), "{starts:?}");
        assert_eq!(store.timeline(name).unwrap().start_lsn(), starts[0]);
    }
    assert_eq!(store.timelines().len(), 4);
    for (name, start) in [("", Lsn(1)), ("a\n", Lsn(1)), ("a", Lsn(0)), ("new", Lsn::MAX)] {
        assert!(store.open_or_create_timeline(name, start).is_err(), "{name:?} from {start}");
    }
    let start = store.timeline("b").unwrap().start_lsn();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.open_or_create_timeline("b", Lsn(99)).unwrap().start_lsn(), start);
    assert_eq!(store.timelines().len(), 4);
}
