//! [`BaseBackup`]: the pages of a data directory that nobody is writing to.
//!
//! | directory | tablespace, database |
//! |---|---|
//! | `global/` | 1664, 0 |
//! | `base/<database>/` | 1663, the directory's |
//! | `pg_tblspc/<tablespace>/PG_15_<catalogs>/<database>/` | the directories' |
//!
//! A relation fork is `<relation>[_fsm|_vm|_init]`, from its second GiB on in files `.1`, `.2`, .... Everything else in these
//! directories (temporary relations, `pg_filenode.map`, `pg_control`, `PG_VERSION`, `pg_internal.init`) is no relation.
//!
//! **Invariant:** pages come in ascending order of their keys, each once; a page of zeros is a page.

use std::path::{Path, PathBuf};

use pagestrata_layers::{
    Error as StorageError, Key,
    storage::{File, SharedStorage, read_file},
};

use crate::{
    Result,
    control::ControlFile,
    image::PAGE_SIZE,
    rel::{Fork, RelFork},
};

/// Blocks of a relation's file before the next one starts: 1 GiB.
pub(crate) const SEGMENT_BLOCKS: u32 = 131_072;
const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;
const BUFFER_BLOCKS: u32 = 64;

/// A file of a relation fork.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RelationFile {
    /// Which fork.
    pub rel: RelFork,
    /// Which GiB of it.
    pub segment: u32,
    /// How many blocks the file has.
    pub blocks: u32,
    /// The file.
    pub path: PathBuf,
}

/// A data directory, or a copy of one.
#[derive(Debug)]
pub struct BaseBackup {
    storage: SharedStorage,
    control: ControlFile,
    files: Vec<RelationFile>,
}

impl BaseBackup {
    /// Lists the relation files in `dir`, and reads its control file.
    ///
    /// # Errors
    /// A directory of another version, a damaged control file, a file that ends within a page, a missing segment.
    pub fn open(storage: SharedStorage, dir: &Path) -> Result<BaseBackup> {
        check_version(&storage, dir)?;
        let control = ControlFile::read(&*storage, dir)?;
        let mut files = Vec::new();
        add_files(&storage, &dir.join("global"), GLOBAL_TABLESPACE, 0, &mut files)?;
        add_databases(&storage, &dir.join("base"), DEFAULT_TABLESPACE, &mut files)?;
        let tablespaces = dir.join("pg_tblspc");
        if storage.exists(&tablespaces)? {
            for name in storage.list(&tablespaces)? {
                let Some(tablespace) = oid(&name) else { continue };
                let dir = tablespaces.join(&name);
                for version in storage.list(&dir)? {
                    if version.starts_with("PG_15_") {
                        add_databases(&storage, &dir.join(version), tablespace, &mut files)?;
                    }
                }
            }
        }
        files.sort_unstable();
        check_segments(&files)?;
        Ok(BaseBackup { storage, control, files })
    }

    /// What its control file says: the pages are those of its checkpoint if the server was shut down.
    #[must_use]
    pub fn control(&self) -> &ControlFile {
        &self.control
    }

    /// Its relation files, in the order of their keys.
    #[must_use]
    pub fn files(&self) -> &[RelationFile] {
        &self.files
    }

    /// Its forks and how many blocks each has, in order.
    pub fn forks(&self) -> impl Iterator<Item = (RelFork, u32)> + '_ {
        let same = |a: &RelationFile, b: &RelationFile| a.rel == b.rel;
        self.files.chunk_by(same).map(|files| {
            (files[0].rel, files.iter().map(|file| file.blocks).fold(0, u32::saturating_add))
        })
    }

    /// All of its pages, in the order of their keys.
    #[must_use]
    pub fn pages(&self) -> BasePages<'_> {
        BasePages {
            backup: self,
            next_file: 0,
            open: None,
            buffer: Vec::new(),
            buffered: 0..0,
            at: 0,
        }
    }
}

/// The pages of a [`BaseBackup`], lent one after the other from one buffer.
#[derive(Debug)]
pub struct BasePages<'b> {
    backup: &'b BaseBackup,
    next_file: usize,
    open: Option<(&'b RelationFile, Box<dyn File>)>,
    buffer: Vec<u8>,
    /// Blocks of the open file that are in the buffer.
    buffered: std::ops::Range<u32>,
    /// The next block of the open file.
    at: u32,
}

