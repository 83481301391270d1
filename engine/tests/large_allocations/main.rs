//! Allocations of 256 KiB and more are refused, the first, the second, and so on, until an
//! operation goes through: each answers an error, nothing panics or aborts, nothing acknowledged is
//! lost, and the store goes on. A binary of its own, because it owns the allocator; one test,
//! because the allocator is everybody's.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures that a reader of the test run wants to see"
)]

mod failing;

use std::{path::Path, time::Duration};

use failing::{Failing, refusing};
use pagestrata::{
    Access, Background, Compression, Durability, Error, Key, KeyRange, LayersError, Lsn, Options,
    PageVersion, Redo, RedoResult, Scratch, Store, Timeline, Value, WriteLease,
    storage::{RealStorage, SharedStorage},
};

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// A value that is longer than what is refused.
const LONG_BYTES: usize = 700 << 10;
const LONG: Key = Key { object: 3, block: 0 };
/// A page with so many versions that a list of them is long.
const DEEP: Key = Key { object: 4, block: 0 };
const DEEP_VERSIONS: u64 = 20_000;
const SMALL_PAGES: u32 = 12_000;
const DROPS: u32 = 9_000;

/// What one run uses.
#[derive(Clone, Copy, Debug)]
struct Kind {
    access: Access,
    compression: Compression,
}

fn options(kind: Kind) -> Options {
    Options {
        access: kind.access,
        compression: kind.compression,
        background: Background::Callers,
        durability: Durability::Synced,
        block_size_target_bytes: 1 << 20,
        open_layer_size_max_bytes: 256 << 20,
        image_layer_size_max_bytes: 2 << 20,
        ..Options::default()
    }
}

/// Bytes that follow from a number, and do not compress away.
fn bytes(number: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let mut bytes = vec![0; len];
    // Half of each piece is noise.
    bytes.chunks_mut(64).for_each(|piece| {
        let half = piece.len() / 2;
        random.fill(&mut piece[..half]);
    });
    bytes
}

/// Puts what makes every list long, at `lsn` and a few above; the last Lsn. `long` is [`bytes`] of
/// `lsn`, made before anything is refused.
fn fill(lease: &mut WriteLease<'_>, lsn: Lsn, long: &[u8]) -> pagestrata::Result<Lsn> {
    lease.put(LONG, lsn, Value::Image(long))?;
    for block in 0..SMALL_PAGES {
        let value = bytes(lsn.0 + u64::from(block), 24);
        lease.put(Key::new(1, block), lsn, Value::Image(&value))?;
    }
    for block in 0..DROPS {
        lease.drop_blocks(1000 + u128::from(block), 0, lsn)?;
    }
    let mut last = lsn;
    for n in 0..DEEP_VERSIONS {
        last = Lsn(lsn.0 + n);
        let value = match n {
            0 => Value::Image(b"base"),
            _ => Value::Delta { bytes: b"delta", will_init: false },
        };
        lease.put(DEEP, last, value)?;
    }
    Ok(last)
}

/// The number of deltas.
struct Count;

impl Redo for Count {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        page.extend_from_slice(base.ok_or("no base")?);
        page.extend_from_slice(&(deltas.count() as u64).to_le_bytes());
        Ok(())
    }
}

/// Whether memory is what an error is about.
fn is_memory(error: &Error) -> bool {
    match error {
        Error::Layers(LayersError::OutOfMemory { .. }) => true,
        Error::FlushFailed { cause, .. } => is_memory(cause),
        Error::Damaged { damaged, .. } => {
            damaged.iter().all(|file| matches!(file.error, LayersError::OutOfMemory { .. }))
        }
        _ => false,
    }
}

/// Does some work again and again, each time with the next large allocation refused, until nothing
/// is refused any more. `check` looks at what is there after each try.
fn each<T, R>(
    what: &str,
    state: &mut T,
    mut work: impl FnMut(&mut T) -> pagestrata::Result<R>,
    mut check: impl FnMut(&mut T, bool),
) -> R {
    let mut failed = 0;
    for nth in 0.. {
        assert!(nth < 10_000, "{what}: it does not end");
        // Where an abort happens is the last line that is printed.
        eprintln!("{what}: large allocation {nth} is refused");
        let (done, outcome) = refusing(nth, || work(state));
        check(state, done.is_ok());
        match done {
            Ok(done) if outcome.refused == 0 => {
                println!("{what}: {} large allocations, {failed} errors", outcome.seen);
                return done;
            }
            // Done without: a block is stored as it is, a read is not bundled.
            Ok(_) => {}
            Err(error) => {
                assert!(is_memory(&error), "{what}: {error}");
                failed += 1;
            }
        }
    }
    unreachable!()
}

/// That everything that was acknowledged is there.
#[track_caller]
fn check_all(timeline: &Timeline, filled: &[(Lsn, Lsn)]) {
    let (snapshot, mut scratch) = (timeline.snapshot(), Scratch::new());
    let guard = snapshot.guard();
    for &(first, last) in filled {
        let long = guard.versions(LONG, last, &mut scratch).unwrap();
        assert!(long.newest().unwrap().bytes == bytes(first.0, LONG_BYTES), "{first}");
        let deep = guard.page(DEEP, last, &Count, &mut scratch).unwrap();
        assert_eq!(deep[..4], *b"base");
        assert_eq!(deep[4..], (DEEP_VERSIONS - 1).to_le_bytes());
        let block = SMALL_PAGES - 1;
        let small = guard.versions(Key::new(1, block), last, &mut scratch).unwrap();
        assert!(small.newest().unwrap().bytes == bytes(first.0 + u64::from(block), 24));
    }
}

