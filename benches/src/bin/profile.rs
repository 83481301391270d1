//! One kind of work over and over, for a profiler: `profile WORK [SECONDS]`. See `benches/flame.sh`.

use std::{
    hint::black_box,
    io::Write,
    time::{Duration, Instant},
};

use pagestrata::{Durability, Key, Lsn, Options, Scratch, Store, Timeline};
use pagestrata_benches::{
    chains::Chains,
    random::Random,
    stores::{Place, TempStore, one_layer, unlogged},
    updates::{OBJECT, Updates},
};

const SEED: u64 = 0x5EED;
const BLOCKS: u32 = 1_060_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (work, seconds) = (args.next().unwrap_or_default(), args.next());
    let seconds = seconds.map_or(Ok(10), |seconds| seconds.parse())?;
    let run: fn(&Until) -> Done = match work.as_str() {
        "ingest" => ingest,
        "versions" => versions,
        "flush" => flush,
        "put" => put,
        "lookup" => lookup,
        "chain-memory" => chain_memory,
        "chain-file" => chain_file,
        "replay" => replay,
        "replay-pages" => replay_pages,
        _ => {
            return Err("profile ingest|versions|flush|put|lookup|chain-memory|chain-file|replay|\
                        replay-pages [SECONDS]"
                .into());
        }
    };
    let Done { operations, taken } = run(&Until(Duration::from_secs(seconds)));
    let each = taken.as_nanos() as f64 / operations as f64;
    writeln!(
        std::io::stdout(),
        "{work}: {operations} operations in {taken:.1?}, {each:.1} ns each"
    )?;
    Ok(())
}

/// For how long.
struct Until(Duration);

struct Done {
    operations: u64,
    taken: Duration,
}

impl Until {
    /// Repeats until the time is over; adds up what each time returns.
    fn repeat(&self, mut work: impl FnMut() -> u64) -> Done {
        let (mut operations, began) = (0, Instant::now());
        while began.elapsed() < self.0 {
            operations += work();
        }
        Done { operations, taken: began.elapsed() }
    }
}

/// Random 100 B records into a store that flushes as it goes, all memory recycled.
fn ingest(until: &Until) -> Done {
    let options = Options { pool_retained_max_bytes: 2 << 30, ..unlogged() };
    let mut store = TempStore::new(Place::Tmpfs, options);
    let updates = Updates::random(SEED, (512 << 20) / 100, BLOCKS, 100);
    until.repeat(|| {
        let timeline = store.timeline();
        updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
        store.recycle(&timeline);
        updates.len() as u64
    })
}

/// Puts alone, as far as they can be had alone: one layer takes them all, and is flushed when it is full.
fn put(until: &Until) -> Done {
    let updates = Updates::random(SEED, 2_000_000, BLOCKS, 100);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    until.repeat(|| {
        let timeline = store.timeline();
        updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
        store.recycle(&timeline);
        updates.len() as u64
    })
}

/// Flushes of 2 M random 100 B records. The puts in between are on the main thread, the flushes on a thread called
/// `pagestrata-flush`.
fn flush(until: &Until) -> Done {
    put(until)
}

/// The newest version of random keys, from memory.
fn lookup(until: &Until) -> Done {
    let updates = Updates::random(SEED, 2_000_000, BLOCKS, 100);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    let timeline = store.timeline();
    updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
    let mut random = Random(SEED);
    let queries: Vec<Key> =
        (0..500_000).map(|_| Key::new(OBJECT, random.below(u64::from(BLOCKS)) as u32)).collect();
    until.repeat(|| read(&timeline, &queries, updates.last_lsn()))
}

/// Opening a store whose log holds 256 MiB of small records.
fn replay(until: &Until) -> Done {
    open_again(until, &Updates::mixed(SEED, (256 << 20) / 142, BLOCKS, 60..=200))
}

/// The same with pages of 8 KiB.
fn replay_pages(until: &Until) -> Done {
    open_again(until, &Updates::random(SEED, 32 << 10, BLOCKS, 8192))
}

fn open_again(until: &Until, updates: &Updates) -> Done {
    let dir = Place::Disk.dir();
    let options = Options { durability: Durability::default(), ..one_layer() };
    let open = || Store::open(dir.path(), options.clone()).expect("a sound store").0;
    let store = open();
    let timeline = store.create_timeline("main", Lsn(1)).expect("a new timeline");
    updates.commit_each(&mut timeline.write_lease().expect("a free lease"), 1000).expect("commits");
    drop((timeline, store));
    until.repeat(|| {
        black_box(open().stats());
        updates.len() as u64
    })
}

fn chain_memory(until: &Until) -> Done {
    let (chains, _store, timeline) = chains(false);
    until.repeat(|| read(&timeline, &chains.queries(SEED), chains.last_lsn()))
}

fn chain_file(until: &Until) -> Done {
    let (chains, _store, timeline) = chains(true);
    until.repeat(|| read(&timeline, &chains.queries(SEED), chains.last_lsn()))
}

/// Chains of an image and ten deltas, half of the reads from memory and half from a delta file.
fn versions(until: &Until) -> Done {
    let (chains, _stores, memory) = chains(false);
    let (_, _store, file) = self::chains(true);
    let queries = chains.queries(SEED);
    until.repeat(|| {
        read(&memory, &queries, chains.last_lsn()) + read(&file, &queries, chains.last_lsn())
    })
}

fn chains(flushed: bool) -> (Chains, TempStore, Timeline) {
    let chains = Chains::new(SEED, 20_000, 10);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    let timeline = store.timeline();
    chains.put_all(&timeline);
    if flushed {
        timeline.flush().expect("a flush");
    }
    (chains, store, timeline)
}

fn read(timeline: &Timeline, queries: &[Key], upper: Lsn) -> u64 {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    for &key in queries {
        let guard = reader.pin();
        let versions = guard.versions(key, upper, &mut scratch).expect("a read");
        for version in versions.newest_first() {
            black_box(version.bytes.first());
        }
    }
    queries.len() as u64
}
