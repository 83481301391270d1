//! Replay: reading the log from its first needed segment to its end, and telling how it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
    path::{Path, PathBuf},
    sync::Arc,
};

use pagestrata_layers::{Error, Lsn, Result, storage::SharedStorage};

use crate::{
    format::{
        FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, FrameKind, Position, SEGMENT_HEADER_LEN,
        is_placed_at,
    },
    segment::{SegmentReader, parse_name, read_synced, segment_path},
};

/// A record, or a part of one, as it was appended.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// Whose it is.
    pub stream: u64,
    /// Its Lsn.
    pub lsn: Lsn,
    /// What it says.
    pub payload: &'r [u8],
    /// The segment it is in.
    pub path: &'r Path,
    /// Where its frame is in the segment, in bytes.
    pub offset: u64,
}

/// How the log ends, unless it is corrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplayEnd {
    /// With its last whole frame.
    #[default]
    CleanEnd,
    /// With an incomplete write behind its last whole frame, left by a crash or a power loss. It
    /// was never acknowledged as durable.
    TornTail {
        /// Where the whole frames end.
        at: Position,
    },
}

/// A log that is about to be replayed.
#[derive(Debug)]
pub struct Replay {
    storage: SharedStorage,
    dir: PathBuf,
    store: u128,
    /// None: the store has no log.
    start: Option<u32>,
    /// The segments that are there, by sequence number.
    present: BTreeSet<u32>,
    /// Files that are of no use: segments before the start, and what was on its way.
    strays: Vec<String>,
}

/// What a replay has found: where the log can be gone on with.
#[derive(Debug, Default)]
pub struct ReplayOutcome {
    /// How the log ends.
    pub end: ReplayEnd,
    /// Number of segments that were read.
    pub segments: u64,
    /// Number of records.
    pub records: u64,
    /// The lengths of the records' frames, in bytes.
    pub bytes: u64,
    /// Length of the torn tail, as far as it can be made out, in bytes.
    pub cut_bytes: u64,
    /// Files that are of no use: segments before the first needed one, and what was on its way.
    pub strays: Vec<String>,
    /// Why what was read could not be made durable again, if so: nothing can be appended then.
    pub(crate) failure: Option<Arc<str>>,
    /// The segments from the first needed one to the last, which may be unused.
    pub(crate) chain: Vec<KnownSegment>,
    /// Where the whole frames end; none without a log.
    pub(crate) tail: Option<Position>,
    /// Segments that are there but not in use: prepared, or dead behind a torn tail.
    pub(crate) unused: Vec<u32>,
}

/// A segment that holds something that is needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownSegment {
    pub(crate) sequence: u32,
    pub(crate) len: u64,
    /// The highest Lsn of each stream in it.
    pub(crate) streams: BTreeMap<u64, Lsn>,
}

/// What is known while a replay goes on.
#[derive(Default)]
struct Progress {
    /// The log was synced up to here.
    synced: Position,
    /// The streams of which parts of a record were read but not the last one, and the segment of
    /// the first.
    unfinished: UnfinishedRecords,
}

/// Streams of which parts of a record are there but not the last one, and the segment that the
/// first is in. Most often there is none.
#[derive(Debug, Default)]
pub(crate) struct UnfinishedRecords(BTreeMap<u64, u32>);

impl UnfinishedRecords {
    /// A part, not the last one, is in the last of the segments.
    pub(crate) fn part(&mut self, stream: u64, sequence: u32) {
        self.0.entry(stream).or_insert(sequence);
    }

    /// The last part, or a whole record, is in the last of the segments: all that it has parts in
    /// are needed for it.
    pub(crate) fn finish<'s>(
        &mut self,
        stream: u64,
        lsn: Lsn,
        segments: impl DoubleEndedIterator<Item = &'s mut KnownSegment>,
    ) {
        let mut segments = segments.rev();
        let last = segments.next().into_iter();
        let first = self.0.remove(&stream).unwrap_or(u32::MAX);
        for segment in last.chain(segments.take_while(|segment| segment.sequence >= first)) {
            let highest = segment.streams.entry(stream).or_insert(lsn);
            *highest = lsn.max(*highest);
        }
    }

    /// There will be no last part.
    pub(crate) fn give_up(&mut self, stream: u64) {
        self.0.remove(&stream);
    }

    /// The first segment that holds such a part.
    pub(crate) fn first_segment(&self) -> Option<u32> {
        self.0.values().min().copied()
    }
}

impl ReplayOutcome {
    /// Of a log that nothing shall be appended to, and why.
    #[must_use]
    pub fn unusable(cause: &str) -> ReplayOutcome {
        ReplayOutcome { failure: Some(cause.into()), ..ReplayOutcome::default() }
    }
}

/// Whether the log gave a file in its directory this name.
#[must_use]
pub fn is_segment_name(name: &str) -> bool {
    parse_name(name).is_some()
}

