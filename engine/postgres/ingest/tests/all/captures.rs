//! The captures: imported, ingested, and everything that their oracles know compared, in memory,
//! flushed, and reopened.
//!
//! The sample in the repository always; those in the directory `PAGESTRATA_CAPTURES` where it is
//! set.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use pagestrata::{Kind, Lsn, Scratch, Timeline};
use pagestrata_postgres::BaseBackup;
use pagestrata_postgres_ingest::{
    check::{self, Tally},
    identity::Identity,
    import::{import, open_base},
    ingest::{self, Log},
    open_to_ingest,
    oracle::{self, Expected, Hashed, Reference, Sized},
    sample,
};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample");
const NAMES: [&str; 5] =
    ["pgbench/main", "pgbench/fpwoff", "pgbench/pglz", "pgbench/zstd", "consistency/off"];
const THREADS: usize = 2;

/// A capture: files of one directory whose names start alike.
struct Capture {
    name: String,
    stem: PathBuf,
}

/// What is known of a capture.
struct Oracles {
    records: u64,
    references: Vec<Reference>,
    versions: Option<Vec<Hashed>>,
    sizes: Vec<Sized>,
    manifests: Vec<Hashed>,
}

impl Capture {
    fn new(name: &str, dir: &Path) -> Capture {
        Capture { name: name.to_owned(), stem: dir.join(name) }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}{suffix}", self.stem.display()))
    }

    fn text(&self, suffix: &str) -> Option<String> {
        let file = File::open(self.beside(suffix)).ok()?;
        Some(sample::text(file).unwrap())
    }

    fn oracles(&self) -> Oracles {
        let oracle = self.text(".oracle.jsonl.zst").expect("an oracle");
        let (records, references) = oracle::references(&oracle).unwrap();
        let list = self.text(".versions.txt.zst");
        let versions = list.as_ref().map(|text| oracle::versions(text).unwrap());
        let mut sizes = list.map_or_else(Vec::new, |text| oracle::sizes(&text).unwrap());
        let (manifests, recovered) = self.manifests();
        sizes.extend(recovered);
        Oracles { records, references, versions, sizes, manifests }
    }

    fn manifests(&self) -> (Vec<Hashed>, Vec<Sized>) {
        let prefix = format!("{}@", self.stem.file_name().unwrap().to_str().unwrap());
        let (mut pages, mut sizes) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(self.stem.parent().unwrap()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let lsn = name.strip_prefix(&prefix).and_then(|rest| rest.split_once('.'));
            if let Some((lsn, suffix)) = lsn {
                let text = self.text(&format!("@{lsn}.{suffix}")).unwrap();
                let lsn: Lsn = lsn.replace('_', "/").parse().unwrap();
                pages.extend(oracle::manifest(&text, lsn).unwrap());
                sizes.extend(oracle::manifest_sizes(&text, lsn).unwrap());
            }
        }
        assert!(!pages.is_empty());
        (pages, sizes)
    }
}

#[track_caller]
fn assert_all(tally: &Tally) {
    assert!(tally.all_good(), "{tally}: {}", tally.first_failure.as_deref().unwrap_or_default());
}

fn assert_pages(tally: &Tally) -> String {
    assert_all(tally);
    tally.to_string()
}

/// Compares the base and every block reference of the log; returns what was compared.
fn compare(timeline: &Timeline, base: &BaseBackup, oracles: &Oracles) -> String {
    let mut reader = timeline.reader();
    let guard = reader.pin();
    let base = check::base_pages(guard, base).unwrap();
    assert_all(&base);
    let found = check::references(guard, &oracles.references).unwrap();
    for tally in [&found.images, &found.deltas, &found.checking_images] {
        assert_all(tally);
    }
    format!(
        "base pages {base}, images {}, deltas {}, images for checking {}",
        found.images, found.deltas, found.checking_images
    )
}

/// Compares the lists of whole pages; returns what was compared.
fn compare_lists(timeline: &Timeline, oracles: &Oracles) -> String {
    let mut reader = timeline.reader();
    let guard = reader.pin();
    let redo = Identity::at(timeline, timeline.last_record_lsn()).unwrap().redo();
    let versions = oracles.versions.as_ref().map_or_else(
        || "no list".to_owned(),
        |versions| assert_pages(&check::hashed_pages(guard, versions, &redo).unwrap()),
    );
    let sizes = assert_pages(&check::sizes(guard, &oracles.sizes).unwrap());
    let manifests = assert_pages(&check::hashed_pages(guard, &oracles.manifests, &redo).unwrap());
    format!("listed versions {versions}, sizes {sizes}, recovered pages {manifests}")
}

