//! Group commit: the same commits by more and more threads that wait for them, each on a timeline
//! of its own.

use std::{sync::Barrier, time::Instant};

use pagestrata::{Store, Timeline};
use pagestrata_benches::{
    measure::Spread,
    stores::{Place, TempStore},
    updates::Updates,
};

use crate::{Context, commit::options};

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    context.report.part("group commit (wall), disk: commits of one record of 60 to 200 B");
    context.report.line(format_args!(
        "{:>8} {:>14} {:>14} {:>16} {:>18}",
        "waiters", "commits/s", "us a commit", "syncs a commit", "times one waiter's"
    ));
    let mut one = f64::NAN;
    for threads in [1, 2, 4, 8, 16, 32, 64] {
        let commits = run.size(300, 3);
        let updates = Updates::mixed(run.seed, commits, 1000, 60..=200);
        let mut store = TempStore::new(Place::Disk, options());
        let rounds: Vec<_> = (0..run.size(4, 1))
            .map(|_| {
                let timelines: Vec<_> = (0..threads).map(|_| store.timeline()).collect();
                round(store.store(), &timelines, &updates)
            })
            .skip(run.size(1, 0))
            .collect();
        let rate = Spread::of(rounds.iter().map(|round| round.0)).median;
        let syncs = Spread::of(rounds.iter().map(|round| round.1)).median;
        one = if threads == 1 { rate } else { one };
        let latency = threads as f64 / rate * 1e6;
        context.report.line(format_args!(
            "{threads:8} {rate:14.0} {latency:14.0} {syncs:16.3} {:18.1}",
            rate / one
        ));
    }
}

/// Commits a second, and syncs a commit.
fn round(store: &Store, timelines: &[Timeline], updates: &Updates) -> (f64, f64) {
    let before = store.stats().log.syncs;
    let start = Barrier::new(timelines.len() + 1);
    let began = std::thread::scope(|scope| {
        for timeline in timelines {
            scope.spawn(|| {
                let mut lease = timeline.write_lease().expect("a free lease");
                start.wait();
                updates.commit_each(&mut lease, 1).expect("commits");
            });
        }
        start.wait();
        Instant::now()
    });
    let elapsed = began.elapsed().as_secs_f64();
    let commits = (timelines.len() * updates.len()) as f64;
    for timeline in timelines {
        assert!(timeline.last_record_lsn() == updates.last_lsn());
    }
    (commits / elapsed, (store.stats().log.syncs - before) as f64 / commits)
}
