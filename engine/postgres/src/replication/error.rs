//! What can go wrong between a server and its standby.

use std::{fmt, io, time::Duration};

use pagestrata_layers::Lsn;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. After an error the connection is of no use; [`Error::is_transient`] says
/// whether another one may be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no connection info, or asks for what is not there.
    #[error("connection info, option {option:?}: expected {expected}, found {found}")]
    ConnectionInfo {
        /// The option.
        option: String,
        /// What would do.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// No replication slot has such a name.
    #[error("replication slot {found:?}: expected 1 to 63 of a to z, 0 to 9 and underscore")]
    SlotName {
        /// The name.
        found: String,
    },
    /// The server cannot be reached.
    #[error("cannot connect to {to}: {cause}")]
    Connect {
        /// Where it should be.
        to: String,
        /// Why not.
        cause: io::Error,
    },
    /// The connection broke.
    #[error("{to}: {cause} while {doing}")]
    Io {
        /// The server.
        to: String,
        /// What for.
        doing: &'static str,
        /// How.
        cause: io::Error,
    },
    /// The server closed the connection, as it does when it shuts down.
    #[error("{to}: the server closed the connection while {doing}")]
    Closed {
        /// The server.
        to: String,
        /// What for.
        doing: &'static str,
    },
    /// The server has not said anything for too long.
    #[error("{to}: nothing from the server for {} s while {doing}", .after.as_secs_f64())]
    Silent {
        /// The server.
        to: String,
        /// What was waited for.
        doing: &'static str,
        /// How long.
        after: Duration,
    },
    /// The server sends, but not all of what it should.
    #[error("{to}: no complete answer within {} s while {doing}", .after.as_secs_f64())]
    TimedOut {
        /// The server.
        to: String,
        /// What was waited for.
        doing: &'static str,
        /// How long.
        after: Duration,
    },
    /// An [`Interrupt`](super::Interrupt) was set.
    #[error("{to}: interrupted while {doing}")]
    Interrupted {
        /// The server.
        to: String,
        /// What was waited for.
        doing: &'static str,
    },
    /// The server says no.
    #[error("{to}: {error}, while {doing}")]
    Server {
        /// The server.
        to: String,
        /// What for.
        doing: &'static str,
        /// What it says.
        error: Box<ServerError>,
    },
    /// What came is not what the protocol has there.
    #[error("{to}: {what}: expected {expected}, found {found}, while {doing}")]
    Protocol {
        /// The server.
        to: String,
        /// What for.
        doing: &'static str,
        /// The message, and the part of it.
        what: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The server wants to know who asks, in a way that is not known here or without what is needed
    /// for it.
    #[error("{to}: authentication of user {user:?}: {reason}")]
    Authentication {
        /// The server.
        to: String,
        /// The user.
        user: String,
        /// Why it failed.
        reason: String,
    },
    /// A server of another version, or built with other sizes: its log is another one.
    #[error("{to}: {what}: expected {expected}, found {found}")]
    OtherServer {
        /// The server.
        to: String,
        /// What is different.
        what: &'static str,
        /// What can be read here.
        expected: &'static str,
        /// What it has.
        found: String,
    },
    /// The timeline that was asked for has ended where the stream was to start.
    #[error("{to}: timeline {timeline} ended at {at}, timeline {next} goes on there")]
    TimelineEnded {
        /// The server.
        to: String,
        /// The timeline that was asked for.
        timeline: u32,
        /// The one that goes on.
        next: u32,
        /// Where.
        at: Lsn,
    },
}

impl Error {
    /// Whether the same may succeed a little later: the connection broke, the server is starting,
    /// stopping or full, or it has not noticed yet that the connection before is gone, whose slot
    /// is then still in use.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connect { .. }
            | Error::Io { .. }
            | Error::Closed { .. }
            | Error::Silent { .. }
            | Error::TimedOut { .. } => true,
            Error::Server { error, .. } => {
                matches!(&*error.code, "53300" | "55006" | "57P01" | "57P02" | "57P03" | "57P05")
                    || error.code.starts_with("08")
            }
            _ => false,
        }
    }
}

/// What a server says about an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    /// Five letters and digits ("PostgreSQL Error Codes" in the manual).
    pub code: String,
    /// One line.
    pub message: String,
    /// More about it; may be empty.
    pub detail: String,
    /// What could be done; may be empty.
    pub hint: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerError { severity, code, message, detail, hint } = self;
        write!(f, "{severity} {code}: {message}")?;
        for more in [detail, hint] {
            if !more.is_empty() {
                write!(f, "; {more}")?;
            }
        }
        Ok(())
    }
}
