//! Logs that are written here: what the captures do not have, such as records longer than a
//! segment, edges that are met exactly, and a record that was given up after a crash.

use std::{fs::File, os::unix::fs::FileExt};

use pagestrata_layers::Lsn;
use pagestrata_postgres::{Error, WalEnd, WalReader, first_record};

use crate::{
    captures,
    layout::{self, PAGE, SYSTEM_ID, Sink, segment_name},
};

/// Start, end and length of the main data of a record.
type Read = (u64, u64, usize);

type Log = layout::Log<Segments>;

/// Segment files in a directory of their own.
struct Segments {
    dir: tempfile::TempDir,
    size: u64,
}

impl Sink for Segments {
    fn write(&mut self, lsn: u64, bytes: &[u8]) {
        let path = self.dir.path().join(segment_name(1, lsn / self.size, self.size));
        let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
        file.set_len(self.size).unwrap();
        file.write_all_at(bytes, lsn % self.size).unwrap();
    }
}

/// An empty log whose first segment is the second of the 64-bit space.
fn empty_log(segment_size: u64) -> Log {
    let dir = tempfile::tempdir().unwrap();
    Log::new(Segments { dir, size: segment_size }, segment_size, segment_size)
}

impl layout::Log<Segments> {
    /// Main data that makes the next record end `behind` bytes before the page does.
    fn filling(&self, behind: u64) -> Vec<u8> {
        let start = if self.next.is_multiple_of(PAGE) { self.next + 24 } else { self.next };
        vec![7; (PAGE - start % PAGE - behind - 29) as usize]
    }

    fn read_from(&self, from: u64) -> (Vec<Read>, Result<WalEnd, Error>) {
        let mut records = Vec::new();
        let mut run = || {
            let mut reader = WalReader::open(
                captures::storage(),
                self.sink.dir.path(),
                Lsn(from),
                None,
                Some(SYSTEM_ID),
            )?;
            while let Some(record) = reader.next_record()? {
                records.push((record.lsn().0, record.end().0, record.main_data().len()));
            }
            Ok(reader.end().expect("it has ended"))
        };
        let end = run();
        (records, end)
    }
}

#[test]
fn records_meet_every_edge() {
    let mut log = empty_log(1 << 20);
    let first = log.append(21, 0, b"first");
    let mut starts = vec![first];
    for behind in (0..=72).step_by(8) {
        let main = log.filling(behind);
        starts.push(log.append(21, 0, &main));
        // With 8 to 64 bytes left on its page, its header or its main data goes on behind the edge.
        starts.push(log.append(21, 0, &[1; 100]));
    }
    starts.push(log.append(21, 0, &vec![2; 3 << 20]));
    starts.push(log.append(21, 0, b"last"));
    let (records, end) = log.read_from(first);
    assert_eq!(records.iter().map(|record| record.0).collect::<Vec<_>>(), starts);
    assert_eq!(end.unwrap(), WalEnd::Clean { at: Lsn(log.next) });
    assert!(records.iter().any(|record| record.1.is_multiple_of(PAGE)), "one ends on an edge");
    assert!(records.iter().all(|record| record.1.is_multiple_of(8)));
    for (start, end, _) in records {
        for from in [start, end] {
            assert!(log.read_from(from).1.is_ok(), "from {}", Lsn(from));
        }
    }
    assert_eq!(first_record(captures::storage(), log.sink.dir.path()).unwrap(), Lsn(first));
}

/// A log that was read to its end can be opened there again, although the next page is not there
/// yet.
#[test]
fn reading_goes_on_at_every_kind_of_end() {
    for (segments, switch) in [(0, false), (1, false), (1, true)] {
        let mut log = empty_log(1 << 20);
        let first = log.append(21, 0, b"first");
        if segments == 1 && !switch {
            log.append(21, 0, &vec![0; (1 << 20) - 9000]);
            while log.next < (2 << 20) - PAGE {
                log.append(21, 0, &[0; 64]);
            }
        }
        let main = log.filling(0);
        log.append(21, 0, &main);
        if switch {
            log.append_body(0, 0x40, &[]);
            log.next = 2 << 20;
        }
        assert_eq!(log.next % PAGE, 0);
        for more in [0, 1] {
            let (records, end) = log.read_from(first);
            let at = Lsn(log.next);
            assert_eq!(end.unwrap(), WalEnd::Clean { at });
            let (none, end) = log.read_from(at.0);
            assert_eq!((none.len(), end.unwrap()), (0, WalEnd::Clean { at }));
            if more == 0 {
                let next = log.append(21, 0, &[5; 100]);
                assert_eq!(log.read_from(at.0).0[0].0, next);
                assert_eq!(log.read_from(first).0.len(), records.len() + 1);
            }
        }
        assert!(log.read_from(log.next + PAGE).1.is_err());
        assert!(log.read_from((log.next & !(PAGE - 1)) + 2 * PAGE).1.is_err());
    }
}

