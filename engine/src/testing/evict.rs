//! Evicts layer files from the page cache, so that reads are cold again.

use std::io;

use crate::Timeline;

/// Evicts a timeline's layer files from the operating system's page cache. Pages that another
/// process maps stay resident, and so does the store's own cache.
///
/// # Errors
/// A file cannot be opened, or the system refuses the advice.
pub fn evict_layer_files(timeline: &Timeline) -> io::Result<()> {
    let map = timeline.0.look();
    for file in map.files.iter() {
        file.evict()?;
    }
    timeline.0.store.access.watch_once();
    Ok(())
}
