//! PostgreSQL's log, damaged in every way. Bytes as a segment; the sample's real segments with
//! changes; single records whose checksum was made right again; logs written here. Never a panic;
//! what is read of a real log is what was there before; and what was written here comes back.
#![no_main]

#[path = "../../engine/postgres/tests/all/layout.rs"]
mod layout;
#[path = "shared/sample.rs"]
mod sample;

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use arbitrary::Arbitrary;
use layout::{Log, PAGE, SYSTEM_ID, checksum, seal, segment_name};
use libfuzzer_sys::fuzz_target;
use pagestrata::testing::SimulatedStorage;
use pagestrata_layers::Lsn;
use pagestrata_postgres::{
    Error, PageVersions, Record, WalEnd, WalReader, decode_record, first_record, relation_events,
};

#[derive(Debug, Arbitrary)]
enum Input {
    /// A segment, from its first byte; the rest is zero.
    Segment { bytes: Vec<u8> },
    /// A real log with changes near a record, read from there.
    Damaged { record: u16, changes: Vec<(u16, u8)>, cut: Option<u16> },
    /// A real record with changes and the right checksum.
    Resealed { record: u16, changes: Vec<(u16, u8)>, insert: Vec<u8>, cut: Option<u16> },
    /// Records: manager, info, and how long and of what their main data is.
    Written { records: Vec<(u8, u8, u16, u8)>, long: Option<u8>, stop: Option<u16> },
}

const SEGMENT: u64 = 1 << 20;
/// So many records are read behind the first one that is damaged.
const RECORDS_READ: usize = 48;

/// A record of the sample.
struct Known {
    lsn: Lsn,
    end: Lsn,
    raw: Vec<u8>,
}

struct Sample {
    storage: SimulatedStorage,
    records: Vec<Known>,
}

fn dir() -> &'static Path {
    Path::new("wal")
}

fn segment(number: u64) -> PathBuf {
    dir().join(segment_name(1, number, SEGMENT))
}

fn known() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let files = sample::files().into_iter().filter(|(path, _)| path.starts_with("wal"));
        let storage = SimulatedStorage::of_files(files);
        let from = first_record(storage.shared(), dir()).unwrap();
        let mut reader = WalReader::open(storage.shared(), dir(), from, None, None).unwrap();
        let mut records = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            records.push(Known {
                lsn: record.lsn(),
                end: record.end(),
                raw: record.raw().to_vec(),
            });
        }
        assert!(records.len() > 1000);
        Sample { storage, records }
    })
}

/// Uses a record in every way; what it has does not matter.
fn use_record(record: &Record<'_>) -> Result<(), Error> {
    assert_eq!(record.blocks().count(), record.blocks().len());
    let mut versions = PageVersions::new();
    versions.versions(record, |_, _| Ok::<_, Error>(()))?;
    versions.implied(record, |_, _| Ok::<_, Error>(()))?;
    relation_events(record, |_| Ok(()))
}

/// A record that was read verifies again, by itself.
fn check_record(record: &Record<'_>) {
    let raw = record.raw();
    assert_eq!(raw.len(), u32::from_le_bytes(raw[..4].try_into().unwrap()) as usize);
    assert_eq!(checksum(raw), u32::from_le_bytes(raw[20..24].try_into().unwrap()));
    let again = decode_record(raw, record.end()).expect("it was read before");
    assert_eq!((again.raw(), again.blocks().len()), (raw, record.blocks().len()));
    assert_eq!(again.main_data(), record.main_data());
    let _ = use_record(record);
}

fn read_segment(bytes: Vec<u8>) {
    let mut bytes = bytes;
    bytes.truncate(SEGMENT as usize);
    let from = Lsn(SEGMENT * 10 + 40);
    let storage = SimulatedStorage::of_files([(segment(10), bytes)]).shared();
    let from = first_record(storage.clone(), dir()).unwrap_or(from);
    let Ok(mut reader) = WalReader::open(storage, dir(), from, None, None) else { return };
    while let Ok(Some(record)) = reader.next_record() {
        check_record(&record);
    }
}

