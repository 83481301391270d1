//! A whole log into a store: read, checked, taken apart, put, flushed.

use std::{fs, hint::black_box};

use pagestrata_benches::{
    measure::{Clock, Turns, timed},
    report::Wanted,
};
use pagestrata_postgres_ingest::{import, ingest};

use crate::{Context, capture::Capture};

pub(crate) fn measure(context: &mut Context) {
    let capture = Capture::open("main");
    let wal_bytes = capture.records(|_| ());
    let mut copy = vec![1; wal_bytes as usize];
    let wal = vec![2; wal_bytes as usize];
    let (base, log) = (capture.base(), capture.wal());
    let mut turns = Turns::new();
    turns
        .add("copy as many bytes", || timed(wal_bytes, || copy.copy_from_slice(black_box(&wal))).1);
    turns.add("read and check records", || {
        timed(wal_bytes, || black_box(capture.records(|_| ()))).1
    });
    turns.add("ingest: check, then put; no flush", || {
        with_base(&capture, &base, |timeline| {
            timed(wal_bytes, || {
                let log = ingest::Log::of(&log);
                let checked = ingest::check(timeline, &log, &mut |_| ()).expect("sound");
                ingest::apply(timeline, &checked, &mut |_| ()).expect("sound");
            })
            .1
        })
    });
    turns.add("ingest: check, put, flush", || {
        with_base(&capture, &base, |timeline| {
            let log = ingest::Log::of(&log);
            timed(wal_bytes, || ingest::ingest(timeline, &log, &mut |_| ()).expect("sound")).1
        })
    });
    let measured = turns.run(context.run.size(7, 1), Clock::Wall);
    drop(turns);
    context.report.part(format_args!(
        "ingest of {}: {:.0} MB of log, layers of {}",
        capture.name,
        wal_bytes as f64 / 1e6,
        capture.path().display()
    ));
    context.report.line(format_args!(
        "  {:44} {:>16} {:>24} {:>20}",
        "", "MB/s", "MB/s a core, all threads", "allocations / KiB"
    ));
    for candidate in &measured {
        let per_core = 1e3 / candidate.process_ns.median;
        context.report.line(format_args!(
            "  {:44} {:16.0} {per_core:24.0} {:20.3}",
            candidate.name,
            1e3 / candidate.wall_ns.median,
            candidate.allocations.median * 1024.0
        ));
    }
    let what = format!("ingest of {}, flush included, log a core", capture.name);
    let per_core = 1e3 / measured[3].process_ns.median;
    context.report.goal(what, per_core, Wanted::AtLeast(300.0), "MB/s");
}

fn with_base<R>(
    capture: &Capture,
    base: &pagestrata_postgres::BaseBackup,
    work: impl FnOnce(&pagestrata::Timeline) -> R,
) -> R {
    let dir = capture.store();
    let _ = fs::remove_dir_all(&dir);
    let (store, _) = import::import(&dir, "main", base, &mut |_| ()).expect("a sound base");
    let result = work(&store.timeline("main").expect("imported"));
    drop(store);
    fs::remove_dir_all(&dir).expect("ours");
    result
}
