//! Reads: pin the layer map, walk it for one key or many, and return what the layers hold.

pub(crate) mod detached;
pub(crate) mod fetch;
pub(crate) mod guard;
pub(crate) mod multi_get;
pub(crate) mod newest;
pub(crate) mod scan;
pub(crate) mod scratch;
pub(crate) mod snapshot;
pub(crate) mod walk;
mod window;
