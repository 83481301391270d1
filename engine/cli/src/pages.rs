//! Pages: one as it was (`get`), what it is made of (`versions`), all there are (`scan`).

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
};

use pagestrata::{Guard, Key, Kind, Lsn, PageVersion, Scratch, Timeline, Versions};
use pagestrata_postgres::{RelPage, decode_record};
use serde::Serialize;

use crate::{
    Error, Output, Result,
    identity::RELATIONS,
    output::{as_text, sha256_hex},
    record_name::record_name,
};

/// How many records an error names.
const NAMED_RECORDS_MAX: usize = 3;

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
    #[serde(serialize_with = "as_text")]
    version_lsn: Lsn,
    length: usize,
    sha256: String,
    file: Option<PathBuf>,
}

impl fmt::Display for PageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PageReport { key, lsn, version_lsn, length, sha256, .. } = self;
        write!(f, "{key} at {lsn}: the image at {version_lsn}, {length} bytes, sha256 {sha256}")
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

/// A key in PostgreSQL's words, or in the engine's if it is none of a relation's.
pub(crate) fn key_name(key: Key) -> String {
    RelPage::from_key(key).map_or_else(|_| key.to_string(), |page| page.to_string())
}

/// `get`: the page, if its newest version is an image.
pub(crate) fn get<W: Write>(
    timeline: &Timeline,
    page: RelPage,
    lsn: Lsn,
    file: Option<&Path>,
    output: &mut Output<W>,
) -> Result<()> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let image = image_at(reader.pin(), page, lsn, &mut scratch)?;
    if let Some(path) = file {
        let write = |source| Error::File { operation: "write", path: path.to_owned(), source };
        std::fs::write(path, image.bytes).map_err(write)?;
    } else if !output.is_json() {
        return output.bytes(image.bytes);
    }
    if !output.is_json() {
        return Ok(());
    }
    output.result(&PageReport {
        key: page,
        lsn,
        version_lsn: image.lsn,
        length: image.bytes.len(),
        sha256: sha256_hex(image.bytes),
        file: file.map(Path::to_owned),
    })
}

/// The newest version of a page, which has to be an image.
///
/// # Errors
/// [`Error::NoPage`], [`Error::NeedsRedo`], and what reading fails with.
pub(crate) fn image_at<'s, 'g: 's>(
    guard: Guard<'g>,
    page: RelPage,
    lsn: Lsn,
    scratch: &'s mut Scratch,
) -> Result<PageVersion<'s>> {
    let versions = guard.history(page.key(), lsn, scratch)?;
    match versions.newest() {
        None => Err(Error::NoPage { page, lsn }),
        Some(newest) if newest.kind == Kind::Image => Ok(newest),
        Some(_) => Err(Error::NeedsRedo { page, lsn, what: redo_needed(&versions) }),
    }
}

/// Says which records have to be applied to what.
fn redo_needed(versions: &Versions<'_>) -> String {
    let oldest = versions.newest_first().next_back();
    let base = match oldest {
        Some(oldest) if oldest.kind == Kind::Image => format!("over the image at {}", oldest.lsn),
        Some(oldest) if oldest.kind.is_base() => "from a fresh page".to_owned(),
        _ => "with no base below".to_owned(),
    };
    let is_delta = |version: &PageVersion<'_>| version.kind != Kind::Image;
    let count = versions.newest_first().filter(is_delta).count();
    let named = versions.newest_first().rev().filter(is_delta).take(NAMED_RECORDS_MAX);
    let mut named: Vec<_> = named
        .map(|version| {
            let name = decode_record(version.bytes, version.lsn)
                .map_or_else(|_| "no record".to_owned(), |record| record_name(&record));
            format!("{name} at {}", version.lsn)
        })
        .collect();
    if count > named.len() {
        named.push("...".to_owned());
    }
    let records = if count == 1 { "record" } else { "records" };
    format!("needs redo of {count} {records} ({}) {base}", named.join(", "))
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
    let versions = guard.history(page.key(), lsn, &mut scratch)?;
    let Some(oldest) = versions.newest_first().next_back() else {
        return Err(Error::NoPage { page, lsn });
    };
    for version in versions.newest_first() {
        output.result(&VersionLine::of(&version))?;
    }
    if !oldest.kind.is_base() {
        output.flush()?;
        // Beside the list, not in it; a closed stderr is nobody to tell.
        let _ = writeln!(
            io::stderr(),
            "pagestrata: note: no base below {}: redo starts from a page of zeros",
            oldest.lsn
        );
    }
    Ok(())
}

/// `scan`: all pages at an Lsn.
pub(crate) fn scan<W: Write>(timeline: &Timeline, lsn: Lsn, output: &mut Output<W>) -> Result<()> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
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
