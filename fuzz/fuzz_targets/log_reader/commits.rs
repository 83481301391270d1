//! Records with valid frames in a store's log that the store did not write: their content may be
//! anything.

use std::{path::Path, sync::OnceLock};

use arbitrary::Arbitrary;
use pagestrata::{
    Error, Key, LayersError, Lsn, Scratch, Store, Timeline, Value, testing::SimulatedStorage,
};
use pagestrata_wal::{Log, Record, Replay};

use crate::{
    frames::Files,
    replay::{DIR, STORE, bounded, options},
    stores::{STORE_DIR, check_store_error, files_of, storage_of, store_options},
};

const PARTS_MAX: usize = 24;
const SEGMENT_SIZE: u64 = 16 << 10;
const BASE_LSN: u64 = 10;

#[derive(Debug, Arbitrary)]
pub struct Commits {
    parts: Vec<Part>,
    salvage: bool,
}

#[derive(Debug, Arbitrary)]
struct Part {
    timeline: u8,
    /// How far its Lsn is above the one before; for one in eight, how far below, or below the
    /// maximum.
    ahead: u8,
    /// Error in the Lsn of the previous commit.
    previous_xor: u64,
    /// Bits 0 and 1: not the first part, not the last.
    flags: u8,
    body: Body,
    /// A false number of entries.
    entries: Option<u32>,
    table_len: Option<u32>,
}

#[derive(Debug, Arbitrary)]
enum Body {
    Payload(Vec<u8>),
    Table(Vec<u8>, u8),
    Entries(Vec<Entry>),
}

#[derive(Debug, Arbitrary)]
struct Entry {
    bits: u8,
    block: u8,
    object: u8,
    ahead: u64,
    len: u8,
}

/// Number, name, and the committed Lsn.
const TIMELINES: [(u64, &str, u64); 2] = [(1, "main", BASE_LSN), (2, "other", 0)];

fn base() -> &'static Files {
    static BASE: OnceLock<Files> = OnceLock::new();
    BASE.get_or_init(|| {
        let storage = SimulatedStorage::new();
        let options = store_options(SEGMENT_SIZE, false);
        let (store, _) = Store::open_with(storage.shared(), STORE_DIR, options).unwrap();
        let timelines = TIMELINES.map(|(_, name, _)| store.create_timeline(name, Lsn(1)).unwrap());
        put(&timelines[0], Lsn(BASE_LSN), b"base").unwrap();
        drop((timelines, store));
        files_of(&storage)
    })
}

