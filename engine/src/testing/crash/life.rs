//! [`Life`]: a store that is worked with, killed, and opened again, and what was promised meanwhile.
//!
//! Before each call of the engine the promises are noted, and what the call leaves at each of its calls to the storage is held
//! against them; what it was to do counts as tried from before it on.

use std::{mem, sync::Arc, time::Duration};

use super::{
    Violation,
    explore::Explore,
    oracle::{DROP_LSN_UNIT, End, Expected, Floors, NAMES, Recovered, START},
    recorder::Recorder,
};
use crate::{
    Background, Durability, Error, Key, Kind, LayersError, Lsn, Options, Store, Timeline, Value,
    storage::Storage,
    testing::{Fault, Model, SimulatedStorage, Stored, all_kept, none_kept},
};

const DIR: &str = "/store";

/// Something that is done with a store. The number is that of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A small commit that is waited for.
    PutWait(usize),
    /// And one that is not.
    Put(usize),
    /// A commit of several keys, waited for.
    Many(usize),
    /// A commit of this length, not waited for; a segment has no room for two of 2600.
    Long(usize, usize),
    Roll(usize),
    Flush(usize),
    /// Blocks are dropped and one is put again; waited for.
    Drop(usize),
    Import(usize),
    Create(usize),
    /// Closed and opened.
    Close,
    /// Killed and opened, with another durability.
    Kill(Durability),
    /// The power fails: 0 nothing is kept, 1 everything, else by chance.
    PowerOff(u64),
    /// From here on a call fails.
    Fault(Fault),
    /// So many bytes are left on the disk.
    Full(u64),
    /// There is room again, and no fault.
    Mend,
    /// As [`Op::Kill`], and the opening meets a fault, then another one none.
    KillAndFault(Fault),
}

pub(super) struct Life {
    recorder: Recorder,
    store: Option<Store>,
    pub(super) expected: Expected,
    pub(super) durability: Durability,
    /// Of values: what is put at the same place in another life is another one.
    incarnation: u64,
    /// Something may fail.
    is_armed: bool,
    /// Crash points are looked at.
    pub(super) one_in: u64,
    seed: u64,
}

fn options(durability: Durability) -> Options {
    Options {
        open_layer_size_max_bytes: 64 << 10,
        log_segment_size_bytes: 4096,
        log_size_max_bytes: 4 * 4096,
        pool_retained_max_bytes: 0,
        durability,
        background: Background::Callers,
        store_id: Some(7),
        ..Options::default()
    }
}

/// Opens what is in a storage.
pub(super) fn open(storage: Arc<dyn Storage>, durability: Durability) -> Result<Store, Error> {
    let (store, report) = Store::open_with(storage, DIR, options(durability))?;
    match report.read_only {
        None => Ok(store),
        Some(cause) => Err(Error::ReadOnly { cause }),
    }
}

fn value(n: usize, key: Key, lsn: Lsn, (incarnation, len): (u64, usize)) -> Stored {
    let place = (key.object as u64) << 32 | u64::from(key.block);
    let seed = lsn.0 << 24 ^ place << 4 ^ n as u64 ^ incarnation << 48;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    let kind = match lsn.0 % 4 {
        0 | 1 => Kind::Image,
        2 => Kind::Delta { will_init: true },
        _ => Kind::Delta { will_init: false },
    };
    Stored { kind, bytes: bytes.into() }
}

/// What is imported at an Lsn.
pub(super) fn imported(lsn: Lsn) -> Vec<(Key, Arc<[u8]>)> {
    (0..3).map(|n| (Key::new(3, n), [lsn.0 as u8 ^ n as u8; 40][..].into())).collect()
}

fn as_value(stored: &Stored) -> Value<'_> {
    match stored.kind {
        Kind::Image => Value::Image(&stored.bytes),
        Kind::Delta { will_init } => Value::Delta { bytes: &stored.bytes, will_init },
    }
}

/// What a commit puts.
struct Batch {
    lsn: Lsn,
    drop: bool,
    puts: Vec<(Key, Lsn, Stored)>,
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

    pub(super) fn is_armed(&self) -> bool {
        self.is_armed
    }

    /// Of values: those of the next process are others.
    pub(super) fn set_incarnation(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
    }

    pub(super) fn has(&self, n: usize) -> bool {
        self.store.as_ref().is_some_and(|store| store.timeline(NAMES[n]).is_ok())
    }

    /// Whether an operation has something to work on.
    pub(super) fn is_possible(&self, op: Op) -> bool {
        match op {
            Op::PutWait(n) | Op::Put(n) | Op::Many(n) | Op::Long(n, _) => self.has(n),
            Op::Roll(n) | Op::Flush(n) | Op::Drop(n) | Op::Import(n) => self.has(n),
            Op::Create(n) => !self.has(n),
            _ => true,
        }
    }

