//! Reading a PostgreSQL log: from the segments of a directory, or from the pieces that a server
//! sends, to records whose headers are all checked.
//!
//! ```text
//! reader   a directory of segments ----+
//! stream   pieces, as they arrive -----+--> assembly (records, gathered over pages) --> record
//!                                                                                         |
//!     events    what it does to whole relations and databases    <------------------------+
//!     settings  what it says of the server's settings            <------------------------+
//!     block, image    the pages that it names, their images inflated    <-----------------+
//! ```
//!
//! | file | what |
//! |---|---|
//! | `segments.rs`, `pages.rs` | segment files as pages; headers of pages |
//! | `start.rs` | where reading may start |
//! | `survey.rs` | whether a place that cannot be read is the end of the log or damage |
//! | `assembly.rs` | records out of pages, wherever these come from |
//! | `reader.rs`, `stream.rs` | the two sources of pages, each with its own rules for an end |
//! | `record.rs`, `block.rs` | headers of a record; its block references |
//! | `image.rs`, `pglz.rs` | full-page images |
//! | `events.rs`, `settings.rs`, `record_name.rs` | what single kinds of records say |
//!
//! **Invariants:** no length is used before it is checked. A record is lent only after its link,
//! its checksum and its headers were checked. An end of the log ([`WalEnd`]) and damage
//! ([`Error::Corrupt`](crate::Error::Corrupt)) are never taken for each other. This room knows
//! nothing of redo, backups or servers.

mod assembly;
pub(crate) mod block;
pub(crate) mod events;
pub(crate) mod image;
pub(crate) mod pages;
mod pglz;
mod reader;
pub(crate) mod record;
mod record_name;
pub(crate) mod segments;
pub(crate) mod settings;
mod start;
mod stream;
mod survey;

pub use block::{BlockImage, BlockRef, Blocks, Compression};
pub use events::{RelationEvent, relation_events};
pub use image::{ImageDecoder, restore_image};
pub use pages::LogIdentity;
pub use pglz::decompress as pglz_decompress;
pub use reader::WalReader;
pub use record::{Record, decode_record};
pub use record_name::record_name;
pub use settings::{
    ParameterChange, WalLevel, is_shutdown_checkpoint, parameter_change, shows_logged_hints,
};
pub use start::first_record;
pub use stream::StreamDecoder;
pub use survey::WalEnd;
