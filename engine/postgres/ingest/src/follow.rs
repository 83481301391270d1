//! `follow`: the log of a running server, as it comes.
//!
//! ```text
//! connect -> is it the cluster of the timeline? -> stream from the timeline's last record
//!    ^       -> Applier, record by record -> roll, flushed in the background
//!    |       -> tell the server what is durable
//!    '- a connection that broke, a server that restarts: again, a little later
//! ```
//!
//! **Invariants:** the server is told of an Lsn as flushed only when the timeline has it durably:
//! everything up to it is in synced layer files, and a timeline that is opened again ends there or
//! behind it. So the log that the server may remove is never asked for again, also where it changes
//! no page: such records are committed and flushed like others, as a timeline's end. The log that
//! the server keeps for a slot is bounded in bytes and in time ([`Follow::flush_bytes`],
//! [`Follow::flush_interval`]). Each wait ends within a moment of an interrupt, but for a flush
//! that is under way.

mod lag;

use std::{
    fmt, io, thread,
    time::{Duration, Instant},
};

use pagestrata::{Lsn, Timeline, WriteLease};
use pagestrata_postgres::{
    PageVersions, StreamDecoder,
    live::{
        Connection, ConnectionInfo, Error as LiveError, Event, Interrupt, Lifetime, Progress,
        Replication, SlotName, Timing,
    },
};
use serde::Serialize;

use self::lag::Lag;
use crate::{
    Applied, Error, Result,
    apply::{Applier, dry_run},
    identity::Identity,
    text::{as_text, size},
};

/// How long an event of the server is waited for before flushes and reports are looked at.
const POLL: Duration = Duration::from_millis(100);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the server has to end a stream in order. It has been told what is durable by then.
const FINISH_MAX: Duration = Duration::from_millis(250);

/// Whom to follow, and how.
#[derive(Debug)]
pub struct Follow {
    /// The server.
    pub info: ConnectionInfo,
    /// The slot that makes the server keep the log.
    pub slot: Option<SlotName>,
    /// Make the slot if it is not there.
    pub creates_slot: bool,
    /// Stop behind the first record that ends here or behind.
    pub until: Option<Lsn>,
    /// A flush begins at the latest so long after the one before, if there is anything to flush.
    pub flush_interval: Duration,
    /// A flush begins as soon as this many bytes of the log are not durable.
    pub flush_bytes: u64,
    /// How often lag and rate are told.
    pub report_interval: Duration,
    /// Keep records that cannot be redone here.
    pub allows_unknown_redo: bool,
}

/// Lag and rate.
#[derive(Clone, Debug, Serialize)]
pub struct FollowReport {
    /// The timeline's last record.
    #[serde(serialize_with = "as_text")]
    pub at: Lsn,
    /// Up to here everything is durable, and the server knows.
    #[serde(serialize_with = "as_text")]
    pub flushed: Lsn,
    /// The end of the server's log, as it stated last.
    #[serde(serialize_with = "as_text")]
    pub server_end: Lsn,
    /// Bytes of the log that the server has and the timeline has not. What was received and holds
    /// no whole record is none of them: the beginning of a record that the server has not finished,
    /// the empty rest of a segment.
    pub lag_bytes: u64,
    /// How long ago the server first stated an end of its log beyond what has been applied, by this
    /// machine's clock; zero if `lag_bytes` is.
    pub lag_seconds: f64,
    /// Bytes of log a second since the last report.
    pub bytes_per_second: f64,
    /// What went into the timeline since it is followed.
    #[serde(flatten)]
    pub applied: Applied,
    /// How often the connection was made again.
    pub reconnects: u64,
}

impl fmt::Display for FollowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at {}, flushed {}: {} behind the server ({:.1} s), {}/s, {} records, {} reconnects",
            self.at,
            self.flushed,
            size(self.lag_bytes),
            self.lag_seconds,
            size(self.bytes_per_second as u64),
            self.applied.records,
            self.reconnects
        )
    }
}

