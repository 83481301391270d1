//! Many pages at once: each layer visited once, each block read once, errors for the keys that they
//! are about.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use pagestrata::{
    Access, Compression, Error, Key, KeyRange, Lsn, Options, Page, PageVersion, Rebuild, Redo,
    RedoResult, Scratch, Store, Timeline, Value,
};

const PAGES: u32 = 600;
const LAST: Lsn = Lsn(10);

fn key(block: u32) -> Key {
    Key::new(1, block)
}

fn page(block: u32) -> Vec<u8> {
    (0..2000).map(|at| (at * 7 + block * 13) as u8).collect()
}

fn expected(block: u32) -> Vec<u8> {
    [page(block), block.to_le_bytes().to_vec()].concat()
}

/// Puts the deltas behind the base; counts the pages and the batches.
#[derive(Default)]
struct Append {
    pages: Cell<u32>,
    batches: Cell<u32>,
}

impl Redo for Append {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        self.pages.set(self.pages.get() + 1);
        page.extend_from_slice(base.unwrap_or_default());
        deltas.for_each(|delta| page.extend_from_slice(delta.bytes));
        if page.starts_with(b"bad") { Err("no good".into()) } else { Ok(()) }
    }

    fn apply_batch(
        &self,
        batch: &[Rebuild<'_>],
        page: &mut Vec<u8>,
        done: &mut dyn FnMut(usize, RedoResult<&[u8]>),
    ) {
        self.batches.set(self.batches.get() + 1);
        for (index, rebuild) in batch.iter().enumerate() {
            page.clear();
            let made =
                self.apply(rebuild.key, rebuild.base, &mut rebuild.deltas.iter().copied(), page);
            done(index, made.map(|()| page.as_slice()));
        }
    }
}

/// Images in one layer file, a delta of each page in another; of each third page one in memory, of
/// no consequence below.
fn written(dir: &Path, compression: Compression) {
    let options = Options { compression, ..Options::default() };
    let (store, _) = Store::open(dir, options).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    for block in 0..PAGES {
        lease.put(key(block), Lsn(2), Value::Image(&page(block))).unwrap();
    }
    lease.commit(Lsn(2)).unwrap();
    lease.roll().unwrap();
    for block in 0..PAGES {
        let delta = Value::Delta { bytes: &block.to_le_bytes(), will_init: false };
        lease.put(key(block), LAST, delta).unwrap();
    }
    lease.commit(LAST).unwrap();
    drop(lease);
    timeline.flush().unwrap();
    store.close(std::time::Duration::ZERO).unwrap();
}

fn open(dir: &Path, access: Access) -> (Store, Timeline) {
    let options = Options { access, ..Options::default() };
    let (store, _) = Store::open(dir, options).unwrap();
    let timeline = store.timeline("main").unwrap();
    (store, timeline)
}

fn read_all(
    timeline: &Timeline,
    keys: &[Key],
    redo: &Append,
    scratch: &mut Scratch,
) -> BTreeMap<Key, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut reader = timeline.reader();
    let mut sink = |key, page: Result<Page<'_>, Error>| {
        assert!(found.insert(key, page.unwrap().to_vec()).is_none());
    };
    reader.pin().pages(keys, LAST, redo, scratch, &mut sink).unwrap();
    found
}

