//! The decoder of a stream against the reader of files: the same log, in pieces of any size,
//! started anywhere.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use fastrand::Rng;
use pagestrata_layers::Lsn;
use pagestrata_postgres::{Error, LogIdentity, Record, StreamDecoder, WalReader};

use crate::{
    captures::{self, Capture},
    layout::{Bytes, Log, PAGE, SYSTEM_ID, segment_name},
};

/// A record, as far as it is compared: start, end, checksum, length.
pub(crate) type Seen = (u64, u64, [u8; 4], usize);

pub(crate) fn seen(record: &Record<'_>) -> Seen {
    let raw = record.raw();
    (record.lsn().0, record.end().0, raw[20..24].try_into().unwrap(), raw.len())
}

pub(crate) fn all_of(reader: &mut WalReader) -> Vec<Seen> {
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        records.push(seen(&record));
    }
    records
}

pub(crate) fn identity(reader: &WalReader) -> LogIdentity {
    LogIdentity {
        system_id: reader.system_id(),
        timeline: reader.timeline(),
        segment_size: reader.segment_size(),
    }
}

/// Takes all records that are there.
fn drain(decoder: &mut StreamDecoder, records: &mut Vec<Seen>) -> Result<(), Error> {
    while let Some(record) = decoder.next_record()? {
        records.push(seen(&record));
    }
    Ok(())
}

/// The segment files of a directory, as the bytes that a server sends.
struct Sent<'a> {
    dir: &'a Path,
    log: LogIdentity,
    open: Option<(u64, File)>,
}

impl Sent<'_> {
    fn bytes(&mut self, from: u64, len: u64) -> Vec<u8> {
        let LogIdentity { timeline, segment_size, .. } = self.log;
        let number = from / segment_size;
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            let path = self.dir.join(segment_name(timeline, number, segment_size));
            self.open = Some((number, File::open(path).unwrap()));
        }
        let mut bytes = vec![0; len.min(segment_size - from % segment_size) as usize];
        self.open.as_ref().unwrap().1.read_exact_at(&mut bytes, from % segment_size).unwrap();
        bytes
    }
}

fn compare(capture: &Capture, random: &mut Rng) {
    let mut reader = capture.reader();
    let log = identity(&reader);
    let expected = all_of(&mut reader);
    let end = reader.position().0;
    for len_max in [200, 20_000, 400_000] {
        let dir = capture.wal();
        let mut sent = Sent { dir: &dir, log, open: None };
        let mut decoder = StreamDecoder::new(log, capture.start()).unwrap();
        let (mut records, mut restarts) = (Vec::new(), Restarts::new(capture, end, len_max));
        assert_eq!(decoder.received(), decoder.stream_from());
        while decoder.received().0 < end {
            let from = decoder.received();
            let len = (1 + random.u64(..len_max)).min(end - from.0);
            decoder.push(from, &sent.bytes(from.0, len)).unwrap();
            drain(&mut decoder, &mut records).unwrap();
            if restarts.is_due(decoder.position(), random) {
                if restarts.count.is_multiple_of(2) {
                    decoder.restart();
                } else {
                    decoder = StreamDecoder::new(log, decoder.position()).unwrap();
                }
            }
        }
        assert_eq!(decoder.position().0, end, "{}", capture.name);
        assert!(records == expected, "{}: records differ", capture.name);
        println!("{}, pieces of {len_max}: {} restarts", capture.name, restarts.count);
        assert!(restarts.count >= 2, "{}: both kinds of restart", capture.name);
    }
}

/// When a decoder starts again: some twenty times in a log, by chance, but not behind every other
/// piece of a short one; and once in each third at the latest, whatever the chance is. Only where
/// records were read since the last time: a record that is longer than a piece would never end.
struct Restarts {
    start: u64,
    end: u64,
    len_max: u64,
    count: u64,
    last: Lsn,
}

impl Restarts {
    fn new(capture: &Capture, end: u64, len_max: u64) -> Restarts {
        let last = capture.start();
        Restarts { start: last.0, end, len_max, count: 0, last }
    }

    fn is_due(&mut self, position: Lsn, random: &mut Rng) -> bool {
        if position <= self.last {
            return false;
        }
        let log_len = self.end - self.start;
        let pieces = (2 * log_len / self.len_max).max(1);
        let by_chance = random.u64(..pieces.max(20 * 4)) < 20;
        let thirds = 3 * (position.0 - self.start) / log_len;
        let is_late = position.0 < self.end && self.count < thirds;
        if by_chance || is_late {
            (self.count, self.last) = (self.count + 1, position);
        }
        by_chance || is_late
    }
}

