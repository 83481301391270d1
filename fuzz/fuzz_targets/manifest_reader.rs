//! Opens manifests of every kind: bytes as CURRENT and as a manifest, with and without valid
//! checksums; a manifest that was written, over failing storage calls, and then damaged or left by
//! a power loss.
//!
//! Opening must not panic, and must not allocate more at once than the longest file justifies. It
//! must return the sum of the edits that the present CURRENT has committed, or an error; without
//! damage, that is everything acknowledged. Appending to an opened manifest must work.
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
    /// Files made of bytes and edits.
    Files(files::Files),
    /// A manifest that is written, and then read unchanged or after a power loss (with the bytes
    /// that decide what it keeps).
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
