//! [`Wire`]: messages over a socket.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | what kind of message |
//! | 1..5 | length without the kind and with itself, big-endian |
//! | 5.. | body |
//!
//! **Invariants:** a wait that ends before a message is whole loses none of it. Memory is bounded
//! by the longest message that is accepted ([`BODY_LEN_MAX`]). No wait outlasts its deadline or an
//! [`Interrupt`] by more than a moment, whether the server is silent or sends without end.

use std::{
    fmt, io,
    ops::Range,
    time::{Duration, Instant},
};

use ::bytes::BytesMut;

use crate::replication::{
    error::{Error, Result},
    info::ConnectionInfo,
    interrupt::Interrupt,
    message::{self, Body},
    socket::{Socket, is_timeout},
};

/// A walsender's pieces have 128 KiB, and no other message of a server's comes close.
const BODY_LEN_MAX: usize = 1 << 20;
const BUFFER_LEN: usize = 256 << 10;
const HEADER_LEN: usize = 5;
/// How long a server may leave what was sent to it in the socket's buffer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// When something has to be complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    /// How long that was from the beginning.
    after: Duration,
}

impl Deadline {
    pub(super) fn after(after: Duration) -> Deadline {
        Deadline { at: Instant::now() + after, after }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.at
    }
}

/// A message that has arrived; its body is in the wire until the next one is received.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) tag: u8,
    body: Range<usize>,
}

pub(super) struct Wire {
    socket: Socket,
    to: String,
    /// What for, in errors.
    pub(super) doing: &'static str,
    inbound: Vec<u8>,
    /// What of it was received and not yet taken.
    filled: Range<usize>,
    last_heard: Instant,
    interrupt: Interrupt,
    write_timeout: Duration,
}

