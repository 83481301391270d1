//! The files of `engine/postgres/ingest/sample`. Included by the targets that start from real logs.

use std::{io::Read, path::PathBuf};

/// The sample's files, with their paths within its archive.
pub(crate) fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let packed =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/postgres/ingest/sample/sample.tar.zst");
    let mut decoder = zstd::Decoder::new(std::fs::File::open(packed).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let (mut archive, mut files) = (tar::Archive::new(decoder), Vec::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.push((path, bytes));
        }
    }
    files
}
