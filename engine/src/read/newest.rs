//! Look-ups of only the newest version of a page: the walk stops at the layer that has it.

use pagestrata_layers::{Key, Kind, Lsn, NewestInLayer, OpenLayer};

use crate::{
    error::Result, layer_map::LayerMap, read::scratch::with_thread_scratch,
    state::timeline::TimelineShared,
};

/// The newest version of a page, as [`WriteLease::newest`](crate::WriteLease::newest) returns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NewestVersion {
    /// Its Lsn.
    pub lsn: Lsn,
    /// Image or delta.
    pub kind: Kind,
    /// Whether it is committed. If not, it waits for the lease's next commit, or an abort discards
    /// it.
    pub is_committed: bool,
}

/// Returns Lsn and kind of the newest version of `key` at or below `lsn`.
pub(crate) fn newest_in_map(map: &LayerMap, key: Key, lsn: Lsn) -> Result<Option<(Lsn, Kind)>> {
    with_thread_scratch(|scratch| {
        let parts = scratch.parts();
        map.versions_until(key, lsn, parts.arena, parts.found, &mut |_| true)?;
        Ok(parts.found.versions.first().map(|newest| (newest.lsn, newest.kind)))
    })
}

/// Returns the newest version of `key` as the holder of the write lease sees it.
pub(crate) fn newest_of_writer(
    timeline: &TimelineShared,
    writer: &OpenLayer,
    key: Key,
) -> Result<Option<NewestVersion>> {
    match writer.newest(key) {
        NewestInLayer::Version { lsn, kind } => {
            let is_committed = lsn <= writer.layer().committed_lsn();
            Ok(Some(NewestVersion { lsn, kind, is_committed }))
        }
        NewestInLayer::Dropped => Ok(None),
        NewestInLayer::Older => {
            let map = timeline.look();
            let newest = newest_in_map(&map, key, map.last_record_lsn())?;
            Ok(newest.map(|(lsn, kind)| NewestVersion { lsn, kind, is_committed: true }))
        }
    }
}
