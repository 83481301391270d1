//! Integration tests of the ground floor.

mod block_reads;
mod direct_refused;
mod layer_damage;
mod layer_filter;
mod layer_golden;
mod layer_memory;
mod layer_model;
mod manifest_memory;
mod support;
