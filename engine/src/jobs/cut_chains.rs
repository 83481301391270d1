//! [`ChainCutter`]: materializes pages during a flush, to cut long chains of deltas.
//!
//! A flush visits the versions of its layer key by key, oldest first. The cutter counts the deltas
//! since the last base, older layers included, and materializes the page when the count exceeds the
//! bound; the next page is made from that one. Redo gets the deltas in place, without a copy. Older
//! layers are read for many keys at once, so that each block is read and inflated about once a
//! flush.
//!
//! If a page cannot be made (older data is damaged, or redo fails or panics), its chain stays long:
//! a flush makes writes durable, and must not depend on redo.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pagestrata_layers::{
    Key, Kind, Lsn, MemLayer, PageVersion, VALUE_LEN_MAX, layer_file::Tombstone, reserve,
};

use crate::{
    error::Result,
    options::FlushRedo,
    read::{multi_get::Chains, scratch::Scratch},
    state::{flush_state::PageCounts, timeline::TimelineShared},
};

/// Number of keys whose older deltas are in memory at once. It is small because a chain that was
/// never cut can be long.
const KEYS_AT_ONCE: usize = 256;

/// Takes a version, and the page to store with it, if any.
type Put<'m, 'p> = dyn FnMut(Key, PageVersion<'m>, Option<&[u8]>) -> Result<()> + 'p;

/// Finds long chains among the versions of a layer, and cuts them.
pub(super) struct ChainCutter<'m> {
    timeline: &'m TimelineShared,
    layer: &'m MemLayer,
    redo: FlushRedo,
    max: usize,
    drops: Drops<'m>,
    key: Option<Key>,
    /// How many of the key's drops are at or before its last version.
    dropped: usize,
    base: Base<'m>,
    /// Deltas of this layer since the base.
    deltas: Vec<PageVersion<'m>>,
    /// A page is due, but the last one was too long to be stored. The next delta's may fit.
    is_due: bool,
    /// The page that was made last, and a buffer for the next one.
    page: Vec<u8>,
    next_page: Vec<u8>,
    counts: PageCounts,
}

/// What the deltas of a key are applied to.
#[derive(Clone, Copy)]
enum Base<'m> {
    /// Nothing: the first delta is a `will_init`.
    Fresh,
    Image(&'m [u8]),
    /// The page that was made last.
    Made,
    /// The newest base below, with this many deltas in older layers.
    Older {
        deltas: usize,
    },
    /// Not looked up yet.
    Unknown,
    /// There is none, or it cannot be read.
    Missing,
}

