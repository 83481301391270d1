//! Running merges: what the plan says is merged, published, and counted.
//!
//! A merge that fails leaves everything as it was. A layer that cannot be read is parked: no merge
//! reads it again until the store is opened anew, and all others go on.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use pagestrata_layers::{
    Error as LayersError, Key, KeyRange, Lsn, PageVersion,
    layer_file::{LayerKind, Tombstone},
    manifest::edit::{Edit, LayerRecord},
};

use super::{
    merge::{Merge, tombstones_of},
    plan::plan,
};
use crate::{
    error::{Error, Result},
    jobs::{new_layer::NewLayer, publish_edit::LayerEdit},
    layer_map::file_layers::FileLayer,
    options::Background,
    state::{
        compaction_state::MergeInDoubt,
        retired_files::{remove_marked, unmark},
        timeline::TimelineShared,
    },
};

/// The level of what a merge writes.
const LEVEL: u8 = 1;
/// The longest wait between two tries: a merge that runs out of room has written much in vain.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(600);
/// After so many versions a merge looks whether the store is being closed.
const VERSIONS_BETWEEN_LOOKS: u32 = 256;

impl TimelineShared {
    /// Merges until there is nothing left that is worth it; how many merges that were.
    ///
    /// # Errors
    /// The first; what was merged before stays so.
    pub(crate) fn compact(&self) -> Result<u64> {
        let mut merges = 0;
        loop {
            let merged = self.merge_next();
            if self.store.options.background == Background::Callers {
                // The next merge may need the room of what this one has replaced.
                self.reclaim();
            }
            if !merged? {
                return Ok(merges);
            }
            merges += 1;
        }
    }

    /// As [`TimelineShared::compact`], for the background: not while it waits for its next try.
    /// Returns how soon to come again, if something has failed.
    pub(crate) fn compact_if_due(&self) -> Option<Duration> {
        let left = || {
            let retry_at = self.compaction.lock().retry_at;
            retry_at.map(|at| at.saturating_sub(self.clock().now()))
        };
        if let Some(left) = left().filter(|left| !left.is_zero()) {
            return Some(left);
        }
        match self.compact() {
            Err(Error::CompactionFailed { .. }) => left(),
            // Nothing was tried: there is nothing left to merge, or the store takes no writes.
            Ok(_) | Err(_) => {
                self.compaction.lock().retry_at = None;
                None
            }
        }
    }

    /// Merges what the plan says is next; false: nothing is.
    fn merge_next(&self) -> Result<bool> {
        let fan_in = self.store.options.compaction_fan_in;
        if fan_in == 0 {
            return Ok(false);
        }
        let _one_at_a_time = self.compacting.lock();
        self.store.check_writable()?;
        let Some(inputs) = self.plan_inputs(fan_in) else { return Ok(false) };
        let mut unreadable = None;
        let merged = self.merge(&inputs, &mut unreadable);
        let mut state = self.compaction.lock();
        match merged {
            Ok(outputs) => {
                state.merges += 1;
                state.read_files += inputs.len() as u64;
                state.read_bytes += bytes_of(inputs.iter().map(|file| file.record()));
                state.written_files += outputs.len() as u64;
                state.written_bytes += bytes_of(outputs.iter());
                (state.failures, state.last_error, state.retry_at) = (0, None, None);
                drop(state);
                // Ours are the last counts now, unless a pin has them.
                drop(inputs);
                self.wake_reclaimer();
                Ok(true)
            }
            Err(Error::Closed) => Err(Error::Closed),
            Err(error) => {
                #[cfg(feature = "tracing")]
                tracing::warn!(timeline = %self.name, %error, "merging layer files failed");
                let is_parked = unreadable.is_some_and(|sequence| state.parked.insert(sequence));
                let options = &self.store.options;
                state.failures = state.failures.saturating_add(1);
                state.failures_total += 1;
                // What is parked is not in the way of the others.
                let delay = match is_parked {
                    true => Duration::ZERO,
                    false => options.retry_delay(state.failures, RETRY_DELAY_MAX),
                };
                state.retry_at = Some(options.clock.now().saturating_add(delay));
                let error = Arc::new(error);
                state.last_error = Some(error.clone());
                Err(Error::CompactionFailed { timeline: self.name.clone(), cause: error })
            }
        }
    }

    /// The files of the plan, without a hold on the map.
    fn plan_inputs(&self, fan_in: u32) -> Option<Vec<Arc<FileLayer>>> {
        let map = self.look();
        let parked = self.compaction.lock().parked.clone();
        let sequences = plan(map.files.iter().map(|file| file.record()), fan_in, &parked)?;
        let sequences: BTreeSet<u64> = sequences.into_iter().collect();
        let is_input = |file: &&Arc<FileLayer>| sequences.contains(&file.sequence());
        let files: Vec<_> = map.files.iter().filter(is_input).cloned().collect();
        assert_eq!(files.len(), sequences.len(), "the map has what the plan names");
        Some(files)
    }

