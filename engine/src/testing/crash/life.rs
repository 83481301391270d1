//! [`Life`]: a store that is used, killed and reopened, with the promises made meanwhile.
//!
//! The promises are recorded before each call of the engine, and what the call leaves at each of
//! its storage calls is checked against them. What the call attempts counts as tried from before
//! the call on.

use std::sync::Arc;

use super::{
    Violation,
    explore::Explore,
    ops::{Batch, Next, Op, as_value, imported},
    oracle::{End, Expected, Floors, NAMES, START},
    recorder::Recorder,
};
use crate::{
    Background, CommitTicket, Durability, Error, LayersError, Lsn, Options, Store, Timeline,
    storage::Storage,
    testing::{Fault, Model, SimulatedStorage, all_kept, none_kept},
};

const DIR: &str = "/store";
/// Number of values in a commit of several records; so many values of this length do not fit in one
/// segment.
const PART_PUTS: u64 = 6;
const PART_PUT_LEN: usize = 700;
/// More commits than fill a log.
const FILL_COMMITS_MAX: usize = 32;

pub(super) struct Life {
    pub(super) recorder: Recorder,
    pub(super) store: Option<Store>,
    pub(super) expected: Expected,
    pub(super) durability: Durability,
    /// Number of the process, part of each value: the same place holds another value in another
    /// process.
    pub(super) incarnation: u64,
    /// A fault is armed.
    pub(super) is_armed: bool,
    /// One in so many crash points is explored.
    pub(super) one_in: u64,
    pub(super) seed: u64,
}

fn options(durability: Durability) -> Options {
    Options {
        open_layer_size_max_bytes: 64 << 10,
        log_segment_size_bytes: 4096,
        log_size_max_bytes: 4 * 4096,
        pool_retained_max_bytes: 0,
        durability,
        background: Background::Callers,
        compaction_fan_in: 2,
        compaction_layer_size_bytes: 64 << 10,
        store_id: Some(7),
        ..Options::default()
    }
}

/// Opens the store in a storage.
pub(super) fn open(storage: Arc<dyn Storage>, durability: Durability) -> Result<Store, Error> {
    let (store, report) = Store::open_with(storage, DIR, options(durability))?;
    match report.read_only {
        None => Ok(store),
        Some(cause) => Err(Error::ReadOnly { cause }),
    }
}

impl Life {
    pub(super) fn new(storage: SimulatedStorage, expected: Expected, seed: u64) -> Life {
        Life {
            recorder: Recorder::new(storage, 0, seed),
            store: None,
            expected,
            durability: Durability::Synced,
            incarnation: 1,
            is_armed: false,
            one_in: 0,
            seed,
        }
    }

    pub(super) fn storage(&self) -> &SimulatedStorage {
        self.recorder.storage()
    }

    pub(super) fn has(&self, n: usize) -> bool {
        self.store.as_ref().is_some_and(|store| store.timeline(NAMES[n]).is_ok())
    }

    /// Whether an operation is possible in this state.
    pub(super) fn is_possible(&self, op: Op) -> bool {
        match op {
            Op::PutWait(n) | Op::Put(n) | Op::Many(n) | Op::Long(n, _) | Op::Parts(n) => {
                self.has(n)
            }
            Op::FillLog(n, other) => {
                n != other
                    && self.has(n)
                    && self.has(other)
                    && self.durability != Durability::External
            }
            Op::Roll(n) | Op::Flush(n) | Op::Compact(n) | Op::Drop(n) | Op::Import(n) => {
                self.has(n)
            }
            Op::Create(n) => !self.has(n),
            _ => true,
        }
    }

    /// Runs an operation, and explores what a crash during it may leave.
    pub(super) fn apply(&mut self, explore: &mut Explore, op: Op) -> Result<(), Violation> {
        self.recorder.set_one_in(self.one_in);
        match op {
            Op::PutWait(n) => self.commit(explore, n, self.next(n).batch(1, 24), true)?,
            Op::Put(n) => self.commit(explore, n, self.next(n).batch(1, 24), false)?,
            Op::Many(n) => self.commit(explore, n, self.next(n).batch(4, 60), true)?,
            Op::Long(n, len) => self.commit(explore, n, self.next(n).batch(1, len), false)?,
            Op::Parts(n) => self.parts(explore, n)?,
            Op::FillLog(n, other) => self.fill_log(explore, n, other)?,
            Op::Drop(n) => self.commit(explore, n, self.next(n).drop_batch(), true)?,
            Op::Roll(n) => self.roll(explore, n)?,
            Op::Flush(n) => self.flush(explore, n)?,
            Op::Compact(n) => self.compact(explore, n)?,
            Op::Import(n) => self.import(explore, n)?,
            Op::Create(n) => self.create(explore, n)?,
            Op::Close => self.close(explore)?,
            Op::Kill(durability) => {
                let left = self.storage().killed();
                self.durability = durability;
                self.reopen(explore, left, (End::Killed, false))?;
            }
            Op::PowerOff(kind) => {
                let left = match kind {
                    0 => self.storage().crash(&mut none_kept),
                    1 => self.storage().crash(&mut all_kept),
                    seed => self.storage().crash_seeded(&mut fastrand::Rng::with_seed(seed)),
                };
                self.reopen(explore, left, (End::PowerOff, false))?;
            }
            Op::Fault(fault) => {
                self.is_armed = true;
                let call = self.storage().calls() + fault.call;
                self.storage().set_fault(Some(Fault { call, ..fault }));
                explore.counts.add("faults");
            }
            Op::Full(bytes) => {
                self.is_armed = true;
                self.storage().set_free_bytes(Some(bytes));
                explore.counts.add("full_disks");
            }
            Op::Mend => {
                self.storage().set_fault(None);
                self.storage().set_free_bytes(None);
            }
            Op::KillAndFault(fault) => self.fault_at_open(explore, fault)?,
        }
        let floors = self.expected.floors;
        self.explored(explore, floors)?;
        self.note_flushed();
        if self.one_in > 0 {
            explore.point(self.storage(), &self.expected, &self.expected.floors)?;
            if !self.is_armed {
                explore.flips(self.storage(), &self.expected)?;
            }
        }
        Ok(())
    }

