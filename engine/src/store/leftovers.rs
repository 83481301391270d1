//! Files that the manifest does not name: either a crash left them, or the manifest is too old.
//!
//! A layer file gets its final name before the manifest names it (`flush` defines the order of
//! durable steps), so a crash can leave a finished file that no manifest names. An older manifest
//! that was restored beside newer layers looks the same, and then the file must not be removed. A
//! marker tells the two apart: an empty file beside the layer file, durable before the layer file
//! has its final name, and removed once the edit that names the layer is durable.
//!
//! | file that the manifest does not name | meaning |
//! |---|---|
//! | `<sequence>.tmp` | an unfinished file: a writing open removes it |
//! | a finished file with its marker `<sequence>.unfinished` | left by a crash before the edit: a writing open removes it |
//! | a finished file without a marker | newer than the manifest: [`Error::UnexplainedFiles`] |
//! | a finished file, with or without a marker, whose sequence number the manifest has not reserved | newer than the manifest: the same |
//!
//! **Invariant:** a marker is removed only when the removal of its layer file is durable, or the
//! manifest names the layer.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use pagestrata_layers::{
    Error as LayersError,
    manifest::edit::{State, TimelineState},
    storage::Storage,
};

use crate::{
    error::{Error, Result},
    layer_map::file_names::{MARKER_EXTENSION, TEMPORARY_EXTENSION, layer_file_name},
    state::store::{TIMELINES_NAME, timeline_dir},
};

/// Kind of a file in a timeline's directory, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameKind {
    Layer,
    Temporary,
    Marker,
}

/// Returns the kind and the sequence number of a name; `None` if the engine does not use such
/// names.
fn parse(name: &str) -> Option<(NameKind, u64)> {
    let (stem, extension) = name.rsplit_once('.')?;
    let kind = match extension {
        "delta" | "image" => NameKind::Layer,
        TEMPORARY_EXTENSION => NameKind::Temporary,
        MARKER_EXTENSION => NameKind::Marker,
        _ => return None,
    };
    let digits = match kind {
        NameKind::Layer => stem.rsplit_once('-')?.1,
        NameKind::Temporary | NameKind::Marker => stem,
    };
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    let sequence = u64::from_str_radix(digits, 16).ok();
    Some((kind, sequence.filter(|_| digits.bytes().all(is_digit))?))
}

/// Names of the layer files in the manifest, by the number of their timeline.
pub(crate) struct NamedFiles(BTreeMap<u64, BTreeSet<String>>);

impl NamedFiles {
    pub(crate) fn of(state: &State) -> NamedFiles {
        let names = |of: &TimelineState| of.layers.values().map(layer_file_name).collect();
        NamedFiles(state.timelines.iter().map(|(&number, of)| (number, names(of))).collect())
    }
}

/// Files that an interrupted flush or import has left in a store.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Unfinished layer files, and finished ones with a marker.
    layers: Vec<PathBuf>,
    markers: Vec<PathBuf>,
}

impl Leftovers {
    /// Finds files that the manifest does not name, in the directories of its timelines and of
    /// timelines that it does not know.
    ///
    /// # Errors
    /// [`Error::UnexplainedFiles`] if the manifest is older than files that are here;
    /// [`Error::Layers`] with `Corrupt` if a timeline's directory is missing.
    pub(crate) fn find(
        storage: &dyn Storage,
        store: &Path,
        named: &NamedFiles,
        next_sequence: u64,
    ) -> Result<Leftovers> {
        let (mut leftovers, mut unexplained) = (Leftovers::default(), Vec::new());
        for (&number, named) in &named.0 {
            let dir = timeline_dir(store, number);
            let names = storage.list(&dir);
            let names = names.map_err(|error| error.of_required("timeline", "its directory"))?;
            leftovers.sort_out(&dir, &names, named, next_sequence, &mut unexplained);
        }
        for number in unknown_timelines(storage, store, named)? {
            // An interrupted creation of a timeline leaves an empty directory.
            let dir = timeline_dir(store, number);
            let names = storage.list(&dir)?;
            let is_layer =
                |name: &&String| matches!(parse(name.as_str()), Some((NameKind::Layer, _)));
            unexplained.extend(names.iter().filter(is_layer).map(|name| dir.join(name)));
        }
        match unexplained.is_empty() {
            true => Ok(leftovers),
            false => Err(Error::UnexplainedFiles { path: store.to_owned(), files: unexplained }),
        }
    }

