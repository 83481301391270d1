//! Segments that are not in use: the next one, prepared ahead, and those that nobody needs any more.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use pagestrata_layers::{Error as LayersError, storage::SharedStorage};
use parking_lot::Mutex;

use crate::{
    Error, LogOptions, Result,
    format::{END_LEN, SEGMENT_HEADER_LEN, SEGMENT_SIZE_MAX, SegmentHeader},
    segment::{create, recycle, segment_path},
};

/// The segments of a log that are not in use.
pub(crate) struct Spares {
    storage: SharedStorage,
    dir: PathBuf,
    store: u128,
    segment_size: u64,
    free_max_bytes: u64,
    /// The current segment is half full and there is no other.
    wanted: AtomicBool,
    /// Held while a segment is prepared.
    state: Mutex<State>,
}

struct State {
    /// No segment ever had this number or a higher one.
    next_sequence: u32,
    /// Prepared, durable under its name.
    ready: Option<SegmentHeader>,
    /// Not needed any more: sequence number and length.
    free: Vec<(u32, u64)>,
}

impl Spares {
    pub(crate) fn new(
        storage: SharedStorage,
        dir: PathBuf,
        options: &LogOptions,
        next_sequence: u32,
        ready: Option<SegmentHeader>,
    ) -> Spares {
        let &LogOptions { store, segment_size, free_max_bytes, .. } = options;
        let state = Mutex::new(State { next_sequence, ready, free: Vec::new() });
        let wanted = AtomicBool::new(false);
        Spares { storage, dir, store, segment_size, free_max_bytes, wanted, state }
    }

    /// Asks for one to be prepared. Whether nobody had asked.
    pub(crate) fn ask(&self) -> bool {
        !self.wanted.swap(true, Ordering::Relaxed)
    }

    /// Prepares one, if one was asked for.
    pub(crate) fn work(&self) {
        if self.wanted.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            if state.ready.is_none() {
                // What fails here fails again, and is told, when the segment is needed.
                state.ready = self.prepare(&mut state, self.segment_size).ok();
            }
        }
    }

    /// A segment that a frame of this length fits in; it is prepared now unless it was before.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Layers`]
    pub(crate) fn take(&self, len: u64) -> Result<SegmentHeader> {
        let needed = SEGMENT_HEADER_LEN as u64 + len + END_LEN;
        let mut state = self.state.lock();
        self.wanted.store(false, Ordering::Relaxed);
        match state.ready.take() {
            Some(ready) if ready.len >= needed => return Ok(ready),
            // Too short, and its number is too low for any segment after the one that is made now.
            Some(ready) => self.remove(ready.sequence),
            None => {}
        }
        let size = match needed > self.segment_size {
            true => needed.next_multiple_of(self.segment_size).min(SEGMENT_SIZE_MAX),
            false => self.segment_size,
        };
        self.prepare(&mut state, size).map_err(Error::of_preparing)
    }

    /// Takes one back that was not used.
    pub(crate) fn put_back(&self, header: SegmentHeader) {
        self.state.lock().ready = Some(header);
    }

    /// Keeps segments that nobody needs any more, given by sequence number and length, for the next ones, or removes them.
    pub(crate) fn free(&self, unused: Vec<(u32, u64)>) {
        let mut state = self.state.lock();
        for (sequence, len) in unused {
            let kept = (state.free.len() as u64 + 1) * self.segment_size;
            if len == self.segment_size && kept <= self.free_max_bytes {
                state.free.push((sequence, len));
            } else {
                self.remove(sequence);
            }
        }
    }

    /// Makes a segment, of one that nobody needs any more if there is one of this length.
    fn prepare(&self, state: &mut State, len: u64) -> pagestrata_layers::Result<SegmentHeader> {
        let sequence = state.next_sequence;
        if sequence == u32::MAX {
            return Err(LayersError::Full { what: "the log's sequence", max: u64::from(u32::MAX) });
        }
        let header = SegmentHeader { store: self.store, sequence, len };
        // Whatever fails: a number is used once.
        state.next_sequence += 1;
        match state.free.iter().position(|&(_, free_len)| free_len == len) {
            Some(at) => {
                let (old, _) = state.free.swap_remove(at);
                recycle(&*self.storage, &self.dir, old, &header)?;
            }
            None => create(&*self.storage, &self.dir, &header)?,
        }
        Ok(header)
    }

    fn remove(&self, sequence: u32) {
        // At best: what is left is removed when the log is opened.
        let _ = self.storage.remove(&segment_path(&self.dir, sequence));
    }
}
