//! The files of a backup that matter here, and where their bytes are: in a file, or within an
//! archive.
//!
//! | path within the data directory | is |
//! |---|---|
//! | `PG_VERSION`, `global/pg_control`, `backup_label`, `tablespace_map` | read by name |
//! | `global/<file>` | a relation's file: tablespace 1664, database 0 |
//! | `base/<database>/<file>` | tablespace 1663, the directory's database |
//! | `pg_tblspc/<tablespace>/PG_15_<catalogs>/<database>/<file>` | the directories' |
//!
//! A relation fork is `<relation>[_fsm|_vm|_init]`, from its second GiB on in files `.1`, `.2`,
//! .... Everything else (temporary relations, `pg_filenode.map`, `pg_internal.init`, the log) is
//! passed over.

use std::path::{Path, PathBuf};

use pagestrata_layers::{Error as StorageError, storage::SharedStorage};

use crate::{
    error::{Error, Result},
    rel::{Fork, RelFork},
};

const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;
const VERSION_DIR: &str = "PG_15_";
const MAP_LEN_MAX: u64 = 1 << 20;

/// Role of a file in a data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Role {
    Version,
    Control,
    Label,
    TablespaceMap,
    Relation { rel: RelFork, segment: u32 },
}

impl Role {
    /// By the path within the data directory; none for what does not matter.
    pub(super) fn of(path: &str) -> Option<Role> {
        let parts: Vec<&str> = path.split('/').collect();
        let relation = |tablespace, database, name| {
            let (relation, fork, segment) = parse_name(name)?;
            let rel = RelFork { tablespace, database, relation, fork };
            Some(Role::Relation { rel, segment })
        };
        match parts[..] {
            ["PG_VERSION"] => Some(Role::Version),
            ["backup_label"] => Some(Role::Label),
            ["tablespace_map"] => Some(Role::TablespaceMap),
            ["global", "pg_control"] => Some(Role::Control),
            ["global", name] => relation(GLOBAL_TABLESPACE, 0, name),
            ["base", database, name] => relation(DEFAULT_TABLESPACE, oid(database)?, name),
            ["pg_tblspc", tablespace, version, database, name]
                if version.starts_with(VERSION_DIR) =>
            {
                relation(oid(tablespace)?, oid(database)?, name)
            }
            _ => None,
        }
    }
}

