//! How layer files are read: mapped, from a cache, past the page cache; with waiting and without.

use std::{
    future::Future,
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Wake},
    thread,
    time::Duration,
};

use pagestrata::{
    Access, Background, Error, Guard, Key, Lsn, Options, PageVersion, Ready, Redo, Scratch, Store,
    Timeline, Value,
};

use crate::support::{Append, block_on};

const PAGES: u32 = 400;
const PAGE_LEN: usize = 8192;
const WAYS: [Access; 3] = [Access::MMAP, Access::Pread, Access::Direct];

fn options(access: Access) -> Options {
    Options { access, block_cache_max_bytes: 1 << 20, ..Options::default() }
}

fn page(block: u32) -> Vec<u8> {
    (0..PAGE_LEN).map(|at| (at as u32 * 7 + block * 13) as u8).collect()
}

fn key(block: u32) -> Key {
    Key::new(1, block)
}

/// A store of some layer files, each with a share of the pages; deltas at Lsn 10 beside.
fn written(dir: &Path) {
    let (store, _) = Store::open(dir, Options::default()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    for (lsn, blocks) in [(2, 0..PAGES / 2), (3, PAGES / 2..PAGES)] {
        for block in blocks {
            lease.put(key(block), Lsn(lsn), Value::Image(&page(block))).unwrap();
        }
        lease.commit(Lsn(lsn)).unwrap();
        lease.roll().unwrap();
    }
    for block in 0..PAGES {
        let delta = Value::Delta { bytes: &block.to_le_bytes(), will_init: false };
        lease.put(key(block), Lsn(10), delta).unwrap();
    }
    lease.commit(Lsn(10)).unwrap();
    drop(lease);
    timeline.flush().unwrap();
}

fn open(dir: &Path, options: Options) -> (Store, Timeline) {
    let (store, _) = Store::open(dir, options).unwrap();
    let timeline = store.timeline("main").unwrap();
    (store, timeline)
}

fn expected(block: u32) -> Vec<u8> {
    [page(block), block.to_le_bytes().to_vec()].concat()
}

fn try_until_hit(guard: Guard<'_>, block: u32, scratch: &mut Scratch) -> (Vec<u8>, u32) {
    let (mut scratch, mut fetches) = (scratch, 0);
    loop {
        match guard.try_page(key(block), Lsn(10), &Append, scratch).unwrap() {
            Ready::Hit(page) => return (page.to_vec(), fetches),
            Ready::Cold(fetch, again) => {
                fetches += 1;
                assert!(fetch.extents().iter().all(|extent| extent.len > 0));
                fetch.run_blocking().unwrap();
                scratch = again;
            }
        }
    }
}

#[test]
fn pages_are_the_same_in_whatever_way_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    for access in WAYS {
        let (store, timeline) = open(dir.path(), options(access));
        let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
        let guard = reader.pin();
        let mut fetches = 0;
        for block in 0..PAGES {
            let found = guard.page(key(block), Lsn(10), &Append, &mut scratch).unwrap();
            assert!(*found == expected(block)[..], "{access:?} {block}");
            let back = PAGES - 1 - block;
            let (tried, more) = try_until_hit(guard, back, &mut scratch);
            assert!(tried == expected(back), "{access:?} {back}");
            fetches += more;
            let task = guard.page_async(key(block / 2), Lsn(10), &Append, &mut scratch);
            assert!(*block_on(task).unwrap() == expected(block / 2)[..]);
        }
        let _ = timeline.verify().unwrap();
        let stats = store.stats().access;
        match access {
            Access::Mmap { .. } => {
                assert_eq!((stats.mappings, stats.reads), (3, 0));
                assert_eq!(fetches, 0, "what was just written is in the page cache");
            }
            _ => {
                assert!(stats.mappings == 0 && fetches > 0 && stats.reads > 0);
                assert!(stats.cached_bytes <= 1 << 20, "{}", stats.cached_bytes);
            }
        }
    }
}

