//! [`Session`]: one open of a store. Applies each operation to it and to the model, and compares
//! the results.

use std::sync::Arc;

use super::{
    counts::Counts,
    model::{History, Model, Refusal, Stored},
    ops::{KeyChoice, LsnChoice, LsnStep, Op, ValueChoice, fill_value},
    runner::{Held, Run},
};
use crate::{
    Error, Guard, Key, KeyRange, Kind, Lsn, Page, PageVersion, Reader, Ready, Redo, Scratch,
    Snapshot, Timeline, VALUE_LEN_MAX, Value, Versions, WriteLease,
};

/// How many versions of a snapshot are checked each time.
const SNAPSHOT_KEYS: usize = 8;

/// What borrows an open store.
pub(super) struct Session<'t> {
    timeline: &'t Timeline,
    lease: Option<WriteLease<'t>>,
    /// They stay pinned between operations, each at its own version of the layer map.
    readers: [Reader; 3],
    scratch: Scratch,
}

/// Checks that engine and model agree on success or on the error. Returns whether it succeeded.
#[track_caller]
fn agree<T>(
    counts: &mut Counts,
    engine: Result<T, Error>,
    model: Result<(), Refusal>,
) -> Option<T> {
    match (engine, model) {
        (Ok(done), Ok(())) => Some(done),
        (Err(error), Err(refusal)) if Refusal::of(&error) == Some(refusal) => {
            counts.add(match refusal {
                Refusal::LsnOutOfOrder => "refused_lsn",
                Refusal::DuplicateVersion => "refused_duplicate",
                Refusal::DropAfterPut => "refused_drop",
                Refusal::ValueTooLong => "refused_too_long",
                Refusal::OutOfOrder => "refused_out_of_order",
                Refusal::Uncommitted => "refused_uncommitted",
                Refusal::ImportBehind => "refused_import",
                Refusal::NotYet => "refused_not_yet",
                Refusal::BelowCutoff => "refused_below_cutoff",
                Refusal::MissingBase => "refused_missing_base",
                Refusal::NoPage => "refused_no_page",
            });
            None
        }
        (engine, model) => {
            panic!("engine: {:?}, model: {model:?}", engine.map(|_| "done"))
        }
    }
}

fn value_of(stored: &Stored) -> Value<'_> {
    match stored.kind {
        Kind::Image => Value::Image(&stored.bytes),
        Kind::Delta { will_init } => Value::Delta { bytes: &stored.bytes, will_init },
    }
}

impl<'t> Session<'t> {
    pub(super) fn new(timeline: &'t Timeline) -> Session<'t> {
        let readers = std::array::from_fn(|_| timeline.reader());
        Session { timeline, lease: None, readers, scratch: Scratch::new() }
    }

    /// Takes the write lease, unless it is held already.
    pub(super) fn lease(&mut self) -> &mut WriteLease<'t> {
        let take = || self.timeline.write_lease().expect("nobody else has it");
        self.lease.get_or_insert_with(take)
    }

