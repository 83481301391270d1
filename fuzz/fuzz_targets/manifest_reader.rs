//! The manifest's reader on whatever there may be: bytes as CURRENT and as a manifest, with and
//! without good checksums; a manifest that was written, over calls to the storage that failed, and
//! is then damaged, or left by a power failure.
//!
//! Never a panic, and never more memory at once than the longest file justifies. What is read is
//! what the edits add up to that the CURRENT which is there has committed, or there is an error;
//! without damage that is everything that was acknowledged. What was opened can be gone on with.
#![no_main]

#[path = "shared/allocations.rs"]
mod allocations;
#[path = "manifest_reader/edits.rs"]
mod edits;
#[path = "manifest_reader/files.rs"]
mod files;
#[path = "manifest_reader/open.rs"]
mod open;
#[path = "manifest_reader/written.rs"]
mod written;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Input {
    /// Files of bytes and edits.
    Files(files::Files),
    /// A manifest that is written, and then read as it is, or after a power failure and what it
    /// keeps.
    Sound(written::History, Option<Vec<u8>>),
    /// The same, damaged.
    Damaged(written::History, Vec<written::Damage>),
}

fuzz_target!(|input: Input| {
    match input {
        Input::Files(files) => files.check(),
        Input::Sound(history, kept) => history.write().check_sound(kept),
        Input::Damaged(history, damage) => history.write().check_damaged(&damage),
    }
});
