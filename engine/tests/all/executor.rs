//! The engine under tokio's executor with several threads: what is held across an await, and what
//! is waited for where.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pagestrata::{
    Access, Durability, Key, Lsn, Options, Ready, Scratch, Snapshot, Store, Value,
    testing::evict_layer_files,
};
use tokio::{runtime::Builder, task::JoinSet};

use crate::support::Append;

const PAGES: u32 = 500;

fn key(block: u32) -> Key {
    Key::new(1, block)
}

fn image(block: u32) -> Vec<u8> {
    (0..4000).map(|at| (at * 3 + block * 7) as u8).collect()
}

/// Every page as an image at Lsn 2, in a layer file.
fn written(dir: &Path) {
    let (store, _) = Store::open(dir, Options::default()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    for block in 0..PAGES {
        lease.put(key(block), Lsn(2), Value::Image(&image(block))).unwrap();
    }
    lease.commit(Lsn(2)).unwrap();
    drop(lease);
    timeline.flush().unwrap();
}

fn open(dir: &Path, access: Access) -> Store {
    let options = Options {
        access,
        block_cache_max_bytes: 256 << 10,
        durability: Durability::External,
        ..Options::default()
    };
    Store::open(dir, options).unwrap().0
}

/// As [`image`], and what was put above it up to an Lsn.
fn expected(block: u32, lsn: Lsn) -> Vec<u8> {
    let deltas = (3..=lsn.0).filter(|lsn| (lsn % u64::from(PAGES)) as u32 == block);
    image(block).into_iter().chain(deltas.flat_map(u64::to_le_bytes)).collect()
}

/// Something that a spawned task may do: all of it is `Send` and borrows from what the task owns.
async fn check(snapshot: Snapshot, seed: u32) {
    let mut scratch = Scratch::new();
    for n in 0..40 {
        let block = (seed * 97 + n * 31) % PAGES;
        let (guard, lsn) = (snapshot.guard(), snapshot.lsn());
        let page = guard.page_async(key(block), lsn, &Append, &mut scratch).await.unwrap();
        let expected = expected(block, lsn);
        assert!(*page == expected[..]);
        tokio::task::yield_now().await;
        assert!(*page == expected[..], "what was read is held across an await");
    }
}

#[test]
fn snapshots_and_pages_are_held_across_awaits_while_layers_come_and_go() {
    let runtime = Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    for access in [Access::MMAP, Access::Pread, Access::Direct] {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let store = open(dir.path(), access);
        let timeline = store.timeline("main").unwrap();
        evict_layer_files(&timeline).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (timeline, stop) = (timeline.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut lsn = Lsn(2);
                while !stop.load(Ordering::Relaxed) || lsn < Lsn(1000) {
                    let mut lease = timeline.write_lease().unwrap();
                    for _ in 0..100 {
                        lsn = lsn.next();
                        let block = (lsn.0 % u64::from(PAGES)) as u32;
                        let value = Value::Delta { bytes: &lsn.0.to_le_bytes(), will_init: false };
                        lease.put(key(block), lsn, value).unwrap();
                    }
                    lease.commit(lsn).unwrap();
                    lease.roll().unwrap();
                    drop(lease);
                    if lsn.0 % 400 == 2 {
                        timeline.flush().unwrap();
                        evict_layer_files(&timeline).unwrap();
                    }
                    if lsn > Lsn(20_000) {
                        break;
                    }
                }
                lsn
            })
        };
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for seed in 0..60 {
                // A later Lsn each, which the task waits for.
                let (timeline, lsn) = (timeline.clone(), Lsn(2 + u64::from(seed) * 15));
                tasks.spawn(async move {
                    timeline.wait_for(lsn).await.unwrap();
                    let snapshot = timeline.snapshot_at(lsn).unwrap();
                    check(snapshot, seed).await;
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        });
        stop.store(true, Ordering::Relaxed);
        let last = writer.join().unwrap();
        assert_eq!(timeline.last_record_lsn(), last);
        assert!(timeline.pins().is_empty(), "{:?}", timeline.pins());
        store.close(Duration::ZERO).unwrap();
    }
}

/// How often this thread had to wait for a device inside a memory access (`man 5 proc`, the twelfth
/// field).
fn major_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(9).unwrap().parse().unwrap()
}

#[test]
fn a_cold_mapping_stops_no_thread_that_asked_not_to_wait() {
    // Most likely on a disk: what a file system in memory holds is never cold.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    written(dir.path());
    let store = open(dir.path(), Access::MMAP);
    let timeline = store.timeline("main").unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    let (snapshot, mut scratch) = (timeline.snapshot(), Scratch::new());
    let before = major_faults();
    // Now and then once more: what was in memory is remembered, and gone.
    for round in 0..3 {
        evict_layer_files(&timeline).unwrap();
        for block in (0..PAGES).map(|n| (n * 13 + round) % PAGES) {
            let page = snapshot.guard().page_async(key(block), Lsn(2), &Append, &mut scratch);
            assert!(*runtime.block_on(page).unwrap() == image(block)[..]);
        }
    }
    // Reads that do not look wait for each block of four pages, 375 times. On a machine that is
    // short of memory a thread may have to wait for its own code, which is mapped, too.
    let waits = major_faults() - before;
    assert!(waits < 10, "{waits} waits");
    let faults = store.stats().major_faults;
    assert!(faults.fetching > 0 && faults.process >= faults.fetching, "{faults:?}");
    let all = scratch.all_reads();
    // A block of 16 KiB has four pages, and in each round each block is missing once.
    assert!(all.cold_fetches >= u64::from(PAGES / 5) * 3, "{all:?}");
    assert_eq!((all.reads, all.copied_bytes), (u64::from(PAGES) * 3, 0));
}

#[test]
fn what_was_prefetched_is_a_hit() {
    for access in [Access::MMAP, Access::Pread] {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        written(dir.path());
        let store = open(dir.path(), access);
        let timeline = store.timeline("main").unwrap();
        evict_layer_files(&timeline).unwrap();
        let wanted: Vec<Key> = (0..10).map(|n| key(100 + n)).collect();
        let (snapshot, mut scratch) = (timeline.snapshot(), Scratch::new());
        let cold = snapshot.guard().try_page(wanted[0], Lsn(2), &Append, &mut scratch).unwrap();
        assert!(matches!(cold, Ready::Cold(..)));
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(timeline.prefetch(&wanted, Lsn(2)).unwrap()).unwrap();
        let mut scratch = Scratch::new();
        for &key in &wanted {
            let ready = snapshot.guard().try_page(key, Lsn(2), &Append, &mut scratch).unwrap();
            let Ready::Hit(page) = ready else { panic!("{access:?}: {key} is not there") };
            assert!(*page == image(key.block)[..]);
        }
        // A fetch that is started but not awaited is done too.
        let mut other = timeline.prefetch(&[key(400)], Lsn(2)).unwrap();
        other.start();
        drop(other);
        loop {
            match snapshot.guard().try_page(key(400), Lsn(2), &Append, &mut scratch).unwrap() {
                Ready::Hit(page) => break assert!(*page == image(400)[..]),
                Ready::Cold(..) => std::thread::yield_now(),
            }
        }
        assert!(timeline.prefetch(&wanted, Lsn(3)).is_err(), "there is no such Lsn yet");
    }
}
