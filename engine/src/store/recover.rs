//! Recovery: replays the log's records, from each timeline's disk-consistent Lsn on, into its open
//! layer.
//!
//! A commit is skipped if it is in layer files already, and applied if it follows the commit before
//! it. Each commit names its predecessor, so a missing commit is always detected. Anything else is
//! corruption.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pagestrata_layers::{
    Error as LayersError, Lsn, OpenLayer,
    commit_record::{CommitPart, Entry, Mismatch},
};
use pagestrata_wal::{Record, Replay, ReplayEnd, ReplayOutcome};
use parking_lot::{MappedMutexGuard, MutexGuard};

use crate::{
    error::{Error, Result},
    options::Background,
    reports::{OpenProgress, OpenReport},
    state::{store::StoreShared, timeline::TimelineShared},
};

/// Interval of progress reports, in bytes of the log.
const PROGRESS_BYTES: u64 = 4 << 20;

/// From this length of the log on, memory is prepared for its replay.
const STOCKED_LOG_BYTES: u64 = 64 << 20;
/// Number of chunks prepared ahead: one for values, one for the index, one in preparation.
const STOCKED_CHUNKS: usize = 3;
/// Longest time until a chunk that was taken is replaced. Filling one takes ten times as long.
const STOCK_INTERVAL: Duration = Duration::from_millis(1);

/// A timeline that is being recovered.
struct TimelineReplay<'t> {
    timeline: &'t Arc<TimelineShared>,
    writer: MappedMutexGuard<'t, OpenLayer>,
    /// The disk-consistent Lsn when the store was opened.
    disk_consistent_lsn: Lsn,
    /// A commit of which some parts were read, but not the last one.
    partial: Option<Lsn>,
}

/// Replays the log from the segment `start` on. Returns what was found, and the damage at which the
/// replay ended if the options say that the store must be opened anyway.
pub(crate) fn replay_log(
    shared: &StoreShared,
    timelines: &[Arc<TimelineShared>],
    start: Option<u32>,
    progress: &mut dyn FnMut(OpenProgress),
    report: &mut OpenReport,
) -> Result<(ReplayOutcome, Option<String>)> {
    let open = || Replay::open(shared.storage.clone(), &shared.log_dir(), shared.id, start);
    let mut recovering: BTreeMap<u64, TimelineReplay<'_>> =
        timelines.iter().map(|timeline| (timeline.number, TimelineReplay::of(timeline))).collect();
    let (mut records, mut bytes) = (0, 0);
    let replayed = open().map_err(Error::from).and_then(|replay| {
        let mut told = OpenProgress { replayed_bytes: 0, log_bytes: replay.bytes()? };
        with_stocked_pool(shared, told.log_bytes, || {
            let mut take = |record: Record<'_>| {
                records += 1;
                bytes += record.payload.len() as u64;
                if bytes - told.replayed_bytes >= PROGRESS_BYTES {
                    told.replayed_bytes = bytes;
                    progress(told);
                }
                let corrupt = |(expected, found): Mismatch| -> Error {
                    LayersError::corrupt(record.path, record.offset, "log record", expected, found)
                        .into()
                };
                let known = recovering.get_mut(&record.stream);
                let timeline = known.ok_or_else(|| {
                    corrupt(("a timeline of the store".to_owned(), record.stream.to_string()))
                })?;
                report.log_commits += u64::from(timeline.replay(&record, corrupt)?);
                Ok(())
            };
            match shared.reads_only {
                true => replay.check(&mut take),
                false => replay.run(&mut take),
            }
        })
    });
    // Removes incomplete commits.
    if !cfg!(planted_bug = "half_commit_kept") {
        recovering.values_mut().for_each(|timeline| timeline.writer.abort());
    }
    match replayed {
        Ok(replayed) => {
            report.log_segments = replayed.segments;
            report.log_records = replayed.records;
            report.log_bytes = replayed.bytes;
            report.log_cut_bytes = replayed.cut_bytes;
            report.log_torn_at = match replayed.end {
                ReplayEnd::CleanEnd => None,
                ReplayEnd::TornTail { at } => Some(at.to_string()),
            };
            Ok((replayed, None))
        }
        Err(Error::Layers(LayersError::Corrupt(damage))) if shared.options.salvage_log => {
            report.log_records = records;
            Ok((ReplayOutcome::default(), Some(damage.to_string())))
        }
        Err(error) => Err(error),
    }
}