#[test]
fn a_read_that_may_not_wait_needs_no_cache_to_get_on() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let tiny = Options { block_cache_max_bytes: 64 << 10, ..options(Access::Pread) };
    let (_store, timeline) = open(dir.path(), tiny);
    let snapshot = timeline.snapshot();
    thread::scope(|scope| {
        for n in 0..4 {
            let snapshot = &snapshot;
            scope.spawn(move || {
                let mut scratch = Scratch::new();
                for block in (0..PAGES).map(|block| (block * 31 + n * 97) % PAGES) {
                    let (found, fetches) = try_until_hit(snapshot.guard(), block, &mut scratch);
                    assert!(found == expected(block) && fetches < 12, "{fetches}");
                }
            });
        }
    });
}

#[test]
fn files_beyond_the_bound_of_mappings_are_read() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let residency_interval = Duration::from_millis(50);
    let few = options(Access::Mmap { mappings_max: 1, residency_interval });
    let (store, timeline) = open(dir.path(), few);
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    for block in 0..PAGES {
        let found = reader.pin();
        let found = found.page(key(block), Lsn(10), &Append, &mut scratch).unwrap();
        assert!(*found == expected(block)[..]);
    }
    let stats = store.stats().access;
    assert!(stats.mappings == 1 && stats.reads > 0, "{stats:?}");
    drop((reader, timeline, store));
}

#[test]
fn a_file_that_was_cut_is_an_error() {
    for access in WAYS {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let (store, timeline) = open(dir.path(), options(access));
        for layer in timeline.layers() {
            let file = std::fs::File::options().write(true).open(layer.path).unwrap();
            file.set_len(4096).unwrap();
        }
        let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
        let guard = reader.pin();
        let mut errors = 0;
        for block in 0..PAGES {
            // The root of the index is in memory; a mapping is looked at before it is touched.
            let outcome = match guard.try_page(key(block), Lsn(10), &Append, &mut scratch) {
                Ok(Ready::Hit(_)) => panic!("{access:?}: there is nothing to be read"),
                Ok(Ready::Cold(fetch, _)) => fetch.run_blocking(),
                Err(error) => Err(error),
            };
            let error = outcome.expect_err("it cannot be fetched");
            assert!(matches!(error, Error::Layers(_)), "{error}");
            errors += 1;
        }
        assert_eq!(errors, PAGES);
        drop((reader, timeline, store));
    }
}

/// Reads a page as it is at Lsn 10 until it is there or fails; how often something was missing.
fn try_with<'s>(
    guard: Guard<'s>,
    block: u32,
    redo: &dyn Redo,
    mut scratch: &'s mut Scratch,
) -> (Result<Vec<u8>, Error>, u32) {
    let mut fetches = 0;
    loop {
        match guard.try_page(key(block), Lsn(10), redo, scratch) {
            Ok(Ready::Hit(page)) => return (Ok(page.to_vec()), fetches),
            Ok(Ready::Cold(fetch, again)) => {
                fetches += 1;
                fetch.run_blocking().unwrap();
                scratch = again;
            }
            Err(error) => return (Err(error), fetches),
        }
    }
}

/// Makes nothing.
struct Refuse;

impl Redo for Refuse {
    fn apply(
        &self,
        _: Key,
        _: Option<&[u8]>,
        _: &mut dyn Iterator<Item = PageVersion<'_>>,
        _: &mut Vec<u8>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("no".into())
    }
}

