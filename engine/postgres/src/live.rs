//! The log of a running server: PostgreSQL's streaming replication protocol, the physical kind,
//! from the standby's side.
//!
//! ```text
//! ConnectionInfo -> Connection (log in, identify, slots)
//!     -> Replication (pieces of the log in, status out) -> StreamDecoder
//! ```
//!
//! As PostgreSQL's manual has it in "Streaming Replication Protocol", "Message Formats" and "SASL
//! Authentication". Calls block, each for a bounded time; an [`Interrupt`] ends them early. There
//! is no runtime here, and no thread but a short-lived one that connects.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use pagestrata_layers::Lsn;
//! use pagestrata_postgres::{
//!     StreamDecoder,
//!     live::{Connection, ConnectionInfo, Event, Progress, Timing},
//! };
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let durable = Lsn(16);
//! let info: ConnectionInfo = "host=/var/run/postgresql user=replicator".parse()?;
//! let mut connection = Connection::open(&info)?;
//! let server = connection.identify()?;
//! let mut decoder = StreamDecoder::new(server.log, durable)?;
//! let (timeline, from) = (server.log.timeline, decoder.stream_from());
//! let mut replication = connection.start(None, timeline, from, Timing::default())?;
//! loop {
//!     match replication.next_event(Duration::from_secs(1))? {
//!         Event::Wal { start, bytes, .. } => decoder.push(start, bytes)?,
//!         // The answer decides whether a server can shut down: make all of it durable first.
//!         Event::KeepAlive { .. } | Event::Quiet => {}
//!         Event::TimelineEnded { .. } => break,
//!     }
//!     while let Some(record) = decoder.next_record()? { /* apply it */ }
//!     let written = decoder.received();
//!     replication.report(Progress { written, flushed: durable, applied: decoder.position() });
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Invariants:** no byte of a server's can cause a panic; a message's length is checked before
//! memory is taken for it, and what fits no rule of the protocol is an error that names the
//! message. A password is in no error and no debug output.

mod connection;
mod error;
mod info;
mod interrupt;
mod login;
mod message;
mod replication;
mod socket;
mod wire;

pub use connection::{Connection, Lifetime, Server, Slot, SlotName};
pub use error::{Error, Result, ServerError};
pub use info::ConnectionInfo;
pub use interrupt::Interrupt;
pub use replication::{Event, Progress, Replication, Timing};
