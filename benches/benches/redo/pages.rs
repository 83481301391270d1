//! `GetPage@Lsn` from a store that the log was ingested into, redo included.

use std::time::Instant;

use hdrhistogram::Histogram;
use pagestrata::{Key, Kind, Lsn, Scratch};
use pagestrata_benches::{random::Random, report::Wanted};
use pagestrata_postgres_ingest::{import, ingest};

use crate::{Context, capture::Capture};

const DELTAS: [usize; 4] = [1, 12, 50, 200];
const PAGES_MAX: usize = 2000;

pub(crate) fn measure(context: &mut Context) {
    let capture = Capture::open("fpwoff");
    let (store, _) = import::import(&capture.store(), "main", &capture.base(), &mut |_| ())
        .expect("a sound base");
    let timeline = store.timeline("main").expect("imported");
    ingest::ingest(&timeline, &ingest::Log::of(&capture.wal()), &mut |_| ()).expect("a sound log");
    let chains = capture.chains();
    let redo = capture.redo();
    context.report.part(format_args!(
        "pages of {} at Lsns where they have so many deltas, warm layers of {}, at random",
        capture.name,
        capture.path().display()
    ));
    context.report.line(format_args!(
        "  {:>8} {:>8} {:>26} {:>34}",
        "deltas", "pages", "versions, p50/p99, us", "page with redo, p50/p99/mean, us"
    ));
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for deltas in DELTAS {
        let mut asked: Vec<(Key, Lsn)> = Vec::new();
        for chain in chains.chains.iter().filter(|chain| chain.len() >= deltas) {
            let at = (chain.key, chain.lsn(deltas - 1));
            let versions = guard.versions(at.0, at.1, &mut scratch).expect("readable");
            let found = versions.newest_first().filter(|version| version.kind != Kind::Image);
            if found.count() == deltas {
                asked.push(at);
            }
        }
        let mut random = Random(context.run.seed);
        random.shuffle(&mut asked);
        asked.truncate(PAGES_MAX);
        if asked.is_empty() {
            continue;
        }
        let (mut versions_ns, mut page_ns) = (histogram(), histogram());
        for round in 0..context.run.size(6, 1) {
            for &(key, lsn) in &asked {
                let began = Instant::now();
                let versions = guard.versions(key, lsn, &mut scratch).expect("readable");
                assert!(versions.len() >= deltas);
                let versions_took = began.elapsed();
                let began = Instant::now();
                let page = guard.page(key, lsn, &redo, &mut scratch).expect("redo");
                assert_eq!(page.len(), 8192);
                if round > 0 || !context.run.full {
                    page_ns += began.elapsed().as_nanos() as u64;
                    versions_ns += versions_took.as_nanos() as u64;
                }
            }
            random.shuffle(&mut asked);
        }
        let mean = page_ns.mean() / 1e3;
        let (p50, p99) = percentiles(&page_ns);
        let (versions_p50, versions_p99) = percentiles(&versions_ns);
        context.report.line(format_args!(
            "  {deltas:8} {:8} {:>26} {:>34}",
            asked.len(),
            format!("{versions_p50:.2} / {versions_p99:.2}"),
            format!("{p50:.2} / {p99:.2} / {mean:.2}"),
        ));
        if deltas == 12 {
            let what = "GetPage@Lsn with 12 deltas, redo included, p50";
            context.report.goal(what, p50, Wanted::AtMost(5.0), "us");
        }
    }
}

/// Of times, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("digits that it can have")
}

/// 50th and 99th percentile, in microseconds.
fn percentiles(nanos: &Histogram<u64>) -> (f64, f64) {
    let us = |of| nanos.value_at_quantile(of) as f64 / 1e3;
    (us(0.5), us(0.99))
}
