//! Flushing: frozen layers become delta layers, in the background, oldest first.
//!
//! The order of durable steps is defined here and nowhere else:
//!
//! 1. write and sync the layer file,
//! 2. sync the directory, which holds the file's marker (see `leftovers`),
//! 3. rename the file to its name,
//! 4. sync the directory,
//! 5. append the edit to the manifest and sync it,
//! 6. remove the marker,
//! 7. publish the layer map,
//! 8. free the log below the layer.
//!
//! If a step fails, the frozen layer stays in memory and readable. If the file was durable by then,
//! the next try reuses it and must not write the layer a second time, because the manifest may
//! already name it. Otherwise the file is removed and the next try starts over.

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

/// A flush reports progress after this many versions.
const PROGRESS_VERSIONS: u64 = 1024;

/// The layers that are frozen at one moment, to wait for. Layers frozen later are not included.
#[derive(Debug)]
pub(crate) struct FlushTarget {
    /// The committed Lsn of the newest one.
    newest: Lsn,
    /// Number of flushes that had failed before.
    failures: u64,
}

impl TimelineShared {
    /// Starts a flush of the layers that are frozen now, and returns what to wait for; `None` if
    /// nothing is frozen.
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

    /// Returns the result of waiting for `target`, or `None` while it is not decided.
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

    /// Wakes the threads and tasks that wait for a flush to end. Must be called after each change
    /// of the state that they check.
    fn tell_flush_ended(&self) {
        self.flush_ended.notify_all();
        self.flush_waiters.reached(Lsn::MAX);
    }

    /// Returns the error of the last flush if it failed and the next try is not due. For callers
    /// that need a flush but did not request one.
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

    /// As [`TimelineShared::flush_oldest`], for the flush thread: respects the retry delay unless a
    /// caller requested a flush.
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
        // There is no flush thread that retries.
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

    /// Waits until a flush has ended, successfully or not. Without a flush thread, flushes itself.
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

    /// Tells all waiters that there will be no more flushes.
    pub(crate) fn stop_flushing(&self) {
        // The redo may hold a handle of this timeline.
        let redo = self.flush_redo.lock().take();
        drop(redo);
        self.flush.lock().stopped = true;
        self.tell_flush_ended();
    }

    /// Flushes the oldest frozen layer, if there is one. Returns how soon to call again: at once if
    /// there may be another, after a delay if the flush failed.
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
                // The map version loaded above is released by now; this layer's count must be next.
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
                let delay = options.retry_delay(state.failures, options.flush_retry_delay_max);
                let delay = is_tried_again.then_some(delay);
                state.retry_at = delay.map(|delay| options.clock.now().saturating_add(delay));
                delay
            }
        };
        self.tell_flush_ended();
        again
    }

    /// Returns the length of the layer file, and how many pages were made for it.
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

    /// Publishes that the oldest frozen layer is durable (in a file, unless it was empty) and frees
    /// the log that is no longer needed.
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
            // Before the map is published: a thread that waits for this flush first sees that the
            // map has no frozen layer, and then reads this value.
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

    /// Leaves a durable file to the next try, unless the file is unusable: then it is written
    /// again.
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

    /// Writes a layer file, durably under its name, in one pass over the sorted versions and in the
    /// writer's fixed memory. Materializes pages of long chains on the way.
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

/// Returns the range of the keys and tombstones of a delta layer.
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
