//! The operations of the engine. Each warms up first, then runs its calls through the meter.

use std::{hint::black_box, path::Path, time::Duration};

use pagestrata::{
    Background, Clock, Durability, Key, Lsn, Options, PageVersion, Redo, RedoResult, Scratch,
    Store, Timeline, WriteLease,
};
use pagestrata_benches::{
    chains::Chains,
    stacks::{Held, Stack},
    stores::{Place, TempStore, one_layer},
    updates::{BATCH, Updates},
};

use crate::Meter;

pub(crate) const SEED: u64 = 0x5EED;
const ROUNDS: usize = 4;
const PAGES_AT_ONCE: usize = 32;

/// Options under which two runs do the same.
pub(crate) fn repeatable() -> Options {
    Options {
        background: Background::Callers,
        store_id: Some(SEED.into()),
        clock: Clock(|| Duration::ZERO),
        log_segment_size_bytes: 4 << 20,
        ..one_layer()
    }
}

fn put_batch(lease: &mut WriteLease<'_>, updates: &Updates, from: usize, to: usize) {
    for n in from..to {
        lease.put(updates.key(n), updates.lsn(n), updates.value(n)).expect("a put");
    }
}

fn commit(lease: &mut WriteLease<'_>, lsn: Lsn) {
    lease.commit(lsn).and_then(pagestrata::CommitTicket::wait).expect("a commit");
}

/// Puts of 100 B at random keys, [`BATCH`] to a commit that is not counted.
pub(crate) fn put(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let timeline = store.timeline();
    let mut lease = timeline.write_lease().expect("a free lease");
    let updates = Updates::random(SEED, 20_000, 10_000, 100);
    for from in (0..updates.len()).step_by(BATCH) {
        if from < updates.len() / 2 {
            put_batch(&mut lease, &updates, from, from + BATCH);
        } else {
            meter.count(BATCH as u64, || put_batch(&mut lease, &updates, from, from + BATCH));
        }
        commit(&mut lease, updates.lsn(from + BATCH - 1));
    }
}

/// Commits without a log.
pub(crate) fn commit_external(meter: &mut Meter) {
    commits(meter, Durability::External);
}

/// Commits to a log that is handed to the operating system.
pub(crate) fn commit_buffered(meter: &mut Meter) {
    commits(meter, Durability::Buffered { sync_interval: Duration::from_secs(3600) });
}

fn commits(meter: &mut Meter, durability: Durability) {
    let mut store = TempStore::new(Place::Tmpfs, Options { durability, ..repeatable() });
    let timeline = store.timeline();
    let mut lease = timeline.write_lease().expect("a free lease");
    let updates = Updates::random(SEED, 16_000, 10_000, 100);
    for from in (0..updates.len()).step_by(BATCH) {
        put_batch(&mut lease, &updates, from, from + BATCH);
        let lsn = updates.lsn(from + BATCH - 1);
        if from < updates.len() / 4 {
            commit(&mut lease, lsn);
        } else {
            meter.count(1, || commit(&mut lease, lsn));
            if meter.is_skipping() {
                lease.abort();
            }
        }
    }
}

/// Rolls of a layer of one commit; the flush behind each is not counted.
pub(crate) fn roll(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let timeline = store.timeline();
    let mut lease = timeline.write_lease().expect("a free lease");
    let updates = Updates::random(SEED, 120 * BATCH, 1_000, 100);
    for from in (0..updates.len()).step_by(BATCH) {
        put_batch(&mut lease, &updates, from, from + BATCH);
        commit(&mut lease, updates.lsn(from + BATCH - 1));
        if from >= 20 * BATCH {
            meter.count(1, || lease.roll().expect("a roll"));
        }
        lease.flush().expect("a flush");
    }
}

/// Flushes of a layer of 10,000 random updates of 100 B; the unit is a version.
pub(crate) fn flush(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let updates = Updates::random(SEED, 10_000, 5_000, 100);
    for round in 0..3 {
        let timeline = store.timeline();
        let mut lease = timeline.write_lease().expect("a free lease");
        updates.put_all(&mut lease).expect("puts");
        let mut flush = || assert_eq!(lease.flush().expect("a flush"), updates.last_lsn());
        if round == 0 {
            flush();
        } else {
            meter.count(updates.len() as u64, flush);
        }
    }
}

/// Pins of a map that has not changed.
pub(crate) fn pin(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let timeline = store.timeline();
    let mut reader = timeline.reader();
    black_box(reader.pin());
    meter.count(1_000, || {
        for _ in 0..1_000 {
            black_box(reader.pin());
        }
    });
}

fn chains() -> Chains {
    Chains::new(SEED, 512, 10)
}

