//! S5 to S7: a flush finds no room, or is cut off before or behind the edit of the manifest.

use pagestrata::{
    Background, Error, Options,
    testing::{Fault, Operation, SimulatedStorage, all_kept, none_kept},
};

use super::{DIR, check, commit, keys, open, options, reopen, write};
use crate::support::eventually;

in_all_access_modes!(
    s5_no_space_for_a_layer_file,
    s6_crash_between_the_layer_and_the_manifest,
    s7_crash_between_the_manifest_and_the_log,
);

const LAYERS: &str = "/store/timelines/1";
const LOG: &str = "/store/log";

fn s5_no_space_for_a_layer_file() {
    for background in [Background::Callers, Background::Threads] {
        // One segment of the log is enough for everything.
        let options = Options {
            frozen_layers_max: 1,
            log_segment_size_bytes: 1 << 20,
            log_size_max_bytes: 4 << 20,
            background,
            ..options()
        };
        let storage = SimulatedStorage::new();
        let (store, main, _) = open(&storage, options.clone()).unwrap();
        write(&main, 1..=80);
        storage.set_free_bytes(Some(8 << 10));
        assert!(matches!(main.flush(), Err(Error::FlushFailed { .. })));
        assert_eq!((main.stats().frozen_layers, check(&main)), (1, 80));
        // In the background it is tried again and again, and each try may be under way.
        if background == Background::Callers {
            assert_eq!(names(&storage, LAYERS), [""; 0]);
        }
        // Writers go on as long as there is memory for it, and are told when there is not.
        let mut lease = main.write_lease().unwrap();
        let mut last = 80;
        let stalled = loop {
            match commit(&mut lease, last + 1) {
                Ok(ticket) => ticket.wait().unwrap(),
                Err(error) => break error,
            }
            last += 1;
        };
        assert!(matches!(stalled, Error::FlushStalled { .. }), "{stalled}");
        assert_eq!(check(&main), last);
        // Nothing of the log was freed.
        for left in [storage.killed(), storage.crash(&mut none_kept)] {
            let (found, report) = reopen(&left);
            assert_eq!((found, report.log_commits), (last, last));
        }
        storage.set_free_bytes(None);
        if background == Background::Threads {
            eventually(|| main.stats().flush.flushes > 0);
        }
        commit(&mut lease, last + 1).unwrap().wait().unwrap();
        drop(lease);
        assert_eq!(main.flush().unwrap().0, 10 * (last + 1));
        assert_eq!((check(&main), main.stats().frozen_layers), (last + 1, 0));
        drop((main, store));
        let (found, report) = reopen(&storage.crash(&mut none_kept));
        assert_eq!((found, report.log_commits), (last + 1, 0));
    }
}

