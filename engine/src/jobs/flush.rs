//! Flushing: frozen layers become delta layers, in the background, oldest first.
//!
//! The order of durable steps, here and nowhere else: layer file written and synced; directory with
//! its marker synced (see `leftovers`); renamed to its name; directory synced; manifest edit
//! appended and synced; marker removed; published; the log below it freed. A step that fails leaves
//! the frozen layer where it was, in memory and readable. A file that was durable by then is taken
//! up by the next try, which must not make the layer twice: whether the manifest names it is not
//! known. Of any other file nothing stays, and the next try begins anew.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use pagestrata_layers::{
    Error as LayersError, Key, KeyRange, Lsn, MemLayer, PageVersion,
    layer_file::{LayerKind, Tombstone},
    manifest::edit::{Edit, LayerRecord},
};
use parking_lot::MutexGuard;

use crate::{
    error::{Error, Result},
    jobs::{cut_chains::ChainCutter, new_layer::NewLayer, publish_edit::LayerEdit},
    layer_map::file_names::layer_file_name,
    options::Background,
    state::{
        flush_state::{Durable, FlushState, PageCounts},
        timeline::TimelineShared,
    },
};

/// After so many versions a flush says how far it is.
const PROGRESS_VERSIONS: u64 = 1024;

/// The layers that were frozen at one moment, to be waited for. Layers that are frozen later are
/// not.
#[derive(Debug)]
pub(crate) struct FlushTarget {
    /// The committed Lsn of the newest of them.
    newest: Lsn,
    /// All tries that had failed before.
    failures: u64,
}

impl TimelineShared {
    /// Has the layers flushed that are frozen now, and returns what to wait for; `None`: nothing is
    /// frozen.
    pub(crate) fn flush_target(&self) -> Option<FlushTarget> {
        let newest = self.look().frozen.first().map(|slot| slot.layer.committed_lsn())?;
        let failures = {
            let mut state = self.flush.lock();
            state.is_asked_for = true;
            state.failures_total
        };
        self.store.wake_flusher();
        Some(FlushTarget { newest, failures })
    }

    /// Returns how waiting for `target` has ended, or `None` while it has to go on.
    pub(crate) fn flush_outcome(&self, target: &FlushTarget) -> Option<Result<()>> {
        self.flush_outcome_in(target, &self.flush.lock())
    }

    fn flush_outcome_in(&self, target: &FlushTarget, state: &FlushState) -> Option<Result<()>> {
        let oldest = self.look().frozen.last().map(|oldest| oldest.layer.committed_lsn());
        if oldest.is_none_or(|oldest| oldest > target.newest) {
            return Some(Ok(()));
        }
        if state.stopped {
            return Some(Err(Error::Closed));
        }
        let cause = state.last_error.clone().filter(|_| state.failures_total > target.failures)?;
        Some(Err(Error::FlushFailed { timeline: self.name.clone(), cause }))
    }

    /// Waits until every layer that is frozen at the time of the call has been flushed. Layers
    /// frozen later are not waited for.
    pub(crate) fn wait_flushed(&self) -> Result<()> {
        let Some(target) = self.flush_target() else { return Ok(()) };
        let mut state = self.flush.lock();
        loop {
            if let Some(outcome) = self.flush_outcome_in(&target, &state) {
                return outcome;
            }
            self.wait_flush_ended(&mut state);
        }
    }

    /// Wakes the threads and tasks that wait for a flush to end. Called after each change of what
    /// they look at.
    fn tell_flush_ended(&self) {
        self.flush_ended.notify_all();
        self.flush_waiters.reached(Lsn::MAX);
    }

    /// Whether the last flush failed and the next try is not due: who needs a flush, and did not
    /// ask for one by name, gets the error of the last one.
    pub(crate) fn check_flushing(&self) -> Result<()> {
        let state = self.flush.lock();
        let is_later = state.retry_at.is_some_and(|at| at > self.clock().now());
        match &state.last_error {
            Some(cause) if is_later && self.store.options.background == Background::Threads => {
                Err(Error::FlushFailed { timeline: self.name.clone(), cause: cause.clone() })
            }
            _ => Ok(()),
        }
    }

    /// As [`TimelineShared::flush_oldest`], for the background: not while it waits for its next
    /// try, unless a caller asked for one.
    pub(crate) fn flush_if_due(&self) -> Option<Duration> {
        {
            let mut state = self.flush.lock();
            let is_asked_for = std::mem::take(&mut state.is_asked_for);
            let left = state.retry_at.map(|at| at.saturating_sub(self.clock().now()));
            if let Some(left) = left.filter(|left| !left.is_zero() && !is_asked_for) {
                return Some(left);
            }
        }
        self.flush_oldest()
    }

