//! `verify`: every byte of layer files, of a store or on their own.

use std::{fmt, io::Write};

use pagestrata::{DamagedFile, Store, verify_files};
use pagestrata_layers::Error as LayersError;
use pagestrata_postgres_ingest::{storage, text::size};
use serde::Serialize;

use crate::{
    args::Verified,
    error::{Error, Result},
    output::Output,
    progress::Bar,
};

/// What was read.
#[derive(Debug, Serialize)]
struct VerifyReport {
    layer_files: u64,
    bytes: u64,
    versions: u64,
    tombstones: u64,
    log_records: u64,
    damaged: Vec<Damage>,
}

#[derive(Debug, Serialize)]
struct Damage {
    file: String,
    error: String,
}

impl Damage {
    fn of(damaged: &DamagedFile) -> Damage {
        Damage { file: damaged.path.display().to_string(), error: damaged.error.to_string() }
    }
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
    let mut bar = Bar::spinner("verifying");
    let mut told = |report: &pagestrata::VerifyReport| bar.at(report.file_bytes);
    let verified = match &what.store {
        Some(dir) => Store::verify(&storage(), dir, what.timeline.as_deref(), &mut told),
        None => verify_files(&storage(), &what.files, &mut told),
    };
    let (read, damaged) = match verified {
        Ok(read) => (read, Vec::new()),
        Err(pagestrata::Error::Damaged { report, damaged }) => (report, damaged),
        Err(error) => return Err(error.into()),
    };
    output.result(&VerifyReport {
        layer_files: read.layer_files,
        bytes: read.file_bytes,
        versions: read.versions,
        tombstones: read.tombstones,
        log_records: read.log_records,
        damaged: damaged.iter().map(Damage::of).collect(),
    })?;
    failure(damaged, read.layer_files).map_or(Ok(()), Err)
}

/// Damage, if there is any; else what kept a file from being read, which has an exit code of its
/// own.
fn failure(damaged: Vec<DamagedFile>, files: u64) -> Option<Error> {
    let is_damage = |file: &&DamagedFile| matches!(file.error, LayersError::Corrupt(_));
    match damaged.iter().find(is_damage) {
        Some(DamagedFile { error, .. }) => {
            let (damaged, first) = (damaged.len() as u64, error.to_string());
            Some(Error::Damaged { damaged, files, first })
        }
        None => damaged.into_iter().next().map(|file| file.error.into()),
    }
}
