//! S25: an opening that fails gives everything back, whatever it fails of, as often as it fails.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pagestrata::{Access, Background, Lsn, Options, Store};

use super::{check, child, options, write};

const WARM_UP: u64 = 20;
const OPENS: u64 = 1000;
/// What the allocator may keep for itself, in bytes. A leak of one layer file or chunk per opening
/// would be a hundred times as much.
const SLACK_BYTES: u64 = 16 << 20;

/// What a process holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    mappings: usize,
    threads: usize,
    resident_bytes: u64,
}

impl Held {
    fn now() -> Held {
        let count = |dir| fs::read_dir(dir).unwrap().count();
        let of = |path: &str| fs::read_to_string(path).unwrap();
        let pages = of("/proc/self/statm").split(' ').nth(1).unwrap().parse::<u64>().unwrap();
        Held {
            descriptors: count("/proc/self/fd"),
            mappings: of("/proc/self/maps").lines().count(),
            threads: count("/proc/self/task"),
            resident_bytes: pages * 4096,
        }
    }

    #[track_caller]
    fn assert_no_more_than(&self, before: &Held, what: &str) {
        let grown = self.resident_bytes.saturating_sub(before.resident_bytes);
        assert!(
            self.descriptors <= before.descriptors
                && self.mappings <= before.mappings + 20
                && self.threads <= before.threads
                && grown < SLACK_BYTES,
            "{what}: from {before:?} to {self:?}"
        );
    }
}

/// A store with three layer files and a log behind them, closed.
fn made(dir: &Path, options: &Options) {
    let (store, _) = Store::open(dir, options.clone()).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    for n in 0..3 {
        write(&main, 20 * n + 1..=20 * n + 20);
        main.flush().unwrap();
    }
    write(&main, 61..=70);
}

fn names(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_of = |path: &PathBuf| path.extension().is_some_and(|of| of == extension);
    let mut paths: Vec<_> = entries.filter(is_of).collect();
    paths.sort_unstable();
    paths
}

/// Changes a byte in the middle of a file.
fn damage(path: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

fn damage_segments(store: &Path, at: usize) {
    names(&store.join("log"), "log").iter().for_each(|segment| damage(segment, |_| at));
}

#[test]
fn s25_openings_that_fail_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    child::run("fails_to_open", dir.path(), "").assert_success();
}

/// What an opening fails of, and what brings that about in a store.
type Cause = (&'static str, fn(&Path));

/// In a process of its own, which counts what it holds.
pub(super) fn fails_to_open(dir: &Path) {
    let base = Options { background: Background::Threads, ..options() };
    let causes: [Cause; 9] = [
        ("a damaged CURRENT", |store| damage(&store.join("CURRENT"), |_| 20)),
        ("a damaged manifest", |store| {
            damage(&store.join("MANIFEST-00000001"), |len| len - 9);
        }),
        ("a missing manifest", |store| fs::remove_file(store.join("MANIFEST-00000001")).unwrap()),
        ("a damaged layer file among sound ones", |store| {
            damage(&names(&store.join("timelines/1"), "delta")[1], |len| len - 100);
        }),
        ("a missing layer file", |store| {
            fs::remove_file(&names(&store.join("timelines/1"), "delta")[2]).unwrap();
        }),
        ("damaged segments of the log", |store| damage_segments(store, 4)),
        ("damaged records", |store| damage_segments(store, 200)),
        ("an orphan that cannot be removed", |store| {
            fs::create_dir(store.join("timelines/1/000000FF.tmp")).unwrap();
        }),
        ("a log segment that cannot be removed", |store| {
            fs::create_dir(store.join("log/0000000000000001.tmp")).unwrap();
        }),
    ];
    for (n, (cause, make)) in causes.into_iter().enumerate() {
        let store = dir.join(n.to_string());
        made(&store, &base);
        make(&store);
        fail(cause, &store, &base, OPENS);
        // What is not mapped can leak no mappings, and the rest is the same.
        let access = Access::Pread;
        fail(cause, &store, &Options { access, ..base.clone() }, OPENS / 10);
    }
    let held = dir.join("held");
    made(&held, &base);
    let (store, _) = Store::open(&held, base.clone()).unwrap();
    fail("a lock that is held", &held, &base, OPENS);
    assert_eq!(check(&store.timeline("main").unwrap()), 70);
    let no_create = Options { create: false, ..base };
    fail("no store", &dir.join("none"), &no_create, OPENS);
}

fn fail(cause: &str, store: &Path, options: &Options, opens: u64) {
    let mut before = None;
    for n in 0..WARM_UP + opens {
        if n == WARM_UP {
            before = Some(Held::now());
        }
        assert!(Store::open(store, options.clone()).is_err(), "{cause}");
    }
    Held::now().assert_no_more_than(&before.unwrap(), cause);
}
