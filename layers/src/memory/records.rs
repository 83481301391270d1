//! What is pending in an open layer, as records of a log: the values are written from where they
//! lie.

use std::sync::atomic::Ordering;

use super::{
    OpenLayer,
    index::ValueRef,
    open_layer::{PendingAppend, PendingKind},
    space::Position,
};
use crate::{
    Key, Lsn, VALUE_LEN_MAX,
    commit_record::{EntryKind, PartEncoder},
};

/// A part is closed when its table is this long or it has so many runs of values: no list that is
/// made for a part takes more than a few such lengths of memory.
const PART_TABLE_BYTES: usize = 64 << 10;
const PART_RUNS: usize = 4 << 10;

impl OpenLayer {
    /// Hands out what is pending as the payloads of log records ([`crate::commit_record`]), one or
    /// several, each as slices that follow one another, and whether it is the last one. The values
    /// among them are those of the layer: nothing but heads and tables is copied.
    ///
    /// A part is closed when its values and its table have `part_bytes`, which its last value may
    /// exceed, or when its table or its list of values is long.
    ///
    /// # Errors
    /// What `append` returns; it is not called again then.
    pub fn write_records<E>(
        &self,
        part_bytes: usize,
        mut append: impl FnMut(&[&[u8]], bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let previous = Lsn(self.layer.committed.0.load(Ordering::Relaxed));
        let mut rest = &self.pending[..];
        let mut first = true;
        loop {
            let mut part = PartEncoder::new(previous);
            let mut runs = Runs::default();
            let mut taken = 0;
            for pending in rest {
                let is_full = part.table_len() + runs.bytes >= part_bytes
                    || part.table_len() >= PART_TABLE_BYTES
                    || runs.runs.len() >= PART_RUNS;
                if taken > 0 && is_full {
                    break;
                }
                self.push(pending, &mut part, &mut runs);
                taken += 1;
            }
            debug_assert!(taken > 0 || rest.is_empty(), "each part takes an entry");
            rest = &rest[taken..];
            let head = part.finish(first, rest.is_empty());
            let values = runs.runs.iter().rev();
            #[allow(unsafe_code)]
            // SAFETY: a run is of pending values of this layer, each of which begins where the one
            // that was put after it ends (`Runs::push`), and its position is that of the last one.
            let bytes = |&(position, len)| unsafe { self.layer.values.neighbours(position, len) };
            let values = values.map(bytes);
            let slices: Vec<_> = std::iter::once(&head[..]).chain(values).collect();
            append(&slices, rest.is_empty())?;
            if rest.is_empty() {
                return Ok(());
            }
            first = false;
        }
    }

    fn push(&self, pending: &PendingAppend, part: &mut PartEncoder, runs: &mut Runs) {
        let object = self.layer.nodes.node(pending.object).object();
        let key = Key { object, block: pending.block };
        let kind = match pending.what {
            PendingKind::Tombstone => EntryKind::Tombstone,
            PendingKind::Version(_, value) => {
                let ValueRef { position, len, kind } = ValueRef::unpack(value);
                EntryKind::Version(kind, runs.push(position, len).then_some(len))
            }
        };
        part.push(key, pending.lsn, kind);
    }
}

/// Values that lie one behind the other, in the order they were put, which is from the end of a
/// chunk to its start.
#[derive(Default)]
struct Runs {
    runs: Vec<(Position, usize)>,
    /// The last value.
    last: Option<(Position, usize)>,
    bytes: usize,
}

impl Runs {
    /// Adds a value, unless it is the one that was added last.
    fn push(&mut self, position: Position, len: usize) -> bool {
        if self.last.replace((position, len)) == Some((position, len)) {
            return false;
        }
        debug_assert!(len <= VALUE_LEN_MAX, "a value of {len} bytes");
        self.bytes += len;
        match self.runs.last_mut() {
            Some(run) if position.raw() + len as u64 == run.0.raw() => {
                *run = (position, run.1 + len);
            }
            _ => self.runs.push((position, len)),
        }
        true
    }
}