/// Without what has arrived.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("to", &self.to)
            .field("doing", &self.doing)
            .finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn connect(info: &ConnectionInfo, interrupt: &Interrupt) -> Result<Wire> {
        Ok(Wire {
            socket: Socket::connect(info, interrupt)?,
            to: info.to_string(),
            doing: "logging in",
            inbound: vec![0; BUFFER_LEN],
            filled: 0..0,
            last_heard: Instant::now(),
            interrupt: interrupt.clone(),
            write_timeout: WRITE_TIMEOUT,
        })
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupt.is_set()
    }

    /// From now on an interrupt ends no wait, but no write takes longer than this.
    pub(super) fn finish_within(&mut self, wait: Duration) {
        (self.interrupt, self.write_timeout) = (Interrupt::default(), wait);
    }

    pub(super) fn to(&self) -> &str {
        &self.to
    }

    /// How long the server has not said anything.
    pub(super) fn silence(&self) -> Duration {
        self.last_heard.elapsed()
    }

    pub(super) fn body(&self, frame: &Frame) -> Body<'_> {
        Body::new(frame.tag, &self.inbound[frame.body.clone()])
    }

    /// Sends what `write` puts into a buffer.
    ///
    /// # Errors
    /// [`Error::Interrupted`] and [`Error::Io`]: a part of it may have been sent.
    pub(super) fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<()> {
        let mut outbound = BytesMut::new();
        write(&mut outbound).map_err(|cause| self.broken(cause))?;
        let deadline = Deadline::after(self.write_timeout);
        let mut rest = &outbound[..];
        while !rest.is_empty() {
            match self.socket.write_some(rest) {
                Ok(0) => return Err(self.broken(io::ErrorKind::WriteZero.into())),
                Ok(len) => rest = &rest[len..],
                Err(error) if !is_timeout(&error) => return Err(self.broken(error)),
                Err(_) if self.is_interrupted() => return Err(self.interrupted()),
                Err(_) if deadline.is_over() => {
                    return Err(self.broken(io::ErrorKind::TimedOut.into()));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// The next message; none if it is not whole when the time is over or the interrupt is set.
    /// What has arrived whole is returned in any case: a caller that loops looks at both itself.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if self.is_interrupted() {
                return Ok(None);
            }
            self.make_room();
            match self.socket.read_before(deadline, &mut self.inbound[self.filled.end..]) {
                Ok(0) => return Err(Error::Closed { to: self.to.clone(), doing: self.doing }),
                Ok(len) => {
                    self.filled.end += len;
                    self.last_heard = Instant::now();
                }
                Err(error) if !is_timeout(&error) => return Err(self.broken(error)),
                Err(_) if Instant::now() >= deadline => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// The next message of an answer that has to be complete in time, however many messages it has.
    ///
    /// # Errors
    /// [`Error::Interrupted`], [`Error::Silent`], [`Error::TimedOut`].
    pub(super) fn receive_of_answer(&mut self, deadline: Deadline) -> Result<Frame> {
        let is_over = self.is_interrupted() || deadline.is_over();
        match if is_over { None } else { self.receive(deadline.at)? } {
            Some(frame) => Ok(frame),
            None => Err(self.late(deadline)),
        }
    }

    /// The next message that is not just a notice.
    ///
    /// # Errors
    /// [`Error::Server`] if that is an error; as [`Wire::receive_of_answer`].
    pub(super) fn expect(&mut self, deadline: Deadline) -> Result<Frame> {
        loop {
            let frame = self.receive_of_answer(deadline)?;
            match frame.tag {
                message::NOTICE | message::NOTIFICATION => {}
                message::ERROR => return Err(self.refused(&frame)),
                _ => return Ok(frame),
            }
        }
    }

    /// Why an answer is not complete.
    fn late(&self, Deadline { after, .. }: Deadline) -> Error {
        if self.is_interrupted() {
            self.interrupted()
        } else if self.silence() >= after {
            self.silent(after)
        } else {
            Error::TimedOut { to: self.to.clone(), doing: self.doing, after }
        }
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted { to: self.to.clone(), doing: self.doing }
    }

    pub(super) fn silent(&self, after: Duration) -> Error {
        Error::Silent { to: self.to.clone(), doing: self.doing, after }
    }

    /// What a server says in an error message.
    pub(super) fn refused(&self, frame: &Frame) -> Error {
        match self.body(frame).error() {
            Ok(error) => {
                Error::Server { to: self.to.clone(), doing: self.doing, error: Box::new(error) }
            }
            Err(malformed) => self.protocol(malformed),
        }
    }

    pub(super) fn protocol(&self, malformed: message::Malformed) -> Error {
        let message::Malformed { what, expected, found } = malformed;
        let found = message::shortened(&found);
        Error::Protocol { to: self.to.clone(), doing: self.doing, what, expected, found }
    }

    /// A message that has no place here.
    pub(super) fn unexpected(&self, frame: &Frame, expected: &str) -> Error {
        self.protocol(message::Malformed {
            what: "message".to_owned(),
            expected: expected.to_owned(),
            found: format!("{} of {} bytes", message::name(frame.tag), frame.body.len()),
        })
    }

    fn broken(&self, cause: io::Error) -> Error {
        Error::Io { to: self.to.clone(), doing: self.doing, cause }
    }

    /// Whether so many bytes can be a body's, by the length that a message states; none if that is
    /// not there yet.
    fn stated_len(&self) -> Result<Option<usize>> {
        let Some(&[tag, a, b, c, d]) = self.inbound[self.filled.clone()].first_chunk() else {
            return Ok(None);
        };
        let stated = u32::from_be_bytes([a, b, c, d]);
        match (stated as usize).checked_sub(HEADER_LEN - 1) {
            Some(len) if len <= BODY_LEN_MAX => Ok(Some(len)),
            _ => Err(self.protocol(message::Malformed {
                what: format!("length of {}", message::name(tag)),
                expected: format!("4 to {}", BODY_LEN_MAX + HEADER_LEN - 1),
                found: stated.to_string(),
            })),
        }
    }

    fn take_frame(&mut self) -> Result<Option<Frame>> {
        let Some(len) = self.stated_len()? else { return Ok(None) };
        if self.filled.len() < HEADER_LEN + len {
            return Ok(None);
        }
        let start = self.filled.start + HEADER_LEN;
        let tag = self.inbound[self.filled.start];
        self.filled.start = start + len;
        Ok(Some(Frame { tag, body: start..start + len }))
    }

    /// Makes room behind what is there: for a whole message, once its length is known.
    fn make_room(&mut self) {
        let stated = self.stated_len().ok().flatten().unwrap_or_default();
        let needed = HEADER_LEN + stated;
        if self.filled.is_empty() {
            self.filled = 0..0;
        } else if self.filled.start + needed > self.inbound.len()
            || self.filled.end == self.inbound.len()
        {
            self.inbound.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        if self.inbound.len() < needed {
            self.inbound.resize(needed, 0);
        }
    }
}
