//! Reading many pages at once: [`Guard::pages`].
//!
//! ```text
//! keys, in order -> open, frozen: each key looked up
//!                -> layer files, newest first: all keys that come to one, at once
//!                -> keys whose walk has ended: redo, one batch for a layer -> the caller's sink
//! ```
//!
//! A few keys are walked one after the other instead, as [`Guard::page`] does, for as long as that
//! reads and inflates nothing: there is nothing to share then, and grouping the keys costs more
//! than the walks. Their redo is one batch too.
//!
//! **Invariant:** a key is given to the sink once, after the last layer that it needs. The versions
//! of all keys lie in one list, linked from each key's oldest to its newest, the order in which
//! redo takes them.

use std::{cmp::Reverse, collections::BinaryHeap};

use pagestrata_layers::{
    BlockCounts, Error as LayersError, Key, KeyRange, Kind, Lsn, PageVersion, Rebuild, Redo,
    ScratchArena, WalkEnd, layer_file::VersionQuery, reserve, storage::major_faults_of_thread,
};

use crate::{
    error::{Error, Result},
    layer_map::{
        LayerMap, MemSlot,
        index::{LayerSlot, Visit, Visits},
    },
    read::{
        guard::{Guard, Page},
        scratch::{Parts, Scratch, with_thread_scratch},
        walk::Found,
    },
    reports::read_stats::{PlannedLayer, ReadPlan},
};

/// Maximum number of keys that share reads. A longer list is read in parts, to bound memory.
const KEYS_AT_ONCE: usize = 1024;
/// Maximum number of keys that are walked one after the other. Among more keys, several share a
/// block.
const FEW_KEYS: usize = 64;
/// Lists of the index that each key's walk goes down mark by mark. Room for more would make what a
/// key takes larger than what it saves.
const LISTS: usize = 1;