#[test]
fn a_switch_ends_with_its_segment() {
    for fill in [0, 24, 72] {
        let mut log = empty_log(1 << 20);
        let first = log.append(21, 0, b"first");
        if fill == 0 {
            // The switch itself fills the last page of the segment.
            log.append(21, 0, &vec![0; (1 << 20) - 9000]);
            while log.next < (2 << 20) - PAGE {
                log.append(21, 0, &[0; 64]);
            }
            let main = log.filling(24);
            log.append(21, 0, &main);
            assert_eq!(log.next, (2 << 20) - 24);
        } else {
            let main = log.filling(fill);
            log.append(21, 0, &main);
        }
        let switch = log.append_body(0, 0x40, &[]);
        log.next = 2 << 20;
        let after = log.append(21, 0, b"after");
        let (records, end) = log.read_from(first);
        let found: Vec<_> = records[records.len() - 2..].iter().map(|r| (r.0, r.1)).collect();
        assert_eq!(found, [(switch, 2 << 20), (after, log.next)]);
        assert_eq!(after, (2 << 20) + 40);
        assert_eq!(end.unwrap(), WalEnd::Clean { at: Lsn(log.next) });
    }
}

#[test]
fn a_record_given_up_after_a_crash_is_passed_over() {
    let given_up = |honest: bool| {
        let mut log = empty_log(1 << 20);
        let first = log.append(21, 0, b"first");
        let (prev, torn) = (log.prev, log.next);
        log.append(21, 0, &vec![9; 20_000]);
        // The server comes back: the record's second page was never written, the log goes on there.
        let page = torn.next_multiple_of(PAGE);
        log.sink.write(page, &vec![0; 2 * PAGE as usize]);
        (log.prev, log.next) = (prev, log.page(page, 8, 0));
        let mut body = vec![255, 16];
        body.extend((torn + if honest { 0 } else { 8 }).to_le_bytes());
        body.extend([0; 8]);
        let replaced = log.append_body(0, 0xD0, &body);
        log.append(21, 0, b"on");
        (log.read_from(first), replaced)
    };
    let ((records, end), replaced) = given_up(true);
    assert_eq!((records.len(), records[1].0), (3, replaced));
    assert!(matches!(end.unwrap(), WalEnd::Clean { .. }));
    let ((records, end), _) = given_up(false);
    assert_eq!(records.len(), 1);
    assert!(matches!(end, Err(Error::Corrupt(_))));
}

#[test]
fn segments_can_be_as_large_as_a_gibibyte() {
    let mut log = empty_log(1 << 30);
    let first = log.append(21, 0, b"first");
    log.append(21, 0, &vec![3; 1 << 20]);
    let (records, end) = log.read_from(first);
    assert_eq!((records.len(), end.unwrap()), (2, WalEnd::Clean { at: Lsn(log.next) }));
}

#[test]
fn impossible_segment_sizes_are_refused() {
    for size in [0_u32, 1 << 19, 3 << 20, 1 << 31] {
        let mut log = empty_log(1 << 20);
        let first = log.append(21, 0, b"first");
        log.sink.write((1 << 20) + 32, &size.to_le_bytes());
        let (records, end) = log.read_from(first);
        assert!(records.is_empty());
        let error = end.unwrap_err().to_string();
        assert!(error.contains("corrupt segment size"), "{error}");
    }
}

/// Bytes that mean nothing, under a segment's name, with and without a good header in front.
#[test]
fn arbitrary_segments_are_read_or_refused() {
    let mut random = fastrand::Rng::with_seed(0xA076_1D64_78BD_642F);
    for round in 0..300 {
        let mut log = empty_log(1 << 20);
        let bytes: Vec<u8> = (0..4 * PAGE / 8).flat_map(|_| random.u64(..).to_le_bytes()).collect();
        log.sink.write(1 << 20, &bytes);
        let mut start = (1 << 20) + 40;
        if round % 3 > 0 {
            start = log.page(1 << 20, 0, 0);
            for page in 1..4 {
                let remaining = random.u64(..3) as u32 * 8000;
                log.page((1 << 20) + page * PAGE, u16::from(remaining > 0), remaining);
            }
        }
        if round % 3 > 1 {
            log.sink.write(start, &(random.u64(..20_000) as u32).to_le_bytes());
        }
        let (records, _) = log.read_from(start);
        assert!(records.is_empty());
        let _ = first_record(captures::storage(), log.sink.dir.path());
    }
}