fn put(timeline: &Timeline, lsn: Lsn, bytes: &[u8]) -> Result<(), Error> {
    let mut lease = timeline.write_lease()?;
    lease.put(Key::new(1, 0), lsn, Value::Image(bytes))?;
    lease.commit(lsn)?.wait()
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Encodes entries as a commit does, whatever they are.
fn encode(entries: &[Entry]) -> (Vec<u8>, Vec<u8>) {
    let (mut table, mut values) = (Vec::new(), Vec::new());
    for entry in entries {
        table.push(entry.bits % 32);
        table.extend(u32::from(entry.block % 8).to_le_bytes());
        if entry.bits & 4 != 0 {
            table.extend(u128::from(entry.object % 4).to_le_bytes());
        }
        if entry.bits & 8 != 0 {
            varint(&mut table, if entry.ahead % 4 > 0 { entry.ahead % 8 } else { entry.ahead });
        }
        if entry.bits & 3 < 3 && entry.bits & 16 == 0 {
            varint(&mut table, entry.len.into());
            values.push(vec![entry.block; entry.len.into()]);
        }
    }
    (table, values.into_iter().rev().flatten().collect())
}

impl Part {
    fn payload(&self, previous: u64) -> Vec<u8> {
        let (table, values, entries) = match &self.body {
            Body::Payload(bytes) => return bytes.clone(),
            Body::Table(table, values) => (table.clone(), vec![7; usize::from(*values)], 1),
            Body::Entries(entries) => {
                let (table, values) = encode(entries);
                (table, values, entries.len() as u32)
            }
        };
        let mut payload = (previous ^ self.previous_xor).to_le_bytes().to_vec();
        payload.extend(u32::from(self.flags ^ 3).to_le_bytes());
        payload.extend(self.entries.unwrap_or(entries).to_le_bytes());
        payload.extend(self.table_len.unwrap_or(table.len() as u32).to_le_bytes());
        payload.extend([table, values].concat());
        payload
    }
}

impl Commits {
    /// Appends the records to the log of the store.
    fn append(&self, storage: &SimulatedStorage) {
        let dir = Path::new(DIR);
        let replay = Replay::open(storage.shared(), dir, STORE, Some(1)).unwrap();
        let replayed = replay.run(&mut |_: Record<'_>| Ok::<_, LayersError>(())).unwrap();
        let log = Log::new(storage.shared(), dir, options(SEGMENT_SIZE), replayed);
        let mut committed = TIMELINES.map(|(_, _, committed)| committed);
        for part in self.parts.iter().take(PARTS_MAX) {
            let of = usize::from(part.timeline) % 2;
            let lsn = match part.ahead % 8 {
                7 => committed[of].saturating_sub(part.ahead.into()),
                6 => u64::MAX - u64::from(part.ahead / 8),
                _ => committed[of].saturating_add(1 + u64::from(part.ahead)),
            };
            // Sometimes a timeline that does not exist.
            let stream = if part.timeline > 250 { 9 } else { TIMELINES[of].0 };
            log.append(stream, Lsn(lsn), &[&part.payload(committed[of])]).unwrap();
            if part.flags & 2 == 0 {
                committed[of] = lsn;
            }
        }
        log.sync().unwrap();
    }

    pub fn check(&self) {
        let storage = storage_of(base().clone());
        self.append(&storage);
        let options = store_options(SEGMENT_SIZE, self.salvage);
        let files = storage.files();
        let opened =
            bounded(&files, || Store::open_with(storage.shared(), STORE_DIR, options.clone()));
        let (store, report) = match opened {
            Ok(opened) => opened,
            Err(error) => return check_store_error(&error),
        };
        let mut expected = Vec::new();
        for (_, name, _) in TIMELINES {
            let timeline = store.timeline(name).unwrap();
            check_base(&timeline);
            let last = timeline.last_record_lsn();
            if report.read_only.is_some() {
                continue;
            }
            // What was accepted can be flushed, and more can be committed after it.
            timeline.flush().unwrap();
            timeline.verify().unwrap();
            if last.0 > 1 << 60 {
                continue;
            }
            put(&timeline, Lsn(last.0 + 1), b"one more").unwrap();
            check_base(&timeline);
            expected.push((name, Lsn(last.0 + 1)));
        }
        assert!(report.read_only.is_none() || self.salvage);
        drop(store);
        if expected.is_empty() {
            return;
        }
        let (store, _) = Store::open_with(storage.shared(), STORE_DIR, options).unwrap();
        for (name, last) in expected {
            let timeline = store.timeline(name).unwrap();
            assert_eq!(timeline.last_record_lsn(), last);
            check_base(&timeline);
        }
    }
}

/// No later commit changes what was there.
fn check_base(timeline: &Timeline) {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for block in 0..8 {
        let last = timeline.last_record_lsn();
        let _ = guard.versions(Key::new(1, block), last, &mut scratch).unwrap().len();
    }
    let is_main = timeline.name() == "main";
    let found = guard.versions(Key::new(1, 0), Lsn(BASE_LSN), &mut scratch);
    if is_main {
        let found = found.unwrap();
        assert_eq!(
            found.newest().map(|newest| (newest.lsn, newest.bytes)),
            Some((Lsn(BASE_LSN), &b"base"[..]))
        );
    }
}
