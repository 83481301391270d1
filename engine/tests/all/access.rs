//! How layer files are read: mapped, from a cache, past the page cache; with waiting and without.

use std::{
    future::Future,
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake},
    thread::{self, Thread},
};

use pagestrata::{
    AccessMode, Background, Error, Guard, Key, Lsn, Options, PageVersion, Ready, Redo, Scratch,
    Store, Timeline, Value,
};

const PAGES: u32 = 400;
const PAGE_LEN: usize = 8192;
const WAYS: [AccessMode; 3] = [AccessMode::Mmap, AccessMode::Pread, AccessMode::Direct];

fn options(access: AccessMode) -> Options {
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

/// Puts the deltas behind the base.
struct Append;

impl Redo for Append {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        page.extend_from_slice(base.unwrap_or_default());
        deltas.for_each(|delta| page.extend_from_slice(delta.bytes));
        Ok(())
    }
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

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
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
            AccessMode::Mmap => {
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
    let tiny = Options { block_cache_max_bytes: 64 << 10, ..options(AccessMode::Pread) };
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
    let few = Options { mappings_max: 1, ..options(AccessMode::Mmap) };
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
        store.close(std::time::Duration::ZERO).unwrap();
        let outcomes = waiting.into_iter().map(|waiting| waiting.join().unwrap());
        let outcomes: Vec<_> = outcomes.map(|outcome| outcome.is_ok()).collect();
        assert_eq!(outcomes, [true, true, true, false]);
        assert!(matches!(block_on(timeline.wait_for(Lsn(61))), Err(Error::Closed)));
    }
}
