//! [`Replication`]: receives a stream of log and reports how far it is stored.
//!
//! | message | bytes | what |
//! |---|---|---|
//! | `w`, from the server | 1, 9, 17 | start of the piece, end of the server's log, time; then the piece |
//! | `k`, from the server | 1, 9, 17 | end of the server's log, time, 1 if it wants an answer |
//! | `r`, to the server | 1, 9, 17, 25, 33 | written, flushed, applied, time, 1 if an answer is wanted |
//!
//! A server takes `flushed` for a promise: it may remove the log before it, and it completes
//! transactions that wait for a synchronous standby. On shutdown it waits until all of its log is
//! flushed on the other side.

use std::time::{Duration, Instant, SystemTime};

use ::bytes::{BufMut, BytesMut};
use pagestrata_layers::Lsn;
use postgres_protocol::message::frontend;

use crate::replication::{
    answer::{end_of_timeline, terminate},
    error::{Error, Result},
    message::{self, Streamed, server_time},
    wire::{Deadline, Frame, Wire},
};

/// Intervals of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Longest time between two reports. A server ends a stream that does not report for
    /// `wal_sender_timeout`, a minute by default.
    pub status_interval: Duration,
    /// A server that sends nothing for this long counts as gone. After half of it, it is asked to
    /// answer.
    pub silence_max: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { status_interval: Duration::from_secs(10), silence_max: Duration::from_secs(60) }
    }
}

/// How far the log is stored. Zero means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Received.
    pub written: Lsn,
    /// Durable. It must not be ahead of what a crash of this side leaves.
    pub flushed: Lsn,
    /// Visible to readers.
    pub applied: Lsn,
}

/// Event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A piece of the log, for [`crate::StreamDecoder::push`].
    Wal {
        /// Where it starts.
        start: Lsn,
        /// The piece.
        bytes: &'a [u8],
        /// How far the server's log went.
        server_end: Lsn,
        /// When, by the server's clock.
        sent_at: SystemTime,
    },
    /// Nothing new.
    KeepAlive {
        /// How far the server's log goes.
        server_end: Lsn,
        /// When, by the server's clock.
        sent_at: SystemTime,
        /// The server wants a report; it may wait for one to shut down. Make the log durable and
        /// [`Replication::report`] it; the next call sends the report.
        wants_answer: bool,
    },
    /// No log arrived in time, or the [`Interrupt`](super::Interrupt) was set. The stream can still
    /// be read or finished.
    Quiet,
    /// The server has sent all of the timeline; the stream is over.
    TimelineEnded {
        /// The timeline that goes on.
        next: u32,
        /// Where.
        at: Lsn,
    },
}

/// A connection on which a server streams its log. For one thread at a time.
///
/// Dropping it closes the connection. Reports that were sent stay valid.
#[derive(Debug)]
pub struct Replication {
    wire: Wire,
    timing: Timing,
    progress: Progress,
    status_sent: Instant,
    owes_answer: bool,
    /// The server was asked to say something and has not yet.
    has_asked: bool,
    ended: Option<(u32, Lsn)>,
}

/// What to do with a message.
enum Received {
    Streamed(Frame),
    Ended(u32, Lsn),
    Nothing,
}

impl Replication {
    pub(super) fn new(mut wire: Wire, timing: Timing) -> Replication {
        wire.doing = "streaming";
        Replication {
            wire,
            timing,
            progress: Progress::default(),
            status_sent: Instant::now(),
            owes_answer: false,
            has_asked: false,
            ended: None,
        }
    }

    /// Sets the progress that later reports state.
    pub fn report(&mut self, progress: Progress) {
        self.progress = progress;
    }