/// What happens while a server is followed.
#[derive(Debug)]
#[non_exhaustive]
pub enum FollowEvent<'a> {
    /// Lag and rate, in intervals.
    Report(&'a FollowReport),
    /// The connection broke, for this reason; it is made again.
    Retrying(&'a LiveError),
}

/// Receives events; an error ends the following.
pub type OnEvent<'a> = &'a mut dyn FnMut(FollowEvent<'_>) -> io::Result<()>;

/// Why a session ended that did not fail.
enum Ended {
    Stopped,
    Reached,
}

struct Follower<'a, 't> {
    follow: &'a Follow,
    timeline: &'t Timeline,
    identity: Identity,
    lease: WriteLease<'t>,
    applier: Applier,
    checks: PageVersions,
    decoder: Option<StreamDecoder>,
    interrupt: &'a Interrupt,
    lag: Lag,
    /// When the last flush began, and up to where.
    flush: (Instant, Lsn),
    /// What the server was told last of as durable.
    told: Lsn,
    reported: (Instant, Lsn),
    reconnects: u64,
    on_event: OnEvent<'a>,
}

/// Follows a server until the `interrupt` is set, or the timeline has come as far as it should. The
/// last report is returned.
///
/// # Errors
/// [`Error::NoBase`], [`Error::OtherSystem`], [`Error::Live`], and what applying fails with. What
/// is durable stays.
pub fn follow(
    timeline: &Timeline,
    follow: &Follow,
    interrupt: &Interrupt,
    on_event: OnEvent<'_>,
) -> Result<FollowReport> {
    let no_base = || Error::NoBase { timeline: timeline.name().to_owned() };
    let identity = Identity::read(timeline)?.ok_or_else(no_base)?;
    let (now, at) = (Instant::now(), timeline.last_record_lsn());
    let mut follower = Follower {
        follow,
        timeline,
        applier: Applier::new(timeline, identity.clone(), false),
        identity,
        lease: timeline.write_lease()?,
        checks: PageVersions::new(),
        decoder: None,
        interrupt,
        lag: Lag::new(at),
        flush: (now, at),
        told: Lsn::INVALID,
        reported: (now, at),
        reconnects: 0,
        on_event,
    };
    if follow.until.is_none_or(|until| at < until) {
        follower.sessions()?;
    }
    follower.flush()?;
    Ok(follower.report())
}

impl Follower<'_, '_> {
    fn pass_on(&mut self, event: FollowEvent<'_>) -> Result<()> {
        (self.on_event)(event).map_err(Error::Report)
    }

    fn stops(&self) -> bool {
        self.interrupt.is_set()
    }

    fn sleep(&self, delay: Duration) {
        let until = Instant::now() + delay;
        while !self.stops() && Instant::now() < until {
            thread::sleep(POLL.min(delay));
        }
    }

    /// One connection after the other, until an end is reached.
    fn sessions(&mut self) -> Result<()> {
        let mut delay = RETRY_MIN;
        loop {
            let before = self.timeline.last_record_lsn();
            match self.session() {
                Ok(Ended::Stopped | Ended::Reached)
                | Err(Error::Live(LiveError::Interrupted { .. })) => return Ok(()),
                Err(Error::Live(error)) if error.is_transient() && !self.stops() => {
                    self.pass_on(FollowEvent::Retrying(&error))?;
                    self.reconnects += 1;
                    if self.timeline.last_record_lsn() > before {
                        delay = RETRY_MIN;
                    }
                    self.flush_if_due(true)?;
                    self.sleep(delay);
                    delay = (delay * 2).min(RETRY_MAX);
                }
                Err(Error::Live(error)) if error.is_transient() => return Ok(()),
                Err(error) => {
                    // What came before is kept as far as it goes; the error says what matters.
                    let _ = self.flush();
                    return Err(error);
                }
            }
            if self.stops() {
                return Ok(());
            }
        }
    }

    /// One connection, from its beginning to its end.
    fn session(&mut self) -> Result<Ended> {
        let mut connection = Connection::open_with(&self.follow.info, self.interrupt)?;
        let server = connection.identify()?;
        let expected = (self.identity.system_id, self.identity.wal_timeline);
        if (server.log.system_id, server.log.timeline) != expected {
            return Err(Error::OtherSystem {
                timeline: self.timeline.name().to_owned(),
                expected,
                found: (server.log.system_id, server.log.timeline),
            });
        }
        if let Some(slot) = &self.follow.slot
            && self.follow.creates_slot
            && connection.slot(slot)?.is_none()
        {
            connection.create_slot(slot, Lifetime::Permanent)?;
        }
        let mut decoder = match self.decoder.take() {
            Some(mut decoder) => {
                decoder.restart();
                decoder
            }
            None => StreamDecoder::new(server.log, self.timeline.last_record_lsn())?,
        };
        let from = decoder.stream_from();
        let slot = self.follow.slot.as_ref();
        self.told = Lsn::INVALID;
        let started = connection.start(slot, server.log.timeline, from, Timing::default());
        let ended = started.map_err(Error::from).and_then(|mut stream| {
            let ended = self.stream(&mut stream, &mut decoder)?;
            self.flush()?;
            stream.report(self.progress(&decoder));
            // The server has been told or is gone; either way nothing is lost.
            let _ = stream.finish(FINISH_MAX);
            Ok(ended)
        });
        self.decoder = Some(decoder);
        ended
    }

    fn stream(&mut self, stream: &mut Replication, decoder: &mut StreamDecoder) -> Result<Ended> {
        loop {
            if self.stops() {
                return Ok(Ended::Stopped);
            }
            let mut is_asked = false;
            match stream.next_event(POLL)? {
                Event::Wal { start, bytes, server_end, .. } => {
                    self.lag.stated(server_end, Instant::now());
                    decoder.push(start, bytes)?;
                    if let Some(ended) = self.apply(decoder)? {
                        return Ok(ended);
                    }
                }
                Event::KeepAlive { server_end, wants_answer, .. } => {
                    self.lag.stated(server_end, Instant::now());
                    is_asked = wants_answer;
                }
                Event::Quiet => {}
                Event::TimelineEnded { next, at } => {
                    let timeline = decoder.log().timeline;
                    return Err(Error::WalTimelineEnded { timeline, next, at });
                }
            }
            self.flush_if_due(is_asked)?;
            self.tell(stream, decoder)?;
            if self.reported.0.elapsed() >= self.follow.report_interval {
                let report = self.report();
                self.pass_on(FollowEvent::Report(&report))?;
            }
        }
    }

    /// Applies all whole records that have come, unless it ends before.
    fn apply(&mut self, decoder: &mut StreamDecoder) -> Result<Option<Ended>> {
        let last = self.timeline.last_record_lsn();
        let mut ended = None;
        while ended.is_none()
            && let Some(record) = decoder.next_record()?
        {
            if record.end() <= last {
                continue;
            }
            dry_run(&mut self.checks, &record, self.follow.allows_unknown_redo)?;
            self.applier.apply(&mut self.lease, &record)?;
            if self.follow.until.is_some_and(|until| record.end() >= until) {
                ended = Some(Ended::Reached);
            } else if self.stops() {
                ended = Some(Ended::Stopped);
            }
        }
        // Records that change no page are passed too: the timeline ends behind them.
        let position = decoder.position();
        if self.timeline.last_record_lsn() < position {
            self.lease.commit(position)?.wait()?;
        }
        let has_all = ended.is_none();
        // After a reconnect what is received is behind the position for a moment.
        self.lag.applied(if has_all { decoder.received().max(position) } else { position });
        Ok(ended)
    }

    /// Begins a flush if it is time for one, and does not wait for it; but a server that asks
    /// (`is_asked`) may be waiting for it to shut down.
    fn flush_if_due(&mut self, is_asked: bool) -> Result<()> {
        let (durable, last) =
            (self.timeline.disk_consistent_lsn(), self.timeline.last_record_lsn());
        let (began, up_to) = self.flush;
        let is_late = began.elapsed() >= self.follow.flush_interval;
        if is_asked && durable < last {
            return self.flush();
        }
        if durable < up_to {
            // One at a time. One that fails is tried again in the background; here it is an error,
            // once it had its time.
            if is_late && self.timeline.stats().flush.failures > 0 {
                return self.flush();
            }
            if is_late {
                self.flush.0 = Instant::now();
            }
            return Ok(());
        }
        let is_much = last.0.saturating_sub(durable.0) >= self.follow.flush_bytes;
        if durable < last && (is_late || is_much) {
            self.lease.roll()?;
            self.flush = (Instant::now(), last);
        }
        Ok(())
    }

    /// Flushes all that there is, and waits for it.
    fn flush(&mut self) -> Result<()> {
        self.lease.roll()?;
        self.timeline.flush()?;
        self.flush = (Instant::now(), self.timeline.last_record_lsn());
        Ok(())
    }

    /// Tells the server how far the log is stored: at once if more of it is durable, else when a
    /// status is due.
    fn tell(&mut self, stream: &mut Replication, decoder: &StreamDecoder) -> Result<()> {
        let progress = self.progress(decoder);
        stream.report(progress);
        if self.told < progress.flushed {
            self.told = progress.flushed;
            stream.send_status()?;
        }
        Ok(())
    }

    fn progress(&self, decoder: &StreamDecoder) -> Progress {
        Progress {
            written: decoder.received(),
            flushed: self.timeline.disk_consistent_lsn(),
            applied: self.timeline.last_record_lsn(),
        }
    }

    /// Lag and rate now; the next one's rate is from here.
    fn report(&mut self) -> FollowReport {
        let at = self.timeline.last_record_lsn();
        let (since, from) = std::mem::replace(&mut self.reported, (Instant::now(), at));
        let seconds = since.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        FollowReport {
            at,
            flushed: self.timeline.disk_consistent_lsn(),
            server_end: self.lag.server_end(),
            lag_bytes: self.lag.bytes(),
            lag_seconds: self.lag.age(Instant::now()).as_secs_f64(),
            bytes_per_second: at.0.saturating_sub(from.0) as f64 / seconds,
            applied: self.applier.applied(),
            reconnects: self.reconnects,
        }
    }
}