    pub(super) fn apply(&mut self, run: &mut Run, op: &Op) {
        match *op {
            Op::Put { key, lsn, value } => self.put_one(run, key, lsn, value, Kind::Image),
            Op::PutDelta { key, lsn, value } => {
                self.put_one(run, key, lsn, value, Kind::Delta { will_init: false });
            }
            Op::PutWillInit { key, lsn, value } => {
                self.put_one(run, key, lsn, value, Kind::Delta { will_init: true });
            }
            Op::PutTooLong { key, lsn } => {
                let lsn = lsn.lsn(run.model.last(), run.model.committed());
                let bytes: Arc<[u8]> = vec![0; VALUE_LEN_MAX + 1].into();
                self.put(run, key.key(), lsn, Stored { kind: Kind::Image, bytes });
            }
            Op::PutBatch { key, count, lsn, value, shared, spoiled } => {
                self.put_batch(run, key, count, lsn, value, shared, spoiled);
            }
            Op::PutChain { key, count, value } => {
                let kind = Kind::Delta { will_init: false };
                for _ in 0..count % 5000 {
                    self.put_one(run, key, LsnStep::NEXT, value, kind);
                }
            }
            Op::PutRange { key, count, lsn, value } => self.put_range(run, key, count, lsn, value),
            Op::DropBlocks { key, lsn } => self.drop_blocks(run, key, lsn),
            Op::Commit { lsn } => {
                let lsn = lsn.lsn(run.model.last(), run.model.committed());
                self.commit(run, lsn);
            }
            Op::Abort => {
                run.counts.add_many("aborts_of_values", u64::from(run.model.has_pending()));
                run.model.abort();
                self.lease().abort();
            }
            Op::DropLease => {
                run.counts.add_many("aborts_by_drop", u64::from(run.model.has_pending()));
                run.model.abort();
                self.lease = None;
            }
            Op::Roll => self.roll(run),
            Op::Flush => self.flush(run),
            Op::Compact => {
                let merges = self.timeline.compact().expect("merging works");
                run.counts.add_many("merges", merges);
            }
            Op::Reopen { .. } => {}
            Op::Snapshot { lsn } => self.snapshot(run, lsn),
            Op::Detach { key, lsn, index, copy } => self.detach(run, key, lsn, index, copy),
            Op::HoldGuard { key, value } => self.hold_guard(run, key, value),
            Op::CheckHeld => run.check_held(),
            Op::ReleaseHeld { which } => {
                if !run.held.is_empty() {
                    run.held.swap_remove(usize::from(which) % run.held.len());
                }
            }
            Op::Unpin { reader } => self.readers[usize::from(reader) % 3].unpin(),
            Op::Read { reader, key, lsn } => self.read(run, reader, key, lsn),
            Op::Page { reader, key, lsn } => self.page(run, reader, key, lsn),
            Op::Scan { reader, from, to, lsn } => self.scan(run, reader, (from, to), lsn),
            Op::ImportImages { key, count, gap, lsn, value, abandoned } => {
                self.import(run, key, (count, gap), lsn, value, abandoned);
            }
            Op::Verify => {
                let report = self.timeline.verify().expect("sound layer files");
                run.counts.add_many("layer_files_verified", report.layer_files);
                run.counts.max("max_layer_files", report.layer_files);
            }
        }
    }

    fn put_range(
        &mut self,
        run: &mut Run,
        key: KeyChoice,
        count: u16,
        lsn: LsnStep,
        value: ValueChoice,
    ) {
        let Key { object, block } = key.key();
        let lsn = lsn.lsn(run.model.last(), run.model.committed());
        for n in 0..u32::from(count % 5000) {
            let stored = new_value(run, value, Kind::Image);
            self.put(run, Key { object, block: block.wrapping_add(n) }, lsn, stored);
        }
    }

    fn drop_blocks(&mut self, run: &mut Run, key: KeyChoice, lsn: LsnStep) {
        let Key { object, block } = key.key();
        let lsn = lsn.lsn(run.model.last(), run.model.committed());
        let expected = run.model.drop_blocks(object, block, lsn);
        let found = self.lease().drop_blocks(object, block, lsn);
        if agree(&mut run.counts, found, expected).is_some() {
            run.counts.add("drops");
            let again = run.last_drop.replace((object, block, lsn));
            run.counts.add_many("drops_again", u64::from(again == run.last_drop));
        }
    }

    fn read(&mut self, run: &mut Run, reader: u8, key: KeyChoice, lsn: LsnChoice) {
        let guard = self.readers[usize::from(reader) % 3].pin();
        let upper = run.model.last_record();
        assert_eq!(guard.last_record_lsn(), upper);
        let key = key.key();
        let lsn = lsn.lsn(run.model.start(), upper, &run.model.lsns_of(key));
        check_read(guard, &run.model, upper, key, lsn, &mut self.scratch, &mut run.counts);
    }

    fn scan(&mut self, run: &mut Run, reader: u8, (from, to): (u8, u8), lsn: LsnChoice) {
        let guard = self.readers[usize::from(reader) % 3].pin();
        let upper = run.model.last_record();
        let lsn = lsn.lsn(run.model.start(), upper, &[]);
        let object = |object| KeyChoice { object, block: 0 }.key().object;
        let (from, to) = (object(from), object(to));
        check_scan(guard, &run.model, (from, to), lsn, upper, &mut run.counts);
    }

    fn put_one(
        &mut self,
        run: &mut Run,
        key: KeyChoice,
        lsn: LsnStep,
        value: ValueChoice,
        kind: Kind,
    ) {
        let lsn = lsn.lsn(run.model.last(), run.model.committed());
        let stored = new_value(run, value, kind);
        self.put(run, key.key(), lsn, stored);
    }