/// Reads everything, by every way to read.
fn read_all(timeline: &Timeline, last: Lsn) -> pagestrata::Result<u64> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let mut seen = guard.versions(LONG, last, &mut scratch)?.len() as u64;
    seen += guard.history(DEEP, last, &mut scratch)?.len() as u64;
    seen += guard.page(DEEP, last, &Count, &mut scratch)?.len() as u64;
    let keys: Vec<_> = (0..2000).map(|n| Key::new(1, n * 5)).chain([LONG, DEEP]).collect();
    let mut failed = None;
    guard.pages(&keys, last, &Count, &mut scratch, &mut |_, page| match page {
        Ok(page) => seen += page.len() as u64,
        Err(error) => failed = failed.take().or(Some(error)),
    })?;
    failed.map_or(Ok(seen), Err)
}

fn scan_all(timeline: &Timeline, last: Lsn) -> pagestrata::Result<u64> {
    let mut reader = timeline.reader();
    let guard = reader.pin();
    let mut seen = 0;
    for page in guard.scan(.., last) {
        page?;
        seen += 1;
    }
    let range = KeyRange { start: Key::MIN, end: None };
    let mut failed = None;
    guard.pages_in(range, last, &Count, &mut Scratch::new(), &mut |_, page| match page {
        Ok(_) => seen += 1,
        Err(error) => failed = failed.take().or(Some(error)),
    })?;
    failed.map_or(Ok(seen), Err)
}

fn import(timeline: &Timeline, lsn: Lsn, image: &[u8]) -> pagestrata::Result<u64> {
    let mut lease = timeline.write_lease()?;
    let mut import = lease.import_images(lsn)?;
    for block in 0..8 {
        import.put(Key::new(9, block), image)?;
    }
    Ok(import.finish()?.images)
}

fn open(dir: &Path, kind: Kind) -> pagestrata::Result<(Store, Timeline)> {
    let (store, _) = Store::open(dir, options(kind))?;
    let timeline = store.timeline("main")?;
    Ok((store, timeline))
}

/// Everything that allocates much, one operation after the other, on one store.
fn run(kind: Kind) {
    println!("{kind:?}");
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), options(kind)).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    let mut filled = Vec::new();
    let mut lease = main.write_lease().unwrap();
    let first = Lsn(100);
    let long = bytes(first.0, LONG_BYTES);
    let last = each(
        "put",
        &mut lease,
        |lease| fill(lease, first, &long),
        |lease, is_put| {
            if !is_put {
                lease.abort();
            }
        },
    );
    each("commit", &mut lease, |lease| lease.commit(last)?.wait(), |_, _| ());
    drop(lease);
    filled.push((first, last));
    check_all(&main, &filled);
    each("read memory", &mut (), |()| read_all(&main, last), |(), _| ());
    drop((main, store));
    let (store, main) = each("open with a log", &mut (), |()| open(dir.path(), kind), |(), _| ());
    check_all(&main, &filled);
    each("flush", &mut (), |()| main.flush(), |(), _| check_all(&main, &filled));
    assert_eq!(main.layers().len(), 1);
    drop((main, store));
    let (store, main) = each("open", &mut (), |()| open(dir.path(), kind), |(), _| ());
    let seen = each("read", &mut (), |()| read_all(&main, last), |(), _| ());
    assert!(seen > DEEP_VERSIONS + LONG_BYTES as u64, "{seen}");
    let seen = each("scan", &mut (), |()| scan_all(&main, last), |(), _| ());
    assert_eq!(seen, 2 * (u64::from(SMALL_PAGES) + 2));
    each("verify", &mut (), |()| main.verify(), |(), _| ());
    let mut imported = 1 << 20;
    let images = each(
        "import",
        &mut imported,
        |lsn| {
            *lsn += 1;
            import(&main, Lsn(*lsn), &long)
        },
        |_, _| check_all(&main, &filled),
    );
    assert_eq!(images, 8);
    check_all(&main, &filled);
    // The store goes on.
    let mut lease = main.write_lease().unwrap();
    let first = Lsn(2 << 20);
    let last = fill(&mut lease, first, &bytes(first.0, LONG_BYTES)).unwrap();
    lease.commit(last).unwrap().wait().unwrap();
    filled.push((first, last));
    drop(lease);
    check_all(&main, &filled);
    drop(main);
    store.close(Duration::ZERO).unwrap();
    let storage: SharedStorage = std::sync::Arc::new(RealStorage);
    let verify = || Store::verify(&storage, dir.path(), None, &mut |_| {});
    each("verify a store", &mut (), |()| verify(), |(), _| ());
    let reading = || Store::open_read_only(dir.path(), options(kind));
    let store = each("open to read", &mut (), |()| reading(), |(), _| ());
    check_all(&store.timeline("main").unwrap(), &filled);
}

#[test]
fn a_large_allocation_that_fails_is_an_error() {
    let zstd = Compression::Zstd { level: 1 };
    for access in [Access::MMAP, Access::Pread, Access::Direct] {
        for compression in [Compression::None, zstd] {
            run(Kind { access, compression });
        }
    }
}
