//! How many blocks each relation fork has at which Lsn, as versions beside its pages.
//!
//! | what | is |
//! |---|---|
//! | object | 2^126 and the fork's own |
//! | block | 0 |
//! | value | an image: the number of blocks, u32 |
//!
//! A fork that is not there, or was dropped, has no such value. A block below the number that was
//! never written is a page of zeros, as in PostgreSQL's files.
//!
//! A base that was copied while the server ran has sizes of different moments. From the end of its
//! backup on they are right all the same:
//! - Without a truncation between start and end, a fork only grows. Its file had no more blocks
//!   than the fork has at the end, and each block that came later has a record between start and
//!   end, for it is logged when it is first used.
//! - A truncation that is logged between start and end leaves at most the blocks that it says,
//!   whatever the file was copied with: from it on the argument above holds again. A file that was
//!   copied behind it has fewer or as many, or blocks whose records follow.
//! - One that is logged before the start was done before: the backup begins with a checkpoint, and
//!   that waits for it.
//! - A fork that is dropped or made between start and end has a record of that, whether its file
//!   was copied or not.
//! - One that is dropped right before the start may stay as an empty file: PostgreSQL removes it
//!   with a checkpoint that begins after the drop. It has no record, so it is there, without
//!   blocks, as in PostgreSQL's own recovery.
//!
//! Blocks that PostgreSQL has added to a file but never logged are not counted, as in its own
//! recovery.
//!
//! **Invariant:** a fork's pages and its size change at the same Lsn, so whoever reads both at one
//! Lsn finds what belongs together.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use pagestrata::{Guard, Key, Kind, Lsn, Reader, Scratch};
use pagestrata_postgres::{Fork, RelFork};

use crate::{Error, Result, identity::RELATIONS};

/// Sizes are above the objects of relations, and below the identity's.
const SIZES: u128 = 1 << 126;

/// Where a fork's size is.
pub(crate) const fn size_key(rel: RelFork) -> Key {
    Key::new(SIZES | rel.object(), 0)
}

/// The value of a size.
pub(crate) const fn size_value(blocks: u32) -> [u8; 4] {
    blocks.to_le_bytes()
}

/// How many blocks a fork has at an Lsn; none: there is no such fork.
///
/// # Errors
/// What reading fails with; [`Error::Size`] for what is no size.
pub fn blocks_at(
    guard: Guard<'_>,
    rel: RelFork,
    lsn: Lsn,
    scratch: &mut Scratch,
) -> Result<Option<u32>> {
    Ok(newest_size(guard, rel, lsn, scratch)?.map(|(_, blocks)| blocks))
}

/// As [`blocks_at`], and since when.
///
/// # Errors
/// As [`blocks_at`].
pub(crate) fn newest_size(
    guard: Guard<'_>,
    rel: RelFork,
    lsn: Lsn,
    scratch: &mut Scratch,
) -> Result<Option<(Lsn, u32)>> {
    let versions = guard.history(size_key(rel), lsn, scratch)?;
    let Some(newest) = versions.newest() else { return Ok(None) };
    match (newest.kind, newest.bytes.try_into()) {
        (Kind::Image, Ok(bytes)) => Ok(Some((newest.lsn, u32::from_le_bytes(bytes)))),
        _ => Err(Error::Size { rel, lsn: newest.lsn, found: newest.bytes.len() }),
    }
}

/// The objects of a database's relations in a tablespace.
pub(crate) fn objects(tablespace: u32, database: u32) -> Range<u128> {
    let first = RelFork { tablespace, database, relation: 0, fork: Fork::Main }.object();
    let last = RelFork { tablespace, database, relation: u32::MAX, fork: Fork::Init }.object();
    first..last + 1
}

/// The forks that there are at an Lsn among these objects, each with its size, in order.
///
/// # Errors
/// As [`blocks_at`].
pub fn forks_at(
    guard: Guard<'_>,
    objects: Range<u128>,
    lsn: Lsn,
    scratch: &mut Scratch,
) -> Result<BTreeMap<RelFork, u32>> {
    let mut forks = BTreeMap::new();
    for found in guard.scan(SIZES | objects.start..SIZES | objects.end, lsn) {
        let (key, _) = found?;
        let rel = RelFork::from_object(key.object & !SIZES)?;
        if let Some(blocks) = blocks_at(guard, rel, lsn, scratch)? {
            forks.insert(rel, blocks);
        }
    }
    Ok(forks)
}

/// All forks that there are at an Lsn.
///
/// # Errors
/// As [`blocks_at`].
pub fn all_forks(
    guard: Guard<'_>,
    lsn: Lsn,
    scratch: &mut Scratch,
) -> Result<BTreeMap<RelFork, u32>> {
    forks_at(guard, 0..RELATIONS.end, lsn, scratch)
}

/// Sizes of forks as they are now, read once and then kept.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    known: HashMap<RelFork, Option<u32>>,
    changed: Vec<RelFork>,
}

impl Sizes {
    /// How many blocks a fork has; what is not known yet is read.
    pub(crate) fn get(
        &mut self,
        rel: RelFork,
        reader: &mut Reader,
        scratch: &mut Scratch,
    ) -> Result<Option<u32>> {
        if let Some(blocks) = self.known.get(&rel) {
            return Ok(*blocks);
        }
        let guard = reader.pin();
        let blocks = blocks_at(guard, rel, guard.last_record_lsn(), scratch)?;
        self.known.insert(rel, blocks);
        Ok(blocks)
    }

    /// Another size, which [`Sizes::take_changed`] gives.
    pub(crate) fn set(&mut self, rel: RelFork, blocks: u32) {
        self.known.insert(rel, Some(blocks));
        if !self.changed.contains(&rel) {
            self.changed.push(rel);
        }
    }

    /// The fork is gone.
    pub(crate) fn remove(&mut self, rel: RelFork) {
        self.known.insert(rel, None);
        self.changed.retain(|changed| *changed != rel);
    }

    /// The sizes that were set since the last time.
    pub(crate) fn take_changed(&mut self) -> impl Iterator<Item = (RelFork, u32)> + '_ {
        let known = &self.known;
        self.changed.drain(..).filter_map(|rel| Some((rel, (*known.get(&rel)?)?)))
    }
}
