//! The engine from outside, in one binary.

mod faults;
mod flushing;
mod imports;
mod memory_storage;
mod store;
