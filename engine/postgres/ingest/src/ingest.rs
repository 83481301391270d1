//! Ingest: the log from where a timeline ends.
//!
//! ```text
//! check: every record is read and taken apart, nothing is written
//!     -> apply: the same records, up to the same end
//! ```
//!
//! Reading the log costs little beside storing it, and so damage anywhere in it is found before the
//! store is touched.
//!
//! **Invariants:** what is visible, and what is flushed, ends at a record's end. A record is
//! applied at most once: those that end at or before the timeline's last one are passed over.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pagestrata::{Lsn, Timeline};
use pagestrata_postgres::{PageVersions, WalEnd, WalReader};
use serde::Serialize;

use crate::{
    Applied, ChecksumSwitch, Error, Phase, Progress, Result,
    apply::{Applier, dry_run},
    identity::Identity,
    settings::Settings,
    stores::storage,
    text::{as_text, as_text_or_null, size},
};

/// Which log, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Log<'a> {
    /// The directory of segments.
    pub dir: &'a Path,
    /// Where to start reading; none: where the timeline ends.
    pub from: Option<Lsn>,
    /// Where to stop; none: where the log ends.
    pub to: Option<Lsn>,
    /// Compare redo with the images that records have for checking.
    pub checks: bool,
    /// Keep records that cannot be redone here; otherwise they are refused.
    pub allows_unknown_redo: bool,
    /// Where data checksums were switched on or off: the log does not say.
    pub checksums: Option<ChecksumSwitch>,
}

impl<'a> Log<'a> {
    /// All of it, from where the timeline ends.
    #[must_use]
    pub fn of(dir: &'a Path) -> Log<'a> {
        Log {
            dir,
            from: None,
            to: None,
            checks: false,
            allows_unknown_redo: false,
            checksums: None,
        }
    }
}

/// A log that was read to its end and is good.
#[derive(Clone, Debug)]
pub struct Checked {
    dir: PathBuf,
    identity: Identity,
    from: Lsn,
    checks: bool,
    checksums: Option<ChecksumSwitch>,
    /// The timeline's last record.
    last_record_lsn: Lsn,
    /// The end of the last record that is to be ingested.
    pub end: Lsn,
    /// Where a torn record starts behind it.
    pub torn_at: Option<Lsn>,
    /// How many records the timeline does not have.
    pub records: u64,
}

/// What an ingest did.
#[derive(Clone, Debug, Serialize)]
pub struct IngestReport {
    /// The timeline.
    pub timeline: String,
    /// The timeline's last record before.
    #[serde(serialize_with = "as_text")]
    pub from: Lsn,
    /// The timeline's last record now.
    #[serde(serialize_with = "as_text")]
    pub to: Lsn,
    /// Up to here everything is in synced layer files.
    #[serde(serialize_with = "as_text")]
    pub disk_consistent_lsn: Lsn,
    /// Where a torn record starts that ends the log.
    #[serde(serialize_with = "as_text_or_null")]
    pub torn_at: Option<Lsn>,
    /// What went into the timeline.
    #[serde(flatten)]
    pub applied: Applied,
    /// Bytes of log.
    pub wal_bytes: u64,
    /// How long applying and flushing took, in seconds.
    pub seconds: f64,
    /// Number of layer files of the timeline now.
    pub layers: u64,
    /// Bytes of these files.
    pub layer_bytes: u64,
}

impl fmt::Display for IngestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IngestReport { timeline, from, to, applied, wal_bytes, seconds, .. } = self;
        let Applied { records, images, deltas, sizes, drops, checked, .. } = applied;
        if *records == 0 {
            return write!(f, "nothing to ingest: timeline {timeline:?} has everything up to {to}");
        }
        write!(
            f,
            "ingested {records} records ({} of log) from {from} to {to} into timeline {timeline:?} in {seconds:.2} s: \
             {images} images, {deltas} deltas, {sizes} sizes, {drops} drops; {} layers, {}",
            size(*wal_bytes),
            self.layers,
            size(self.layer_bytes)
        )?;
        match checked.images {
            0 => Ok(()),
            images => write!(
                f,
                "\nredo made what {images} images for checking say, {} of them without any masking",
                checked.exact
            ),
        }
    }
}

fn open(identity: &Identity, dir: &Path, from: Lsn, to: Option<Lsn>) -> Result<WalReader> {
    let opened = WalReader::open(storage(), dir, from, to, Some(identity.system_id));
    let reader = opened.map_err(|error| Error::Wal { cause: Box::new(error), good_until: None })?;
    if reader.timeline() != identity.wal_timeline {
        let (expected, found) = (identity.wal_timeline, reader.timeline());
        return Err(Error::WalTimeline { dir: dir.to_owned(), expected, found });
    }
    Ok(reader)
}

/// A log that can be read is refused. What is before a switch of data checksums is good, too, but
/// where that is is not known.
fn refused(good_until: Option<Lsn>) -> impl FnOnce(Error) -> Error {
    move |cause| {
        let good_until = good_until.filter(|_| matches!(cause, Error::MinimalWal { .. }));
        Error::NotIngested { cause: Box::new(cause), good_until }
    }
}

