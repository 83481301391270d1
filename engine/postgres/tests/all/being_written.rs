//! The end of a log that a server is writing: its last page may have a record that is not all
//! there, and whole ones behind it, of other backends. That is the end. Damage before it stays
//! damage.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use pagestrata_layers::{
    Lsn, Result as StorageResult,
    storage::{File as StorageFile, Lock, RealStorage, SharedStorage, Storage},
};
use pagestrata_postgres::{Error, WalEnd, WalReader};

use crate::layout::{Bytes, Log, PAGE};

const SEGMENT: u64 = 1 << 20;

/// Where the log starts that is read, and one from before.
const START: u64 = 9 * SEGMENT;
const OLD: u64 = 2 * SEGMENT;

/// A log of one segment, which is there as a whole.
fn empty_log(start: u64) -> Log<Bytes> {
    Log::new(Bytes { start, bytes: vec![0; SEGMENT as usize] }, SEGMENT, start)
}

/// A log whose last page has some records, the one that is being written, and three behind it.
struct Written {
    /// As it is when all is written.
    bytes: Vec<u8>,
    first: u64,
    /// The start of each record in order.
    starts: Vec<u64>,
    /// Which one is being written.
    torn: usize,
}

impl Written {
    fn new() -> Written {
        let mut log = empty_log(START);
        let mut starts = vec![log.append(21, 0, b"first")];
        while log.next < START + 5 * PAGE {
            starts.push(log.append(21, 0, &[3; 150]));
        }
        starts.push(log.append(21, 0, &[4; 150]));
        let torn = starts.len();
        starts.push(log.append(21, 0, &[9; 400]));
        for _ in 0..3 {
            starts.push(log.append(21, 0, &[5; 70]));
        }
        assert_eq!(starts[torn] / PAGE, log.next / PAGE, "all in one page");
        Written { bytes: log.sink.bytes, first: starts[0], starts, torn }
    }

    fn torn_at(&self) -> u64 {
        self.starts[self.torn]
    }

    /// The bytes of the record that is being written: where they start in the segment, and how long
    /// they are.
    fn torn_range(&self) -> std::ops::Range<usize> {
        let start = (self.torn_at() - START) as usize;
        start..start + 24 + 5 + 400
    }
}

/// A data directory with nothing in it but `pg_wal`, and whether a server runs in it.
struct Data(tempfile::TempDir);

impl Data {
    fn new(segment: &[u8], is_running: bool) -> Data {
        let data = Data(tempfile::tempdir().unwrap());
        fs::create_dir(data.wal()).unwrap();
        fs::write(data.segment(), segment).unwrap();
        if is_running {
            fs::write(data.0.path().join("postmaster.pid"), "4711\n").unwrap();
        }
        data
    }

    fn wal(&self) -> PathBuf {
        self.0.path().join("pg_wal")
    }

    fn segment(&self) -> PathBuf {
        self.wal().join("000000010000000000000009")
    }

    fn read(&self, from: u64) -> (usize, Result<WalEnd, Error>) {
        read(Arc::new(RealStorage), &self.wal(), from)
    }
}

fn read(storage: SharedStorage, wal: &Path, from: u64) -> (usize, Result<WalEnd, Error>) {
    let mut count = 0;
    let run = || {
        let mut reader = WalReader::open(storage, wal, Lsn(from), None, Some(77))?;
        while reader.next_record()?.is_some() {
            count += 1;
        }
        Ok(reader.end().expect("it has ended"))
    };
    let end = run();
    (count, end)
}