#[test]
fn captures_are_read_as_from_files() {
    let mut random = Rng::with_seed(0x9E37_79B9_7F4A_7C15);
    for capture in captures::all() {
        compare(capture, &mut random);
    }
}

/// Reading starts at every record's start and end, and nowhere else.
#[test]
fn reading_starts_between_records_only() {
    let capture = captures::sample();
    let mut reader = capture.reader();
    let log = identity(&reader);
    let expected = all_of(&mut reader);
    let dir = capture.wal();
    let mut sent = Sent { dir: &dir, log, open: None };
    for (index, window) in expected.windows(3).enumerate().step_by(37) {
        let places = [(window[0].1, true), (window[1].0, true), (window[1].0 + 8, false)];
        for (from, is_good) in places {
            let mut decoder = StreamDecoder::new(log, Lsn(from)).unwrap();
            let start = decoder.stream_from();
            let result = decoder
                .push(start, &sent.bytes(start.0, 3 * PAGE))
                .and_then(|()| decoder.next_record().map(|record| record.map(|r| seen(&r))));
            match result {
                Ok(first) if is_good => assert!(first.is_none_or(|first| first == window[1])),
                Ok(first) => panic!("record {index} from {}: {first:?}", Lsn(from)),
                // At a page's edge, where the page goes on with a record: that is no end of one.
                Err(Error::Start { .. } | Error::Corrupt(_)) if !is_good => {}
                Err(error) => panic!("record {index} from {}: {error}", Lsn(from)),
            }
        }
    }
}

const SEGMENT: u64 = 1 << 20;

fn empty_log() -> Log<Bytes> {
    Log::in_memory(SEGMENT, SEGMENT)
}

const LOG: LogIdentity = LogIdentity { system_id: SYSTEM_ID, timeline: 1, segment_size: SEGMENT };

/// What is read from `bytes`, sent in pieces of `len`.
fn read(bytes: &[u8], from: u64, len: usize) -> (Vec<Seen>, Result<Lsn, Error>) {
    let mut decoder = StreamDecoder::new(LOG, Lsn(from)).unwrap();
    let mut records = Vec::new();
    for piece in bytes[(decoder.stream_from().0 - SEGMENT) as usize..].chunks(len) {
        decoder.push(decoder.received(), piece).unwrap();
        if let Err(error) = drain(&mut decoder, &mut records) {
            return (records, Err(error));
        }
    }
    (records, Ok(decoder.position()))
}

#[test]
fn switches_long_records_and_edges_arrive_byte_by_byte() {
    let mut log = empty_log();
    let mut starts = vec![log.append(21, 0, b"first")];
    for behind in (0..=72).step_by(8) {
        let start = if log.next.is_multiple_of(PAGE) { log.next + 24 } else { log.next };
        let main = vec![7; (PAGE - start % PAGE - behind - 29) as usize];
        starts.push(log.append(21, 0, &main));
        starts.push(log.append(21, 0, &[1; 100]));
    }
    starts.push(log.append_body(0, 0x40, &[]));
    log.next = 2 * SEGMENT;
    starts.push(log.append(21, 0, &vec![2; 1 << 20]));
    starts.push(log.append(21, 0, b"last"));
    for len in [1, 7, 8191, 8192, 8193, 4 << 20] {
        let (records, end) = read(&log.sink.bytes, starts[0], len);
        assert_eq!(records.iter().map(|record| record.0).collect::<Vec<_>>(), starts);
        assert_eq!(end.unwrap(), Lsn(log.next));
        let switch = records[records.len() - 3];
        assert_eq!(switch.1, 2 * SEGMENT);
        for record in records {
            let (rest, end) = read(&log.sink.bytes, record.1, len.max(7));
            assert_eq!(end.unwrap(), Lsn(log.next), "from {}", Lsn(record.1));
            assert_eq!(rest.len(), starts.iter().filter(|start| **start >= record.1).count());
        }
    }
}

