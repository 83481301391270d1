//! Reading layer files in each way: mapped, from the block cache, past the page cache; one page and
//! many; what it takes of memory.
//!
//! `cargo bench -p pagestrata-benches --bench reads [-- PART ...]`, with the parts `hot`, `layers`,
//! `many`, `memory`. With `--test`: everything once and small, answers checked, figures without
//! meaning. Stores are in `PAGESTRATA_DISK`.

mod hot;
mod layers;
mod many;
mod memory;
mod pages;

use pagestrata::Access;
use pagestrata_benches::{
    allocations::Counting,
    parts::{Context, run_parts},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MODES: [Access; 3] = [Access::MMAP, Access::Pread, Access::Direct];

fn main() {
    run_parts(
        "reads",
        &[
            ("hot", hot::measure),
            ("layers", layers::measure),
            ("many", many::measure),
            ("memory", memory::measure),
        ],
    );
}
