//! S18 and S19: no memory, and panics in what is not the engine's.

use std::{
    error::Error as StdError,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Barrier},
    thread,
};

use pagestrata::{
    Background, Durability, Error, Key, LayersError, Lsn, OpenProgress, Options, PageVersion, Redo,
    Scratch, Store, Timeline, Value, testing::SimulatedStorage,
};

use super::{DIR, check, child, commit, keys, open, options, reopen, value, write};
use crate::support::eventually;

in_all_access_modes!(
    s18_no_memory,
    s19_a_panic_in_redo_or_while_scanning,
    s19_a_panic_while_a_store_is_opened,
    s19_a_reader_that_dies_with_a_guard,
    s19_a_writer_that_dies_with_the_lease,
);

fn s18_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    // KiB of memory that is written to; files are mapped beside it.
    child::run("runs_out_of_memory", dir.path(), "ulimit -d 150000").assert_success();
}

/// In a process of its own, whose memory is limited.
pub(super) fn runs_out_of_memory(dir: &Path) {
    let options = Options {
        durability: Durability::External,
        open_layer_size_max_bytes: 4 << 30,
        ..options()
    };
    let (store, _) = Store::open(dir, options).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    write(&main, 1..=100);
    let mut lease = main.write_lease().unwrap();
    let page = vec![0x5A; 1 << 20];
    let mut committed = 0;
    let refused = loop {
        let (block, lsn) = (committed as u32, Lsn(1001 + committed));
        if let Err(error) = lease.put(Key::new(3, block), lsn, Value::Image(&page)) {
            break error;
        }
        lease.commit(lsn).unwrap();
        committed += 1;
    };
    assert!(matches!(refused, Error::Layers(LayersError::OutOfMemory { .. })), "{refused}");
    assert!(committed > 50, "{committed}");
    // Reads and small writes go on; a flush gives the memory back, and writing goes on.
    let (mut reader, mut scratch) = (main.reader(), Scratch::new());
    for block in 0..committed as u32 {
        let guard = reader.pin();
        let found = guard.versions(Key::new(3, block), guard.last_record_lsn(), &mut scratch);
        assert_eq!(found.unwrap().newest().unwrap().bytes, page);
    }
    reader.unpin();
    lease.roll().unwrap();
    main.flush().unwrap();
    let lsn = Lsn(1001 + committed);
    lease.put(Key::new(3, committed as u32), lsn, Value::Image(&page)).unwrap();
    lease.commit(lsn).unwrap();
    drop(lease);
    let guard = reader.pin();
    for n in 1..=100 {
        let found = guard.history(keys(n)[0], Lsn(10 * n), &mut scratch).unwrap();
        assert_eq!(found.newest().unwrap().bytes, value(n));
    }
}

struct Panics;

impl Redo for Panics {
    fn apply(
        &self,
        _: Key,
        _: Option<&[u8]>,
        _: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> Result<(), Box<dyn StdError + Send + Sync>> {
        page.extend_from_slice(b"half a page");
        panic!("planted in redo");
    }
}

#[track_caller]
fn panics<T>(work: impl FnOnce() -> T) {
    assert!(catch_unwind(AssertUnwindSafe(|| drop(work()))).is_err(), "it did not panic");
}

/// Does everything that others can do: writes, flushes, reads, verifies.
#[track_caller]
fn others_go_on(main: &Timeline) {
    let last = check(main);
    write(main, last + 1..=last + 1);
    main.flush().unwrap();
    assert_eq!(check(main), last + 1);
    main.verify().unwrap();
}

fn s19_a_panic_in_redo_or_while_scanning() {
    let storage = SimulatedStorage::new();
    let (_store, main, _) = open(&storage, options()).unwrap();
    let based = Key::new(9, 9);
    let mut lease = main.write_lease().unwrap();
    lease.put(based, Lsn(2), Value::Image(b"base")).unwrap();
    lease.put(based, Lsn(3), Value::Delta { bytes: b"delta", will_init: false }).unwrap();
    lease.commit(Lsn(3)).unwrap().wait().unwrap();
    drop(lease);
    write(&main, 1..=10);
    let (mut reader, mut scratch) = (main.reader(), Scratch::new());
    panics(|| reader.pin().page(based, Lsn(10), &Panics, &mut scratch).map(|page| page.len()));
    panics(|| reader.pin().with_page(based, Lsn(10), &Panics, <[u8]>::len));
    let image = |guard: pagestrata::Guard<'_>, scratch: &mut Scratch| {
        guard.page(based, Lsn(2), &Panics, scratch).map(|page| page.to_vec()).unwrap()
    };
    assert_eq!(image(reader.pin(), &mut scratch), b"base", "the same reader, the same scratch");
    panics(|| {
        reader.pin().with_page(based, Lsn(2), &Panics, |page| {
            assert_eq!(page, b"base");
            panic!("planted in a closure");
        })
    });
    assert_eq!(reader.pin().with_page(based, Lsn(2), &Panics, <[u8]>::len).unwrap(), 4);
    panics(|| {
        for (number, found) in reader.pin().scan(.., Lsn(100)).enumerate() {
            found.unwrap();
            assert!(number < 3, "planted in a scan");
        }
    });
    assert_eq!(reader.pin().scan(.., Lsn(100)).count(), 13);
    drop(reader);
    others_go_on(&main);
    assert_eq!(main.pins().len(), 0);
    assert_eq!(main.stats().retired_layers, 0);
}

