//! Segments that are not in use: those prepared ahead, and those that are not needed any more.
//!
//! The thread that appends takes a prepared segment and never waits for one to be prepared, as long
//! as the background keeps up: preparing holds a lock of its own, not the one that [`Spares::take`]
//! needs. Only when none is ready does the appending thread prepare one itself, or wait for the
//! background's.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use pagestrata_layers::{Error as LayersError, storage::SharedStorage};
use parking_lot::Mutex;

use crate::{
    Error, LogOptions, Result,
    format::{END_LEN, SEGMENT_HEADER_LEN, SEGMENT_SIZE_MAX, SegmentHeader},
    segment::{create_unnamed, name_all, recycle_unnamed, segment_path},
};

/// So many segments are prepared ahead at most: at 16 MiB a segment, what a fast writer appends in
/// some tenths of a second, so that a device that is busy with a flush for as long does not stop
/// it.
const READY_MAX: u64 = 4;

/// The segments of a log that are not in use.
///
/// Locks, each taken only before the one below: `sequence`, held while segments are prepared;
/// `state`, never held over a call to the storage.
pub(crate) struct Spares {
    storage: SharedStorage,
    dir: PathBuf,
    store: u128,
    segment_size: u64,
    free_max_bytes: u64,
    is_written: bool,
    ready_max: usize,
    /// The current segment is half full, and fewer than `ready_max` are ready.
    wanted: AtomicBool,
    /// No segment ever had this number or a higher one.
    sequence: Mutex<u32>,
    state: Mutex<State>,
}

struct State {
    /// Prepared, durable under their names, in order of their numbers.
    ready: VecDeque<SegmentHeader>,
    /// Not needed any more: sequence number and length.
    free: Vec<(u32, u64)>,
}

impl Spares {
    pub(crate) fn new(
        storage: SharedStorage,
        dir: PathBuf,
        options: &LogOptions,
        next_sequence: u32,
        ready: Vec<SegmentHeader>,
    ) -> Spares {
        let &LogOptions { store, segment_size, free_max_bytes, segments_written, .. } = options;
        assert!(segment_size <= SEGMENT_SIZE_MAX, "segments of {segment_size} bytes");
        // Segments may lie there that no log of this store prepared.
        let used = ready.iter().map(|header| header.sequence.saturating_add(1)).max();
        let next_sequence = used.unwrap_or_default().max(next_sequence);
        debug_assert!(ready.is_sorted_by_key(|header| header.sequence));
        Spares {
            storage,
            dir,
            store,
            segment_size,
            free_max_bytes,
            is_written: segments_written,
            ready_max: (free_max_bytes / segment_size).clamp(1, READY_MAX) as usize,
            wanted: AtomicBool::new(false),
            sequence: Mutex::new(next_sequence),
            state: Mutex::new(State { ready: ready.into(), free: Vec::new() }),
        }
    }

    /// Asks for segments to be prepared. True: it was not asked for before.
    pub(crate) fn ask(&self) -> bool {
        !self.wanted.load(Ordering::Relaxed) && !self.wanted.swap(true, Ordering::Relaxed)
    }

    /// Prepares what was asked for: one segment first, then the rest together, for one sync of
    /// their names is enough for them all.
    pub(crate) fn work(&self) {
        loop {
            let mut sequence = self.sequence.lock();
            // Under the lock: what was given back meanwhile is not made again.
            if !self.wanted.load(Ordering::Relaxed) {
                return;
            }
            let ready = self.state.lock().ready.len();
            let missing = self.ready_max.saturating_sub(ready);
            if missing == 0 {
                return;
            }
            let count = if ready == 0 { 1 } else { missing };
            // What fails here fails again, with an error, when a segment is needed.
            let Ok(prepared) = self.prepare(&mut sequence, count, self.segment_size) else {
                return;
            };
            let mut state = self.state.lock();
            let last = state.ready.back().map(|header| header.sequence);
            debug_assert!(prepared.first().is_some_and(|first| last < Some(first.sequence)));
            state.ready.extend(prepared);
        }
    }

    /// A segment that a frame of this length fits in. It is prepared now if none is ready.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Layers`]
    pub(crate) fn take(&self, len: u64) -> Result<SegmentHeader> {
        let needed = SEGMENT_HEADER_LEN as u64 + len + END_LEN;
        if let Some(header) = self.take_ready(needed) {
            return Ok(header);
        }
        let mut sequence = self.sequence.lock();
        // The background may have been preparing just now.
        if let Some(header) = self.take_ready(needed) {
            return Ok(header);
        }
        let size = match needed > self.segment_size {
            true => needed.next_multiple_of(self.segment_size).min(SEGMENT_SIZE_MAX),
            false => self.segment_size,
        };
        let mut prepared = self.prepare(&mut sequence, 1, size).map_err(Error::of_preparing)?;
        Ok(prepared.pop().expect("one was prepared"))
    }