#[test]
fn what_was_fetched_of_one_store_is_not_taken_for_another_ones() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let fill = |dir: &Path, fill: u8| {
        let (store, _) = Store::open(dir, options(Access::Pread)).unwrap();
        let timeline = store.create_timeline("main", Lsn(1)).unwrap();
        let mut lease = timeline.write_lease().unwrap();
        lease.put(key(3), Lsn(9), Value::Image(&[fill; 4000])).unwrap();
        lease.put(key(3), Lsn(10), Value::Delta { bytes: b"d", will_init: false }).unwrap();
        lease.commit(Lsn(10)).unwrap();
        drop(lease);
        timeline.flush().unwrap();
    };
    fill(dirs[0].path(), b'A');
    fill(dirs[1].path(), b'B');
    for ends_with_an_error in [false, true] {
        let mut scratch = Scratch::new();
        let (store, first) = open(dirs[0].path(), options(Access::Pread));
        let snapshot = first.snapshot();
        if ends_with_an_error {
            let (outcome, fetches) = try_with(snapshot.guard(), 3, &Refuse, &mut scratch);
            assert!(matches!(outcome, Err(Error::Redo { .. })) && fetches > 0);
        } else {
            // Fetched, and given up.
            match snapshot.guard().try_page(key(3), Lsn(10), &Append, &mut scratch).unwrap() {
                Ready::Cold(fetch, _) => fetch.run_blocking().unwrap(),
                Ready::Hit(_) => panic!("nothing is in the cache"),
            }
        }
        drop((snapshot, first, store));
        let (_store, second) = open(dirs[1].path(), options(Access::Pread));
        let snapshot = second.snapshot();
        let (page, _) = try_with(snapshot.guard(), 3, &Append, &mut scratch);
        assert_eq!(page.unwrap()[0], b'B');
    }
}

#[test]
fn reads_that_fail_keep_nothing_that_was_fetched_for_them() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let tiny = Options { block_cache_max_bytes: 64 << 10, ..options(Access::Pread) };
    let (store, timeline) = open(dir.path(), tiny);
    let (snapshot, mut scratch) = (timeline.snapshot(), Scratch::new());
    for _ in 0..2 {
        let read_before = store.stats().access.read_bytes;
        let copied_before = scratch.all_reads().copied_bytes;
        let mut fetches = 0;
        for block in 0..PAGES {
            let (outcome, more) = try_with(snapshot.guard(), block, &Refuse, &mut scratch);
            assert!(matches!(outcome, Err(Error::Redo { .. })));
            fetches += more;
            assert!(scratch.memory_bytes() < 256 << 10, "{}", scratch.memory_bytes());
        }
        assert!(fetches > PAGES / 8, "{fetches}: they are not kept for the next ones");
        // Statistics say what was read for them, but for what only the last try did not need.
        let read = store.stats().access.read_bytes - read_before;
        let copied = scratch.all_reads().copied_bytes - copied_before;
        assert!(copied > read / 2 && copied <= read, "{copied} of {read}");
    }
    assert!(scratch.all_reads().cold_fetches > 0);
}

#[test]
fn a_fetch_that_was_started_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let tiny = Options { block_cache_max_bytes: 64 << 10, ..options(Access::Pread) };
    let (_store, timeline) = open(dir.path(), tiny);
    let (snapshot, mut scratch) = (timeline.snapshot(), Scratch::new());
    for block in 0..PAGES {
        let (mut again, mut fetches) = (&mut scratch, 0);
        loop {
            match snapshot.guard().try_page(key(block), Lsn(10), &Append, again).unwrap() {
                Ready::Hit(page) => break assert!(*page == expected(block)[..]),
                Ready::Cold(mut fetch, scratch) => {
                    fetches += 1;
                    fetch.start();
                    fetch.start();
                    fetch.run_blocking().unwrap();
                    again = scratch;
                }
            }
        }
        // Root, leaf and data of two files at the most, and once the two parts of each filter.
        assert!(fetches <= if block == 0 { 10 } else { 6 }, "{fetches}");
    }
}

