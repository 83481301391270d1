//! Writes: the lease, its commits, imports, and backpressure.

mod backpressure;
pub(crate) mod commit;
pub(crate) mod import;
pub(crate) mod lease;
pub(crate) mod log_room;
