//! [`ChainCutter`]: pages that a flush makes of long chains of deltas, to be written beside them.
//!
//! A flush sees the versions of its layer key by key, oldest first. The cutter keeps count of the deltas behind the last base, with those
//! in older layers, and makes the page when there are more than may be; the next page is made from that one. What redo is
//! given are the deltas where they lie.
//!
//! A page that cannot be made, because something older is damaged or redo fails, leaves its chain as long as it is: a flush is
//! what makes writes durable, and must not wait for that.

use std::sync::Arc;

use pagestrata_layers::{
    Key, Kind, Lsn, PageVersion, Redo, VALUE_LEN_MAX, Walk, layer_file::Tombstone,
};

use crate::{Scratch, timeline::TimelineShared};

/// What flushes make pages with.
pub(crate) type SharedRedo = Arc<dyn Redo + Send + Sync>;

/// How many pages flushes have made, and how often they failed.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct PageCounts {
    pub(crate) made: u64,
    pub(crate) failed: u64,
}

impl PageCounts {
    pub(super) fn add(&mut self, more: PageCounts) {
        self.made += more.made;
        self.failed += more.failed;
    }
}

/// Looks for long chains among the versions of a layer.
pub(super) struct ChainCutter<'m> {
    timeline: &'m TimelineShared,
    redo: SharedRedo,
    max: usize,
    /// By object and then Lsn.
    tombstones: &'m [Tombstone],
    key: Option<Key>,
    /// Lsns at which the key was dropped, the newest first; those that a version was not seen at or behind yet.
    drops: Vec<Lsn>,
    base: Base<'m>,
    /// Of this layer, behind the base.
    deltas: Vec<PageVersion<'m>>,
    /// The page that was made last, and the next one.
    page: Vec<u8>,
    next_page: Vec<u8>,
    scratch: Scratch,
    counts: PageCounts,
}

/// What the deltas of a key are applied to.
#[derive(Clone, Copy)]
enum Base<'m> {
    /// Nothing: the first one is a `will_init`.
    Fresh,
    Image(&'m [u8]),
    /// The page that was made last.
    Made,
    /// So many deltas in older layers, and what is below them.
    Older {
        deltas: usize,
    },
    /// Not looked for yet.
    Unknown,
    /// There is none, or it is not to be had.
    Missing,
}

impl<'m> ChainCutter<'m> {
    /// None: there is no bound, or nothing to make pages with.
    pub(super) fn new(
        timeline: &'m TimelineShared,
        tombstones: &'m [Tombstone],
    ) -> Option<ChainCutter<'m>> {
        let max = timeline.store.options.deltas_per_page_max as usize;
        let redo = timeline.flush_redo.lock().clone().filter(|_| max > 0)?;
        Some(ChainCutter {
            timeline,
            redo,
            max,
            tombstones,
            key: None,
            drops: Vec::new(),
            base: Base::Unknown,
            deltas: Vec::new(),
            page: Vec::new(),
            next_page: Vec::new(),
            scratch: Scratch::new(),
            counts: PageCounts::default(),
        })
    }

    pub(super) fn counts(&self) -> PageCounts {
        self.counts
    }

    /// Takes the next version; the page that it leads to, if that is to be written.
    pub(super) fn page_after(&mut self, key: Key, version: PageVersion<'m>) -> Option<&[u8]> {
        if self.key != Some(key) {
            self.begin(key);
        }
        while self.drops.pop_if(|drop| *drop <= version.lsn).is_some() {
            self.restart(Base::Missing);
        }
        match version.kind {
            Kind::Image => {
                self.restart(Base::Image(version.bytes));
                return None;
            }
            Kind::Delta { will_init: true } => self.restart(Base::Fresh),
            Kind::Delta { will_init: false } => {}
        }
        if let Base::Missing = self.base {
            return None;
        }
        self.deltas.push(version);
        if let Base::Unknown = self.base {
            self.base = self.look_below(key);
        }
        let older = if let Base::Older { deltas } = self.base { deltas } else { 0 };
        if older + self.deltas.len() <= self.max {
            return None;
        }
        if self.make_page(key) && self.next_page.len() + version.bytes.len() <= VALUE_LEN_MAX {
            std::mem::swap(&mut self.page, &mut self.next_page);
            self.restart(Base::Made);
            self.counts.made += 1;
            return Some(&self.page);
        }
        self.restart(Base::Missing);
        self.counts.failed += 1;
        None
    }

    fn begin(&mut self, key: Key) {
        self.key = Some(key);
        self.restart(Base::Unknown);
        let first = self.tombstones.partition_point(|tombstone| tombstone.object < key.object);
        let of_object = self.tombstones[first..].iter().take_while(|of| of.object == key.object);
        self.drops.clear();
        self.drops.extend(of_object.filter(|of| of.covers(key)).map(|of| of.lsn));
        self.drops.reverse();
    }

    fn restart(&mut self, base: Base<'m>) {
        self.base = base;
        self.deltas.clear();
    }

    /// How many deltas lie below the first one of this layer.
    fn look_below(&mut self, key: Key) -> Base<'m> {
        let below = self.deltas[0].lsn.previous();
        let map = self.timeline.look();
        let parts = self.scratch.parts();
        match map.versions(key, below, parts.arena, parts.found) {
            Ok(Walk::Base) => {
                let versions = &parts.found.versions;
                let images = versions.iter().filter(|version| version.kind == Kind::Image);
                Base::Older { deltas: versions.len() - images.count() }
            }
            // Nobody can read these deltas, or nobody now.
            Ok(_) | Err(_) => Base::Missing,
        }
    }

    /// Makes the next page of the base and the deltas.
    fn make_page(&mut self, key: Key) -> bool {
        self.next_page.clear();
        let ChainCutter { timeline, redo, deltas, page, next_page, scratch, .. } = self;
        let first = deltas.first().map_or(Lsn::INVALID, |first| first.lsn);
        let deltas = deltas.iter().copied();
        let done = match self.base {
            Base::Fresh => redo.apply(key, None, &mut { deltas }, next_page),
            Base::Image(image) => redo.apply(key, Some(image), &mut { deltas }, next_page),
            Base::Made => redo.apply(key, Some(page), &mut { deltas }, next_page),
            Base::Older { .. } => {
                let below = first.previous();
                let map = timeline.look();
                let parts = scratch.parts();
                let Ok(Walk::Base) = map.versions(key, below, parts.arena, parts.found) else {
                    return false;
                };
                let (image, older) = match parts.found.versions.split_last() {
                    Some((oldest, newer)) if oldest.kind == Kind::Image => {
                        (Some(oldest.bytes), newer)
                    }
                    _ => (None, &parts.found.versions[..]),
                };
                let older = older.iter().rev().copied();
                redo.apply(key, image, &mut older.chain(deltas), next_page)
            }
            Base::Unknown | Base::Missing => return false,
        };
        done.is_ok()
    }
}
