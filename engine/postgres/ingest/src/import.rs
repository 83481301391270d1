//! Import: the pages of a base backup become images at the Lsn where the log goes on, and beside
//! them the sizes of its forks.
//!
//! | `--base` | is |
//! |---|---|
//! | a directory | a data directory: of a server that was shut down, or a copy with `backup_label` of one that ran |
//! | a directory with `base.tar`, or a file | what `pg_basebackup -Ft` makes; tablespaces are beside it |
//! | `-` | such a tar on standard input |
//!
//! Pages are imported in the order of their keys, which a tar does not have: one that is a file is
//! read where it lies, and a stream is kept in a file without a name until then ([`Spool`]).

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use pagestrata::{Lsn, Store, Timeline};
use pagestrata_postgres::{BaseBackup, PAGE_SIZE, WalLevel};
use serde::Serialize;

use crate::{
    Error, Phase, Progress, Result,
    data_dir::check_complete,
    identity::{IDENTITY_KEY, Identity},
    sizes::{size_key, size_value},
    stores::{options, storage},
    text::{as_text, size},
};

/// What `pg_basebackup -Ft` calls the tar of the data directory.
const BASE_ARCHIVE: &str = "base.tar";

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// The timeline.
    pub timeline: String,
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The timeline of the cluster's log.
    pub wal_timeline: u32,
    /// The images are at it, and the log goes on from it.
    #[serde(serialize_with = "as_text")]
    pub lsn: Lsn,
    /// Whether pages can be read at once, or only from the end of the backup in the log on.
    pub is_consistent: bool,
    /// How much the server logged up to there: its `wal_level`.
    #[serde(serialize_with = "as_text")]
    pub wal_level: WalLevel,
    /// Number of pages.
    pub pages: u64,
    /// Their bytes.
    pub page_bytes: u64,
    /// Number of image layers.
    pub layers: u64,
    /// Bytes of their files.
    pub layer_bytes: u64,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ImportReport {
            timeline,
            system_id,
            lsn,
            is_consistent,
            wal_level,
            pages,
            page_bytes,
            layers,
            layer_bytes,
            ..
        } = self;
        write!(
            f,
            "imported {pages} pages ({}) of cluster {system_id} at {lsn} into timeline {timeline:?}: \
             {layers} image layers, {}",
            size(*page_bytes),
            size(*layer_bytes)
        )?;
        if *wal_level == WalLevel::Minimal {
            return write!(
                f,
                "; it was shut down at wal_level=minimal: its log can be ingested if the server was started \
                 at replica or logical next"
            );
        }
        if *is_consistent {
            return Ok(());
        }
        write!(f, "; pages can be read once the log up to the end of the backup is ingested")
    }
}

/// Opens a base backup: a directory, or a tar. Its pages are those of its checkpoint, or it has a
/// label.
///
/// # Errors
/// [`Error::Compressed`], [`Error::NotShutDown`], [`Error::RestoreIncomplete`];
/// [`Error::MinimalWal`] for a copy of a running server at that level; and what is wrong with its
/// files.
pub fn open_base(path: &Path) -> Result<BaseBackup> {
    check_complete(path)?;
    let archive = path.join(BASE_ARCHIVE);
    if let Some(compressed) = compressed(path) {
        return Err(compressed);
    }
    let base = match (path.is_file(), archive.is_file()) {
        (true, _) => BaseBackup::open_archive(storage(), path)?,
        (_, true) => BaseBackup::open_archive(storage(), &archive)?,
        _ => BaseBackup::open(storage(), path)?,
    };
    if base.label().is_none() && !base.control().shut_down {
        return Err(Error::NotShutDown { dir: path.to_owned() });
    }
    if base.label().is_some() && base.control().wal_level == WalLevel::Minimal {
        return Err(Error::MinimalWal { at: base.start_lsn() });
    }
    Ok(base)
}

/// What `pg_basebackup` compresses with: the ending of a name, how a file begins, and what unpacks
/// it.
const COMPRESSIONS: [(&str, [u8; 4], usize, &str); 3] = [
    ("gz", [0x1F, 0x8B, 0, 0], 2, "zcat"),
    ("lz4", [0x04, 0x22, 0x4D, 0x18], 4, "lz4 -dc"),
    ("zst", [0x28, 0xB5, 0x2F, 0xFD], 4, "zstd -dc"),
];

