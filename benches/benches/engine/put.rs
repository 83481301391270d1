//! Puts, with a commit every 16 records: into memory that is used again, and into fresh memory.

use std::{cell::RefCell, sync::Arc};

use pagestrata::{Options, Scratch, Timeline};
use pagestrata_benches::{
    measure::{Clock, Measured, Sample, Turns, timed},
    reference::Reference,
    report::Wanted,
    stores::{Place, TempStore, one_layer},
    updates::{BATCH, Updates},
};
use pagestrata_layers::{ChunkPool, OpenLayer};

use crate::Context;

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    let (small, blocks) = run.size((2_000_000, 1_060_000), (20_000, 10_600));
    let large = run.size(20_000, 200);
    let seed = run.seed;
    let cases = [
        ("100 B, random keys", Updates::random(seed, small, blocks, 100)),
        ("100 B, sequential keys", Updates::sequential(seed, small, 100)),
        ("8 KiB, random keys", Updates::random(seed, large, large as u32, 8192)),
        ("8 KiB, sequential keys", Updates::sequential(seed, large, 8192)),
    ];
    context.report.part(format_args!("put, a commit every {BATCH} records"));
    for (name, updates) in &cases {
        let measured = case(context, updates);
        let title = format!("{name}, {} records", updates.len());
        context.report.table(title, &measured, Some(5));
        let [engine, _, _, fresh, _, reference, ..] = &measured[..] else { unreachable!() };
        let ratio = engine.times_faster_than(reference);
        if *name == cases[0].0 {
            let what = "put, random 100 B: times the reference";
            context.report.goal(what, ratio, Wanted::AtLeast(6.0), "x");
        }
        let ratio = fresh.ns.median / engine.ns.median;
        context
            .report
            .line(format_args!("  fresh memory costs {ratio:.2} times recycled memory\n"));
    }
}

/// The candidates: engine, the layer under it, both with fresh memory, the reference, the copies.
fn case(context: &Context, updates: &Updates) -> Vec<Measured> {
    let recycling = RefCell::new(TempStore::new(Place::Tmpfs, one_layer()));
    let pool = Arc::new(ChunkPool::new(2 << 30));
    let mut turns = Turns::new();
    turns.add("engine", || {
        let timeline = recycling.borrow_mut().timeline();
        let sample = put(&timeline, updates);
        check(&timeline, updates);
        recycling.borrow().recycle(&timeline);
        sample
    });
    turns.add("engine, put_batch", || {
        let timeline = recycling.borrow_mut().timeline();
        let mut lease = timeline.write_lease().expect("a free lease");
        let (done, sample) = timed(updates.len() as u64, || updates.put_all_in_batches(&mut lease));
        done.expect("puts");
        drop(lease);
        check(&timeline, updates);
        recycling.borrow().recycle(&timeline);
        sample
    });
    turns.add("in-memory layer alone", || put_to_layer(&pool, updates));
    turns.add("engine, fresh memory", || {
        let options = Options { pool_retained_max_bytes: 0, ..one_layer() };
        put(&TempStore::new(Place::Tmpfs, options).timeline(), updates)
    });
    turns.add("copy alone, into recycled memory", copy_alone(updates));
    turns.add("reference: RwLock<BTreeMap>", || {
        let reference = Reference::new();
        let mut writer = reference.writer();
        let ((), sample) =
            timed(updates.len() as u64, || updates.put_all_to_reference(&mut writer));
        assert!(reference.pin().sorted().count() == updates.len());
        sample
    });
    context.normalisers.add_to(&mut turns);
    turns.run(context.run.size(5, 1), Clock::Thread)
}

/// Puts all through a write lease.
fn put(timeline: &Timeline, updates: &Updates) -> Sample {
    let mut lease = timeline.write_lease().expect("a free lease");
    let (done, sample) = timed(updates.len() as u64, || updates.put_all(&mut lease));
    done.expect("puts");
    assert!(timeline.last_record_lsn() == updates.last_lsn());
    sample
}

fn put_to_layer(pool: &Arc<ChunkPool>, updates: &Updates) -> Sample {
    let mut layer = OpenLayer::new(updates.lsn(0), pool);
    let ((), sample) = timed(updates.len() as u64, || {
        for n in 0..updates.len() {
            layer.put(updates.key(n), updates.lsn(n), updates.value(n)).expect("a put");
            if (n + 1) % BATCH == 0 {
                layer.commit(updates.lsn(n)).expect("a commit");
            }
        }
        layer.commit(updates.last_lsn()).expect("a commit");
    });
    assert!(layer.layer().versions_count() == updates.len() as u64);
    sample
}

/// What no engine that keeps the bytes can save: appending them to memory that is backed already.
fn copy_alone(updates: &Updates) -> impl FnMut() -> Sample + use<'_> {
    let mut memory = Vec::new();
    move || {
        memory.clear();
        let ((), sample) = timed(updates.len() as u64, || {
            for n in 0..updates.len() {
                memory.extend_from_slice(updates.bytes(n));
            }
        });
        assert!(memory.ends_with(updates.bytes(updates.len() - 1)));
        sample
    }
}

/// Some of the updates are there, as they were put.
fn check(timeline: &Timeline, updates: &Updates) {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    for n in (0..updates.len()).step_by(updates.len() / 1000 + 1) {
        let guard = reader.pin();
        let found = guard.versions(updates.key(n), updates.lsn(n), &mut scratch).expect("a read");
        let newest = found.newest().expect("a version");
        assert!((newest.lsn, newest.bytes) == (updates.lsn(n), updates.bytes(n)), "update {n}");
    }
}
