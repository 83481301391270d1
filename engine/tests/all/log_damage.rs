//! A log that was synced and then damaged: whatever is changed in it, a store opens with every
//! acknowledged commit or says what is corrupt. It never opens with less, and never panics.
#![allow(clippy::print_stdout, reason = "the counts are what one wants to see of a run")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use pagestrata::{
    Background, Error, Key, LayersError, Lsn, Options, Scratch, Store, Timeline, Value,
    storage::Storage,
    testing::{SimulatedStorage, fill_value},
};

const DIR: &str = "/store";
const COMMITS: u64 = 100;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A store after a hundred synced commits, none of the last ones in a layer file.
struct Logged {
    storage: SimulatedStorage,
    /// Its log.
    files: Files,
    /// What the segments held at times before.
    generations: Vec<Files>,
}

fn options() -> Options {
    Options {
        log_segment_size_bytes: 4 << 10,
        log_size_max_bytes: 64 << 10,
        background: Background::Callers,
        store_id: Some(0x10C),
        ..Options::default()
    }
}

fn key(n: u64) -> Key {
    Key::new(1 + u128::from(n % 2), (n % 5) as u32)
}

fn value(n: u64) -> Vec<u8> {
    fill_value(n, 0x55, 16 + n as usize % 32)
}

fn commit(timeline: &Timeline, n: u64) {
    let mut lease = timeline.write_lease().unwrap();
    lease.put(key(n), Lsn(10 * n), Value::Image(&value(n))).unwrap();
    lease.commit(Lsn(10 * n)).unwrap().wait().unwrap();
}

/// Whether the storage holds a store that opens with all commits; else it has to say what is
/// corrupt.
fn opens_whole(storage: &SimulatedStorage, what: &str) -> bool {
    let store = match Store::open_with(storage.shared(), DIR, options()) {
        Ok((store, _)) => store,
        Err(Error::Layers(
            error @ (LayersError::Corrupt(_) | LayersError::UnsupportedVersion { .. }),
        )) => {
            assert_ne!(what, "undamaged", "{error}");
            return false;
        }
        Err(other) => panic!("{what}: {other}"),
    };
    let timeline = store.timeline("main").unwrap();
    assert_eq!(timeline.last_record_lsn(), Lsn(10 * COMMITS), "{what}: commits are missing");
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for n in 1..=COMMITS {
        let found = guard.history(key(n), Lsn(10 * n), &mut scratch).unwrap();
        let newest = found.newest().map(|version| (version.lsn, version.bytes.to_vec()));
        assert_eq!(newest, Some((Lsn(10 * n), value(n))), "{what}");
    }
    true
}