    /// Does an operation, and explores what it may leave.
    pub(super) fn apply(&mut self, explore: &mut Explore, op: Op) -> Result<(), Violation> {
        self.recorder.set_one_in(self.one_in);
        match op {
            Op::PutWait(n) => self.commit(explore, n, self.batch(n, 1, 24), true)?,
            Op::Put(n) => self.commit(explore, n, self.batch(n, 1, 24), false)?,
            Op::Many(n) => self.commit(explore, n, self.batch(n, 4, 60), true)?,
            Op::Long(n, len) => self.commit(explore, n, self.batch(n, 1, len), false)?,
            Op::Drop(n) => self.commit(explore, n, self.drop_batch(n), true)?,
            Op::Roll(n) => self.roll(explore, n)?,
            Op::Flush(n) => self.flush(explore, n)?,
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

    /// Holds what the last calls may leave against the promises from before them.
    fn explored(&mut self, explore: &mut Explore, floors: Floors) -> Result<(), Violation> {
        for point in self.recorder.take() {
            explore
                .point(&point.storage, &self.expected, &floors)
                .map_err(|violation| violation.at(format!("before storage call {}", point.call)))?;
        }
        Ok(())
    }

    /// Whether an error is one that may be: something was made to fail, and it is not taken for damage.
    fn refused(&self, what: &str, error: &Error) -> Result<(), Violation> {
        let is_damage = matches!(error, Error::Layers(LayersError::Corrupt { .. }));
        match self.is_armed && !is_damage {
            true => Ok(()),
            false => Err(Violation::new(format!("{what}: {error}"))),
        }
    }

    fn timeline(&self, n: usize) -> Timeline {
        self.store.as_ref().and_then(|store| store.timeline(NAMES[n]).ok()).expect("it exists")
    }

    fn batch(&self, n: usize, puts: u64, len: usize) -> Batch {
        let first = self.expected.timelines[n].model.last().max(START).next();
        let put = |i: u64| {
            let lsn = Lsn(first.0 + i / 2);
            let key = Key::new(1 + u128::from(i % 2), ((lsn.0 + i) % (4 - 2 * (i % 2))) as u32);
            (key, lsn, value(n, key, lsn, (self.incarnation, len + i as usize * 7)))
        };
        let puts: Vec<_> = (0..puts).map(put).collect();
        Batch { lsn: puts.last().expect("at least one").1, drop: false, puts }
    }

    fn drop_batch(&self, n: usize) -> Batch {
        let last = self.expected.timelines[n].model.last().max(START);
        let lsn = Lsn((last.0 + 1).next_multiple_of(DROP_LSN_UNIT));
        let key = Key::new(1, 0);
        Batch {
            lsn,
            drop: true,
            puts: vec![(key, lsn, value(n, key, lsn, (self.incarnation, 30)))],
        }
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
                // Our own lease is in the way: to flush without it is what the error asks for.
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
        if wait {
            let floors = self.expected.floors;
            let waited = ticket.wait();
            self.explored(explore, floors)?;
            match waited {
                Ok(()) if self.durability == Durability::Synced => {
                    let floor = &mut self.expected.floors[n];
                    floor.power = lsn;
                    if !self.is_armed {
                        floor.marked = lsn;
                    }
                }
                Ok(()) => {}
                Err(error) => {
                    explore.counts.add("failed_syncs");
                    self.refused("wait", &error)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a commit into the model, before anybody knows how it ends.
    fn attempt(&mut self, n: usize, batch: Batch) {
        let timeline = &mut self.expected.timelines[n];
        if batch.drop {
            timeline.model.drop_blocks(1, 1, batch.lsn).expect("in order");
        }
        timeline.model.put_batch(batch.puts).expect("in order");
        timeline.model.commit(batch.lsn).expect("in order");
        timeline.commits.push(batch.lsn);
    }

    /// A commit that was refused is not there, and never comes up.
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

    /// Whatever is in layer files is safe, whoever has flushed it.
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

    fn close(&mut self, explore: &mut Explore) -> Result<(), Violation> {
        let floors = self.expected.floors;
        let closed = self.store.take().expect("open").close(Duration::ZERO);
        self.explored(explore, floors)?;
        match closed {
            Ok(_) => {
                for (timeline, floor) in
                    self.expected.timelines.iter().zip(&mut self.expected.floors)
                {
                    let committed = timeline.model.committed().max(START);
                    (floor.power, floor.kill) = (committed, committed);
                }
            }
            Err(error) => self.refused("close", &error)?,
        }
        let left = self.storage().killed();
        self.reopen(explore, left, (End::Killed, false))
    }

    fn fault_at_open(&mut self, explore: &mut Explore, fault: Fault) -> Result<(), Violation> {
        let left = self.storage().killed();
        left.set_fault(Some(fault));
        self.reopen(explore, left, (End::Killed, true))?;
        if self.store.is_none() {
            explore.counts.add("failed_openings");
            let left = self.storage().killed();
            self.reopen(explore, left, (End::Killed, false))?;
        }
        Ok(())
    }

    /// Opens what the last process has left. What it was promised counts until the opening has succeeded; then what was found.
    pub(super) fn reopen(
        &mut self,
        explore: &mut Explore,
        left: SimulatedStorage,
        (end, is_armed): (End, bool),
    ) -> Result<(), Violation> {
        let was_armed = mem::replace(&mut self.is_armed, is_armed) || is_armed;
        self.store = None;
        self.incarnation += 1;
        self.seed = self.seed.wrapping_add(1);
        if end == End::PowerOff {
            self.expected.floors.iter_mut().for_each(|floor| floor.kill = floor.power);
        }
        self.recorder = Recorder::new(left, self.one_in, self.seed);
        let floors = self.expected.floors;
        let opened = open(self.recorder.shared(), self.durability);
        explore.in_recovery = true;
        let explored = self.explored(explore, floors);
        explore.in_recovery = false;
        explored?;
        explore.counts.add("openings");
        let store = match opened {
            Ok(store) => store,
            Err(error) => return self.refused("open", &error),
        };
        let recovered = Recovered::of(&store).map_err(Violation::new)?;
        self.expected.check(&recovered, end, &floors).map_err(Violation::new)?;
        let consistent = NAMES.map(|name| {
            store.timeline(name).map_or(START, |timeline| timeline.disk_consistent_lsn().max(START))
        });
        let lost_marks = end == End::PowerOff || was_armed;
        self.expected.settle(&recovered, lost_marks, &consistent);
        self.store = Some(store);
        Ok(())
    }
}
