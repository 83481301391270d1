//! Damaged, cut, foreign and missing segments: a typed error that says where, or the torn end that
//! it is. Never a panic, never a stream that is silently shorter.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use pagestrata_layers::Lsn;
use pagestrata_postgres::{Error, WalEnd, WalReader, first_record};

use crate::captures;

/// A copy of the sample's log, to damage.
pub(crate) struct Copy {
    dir: tempfile::TempDir,
    /// Segment files, in order.
    files: Vec<PathBuf>,
    /// Start and end of the records from the start on.
    records: Vec<(Lsn, Lsn)>,
}

const SEGMENT: u64 = 1 << 20;

/// What a reader yielded, and how it ended.
type Outcome = (Vec<(Lsn, Lsn)>, Result<WalEnd, Error>);

fn read(dir: &Path, from: Lsn, to: Option<Lsn>) -> Outcome {
    read_of(Some(captures::sample().control().system_id), dir, from, to)
}

fn read_of(system_id: Option<u64>, dir: &Path, from: Lsn, to: Option<Lsn>) -> Outcome {
    let mut records = Vec::new();
    let mut run = || {
        let mut reader = WalReader::open(captures::storage(), dir, from, to, system_id)?;
        while let Some(record) = reader.next_record()? {
            records.push((record.lsn(), record.end()));
        }
        Ok(reader.end().expect("it has ended"))
    };
    let end = run();
    (records, end)
}

impl Copy {
    /// The segments from that of the sample's record `skip` on; reading starts at that record.
    fn new(skip: usize) -> Copy {
        let (sample, dir) = (captures::sample(), tempfile::tempdir().unwrap());
        let (mut records, end) = read(&sample.wal(), sample.start(), None);
        end.unwrap();
        records.drain(..skip);
        let mut files = Vec::new();
        for number in records[0].0.0 / SEGMENT..=records.last().unwrap().0.0 / SEGMENT {
            let name = format!("0000000100000000{number:08X}");
            files.push(dir.path().join(&name));
            fs::copy(sample.wal().join(&name), dir.path().join(name)).unwrap();
        }
        Copy { dir, files, records }
    }

    /// The end of the log: few records, in the last one or two segments.
    fn tail(count: usize) -> Copy {
        Copy::new(read(&captures::sample().wal(), captures::sample().start(), None).0.len() - count)
    }

    fn start(&self) -> Lsn {
        self.records[0].0
    }

    fn last(&self) -> (Lsn, Lsn) {
        *self.records.last().unwrap()
    }

    fn read(&self) -> Outcome {
        read(self.dir.path(), self.start(), None)
    }

    /// The file that has `lsn`, and where.
    fn place(&self, lsn: u64) -> (&Path, u64) {
        let first = self.start().0 / SEGMENT;
        (&self.files[(lsn / SEGMENT - first) as usize], lsn % SEGMENT)
    }

    fn write(&self, lsn: u64, bytes: &[u8]) {
        let (path, offset) = self.place(lsn);
        File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
    }

    fn flip(&self, lsn: u64, bit: u8) {
        let (path, offset) = self.place(lsn);
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << bit], offset).unwrap();
    }

    /// All records up to one that starts at `lsn`.
    fn before(&self, lsn: Lsn) -> &[(Lsn, Lsn)] {
        &self.records[..self.records.partition_point(|record| record.0 < lsn)]
    }

    fn segment_starts(&self) -> Vec<u64> {
        (0..self.files.len() as u64)
            .map(|index| (self.start().0 / SEGMENT + index) * SEGMENT)
            .collect()
    }
}

