//! The log against a list of what was appended, on a simulated storage.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use pagestrata_layers::{
    Error as LayersError, Lsn,
    storage::Storage,
    testing::{FailedSync, Failing, Failure, Fault, SimulatedStorage, all_kept, none_kept},
};

use crate::{
    Error, Log, LogOptions, Position, Replay, ReplayEnd, ReplayOutcome,
    format::SegmentHeader,
    segment::{create_unnamed, name_all, segment_path},
};

const STORE: u128 = 0x5703;
const START: u32 = 1;

fn dir() -> PathBuf {
    PathBuf::from("/log")
}

/// Stream, Lsn, payload.
type Appended = (u64, Lsn, Vec<u8>);

fn replay(storage: &SimulatedStorage) -> Result<(Vec<Appended>, ReplayOutcome), LayersError> {
    replay_from(storage, START)
}

fn replay_from(
    storage: &SimulatedStorage,
    start: u32,
) -> Result<(Vec<Appended>, ReplayOutcome), LayersError> {
    let replay = Replay::open(storage.shared(), &dir(), STORE, Some(start))?;
    let mut records = Vec::new();
    let replayed = replay.run(&mut |record| {
        records.push((record.stream, record.lsn, record.payload.to_vec()));
        Ok::<(), LayersError>(())
    })?;
    assert_eq!(replayed.records, records.len() as u64);
    Ok((records, replayed))
}

fn options() -> LogOptions {
    LogOptions {
        store: STORE,
        segment_size: 4096,
        free_max_bytes: 8192,
        segments_written: true,
        wake: None,
        wake_preparer: None,
    }
}

fn go_on(storage: &SimulatedStorage, replayed: ReplayOutcome) -> Log {
    let log = Log::new(storage.shared(), &dir(), options(), replayed);
    log.start().unwrap();
    log
}

fn fresh() -> (SimulatedStorage, Log) {
    let storage = SimulatedStorage::new();
    let log = go_on(&storage, ReplayOutcome::default());
    (storage, log)
}

fn record(n: u64) -> Appended {
    let len = (n * 131 % 900) as usize;
    (n % 3, Lsn(n), (0..len).map(|at| (at as u64 * n) as u8).collect())
}

fn append(log: &Log, (stream, lsn, payload): &Appended) -> crate::Result<Position> {
    let (first, second) = payload.split_at(payload.len() / 3);
    log.append(*stream, *lsn, &[first, &[], second])
}

#[test]
fn records_come_back_across_segments_and_reopens() {
    let (storage, mut log) = fresh();
    let mut all = Vec::new();
    for n in 1..400 {
        let mut appended = record(n);
        if n % 97 == 0 {
            appended.2 = vec![n as u8; 9000];
        }
        let end = append(&log, &appended).unwrap();
        all.push(appended);
        if n % 7 == 0 {
            log.sync_to(end).unwrap();
        }
        if n % 50 == 0 {
            let (found, replayed) = replay(&storage).unwrap();
            assert_eq!((found == all, replayed.end), (true, ReplayEnd::CleanEnd));
            log.close();
            log = go_on(&storage, replayed);
        }
    }
    assert!(log.stats().segments > 30, "{:?}", log.stats());
}

#[test]
fn freed_segments_are_recycled_and_what_they_held_is_never_taken_for_new() {
    let (storage, log) = fresh();
    let mut paths = std::collections::BTreeSet::new();
    for n in 1..2000 {
        log.sync_to(append(&log, &record(n)).unwrap()).unwrap();
        let is_flushed = n % 20 == 0;
        if is_flushed {
            let start = (0..3).map(|stream| log.start_after(stream, Lsn(n))).max().unwrap();
            for stream in 0..3 {
                log.free_below(start.min(log.start_after(stream, Lsn(n))), stream, Lsn(n));
            }
        }
        paths.extend(storage.files().into_keys());
        assert!(storage.files().len() < 12, "segments are freed");
    }
    assert!(paths.len() > 100, "{}", paths.len());
    let start = log.start().unwrap();
    let replay = Replay::open(storage.shared(), &dir(), STORE, Some(start)).unwrap();
    let mut next = None;
    replay
        .run(&mut |found| {
            let n = found.lsn.0;
            assert!(next.is_none_or(|next| next == n), "{n} after {next:?}");
            assert_eq!((found.stream, found.lsn, found.payload.to_vec()), record(n));
            next = Some(n + 1);
            Ok::<(), LayersError>(())
        })
        .unwrap();
    assert_eq!(next, Some(2000));
}