/// What the place of the record can look like: each part of it new or not yet, and what was there
/// before.
fn shapes(written: &Written) -> Vec<(String, Vec<u8>)> {
    let range = written.torn_range();
    let zeros = vec![0; SEGMENT as usize];
    // A segment from before, under another name: its pages have other addresses, its records links
    // to where they were.
    let mut old = empty_log(OLD);
    while old.next < OLD + 8 * PAGE {
        old.append(21, 0, &[8; 61]);
    }
    let recycled = old.sink.bytes;
    let mut shapes = Vec::new();
    for (before, name) in [(&zeros, "zeros"), (&recycled, "recycled")] {
        for new in [0, 4, 8, 20, 23, 24, 30, 200, range.len() - 1] {
            let mut bytes = written.bytes.clone();
            let missing = range.start + new..range.end;
            bytes[missing.clone()].copy_from_slice(&before[missing]);
            // Behind the page of the record nothing was written yet.
            let behind = range.end.next_multiple_of(PAGE as usize);
            bytes[behind..].copy_from_slice(&before[behind..]);
            shapes.push((format!("{new} bytes of the record, then {name}"), bytes.clone()));
            if new > 24 {
                // The second half is there, the first is not.
                let mut bytes = bytes;
                bytes[range.clone()].copy_from_slice(&written.bytes[range.clone()]);
                let missing = range.start + 24..range.start + new;
                bytes[missing.clone()].copy_from_slice(&before[missing]);
                shapes.push((format!("{new} bytes of {name}, then the record"), bytes));
            }
        }
    }
    shapes
}

#[test]
fn a_record_that_is_being_written_is_the_end() {
    let written = Written::new();
    let (count, end) = Data::new(&written.bytes, true).read(written.first);
    assert_eq!(count, written.starts.len());
    assert!(matches!(end, Ok(WalEnd::Clean { .. })), "{end:?}");
    for (shape, bytes) in shapes(&written) {
        let (count, end) = Data::new(&bytes, true).read(written.first);
        assert_eq!(count, written.torn, "{shape}: {end:?}");
        let end = end.unwrap_or_else(|error| panic!("{shape}: {error}"));
        assert_eq!(end, WalEnd::Torn { at: Lsn(written.torn_at()) }, "{shape}");
        // Where no server runs, what is behind it shows that the record was there.
        let (count, end) = Data::new(&bytes, false).read(written.first);
        assert_eq!(count, written.torn, "{shape}");
        assert!(matches!(end, Err(Error::Corrupt(_))), "{shape}: {end:?}");
    }
}

/// Whatever is damaged before the last page that was written, a running server or not.
#[test]
fn damage_before_the_end_is_refused_beside_a_running_server() {
    let written = Written::new();
    let last_page = written.torn_at() / PAGE * PAGE;
    for (index, start) in written.starts.iter().enumerate().skip(1) {
        if *start >= last_page {
            break;
        }
        let mut bytes = written.bytes.clone();
        bytes[(start - START) as usize + 40] ^= 1;
        let (count, end) = Data::new(&bytes, true).read(written.first);
        assert_eq!(count, index);
        let Err(Error::Corrupt(corruption)) = end else { panic!("{end:?}") };
        assert_eq!(corruption.lsn, Lsn(*start));
    }
    // In the page of the record that is being written, once the log has gone on behind it.
    for (shape, mut bytes) in shapes(&written) {
        let mut log = empty_log(START);
        let page = written.torn_at().next_multiple_of(PAGE);
        log.page(page, 0, 0);
        let header = (page - START) as usize..(page - START) as usize + 24;
        bytes[header.clone()].copy_from_slice(&log.sink.bytes[header]);
        let (count, end) = Data::new(&bytes, true).read(written.first);
        assert_eq!(count, written.torn, "{shape}");
        assert!(matches!(end, Err(Error::Corrupt(_))), "{shape}: {end:?}");
        // And in a later segment.
        let data = Data::new(&written.bytes, true);
        edit(&data.segment(), written.torn_range().start as u64 + 100, &[0; 50]);
        let mut later = empty_log(START + 2 * SEGMENT);
        later.page(START + 2 * SEGMENT, 0, 0);
        fs::write(data.wal().join("00000001000000000000000B"), later.sink.bytes).unwrap();
        let (_, end) = data.read(written.first);
        assert!(end.is_err(), "{end:?}");
    }
}

