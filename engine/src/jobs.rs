//! Jobs: turn layers into other layers, on the store's threads or on a caller's.

pub(crate) mod compact;
mod cut_chains;
pub(crate) mod flush;
pub(crate) mod flush_future;
pub(crate) mod new_layer;
pub(crate) mod publish_edit;
pub(crate) mod roll;
