//! [`Log`]: appends to the current segment, syncs it, goes on to the next one, frees segments that
//! are not needed any more.
//!
//! Locks, each taken only before those further down: the appender; the sequence of the spare
//! segments; their state; `SYNCED`; the group's state. None is held during a sync of the log. That
//! of the sequence is held while segments are prepared, and the thread that appends needs it only
//! when none is ready; that of `SYNCED` is held while it is made or written. No thread is woken
//! under the appender's.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::Future,
    io::IoSlice,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use pagestrata_layers::{
    Error as LayersError, Lsn,
    storage::{File, ProcessMark, SharedStorage},
};
use parking_lot::{Mutex, MutexGuard};

use crate::{
    Error, LogOptions, ReplayOutcome, Result,
    format::{
        END_LEN, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, FrameKind, Position,
        SEGMENT_HEADER_LEN, SEGMENT_SIZE_MAX, SegmentHeader, frame_len,
    },
    group::Group,
    replay::{KnownSegment, ReplayEnd, UnfinishedRecords},
    segment::{SegmentReader, open_synced, segment_path, write_synced},
    spares::Spares,
};

/// What a log has done and holds; all zero as long as there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LogStats {
    /// Segments that hold something that is needed, and those between them.
    pub segments: u64,
    /// Their lengths, in bytes.
    pub bytes: u64,
    /// Records appended since it was opened; a commit is one or several.
    pub records: u64,
    /// The lengths of their frames, in bytes.
    pub appended_bytes: u64,
    /// Syncs since it was opened; one serves all who wait for it.
    pub syncs: u64,
    /// Segments that are prepared for later ones, or kept for that. Each takes its room on the
    /// disk.
    pub spare_segments: u64,
    /// Why it takes nothing more, and its store is read-only, if so.
    pub failure: Option<String>,
}

/// The log of a store. Shared by all its threads.
pub struct Log {
    storage: SharedStorage,
    dir: PathBuf,
    options: LogOptions,
    appender: Mutex<Appender>,
    /// `SYNCED`; opened before the first append.
    synced_file: Mutex<Option<Box<dyn File>>>,
    spares: Spares,
    /// The process that opened it: nothing is done in a forked child.
    owner: ProcessMark,
    /// The lengths of the segments that are needed, in bytes. Changed under the appender's lock.
    bytes: AtomicU64,
    group: Group,
}

/// The end of the log, and what is known of the rest.
struct Appender {
    tail: Tail,
    /// Those that are needed, oldest first; the last one is appended to.
    segments: VecDeque<KnownSegment>,
    /// Earlier segments whose end was not synced yet, oldest first.
    unsynced: Vec<(u32, Arc<dyn File>)>,
    /// Everything before it is durable.
    synced: Position,
    /// Records that are not whole yet.
    unfinished: UnfinishedRecords,
    /// Up to which Lsn each stream needs no log any more.
    durable: BTreeMap<u64, Lsn>,
    /// Segments behind a torn tail: of no use, but not before the tail is sealed and synced.
    dead: Vec<u32>,
    records: u64,
    appended_bytes: u64,
}

enum Tail {
    /// There is no segment.
    None,
    /// As the replay has left it; opened by the first append, so that a log that is only read stays
    /// as it is.
    At(Position, ReplayEnd),
    Open(CurrentSegment),
}

/// The segment that is appended to.
struct CurrentSegment {
    file: Box<dyn File>,
    /// The same file, for syncs beside appends.
    syncer: Arc<dyn File>,
    header: SegmentHeader,
    seed: u32,
    /// Where the next frame goes.
    offset: u64,
    /// There is something that no sync has begun to write.
    dirty: bool,
    /// Only its end can be appended: there may be anything behind it.
    sealed: bool,
}

/// Why an append failed.
enum AppendFailure {
    /// Before anything of it was done.
    Refused(Error),
    /// A frame was not written whole.
    Failed(LayersError),
}

impl From<Error> for AppendFailure {
    fn from(error: Error) -> AppendFailure {
        AppendFailure::Refused(error)
    }
}