fn edit(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

type OnOpen = Box<dyn FnMut(&Path, usize) + Send>;

/// The file system, with something that happens whenever a file is opened: a server writes.
struct Busy {
    on_open: Mutex<(usize, OnOpen)>,
}

impl std::fmt::Debug for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Busy")
    }
}

impl Storage for Busy {
    fn anchored(&self, dir: &Path) -> StorageResult<SharedStorage> {
        // Readers of a log open its files by their paths.
        RealStorage.anchored(dir)
    }

    fn create(&self, path: &Path) -> StorageResult<Box<dyn StorageFile>> {
        RealStorage.create(path)
    }

    fn open(&self, path: &Path) -> StorageResult<Box<dyn StorageFile>> {
        let (times, on_open) = &mut *self.on_open.lock().unwrap();
        *times += 1;
        on_open(path, *times);
        RealStorage.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> StorageResult<()> {
        RealStorage.rename(from, to)
    }

    fn remove(&self, path: &Path) -> StorageResult<()> {
        RealStorage.remove(path)
    }

    fn list(&self, dir: &Path) -> StorageResult<Vec<String>> {
        RealStorage.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> StorageResult<()> {
        RealStorage.create_dir(dir)
    }

    fn exists(&self, path: &Path) -> StorageResult<bool> {
        RealStorage.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> StorageResult<()> {
        RealStorage.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> StorageResult<Option<Box<dyn Lock>>> {
        RealStorage.lock(path)
    }
}

fn busy(on_open: impl FnMut(&Path, usize) + Send + 'static) -> SharedStorage {
    Arc::new(Busy { on_open: Mutex::new((0, Box::new(on_open))) })
}

/// The record is there when it is looked at again: reading goes on.
#[test]
fn a_record_that_is_written_meanwhile_is_read() {
    let written = Written::new();
    for (shape, bytes) in shapes(&written) {
        let data = Data::new(&bytes, false);
        let (path, whole) = (data.segment(), written.bytes.clone());
        // Opened to find the segments, and to read; the next time it has been written.
        let storage = busy(move |_, times| {
            if times == 3 {
                fs::write(&path, &whole).unwrap();
            }
        });
        let (count, end) = read(storage, &data.wal(), written.first);
        assert_eq!(count, written.starts.len(), "{shape}: {end:?}");
        assert!(matches!(end, Ok(WalEnd::Clean { .. })), "{shape}: {end:?}");
    }
}

/// A file that is never the same twice is being written, whoever writes it; what is behind it
/// decides all the same.
#[test]
fn a_file_that_changes_while_it_is_read_ends_there() {
    let written = Written::new();
    let at = written.torn_range().start as u64 + 100;
    for is_gone_on in [false, true] {
        let mut bytes = written.bytes.clone();
        if is_gone_on {
            let mut log = Log::new(Bytes { start: START, bytes }, SEGMENT, START);
            log.page(written.torn_at().next_multiple_of(PAGE), 0, 0);
            bytes = log.sink.bytes;
        }
        let data = Data::new(&bytes, false);
        let opened = Arc::new(Mutex::new(0));
        let (path, seen) = (data.segment(), opened.clone());
        let storage = busy(move |_, times| {
            edit(&path, at, &(times as u64).to_le_bytes());
            *seen.lock().unwrap() = times;
        });
        let (count, end) = read(storage, &data.wal(), written.first);
        assert_eq!(count, written.torn);
        match is_gone_on {
            true => assert!(matches!(end, Err(Error::Corrupt(_))), "{end:?}"),
            false => assert_eq!(end.unwrap(), WalEnd::Torn { at: Lsn(written.torn_at()) }),
        }
        assert!(*opened.lock().unwrap() < 100, "it gives up");
    }
}