    fn sort_out(
        &mut self,
        dir: &Path,
        names: &[String],
        named: &BTreeSet<String>,
        next_sequence: u64,
        unexplained: &mut Vec<PathBuf>,
    ) {
        let parsed = || names.iter().filter_map(|name| Some((name, parse(name)?)));
        let is_marker = |kind| kind == NameKind::Marker;
        let markers: BTreeSet<u64> =
            parsed().filter(|(_, (kind, _))| is_marker(*kind)).map(|(_, (_, n))| n).collect();
        for (name, (kind, sequence)) in parsed() {
            if named.contains(name) {
                continue;
            }
            let path = dir.join(name);
            let is_reserved = sequence < next_sequence;
            match kind {
                NameKind::Marker => self.markers.push(path),
                NameKind::Temporary => self.layers.push(path),
                NameKind::Layer if is_reserved && markers.contains(&sequence) => {
                    self.layers.push(path);
                }
                NameKind::Layer => unexplained.push(path),
            }
        }
    }

    /// Removes the files, durably, and then the markers. Returns the names of the layer files.
    ///
    /// # Errors
    /// [`Error::Layers`]: some may be removed; the next open continues with the rest.
    pub(crate) fn remove(self, storage: &dyn Storage) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let mut dirs = BTreeSet::new();
        for path in &self.layers {
            match storage.remove(path) {
                Ok(()) => {}
                // A store that cannot be written can still be read.
                Err(error) if is_of_read_only_file_system(&error) => return Ok(removed),
                Err(error) => return Err(error.into()),
            }
            dirs.extend(path.parent());
            removed.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        // Also if there is only a marker: the previous process may have removed the layer file and
        // ended before the removal was durable.
        dirs.extend(self.markers.iter().filter_map(|marker| marker.parent()));
        for dir in dirs {
            storage.sync_dir(dir)?;
        }
        for marker in &self.markers {
            // Best effort: the marker of a layer that the manifest names is ignored.
            let _ = storage.remove(marker);
        }
        Ok(removed)
    }
}

/// Returns the numbers of timeline directories that the manifest does not know.
fn unknown_timelines(storage: &dyn Storage, store: &Path, named: &NamedFiles) -> Result<Vec<u64>> {
    let timelines = store.join(TIMELINES_NAME);
    if !storage.exists(&timelines)? {
        return Ok(Vec::new());
    }
    let names = storage.list(&timelines)?;
    let number = |name: &String| name.parse::<u64>().ok().filter(|n| n.to_string() == *name);
    let is_unknown = |number: &u64| !named.0.contains_key(number);
    Ok(names.iter().filter_map(number).filter(is_unknown).collect())
}

pub(crate) fn is_of_read_only_file_system(error: &LayersError) -> bool {
    let read_only = std::io::ErrorKind::ReadOnlyFilesystem;
    matches!(error, LayersError::Io { cause, .. } if cause.kind() == read_only)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer_map::file_names::{marker_name, temporary_name};

    #[test]
    fn names_that_the_engine_gives_are_told_from_others() {
        let stem = "0000000000000000000000000000000100000000-END__0000000000000065__L0-0000001A";
        assert_eq!(parse(&format!("{stem}.delta")), Some((NameKind::Layer, 0x1A)));
        assert_eq!(parse(&format!("{stem}.image")), Some((NameKind::Layer, 0x1A)));
        assert_eq!(parse(&temporary_name(0x1A)), Some((NameKind::Temporary, 0x1A)));
        assert_eq!(parse(&marker_name(u64::MAX)), Some((NameKind::Marker, u64::MAX)));
        for other in ["", "x", ".tmp", "-.delta", "1g.tmp", "+1.tmp", "a.tmp", "1.delta", "1.bak"] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse(&format!("{stem}.delta.bak")), None);
    }
}