impl CurrentSegment {
    fn position(&self) -> Position {
        Position::new(self.header.sequence, self.offset)
    }

    fn has_room_for(&self, len: u64) -> bool {
        !self.sealed && self.offset + len + END_LEN <= self.header.len
    }

    /// Writes a frame behind the others. After an error it is not there, whatever was written of
    /// it.
    fn write(
        &mut self,
        kind: FrameKind,
        (stream, lsn): (u64, Lsn),
        synced: Position,
        payload: &[&[u8]],
    ) -> pagestrata_layers::Result<()> {
        let payload_len: usize = payload.iter().map(|part| part.len()).sum();
        let payload_crc = payload.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let header = FrameHeader {
            kind,
            position: self.position(),
            stream,
            lsn,
            synced,
            payload_len: u32::try_from(payload_len).expect("checked against a segment's length"),
            payload_crc,
        };
        assert!(self.offset.is_multiple_of(FRAME_ALIGN), "a frame at {}", self.offset);
        // Its writer left room for the end. A segment that says something else, which no writer of
        // ours made, gets its end all the same: behind its length, where no reader looks.
        let fits = self.offset + header.frame_len() <= self.header.len;
        assert!(fits || kind == FrameKind::End, "a frame lies in its segment");
        assert!(!self.sealed || kind == FrameKind::End, "a sealed segment takes only its end");
        assert!(synced <= header.position, "the log is synced up to its end at most");
        let frame = header.encode(self.seed);
        let padding = [0; FRAME_ALIGN as usize];
        let unpadded = (FRAME_HEADER_LEN + payload_len) as u64;
        let padding = &padding[..(header.frame_len() - unpadded) as usize];
        let mut parts = Vec::with_capacity(payload.len() + 2);
        parts.push(IoSlice::new(&frame));
        parts.extend(payload.iter().map(|part| IoSlice::new(part)));
        parts.push(IoSlice::new(padding));
        self.file.write_at(self.offset, &parts)?;
        self.offset += header.frame_len();
        self.dirty = true;
        Ok(())
    }
}

impl Log {
    /// A log that goes on where a replay has ended. Nothing is written before something is
    /// appended.
    #[must_use]
    pub fn new(
        storage: SharedStorage,
        dir: &Path,
        options: LogOptions,
        replayed: ReplayOutcome,
    ) -> Log {
        let ReplayOutcome { end, failure: failed, chain, tail, mut unused, .. } = replayed;
        debug_assert!(chain.is_sorted_by(|left, right| left.sequence < right.sequence));
        assert_eq!(
            tail.map(Position::sequence),
            chain.last().map(|segment| segment.sequence),
            "the log ends in its last segment"
        );
        let highest = unused.iter().copied().chain(tail.map(Position::sequence)).max();
        // The highest of all is never used: `prepare` refuses it.
        let next_sequence = highest.map_or(1, |highest| highest.saturating_add(1));
        let mut ready = Vec::new();
        if end == ReplayEnd::CleanEnd
            && let Some(tail) = tail
        {
            unused.retain(|&sequence| {
                let opened = (sequence > tail.sequence())
                    .then(|| SegmentReader::open(&*storage, dir, options.store, sequence));
                match opened {
                    Some(Ok(reader)) => ready.push(reader.header),
                    Some(Err(_)) | None => return true,
                }
                false
            });
            // The process that prepared them may have come no further than to their names.
            if !ready.is_empty() && storage.sync_dir(dir).is_err() {
                unused.extend(ready.drain(..).map(|header: SegmentHeader| header.sequence));
            }
        }
        let synced = tail.unwrap_or_default();
        let bytes = chain.iter().map(|segment| segment.len).sum();
        let appender = Appender {
            tail: tail.map_or(Tail::None, |tail| Tail::At(tail, end)),
            segments: chain.into(),
            unsynced: Vec::new(),
            synced,
            unfinished: UnfinishedRecords::default(),
            durable: BTreeMap::new(),
            dead: unused,
            records: 0,
            appended_bytes: 0,
        };
        let spares = Spares::new(storage.clone(), dir.to_owned(), &options, next_sequence, ready);
        Log {
            storage,
            dir: dir.to_owned(),
            options,
            appender: Mutex::new(appender),
            synced_file: Mutex::new(None),
            spares,
            owner: ProcessMark::current(),
            bytes: AtomicU64::new(bytes),
            group: Group::new(synced, failed),
        }
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// Checks that this is not the copy of a log that a forked child has. No lock is taken before
    /// that: a thread that only the parent has may have held it.
    ///
    /// # Errors
    /// [`Error::Closed`] in a forked child.
    pub fn check_process(&self) -> Result<()> {
        if self.owner.is_current() { Ok(()) } else { Err(Error::Closed) }
    }

    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.options.wake {
            wake();
        }
    }

