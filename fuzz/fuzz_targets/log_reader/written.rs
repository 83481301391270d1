//! A log that the crate itself writes, over restarts and power losses, and then reads.

use std::path::Path;

use arbitrary::Arbitrary;
use pagestrata::testing::{Decision, SimulatedStorage, fill_value};
use pagestrata_layers::{Lsn, storage::Storage};
use pagestrata_wal::{Log, Position, ReplayEnd, ReplayOutcome};

use crate::{
    damage::{Damage, Target, evidence},
    frames::{Files, RECORD, frames},
    replay::{DIR, Known, empty, go_on, options, replay},
};

const OPS_MAX: usize = 80;
const BYTES_MAX: usize = 96 << 10;
const GENERATIONS_MAX: usize = 6;
const STREAMS: u64 = 3;

#[derive(Debug, Arbitrary)]
pub struct History {
    segment_size: u8,
    ops: Vec<LogOp>,
}

#[derive(Debug, Arbitrary)]
enum LogOp {
    Append {
        stream: u8,
        len: Len,
        fill: u8,
    },
    Sync,
    /// Background work: another segment is prepared.
    Work,
    /// Keeps a copy of the files: damage may restore sectors from it.
    Keep,
    /// The contents of the log so far, or a part of them, become durable elsewhere.
    Free {
        part: u8,
    },
    /// The process ends.
    Restart,
    /// Power is lost; the bytes decide what is kept.
    Crash {
        kept: Vec<u8>,
    },
}

#[derive(Debug, Arbitrary)]
enum Len {
    Short(u8),
    Medium(u16),
    /// A payload longer or shorter by so many bytes than what fits in a segment of the usual
    /// length.
    Segment(i8),
}

/// What was appended and is not freed.
struct Appended {
    record: Known,
    end: Position,
}

pub struct Written {
    storage: SimulatedStorage,
    log: Log,
    segment_size: u64,
    start: u32,
    records: Vec<Appended>,
    /// How many of the records were synced.
    synced: usize,
    /// How many of the records are also durable elsewhere.
    elsewhere: usize,
    generations: Vec<Files>,
    /// The log was read with a torn tail, and nothing was appended since.
    is_torn: bool,
}

/// Simulates a power loss; the bytes decide what is kept.
pub fn crash(storage: &SimulatedStorage, kept: &[u8]) -> SimulatedStorage {
    let mut kept = kept.iter();
    storage.crash(&mut |_: Decision<'_>, options: usize| {
        usize::from(kept.next().copied().unwrap_or(0)) % options
    })
}

impl History {
    pub fn write(&self) -> Written {
        let (storage, segment_size) = (empty(), (4 << 10) << (self.segment_size % 4));
        let log = new_log(&storage, segment_size, ReplayOutcome::default());
        let start = log.start().unwrap();
        let (records, generations) = (Vec::new(), Vec::new());
        let mut written = Written {
            storage,
            log,
            segment_size,
            start,
            records,
            synced: 0,
            elsewhere: 0,
            generations,
            is_torn: false,
        };
        let mut bytes_left = BYTES_MAX;
        for (number, op) in (1..).zip(self.ops.iter().take(OPS_MAX)) {
            written.take(number, op, &mut bytes_left);
        }
        written
    }
}

fn new_log(storage: &SimulatedStorage, segment_size: u64, replayed: ReplayOutcome) -> Log {
    Log::new(storage.shared(), Path::new(DIR), options(segment_size), replayed)
}

impl Written {
    fn take(&mut self, number: u64, op: &LogOp, bytes_left: &mut usize) {
        match op {
            LogOp::Append { stream, len, fill } => {
                let len = match *len {
                    Len::Short(len) => len.into(),
                    Len::Medium(len) => usize::from(len) % 5000,
                    Len::Segment(more) => {
                        (self.segment_size as usize - 616).saturating_add_signed(more.into())
                    }
                };
                let len = len.min(*bytes_left);
                *bytes_left -= len;
                let payload = fill_value(number, *fill, len);
                let (stream, lsn) = (u64::from(*stream) % STREAMS, Lsn(number));
                let (first, second) = payload.split_at(len / 3);
                let end = self.log.append(stream, lsn, &[first, second]).unwrap();
                self.is_torn = false;
                self.records.push(Appended { record: Known { stream, lsn, payload }, end });
            }
            LogOp::Sync => {
                self.log.sync().unwrap();
                self.synced = self.records.len();
            }
            LogOp::Work => {
                self.log.work();
                self.log.prepare();
            }
            LogOp::Keep => {
                if self.generations.len() < GENERATIONS_MAX {
                    self.generations.push(self.storage.files());
                }
            }
            LogOp::Free { part } => self.free(usize::from(*part)),
            LogOp::Restart => {
                self.storage = self.storage.killed();
                let (records, is_torn) = (self.records.len(), self.is_torn);
                self.reopen();
                assert_eq!((self.records.len(), self.is_torn), (records, is_torn));
            }
            LogOp::Crash { kept } => {
                self.storage = crash(&self.storage, kept);
                // The fate of unsynced data is decided: earlier states cannot come back.
                self.generations.clear();
                self.reopen();
            }
        }
    }