impl BasePages<'_> {
    /// The next page: its key and its 8192 bytes.
    ///
    /// # Errors
    /// A file that cannot be read, or has become shorter.
    pub fn next_page(&mut self) -> Result<Option<(Key, &[u8])>> {
        let file = loop {
            match &self.open {
                Some((file, _)) if self.at < file.blocks => break *file,
                _ => {}
            }
            let Some(file) = self.backup.files.get(self.next_file) else { return Ok(None) };
            self.open = Some((file, self.backup.storage.open(&file.path)?));
            (self.next_file, self.at, self.buffered) = (self.next_file + 1, 0, 0..0);
        };
        if !self.buffered.contains(&self.at) {
            self.fill(file)?;
        }
        let start = (self.at - self.buffered.start) as usize * PAGE_SIZE;
        let key = file.rel.key(file.segment * SEGMENT_BLOCKS + self.at);
        self.at += 1;
        Ok(Some((key, &self.buffer[start..start + PAGE_SIZE])))
    }

    fn fill(&mut self, file: &RelationFile) -> Result<()> {
        let Some((_, open)) = &self.open else { return Ok(()) };
        let blocks = self.at..file.blocks.min(self.at + BUFFER_BLOCKS);
        self.buffered = 0..0;
        self.buffer.resize(blocks.len() * PAGE_SIZE, 0);
        open.read_at(u64::from(self.at) * PAGE_SIZE as u64, &mut self.buffer)?;
        self.buffered = blocks;
        Ok(())
    }
}

fn check_version(storage: &SharedStorage, dir: &Path) -> Result<()> {
    let path = dir.join("PG_VERSION");
    let bytes = read_file(&**storage, &path, 64)?;
    let found = String::from_utf8_lossy(&bytes);
    match found.trim_end() {
        "15" => Ok(()),
        found => Err(StorageError::corrupt(&path, 0, "PostgreSQL version", "15", found).into()),
    }
}

/// A name that is an object's number and nothing else.
fn oid(name: &str) -> Option<u32> {
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    if digits && !name.starts_with('0') { name.parse().ok() } else { None }
}

/// Relation, fork and segment that a file's name stands for.
fn parse_name(name: &str) -> Option<(u32, Fork, u32)> {
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, oid(segment)?),
        None => (name, 0),
    };
    let (relation, fork) = match name.split_once('_') {
        Some((relation, fork)) => {
            (relation, Fork::from_name(fork).filter(|fork| *fork != Fork::Main)?)
        }
        None => (name, Fork::Main),
    };
    Some((oid(relation)?, fork, segment))
}

fn add_databases(
    storage: &SharedStorage,
    dir: &Path,
    tablespace: u32,
    files: &mut Vec<RelationFile>,
) -> Result<()> {
    for name in storage.list(dir)? {
        if let Some(database) = oid(&name) {
            add_files(storage, &dir.join(name), tablespace, database, files)?;
        }
    }
    Ok(())
}

fn add_files(
    storage: &SharedStorage,
    dir: &Path,
    tablespace: u32,
    database: u32,
    files: &mut Vec<RelationFile>,
) -> Result<()> {
    for name in storage.list(dir)? {
        let Some((relation, fork, segment)) = parse_name(&name) else { continue };
        let path = dir.join(&name);
        let len = storage.open(&path)?.len()?;
        let (blocks, rest) = (len / PAGE_SIZE as u64, len % PAGE_SIZE as u64);
        let whole = u32::try_from(blocks).ok().filter(|blocks| *blocks <= SEGMENT_BLOCKS);
        let Some(blocks) = whole.filter(|_| rest == 0) else {
            let expected = "whole pages of 8192 bytes, at most 1 GiB";
            let found = format!("{len} bytes");
            let page = len - rest;
            return Err(StorageError::corrupt(&path, page, "relation file", expected, found).into());
        };
        if segment >= u32::MAX / SEGMENT_BLOCKS {
            let expected = "a segment whose blocks have 32-bit numbers";
            return Err(
                StorageError::corrupt(&path, 0, "relation segment", expected, segment).into()
            );
        }
        let rel = RelFork { tablespace, database, relation, fork };
        files.push(RelationFile { rel, segment, blocks, path });
    }
    Ok(())
}

/// Segments of a fork follow each other from 0, and only the last one that has blocks is not full (truncation leaves empty
/// ones behind).
fn check_segments(files: &[RelationFile]) -> Result<()> {
    for fork in files.chunk_by(|a, b| a.rel == b.rel) {
        for (index, file) in fork.iter().enumerate() {
            let gap = file.segment as usize != index;
            let short = index > 0 && file.blocks > 0 && fork[index - 1].blocks < SEGMENT_BLOCKS;
            if gap || short {
                let expected = format!("a full segment {} before it", file.segment.wrapping_sub(1));
                let found = if gap { "none" } else { "a shorter one" };
                let error =
                    StorageError::corrupt(&file.path, 0, "relation segments", expected, found);
                return Err(error.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_relation_files() {
        assert_eq!(parse_name("16384"), Some((16384, Fork::Main, 0)));
        assert_eq!(parse_name("16384_vm"), Some((16384, Fork::Vm, 0)));
        assert_eq!(parse_name("16384_fsm.12"), Some((16384, Fork::Fsm, 12)));
        for other in [
            "t3_16384",
            "t3_16384_vm",
            "pg_filenode.map",
            "16384_main",
            "16384.0",
            "",
            "012",
            "4294967296",
            "1.x",
            "PG_VERSION",
            "16384_init.1.1",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
