//! [`Wire`]: messages over a socket.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | what kind of message |
//! | 1..5 | length without the kind and with itself, big-endian |
//! | 5.. | body |
//!
//! **Invariants:** a wait that ends before a message is whole loses none of it. Memory is one message of the longest kind.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    ops::Range,
    time::{Duration, Instant},
};

#[cfg(unix)]
use std::os::unix::net::UnixStream;

use ::bytes::BytesMut;

use super::{
    ConnectionInfo, Error, Result,
    message::{self, Body},
};

/// A walsender's pieces have 128 KiB, and no other message of a server's comes close.
const BODY_LEN_MAX: usize = 1 << 20;
const BUFFER_LEN: usize = 256 << 10;
const HEADER_LEN: usize = 5;
/// How long a server may leave what was sent to it in the socket's buffer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Zero would mean to wait for ever.
const WAIT_MIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    fn connect(info: &ConnectionInfo) -> io::Result<Socket> {
        if info.is_socket() {
            return Socket::connect_unix(info);
        }
        let mut last = None;
        for address in (info.host(), info.port()).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, info.connect_timeout()) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
                    return Ok(Socket::Tcp(socket));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host")))
    }

    #[cfg(unix)]
    fn connect_unix(info: &ConnectionInfo) -> io::Result<Socket> {
        let socket = UnixStream::connect(info.to_string())?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Socket::Unix(socket))
    }

    #[cfg(not(unix))]
    fn connect_unix(_: &ConnectionInfo) -> io::Result<Socket> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "there are no such sockets here"))
    }

    fn read_within(&mut self, wait: Duration, buffer: &mut [u8]) -> io::Result<usize> {
        let wait = Some(wait.max(WAIT_MIN));
        match self {
            Socket::Tcp(socket) => socket.set_read_timeout(wait).and_then(|()| socket.read(buffer)),
            #[cfg(unix)]
            Socket::Unix(socket) => {
                socket.set_read_timeout(wait).and_then(|()| socket.read(buffer))
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.write_all(bytes),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.write_all(bytes),
        }
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
    pub(super) fn connect(info: &ConnectionInfo) -> Result<Wire> {
        let to = info.to_string();
        let socket =
            Socket::connect(info).map_err(|source| Error::Connect { to: to.clone(), source })?;
        Ok(Wire {
            socket,
            to,
            doing: "logging in",
            inbound: vec![0; BUFFER_LEN],
            filled: 0..0,
            last_heard: Instant::now(),
        })
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
    pub(super) fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<()> {
        let mut outbound = BytesMut::new();
        let sent = write(&mut outbound).and_then(|()| self.socket.write_all(&outbound));
        sent.map_err(|source| self.broken(source))
    }

    /// The next message; none if it is not whole when the time is over.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            self.make_room();
            let wait = deadline.saturating_duration_since(Instant::now());
            match self.socket.read_within(wait, &mut self.inbound[self.filled.end..]) {
                Ok(0) => return Err(Error::Closed { to: self.to.clone(), doing: self.doing }),
                Ok(len) => {
                    self.filled.end += len;
                    self.last_heard = Instant::now();
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {
                        if wait.is_zero() || Instant::now() >= deadline {
                            return Ok(None);
                        }
                    }
                    _ => return Err(self.broken(error)),
                },
            }
        }
    }

    /// The next message that is not just a notice, within `timeout`.
    ///
    /// # Errors
    /// [`Error::Server`] if that is an error; [`Error::Silent`].
    pub(super) fn expect(&mut self, timeout: Duration) -> Result<Frame> {
        let deadline = Instant::now() + timeout;
        loop {
            let Some(frame) = self.receive(deadline)? else {
                return Err(self.silent(timeout));
            };
            match frame.tag {
                message::NOTICE | message::NOTIFICATION => {}
                message::ERROR => return Err(self.refused(&frame)),
                _ => return Ok(frame),
            }
        }
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

    fn broken(&self, source: io::Error) -> Error {
        Error::Io { to: self.to.clone(), doing: self.doing, source }
    }

    /// Whether so many bytes can be a body's, by the length that a message states; none if that is not there yet.
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
