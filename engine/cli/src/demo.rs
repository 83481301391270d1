//! `demo`: the sample in, flushed, reopened, and every page of its oracles read back and compared.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use pagestrata::{Kind, Scratch, Timeline};
use pagestrata_postgres::BaseBackup;
use pagestrata_postgres_ingest::{
    Error as IngestError,
    check::{self, Tally},
    identity::Identity,
    import::{ImportReport, import, open_base},
    ingest::{IngestReport, Log, ingest},
    open_existing,
    oracle::{self, Hashed},
    sample,
};
use serde::Serialize;

use crate::{
    error::{Error, Result},
    output::Output,
    progress::Bars,
};

const TIMELINE: &str = "main";
/// How often each page of the latency measurement is read.
const READ_ROUNDS: usize = 20;
/// A read that takes longer counts as this: a minute.
const READ_NS_MAX: u64 = 60_000_000_000;

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
}

/// How long it took to read pages at the end of the log, redo included.
#[derive(Debug, Serialize)]
struct Latency {
    reads: u64,
    /// How many records were redone, a read.
    records_per_read: f64,
    p50_ns: u64,
    p99_ns: u64,
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
        for Checked { what, good, checked } in checks {
            writeln!(f, "  {what}: {good} of {checked} good")?;
        }
        let Latency { reads, records_per_read, p50_ns, p99_ns } = get_page;
        write!(
            f,
            "GetPage at the end of the log, one thread, warm, {records_per_read:.1} records redone a read: p50 {p50_ns} ns, p99 {p99_ns} ns over {reads} reads"
        )?;
        match store {
            Some(dir) => write!(f, "\nthe store is in {}", dir.display()),
            None => Ok(()),
        }
    }
}

/// Runs the demo in `store`, or in a temporary directory that is removed.
pub(crate) fn demo<W: Write>(store: Option<&Path>, output: &mut Output<W>) -> Result<()> {
    let capture = tempfile::tempdir().map_err(|cause| Error::File {
        operation: "create a temporary directory",
        path: std::env::temp_dir(),
        cause,
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
    let mut bars = Bars::default();
    let (opened, import) = import(&dir, TIMELINE, &base, &mut |at| bars.show(at))?;
    let timeline = opened.timeline(TIMELINE)?;
    let ingest = ingest(&timeline, &Log::of(&capture.path().join("wal")), &mut |at| bars.show(at))?;
    drop(bars);
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
        Some(first) => Err(IngestError::Mismatch { failed, checked, first }.into()),
    }
}

/// Compares everything there is an oracle for; and the first thing that is not as it should be.
fn check_all(
    timeline: &Timeline,
    base: &BaseBackup,
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
    let redo = Identity::at(timeline, base.start_lsn())?.redo();
    let found = check::references(guard, &references)?;
    let mut all = vec![
        ("records of the log", counted),
        ("pages of the base", check::base_pages(guard, base)?),
        ("images in records, by sha256", found.images),
        ("deltas, by kind, length and record", found.deltas),
        ("images after redo, by hash", check::hashed_pages(guard, &versions, &redo)?),
    ];
    let (mut recovered, mut sizes) = (Vec::new(), Vec::new());
    for (lsn, manifest) in sample::manifests()? {
        recovered.extend(oracle::manifest(&manifest, lsn)?);
        sizes.extend(oracle::manifest_sizes(&manifest, lsn)?);
    }
    all.push((
        "pages at 10 Lsns that PostgreSQL recovered, by hash",
        check::hashed_pages(guard, &recovered, &redo)?,
    ));
    all.push(("sizes of their forks", check::sizes(guard, &sizes)?));
    let first_failure = all.iter().find_map(|(_, tally)| tally.first_failure.clone());
    let checked = |(what, tally): (_, Tally)| {
        let Tally { good, checked, .. } = tally;
        Checked { what, good, checked }
    };
    Ok((all.into_iter().map(checked).collect(), first_failure))
}

/// Reads every page at the last of these Lsns several times, each read on its own clock.
fn measure(timeline: &Timeline) -> Result<Latency> {
    let redo = Identity::at(timeline, timeline.last_record_lsn())?.redo();
    let mut pages = Vec::new();
    if let Some((lsn, manifest)) = sample::manifests()?.pop() {
        pages = oracle::manifest(&manifest, lsn)?;
    }
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    // To three digits.
    let mut nanos = Histogram::<u64>::new_with_max(READ_NS_MAX, 3).expect("valid bounds");
    let mut records = 0;
    for _ in 0..READ_ROUNDS {
        for Hashed { key, lsn, .. } in &pages {
            let guard = reader.pin();
            let versions = guard.history(*key, *lsn, &mut scratch)?;
            if versions.is_empty() {
                continue;
            }
            records += versions.newest_first().filter(|found| found.kind != Kind::Image).count();
            let started = Instant::now();
            std::hint::black_box(&guard.page(*key, *lsn, &redo, &mut scratch)?[..]);
            nanos.saturating_record(started.elapsed().as_nanos() as u64);
        }
    }
    let reads = nanos.len();
    let records_per_read = records as f64 / reads.max(1) as f64;
    let [p50_ns, p99_ns] = [0.5, 0.99].map(|of| nanos.value_at_quantile(of));
    Ok(Latency { reads, records_per_read, p50_ns, p99_ns })
}
