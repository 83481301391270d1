//! Reads logs of every kind: bytes as segments, with and without valid checksums; a log that was
//! written and then damaged or left by a power loss; payloads that no commit has written; a whole
//! store with such a log.
//!
//! The reader must not panic, and must not allocate more at once than the length of the longest
//! file plus a constant. It must return what was appended, from the first record on, in order, byte
//! for byte. It must report an error if anything is missing that an intact frame, or SYNCED,
//! records as synced. It must read an undamaged log to its end, and a log after a power loss at
//! least to its last sync. Appending to a log that was read must work.
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
    /// Segments made of bytes and frames.
    Segments(segments::Segments),
    /// A log that is written, and then read unchanged.
    Sound(written::History),
    /// The same after a power loss, with the bytes that decide what it keeps.
    Torn(written::History, Vec<u8>),
    /// The same, damaged.
    Damaged(written::History, Vec<damage::Damage>),
    /// A store whose log has these records: valid frames with any content.
    Commits(commits::Commits),
    /// A store that was written, and whose log is then damaged.
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