fn log_of(storage: &SimulatedStorage) -> Files {
    let files = storage.files().into_iter();
    files.filter(|(path, _)| path.starts_with("/store/log")).collect()
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

/// With `recycled` all segments were in use before, for commits that are in layer files.
fn logged(recycled: bool) -> Logged {
    let storage = SimulatedStorage::new();
    let (store, _) = Store::open_with(storage.shared(), DIR, options()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut generations = Vec::new();
    let flushed = if recycled { COMMITS * 3 / 4 } else { 0 };
    for n in 1..=COMMITS {
        commit(&timeline, n);
        if n <= flushed && n % 15 == 0 {
            timeline.flush().unwrap();
        }
        if n % 5 == 0 {
            generations.push(log_of(&storage));
        }
    }
    drop((timeline, store));
    assert!(opens_whole(&storage.killed(), "undamaged"));
    Logged { files: log_of(&storage), storage, generations }
}

impl Logged {
    /// The store with other files of the log; None: without it.
    fn with(&self, changes: &[(&Path, Option<&[u8]>)]) -> SimulatedStorage {
        let storage = self.storage.killed();
        for &(path, bytes) in changes {
            match bytes {
                Some(bytes) => storage.set(path, bytes.to_vec()),
                None => storage.remove(path).unwrap(),
            }
        }
        storage
    }

    /// The store with one file of the log changed.
    fn changed(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> SimulatedStorage {
        let mut bytes = self.files[path].clone();
        change(&mut bytes);
        self.with(&[(path, Some(&bytes))])
    }

    fn segments(&self) -> Vec<&Path> {
        self.files.keys().map(PathBuf::as_path).filter(|path| is_segment(path)).collect()
    }
}

#[test]
fn every_bit_of_a_log_of_synced_commits() {
    let logged = logged(false);
    let (mut refused, mut harmless) = (0_u64, 0_u64);
    let storage = &logged.storage;
    for path in logged.files.keys() {
        for bit in 0..logged.files[path].len() as u64 * 8 {
            storage.flip(path, bit / 8, (bit % 8) as u32);
            let what = format!("{} byte {} bit {}", path.display(), bit / 8, bit % 8);
            match opens_whole(&storage.killed(), &what) {
                true => harmless += 1,
                false => refused += 1,
            }
            storage.flip(path, bit / 8, (bit % 8) as u32);
        }
    }
    println!("{refused} flips refused, {harmless} harmless (behind the last commit, or padding)");
    assert!(refused > 80_000, "{refused}");
}

#[test]
fn zeroed_ranges_and_cut_files() {
    let logged = logged(true);
    let (mut refused, mut harmless) = (0, 0);
    let mut count = |whole: bool| if whole { harmless += 1 } else { refused += 1 };
    for (path, bytes) in &logged.files {
        let len = bytes.len();
        for start in (0..len).step_by(64) {
            for size in [1, 8, 64, 512, 4096] {
                let range = start..len.min(start + size);
                let what = format!("{} {range:?} zeroed", path.display());
                let storage = logged.changed(path, |bytes| bytes[range].fill(0));
                count(opens_whole(&storage, &what));
            }
            let what = format!("{} cut to {start}", path.display());
            let storage = logged.changed(path, |bytes| bytes.truncate(start));
            assert!(!is_segment(path) || !opens_whole(&storage, &what), "{what}");
        }
        let longer = logged.changed(path, |bytes| bytes.extend([0; 512]));
        assert!(!is_segment(path) || !opens_whole(&longer, "longer"));
    }
    println!("{refused} zeroed ranges refused, {harmless} harmless");
    assert!(refused > 300 && harmless > 0, "{refused}, {harmless}");
}

#[test]
fn sectors_of_older_generations() {
    let logged = logged(true);
    let (mut refused, mut harmless) = (0, 0);
    let older: Vec<_> = logged.generations.iter().flat_map(Files::iter).collect();
    for (path, now) in &logged.files {
        for sector in 0..now.len().div_ceil(512) {
            let range = sector * 512..now.len().min((sector + 1) * 512);
            for (from, then) in &older {
                // Of the same place, in whatever file of its kind it was then.
                if is_segment(from) != is_segment(path) || then[range.clone()] == now[range.clone()]
                {
                    continue;
                }
                let old = &then[range.clone()];
                let storage =
                    logged.changed(path, |bytes| bytes[range.clone()].copy_from_slice(old));
                let what = format!("{} {range:?} of {}", path.display(), from.display());
                match opens_whole(&storage, &what) {
                    true => harmless += 1,
                    false => refused += 1,
                }
            }
        }
    }
    println!("{refused} old sectors refused, {harmless} harmless");
    assert!(refused > 300, "{refused}, {harmless}");
}

#[test]
fn segments_swapped_removed_and_duplicated() {
    for recycled in [false, true] {
        let logged = logged(recycled);
        let all = logged.segments();
        let bytes = |path: &Path| Some(&logged.files[path][..]);
        let needed = all.iter().filter(|path| holds_frames(&logged.files[**path])).count();
        assert!(needed >= 2, "{needed}");
        for (n, &path) in all.iter().enumerate() {
            // The last one may be prepared and not in use yet.
            let whole = opens_whole(&logged.with(&[(path, None)]), "removed");
            assert!(!whole || !holds_frames(&logged.files[path]), "{} removed", path.display());
            for &other in &all[n + 1..] {
                let swapped = logged.with(&[(path, bytes(other)), (other, bytes(path))]);
                assert!(!opens_whole(&swapped, "swapped"));
            }
            for &other in all.iter().filter(|&&other| other != path) {
                assert!(!opens_whole(&logged.with(&[(other, bytes(path))]), "over another"));
            }
            let extra = Path::new("/store/log/00000000000000FF.log");
            assert!(!opens_whole(&logged.with(&[(extra, bytes(path))]), "under another name"));
        }
        let none: Vec<_> = all.iter().map(|&path| (path, None)).collect();
        assert!(!opens_whole(&logged.with(&none), "no segment at all"));
    }
}

#[test]
fn a_verification_reads_the_log_and_changes_nothing() {
    let logged = logged(false);
    let verify = |storage: &SimulatedStorage| {
        let before = storage.files();
        let verified = Store::verify(&storage.shared(), DIR, None, &mut |_| {});
        assert_eq!(storage.files(), before);
        verified
    };
    let report = verify(&logged.storage.killed()).unwrap();
    assert_eq!((report.log_records, report.layer_files), (COMMITS, 0));
    assert!(report.log_bytes > 100 * COMMITS);
    let first = logged.segments()[0];
    let damaged = verify(&logged.changed(first, |bytes| bytes[700] ^= 1));
    let Err(Error::Damaged { damaged, .. }) = damaged else { panic!("{damaged:?}") };
    assert_eq!(damaged.iter().map(|file| &*file.path).collect::<Vec<_>>(), [first]);
}

/// Whether there is a frame behind a segment's header.
fn holds_frames(segment: &[u8]) -> bool {
    segment[512..520] != [0; 8]
}
