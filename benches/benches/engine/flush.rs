//! Flushing one frozen layer: rolled already, so what is timed is sorting, writing, syncing and
//! publishing.

use std::{cell::RefCell, fs::File, io::Write};

use pagestrata_benches::{
    measure::{Clock, Sample, Turns, timed},
    stores::{Place, TempStore, one_layer},
    updates::Updates,
};

use crate::Context;

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    let (small, blocks) = run.size((2_000_000, 1_060_000), (20_000, 10_600));
    let large = run.size(25_000, 200);
    let cases = [
        ("100 B, random keys", Updates::random(run.seed, small, blocks, 100)),
        ("100 B, sequential keys", Updates::sequential(run.seed, small, 100)),
        ("8 KiB, random keys", Updates::random(run.seed, large, large as u32, 8192)),
    ];
    context.report.part("flush of one frozen layer (wall)");
    for place in [Place::Tmpfs, Place::Disk] {
        for (name, updates) in &cases {
            case(context, place, name, updates);
        }
    }
}

fn case(context: &mut Context, place: Place, name: &str, updates: &Updates) {
    let store = RefCell::new(TempStore::new(place, one_layer()));
    let flushed_len = RefCell::new(0);
    let mut turns = Turns::new();
    turns.add("flush", || {
        let timeline = store.borrow_mut().timeline();
        updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
        let (flushed, sample) = timed(updates.len() as u64, || timeline.flush());
        assert!(flushed.expect("a flush") == updates.last_lsn());
        let layers = timeline.layers();
        assert!(layers.iter().map(|layer| layer.versions).sum::<u64>() == updates.len() as u64);
        *flushed_len.borrow_mut() = layers.iter().map(|layer| layer.file_bytes).sum();
        let verified = timeline.verify().expect("sound files");
        assert!(verified.versions == updates.len() as u64);
        store.borrow().recycle(&timeline);
        sample
    });
    turns.add("as many bytes written and synced, without engine", || {
        plain_write(place, updates.len(), *flushed_len.borrow())
    });
    let measured = turns.run(context.run.size(3, 1), Clock::Wall);
    drop(turns);
    context.report.table(
        format_args!("{name}, {} records, {}", updates.len(), place.name()),
        &measured,
        Some(1),
    );
    let [flush, plain] = &measured[..] else { unreachable!() };
    let bytes = flushed_len.into_inner() as f64 / updates.len() as f64;
    context.report.line(format_args!(
        "  flush: {:.0} MB/s, {:.2} M records/s, {:.1} bytes of file a record, CPU {:.0} ns a record; plain write: {:.0} MB/s\n",
        bytes * flush.per_second() / 1e6,
        flush.per_second() / 1e6,
        bytes,
        flush.process_ns.median,
        bytes * plain.per_second() / 1e6,
    ));
}

/// Writes a file of this length in pieces of 256 KiB, and syncs it.
fn plain_write(place: Place, ops: usize, len: u64) -> Sample {
    const PIECE: usize = 256 << 10;
    let dir = place.dir();
    let piece = vec![0x5A; PIECE];
    let (written, sample) = timed(ops as u64, || -> std::io::Result<()> {
        let mut file = File::create_new(dir.path().join("file"))?;
        let mut left = len as usize;
        while left > 0 {
            let now = left.min(PIECE);
            file.write_all(&piece[..now])?;
            left -= now;
        }
        file.sync_data()
    });
    written.expect("a file is written");
    sample
}
