//! Layer files: which there are (`layers`), and what is in one (`dump-layer`).

use std::{fmt, io::Write, ops::Range, path::Path};

use pagestrata::{Key, KeyRange, Kind, LayerKind, Lsn, PageVersion, Timeline};
use pagestrata_layers::layer_file::{LayerFile, LayerSummary, Tombstone};
use pagestrata_postgres::RelFork;
use pagestrata_postgres_ingest::{
    pages::key_name,
    storage,
    text::{as_text, as_text_or_null, size},
};
use serde::Serialize;

use crate::{error::Result, output::Output, pages::kind_name};

/// A layer file.
#[derive(Debug, Serialize)]
struct LayerLine {
    entry: &'static str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
    kind: &'static str,
    key_start: String,
    #[serde(serialize_with = "as_text_or_null")]
    key_end: Option<String>,
    #[serde(serialize_with = "as_text")]
    lsn_start: Lsn,
    #[serde(serialize_with = "as_text")]
    lsn_end: Lsn,
    bytes: u64,
    keys: u64,
    versions: u64,
    value_bytes: u64,
    tombstones: u64,
    digest: String,
}

impl fmt::Display for LayerLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayerLine { file, kind, key_start, lsn_start, lsn_end, bytes, .. } = self;
        let LayerLine { keys, versions, tombstones, .. } = self;
        let level = self.level.map_or(String::new(), |level| format!("L{level} "));
        let key_end = self.key_end.as_deref().unwrap_or_default();
        write!(
            f,
            "{level}{kind} {lsn_start}..{lsn_end} {key_start}..{key_end} {keys} keys, {versions} versions, \
             {tombstones} tombstones, {bytes} bytes {file}"
        )
    }
}

fn layer_kind(kind: LayerKind) -> &'static str {
    match kind {
        LayerKind::Delta => "delta",
        LayerKind::Image { .. } => "image",
    }
}

fn ends(key_range: KeyRange, lsn_range: &Range<Lsn>) -> (String, Option<String>, Lsn, Lsn) {
    let KeyRange { start, end } = key_range;
    (key_name(start), end.map(key_name), lsn_range.start, lsn_range.end)
}

/// What merging has come to.
#[derive(Debug, Serialize)]
struct CompactReport {
    merges: u64,
    read_files: u64,
    read_bytes: u64,
    written_files: u64,
    written_bytes: u64,
    layer_files: u64,
    layer_file_bytes: u64,
}

impl fmt::Display for CompactReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CompactReport { merges, read_files, read_bytes, written_files, .. } = self;
        write!(
            f,
            "{merges} merges: {read_files} layer files ({}) became {written_files} ({}); {} layer files, {}",
            size(*read_bytes),
            size(self.written_bytes),
            self.layer_files,
            size(self.layer_file_bytes),
        )
    }
}

/// `compact`.
pub(crate) fn compact<W: Write>(timeline: &Timeline, output: &mut Output<W>) -> Result<()> {
    timeline.compact()?;
    // The store merges too, since it was opened.
    let stats = timeline.stats();
    let done = stats.compaction;
    output.result(&CompactReport {
        merges: done.merges,
        read_files: done.read_files,
        read_bytes: done.read_bytes,
        written_files: done.written_files,
        written_bytes: done.written_bytes,
        layer_files: stats.layer_files,
        layer_file_bytes: stats.layer_file_bytes,
    })?;
    Ok(())
}

/// `layers`: by their Lsns and then their keys.
pub(crate) fn layers<W: Write>(timeline: &Timeline, output: &mut Output<W>) -> Result<()> {
    for layer in timeline.layers() {
        let (key_start, key_end, lsn_start, lsn_end) = ends(layer.key_range, &layer.lsn_range);
        output.result(&LayerLine {
            entry: "layer",
            file: layer.path.display().to_string(),
            level: Some(layer.level),
            kind: layer_kind(layer.kind),
            key_start,
            key_end,
            lsn_start,
            lsn_end,
            bytes: layer.file_bytes,
            keys: layer.keys,
            versions: layer.versions,
            value_bytes: layer.value_bytes,
            tombstones: layer.tombstones,
            digest: format!("{:032x}", layer.digest),
        })?;
    }
    Ok(())
}

/// A version in a layer file.
#[derive(Debug, Serialize)]
struct DumpedVersion {
    entry: &'static str,
    key: String,
    #[serde(serialize_with = "as_text")]
    lsn: Lsn,
    kind: &'static str,
    will_init: bool,
    length: usize,
}

impl fmt::Display for DumpedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.will_init { "delta(will_init)" } else { self.kind };
        write!(f, "{} {} {kind} {}", self.key, self.lsn, self.length)
    }
}

/// A tombstone in a layer file.
#[derive(Debug, Serialize)]
struct DumpedTombstone {
    entry: &'static str,
    object: String,
    first_block: u32,
    #[serde(serialize_with = "as_text")]
    lsn: Lsn,
}

impl fmt::Display for DumpedTombstone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} dropped from block {} on", self.object, self.lsn, self.first_block)
    }
}

/// `dump-layer`: summary, versions by key and Lsn, tombstones.
pub(crate) fn dump<W: Write>(path: &Path, output: &mut Output<W>) -> Result<()> {
    let file = LayerFile::open(&*storage(), path, None)?;
    let LayerSummary { kind, key_range, ref lsn_range, .. } = *file.summary();
    let (key_start, key_end, lsn_start, lsn_end) = ends(key_range, lsn_range);
    let summary = file.summary();
    output.result(&LayerLine {
        entry: "layer",
        file: path.display().to_string(),
        level: None,
        kind: layer_kind(kind),
        key_start,
        key_end,
        lsn_start,
        lsn_end,
        bytes: summary.file_len,
        keys: summary.keys,
        versions: summary.versions,
        value_bytes: summary.value_bytes,
        tombstones: summary.tombstones,
        digest: format!("{:032x}", summary.digest),
    })?;
    let mut versions = file.scan(Key::MIN)?;
    while let Some((key, PageVersion { lsn, kind, bytes })) = versions.next()? {
        output.result(&DumpedVersion {
            entry: "version",
            key: key_name(key),
            lsn,
            kind: kind_name(kind),
            will_init: kind == Kind::Delta { will_init: true },
            length: bytes.len(),
        })?;
    }
    for tombstone in file.tombstones() {
        let Tombstone { object, lsn, first_block } = tombstone?;
        let object = RelFork::from_object(object)
            .map_or_else(|_| format!("{object:032X}"), |rel| rel.to_string());
        output.result(&DumpedTombstone { entry: "tombstone", object, first_block, lsn })?;
    }
    Ok(())
}