/// Reads the log to its end without writing anything.
///
/// # Errors
/// [`Error::NoBase`], [`Error::Gap`], [`Error::WalTimeline`], [`Error::NotIngested`], and
/// [`Error::Wal`] with what is wrong with the log.
pub fn check(
    timeline: &Timeline,
    log: &Log<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Checked> {
    let no_base = || Error::NoBase { timeline: timeline.name().to_owned() };
    let identity = Identity::read(timeline)?.ok_or_else(no_base)?;
    let last_record_lsn = timeline.last_record_lsn();
    let from = log.from.unwrap_or(last_record_lsn);
    if from > last_record_lsn {
        return Err(Error::Gap { from, last_record_lsn });
    }
    let mut checked = Checked {
        dir: log.dir.to_owned(),
        identity,
        from,
        checks: log.checks,
        checksums: log.checksums,
        last_record_lsn,
        end: last_record_lsn,
        torn_at: None,
        records: 0,
    };
    if log.to.is_some_and(|to| to <= last_record_lsn) {
        return Ok(checked);
    }
    let mut reader = open(&checked.identity, log.dir, from, log.to)?;
    let mut settings = Settings::new(checked.identity.clone(), last_record_lsn, log.checksums);
    let mut versions = PageVersions::new();
    loop {
        let good_until = Some(reader.position()).filter(|lsn| *lsn > last_record_lsn);
        let wrong = |error| Error::Wal { cause: Box::new(error), good_until };
        let Some(record) = reader.next_record().map_err(wrong)? else { break };
        dry_run(&mut versions, &record, log.allows_unknown_redo).map_err(wrong)?;
        if record.end() > last_record_lsn {
            checked.records += 1;
            settings.observe(&record).map_err(refused(good_until))?;
        }
        let bytes = record.end().0 - from.0;
        progress(Progress { phase: Phase::Check, bytes, total_bytes: None });
    }
    if let Some(WalEnd::Torn { at }) = reader.end() {
        checked.torn_at = Some(at);
    }
    checked.end = checked.end.max(reader.position());
    if checked.records > 0 {
        settings.finish(log.dir).map_err(refused(None))?;
    }
    Ok(checked)
}

/// Applies a log that was checked. Nothing is flushed by it that the timeline does not flush of its
/// own accord.
///
/// # Errors
/// [`Error::Interrupted`]: what was committed is in the store, and after a reopen what was flushed.
pub fn apply(
    timeline: &Timeline,
    checked: &Checked,
    progress: &mut dyn FnMut(Progress),
) -> Result<Applied> {
    if checked.records == 0 {
        return Ok(Applied::default());
    }
    let applied = apply_records(timeline, checked, progress);
    applied.map_err(|cause| Error::Interrupted { cause: Box::new(cause) })
}

fn apply_records(
    timeline: &Timeline,
    checked: &Checked,
    progress: &mut dyn FnMut(Progress),
) -> Result<Applied> {
    let Checked { dir, identity, from, checks, checksums, last_record_lsn, end, .. } = checked;
    let mut reader = open(identity, dir, *from, Some(*end))?;
    let total_bytes = Some(end.0 - from.0);
    let settings = Settings::new(identity.clone(), *last_record_lsn, *checksums);
    let mut applier = Applier::with_settings(timeline, settings, *checks);
    let mut lease = timeline.write_lease()?;
    while let Some(record) = reader.next_record()? {
        if record.end() > *last_record_lsn {
            applier.apply(&mut lease, &record)?;
            let bytes = record.end().0 - from.0;
            progress(Progress { phase: Phase::Ingest, bytes, total_bytes });
        }
    }
    if timeline.last_record_lsn() < *end {
        lease.commit(*end)?.wait()?;
    }
    applier.finish()?;
    Ok(applier.applied())
}

/// Checks the log, applies it, and flushes.
///
/// # Errors
/// As [`check`], with the store as it was, and as [`apply`].
pub fn ingest(
    timeline: &Timeline,
    log: &Log<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<IngestReport> {
    let checked = check(timeline, log, progress)?;
    let started = Instant::now();
    let applied = apply(timeline, &checked, progress)?;
    if applied.records > 0 {
        let flushed = timeline.flush();
        flushed.map_err(|error| Error::Interrupted { cause: Box::new(error.into()) })?;
    }
    Ok(report(timeline, &checked, applied, started.elapsed()))
}

fn report(
    timeline: &Timeline,
    checked: &Checked,
    applied: Applied,
    took: Duration,
) -> IngestReport {
    let stats = timeline.stats();
    let (from, to) = (checked.last_record_lsn, timeline.last_record_lsn());
    IngestReport {
        timeline: timeline.name().to_owned(),
        from,
        to,
        disk_consistent_lsn: timeline.disk_consistent_lsn(),
        torn_at: checked.torn_at,
        applied,
        wal_bytes: to.0 - from.0,
        seconds: took.as_secs_f64(),
        layers: stats.layer_files,
        layer_bytes: stats.layer_file_bytes,
    }
}