    /// Sends a report now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn send_status(&mut self) -> Result<()> {
        self.send(false)
    }

    /// Returns the next event, waiting for at most `wait`. Sends reports when they are due.
    ///
    /// # Errors
    /// [`Error::Closed`] when the server shuts down, [`Error::Silent`], [`Error::Io`],
    /// [`Error::Server`], [`Error::Protocol`]; [`Error::Interrupted`] in the middle of a message to
    /// the server. The connection must not be used then.
    pub fn next_event(&mut self, wait: Duration) -> Result<Event<'_>> {
        if let Some((next, at)) = self.ended {
            return Ok(Event::TimelineEnded { next, at });
        }
        let deadline = Instant::now() + wait;
        let frame = loop {
            if self.wire.is_interrupted() {
                return Ok(Event::Quiet);
            }
            self.send_if_due()?;
            let until = deadline.min(self.due_at());
            match self.wire.receive(until)? {
                Some(frame) => match self.sort(frame)? {
                    Received::Streamed(frame) => break frame,
                    Received::Ended(next, at) => return Ok(Event::TimelineEnded { next, at }),
                    // A server may say such things without end.
                    Received::Nothing if Instant::now() >= deadline => return Ok(Event::Quiet),
                    Received::Nothing => {}
                },
                None if self.wire.silence() >= self.timing.silence_max => {
                    return Err(self.wire.silent(self.wire.silence()));
                }
                None if Instant::now() >= deadline => return Ok(Event::Quiet),
                None => {}
            }
        };
        self.has_asked = false;
        let body = self.wire.body(&frame);
        match body.streamed().map_err(|malformed| self.wire.protocol(malformed))? {
            Streamed::Wal { start, server_end, sent_at, bytes } => {
                Ok(Event::Wal { start, bytes, server_end, sent_at })
            }
            Streamed::KeepAlive { server_end, sent_at, wants_answer } => {
                self.owes_answer |= wants_answer;
                Ok(Event::KeepAlive { server_end, sent_at, wants_answer })
            }
        }
    }

    /// Sends a last report and ends the stream and the session in order.
    ///
    /// Log that still arrives is dropped. It takes at most about twice `wait`, and an
    /// [`Interrupt`](super::Interrupt) does not end it.
    ///
    /// # Errors
    /// As [`Replication::next_event`], and [`Error::TimedOut`].
    pub fn finish(mut self, wait: Duration) -> Result<()> {
        self.wire.finish_within(wait);
        if self.ended.is_none() {
            self.wire.doing = "ending the stream";
            self.send(false)?;
            self.send_copy_done()?;
            let deadline = Deadline::after(wait);
            loop {
                let frame = self.wire.receive_of_answer(deadline)?;
                match frame.tag {
                    message::READY => break,
                    message::ERROR => return Err(self.wire.refused(&frame)),
                    message::COPY_DATA
                    | message::COPY_DONE
                    | message::COMPLETE
                    | message::ROW_DESCRIPTION
                    | message::ROW
                    | message::PARAMETER
                    | message::NOTICE
                    | message::NOTIFICATION => {}
                    _ => return Err(self.wire.unexpected(&frame, "the end of the stream")),
                }
            }
        }
        terminate(&mut self.wire)
    }

    fn sort(&mut self, frame: Frame) -> Result<Received> {
        match frame.tag {
            message::COPY_DATA => Ok(Received::Streamed(frame)),
            message::NOTICE | message::NOTIFICATION | message::PARAMETER => Ok(Received::Nothing),
            message::ERROR => Err(self.wire.refused(&frame)),
            message::COPY_DONE => {
                self.wire.doing = "ending the timeline";
                self.send_copy_done()?;
                let (next, at) = end_of_timeline(&mut self.wire)?;
                self.ended = Some((next, at));
                Ok(Received::Ended(next, at))
            }
            // The last thing that a server says when it shuts down.
            message::COMPLETE => {
                Err(Error::Closed { to: self.wire.to().to_owned(), doing: "streaming" })
            }
            _ => Err(self.wire.unexpected(&frame, "CopyData")),
        }
    }

    /// When the next report or question is due, or the server counts as gone.
    fn due_at(&self) -> Instant {
        let Timing { status_interval, silence_max } = self.timing;
        let limit = if self.has_asked { silence_max } else { silence_max / 2 };
        let left = limit.saturating_sub(self.wire.silence());
        (self.status_sent + status_interval).min(Instant::now() + left)
    }

    fn send_if_due(&mut self) -> Result<()> {
        let asks = !self.has_asked && self.wire.silence() >= self.timing.silence_max / 2;
        if self.owes_answer || asks || self.status_sent.elapsed() >= self.timing.status_interval {
            self.send(asks)?;
        }
        Ok(())
    }

    fn send(&mut self, asks: bool) -> Result<()> {
        let Progress { written, flushed, applied } = self.progress;
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        for lsn in [written, flushed, applied] {
            status.put_u64(lsn.0);
        }
        status.put_i64(server_time(SystemTime::now()));
        status.put_u8(u8::from(asks));
        self.wire.send(|out| {
            frontend::CopyData::new(status)?.write(out);
            Ok(())
        })?;
        self.has_asked |= asks;
        (self.status_sent, self.owes_answer) = (Instant::now(), false);
        Ok(())
    }

    fn send_copy_done(&mut self) -> Result<()> {
        self.wire.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })
    }
}