#[test]
fn a_tail_that_was_never_synced_is_torn_and_is_cut_off_for_good() {
    let (storage, log) = fresh();
    let synced: Vec<_> = (1..30).map(record).collect();
    for appended in &synced {
        log.sync_to(append(&log, appended).unwrap()).unwrap();
    }
    for n in 30..60 {
        append(&log, &record(n)).unwrap();
    }
    drop(log);
    let mut torn = 0;
    for seed in 0..300 {
        let crashed = storage.crash_seeded(&mut fastrand::Rng::with_seed(seed));
        let (found, replayed) = replay(&crashed).unwrap();
        assert!(found.len() >= synced.len() && found[..synced.len()] == synced, "seed {seed}");
        torn += u64::from(replayed.end != ReplayEnd::CleanEnd);
        // A log that goes on from here never shows what is behind the cut, however often the power
        // fails.
        let log = go_on(&crashed, replayed);
        let appended = (9, Lsn(999), vec![seed as u8; 100]);
        log.sync_to(append(&log, &appended).unwrap()).unwrap();
        log.close();
        let expected = [&found[..], &[appended]].concat();
        for crashed in
            [crashed.killed(), crashed.crash(&mut none_kept), crashed.crash(&mut all_kept)]
        {
            let (found, replayed) = replay(&crashed).unwrap();
            assert_eq!(
                (found == expected, replayed.end),
                (true, ReplayEnd::CleanEnd),
                "seed {seed}"
            );
        }
    }
    assert!(torn > 100, "{torn}");
}

#[test]
fn a_failed_sync_is_the_last_and_everybody_is_told() {
    let (storage, log) = fresh();
    let log = Arc::new(log);
    log.sync_to(append(&log, &record(1)).unwrap()).unwrap();
    let end = append(&log, &record(2)).unwrap();
    let fault = Fault {
        call: storage.calls(),
        failure: Failure::EIO,
        failed_sync: FailedSync::DropsDirty,
        ..Fault::default()
    };
    storage.set_fault(Some(fault));
    assert!(matches!(log.sync_to(end), Err(Error::Failed { .. })));
    assert!(matches!(log.sync_to(end), Err(Error::Failed { .. })), "and is not tried again");
    assert!(matches!(append(&log, &record(3)), Err(Error::Failed { .. })));
    assert!(matches!(log.sync(), Err(Error::Failed { .. })));
    // The operating system shows what the device never got. Opening the log makes them durable
    // before anything is built on them.
    let killed = storage.killed();
    let (found, replayed) = replay(&killed).unwrap();
    assert_eq!(found, [record(1), record(2)]);
    let log = go_on(&killed, replayed);
    log.sync_to(append(&log, &record(3)).unwrap()).unwrap();
    let (found, _) = replay(&killed.crash(&mut none_kept)).unwrap();
    assert_eq!(found, [record(1), record(2), record(3)]);
}

