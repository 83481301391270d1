//! S1 to S4: the log is cut off, damaged, not synced, or has no room.

use pagestrata::{
    Error, Options,
    testing::{Decision, FailedSync, Failure, Fault, SimulatedStorage, all_kept, none_kept},
};

use super::{
    check, commit, corruption_at_open, is_read_only, keys, open, options, reopen, value, write,
};

in_all_access_modes!(
    s1_power_cut_mid_append_then_kills_during_recovery,
    s2_bit_flip_in_the_middle_of_the_log,
    s3_a_sync_of_the_log_fails,
    s4_no_space_to_append_to_the_log,
    s4_no_space_for_the_whole_of_an_append,
    s4_a_write_to_the_log_that_fails_makes_the_store_read_only,
);

/// A store with acknowledged commits, and an unacknowledged commit after them.
fn with_an_append_under_way(acknowledged: u64) -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    let (store, main, _) = open(&storage, options()).unwrap();
    write(&main, 1..=acknowledged);
    let mut lease = main.write_lease().unwrap();
    drop(commit(&mut lease, acknowledged + 1).unwrap());
    drop(lease);
    drop(store);
    storage
}

fn s1_power_cut_mid_append_then_kills_during_recovery() {
    const ACKNOWLEDGED: u64 = 30;
    let storage = with_an_append_under_way(ACKNOWLEDGED);
    // Nothing of it has come to the disk: zeros that were there before are a clean end.
    let (found, report) = reopen(&storage.crash(&mut none_kept));
    assert_eq!((found, report.log_torn_at, report.log_cut_bytes), (ACKNOWLEDGED, None, 0));
    let (found, report) = reopen(&storage.crash(&mut all_kept));
    assert_eq!((found, report.log_torn_at), (ACKNOWLEDGED + 1, None), "whole, though not told of");
    // All but its last sector.
    let is_of_segment = |decision: &Decision<'_>| matches!(decision, Decision::Sector(path, _) if path.extension().is_some_and(|of| of == "log"));
    let mut sectors = 0;
    let _ = storage.crash(&mut |decision: Decision<'_>, options: usize| {
        sectors += usize::from(is_of_segment(&decision));
        options - 1
    });
    let mut torn = storage.crash(&mut |decision: Decision<'_>, options: usize| {
        if !is_of_segment(&decision) {
            return options - 1;
        }
        sectors -= 1;
        if sectors == 0 { 0 } else { options - 1 }
    });
    let (found, report) = reopen(&torn.killed());
    assert_eq!(found, ACKNOWLEDGED);
    assert!(report.log_torn_at.is_some());
    assert!(report.log_cut_bytes > value(ACKNOWLEDGED + 1).len() as u64, "{report:?}");

    let mut random = fastrand::Rng::with_seed(1);
    let (mut known, mut opened, mut committed) = (ACKNOWLEDGED, 0, 0);
    for kill in 0..100 {
        let whole = torn.killed();
        reopen(&whole);
        torn.set_fault(Some(Fault {
            call: random.u64(..whole.calls() + 20),
            for_good: true,
            late: random.bool(),
            ..Fault::default()
        }));
        match open(&torn, options()) {
            Ok((_store, main, report)) => {
                let found = check(&main);
                assert!(found >= known, "kill {kill}: {found} of {known}");
                if report.read_only.is_none() {
                    // Shown by an opening that went well, so it has to stay.
                    (known, opened) = (found, opened + 1);
                }
                let committed_too = || {
                    let mut lease = main.write_lease()?;
                    commit(&mut lease, found + 1)?.wait()
                };
                if committed_too().is_ok() {
                    (known, committed) = (found + 1, committed + 1);
                }
            }
            Err(error) => assert!(!error.to_string().contains("expected"), "kill {kill}: {error}"),
        }
        torn = match kill % 3 {
            0 => torn.killed(),
            1 => torn.crash(&mut none_kept),
            _ => torn.crash_seeded(&mut random),
        };
    }
    assert!(opened > 10 && committed > 3, "{opened} opened, {committed} committed");
    let (found, _) = reopen(&torn);
    assert!(found >= known, "{found} of {known}");
}