#[test]
fn each_block_is_used_once_and_neighbours_are_read_together() {
    for compression in [Compression::None, Compression::Zstd { level: 1 }] {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), compression);
        // Scattered: backwards, and no two neighbours one after the other.
        let keys: Vec<Key> = (0..PAGES).map(|n| key((PAGES - 1 - n) * 7 % PAGES)).collect();
        for access in [Access::MMAP, Access::Pread, Access::Direct] {
            let (store, timeline) = open(dir.path(), access);
            let (redo, mut scratch) = (Append::default(), Scratch::new());
            let found = read_all(&timeline, &keys, &redo, &mut scratch);
            assert!(found == (0..PAGES).map(|block| (key(block), expected(block))).collect());
            assert_eq!((redo.pages.get(), redo.batches.get()), (PAGES, 1));
            let (many, reads) = (scratch.last_read(), store.stats().access.reads);
            assert_eq!((many.reads, many.layers, many.versions), (1, 2, 2 * u64::from(PAGES)));
            assert_eq!(many.value_bytes, u64::from(PAGES) * 2004);
            drop(timeline);
            drop(store);

            let (store, timeline) = open(dir.path(), access);
            let (mut reader, mut one_by_one) = (timeline.reader(), Scratch::new());
            for &key in &keys {
                let page = reader.pin().page(key, LAST, &redo, &mut one_by_one).unwrap();
                assert!(*page == found[&key][..]);
            }
            let single = one_by_one.all_reads();
            assert_eq!((single.reads, single.layers), (u64::from(PAGES), 2 * u64::from(PAGES)));
            assert_eq!((single.versions, single.value_bytes), (many.versions, many.value_bytes));
            // An index of some pages, data blocks of 16 KiB or less; against an index page or two
            // and a block for each version.
            assert!(many.blocks * 10 < single.blocks, "{} against {}", many.blocks, single.blocks);
            assert!(many.inflated_bytes * 3 <= single.inflated_bytes);
            assert_eq!(many.inflated_bytes == 0, compression == Compression::None);
            let single_reads = store.stats().access.reads;
            match access {
                Access::Mmap { .. } => assert_eq!((reads, many.copied_bytes), (0, 0)),
                _ => {
                    assert!(reads < 40 && many.copied_bytes > 0, "{reads}");
                    assert!(compression != Compression::None || reads * 3 < single_reads);
                }
            }
        }
    }
}

#[test]
fn a_few_pages_share_what_is_read_and_inflated_and_their_redo() {
    const FEW: u32 = 48;
    for compression in [Compression::None, Compression::Zstd { level: 1 }] {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), compression);
        let keys: Vec<Key> = (0..FEW).map(|n| key(100 + n * 7 % FEW)).collect();
        let all = (100..100 + FEW).map(|block| (key(block), expected(block))).collect();
        for access in [Access::MMAP, Access::Pread, Access::Direct] {
            let (store, timeline) = open(dir.path(), access);
            let (redo, mut scratch) = (Append::default(), Scratch::new());
            let reads = || store.stats().access.reads;
            let before = reads();
            assert!(read_all(&timeline, &keys, &redo, &mut scratch) == all);
            let (cold, cold_reads) = (scratch.last_read(), reads() - before);
            assert!(redo.pages.get() == FEW && redo.batches.get() <= 2, "{}", redo.batches.get());
            assert_eq!((cold.reads, cold.versions), (1, 2 * u64::from(FEW)));
            assert!(cold_reads <= 10, "{cold_reads}");

            redo.batches.set(0);
            assert!(read_all(&timeline, &keys, &redo, &mut scratch) == all);
            let warm = scratch.last_read();
            assert_eq!(reads() - before, cold_reads, "nothing is read again");
            assert_eq!(warm.value_bytes, cold.value_bytes);
            // 48 pages of 2,000 bytes lie in 6 blocks of 16 KiB, their deltas in one.
            let least = u64::from(FEW) * 2004;
            match compression {
                Compression::None => {
                    assert_eq!((warm.inflated_bytes, redo.batches.get()), (0, 1));
                    assert_eq!(warm.layers, 2 * u64::from(FEW), "one after the other");
                }
                Compression::Zstd { .. } => {
                    let inflated = warm.inflated_bytes;
                    assert!(inflated > least && inflated < 3 * least, "{inflated}");
                }
            }
        }
    }
}