/// [`Error::Compressed`] for a file that is, and for a directory that has such instead of a tar.
fn compressed(path: &Path) -> Option<Error> {
    let error = |path: &Path, program| match path.starts_with(DESCRIPTORS) {
        true => {
            let what = "the tar on standard input".to_owned();
            Error::Compressed { what, program, path: String::new() }
        }
        false => {
            let what = path.display().to_string();
            Error::Compressed { path: format!("{what} "), what, program }
        }
    };
    let mut begin = [0; 4];
    if path.is_file() {
        File::open(path).and_then(|mut file| file.read_exact(&mut begin)).ok()?;
        let found = COMPRESSIONS.iter().find(|(_, magic, len, _)| begin[..*len] == magic[..*len]);
        return found.map(|(.., program)| error(path, program));
    }
    if path.join(BASE_ARCHIVE).exists() {
        return None;
    }
    COMPRESSIONS.iter().find_map(|(ending, _, _, program)| {
        let archive = path.join(format!("{BASE_ARCHIVE}.{ending}"));
        archive.is_file().then(|| error(&archive, program))
    })
}

/// Where the files that this process has open are.
const DESCRIPTORS: &str = "/proc/self/fd";

/// A stream, kept in a file that has no name: however this process ends, nothing of it is left.
#[derive(Debug)]
pub struct Spool {
    file: File,
}

impl Spool {
    /// Keeps all of `stream` in the file system of a store that is there or will be.
    ///
    /// # Errors
    /// [`Error::File`]: the stream cannot be read, or there is no room for it.
    pub fn fill(mut stream: impl Read, store: &Path) -> Result<Spool> {
        let dir = match store.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let failed =
            |operation| move |cause| Error::File { operation, path: dir.to_owned(), cause };
        let mut file = tempfile::tempfile_in(dir).map_err(failed("create a file"))?;
        io::copy(&mut stream, &mut file).map_err(failed("keep the stream"))?;
        Ok(Spool { file })
    }

    /// Where it can be read as long as this is kept.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("{DESCRIPTORS}/{}", self.file.as_raw_fd()))
    }
}

/// Opens or creates the store and imports a base into a timeline of it, which is created unless it
/// is there and empty.
///
/// # Errors
/// What is wrong with the base or the store; [`Error::Imported`], [`Error::NoBase`] for a timeline
/// that holds something.
pub fn import(
    store: &Path,
    timeline: &str,
    base: &BaseBackup,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Store, ImportReport)> {
    let (store, _) = Store::open(store, options())?;
    let timeline = match store.timeline(timeline) {
        Ok(timeline) => timeline,
        Err(pagestrata::Error::NoTimeline { .. }) => {
            store.create_timeline(timeline, base.start_lsn())?
        }
        Err(other) => return Err(other.into()),
    };
    check_empty(&timeline)?;
    let report = import_pages(&timeline, base, progress)?;
    Ok((store, report))
}

/// An import that was interrupted leaves a timeline without a page; only such a one may be there.
fn check_empty(timeline: &Timeline) -> Result<()> {
    if let Some(Identity { system_id, .. }) = Identity::read(timeline)? {
        return Err(Error::Imported { timeline: timeline.name().to_owned(), system_id });
    }
    if timeline.stats().layer_files > 0 || timeline.last_record_lsn() > timeline.start_lsn() {
        return Err(Error::NoBase { timeline: timeline.name().to_owned() });
    }
    Ok(())
}

fn import_pages(
    timeline: &Timeline,
    base: &BaseBackup,
    progress: &mut dyn FnMut(Progress),
) -> Result<ImportReport> {
    let control = base.control();
    let identity = Identity::of(base);
    let blocks: u64 = base.files().iter().map(|file| u64::from(file.blocks)).sum();
    let total_bytes = Some(blocks * PAGE_SIZE as u64);
    let mut lease = timeline.write_lease()?;
    let mut import = lease.import_images(base.start_lsn())?;
    let (mut pages, mut count) = (base.pages(), 0_u64);
    while let Some((key, page)) = pages.next_page()? {
        import.put(key, page)?;
        count += 1;
        let bytes = count * PAGE_SIZE as u64;
        progress(Progress { phase: Phase::Import, bytes, total_bytes });
    }
    for (rel, blocks) in base.forks() {
        import.put(size_key(rel), &size_value(blocks))?;
    }
    import.put(IDENTITY_KEY, &identity.to_bytes())?;
    let done = import.finish()?;
    Ok(ImportReport {
        timeline: timeline.name().to_owned(),
        system_id: control.system_id,
        wal_timeline: control.timeline,
        lsn: base.start_lsn(),
        is_consistent: identity.is_consistent(),
        wal_level: control.wal_level,
        pages: count,
        page_bytes: count * PAGE_SIZE as u64,
        layers: done.layers,
        layer_bytes: done.file_bytes,
    })
}
