//! The engine from outside, in one binary.

mod damage;
mod faults;
mod flushing;
mod imports;
mod log;
mod model;
mod scenarios;
mod store;
mod support;
