//! The engine from outside, in one binary.

mod store;
