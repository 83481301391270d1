//! `diff`: how the files of a data directory differ from the pages at an Lsn.
//!
//! ```text
//! sizes of both sides -> Sizes: per fork, the blocks that both have, and those that only one has
//! pages on disk       -> equal | equal by PostgreSQL's masking rules | not logged | different
//! ```
//!
//! What PostgreSQL does not log is no difference, and is counted by its kind ([`NotLogged`]).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt, io,
    path::Path,
};

use pagestrata::{Kind, Lsn, Scratch, Timeline};
use pagestrata_postgres::{
    BaseBackup, Fork, ManagerId, PAGE_SIZE, Page, RelFork, RelPage, UnloggedChange,
    is_lost_in_copy, is_map_without_bits, manager_of, mask_page, unlogged_change,
};
use serde::Serialize;

use crate::{
    Error, Result,
    data_dir::{check_at_rest, check_complete, check_not_running},
    identity::Identity,
    pages::{PageSource, SkippedPage},
    sizes::{all_forks, newest_size},
    stores::storage,
};

/// What to compare, and how.
#[derive(Clone, Copy, Debug)]
pub struct Diff<'a> {
    /// As of when.
    pub lsn: Lsn,
    /// The data directory.
    pub base: &'a Path,
    /// Whether the files may be those of a server that runs, or has crashed.
    pub allows_running: bool,
    /// Whether a page that cannot be redone is listed and passed over.
    pub skips_unknown: bool,
}

/// What differs because PostgreSQL does not log it, by kind. None of it is a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NotLogged {
    /// Unlogged relations: those with an init fork on both sides. Of these, only the init fork is
    /// compared.
    pub unlogged_relations: u64,
    /// Sequences whose `last_value` and `log_cnt` differ, and nothing else.
    pub sequences: u64,
    /// Metapages of SP-GiST indexes whose `lastUsedPages` differ.
    pub spgist_last_used_pages: u64,
    /// Leaves of GiST indexes of which one side has the flag `F_TUPLES_DELETED`.
    pub gist_tuples_deleted: u64,
    /// Visibility map pages without a set bit that only one side has, or has as zeros. A map
    /// without a page counts as one.
    pub empty_visibility_maps: u64,
    /// Pages of visibility maps, and of the range maps of BRIN, with more entries on disk: of a
    /// database that `CREATE DATABASE` with `STRATEGY wal_log` copied, which logs such pages as
    /// empty.
    pub copied_map_pages: u64,
    /// Blocks of zeros on disk, behind the end of their fork: it was extended, and the server
    /// crashed before it logged their use.
    pub trailing_zero_blocks: u64,
    /// Relation forks on disk of files that no row of `pg_class` names, with more blocks than they
    /// have in the log: of transactions that a crash cut off.
    pub orphan_forks: u64,
    /// Pages of free space maps on disk.
    pub free_space_map_pages: u64,
}

impl NotLogged {
    /// The counts, with their names.
    fn counts(&self) -> [(u64, &'static str); 9] {
        [
            (self.unlogged_relations, "unlogged relations"),
            (self.sequences, "states of sequences"),
            (self.spgist_last_used_pages, "SP-GiST lastUsedPages"),
            (self.gist_tuples_deleted, "GiST F_TUPLES_DELETED"),
            (self.empty_visibility_maps, "visibility map pages without a set bit"),
            (self.copied_map_pages, "map pages of copied databases"),
            (self.trailing_zero_blocks, "trailing blocks of zeros"),
            (self.orphan_forks, "forks that no row names"),
            (self.free_space_map_pages, "free space map pages"),
        ]
    }

    fn add(&mut self, change: UnloggedChange) {
        match change {
            UnloggedChange::SequenceState => self.sequences += 1,
            UnloggedChange::SpGistLastUsedPages => self.spgist_last_used_pages += 1,
            UnloggedChange::GistTuplesDeleted => self.gist_tuples_deleted += 1,
            // EmptyMap, the last kind.
            _ => self.empty_visibility_maps += 1,
        }
    }
}

/// How files and pages compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DiffReport {
    /// Pages on disk, free space maps and unlogged relations left out.
    pub pages: u64,
    /// Those that are equal, checksums aside.
    pub equal: u64,
    /// Those that differ only in hints, free space and the like, by PostgreSQL's masking rules.
    pub equal_masked: u64,
    /// What differs because it is not logged.
    pub not_logged: NotLogged,
    /// Pages that differ otherwise.
    pub different: u64,
    /// Pages that cannot be redone, and were passed over.
    pub skipped: u64,
    /// Empty forks that are not on disk: dropped right before a backup of a server that ran, whose
    /// checkpoint left their files.
    pub left_over: u64,
    /// Forks that otherwise have another number of blocks, or are only on one side.
    pub sizes_different: u64,
}