fn s2_bit_flip_in_the_middle_of_the_log() {
    const COMMITS: u64 = 30;
    let storage = SimulatedStorage::new();
    let (store, main, _) = open(&storage, options()).unwrap();
    let mut records = Vec::new();
    for n in 1..=COMMITS {
        storage.set_trace(true);
        write(&main, n..=n);
        let mut calls = storage.trace().into_iter();
        let frame = calls.rfind(|call| call.operation == "write" && call.len > 200);
        records.push(frame.unwrap());
    }
    drop((main, store));
    let segments: std::collections::BTreeSet<_> =
        records.iter().map(|frame| frame.path.clone()).collect();
    assert!(segments.len() > 3, "{segments:?}");
    for (n, frame) in (1..=COMMITS).zip(&records) {
        // The first write of a segment is of its header too.
        let start = if frame.offset == 0 { 512 } else { frame.offset };
        let end = frame.offset + frame.len;
        for byte in [start, start + 8, start + 40, start + 60, end - 9] {
            let damaged = storage.killed();
            damaged.flip(&frame.path, byte, 3);
            assert_eq!(corruption_at_open(&damaged), (frame.path.clone(), start), "commit {n}");
            // What is before it can be had, and nothing is changed by that.
            let before = damaged.digest();
            let salvage = Options { salvage_log: true, ..options() };
            let (store, main, report) = open(&damaged, salvage).unwrap();
            let name = frame.path.file_name().unwrap().to_str().unwrap();
            assert!(report.log_commits <= report.log_records, "{report:?}");
            assert!(report.read_only.unwrap().contains(name));
            assert_eq!(check(&main), n - 1);
            assert!(is_read_only(main.write_lease()));
            assert!(is_read_only(main.flush()));
            drop(main);
            assert!(is_read_only(store.close(std::time::Duration::ZERO)));
            assert_eq!(damaged.digest(), before);
        }
    }
}

fn s3_a_sync_of_the_log_fails() {
    for failed_sync in [FailedSync::KeepsDirty, FailedSync::DropsDirty] {
        let storage = SimulatedStorage::new();
        let (store, main, _) = open(&storage, options()).unwrap();
        let other = store.create_timeline("other", pagestrata::Lsn(1)).unwrap();
        write(&main, 1..=20);
        write(&other, 1..=3);
        let (mut lease, mut of_other) = (main.write_lease().unwrap(), other.write_lease().unwrap());
        let first = commit(&mut lease, 21).unwrap();
        let waiting = commit(&mut of_other, 4).unwrap();
        let second = commit(&mut lease, 22).unwrap();
        let call = storage.calls();
        storage.set_fault(Some(Fault { call, failed_sync, ..Fault::default() }));
        storage.set_trace(true);
        for ticket in [first, waiting, second] {
            assert!(is_read_only(ticket.wait()));
        }
        assert!(is_read_only(commit(&mut lease, 23)));
        lease.abort();
        assert!(is_read_only(lease.roll()));
        drop((lease, of_other));
        assert!(is_read_only(main.flush()));
        assert!(is_read_only(store.create_timeline("more", pagestrata::Lsn(1))));
        assert_eq!(check(&main), 22, "reads go on");
        assert!(store.stats().log.failure.is_some());
        assert!(is_read_only(store.close(std::time::Duration::ZERO)));
        let calls = storage.trace();
        let syncs = calls.iter().filter(|call| call.operation == "sync").count();
        assert_eq!(syncs, 1, "not tried again");
        assert!(calls.iter().all(|call| !call.operation.starts_with("write")), "{calls:?}");

        let mut random = fastrand::Rng::with_seed(3);
        let mut left = vec![storage.crash(&mut none_kept), storage.crash(&mut all_kept)];
        left.extend((0..20).map(|_| storage.crash_seeded(&mut random)));
        let of_none_kept = reopen(&left[0]).0;
        assert_eq!(of_none_kept, 20, "exactly what was acknowledged");
        for left in left {
            let (found, _) = reopen(&left);
            assert!((20..=22).contains(&found), "{found}");
            // What was found stays, whatever became of the sync.
            assert_eq!(reopen(&left.crash(&mut none_kept)).0, found);
        }
        let killed = storage.killed();
        assert_eq!(reopen(&killed).0, 22, "written, and written again by the opening");
        assert_eq!(reopen(&killed.crash(&mut none_kept)).0, 22);
    }
}

