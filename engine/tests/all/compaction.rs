//! Merging layer files: reads find what they found before, files that are merged go when nothing
//! holds them, and what fails changes nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use pagestrata::{
    Access, Background, Durability, Error, ErrorKind, Key, Lsn, Options, Scratch, Store, Timeline,
    Value,
    testing::{Failing, SimulatedStorage},
};

use crate::support::{eventually, fresh, open_in, put};

const KEYS: u32 = 300;

fn options() -> Options {
    Options {
        background: Background::Callers,
        durability: Durability::External,
        block_size_target_bytes: 1 << 10,
        compaction_layer_size_bytes: 64 << 10,
        ..Options::default()
    }
}

fn key(n: u32) -> Key {
    Key::new(u128::from(n % 3), n)
}

/// A layer file of random updates: images, deltas, and now and then a drop.
fn flush_some(timeline: &Timeline, random: &mut fastrand::Rng, values: u64) {
    let mut lease = timeline.write_lease().unwrap();
    let mut lsn = timeline.last_record_lsn();
    for _ in 0..values {
        lsn = lsn.next();
        let bytes = vec![random.u8(..); random.usize(..300)];
        let key = key(random.u32(..KEYS));
        match random.u8(..40) {
            0 => lease.drop_blocks(key.object, key.block + random.u32(..40), lsn).unwrap(),
            1..10 => lease.put(key, lsn, Value::Image(&bytes)).unwrap(),
            n => {
                let will_init = n % 8 == 0;
                lease.put(key, lsn, Value::Delta { bytes: &bytes, will_init }).unwrap();
            }
        }
    }
    lease.commit(lsn).unwrap().wait().unwrap();
    lease.flush().unwrap();
}

/// Everything that can be read: each key's history at many Lsns, and all scans.
fn all_reads(timeline: &Timeline) -> Vec<String> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let last = timeline.last_record_lsn().0;
    let mut found = Vec::new();
    for lsn in (1..=last).step_by(997).chain([last]).map(Lsn) {
        for n in 0..KEYS {
            let versions = guard.history(key(n), lsn, &mut scratch).unwrap();
            let versions = versions.newest_first();
            let text = versions.map(|of| format!("{} {:?} {:?}", of.lsn, of.kind, of.bytes));
            found.push(text.collect::<Vec<_>>().join(";"));
        }
        found.extend(guard.scan(.., lsn).map(|page| format!("{:?}", page.unwrap())));
    }
    found
}

/// How many layers a read may visit: files of the same Lsns have other keys.
fn runs_of(timeline: &Timeline) -> usize {
    let lsns = timeline.layers().into_iter().map(|layer| layer.lsn_range.clone());
    lsns.map(|lsns| (lsns.start, lsns.end)).collect::<BTreeSet<_>>().len()
}

