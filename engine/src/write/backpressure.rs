//! Delays commits while flushing is behind.

use crate::{options::Background, state::timeline::TimelineShared};

impl TimelineShared {
    /// Called after a commit of `bytes` that filled the open layer to `used_bytes`: sleeps if
    /// flushing is behind. Does nothing in a store without threads, where callers flush themselves.
    pub(crate) fn pace(&self, bytes: u64, used_bytes: u64) {
        let options = &self.store.options;
        if options.background == Background::Callers || options.write_delay_max.is_zero() {
            return;
        }
        let open_layers = used_bytes as f64 / options.open_layer_size_max_bytes as f64;
        let max = options.frozen_layers_max;
        let delay = self.pacer.delay_of(bytes, open_layers, max, options.write_delay_max);
        if let Some(owed) = self.pacer.owe(delay) {
            std::thread::sleep(owed);
        }
    }
}