#[test]
fn the_plan_says_what_is_visited_and_why() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), Compression::None);
    let (_store, timeline) = open(dir.path(), Access::Pread);
    let mut lease = timeline.write_lease().unwrap();
    lease.put(key(3), Lsn(11), Value::Image(b"new")).unwrap();
    lease.commit(Lsn(11)).unwrap();
    drop(lease);
    let mut reader = timeline.reader();
    let keys: Vec<Key> = (0..10).chain([PAGES + 5]).map(key).collect();
    let plan = reader.pin().explain(&keys, Lsn(11)).unwrap();
    let layers: Vec<_> = plan.layers.iter().map(|l| (l.keys, l.keys_ended, l.versions)).collect();
    assert_eq!(layers, [(11, 1, 1), (9, 0, 9), (9, 9, 9)], "{plan}");
    assert_eq!(plan.layers[0].blocks, 0);
    assert!(
        plan.layers[1..].iter().all(|layer| layer.blocks >= 2 && layer.read_bytes > 0),
        "{plan}"
    );
    assert!(plan.layers[0].name.starts_with("open layer"));
    let again = reader.pin().explain(&keys, Lsn(11)).unwrap();
    assert!(again.layers[1..].iter().all(|layer| layer.read_bytes == 0), "{again}");
    let names: Vec<_> = timeline.layers().into_iter().map(|layer| layer.path).collect();
    for layer in &plan.layers[1..] {
        assert!(names.iter().any(|path| path.ends_with(&layer.name)), "{plan}");
    }
    assert!(plan.to_string().contains("the newest at or below the Lsn"), "{plan}");
    assert!(reader.pin().explain(&keys, Lsn(12)).is_err());
}

#[test]
fn what_fails_for_one_page_does_not_fail_for_the_others() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), Compression::None);
    let (store, timeline) = open(dir.path(), Access::Pread);
    // A block in the middle of the images.
    let images = timeline.layers().into_iter().max_by_key(|layer| layer.file_bytes).unwrap();
    let mut file = std::fs::File::options().read(true).write(true).open(&images.path).unwrap();
    let middle = images.file_bytes / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();

    let mut lease = timeline.write_lease().unwrap();
    lease.put(key(5), Lsn(11), Value::Delta { bytes: b"bad", will_init: true }).unwrap();
    lease.put(key(PAGES), Lsn(11), Value::Delta { bytes: b"no base", will_init: false }).unwrap();
    lease.commit(Lsn(11)).unwrap();
    let mut reader = timeline.reader();
    let (mut sound, mut damaged, mut others) = (0, 0, Vec::new());
    let range = KeyRange { start: key(0), end: Some(key(PAGES + 7)) };
    let keys: Vec<Key> = (0..PAGES + 7).map(key).collect();
    let mut sink = |key: Key, page: Result<Page<'_>, Error>| match page {
        Ok(page) => {
            assert!(*page == expected(key.block)[..]);
            sound += 1;
        }
        Err(Error::Layers(pagestrata::LayersError::Corrupt(_))) => damaged += 1,
        Err(error) => others.push((key.block, error.to_string())),
    };
    let (redo, mut scratch) = (Append::default(), Scratch::new());
    reader.pin().pages(&keys, Lsn(11), &redo, &mut scratch, &mut sink).unwrap();
    assert!(damaged > 0 && damaged < 20 && sound == PAGES - 1 - damaged, "{sound} {damaged}");
    others.sort();
    assert_eq!(others.len(), 1 + 1 + 6, "{others:?}");
    assert!(others[0].0 == 5 && others[0].1.contains("no good"), "{others:?}");
    assert!(others[1].0 == PAGES && others[1].1.contains("base"), "{others:?}");

    let mut in_range = 0;
    let mut sink = |_, _: Result<Page<'_>, Error>| in_range += 1;
    reader.pin().pages_in(range, Lsn(11), &redo, &mut scratch, &mut sink).unwrap();
    assert_eq!(in_range, PAGES + 1, "pages that are not there are not in a range");
    let error = reader.pin().pages(&keys, Lsn(12), &redo, &mut scratch, &mut |_, _| panic!());
    assert!(matches!(error, Err(Error::NotYet { .. })));
    drop((lease, store));
}

