//! PostgreSQL's pages by redo: each type of record, chains of them, pages read from a store, and
//! the ingest of a log.
//!
//! `cargo bench -p pagestrata-benches --bench redo [-- PART ...]`, with the parts `records`,
//! `chains`, `pages`, `ingest`. With `--test`: everything once and small, figures without meaning.
//! `PAGESTRATA_CAPTURES` names the directory of captures, whose `pgbench/main` and `pgbench/fpwoff`
//! are read; without it the sample in `engine/postgres` is. Stores are in `PAGESTRATA_DISK`.

mod capture;
mod chains;
mod ingest;
mod pages;
mod records;

use pagestrata_benches::{
    allocations::Counting,
    parts::{Context, run_parts},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    run_parts(
        "redo",
        &[
            ("records", records::measure),
            ("chains", chains::measure),
            ("pages", pages::measure),
            ("ingest", ingest::measure),
        ],
    );
}
