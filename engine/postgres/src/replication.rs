//! The standby's side of PostgreSQL's streaming replication protocol, the physical kind. The public
//! module `live` is this room.
//!
//! | file | what; each imports from those below it |
//! |---|---|
//! | `connection.rs` | identify the server, slots, start of a stream |
//! | `streaming.rs` | the log in, status out |
//! | `answer.rs`, `login.rs` | rows and errors that answer a command; authentication |
//! | `wire.rs` | messages in and out, each wait with a deadline |
//! | `socket.rs` | bytes of a TCP or Unix socket |
//! | `message.rs`, `info.rs`, `interrupt.rs` | what a message says; where the server is; ending waits early |
//! | `error.rs` | what can go wrong |
//!
//! As PostgreSQL's manual has it in "Streaming Replication Protocol", "Message Formats" and "SASL
//! Authentication". What arrives is handed on as it came: records are made of it by
//! [`StreamDecoder`](crate::StreamDecoder), in the room `wal`.
//!
//! **Invariants:** no byte of a server's can cause a panic; a message's length is checked before
//! memory is taken for it, and what fits no rule of the protocol is an error that names the
//! message. A password is in no error and no debug output.

mod answer;
mod connection;
mod error;
mod info;
mod interrupt;
mod login;
mod message;
mod socket;
mod streaming;
mod wire;

pub use connection::{Connection, Lifetime, Server, Slot, SlotName};
pub use error::{Error, Result, ServerError};
pub use info::ConnectionInfo;
pub use interrupt::Interrupt;
pub use streaming::{Event, Progress, Replication, Timing};
