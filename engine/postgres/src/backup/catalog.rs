//! [`BaseBackup::named_files`]: which relation files a database's catalog can name.
//!
//! | file | what is read |
//! |---|---|
//! | `pg_filenode.map` | magic 0x592717, count i32, (oid, file number) each; crc32c at 504 |
//! | of `pg_class` (oid 1259) | of each tuple `t_xmin`, `t_xmax`, `t_infomask`, `relfilenode` |
//! | `pg_xact/<segment>` | 2 bits each: 0 none, 1 committed, 2 aborted, 3 part of another |
//! | `pg_twophase/` | whether there are prepared transactions, which have no state in `pg_xact` |
//!
//! A crash leaves files of the transactions that it cut off: PostgreSQL removes none of them, and
//! their records may be lost with the end of the log. No row that counts names such a file, so that
//! no server ever reads it.
//!
//! **Invariant:** in doubt a row counts: one that is taken for dead was certainly never committed,
//! or was deleted.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use pagestrata_layers::{
    Error as StorageError,
    storage::{SharedStorage, read_file},
};

use crate::{
    backup::base_backup::{BaseBackup, RelationFile},
    bytes::{u16_at, u32_at},
    error::Result,
    layout::{PAGE_SIZE, PD_LOWER, Page},
    rel::Fork,
};

const MAP_NAME: &str = "pg_filenode.map";
const MAP_MAGIC: u32 = 0x0059_2717;
const MAP_LEN: usize = 512;
const MAP_ENTRIES_MAX: usize = 62;
const MAP_CRC: usize = 8 + MAP_ENTRIES_MAX * 8;

const PG_CLASS: u32 = 1259;
/// `oid`, `relname`, and five columns of 4 bytes are before it.
const RELFILENODE: usize = 4 + 64 + 5 * 4;

const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_IS_MULTI: u16 = 0x1000;
const XMAX_LOCK_ONLY: u16 = 0x0080;

/// Transactions below are those of initdb, and frozen ones.
const FIRST_NORMAL_XID: u32 = 3;
/// Transactions of a file of `pg_xact`: 32 pages.
const XIDS_OF_SEGMENT: u32 = 32 * PAGE_SIZE as u32 * 4;

impl BaseBackup {
    /// The numbers of the files that the catalog of a database can name: those in its relation map,
    /// and those in every row of `pg_class` that is not certainly dead. Database 0 stands for the
    /// shared relations.
    ///
    /// `dir` is the data directory that this was opened with. None if it has no relation map, or no
    /// `pg_class`: then nothing is known.
    ///
    /// # Errors
    /// A file that cannot be read; a relation map that is damaged.
    pub fn named_files(&self, dir: &Path, database: u32) -> Result<Option<BTreeSet<u32>>> {
        let of_database = |file: &&RelationFile| file.rel.database == database;
        let parents = self.files().iter().filter(of_database).filter_map(|file| file.path.parent());
        let dirs: BTreeSet<&Path> = parents.collect();
        let mut map = None;
        for dir in dirs {
            let path = dir.join(MAP_NAME);
            if self.storage.exists(&path)? {
                map = Some(read_map(&self.storage, &path)?);
            }
        }
        let Some(map) = map else { return Ok(None) };
        let mut named: BTreeSet<u32> = map.iter().map(|(_, file)| *file).collect();
        if database == 0 {
            // Shared relations are all mapped.
            return Ok(Some(named));
        }
        let Some((_, pg_class)) = map.iter().find(|(oid, _)| *oid == PG_CLASS) else {
            return Ok(None);
        };
        let is_catalog =
            |file: &&RelationFile| file.rel.relation == *pg_class && file.rel.fork == Fork::Main;
        let mut transactions = Transactions::open(&self.storage, dir)?;
        let mut is_found = false;
        for file in self.files().iter().filter(of_database).filter(is_catalog) {
            is_found = true;
            let open = self.storage.open(&file.path)?;
            let mut page = [0; PAGE_SIZE];
            for block in 0..file.blocks {
                let offset = file.offset + u64::from(block) * PAGE_SIZE as u64;
                open.read_at(offset, &mut page)?;
                for row in Rows::of(&page) {
                    if !transactions.is_dead(&row)? {
                        named.insert(row.file);
                    }
                }
            }
        }
        Ok(is_found.then_some(named))
    }
}

/// Pairs of an oid and a file number.
fn read_map(storage: &SharedStorage, path: &Path) -> Result<Vec<(u32, u32)>> {
    let bytes = read_file(&**storage, path, MAP_LEN as u64)?;
    parse_map(&bytes).map_err(|(offset, expected, found)| {
        StorageError::corrupt(path, offset, "relation map", expected, found).into()
    })
}

