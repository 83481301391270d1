//! Archives of `pg_basebackup -Ft`, read in place. Nothing is unpacked, so that no name in an
//! archive can lead out of a directory.
//!
//! ```text
//! base.tar     names within the data directory; instead of tablespaces, tablespace_map or links
//!              in pg_tblspc/
//! <oid>.tar    beside it, for each of these: names within the tablespace's directory
//! ```
//!
//! **Invariants:** each entry's bytes are wholly in the archive, and the archive has its end; what
//! is not a plain file is refused where a file is needed, and so are paths that lead out of the
//! directory, wherever they are.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use pagestrata_layers::{
    Error as StorageError,
    storage::{File, SharedStorage},
};
use tar::{Archive, Entry, EntryType};

use crate::{
    backup::files::{Part, Role, mapped_tablespaces, oid},
    error::{Error, Result},
};

/// Longest extension header of an entry, in bytes.
const EXTENSION_LEN_MAX: u64 = 1 << 20;
const SPARSE: &str = "expected a whole file, found a sparse one";
const LONG: &str = "expected an extension of at most 1 MiB, found a longer one";

/// Lists the files in an archive and in those of its tablespaces beside it.
pub(super) fn in_archive(storage: &SharedStorage, path: &Path) -> Result<Vec<Part>> {
    let mut base = Contents::read(storage, path, "")?;
    let mut tablespaces = mapped_tablespaces(storage, &base.parts)?;
    tablespaces.append(&mut base.links);
    tablespaces.sort_unstable();
    tablespaces.dedup();
    for tablespace in tablespaces {
        let beside = path.with_file_name(format!("{tablespace}.tar"));
        if !storage.exists(&beside)? {
            return Err(Error::MissingTablespace { base: path.to_owned(), tablespace });
        }
        let within = format!("pg_tblspc/{tablespace}/");
        base.parts.append(&mut Contents::read(storage, &beside, &within)?.parts);
    }
    Ok(base.parts)
}

/// The files that matter in an archive.
struct Contents<'a> {
    path: &'a Path,
    /// The archive's length.
    len: u64,
    /// The directory that its names are in.
    within: &'a str,
    parts: Vec<Part>,
    /// Tablespaces that are links.
    links: Vec<u32>,
}

impl<'a> Contents<'a> {
    fn read(storage: &SharedStorage, path: &'a Path, within: &'a str) -> Result<Contents<'a>> {
        let file = storage.open(path)?;
        let len = file.len()?;
        let mut contents = Contents { path, len, within, parts: Vec::new(), links: Vec::new() };
        let mut archive = Archive::new(Source { file, at: 0, len, has_ended: false });
        let mut at = 0;
        let entries = archive.entries_with_seek().map_err(|error| contents.broken(at, error))?;
        // Raw: whatever an entry's extensions say, its own header is believed.
        for entry in entries.raw(true) {
            let entry = entry.map_err(|error| contents.broken(at, error))?;
            at = entry.raw_header_position();
            contents.add(entry)?;
        }
        if archive.into_inner().has_ended {
            let expected = "its end, a block of zeros";
            return Err(StorageError::corrupt(path, len, "tar archive", expected, "none").into());
        }
        Ok(contents)
    }

    fn add(&mut self, mut entry: Entry<'_, impl Read>) -> Result<()> {
        let (kind, offset, len) =
            (entry.header().entry_type(), entry.raw_file_position(), entry.size());
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            let expected = format!("{len} bytes of an entry");
            let found = self.len.saturating_sub(offset);
            return Err(
                StorageError::corrupt(self.path, offset, "tar archive", expected, found).into()
            );
        }
        if kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            if len > EXTENSION_LEN_MAX {
                return Err(self.refused(&entry, LONG));
            }
            let mut extension = Vec::new();
            let read = entry.read_to_end(&mut extension);
            read.map_err(|error| self.broken(offset, error))?;
            let is_sparse = extension.windows(10).any(|part| part == b"GNU.sparse");
            return if is_sparse { Err(self.refused(&entry, SPARSE)) } else { Ok(()) };
        }
        if kind.is_gnu_sparse() {
            return Err(self.refused(&entry, SPARSE));
        }
        let Some(name) = name_of(&entry.path_bytes()) else {
            return Err(
                self.refused(&entry, "expected a path within the directory, found one out of it")
            );
        };
        let name = format!("{}{name}", self.within);
        if let Some(tablespace) = name.strip_prefix("pg_tblspc/").and_then(oid)
            && kind.is_symlink()
        {
            self.links.push(tablespace);
        }
        let Some(role) = Role::of(&name) else { return Ok(()) };
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return Err(self.refused(&entry, not_plain(kind)));
        }
        self.parts.push(Part { role, path: self.path.to_owned(), offset, len });
        Ok(())
    }

    fn refused(&self, entry: &Entry<'_, impl Read>, wrong: &'static str) -> Error {
        Error::ArchiveEntry {
            archive: self.path.to_owned(),
            offset: entry.raw_header_position(),
            name: String::from_utf8_lossy(&entry.path_bytes()).into(),
            wrong,
        }
    }

    /// What the archive's reader says: an error of its file, or of what is in it behind `at`.
    fn broken(&self, at: u64, error: io::Error) -> Error {
        let expected = "a tar as pg_basebackup writes it, not compressed";
        match error.downcast::<StorageError>() {
            Ok(error) => error.into(),
            Err(error) => {
                StorageError::corrupt(self.path, at, "tar archive", expected, error).into()
            }
        }
    }
}

fn not_plain(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink | EntryType::Link => "expected a plain file, found a link",
        EntryType::Directory => "expected a plain file, found a directory",
        _ => "expected a plain file, found something else",
    }
}

/// The path of an entry without what does not lead anywhere; none if it is absolute or leads up.
fn name_of(path: &[u8]) -> Option<String> {
    // A name that is no UTF-8 is none of a file that matters.
    let path = String::from_utf8_lossy(path);
    let mut parts: Vec<&str> = path.split('/').collect();
    if path.starts_with('/') || parts.contains(&"..") {
        return None;
    }
    parts.retain(|part| !matches!(*part, "" | "."));
    Some(parts.join("/"))
}

/// A file as a stream.
struct Source {
    file: Box<dyn File>,
    at: u64,
    len: u64,
    /// More was asked for than there is.
    has_ended: bool,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        self.has_ended |= len == 0 && !buffer.is_empty();
        self.file.read_at(self.at, &mut buffer[..len]).map_err(io::Error::other)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for (path, name) in [
            ("./base/5/1259", Some("base/5/1259")),
            ("base//5/./1259", Some("base/5/1259")),
            ("./", Some("")),
            ("global/pg_control", Some("global/pg_control")),
            ("/base/5/1259", None),
            ("base/../../x", None),
            ("..", None),
        ] {
            assert_eq!(name_of(path.as_bytes()).as_deref(), name, "{path}");
        }
    }
}