    fn put(&mut self, run: &mut Run, key: Key, lsn: Lsn, stored: Stored) {
        let found = self.lease().put(key, lsn, value_of(&stored));
        let len = stored.bytes.len() as u64;
        let expected = run.model.put(key, lsn, stored);
        if agree(&mut run.counts, found, expected).is_some() {
            run.counts.add("puts");
            run.counts.max("max_value_bytes", len);
            run.counts.add_many("values_beyond_a_chunk", u64::from(len > 64 << 10));
            run.counts.add_many("puts_at_block_max", u64::from(key.block == u32::MAX));
            run.counts.add_many("puts_at_object_max", u64::from(key.object == u128::MAX));
            run.counts.max("max_lsn", lsn.0);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one operation")]
    fn put_batch(
        &mut self,
        run: &mut Run,
        key: KeyChoice,
        count: u8,
        lsn: LsnStep,
        value: ValueChoice,
        shared: bool,
        spoiled: bool,
    ) {
        let Key { object, block } = key.key();
        let lsn = lsn.lsn(run.model.last(), run.model.committed());
        let count = 1 + u32::from(count % 16);
        let common = new_value(run, value, Kind::Delta { will_init: shared });
        let mut batch: Vec<(Key, Lsn, Stored)> = (0..count)
            .map(|n| {
                let stored = match shared {
                    true => common.clone(),
                    false => new_value(run, value, Kind::Image),
                };
                (Key { object, block: block.wrapping_add(n) }, lsn, stored)
            })
            .collect();
        if spoiled {
            batch.push(batch[0].clone());
        }
        let values: Vec<_> =
            batch.iter().map(|(key, lsn, stored)| (*key, *lsn, value_of(stored))).collect();
        let found = self.lease().put_batch(&values);
        let expected = run.model.put_batch(batch.iter().cloned());
        match agree(&mut run.counts, found, expected) {
            Some(()) => run.counts.add("batches"),
            None => run.counts.add("batches_refused"),
        }
    }

    fn commit(&mut self, run: &mut Run, lsn: Lsn) {
        let expected = run.model.commit(lsn);
        let found = self.lease().commit(lsn).map(|ticket| {
            assert_eq!(ticket.lsn(), lsn);
            ticket.wait().expect("a storage that does not fail");
        });
        if agree(&mut run.counts, found, expected).is_some() {
            run.commits.insert(lsn);
            run.counts.add("commits");
        }
        assert_eq!(self.timeline.last_record_lsn(), run.model.last_record());
    }

    fn roll(&mut self, run: &mut Run) {
        let expected = if run.model.has_pending() { Err(Refusal::Uncommitted) } else { Ok(()) };
        let found = self.lease().roll();
        if agree(&mut run.counts, found, expected).is_some() {
            run.counts.add("rolls");
        }
    }

    fn flush(&mut self, run: &mut Run) {
        let reached = self.timeline.flush().expect("flushing works");
        run.saw_durable(reached);
        if self.lease.is_none() {
            assert_eq!(reached, run.model.committed(), "everything was committed and unleased");
            run.counts.add("flushes_of_all");
        } else {
            assert!(reached <= run.model.committed());
            run.counts.add("flushes_beside_a_lease");
        }
        run.counts.max("max_layer_files", self.timeline.stats().layer_files);
    }

    fn snapshot(&mut self, run: &mut Run, at: LsnChoice) {
        let upper = run.model.last_record();
        let snapshot = if at == LsnChoice::LAST {
            self.timeline.snapshot()
        } else {
            let lsn = at.lsn(run.model.start(), upper, &[]);
            let expected = match () {
                () if lsn > upper => Err(Refusal::NotYet),
                () if lsn < run.model.start() => Err(Refusal::BelowCutoff),
                () => Ok(()),
            };
            let found = self.timeline.snapshot_at(lsn);
            let Some(snapshot) = agree(&mut run.counts, found, expected) else { return };
            assert_eq!(snapshot.lsn(), lsn);
            snapshot
        };
        assert!(snapshot.lsn() <= upper);
        run.counts.add("snapshots");
        let seen = run.model.committed();
        run.hold(Held::Snapshot { snapshot, seen, of: None });
    }

    fn detach(&mut self, run: &mut Run, key: KeyChoice, at: LsnChoice, index: u8, copy: bool) {
        let guard = self.readers[0].pin();
        let (key, upper) = (key.key(), run.model.last_record());
        let lsn = at.lsn(run.model.start(), upper, &run.model.lsns_of(key));
        let (Ok(found), Ok(expected)) =
            (guard.history(key, lsn, &mut self.scratch), run.model.history(key, lsn, upper))
        else {
            return;
        };
        check_versions(&found, &expected, &run.model, key, lsn);
        if found.is_empty() {
            return;
        }
        let index = usize::from(index) % found.len();
        let version = if copy { found.detach_or_copy(index, 0) } else { found.detach(index) };
        let PageVersion { lsn, kind, bytes } = found.newest_first().nth(index).expect("so many");
        let bytes = bytes.into();
        run.counts.add("detached");
        run.hold(Held::Detached { version, lsn, kind, bytes });
    }

    /// What was read under a guard must not change, whatever happens to its layers.
    fn hold_guard(&mut self, run: &mut Run, key: KeyChoice, value: ValueChoice) {
        let page = key.key();
        let (mut reader, mut first, mut second) =
            (self.timeline.reader(), Scratch::new(), Scratch::new());
        let guard = reader.pin();
        let bound = guard.last_record_lsn();
        assert_eq!(bound, run.model.last_record());
        let before = run.model.clone();
        let read = guard.history(page, bound, &mut first).expect("readable");
        let (mut guarded, mut is_of_nothing) = (None, false);
        for _ in 0..2 {
            let committed = run.model.committed();
            self.put_one(run, key, LsnStep::NEXT, value, Kind::Delta { will_init: false });
            if !Arc::ptr_eq(&guard.map().open.layer, &self.timeline.0.look().open.layer) {
                // The put found its layer full and rolled: the guard sees no more than before.
                guarded.get_or_insert(run.model.last_record());
                is_of_nothing |= run.model.committed() < run.model.start();
            }
            let lsn = run.model.last();
            self.commit(run, lsn);
            self.roll(run);
            if run.model.committed() > committed {
                // Rolled by now at the latest: the guard sees this commit and none after it.
                guarded.get_or_insert(run.model.last_record());
            }
            self.flush(run);
        }
        let upper = guard.last_record_lsn();
        let expected = guarded.unwrap_or(run.model.last_record());
        // A layer that is full of aborted values rolls before it takes a value; the guard sees
        // nothing more then.
        assert!(upper == expected || upper == bound, "a guard sees {upper}, not {expected}");
        run.counts.add_many("guards_that_see_more", u64::from(upper > bound));
        let expected = before.history(page, bound, bound).expect("readable");
        check_versions(&read, &expected, &before, page, bound);
        let (model, counts) = (&run.model, &mut run.counts);
        if is_of_nothing {
            // It must still see that nothing was committed, even at the start, which can be read.
            assert!(!guard.exists(page, bound).expect("readable"));
            counts.add("guards_of_nothing_held");
            return;
        }
        check_read(guard, model, upper, page, bound, &mut second, counts);
        check_read(guard, model, upper, page, upper, &mut second, counts);
        check_read(guard, model, upper, page, upper.next(), &mut second, counts);
        counts.add("guards_held");
    }

    fn page(&mut self, run: &mut Run, reader: u8, key: KeyChoice, at: LsnChoice) {
        let guard = self.readers[usize::from(reader) % 3].pin();
        let (key, upper) = (key.key(), run.model.last_record());
        let lsn = at.lsn(run.model.start(), upper, &run.model.lsns_of(key));
        let expected = expected_page(&run.model, key, lsn, upper);
        let (outcome, page) = match expected {
            Ok(page) => (Ok(()), page),
            Err(refusal) => (Err(refusal), Vec::new()),
        };
        let found = guard.page(key, lsn, &Append, &mut self.scratch);
        if let Some(found) = agree(&mut run.counts, found, outcome) {
            assert!(*found == *page, "another page of {key} at {lsn}");
            run.counts.add("pages");
        }
        let closure = guard.with_page(key, lsn, &Append, |found| found == page);
        assert!(closure.unwrap_or(true), "another page of {key} at {lsn} in a closure");
    }

    fn import(
        &mut self,
        run: &mut Run,
        key: KeyChoice,
        (count, gap): (u8, u8),
        lsn: LsnStep,
        value: ValueChoice,
        abandoned: bool,
    ) {
        let lsn = lsn.lsn(run.model.last(), run.model.committed());
        let Key { object, block } = key.key();
        let blocks = (0..u32::from(count % 64))
            .map_while(|n| block.checked_add(n * (1 + u32::from(gap % 8))));
        let images: Vec<(Key, Arc<[u8]>)> = blocks
            .map(|block| (Key { object, block }, new_value(run, value, Kind::Image).bytes))
            .collect();
        let expected = run.model.check_import(lsn);
        // Only the lease is taken, so that the counts can be borrowed too.
        self.lease();
        let lease = self.lease.as_mut().expect("taken above");
        let found = lease.import_images(lsn);
        let Some(mut import) = agree(&mut run.counts, found, expected) else { return };
        for (key, image) in &images {
            import.put(*key, image).expect("in order");
            let again = import.put(*key, image);
            agree(&mut run.counts, again, Err(Refusal::OutOfOrder));
        }
        if abandoned {
            run.counts.add("imports_abandoned");
            return;
        }
        let report = import.finish().expect("importing works");
        assert_eq!(report.images, images.len() as u64);
        run.counts.add("imports");
        run.counts.add_many("imported_images", report.images);
        run.counts.max("max_layers_of_an_import", report.layers);
        run.model.import(lsn, images);
        run.commits.insert(lsn);
        run.saw_durable(self.timeline.disk_consistent_lsn());
        assert_eq!(run.durable, lsn);
    }
}

/// Makes a value that is unlike any other.
fn new_value(run: &mut Run, choice: ValueChoice, kind: Kind) -> Stored {
    let (number, len) = run.next_value(choice.len());
    Stored { kind, bytes: fill_value(number, choice.fill, len).into() }
}

/// Redo that shows its input: the base, then each delta with its Lsn.
pub(super) struct Append;

impl Redo for Append {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        assert!(page.is_empty());
        if let Some(base) = base {
            add_to_page(page, None, base);
        }
        for delta in deltas {
            add_to_page(page, Some(delta.lsn), delta.bytes);
        }
        Ok(())
    }
}

fn add_to_page(page: &mut Vec<u8>, lsn: Option<Lsn>, bytes: &[u8]) {
    page.extend(lsn.into_iter().flat_map(|lsn| lsn.0.to_le_bytes()));
    page.extend_from_slice(bytes);
}

/// The page that [`Append`] makes of the model's versions.
fn expected_page(model: &Model, key: Key, lsn: Lsn, upper: Lsn) -> Result<Vec<u8>, Refusal> {
    let history = model.history(key, lsn, upper)?;
    let versions = match (history.versions.is_empty(), history.has_base) {
        (true, _) => return Err(Refusal::NoPage),
        (false, false) => return Err(Refusal::MissingBase),
        (false, true) => history.versions,
    };
    if versions[0].1.kind == Kind::Image {
        return Ok(versions[0].1.bytes.to_vec());
    }
    let mut page = Vec::new();
    for (lsn, stored) in versions.iter().rev() {
        let lsn = (stored.kind != Kind::Image).then_some(*lsn);
        add_to_page(&mut page, lsn, &stored.bytes);
    }
    Ok(page)
}

/// Reads many pages at once, twice: in the given order, and as a range.
fn check_pages(
    guard: Guard<'_>,
    model: &Model,
    keys: &[Key],
    lsn: Lsn,
    upper: Lsn,
    scratch: &mut Scratch,
    counts: &mut Counts,
) {
    let mut found: Vec<(Key, Result<Vec<u8>, Error>)> = Vec::new();
    let mut sink = |key, page: Result<Page<'_>, Error>| {
        found.push((key, page.map(|page| page.to_vec())));
    };
    let outcome = guard.pages(keys, lsn, &Append, scratch, &mut sink);
    let any = keys.first().copied().unwrap_or(Key::MIN);
    let refused = match expected_page(model, any, lsn, upper) {
        Err(refusal @ (Refusal::NotYet | Refusal::BelowCutoff)) => Some(refusal),
        _ => None,
    };
    if agree(counts, outcome, refused.map_or(Ok(()), Err)).is_none() {
        return;
    }
    let mut expected = keys.to_vec();
    expected.sort_unstable();
    found.sort_by_key(|(key, _)| *key);
    assert!(found.iter().map(|(key, _)| *key).eq(expected), "each key as often as it was asked");
    for (key, page) in found {
        let expected = expected_page(model, key, lsn, upper);
        match (page, expected) {
            (Ok(page), Ok(expected)) => assert!(page == expected, "another page of {key} at {lsn}"),
            (Err(error), Err(refusal)) => assert_eq!(Refusal::of(&error), Some(refusal)),
            (page, expected) => panic!("{key} at {lsn}: {page:?} instead of {expected:?}"),
        }
        counts.add("pages_of_many");
    }
    let plan = guard.explain(keys, lsn).expect("agreed");
    assert_eq!(plan.keys, keys.len() as u64);
    counts.max("max_layers_of_many", plan.layers.len() as u64);

