//! `restore`: the relation files of a data directory as they were at an Lsn.
//!
//! ```text
//! sizes -> plan_forks -> check_room -> OutDir -> ForkFiles: holes, pages, sync
//! ```
//!
//! - Free space maps are not logged: they are not written, and PostgreSQL makes them anew.
//! - The main fork of an unlogged relation, one that has an init fork, is a copy of that, as after
//!   a crash. Its other forks are not written.
//! - A tablespace is a directory in `pg_tblspc`.
//! - Pages of zeros are holes.
//!
//! **Invariant:** the length of every file is decided, and checked against a limit and the free
//! space, before anything is written: sizes come from block numbers of records, and a damaged one
//! can have any.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use pagestrata::{Guard, Key, Lsn, Scratch, Timeline};
use pagestrata_postgres::{Fork, PAGE_SIZE, Page, RelFork, RelPage, stamp_checksum};
use serde::Serialize;

use crate::{
    Error, Phase, Progress, Result,
    data_dir::{OutDir, available_bytes, check_empty},
    identity::{Identity, RELATIONS},
    pages::{PageSource, SkippedPage},
    sizes::all_forks,
    text::{as_text, size},
};

const GLOBAL_TABLESPACE: u32 = 1664;
const DEFAULT_TABLESPACE: u32 = 1663;
/// Where PostgreSQL 15 has a tablespace's files: its version and the catalogs'.
const VERSION_DIR: &str = "PG_15_202209061";
/// Blocks of a file: 1 GiB.
const SEGMENT_BLOCKS: u32 = 131_072;
/// By default files may be this many times as large as the pages that are stored. A hash index
/// allocates the most ahead: it doubles.
const DEFAULT_LIMIT_FACTOR: u64 = 8;
/// And by default they may be as large as this in any case, in bytes: 1 GiB.
const DEFAULT_LIMIT_MIN: u64 = 1 << 30;
/// Pages that are written at once, in bytes: 1 MiB.
const WRITE_LEN: usize = 1 << 20;

/// What to restore, and how.
#[derive(Clone, Copy, Debug)]
pub struct Restore<'a> {
    /// As of when.
    pub lsn: Lsn,
    /// Where to.
    pub out: &'a Path,
    /// How large all files may be together, in bytes; none: the default.
    pub max_bytes: Option<u64>,
    /// Whether a page that cannot be redone is left as zeros, and listed.
    pub skips_unknown: bool,
}

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
    /// Of these, pages of zeros, which take no room.
    pub zero_pages: u64,
    /// Unlogged relations, which are as after a crash.
    pub unlogged_relations: u64,
    /// Pages of zeros in place of some that cannot be redone.
    pub skipped: u64,
    /// Where.
    pub out: PathBuf,
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RestoreReport { lsn, forks, pages, unlogged_relations, skipped, out, .. } = self;
        let bytes = size(pages * PAGE_SIZE as u64);
        write!(
            f,
            "{forks} relation forks, {pages} pages ({bytes}), as of {lsn}, in {}",
            out.display()
        )?;
        if *unlogged_relations > 0 {
            write!(f, "; {unlogged_relations} unlogged relations as after a crash")?;
        }
        if *skipped > 0 {
            write!(f, "; {skipped} pages cannot be redone and are zeros")?;
        }
        Ok(())
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

/// A fork that is read, and what is written of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PlannedFork {
    rel: RelFork,
    blocks: u32,
    /// Of its blocks, those that have a version.
    stored: u32,
    /// It is an init fork: the main fork is written from it, too.
    is_init: bool,
}

impl PlannedFork {
    /// How many files it becomes, each of all of its blocks.
    fn copies(&self) -> u64 {
        1 + u64::from(self.is_init)
    }

    fn bytes(&self) -> u64 {
        u64::from(self.blocks) * PAGE_SIZE as u64 * self.copies()
    }

    fn stored_bytes(&self) -> u64 {
        u64::from(self.stored) * PAGE_SIZE as u64 * self.copies()
    }
}

