//! The layer map's search structure on recorded production maps: search, edit, memory.
//!
//! `PAGESTRATA_CAPTURES` names the directory with `layer_names/*.txt`; without it the run says so
//! and takes a generated map of the same shape. With `--test`, or without `--bench` (as
//! `cargo test --benches` runs it), one short round of each.
//!
//! A search also stands as a ratio to a random insert into a `BTreeMap<u128, u64>` of a million
//! entries. The two take turns, and so do one thread and two: what stands is the median of the
//! ratios of all turns, for a shared machine has slow and fast seconds.

use std::{
    collections::BTreeMap,
    hint::black_box,
    io::{self, Write},
    sync::Barrier,
    time::{Duration, Instant},
};

use fastrand::Rng;
use pagestrata::testing::layer_index::{
    Change, LayerIndex, LayerKind, LayerShape, LayerSlot, recorded::recorded_maps,
};
use pagestrata_benches::allocations::{Counting, allocations};
use pagestrata_layers::{Key, KeyRange, Lsn};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a search asks for.
type Query = (Key, Lsn);

/// Sizes of a run.
struct Size {
    /// How long a turn of searches lasts at least.
    search: Duration,
    /// How many turns there are.
    turns: usize,
    /// How many edits of a kind.
    edits: usize,
    /// Entries of the map that is the normaliser.
    normaliser: usize,
}

fn main() -> io::Result<()> {
    let full = std::env::args().any(|arg| arg == "--bench")
        && !std::env::args().any(|arg| arg == "--test");
    let size = if full {
        Size { search: Duration::from_millis(150), turns: 7, edits: 2_000, normaliser: 1_000_000 }
    } else {
        Size { search: Duration::from_millis(5), turns: 1, edits: 20, normaliser: 20_000 }
    };
    let mut out = io::stdout().lock();
    for (name, shapes) in recorded_maps(&mut out)? {
        let start = Instant::now();
        let map = filled(&shapes);
        let filling = start.elapsed();
        let distinct = map.memory_bytes() as f64 / map.layer_count() as f64;
        writeln!(
            out,
            "\n{name}: {} layers, filled in {filling:.1?}, {distinct:.1} bytes a layer",
            map.layer_count()
        )?;
        searches(&mut out, &map, &shapes, &size)?;
        edits(&mut out, &map, &shapes, size.edits)?;
    }
    Ok(())
}

/// A map of these layers, each in the slot of its place.
fn filled(shapes: &[LayerShape]) -> LayerIndex {
    let insert = |(at, &shape)| Change::Insert(LayerSlot(at as u32), shape);
    LayerIndex::new().edit(&shapes.iter().enumerate().map(insert).collect::<Vec<_>>())
}