    let (Some(&start), Some(&end)) = (keys.iter().min(), keys.iter().max()) else { return };
    let range = KeyRange { start, end: Some(end) };
    let mut found = Vec::new();
    let mut sink = |key, page: Result<Page<'_>, Error>| {
        found.push((key, page.map(|page| page.to_vec()).map_err(|error| Refusal::of(&error))));
    };
    guard.pages_in(range, lsn, &Append, scratch, &mut sink).expect("agreed");
    found.sort_by_key(|(key, _)| *key);
    let expected = |key| match expected_page(model, key, lsn, upper) {
        Err(Refusal::NoPage) => None,
        page => Some((key, page.map_err(Some))),
    };
    let expected = model.keys().into_iter().filter(|key| range.contains(*key)).filter_map(expected);
    assert!(found.into_iter().eq(expected), "pages from {start} to {end} at {lsn}");
}

/// Checks that the versions found are the model's, or end earlier with a page that a flush has
/// materialized for a long chain.
#[track_caller]
fn check_versions(found: &Versions<'_>, expected: &History<'_>, model: &Model, key: Key, lsn: Lsn) {
    let is_same = |(index, found): (usize, PageVersion<'_>)| {
        let Some((lsn, stored)) = expected.versions.get(index) else { return false };
        let is_page_of_chain = || {
            let page = expected_page(model, key, *lsn, *lsn);
            found.kind == Kind::Image
                && model.may_be_cut(key, *lsn)
                && page.is_ok_and(|page| *page == *found.bytes)
        };
        found.lsn == *lsn
            && (found.kind == stored.kind && *found.bytes == *stored.bytes || is_page_of_chain())
    };
    let ends_in_page = found.newest_first().last().is_some_and(|last| last.kind == Kind::Image);
    let is_whole = found.len() == expected.versions.len() || ends_in_page;
    if !is_whole || !found.newest_first().enumerate().all(is_same) {
        let expected: Vec<_> = expected
            .versions
            .iter()
            .map(|(lsn, stored)| (lsn, stored.kind, stored.bytes.len()))
            .collect();
        panic!("{key} at {lsn}:\n engine {found:?}\n model  {expected:?}");
    }
}