fn names(storage: &SimulatedStorage, dir: &str) -> Vec<String> {
    let files = storage.files().into_keys();
    let inside = files.filter(|path| path.parent() == Some(dir.as_ref()));
    inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Finished layer files.
fn layer_names(storage: &SimulatedStorage) -> Vec<String> {
    names(storage, LAYERS).into_iter().filter(|name| name.ends_with(".delta")).collect()
}

const COMMITS: u64 = 60;

/// Writes, and flushes with a fault set. Returns what is left and the calls of the flush.
fn flushed(fault: Option<Fault>) -> (SimulatedStorage, Vec<Operation>) {
    let storage = SimulatedStorage::new();
    // Few of the segments that are freed are kept for the next ones.
    let options = Options { log_size_max_bytes: 88 << 10, ..options() };
    let (_store, main, _) = open(&storage, options).unwrap();
    write(&main, 1..=COMMITS);
    assert_eq!(main.stats().frozen_layers + main.stats().layer_files, 0, "nothing yet");
    storage.set_trace(true);
    storage.set_fault(fault);
    let flushed = main.flush();
    assert!(flushed.is_ok() || fault.is_some());
    let calls = storage.trace();
    storage.set_fault(None);
    assert_eq!(check(&main), COMMITS);
    (storage, calls)
}

/// The calls that give the layer file its name, and the edit that names it.
fn steps() -> (u64, u64, Vec<Operation>) {
    let calls = flushed(None).1;
    let rename_in = |dir: &str| {
        let is_rename = |call: &&Operation| {
            call.operation == "rename" && call.path.parent() == Some(dir.as_ref())
        };
        let found: Vec<_> = calls.iter().filter(is_rename).map(|call| call.call).collect();
        *found.last().unwrap()
    };
    (rename_in(LAYERS), rename_in(DIR), calls)
}

fn fault(call: u64, late: bool) -> Option<Fault> {
    Some(Fault { call, late, for_good: true, ..Fault::default() })
}

fn s6_crash_between_the_layer_and_the_manifest() {
    let (named, committed, _) = steps();
    let mut orphans = 0;
    for call in named + 1..=committed {
        let (storage, _) = flushed(fault(call, false));
        let layer = layer_names(&storage);
        assert_eq!(layer.len(), 1);
        for left in [storage.killed(), storage.crash(&mut all_kept), storage.crash(&mut none_kept)]
        {
            let was_there = !layer_names(&left).is_empty();
            let (found, report) = reopen(&left);
            assert_eq!((found, report.log_commits, report.layer_files), (COMMITS, COMMITS, 0));
            assert_eq!(report.orphans_removed.contains(&layer[0]), was_there, "{report:?}");
            assert_eq!(names(&left, LAYERS), [""; 0]);
            orphans += u64::from(was_there);
            // Its number is never used again.
            let (_store, main, _) = open(&left, options()).unwrap();
            main.flush().unwrap();
            assert_ne!(names(&left, LAYERS), layer);
            assert_eq!(check(&main), COMMITS);
        }
    }
    assert!(orphans > 2, "{orphans}");
}

fn s7_crash_between_the_manifest_and_the_log() {
    let (_, committed, calls) = steps();
    let freed = calls.iter().filter(|call| call.operation == "remove");
    let freed: Vec<_> = freed.filter(|call| call.path.starts_with(LOG)).collect();
    assert!(freed.len() > 2, "{calls:?}");
    let last = calls.last().unwrap().call;
    let mut strays = 0;
    for (call, late) in (committed + 1..=last).map(|call| (call, false)).chain([(committed, true)])
    {
        let (storage, _) = flushed(fault(call, late));
        for left in [storage.killed(), storage.crash(&mut all_kept)] {
            let (found, report) = reopen(&left);
            assert_eq!((found, report.log_commits, report.layer_files), (COMMITS, 0, 1));
            strays += report.orphans_removed.iter().filter(|name| name.ends_with(".log")).count();
            assert_eq!(reopen(&left).1.orphans_removed, [""; 0]);
        }
        // The rename of CURRENT itself may not have come to the disk.
        assert_eq!(reopen(&storage.crash(&mut none_kept)).0, COMMITS);
    }
    assert!(strays > 10, "{strays}");

    // One timeline is flushed, another keeps the log: of the first one nothing is taken twice.
    let storage = SimulatedStorage::new();
    let (store, main, _) = open(&storage, options()).unwrap();
    let other = store.create_timeline("other", pagestrata::Lsn(1)).unwrap();
    for n in 1..=20 {
        write(&other, n..=n);
        write(&main, n..=n);
    }
    main.flush().unwrap();
    write(&main, 21..=23);
    drop((other, main, store));
    let (store, main, report) = open(&storage, options()).unwrap();
    assert_eq!((report.log_records, report.log_commits), (43, 23));
    assert_eq!((check(&main), check(&store.timeline("other").unwrap())), (23, 20));
    let layers: u64 = main.layers().iter().map(|layer| layer.versions).sum();
    assert_eq!(layers + main.stats().open_versions, 23 * keys(1).len() as u64);
}
