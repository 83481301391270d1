//! Reading a log, and going on with one that was read.

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
/// More than any file is long.
const ALLOCATION_OVERHEAD_BYTES: usize = 1 << 20;

/// A record, as it was appended or handed out.
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

/// Does some work with no more memory at once than these files justify.
pub fn bounded<R>(files: &Files, work: impl FnOnce() -> R) -> R {
    let longest = files.values().map(Vec::len).max().unwrap_or(0);
    allocations::bounded(longest + ALLOCATION_OVERHEAD_BYTES, work)
}

/// What was handed out, and how it ended.
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

/// What damage is told by: a file of the log, and a place in it.
pub fn check_error(error: &LayersError) {
    let path = match error {
        LayersError::Corrupt(corruption) => &corruption.path,
        LayersError::UnsupportedVersion { path, .. } => path,
        other => panic!("{other}"),
    };
    assert!(path.starts_with(DIR), "{error}");
}

/// A payload as a part of a commit: its entries are within it, and an error is the last thing they
/// say.
fn use_payload(payload: &[u8]) {
    let Ok(part) = CommitPart::decode(payload) else { return };
    let (mut entries, mut failed) = (0, false);
    for entry in part.entries() {
        assert!(!failed, "an entry behind an error");
        failed = entry.is_err();
        entries += 1;
    }
    // The shortest is a kind and a block.
    assert!(entries <= payload.len() / 5 + 1, "{entries} entries of {} bytes", payload.len());
}

/// Goes on with a log that was read: the same records, and one more that survives a power failure.
/// What stops it may only be the log's own end, or damage that `may_refuse`.
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
            assert_eq!(replayed.end, ReplayEnd::CleanEnd);
        }
        Err(error) => assert!(may_refuse, "{error}"),
    }
}

/// An empty directory for a log, durable.
pub fn empty() -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    storage.create_dir(Path::new("store")).unwrap();
    storage.sync_dir(Path::new(".")).unwrap();
    storage
}