    /// The first segment that is needed. Makes one if there is none: its number has to be known
    /// durably, as the start of a later replay, before anything is appended.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Layers`], [`Error::Failed`]; there is no log then.
    pub fn start(&self) -> Result<u32> {
        self.check_process()?;
        let mut appender = self.appender.lock();
        self.group.check()?;
        if let Some(first) = appender.segments.front() {
            return Ok(first.sequence);
        }
        self.storage.create_dir(&self.dir)?;
        if let Some(parent) = self.dir.parent() {
            self.storage.sync_dir(parent)?;
        }
        self.open_mark()?;
        let header = self.spares.take(0)?;
        match self.go_on_in(&mut appender, header) {
            Ok(()) => Ok(header.sequence),
            Err(unwritten) => Err(self.refused(appender, unwritten)),
        }
    }

    /// Appends a record, or the last part of one: hands it to the operating system. Returns its
    /// end, to be waited for.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and [`Error::Layers`]: nothing was appended, and it can be tried again.
    /// [`Error::Failed`].
    ///
    /// # Panics
    /// Without a [`Log::start`].
    pub fn append(&self, stream: u64, lsn: Lsn, payload: &[&[u8]]) -> Result<Position> {
        self.append_as(FrameKind::Record, stream, lsn, payload)
    }

    /// Appends a part of a record that is not the last one. It is kept until the last one comes, or
    /// [`Log::give_up`]; after a crash it is of no use.
    ///
    /// # Errors
    /// As [`Log::append`].
    ///
    /// # Panics
    /// As [`Log::append`].
    pub fn append_part(&self, stream: u64, lsn: Lsn, payload: &[&[u8]]) -> Result<Position> {
        self.append_as(FrameKind::Part, stream, lsn, payload)
    }

    /// Says that nothing will follow the parts that were appended last of a stream.
    pub fn give_up(&self, stream: u64) {
        if self.check_process().is_ok() {
            self.appender.lock().unfinished.give_up(stream);
        }
    }

    fn append_as(
        &self,
        kind: FrameKind,
        stream: u64,
        lsn: Lsn,
        payload: &[&[u8]],
    ) -> Result<Position> {
        let payload_len: u64 = payload.iter().map(|part| part.len() as u64).sum();
        let len = frame_len(payload_len);
        if len + END_LEN + SEGMENT_HEADER_LEN as u64 > SEGMENT_SIZE_MAX {
            let max = SEGMENT_SIZE_MAX - END_LEN - SEGMENT_HEADER_LEN as u64;
            return Err(LayersError::Full { what: "a record of the log, in bytes,", max }.into());
        }
        self.check_process()?;
        let mut appender = self.appender.lock();
        // Under the lock, which a thread that closes the log takes after it has said so.
        self.group.check()?;
        if let Err(unwritten) = self.make_room(&mut appender, len) {
            return Err(self.refused(appender, unwritten));
        }
        let Appender { tail, segments, unfinished, synced, .. } = &mut *appender;
        let Tail::Open(current) = tail else { unreachable!("made room in it") };
        debug_assert!(current.has_room_for(len), "room was made for the frame");
        debug_assert_eq!(
            segments.back().map(|last| last.sequence),
            Some(current.header.sequence),
            "the last segment is appended to"
        );
        let start = current.position();
        if let Err(error) = current.write(kind, (stream, lsn), *synced, payload) {
            return Err(self.refused(appender, AppendFailure::Failed(error)));
        }
        let (end, half) = (current.position(), current.offset > current.header.len / 2);
        debug_assert_eq!(
            end.offset() - start.offset(),
            len,
            "the next frame begins where this ends"
        );
        match kind {
            FrameKind::Part => unfinished.part(stream, current.header.sequence),
            _ => unfinished.finish(stream, lsn, segments.iter_mut()),
        }
        appender.records += 1;
        appender.appended_bytes += len;
        drop(appender);
        if half && self.spares.ask() {
            if let Some(wake) = &self.options.wake_preparer {
                wake();
            }
            // Where the log is synced now and then, also once in each segment: little by little, so
            // that what a later sync waits for is short.
            self.wake();
        }
        Ok(end)
    }