/// The versions of chains of an image and ten deltas, from the open layer.
pub(crate) fn versions_memory(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let (timeline, chains) = (store.timeline(), chains());
    chains.put_all(&timeline);
    versions(meter, &timeline, &chains.queries(SEED), chains.last_lsn());
}

/// The same from one delta layer.
pub(crate) fn versions_file(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let (timeline, chains) = (flushed_chains(&mut store), chains());
    versions(meter, &timeline, &chains.queries(SEED), chains.last_lsn());
}

/// Versions of pages that half of ten delta layers hold.
pub(crate) fn versions_ten_files(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let timeline = store.timeline();
    let stack = Stack::new(SEED, 1_536, 10, 64);
    let last = stack.put_all(&timeline);
    versions(meter, &timeline, &stack.queries(SEED, Held::Half, 512), last);
}

fn flushed_chains(store: &mut TempStore) -> Timeline {
    let timeline = store.timeline();
    chains().put_all(&timeline);
    timeline.flush().expect("a flush");
    assert_eq!((timeline.layers().len(), timeline.stats().open_versions), (1, 0));
    timeline
}

fn versions(meter: &mut Meter, timeline: &Timeline, keys: &[Key], lsn: Lsn) {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    rounds(meter, keys.len(), || {
        for &key in keys {
            let versions = reader.pin().versions(key, lsn, &mut scratch).expect("a read");
            for version in versions.newest_first() {
                black_box(version.bytes.first());
            }
        }
    });
}

/// One round to warm up, the others counted.
fn rounds(meter: &mut Meter, units: usize, mut round: impl FnMut()) {
    round();
    for _ in 0..ROUNDS {
        meter.count(units as u64, &mut round);
    }
}

/// A base and a byte of each delta: nearly nothing, so that the engine's part stays in sight.
struct Fold;

impl Redo for Fold {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        page.extend_from_slice(base.unwrap_or_default());
        page.push(deltas.fold(0, |sum: u8, delta| sum.wrapping_add(delta.bytes[0])));
        Ok(())
    }
}

/// Pages of 8 KiB from one delta layer, with ten deltas to apply.
pub(crate) fn page(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let (timeline, chains) = (flushed_chains(&mut store), chains());
    let keys = chains.queries(SEED);
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    rounds(meter, keys.len(), || {
        for &key in &keys {
            let page = reader.pin().page(key, chains.last_lsn(), &Fold, &mut scratch);
            black_box(page.expect("a page").len());
        }
    });
}

/// The same, 32 scattered ones with a call; the unit is a page.
pub(crate) fn pages_32(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let (timeline, chains) = (flushed_chains(&mut store), chains());
    let keys = chains.queries(SEED);
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    rounds(meter, keys.len(), || {
        let guard = reader.pin();
        for keys in keys.chunks(PAGES_AT_ONCE) {
            let done = &mut |_: Key, page: pagestrata::Result<pagestrata::Page<'_>>| {
                black_box(page.expect("a page").len());
            };
            guard.pages(keys, chains.last_lsn(), &Fold, &mut scratch, done).expect("pages");
        }
    });
}

/// Opens of a store with ten layer files and 1,000 records in its log, as a crash leaves it.
pub(crate) fn open(meter: &mut Meter) {
    let dir = Place::Tmpfs.dir();
    let durability = Durability::Buffered { sync_interval: Duration::from_secs(3600) };
    let options = Options { durability, ..repeatable() };
    let updates = Updates::random(SEED, 6_000, 1_000, 100);
    let path = dir.path().join("store");
    crashed_store(&path, options.clone(), &updates);
    for round in 0..6 {
        let mut opened = None;
        let mut open = || opened = Some(Store::open(&path, options.clone()).expect("a store").0);
        if round == 0 {
            open();
        } else {
            meter.count(1, open);
        }
        if let Some(store) = opened {
            let timeline = store.timeline("main").expect("it is there");
            assert_eq!(timeline.last_record_lsn(), updates.last_lsn());
        }
    }
}

fn crashed_store(path: &Path, options: Options, updates: &Updates) {
    let (store, _) = Store::open(path, options).expect("a new store");
    let timeline = store.create_timeline("main", Lsn(1)).expect("a new timeline");
    let mut lease = timeline.write_lease().expect("a free lease");
    for n in 0..updates.len() {
        put_batch(&mut lease, updates, n, n + 1);
        if n % BATCH == 0 || n % 500 == 499 {
            commit(&mut lease, updates.lsn(n));
        }
        if n % 500 == 499 && n < 5_000 {
            lease.flush().expect("a flush");
        }
    }
}
