//! A store whose log is damaged between two opens.

use std::path::Path;

use arbitrary::Arbitrary;
use pagestrata::{
    Background, Error, Key, Lsn, Options, Scratch, Store, Timeline, Value,
    testing::{SimulatedStorage, fill_value, none_kept},
};
use pagestrata_layers::{manifest::Manifest, storage::Storage};

use crate::{
    damage::{Damage, Target, evidence},
    frames::{Files, Frame, RECORD, frames},
    replay::{DIR, STORE, bounded, check_error},
};

pub const STORE_DIR: &str = "store";
const OPS_MAX: usize = 40;
const GENERATIONS_MAX: usize = 4;
const NAMES: [&str; 2] = ["main", "other"];

#[derive(Debug, Arbitrary)]
pub struct History {
    segment_size: u8,
    salvage: bool,
    ops: Vec<Op>,
}

#[derive(Debug, Arbitrary)]
enum Op {
    Commit {
        timeline: u8,
        values: u8,
        len: u16,
        wait: bool,
    },
    Flush {
        timeline: u8,
    },
    /// Keeps a copy of the files: damage may restore sectors from it.
    Keep,
    /// The process ends, and the store is opened again.
    Restart,
}

/// A commit: number and length of its values.
#[derive(Clone, Copy, Debug)]
struct Commit {
    lsn: Lsn,
    values: u32,
    len: usize,
}

/// Commits of each timeline, in order.
type Commits = [Vec<Commit>; 2];

pub fn store_options(log_segment_size_bytes: u64, salvage_log: bool) -> Options {
    Options {
        open_layer_size_max_bytes: 64 << 10,
        log_segment_size_bytes,
        log_size_max_bytes: 16 * log_segment_size_bytes,
        salvage_log,
        background: Background::Callers,
        store_id: Some(STORE),
        ..Options::default()
    }
}

/// Returns the files of a store, without the lock file.
pub fn files_of(storage: &SimulatedStorage) -> Files {
    let mut files = storage.files();
    files.retain(|path, _| path.file_name().is_some_and(|name| name != "LOCK"));
    files
}

/// Makes a storage of these files, with the directories that contain none.
pub fn storage_of(files: Files) -> SimulatedStorage {
    let storage = SimulatedStorage::of_files(files);
    for dir in ["timelines", "timelines/1", "timelines/2"] {
        let dir = Path::new(STORE_DIR).join(dir);
        storage.create_dir(&dir).unwrap();
        storage.sync_dir(dir.parent().unwrap()).unwrap();
    }
    storage
}

pub fn check_store_error(error: &Error) {
    match error {
        Error::Layers(error) => check_error(error),
        error => panic!("{error}"),
    }
}

fn value(lsn: Lsn, block: u32, len: usize) -> Vec<u8> {
    fill_value(lsn.0 + u64::from(block), lsn.0 as u8, len)
}

/// Puts a commit that changes some blocks; its Lsn decides which blocks and how.
fn write(timeline: &Timeline, commit: Commit, wait: bool) -> Result<(), Error> {
    let mut lease = timeline.write_lease()?;
    for block in 0..commit.values {
        let bytes = value(commit.lsn, block, commit.len);
        lease.put(Key::new(1, block), commit.lsn, Value::Image(&bytes))?;
    }
    let ticket = lease.commit(commit.lsn)?;
    if wait { ticket.wait() } else { Ok(()) }
}

/// As [`write`]. If the log is full, flushes free it, which needs every write lease to be free.
fn write_with_room(store: &Store, of: usize, commit: Commit, wait: bool) {
    let timeline = store.timeline(NAMES[of]).unwrap();
    match write(&timeline, commit, wait) {
        Err(Error::LogFull { .. }) => {
            for name in NAMES {
                store.timeline(name).unwrap().flush().unwrap();
            }
            write(&timeline, commit, wait).unwrap();
        }
        written => written.unwrap(),
    }
}

/// The timeline must end with one of its commits, and contain all commits up to that one.
fn check_timeline(timeline: &Timeline, commits: &[Commit]) {
    let last = timeline.last_record_lsn();
    let there = commits.partition_point(|commit| commit.lsn <= last);
    let end = commits[..there].last().map_or(timeline.start_lsn(), |commit| commit.lsn);
    assert_eq!(last, end, "it ends with no commit");
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for commit in &commits[..there] {
        for block in 0..commit.values {
            let found = guard.versions(Key::new(1, block), commit.lsn, &mut scratch).unwrap();
            let newest = found.newest().expect("it was put");
            assert_eq!(newest.lsn, commit.lsn);
            assert!(*newest.bytes == value(commit.lsn, block, commit.len), "another value");
        }
    }
}

