//! End to end: put in batches of 16, roll as the options say, flush in the background; until
//! everything is in layer files.

use std::cell::RefCell;

use pagestrata::Options;
use pagestrata_benches::{
    measure::{Clock, Sample, Turns, timed},
    report::Wanted,
    stores::{Place, TempStore, unlogged},
    updates::{BATCH, Updates},
};

use crate::Context;

/// What the field's layer engine was measured at, records a second: 128 MiB in batches of 16 into
/// one delta layer on tmpfs, on a machine of this size.
const FIELD_RANDOM: f64 = 482e3;
const FIELD_SEQUENTIAL: f64 = 1.22e6;
const FIELD_PAGES: f64 = 33e3;

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    context.report.part(format_args!("ingest and flush, batches of {BATCH} (wall)"));
    for mib in [128, 512] {
        let count = run.size((mib << 20) / 100, mib * 100);
        let random = Updates::random(run.seed, count, count as u32, 100);
        case(context, &format!("{mib} MiB of 100 B, random keys"), &random, FIELD_RANDOM);
    }
    let count = run.size((128 << 20) / 100, 12_800);
    let sequential = Updates::sequential(run.seed, count, 100);
    case(context, "128 MiB of 100 B, sequential keys", &sequential, FIELD_SEQUENTIAL);
    let count = run.size((128 << 20) / 8192, 200);
    let pages = Updates::sequential(run.seed, count, 8192);
    case(context, "128 MiB of 8 KiB, sequential keys", &pages, FIELD_PAGES);
}

fn case(context: &mut Context, name: &str, updates: &Updates, field: f64) {
    let keeping = Options { pool_retained_max_bytes: 2 << 30, ..unlogged() };
    let forgetting = Options { pool_retained_max_bytes: 0, ..unlogged() };
    let mut turns = Turns::new();
    turns.add("tmpfs, all memory recycled", rounds(Place::Tmpfs, keeping.clone(), updates));
    turns.add("tmpfs, default options", rounds(Place::Tmpfs, unlogged(), updates));
    turns.add("tmpfs, fresh memory", rounds(Place::Tmpfs, forgetting, updates));
    turns.add("disk, all memory recycled", rounds(Place::Disk, keeping, updates));
    let measured = turns.run(context.run.size(5, 1), Clock::Wall);
    drop(turns);
    context.report.table(format_args!("{name}, {} records", updates.len()), &measured, Some(0));
    for each in &measured {
        let name = &each.name;
        let per_second = each.per_second() / 1e6;
        let cpu = each.process_ns.median;
        let times = each.per_second() / field;
        context.report.line(format_args!(
            "  {name:50} {per_second:.2} M records/s, CPU {cpu:.0} ns a record, {times:.1} times the field"
        ));
    }
    context.report.line("");
    if field != FIELD_RANDOM {
        return;
    }
    let what = format!("ingest and flush, {name}, tmpfs: times the field");
    context.report.goal(what, measured[0].per_second() / field, Wanted::AtLeast(6.0), "x");
}

fn rounds(place: Place, options: Options, updates: &Updates) -> impl FnMut() -> Sample + use<'_> {
    let store = RefCell::new(TempStore::new(place, options));
    move || {
        let timeline = store.borrow_mut().timeline();
        let (flushed, sample) = timed(updates.len() as u64, || {
            updates.put_all(&mut timeline.write_lease()?)?;
            timeline.flush()
        });
        assert!(flushed.expect("puts and a flush") == updates.last_lsn());
        let versions = timeline.layers().iter().map(|layer| layer.versions).sum::<u64>();
        assert!(versions == updates.len() as u64);
        store.borrow().recycle(&timeline);
        sample
    }
}
