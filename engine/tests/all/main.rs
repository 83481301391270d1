//! The engine from outside, in one binary.

mod crashes;
mod damage;
mod faults;
mod flushing;
mod imports;
mod log;
mod model;
mod store;
mod support;