impl<'g> Guard<'g> {
    /// As [`Guard::page`], for many pages, and faster than one by one: it walks the layer map once,
    /// visits each layer once, reads and inflates each block once, and reads adjacent blocks
    /// together. Up to 64 pages are walked one after the other until one of them needs a device or
    /// inflation.
    ///
    /// `sink` is called for each key, as often as the key is in `keys`, when its page is ready, in
    /// no particular order. A failure of one page does not affect the others. Up to 1,024 keys
    /// share reads.
    ///
    /// # Errors
    /// [`Error::NotYet`], [`Error::BelowCutoff`]. All other errors go to `sink`, and are those of
    /// [`Guard::page`].
    ///
    /// ```
    /// # use pagestrata::{Guard, Key, Lsn, Redo, Result, Scratch};
    /// fn lengths(guard: Guard<'_>, keys: &[Key], lsn: Lsn, redo: &dyn Redo) -> Result<usize> {
    ///     let mut sum = 0;
    ///     guard.pages(keys, lsn, redo, &mut Scratch::new(), &mut |_, page| {
    ///         sum += page.map_or(0, |page| page.len());
    ///     })?;
    ///     Ok(sum)
    /// }
    /// ```
    ///
    /// A page is lent only for the call of `sink`:
    ///
    /// ```compile_fail,E0521
    /// # use pagestrata::{Guard, Key, Lsn, Redo, Scratch};
    /// # fn read(guard: Guard<'_>, keys: &[Key], lsn: Lsn, redo: &dyn Redo) {
    /// # let scratch = &mut Scratch::new();
    /// let mut pages = Vec::new();
    /// guard.pages(keys, lsn, redo, scratch, &mut |_, page| pages.push(page)).unwrap();
    /// # }
    /// ```
    ///
    /// ```
    /// # use pagestrata::{Guard, Key, Lsn, Page, Redo, Result, Scratch};
    /// # fn read(guard: Guard<'_>, keys: &[Key], lsn: Lsn, redo: &dyn Redo) {
    /// # let scratch = &mut Scratch::new();
    /// let mut pages = Vec::new();
    /// let mut keep = |_, page: Result<Page<'_>>| pages.push(page.unwrap().to_vec());
    /// guard.pages(keys, lsn, redo, scratch, &mut keep).unwrap();
    /// # }
    /// ```
    pub fn pages(
        self,
        keys: &[Key],
        lsn: Lsn,
        redo: &dyn Redo,
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(Key, Result<Page<'_>>),
    ) -> Result<()> {
        self.check(lsn)?;
        if let [key] = *keys {
            sink(key, self.page(key, lsn, redo, scratch));
            return Ok(());
        }
        self.walk_many(keys, lsn, scratch, Way::Best, &mut |batch, page| {
            self.rebuild(batch, lsn, redo, page, sink);
        });
        Ok(())
    }

    /// As [`Guard::pages`], for all pages in a range of keys.
    ///
    /// # Errors
    /// As [`Guard::pages`], and [`Error::Layers`] if an index cannot be read: `sink` may have been
    /// given pages before.
    pub fn pages_in(
        self,
        range: KeyRange,
        lsn: Lsn,
        redo: &dyn Redo,
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(Key, Result<Page<'_>>),
    ) -> Result<()> {
        self.check(lsn)?;
        let mut candidates = self.candidates(range, lsn)?;
        let mut keys = Vec::new();
        loop {
            keys.clear();
            while keys.len() < KEYS_AT_ONCE
                && let Some(key) = candidates.next_key()?
            {
                keys.push(key);
            }
            if keys.is_empty() {
                return Ok(());
            }
            self.pages(&keys, lsn, redo, scratch, &mut |key, page| match page {
                // The page was dropped before this Lsn, or is written after it.
                Err(Error::NoPage { .. }) => {}
                page => sink(key, page),
            })?;
        }
    }

    /// Returns how [`Guard::pages`] reads these pages: which layers it visits, for how many keys
    /// and why, and which blocks it uses there. Reads the blocks, but applies no redo.
    ///
    /// # Errors
    /// [`Error::NotYet`], [`Error::BelowCutoff`]
    pub fn explain(self, keys: &[Key], lsn: Lsn) -> Result<ReadPlan> {
        self.check(lsn)?;
        let mut plan = ReadPlan { keys: keys.len() as u64, ..ReadPlan::default() };
        with_thread_scratch(|scratch| {
            self.walk_many(keys, lsn, scratch, Way::Planned(&mut plan), &mut |_, _| ());
        });
        Ok(plan)
    }

    /// Reads everything that these pages need; returns the first error.
    pub(crate) fn touch(self, keys: &[Key], lsn: Lsn) -> Result<()> {
        self.check(lsn)?;
        let mut failed = None;
        with_thread_scratch(|scratch| {
            self.walk_many(keys, lsn, scratch, Way::Together, &mut |batch, _| {
                for ended in batch.ended.drain(..) {
                    failed = failed.take().or(ended.walk.err());
                }
            });
        });
        failed.map_or(Ok(()), Err)
    }

    /// Walks for all keys, in parts, and passes on the keys whose walks end in each layer, with a
    /// buffer for a page.
    fn walk_many(
        self,
        keys: &[Key],
        lsn: Lsn,
        scratch: &mut Scratch,
        mut way: Way<'_>,
        deliver: &mut dyn FnMut(&mut Batch<'_, '_>, &mut Vec<u8>),
    ) {
        for (n, keys) in keys.chunks(KEYS_AT_ONCE).enumerate() {
            let Parts { arena, found, page, .. } =
                if n == 0 { scratch.parts() } else { scratch.more_parts() };
            let mut many = Many::new(self.map(), keys, lsn.min(self.upper()), arena);
            let mut deliver = |batch: &mut Batch<'_, '_>| deliver(batch, page);
            match &mut way {
                Way::Best => {
                    let walked = many.walk_one_by_one(found);
                    many.run(walked, None, &mut deliver);
                }
                Way::Together => many.run(0, None, &mut deliver),
                Way::Planned(plan) => many.run(0, Some(plan), &mut deliver),
            }
            found.layers = many.layers;
            found.value_bytes = many.value_bytes();
            found.versions_elsewhere = many.entries.list.len() as u64;
        }
    }

    /// Gives the pages whose walks have ended to the sink.
    fn rebuild(
        self,
        batch: &mut Batch<'_, '_>,
        lsn: Lsn,
        redo: &dyn Redo,
        page: &mut Vec<u8>,
        sink: &mut dyn FnMut(Key, Result<Page<'_>>),
    ) {
        let (pages, timeline) = (self.timeline().store.pages.as_ref(), self.timeline().number);
        // First the pages that need no redo; then one batch with the others.
        let mut versions = Vec::new();
        let mut chains = Vec::with_capacity(batch.ended.len());
        for ended in batch.ended.drain(..) {
            let EndedWalk { key, walk, oldest } = ended;
            let start = versions.len();
            let walk = walk.and_then(|walk| {
                for version in batch.entries.oldest_first(oldest) {
                    reserve(&mut versions, 1, VERSIONS)?;
                    versions.push(version);
                }
                Ok(walk)
            });
            let chain = &versions[start..];
            match (walk, chain) {
                (Err(error), _) => sink(key, Err(error)),
                (Ok(_), []) => sink(key, Err(Error::NoPage { key, lsn })),
                (Ok(_), [.., newest]) if newest.kind == Kind::Image => {
                    sink(key, Ok(Page::new(newest.bytes)));
                }
                (Ok(WalkEnd::Base), [.., newest]) => {
                    match pages.and_then(|pages| pages.get(timeline, key, newest.lsn)) {
                        Some(page) => sink(key, Ok(Page::new(&page))),
                        None => {
                            chains.push((key, start..versions.len()));
                            continue;
                        }
                    }
                }
                (Ok(_), chain) => sink(key, Err(self.missing_base(key, lsn, chain.len()))),
            }
            versions.truncate(start);
        }
        let rebuild = |(key, range): &(Key, std::ops::Range<usize>)| {
            Rebuild::new(*key, &versions[range.clone()])
        };
        let rebuilds: Vec<Rebuild<'_>> = chains.iter().map(rebuild).collect();
        if rebuilds.is_empty() {
            return;
        }
        redo.apply_batch(&rebuilds, page, &mut |index, done| {
            let Rebuild { key, deltas, .. } = rebuilds[index];
            match done {
                Ok(page) => {
                    if let (Some(pages), Some(newest)) = (pages, deltas.last()) {
                        pages.put(timeline, key, newest.lsn, page);
                    }
                    sink(key, Ok(Page::new(page)));
                }
                Err(cause) => sink(key, Err(Error::Redo { key, lsn, cause })),
            }
        });
    }
}

/// How several keys are walked.
enum Way<'p> {
    /// One by one as long as that is faster; then together.
    Best,
    /// Together.
    Together,
    /// Together, and recorded as a plan.
    Planned(&'p mut ReadPlan),
}

/// A key whose walk is not finished.
struct PendingKey<'a> {
    key: Key,
    /// The layer files that it visits, below the layers in memory.
    visits: Option<Visits<'a, LISTS>>,
    /// The visit for which it is queued.
    visit: Option<Visit>,
    /// The entry of its oldest version so far.
    oldest: Option<u32>,
}

/// So little that an allocation of it is taken for granted: a larger one has to answer an error.
const _: () = assert!(KEYS_AT_ONCE * size_of::<PendingKey<'_>>() < 256 << 10);

impl PendingKey<'_> {
    fn queued(&self) -> Visit {
        self.visit.expect("it was queued for this layer")
    }
}

/// The versions of all keys.
struct Entries<'a> {
    list: Vec<(PageVersion<'a>, Option<u32>)>,
    /// The list could not grow, and lacks versions of keys whose walks are not finished.
    is_out_of_memory: bool,
}

/// Purpose of the memory, for errors.
const VERSIONS: &str = "the versions of several pages";

impl<'a> Entries<'a> {
    /// Adds the next older version of a key.
    fn push(&mut self, pending: &mut PendingKey<'_>, version: PageVersion<'a>) {
        if reserve(&mut self.list, 1, VERSIONS).is_err() {
            self.is_out_of_memory = true;
            return;
        }
        let newer = pending.oldest.replace(self.list.len() as u32);
        self.list.push((version, newer));
    }

    /// Returns the result of a walk, unless versions may be missing.
    fn checked(&self, walk: Result<WalkEnd>) -> Result<WalkEnd> {
        if self.is_out_of_memory {
            let bytes = (self.list.len() + 1) * size_of::<(PageVersion<'_>, Option<u32>)>();
            return Err(LayersError::OutOfMemory { what: VERSIONS, bytes }.into());
        }
        walk
    }

    fn oldest_first(&self, oldest: Option<u32>) -> impl Iterator<Item = PageVersion<'a>> {
        let mut next = oldest;
        std::iter::from_fn(move || {
            let (version, newer) = self.list[next? as usize];
            next = newer;
            Some(version)
        })
    }
}

/// A key whose walk has ended.
struct EndedWalk {
    key: Key,
    walk: Result<WalkEnd>,
    oldest: Option<u32>,
}

/// The chains of several keys at an Lsn, for callers without a guard.
pub(crate) struct Chains<'a> {
    entries: Entries<'a>,
    /// For each key with a base: the entry of its oldest version.
    whole: Vec<(Key, Option<u32>)>,
}

impl<'a> Chains<'a> {
    /// Reads them. `keys` must be in order.
    pub(crate) fn read(
        map: &'a LayerMap,
        keys: &[Key],
        lsn: Lsn,
        arena: &'a ScratchArena,
    ) -> Chains<'a> {
        let mut many = Many::new(map, keys, lsn, arena);
        let mut whole = Vec::with_capacity(keys.len());
        many.run(0, None, &mut |batch| {
            let ended = batch.ended.drain(..);
            let bases = ended.filter(|ended| matches!(ended.walk, Ok(WalkEnd::Base)));
            whole.extend(bases.map(|ended| (ended.key, ended.oldest)));
        });
        whole.sort_unstable_by_key(|(key, _)| *key);
        Chains { entries: many.entries, whole }
    }

