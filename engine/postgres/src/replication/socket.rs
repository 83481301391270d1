//! [`Socket`]: TCP or a Unix socket, on which no wait is longer than a moment.
//!
//! The operating system's own waits cannot be interrupted, so each is cut into slices ([`SLICE`]).
//! Resolving a name and connecting cannot be cut: a thread does both, and whoever waits for it may
//! stop waiting. The thread then ends by itself, at the latest when the time-outs of the resolver
//! and of the connection are over.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

#[cfg(unix)]
use std::os::{fd::OwnedFd, unix::net::UnixStream};

use crate::replication::{
    error::{Error, Result},
    info::ConnectionInfo,
    interrupt::Interrupt,
};

/// How long a wait goes on before the interrupt and the deadline are looked at again.
pub(super) const SLICE: Duration = Duration::from_millis(50);
/// Zero would mean to wait for ever.
const WAIT_MIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Whether nothing could be read or written within the time-out.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

impl Socket {
    /// Connects, unless it is interrupted before.
    pub(super) fn connect(info: &ConnectionInfo, interrupt: &Interrupt) -> Result<Socket> {
        let failed = |cause| Error::Connect { to: info.to_string(), cause };
        let (sender, connected) = mpsc::sync_channel(1);
        let server = info.clone();
        let connect = move || {
            // Fails when the caller no longer waits; the socket is closed then.
            let _ = sender.send(Socket::connect_blocking(&server));
        };
        let thread = thread::Builder::new().name("pagestrata-conn".to_owned());
        thread.spawn(connect).map_err(failed)?;
        loop {
            if interrupt.is_set() {
                return Err(Error::Interrupted { to: info.to_string(), doing: "connecting" });
            }
            match connected.recv_timeout(SLICE) {
                Ok(socket) => return socket.map_err(failed),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(io::Error::other("the connecting thread has panicked")));
                }
            }
        }
    }

    /// Tries one address after the other, each for as long as the connection info allows.
    fn connect_blocking(info: &ConnectionInfo) -> io::Result<Socket> {
        if info.is_socket() {
            return Socket::connect_unix(info);
        }
        let mut last = None;
        for address in (info.host(), info.port()).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, info.connect_timeout()) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    socket.set_write_timeout(Some(SLICE))?;
                    return Ok(Socket::Tcp(socket));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host")))
    }

    #[cfg(unix)]
    fn connect_unix(info: &ConnectionInfo) -> io::Result<Socket> {
        let address = socket2::SockAddr::unix(info.to_string())?;
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        // It bounds connecting too, which waits for as long as the queue of the listener is full.
        socket.set_write_timeout(Some(info.connect_timeout()))?;
        socket.connect(&address).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })?;
        socket.set_write_timeout(Some(SLICE))?;
        Ok(Socket::Unix(OwnedFd::from(socket).into()))
    }

    #[cfg(not(unix))]
    fn connect_unix(_: &ConnectionInfo) -> io::Result<Socket> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "there are no such sockets here"))
    }

    /// Reads what is there, waiting for it no longer than `deadline` and a slice.
    pub(super) fn read_before(
        &mut self,
        deadline: Instant,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Some(left.clamp(WAIT_MIN, SLICE));
        match self {
            Socket::Tcp(socket) => socket.set_read_timeout(wait).and_then(|()| socket.read(buffer)),
            #[cfg(unix)]
            Socket::Unix(socket) => {
                socket.set_read_timeout(wait).and_then(|()| socket.read(buffer))
            }
        }
    }

    /// Writes as much as there is room for, waiting for some no longer than a slice.
    pub(super) fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.write(bytes),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.write(bytes),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A server that takes no connection: the queue of its socket is full.
    #[test]
    fn a_full_queue_of_a_unix_socket_is_a_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".s.PGSQL.1");
        let listener =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        let text = format!("host={} port=1 user=me connect_timeout=1", dir.path().display());
        let info: ConnectionInfo = text.parse().unwrap();
        let error = Socket::connect(&info, &Interrupt::default()).unwrap_err();
        let is_timeout = |cause: &io::Error| cause.kind() == io::ErrorKind::TimedOut;
        assert!(matches!(&error, Error::Connect { cause, .. } if is_timeout(cause)), "{error}");
    }
}