fn s19_a_panic_while_a_store_is_opened() {
    let storage = SimulatedStorage::new();
    let large = Options {
        open_layer_size_max_bytes: 64 << 20,
        log_segment_size_bytes: 1 << 20,
        log_size_max_bytes: 64 << 20,
        ..options()
    };
    let (store, main, _) = open(&storage, large.clone()).unwrap();
    let mut lease = main.write_lease().unwrap();
    for n in 1..=24 {
        lease.put(Key::new(5, n), Lsn(1), Value::Image(&vec![n as u8; 512 << 10])).unwrap();
    }
    lease.commit(Lsn(1)).unwrap().wait().unwrap();
    drop(lease);
    write(&main, 1..=20);
    drop((main, store));
    let before = storage.digest();
    let mut told = 0;
    let mut progress = |_: OpenProgress| {
        told += 1;
        assert!(told < 2, "planted in the progress");
    };
    panics(|| {
        Store::open_with_progress(storage.shared(), DIR, large.clone(), &mut progress).map(drop)
    });
    assert_eq!((told, storage.digest() == before), (2, true));
    // The lock is free again.
    let (found, report) = reopen(&storage);
    assert_eq!((found, report.log_commits), (20, 21));
}

fn s19_a_reader_that_dies_with_a_guard() {
    for background in [Background::Callers, Background::Threads] {
        let storage = SimulatedStorage::new();
        let (store, main, _) = open(&storage, Options { background, ..options() }).unwrap();
        write(&main, 1..=10);
        let barrier = Arc::new(Barrier::new(2));
        let dying = thread::spawn({
            let (main, barrier) = (main.clone(), barrier.clone());
            move || {
                let (mut reader, mut scratch) = (main.reader(), Scratch::new());
                let snapshot = main.snapshot();
                let guard = reader.pin();
                let found = guard.history(keys(3)[0], Lsn(30), &mut scratch).unwrap();
                let (newest, bytes) = (found.newest().unwrap(), value(3));
                barrier.wait();
                barrier.wait();
                assert_eq!(newest.bytes, bytes, "held over the flush");
                panic!("planted in {snapshot:?}");
            }
        });
        barrier.wait();
        main.flush().unwrap();
        assert_eq!((main.stats().retired_layers, main.pins().len()), (1, 2));
        barrier.wait();
        assert!(dying.join().is_err());
        eventually(|| main.stats().retired_layers == 0 || background == Background::Callers);
        assert_eq!(main.pins().len(), 0);
        others_go_on(&main);
        // Given back with the guard.
        eventually(|| main.stats().retired_layers == 0 || background == Background::Callers);
        assert_eq!(main.stats().retired_layers, 0);
        drop(main);
        store.close(std::time::Duration::ZERO).unwrap();
    }
}

fn s19_a_writer_that_dies_with_the_lease() {
    for background in [Background::Callers, Background::Threads] {
        let storage = SimulatedStorage::new();
        let (_store, main, _) = open(&storage, Options { background, ..options() }).unwrap();
        write(&main, 1..=10);
        let dying = thread::spawn({
            let main = main.clone();
            move || {
                let mut lease = main.write_lease().unwrap();
                let ticket = commit(&mut lease, 11).unwrap();
                lease.put(keys(12)[0], Lsn(120), Value::Image(b"never committed")).unwrap();
                panic!("planted before {ticket:?} was waited for");
            }
        });
        assert!(dying.join().is_err());
        assert_eq!(check(&main), 11, "committed, though nobody was told");
        others_go_on(&main);
        // So does one that dies in an import.
        let dying = thread::spawn({
            let main = main.clone();
            move || {
                let mut lease = main.write_lease().unwrap();
                let mut import = lease.import_images(Lsn(1000)).unwrap();
                import.put(Key::new(9, 9), b"never finished").unwrap();
                panic!("planted in an import");
            }
        });
        assert!(dying.join().is_err());
        others_go_on(&main);
        assert_eq!(reopen(&storage.crash(&mut pagestrata::testing::none_kept)).0, 13);
    }
}