#[test]
fn more_keys_than_are_read_at_once_are_all_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    const COUNT: u32 = 10_000;
    for block in 0..COUNT {
        lease.put(key(block), Lsn(2), Value::Image(&block.to_le_bytes())).unwrap();
    }
    lease.commit(Lsn(2)).unwrap();
    drop(lease);
    for flushed in [false, true] {
        if flushed {
            timeline.flush().unwrap();
        }
        let (mut reader, mut scratch, mut sum) = (timeline.reader(), Scratch::new(), 0);
        let range = KeyRange { start: key(1), end: Some(key(COUNT)) };
        let mut sink = |key: Key, page: Result<Page<'_>, Error>| {
            assert_eq!(*page.unwrap(), key.block.to_le_bytes());
            sum += u64::from(key.block);
        };
        reader.pin().pages_in(range, Lsn(2), &Append::default(), &mut scratch, &mut sink).unwrap();
        assert_eq!(sum, u64::from(COUNT) * u64::from(COUNT - 1) / 2);
        assert_eq!(scratch.all_reads().versions, u64::from(COUNT - 1));
        let keys: Vec<Key> = (0..COUNT).map(key).collect();
        let (mut scratch, mut count) = (Scratch::new(), 0);
        let mut sink = |_, page: Result<Page<'_>, Error>| count += u32::from(page.is_ok());
        reader.pin().pages(&keys, Lsn(2), &Append::default(), &mut scratch, &mut sink).unwrap();
        let stats = scratch.last_read();
        assert_eq!((count, stats.reads, stats.versions), (COUNT, 1, u64::from(COUNT)));
        assert_eq!(scratch.all_reads(), stats);
    }
}

#[test]
fn pages_that_were_made_are_kept_if_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), Compression::None);
    let options = Options { page_cache_max_bytes: 1 << 20, ..Options::default() };
    let (store, _) = Store::open(dir.path(), options).unwrap();
    let timeline = store.timeline("main").unwrap();
    let (mut reader, mut scratch, redo) = (timeline.reader(), Scratch::new(), Append::default());
    for made in [1, 1, 1] {
        let page = reader.pin().page(key(7), LAST, &redo, &mut scratch).unwrap();
        assert!(*page == expected(7)[..]);
        assert_eq!(redo.pages.get(), made);
    }
    assert_eq!(scratch.last_read().layers, 1, "older layers are not looked at");
    let keys: Vec<Key> = (0..50).map(key).collect();
    assert_eq!(read_all(&timeline, &keys, &redo, &mut scratch)[&key(7)], expected(7));
    assert_eq!(redo.pages.get(), 50);
    let page = reader.pin().page(key(49), LAST, &redo, &mut scratch).unwrap();
    assert!(*page == expected(49)[..] && redo.pages.get() == 50);
    let bytes = store.stats().page_cache_bytes;
    assert!(bytes > 50 * 2004 && bytes < 50 * 2300, "{bytes}");

    // A new version is another page, and the old one is still what it was.
    let mut lease = timeline.write_lease().unwrap();
    lease.put(key(7), Lsn(11), Value::Delta { bytes: b"more", will_init: false }).unwrap();
    lease.commit(Lsn(11)).unwrap();
    let page = reader.pin().page(key(7), Lsn(11), &redo, &mut scratch).unwrap();
    assert!(*page == [expected(7), b"more".to_vec()].concat());
    let page = reader.pin().page(key(7), LAST, &redo, &mut scratch).unwrap();
    assert!(*page == expected(7)[..] && redo.pages.get() == 51);
    for block in 0..PAGES {
        reader.pin().page(key(block), LAST, &redo, &mut scratch).unwrap();
    }
    assert!(store.stats().page_cache_bytes <= 1 << 20);
}