/// Nanoseconds of one insert of a new key into an ordered map that has up to `entries` others.
fn insert_ns(entries: usize) -> f64 {
    let mut random = Rng::with_seed(7);
    let keys: Vec<u128> = (0..entries)
        .map(|_| u128::from(random.u64(..)) << 64 | u128::from(random.u64(..)))
        .collect();
    let start = Instant::now();
    let mut map = BTreeMap::new();
    for (at, &key) in keys.iter().enumerate() {
        map.insert(key, at as u64);
    }
    let elapsed = start.elapsed();
    assert!(black_box(map).len() == entries);
    elapsed.as_nanos() as f64 / entries as f64
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The three orders: the recorded one, the same shuffled, and random keys at random Lsns.
fn orders(shapes: &[LayerShape]) -> [(&'static str, Vec<Query>); 3] {
    let mut random = Rng::with_seed(11);
    let images = shapes.iter().filter_map(|shape| match shape.kind {
        LayerKind::Image { lsn } => Some((shape.key_range.start.next()?, lsn.previous())),
        LayerKind::Delta { .. } => None,
    });
    let in_order: Vec<Query> = images.collect();
    let mut shuffled = in_order.clone();
    random.shuffle(&mut shuffled);
    let top = shapes.iter().map(|shape| first_lsn(shape).0).max().unwrap_or(1);
    let uniform = (0..in_order.len())
        .map(|_| {
            let shape = &shapes[random.u64(..shapes.len() as u64) as usize];
            (shape.key_range.start, Lsn(random.u64(..top)))
        })
        .collect();
    [("own order", in_order), ("shuffled", shuffled), ("uniform", uniform)]
}

/// A layer's lowest Lsn.
fn first_lsn(shape: &LayerShape) -> Lsn {
    match shape.kind {
        LayerKind::Image { lsn } => lsn,
        LayerKind::Delta { start, .. } => start,
    }
}

/// Asks all queries over and over for at least `least`; nanoseconds a search in the median round.
fn rounds_ns(map: &LayerIndex, queries: &[Query], least: Duration) -> f64 {
    let start = Instant::now();
    let mut rounds = Vec::new();
    while start.elapsed() < least || rounds.is_empty() {
        let round = Instant::now();
        let mut sum = 0;
        for &(key, lsn) in queries {
            sum += map.search(key, lsn).map_or(0, |hit| hit.floor.0 ^ u64::from(hit.layer.0));
        }
        black_box(sum);
        rounds.push(round.elapsed().as_nanos() as f64 / queries.len() as f64);
    }
    median(rounds)
}

/// Nanoseconds a search with `threads` at once, of the slowest thread. Each begins at a place of
/// its own, or in lockstep all at the same one.
fn search_ns(
    map: &LayerIndex,
    queries: &[Query],
    threads: usize,
    lockstep: bool,
    least: Duration,
) -> f64 {
    let barrier = Barrier::new(threads);
    let run = &|thread: usize| {
        let mut queries = queries.to_vec();
        if !lockstep {
            let start = thread * queries.len() / threads;
            queries.rotate_left(start);
        }
        barrier.wait();
        rounds_ns(map, &queries, least)
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no panic")).fold(0.0, f64::max)
    })
}

/// The table of searches.
fn searches(
    out: &mut impl Write,
    map: &LayerIndex,
    shapes: &[LayerShape],
    size: &Size,
) -> io::Result<()> {
    for (name, queries) in orders(shapes) {
        let turns: Vec<[f64; 4]> = (0..size.turns)
            .map(|_| {
                let search =
                    |threads, lockstep| search_ns(map, &queries, threads, lockstep, size.search);
                [insert_ns(size.normaliser), search(1, false), search(2, false), search(2, true)]
            })
            .collect();
        let of = |figure: fn(&[f64; 4]) -> f64| median(turns.iter().map(figure).collect());
        let before = allocations();
        for &(key, lsn) in &queries {
            let Some(hit) = map.search(key, lsn) else { continue };
            let shape = map.get(hit.layer).expect("a layer");
            assert!(
                shape.key_range.contains(key) && hit.floor <= lsn && first_lsn(&shape) <= hit.floor
            );
        }
        let allocations = allocations() - before;
        assert!(allocations == 0, "searches allocate");
        writeln!(
            out,
            "  search {name:10} {:6.1} ns = {:.2} inserts of {:.0} ns; two threads x{:.2}, lockstep x{:.2}; allocations {allocations}",
            of(|turn| turn[1]),
            of(|turn| turn[1] / turn[0]),
            of(|turn| turn[0]),
            of(|turn| 2.0 * turn[1] / turn[2]),
            of(|turn| 2.0 * turn[1] / turn[3]),
        )?;
    }
    Ok(())
}

/// The table of edits.
fn edits(
    out: &mut impl Write,
    map: &LayerIndex,
    shapes: &[LayerShape],
    count: usize,
) -> io::Result<()> {
    let mut random = Rng::with_seed(13);
    let mut lsns: Vec<Lsn> = shapes.iter().map(first_lsn).collect();
    lsns.sort_unstable();
    let (median, last) = (lsns[lsns.len() / 2], lsns[lsns.len() - 1]);
    let free = LayerSlot(shapes.len() as u32);
    let image = |key_range| LayerShape { key_range, kind: LayerKind::Image { lsn: median.next() } };
    let first_image = Change::Insert(free, image(shapes[0].key_range));
    report(out, "insert image at median Lsn", count, |_| (map.clone(), first_image))?;
    report(out, "insert image, random keys", count, |_| {
        let at = random.u64(..shapes.len() as u64) as usize;
        (map.clone(), Change::Insert(free, image(shapes[at].key_range)))
    })?;
    report(out, "insert image, new keys", count, |_| {
        let mut key = || {
            let key = shapes[random.u64(..shapes.len() as u64) as usize].key_range.start;
            Key { block: key.block ^ random.u64(..1 << 20) as u32, ..key }
        };
        let (one, two) = (key(), key());
        let key_range = KeyRange { start: one.min(two), end: one.max(two).next() };
        (map.clone(), Change::Insert(free, image(key_range)))
    })?;
    let oldest = (0..shapes.len()).min_by_key(|&at| first_lsn(&shapes[at])).unwrap_or(0);
    let remove = |at: usize| Change::Remove(LayerSlot(at as u32));
    report(out, "remove the oldest", count, |_| (map.clone(), remove(oldest)))?;
    report(out, "remove any", count, |_| {
        (map.clone(), remove(random.u64(..shapes.len() as u64) as usize))
    })?;
    let kind = LayerKind::Delta { start: last.next(), end: Lsn(last.0 + 1_000) };
    let all = Change::Insert(free, LayerShape { key_range: KeyRange::ALL, kind });
    report(out, "insert all-covering delta", count, |_| (map.clone(), all))?;
    let with_all = map.edit(&[all]);
    report(out, "remove all-covering delta", count, |_| (with_all.clone(), Change::Remove(free)))
}

/// Times edits one by one; of each the best of three, for the rest is what else the machine does.
fn report(
    out: &mut impl Write,
    name: &str,
    count: usize,
    mut next: impl FnMut(usize) -> (LayerIndex, Change),
) -> io::Result<()> {
    let mut times: Vec<Duration> = (0..count)
        .map(|at| {
            let (map, change) = next(at);
            let one = || {
                let start = Instant::now();
                let edited = map.edit(&[change]);
                let elapsed = start.elapsed();
                assert!(edited.layer_count().abs_diff(map.layer_count()) == 1);
                elapsed
            };
            (0..3).map(|_| one()).min().unwrap_or_default()
        })
        .collect();
    times.sort_unstable();
    let us = |at: usize| times[at.min(count - 1)].as_nanos() as f64 / 1e3;
    writeln!(
        out,
        "  edit {name:28} median {:6.1} us, p99 {:6.1} us, most {:6.1} us",
        us(count / 2),
        us(count * 99 / 100),
        us(count - 1)
    )
}
