//! [`LogOptions`]: what a log is opened with.

use std::sync::Arc;

/// What a log is opened with.
#[derive(Clone)]
pub struct LogOptions {
    /// Goes into every checksum.
    pub store: u128,
    /// Length of a segment, in bytes: [`crate::SEGMENT_SIZE_MIN`] to [`crate::SEGMENT_SIZE_MAX`]. A
    /// record that is longer gets a longer one.
    pub segment_size: u64,
    /// How many bytes of segments that are not needed any more are kept for recycling.
    pub free_max_bytes: u64,
    /// Whether a segment is written with zeros when it is made, so that it syncs faster later: for
    /// a log whose syncs are waited for. Else only its room is taken, and it is made faster.
    pub segments_written: bool,
    /// Called when there is something for [`crate::Log::work`] to do, if a background thread does
    /// it.
    pub wake: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Called when there is something for [`crate::Log::prepare`] to do, if a background thread
    /// does it. It should be another thread than that of [`crate::Log::work`]: making a segment
    /// takes long, and syncs must not wait for it, nor it for them.
    pub wake_preparer: Option<Arc<dyn Fn() + Send + Sync>>,
}
