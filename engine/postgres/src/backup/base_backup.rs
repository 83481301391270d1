//! [`BaseBackup`]: relation files in the order of their keys, and their pages.

use std::path::{Path, PathBuf};

use pagestrata_layers::{
    Error as StorageError, Key, Lsn,
    storage::{File, SharedStorage},
};

use crate::{
    backup::{
        archive,
        control_file::{ControlFile, FILE_LEN_MAX},
        files::{self, Part, Role},
        label::{BackupLabel, LABEL_LEN_MAX},
    },
    error::{Error, Result},
    layout::{PAGE_SIZE, SEGMENT_BLOCKS},
    rel::RelFork,
};

const VERSION_LEN_MAX: u64 = 64;
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
    /// The file, or the archive that it is in.
    pub path: PathBuf,
    /// Where its blocks start there.
    pub offset: u64,
}

/// A data directory, or a copy of one.
#[derive(Debug)]
pub struct BaseBackup {
    pub(super) storage: SharedStorage,
    control: ControlFile,
    label: Option<BackupLabel>,
    files: Vec<RelationFile>,
}

impl BaseBackup {
    /// Opens the data directory `dir`: lists its relation files, reads control file and label.
    ///
    /// # Errors
    /// A directory of another version, a damaged control file or label, a tablespace that is not
    /// there, a file that ends within a page; without a label, a missing segment.
    pub fn open(storage: SharedStorage, dir: &Path) -> Result<BaseBackup> {
        let parts = files::in_directory(&storage, dir)?;
        BaseBackup::of_parts(storage, dir, parts)
    }

    /// Opens the tar archive `base`, with those of its tablespaces, `<oid>.tar`, beside it.
    ///
    /// # Errors
    /// As [`BaseBackup::open`]; an archive that is damaged or ends too early;
    /// [`Error::ArchiveEntry`].
    pub fn open_archive(storage: SharedStorage, base: &Path) -> Result<BaseBackup> {
        let parts = archive::in_archive(&storage, base)?;
        BaseBackup::of_parts(storage, base, parts)
    }

    fn of_parts(storage: SharedStorage, path: &Path, mut parts: Vec<Part>) -> Result<BaseBackup> {
        parts.sort_unstable_by_key(|part| part.role);
        if let Some(twice) = parts.windows(2).find(|pair| pair[0].role == pair[1].role) {
            let Part { role, path, offset, .. } = &twice[1];
            let found = format!("{role:?} a second time");
            return Err(
                StorageError::corrupt(path, *offset, "base backup", "files once", found).into()
            );
        }
        let find = |role| parts.iter().find(|part| part.role == role);
        let needed = |role, name| {
            let missing = || StorageError::corrupt(path, 0, "base backup", name, "no such file");
            find(role).ok_or_else(missing)
        };
        check_version(&storage, needed(Role::Version, "PG_VERSION")?)?;
        let part = needed(Role::Control, "global/pg_control")?;
        let control = ControlFile::parse(&part.read(&storage, FILE_LEN_MAX)?, &part.path)?;
        let mut label = None;
        if let Some(part) = find(Role::Label) {
            let read = BackupLabel::parse(&part.read(&storage, LABEL_LEN_MAX)?, &part.path)?;
            read.check(&control, &part.path)?;
            label = Some(read);
        }
        let mut files = Vec::new();
        for part in &parts {
            if let Role::Relation { rel, segment } = part.role {
                files.push(relation_file(part, rel, segment)?);
            }
        }
        match label {
            Some(_) => keep_active(&mut files),
            None => check_segments(&files)?,
        }
        Ok(BaseBackup { storage, control, label, files })
    }

    /// The control file. Without a label, and if the server was shut down, the pages are those of
    /// its checkpoint.
    #[must_use]
    pub fn control(&self) -> &ControlFile {
        &self.control
    }

    /// The label, if there is one: then the pages were copied at different Lsns.
    #[must_use]
    pub fn label(&self) -> Option<&BackupLabel> {
        self.label.as_ref()
    }

    /// Where the log must be read from: the label's start, or else the checkpoint.
    #[must_use]
    pub fn start_lsn(&self) -> Lsn {
        self.label.as_ref().map_or(self.control.checkpoint, |label| label.start)
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
    /// Returns the next page: its key and its 8192 bytes.
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
        let offset = file.offset + u64::from(self.at) * PAGE_SIZE as u64;
        open.read_at(offset, &mut self.buffer)?;
        self.buffered = blocks;
        Ok(())
    }
}

fn check_version(storage: &SharedStorage, part: &Part) -> Result<()> {
    let bytes = part.read(storage, VERSION_LEN_MAX)?;
    let found = String::from_utf8_lossy(&bytes);
    // 9.6 and before had two parts.
    let is_version = |text: &str| {
        let mut parts = text.split('.');
        text.len() <= 5 && parts.all(|part| part.parse::<u16>().is_ok_and(|number| number < 1000))
    };
    match found.trim_end() {
        "15" => Ok(()),
        found if is_version(found) => {
            Err(Error::ClusterVersion { path: part.path.clone(), version: found.into() })
        }
        found => Err(StorageError::corrupt(
            &part.path,
            part.offset,
            "PostgreSQL version",
            "15",
            format!("{found:?}"),
        )
        .into()),
    }
}

fn relation_file(part: &Part, rel: RelFork, segment: u32) -> Result<RelationFile> {
    let Part { path, offset, len, .. } = part;
    let (blocks, rest) = (len / PAGE_SIZE as u64, len % PAGE_SIZE as u64);
    let whole = u32::try_from(blocks).ok().filter(|blocks| *blocks <= SEGMENT_BLOCKS);
    let Some(blocks) = whole.filter(|_| rest == 0) else {
        let expected = "whole pages of 8192 bytes, at most 1 GiB";
        let (page, found) = (offset + len - rest, format!("{len} bytes of {rel}"));
        return Err(StorageError::corrupt(path, page, "relation file", expected, found).into());
    };
    if segment >= u32::MAX / SEGMENT_BLOCKS {
        let expected = "a segment whose blocks have 32-bit numbers";
        return Err(
            StorageError::corrupt(path, *offset, "relation segment", expected, segment).into()
        );
    }
    Ok(RelationFile { rel, segment, blocks, path: path.clone(), offset: *offset })
}

/// Whether a file continues the one before it, of the same fork.
fn follows(before: Option<&RelationFile>, file: &RelationFile) -> bool {
    match before.filter(|before| before.rel == file.rel) {
        Some(before) => file.segment == before.segment + 1 && before.blocks == SEGMENT_BLOCKS,
        None => file.segment == 0,
    }
}

/// Drops files behind the first one of a fork that is not full: a fork may grow and be truncated
/// while it is copied. PostgreSQL ignores such files, too; the log has their changes.
fn keep_active(files: &mut Vec<RelationFile>) {
    let mut before: Option<RelationFile> = None;
    files.retain(|file| {
        let is_active = follows(before.as_ref(), file);
        if is_active {
            before = Some(file.clone());
        }
        is_active
    });
}

/// Checks that the segments of a fork count from 0 and that all but the last one with blocks are
/// full. A truncation leaves empty segments behind.
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
