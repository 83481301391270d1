//! S16 and S17: a truncated manifest, and a store that another process has open.

use std::path::{Path, PathBuf};

use pagestrata::{
    Error, Lsn, Store,
    testing::{Fault, SimulatedStorage, all_kept, none_kept},
};

use super::{DIR, child, corruption_at_open, open, options, reopen, write};

in_all_access_modes!(s16_a_manifest_that_was_cut_off, s17_two_processes_and_one_store,);

/// A store whose manifest is begun anew: its last edit failed. The fault is of the edit after that.
fn begun_anew(fault: impl Fn(u64) -> Option<Fault>) -> (SimulatedStorage, u64) {
    let storage = SimulatedStorage::new();
    let (store, main, _) = open(&storage, options()).unwrap();
    write(&main, 1..=10);
    storage.set_failing(Some(pagestrata::testing::Failing {
        operation: "sync",
        at: "MANIFEST-00000001",
        panics: false,
    }));
    assert!(store.create_timeline("failed", Lsn(1)).is_err());
    storage.set_failing(None);
    let calls = storage.calls();
    storage.set_fault(fault(calls));
    let created = store.create_timeline("second", Lsn(1));
    assert!(created.is_ok() || fault(calls).is_some());
    let calls = storage.calls() - calls;
    storage.set_fault(None);
    drop((created, main, store));
    (storage, calls)
}

fn s16_a_manifest_that_was_cut_off() {
    // Wherever the change to a new manifest stops: the old one counts, or the new one.
    let (whole, calls) = begun_anew(|_| None);
    assert!(whole.files().into_keys().any(|path| path.to_string_lossy().ends_with("02")));
    let (mut with, mut without) = (0, 0);
    for (call, late) in (0..calls).flat_map(|call| [(call, false), (call, true)]) {
        let fault =
            |calls| Some(Fault { call: calls + call, late, for_good: true, ..Fault::default() });
        let (storage, _) = begun_anew(fault);
        let mut random = fastrand::Rng::with_seed(call);
        let mut left =
            vec![storage.killed(), storage.crash(&mut none_kept), storage.crash(&mut all_kept)];
        left.extend((0..5).map(|_| storage.crash_seeded(&mut random)));
        for left in left {
            assert_eq!(reopen(&left).0, 10);
            match open(&left, options()).unwrap().0.timeline("second") {
                Ok(_) => with += 1,
                Err(_) => without += 1,
            }
        }
    }
    assert!(with > 2 && without > 20, "{with} with, {without} without");

    // What was committed and is not there is never an empty store.
    let manifest = |name: &str| PathBuf::from(DIR).join(name);
    let current = manifest("CURRENT");
    let files = whole.files();
    let without_file = |lost: &Path| {
        let left = files.iter().filter(|(path, _)| *path != lost);
        SimulatedStorage::of_files(left.map(|(path, bytes)| (path.clone(), bytes.clone())))
    };
    assert_eq!(corruption_at_open(&without_file(&current)).0, current);
    let newest = files.keys().rfind(|path| path.to_string_lossy().contains("MANIFEST")).unwrap();
    assert_eq!(&corruption_at_open(&without_file(newest)).0, newest);
    for len in [0, 20, 60, files[newest].len() - 1] {
        let torn = whole.killed();
        torn.change(newest, |bytes| bytes.truncate(len));
        assert_eq!(&corruption_at_open(&torn).0, newest, "{len}");
    }
    // Behind what CURRENT says is committed there may be anything.
    let torn = whole.killed();
    torn.change(newest, |bytes| bytes.extend([0x55; 33]));
    let (found, report) = reopen(&torn);
    assert_eq!((found, report.manifest_cut_bytes), (10, 33));
}

fn s17_two_processes_and_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    write(&store.create_timeline("main", Lsn(1)).unwrap(), 1..=5);
    child::run("opens_a_locked_store", dir.path(), "").assert_success();
    assert!(matches!(Store::open(dir.path(), options()), Err(Error::Locked { .. })));
    drop(store);
    // Given back, also by a process that was killed.
    child::run("dies_with_the_store_open", dir.path(), "").assert_signal(child::SIGKILL);
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    assert_eq!(super::check(&store.timeline("main").unwrap()), 6);
}

/// In a process of its own.
pub(super) fn opens_a_locked_store(dir: &Path) {
    match Store::open(dir, options()) {
        Err(Error::Locked { path }) => assert_eq!(path, dir),
        other => panic!("{other:?}"),
    }
}

/// In a process of its own.
pub(super) fn dies_with_the_store_open(dir: &Path) {
    let (store, _) = Store::open(dir, options()).unwrap();
    write(&store.timeline("main").unwrap(), 6..=6);
    child::kill_self();
}