#[test]
fn a_flipped_bit_in_a_record_is_named() {
    let copy = Copy::new(0);
    for index in (0..copy.records.len() - 1).step_by(211) {
        let (start, _) = copy.records[index];
        // The first byte behind the lengths of the header, which is in the same page.
        copy.flip(start.0 + 4, 3);
        let (records, end) = copy.read();
        copy.flip(start.0 + 4, 3);
        assert_eq!(records, copy.before(start));
        let Err(Error::Corrupt(corruption)) = end else { panic!("{start}: {end:?}") };
        assert_eq!(corruption.lsn, start);
        assert_eq!(corruption.segment.as_deref(), Some(copy.place(start.0).0));
        assert!(corruption.later.is_some_and(|later| later > start));
        assert_eq!(corruption.what, "record checksum");
    }
    assert_eq!(copy.read().0, copy.records);
}

#[test]
fn the_last_record_can_be_torn() {
    let copy = Copy::tail(100);
    let (last, end) = copy.last();
    let (records, clean) = copy.read();
    assert_eq!((records.len(), clean.unwrap()), (100, WalEnd::Clean { at: end }));
    let (path, offset) = copy.place(last.0);
    let saved = fs::read(path).unwrap();
    let record = &saved[offset as usize..(offset + end.0 - last.0) as usize];
    let used = record.iter().rposition(|byte| *byte != 0).unwrap();
    for cut in 1..=used {
        copy.write(last.0 + cut as u64, &vec![0; record.len() - cut]);
        let (records, torn) = copy.read();
        fs::write(path, &saved).unwrap();
        assert_eq!(records, copy.before(last), "{cut} of {used}");
        assert_eq!(torn.unwrap(), WalEnd::Torn { at: last });
    }
}

#[test]
fn every_truncation_ends_where_it_cuts() {
    let copy = Copy::tail(80);
    let (path, _) = copy.place(copy.last().0.0);
    let file = File::options().write(true).open(path).unwrap();
    let segment = copy.segment_starts().pop().unwrap();
    assert!(copy.start().0 > segment, "all in one segment");
    let (mut torn, mut clean) = (0, 0);
    for cut in (copy.start().0..=copy.last().1.0).rev() {
        file.set_len(cut - segment).unwrap();
        let (records, end) = copy.read();
        // A record needs its bytes, not the padding behind them.
        let whole = copy.records.iter().take_while(|record| record.1.0 <= (cut + 7) & !7).count();
        assert!(records.len() == whole || records.len() + 1 == whole, "{cut}: {}", records.len());
        assert_eq!(records, copy.records[..records.len()], "{cut}");
        match end.unwrap() {
            WalEnd::Torn { .. } => torn += 1,
            WalEnd::Clean { .. } => clean += 1,
            other => panic!("{cut}: {other:?}"),
        }
    }
    for len in 0..40 {
        file.set_len(len).unwrap();
        assert!(matches!(copy.read().1, Err(Error::Corrupt(_))), "no segment header");
    }
    println!("truncations: {torn} torn, {clean} clean");
    assert!(torn > 0 && clean > 0);
}

#[test]
fn a_cut_segment_before_others_is_damage() {
    let copy = Copy::new(0);
    for len in (0..SEGMENT).step_by(9973) {
        let (path, _) = copy.place(copy.segment_starts()[1]);
        let saved = fs::read(path).unwrap();
        File::options().write(true).open(path).unwrap().set_len(len).unwrap();
        let (records, end) = copy.read();
        fs::write(path, &saved).unwrap();
        assert_eq!(records, copy.records[..records.len()]);
        // What follows a switch is not needed.
        assert!(end.is_err() || records.len() == copy.records.len(), "{len}: {end:?}");
    }
}

#[test]
fn a_gap_is_named() {
    let copy = Copy::new(0);
    for index in 1..copy.files.len() - 1 {
        let saved = fs::read(&copy.files[index]).unwrap();
        fs::remove_file(&copy.files[index]).unwrap();
        let (records, end) = copy.read();
        fs::write(&copy.files[index], saved).unwrap();
        assert_eq!(records, copy.records[..records.len()]);
        let Err(Error::MissingSegment { missing, at, later, .. }) = end else { panic!("{end:?}") };
        assert!(copy.files[index].ends_with(missing) && copy.files[index + 1].ends_with(later));
        assert_eq!(at.0, copy.segment_starts()[index]);
    }
    // Without the last one, the log just ends earlier; a record over the edge is then torn.
    fs::remove_file(copy.files.last().unwrap()).unwrap();
    assert!(copy.read().1.is_ok());
}

