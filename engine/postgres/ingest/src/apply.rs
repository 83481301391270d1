//! [`Applier`]: one record of the log into the timeline, committed at the record's end.
//!
//! | the record has | the timeline gets, at the record's end |
//! |---|---|
//! | an image that redo restores | an image |
//! | another block reference, or an implied change of a visibility map page | a delta, the whole record; with will_init if the page was not there before |
//! | a block behind the end of its fork, a new fork | the fork's size |
//! | a truncation, or drops | tombstones and sizes; they come first, a map page's change after them |
//! | a database that is dropped | tombstones for each fork of it |
//! | a database that is copied by files | tombstones for what is in its place, and each page of the source, as an image |
//! | the end of the backup that is the base | the identity, now consistent |
//! | other settings, or the checkpoint of a server that was shut down | the identity ([`Settings`]) |

pub(crate) mod consistency;
mod made_pages;

use std::{collections::HashSet, sync::Arc};

use pagestrata::{FlushRedo, Key, Lsn, Reader, Scratch, Timeline, Value, WriteLease};
use pagestrata_postgres::{
    Error as PostgresError, Fork, PageRedo, PageVersions, Record, RelFork, RelPage, RelationEvent,
    backup_ended_by, is_known, relation_events,
};
use serde::Serialize;

use self::consistency::{Consistency, ConsistencyTally};
use crate::{
    Result,
    identity::{IDENTITY_KEY, Identity},
    settings::Settings,
    sizes::{Sizes, forks_at, objects, size_key, size_value},
};

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
    /// Changes of a fork's size.
    pub sizes: u64,
    /// Tombstones: ranges of blocks that are gone.
    pub drops: u64,
    /// Images that are only there for checking, compared with redo; none unless that was asked for.
    pub checked: ConsistencyTally,
}

/// Applies records, one after the other.
pub(crate) struct Applier {
    versions: PageVersions,
    settings: Settings,
    redo: PageRedo,
    applied: Applied,
    store: Known,
    consistency: Option<Consistency>,
}

/// What is in the timeline already, as far as that is known.
struct Known {
    timeline: Timeline,
    reader: Reader,
    scratch: Scratch,
    sizes: Sizes,
    /// Pages of the smaller forks that have a version to start from.
    based: HashSet<Key>,
}

impl Known {
    /// Whether the page was never written; it is there from now on.
    fn is_fresh(&mut self, page: RelPage) -> Result<bool> {
        let RelPage { rel, block } = page;
        let blocks = self.sizes.get(rel, &mut self.reader, &mut self.scratch)?.unwrap_or(0);
        if block >= blocks {
            self.sizes.set(rel, block.saturating_add(1));
        }
        if rel.fork == Fork::Main {
            return Ok(block >= blocks);
        }
        // A map can have holes, and a record that clears a bit does not say that it makes the page.
        if !self.based.insert(page.key()) {
            return Ok(false);
        }
        if block >= blocks {
            return Ok(true);
        }
        let guard = self.reader.pin();
        let versions = guard.history(page.key(), guard.last_record_lsn(), &mut self.scratch)?;
        Ok(versions.is_empty())
    }

    /// Blocks from here on are gone.
    fn cut(&mut self, rel: RelFork, first_block: u32) {
        self.based.retain(|key| key.object != rel.object() || key.block < first_block);
    }
}

/// A lease and where a record puts things.
struct Target<'a, 't> {
    lease: &'a mut WriteLease<'t>,
    end: Lsn,
    applied: &'a mut Applied,
    known: &'a mut Known,
    consistency: Option<&'a mut Consistency>,
}

impl Target<'_, '_> {
    fn put(&mut self, key: Key, value: Value<'_>) -> Result<()> {
        self.lease.put(key, self.end, value)?;
        if let Some(consistency) = &mut self.consistency {
            consistency.put(key, self.end, value);
        }
        match value {
            Value::Image(_) => self.applied.images += 1,
            Value::Delta { .. } => self.applied.deltas += 1,
        }
        self.applied.value_bytes += value.bytes().len() as u64;
        Ok(())
    }

    /// A page's version, with will_init where nothing older is there.
    fn put_page(&mut self, key: Key, value: Value<'_>) -> Result<()> {
        let is_fresh = self.known.is_fresh(RelPage::from_key(key)?)?;
        self.put(
            key,
            match value {
                Value::Delta { bytes, .. } if is_fresh => Value::Delta { bytes, will_init: true },
                value => value,
            },
        )
    }