fn s4_no_space_to_append_to_the_log() {
    // No room for the next segment.
    let storage = SimulatedStorage::new();
    let (store, main, _) = open(&storage, options()).unwrap();
    write(&main, 1..=5);
    storage.set_free_bytes(Some(1000));
    let mut lease = main.write_lease().unwrap();
    let mut acknowledged = 5;
    let refused = loop {
        match commit(&mut lease, acknowledged + 1) {
            Ok(ticket) => ticket.wait().unwrap(),
            Err(error) => break error,
        }
        acknowledged += 1;
    };
    assert!(matches!(refused, Error::NoSpace(_)), "{refused}");
    assert_eq!(check(&main), acknowledged);
    for left in [storage.killed(), storage.crash(&mut none_kept)] {
        let (found, report) = reopen(&left);
        assert_eq!((found, report.log_torn_at), (acknowledged, None));
    }
    let lsn = pagestrata::Lsn(10 * (acknowledged + 1));
    assert!(matches!(lease.commit(lsn), Err(Error::NoSpace(_))), "still full");
    storage.set_free_bytes(None);
    // What was put still waits.
    lease.commit(lsn).unwrap().wait().unwrap();
    drop(lease);
    write(&main, acknowledged + 2..=acknowledged + 40);
    assert_eq!(check(&main), acknowledged + 40);
    assert!(store.stats().log.failure.is_none());
    assert_eq!(reopen(&storage.crash(&mut none_kept)).0, acknowledged + 40);
}

/// The write itself fails, after half of it: thrice at the same place, then another commit takes
/// it.
fn s4_no_space_for_the_whole_of_an_append() {
    for at in 1..30 {
        let storage = SimulatedStorage::new();
        let (_store, main, _) = open(&storage, options()).unwrap();
        write(&main, 1..=at);
        let mut lease = main.write_lease().unwrap();
        storage.set_fault(Some(Fault {
            call: storage.calls(),
            for_good: true,
            late: true,
            failure: Failure::ENOSPC,
            ..Fault::default()
        }));
        assert!(matches!(commit(&mut lease, at + 1), Err(Error::NoSpace(_))));
        for _ in 0..2 {
            let again = lease.commit(pagestrata::Lsn(10 * (at + 1)));
            assert!(matches!(again, Err(Error::NoSpace(_))));
        }
        assert_eq!(reopen(&storage.killed()).0, at);
        assert_eq!(reopen(&storage.crash(&mut all_kept)).0, at);
        storage.set_fault(None);
        if at % 2 == 0 {
            lease.abort();
            let small = pagestrata::Value::Delta { bytes: b"", will_init: false };
            lease.put(keys(1)[0], pagestrata::Lsn(10 * (at + 1)), small).unwrap();
            lease.abort();
            commit(&mut lease, at + 1).unwrap().wait().unwrap();
        } else {
            lease.commit(pagestrata::Lsn(10 * (at + 1))).unwrap().wait().unwrap();
        }
        drop(lease);
        write(&main, at + 2..=at + 20);
        assert_eq!(check(&main), at + 20);
        assert_eq!(reopen(&storage.crash(&mut none_kept)).0, at + 20);
    }
}

/// The other side of S4: a write that fails for any other reason is the end of the log until a
/// reopen.
fn s4_a_write_to_the_log_that_fails_makes_the_store_read_only() {
    for late in [false, true] {
        let storage = SimulatedStorage::new();
        let (_store, main, _) = open(&storage, options()).unwrap();
        write(&main, 1..=5);
        let mut lease = main.write_lease().unwrap();
        storage.set_fault(Some(Fault { call: storage.calls(), late, ..Fault::default() }));
        assert!(is_read_only(commit(&mut lease, 6)));
        assert!(is_read_only(lease.commit(pagestrata::Lsn(60))), "also once the device does again");
        assert_eq!(check(&main), 5);
        drop(lease);
        assert_eq!(reopen(&storage.killed()).0, 5);
    }
}