/// Which forks are written, in the order of their keys.
fn plan_forks(forks: &BTreeMap<RelFork, u32>) -> Vec<PlannedFork> {
    let is_unlogged = |rel: &RelFork| forks.contains_key(&rel.with_fork(Fork::Init));
    let is_written = |rel: &RelFork| match rel.fork {
        Fork::Fsm => false,
        Fork::Init => true,
        Fork::Main | Fork::Vm => !is_unlogged(rel),
    };
    let planned = forks.iter().filter(|(rel, _)| is_written(rel));
    let planned = planned.map(|(rel, blocks)| PlannedFork {
        rel: *rel,
        blocks: *blocks,
        stored: 0,
        is_init: rel.fork == Fork::Init,
    });
    planned.collect()
}

/// Counts the pages that are stored of each planned fork.
fn count_stored(plan: &mut [PlannedFork], guard: Guard<'_>, lsn: Lsn) -> Result<()> {
    let mut rest = plan.iter_mut().peekable();
    for found in guard.scan(RELATIONS, lsn) {
        let (key, _) = found?;
        while rest.next_if(|planned| planned.rel.object() < key.object).is_some() {}
        if let Some(planned) = rest.peek_mut()
            && planned.rel.object() == key.object
            && key.block < planned.blocks
        {
            planned.stored += 1;
        }
    }
    Ok(())
}

/// Refuses files that would be larger than they may be, or than there is room for.
fn check_room(plan: &[PlannedFork], max_bytes: Option<u64>, out: &Path) -> Result<()> {
    let sum = |of: fn(&PlannedFork) -> u64| plan.iter().map(of).fold(0, u64::saturating_add);
    let (forks_bytes, stored_bytes) = (sum(PlannedFork::bytes), sum(PlannedFork::stored_bytes));
    let default = stored_bytes.saturating_mul(DEFAULT_LIMIT_FACTOR).max(DEFAULT_LIMIT_MIN);
    let limit = max_bytes.unwrap_or(default);
    let emptiest = plan.iter().max_by_key(|planned| planned.bytes() - planned.stored_bytes());
    if let Some(planned) = emptiest.filter(|_| forks_bytes > limit) {
        return Err(Error::RestoreTooLarge {
            forks_bytes,
            limit,
            is_default: max_bytes.is_none(),
            rel: planned.rel,
            rel_bytes: planned.bytes(),
            stored_bytes: planned.stored_bytes(),
        });
    }
    let available = available_bytes(out)?;
    match stored_bytes <= available {
        true => Ok(()),
        false => Err(Error::NoRoom { dir: out.to_owned(), needed: stored_bytes, available }),
    }
}

/// The files of a fork, or of several that are the same: created as long as they will be, and
/// written where a page is not zeros.
struct ForkFiles<'o> {
    out: &'o mut OutDir,
    rels: &'o [RelFork],
    blocks: u32,
    /// The files of the segment that is open; the next one to create is behind it.
    open: Vec<(File, PathBuf)>,
    next_segment: u32,
    /// Pages that follow each other in the open segment, and where they start in it, in bytes.
    buffer: Vec<u8>,
    start: u64,
}

impl<'o> ForkFiles<'o> {
    fn new(out: &'o mut OutDir, rels: &'o [RelFork], blocks: u32) -> ForkFiles<'o> {
        let (open, buffer) = (Vec::new(), Vec::new());
        ForkFiles { out, rels, blocks, open, next_segment: 0, buffer, start: 0 }
    }

    /// Writes a page; blocks come in ascending order, and those that are left out are zeros.
    fn put(&mut self, block: u32, page: &Page) -> Result<()> {
        let (segment, within) = (block / SEGMENT_BLOCKS, block % SEGMENT_BLOCKS);
        while self.next_segment <= segment {
            self.open_next()?;
        }
        let offset = u64::from(within) * PAGE_SIZE as u64;
        let follows = self.start + self.buffer.len() as u64 == offset;
        if !follows || self.buffer.len() >= WRITE_LEN {
            self.write_buffer()?;
            self.start = offset;
        }
        self.buffer.extend_from_slice(page);
        Ok(())
    }

    /// Creates the files behind the last page, and syncs. A fork without a block has a file, too.
    fn finish(mut self) -> Result<()> {
        while self.next_segment < self.blocks.div_ceil(SEGMENT_BLOCKS).max(1) {
            self.open_next()?;
        }
        self.close()
    }

    fn open_next(&mut self) -> Result<()> {
        self.close()?;
        let segment = self.next_segment;
        let blocks = (self.blocks - segment * SEGMENT_BLOCKS).min(SEGMENT_BLOCKS);
        for rel in self.rels {
            let (file, path) = self.out.create_file(&path_of(*rel, segment))?;
            let extended = file.set_len(u64::from(blocks) * PAGE_SIZE as u64);
            extended.map_err(|cause| failed("extend", &path, cause))?;
            self.open.push((file, path));
        }
        (self.next_segment, self.start) = (segment + 1, 0);
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<()> {
        for (file, path) in &self.open {
            let written = file.write_all_at(&self.buffer, self.start);
            written.map_err(|cause| failed("write", path, cause))?;
        }
        self.buffer.clear();
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.write_buffer()?;
        let mut open = self.open.drain(..);
        open.try_for_each(|(file, path)| {
            file.sync_all().map_err(|cause| failed("sync", &path, cause))
        })
    }
}