    fn drop_blocks(&mut self, object: u128, first_block: u32) -> Result<()> {
        self.lease.drop_blocks(object, first_block, self.end)?;
        if let Some(consistency) = &mut self.consistency {
            consistency.drop_blocks(object, first_block);
        }
        self.applied.drops += 1;
        Ok(())
    }

    fn drop_fork(&mut self, rel: RelFork) -> Result<()> {
        let Known { reader, scratch, sizes, .. } = &mut *self.known;
        if sizes.get(rel, reader, scratch)?.is_none() {
            return Ok(());
        }
        sizes.remove(rel);
        self.known.cut(rel, 0);
        self.drop_blocks(rel.object(), 0)?;
        self.drop_blocks(size_key(rel).object, 0)
    }

    fn truncate(&mut self, rel: RelFork, first_block: u32) -> Result<()> {
        let Known { reader, scratch, sizes, .. } = &mut *self.known;
        match sizes.get(rel, reader, scratch)? {
            Some(blocks) if first_block < blocks => sizes.set(rel, first_block),
            _ => return Ok(()),
        }
        self.known.cut(rel, first_block);
        self.drop_blocks(rel.object(), first_block)
    }

    fn create(&mut self, rel: RelFork) -> Result<()> {
        let Known { reader, scratch, sizes, .. } = &mut *self.known;
        if sizes.get(rel, reader, scratch)?.is_none() {
            sizes.set(rel, 0);
        }
        Ok(())
    }

    fn drop_database(&mut self, tablespace: u32, database: u32) -> Result<()> {
        let Known { reader, scratch, .. } = &mut *self.known;
        let guard = reader.pin();
        let forks =
            forks_at(guard, objects(tablespace, database), guard.last_record_lsn(), scratch)?;
        forks.into_keys().try_for_each(|rel| self.drop_fork(rel))
    }

    /// Databases are (tablespace, database).
    fn copy_database(&mut self, from: (u32, u32), to: (u32, u32), redo: &PageRedo) -> Result<()> {
        // A backup may have files of the copy already, of later.
        self.drop_database(to.0, to.1)?;
        let copied = |rel: RelFork| RelFork { tablespace: to.0, database: to.1, ..rel };
        let snapshot = self.known.timeline.snapshot();
        let (guard, lsn, mut scratch) = (snapshot.guard(), snapshot.lsn(), Scratch::new());
        for (rel, blocks) in forks_at(guard, objects(from.0, from.1), lsn, &mut scratch)? {
            self.known.sizes.set(copied(rel), blocks);
        }
        for page in guard.scan(objects(from.0, from.1), lsn) {
            let (key, _) = page?;
            let rel = copied(RelFork::from_object(key.object)?);
            let page = guard.page(key, lsn, redo, &mut scratch)?;
            self.put(rel.key(key.block), Value::Image(&page))?;
        }
        Ok(())
    }

    /// From here on the pages are those of one Lsn, if this is the end of the backup that the base
    /// is. Whether it is.
    fn end_backup(&mut self, start: Lsn, identity: &mut Identity) -> bool {
        if identity.is_consistent() || identity.start_lsn() != start {
            return false;
        }
        identity.set_consistent_from(self.end);
        true
    }

    fn put_sizes(&mut self) -> Result<()> {
        for (rel, blocks) in self.known.sizes.take_changed() {
            self.lease.put(size_key(rel), self.end, Value::Image(&size_value(blocks)))?;
            self.applied.sizes += 1;
        }
        Ok(())
    }
}

impl Applier {
    /// With `checks`, redo of each record is compared with the images that it has for checking,
    /// where the timeline is consistent.
    pub(crate) fn new(timeline: &Timeline, identity: Identity, checks: bool) -> Applier {
        let settings = Settings::new(identity, timeline.last_record_lsn(), None);
        Applier::with_settings(timeline, settings, checks)
    }

