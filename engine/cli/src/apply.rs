//! [`Applier`]: one record of the log into the timeline, committed at the record's end.
//!
//! | the record has | the timeline gets, at the record's end |
//! |---|---|
//! | an image that redo restores | an image |
//! | another block reference, or an implied change of a visibility map page | a delta, the whole record |
//! | a truncation, or drops | tombstones; they come first, a map page's change after them |
//! | a database that is dropped | a tombstone for each fork of it that has pages |
//! | a database that is copied by files | for each page of the source: its image, or else a will_init delta, this record |
//!
//! A page of a copied database whose source has to be redone is a delta that needs nothing older *of its own*: its redo is
//! a read of the source's page just before this record, which names the source.

use pagestrata::{Key, Kind, Lsn, Reader, Scratch, Timeline, Value, WriteLease};
use pagestrata_postgres::{
    Error as PostgresError, Fork, PageVersions, Record, RelFork, RelationEvent, relation_events,
};
use serde::Serialize;

use crate::Result;

/// What went into a timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Records.
    pub records: u64,
    /// Images.
    pub images: u64,
    /// Deltas.
    pub deltas: u64,
    /// Bytes of images and deltas.
    pub value_bytes: u64,
    /// Tombstones: ranges of blocks that are gone.
    pub drops: u64,
}

/// Applies records, one after the other.
pub(crate) struct Applier {
    versions: PageVersions,
    reader: Reader,
    scratch: Scratch,
    applied: Applied,
}

/// A lease and where a record puts things.
struct Target<'a, 't> {
    lease: &'a mut WriteLease<'t>,
    end: Lsn,
    applied: &'a mut Applied,
}

impl Target<'_, '_> {
    fn put(&mut self, key: Key, value: Value<'_>) -> Result<()> {
        self.lease.put(key, self.end, value)?;
        match value {
            Value::Image(_) => self.applied.images += 1,
            Value::Delta { .. } => self.applied.deltas += 1,
        }
        self.applied.value_bytes += value.bytes().len() as u64;
        Ok(())
    }

    fn drop_blocks(&mut self, rel: RelFork, first_block: u32) -> Result<()> {
        self.lease.drop_blocks(rel.object(), first_block, self.end)?;
        self.applied.drops += 1;
        Ok(())
    }
}

impl Applier {
    pub(crate) fn new(timeline: &Timeline) -> Applier {
        Applier {
            versions: PageVersions::new(),
            reader: timeline.reader(),
            scratch: Scratch::new(),
            applied: Applied::default(),
        }
    }

    pub(crate) fn applied(&self) -> Applied {
        self.applied
    }

    /// Puts what the record does, and commits it. Everything before it is committed.
    pub(crate) fn apply(&mut self, lease: &mut WriteLease<'_>, record: &Record<'_>) -> Result<()> {
        let Applier { versions, reader, scratch, applied } = self;
        let before = *applied;
        let end = record.end();
        let mut target = Target { lease, end, applied };
        relation_events(record, |event| match event {
            RelationEvent::Created { .. } => Ok(()),
            RelationEvent::Truncated { rel, first_block } => target.drop_blocks(rel, first_block),
            RelationEvent::Dropped { rel } => target.drop_blocks(rel, 0),
            RelationEvent::DatabaseDropped { database, tablespace } => {
                drop_database(reader, &mut target, tablespace, database)
            }
            RelationEvent::DatabaseCopied {
                database,
                tablespace,
                source_database,
                source_tablespace,
            } => {
                let source = (source_tablespace, source_database);
                let copy = Copy { source, to: (tablespace, database), record };
                copy_database(reader, scratch, &mut target, &copy)
            }
        })?;
        versions.versions(record, |key, value| target.put(key, value))?;
        versions.implied(record, |key, value| target.put(key, value))?;
        let changed = *applied != before;
        applied.records += 1;
        if changed {
            lease.commit(end)?.wait()?;
        }
        Ok(())
    }
}

/// Does everything that can fail about a record itself, and puts nothing.
pub(crate) fn dry_run(
    versions: &mut PageVersions,
    record: &Record<'_>,
) -> std::result::Result<(), PostgresError> {
    relation_events(record, |_| Ok::<_, PostgresError>(()))?;
    versions.versions(record, |_, _| Ok::<_, PostgresError>(()))?;
    versions.implied(record, |_, _| Ok(()))
}

/// The objects of a database's relations in a tablespace.
fn objects(tablespace: u32, database: u32) -> std::ops::Range<u128> {
    let first = RelFork { tablespace, database, relation: 0, fork: Fork::Main }.object();
    let last = RelFork { tablespace, database, relation: u32::MAX, fork: Fork::Init }.object();
    first..last + 1
}

fn drop_database(
    reader: &mut Reader,
    target: &mut Target<'_, '_>,
    tablespace: u32,
    database: u32,
) -> Result<()> {
    let guard = reader.pin();
    let mut last = None;
    for page in guard.scan(objects(tablespace, database), guard.last_record_lsn()) {
        let (key, _) = page?;
        if last.replace(key.object) != Some(key.object) {
            target.drop_blocks(RelFork::from_object(key.object)?, 0)?;
        }
    }
    Ok(())
}

/// A copy of a database's files; databases are (tablespace, database).
struct Copy<'r> {
    source: (u32, u32),
    to: (u32, u32),
    record: &'r Record<'r>,
}

fn copy_database(
    reader: &mut Reader,
    scratch: &mut Scratch,
    target: &mut Target<'_, '_>,
    copy: &Copy<'_>,
) -> Result<()> {
    let guard = reader.pin();
    let lsn = guard.last_record_lsn();
    for page in guard.scan(objects(copy.source.0, copy.source.1), lsn) {
        let (key, _) = page?;
        let rel = RelFork::from_object(key.object)?;
        let copied = RelFork { tablespace: copy.to.0, database: copy.to.1, ..rel };
        let versions = guard.history(key, lsn, scratch)?;
        let value = match versions.newest() {
            Some(newest) if newest.kind == Kind::Image => Value::Image(newest.bytes),
            _ => Value::Delta { bytes: copy.record.raw(), will_init: true },
        };
        target.put(copied.key(key.block), value)?;
    }
    Ok(())
}
