//! [`RelationEvent`]: blocks and files that come and go as a whole, without a block reference.
//!
//! | record | main data |
//! |---|---|
//! | Storage CREATE | tablespace, database, relation, fork |
//! | Storage TRUNCATE | blocks that stay, tablespace, database, relation, flags (1 main, 2 visibility map, 4 free space map) |
//! | commit, abort, also of a prepared transaction | time u64; xinfo u32 if info has 0x80; then, each if xinfo has its bit: 1 database (8 bytes), 2 subtransactions (count, 4 bytes each), 4 relations dropped (count, 12 bytes each), and more |
//! | Database CREATE_FILE_COPY | database, tablespace, source database, source tablespace |
//! | Database DROP | database, count, tablespaces |
//!
//! The free space map is not logged, so a truncation leaves its blocks alone. PostgreSQL ignores
//! and repairs entries for blocks that do not exist.

use crate::{
    bytes::Cursor,
    error::Error,
    layout::first_map_block_gone,
    manager::ManagerId,
    rel::{Fork, RelFork},
    wal::record::Record,
};

/// Bytes of a truncation's main data.
pub(crate) const TRUNCATE_LEN: usize = 20;
/// The flag of a truncation for the visibility map.
pub(crate) const TRUNCATES_MAP: u32 = 2;
const TRUNCATES_MAIN: u32 = 1;

const HAS_XINFO: u8 = 0x80;
const XINFO_DATABASE: u32 = 1;
const XINFO_SUBTRANSACTIONS: u32 = 2;
const XINFO_RELATIONS: u32 = 4;

/// What happened to blocks as a whole, at a record's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelationEvent {
    /// The fork has a file now, without a block.
    Created {
        /// Which fork.
        rel: RelFork,
    },
    /// The fork was cut: these blocks and all behind are gone.
    Truncated {
        /// Which fork.
        rel: RelFork,
        /// The first block that is gone, and the fork's size.
        first_block: u32,
    },
    /// The fork is gone. There is one event for each fork that a relation can have.
    Dropped {
        /// Which fork.
        rel: RelFork,
    },
    /// A database's files in a tablespace were copied to another's, as they were in the source at
    /// this Lsn.
    DatabaseCopied {
        /// The new database.
        database: u32,
        /// Its tablespace.
        tablespace: u32,
        /// The database that was copied.
        source_database: u32,
        /// The tablespace that was copied.
        source_tablespace: u32,
    },
    /// A database's files in a tablespace are gone.
    DatabaseDropped {
        /// The database.
        database: u32,
        /// The tablespace.
        tablespace: u32,
    },
}

/// Whether `record` truncates a relation.
pub(crate) fn is_truncate(record: &Record<'_>) -> bool {
    record.manager() == ManagerId::STORAGE && record.info() & 0xF0 == 0x20
}

/// Calls `sink` with each event of `record`, which takes effect at [`Record::end`].
///
/// Records with events have no block references.
///
/// # Errors
/// [`Error::Corrupt`] if its main data is too short for what it announces, or what `sink` returned.
#[inline]
pub fn relation_events<E: From<Error>>(
    record: &Record<'_>,
    sink: impl FnMut(RelationEvent) -> Result<(), E>,
) -> Result<(), E> {
    match (record.manager(), record.info() & 0xF0) {
        (ManagerId::STORAGE, 0x10 | 0x20) => storage_events(record, sink),
        (ManagerId::TRANSACTION, info) if matches!(info & 0x70, 0x00 | 0x20 | 0x30 | 0x40) => {
            drops(record, sink)
        }
        (ManagerId::DATABASE, 0x00 | 0x20) => database_events(record, sink),
        _ => Ok(()),
    }
}

/// Reads numbers off the main data; too few of them are an error.
struct Main<'r>(Cursor<'r>, &'r Record<'r>);

impl<'r> Main<'r> {
    fn of(record: &'r Record<'r>) -> Main<'r> {
        Main(Cursor(record.main_data()), record)
    }

    fn needed<T>(&self, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| {
            let found = format!("{} bytes", self.1.main_data().len());
            Error::corrupt(self.1.place(), "main data", "more of it", found)
        })
    }

    fn u32(&mut self) -> Result<u32, Error> {
        let value = self.0.u32();
        self.needed(value)
    }

    fn skip(&mut self, count: u32, len: usize) -> Result<(), Error> {
        let len = (count as usize).checked_mul(len);
        let taken = len.and_then(|len| self.0.take(len));
        self.needed(taken).map(|_| ())
    }

    fn rel(&mut self, fork: Fork) -> Result<RelFork, Error> {
        let (tablespace, database, relation) = (self.u32()?, self.u32()?, self.u32()?);
        Ok(RelFork { tablespace, database, relation, fork })
    }
}

fn storage_events<E: From<Error>>(
    record: &Record<'_>,
    mut sink: impl FnMut(RelationEvent) -> Result<(), E>,
) -> Result<(), E> {
    let mut main = Main::of(record);
    if !is_truncate(record) {
        let rel = main.rel(Fork::Main)?;
        let number = main.u32()?;
        let fork = u8::try_from(number).ok().and_then(Fork::from_number);
        let fork = fork.ok_or_else(|| Error::corrupt(record.place(), "fork", "0 to 3", number))?;
        return sink(RelationEvent::Created { rel: rel.with_fork(fork) });
    }
    let blocks = main.u32()?;
    let rel = main.rel(Fork::Main)?;
    let flags = main.u32()?;
    if flags & TRUNCATES_MAIN != 0 {
        sink(RelationEvent::Truncated { rel, first_block: blocks })?;
    }
    if flags & TRUNCATES_MAP != 0 {
        let (rel, first_block) = (rel.with_fork(Fork::Vm), first_map_block_gone(blocks));
        sink(RelationEvent::Truncated { rel, first_block })?;
    }
    Ok(())
}

fn drops<E: From<Error>>(
    record: &Record<'_>,
    mut sink: impl FnMut(RelationEvent) -> Result<(), E>,
) -> Result<(), E> {
    if record.info() & HAS_XINFO == 0 {
        return Ok(());
    }
    let mut main = Main::of(record);
    main.skip(1, 8)?;
    let xinfo = main.u32()?;
    if xinfo & XINFO_RELATIONS == 0 {
        return Ok(());
    }
    if xinfo & XINFO_DATABASE != 0 {
        main.skip(1, 8)?;
    }
    if xinfo & XINFO_SUBTRANSACTIONS != 0 {
        let count = main.u32()?;
        main.skip(count, 4)?;
    }
    for _ in 0..main.u32()? {
        let rel = main.rel(Fork::Main)?;
        for fork in Fork::ALL {
            sink(RelationEvent::Dropped { rel: rel.with_fork(fork) })?;
        }
    }
    Ok(())
}

fn database_events<E: From<Error>>(
    record: &Record<'_>,
    mut sink: impl FnMut(RelationEvent) -> Result<(), E>,
) -> Result<(), E> {
    let mut main = Main::of(record);
    let database = main.u32()?;
    if record.info() & 0xF0 == 0 {
        let tablespace = main.u32()?;
        let (source_database, source_tablespace) = (main.u32()?, main.u32()?);
        return sink(RelationEvent::DatabaseCopied {
            database,
            tablespace,
            source_database,
            source_tablespace,
        });
    }
    for _ in 0..main.u32()? {
        sink(RelationEvent::DatabaseDropped { database, tablespace: main.u32()? })?;
    }
    Ok(())
}