    /// Why nothing was appended. A frame that was not written whole is not there, and the next one
    /// takes its place; a disk that is full can be waited for, anything else is the end.
    fn refused(&self, appender: MutexGuard<'_, Appender>, unwritten: AppendFailure) -> Error {
        // A waiter that is woken may append at once.
        drop(appender);
        match unwritten {
            AppendFailure::Refused(error) => error,
            AppendFailure::Failed(error) if Error::is_no_space(&error) => Error::NoSpace(error),
            AppendFailure::Failed(error) => self.fail(&error.to_string()),
        }
    }

    /// Fails the log for good: every waiter, now and later, gets this cause.
    pub fn fail(&self, cause: &str) -> Error {
        self.group.fail(cause.into())
    }

    /// Sees to it that a frame of this length fits in the current segment.
    fn make_room(
        &self,
        appender: &mut Appender,
        len: u64,
    ) -> std::result::Result<(), AppendFailure> {
        if let Tail::At(tail, end) = appender.tail {
            self.open_mark()?;
            appender.tail = Tail::Open(self.open_tail(tail, end)?);
        }
        if let Tail::Open(current) = &appender.tail
            && current.has_room_for(len)
        {
            return Ok(());
        }
        let header = self.spares.take(len)?;
        let gone_on = self.go_on_in(appender, header);
        if gone_on.is_err() {
            self.spares.put_back(header);
        }
        gone_on
    }

    fn open_tail(&self, tail: Position, end: ReplayEnd) -> Result<CurrentSegment> {
        let reader =
            SegmentReader::open(&*self.storage, &self.dir, self.options.store, tail.sequence())?;
        let current = self.open_current(reader.header)?;
        assert!(
            (SEGMENT_HEADER_LEN as u64..=reader.header.len).contains(&tail.offset()),
            "the log ends in its last segment: {tail}"
        );
        let sealed = end != ReplayEnd::CleanEnd;
        Ok(CurrentSegment { offset: tail.offset(), sealed, ..current })
    }

    fn open_current(&self, header: SegmentHeader) -> Result<CurrentSegment> {
        let path = segment_path(&self.dir, header.sequence);
        Ok(CurrentSegment {
            file: self.storage.open(&path)?,
            syncer: self.storage.open(&path)?.into(),
            seed: header.seed(),
            header,
            offset: SEGMENT_HEADER_LEN as u64,
            dirty: false,
            sealed: false,
        })
    }

    /// Ends the current segment, if there is one, and goes on in one that is durable under its
    /// name.
    fn go_on_in(
        &self,
        appender: &mut Appender,
        header: SegmentHeader,
    ) -> std::result::Result<(), AppendFailure> {
        assert!(
            appender.segments.back().is_none_or(|last| last.sequence < header.sequence),
            "segment {:X} follows one with a higher number",
            header.sequence
        );
        let next = self.open_current(header)?;
        let synced = appender.synced;
        if let Tail::Open(current) = &mut appender.tail {
            let sequence = u64::from(header.sequence).to_le_bytes();
            current
                .write(FrameKind::End, (0, Lsn::INVALID), synced, &[&sequence])
                .map_err(AppendFailure::Failed)?;
            let ended = (current.header.sequence, current.syncer.clone());
            appender.unsynced.push(ended);
        }
        appender.tail = Tail::Open(next);
        appender.segments.push_back(KnownSegment {
            sequence: header.sequence,
            len: header.len,
            streams: BTreeMap::new(),
        });
        self.bytes.fetch_add(header.len, Ordering::Relaxed);
        verify!(self.bytes() == appender.segments.iter().map(|segment| segment.len).sum());
        Ok(())
    }

