//! Making what was read cold again.

use std::io;

use crate::Timeline;

/// Has the operating system forget what it has in memory of a timeline's layer files; pages that
/// are shown by a mapping of another process stay. What a store has in its own cache stays too.
///
/// # Errors
/// When a file cannot be opened, or the system does not take the advice.
pub fn evict_layer_files(timeline: &Timeline) -> io::Result<()> {
    let map = timeline.0.look();
    for file in map.files.iter() {
        file.evict()?;
    }
    timeline.0.store.access.watch_once();
    Ok(())
}
