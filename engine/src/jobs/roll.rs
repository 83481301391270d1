//! Rolling: the open layer becomes a frozen one, and an empty one takes its place.

use std::sync::{Arc, atomic::Ordering};

use pagestrata_layers::{FrozenLayer, Lsn, OpenLayer};

use crate::{
    error::{Error, Result},
    options::Background,
    state::timeline::TimelineShared,
};

impl TimelineShared {
    /// Freezes the open layer and puts an empty one in its place. Costs a few allocations of fixed
    /// size, whatever the layer holds. The caller must hold the write lease, with nothing
    /// uncommitted.
    pub(crate) fn roll(self: &Arc<Self>, writer: &mut OpenLayer) {
        assert!(!writer.has_pending(), "a layer is rolled when everything in it is committed");
        self.pacer.froze(writer.used_bytes(), self.clock().now());
        let next = OpenLayer::new(writer.last_lsn().next(), &self.store.pool);
        debug_assert!(next.layer().start_lsn() > writer.layer().committed_lsn());
        debug_assert!(next.layer().is_empty());
        let shared = next.layer().clone();
        let frozen: FrozenLayer = std::mem::replace(writer, next).freeze();
        {
            let _edits = self.edits.lock();
            self.published.publish(|map| {
                debug_assert!(Arc::ptr_eq(&map.open.layer, frozen.layer()));
                // Before another thread can flush and retire the layer: the reclaimer must find no
                // count of ours.
                drop(frozen);
                let next = map.rolled(shared, self.published.number() + 1);
                verify!(
                    next.is_sound(),
                    "layers in memory are above each other and above all files"
                );
                next
            });
        }
        self.store.wake_flusher();
    }

    /// Rolls the open layer if it holds a commit at or below `upper` and the write lease is free.
    /// Returns false if the maximum number of layers is frozen already.
    pub(crate) fn roll_unless_leased(self: &Arc<Self>, upper: Lsn) -> bool {
        let mut slot = self.writer.lock();
        let Some(writer) = slot.as_deref_mut() else { return true };
        if !self.is_flush_due(writer) || upper < writer.layer().start_lsn() {
            return true;
        }
        if self.look().frozen.len() >= self.store.options.frozen_layers_max {
            return false;
        }
        self.roll(writer);
        true
    }

    /// Called after a commit was replayed from the log. As after any other commit, but the flush is
    /// done here, because no flush thread runs yet. If it fails, the layers stay in memory.
    pub(crate) fn recovered(self: &Arc<Self>, lsn: Lsn, writer: &mut OpenLayer) {
        assert!(lsn > self.disk_consistent_lsn(), "a commit in layer files is not replayed");
        debug_assert!(writer.layer().committed_lsn() == lsn && !writer.has_pending());
        self.last_record_lsn.store(lsn.0, Ordering::Release);
        if writer.used_bytes() < self.store.options.open_layer_size_max_bytes {
            return;
        }
        let is_crowded = self.look().frozen.len() >= self.store.options.frozen_layers_max;
        // A store that is opened to be salvaged or read is not written to.
        let may_write = !self.store.options.salvage_log && !self.store.reads_only;
        if is_crowded && may_write && self.flush.lock().failures == 0 {
            self.flush_oldest();
            // The reclaimer thread does not run yet.
            self.reclaim();
        }
        self.roll(writer);
    }

    /// Rolls, unless the write lease is held, and waits until everything frozen then is flushed.
    pub(crate) fn flush_now(self: &Arc<Self>) -> Result<Lsn> {
        self.check_flushable()?;
        while !self.roll_unless_leased(Lsn::MAX) {
            self.wait_flushed()?;
        }
        self.wait_flushed_and_reclaim()
    }

    /// Waits as [`TimelineShared::wait_flushed`] does, and then frees retired layers if no thread
    /// does. Returns the disk-consistent Lsn.
    pub(crate) fn wait_flushed_and_reclaim(&self) -> Result<Lsn> {
        self.wait_flushed()?;
        if self.store.options.background == Background::Callers {
            self.reclaim();
        }
        Ok(self.disk_consistent_lsn())
    }

    /// Returns an error if the log has failed: nothing is flushed after that.
    pub(crate) fn check_flushable(&self) -> Result<()> {
        self.store.read_only_cause().map_or(Ok(()), |cause| Err(Error::ReadOnly { cause }))
    }

    /// Whether the open layer holds commits that are in no layer file yet.
    pub(crate) fn is_flush_due(&self, writer: &OpenLayer) -> bool {
        let layer = writer.layer();
        let committed = layer.committed_lsn();
        committed > self.disk_consistent_lsn() && committed >= layer.start_lsn()
    }
}