    /// Writes what the inputs hold to new files and puts these in their place. `unreadable`: the
    /// sequence number of the input that could not be read.
    fn merge(
        &self,
        inputs: &[Arc<FileLayer>],
        unreadable: &mut Option<u64>,
    ) -> Result<Vec<LayerRecord>> {
        self.settle_merges()?;
        let mut tombstones = tombstones_of(inputs, unreadable)?;
        if cfg!(planted_bug = "merge_loses_tombstones") {
            tombstones.clear();
        }
        let mut outputs = Outputs::new(self, inputs, &tombstones);
        let mut until_look = 0;
        let mut merge = Merge::new(inputs);
        let written = merge.for_each(|key, version, page| {
            if until_look == 0 {
                until_look = VERSIONS_BETWEEN_LOOKS;
                self.check_not_closing()?;
            }
            until_look -= 1;
            outputs.put(key, version, page)
        });
        *unreadable = merge.unreadable();
        let written = written.and_then(|()| outputs.finish_last());
        let checked = written.and_then(|()| check_totals(inputs, &outputs.records));
        let records = mem::take(&mut outputs.records);
        if let Err(error) = checked {
            remove_marked(self, &records);
            return Err(error);
        }
        let removed: Vec<u64> = inputs.iter().map(|file| file.sequence()).collect();
        let edit = LayerEdit { added: &records, removed: &removed, consistent: None };
        if cfg!(planted_bug = "inputs_removed_early") {
            let gone: Vec<_> = inputs.iter().map(|file| file.record().clone()).collect();
            remove_marked(self, &gone);
        }
        let append = |edits: &[Edit]| self.store.append_edits(edits);
        match self.publish_edit(&edit, append, |_, _| None) {
            Ok(()) => Ok(records),
            Err(error) => {
                let inputs = inputs.iter().map(|file| file.record().clone()).collect();
                self.compaction.lock().in_doubt.push(MergeInDoubt { inputs, outputs: records });
                // At best at once; else before the next merge.
                let _ = self.settle_merges();
                Err(error)
            }
        }
    }

    /// After a merge whose edit failed: makes sure that the manifest names its inputs and not its
    /// outputs, removes these, and the markers of those.
    fn settle_merges(&self) -> Result<()> {
        if self.compaction.lock().in_doubt.is_empty() {
            return Ok(());
        }
        self.store.append_edits(&[])?;
        for MergeInDoubt { inputs, outputs } in mem::take(&mut self.compaction.lock().in_doubt) {
            remove_marked(self, &outputs);
            if let Ok(_directory) = self.store.lock_directory() {
                inputs.iter().for_each(|record| unmark(self, record));
            }
        }
        Ok(())
    }

    fn check_not_closing(&self) -> Result<()> {
        match self.store.closed.load(Ordering::Relaxed) {
            true => Err(Error::Closed),
            false => Ok(()),
        }
    }
}

fn bytes_of<'r>(records: impl Iterator<Item = &'r LayerRecord>) -> u64 {
    records.map(|record| record.summary.file_len).sum()
}

/// Nothing is lost by a merge and nothing added, but that what two files have is written once.
///
/// # Errors
/// A file has other versions than its footer says.
fn check_totals(inputs: &[Arc<FileLayer>], outputs: &[LayerRecord]) -> Result<()> {
    let totals = |records: &mut dyn Iterator<Item = &LayerRecord>| {
        let summaries = records.map(|record| &record.summary);
        summaries
            .fold((0, 0), |(versions, bytes), of| (versions + of.versions, bytes + of.value_bytes))
    };
    let before = totals(&mut inputs.iter().map(|file| file.record()));
    let after = totals(&mut outputs.iter());
    let lsns = inputs.iter().map(|file| file.record().summary.lsn_range.clone());
    let mut lsns: Vec<_> = lsns.collect();
    lsns.sort_unstable_by_key(|lsns| (lsns.start, lsns.end));
    let are_apart = lsns.windows(2).all(|pair| pair[0] == pair[1] || pair[0].end <= pair[1].start);
    assert!(after.0 <= before.0 && after.1 <= before.1, "a merge adds nothing");
    if are_apart && after != before {
        let expected = format_args!("{} versions of {} bytes in all inputs", before.0, before.1);
        let found = format_args!("{} of {}", after.0, after.1);
        let path = inputs[0].path();
        return Err(LayersError::corrupt(path, 0, "totals of a merge", expected, found).into());
    }
    Ok(())
}

