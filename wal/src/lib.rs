//! The log: append, sync, replay. Payloads are opaque bytes; from the layers it takes
//! [`Lsn`](pagestrata_layers::Lsn), the errors and the storage trait.
//!
//! ```text
//! append: frame -> current segment (the operating system has it)  -> Position: the frame's end
//! sync_to(position): one sync for all waiters (group commit)       -> SYNCED: "up to here"
//! free_below(sequence): whole segments, recycled for the next ones
//! replay: segment by segment, frame by frame -> clean end | torn tail | corrupt
//! ```
//!
//! # What a reader can be sure of
//!
//! A frame's header has a checksum over the length, the kind, the Lsn, the stream, the frame's
//! position and the checksum of the payload. Replay checks it before it uses the length. A frame
//! left from an earlier use of a recycled segment fails the check, because the checksum covers the
//! frame's position and the segment's identity.
//!
//! Every frame says up to where the log was synced when it was written, and after each sync the
//! file `SYNCED` says so before any waiter learns it. So there are two answers to bytes that are no
//! frame, and they are never confused: if the log was synced beyond them they are damaged
//! ([`Error::Corrupt`](pagestrata_layers::Error::Corrupt)); else they were never acknowledged as
//! durable, and they are a torn tail ([`ReplayEnd::TornTail`]).
//!
//! What this does not cover: a power failure may lose the last update of `SYNCED`, and what the
//! last sync wrote may be damaged at the same time. Then the damage looks like a torn tail.
//!
//! **Invariant:** a segment's file has its name only after its header and its whole length are
//! durable, and a frame that ends a segment is written only after the name of the next one is. So a
//! missing segment is damage, always.
#![deny(unsafe_code)]

/// Checks an invariant at a cost in proportion to the data: with the feature `verify` only.
macro_rules! verify {
    ($($check:tt)*) => {
        if cfg!(feature = "verify") {
            assert!($($check)*);
        }
    };
}

mod error;
mod format;
mod group;
mod log;
mod options;
mod replay;
mod segment;
mod spares;
#[cfg(all(test, not(loom)))]
mod tests;

pub use error::{Error, Result};
pub use format::{Position, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};
pub use log::{Log, LogStats, SyncFuture};
pub use options::LogOptions;
pub use replay::{Record, Replay, ReplayEnd, ReplayOutcome, is_segment_name};
