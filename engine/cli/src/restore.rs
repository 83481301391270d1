//! `restore`: the relation files of a data directory as they were at an Lsn; `diff`: how files differ from that.
//!
//! Free space maps are not logged: they are neither written nor compared, and PostgreSQL makes them anew.

use std::{
    fmt, fs,
    io::Write,
    path::{Path, PathBuf},
};

use pagestrata::{Guard, Lsn, Scratch, Timeline};
use pagestrata_postgres::{
    BaseBackup, Fork, PAGE_SIZE, PageRedo, RelFork, RelPage, manager_of, mask_page, stamp_checksum,
};
use serde::Serialize;

use crate::{
    Error, Output, Progress, Result,
    identity::Identity,
    output::{as_text, size},
    pages::page_at,
    sizes::{all_forks, blocks_at, newest_size},
    stores::storage,
};

const GLOBAL_TABLESPACE: u32 = 1664;
const DEFAULT_TABLESPACE: u32 = 1663;
/// Where PostgreSQL 15 has a tablespace's files: its version and the catalogs'.
const VERSION_DIR: &str = "PG_15_202209061";
/// Blocks of a file: 1 GiB.
const SEGMENT_BLOCKS: u32 = 131_072;

/// What was written.
#[derive(Debug, Serialize)]
pub struct RestoreReport {
    /// As of when.
    #[serde(serialize_with = "as_text")]
    pub lsn: Lsn,
    /// Relation forks.
    pub forks: u64,
    /// Pages.
    pub pages: u64,
    /// Where.
    pub out: PathBuf,
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RestoreReport { lsn, forks, pages, out } = self;
        let bytes = size(pages * PAGE_SIZE as u64);
        write!(
            f,
            "{forks} relation forks, {pages} pages ({bytes}), as of {lsn}, in {}",
            out.display()
        )
    }
}

/// The file of a fork's segment within a data directory.
fn path_of(rel: RelFork, segment: u32) -> PathBuf {
    let RelFork { tablespace, database, relation, fork } = rel;
    let dir = match tablespace {
        GLOBAL_TABLESPACE => PathBuf::from("global"),
        DEFAULT_TABLESPACE => Path::new("base").join(database.to_string()),
        other => Path::new("pg_tblspc")
            .join(other.to_string())
            .join(VERSION_DIR)
            .join(database.to_string()),
    };
    let fork = match fork {
        Fork::Main => String::new(),
        fork => format!("_{fork}"),
    };
    let segment = if segment == 0 { String::new() } else { format!(".{segment}") };
    dir.join(format!("{relation}{fork}{segment}"))
}

/// `restore`
pub(crate) fn restore<W: Write>(
    timeline: &Timeline,
    lsn: Lsn,
    out: &Path,
    output: &mut Output<W>,
) -> Result<()> {
    let identity = Identity::at(timeline, lsn)?;
    let redo = identity.redo();
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let forks = all_forks(guard, lsn, &mut scratch)?;
    let failed =
        |operation, path: &Path, source| Error::File { operation, path: path.to_owned(), source };
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        let found = std::io::Error::other("there is something in it already");
        return Err(failed("restore into", out, found));
    }
    let all: u64 = forks.values().map(|blocks| u64::from(*blocks)).sum();
    let mut progress = Progress::of("restoring", all * PAGE_SIZE as u64);
    let mut report = RestoreReport { lsn, forks: 0, pages: 0, out: out.to_owned() };
    for (rel, blocks) in forks.into_iter().filter(|(rel, _)| rel.fork != Fork::Fsm) {
        report.forks += 1;
        // A fork without a block has a file, too.
        for segment in 0..blocks.div_ceil(SEGMENT_BLOCKS).max(1) {
            let path = out.join(path_of(rel, segment));
            let dir = path.parent().unwrap_or(out);
            fs::create_dir_all(dir).map_err(|source| failed("create", dir, source))?;
            let file =
                fs::File::create_new(&path).map_err(|source| failed("create", &path, source))?;
            let mut file = std::io::BufWriter::with_capacity(1 << 20, file);
            let first = segment * SEGMENT_BLOCKS;
            for block in first..blocks.min(first.saturating_add(SEGMENT_BLOCKS)) {
                let (mut page, _) =
                    page_at(guard, RelPage { rel, block }, lsn, &redo, &mut scratch)?;
                if identity.data_checksums {
                    stamp_checksum(&mut page, block);
                }
                file.write_all(&page[..]).map_err(|source| failed("write", &path, source))?;
                report.pages += 1;
                progress.at(report.pages * PAGE_SIZE as u64);
            }
            let file =
                file.into_inner().map_err(|error| failed("write", &path, error.into_error()))?;
            file.sync_all().map_err(|source| failed("sync", &path, source))?;
        }
    }
    output.result(&report)
}