/// Runs `work` while another thread, if the store may have one, prepares memory for the layers that
/// it fills: a long replay is bound by the first access to new memory.
fn with_stocked_pool<R>(shared: &StoreShared, log_bytes: u64, work: impl FnOnce() -> R) -> R {
    if log_bytes < STOCKED_LOG_BYTES || shared.options.background == Background::Callers {
        return work();
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Without the thread the work takes longer.
        let _ = std::thread::Builder::new().spawn_scoped(scope, || {
            let mut stocked = 0;
            while !is_done.load(Ordering::Relaxed) && stocked < log_bytes {
                match shared.pool.stock(STOCKED_CHUNKS, &is_done) {
                    Some(bytes) => stocked += bytes as u64,
                    None => std::thread::sleep(STOCK_INTERVAL),
                }
            }
        });
        // Even if the work panics: the scope waits for the thread.
        let _done = SetOnDrop(&is_done);
        work()
    })
}

struct SetOnDrop<'f>(&'f AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'t> TimelineReplay<'t> {
    fn of(timeline: &'t Arc<TimelineShared>) -> TimelineReplay<'t> {
        let writer = MutexGuard::map(timeline.writer.lock(), |writer| {
            writer.as_deref_mut().expect("no lease is out before the store is open")
        });
        let disk_consistent_lsn = timeline.disk_consistent_lsn();
        TimelineReplay { timeline, writer, disk_consistent_lsn, partial: None }
    }

    /// Applies a record. Returns whether it completed a commit.
    fn replay(&mut self, record: &Record<'_>, corrupt: impl Fn(Mismatch) -> Error) -> Result<bool> {
        if record.lsn <= self.disk_consistent_lsn {
            return Ok(false);
        }
        let part = CommitPart::decode(record.payload).map_err(&corrupt)?;
        // The rest of an incomplete commit. Either the commits that replaced it are in layer files,
        // or everything before it is, and the log was freed up to a segment between its parts. An
        // accepted commit has a last part, and keeps its first one in the log until it is in a
        // layer file.
        let is_replaced = part.previous < self.disk_consistent_lsn;
        let has_no_start = part.previous == self.disk_consistent_lsn
            && !part.is_first
            && self.partial != Some(record.lsn);
        if !part.is_last && (is_replaced || has_no_start) {
            self.partial = None;
            return Ok(false);
        }
        let committed = self.writer.layer().committed_lsn();
        debug_assert!(committed >= self.disk_consistent_lsn, "it begins there");
        if part.previous != committed {
            let expected = format!("a commit behind {committed}");
            return Err(corrupt((expected, format!("one behind {}", part.previous))));
        }
        if part.is_first {
            // The commit before it was never completed.
            self.writer.abort();
        } else if self.partial != Some(record.lsn) {
            let expected = format!("the first part of the commit of {}", record.lsn);
            return Err(corrupt((expected, "another".to_owned())));
        }
        self.partial = (!part.is_last).then_some(record.lsn);
        let refused = |error: LayersError| match error {
            LayersError::OutOfMemory { .. } | LayersError::Full { .. } => error.into(),
            error => corrupt(("entries that can be committed".to_owned(), error.to_string())),
        };
        let mut shared_with: Option<&[u8]> = None;
        for entry in part.entries() {
            match entry.map_err(&corrupt)? {
                Entry::Put(key, lsn, value) => {
                    let is_shared = shared_with.replace(value.bytes()).is_some_and(|before| {
                        std::ptr::eq(before, value.bytes()) && !before.is_empty()
                    });
                    match is_shared {
                        true => self.writer.put_shared(key, lsn, value),
                        false => self.writer.put(key, lsn, value),
                    }
                    .map_err(refused)?;
                }
                Entry::Drop(key, lsn) => {
                    self.writer.drop_blocks(key.object, key.block, lsn).map_err(refused)?;
                }
            }
        }
        if !part.is_last {
            return Ok(false);
        }
        self.writer.commit(record.lsn).map_err(refused)?;
        assert_eq!(self.writer.layer().committed_lsn(), record.lsn, "a whole commit is visible");
        self.timeline.recovered(record.lsn, &mut self.writer);
        Ok(true)
    }
}