    /// Waits until everything before `position` is durable. One sync serves all who wait.
    ///
    /// # Errors
    /// [`Error::Failed`]: whether what was appended since the last sync is durable is not known,
    /// and no sync will tell.
    pub fn sync_to(&self, position: Position) -> Result<()> {
        self.check_process()?;
        self.group.wait_for(position, || self.sync_now())
    }

    /// As [`Log::sync_to`] for everything that was appended.
    ///
    /// # Errors
    /// As [`Log::sync_to`].
    pub fn sync(&self) -> Result<()> {
        self.check_process()?;
        // Synced or not, for also a sync that is under way may fail.
        let end = match &self.appender.lock().tail {
            Tail::Open(current) => Some(current.position()),
            Tail::None | Tail::At(..) => None,
        };
        end.map_or_else(|| self.group.check(), |end| self.sync_to(end))
    }

    /// As [`Log::sync_to`], as a future. A thread that [`LogOptions::wake`] wakes must run
    /// [`Log::work`].
    pub fn durable(self: &Arc<Self>, position: Position) -> SyncFuture {
        SyncFuture { log: self.clone(), position }
    }

    /// Syncs everything written so far, and says so in `SYNCED` before it returns. By one thread at
    /// a time.
    fn sync_now(&self) -> std::result::Result<Position, Arc<str>> {
        let (files, end) = {
            let mut appender = self.appender.lock();
            let mut files = appender.unsynced.clone();
            let Tail::Open(current) = &mut appender.tail else { return Ok(appender.synced) };
            if std::mem::take(&mut current.dirty) {
                files.push((current.header.sequence, current.syncer.clone()));
            }
            (files, current.position())
        };
        for (_, file) in &files {
            file.sync().map_err(|error| error.to_string())?;
        }
        {
            let mut appender = self.appender.lock();
            appender.unsynced.retain(|(sequence, _)| *sequence >= end.sequence());
            assert!(appender.synced <= end, "what is synced stays so: {end}");
            appender.synced = end;
        }
        self.mark_synced(end).map_err(|error| error.to_string())?;
        Ok(end)
    }

    /// Opens `SYNCED`, before anything is appended: a disk that is too full for it is no reason for
    /// a sync to fail.
    fn open_mark(&self) -> Result<()> {
        let mut file = self.synced_file.lock();
        if file.is_none() {
            let opened = open_synced(&*self.storage, &self.dir);
            *file = Some(opened.map_err(Error::of_preparing)?);
        }
        Ok(())
    }

    /// Writes down how far the log is synced: where the frames end later, they have been lost.
    fn mark_synced(&self, end: Position) -> pagestrata_layers::Result<()> {
        let mut file = self.synced_file.lock();
        let file = file.as_mut().expect("opened before anything was appended");
        write_synced(&mut **file, self.options.store, end)
    }

    /// Does in the background what futures wait for: syncs.
    pub fn work(&self) {
        if self.check_process().is_err() {
            return;
        }
        if let Some(position) = self.group.wanted() {
            // An error reaches the futures that wait for it.
            let _ = self.sync_to(position);
        }
    }

    /// Prepares the next segments in the background, if the current one is half full.
    pub fn prepare(&self) {
        if self.group.check().is_ok() {
            self.spares.work();
        }
    }

    /// Removes segments that are kept or prepared for later ones, all but the next: for a log that
    /// nothing was appended to for a while. Returns how many were removed.
    pub fn give_back_spares(&self) -> usize {
        match self.group.check() {
            Ok(()) => self.spares.give_back(),
            Err(_) => 0,
        }
    }

