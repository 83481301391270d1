//! State that the threads of a store share: of the store, of each timeline, and of their readers.
//!
//! The store's state and a timeline's own each other, so this is one room. It knows which layers
//! exist (`layer_map`) and nothing of what reads, jobs and writes do with them.

pub(crate) mod compaction_state;
pub(crate) mod fetch_threads;
pub(crate) mod flush_state;
pub(crate) mod log;
pub(crate) mod pacer;
pub(crate) mod page_cache;
pub(crate) mod pins;
pub(crate) mod retired_files;
pub(crate) mod slots;
pub(crate) mod store;
pub(crate) mod timeline;
pub(crate) mod waiters;
pub(crate) mod wakeup;
