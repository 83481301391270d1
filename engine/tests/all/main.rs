//! The engine from outside, in one binary.

mod damage;
mod model;
mod store;
