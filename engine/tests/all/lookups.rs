//! What `exists` and `scan` read: as much as the newest version of a page takes, whatever lies
//! below it.

use pagestrata::{Access, Durability, Key, Lsn, Options, Store, Timeline, Value};

use crate::support::put;

const LAYERS: u64 = 40;
const BLOCKS: u32 = 8;
/// Two values to a data block, so that the blocks of all layers are many times what the block cache
/// holds.
const VALUE: [u8; 8000] = [7; 8000];

/// An image of each page at Lsn 2, and a delta of each in every one of `LAYERS` layer files above
/// it.
fn write_chains(timeline: &Timeline) {
    for block in 0..BLOCKS {
        let lsn = Lsn(2 + u64::from(block));
        put(timeline, Key::new(1, block), lsn, &VALUE);
    }
    timeline.flush().unwrap();
    for layer in 1..=LAYERS {
        let mut lease = timeline.write_lease().unwrap();
        let lsn = Lsn(100 * layer);
        for block in 0..BLOCKS {
            let value = Value::Delta { bytes: &VALUE, will_init: false };
            lease.put(Key::new(1, block), lsn, value).unwrap();
        }
        lease.commit(lsn).unwrap();
        drop(lease);
        timeline.flush().unwrap();
    }
}

/// A store with hardly a block cache, so that each block that is looked at is read.
fn with_chains() -> (tempfile::TempDir, Store, Timeline) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        access: Access::Pread,
        block_cache_max_bytes: 64 << 10,
        durability: Durability::External,
        ..Options::default()
    };
    let (store, _) = Store::open(dir.path(), options.clone()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    write_chains(&timeline);
    drop((timeline, store));
    let (store, _) = Store::open(dir.path(), options).unwrap();
    let timeline = store.timeline("main").unwrap();
    (dir, store, timeline)
}

#[test]
fn exists_reads_the_layer_of_the_newest_version_and_no_older_one() {
    let (_dir, store, timeline) = with_chains();
    let snapshot = timeline.snapshot();
    let before = store.stats().access.reads;
    assert!(snapshot.guard().exists(Key::new(1, 3), snapshot.lsn()).unwrap());
    let reads = store.stats().access.reads - before;
    // An index block, a data block, and the two parts of the filter; a chain lies in 41 files.
    assert!((1..=5).contains(&reads), "{reads} reads of files");
}

#[test]
fn a_scan_reads_the_newest_version_of_each_page_and_no_older_one() {
    let (_dir, store, timeline) = with_chains();
    let snapshot = timeline.snapshot();
    let before = store.stats().access.reads;
    let pages: Vec<_> = snapshot.guard().scan(.., snapshot.lsn()).map(Result::unwrap).collect();
    let reads = store.stats().access.reads - before;
    let newest = Lsn(100 * LAYERS);
    assert!(pages.into_iter().eq((0..BLOCKS).map(|block| (Key::new(1, block), newest))));
    // The keys of each file, from its index, and the blocks of the newest; chains of all pages lie
    // in 8 * 41 blocks.
    let files = LAYERS + 1;
    assert!(reads <= 2 * files + u64::from(BLOCKS), "{reads} reads of files");
}