fn failed(operation: &'static str, path: &Path, cause: io::Error) -> Error {
    Error::File { operation, path: path.to_owned(), cause }
}

/// Writes the relation files as they were at an Lsn. Each page that is skipped goes to
/// `on_skipped`, whose error ends it.
///
/// # Errors
/// [`Error::OutNotEmpty`], [`Error::RestoreIncomplete`], [`Error::RestoreTooLarge`],
/// [`Error::NoRoom`] with nothing written; [`Error::File`], and what reading and redo fail with,
/// with a directory that is marked as incomplete.
pub fn restore(
    timeline: &Timeline,
    how: &Restore<'_>,
    on_skipped: &mut dyn FnMut(&SkippedPage) -> io::Result<()>,
    progress: &mut dyn FnMut(Progress),
) -> Result<RestoreReport> {
    let Restore { lsn, out, .. } = *how;
    let identity = Identity::at(timeline, lsn)?;
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    check_empty(out)?;
    let mut plan = plan_forks(&all_forks(guard, lsn, &mut scratch)?);
    count_stored(&mut plan, guard, lsn)?;
    check_room(&plan, how.max_bytes, out)?;
    let mut dir = OutDir::create(out, lsn)?;
    for name in ["base", "global", "pg_tblspc"] {
        dir.create_dir(name)?;
    }
    let report = RestoreReport {
        lsn,
        forks: 0,
        pages: 0,
        zero_pages: 0,
        unlogged_relations: 0,
        skipped: 0,
        out: out.to_owned(),
    };
    let all = plan.iter().map(PlannedFork::stored_bytes).fold(0, u64::saturating_add);
    let mut writer = Writer {
        pages: PageSource { guard, lsn, redo: identity.redo(), scratch },
        has_checksums: identity.data_checksums,
        skips_unknown: how.skips_unknown,
        report,
        total_bytes: all,
        written: 0,
        dir,
        on_skipped,
        progress,
    };
    let mut keys = guard.scan(RELATIONS, lsn).peekable();
    for planned in plan {
        while keys.next_if(|key| is_below(key, planned.rel.object())).is_some() {}
        let mut of_fork = std::iter::from_fn(|| {
            keys.next_if(|key| !matches!(key, Ok((key, _)) if key.object != planned.rel.object()))
        });
        writer.write_fork(planned, &mut of_fork)?;
    }
    let Writer { report, dir, .. } = writer;
    dir.finish()?;
    Ok(report)
}

type Found = pagestrata::Result<(Key, Lsn)>;

fn is_below(found: &Found, object: u128) -> bool {
    matches!(found, Ok((key, _)) if key.object < object)
}

/// Writes forks.
struct Writer<'g, 'w> {
    pages: PageSource<'g>,
    has_checksums: bool,
    skips_unknown: bool,
    report: RestoreReport,
    written: u64,
    total_bytes: u64,
    dir: OutDir,
    on_skipped: &'w mut dyn FnMut(&SkippedPage) -> io::Result<()>,
    progress: &'w mut dyn FnMut(Progress),
}

