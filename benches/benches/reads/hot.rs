//! Everything is in memory: what a read takes, by mode, by how keys are chosen, with one reader and
//! two, beside a writer or not.

use std::{
    hint::black_box,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use pagestrata::{
    Access, Compression, Key, Lsn, PageVersion, ReadStats, Ready, Redo, RedoResult, Scratch,
    Timeline, Value,
};
use pagestrata_benches::{
    allocations::allocations,
    measure::{Clock, Turns},
    normalisers::Normalisers,
    random::Random,
    report::Wanted,
    updates::{BATCH, OBJECT},
};

use crate::{
    Context, MODES,
    pages::{Pages, key},
};

/// Deltas of each page in a layer file, and again as many in memory.
const DELTAS: usize = 6;

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    let count = run.size(100_000, 300);
    context.report.part(format_args!(
        "hot: {count} pages, an image of 8 KiB and {} deltas of 60 to 200 B each, in memory, a delta layer and an image layer",
        2 * DELTAS
    ));
    let pages = Pages::new(run.seed, count, DELTAS, Compression::None);
    let normalisers = Normalisers::new(&run);
    let mut turns = Turns::new();
    normalisers.add_to(&mut turns);
    let measured = turns.run(run.size(9, 1), Clock::Thread);
    drop(turns);
    context.report.table("normalisers", &measured, None);
    drop(normalisers);

    let zipf = Zipf::new(count);
    let kinds: [(&str, Choose<'_>); 2] = [
        ("uniform", &|random| random.below(u64::from(count)) as u32),
        ("zipf", &|random| zipf.next(random)),
    ];
    context.report.line(format_args!(
        "  {:44} {:>10} {:>8} {:>8} {:>9} {:>9} {:>10}",
        "borrowed, first byte of each touched",
        "reads/s",
        "p50 ns",
        "p99 ns",
        "p99.9 ns",
        "allocs",
        "copied B"
    ));
    for mode in MODES {
        let (store, timeline) = pages.open(mode, 8 << 30);
        check(&timeline, &pages);
        for (kind, choose) in kinds {
            for readers in [1, 2] {
                for writes in [false, true] {
                    let how = How { readers, writes, read: borrow };
                    let figures = round(context, &timeline, &pages, &how, choose);
                    let beside = if writes { "a writer" } else { "idle" };
                    let name = format!("{mode}, {kind}, {readers} reader(s), {beside}");
                    figures.print(context, &name);
                    if mode == Access::MMAP && readers == 1 && !writes {
                        let us = figures.at(0.5) as f64 / 1e3;
                        let what = format!("Mmap, {kind}, idle: p50");
                        context.report.goal(what, us, Wanted::AtMost(2.5), "us");
                        let each = |total: u64| total as f64 / figures.reads() as f64;
                        let what =
                            format!("Mmap, {kind}, idle: allocations and bytes copied a read");
                        let total = figures.allocations + figures.stats.copied_bytes;
                        context.report.goal(what, each(total), Wanted::AtMost(0.0), "");
                    }
                }
            }
            let ways: [(&str, Read); 2] =
                [("without waiting", without_waiting), ("all copied into one buffer", copy)];
            for (way, read) in ways {
                let how = How { readers: 1, writes: false, read };
                let figures = round(context, &timeline, &pages, &how, choose);
                figures.print(context, &format!("{mode}, {kind}, 1 reader, {way}"));
            }
        }
        drop((timeline, store));
    }
}

/// Which page is read next.
type Choose<'a> = &'a (dyn Fn(&mut Random) -> u32 + Sync);
/// A way to read a page.
type Read = fn(&mut pagestrata::Reader, Key, &mut Scratch, Lsn);

struct How {
    readers: usize,
    writes: bool,
    read: Read,
}

fn touch(versions: pagestrata::Versions<'_>) {
    let sum: u64 = versions.newest_first().map(|version| u64::from(version.bytes[0])).sum();
    black_box(sum);
    assert_eq!(versions.len(), 2 * DELTAS + 1);
}

fn borrow(reader: &mut pagestrata::Reader, key: Key, scratch: &mut Scratch, lsn: Lsn) {
    touch(reader.pin().versions(key, lsn, scratch).expect("a read"));
}

fn without_waiting(reader: &mut pagestrata::Reader, key: Key, scratch: &mut Scratch, lsn: Lsn) {
    match reader.pin().try_versions(key, lsn, scratch).expect("a read") {
        Ready::Hit(versions) => touch(versions),
        Ready::Cold(fetch, _) => fetch.run_blocking().expect("a fetch"),
    }
}

fn copy(reader: &mut pagestrata::Reader, key: Key, scratch: &mut Scratch, lsn: Lsn) {
    black_box(reader.pin().page(key, lsn, &Collect, scratch).expect("a read").len());
}

/// All values, one behind the other, as other engines' figures have it.
struct Collect;

impl Redo for Collect {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        page.extend_from_slice(base.unwrap_or_default());
        deltas.for_each(|delta| page.extend_from_slice(delta.bytes));
        Ok(())
    }
}

/// Reads everything once, which also warms it up, and compares some.
fn check(timeline: &Timeline, pages: &Pages) {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    for block in 0..pages.count {
        let found = reader.pin();
        let found = found.versions(key(block), pages.last, &mut scratch).expect("a read");
        assert_eq!(found.len(), 2 * DELTAS + 1);
        if block % 97 == 0 {
            let image = found.newest_first().next_back().expect("an image");
            assert!(image.bytes == pages.image(block));
            let deltas = found.newest_first().rev().skip(1).enumerate();
            deltas.for_each(|(n, delta)| assert!(delta.bytes == pages.delta(block, n)));
        }
    }
}

