//! The engine from outside, in one binary.

mod faults;
mod memory_storage;
mod store;
