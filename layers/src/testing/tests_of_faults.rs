//! Calls that fail, full disks and rot, pinned.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
};

use super::{FailedSync, Failing, Failure, Fault, SimulatedStorage, all_kept, none_kept};
use crate::{
    Error, Result,
    storage::{File, Storage},
};

const PATH: &str = "/file";

fn path() -> &'static Path {
    Path::new(PATH)
}

fn storage_with(bytes: &[u8]) -> (SimulatedStorage, Box<dyn File>) {
    let storage = SimulatedStorage::of_files([(PathBuf::from(PATH), bytes.to_vec())]);
    let file = storage.open(path()).unwrap();
    (storage, file)
}

fn cause(result: Result<()>) -> io::Error {
    match result.unwrap_err() {
        Error::Io { cause, .. } => cause,
        other => panic!("{other}"),
    }
}

/// The next call fails.
fn fail_next(storage: &SimulatedStorage, fault: Fault) {
    storage.set_fault(Some(Fault { call: storage.calls(), ..fault }));
}

#[test]
fn a_call_fails_once_or_for_good() {
    let (storage, mut file) = storage_with(b"");
    fail_next(&storage, Fault::default());
    assert_eq!(cause(file.append(b"ab")).raw_os_error(), Some(libc::EIO));
    file.append(b"cd").unwrap();
    fail_next(&storage, Fault { for_good: true, failure: Failure::ENOSPC, ..Fault::default() });
    assert_eq!(cause(file.append(b"ef")).kind(), io::ErrorKind::StorageFull);
    assert_eq!(cause(file.sync()).kind(), io::ErrorKind::StorageFull);
    let calls = storage.calls();
    assert!(file.len().is_err());
    assert_eq!(storage.calls(), calls + 1);
    assert_eq!(storage.bytes(path()), b"cd");
    assert!(storage.killed().open(path()).is_ok(), "a new process has no faults");
}

#[test]
fn a_late_fault_has_done_half() {
    let (storage, mut file) = storage_with(b"1234");
    let late = Fault { late: true, ..Fault::default() };
    fail_next(&storage, late);
    assert!(file.append(b"abcd").is_err());
    assert_eq!(storage.bytes(path()), b"1234ab");
    fail_next(&storage, late);
    assert!(file.write_at(0, &[IoSlice::new(b"x"), IoSlice::new(b"yz!")]).is_err());
    assert_eq!(storage.bytes(path()), b"xy34ab");
    fail_next(&storage, late);
    assert!(file.sync().is_err());
    assert_eq!(storage.crash(&mut none_kept).bytes(path()), b"1234");
    fail_next(&storage, late);
    assert!(storage.rename(path(), Path::new("/other")).is_err());
    assert_eq!(storage.list(Path::new("/")).unwrap(), ["other"]);
    fail_next(&storage, late);
    assert!(storage.lock(path()).is_err());
    storage.set_fault(None);
    assert!(storage.lock(path()).unwrap().is_some());
}

#[test]
fn an_operation_fails_by_its_path() {
    let (storage, file) = storage_with(b"");
    storage.set_failing(Some(Failing { operation: "sync", at: "file", panics: false }));
    assert!(file.sync().is_err() && file.len().is_ok());
    storage.set_failing(Some(Failing { operation: "create", at: "/", panics: false }));
    assert!(file.sync().is_ok() && storage.create(Path::new("/other")).is_err());
    storage.set_failing(None);
    storage.create(Path::new("/other")).unwrap();
}

#[test]
fn a_failed_sync_may_keep_what_is_unsynced() {
    let (storage, mut file) = storage_with(b"old");
    file.write_at(0, &[IoSlice::new(b"new")]).unwrap();
    fail_next(&storage, Fault::default());
    assert!(file.sync().is_err());
    assert_eq!(storage.crash_states(9).unwrap().len(), 2);
    file.sync().unwrap();
    assert_eq!(storage.crash(&mut none_kept).bytes(path()), b"new");
}