/// A file of a backup, and where its bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) role: Role,
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Part {
    /// Reads all of a small file.
    pub(super) fn read(&self, storage: &SharedStorage, len_max: u64) -> Result<Vec<u8>> {
        let Part { path, offset, len, .. } = self;
        let fits = usize::try_from(*len).ok().filter(|_| *len <= len_max);
        let Some(fits) = fits else {
            let expected = format!("at most {len_max} bytes");
            return Err(StorageError::corrupt(path, *offset, "file length", expected, len).into());
        };
        let mut bytes = vec![0; fits];
        storage.open(path)?.read_at(*offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// The tablespaces that a backup's map names; none without a map.
pub(super) fn mapped_tablespaces(storage: &SharedStorage, parts: &[Part]) -> Result<Vec<u32>> {
    let Some(map) = parts.iter().find(|part| part.role == Role::TablespaceMap) else {
        return Ok(Vec::new());
    };
    let bytes = map.read(storage, MAP_LEN_MAX)?;
    parse_map(&bytes).map_err(|found| {
        let expected = "lines of a tablespace's number and its path";
        StorageError::corrupt(&map.path, map.offset, "tablespace map", expected, found).into()
    })
}

/// Numbers at the starts of lines; a line goes on behind an end that has a backslash before it.
fn parse_map(bytes: &[u8]) -> std::result::Result<Vec<u32>, String> {
    let mut tablespaces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut is_escaped = false;
        let end = rest.iter().position(|byte| {
            let ends = *byte == b'\n' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            ends
        });
        let line = &rest[..end.unwrap_or(rest.len())];
        let text = String::from_utf8_lossy(line);
        let number = text.split_once(' ').and_then(|(number, _)| oid(number));
        match (number, end) {
            (Some(number), Some(end)) => {
                tablespaces.push(number);
                rest = &rest[end + 1..];
            }
            _ => return Err(format!("{text:?}")),
        }
    }
    Ok(tablespaces)
}

/// Lists the files that matter in a data directory.
pub(super) fn in_directory(storage: &SharedStorage, dir: &Path) -> Result<Vec<Part>> {
    let mut found = Directory { storage, dir, parts: Vec::new() };
    found.add("PG_VERSION")?;
    found.add("global/pg_control")?;
    for name in ["backup_label", "tablespace_map"] {
        if storage.exists(&dir.join(name))? {
            found.add(name)?;
        }
    }
    found.add_relations("global")?;
    found.add_databases("base")?;
    if storage.exists(&dir.join("pg_tblspc"))? {
        for tablespace in found.numbers("pg_tblspc")? {
            let tablespace = format!("pg_tblspc/{tablespace}");
            for version in storage.list(&dir.join(&tablespace))? {
                if version.starts_with(VERSION_DIR) {
                    found.add_databases(&format!("{tablespace}/{version}"))?;
                }
            }
        }
    }
    for tablespace in mapped_tablespaces(storage, &found.parts)? {
        if !storage.exists(&dir.join(format!("pg_tblspc/{tablespace}")))? {
            return Err(Error::MissingTablespace { base: dir.to_owned(), tablespace });
        }
    }
    Ok(found.parts)
}

struct Directory<'a> {
    storage: &'a SharedStorage,
    dir: &'a Path,
    parts: Vec<Part>,
}

impl Directory<'_> {
    /// A file by its path within the directory, if it matters.
    fn add(&mut self, path: &str) -> Result<()> {
        let Some(role) = Role::of(path) else { return Ok(()) };
        let path = self.dir.join(path);
        let len = self.storage.open(&path)?.len()?;
        self.parts.push(Part { role, path, offset: 0, len });
        Ok(())
    }

    fn add_relations(&mut self, within: &str) -> Result<()> {
        for name in self.storage.list(&self.dir.join(within))? {
            if parse_name(&name).is_some() {
                self.add(&format!("{within}/{name}"))?;
            }
        }
        Ok(())
    }

    fn add_databases(&mut self, within: &str) -> Result<()> {
        for database in self.numbers(within)? {
            self.add_relations(&format!("{within}/{database}"))?;
        }
        Ok(())
    }

    /// The names of a directory that are numbers.
    fn numbers(&self, within: &str) -> Result<Vec<String>> {
        let mut names = self.storage.list(&self.dir.join(within))?;
        names.retain(|name| oid(name).is_some());
        Ok(names)
    }
}

/// A name that is an object's number and nothing else.
pub(super) fn oid(name: &str) -> Option<u32> {
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

    #[test]
    fn paths_decide_what_a_file_is() {
        let relation = |tablespace, database, relation| {
            let rel = RelFork { tablespace, database, relation, fork: Fork::Main };
            Some(Role::Relation { rel, segment: 0 })
        };
        assert_eq!(Role::of("global/1262"), relation(1664, 0, 1262));
        assert_eq!(Role::of("base/5/1259"), relation(1663, 5, 1259));
        assert_eq!(Role::of("pg_tblspc/9/PG_15_202209061/5/7"), relation(9, 5, 7));
        assert_eq!(Role::of("global/pg_control"), Some(Role::Control));
        for other in [
            "",
            "base/5",
            "base/5/PG_VERSION",
            "base/x/1259",
            "1259",
            "pg_tblspc/9/PG_14_202107181/5/7",
            "pg_tblspc/9",
            "pg_wal/1",
            "x/backup_label",
            "global//pg_control",
        ] {
            assert_eq!(Role::of(other), None, "{other}");
        }
    }

    #[test]
    fn a_tablespace_map_names_numbers() {
        assert_eq!(parse_map(b""), Ok(vec![]));
        assert_eq!(parse_map(b"16385 /a b\n7 /c\\\n9 x\\\\\n8 /d\n"), Ok(vec![16385, 7, 8]));
        for damaged in
            [&b"16385 /a"[..], b"x /a\n", b"\n", b"0 /a\n", b"7\n", b"7 /a\\\n", b"\xFF /\n"]
        {
            assert!(parse_map(damaged).is_err(), "{damaged:?}");
        }
    }
}