#[test]
fn foreign_segments_are_refused() {
    let copy = Copy::new(0);
    let refused = |lsn: u64, bytes: &[u8], is: &dyn Fn(&Error) -> bool| {
        let (path, _) = copy.place(lsn);
        let saved = fs::read(path).unwrap();
        copy.write(lsn, bytes);
        let (records, end) = copy.read();
        fs::write(path, saved).unwrap();
        assert_eq!(records, copy.records[..records.len()]);
        let error = end.unwrap_err();
        assert!(is(&error), "{error}");
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    };
    for start in copy.segment_starts() {
        refused(start + 24, &7_u64.to_le_bytes(), &|error| {
            matches!(error, Error::OtherCluster { .. })
        });
        refused(start + 4, &2_u32.to_le_bytes(), &|error| {
            matches!(error, Error::OtherTimeline { found: 2, expected: 1, .. })
        });
        for (magic, version) in
            [(0xD10D_u16, "14"), (0xD113, "16"), (0xD116, "17"), (0xD093, "9.6")]
        {
            refused(
                start,
                &magic.to_le_bytes(),
                &|error| matches!(error, Error::OtherVersion { version: found, .. } if *found == version),
            );
        }
    }
    let expecting = |system_id| {
        WalReader::open(captures::storage(), copy.dir.path(), copy.start(), None, system_id)
            .map(|_| ())
    };
    assert!(matches!(expecting(Some(7)), Err(Error::OtherCluster { expected: 7, .. })));
    expecting(Some(captures::sample().control().system_id)).unwrap();

    let renamed = copy.dir.path().join("000000020000000000000FFF");
    fs::rename(copy.files.last().unwrap(), &renamed).unwrap();
    assert!(matches!(copy.read().1, Err(Error::OtherTimeline { found: 2, expected: 1, .. })));
    fs::rename(&renamed, copy.dir.path().join("000000010000000000001000")).unwrap();
    assert!(matches!(copy.read().1, Err(Error::SegmentName { .. })));
}

#[test]
fn recycled_segments_are_the_end() {
    let copy = Copy::tail(50);
    let sample = captures::sample();
    let old =
        fs::read(sample.wal().join(format!("0000000100000000{:08X}", sample.start().0 / SEGMENT)))
            .unwrap();
    let next = copy.last().1.0 / SEGMENT + 1;
    for number in next..next + 3 {
        fs::write(copy.dir.path().join(format!("0000000100000000{number:08X}")), &old).unwrap();
    }
    // Old pages behind the end in the last segment, too.
    let page = copy.last().1.0.next_multiple_of(8192);
    copy.write(page, &old[8192..(SEGMENT - page % SEGMENT) as usize]);
    let (records, end) = copy.read();
    assert_eq!((records.len(), end.unwrap()), (50, WalEnd::Clean { at: copy.last().1 }));
}

/// The last segment's first page lost: what is behind it shows that the log did not end before.
#[test]
fn a_lost_first_page_is_damage() {
    let copy = Copy::new(0);
    let start = *copy.segment_starts().last().unwrap();
    copy.write(start, &[0; 8192]);
    assert!(matches!(copy.read().1, Err(Error::Corrupt(_))));
    copy.write(start + 8, &[1; 8]);
    assert!(copy.read().1.is_err());
}

