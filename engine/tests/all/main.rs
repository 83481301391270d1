//! The engine from outside, in one binary.

mod access;
mod closing;
mod compaction;
mod crashes;
mod damage;
mod delayed;
mod executor;
mod faults;
mod flushing;
mod imports;
mod leases;
mod log;
mod log_damage;
mod log_room;
mod long_chains;
mod lookups;
mod many;
mod model;
mod scenarios;
mod soak;
mod stalls;
mod store;
mod support;
mod tidy;