/// What some readers have found together.
pub(crate) struct Figures {
    /// How many reads took how long, by the bucket of their time.
    taken: Vec<u64>,
    pub(crate) elapsed: Duration,
    allocations: u64,
    stats: ReadStats,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            taken: vec![0; 64 * 16],
            elapsed: Duration::ZERO,
            allocations: 0,
            stats: ReadStats::default(),
        }
    }
}

impl Figures {
    /// One more read that took so long.
    pub(crate) fn add(&mut self, taken: Duration) {
        self.taken[Figures::bucket(taken.as_nanos() as u64)] += 1;
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.reads() as f64 / self.elapsed.as_secs_f64()
    }

    /// Sixteen buckets for each doubling of nanoseconds.
    fn bucket(ns: u64) -> usize {
        let ns = ns.max(16);
        let log = ns.ilog2();
        (log as usize - 4) * 16 + ((ns >> (log - 4)) & 15) as usize
    }

    /// Where a bucket begins.
    fn start(bucket: usize) -> u64 {
        (16 + (bucket as u64 & 15)) << (bucket / 16)
    }

    fn reads(&self) -> u64 {
        self.taken.iter().sum()
    }

    /// How long the fastest of this share took at the most, to one part in 16.
    pub(crate) fn at(&self, share: f64) -> u64 {
        let mut left = (self.reads() as f64 * share) as u64;
        for (bucket, &count) in self.taken.iter().enumerate() {
            match left.checked_sub(count) {
                Some(rest) => left = rest,
                None => return Figures::start(bucket + 1),
            }
        }
        0
    }

    fn print(&self, context: &Context, name: &str) {
        let reads = self.reads() as f64;
        context.report.line(format_args!(
            "  {name:44} {:10.0} {:8} {:8} {:9} {:9.3} {:10.1}",
            self.per_second(),
            self.at(0.5),
            self.at(0.99),
            self.at(0.999),
            self.allocations as f64 / reads,
            self.stats.copied_bytes as f64 / reads,
        ));
    }
}

fn round(
    context: &Context,
    timeline: &Timeline,
    pages: &Pages,
    how: &How,
    choose: Choose<'_>,
) -> Figures {
    let duration = context.run.size(Duration::from_millis(1500), Duration::from_millis(10));
    let (stop, barrier) = (&AtomicBool::new(false), &Barrier::new(how.readers + 1));
    let seed = context.run.seed;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..how.readers)
            .map(|n| {
                scope.spawn(move || {
                    let mut random = Random(seed + n as u64);
                    let keys: Vec<Key> = (0..1 << 18).map(|_| key(choose(&mut random))).collect();
                    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
                    let mut taken = vec![0; 64 * 16];
                    (how.read)(&mut reader, keys[0], &mut scratch, pages.last);
                    let before = scratch.all_reads();
                    barrier.wait();
                    let allocated = allocations();
                    let mut at = Instant::now();
                    for &key in keys.iter().cycle() {
                        (how.read)(&mut reader, key, &mut scratch, pages.last);
                        let now = Instant::now();
                        taken[Figures::bucket((now - at).as_nanos() as u64)] += 1;
                        at = now;
                        if stop.load(Relaxed) {
                            break;
                        }
                    }
                    let allocated = allocations() - allocated;
                    let mut stats = scratch.all_reads();
                    stats.copied_bytes -= before.copied_bytes;
                    (taken, allocated, stats)
                })
            })
            .collect();
        let writer = how.writes.then(|| scope.spawn(|| write_until(timeline, stop)));
        barrier.wait();
        let began = Instant::now();
        thread::sleep(duration);
        stop.store(true, Relaxed);
        let elapsed = began.elapsed();
        let mut all = Figures { elapsed, ..Figures::default() };
        for reader in readers {
            let (taken, allocated, stats) = reader.join().expect("no panic");
            all.taken.iter_mut().zip(taken).for_each(|(sum, one)| *sum += one);
            all.allocations += allocated;
            all.stats += stats;
        }
        if let Some(writer) = writer {
            writer.join().expect("no panic");
        }
        all
    })
}

/// Deltas of other pages, as fast as they go.
fn write_until(timeline: &Timeline, stop: &AtomicBool) {
    let mut lease = timeline.write_lease().expect("a free lease");
    let (mut lsn, mut random) = (lease.last_lsn(), Random(1));
    let bytes = random.bytes(130);
    while !stop.load(Relaxed) {
        for _ in 0..BATCH {
            lsn = lsn.next();
            let key = Key::new(OBJECT + 1, random.below(1_000_000) as u32);
            let value = Value::Delta { bytes: &bytes, will_init: true };
            lease.put(key, lsn, value).expect("a put");
        }
        lease.commit(lsn).expect("a commit");
    }
}

/// Numbers below a bound, number n in proportion to 1 / (n + 1)^0.99, scattered so that neighbours
/// are not alike.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: u32) -> Zipf {
        let mut sum = 0.0;
        let up_to = (0..count).map(|n| {
            sum += 1.0 / f64::from(n + 1).powf(0.99);
            sum
        });
        Zipf(up_to.collect())
    }

    fn next(&self, random: &mut Random) -> u32 {
        let count = self.0.len() as u64;
        let all = self.0.last().expect("some");
        let at = (random.number() >> 11) as f64 / (1_u64 << 53) as f64 * all;
        let n = self.0.partition_point(|&up_to| up_to < at) as u64;
        (n * 2_654_435_761 % count) as u32
    }
}