fn check_capture(capture: &Capture) {
    let began = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let archive = File::open(capture.beside(".tar.zst")).unwrap();
    sample::unpack_archive(archive, dir.path()).unwrap();
    let (store_dir, wal) = (dir.path().join("store"), dir.path().join("wal"));
    let base = open_base(&dir.path().join("base")).unwrap();
    let oracles = capture.oracles();
    let prepared = began.elapsed();

    let (store, _) = import(&store_dir, "main", &base, &mut |_| ()).unwrap();
    let timeline = store.timeline("main").unwrap();
    let checked = ingest::check(&timeline, &Log::of(&wal), &mut |_| ()).unwrap();
    let applied = ingest::apply(&timeline, &checked, &mut |_| ()).unwrap();
    assert_eq!(applied.records, oracles.records);
    assert_eq!((checked.torn_at, timeline.last_record_lsn()), (None, checked.end));
    let compare_all = |timeline: &Timeline| {
        let references = compare(timeline, &base, &oracles);
        format!("{references}; {}", compare_lists(timeline, &oracles))
    };
    let in_memory = compare_all(&timeline);
    assert_eq!(timeline.flush().unwrap(), checked.end);
    let flushed = compare_all(&timeline);
    drop(timeline);
    store.close(Duration::ZERO).unwrap();

    let (_store, timeline) = open_to_ingest(&store_dir, "main", 0).unwrap();
    let reopened = compare_all(&timeline);
    let again = ingest::ingest(&timeline, &Log::of(&wal), &mut |_| ()).unwrap();
    assert_eq!(again.applied.records, 0);
    drop((_store, timeline));
    let cut = match capture.name.as_str() {
        "sample" | "pgbench/fpwoff" => check_cut(&dir.path().join("cut"), &base, &wal, &oracles),
        _ => String::new(),
    };
    let name = &capture.name;
    println!("{name}: records {0} of {0}; in memory: {in_memory}", applied.records);
    println!("{name}: flushed: {flushed}");
    println!(
        "{name}: reopened: {reopened}; {cut}{prepared:.1?} to unpack, {:.1?} in all",
        began.elapsed()
    );
}

/// With pages made at flush: the same pages, and no more than a few deltas for any of them.
fn check_cut(dir: &Path, base: &BaseBackup, wal: &Path, oracles: &Oracles) -> String {
    const DELTAS_MAX: u32 = 5;
    import(dir, "main", base, &mut |_| ()).unwrap().0.close(Duration::ZERO).unwrap();
    let (_store, timeline) = open_to_ingest(dir, "main", DELTAS_MAX).unwrap();
    // In two parts, so that chains go on from one layer to the next.
    let end = ingest::check(&timeline, &Log::of(wal), &mut |_| ()).unwrap().end;
    let middle = Lsn(u64::midpoint(timeline.last_record_lsn().0, end.0));
    ingest::ingest(&timeline, &Log { to: Some(middle), ..Log::of(wal) }, &mut |_| ()).unwrap();
    ingest::ingest(&timeline, &Log::of(wal), &mut |_| ()).unwrap();
    let stats = timeline.stats().flush;
    assert!(stats.flushes == 2 && stats.pages_made > 0 && stats.pages_failed == 0, "{stats:?}");
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let mut longest = 0;
    for Reference { key, end, .. } in &oracles.references {
        let versions = guard.versions(*key, *end, &mut scratch).unwrap();
        let deltas = versions.newest_first().filter(|version| version.kind != Kind::Image);
        longest = longest.max(deltas.count());
    }
    assert_eq!(longest, DELTAS_MAX as usize);
    let compared = compare_lists(&timeline, oracles);
    format!("with {} pages made by flushes: {compared}; ", stats.pages_made)
}

#[test]
fn captures_are_returned_as_their_oracles_say() {
    let mut captures = vec![Capture::new("sample", Path::new(SAMPLE))];
    match std::env::var_os("PAGESTRATA_CAPTURES") {
        Some(dir) => captures.extend(NAMES.map(|name| Capture::new(name, Path::new(&dir)))),
        None => println!("PAGESTRATA_CAPTURES is not set: only the sample is read"),
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(capture) = captures.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check_capture(capture);
                }
            });
        }
    });
}

/// What is planted in the oracles is found: the comparisons above compare something.
#[test]
fn planted_differences_are_found() {
    let capture = Capture::new("sample", Path::new(SAMPLE));
    let dir = tempfile::tempdir().unwrap();
    sample::unpack(dir.path()).unwrap();
    let base = open_base(&dir.path().join("base")).unwrap();
    let (store, _) = import(&dir.path().join("store"), "main", &base, &mut |_| ()).unwrap();
    let timeline = store.timeline("main").unwrap();
    let wal = dir.path().join("wal");
    ingest::ingest(&timeline, &Log::of(&wal), &mut |_| ()).unwrap();
    let mut oracles = capture.oracles();
    let (mut images, mut deltas, mut is_planted) = (0, 0, false);
    for Reference { end, expected, .. } in &mut oracles.references {
        match expected {
            Expected::Image { pd_lsn, .. } => {
                images += 1;
                match images {
                    1 => pd_lsn.0 += 1,
                    2 => *end = Lsn(end.0 + 8),
                    _ => {}
                }
            }
            Expected::Delta { will_init, length, prev, .. } => {
                deltas += 1;
                match deltas {
                    1 => *length += 1,
                    2 => prev.0 -= 8,
                    _ if !*will_init && !is_planted => {
                        *will_init = true;
                        is_planted = true;
                    }
                    _ => {}
                }
            }
        }
    }
    oracles.manifests[0].raw16 = "0".repeat(16);
    let mut reader = timeline.reader();
    let found = check::references(reader.pin(), &oracles.references).unwrap();
    assert_eq!((found.images.checked - found.images.good, found.images.checked), (2, images));
    assert_eq!((found.deltas.checked - found.deltas.good, found.deltas.checked), (3, deltas));
    let redo = Identity::at(&timeline, timeline.last_record_lsn()).unwrap().redo();
    let pages = check::hashed_pages(reader.pin(), &oracles.manifests, &redo).unwrap();
    assert_eq!(pages.checked - pages.good, 1);
    oracles.sizes[0].blocks = Some(1 << 20);
    let sizes = check::sizes(reader.pin(), &oracles.sizes).unwrap();
    assert_eq!(sizes.checked - sizes.good, 1);
}