#[test]
fn a_record_given_up_after_a_crash_is_passed_over() {
    for is_honest in [true, false] {
        let mut log = empty_log();
        let first = log.append(21, 0, b"first");
        let (prev, torn) = (log.prev, log.next);
        log.append(21, 0, &vec![9; 20_000]);
        let page = torn.next_multiple_of(PAGE) + PAGE;
        log.sink.bytes.truncate((page - SEGMENT) as usize);
        (log.prev, log.next) = (prev, log.page(page, 8, 0));
        let mut body = vec![255, 16];
        body.extend((torn + if is_honest { 0 } else { 8 }).to_le_bytes());
        body.extend([0; 8]);
        let replaced = log.append_body(0, 0xD0, &body);
        log.append(21, 0, b"on");
        for len in [1, 100, 1 << 20] {
            let (records, end) = read(&log.sink.bytes, first, len);
            if is_honest {
                assert_eq!((records.len(), records[1].0), (3, replaced));
                assert_eq!(end.unwrap(), Lsn(log.next));
            } else {
                assert_eq!(records.len(), 1);
                assert!(matches!(end, Err(Error::Corrupt(_))));
            }
        }
    }
}

#[test]
fn what_is_not_this_log_is_refused() {
    let mut log = empty_log();
    let first = log.append(21, 0, b"first");
    for _ in 0..500 {
        log.append(21, 0, &[3; 100]);
    }
    let good = &log.sink.bytes;
    let error_of = |bytes: &[u8], from| read(bytes, from, 999).1.unwrap_err();
    let damaged = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        error_of(&bytes, first)
    };
    assert!(matches!(damaged(4), Error::OtherTimeline { .. }));
    assert!(matches!(damaged(24), Error::OtherCluster { .. }));
    let error = damaged(9000).to_string();
    assert!(error.starts_with("000000010000000000000001: corrupt record checksum"), "{error}");
    assert!(matches!(damaged(8192 + 9), Error::Corrupt(_)), "another address");
    let mut zeros = good.clone();
    zeros[20_000..].fill(0);
    assert!(matches!(error_of(&zeros, first), Error::Corrupt(_)));

    let mut decoder = StreamDecoder::new(LOG, Lsn(first)).unwrap();
    for lsn in [SEGMENT + 1, SEGMENT - 1, u64::MAX] {
        let error = decoder.push(Lsn(lsn), b"piece").unwrap_err();
        assert!(matches!(error, Error::Discontinuous { .. }), "{error}");
    }
    for from in [0, u64::MAX, 0xFFFF_FFFF << 32] {
        assert!(matches!(StreamDecoder::new(LOG, Lsn(from)), Err(Error::Start { .. })));
    }
    for segment_size in [0, 1, 3 << 20, 2 << 30] {
        let log = LogIdentity { segment_size, ..LOG };
        assert!(matches!(StreamDecoder::new(log, Lsn(first)), Err(Error::Corrupt(_))));
    }
}

/// After a restart the next record has to follow the last one, although that one is not sent again.
#[test]
fn another_log_of_the_same_cluster_is_refused_after_a_restart() {
    let mut random = Rng::with_seed(0xD1B5_4A32_D192_ED03);
    let (mut log, mut other) = (empty_log(), empty_log());
    let first = log.append(21, 0, b"first");
    log.append(21, 0, &[1; 64]);
    other.append(21, 0, b"first, longer");
    other.append(21, 0, &[1; 56]);
    assert_eq!(log.next, other.next);
    assert_ne!(log.prev, other.prev);
    let from = log.next;
    log.append(21, 0, &[1; 64]);
    other.append(21, 0, &[1; 64]);
    let mut decoder = StreamDecoder::new(LOG, Lsn(first)).unwrap();
    let mut records = Vec::new();
    let len = (from - SEGMENT) as usize;
    decoder.push(decoder.received(), &log.sink.bytes[..len]).unwrap();
    drain(&mut decoder, &mut records).unwrap();
    assert_eq!(decoder.position(), Lsn(from));
    decoder.restart();
    decoder.push(decoder.received(), &other.sink.bytes).unwrap();
    assert!(matches!(decoder.next_record(), Err(Error::Corrupt(_))));
    decoder.push(decoder.received(), &log.sink.bytes).unwrap();
    assert!(decoder.next_record().unwrap().is_some());

    for _ in 0..2_000 {
        let mut bytes = log.sink.bytes.clone();
        for _ in 0..=random.u64(..4) {
            let at = random.u64(..bytes.len() as u64) as usize;
            bytes[at] = random.u8(..);
        }
        let _ = read(&bytes, first, 1 + random.u64(..300) as usize);
    }
}