fn parse_map(bytes: &[u8]) -> std::result::Result<Vec<(u32, u32)>, (u64, String, String)> {
    let wrong = |at: usize, expected: String, found: String| Err((at as u64, expected, found));
    if bytes.len() != MAP_LEN {
        return wrong(0, format!("{MAP_LEN} bytes"), bytes.len().to_string());
    }
    let number = |at| u32_at(bytes, at).unwrap_or_default();
    if number(0) != MAP_MAGIC {
        return wrong(0, format!("{MAP_MAGIC:#X}"), format!("{:#X}", number(0)));
    }
    let sum = crc32c::crc32c(&bytes[..MAP_CRC]);
    if number(MAP_CRC) != sum {
        return wrong(MAP_CRC, sum.to_string(), number(MAP_CRC).to_string());
    }
    let count = number(4) as usize;
    if count > MAP_ENTRIES_MAX {
        return wrong(4, format!("at most {MAP_ENTRIES_MAX} entries"), count.to_string());
    }
    Ok((0..count).map(|index| (number(8 + index * 8), number(12 + index * 8))).collect())
}

/// What is read of a row of `pg_class`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    xmin: u32,
    xmax: u32,
    infomask: u16,
    file: u32,
}

/// The rows of a page, as far as it makes sense.
struct Rows<'p> {
    page: &'p Page,
    next: usize,
    end: usize,
}

impl<'p> Rows<'p> {
    fn of(page: &'p Page) -> Rows<'p> {
        let lower = usize::from(u16_at(page, PD_LOWER).unwrap_or_default());
        Rows { page, next: 24, end: lower.min(PAGE_SIZE) }
    }

    fn row(&self, pointer: u32) -> Option<Row> {
        let (offset, len) = ((pointer & 0x7FFF) as usize, (pointer >> 17) as usize);
        let tuple = self.page.get(offset..offset.checked_add(len)?)?;
        let file = usize::from(*tuple.get(22)?) + RELFILENODE;
        (pointer >> 15 & 3 == 1).then_some(Row {
            xmin: u32_at(tuple, 0)?,
            xmax: u32_at(tuple, 4)?,
            infomask: u16_at(tuple, 20)?,
            file: u32_at(tuple, file)?,
        })
    }
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        while self.next + 4 <= self.end {
            let pointer = u32_at(self.page, self.next)?;
            self.next += 4;
            if let Some(row) = self.row(pointer) {
                return Some(row);
            }
        }
        None
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Committed,
    NotCommitted,
    Unknown,
}

/// `pg_xact`, read by segments.
struct Transactions<'s> {
    storage: &'s SharedStorage,
    dir: PathBuf,
    /// Whether a transaction without a state may be prepared.
    has_prepared: bool,
    segments: HashMap<u32, Option<Vec<u8>>>,
}