    /// Checks what a crash during the last calls may leave against the promises made before them.
    pub(super) fn explored(
        &mut self,
        explore: &mut Explore,
        floors: Floors,
    ) -> Result<(), Violation> {
        for point in self.recorder.take() {
            explore
                .point(&point.storage, &self.expected, &floors)
                .map_err(|violation| violation.at(format!("before storage call {}", point.call)))?;
        }
        Ok(())
    }

    /// Whether an error is permitted: a fault was armed, and the error does not report damage.
    pub(super) fn refused(&self, what: &str, error: &Error) -> Result<(), Violation> {
        let cause = match error {
            Error::CompactionFailed { cause, .. } => cause,
            other => other,
        };
        let is_damage = matches!(cause, Error::Layers(LayersError::Corrupt { .. }));
        match self.is_armed && !is_damage {
            true => Ok(()),
            false => Err(Violation::new(format!("{what}: {error}"))),
        }
    }

    fn timeline(&self, n: usize) -> Timeline {
        self.store.as_ref().and_then(|store| store.timeline(NAMES[n]).ok()).expect("it exists")
    }

    /// Returns where the model of a timeline is, and the process number of its values.
    fn next(&self, n: usize) -> Next {
        let last = self.expected.timelines[n].model.last().max(START);
        Next { n, last, incarnation: self.incarnation }
    }

    fn commit(
        &mut self,
        explore: &mut Explore,
        n: usize,
        batch: Batch,
        wait: bool,
    ) -> Result<(), Violation> {
        let (timeline, floors, lsn) = (self.timeline(n), self.expected.floors, batch.lsn);
        let before = self.expected.timelines[n].model.clone();
        let mut lease = match timeline.write_lease() {
            Ok(lease) => lease,
            Err(error) => return self.refused("write lease", &error),
        };
        if batch.drop
            && let Err(error) = lease.drop_blocks(1, 1, lsn)
        {
            return self.refused("drop", &error);
        }
        for (key, lsn, stored) in &batch.puts {
            if let Err(error) = lease.put(*key, *lsn, as_value(stored)) {
                return self.refused("put", &error);
            }
        }
        self.attempt(n, batch);
        let ticket = match lease.commit(lsn) {
            Ok(ticket) => ticket,
            Err(Error::LogFull { .. }) => {
                // This lease keeps the log full. The error asks for a flush, which needs the lease
                // free.
                drop(lease);
                explore.counts.add("log_full");
                self.explored(explore, floors)?;
                self.take_back(n, lsn, before);
                return self.flush(explore, n);
            }
            Err(error) => {
                drop(lease);
                self.refused("commit", &error)?;
                self.explored(explore, floors)?;
                if !matches!(error, Error::ReadOnly { .. }) {
                    self.take_back(n, lsn, before);
                }
                return Ok(());
            }
        };
        drop(lease);
        self.explored(explore, floors)?;
        if self.durability != Durability::External {
            self.expected.floors[n].kill = lsn;
        }
        self.note_flushed();
        explore.counts.add("commits");
        if wait { self.wait(explore, n, ticket) } else { Ok(()) }
    }