    /// Waits until one more layer may be frozen.
    ///
    /// # Errors
    /// [`Error::FlushStalled`], [`Error::Closed`]: waiting will not help now.
    pub(crate) fn wait_for_frozen_slot(&self) -> Result<()> {
        let max = self.store.options.frozen_layers_max;
        let mut state = self.flush.lock();
        // Nobody else tries again.
        let mut may_try = self.store.options.background == Background::Callers;
        while self.look().frozen.len() >= max {
            if let Some(cause) = &state.last_error
                && !std::mem::take(&mut may_try)
            {
                return Err(self.stalled(cause.clone()));
            }
            if state.stopped {
                return Err(Error::Closed);
            }
            self.wait_flush_ended(&mut state);
        }
        Ok(())
    }

    /// Waits until a flush has ended, well or not; does one if nobody else does.
    fn wait_flush_ended(&self, state: &mut MutexGuard<'_, FlushState>) {
        match self.store.options.background {
            Background::Threads => self.flush_ended.wait(state),
            Background::Callers => drop(MutexGuard::unlocked(state, || self.flush_oldest())),
        }
    }

    #[cold]
    fn stalled(&self, cause: Arc<Error>) -> Error {
        Error::FlushStalled { timeline: self.name.clone(), cause }
    }

    /// Tells all who wait that there will be no more flushes.
    pub(crate) fn stop_flushing(&self) {
        // It may hold a handle of this timeline.
        let redo = self.flush_redo.lock().take();
        drop(redo);
        self.flush.lock().stopped = true;
        self.tell_flush_ended();
    }

    /// Flushes the oldest frozen layer, if there is one. Returns how soon to come again: at once,
    /// for there may be another, or after a while when it has failed.
    pub(crate) fn flush_oldest(&self) -> Option<Duration> {
        let _one_at_a_time = self.flushing.lock();
        let oldest = self.look().frozen.last().map(|slot| slot.layer.clone());
        let layer = oldest?;
        let flushed = match self.store.read_only_cause() {
            None => self.flush_layer(&layer),
            Some(cause) => Err(Error::ReadOnly { cause }),
        };
        let again = match flushed {
            Ok((bytes, pages)) => {
                // The map version that was loaded above is let go of by now; this layer's count is
                // the next.
                drop(layer);
                match self.store.options.background {
                    Background::Threads => self.wake_reclaimer(),
                    Background::Callers => self.reclaim(),
                }
                let mut state = self.flush.lock();
                (state.failures, state.last_error, state.retry_at) = (0, None, None);
                state.flushes += 1;
                state.flushed_bytes += bytes;
                #[cfg(feature = "tracing")]
                if pages.layers_without_redo > 0 && state.pages.layers_without_redo == 0 {
                    tracing::warn!(
                        timeline = %self.name,
                        "deltas_per_page_max is set, but no chain is cut: the timeline has no \
                         redo; set Options::flush_redo or call Timeline::set_flush_redo"
                    );
                }
                state.pages.add(pages);
                Some(Duration::ZERO)
            }
            Err(error) => {
                #[cfg(feature = "tracing")]
                tracing::warn!(timeline = %self.name, %error, "flush failed");
                let options = &self.store.options;
                let mut state = self.flush.lock();
                let is_tried_again = !matches!(error, Error::ReadOnly { .. });
                state.failures = state.failures.saturating_add(1);
                state.failures_total += 1;
                state.last_error = Some(Arc::new(error));
                let doublings = (state.failures - 1).min(20);
                let delay = options.flush_retry_delay.saturating_mul(1 << doublings);
                let delay = is_tried_again.then(|| delay.min(options.flush_retry_delay_max));
                state.retry_at = delay.map(|delay| options.clock.now().saturating_add(delay));
                delay
            }
        };
        self.tell_flush_ended();
        again
    }

    /// Returns the length of the layer file, and which pages are in it.
    fn flush_layer(&self, layer: &Arc<MemLayer>) -> Result<(u64, PageCounts)> {
        if layer.is_empty() {
            self.publish_flushed(layer, None, |edits| self.store.append_edits(edits))?;
            return Ok((0, PageCounts::default()));
        }
        let left = self.flush.lock().durable.take().filter(|left| Arc::ptr_eq(&left.of, layer));
        let mut durable = match left {
            Some(left) => left,
            None => {
                let (record, pages) = self.write_layer(layer)?;
                Durable { of: layer.clone(), record, pages, in_doubt: false }
            }
        };
        let end = durable.record.summary.lsn_range.end;
        debug_assert_eq!(end, layer.committed_lsn().next(), "the file is of this layer");
        debug_assert_eq!(durable.record.level, 0);
        let published = self.publish_flushed(layer, Some(&durable.record.clone()), |edits| {
            durable.in_doubt = true;
            self.store.append_edits(edits)
        });
        match published {
            Ok(()) => Ok((durable.record.summary.file_len, durable.pages)),
            Err(error) => {
                self.leave(durable, &error);
                Err(error)
            }
        }
    }

