//! `follow`: the log of a running server, as it comes.
//!
//! ```text
//! connect -> is it the cluster of the timeline? -> stream from the timeline's last record -> Applier, record by record
//!    ^                                               flush in intervals -> tell the server what is durable
//!    '- a connection that broke, a server that restarts: again, a little later
//! ```
//!
//! **Invariants:** the server is told of an Lsn as flushed only when everything up to it is in synced layer files. Whatever ends this process,
//! it goes on from the timeline's last durable record; the server keeps the log from there on if a slot is used.

use std::{
    fmt,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use pagestrata::{Lsn, Timeline, WriteLease};
use pagestrata_postgres::{
    PageVersions, StreamDecoder,
    live::{Connection, ConnectionInfo, Event, Lifetime, Progress, Replication, SlotName, Timing},
};
use serde::Serialize;

use crate::{
    Applied, Error, Output, Result,
    apply::{Applier, dry_run},
    identity::Identity,
    output::{as_text, size},
};

/// So long an answer of the server is waited for before anything else is looked at.
const POLL: Duration = Duration::from_millis(100);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

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
    /// How often what came is made durable, and the server told of it.
    pub flush_interval: Duration,
    /// How often lag and rate are told.
    pub report_interval: Duration,
    /// Keep records that nobody here knows how to redo.
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
    /// The end of the server's log, as it said last.
    #[serde(serialize_with = "as_text")]
    pub server_end: Lsn,
    /// Bytes between that and the last record.
    pub lag_bytes: u64,
    /// How old the last message is, by the server's clock.
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
    stop: &'a AtomicBool,
    server_end: Lsn,
    sent_at: SystemTime,
    flushed_at: Instant,
    reported: (Instant, Lsn),
    reconnects: u64,
}

/// Follows a server until it `stop`s, or has come as far as it should. A report goes to `output` in intervals and at the end.
///
/// # Errors
/// [`Error::NoBase`], [`Error::OtherSystem`], [`Error::Live`], and what applying fails with. What is durable stays.
pub fn follow<W: Write>(
    timeline: &Timeline,
    follow: &Follow,
    stop: &AtomicBool,
    output: &mut Output<W>,
) -> Result<()> {
    let no_base = || Error::NoBase { timeline: timeline.name().to_owned() };
    let identity = Identity::read(timeline)?.ok_or_else(no_base)?;
    let now = Instant::now();
    let mut follower = Follower {
        follow,
        timeline,
        applier: Applier::new(timeline, identity.clone(), false),
        identity,
        lease: timeline.write_lease()?,
        checks: PageVersions::new(),
        decoder: None,
        stop,
        server_end: timeline.last_record_lsn(),
        sent_at: SystemTime::now(),
        flushed_at: now,
        reported: (now, timeline.last_record_lsn()),
        reconnects: 0,
    };
    let mut delay = RETRY_MIN;
    loop {
        let before = timeline.last_record_lsn();
        match follower.session(output) {
            Ok(Ended::Stopped | Ended::Reached) => break,
            Err(Error::Live(error)) if error.is_transient() && !follower.stops() => {
                // A closed stderr is nobody to tell.
                let _ = writeln!(io::stderr(), "pagestrata: note: {error}; trying again");
                follower.reconnects += 1;
                if timeline.last_record_lsn() > before {
                    delay = RETRY_MIN;
                }
                follower.sleep(delay);
                delay = (delay * 2).min(RETRY_MAX);
                if follower.stops() {
                    break;
                }
            }
            Err(error) => {
                // What came before is kept as far as it goes; the error says what matters.
                let _ = follower.flush();
                return Err(error);
            }
        }
    }
    follower.flush()?;
    output.result(&follower.report())
}

impl Follower<'_, '_> {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn sleep(&self, delay: Duration) {
        let until = Instant::now() + delay;
        while !self.stops() && Instant::now() < until {
            thread::sleep(POLL.min(delay));
        }
    }

    /// One connection, from its beginning to its end.
    fn session<W: Write>(&mut self, output: &mut Output<W>) -> Result<Ended> {
        let mut connection = Connection::open(&self.follow.info)?;
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
        let started = connection.start(slot, server.log.timeline, from, Timing::default());
        let ended = started.map_err(Error::from).and_then(|mut stream| {
            let ended = self.stream(&mut stream, &mut decoder, output)?;
            self.flush()?;
            stream.report(self.progress(&decoder));
            // The server has been told or is gone; either way nothing is lost.
            let _ = stream.finish(Duration::from_secs(2));
            Ok(ended)
        });
        self.decoder = Some(decoder);
        ended
    }

    fn stream<W: Write>(
        &mut self,
        stream: &mut Replication,
        decoder: &mut StreamDecoder,
        output: &mut Output<W>,
    ) -> Result<Ended> {
        loop {
            if self.stops() {
                return Ok(Ended::Stopped);
            }
            let mut is_asked = false;
            match stream.next_event(POLL)? {
                Event::Wal { start, bytes, server_end, sent_at } => {
                    (self.server_end, self.sent_at) = (server_end, sent_at);
                    decoder.push(start, bytes)?;
                    if self.apply(decoder)? {
                        return Ok(Ended::Reached);
                    }
                }
                Event::KeepAlive { server_end, sent_at, wants_answer } => {
                    (self.server_end, self.sent_at) = (server_end, sent_at);
                    is_asked = wants_answer;
                }
                Event::Quiet => {}
                Event::TimelineEnded { next, at } => {
                    let timeline = decoder.log().timeline;
                    return Err(Error::WalTimelineEnded { timeline, next, at });
                }
            }
            let is_behind = self.timeline.disk_consistent_lsn() < decoder.position();
            if is_behind && (is_asked || self.flushed_at.elapsed() >= self.follow.flush_interval) {
                self.commit_up_to(decoder.position())?;
                self.flush()?;
            }
            stream.report(self.progress(decoder));
            if self.reported.0.elapsed() >= self.follow.report_interval {
                output.result(&self.report())?;
                output.flush()?;
            }
        }
    }

    /// All whole records that have come; whether that is as far as it should go.
    fn apply(&mut self, decoder: &mut StreamDecoder) -> Result<bool> {
        let last = self.timeline.last_record_lsn();
        while let Some(record) = decoder.next_record()? {
            if record.end() <= last {
                continue;
            }
            dry_run(&mut self.checks, &record, self.follow.allows_unknown_redo)?;
            self.applier.apply(&mut self.lease, &record)?;
            if self.follow.until.is_some_and(|until| record.end() >= until) {
                let end = record.end();
                self.commit_up_to(end)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Records that change nothing are passed, too.
    fn commit_up_to(&mut self, lsn: Lsn) -> Result<()> {
        if self.timeline.last_record_lsn() < lsn {
            self.lease.commit(lsn)?.wait()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.lease.roll()?;
        self.timeline.flush()?;
        self.flushed_at = Instant::now();
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
            server_end: self.server_end,
            lag_bytes: self.server_end.0.saturating_sub(at.0),
            lag_seconds: self.sent_at.elapsed().unwrap_or_default().as_secs_f64(),
            bytes_per_second: at.0.saturating_sub(from.0) as f64 / seconds,
            applied: self.applier.applied(),
            reconnects: self.reconnects,
        }
    }
}
