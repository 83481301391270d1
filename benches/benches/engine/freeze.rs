//! Freezing: `WriteLease::roll` on open layers of different sizes. It allocates the same and takes
//! the same time. `benches/freeze.sh` counts its instructions. Waking the flush thread is in the
//! time: a system call that takes longer when that thread's core has gone to sleep.

use pagestrata_benches::{
    allocations::allocations,
    measure::{Spread, timed},
    stores::{Place, TempStore, one_layer},
    updates::Updates,
};

use crate::Context;

pub(crate) fn measure(context: &mut Context) {
    context.report.part("freeze: WriteLease::roll on an open layer");
    let full = context.run.full;
    let sizes: &[usize] = if full { &[1 << 20, 16 << 20, 256 << 20] } else { &[64 << 10, 1 << 20] };
    let mut counts = Vec::new();
    for &size in sizes {
        let count = size / 100;
        let updates = Updates::random(context.run.seed, count, count as u32, 100);
        let rounds = (0..context.run.size(5, 1)).map(|_| {
            // A new store each time, so that nothing is retired yet.
            let mut store = TempStore::new(Place::Tmpfs, one_layer());
            let timeline = store.timeline();
            let mut lease = timeline.write_lease().expect("a free lease");
            updates.put_all(&mut lease).expect("puts");
            let before = allocations();
            let (rolled, sample) = timed(1, || lease.roll());
            rolled.expect("a roll");
            counts.push(allocations() - before);
            assert!(timeline.stats().open_versions == 0);
            sample.wall.as_nanos() as f64
        });
        let ns = Spread::of(rounds);
        context.report.line(format_args!(
            "  {:6} KiB of values: {:.0} ns (min {:.0}, max {:.0}), {} allocations",
            size >> 10,
            ns.median,
            ns.min,
            ns.max,
            counts[counts.len() - 1]
        ));
    }
    assert!(
        counts.iter().all(|&count| count == counts[0]),
        "freezing depends on the size: {counts:?}"
    );
}
