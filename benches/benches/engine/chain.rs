//! Whole chains: an image of 8 KiB and some deltas of 100 B above it, scattered, because other keys
//! were written in between.

use std::{cell::RefCell, hint::black_box};

use pagestrata::{Key, Lsn, PageVersion, Reader, Scratch, Timeline};
use pagestrata_benches::{
    chains::Chains,
    measure::{Clock, Turns, timed},
    reference::Reference,
    report::Wanted,
    stores::{Place, TempStore, one_layer},
};

use crate::Context;

pub(crate) fn measure(context: &mut Context) {
    context.report.part("chain: an image of 8 KiB and deltas of 100 B, newest first to the image");
    let full = context.run.full;
    for (deltas, keys) in [(0, 20_000), (1, 20_000), (10, 20_000), (100, 5_000)] {
        let keys = if full { keys } else { 40 };
        case(context, &Chains::new(context.run.seed, keys, deltas));
    }
}

/// What is done with each version.
type Visit = fn(u64, &PageVersion<'_>) -> u64;

const COLLECT: Visit = |sum, version| sum + version.lsn.0;
const TOUCH: Visit = |sum, version| sum + version.lsn.0 + u64::from(version.bytes[0]);

fn case(context: &mut Context, chains: &Chains) {
    let mut stores = [(); 2].map(|()| TempStore::new(Place::Tmpfs, one_layer()));
    let timelines = stores.each_mut().map(|store| {
        let timeline = store.timeline();
        chains.put_all(&timeline);
        timeline
    });
    timelines[1].flush().expect("a flush");
    let reference = chains.reference();
    for timeline in &timelines {
        check(timeline, &reference, chains);
    }

    let (queries, upper) = (chains.queries(context.run.seed + 1), chains.last_lsn());
    let [memory, file] = timelines.each_ref().map(|timeline| {
        let mut reading = (timeline.reader(), Scratch::new());
        read(&mut reading, &queries, upper, TOUCH);
        RefCell::new(reading)
    });
    let (queries, reference) = (&queries, &reference);
    let mut turns = Turns::new();
    for (how, visit) in [("collected", COLLECT), ("first byte of each touched", TOUCH)] {
        let expected = read_reference(reference, queries, upper, visit);
        for (what, reading) in [("from memory", &memory), ("from a delta file", &file)] {
            turns.add(format!("{what}, {how}"), move || {
                let reading = &mut reading.borrow_mut();
                let (sum, sample) =
                    timed(queries.len() as u64, || read(reading, queries, upper, visit));
                assert!(sum == expected);
                assert!(sample.allocations == 0, "warm reads do not allocate");
                sample
            });
        }
        turns.add(format!("reference, {how}"), move || {
            let (sum, sample) =
                timed(queries.len() as u64, || read_reference(reference, queries, upper, visit));
            assert!(sum == expected);
            sample
        });
    }
    context.normalisers.add_to(&mut turns);
    let measured = turns.run(context.run.size(9, 1), Clock::Thread);
    drop(turns);
    let deltas = chains.deltas();
    let title = format!("image + {deltas} deltas, {} keys", chains.keys());
    context.report.table(title, &measured, Some(2));
    if deltas == 10 {
        for (at, most) in [(0, 0.6), (1, 1.0), (3, 0.6), (4, 1.0)] {
            let what = format!("chain of 10, {}", measured[at].name);
            let us = measured[at].ns.median / 1e3;
            context.report.goal(what, us, Wanted::AtMost(most), "us");
        }
    }
}

/// The engine finds what the reference finds, at the end and in the middle of history.
fn check(timeline: &Timeline, reference: &Reference, chains: &Chains) {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for (n, key) in chains.queries(3).into_iter().enumerate() {
        let middle = Lsn(chains.keys() as u64 + n as u64 + 1);
        for upper in [chains.last_lsn(), middle.min(chains.last_lsn())] {
            let mut expected = Vec::new();
            let pinned = reference.pin();
            pinned.versions(key, upper, |version| expected.push(version));
            let found = guard.versions(key, upper, &mut scratch).expect("a read");
            assert!(found.newest_first().eq(expected), "{key} at {upper}");
        }
    }
}

fn read(
    (reader, scratch): &mut (Reader, Scratch),
    queries: &[Key],
    upper: Lsn,
    visit: Visit,
) -> u64 {
    let mut sum = 0;
    for &key in queries {
        let guard = reader.pin();
        let versions = guard.versions(black_box(key), upper, scratch).expect("a read");
        sum = versions.newest_first().fold(sum, |sum, version| visit(sum, &version));
    }
    sum
}

fn read_reference(reference: &Reference, queries: &[Key], upper: Lsn, visit: Visit) -> u64 {
    let mut sum = 0;
    for &key in queries {
        reference.pin().versions(black_box(key), upper, |version| sum = visit(sum, &version));
    }
    sum
}