impl<'m> ChainCutter<'m> {
    /// Returns `None` if there is no bound or no redo.
    pub(super) fn new(
        timeline: &'m TimelineShared,
        layer: &'m MemLayer,
        tombstones: &'m [Tombstone],
    ) -> Option<ChainCutter<'m>> {
        let max = timeline.store.options.deltas_per_page_max as usize;
        let redo = timeline.flush_redo.lock().clone().filter(|_| max > 0)?;
        Some(ChainCutter {
            timeline,
            layer,
            redo,
            max,
            drops: Drops { tombstones, ..Drops::default() },
            key: None,
            dropped: 0,
            base: Base::Unknown,
            deltas: Vec::new(),
            is_due: false,
            page: Vec::new(),
            next_page: Vec::new(),
            counts: PageCounts::default(),
        })
    }

    /// Calls `put` with all versions of the layer in order, each with the page to store with it, if
    /// any.
    pub(super) fn cut(mut self, put: &mut Put<'m, '_>) -> Result<PageCounts> {
        let below = self.layer.start_lsn().previous();
        assert!(
            self.max > 0 && below < self.layer.start_lsn(),
            "older versions are in older layers"
        );
        let mut versions = self.layer.sorted_from(Key::MIN).peekable();
        let mut ahead = self.layer.sorted_from(Key::MIN).peekable();
        let (mut scratch, mut keys) = (Scratch::new(), Vec::new());
        while let Some((first, _)) = ahead.peek() {
            let mut last = *first;
            keys.clear();
            while keys.len() < KEYS_AT_ONCE
                && let Some((key, version)) = ahead.next()
            {
                last = key;
                if !version.kind.is_base() {
                    keys.push(key);
                }
                while ahead.next_if(|(same, _)| *same == key).is_some() {}
            }
            let map = self.timeline.look();
            let older = Chains::read(&map, &keys, below, scratch.parts().arena);
            while let Some((key, version)) = versions.next_if(|(key, _)| *key <= last) {
                let page = self.page_after(key, version, &older)?;
                put(key, version, page)?;
            }
        }
        Ok(self.counts)
    }

    /// Takes the next version. Returns the page to store with it, if any.
    fn page_after(
        &mut self,
        key: Key,
        version: PageVersion<'m>,
        older: &Chains<'_>,
    ) -> Result<Option<&[u8]>> {
        if self.key != Some(key) {
            assert!(self.key < Some(key), "keys come in order, each key's versions together");
            self.key = Some(key);
            self.dropped = 0;
            self.drops.go_to(key)?;
            self.restart(Base::Unknown);
        }
        let dropped = self.drops.until(version.lsn);
        if dropped > self.dropped {
            self.dropped = dropped;
            self.restart(Base::Missing);
        }
        match version.kind {
            Kind::Image => {
                self.restart(Base::Image(version.bytes));
                return Ok(None);
            }
            Kind::Delta { will_init: true } => self.restart(Base::Fresh),
            Kind::Delta { will_init: false } => {}
        }
        if let Base::Unknown = self.base {
            self.base = older.of(key).map_or(Base::Missing, |chain| {
                let deltas = chain.filter(|version| version.kind != Kind::Image).count();
                Base::Older { deltas }
            });
        }
        if let Base::Missing = self.base {
            return Ok(None);
        }
        debug_assert!(!matches!(self.base, Base::Unknown), "looked up above");
        debug_assert!(self.deltas.last().is_none_or(|last| last.lsn < version.lsn), "oldest first");
        reserve(&mut self.deltas, 1, "the deltas of a page")?;
        self.deltas.push(version);
        let in_older = if let Base::Older { deltas } = self.base { deltas } else { 0 };
        if in_older + self.deltas.len() <= self.max && !self.is_due {
            return Ok(None);
        }
        if !self.make_page(key, older) {
            self.restart(Base::Missing);
            self.counts.failed += 1;
            return Ok(None);
        }
        std::mem::swap(&mut self.page, &mut self.next_page);
        self.restart(Base::Made);
        if self.page.len() + version.bytes.len() > VALUE_LEN_MAX {
            self.is_due = true;
            self.counts.failed += 1;
            return Ok(None);
        }
        debug_assert!(self.deltas.is_empty(), "the page stands for them");
        self.counts.made += 1;
        Ok(Some(&self.page))
    }

    fn restart(&mut self, base: Base<'m>) {
        self.base = base;
        self.deltas.clear();
        self.is_due = false;
    }

    /// Makes the next page from the base and the deltas.
    fn make_page(&mut self, key: Key, older: &Chains<'_>) -> bool {
        self.next_page.clear();
        let ChainCutter { redo, deltas, page, next_page, .. } = self;
        let deltas = deltas.iter().copied();
        let done = catch_unwind(AssertUnwindSafe(|| match self.base {
            Base::Fresh => redo.0.apply(key, None, &mut { deltas }, next_page),
            Base::Image(image) => redo.0.apply(key, Some(image), &mut { deltas }, next_page),
            Base::Made => redo.0.apply(key, Some(page), &mut { deltas }, next_page),
            Base::Older { .. } => {
                let mut chain = older.of(key).into_iter().flatten().peekable();
                let image = chain.next_if(|oldest| oldest.kind == Kind::Image);
                let image = image.map(|image| image.bytes);
                redo.0.apply(key, image, &mut chain.chain(deltas), next_page)
            }
            Base::Unknown | Base::Missing => Err("nothing to start from".into()),
        }));
        matches!(done, Ok(Ok(())))
    }
}

/// The drops of an object's blocks, for keys visited in ascending order.
#[derive(Default)]
struct Drops<'m> {
    /// Sorted by object.
    tombstones: &'m [Tombstone],
    object: Option<u128>,
    /// Drops of this object that do not yet apply to the key; the last one is the next to apply.
    ahead: Vec<Tombstone>,
    /// Lsns of the drops that apply, ascending. A drop that applies to a block applies to all later
    /// ones.
    lsns: Vec<Lsn>,
}

impl Drops<'_> {
    fn go_to(&mut self, key: Key) -> Result<()> {
        if self.object != Some(key.object) {
            let before = self.tombstones.partition_point(|of| of.object < key.object);
            let from = &self.tombstones[before..];
            let (of_object, _) = from.split_at(from.partition_point(|of| of.object == key.object));
            self.object = Some(key.object);
            self.lsns.clear();
            self.ahead.clear();
            reserve(&mut self.ahead, of_object.len(), "tombstones")?;
            self.ahead.extend_from_slice(of_object);
            self.ahead.sort_unstable_by_key(|of| std::cmp::Reverse(of.first_block));
        }
        while let Some(Tombstone { lsn, .. }) = self.ahead.pop_if(|of| of.covers(key)) {
            reserve(&mut self.lsns, 1, "tombstones")?;
            self.lsns.insert(self.lsns.partition_point(|other| *other <= lsn), lsn);
        }
        debug_assert!(self.lsns.is_sorted(), "drops are counted by halving");
        Ok(())
    }

    /// Returns how many drops apply at or below an Lsn.
    fn until(&self, lsn: Lsn) -> usize {
        self.lsns.partition_point(|drop| *drop <= lsn)
    }
}