/// Reads one key at one Lsn in every way, under a guard that sees everything up to `upper`.
fn check_read(
    guard: Guard<'_>,
    model: &Model,
    upper: Lsn,
    key: Key,
    lsn: Lsn,
    scratch: &mut Scratch,
    counts: &mut Counts,
) {
    counts.add("reads");
    let expected = model.history(key, lsn, upper);
    let outcome = expected.as_ref().map(drop).map_err(|refusal| *refusal);
    let Some(found) = agree(counts, guard.history(key, lsn, scratch), outcome) else {
        let error = guard.exists(key, lsn).expect_err("refused like the history");
        assert_eq!(Refusal::of(&error), outcome.err());
        return;
    };
    let expected = expected.expect("agreed");
    check_versions(&found, &expected, model, key, lsn);
    let found_any = !expected.versions.is_empty();
    counts.max("max_chain", expected.versions.len() as u64);
    counts.add_many("reads_that_find", u64::from(found_any));
    counts.add_many("reads_of_dropped", u64::from(model.is_hidden(key, lsn)));
    assert_eq!(guard.exists(key, lsn).expect("agreed"), found_any);
    let complete = match found_any && !expected.has_base {
        true => Err(Refusal::MissingBase),
        false => Ok(()),
    };
    let found = match lsn.0 % 2 {
        0 => guard.versions(key, lsn, scratch),
        _ => try_until_hit(guard, key, lsn, scratch, counts),
    };
    if let Some(found) = agree(counts, found, complete) {
        check_versions(&found, &expected, model, key, lsn);
    }
}