impl<'s> Transactions<'s> {
    fn open(storage: &'s SharedStorage, dir: &Path) -> Result<Transactions<'s>> {
        let prepared = dir.join("pg_twophase");
        let has_prepared = storage.exists(&prepared)? && !storage.list(&prepared)?.is_empty();
        let segments = HashMap::new();
        Ok(Transactions { storage, dir: dir.join("pg_xact"), has_prepared, segments })
    }

    /// Whether a row is certainly of a transaction that did not commit, or was deleted by one that
    /// did.
    fn is_dead(&mut self, row: &Row) -> Result<bool> {
        let Row { xmin, xmax, infomask, .. } = *row;
        let made = match infomask & (XMIN_COMMITTED | XMIN_INVALID) {
            0 => self.outcome(xmin)?,
            XMIN_INVALID => Outcome::NotCommitted,
            _ => Outcome::Committed,
        };
        if made == Outcome::NotCommitted {
            return Ok(true);
        }
        if infomask & (XMAX_INVALID | XMAX_IS_MULTI | XMAX_LOCK_ONLY) != 0 || xmax == 0 {
            return Ok(false);
        }
        Ok(infomask & XMAX_COMMITTED != 0 || self.outcome(xmax)? == Outcome::Committed)
    }

    fn outcome(&mut self, xid: u32) -> Result<Outcome> {
        if xid < FIRST_NORMAL_XID {
            return Ok(Outcome::Committed);
        }
        let segment = xid / XIDS_OF_SEGMENT;
        if !self.segments.contains_key(&segment) {
            let path = self.dir.join(format!("{segment:04X}"));
            let bytes = match self.storage.exists(&path)? {
                true => Some(read_file(&**self.storage, &path, u64::from(XIDS_OF_SEGMENT / 4))?),
                false => None,
            };
            self.segments.insert(segment, bytes);
        }
        let bytes = self.segments.get(&segment).and_then(Option::as_ref);
        let byte = bytes.and_then(|bytes| bytes.get((xid % XIDS_OF_SEGMENT / 4) as usize));
        Ok(match byte.map(|byte| byte >> (xid % 4 * 2) & 3) {
            Some(1) => Outcome::Committed,
            Some(2) => Outcome::NotCommitted,
            // A crash ended it, or it is prepared.
            Some(0) if !self.has_prepared => Outcome::NotCommitted,
            _ => Outcome::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use pagestrata_layers::storage::RealStorage;

    use super::*;

    /// A map with these entries, by the layout of `relmapper.c`.
    fn map(entries: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; MAP_LEN];
        bytes[..4].copy_from_slice(&MAP_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&(entries.len() as u32).to_le_bytes());
        for (at, (oid, file)) in entries.iter().enumerate() {
            bytes[8 + at * 8..12 + at * 8].copy_from_slice(&oid.to_le_bytes());
            bytes[12 + at * 8..16 + at * 8].copy_from_slice(&file.to_le_bytes());
        }
        let sum = crc32c::crc32c(&bytes[..504]);
        bytes[504..508].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_relation_map_is_read_or_refused() {
        let entries = [(1259, 16400), (1247, 1247)];
        let good = map(&entries);
        assert_eq!(parse_map(&good).unwrap(), entries);
        for bit in 0..508 * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_map(&bytes).is_err(), "bit {bit}");
        }
        assert!(parse_map(&good[..511]).is_err() && parse_map(&[]).is_err());
        assert!(parse_map(&map(&[(1, 2); 62])).is_ok());
        let mut many = map(&[(1, 2); 62]);
        many[4] = 63;
        let sum = crc32c::crc32c(&many[..504]);
        many[504..508].copy_from_slice(&sum.to_le_bytes());
        assert!(parse_map(&many).is_err(), "63 entries do not fit");
    }

    #[test]
    fn rows_of_a_page_that_makes_no_sense_are_passed_over() {
        let mut page = [0xFF; PAGE_SIZE];
        assert_eq!(Rows::of(&page).count(), 0);
        page.fill(0);
        page[12..14].copy_from_slice(&36_u16.to_le_bytes());
        let pointer =
            |offset: u32, len: u32, state: u32| (offset | state << 15 | len << 17).to_le_bytes();
        // One tuple; one that is dead; one that ends behind the page.
        page[24..28].copy_from_slice(&pointer(4000, 200, 1));
        page[28..32].copy_from_slice(&pointer(5000, 200, 3));
        page[32..36].copy_from_slice(&pointer(8100, 200, 1));
        page[4000..4004].copy_from_slice(&77_u32.to_le_bytes());
        page[4022] = 32;
        page[4000 + 32 + 88..][..4].copy_from_slice(&16400_u32.to_le_bytes());
        let expected = Row { xmin: 77, xmax: 0, infomask: 0, file: 16400 };
        assert_eq!(Rows::of(&page).collect::<Vec<_>>(), [expected]);
        page[4022] = 255;
        assert_eq!(Rows::of(&page).count(), 0, "its columns would be behind it");
    }

    #[test]
    fn only_what_is_certainly_dead_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg_xact")).unwrap();
        // From transaction 100 on: committed, aborted, none, part of another.
        let mut bytes = vec![0; PAGE_SIZE];
        bytes[25] = 1 | 2 << 2 | 3 << 6;
        fs::write(dir.path().join("pg_xact/0000"), bytes).unwrap();
        let storage: SharedStorage = Arc::new(RealStorage);
        let mut transactions = Transactions::open(&storage, dir.path()).unwrap();
        let mut is_dead = |xmin, xmax, infomask| {
            transactions.is_dead(&Row { xmin, xmax, infomask, file: 1 }).unwrap()
        };
        let (committed, aborted, none, part, unknown) = (100, 101, 102, 103, 1 << 20);
        for (xmin, expected) in [
            (committed, false),
            (aborted, true),
            (none, true),
            (part, false),
            (unknown, false),
            (2, false),
        ] {
            assert_eq!(is_dead(xmin, 0, 0), expected, "made by {xmin}");
        }
        for (xmax, expected) in
            [(committed, true), (aborted, false), (none, false), (part, false), (unknown, false)]
        {
            assert_eq!(is_dead(committed, xmax, 0), expected, "deleted by {xmax}");
        }
        // Hints, and deletions that are none.
        assert!(is_dead(committed, 0, XMIN_INVALID));
        assert!(!is_dead(aborted, 0, XMIN_COMMITTED));
        assert!(!is_dead(aborted, 0, XMIN_COMMITTED | XMIN_INVALID), "frozen");
        assert!(is_dead(committed, unknown, XMAX_COMMITTED));
        for flag in [XMAX_INVALID, XMAX_IS_MULTI, XMAX_LOCK_ONLY] {
            assert!(!is_dead(committed, committed, flag), "{flag:#X}");
        }
        // A prepared transaction has no state, either.
        fs::create_dir(dir.path().join("pg_twophase")).unwrap();
        fs::write(dir.path().join("pg_twophase/00000066"), "").unwrap();
        let mut transactions = Transactions::open(&storage, dir.path()).unwrap();
        assert!(!transactions.is_dead(&Row { xmin: none, xmax: 0, infomask: 0, file: 1 }).unwrap());
    }
}