    /// The first of those that are ready, if it is long enough. One that is not is removed: its
    /// number is too low for any segment after a longer one that is made now. It must not be
    /// recycled: until the longer one is durable a replay may look into it, and would find the
    /// header of another.
    fn take_ready(&self, needed: u64) -> Option<SegmentHeader> {
        let mut too_short = Vec::new();
        let found = {
            let mut state = self.state.lock();
            self.wanted.store(false, Ordering::Relaxed);
            loop {
                match state.ready.pop_front() {
                    Some(header) if header.len < needed => too_short.push(header.sequence),
                    found => break found,
                }
            }
        };
        too_short.into_iter().for_each(|sequence| self.remove(sequence));
        debug_assert!(found.is_none_or(|header| header.len >= needed));
        found
    }

    /// Takes one back that was not used.
    pub(crate) fn put_back(&self, header: SegmentHeader) {
        let mut state = self.state.lock();
        debug_assert!(state.ready.front().is_none_or(|first| header.sequence < first.sequence));
        state.ready.push_front(header);
    }

    /// Keeps segments that are not needed any more, given by sequence number and length, for the
    /// next ones, or removes them.
    pub(crate) fn free(&self, unused: Vec<(u32, u64)>) {
        let mut removed = Vec::new();
        {
            let mut state = self.state.lock();
            for (sequence, len) in unused {
                let kept = (state.free.len() as u64 + 1) * self.segment_size;
                debug_assert!(
                    !state.free.contains(&(sequence, len)),
                    "{sequence:X} is free already"
                );
                if len == self.segment_size && kept <= self.free_max_bytes {
                    state.free.push((sequence, len));
                } else {
                    removed.push(sequence);
                }
            }
        }
        removed.into_iter().for_each(|sequence| self.remove(sequence));
    }

    /// Removes those that are not needed any more, and all prepared ones but the next.
    /// Returns how many were removed.
    pub(crate) fn give_back(&self) -> usize {
        // The background prepares nothing meanwhile that would be removed as soon as it is ready.
        let _sequence = self.sequence.lock();
        let removed: Vec<u32> = {
            let mut state = self.state.lock();
            self.wanted.store(false, Ordering::Relaxed);
            let kept = state.ready.len().min(1);
            let ready: Vec<_> = state.ready.drain(kept..).map(|header| header.sequence).collect();
            ready.into_iter().chain(state.free.drain(..).map(|(sequence, _)| sequence)).collect()
        };
        removed.iter().for_each(|&sequence| self.remove(sequence));
        removed.len()
    }

    /// How many there are: prepared, and free.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.ready.len(), state.free.len())
    }

    /// Makes some segments, recycling free ones of this length first. At least
    /// one, or an error; fewer than `count` when a later one cannot be made.
    fn prepare(
        &self,
        next_sequence: &mut u32,
        count: usize,
        len: u64,
    ) -> pagestrata_layers::Result<Vec<SegmentHeader>> {
        let mut unnamed = Vec::with_capacity(count);
        let mut failed = None;
        for _ in 0..count {
            match self.prepare_unnamed(next_sequence, len) {
                Ok(prepared) => unnamed.push(prepared),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let (true, Some(error)) = (unnamed.is_empty(), failed) {
            return Err(error);
        }
        let sequences = unnamed.iter().map(|(from, header)| (from.clone(), header.sequence));
        name_all(&*self.storage, &self.dir, sequences)?;
        Ok(unnamed.into_iter().map(|(_, header)| header).collect())
    }

    /// Makes one that has another name still. Returns under which path it is.
    fn prepare_unnamed(
        &self,
        next_sequence: &mut u32,
        len: u64,
    ) -> pagestrata_layers::Result<(PathBuf, SegmentHeader)> {
        let sequence = *next_sequence;
        if sequence == u32::MAX {
            return Err(LayersError::Full { what: "the log's sequence", max: u64::from(u32::MAX) });
        }
        assert!(len <= SEGMENT_SIZE_MAX, "a segment of {len} bytes");
        let header = SegmentHeader { store: self.store, sequence, len };
        // Whatever fails: a number is used once.
        *next_sequence += 1;
        let recycled = {
            let mut state = self.state.lock();
            let found = state.free.iter().position(|&(_, free_len)| free_len == len);
            found.map(|at| state.free.swap_remove(at).0)
        };
        let path = match recycled {
            Some(old) => recycle_unnamed(&*self.storage, &self.dir, old, &header)?,
            None => create_unnamed(&*self.storage, &self.dir, &header, self.is_written)?,
        };
        Ok((path, header))
    }

    fn remove(&self, sequence: u32) {
        // At best: what is left is removed when the log is opened.
        let _ = self.storage.remove(&segment_path(&self.dir, sequence));
    }
}
