//! The layers of a timeline, for people and tools: listed, and verified down to the last bit.

use std::path::PathBuf;

use pagestrata_layers::{KeyRange, Lsn, layer_file::LayerKind};

use crate::{Result, Timeline};

/// One layer file, as [`Timeline::layers`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Where it is.
    pub path: PathBuf,
    /// 0: from a flush or an import; 1: rewritten by compaction.
    pub level: u8,
    /// Delta or image.
    pub kind: LayerKind,
    /// Its keys.
    pub key_range: KeyRange,
    /// Its Lsns, half-open.
    pub lsn_range: std::ops::Range<Lsn>,
    /// Length of the file, in bytes.
    pub file_bytes: u64,
    /// xxh3-128 of the file up to its footer.
    pub digest: u128,
    /// Number of keys.
    pub keys: u64,
    /// Number of versions.
    pub versions: u64,
    /// Bytes in values, before compression.
    pub value_bytes: u64,
    /// Number of tombstones.
    pub tombstones: u64,
}

/// What [`Timeline::verify`] has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct VerifyReport {
    /// Number of layer files.
    pub layer_files: u64,
    /// The lengths of their files, in bytes.
    pub file_bytes: u64,
    /// Number of versions.
    pub versions: u64,
}

impl Timeline {
    /// Its layer files, by their Lsns and then their keys.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerInfo> {
        let map = self.0.look();
        let mut layers: Vec<_> = map
            .files
            .iter()
            .map(|file| {
                let summary = file.summary().clone();
                LayerInfo {
                    path: file.path().to_owned(),
                    level: file.record().level,
                    kind: summary.kind,
                    key_range: summary.key_range,
                    lsn_range: summary.lsn_range,
                    file_bytes: summary.file_len,
                    digest: summary.digest,
                    keys: summary.keys,
                    versions: summary.versions,
                    value_bytes: summary.value_bytes,
                    tombstones: summary.tombstones,
                }
            })
            .collect();
        layers.sort_by(|a, b| {
            (a.lsn_range.start, a.key_range.start, &a.path).cmp(&(
                b.lsn_range.start,
                b.key_range.start,
                &b.path,
            ))
        });
        layers
    }

    /// Reads every byte of every layer file and checks checksums, digests, order and ranges.
    ///
    /// # Errors
    /// [`Error::Layers`](crate::Error::Layers) with the first damage that is found.
    pub fn verify(&self) -> Result<VerifyReport> {
        let map = self.0.look();
        let mut report = VerifyReport::default();
        for file in map.files.iter() {
            file.verify()?;
            report.layer_files += 1;
            report.file_bytes += file.summary().file_len;
            report.versions += file.summary().versions;
        }
        Ok(report)
    }
}