/// Reads without waiting: fetches what is not in memory, and tries again.
fn try_until_hit<'s>(
    guard: Guard<'s>,
    key: Key,
    lsn: Lsn,
    mut scratch: &'s mut Scratch,
    counts: &mut Counts,
) -> Result<Versions<'s>, Error> {
    loop {
        match guard.try_versions(key, lsn, scratch)? {
            Ready::Hit(found) => return Ok(found),
            Ready::Cold(fetch, again) => {
                counts.add("cold_fetches");
                fetch.run_blocking()?;
                scratch = again;
            }
        }
    }
}

/// Scans from one object to before another, or to the end if the other is not above.
fn check_scan(
    guard: Guard<'_>,
    model: &Model,
    (from, to): (u128, u128),
    lsn: Lsn,
    upper: Lsn,
    counts: &mut Counts,
) {
    let to_the_end = to <= from;
    let found: Result<Vec<_>, Error> = match to_the_end {
        true => guard.scan(from.., lsn).collect(),
        false => guard.scan(from..to, lsn).collect(),
    };
    let expected = model.scan(from..to, to_the_end, lsn, upper);
    let outcome = expected.as_ref().map(drop).map_err(|refusal| *refusal);
    if let Some(found) = agree(counts, found, outcome) {
        assert_eq!(found, expected.expect("agreed"), "scan of {from}.. at {lsn}");
        counts.add("scans");
        counts.add_many("scanned_pages", found.len() as u64);
    }
}