impl Writer<'_, '_> {
    /// Writes a fork; `keys` are those of its pages.
    fn write_fork(
        &mut self,
        planned: PlannedFork,
        keys: &mut dyn Iterator<Item = Found>,
    ) -> Result<()> {
        let PlannedFork { rel, blocks, is_init, .. } = planned;
        let rels = [rel, rel.with_fork(Fork::Main)];
        let rels = if is_init { &rels[..] } else { &rels[..1] };
        let mut files = ForkFiles::new(&mut self.dir, rels, blocks);
        let (mut not_zeros, mut skipped) = (0, 0);
        for found in keys {
            let (key, _) = found?;
            if key.block >= blocks {
                continue;
            }
            let of = RelPage { rel, block: key.block };
            let mut page = match self.pages.read(of) {
                Ok(page) => page,
                Err(error) if self.skips_unknown => {
                    let page = SkippedPage::of(of, error)?;
                    skipped += 1;
                    (self.on_skipped)(&page).map_err(Error::Report)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.written += PAGE_SIZE as u64 * planned.copies();
            (self.progress)(Progress {
                phase: Phase::Restore,
                bytes: self.written,
                total_bytes: Some(self.total_bytes),
            });
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            if self.has_checksums {
                stamp_checksum(&mut page, of.block);
            }
            not_zeros += 1;
            files.put(of.block, &page)?;
        }
        files.finish()?;
        let (copies, report) = (planned.copies(), &mut self.report);
        report.forks += copies;
        report.pages += u64::from(blocks) * copies;
        report.zero_pages += (u64::from(blocks) - not_zeros) * copies;
        report.unlogged_relations += u64::from(is_init);
        report.skipped += skipped;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forks(sizes: &[(&str, u32)]) -> BTreeMap<RelFork, u32> {
        sizes.iter().map(|(rel, blocks)| (rel.parse().unwrap(), *blocks)).collect()
    }

    #[test]
    fn unlogged_relations_are_written_from_their_init_forks() {
        let plan = plan_forks(&forks(&[
            ("1663/5/7/main", 9),
            ("1663/5/7/fsm", 3),
            ("1663/5/7/vm", 1),
            ("1663/5/8/main", 9),
            ("1663/5/8/vm", 1),
            ("1663/5/8/init", 2),
            ("1663/5/9/init", 0),
        ]));
        let of = |rel: &str, blocks, is_init| PlannedFork {
            rel: rel.parse().unwrap(),
            blocks,
            stored: 0,
            is_init,
        };
        let expected = [
            of("1663/5/7/main", 9, false),
            of("1663/5/7/vm", 1, false),
            of("1663/5/8/init", 2, true),
            of("1663/5/9/init", 0, true),
        ];
        assert_eq!(plan, expected);
        assert_eq!(plan.iter().map(PlannedFork::bytes).sum::<u64>(), (9 + 1 + 2 * 2) * 8192);
    }

    #[test]
    fn sizes_are_checked_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan_forks(&forks(&[("1663/5/7/main", 40), ("1663/5/8/main", u32::MAX)]));
        (plan[0].stored, plan[1].stored) = (40, 2);
        let refused =
            |plan: &[PlannedFork], max_bytes| match check_room(plan, max_bytes, dir.path()) {
                Err(Error::RestoreTooLarge { forks_bytes, limit, rel, rel_bytes, .. }) => {
                    assert_eq!((rel, rel_bytes), (plan[1].rel, plan[1].bytes()));
                    (forks_bytes, limit)
                }
                other => panic!("{other:?}"),
            };
        let all = (40 + u64::from(u32::MAX)) * 8192;
        assert_eq!(refused(&plan, None), (all, 1 << 30));
        assert_eq!(refused(&plan, Some(all - 1)), (all, all - 1));
        check_room(&plan, Some(all), dir.path()).unwrap();
        // What is stored raises the default.
        plan[0].stored = u32::MAX / 4;
        plan[0].blocks = u32::MAX / 4;
        assert!(!matches!(check_room(&plan, None, dir.path()), Err(Error::RestoreTooLarge { .. })));
        // No file system has room for this many stored pages.
        plan[1].stored = u32::MAX;
        let no_room = check_room(&plan, None, dir.path());
        assert!(matches!(no_room, Err(Error::NoRoom { needed, .. }) if needed > 1 << 44));
    }
}
