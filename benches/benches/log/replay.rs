//! Opening a store whose log holds a gigabyte that no layer file has, beside reading the log and
//! copying as much memory.

use std::{fs::File, hint::black_box, os::unix::fs::FileExt, path::Path};

use pagestrata::{Lsn, Options, Store};
use pagestrata_benches::{
    machine::with_peak_memory,
    measure::{Clock, Sample, Turns, timed},
    report::Wanted,
    stores::Place,
    updates::Updates,
};

use crate::{Context, commit};

const PIECE: usize = 1 << 20;

pub(crate) fn measure(context: &mut Context) {
    context.report.part("replay of a log (wall), warm");
    for (name, len, blocks) in
        [("60 to 200 B, random keys", 60..=200, 1_060_000), ("8 KiB pages", 8192..=8192, 130_000)]
    {
        let run = context.run.clone();
        let mean = (len.start() + len.end()) / 2;
        let count = run.size(1 << 30, 1 << 20) / (mean + 12);
        let updates = Updates::mixed(run.seed, count, blocks, len);
        case(context, name, &updates);
    }
}

fn options() -> Options {
    Options { open_layer_size_max_bytes: 4 << 30, ..commit::options() }
}

fn case(context: &mut Context, name: &str, updates: &Updates) {
    let dir = Place::Disk.dir();
    let path = dir.path().join("store");
    let (store, _) = Store::open(&path, options()).expect("a new store");
    let timeline = store.create_timeline("main", Lsn(1)).expect("a new timeline");
    updates.commit_each(&mut timeline.write_lease().expect("a free lease"), 1000).expect("commits");
    let log_bytes = store.stats().log.appended_bytes;
    drop((timeline, store));

    let (opened, peak) = with_peak_memory(|| Store::open(&path, options()));
    let layers = opened.expect("a sound store").0.stats().memory_bytes();
    let mut turns = Turns::new();
    turns.add("Store::open", || {
        let (opened, sample) = timed(log_bytes, || Store::open(&path, options()));
        let (store, report) = opened.expect("a sound store");
        assert!(report.log_bytes == log_bytes && report.log_torn_at.is_none());
        let timeline = store.timeline("main").expect("it was created");
        assert!(timeline.last_record_lsn() == updates.last_lsn());
        assert!(timeline.stats().open_versions == updates.len() as u64);
        sample
    });
    turns.add("reading the segments in pieces of 1 MiB", || read_all(&path.join("log"), log_bytes));
    turns.add("memcpy of as much, in pieces of 1 MiB", || copy(log_bytes));
    turns.add("filling as much new memory", || fill_new(log_bytes));
    let measured = turns.run(context.run.size(5, 1), Clock::Wall);
    drop(turns);
    context.report.table(format_args!("{name}: {log_bytes} bytes, ns a byte"), &measured, Some(1));
    let [open, read, copy, fill] = &measured[..] else { unreachable!() };
    let rate = |of: &pagestrata_benches::measure::Measured| of.per_second() / 1e6;
    context.report.line(format_args!(
        "  open {:.0} MB/s ({:.2} s), read {:.0} MB/s, copy {:.0} MB/s, fill new memory {:.0} MB/s; memory at its highest {} MB, of the layers {} MB\n",
        rate(open),
        open.ns.median * log_bytes as f64 / 1e9,
        rate(read),
        rate(copy),
        rate(fill),
        peak / 1_000_000,
        layers / 1_000_000,
    ));
    let slower = if read.ns.median > copy.ns.median { read } else { copy };
    context.report.goal(
        format_args!("replay of {name}, to the slower of read and copy"),
        open.times_faster_than(slower),
        Wanted::AtLeast(0.5),
        "x",
    );
}

fn read_all(dir: &Path, bytes: u64) -> Sample {
    let mut piece = vec![0; PIECE];
    let (done, sample) = timed(bytes, || -> std::io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let file = File::open(entry?.path())?;
            let len = file.metadata()?.len();
            let mut at = 0;
            while at < len {
                let now = PIECE.min((len - at) as usize);
                file.read_exact_at(&mut piece[..now], at)?;
                black_box(&piece);
                at += now as u64;
            }
        }
        Ok(())
    });
    done.expect("segments are read");
    sample
}

fn copy(bytes: u64) -> Sample {
    let from = vec![1_u8; bytes as usize];
    let mut to = vec![2_u8; bytes as usize];
    let ((), sample) = timed(bytes, || {
        for (to, from) in to.chunks_mut(PIECE).zip(from.chunks(PIECE)) {
            to.copy_from_slice(from);
            black_box(to);
        }
    });
    sample
}

/// What no recovery into memory can do without: the kernel clears each page before it hands it out.
fn fill_new(bytes: u64) -> Sample {
    let pieces = bytes.div_ceil(32 << 20);
    let (filled, sample) =
        timed(bytes, || (0..pieces).map(|_| vec![1_u8; 32 << 20]).collect::<Vec<_>>());
    black_box(filled);
    sample
}