impl Replay {
    /// Looks for the segments in `dir` from `start` on; without a start the store has no log.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] when the directory or the first segment is missing.
    pub fn open(
        storage: SharedStorage,
        dir: &Path,
        store: u128,
        start: Option<u32>,
    ) -> Result<Replay> {
        let (mut present, mut strays) = (BTreeSet::new(), Vec::new());
        if start.is_some() || storage.exists(dir)? {
            let names = storage.list(dir);
            for name in names.map_err(|error| error.of_required("log", "its directory"))? {
                match parse_name(&name) {
                    Some((sequence, false)) if start.is_some_and(|start| sequence >= start) => {
                        present.insert(sequence);
                    }
                    Some(_) => strays.push(name),
                    None => {}
                }
            }
        }
        Ok(Replay { storage, dir: dir.to_owned(), store, start, present, strays })
    }

    /// The lengths of all segments there are, in bytes.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn bytes(&self) -> Result<u64> {
        let len = |&sequence| self.storage.open(&segment_path(&self.dir, sequence))?.len();
        self.present.iter().map(len).sum()
    }

    /// Reads the log and hands out its records in order. What was not known to be durable is made
    /// so before this returns.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedVersion`], [`Error::Io`], and what `each` returns.
    /// Nothing is changed.
    pub fn run<E: From<Error>>(
        self,
        each: &mut dyn FnMut(Record<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<ReplayOutcome, E> {
        let (mut replayed, synced) = self.read(each)?;
        if let Some(tail) = replayed.tail {
            let durable = self.make_durable(tail, synced, &replayed.chain);
            replayed.failure = durable.err().map(|error| error.to_string().into());
        }
        Ok(replayed)
    }

    /// As [`Replay::run`], to look at the log only: nothing is written, and nothing can be appended
    /// to what it returns.
    ///
    /// # Errors
    /// As [`Replay::run`].
    pub fn check<E: From<Error>>(
        self,
        each: &mut dyn FnMut(Record<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<ReplayOutcome, E> {
        let (replayed, _) = self.read(each)?;
        Ok(ReplayOutcome { failure: Some("it was only looked at".into()), ..replayed })
    }

    /// Returns also up to where the log is known to be synced.
    fn read<E: From<Error>>(
        &self,
        each: &mut dyn FnMut(Record<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(ReplayOutcome, Position), E> {
        let mut replayed =
            ReplayOutcome { strays: self.strays.clone(), ..ReplayOutcome::default() };
        let Some(mut sequence) = self.start else { return Ok((replayed, Position::default())) };
        let synced = read_synced(&*self.storage, &self.dir, self.store)?;
        let mut progress = Progress { synced: synced.unwrap_or_default(), ..Progress::default() };
        let (reader, tail) = loop {
            let mut reader = self.reader(sequence)?;
            let (tail, next) = read_segment(&mut reader, &mut progress, &mut replayed, each)?;
            match next {
                Some(next) => sequence = self.successor(&reader, tail, next)?,
                None => break (reader, tail),
            }
        };
        let tail = reader.position(tail);
        replayed.tail = Some(tail);
        self.judge_tail(reader, tail, &progress, &mut replayed)?;
        let in_use: BTreeSet<_> = replayed.chain.iter().map(|segment| segment.sequence).collect();
        replayed.unused = self.present.difference(&in_use).copied().collect();
        Ok((replayed, progress.synced))
    }

    fn reader(&self, sequence: u32) -> Result<SegmentReader> {
        SegmentReader::open(&*self.storage, &self.dir, self.store, sequence)
    }

    /// The segment behind one that has ended.
    fn successor(&self, reader: &SegmentReader, end: u64, next: u64) -> Result<u32> {
        let after = reader.header.sequence;
        match u32::try_from(next).ok().filter(|&next| next > after) {
            Some(next) => Ok(next),
            None => {
                let expected = format_args!("a sequence number above {after:X}");
                let found = format_args!("{next:X}");
                Err(Error::corrupt(reader.path(), end, "next segment", expected, found))
            }
        }
    }

    /// Looks at everything behind the last whole frame. A frame there that knows of a sync beyond
    /// it is proof of damage.
    fn judge_tail(
        &self,
        mut reader: SegmentReader,
        tail: Position,
        progress: &Progress,
        replayed: &mut ReplayOutcome,
    ) -> Result<()> {
        let path = reader.path().to_owned();
        let corrupt = |synced: Position| {
            let expected = format_args!("a frame: the log was synced up to {synced}");
            Error::corrupt(&path, tail.offset(), "log", expected, "none")
        };
        if progress.synced > tail {
            return Err(corrupt(progress.synced));
        }
        let mut torn_end = None;
        let mut from = tail.offset();
        if let Some(bytes) = reader.bytes(from, FRAME_HEADER_LEN)?
            && is_placed_at(bytes, tail)
        {
            torn_end = Some(from + FRAME_HEADER_LEN as u64);
        }
        let later = self.present.range((Excluded(tail.sequence()), Unbounded)).copied();
        let mut cut = 0;
        for sequence in std::iter::once(None).chain(later.map(Some)) {
            if let Some(sequence) = sequence {
                (reader, from) = (self.reader(sequence)?, SEGMENT_HEADER_LEN as u64);
                torn_end = None;
            }
            let start = from;
            while let Some(header) = next_header(&mut reader, &mut from)? {
                if header.synced > tail {
                    return Err(corrupt(header.synced));
                }
                torn_end = Some(header.position.offset() + header.frame_len());
            }
            cut += torn_end.map_or(0, |end| end - start);
        }
        if cut > 0 {
            replayed.end = ReplayEnd::TornTail { at: tail };
            replayed.cut_bytes = cut;
        }
        Ok(())
    }

    /// Writes the last frames again and syncs them, where no mark says that they were synced: after
    /// a sync that failed, the operating system may show bytes that never reached the device, and a
    /// sync alone would not write them.
    fn make_durable(&self, tail: Position, synced: Position, chain: &[KnownSegment]) -> Result<()> {
        if tail <= synced {
            return Ok(());
        }
        debug_assert_eq!(chain.last().map(|last| last.sequence), Some(tail.sequence()));
        for segment in chain.iter().filter(|segment| segment.sequence >= synced.sequence()) {
            let mut reader = self.reader(segment.sequence)?;
            let from = match segment.sequence == synced.sequence() {
                true => synced.offset(),
                false => SEGMENT_HEADER_LEN as u64,
            };
            let to = (segment.sequence == tail.sequence()).then_some(tail.offset());
            reader.rewrite(from, to)?;
            reader.file.sync()?;
        }
        Ok(())
    }
}

/// Reads all frames of a segment. Returns where they end, and the next segment's sequence number if
/// this one was ended.
fn read_segment<E: From<Error>>(
    reader: &mut SegmentReader,
    progress: &mut Progress,
    replayed: &mut ReplayOutcome,
    each: &mut dyn FnMut(Record<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(u64, Option<u64>), E> {
    let path = reader.path().to_owned();
    let sequence = reader.header.sequence;
    let known = KnownSegment { sequence, len: reader.header.len, streams: BTreeMap::new() };
    replayed.chain.push(known);
    replayed.segments += 1;
    let (mut at, mut next) = (SEGMENT_HEADER_LEN as u64, None);
    while let Some(header) = reader.frame_header(at)? {
        let Some(payload) = reader.payload(&header)? else { break };
        progress.synced = progress.synced.max(header.synced);
        match header.kind {
            FrameKind::End => {
                let sequence = payload.try_into().map(u64::from_le_bytes).map_err(|_| {
                    Error::corrupt(&path, at, "end of the segment", "8 bytes", payload.len())
                })?;
                next = Some(sequence);
            }
            FrameKind::Record | FrameKind::Part => {
                let FrameHeader { stream, lsn, .. } = header;
                each(Record { stream, lsn, payload, path: &path, offset: at })?;
                match header.kind {
                    FrameKind::Part => progress.unfinished.part(stream, sequence),
                    _ => progress.unfinished.finish(stream, lsn, replayed.chain.iter_mut()),
                }
                replayed.records += 1;
                replayed.bytes += header.frame_len();
            }
        }
        at += header.frame_len();
        if next.is_some() {
            break;
        }
    }
    Ok((at, next))
}

/// The next header of a frame behind `from`, which moves behind it.
fn next_header(reader: &mut SegmentReader, from: &mut u64) -> Result<Option<FrameHeader>> {
    const PIECE: usize = 64 << 10;
    while *from + FRAME_HEADER_LEN as u64 <= reader.header.len {
        let rest = usize::try_from(reader.header.len - *from).expect("a segment's length");
        let (start, len) = (*from, rest.min(PIECE));
        let sequence = reader.header.sequence;
        let bytes = reader.bytes(start, len)?.expect("within the segment");
        let offsets = (0..=len - FRAME_HEADER_LEN).step_by(FRAME_ALIGN as usize);
        let found = offsets
            .into_iter()
            .find(|&at| is_placed_at(&bytes[at..], Position::new(sequence, start + at as u64)));
        match found {
            Some(at) => {
                let at = start + at as u64;
                *from = at + FRAME_ALIGN;
                if let Some(header) = reader.frame_header(at)? {
                    return Ok(Some(header));
                }
            }
            None => {
                *from = start
                    + (len - FRAME_HEADER_LEN) as u64 / FRAME_ALIGN * FRAME_ALIGN
                    + FRAME_ALIGN
            }
        }
    }
    Ok(None)
}