#[test]
fn a_failed_sync_may_drop_what_is_unsynced() {
    let (storage, mut file) = storage_with(&[1; 1024]);
    let dropping = Fault { failed_sync: FailedSync::DropsDirty, ..Fault::default() };
    file.write_at(0, &[IoSlice::new(&[2; 10])]).unwrap();
    file.append(&[2; 512]).unwrap();
    fail_next(&storage, dropping);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    let mut live = vec![1; 1024];
    live[..10].fill(2);
    live.extend([2; 512]);
    assert_eq!(storage.bytes(path()), live, "readers see it");
    let lost = [vec![1; 1024], vec![0; 512]].concat();
    assert_eq!(storage.crash(&mut none_kept).bytes(path()), lost);
    assert_eq!(storage.crash(&mut all_kept).bytes(path()), lost, "and no disk has it");
    // A sector that is written again is written whole.
    file.write_at(5, &[IoSlice::new(&[3])]).unwrap();
    live[5] = 3;
    assert_eq!(storage.crash(&mut none_kept).bytes(path()), lost);
    assert_eq!(storage.crash(&mut all_kept).bytes(path())[..1024], live[..1024]);
    file.sync().unwrap();
    let left = storage.crash(&mut none_kept).bytes(path());
    assert_eq!((&left[..1024], &left[1024..]), (&live[..1024], &[0; 512][..]));
}

#[test]
fn a_late_failed_sync_drops_the_second_half() {
    let (storage, mut file) = storage_with(&[1; 2048]);
    file.write_at(0, &[IoSlice::new(&[2; 2048])]).unwrap();
    fail_next(
        &storage,
        Fault { late: true, failed_sync: FailedSync::DropsDirty, ..Fault::default() },
    );
    assert!(file.sync().is_err());
    let half = [[2; 1024], [1; 1024]].concat();
    assert_eq!(storage.crash(&mut none_kept).bytes(path()), half);
    assert_eq!(storage.crash(&mut all_kept).bytes(path()), half);
    file.truncate(0).unwrap();
    file.append(b"x").unwrap();
    file.sync().unwrap();
    assert_eq!(storage.crash(&mut none_kept).bytes(path()), b"x");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (storage, mut file) = storage_with(b"1234");
    storage.set_free_bytes(Some(3));
    file.append(b"56").unwrap();
    let full = |result| assert_eq!(cause(result).raw_os_error(), Some(libc::ENOSPC));
    full(file.append(b"789"));
    assert_eq!(storage.bytes(path()), b"1234567");
    full(file.append(b"8"));
    file.write_at(0, &[IoSlice::new(b"abcdefg")]).unwrap();
    full(file.write_at(100, &[IoSlice::new(b"far")]));
    full(file.write_at(6, &[IoSlice::new(b"G"), IoSlice::new(b"H")]));
    assert_eq!(storage.bytes(path()), b"abcdefG");
    file.truncate(2).unwrap();
    file.append(b"cdefg").unwrap();
    full(file.append(b"h"));
    let mut other = storage.create(Path::new("/other")).unwrap();
    full(other.append(b"o"));
    storage.remove(path()).unwrap();
    other.append(b"1234567").unwrap();
    full(other.append(b"8"));
    storage.create(Path::new("/new")).unwrap();
    storage.rename(Path::new("/new"), Path::new("/other")).unwrap();
    storage.open(Path::new("/other")).unwrap().append(b"1234567").unwrap();
    storage.set_free_bytes(None);
    storage.open(Path::new("/other")).unwrap().append(b"8").unwrap();
}

#[test]
fn rot_is_in_all_versions() {
    let (storage, mut file) = storage_with(b"old");
    file.write_at(0, &[IoSlice::new(b"new")]).unwrap();
    storage.flip(path(), 1, 0);
    assert_eq!(storage.bytes(path()), b"ndw");
    assert_eq!(storage.crash(&mut none_kept).bytes(path()), b"omd");
    storage.change(path(), |bytes| bytes.extend(b"!"));
    assert_eq!(storage.crash(&mut none_kept).bytes(path()), b"ndw!");
}

#[test]
fn reads_beyond_the_end_fail() {
    let (_storage, file) = storage_with(b"1234");
    let mut bytes = [9; 3];
    file.read_at(1, &mut bytes).unwrap();
    assert_eq!(&bytes, b"234");
    for offset in [2, 4, 5, u64::MAX] {
        let error = cause(file.read_at(offset, &mut bytes));
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}");
    }
}

#[test]
fn a_trace_lists_the_calls() {
    let (storage, mut file) = storage_with(b"12");
    assert!(storage.trace().is_empty());
    storage.set_trace(true);
    file.append(b"345").unwrap();
    file.sync().unwrap();
    let found = storage.trace();
    assert_eq!((found[0].operation, found[0].offset, found[0].len), ("append to", 2, 3));
    assert_eq!((found[1].operation, &*found[1].path), ("sync", path()));
    assert_eq!(found[1].call + 1, storage.calls());
}