    /// Makes everything up to a record durable elsewhere.
    fn free(&mut self, part: usize) {
        let freed = self.elsewhere.max(part % (self.records.len() + 1));
        let highest = |stream: u64| {
            let of = self.records[..freed].iter().filter(|of| of.record.stream == stream);
            of.map(|of| of.record.lsn).max().unwrap_or_default()
        };
        for stream in 1..STREAMS {
            self.log.free_below(None, stream, highest(stream));
        }
        let start = self.log.start_after(0, highest(0));
        self.start = self.start.max(start.expect("there is a log"));
        self.log.free_below(start, 0, highest(0));
        let kept = self.records.iter().position(|of| of.end.sequence() >= self.start);
        let gone = kept.unwrap_or(self.records.len());
        assert!(gone <= freed, "{gone} records are gone, {freed} were durable elsewhere");
        self.records.drain(..gone);
        self.synced = self.synced.saturating_sub(gone);
        self.elsewhere = freed - gone;
    }

    fn known(&self) -> Vec<Known> {
        self.records.iter().map(|of| of.record.clone()).collect()
    }

    /// Reads the log, which must be undamaged.
    fn read(&self, storage: &SimulatedStorage) -> (Vec<Known>, ReplayOutcome) {
        let (found, result) = replay(storage, self.start);
        let replayed = result.expect("nothing is damaged");
        let known = self.known();
        assert!(known.starts_with(&found), "others than were appended");
        assert!(found.len() >= self.synced, "{} of {} that were synced", found.len(), self.synced);
        (found, replayed)
    }

    /// Continues in a new process.
    fn reopen(&mut self) {
        let (found, replayed) = self.read(&self.storage);
        self.is_torn = replayed.end != ReplayEnd::CleanEnd;
        self.records.truncate(found.len());
        self.synced = found.len();
        self.elsewhere = self.elsewhere.min(found.len());
        for name in &replayed.strays {
            self.storage.remove(&Path::new(DIR).join(name)).unwrap();
        }
        self.log = new_log(&self.storage, self.segment_size, replayed);
    }

    /// Checks the end of an undamaged log.
    fn check_end(&self, records: usize, end: ReplayEnd) {
        assert_eq!((records, end != ReplayEnd::CleanEnd), (self.records.len(), self.is_torn));
    }

    pub fn check_sound(self) {
        let (found, replayed) = self.read(&self.storage);
        self.check_end(found.len(), replayed.end);
        go_on(&self.storage, (self.start, self.segment_size), found, replayed, false);
    }

    pub fn check_torn(self, kept: &[u8]) {
        let storage = crash(&self.storage, kept);
        let (found, replayed) = self.read(&storage);
        go_on(&storage, (self.start, self.segment_size), found, replayed, false);
    }

    pub fn check_damaged(self, damage: &[Damage]) {
        let sound = self.storage.files();
        let frames = frames(&sound, Path::new(DIR), self.start);
        let records: Vec<_> = frames.iter().filter(|frame| frame.kind == RECORD).collect();
        assert_eq!(records.len(), self.records.len());
        let mut files = sound.clone();
        let mut target = Target {
            dir: DIR.into(),
            files: &mut files,
            generations: &self.generations,
            frames: &frames,
        };
        for damage in damage {
            let _ = target.damage(damage);
        }
        let storage = SimulatedStorage::of_files(files.clone());
        let (found, result) = replay(&storage, self.start);
        assert!(self.known().starts_with(&found), "others than were appended");
        let Ok(replayed) = result else {
            assert!(files != sound, "nothing is damaged");
            return;
        };
        let proven = evidence(&sound, &files, &frames);
        let proven = records.iter().take_while(|record| record.end <= proven).count();
        assert!(found.len() >= proven, "{} records, {proven} are known to be synced", found.len());
        if files == sound {
            self.check_end(found.len(), replayed.end);
        }
        go_on(&storage, (self.start, self.segment_size), found, replayed, false);
    }
}
