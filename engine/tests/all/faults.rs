//! A short life of a store in which each call to the storage fails, once or from then on, and what
//! is left after a kill or a power failure: everything that was acknowledged, each layer once, and
//! a store that goes on.

use std::time::Duration;

use pagestrata::{
    Durability, Error, Key, Lsn, Options, Scratch, Timeline, Value, WriteLease,
    testing::{Decision, FailedSync, Fault, SimulatedStorage, all_kept, none_kept},
};

use crate::support::open_in;

const IMPORT_LSN: u64 = 70;
const TRIES: usize = 3;
/// Power failures by chance at each place.
const SEEDS: u64 = 5;

fn options() -> Options {
    Options {
        store_id: Some(7),
        durability: Durability::External,
        flush_retry_delay: Duration::from_millis(1),
        flush_retry_delay_max: Duration::from_millis(1),
        ..Options::default()
    }
}

/// What the workload puts: version `n` is at Lsn `10 n`.
fn key_of(n: u64) -> Key {
    Key::new(1, (n % 3) as u32)
}

/// What was promised so far.
#[derive(Default, Debug)]
struct Promised {
    created: bool,
    disk_consistent: u64,
}

fn retry<T>(mut work: impl FnMut() -> pagestrata::Result<T>) -> pagestrata::Result<T> {
    for _ in 1..TRIES {
        if let Ok(done) = work() {
            return Ok(done);
        }
    }
    work()
}

fn put(
    lease: &mut WriteLease<'_>,
    numbers: std::ops::RangeInclusive<u64>,
) -> pagestrata::Result<()> {
    for n in numbers {
        lease.put(key_of(n), Lsn(10 * n), Value::Image(&n.to_le_bytes()))?;
        lease.commit(Lsn(10 * n))?;
    }
    Ok(())
}

fn flush(timeline: &Timeline, promised: &mut Promised) -> pagestrata::Result<()> {
    promised.disk_consistent = retry(|| timeline.flush())?.0;
    Ok(())
}

fn live(storage: &SimulatedStorage, promised: &mut Promised) -> pagestrata::Result<()> {
    let store = retry(|| open_in(storage, options()))?;
    let timeline = retry(|| store.create_timeline("main", Lsn(1)))?;
    promised.created = true;
    let mut lease = timeline.write_lease()?;
    put(&mut lease, 1..=2)?;
    lease.roll()?;
    put(&mut lease, 3..=4)?;
    lease.roll()?;
    flush(&timeline, promised)?;
    put(&mut lease, 5..=6)?;
    lease.roll()?;
    flush(&timeline, promised)?;
    retry(|| {
        let mut import = lease.import_images(Lsn(IMPORT_LSN))?;
        import.put(Key::new(2, 0), b"zero")?;
        import.put(Key::new(2, 1), b"one")?;
        import.finish()
    })?;
    promised.disk_consistent = IMPORT_LSN;
    put(&mut lease, 8..=9)?;
    drop(lease);
    drop(timeline);
    let report = store.close(Duration::ZERO)?;
    assert_eq!(report.disk_consistent_lsns, [("main".to_owned(), Lsn(90).to_string())]);
    promised.disk_consistent = 90;
    Ok(())
}

/// Compares a timeline with the workload; what it says is on disk has to be there, once, and
/// nothing else.
fn check(timeline: &Timeline, what: &str) -> u64 {
    let found = timeline.disk_consistent_lsn().0;
    assert_eq!(timeline.last_record_lsn().0, found.max(1), "{what}");
    timeline.verify().unwrap();
    let snapshot = timeline.snapshot();
    let mut scratch = Scratch::new();
    for n in (1..=found / 10).filter(|n| 10 * n != IMPORT_LSN) {
        let history = snapshot.guard().history(key_of(n), Lsn(10 * n), &mut scratch).unwrap();
        let versions: Vec<_> =
            history.newest_first().map(|version| (version.lsn.0, version.bytes.to_vec())).collect();
        assert_eq!(versions, [(10 * n, n.to_le_bytes().to_vec())], "{what}");
    }
    for (block, text) in [(0, &b"zero"[..]), (1, b"one")] {
        let history = snapshot.guard().history(Key::new(2, block), snapshot.lsn(), &mut scratch);
        let image = history.unwrap().newest().map(|version| version.bytes);
        assert_eq!(image, (found >= IMPORT_LSN).then_some(text), "{what}");
    }
    let versions: u64 = timeline.layers().iter().map(|layer| layer.versions).sum();
    assert_eq!(versions, found / 10 + u64::from(found >= IMPORT_LSN), "each layer once: {what}");
    found
}