/// Checks a snapshot against the model at which it was taken.
pub(super) fn check_snapshot(
    snapshot: &Snapshot,
    seen: Lsn,
    model: &Model,
    scratch: &mut Scratch,
    counts: &mut Counts,
) {
    let (guard, upper) = (snapshot.guard(), snapshot.lsn());
    assert_eq!(guard.last_record_lsn(), upper);
    if seen < model.start() {
        // Taken before anything was committed: it sees nothing that was put at the start since.
        assert!(guard.scan(.., upper).next().is_none());
        for key in model.keys() {
            assert!(!guard.exists(key, upper).expect("readable"));
        }
        counts.add("snapshots_of_nothing_checked");
        return;
    }
    let keys = model.keys();
    let step = (keys.len() / SNAPSHOT_KEYS).max(1);
    for &key in keys.iter().step_by(step) {
        check_read(guard, model, upper, key, upper, scratch, counts);
    }
    if let Some(&key) = keys.first() {
        let error = guard.exists(key, upper.next()).err();
        assert!(matches!(error, Some(Error::NotYet { .. })), "a snapshot sees nothing above it");
    }
    check_scan(guard, model, (0, 0), upper, upper, counts);
    let some: Vec<Key> = keys.iter().rev().step_by(step).copied().collect();
    check_pages(guard, model, &some, upper, upper, scratch, counts);
}

/// Checks all keys and their neighbours, at the last record and at some of their Lsns; and a scan
/// of everything.
pub(super) fn check_everything(timeline: &Timeline, model: &Model, counts: &mut Counts) {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let upper = model.last_record();
    assert_eq!(guard.last_record_lsn(), upper);
    for key in model.keys() {
        let lsns = model.lsns_of(key);
        check_read(guard, model, upper, key, upper, &mut scratch, counts);
        for &lsn in lsns.iter().step_by(1 + lsns.len() / 3) {
            for lsn in [lsn.previous(), lsn] {
                check_read(guard, model, upper, key, lsn, &mut scratch, counts);
            }
        }
        if let Some(next) = key.next() {
            check_read(guard, model, upper, next, upper, &mut scratch, counts);
        }
    }
    let keys: Vec<Key> =
        model.keys().into_iter().flat_map(|key| [Some(key), key.next()]).flatten().collect();
    for at in [upper, Lsn(upper.0 - (upper.0 - model.start().0) / 2), upper.next()] {
        check_pages(guard, model, &keys, at, upper, &mut scratch, counts);
        check_scan(guard, model, (0, 0), at, upper, counts);
    }
}