    fn wait(
        &mut self,
        explore: &mut Explore,
        n: usize,
        ticket: CommitTicket,
    ) -> Result<(), Violation> {
        let (floors, lsn) = (self.expected.floors, ticket.lsn());
        let waited = ticket.wait();
        self.explored(explore, floors)?;
        match waited {
            Ok(()) if self.durability == Durability::Synced => {
                let floor = &mut self.expected.floors[n];
                floor.power = lsn;
                if !self.is_armed {
                    floor.marked = lsn;
                }
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(error) => {
                explore.counts.add("failed_syncs");
                self.refused("wait", &error)
            }
        }
    }

    fn parts(&mut self, explore: &mut Explore, n: usize) -> Result<(), Violation> {
        let records =
            |life: &Life| life.store.as_ref().map_or(0, |store| store.stats().log.records);
        let (before, incarnation) = (records(self), self.incarnation);
        self.commit(explore, n, self.next(n).batch(PART_PUTS, PART_PUT_LEN), true)?;
        if self.incarnation == incarnation && records(self) > before + 1 {
            explore.counts.add("commits_of_parts");
        }
        Ok(())
    }

    fn fill_log(&mut self, explore: &mut Explore, n: usize, other: usize) -> Result<(), Violation> {
        self.commit(explore, other, self.next(other).batch(1, 24), true)?;
        let holder = self.timeline(other);
        let lease = match holder.write_lease() {
            Ok(lease) => lease,
            Err(error) => return self.refused("write lease", &error),
        };
        let full = explore.counts.get("log_full");
        for _ in 0..FILL_COMMITS_MAX {
            if explore.counts.get("log_full") > full {
                break;
            }
            self.commit(explore, n, self.next(n).batch(1, 900), false)?;
        }
        drop(lease);
        self.commit(explore, n, self.next(n).batch(1, 24), true)
    }

    /// Adds a commit to the model before its outcome is known.
    fn attempt(&mut self, n: usize, batch: Batch) {
        let timeline = &mut self.expected.timelines[n];
        if batch.drop {
            timeline.model.drop_blocks(1, 1, batch.lsn).expect("in order");
        }
        timeline.model.put_batch(batch.puts).expect("in order");
        timeline.model.commit(batch.lsn).expect("in order");
        timeline.commits.push(batch.lsn);
    }

    /// Removes a refused commit: it must never be found.
    fn take_back(&mut self, n: usize, lsn: Lsn, before: Model) {
        let timeline = &mut self.expected.timelines[n];
        timeline.forget_from(lsn);
        timeline.model = before;
    }

    fn roll(&mut self, explore: &mut Explore, n: usize) -> Result<(), Violation> {
        let (timeline, floors) = (self.timeline(n), self.expected.floors);
        let rolled = timeline.write_lease().and_then(|mut lease| lease.roll());
        if let Err(error) = rolled {
            self.refused("roll", &error)?;
        }
        self.explored(explore, floors)
    }

    fn flush(&mut self, explore: &mut Explore, n: usize) -> Result<(), Violation> {
        let floors = self.expected.floors;
        match self.timeline(n).flush() {
            Ok(lsn) => {
                self.explored(explore, floors)?;
                let committed = self.expected.timelines[n].model.committed();
                if lsn < committed {
                    let what = format!("a flush reached {lsn}, {committed} was committed");
                    return Err(Violation::new(what));
                }
                explore.counts.add("flushes");
                Ok(())
            }
            Err(error) => self.refused("flush", &error),
        }
    }

    fn compact(&mut self, explore: &mut Explore, n: usize) -> Result<(), Violation> {
        let floors = self.expected.floors;
        match self.timeline(n).compact() {
            Ok(merges) => {
                self.explored(explore, floors)?;
                explore.counts.add_many("merges", merges);
                Ok(())
            }
            Err(error) => self.refused("compact", &error),
        }
    }

    /// Records that everything in layer files is safe, whichever thread flushed it.
    fn note_flushed(&mut self) {
        let Some(store) = &self.store else { return };
        for (name, floor) in NAMES.iter().zip(&mut self.expected.floors) {
            if let Ok(timeline) = store.timeline(name) {
                let lsn = timeline.disk_consistent_lsn();
                floor.power = floor.power.max(lsn);
                floor.kill = floor.kill.max(lsn);
                floor.marked = floor.marked.max(lsn);
            }
        }
    }

    fn import(&mut self, explore: &mut Explore, n: usize) -> Result<(), Violation> {
        let (timeline, floors) = (self.timeline(n), self.expected.floors);
        let expected = &mut self.expected.timelines[n];
        let (before, lsn) = (expected.model.clone(), expected.model.last().max(START).next());
        let images = imported(lsn);
        let work = || {
            let mut lease = timeline.write_lease()?;
            let mut import = lease.import_images(lsn)?;
            images.iter().try_for_each(|(key, image)| import.put(*key, image))?;
            import.finish()
        };
        let done = work();
        expected.model.import(lsn, images.clone());
        expected.commits.push(lsn);
        let fingerprint = expected.fingerprint(lsn);
        self.explored(explore, floors)?;
        match done {
            Ok(_) => explore.counts.add("imports"),
            Err(error) => {
                self.refused("import", &error)?;
                // The manifest may name it.
                self.take_back(n, lsn, before);
                self.expected.timelines[n].maybes.push((lsn, fingerprint));
            }
        }
        Ok(())
    }

    fn create(&mut self, explore: &mut Explore, n: usize) -> Result<(), Violation> {
        let floors = self.expected.floors;
        self.expected.timelines[n].attempted = true;
        let store = self.store.as_ref().expect("open");
        let created = store.create_timeline(NAMES[n], START).map(drop);
        self.explored(explore, floors)?;
        match created {
            Ok(()) => self.expected.floors[n].created = true,
            Err(error) => self.refused("create timeline", &error)?,
        }
        Ok(())
    }
}
