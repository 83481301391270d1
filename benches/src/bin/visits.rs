//! Reads pages through a stack of delta layers, for a counter of instructions:
//! `visits LAYERS none|one|half [PAGES [READS]]`. See `benches/layers.sh`.

use std::{hint::black_box, io::Write, time::Instant};

use pagestrata::{Key, Lsn, Scratch, Timeline};
use pagestrata_benches::{
    stacks::{Held, Stack},
    stores::{Place, TempStore, one_layer},
};

const SEED: u64 = 0x5EED;
const USAGE: &str = "usage: visits LAYERS none|one|half [PAGES [READS]]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| args.get(at).map_or(Ok(default), |arg| arg.parse());
    let held = |arg: &String| Held::ALL.into_iter().find(|held| held.name() == arg);
    let (layers, held) = (number(0, 0)?, args.get(1).and_then(held).ok_or(USAGE)?);
    let (pages, reads) = (number(2, 3_000)?, number(3, 1_000)? as usize);

    let stack = Stack::new(SEED, pages, layers, 64);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    let timeline = store.timeline();
    let last = stack.put_all(&timeline);
    let queries = stack.queries(SEED, held, reads);
    let expected: usize = queries.iter().map(|key| stack.versions(key.block)).sum();
    let mut scratch = Scratch::new();
    // The first time each block is verified.
    read(&timeline, &queries, last, &mut scratch);
    let began = Instant::now();
    let found = read_counted(&timeline, &queries, last, &mut scratch);
    let taken = began.elapsed();
    assert_eq!(found, expected, "versions");
    let each = taken.as_nanos() as f64 / reads as f64;
    let versions = found as f64 / reads as f64;
    writeln!(std::io::stdout(), "{reads} reads, {versions:.1} versions and {each:.0} ns each")?;
    Ok(())
}

/// What the script counts.
#[inline(never)]
fn read_counted(timeline: &Timeline, keys: &[Key], lsn: Lsn, scratch: &mut Scratch) -> usize {
    read(timeline, keys, lsn, scratch)
}

#[inline(always)]
fn read(timeline: &Timeline, keys: &[Key], lsn: Lsn, scratch: &mut Scratch) -> usize {
    let (mut reader, mut found) = (timeline.reader(), 0);
    for &key in keys {
        let guard = reader.pin();
        let versions = guard.versions(key, lsn, scratch).expect("a read");
        for version in versions.newest_first() {
            black_box(version.bytes.first());
        }
        found += versions.len();
    }
    found
}