/// Opens what is left, compares it, goes on with it. Returns the disk-consistent Lsn that was
/// found.
fn reopen(storage: &SimulatedStorage, promised: &Promised, what: &str) -> u64 {
    let store = open_in(storage, options()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let timeline = match store.timeline("main") {
        Ok(timeline) => timeline,
        Err(error) => {
            assert!(!promised.created, "{what}: {error}");
            store.create_timeline("main", Lsn(1)).unwrap()
        }
    };
    let found = check(&timeline, what);
    assert!(found >= promised.disk_consistent, "{what}: {found} of {promised:?}");
    let mut lease = timeline.write_lease().unwrap();
    lease.put(Key::new(3, 0), Lsn(100), Value::Image(b"more")).unwrap();
    lease.commit(Lsn(100)).unwrap();
    drop(lease);
    assert_eq!(timeline.flush().unwrap(), Lsn(100), "{what}");
    drop((timeline, store));
    let store =
        open_in(storage, options()).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    let timeline = store.timeline("main").unwrap();
    let mut reader = timeline.reader();
    assert!(reader.pin().exists(Key::new(3, 0), Lsn(100)).unwrap(), "{what}");
    found
}

/// What is left after kills and power failures at this moment.
fn crash_and_reopen(storage: &SimulatedStorage, promised: &Promised, what: &str) {
    reopen(&storage.killed(), promised, &format!("{what}, killed"));
    reopen(&storage.crash(&mut none_kept), promised, &format!("{what}, power off, none"));
    reopen(&storage.crash(&mut all_kept), promised, &format!("{what}, power off, all"));
    // Names without what the files hold.
    for (name, every, which) in [("names", 1, 0), ("even", 2, 0), ("odd", 2, 1), ("third", 3, 2)] {
        let mut n = 0;
        let mut some_names = |decision: Decision<'_>, _: usize| match decision {
            Decision::Name(_) => {
                n += 1;
                usize::from((n - 1) % every == which)
            }
            Decision::Len(_) | Decision::Sector(..) => 0,
        };
        let left = storage.crash(&mut some_names);
        reopen(&left, promised, &format!("{what}, power off, {name}"));
    }
    for seed in 0..SEEDS {
        let left = storage.crash_seeded(&mut fastrand::Rng::with_seed(seed));
        reopen(&left, promised, &format!("{what}, power off, seed {seed}"));
    }
    // Opened after a kill, and then the power fails: what the first opening has said holds.
    let killed = storage.killed();
    let Ok(store) = open_in(&killed, options()) else { return };
    let created = store.timeline("main").is_ok();
    let disk_consistent = store.timeline("main").map_or(0, |main| main.disk_consistent_lsn().0);
    drop(store);
    let promised = Promised { created, disk_consistent };
    reopen(&killed.crash(&mut none_kept), &promised, &format!("{what}, killed, power off"));
}

#[test]
fn every_fault_leaves_a_store_with_all_that_was_acknowledged() {
    let calls = {
        let (storage, mut promised) = (SimulatedStorage::new(), Promised::default());
        live(&storage, &mut promised).unwrap();
        assert_eq!(promised.disk_consistent, 90);
        crash_and_reopen(&storage, &promised, "no fault");
        storage.calls()
    };
    for call in 0..calls + 10 {
        let kinds = [(false, false), (false, true), (true, false), (true, true)];
        let syncs = [FailedSync::KeepsDirty, FailedSync::DropsDirty];
        for ((for_good, late), failed_sync) in
            kinds.into_iter().flat_map(|kind| syncs.map(|sync| (kind, sync)))
        {
            let fault = Fault { call, for_good, late, failed_sync, ..Fault::default() };
            let what = format!("{fault:?}");
            let (storage, mut promised) = (SimulatedStorage::new(), Promised::default());
            storage.set_fault(Some(fault));
            let done = live(&storage, &mut promised);
            if let Err(error) = done {
                assert!(for_good || is_from_close(&error), "{what}: tried again in vain: {error}");
            }
            crash_and_reopen(&storage, &promised, &what);
        }
    }
}

/// Closing flushes once; what fails then fails for good.
fn is_from_close(error: &Error) -> bool {
    matches!(error, Error::FlushFailed { .. })
}