#[test]
fn a_waker_that_is_let_go_of_may_wait_here_too() {
    /// A task that waits for the same timeline.
    struct Task(std::sync::Mutex<Option<std::pin::Pin<Box<pagestrata::WaitForLsn>>>>);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let timeline = _store.create_timeline("main", Lsn(1)).unwrap();
    let task = || Arc::new(Task(std::sync::Mutex::new(Some(Box::pin(timeline.wait_for(Lsn(50)))))));
    let mut outer = pin!(timeline.wait_for(Lsn(60)));
    for _ in 0..3 {
        let task = task();
        let noop = std::task::Waker::noop();
        let mut inner = task.0.lock().unwrap();
        let polled = inner.as_mut().unwrap().as_mut().poll(&mut Context::from_waker(noop));
        assert!(polled.is_pending());
        drop(inner);
        // The list now is the last to know of the task; the next round takes it from there.
        let waker = task.into();
        assert!(outer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
}

#[test]
fn a_detached_version_keeps_its_block_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    for access in [Access::Pread, Access::Direct] {
        let tiny = Options { block_cache_max_bytes: 64 << 10, ..options(access) };
        let (store, timeline) = open(dir.path(), tiny);
        let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
        let versions = reader.pin().versions(key(3), Lsn(10), &mut scratch).unwrap();
        let (delta, image) = (versions.detach(0), versions.detach(1));
        let copy = versions.detach_or_copy(1, 100);
        assert!(delta.keeps_layer() && image.keeps_layer() && !copy.keeps_layer());
        let stats = timeline.stats().detached;
        assert_eq!((stats.versions, stats.requested_bytes), (2, 4 + PAGE_LEN as u64));
        // Two blocks of 16 KiB or so, of different files.
        assert!((24 << 10..48 << 10).contains(&stats.pinned_bytes), "{stats:?}");
        let again = reader.pin().versions(key(3), Lsn(10), &mut scratch).unwrap().detach(1);
        let more = timeline.stats().detached;
        assert_eq!((more.versions, more.pinned_bytes), (3, stats.pinned_bytes), "the same block");
        for block in 0..PAGES {
            reader.pin().versions(key(block), Lsn(10), &mut scratch).unwrap();
        }
        assert!(store.stats().access.cached_bytes <= 64 << 10);
        let pins = timeline.pins();
        assert!(pins.iter().all(|pin| pin.caller.contains("access.rs")), "{pins:?}");
        drop((reader, scratch, timeline));
        store.close(Duration::ZERO).unwrap();
        assert!(*image == page(3) && *again == page(3) && *copy == page(3));
        assert_eq!(*delta, 3_u32.to_le_bytes());
        #[cfg(feature = "bytes")]
        {
            let at = image.as_ptr();
            let bytes = bytes::Bytes::from(image);
            assert!(bytes.as_ptr() == at && bytes.slice(8..) == page(3)[8..], "not a copy");
        }
    }
}

#[test]
fn whoever_waits_for_an_lsn_is_woken_by_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    for background in [Background::Threads, Background::Callers] {
        let dir = dir.path().join(format!("{background:?}"));
        let (store, _) = Store::open(dir, Options { background, ..Options::default() }).unwrap();
        let timeline = store.create_timeline("main", Lsn(1)).unwrap();
        let waiting: Vec<_> = [1, 5, 50, 1000]
            .map(|lsn| {
                let (reached, timeline) = (timeline.wait_for(Lsn(lsn)), timeline.clone());
                thread::spawn(move || {
                    let outcome = block_on(reached);
                    outcome.map(|()| assert!(timeline.last_record_lsn() >= Lsn(lsn)))
                })
            })
            .into();
        drop(timeline.wait_for(Lsn(7)));
        let mut lease = timeline.write_lease().unwrap();
        for lsn in 1..=60 {
            lease.put(key(1), Lsn(lsn), Value::Image(b"x")).unwrap();
            lease.commit(Lsn(lsn)).unwrap();
        }
        drop(lease);
        block_on(timeline.wait_for(Lsn(60))).unwrap();
        store.close(Duration::ZERO).unwrap();
        let outcomes = waiting.into_iter().map(|waiting| waiting.join().unwrap());
        let outcomes: Vec<_> = outcomes.map(|outcome| outcome.is_ok()).collect();
        assert_eq!(outcomes, [true, true, true, false]);
        assert!(matches!(block_on(timeline.wait_for(Lsn(61))), Err(Error::Closed)));
    }
}
