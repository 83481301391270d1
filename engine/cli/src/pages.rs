//! Pages: one as it was (`get`), what it is made of (`versions`), all there are (`scan`).

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
};

use pagestrata::{Kind, Lsn, PageVersion, Scratch, Timeline};
use pagestrata_postgres::{RelPage, decode_record, record_name};
use pagestrata_postgres_ingest::{
    Error as IngestError,
    identity::{Identity, RELATIONS},
    page_at,
    text::{as_text, as_text_or_null, sha256_hex},
};
use serde::Serialize;

use crate::{
    error::{Error, Result},
    output::{Output, tell},
};

/// A version of a page.
#[derive(Debug, Serialize)]
struct VersionLine {
    #[serde(serialize_with = "as_text")]
    lsn: Lsn,
    kind: &'static str,
    will_init: bool,
    length: usize,
    sha256: String,
}

impl VersionLine {
    fn of(version: &PageVersion<'_>) -> VersionLine {
        let PageVersion { lsn, kind, bytes } = *version;
        let will_init = kind == Kind::Delta { will_init: true };
        let (length, sha256) = (bytes.len(), sha256_hex(bytes));
        VersionLine { lsn, kind: kind_name(kind), will_init, length, sha256 }
    }
}

impl fmt::Display for VersionLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.will_init { "delta(will_init)" } else { self.kind };
        write!(f, "{} {kind} {} {}", self.lsn, self.length, self.sha256)
    }
}

/// A page that was written to a file.
#[derive(Debug, Serialize)]
struct PageReport {
    #[serde(serialize_with = "as_text")]
    key: RelPage,
    #[serde(serialize_with = "as_text")]
    lsn: Lsn,
    #[serde(serialize_with = "as_text_or_null")]
    version_lsn: Option<Lsn>,
    length: usize,
    sha256: String,
    file: Option<PathBuf>,
}

impl fmt::Display for PageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PageReport { key, lsn, version_lsn, length, sha256, .. } = self;
        match version_lsn {
            Some(version) => write!(f, "{key} at {lsn}: as of {version}")?,
            None => write!(f, "{key} at {lsn}: never written")?,
        }
        write!(f, ", {length} bytes, sha256 {sha256}")
    }
}

/// A page and its newest version.
#[derive(Debug, Serialize)]
struct ScanLine {
    #[serde(serialize_with = "as_text")]
    key: RelPage,
    #[serde(serialize_with = "as_text")]
    lsn: Lsn,
    kind: &'static str,
    will_init: bool,
    length: usize,
}

impl fmt::Display for ScanLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.will_init { "delta(will_init)" } else { self.kind };
        write!(f, "{} {} {kind} {}", self.key, self.lsn, self.length)
    }
}

/// The word for a kind.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Image => "image",
        Kind::Delta { .. } => "delta",
    }
}

/// `get`: the page.
pub(crate) fn get<W: Write>(
    timeline: &Timeline,
    page: RelPage,
    lsn: Lsn,
    file: Option<&Path>,
    output: &mut Output<W>,
) -> Result<()> {
    let redo = Identity::at(timeline, lsn)?.redo();
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let (bytes, version_lsn) = page_at(reader.pin(), page, lsn, &redo, &mut scratch)?;
    if let Some(path) = file {
        let write = |cause| Error::File { operation: "write", path: path.to_owned(), cause };
        std::fs::write(path, &bytes[..]).map_err(write)?;
    } else if !output.is_json() {
        return output.bytes(&bytes[..]);
    }
    if !output.is_json() {
        return Ok(());
    }
    output.result(&PageReport {
        key: page,
        lsn,
        version_lsn,
        length: bytes.len(),
        sha256: sha256_hex(&bytes[..]),
        file: file.map(Path::to_owned),
    })
}

fn not_written(page: RelPage, lsn: Lsn) -> Error {
    IngestError::NoPage { page, lsn, why: "it was not written, or dropped".to_owned() }.into()
}

/// `versions`: from the newest to the base.
pub(crate) fn versions<W: Write>(
    timeline: &Timeline,
    page: RelPage,
    lsn: Option<Lsn>,
    output: &mut Output<W>,
) -> Result<()> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let lsn = lsn.unwrap_or_else(|| guard.last_record_lsn());
    Identity::at(timeline, lsn)?;
    let versions = guard.history(page.key(), lsn, &mut scratch)?;
    let Some(oldest) = versions.newest_first().next_back() else {
        return Err(not_written(page, lsn));
    };
    for version in versions.newest_first() {
        output.result(&VersionLine::of(&version))?;
    }
    if !oldest.kind.is_base() {
        output.flush()?;
        // Beside the list, not in it.
        tell(format_args!("note: no base below {}: redo starts from a page of zeros", oldest.lsn));
    }
    Ok(())
}

/// A version of a page, with what it does.
#[derive(Debug, Serialize)]
struct ExplainLine {
    #[serde(serialize_with = "as_text")]
    lsn: Lsn,
    record: String,
    xid: Option<u32>,
    /// The record's references that name the page; none for one that changes it without.
    blocks: Vec<u8>,
    will_init: bool,
    length: usize,
}

impl ExplainLine {
    fn of(page: RelPage, version: &PageVersion<'_>) -> ExplainLine {
        let PageVersion { lsn, kind, bytes } = *version;
        let mut line = ExplainLine {
            lsn,
            record: "image".to_owned(),
            xid: None,
            blocks: Vec::new(),
            will_init: kind == Kind::Delta { will_init: true },
            length: bytes.len(),
        };
        if kind != Kind::Image {
            match decode_record(bytes, lsn) {
                Ok(record) => {
                    let named = record.blocks().filter(|block| block.key() == page.key());
                    line.blocks = named.map(|block| block.id).collect();
                    line.xid = Some(record.xid());
                    line.record = record_name(&record);
                }
                Err(error) => line.record = error.to_string(),
            }
        }
        line
    }
}

impl fmt::Display for ExplainLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ExplainLine { lsn, record, xid, blocks, will_init, length } = self;
        write!(f, "{lsn} {record} {length}")?;
        if let Some(xid) = xid {
            write!(f, " xid {xid} blocks {blocks:?}")?;
        }
        if *will_init { write!(f, " will_init") } else { Ok(()) }
    }
}

/// `explain`: what makes the page, oldest first.
pub(crate) fn explain<W: Write>(
    timeline: &Timeline,
    page: RelPage,
    lsn: Option<Lsn>,
    output: &mut Output<W>,
) -> Result<()> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let lsn = lsn.unwrap_or_else(|| guard.last_record_lsn());
    Identity::at(timeline, lsn)?;
    let versions = guard.history(page.key(), lsn, &mut scratch)?;
    if versions.is_empty() {
        return Err(not_written(page, lsn));
    }
    for version in versions.newest_first().rev() {
        output.result(&ExplainLine::of(page, &version))?;
    }
    Ok(())
}

/// `scan`: all pages at an Lsn.
pub(crate) fn scan<W: Write>(timeline: &Timeline, lsn: Lsn, output: &mut Output<W>) -> Result<()> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    Identity::at(timeline, lsn)?;
    for found in guard.scan(RELATIONS, lsn) {
        let (key, _) = found?;
        let versions = guard.history(key, lsn, &mut scratch)?;
        let Some(PageVersion { lsn, kind, bytes }) = versions.newest() else { continue };
        output.result(&ScanLine {
            key: RelPage::from_key(key)?,
            lsn,
            kind: kind_name(kind),
            will_init: kind == Kind::Delta { will_init: true },
            length: bytes.len(),
        })?;
    }
    Ok(())
}