impl DiffReport {
    /// Whether the files are those of the pages.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.different + self.sizes_different == 0
    }
}

impl fmt::Display for DiffReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DiffReport { pages, equal, equal_masked, different, sizes_different, .. } = self;
        write!(
            f,
            "{pages} pages: {equal} equal, {equal_masked} equal by masking rules, \
             {different} different; {sizes_different} forks of another size"
        )?;
        if self.skipped > 0 {
            write!(f, "; {} pages cannot be redone and were skipped", self.skipped)?;
        }
        if self.left_over > 0 {
            write!(f, "; {} empty ones were dropped right before the base", self.left_over)?;
        }
        let counts = self.not_logged.counts().into_iter().filter(|(count, _)| *count > 0);
        for (index, (count, what)) in counts.enumerate() {
            write!(f, "{} {count} {what}", if index == 0 { "; not logged:" } else { "," })?;
        }
        Ok(())
    }
}

/// A page or fork that is not the same.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// The page or fork.
    pub what: String,
    /// What it is in the store.
    pub here: String,
    /// What it is on disk.
    pub there: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in the store, {} on disk", self.what, self.here, self.there)
    }
}

/// What a comparison finds on its way.
#[derive(Debug)]
#[non_exhaustive]
pub enum DiffEvent<'a> {
    /// A page or fork that is not the same.
    Different(&'a Difference),
    /// A page that cannot be redone.
    Skipped(&'a SkippedPage),
}

/// Receives what is found; an error ends the comparison.
pub type OnEvent<'a> = &'a mut dyn FnMut(DiffEvent<'_>) -> io::Result<()>;

/// Compares all pages at an Lsn with the files of a data directory.
///
/// # Errors
/// [`Error::RestoreIncomplete`], [`Error::ServerRuns`], [`Error::NotShutDown`],
/// [`Error::NotAtRest`], and what reading and redo fail with.
pub fn diff(timeline: &Timeline, how: &Diff<'_>, on_event: OnEvent<'_>) -> Result<DiffReport> {
    let lsn = how.lsn;
    let identity = Identity::at(timeline, lsn)?;
    check_complete(how.base)?;
    // First of all: files of a running server may vanish while they are listed.
    if !how.allows_running {
        check_not_running(how.base)?;
    }
    let files = BaseBackup::open(storage(), how.base)?;
    if files.label().is_some() {
        return Err(Error::NotShutDown { dir: how.base.to_owned() });
    }
    if !how.allows_running {
        check_at_rest(how.base, files.control())?;
    }
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let here = all_forks(guard, lsn, &mut scratch)?;
    let there: BTreeMap<RelFork, u32> = files.forks().collect();
    let init_forks = here.keys().filter(|rel| rel.fork == Fork::Init);
    let unlogged = init_forks.filter(|rel| there.contains_key(rel));
    let mut comparison = Comparison {
        pages: PageSource { guard, lsn, redo: identity.redo(), scratch },
        start: identity.start_lsn(),
        start_of_running: Identity::start_of_running(timeline, lsn)?,
        unlogged: unlogged.map(|rel| rel.with_fork(Fork::Main)).collect(),
        here,
        there,
        files: &files,
        dir: how.base,
        named: BTreeMap::new(),
        extra: None,
        skips_unknown: how.skips_unknown,
        report: DiffReport::default(),
        on_event,
    };
    comparison.report.not_logged.unlogged_relations = comparison.unlogged.len() as u64;
    comparison.sizes()?;
    let mut pages = files.pages();
    while let Some((key, bytes)) = pages.next_page()? {
        let of = RelPage::from_key(key)?;
        if let Ok(bytes) = bytes.try_into() {
            comparison.page(of, bytes)?;
        }
    }
    comparison.end_fork()?;
    Ok(comparison.report)
}

/// The blocks of a fork that are on disk only.
#[derive(Clone, Copy, Debug)]
struct ExtraBlocks {
    rel: RelFork,
    count: u64,
    /// Those that are not excused: with a set bit in a map, not zeros in another fork.
    written: u64,
}

/// A comparison that is under way.
struct Comparison<'g, 'w> {
    pages: PageSource<'g>,
    /// Where the base starts in the log.
    start: Lsn,
    start_of_running: Option<Lsn>,
    /// Unlogged relations, by their main forks.
    unlogged: BTreeSet<RelFork>,
    here: BTreeMap<RelFork, u32>,
    there: BTreeMap<RelFork, u32>,
    files: &'w BaseBackup,
    dir: &'w Path,
    /// The numbers of files that rows of the catalog name, by database; none: nothing is known.
    named: BTreeMap<u32, Option<BTreeSet<u32>>>,
    /// Of the fork whose pages are read, what is behind its end in the store.
    extra: Option<ExtraBlocks>,
    skips_unknown: bool,
    report: DiffReport,
    on_event: OnEvent<'w>,
}

impl Comparison<'_, '_> {
    fn different(&mut self, what: String, here: String, there: String) -> Result<()> {
        let difference = Difference { what, here, there };
        (self.on_event)(DiffEvent::Different(&difference)).map_err(Error::Report)
    }

    /// Whether a fork is compared: not a free space map, and of an unlogged relation only the init
    /// fork.
    fn is_compared(&self, rel: RelFork) -> bool {
        match rel.fork {
            Fork::Fsm => false,
            Fork::Init => true,
            Fork::Main | Fork::Vm => !self.unlogged.contains(&rel.with_fork(Fork::Main)),
        }
    }

    /// Compares sizes, but for forks that are longer on disk: those end with their pages.
    fn sizes(&mut self) -> Result<()> {
        let forks: BTreeSet<RelFork> = self.here.keys().chain(self.there.keys()).copied().collect();
        for rel in forks {
            if !self.is_compared(rel) {
                continue;
            }
            match (self.here.get(&rel).copied(), self.there.get(&rel).copied()) {
                (Some(here), Some(there)) if there >= here => {}
                (None, Some(there)) if there > 0 => {}
                (None, Some(_)) if rel.fork == Fork::Vm => {
                    self.report.not_logged.empty_visibility_maps += 1;
                }
                (None, _) if self.is_orphan(rel)? => self.report.not_logged.orphan_forks += 1,
                (None, _) => self.size_line(rel)?,
                (Some(here), there) => self.shorter_on_disk(rel, here, there)?,
            }
        }
        Ok(())
    }

    /// A fork that has blocks in the store only, or is not on disk.
    fn shorter_on_disk(&mut self, rel: RelFork, here: u32, there: Option<u32>) -> Result<()> {
        let PageSource { guard, lsn, scratch, .. } = &mut self.pages;
        let left_over = self.start_of_running.map(|start| (start, 0));
        if there.is_none()
            && left_over.is_some()
            && newest_size(*guard, rel, *lsn, scratch)? == left_over
        {
            self.report.left_over += 1;
            return Ok(());
        }
        if rel.fork == Fork::Vm {
            let blocks = there.unwrap_or(0)..here;
            let count = u64::from(here - blocks.start).max(1);
            let mut is_empty = true;
            for block in blocks {
                is_empty &= match self.read(RelPage { rel, block })? {
                    Some(page) => is_map_without_bits(&page),
                    None => true,
                };
            }
            if is_empty {
                self.report.not_logged.empty_visibility_maps += count;
                return Ok(());
            }
        }
        self.size_line(rel)
    }

    fn size_line(&mut self, rel: RelFork) -> Result<()> {
        let blocks = |of: Option<&u32>| {
            of.map_or_else(|| "nothing".to_owned(), |blocks| format!("{blocks} blocks"))
        };
        let (here, there) = (blocks(self.here.get(&rel)), blocks(self.there.get(&rel)));
        self.report.sizes_different += 1;
        self.different(rel.to_string(), here, there)
    }

    /// A page as redo makes it, of zeros if it was never written; none: it cannot be redone, and is
    /// listed.
    fn read(&mut self, of: RelPage) -> Result<Option<Box<Page>>> {
        let PageSource { guard, lsn, scratch, .. } = &mut self.pages;
        if guard.history(of.key(), *lsn, scratch)?.is_empty() {
            return Ok(Some(Box::new([0; PAGE_SIZE])));
        }
        match self.pages.read(of) {
            Ok(page) => Ok(Some(Box::new(page))),
            Err(error) if self.skips_unknown => {
                let page = SkippedPage::of(of, error)?;
                self.report.skipped += 1;
                (self.on_event)(DiffEvent::Skipped(&page)).map_err(Error::Report)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Compares a page on disk; pages come in the order of their keys.
    fn page(&mut self, of: RelPage, there: &Page) -> Result<()> {
        if of.rel.fork == Fork::Fsm {
            self.report.not_logged.free_space_map_pages += 1;
            return Ok(());
        }
        if !self.is_compared(of.rel) {
            return Ok(());
        }
        self.report.pages += 1;
        if of.block < self.here.get(&of.rel).copied().unwrap_or(0) {
            let Some(here) = self.read(of)? else { return Ok(()) };
            return self.compare(of, &here, there);
        }
        if self.extra.is_none_or(|extra| extra.rel != of.rel) {
            self.end_fork()?;
            self.extra = Some(ExtraBlocks { rel: of.rel, count: 0, written: 0 });
        }
        let is_zeros = there.iter().all(|byte| *byte == 0);
        let is_known = self.here.contains_key(&of.rel);
        let is_excused = match of.rel.fork {
            Fork::Vm => is_map_without_bits(there),
            _ => is_known && is_zeros,
        };
        if let Some(extra) = &mut self.extra {
            extra.count += 1;
            extra.written += u64::from(!is_excused);
        }
        Ok(())
    }

    /// Settles the blocks of a fork that are on disk only, when all of them have come.
    fn end_fork(&mut self) -> Result<()> {
        let Some(ExtraBlocks { rel, count, written }) = self.extra.take() else {
            return Ok(());
        };
        if written > 0 && self.is_orphan(rel)? {
            self.report.not_logged.orphan_forks += 1;
            return Ok(());
        }
        if written > 0 {
            self.report.different += count;
            return self.size_line(rel);
        }
        match rel.fork {
            Fork::Vm => self.report.not_logged.empty_visibility_maps += count,
            _ => self.report.not_logged.trailing_zero_blocks += count,
        }
        Ok(())
    }

    fn compare(&mut self, of: RelPage, here: &Page, there: &Page) -> Result<()> {
        let without_checksum = |page: &Page| {
            let mut page = *page;
            page[8..10].fill(0);
            page
        };
        let (mut here, mut there) = (without_checksum(here), without_checksum(there));
        if here == there {
            self.report.equal += 1;
            return Ok(());
        }
        if self.is_lost_in_copy(of, &here, &there)? {
            self.report.not_logged.copied_map_pages += 1;
            return Ok(());
        }
        let change = unlogged_change(of, &here, &there);
        // PostgreSQL's rules take the bits of a visibility map for free space.
        match of.rel.fork {
            Fork::Vm => [&mut here, &mut there].into_iter().for_each(|page| page[..8].fill(0)),
            _ => {
                let manager = manager_of(&there);
                mask_page(manager, of.block, &mut here);
                mask_page(manager, of.block, &mut there);
            }
        }
        let Some(byte) = here.iter().zip(&there).position(|(here, there)| here != there) else {
            self.report.equal_masked += 1;
            return Ok(());
        };
        if let Some(change) = change {
            self.report.not_logged.add(change);
            return Ok(());
        }
        self.report.different += 1;
        let value = |page: &Page| format!("{:#04X} at byte {byte}", page[byte]);
        let (here, there) = (value(&here), value(&there));
        self.different(of.to_string(), here, there)
    }

    /// Whether a map page was logged as an empty image behind the start of the base, and nothing
    /// else differs. A page that a flush has made hides what it is made of: there may be an older
    /// image below each.
    fn is_lost_in_copy(&mut self, of: RelPage, here: &Page, there: &Page) -> Result<bool> {
        if of.rel.fork != Fork::Vm && manager_of(there) != ManagerId::BRIN {
            return Ok(false);
        }
        let PageSource { guard, lsn, scratch, .. } = &mut self.pages;
        let mut at = *lsn;
        while at > self.start {
            let versions = guard.history(of.key(), at, scratch)?;
            let Some(oldest) = versions.newest_first().next_back() else { break };
            if let Ok(image) = <&Page>::try_from(oldest.bytes)
                && oldest.kind == Kind::Image
                && oldest.lsn > self.start
                && is_lost_in_copy(of, image, here, there)
            {
                return Ok(true);
            }
            at = Lsn(oldest.lsn.0 - 1);
        }
        Ok(false)
    }

    /// Whether a fork is one that no server will read: its number is in no row that counts.
    fn is_orphan(&mut self, rel: RelFork) -> Result<bool> {
        let named = match self.named.entry(rel.database) {
            Entry::Occupied(named) => named.into_mut(),
            Entry::Vacant(place) => place.insert(self.files.named_files(self.dir, rel.database)?),
        };
        Ok(named.as_ref().is_some_and(|named| !named.contains(&rel.relation)))
    }
}