    /// As [`Applier::new`], with the settings as they are at the timeline's last record.
    pub(crate) fn with_settings(timeline: &Timeline, settings: Settings, checks: bool) -> Applier {
        let redo = settings.identity().redo();
        timeline.set_flush_redo(FlushRedo(Arc::new(redo.clone())));
        Applier {
            versions: PageVersions::new(),
            settings,
            redo: redo.clone(),
            applied: Applied::default(),
            store: Known {
                timeline: timeline.clone(),
                reader: timeline.reader(),
                scratch: Scratch::new(),
                sizes: Sizes::default(),
                based: HashSet::new(),
            },
            consistency: checks.then(|| Consistency::new(timeline, redo)),
        }
    }

    /// Compares what was checked record by record with what the timeline has of it; to be called
    /// behind the last record.
    pub(crate) fn finish(&mut self) -> Result<()> {
        match &mut self.consistency {
            Some(consistency) => consistency.finish(&mut self.applied.checked),
            None => Ok(()),
        }
    }

    pub(crate) fn applied(&self) -> Applied {
        self.applied
    }

    /// Redoes with the settings as they are now what is put from here on, and as before what was.
    /// It must be called before the first record is put that the new settings hold for: a flush
    /// takes the newest redo after its layer was frozen.
    fn change_redo(&mut self) {
        self.redo = self.settings.identity().redo();
        self.store.timeline.set_flush_redo(FlushRedo(Arc::new(self.redo.clone())));
        if let Some(consistency) = &mut self.consistency {
            consistency.set_redo(self.redo.clone());
        }
    }

    /// Puts what the record does, and commits it. Everything before it is committed.
    pub(crate) fn apply(&mut self, lease: &mut WriteLease<'_>, record: &Record<'_>) -> Result<()> {
        let change = self.settings.observe(record)?;
        if change.is_new_redo {
            self.change_redo();
        }
        let Applier { versions, settings, redo, applied, store, consistency } = self;
        let before = *applied;
        let end = record.end();
        let mut target =
            Target { lease, end, applied, known: store, consistency: consistency.as_mut() };
        relation_events(record, |event| match event {
            RelationEvent::Created { rel } => target.create(rel),
            RelationEvent::Truncated { rel, first_block } => target.truncate(rel, first_block),
            RelationEvent::Dropped { rel } => target.drop_fork(rel),
            RelationEvent::DatabaseDropped { database, tablespace } => {
                target.drop_database(tablespace, database)
            }
            RelationEvent::DatabaseCopied {
                database,
                tablespace,
                source_database,
                source_tablespace,
            } => {
                let from = (source_tablespace, source_database);
                target.copy_database(from, (tablespace, database), redo)
            }
        })?;
        versions.versions(record, |key, value| target.put_page(key, value))?;
        versions.implied(record, |key, value| target.put_page(key, value))?;
        target.put_sizes()?;
        let identity = settings.identity_mut();
        let ended =
            backup_ended_by(record)?.is_some_and(|start| target.end_backup(start, identity));
        let is_new_identity = ended || change.is_new_identity;
        if is_new_identity {
            lease.put(IDENTITY_KEY, end, Value::Image(&identity.to_bytes()))?;
        }
        let changed = is_new_identity || *applied != before;
        applied.records += 1;
        if changed {
            lease.commit(end)?.wait()?;
        }
        if let Some(consistency) = consistency.as_mut().filter(|_| identity.is_consistent()) {
            consistency.check(record, &mut applied.checked)?;
        }
        Ok(())
    }
}

/// Does everything that can fail about a record itself, and puts nothing. A record that redo does
/// not know is refused unless that `is_allowed`.
pub(crate) fn dry_run(
    versions: &mut PageVersions,
    record: &Record<'_>,
    is_allowed: bool,
) -> std::result::Result<(), PostgresError> {
    relation_events(record, |_| Ok::<_, PostgresError>(()))?;
    backup_ended_by(record)?;
    versions.versions(record, |_, _| Ok::<_, PostgresError>(()))?;
    versions.implied(record, |_, _| Ok::<_, PostgresError>(()))?;
    let manager = record.manager();
    let unknown = record.blocks().find(|block| block.applied_image().is_none());
    match unknown.filter(|_| !is_allowed && !is_known(manager)) {
        None => Ok(()),
        Some(block) => {
            let page = RelPage { rel: block.rel, block: block.block };
            Err(PostgresError::UnknownRedo { manager, lsn: record.lsn(), page })
        }
    }
}