fn files_in(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn reads_find_after_merges_what_they_found_before() {
    for (n, access) in [Access::MMAP, Access::Pread, Access::Direct].into_iter().enumerate() {
        let options = Options { access, ..options() };
        let (dir, store, main) = fresh(options.clone());
        let layers = dir.path().join("timelines/1");
        let mut random = fastrand::Rng::with_seed(n as u64);
        let mut merges = 0;
        for round in 0..5 {
            for _ in 0..7 {
                flush_some(&main, &mut random, 600);
            }
            let (before, runs) = (all_reads(&main), runs_of(&main));
            let versions: u64 = main.layers().iter().map(|layer| layer.versions).sum();
            merges += main.compact().unwrap();
            assert!(all_reads(&main) == before, "round {round} with {access}");
            let after = main.layers();
            assert_eq!(after.iter().map(|layer| layer.versions).sum::<u64>(), versions);
            assert!(round != 1 || runs_of(&main) < runs, "{runs} runs stay");
            assert_eq!(files_in(&layers).len(), after.len(), "only what the map names");
            let _ = main.verify().unwrap();
        }
        let stats = main.stats().compaction;
        assert_eq!((stats.merges, stats.failures_total, stats.retired_files), (merges, 0, 0));
        assert!(stats.written_files > stats.merges, "a merge was cut into several files");
        assert_eq!(main.compact().unwrap(), 0, "there is nothing left to do");
        let before = all_reads(&main);
        drop((main, store));
        let (store, report) = Store::open(dir.path(), options).unwrap();
        assert!(report.orphans_removed.is_empty(), "{report:?}");
        assert!(all_reads(&store.timeline("main").unwrap()) == before);
    }
}

#[test]
fn a_pin_and_a_detached_version_keep_the_files_that_were_merged() {
    let (dir, _store, main) = fresh(options());
    let layers = dir.path().join("timelines/1");
    for lsn in 1..=8 {
        put(&main, key(1), Lsn(lsn), &[lsn as u8; 100]);
        main.flush().unwrap();
    }
    let (mut reader, mut scratch) = (main.reader(), Scratch::new());
    let guard = reader.pin();
    let newest = guard.versions(key(1), Lsn(3), &mut scratch).unwrap();
    let detached = newest.detach(0);
    let before = files_in(&layers);
    assert_eq!((before.len(), main.compact().unwrap()), (8, 1));
    assert_eq!(main.stats().compaction.retired_files, 8);
    assert!(files_in(&layers).is_superset(&before));
    let found = guard.versions(key(1), Lsn(2), &mut scratch).unwrap();
    assert_eq!(found.newest_first().next().unwrap().bytes, [2; 100]);
    reader.unpin();
    assert_eq!(main.compact().unwrap(), 0, "it frees what nothing holds");
    let held = main.stats().compaction.retired_files;
    assert_eq!(held, u64::from(detached.keeps_layer()));
    assert_eq!(detached.bytes(), [3; 100]);
    drop(detached);
    assert_eq!(main.compact().unwrap(), 0);
    assert_eq!(main.stats().compaction.retired_files, 0);
    assert_eq!(files_in(&layers).len(), 1);
}

#[test]
fn a_damaged_layer_is_parked_and_what_is_beside_it_is_merged() {
    let (dir, store, main) = fresh(options());
    for lsn in 1..=17 {
        put(&main, key(lsn as u32), Lsn(lsn), &[lsn as u8; 2000]);
        main.flush().unwrap();
    }
    drop((main, store));
    let mut files: Vec<PathBuf> = files_in(&dir.path().join("timelines/1")).into_iter().collect();
    files.sort_by_key(|path| fs::read(path).unwrap().windows(9).position(|at| at == [9; 9]));
    let damaged = files.last().unwrap();
    let mut bytes = fs::read(damaged).unwrap();
    let at = bytes.windows(9).position(|at| at == [9; 9]).unwrap();
    bytes[at] ^= 1;
    fs::write(damaged, bytes).unwrap();
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    let main = store.timeline("main").unwrap();
    let error = main.compact().unwrap_err();
    assert!(matches!(error, Error::CompactionFailed { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(main.compact().unwrap(), 2, "8 below it, 8 above it");
    let stats = main.stats();
    assert_eq!((stats.compaction.parked_files, stats.layer_files), (1, 3));
    let (mut reader, mut scratch) = (main.reader(), Scratch::new());
    for n in (1..=17).filter(|&n| n != 9) {
        let found = reader.pin().versions(key(n), Lsn(17), &mut scratch).unwrap();
        assert_eq!(found.newest_first().next().unwrap().bytes, [n as u8; 2000]);
    }
    assert!(reader.pin().versions(key(9), Lsn(17), &mut scratch).is_err());
}

#[test]
fn the_store_merges_in_the_background() {
    let (dir, _store, main) = fresh(Options { background: Background::Threads, ..options() });
    for lsn in 1..=40 {
        put(&main, key(lsn as u32), Lsn(lsn), &[lsn as u8; 100]);
        main.flush().unwrap();
    }
    eventually(|| main.stats().layer_files < 12);
    eventually(|| main.stats().compaction.retired_files == 0);
    let stats = main.stats();
    assert!(stats.compaction.merges > 0 && stats.compaction.failures_total == 0, "{stats:?}");
    let (mut reader, mut scratch) = (main.reader(), Scratch::new());
    for lsn in 1..=40 {
        let found = reader.pin().versions(key(lsn as u32), Lsn(40), &mut scratch).unwrap();
        assert_eq!(found.newest_first().next().unwrap().bytes, [lsn as u8; 100]);
    }
    drop(dir);
}

#[test]
fn without_a_fan_in_nothing_is_merged() {
    let (_dir, _store, main) = fresh(Options { compaction_fan_in: 0, ..options() });
    for lsn in 1..=20 {
        put(&main, key(1), Lsn(lsn), &[1; 100]);
        main.flush().unwrap();
    }
    assert_eq!((main.compact().unwrap(), main.layers().len()), (0, 20));
}

#[test]
fn a_disk_that_fills_up_in_a_merge_changes_nothing() {
    let storage = SimulatedStorage::new();
    let store = open_in(&storage, options()).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..8 {
        flush_some(&main, &mut random, 200);
    }
    let layers = Path::new("/store/timelines/1");
    let (before, files) = (all_reads(&main), storage.shared().list(layers).unwrap());
    let mut refused = 0;
    for free in (0..).map(|step| step * 4096) {
        storage.set_free_bytes(Some(free));
        match main.compact() {
            Ok(merges) => {
                assert_eq!(merges, 1);
                break;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{error}"),
        }
        refused += 1;
        let markers = |names: Vec<String>| -> BTreeSet<String> {
            names.into_iter().filter(|name| !name.ends_with(".unfinished")).collect()
        };
        let left = markers(storage.shared().list(layers).unwrap());
        assert_eq!(left, markers(files.clone()), "with {free} bytes");
        assert!(all_reads(&main) == before);
    }
    assert!(refused > 3, "the disk was full {refused} times");
    assert!(all_reads(&main) == before);
}

#[test]
fn a_merge_whose_edit_fails_keeps_no_commit_waiting_and_leaves_no_file() {
    let storage = SimulatedStorage::new();
    let options = Options { durability: Durability::Synced, ..options() };
    let store = open_in(&storage, options.clone()).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..8 {
        flush_some(&main, &mut random, 100);
    }
    let layers = || storage.shared().list(Path::new("/store/timelines/1")).unwrap();
    let files = layers().len();
    let before = all_reads(&main);
    for failed in 1..=3 {
        storage.set_failing(Some(Failing { operation: "append to", at: "/store", panics: false }));
        let error = main.compact().unwrap_err();
        assert!(matches!(error, Error::CompactionFailed { .. }), "{error}");
        assert_eq!(main.stats().compaction.failures_total, failed);
        // Whether the manifest names the outputs is not known, and no commit has to.
        let lsn = main.last_record_lsn().next();
        put(&main, Key::new(9, 9), lsn, b"a commit");
        storage.set_failing(None);
    }
    assert_eq!(main.compact().unwrap(), 1);
    assert_eq!(layers().len(), main.layers().len(), "{files} before: {:?}", layers());
    drop((main, store));
    let killed = storage.killed();
    let store = open_in(&killed, options).unwrap();
    let main = store.timeline("main").unwrap();
    let after = all_reads(&main);
    assert!(before.iter().take(KEYS as usize).eq(after.iter().take(KEYS as usize)));
}
