//! One committer, each commit synced, beside a loop that appends as many bytes to a file and syncs
//! it.

use std::{cell::RefCell, fs::File, io::Write, os::unix::fs::FileExt, path::Path};

use pagestrata::Options;
use pagestrata_benches::{
    measure::{Clock, Sample, Turns, timed},
    report::Wanted,
    stores::{Place, TempStore},
    updates::Updates,
};

use crate::Context;

pub(crate) fn measure(context: &mut Context) {
    context.report.part("synced commits of one committer (wall), disk");
    for (records, goal) in [(1, None), (100, Some(400_000.0))] {
        case(context, records, goal);
    }
}

/// Everything stays in memory: what is measured is the log.
pub(crate) fn options() -> Options {
    Options {
        open_layer_size_max_bytes: 2 << 30,
        pool_retained_max_bytes: 2 << 30,
        log_size_max_bytes: 64 << 30,
        ..Options::default()
    }
}

fn case(context: &mut Context, records: usize, goal: Option<f64>) {
    let run = context.run.clone();
    let commits = run.size(400, 5);
    let updates = Updates::mixed(run.seed, commits * records, 100_000, 60..=200);
    let store = RefCell::new(TempStore::new(Place::Disk, options()));
    let frame_len = RefCell::new(0);
    let mut turns = Turns::new();
    turns.add("engine", || {
        let timeline = store.borrow_mut().timeline();
        let mut lease = timeline.write_lease().expect("a free lease");
        let before = store.borrow().store().stats().log;
        let (done, sample) = timed(commits as u64, || updates.commit_each(&mut lease, records));
        done.expect("commits");
        drop(lease);
        let after = store.borrow().store().stats().log;
        assert!(after.syncs - before.syncs == commits as u64, "each commit is synced");
        *frame_len.borrow_mut() = (after.appended_bytes - before.appended_bytes) / commits as u64;
        assert!(timeline.last_record_lsn() == updates.last_lsn());
        store.borrow().recycle(&timeline);
        sample
    });
    turns.add("append and fdatasync, a file that grows", || {
        bare(commits, *frame_len.borrow() as usize, false)
    });
    turns.add("the same over blocks that are written already", || {
        bare(commits, *frame_len.borrow() as usize, true)
    });
    let measured = turns.run(run.size(7, 1), Clock::Wall);
    drop(turns);
    let len = frame_len.into_inner();
    context.report.table(
        format_args!("{records} records of 60 to 200 B a commit, {len} bytes of log"),
        &measured,
        Some(1),
    );
    let [engine, grows, written] = &measured[..] else { unreachable!() };
    let per_second = engine.per_second() * records as f64;
    context.report.line(format_args!(
        "  engine: {:.0} k records/s, {:.1} MB/s; CPU {:.1} us a commit; bare: {:.0} k records/s growing, {:.0} k written\n",
        per_second / 1e3,
        engine.per_second() * len as f64 / 1e6,
        engine.process_ns.median / 1e3,
        grows.per_second() * records as f64 / 1e3,
        written.per_second() * records as f64 / 1e3,
    ));
    let ratio = engine.times_faster_than(grows);
    let what = format!("synced commits of {records} records, to append and fdatasync");
    context.report.goal(what, ratio, Wanted::AtLeast(0.9), "x");
    if let Some(goal) = goal {
        let what = format!("synced records a second, {records} a commit");
        context.report.goal(what, per_second / 1e3, Wanted::AtLeast(goal / 1e3), "k/s");
    }
}

/// Appends and syncs, `times` over.
fn bare(times: usize, len: usize, written: bool) -> Sample {
    let dir = Place::Disk.dir();
    let bytes = vec![0x5A; len];
    let file = bare_file(dir.path(), if written { times * len } else { 0 });
    let (done, sample) = timed(times as u64, || -> std::io::Result<()> {
        for n in 0..times {
            file.write_all_at(&bytes, (n * len) as u64)?;
            file.sync_data()?;
        }
        Ok(())
    });
    done.expect("a file is written");
    sample
}

fn bare_file(dir: &Path, len: usize) -> File {
    let mut file = File::create_new(dir.join("file")).expect("a file");
    file.write_all(&vec![0; len]).expect("zeros");
    file.sync_all().expect("a sync");
    file
}
