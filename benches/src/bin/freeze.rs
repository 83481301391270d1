//! Fills an open layer with so many bytes of values and rolls it: `freeze BYTES`. For
//! `benches/freeze.sh`, which counts the instructions of the roll; the allocations are counted
//! here.

use std::io::Write;

use pagestrata_benches::{
    allocations::{Counting, allocations},
    stores::{Place, TempStore, one_layer},
    updates::Updates,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bytes: usize = std::env::args().nth(1).ok_or("freeze BYTES")?.parse()?;
    let updates = Updates::random(0x5EED, bytes / 100, (bytes / 100) as u32, 100);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    let timeline = store.timeline();
    let mut lease = timeline.write_lease()?;
    updates.put_all(&mut lease)?;
    let before = allocations();
    lease.roll()?;
    let count = allocations() - before;
    writeln!(std::io::stdout(), "{count}")?;
    Ok(())
}
