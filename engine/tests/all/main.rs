//! The engine from outside, in one binary.

mod model;
mod store;