    /// Returns the chain of a key, oldest first; `None` if there is none or it cannot be read.
    pub(crate) fn of(&self, key: Key) -> Option<impl Iterator<Item = PageVersion<'a>>> {
        let found = self.whole.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(self.entries.oldest_first(self.whole[found].1))
    }
}

/// Keys whose walks have ended in the same layer.
struct Batch<'b, 'a> {
    ended: &'b mut Vec<EndedWalk>,
    entries: &'b Entries<'a>,
}

/// One walk for many keys.
struct Many<'a> {
    map: &'a LayerMap,
    arena: &'a ScratchArena,
    /// In the order of their keys.
    pending: Vec<PendingKey<'a>>,
    /// All keys are read at this Lsn.
    lsn: Lsn,
    entries: Entries<'a>,
    ended: Vec<EndedWalk>,
    layers: u64,
}

/// A key's next layer file: the highest Lsn comes first, and a layer's keys come in order.
type Next = (Lsn, LayerSlot, Reverse<u32>);

impl<'a> Many<'a> {
    fn new(map: &'a LayerMap, keys: &[Key], lsn: Lsn, arena: &'a ScratchArena) -> Many<'a> {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        let pending = |key| PendingKey { key, visits: None, visit: None, oldest: None };
        let pending: Vec<PendingKey<'a>> = keys.into_iter().map(pending).collect();
        debug_assert!(pending.is_sorted_by_key(|pending| pending.key));
        debug_assert!(pending.len() <= KEYS_AT_ONCE);
        // Most pages have one image, or an image and a delta.
        let list = Vec::with_capacity(2 * pending.len());
        let entries = Entries { list, is_out_of_memory: false };
        let ended = Vec::with_capacity(pending.len());
        Many { map, arena, pending, lsn, entries, ended, layers: 0 }
    }

    fn value_bytes(&self) -> u64 {
        self.entries.list.iter().map(|(version, _)| version.bytes.len() as u64).sum()
    }

    /// Walks a few keys one after the other until one of them needed a read or inflation. Returns
    /// how many it has walked: their walks have ended.
    ///
    /// Counting major page faults takes a system call, so they are checked after 1, 2, 4, 8, ...
    /// keys.
    fn walk_one_by_one(&mut self, found: &mut Found<'a>) -> usize {
        let count = self.pending.len();
        if count > FEW_KEYS {
            return 0;
        }
        let before = (self.arena.counts(), major_faults_of_thread());
        for index in 0..count {
            let pending = &mut self.pending[index];
            let walk = self.map.versions(pending.key, self.lsn, self.arena, found);
            if walk.is_ok() {
                found.versions.iter().for_each(|version| self.entries.push(pending, *version));
            }
            found.versions.clear();
            found.sources.clear();
            self.end(index as u32, walk);
            let (walked, counts) = (index + 1, self.arena.counts());
            let has_read = counts.read_bytes > before.0.read_bytes
                || counts.inflated_bytes > before.0.inflated_bytes;
            let has_waited = || walked.is_power_of_two() && major_faults_of_thread() > before.1;
            if has_read || walked < count && has_waited() {
                self.layers = found.layers;
                return walked;
            }
        }
        self.layers = found.layers;
        count
    }

    /// Visits layer after layer for all keys but the first `walked`, and passes on the keys whose
    /// walks end in each layer; the first call also passes on keys that ended before.
    fn run(
        &mut self,
        walked: usize,
        mut plan: Option<&mut ReadPlan>,
        deliver: &mut dyn FnMut(&mut Batch<'_, 'a>),
    ) {
        let mut left: Vec<u32> = (walked as u32..self.pending.len() as u32).collect();
        if left.is_empty() {
            return self.deliver(deliver);
        }
        for (n, slot) in self.map.in_memory().enumerate() {
            if left.is_empty() {
                return;
            }
            let before = self.seen();
            let asked = self.visit_memory(slot, &mut left);
            if asked > 0 {
                let kind = if n == 0 { "open" } else { "frozen" };
                let name = || format!("{kind} layer from {}", slot.layer.start_lsn());
                self.note(
                    plan.as_deref_mut(),
                    before,
                    asked,
                    name,
                    "in memory, newer than all files",
                );
            }
            self.deliver(deliver);
        }
        let mut queue = BinaryHeap::with_capacity(left.len());
        left.into_iter().for_each(|index| self.enqueue(index, &mut queue));
        self.deliver(deliver);
        while let Some(&(_, layer, _)) = queue.peek() {
            let mut group = Vec::new();
            while let Some(&(_, next, Reverse(index))) = queue.peek()
                && next == layer
            {
                group.push(index);
                queue.pop();
            }
            let before = self.seen();
            let asked = group.len();
            let file = self.map.files.get(layer);
            let why = match group.iter().any(|&index| self.pending[index as usize].oldest.is_some())
            {
                true => "the newest below what was found so far",
                false => "the newest at or below the Lsn",
            };
            self.visit_file(layer, group, &mut queue);
            self.note(plan.as_deref_mut(), before, asked, || file.name(), why);
            self.deliver(deliver);
        }
    }

    fn deliver(&mut self, deliver: &mut dyn FnMut(&mut Batch<'_, 'a>)) {
        if !self.ended.is_empty() {
            deliver(&mut Batch { ended: &mut self.ended, entries: &self.entries });
            self.ended.clear();
        }
    }

    fn end(&mut self, index: u32, walk: Result<WalkEnd>) {
        debug_assert!(self.ended.len() < self.pending.len(), "a key ends once");
        let PendingKey { key, oldest, .. } = self.pending[index as usize];
        let walk = self.entries.checked(walk);
        self.ended.push(EndedWalk { key, walk, oldest });
    }

    /// Looks up the remaining keys in a layer in memory, and keeps those that need more. Returns
    /// how many were looked up.
    fn visit_memory(&mut self, slot: &'a MemSlot, left: &mut Vec<u32>) -> usize {
        let asked = left.len();
        let Many { lsn, pending, entries, ended, .. } = self;
        if slot.layer.start_lsn() > *lsn {
            return 0;
        }
        left.retain(|&index| {
            let pending = &mut pending[index as usize];
            let key = pending.key;
            let walk =
                slot.layer.versions(key, *lsn, &mut |version| entries.push(pending, version));
            if walk == WalkEnd::Older {
                return true;
            }
            let walk = entries.checked(Ok(walk));
            ended.push(EndedWalk { key, walk, oldest: pending.oldest });
            false
        });
        self.layers += u64::from(asked > 0);
        asked
    }

    /// Queues a key at its next layer file, or ends its walk.
    fn enqueue(&mut self, index: u32, queue: &mut BinaryHeap<Next>) {
        let Many { map, lsn, .. } = *self;
        let PendingKey { key, visits, visit, .. } = &mut self.pending[index as usize];
        *visit = visits.get_or_insert_with(|| map.index.visits_in(*key, lsn)).next();
        match visit {
            Some(Visit { upper, hit }) => {
                debug_assert!(hit.floor <= *upper && *upper <= lsn, "down the Lsns");
                let end = map.files.get(hit.layer).summary().lsn_range.end;
                queue.push((end, hit.layer, Reverse(index)));
            }
            None => self.end(index, Ok(WalkEnd::Older)),
        }
    }

    fn visit_file(&mut self, layer: LayerSlot, group: Vec<u32>, queue: &mut BinaryHeap<Next>) {
        let Many { map, arena, .. } = *self;
        self.layers += 1;
        let mut walks = Vec::with_capacity(group.len());
        let is_shared = |&index: &u32| self.pending[index as usize].queued().hit.shared;
        let (shared, alone): (Vec<u32>, Vec<u32>) = group.into_iter().partition(is_shared);
        let asked = |&index: &u32| {
            let pending = &self.pending[index as usize];
            let Visit { upper, hit } = pending.queued();
            VersionQuery { key: pending.key, lsn: upper, floor: hit.floor }
        };
        let asked: Vec<VersionQuery> = alone.iter().map(asked).collect();
        let Many { pending, entries, .. } = self;
        let file = map.files.get(layer);
        file.versions_of_many(
            &asked,
            arena,
            &mut |at, version| entries.push(&mut pending[alone[at] as usize], version),
            &mut |at, walk| walks.push((alone[at], file.noted(walk).map_err(Error::from))),
        );
        for index in shared {
            let pending = &mut pending[index as usize];
            let mut found = Found::default();
            let Visit { upper, hit } = pending.queued();
            let walk = map.versions_shared(pending.key, upper, hit.floor, arena, &mut found);
            let walk = walk.and_then(|walk| found.check_memory().map(|()| walk));
            found.versions.into_iter().for_each(|version| entries.push(pending, version));
            walks.push((index, walk));
        }
        for (index, walk) in walks {
            match walk {
                Ok(WalkEnd::Older) => self.enqueue(index, queue),
                walk => self.end(index, walk),
            }
        }
    }

    /// Returns the totals so far: versions, keys that ended and were not delivered, blocks.
    fn seen(&self) -> (usize, usize, BlockCounts) {
        (self.entries.list.len(), self.ended.len(), self.arena.counts())
    }

    /// Records a visit, if a plan is wanted.
    fn note(
        &self,
        plan: Option<&mut ReadPlan>,
        before: (usize, usize, BlockCounts),
        asked: usize,
        name: impl FnOnce() -> String,
        why: &'static str,
    ) {
        let Some(plan) = plan else { return };
        let (versions, ended, blocks) = before;
        let counts = self.arena.counts();
        plan.layers.push(PlannedLayer {
            name: name(),
            why,
            keys: asked as u64,
            keys_ended: (self.ended.len() - ended) as u64,
            versions: (self.entries.list.len() - versions) as u64,
            blocks: counts.blocks - blocks.blocks,
            block_bytes: counts.block_bytes - blocks.block_bytes,
            read_bytes: counts.read_bytes - blocks.read_bytes,
        });
    }
}
