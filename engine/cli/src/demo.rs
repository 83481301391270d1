//! `demo`: the sample in, flushed, reopened, and every page of its oracles read back and compared.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pagestrata::{Guard, Key, PageVersion, Redo, Scratch, Timeline};
use serde::Serialize;

use crate::{
    Error, Output, Result,
    check::{self, Tally},
    import::{ImportReport, import, open_base},
    ingest::{IngestReport, Log, ingest},
    oracle::{self, Expected, Reference},
    sample,
    stores::open_existing,
};

const TIMELINE: &str = "main";
/// How often each page of the latency measurement is read.
const READ_ROUNDS: usize = 20;

/// What the demo found.
#[derive(Debug, Serialize)]
struct DemoReport {
    import: ImportReport,
    ingest: IngestReport,
    records_per_second: f64,
    checks: Vec<Checked>,
    get_page: Latency,
    store: Option<PathBuf>,
}

/// A kind of check, and how many held.
#[derive(Debug, Serialize)]
struct Checked {
    what: &'static str,
    good: u64,
    checked: u64,
    /// How many pages of the list were not compared because they have to be redone first.
    need_redo: u64,
}

/// How long it took to read a page that is an image.
#[derive(Debug, Serialize)]
struct Latency {
    reads: u64,
    p50_ns: u128,
    p99_ns: u128,
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DemoReport { import, ingest, records_per_second, checks, get_page, store } = self;
        writeln!(f, "{import}")?;
        writeln!(f, "{ingest}")?;
        writeln!(
            f,
            "{records_per_second:.0} records/s, checksummed, decoded, put, committed one by one and flushed"
        )?;
        writeln!(f, "reopened; read back at every Lsn of the oracles:")?;
        for Checked { what, good, checked, need_redo } in checks {
            write!(f, "  {what}: {good} of {checked} good")?;
            match need_redo {
                0 => writeln!(f)?,
                _ => writeln!(f, " ({need_redo} more need redo, not compared)")?,
            }
        }
        let Latency { reads, p50_ns, p99_ns } = get_page;
        write!(
            f,
            "GetPage of an image, one thread, warm: p50 {p50_ns} ns, p99 {p99_ns} ns over {reads} reads"
        )?;
        match store {
            Some(dir) => write!(f, "\nthe store is in {}", dir.display()),
            None => Ok(()),
        }
    }
}

/// Runs the demo in `store`, or in a temporary directory that is removed.
pub(crate) fn demo<W: Write>(store: Option<&Path>, output: &mut Output<W>) -> Result<()> {
    let capture = tempfile::tempdir().map_err(|source| Error::File {
        operation: "create a temporary directory",
        path: std::env::temp_dir(),
        source,
    })?;
    let dir = match store {
        Some(dir) if dir.join("CURRENT").exists() => {
            return Err(Error::DemoStore { dir: dir.to_owned() });
        }
        Some(dir) => dir.to_owned(),
        None => capture.path().join("store"),
    };
    sample::unpack(capture.path())?;
    let base = open_base(&capture.path().join("base"))?;
    let (opened, import) = import(&dir, TIMELINE, &base)?;
    let timeline = opened.timeline(TIMELINE)?;
    let log = Log { dir: &capture.path().join("wal"), from: None, to: None };
    let ingest = ingest(&timeline, &log)?;
    drop(timeline);
    opened.close(Duration::ZERO)?;

    let (_store, timeline) = open_existing(&dir, TIMELINE)?;
    let (checks, first_failure) = check_all(&timeline, &base, &ingest)?;
    let report = DemoReport {
        records_per_second: ingest.applied.records as f64 / ingest.seconds.max(f64::MIN_POSITIVE),
        import,
        ingest,
        checks,
        get_page: measure(&timeline)?,
        store: store.map(Path::to_owned),
    };
    output.result(&report)?;
    let checked = report.checks.iter().map(|check| check.checked).sum();
    let failed: u64 = report.checks.iter().map(|check| check.checked - check.good).sum();
    match first_failure {
        None => Ok(()),
        Some(first) => Err(Error::Mismatch { failed, checked, first }),
    }
}

/// Compares everything there is an oracle for; and the first thing that is not as it should be.
fn check_all(
    timeline: &Timeline,
    base: &pagestrata_postgres::BaseBackup,
    ingest: &IngestReport,
) -> Result<(Vec<Checked>, Option<String>)> {
    let mut reader = timeline.reader();
    let guard = reader.pin();
    let (records, references) = oracle::references(&sample::oracle()?)?;
    let versions = oracle::versions(&sample::versions()?)?;
    let mut counted = Tally::default();
    (counted.good, counted.checked) = (ingest.applied.records.min(records), records);
    if ingest.applied.records != records {
        counted.first_failure =
            Some(format!("{} records instead of {records}", ingest.applied.records));
    }
    let found = check::references(guard, &references)?;
    let listed = check::hashed_pages(guard, &versions)?;
    let mut all = vec![
        ("records of the log", counted, 0),
        ("pages of the base", check::base_pages(guard, base)?, 0),
        ("images in records, by sha256", found.images, 0),
        ("deltas, by kind, length and record", found.deltas, 0),
        ("images after redo, by hash", listed.images, listed.need_redo),
    ];
    for (lsn, manifest) in sample::manifests()? {
        let found = check::hashed_pages(guard, &oracle::manifest(&manifest, lsn)?)?;
        all.push(("pages that PostgreSQL recovered, by hash", found.images, found.need_redo));
    }
    let first_failure = all.iter().find_map(|(_, tally, _)| tally.first_failure.clone());
    let checked = |(what, tally, need_redo): (_, Tally, _)| Checked {
        what,
        good: tally.good,
        checked: tally.checked,
        need_redo,
    };
    Ok((all.into_iter().map(checked).collect(), first_failure))
}

/// Reads every image of the log several times, each read on its own clock.
fn measure(timeline: &Timeline) -> Result<Latency> {
    let (_, references) = oracle::references(&sample::oracle()?)?;
    let is_image = |reference: &&Reference| matches!(reference.expected, Expected::Image { .. });
    let images: Vec<_> = references.iter().filter(is_image).collect();
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let mut nanos = Vec::with_capacity(images.len() * READ_ROUNDS);
    for _ in 0..READ_ROUNDS {
        for Reference { key, end, .. } in &images {
            let started = Instant::now();
            read(reader.pin(), *key, *end, &mut scratch)?;
            nanos.push(started.elapsed().as_nanos());
        }
    }
    nanos.sort_unstable();
    let at =
        |hundredths: usize| nanos.get(nanos.len() * hundredths / 100).copied().unwrap_or_default();
    Ok(Latency { reads: nanos.len() as u64, p50_ns: at(50), p99_ns: at(99) })
}

fn read(guard: Guard<'_>, key: Key, lsn: pagestrata::Lsn, scratch: &mut Scratch) -> Result<()> {
    std::hint::black_box(&guard.page(key, lsn, &NoRedo, scratch)?[..]);
    Ok(())
}

/// Images need no redo.
struct NoRedo;

impl Redo for NoRedo {
    fn apply(
        &self,
        _: Key,
        _: Option<&[u8]>,
        _: &mut dyn Iterator<Item = PageVersion<'_>>,
        _: &mut Vec<u8>,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("the demo has no redo".into())
    }
}