    /// The first segment that would be needed if everything of `stream` up to `lsn` were durable
    /// elsewhere; none without a log.
    #[must_use]
    pub fn start_after(&self, stream: u64, lsn: Lsn) -> Option<u32> {
        let appender = self.appender.lock();
        let unfinished = appender.unfinished.first_segment();
        let is_needed = |segment: &&KnownSegment| {
            segment.streams.iter().any(|(&of, &highest)| {
                let durable = appender.durable.get(&of).copied().unwrap_or_default();
                let durable = if of == stream { durable.max(lsn) } else { durable };
                !cfg!(planted_bug = "log_freed_early") && highest > durable
            }) || unfinished.is_some_and(|first| segment.sequence >= first)
        };
        let first = appender.segments.iter().find(is_needed).or(appender.segments.back());
        first.map(|segment| segment.sequence)
    }

    /// Says that everything of `stream` up to `lsn` is durable elsewhere, and frees the segments
    /// below `start`, which is known durably to be where the next replay begins.
    pub fn free_below(&self, start: Option<u32>, stream: u64, lsn: Lsn) {
        if self.check_process().is_err() {
            return;
        }
        let mut unused = Vec::new();
        {
            let mut appender = self.appender.lock();
            let durable = appender.durable.entry(stream).or_default();
            *durable = lsn.max(*durable);
            let Some(start) = start else { return };
            while appender.segments.len() > 1 && appender.segments[0].sequence < start {
                let freed = appender.segments.pop_front().expect("more than one");
                appender.unsynced.retain(|(sequence, _)| *sequence != freed.sequence);
                let before = self.bytes.fetch_sub(freed.len, Ordering::Relaxed);
                debug_assert!(
                    before >= freed.len,
                    "{before} bytes of segments, {} freed",
                    freed.len
                );
                unused.push((freed.sequence, freed.len));
            }
            verify!(self.bytes() == appender.segments.iter().map(|segment| segment.len).sum());
            let dead = appender.dead.extract_if(.., |sequence| *sequence < start);
            unused.extend(dead.map(|sequence| (sequence, 0)));
        }
        if self.group.check().is_ok() {
            self.spares.free(unused);
        }
    }

    /// The lengths of the segments that are needed, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The streams that need the oldest segment, and up to which Lsn they have to be durable
    /// elsewhere so that it can be freed.
    #[must_use]
    pub fn oldest_needs(&self) -> Vec<(u64, Lsn)> {
        let appender = self.appender.lock();
        let needs = |segment: &KnownSegment| -> Vec<(u64, Lsn)> {
            let not_durable = segment.streams.iter().filter(|&(stream, highest)| {
                appender.durable.get(stream).is_none_or(|durable| highest > durable)
            });
            not_durable.map(|(&stream, &highest)| (stream, highest)).collect()
        };
        // The last segment stays, whatever needs it.
        let last = appender.segments.len().saturating_sub(1);
        let mut all = appender.segments.iter().take(last).map(needs);
        all.find(|needs| !needs.is_empty()).unwrap_or_default()
    }

    /// Why nothing can be appended any more, if so.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        self.group.failure()
    }

    /// Ends it: waits for the append and the sync that are under way; after them nothing is written
    /// any more, and everybody who waits is told so.
    pub fn close(&self) {
        if self.check_process().is_err() {
            return;
        }
        self.group.close();
        drop(self.appender.lock());
    }

    /// What it has done and holds.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let (_, syncs) = self.group.synced();
        let (ready, free) = self.spares.count();
        let appender = self.appender.lock();
        LogStats {
            spare_segments: (ready + free) as u64,
            segments: appender.segments.len() as u64,
            bytes: self.bytes(),
            records: appender.records,
            appended_bytes: appender.appended_bytes,
            syncs,
            failure: self.group.failure().map(|cause| cause.to_string()),
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Becomes ready once the log is synced past a position. Needs no runtime: the log's own background
/// work does the sync.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct SyncFuture {
    pub(crate) log: Arc<Log>,
    pub(crate) position: Position,
}

impl Future for SyncFuture {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.log.check_process()?;
        let polled = self.log.group().poll(self.position, context.waker());
        if polled.is_pending() {
            self.log.wake();
        }
        polled
    }
}
