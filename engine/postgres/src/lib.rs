//! PostgreSQL 15 WAL and base backups as page versions.
//!
//! ```text
//! WAL segments   -> WalReader     -> Record -> PageVersions -> (Key, Value) at the record's end
//! pieces of them -> StreamDecoder -> Record \-> relation_events -> ranges of blocks that are gone
//! base backup, a directory or a tar -> BaseBackup -> (Key, image) at the Lsn that its BackupLabel
//!     or ControlFile names
//! running server -> live::Replication (feature `live`) -> pieces of segments
//! image, deltas -> PageRedo -> the page as PostgreSQL's recovery leaves it
//! ```
//!
//! This crate does not know the engine: keys, Lsns, values, redo and the storage trait come from
//! `pagestrata-layers`, and the caller decides where page versions go. A delta is the whole record:
//! [`PageRedo`] applies it, and [`decode_record`] decodes it again, for inspection.
//!
//! **Invariants:** no byte of input can cause a panic, and no length is used before it is checked.
//! Input that is not understood is an error that names the place. A log is never cut short
//! silently: reading it ends with a [`WalEnd`] that says why, or with an [`Error`].
//!
//! A record names pages by block references; [`PageVersions`] turns these into values. Redo also
//! changes pages that no block reference names: visibility map pages ([`visibility_map`]) and whole
//! ranges of blocks ([`relation_events`]). Free space maps are not logged, so they are not kept.
#![deny(unsafe_code)]

// Rooms: replication, backup and redo import from wal and not from each other; all of them from the
// ground floor, which is layout, manager, rel, keys, error and bytes.
mod backup;
mod bytes;
mod error;
mod keys;
mod layout;
mod manager;
mod redo;
mod rel;
#[cfg(feature = "live")]
mod replication;
mod wal;

pub use backup::{
    BackupLabel, BaseBackup, BasePages, ClusterState, ControlFile, RelationFile, backup_ended_by,
};
pub use error::{Error, LogCorruption, Result};
pub use keys::page_key;
pub use layout::{PAGE_SIZE, Page};
pub use manager::ManagerId;
pub use redo::{
    PageRedo, PageVersions, RedoError, RedoSettings, UnloggedChange, is_known, is_lost_in_copy,
    is_map_without_bits, manager_of, mask_page, page_checksum, redo, stamp_checksum, stamp_lsn,
    unlogged_change, visibility_map,
};
pub use rel::{Fork, ParseRelPageError, RelFork, RelPage};
pub use wal::{
    BlockImage, BlockRef, Blocks, Compression, ImageDecoder, LogIdentity, ParameterChange, Record,
    RelationEvent, StreamDecoder, WalEnd, WalLevel, WalReader, decode_record, first_record,
    is_shutdown_checkpoint, parameter_change, pglz_decompress, record_name, relation_events,
    restore_image, shows_logged_hints,
};

#[cfg(feature = "live")]
pub mod live {
    //! The log of a running server: PostgreSQL's streaming replication protocol, the physical kind,
    //! from the standby's side.
    //!
    //! ```text
    //! ConnectionInfo -> Connection (log in, identify, slots)
    //!     -> Replication (pieces of the log in, status out) -> StreamDecoder
    //! ```
    //!
    //! Calls block, each for a bounded time; an [`Interrupt`] ends them early. There is no runtime
    //! here, and no thread but a short-lived one that connects.
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

    pub use crate::replication::{
        Connection, ConnectionInfo, Error, Event, Interrupt, Lifetime, Progress, Replication,
        Result, Server, ServerError, Slot, SlotName, Timing,
    };
}
