//! The sample: a small real PostgreSQL capture and its oracles, in the program itself.

use std::{io::Read, path::Path};

use pagestrata::Lsn;

use crate::{Error, Result};

const ARCHIVE: &[u8] = include_bytes!("../sample/sample.tar.zst");
const ORACLE: &[u8] = include_bytes!("../sample/sample.oracle.jsonl.zst");
const VERSIONS: &[u8] = include_bytes!("../sample/sample.versions.txt.zst");
const MANIFESTS: [(&str, &[u8]); 10] = [
    ("0/B6E198", include_bytes!("../sample/sample@0_B6E198.manifest.tsv.zst")),
    ("0/BA5DB0", include_bytes!("../sample/sample@0_BA5DB0.manifest.tsv.zst")),
    ("0/BD1FF0", include_bytes!("../sample/sample@0_BD1FF0.manifest.tsv.zst")),
    ("0/C05748", include_bytes!("../sample/sample@0_C05748.manifest.tsv.zst")),
    ("0/C2EF30", include_bytes!("../sample/sample@0_C2EF30.manifest.tsv.zst")),
    ("0/C522E8", include_bytes!("../sample/sample@0_C522E8.manifest.tsv.zst")),
    ("0/C7C348", include_bytes!("../sample/sample@0_C7C348.manifest.tsv.zst")),
    ("0/D197E0", include_bytes!("../sample/sample@0_D197E0.manifest.tsv.zst")),
    ("0/D81940", include_bytes!("../sample/sample@0_D81940.manifest.tsv.zst")),
    ("0/DC2F60", include_bytes!("../sample/sample@0_DC2F60.manifest.tsv.zst")),
];
/// Captures are packed with windows of up to 128 MiB.
const WINDOW_LOG_MAX: u32 = 27;

/// Unpacks `base/` and `wal/` of the sample into a directory.
///
/// # Errors
/// A directory that cannot be written to.
pub fn unpack(dir: &Path) -> Result<()> {
    unpack_archive(ARCHIVE, dir)
}

/// Unpacks `base/` and `wal/` of a capture's archive into a directory.
///
/// # Errors
/// An archive that cannot be read, a directory that cannot be written to.
pub fn unpack_archive(archive: impl Read, dir: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Error::Capture {
        what: format!("cannot unpack the capture to {}", dir.display()),
        reason: error.to_string(),
    };
    let mut archive = tar::Archive::new(inflate(archive)?);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        let path = path.strip_prefix(".").unwrap_or(&path);
        if path.starts_with("base") || path.starts_with("wal") {
            entry.unpack_in(dir).map_err(failed)?;
        }
    }
    Ok(())
}

/// The text of a packed oracle.
///
/// # Errors
/// A file that cannot be read.
pub fn text(packed: impl Read) -> Result<String> {
    let mut text = String::new();
    let read = inflate(packed)?.read_to_string(&mut text);
    read.map_err(|error| cannot_read(&error))?;
    Ok(text)
}

fn inflate<R: Read>(packed: R) -> Result<impl Read> {
    let decoder = zstd::Decoder::new(packed).and_then(|mut decoder| {
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Ok(decoder)
    });
    decoder.map_err(|error| cannot_read(&error))
}

fn cannot_read(error: &std::io::Error) -> Error {
    Error::Capture { what: "cannot read the capture".to_owned(), reason: error.to_string() }
}

/// The oracle of every record and block reference, one JSON object a line.
///
/// # Errors
/// None: it was packed well.
pub fn oracle() -> Result<String> {
    text(ORACLE)
}

/// The list of the images that redo restores.
///
/// # Errors
/// None: it was packed well.
pub fn versions() -> Result<String> {
    text(VERSIONS)
}

/// What PostgreSQL itself recovered: at which Lsns, ascending, and the lists of all pages.
///
/// # Errors
/// None: they were packed well.
pub fn manifests() -> Result<Vec<(Lsn, String)>> {
    let manifest = |(lsn, packed): (&str, &[u8])| {
        let lsn = lsn.parse().map_err(|error: pagestrata::ParseLsnError| Error::Capture {
            what: "the sample's manifest".to_owned(),
            reason: error.to_string(),
        })?;
        Ok((lsn, text(packed)?))
    };
    MANIFESTS.into_iter().map(manifest).collect()
}