    /// Publishes that the oldest frozen layer is durable, in a file unless it was empty, and frees
    /// the log that this makes dispensable.
    fn publish_flushed(
        &self,
        layer: &MemLayer,
        file: Option<&LayerRecord>,
        append: impl FnOnce(&[Edit]) -> Result<()>,
    ) -> Result<()> {
        let lsn = layer.committed_lsn();
        let log_start = self.store.log_start_after(self.number, lsn);
        let added = file.map_or(&[][..], std::slice::from_ref);
        let edit = LayerEdit { added, removed: &[], consistent: Some((lsn, log_start)) };
        let append = |edits: &[Edit]| {
            if cfg!(planted_bug = "freed_before_manifest") {
                self.store.free_log(log_start, self.number, lsn);
            }
            append(edits)
        };
        self.publish_edit(&edit, append, |map, _| {
            // Before the map is published: a thread that waits for this flush first finds nothing
            // frozen in the map, and then reads this.
            self.disk_consistent_lsn.fetch_max(lsn.0, Ordering::AcqRel);
            let oldest = map.frozen.pop().expect("a flush is of a frozen layer");
            assert!(std::ptr::eq(&*oldest.layer, layer), "the flushed layer is the oldest");
            Some(oldest)
        })?;
        self.pacer.flushed(self.clock().now());
        self.wake_reclaimer();
        self.store.free_log(log_start, self.number, lsn);
        let _ = self.store.compactor.wake();
        Ok(())
    }

    /// Leaves a file to the next try, unless it is of no use: then it is written anew.
    fn leave(&self, durable: Durable, error: &Error) {
        let is_damaged = matches!(error, Error::Layers(LayersError::Corrupt(found))
            if found.path.starts_with(&self.dir));
        if !is_damaged {
            self.flush.lock().durable = Some(durable);
        } else if !durable.in_doubt
            && let Ok(_directory) = self.store.lock_directory()
        {
            let path = self.dir.join(layer_file_name(&durable.record));
            let _ = self.store.storage.remove(&path);
        }
    }

    /// Writes a layer file, durably under its name: one pass over the sorted versions, in the
    /// writer's fixed memory. Pages of long chains are made on the way.
    fn write_layer(&self, layer: &MemLayer) -> Result<(LayerRecord, PageCounts)> {
        let mut file = NewLayer::create(self, LayerKind::Delta, 0)?;
        let mut keys: Option<(Key, Key)> = None;
        let tombstones = layer.tombstones()?;
        let (mut written, of) = (0, layer.versions_count());
        let mut put = |key, version: PageVersion<'_>, page: Option<&[u8]>| {
            written += 1;
            if written % PROGRESS_VERSIONS == 0 {
                self.pacer.flushing(written, of, self.clock().now());
            }
            keys = Some((keys.map_or(key, |(first, _)| first), key));
            match page {
                Some(page) => file.put_with_page(key, version.lsn, version.value(), page),
                None => file.put(key, version.lsn, version.value()),
            }
        };
        let pages = match ChainCutter::new(self, layer, &tombstones) {
            Some(cutter) => cutter.cut(&mut put)?,
            None => {
                layer
                    .sorted_from(Key::MIN)
                    .try_for_each(|(key, version)| put(key, version, None))?;
                let is_uncut = self.store.options.deltas_per_page_max > 0;
                PageCounts { layers_without_redo: u64::from(is_uncut), ..PageCounts::default() }
            }
        };
        let lsn_range = layer.start_lsn()..layer.committed_lsn().next();
        Ok((file.finish(key_range(keys, &tombstones), lsn_range, &tombstones)?, pages))
    }
}

/// The keys that a delta layer has something to say about.
fn key_range(keys: Option<(Key, Key)>, tombstones: &[Tombstone]) -> KeyRange {
    let dropped = tombstones.iter().map(|tombstone| {
        let Tombstone { object, first_block, .. } = *tombstone;
        (Key { object, block: first_block }, Key { object, block: u32::MAX })
    });
    let all = keys.into_iter().chain(dropped);
    let (first, last) =
        all.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).expect("a layer that is not empty");
    KeyRange::inclusive(first, last)
}
