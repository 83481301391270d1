//! `verify`: every byte of layer files, of a store or on their own.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
};

use pagestrata_layers::layer_file::LayerFile;
use serde::Serialize;

use crate::{
    Error, Output, Progress, Result,
    args::Verified,
    output::size,
    stores::{existing, storage},
};

/// What was read.
#[derive(Debug, Default, Serialize)]
struct VerifyReport {
    layer_files: u64,
    bytes: u64,
    versions: u64,
    tombstones: u64,
    damaged: Vec<Damage>,
}

#[derive(Debug, Serialize)]
struct Damage {
    file: String,
    error: String,
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyReport { layer_files, bytes, versions, damaged, .. } = self;
        for Damage { error, .. } in damaged {
            writeln!(f, "{error}")?;
        }
        let (bytes, damaged) = (size(*bytes), damaged.len());
        write!(f, "{layer_files} layer files, {bytes}, {versions} versions: {damaged} damaged")
    }
}

/// Verifies the files, or those of the store's timelines.
pub(crate) fn verify<W: Write>(what: &Verified, output: &mut Output<W>) -> Result<()> {
    let mut files = what.files.clone();
    // Held until the files have been read: nobody else changes them.
    let store = what.store.as_deref().map(existing).transpose()?;
    if let Some(store) = &store {
        let timelines = match &what.timeline {
            Some(name) => vec![store.timeline(name)?],
            None => store.timelines(),
        };
        for timeline in timelines {
            files.extend(timeline.layers().into_iter().map(|layer| layer.path));
        }
    }
    let report = verify_files(&files)?;
    output.result(&report)?;
    let (files, damaged) = (report.layer_files, report.damaged.len() as u64);
    match report.damaged.into_iter().next() {
        None => Ok(()),
        Some(Damage { error, .. }) => Err(Error::Damaged { damaged, files, first: error }),
    }
}

fn verify_files(files: &[PathBuf]) -> Result<VerifyReport> {
    let mut progress = Progress::spinner("verifying");
    let mut report = VerifyReport::default();
    for path in files {
        report.layer_files += 1;
        match verify_file(path, &mut report) {
            Ok(()) => {}
            Err(pagestrata_layers::Error::Corrupt(damage)) => {
                let (file, error) = (path.display().to_string(), damage.to_string());
                report.damaged.push(Damage { file, error });
            }
            Err(other) => return Err(other.into()),
        }
        progress.at(report.bytes);
    }
    Ok(report)
}

fn verify_file(path: &Path, report: &mut VerifyReport) -> pagestrata_layers::Result<()> {
    let file = LayerFile::open(&*storage(), path, None)?;
    let found = file.verify()?;
    report.bytes += file.summary().file_len;
    report.versions += found.versions;
    report.tombstones += found.tombstones;
    Ok(())
}