#[test]
fn a_full_disk_is_told_before_anything_is_appended_and_can_be_waited_for() {
    let (storage, log) = fresh();
    let mut all = Vec::new();
    storage.set_free_bytes(Some(3 * 4096));
    let mut refused = 0;
    for n in 1..60 {
        let appended = record(n);
        match append(&log, &appended) {
            Ok(end) => {
                log.sync_to(end).unwrap();
                all.push(appended);
            }
            Err(Error::NoSpace(_)) => {
                refused += 1;
                if refused % 3 == 0 {
                    storage.set_free_bytes(Some(2 * 4096));
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 3 && all.len() > 30, "{refused} refused of {}", all.len());
    let (found, replayed) = replay(&storage.crash(&mut none_kept)).unwrap();
    assert_eq!((found == all, replayed.end), (true, ReplayEnd::CleanEnd));
}

#[test]
fn every_call_of_a_storage_may_fail() {
    let run = |storage: &SimulatedStorage| {
        let log = Log::new(storage.shared(), &dir(), options(), ReplayOutcome::default());
        // Acknowledged, and all that was tried.
        let (mut acknowledged, mut tried) = (Vec::new(), Vec::new());
        let Ok(start) = log.start().or_else(|_| log.start()) else {
            return (START, acknowledged, tried);
        };
        for n in 1..25 {
            let appended = record(n);
            if let Ok(end) = append(&log, &appended) {
                tried.push(appended);
                if log.sync_to(end).is_ok() {
                    acknowledged = tried.clone();
                }
            }
            if n % 10 == 0 {
                log.work();
                log.prepare();
            }
        }
        (start, acknowledged, tried)
    };
    let storage = SimulatedStorage::new();
    assert_eq!(run(&storage).1.len(), 24);
    for call in 0..storage.calls() {
        for (for_good, late) in [(false, false), (false, true), (true, false), (true, true)] {
            for failed_sync in [FailedSync::KeepsDirty, FailedSync::DropsDirty] {
                let storage = SimulatedStorage::new();
                storage.set_fault(Some(Fault {
                    call,
                    for_good,
                    late,
                    failed_sync,
                    ..Fault::default()
                }));
                let (start, acknowledged, tried) = run(&storage);
                for left in [storage.crash(&mut none_kept), storage.killed()] {
                    if acknowledged.is_empty() && left.files().is_empty() {
                        continue;
                    }
                    let found = match replay_from(&left, start) {
                        Ok((found, _)) => found,
                        Err(error) => {
                            assert!(acknowledged.is_empty(), "call {call}: {error}");
                            continue;
                        }
                    };
                    let is_prefix = |of: &[Appended], all: &[Appended]| all.starts_with(of);
                    assert!(
                        is_prefix(&acknowledged, &found) && is_prefix(&found, &tried),
                        "call {call}"
                    );
                }
            }
        }
    }
}

/// No log has made such a segment, for it could have no successor; it is read and written to all
/// the same.
#[test]
fn the_highest_sequence_number_is_the_last() {
    let storage = SimulatedStorage::new();
    storage.create_dir(&dir()).unwrap();
    let header = SegmentHeader { store: STORE, sequence: u32::MAX, len: 4096 };
    let made = create_unnamed(&storage, &dir(), &header, true).unwrap();
    name_all(&storage, &dir(), std::iter::once((made, u32::MAX))).unwrap();
    let log = go_on(&storage, replay_from(&storage, u32::MAX).unwrap().1);
    assert_eq!(log.start().unwrap(), u32::MAX);
    let mut appended = Vec::new();
    let full = loop {
        let next = (1, Lsn(appended.len() as u64 + 1), vec![5; 1000]);
        match append(&log, &next) {
            Ok(_) => appended.push(next),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Layers(LayersError::Full { .. })), "{full}");
    log.sync().unwrap();
    let (found, replayed) = replay_from(&storage, u32::MAX).unwrap();
    assert_eq!((found == appended, replayed.end), (true, ReplayEnd::CleanEnd));
}

#[test]
fn a_sync_waits_for_the_one_under_way() {
    let (storage, log) = fresh();
    let log = Arc::new(log);
    let end = append(&log, &record(1)).unwrap();
    let (send, outcome) = std::sync::mpsc::channel();
    let (beside, failing) = (log.clone(), storage.clone());
    storage.before_next("sync", move || {
        std::thread::spawn(move || send.send(beside.sync().is_ok()));
        // The future is ready only after this sync.
        std::thread::sleep(std::time::Duration::from_millis(100));
        failing.set_failing(Some(Failing { operation: "sync", at: "/log", panics: false }));
    });
    assert!(log.sync_to(end).is_err());
    assert!(!outcome.recv().unwrap(), "nothing is synced");
}

#[test]
fn what_is_written_again_is_what_was_read() {
    let (storage, log) = fresh();
    log.sync_to(append(&log, &record(1)).unwrap()).unwrap();
    let path = segment_path(&dir(), START);
    let on_disk = storage.bytes(&path);
    append(&log, &record(2)).unwrap();
    drop(log);
    // A sync of the second record has failed and left it in the system's cache, where it is read;
    // then the system lets go of it.
    let replay = Replay::open(storage.shared(), &dir(), STORE, Some(START)).unwrap();
    let mut seen = 0;
    let replayed = replay.run(&mut |_| {
        seen += 1;
        if seen == 2 {
            storage.set(&path, on_disk.clone());
        }
        Ok::<(), LayersError>(())
    });
    assert_eq!(seen, 2);
    let log = Log::new(storage.shared(), &dir(), options(), replayed.unwrap());
    assert!(matches!(append(&log, &record(3)), Err(Error::Failed { .. })));
}

#[test]
fn parts_keep_their_segments_until_the_last_one_or_nobody() {
    let big = vec![7; 3000];
    let freed = |finish: bool| {
        let (storage, log) = fresh();
        log.append(1, Lsn(5), &[b"before"]).unwrap();
        log.append_part(1, Lsn(20), &[&big]).unwrap();
        log.append_part(1, Lsn(20), &[&big]).unwrap();
        assert_eq!(
            log.start_after(1, Lsn(5)),
            Some(START),
            "parts may be followed by the last one"
        );
        match finish {
            true => drop(log.append(1, Lsn(20), &[b"last"]).unwrap()),
            false => log.give_up(1),
        }
        let end = log.append(2, Lsn(1), &[&big]).unwrap();
        log.sync_to(end).unwrap();
        let of_log = (log.start_after(1, Lsn(5)), log.start_after(1, Lsn(20)));
        drop(log);
        let log = go_on(&storage, replay(&storage).unwrap().1);
        assert_eq!((log.start_after(1, Lsn(5)), log.start_after(1, Lsn(20))), of_log);
        of_log
    };
    let last = Some(START + 2);
    assert_eq!(freed(true), (Some(START), last));
    assert_eq!(freed(false), (last, last));
}

/// The background is held in front of the storage while it makes a segment; appends go on in those
/// that are ready.
#[test]
fn an_append_takes_a_segment_while_another_one_is_being_prepared() {
    let (storage, log) = fresh();
    let log = Arc::new(log);
    let fill = |n: u64| log.append(1, Lsn(n), &[&[n as u8; 3000]]).map(drop);
    fill(1).unwrap();
    log.prepare();
    assert_eq!(log.stats().spare_segments, 2);
    fill(2).unwrap();
    assert_eq!(log.stats().spare_segments, 1);
    let (appended, wait) = std::sync::mpsc::channel();
    let (began, is_preparing) = std::sync::mpsc::channel();
    storage.before_next("create", move || {
        began.send(()).unwrap();
        // An append that waits for this thread never ends; the limit makes a failure of a hang.
        let waited = wait.recv_timeout(std::time::Duration::from_secs(20));
        waited.expect("the append waits for the segment that is being prepared");
    });
    let beside = log.clone();
    let preparer = std::thread::spawn(move || beside.prepare());
    is_preparing.recv().unwrap();
    fill(3).unwrap();
    appended.send(()).unwrap();
    preparer.join().unwrap();
    assert_eq!(log.stats().spare_segments, 2);
    fill(4).unwrap();
    assert_eq!(replay(&storage).unwrap().0.len(), 4);
}

/// Nothing is synced, so a crash may leave the log at its first segment, with all that was prepared
/// since behind it.
#[test]
fn segments_that_were_too_short_are_never_found_with_the_header_of_others() {
    let (storage, log) = fresh();
    log.append(1, Lsn(1), &[&[1; 3000]]).unwrap();
    log.prepare();
    assert_eq!(log.stats().spare_segments, 2);
    for n in 2..6 {
        log.append(1, Lsn(n), &[&vec![n as u8; 9000]]).unwrap();
        log.prepare();
    }
    for seed in 0..300 {
        let crashed = storage.crash_seeded(&mut fastrand::Rng::with_seed(seed));
        let (found, _) = replay(&crashed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(found.len() <= 5, "seed {seed}");
    }
}

#[test]
fn prepared_segments_are_taken_up_by_the_next_process() {
    let (storage, log) = fresh();
    log.append(1, Lsn(1), &[&[1; 3000]]).unwrap();
    log.prepare();
    let end = log.append(1, Lsn(2), &[&[2; 100]]).unwrap();
    log.sync_to(end).unwrap();
    drop(log);
    let log = go_on(&storage, replay(&storage).unwrap().1);
    assert_eq!(log.stats().spare_segments, 2);
    storage.set_free_bytes(Some(0));
    for lsn in 3..=4 {
        log.append(1, Lsn(lsn), &[&[3; 3000]]).unwrap();
    }
    assert!(matches!(log.append(1, Lsn(5), &[&[3; 3000]]), Err(Error::NoSpace(_))));
    assert_eq!(replay(&storage).unwrap().0.len(), 4);
}

#[test]
fn a_log_that_is_not_used_gives_its_spare_segments_back() {
    let (storage, log) = fresh();
    for n in 1..20 {
        log.append(1, Lsn(n), &[&[1; 1500]]).unwrap();
        log.prepare();
    }
    log.sync().unwrap();
    let start = log.start_after(1, Lsn(19));
    log.free_below(start, 1, Lsn(19));
    let spare = log.stats().spare_segments;
    assert!(spare > 2, "{spare}");
    let files = storage.files().len();
    assert_eq!(log.give_back_spares() as u64, spare - 1);
    assert_eq!(storage.files().len() as u64, files as u64 - (spare - 1));
    assert_eq!(log.give_back_spares(), 0);
    for n in 20..40 {
        append(&log, &(1, Lsn(n), vec![n as u8; 900])).unwrap();
    }
    let (found, replayed) = replay_from(&storage, start.unwrap()).unwrap();
    assert_eq!((found.last().unwrap().1, replayed.end), (Lsn(39), ReplayEnd::CleanEnd));
}

#[test]
fn a_segment_that_positions_cannot_name_is_refused() {
    let header = SegmentHeader { store: STORE, sequence: 1, len: crate::SEGMENT_SIZE_MAX + 512 };
    let decoded = SegmentHeader::decode(&header.encode(), &dir(), STORE, 1, header.len);
    assert!(matches!(decoded, Err(LayersError::Corrupt(_))), "{decoded:?}");
}

#[test]
fn names_of_segments() {
    assert!(crate::is_segment_name("000000000000000A.log"));
    assert!(crate::is_segment_name("000000000000000A.tmp"));
    for name in ["A.log", "000000000000000a.log", "000000000000000A.delta", "1000000000000000.log"]
    {
        assert!(!crate::is_segment_name(name), "{name}");
    }
    assert!(Path::new("/log").is_absolute());
}
