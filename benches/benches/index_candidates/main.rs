//! Which index the in-memory layer should have: the one it has beside three others, on dense keys,
//! on many small objects and on sparse blocks. Put, newest lookup, ordered iteration (with the sort
//! it needs), memory.
//!
//! The others are written here as compactly as they can be, for one thread, without the publication
//! that lets readers in: they have it easier. Values are copied into an arena by all of them.
//! Everything runs on memory that is used again.

mod candidates;
mod radix;
mod versions;

use std::{hint::black_box, sync::Arc};

use candidates::{AsBuilt, Candidate, HashLeaves, Ordered};
use pagestrata_benches::{
    allocations::{Counting, keep_freed_memory},
    measure::{Clock, Measured, Run, Sample, timed},
    random::Random,
    report::Report,
};
use pagestrata_layers::{ChunkPool, Key, Lsn};
use radix::Chained;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const VALUE_LEN: usize = 100;

/// Keys in the order of their updates.
struct Data {
    name: &'static str,
    updates: Vec<Key>,
    /// Each key once, in another order.
    queries: Vec<Key>,
    value: Vec<u8>,
}

impl Data {
    fn new(name: &'static str, seed: u64, keys: &[Key], updates: usize) -> Data {
        let mut random = Random(seed);
        let updates: Vec<Key> =
            (0..updates).map(|_| keys[random.below(keys.len() as u64) as usize]).collect();
        let mut queries = updates.clone();
        queries.sort_unstable();
        queries.dedup();
        random.shuffle(&mut queries);
        Data { name, updates, queries, value: random.bytes(VALUE_LEN) }
    }
}

/// What all candidates have to agree on: sums over the newest versions, and over all in order.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Answers {
    newest: u64,
    ordered: u64,
}

fn main() {
    keep_freed_memory();
    let run = Run::from_args();
    let report = Report::begin("index_candidates", &run);
    let scale = run.size(1, 100);
    let mut random = Random(run.seed);
    let dense: Vec<Key> = (0..1_060_000 / scale).map(|block| Key::new(7, block)).collect();
    let small: Vec<Key> = (0..100_000 / scale)
        .flat_map(|n| (0..10).map(move |block| Key::new(u128::from(n) << 64 | 0x0663_0000, block)))
        .collect();
    let sparse: Vec<Key> =
        (0..500_000 / scale).map(|_| Key::new(7, random.number() as u32)).collect();
    let count = 2_000_000 / scale as usize;
    for data in [
        Data::new("dense: 1.06 M blocks of one object", run.seed, &dense, count),
        Data::new("100,000 objects of 10 blocks", run.seed, &small, count),
        Data::new("sparse: 500,000 random blocks of one object", run.seed, &sparse, count / 2),
    ] {
        compare(&run, &report, &data);
    }
}

fn compare(run: &Run, report: &Report, data: &Data) {
    let pool = Arc::new(ChunkPool::new(2 << 30));
    let mut candidates: Vec<Box<dyn Candidate>> = vec![
        Box::new(AsBuilt::new(pool)),
        Box::new(Chained::default()),
        Box::new(HashLeaves::default()),
        Box::new(Ordered::default()),
    ];
    report.part(format_args!(
        "{}: {} versions of {} keys, {VALUE_LEN} B",
        data.name,
        data.updates.len(),
        data.queries.len()
    ));
    let rounds = run.size(5, 1);
    let names: Vec<&str> = candidates.iter().map(|candidate| candidate.name()).collect();
    let mut samples = vec![[const { Vec::new() }; 3]; candidates.len()];
    let mut answers = Vec::new();
    for round in 0..=rounds {
        for (candidate, samples) in candidates.iter_mut().zip(&mut samples) {
            let (found, taken) = measure(&mut **candidate, data);
            answers.push(found);
            for (samples, sample) in samples.iter_mut().zip(taken) {
                // The first round backs the memory.
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
    }
    assert!(answers.iter().all(|found| *found == answers[0]), "candidates disagree");
    for (at, what) in ["put", "newest lookup", "ordered iteration, a version"].iter().enumerate() {
        let measured: Vec<Measured> = names
            .iter()
            .zip(&samples)
            .map(|(name, samples)| Measured::of(name, Clock::Thread, &samples[at]))
            .collect();
        report.table(what, &measured, Some(names.len() - 1));
    }
    for candidate in &candidates {
        let bytes = candidate.index_bytes() as f64 / data.updates.len() as f64;
        report.line(format_args!("  {:50} {bytes:.1} bytes of index a version", candidate.name()));
    }
}

/// One round: fills, looks up, iterates.
fn measure(candidate: &mut dyn Candidate, data: &Data) -> (Answers, [Sample; 3]) {
    candidate.clear();
    let ((), put) =
        timed(data.updates.len() as u64, || candidate.put_all(&data.updates, &data.value));
    let (newest, lookup) =
        timed(data.queries.len() as u64, || candidate.newest_sum(black_box(&data.queries)));
    let mut ordered = 0_u64;
    let mut last = (Key::MIN, Lsn(0));
    let (count, iterate) = timed(data.updates.len() as u64, || {
        let mut count = 0;
        candidate.for_each(&mut |key, lsn, bytes| {
            debug_assert!((key, lsn) > last);
            last = (key, lsn);
            count += 1;
            ordered = ordered.wrapping_mul(31).wrapping_add(lsn.0 ^ u64::from(bytes[0]));
        });
        count
    });
    assert!(count == data.updates.len());
    (Answers { newest, ordered }, [put, lookup, iterate])
}