/// The files that a merge writes: they tile the keys of its inputs.
struct Outputs<'m> {
    timeline: &'m TimelineShared,
    tombstones: &'m [Tombstone],
    keys: KeyRange,
    lsns: std::ops::Range<Lsn>,
    /// The file that is being written, and where its keys begin.
    current: Option<(NewLayer<'m>, Key)>,
    last_key: Option<Key>,
    /// Those that are durable under their names.
    records: Vec<LayerRecord>,
}

impl<'m> Outputs<'m> {
    fn new(
        timeline: &'m TimelineShared,
        inputs: &[Arc<FileLayer>],
        tombstones: &'m [Tombstone],
    ) -> Outputs<'m> {
        let summaries = || inputs.iter().map(|file| &file.record().summary);
        let ends = summaries().map(|of| of.key_range.end);
        let keys = KeyRange {
            start: summaries().map(|of| of.key_range.start).min().expect("a merge has inputs"),
            end: ends
                .reduce(|one, other| one.zip(other).map(|(one, other)| one.max(other)))
                .flatten(),
        };
        let lsns = summaries().map(|of| of.lsn_range.clone());
        let lsns = lsns
            .reduce(|one, other| one.start.min(other.start)..one.end.max(other.end))
            .expect("a merge has inputs");
        let (current, records) = (None, Vec::new());
        Outputs { timeline, tombstones, keys, lsns, current, last_key: None, records }
    }

    fn put(&mut self, key: Key, version: PageVersion<'_>, page: Option<&[u8]>) -> Result<()> {
        debug_assert!(self.keys.contains(key) && self.lsns.contains(&version.lsn));
        let full = self.timeline.store.options.compaction_layer_size_bytes;
        if self.last_key.replace(key) != Some(key)
            && self.current.as_ref().is_some_and(|(file, _)| file.file_len() >= full)
        {
            self.finish_before(Some(key))?;
            self.begin(key)?;
        }
        if self.current.is_none() {
            self.begin(self.keys.start)?;
        }
        let (file, _) = self.current.as_mut().expect("begun above");
        match page {
            Some(page) => file.put_with_page(key, version.lsn, version.value(), page),
            None => file.put(key, version.lsn, version.value()),
        }
    }

    fn begin(&mut self, start: Key) -> Result<()> {
        let file = NewLayer::create(self.timeline, LayerKind::Delta, LEVEL)?;
        self.current = Some((file, start));
        Ok(())
    }

    /// Finishes the file that is being written; its keys end before `end`.
    fn finish_before(&mut self, end: Option<Key>) -> Result<()> {
        let Some((file, start)) = self.current.take() else { return Ok(()) };
        let range = KeyRange { start, end };
        let tombstones = within(self.tombstones, range);
        self.records.push(file.finish(range, self.lsns.clone(), &tombstones)?);
        Ok(())
    }

    /// Finishes the last one, which also has what the inputs cover and hold no version of.
    fn finish_last(&mut self) -> Result<()> {
        if self.current.is_none() {
            // Tombstones alone.
            self.begin(self.keys.start)?;
        }
        self.finish_before(self.keys.end)
    }
}

/// The tombstones as a layer of these keys has them: those that cover some of them, from the first
/// key on that they cover.
fn within(tombstones: &[Tombstone], range: KeyRange) -> Vec<Tombstone> {
    let clipped = tombstones.iter().filter_map(|&tombstone| {
        let Tombstone { object, first_block, .. } = tombstone;
        let first = Key { object, block: first_block }.max(range.start);
        let is_covered = first.object == object && range.contains(first);
        is_covered.then_some(Tombstone { first_block: first.block, ..tombstone })
    });
    let mut clipped: Vec<Tombstone> = clipped.collect();
    clipped.sort_unstable();
    clipped.dedup();
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_is_in_every_layer_that_has_keys_of_it() {
        let of = |object, first_block| Tombstone { object, lsn: Lsn(5), first_block };
        let all = [of(1, 10), of(1, 50), of(2, 0)];
        let range = |start, end| KeyRange { start, end };
        let cut = Key::new(1, 30);
        assert_eq!(within(&all, range(Key::MIN, Some(cut))), [of(1, 10)]);
        assert_eq!(within(&all, range(cut, Some(Key::new(1, 50)))), [of(1, 30)]);
        assert_eq!(within(&all, range(cut, None)), [of(1, 30), of(1, 50), of(2, 0)]);
        assert_eq!(within(&all, range(Key::new(1, 60), Some(Key::new(2, 0)))), [of(1, 60)]);
        assert_eq!(within(&all, range(Key::new(2, 7), None)), [of(2, 7)]);
        assert_eq!(within(&all, range(Key::new(3, 0), None)), []);
    }
}
