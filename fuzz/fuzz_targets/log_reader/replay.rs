//! Reads a log, and appends to one that was read.

use std::path::Path;

use pagestrata::{
    LayersError,
    testing::{SimulatedStorage, none_kept},
};
use pagestrata_layers::{Lsn, commit_record::CommitPart, storage::Storage};
use pagestrata_wal::{Log, LogOptions, Record, Replay, ReplayEnd, ReplayOutcome};

use crate::{allocations, frames::Files};

pub const DIR: &str = "store/log";
pub const STORE: u128 = 0x5EED;
/// Allowance above the length of the longest file.
const ALLOCATION_OVERHEAD_BYTES: usize = 1 << 20;

/// A record that was appended or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub stream: u64,
    pub lsn: Lsn,
    pub payload: Vec<u8>,
}

pub fn options(segment_size: u64) -> LogOptions {
    LogOptions {
        store: STORE,
        segment_size,
        free_max_bytes: 2 * segment_size,
        segments_written: true,
        wake: None,
        wake_preparer: None,
    }
}

/// Runs `work` with a bound on single allocations that these files justify.
pub fn bounded<R>(files: &Files, work: impl FnOnce() -> R) -> R {
    let longest = files.values().map(Vec::len).max().unwrap_or(0);
    allocations::bounded(longest + ALLOCATION_OVERHEAD_BYTES, work)
}

/// Returns the records read, and how the replay ended.
pub fn replay(
    storage: &SimulatedStorage,
    start: u32,
) -> (Vec<Known>, Result<ReplayOutcome, LayersError>) {
    let mut records = Vec::new();
    let result = bounded(&storage.files(), || {
        let replay = Replay::open(storage.shared(), Path::new(DIR), STORE, Some(start))?;
        let bytes = replay.bytes()?;
        let replayed = replay.run(&mut |record: Record<'_>| {
            use_payload(record.payload);
            let Record { stream, lsn, payload, .. } = record;
            records.push(Known { stream, lsn, payload: payload.to_vec() });
            Ok::<_, LayersError>(())
        })?;
        assert!(replayed.bytes <= bytes && replayed.cut_bytes <= bytes, "{replayed:?} of {bytes}");
        assert_eq!(replayed.records, records.len() as u64);
        Ok(replayed)
    });
    if let Err(error) = &result {
        check_error(error);
    }
    (records, result)
}

/// An error about damage must name a file of the log and a place in it.
pub fn check_error(error: &LayersError) {
    let path = match error {
        LayersError::Corrupt(corruption) => &corruption.path,
        LayersError::UnsupportedVersion { path, .. } => path,
        other => panic!("{other}"),
    };
    assert!(path.starts_with(DIR), "{error}");
}

/// Decodes a payload as a part of a commit: its entries must lie within it, and an error must come
/// last.
fn use_payload(payload: &[u8]) {
    let Ok(part) = CommitPart::decode(payload) else { return };
    let (mut entries, mut failed) = (0, false);
    for entry in part.entries() {
        assert!(!failed, "an entry behind an error");
        failed = entry.is_err();
        entries += 1;
    }
    // The shortest entry is a kind and a block.
    assert!(entries <= payload.len() / 5 + 1, "{entries} entries of {} bytes", payload.len());
}

/// Continues a log that was read: it must return the same records, and one more that survives a
/// power loss. The only permitted errors are that the log is at its own end, or damage if
/// `may_refuse`.
pub fn go_on(
    storage: &SimulatedStorage,
    (start, segment_size): (u32, u64),
    mut records: Vec<Known>,
    replayed: ReplayOutcome,
    may_refuse: bool,
) {
    let log = Log::new(storage.shared(), Path::new(DIR), options(segment_size), replayed);
    let added = Known { stream: 77, lsn: Lsn(1 << 40), payload: b"one more".to_vec() };
    let appended = log.start().and_then(|first| {
        assert_eq!(first, start);
        let end = log.append(added.stream, added.lsn, &[&added.payload])?;
        log.sync_to(end)
    });
    if let Err(error) = appended {
        assert!(may_refuse, "{error}");
        return;
    }
    records.push(added);
    drop(log);
    let storage = storage.crash(&mut none_kept);
    let (found, result) = replay(&storage, start);
    match result {
        Ok(replayed) => {
            assert!(found == records, "{} records, {} were there", found.len(), records.len());
            // Bytes that no log wrote may lie behind what was appended, and look like a frame that
            // was cut off.
            let is_clean = replayed.end == ReplayEnd::CleanEnd;
            assert!(is_clean || may_refuse, "{:?}", replayed.end);
        }
        Err(error) => assert!(may_refuse, "{error}"),
    }
}

/// Returns an empty directory for a log, durable.
pub fn empty() -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    storage.create_dir(Path::new("store")).unwrap();
    storage.sync_dir(Path::new(".")).unwrap();
    storage
}