/// How files and pages compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// Pages on disk, free space maps left out.
    pub pages: u64,
    /// Those that are equal, checksums aside.
    pub equal: u64,
    /// Those that differ in what PostgreSQL does not log: hints, free space and the like.
    pub equal_masked: u64,
    /// Those that differ otherwise.
    pub different: u64,
    /// Empty forks that are not on disk: dropped right before a backup of a server that ran, whose checkpoint left their files.
    pub left_over: u64,
    /// Forks that otherwise have another number of blocks, or are only on one side.
    pub sizes_different: u64,
}

impl fmt::Display for DiffReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DiffReport { pages, equal, equal_masked, different, left_over, sizes_different } = self;
        write!(
            f,
            "{pages} pages: {equal} equal, {equal_masked} but for what is not logged, {different} different; {sizes_different} forks of another size"
        )?;
        match left_over {
            0 => Ok(()),
            _ => write!(f, "; {left_over} empty ones were dropped right before the base"),
        }
    }
}

/// A page or fork that is not the same.
#[derive(Debug, Serialize)]
struct DiffLine {
    what: String,
    here: String,
    there: String,
}

impl fmt::Display for DiffLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in the store, {} on disk", self.what, self.here, self.there)
    }
}

/// `diff`
pub(crate) fn diff<W: Write>(
    timeline: &Timeline,
    lsn: Lsn,
    dir: &Path,
    output: &mut Output<W>,
) -> Result<DiffReport> {
    let redo = Identity::at(timeline, lsn)?.redo();
    let files = BaseBackup::open(storage(), dir)?;
    if files.label().is_some() {
        return Err(Error::NotShutDown { dir: dir.to_owned() });
    }
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let mut report = DiffReport::default();
    let mut forks = all_forks(guard, lsn, &mut scratch)?;
    for (rel, there) in files.forks().filter(|(rel, _)| rel.fork != Fork::Fsm) {
        let here = forks.remove(&rel);
        if here != Some(there) {
            report.sizes_different += 1;
            let here = here.map_or_else(|| "nothing".to_owned(), |here| format!("{here} blocks"));
            output.result(&DiffLine {
                what: rel.to_string(),
                here,
                there: format!("{there} blocks"),
            })?;
        }
    }
    let left_over = Identity::start_of_running(timeline, lsn)?.map(|start| (start, 0));
    for (rel, here) in forks.into_iter().filter(|(rel, _)| rel.fork != Fork::Fsm) {
        if left_over.is_some() && newest_size(guard, rel, lsn, &mut scratch)? == left_over {
            report.left_over += 1;
            continue;
        }
        report.sizes_different += 1;
        let (here, there) = (format!("{here} blocks"), "nothing".to_owned());
        output.result(&DiffLine { what: rel.to_string(), here, there })?;
    }
    let mut pages = files.pages();
    while let Some((key, bytes)) = pages.next_page()? {
        let of = RelPage::from_key(key)?;
        if of.rel.fork == Fork::Fsm {
            continue;
        }
        report.pages += 1;
        if let Some(line) = compare(guard, of, lsn, bytes, &redo, &mut scratch, &mut report)? {
            output.result(&line)?;
        }
    }
    output.result(&report)?;
    Ok(report)
}

fn compare(
    guard: Guard<'_>,
    of: RelPage,
    lsn: Lsn,
    there: &[u8],
    redo: &PageRedo,
    scratch: &mut Scratch,
    report: &mut DiffReport,
) -> Result<Option<DiffLine>> {
    let blocks = blocks_at(guard, of.rel, lsn, scratch)?.unwrap_or(0);
    let Ok(mut there) = <[u8; PAGE_SIZE]>::try_from(there) else { return Ok(None) };
    if of.block >= blocks {
        // Its fork's size has been told.
        report.different += 1;
        return Ok(None);
    }
    let (mut here, _) = page_at(guard, of, lsn, redo, scratch)?;
    here[8..10].fill(0);
    there[8..10].fill(0);
    if *here == there {
        report.equal += 1;
        return Ok(None);
    }
    let manager = manager_of(&there);
    mask_page(manager, of.block, &mut here);
    mask_page(manager, of.block, &mut there);
    let Some(byte) = here.iter().zip(&there).position(|(here, there)| here != there) else {
        report.equal_masked += 1;
        return Ok(None);
    };
    report.different += 1;
    let value = |page: &[u8; PAGE_SIZE]| format!("{:#04X} at byte {byte}", page[byte]);
    Ok(Some(DiffLine { what: of.to_string(), here: value(&here), there: value(&there) }))
}
