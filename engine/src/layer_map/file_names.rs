//! Names of layer files, and of the files beside them while they are written.

use pagestrata_layers::{
    layer_file::{LayerKind, LayerSummary},
    manifest::edit::LayerRecord,
};

/// Returns the name of a layer file: key range, Lsn range, level, and a unique sequence number.
pub(crate) fn layer_file_name(record: &LayerRecord) -> String {
    let LayerRecord { level, summary } = record;
    let LayerSummary { id, kind, key_range, lsn_range, .. } = summary;
    let hex = |bytes: [u8; 20]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let start = hex(key_range.start.to_bytes());
    let end = key_range.end.map_or_else(|| "END".to_owned(), |end| hex(end.to_bytes()));
    let (lsns, extension) = match kind {
        LayerKind::Delta => {
            (format!("{:016X}-{:016X}", lsn_range.start.0, lsn_range.end.0), "delta")
        }
        LayerKind::Image { .. } => (format!("{:016X}", lsn_range.start.0), "image"),
    };
    format!("{start}-{end}__{lsns}__L{level}-{:08X}.{extension}", id.sequence)
}

pub(crate) const MARKER_EXTENSION: &str = "unfinished";

pub(crate) const TEMPORARY_EXTENSION: &str = "tmp";

/// Returns the name of a layer file that is being written.
pub(crate) fn temporary_name(sequence: u64) -> String {
    format!("{sequence:08X}.{TEMPORARY_EXTENSION}")
}

/// Returns the name of the marker of a layer that the manifest may not name yet.
pub(crate) fn marker_name(sequence: u64) -> String {
    format!("{sequence:08X}.{MARKER_EXTENSION}")
}
