//! The log's reader on whatever there may be: bytes as segments, with and without good checksums; a
//! log that was written and is then damaged, or left by a power failure; payloads that no commit
//! has written; a whole store with such a log.
//!
//! Never a panic, and never more memory at once than the longest file is long and a little. What is
//! handed out is what was appended, from the first record on, in order, byte for byte. It is an
//! error if anything is missing that a frame, or SYNCED, which is still whole knows to have been
//! synced. A log without damage is read to its end, one that a power failure has left at least to
//! its last sync; and a log that was read can be gone on with.
#![no_main]

#[path = "shared/allocations.rs"]
mod allocations;
#[path = "log_reader/commits.rs"]
mod commits;
#[path = "log_reader/damage.rs"]
mod damage;
#[path = "log_reader/frames.rs"]
mod frames;
#[path = "log_reader/replay.rs"]
mod replay;
#[path = "log_reader/segments.rs"]
mod segments;
#[path = "log_reader/stores.rs"]
mod stores;
#[path = "log_reader/written.rs"]
mod written;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Input {
    /// Segments of bytes and frames.
    Segments(segments::Segments),
    /// A log that is written, and then read as it is.
    Sound(written::History),
    /// The same, after a power failure. What it keeps.
    Torn(written::History, Vec<u8>),
    /// The same, damaged.
    Damaged(written::History, Vec<damage::Damage>),
    /// A store whose log has these records, whole but for what they say.
    Commits(commits::Commits),
    /// A store that was written to, and whose log is then damaged.
    Store(stores::History, Vec<damage::Damage>),
}

fuzz_target!(|input: Input| {
    match input {
        Input::Segments(segments) => segments.check(),
        Input::Sound(history) => history.write().check_sound(),
        Input::Torn(history, kept) => history.write().check_torn(&kept),
        Input::Damaged(history, damage) => history.write().check_damaged(&damage),
        Input::Commits(commits) => commits.check(),
        Input::Store(history, damage) => stores::check(&history, &damage),
    }
});
