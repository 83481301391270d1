//! What a delta layer costs a read of the newest version: by their number, and by how many of them
//! hold the page.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use pagestrata::{Background, Key, Lsn, Options, Scratch, Timeline};
use pagestrata_benches::{
    report::Wanted,
    stacks::{Held, Stack},
    stores::{Place, TempStore, one_layer},
};

use crate::{Context, hot::Figures};

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    let (pages, image_len) = run.size((100_000, 8192), (300, 64));
    context.report.part(format_args!(
        "layers: {pages} pages, an image of {image_len} B each below delta layers, of which none, one or half \
         hold a delta of a page; newest version, mapped, warm; 100>4: merged into 4"
    ));
    context.report.line(format_args!(
        "  {:>6} {:>5} {:>10} {:>8} {:>8} {:>10} {:>10} {:>12}",
        "layers",
        "held",
        "reads/s",
        "p50 ns",
        "p99 ns",
        "copied p50",
        "copied p99",
        "bytes a delta"
    ));
    let mut p50 = Vec::new();
    for layers in run.size([1, 10, 100], [1, 2, 5]) {
        let stack = Stack::new(run.seed, pages, layers, image_len);
        let options = Options {
            open_layer_size_max_bytes: 4 << 30,
            background: Background::Callers,
            compaction_fan_in: 8,
            ..one_layer()
        };
        let mut store = TempStore::new(Place::Disk, options);
        let timeline = store.timeline();
        let last = stack.put_all(&timeline);
        check(&stack, &timeline, last);
        p50.extend(rows(context, &stack, &timeline, last, &layers.to_string()));
        if timeline.compact().expect("merges") > 0 {
            let name = format!("{layers}>{}", timeline.layers().len() - 1);
            check(&stack, &timeline, last);
            rows(context, &stack, &timeline, last, &name);
        }
    }
    // The rows of 10 and 100 layers, by what holds the page.
    let (ten, hundred) = (&p50[3..6], &p50[6..9]);
    let empty = (hundred[0] - ten[0]) / 90.0;
    let delta = (hundred[2] - hundred[0]) / 50.0 + empty;
    let goals = [("without the page", empty, 100.0), ("that adds a delta", delta, 250.0)];
    for (what, found, goal) in goals {
        let what = format!("a warm layer {what}, of 10 to 100");
        context.report.goal(what, found, Wanted::AtMost(goal), "ns");
    }
}

/// Measures and prints a row for each way of holding a page; the median of reads that borrow.
fn rows(
    context: &mut Context,
    stack: &Stack,
    timeline: &Timeline,
    last: Lsn,
    name: &str,
) -> [f64; 3] {
    let run = context.run.clone();
    // Of the index that says which blocks were verified, the filters and the map.
    let memory = timeline.stats().memory.map_bytes as f64 / stack.deltas() as f64;
    Held::ALL.map(|held| {
        let keys = stack.queries(run.seed, held, run.size(1 << 17, 500));
        let duration = run.size(Duration::from_secs(2), Duration::from_millis(5));
        let borrowed = round(timeline, &keys, last, duration, &mut |versions| {
            versions.newest_first().map(|version| usize::from(version.bytes[0])).sum()
        });
        let mut buffer = Vec::with_capacity(64 << 10);
        let copied = round(timeline, &keys, last, duration, &mut |versions| {
            buffer.clear();
            versions.newest_first().for_each(|version| buffer.extend_from_slice(version.bytes));
            buffer.len()
        });
        context.report.line(format_args!(
            "  {name:>6} {:>5} {:10.0} {:8} {:8} {:10} {:10} {memory:12.1}",
            held.name(),
            borrowed.per_second(),
            borrowed.at(0.5),
            borrowed.at(0.99),
            copied.at(0.5),
            copied.at(0.99),
        ));
        borrowed.at(0.5) as f64
    })
}

/// Every version of every page, which also reads everything once.
fn check(stack: &Stack, timeline: &Timeline, last: Lsn) {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    for key in stack.keys() {
        let guard = reader.pin();
        let found = guard.versions(key, last, &mut scratch).expect("a read");
        let found = found.newest_first().map(|version| version.bytes);
        assert!(found.eq(stack.chain(key.block)), "{key}");
    }
}

/// Reads until the time is over.
fn round(
    timeline: &Timeline,
    keys: &[Key],
    lsn: Lsn,
    duration: Duration,
    take: &mut dyn FnMut(pagestrata::Versions<'_>) -> usize,
) -> Figures {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let mut figures = Figures::default();
    let began = Instant::now();
    let mut at = began;
    for &key in keys.iter().cycle() {
        let guard = reader.pin();
        black_box(take(guard.versions(key, lsn, &mut scratch).expect("a read")));
        let now = Instant::now();
        figures.add(now - at);
        at = now;
        if at - began > duration {
            break;
        }
    }
    figures.elapsed = began.elapsed();
    figures
}