#[test]
fn reading_starts_at_records_only() {
    let copy = Copy::new(0);
    let open = |from: u64| {
        WalReader::open(captures::storage(), copy.dir.path(), Lsn(from), None, None).map(|_| ())
    };
    for lsn in [
        0,
        1,
        8,
        copy.segment_starts()[0] - 8,
        copy.last().1.0 + 8,
        copy.last().1.0 + 8192,
        99 << 20,
        u64::MAX,
    ] {
        assert!(matches!(open(lsn), Err(Error::Start { .. } | Error::Corrupt(_))), "{}", Lsn(lsn));
    }
    let mut refused = 0;
    for (index, &(start, end)) in copy.records.iter().enumerate().step_by(7) {
        open(start.0).unwrap();
        open(end.0).unwrap();
        for inside in [start.0 + 1, start.0 + 8, end.0 - 8].into_iter().filter(|lsn| *lsn > start.0)
        {
            // A record may end with the header of the page behind, and a switch with the rest of
            // the segment.
            let header = inside % 8192 == 0 && index > 0;
            refused += usize::from(open(inside).is_err() || header);
            assert!(open(inside).is_err() || header, "{} in {start}..{end}", Lsn(inside));
        }
    }
    println!("starts within records: {refused} refused");
    let empty = tempfile::tempdir().unwrap();
    let error = WalReader::open(captures::storage(), empty.path(), Lsn(8), None, None).unwrap_err();
    assert!(matches!(error, Error::NoSegments { .. }));
}

#[test]
fn the_first_record_is_found() {
    for capture in captures::all() {
        let first = first_record(captures::storage(), &capture.wal()).unwrap();
        let system_id = Some(capture.control().system_id);
        let (records, end) = read_of(system_id, &capture.wal(), first, None);
        assert!(first <= capture.start() && end.is_ok(), "{}: {first} {end:?}", capture.name);
        assert!(records.iter().any(|record| record.0 == capture.start()));
    }
}

#[test]
fn reading_stops_where_it_is_told() {
    let copy = Copy::tail(40);
    let read = |to: u64| read(copy.dir.path(), copy.start(), Some(Lsn(to)));
    for (index, &(start, end)) in copy.records.iter().enumerate() {
        let (records, reached) = read(end.0);
        assert_eq!((records.len(), reached.unwrap()), (index + 1, WalEnd::Reached { at: end }));
        let (records, reached) = read(end.0 - 1);
        let at = if index == 0 { start } else { copy.records[index - 1].1 };
        assert_eq!((records.len(), reached.unwrap()), (index, WalEnd::Reached { at }));
    }
    let (records, end) = read(copy.last().1.0 + 8);
    assert_eq!(records.len(), 40);
    assert!(matches!(end, Err(Error::EndsBefore { end, .. }) if end == copy.last().1));
}

/// Whatever bit flips: an error, or every record before the flip with the log's end there, and then
/// the flip is in the last record or behind it.
#[test]
fn ten_thousand_flips_never_shorten_the_log() {
    let copy = Copy::tail(900);
    let seed = 0x9E37_79B9_7F4A_7C15_u64;
    println!("seed {seed:#X}");
    let mut random = fastrand::Rng::with_seed(seed);
    let first_page = copy.start().0 & !8191;
    let (mut errors, mut torn, mut unseen) = (0, 0, 0);
    for round in 0..10_000 {
        let lsn = first_page + random.u64(..copy.last().1.0 + 64 - first_page);
        let bit = random.u64(..8) as u8;
        copy.flip(lsn, bit);
        let (records, end) = copy.read();
        copy.flip(lsn, bit);
        assert_eq!(records, copy.records[..records.len()], "round {round}");
        match end {
            Err(_) => errors += 1,
            Ok(_) if records.len() == copy.records.len() => unseen += 1,
            Ok(end) => {
                assert_eq!(
                    records.len() + 1,
                    copy.records.len(),
                    "round {round}: {} ends {end:?}",
                    Lsn(lsn)
                );
                assert!(lsn >= copy.last().0.0, "round {round}: {}", Lsn(lsn));
                torn += 1;
            }
        }
    }
    println!(
        "10000 flips: {errors} errors, {torn} in the last record, {unseen} in bytes that nothing depends on"
    );
    assert_eq!(copy.read().0, copy.records);
}