fn read_damaged(record: u16, changes: &[(u16, u8)], cut: Option<u16>) {
    let Sample { storage, records } = known();
    let first = usize::from(record) % records.len();
    let known = &records[first..records.len().min(first + RECORDS_READ)];
    let from = known[0].lsn;
    // Changes are within 64 KiB of the first record and within its segment, so that they can be
    // undone at once.
    let (path, offset) = (segment(from.0 / SEGMENT), (from.0 % SEGMENT) as usize);
    let (mut sound, mut first_change) = (Vec::new(), u64::MAX);
    storage.change(&path, |bytes| {
        sound.clone_from(bytes);
        let at = |at: u16| (offset + usize::from(at)) % sound.len();
        for &(place, xor) in changes {
            bytes[at(place)] ^= xor;
        }
        if let Some(cut) = cut {
            bytes.truncate((offset + usize::from(cut)).min(sound.len()));
        }
        let places = changes.iter().map(|(place, _)| at(*place)).chain([bytes.len()]);
        let differs = places.filter(|at| bytes.get(*at) != sound.get(*at)).min();
        if let Some(at) = differs {
            first_change = from.0 / SEGMENT * SEGMENT + at as u64;
        }
    });
    let to = Some(known[known.len() - 1].end);
    let mut read = 0;
    // The segment's header may be damaged too, then nothing is read.
    if let Ok(mut reader) = WalReader::open(storage.shared(), dir(), from, to, None) {
        while let Ok(Some(record)) = reader.next_record() {
            check_record(&record);
            // Whatever is read is what was there, in order and without a gap.
            let known = &known[read];
            assert_eq!((record.lsn(), record.end()), (known.lsn, known.end));
            assert!(record.raw() == known.raw, "another record at {}", known.lsn);
            read += 1;
        }
    }
    // What lies on pages before the first change is read; opening looks at the segment's first
    // page.
    let before = first_change / PAGE * PAGE;
    let readable = known.iter().take_while(|known| known.end.0 <= before).count();
    let segment_page = from.0 / SEGMENT * SEGMENT == before;
    storage.change(&path, |bytes| *bytes = sound);
    assert!(read >= readable || segment_page, "{read} of {readable} records before the damage");
    assert!(first_change < u64::MAX || read == known.len());
}

fn decode_resealed(record: u16, changes: &[(u16, u8)], insert: &[u8], cut: Option<u16>) {
    let records = &known().records;
    let mut raw = records[usize::from(record) % records.len()].raw.clone();
    let at = 24 + raw.len().saturating_sub(24) / 2;
    raw.splice(at..at, insert.iter().copied());
    for &(at, xor) in changes {
        let len = raw.len();
        raw[usize::from(at) % len] ^= xor;
    }
    if let Some(cut) = cut {
        raw.truncate(24.max(usize::from(cut)));
    }
    seal(&mut raw);
    if let Ok(record) = decode_record(&raw, Lsn(0x1000)) {
        check_record(&record);
    }
}

fn read_written(records: &[(u8, u8, u16, u8)], long: Option<u8>, stop: Option<u16>) {
    let start = 10 * SEGMENT;
    let mut log = Log::in_memory(SEGMENT, start);
    let mut expected = Vec::new();
    for (number, &(manager, info, len, fill)) in records.iter().take(200).enumerate() {
        // Neither a switch of segments (of manager 0) nor a sign of a given-up record.
        let manager = 1 + manager % 20;
        let len = match long {
            Some(at) if usize::from(at) == number => SEGMENT as usize + usize::from(len),
            _ => usize::from(len) % 20_000,
        };
        let main = vec![fill; len];
        let start = log.append(manager, info & 0xF0, &main);
        expected.push((Lsn(start), Lsn(log.next), main));
    }
    let Some(&(from, ..)) = expected.first() else { return };
    // The log may stop anywhere: cut from there on, as after a crash.
    let end = stop.map_or(log.next, |stop| log.next - u64::from(stop).min(log.next - start));
    let mut bytes = log.sink.bytes;
    bytes.truncate((end - start) as usize);
    bytes.resize(bytes.len().next_multiple_of(SEGMENT as usize), 0);
    let segments = bytes.chunks(SEGMENT as usize).enumerate();
    let storage = SimulatedStorage::of_files(
        segments.map(|(number, bytes)| (segment(10 + number as u64), bytes.to_vec())),
    );
    let whole = expected.iter().take_while(|(_, record_end, _)| record_end.0 <= end).count();
    let opened = WalReader::open(storage.shared(), dir(), from, None, Some(SYSTEM_ID));
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(_) => return assert_eq!(whole, 0),
    };
    let mut read = 0;
    while let Some(record) = reader.next_record().expect("no damage, only an end") {
        check_record(&record);
        let (lsn, end, main) = &expected[read];
        assert_eq!((record.lsn(), record.end()), (*lsn, *end));
        assert!(record.main_data() == main);
        read += 1;
    }
    // Cut zeros are no loss: a record can be whole although its end was cut.
    assert!(read >= whole, "{read} of {whole}");
    assert!(matches!(reader.end(), Some(WalEnd::Clean { .. } | WalEnd::Torn { .. })));
}

fuzz_target!(|input: Input| {
    match input {
        Input::Segment { bytes } => read_segment(bytes),
        Input::Damaged { record, changes, cut } => read_damaged(record, &changes, cut),
        Input::Resealed { record, changes, insert, cut } => {
            decode_resealed(record, &changes, &insert, cut);
        }
        Input::Written { records, long, stop } => read_written(&records, long, stop),
    }
});