impl History {
    fn options(&self) -> Options {
        store_options((4 << 10) << (self.segment_size % 3), self.salvage)
    }

    fn write(&self) -> (SimulatedStorage, Commits, Vec<Files>) {
        let storage = SimulatedStorage::new();
        let open = || Store::open_with(storage.shared(), STORE_DIR, self.options()).unwrap().0;
        let (mut store, mut commits, mut generations) = (open(), Commits::default(), Vec::new());
        for name in NAMES {
            store.create_timeline(name, Lsn(1)).unwrap();
        }
        for (number, op) in (1..).zip(self.ops.iter().take(OPS_MAX)) {
            match *op {
                Op::Commit { timeline, values, len, wait } => {
                    let of = usize::from(timeline) % 2;
                    let len = usize::from(len) % if len % 8 == 0 { 6000 } else { 300 };
                    let commit =
                        Commit { lsn: Lsn(10 * number), values: 1 + u32::from(values) % 4, len };
                    write_with_room(&store, of, commit, wait);
                    commits[of].push(commit);
                }
                Op::Flush { timeline } => {
                    let timeline = store.timeline(NAMES[usize::from(timeline) % 2]).unwrap();
                    timeline.flush().unwrap();
                }
                Op::Keep if generations.len() < GENERATIONS_MAX => {
                    generations.push(storage.files())
                }
                Op::Keep => {}
                Op::Restart => {
                    drop(store);
                    store = open();
                }
            }
        }
        drop(store);
        (storage, commits, generations)
    }
}

pub fn check(history: &History, damage: &[Damage]) {
    let (storage, commits, generations) = history.write();
    let (manifest, _) = Manifest::open(storage.shared(), Path::new(STORE_DIR)).unwrap().unwrap();
    let Some(start) = manifest.state().log_start else { return };
    let (mut files, others): (Files, Files) =
        files_of(&storage).into_iter().partition(|(path, _)| path.starts_with(DIR));
    let sound = files.clone();
    let frames = frames(&sound, Path::new(DIR), start);
    let mut target =
        Target { dir: DIR.into(), files: &mut files, generations: &generations, frames: &frames };
    for damage in damage {
        let _ = target.damage(damage);
    }
    let is_sound = files == sound;
    let proven = evidence(&sound, &files, &frames);
    let mut all = others;
    all.extend(files);
    let storage = storage_of(all.clone());
    let open = |storage: &SimulatedStorage| {
        bounded(&all, || Store::open_with(storage.shared(), STORE_DIR, history.options()))
    };
    let (store, report) = match open(&storage) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!is_sound && !history.salvage, "{error}");
            return check_store_error(&error);
        }
    };
    let is_read_only = report.read_only.is_some();
    assert!(!is_read_only || history.salvage && !is_sound, "{report:?}");
    for ((number, name), commits) in (1..).zip(NAMES).zip(&commits) {
        let timeline = store.timeline(name).unwrap();
        check_timeline(&timeline, commits);
        let is_proven =
            |frame: &&Frame| (frame.kind, frame.stream) == (RECORD, number) && frame.end <= proven;
        let proven = frames.iter().filter(is_proven).map(|frame| frame.lsn).max().unwrap_or(0);
        let last = timeline.last_record_lsn();
        assert!(is_read_only || last.0 >= proven, "up to {last}, {proven} is known to be synced");
        let all = commits.last().map_or(Lsn(1), |commit| commit.lsn);
        assert!(!is_sound || last == all, "up to {last} of {all}");
    }
    if is_read_only {
        return;
    }
    let main = store.timeline(NAMES[0]).unwrap();
    let mut expected = commits[0].clone();
    expected.retain(|commit| commit.lsn <= main.last_record_lsn());
    let added = Commit { lsn: Lsn(1 << 30), values: 1, len: 100 };
    expected.push(added);
    write_with_room(&store, 0, added, true);
    drop((main, store));
    let storage = storage.crash(&mut none_kept);
    let (store, _) = open(&storage).unwrap();
    let main = store.timeline(NAMES[0]).unwrap();
    check_timeline(&main, &expected);
    assert_eq!(main.last_record_lsn(), added.lsn);
}
