//! Reading: a [`Reader`] pins the layer map, the [`Guard`] borrows everything below it.
//!
//! ```text
//! Reader::pin -> Guard -> versions: open, frozen, delta, image -> Versions (borrowed)
//!     -> page: redo (yours)
//! ```
//!
//! **Invariant:** nothing below a guard is counted and a guard has no drop: it is a reference. What
//! it can see stays in memory because the reader holds the map version, and the borrow checker
//! keeps the reader from letting go.

use std::{fmt, ops::Deref, panic::Location, sync::Arc};

use pagestrata_layers::{KeptBlocks, Key, Kind, Lsn, PageVersion, Redo, WalkEnd};

use crate::{
    error::{Error, Result},
    layer_map::{LayerMap, published::CachedVersion},
    read::{
        detached::{DetachedVersion, PinnedVersion},
        fetch::Fetch,
        newest::newest_in_map,
        scratch::{Parts, Scratch, stats_of, with_thread_scratch},
        walk::Found,
    },
    reports::{PinKind, read_stats::ReadStats},
    state::{pins::PinHandle, timeline::TimelineShared},
};

/// Reads a timeline: one for each thread or connection.
///
/// Holds the version of the layer map that it pinned last, also while no guard is out;
/// [`Reader::unpin`] lets go of it.
pub struct Reader {
    timeline: Arc<TimelineShared>,
    cached: CachedVersion<LayerMap>,
    pin: PinHandle,
}

impl Reader {
    pub(crate) fn new(timeline: Arc<TimelineShared>, caller: &'static Location<'static>) -> Reader {
        let cached = match timeline.store.is_inherited() {
            true => CachedVersion::of(&timeline.unpinned),
            false => CachedVersion::new(&timeline.published),
        };
        let pin = timeline.pin(PinKind::Reader, caller, cached.number());
        Reader { timeline, cached, pin }
    }

    /// Pins the current version of the layer map. When it has not changed since the last pin, that
    /// is one atomic load.
    ///
    /// ```compile_fail,E0505
    /// # fn read(mut reader: pagestrata::Reader) {
    /// let guard = reader.pin();
    /// drop(reader); // the guard is still used
    /// guard.last_record_lsn();
    /// # }
    /// ```
    ///
    /// ```
    /// # fn read(mut reader: pagestrata::Reader) {
    /// let guard = reader.pin();
    /// guard.last_record_lsn();
    /// drop(reader);
    /// # }
    /// ```
    #[inline]
    pub fn pin(&mut self) -> Guard<'_> {
        if self.cached.is_stale(&self.timeline.published) {
            self.refresh();
        }
        Guard { map: self.cached.value(), timeline: &self.timeline, upper: Lsn::MAX }
    }

    #[cold]
    #[inline(never)]
    fn refresh(&mut self) {
        if self.timeline.store.is_inherited() {
            return self.cached.let_go(&self.timeline.unpinned);
        }
        let number = self.cached.refresh(&self.timeline.published);
        self.pin.set_number(number);
        self.timeline.wake_reclaimer();
    }

    /// Lets go of the pinned version, so that an idle reader keeps nothing alive. The next pin
    /// takes the current one.
    pub fn unpin(&mut self) {
        self.cached.let_go(&self.timeline.unpinned);
        self.pin.unpin();
        self.timeline.wake_reclaimer();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.timeline.store.is_inherited() {
            return;
        }
        self.cached.let_go(&self.timeline.unpinned);
        self.timeline.pins.remove(&self.pin);
        self.timeline.wake_reclaimer();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("timeline", &self.timeline.name).finish_non_exhaustive()
    }
}

/// A pinned version of the layer map. A plain reference: copy it freely.
#[derive(Clone, Copy)]
pub struct Guard<'g> {
    map: &'g LayerMap,
    timeline: &'g Arc<TimelineShared>,
    /// A snapshot sees nothing above. Below the start where nothing was committed when it was
    /// taken.
    upper: Lsn,
}

impl<'g> Guard<'g> {
    pub(crate) fn new(
        map: &'g LayerMap,
        timeline: &'g Arc<TimelineShared>,
        upper: Lsn,
    ) -> Guard<'g> {
        Guard { map, timeline, upper }
    }

    /// The highest Lsn that can be read under this guard. It grows while the open layer that the
    /// guard pinned is written to, and not beyond; pin again to see more. A snapshot's stays where
    /// it is.
    #[inline]
    #[must_use]
    pub fn last_record_lsn(self) -> Lsn {
        self.map.last_record_lsn().min(self.upper).max(self.timeline.start)
    }

    #[inline]
    pub(crate) fn check(self, lsn: Lsn) -> Result<()> {
        let last_record_lsn = self.last_record_lsn();
        if lsn > last_record_lsn {
            return Err(self.not_yet(lsn, last_record_lsn));
        }
        if lsn < self.timeline.start {
            return Err(Error::BelowCutoff { lsn, cutoff: self.timeline.start });
        }
        Ok(())
    }

    /// A map that was pinned in a forked child is empty.
    #[cold]
    fn not_yet(self, lsn: Lsn, last_record_lsn: Lsn) -> Error {
        match self.timeline.store.is_inherited() {
            true => Error::Closed,
            false => Error::NotYet { lsn, last_record_lsn },
        }
    }

    /// The versions of `key` from the newest at or below `lsn` back to the first image or
    /// `will_init`. None at all: there is no such page at this Lsn.
    ///
    /// When everything is in memory or in uncompressed blocks that are mapped, a scratch that was
    /// used before makes this allocate nothing, and it never copies a value that is not compressed.
    ///
    /// # Errors
    /// [`Error::NotYet`], [`Error::BelowCutoff`], [`Error::MissingBase`], and [`Error::Layers`] for
    /// a layer file that is damaged.
    pub fn versions<'s>(self, key: Key, lsn: Lsn, scratch: &'s mut Scratch) -> Result<Versions<'s>>
    where
        'g: 's,
    {
        self.versions_in(key, lsn, scratch.parts())
    }

    fn versions_in<'s>(self, key: Key, lsn: Lsn, parts: Parts<'s>) -> Result<Versions<'s>>
    where
        'g: 's,
    {
        let (versions, walk) = self.walk(key, lsn, parts)?;
        if walk != WalkEnd::Base && !versions.found.versions.is_empty() {
            return Err(self.missing_base(key, lsn, versions.found.versions.len()));
        }
        Ok(versions)
    }

    /// As [`Guard::versions`], but deltas without a base are returned too. A page that a flush has
    /// made ([`Options::deltas_per_page_max`]) is a base: it stands for the deltas that it is made
    /// of.
    ///
    /// [`Options::deltas_per_page_max`]: crate::Options::deltas_per_page_max
    ///
    /// # Errors
    /// As [`Guard::versions`], without [`Error::MissingBase`].
    pub fn history<'s>(self, key: Key, lsn: Lsn, scratch: &'s mut Scratch) -> Result<Versions<'s>>
    where
        'g: 's,
    {
        Ok(self.walk(key, lsn, scratch.parts())?.0)
    }

    fn walk<'s>(self, key: Key, lsn: Lsn, parts: Parts<'s>) -> Result<(Versions<'s>, WalkEnd)>
    where
        'g: 's,
    {
        self.check(lsn)?;
        let Parts { arena, found, .. } = parts;
        let walk = self.map.versions(key, lsn.min(self.upper), arena, found)?;
        found.check_memory()?;
        debug_assert!(found.is_walk(lsn, walk), "{key} at {lsn}");
        found.counts = arena.counts();
        Ok((Versions { found, kept: arena.kept(), timeline: self.timeline }, walk))
    }

    #[cold]
    pub(crate) fn missing_base(self, key: Key, lsn: Lsn, deltas: usize) -> Error {
        Error::MissingBase { key, lsn, deltas, visited: self.map.visited(key, lsn) }
    }

    /// The page: borrowed when its newest version is an image, else made by `redo` in the scratch.
    ///
    /// # Errors
    /// [`Error::NoPage`], [`Error::Redo`], and those of [`Guard::versions`].
    pub fn page<'s>(
        self,
        key: Key,
        lsn: Lsn,
        redo: &dyn Redo,
        scratch: &'s mut Scratch,
    ) -> Result<Page<'s>>
    where
        'g: 's,
    {
        self.page_in(key, lsn, redo, scratch.parts())
    }

    fn page_in<'s>(self, key: Key, lsn: Lsn, redo: &dyn Redo, parts: Parts<'s>) -> Result<Page<'s>>
    where
        'g: 's,
    {
        self.check(lsn)?;
        let Parts { arena, found, page, cached_page } = parts;
        let (pages, timeline) = (self.timeline.store.pages.as_ref(), self.timeline.number);
        // Once the newest version is known, and before older ones are looked for.
        let mut is_cached = |newest: &PageVersion<'_>| {
            let pages = pages.filter(|_| newest.kind != Kind::Image);
            *cached_page = pages.and_then(|pages| pages.get(timeline, key, newest.lsn));
            cached_page.is_some()
        };
        let walk =
            self.map.versions_until(key, lsn.min(self.upper), arena, found, &mut is_cached)?;
        found.check_memory()?;
        if let Some(page) = cached_page {
            return Ok(Page(page));
        }
        debug_assert!(found.is_walk(lsn, walk), "{key} at {lsn}");
        let (Some(newest), Some(oldest)) = (found.versions.first(), found.versions.last()) else {
            return Err(Error::NoPage { key, lsn });
        };
        if newest.kind == Kind::Image {
            return Ok(Page(newest.bytes));
        }
        if walk != WalkEnd::Base {
            return Err(self.missing_base(key, lsn, found.versions.len()));
        }
        let base = (oldest.kind == Kind::Image).then_some(oldest.bytes);
        let deltas = &found.versions[..found.versions.len() - usize::from(base.is_some())];
        let done = redo.apply(key, base, &mut deltas.iter().rev().copied(), page);
        done.map_err(|cause| Error::Redo { key, lsn, cause })?;
        if let Some(pages) = pages {
            pages.put(timeline, key, newest.lsn, page);
        }
        Ok(Page(page))
    }

    /// As [`Guard::versions`], but it never waits for a device: where something is not in memory,
    /// it says what.
    ///
    /// What is mapped may be taken from memory between the look and the touch, which nobody can
    /// keep the system from; such a touch waits.
    ///
    /// # Errors
    /// As [`Guard::versions`].
    pub fn try_versions<'s>(
        self,
        key: Key,
        lsn: Lsn,
        scratch: &'s mut Scratch,
    ) -> Result<Ready<'s, Versions<'s>>>
    where
        'g: 's,
    {
        self.try_read(scratch, |parts| self.versions_in(key, lsn, parts))
    }

    /// As [`Guard::page`], but it never waits for a device, as [`Guard::try_versions`].
    ///
    /// ```
    /// # use pagestrata::{Guard, Key, Lsn, Page, Ready, Redo, Result, Scratch};
    /// fn page<'s>(
    ///     guard: Guard<'s>,
    ///     key: Key,
    ///     lsn: Lsn,
    ///     redo: &dyn Redo,
    ///     mut scratch: &'s mut Scratch,
    /// ) -> Result<Page<'s>> {
    ///     loop {
    ///         match guard.try_page(key, lsn, redo, scratch)? {
    ///             Ready::Hit(page) => return Ok(page),
    ///             Ready::Cold(fetch, again) => {
    ///                 fetch.run_blocking()?; // or await it, or have somebody else run it
    ///                 scratch = again;
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Guard::page`].
    pub fn try_page<'s>(
        self,
        key: Key,
        lsn: Lsn,
        redo: &dyn Redo,
        scratch: &'s mut Scratch,
    ) -> Result<Ready<'s, Page<'s>>>
    where
        'g: 's,
    {
        self.try_read(scratch, |parts| self.page_in(key, lsn, redo, parts))
    }

    #[expect(
        unsafe_code,
        reason = "the borrow checker does not see that a failed read holds nothing"
    )]
    fn try_read<'s, T>(
        self,
        scratch: &'s mut Scratch,
        read: impl FnOnce(Parts<'s>) -> Result<T>,
    ) -> Result<Ready<'s, T>> {
        // SAFETY: both callers hand the parts on to a read, which returns all that it keeps of
        // them.
        Ok(match unsafe { scratch.lend_or_miss(read) }? {
            Ok(found) => Ready::Hit(found),
            Err((missing, scratch)) => {
                let fetch = Fetch::of_missing(&self.timeline.store, missing, scratch.fetched());
                Ready::Cold(fetch, scratch)
            }
        })
    }

    /// As [`Guard::page`], for a task: where it has to wait for a device, a thread of the store
    /// does.
    ///
    /// ```compile_fail,E0505
    /// # use pagestrata::{Key, Redo, Result, Scratch, Snapshot};
    /// async fn read(snapshot: Snapshot, key: Key, redo: &(dyn Redo + Sync)) -> Result<usize> {
    ///     let mut scratch = Scratch::new();
    ///     let page = snapshot.guard().page_async(key, snapshot.lsn(), redo, &mut scratch).await?;
    ///     drop(snapshot); // would take away what the page borrows
    ///     Ok(page.len())
    /// }
    /// ```
    ///
    /// ```
    /// # use pagestrata::{Key, Redo, Result, Scratch, Snapshot};
    /// async fn read(snapshot: Snapshot, key: Key, redo: &(dyn Redo + Sync)) -> Result<usize> {
    ///     let mut scratch = Scratch::new();
    ///     let page = snapshot.guard().page_async(key, snapshot.lsn(), redo, &mut scratch).await?;
    ///     tokio::task::yield_now().await; // held across an await
    ///     let len = page.len();
    ///     drop(snapshot);
    ///     Ok(len)
    /// }
    /// fn is_send<T: Send>(_: T) {}
    /// # fn example(snapshot: Snapshot, key: Key, redo: &(dyn Redo + Sync)) {
    /// is_send(read(snapshot, key, redo));
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Guard::page`].
    pub async fn page_async<'s>(
        self,
        key: Key,
        lsn: Lsn,
        redo: &(dyn Redo + Sync),
        mut scratch: &'s mut Scratch,
    ) -> Result<Page<'s>>
    where
        'g: 's,
    {
        loop {
            match self.try_page(key, lsn, redo, scratch)? {
                Ready::Hit(page) => return Ok(page),
                Ready::Cold(fetch, again) => {
                    fetch.await?;
                    scratch = again;
                }
            }
        }
    }

    /// The closure form of [`Guard::page`]: it brings its own scratch, and nothing can escape.
    ///
    /// ```compile_fail
    /// # use pagestrata::{Guard, Key, Lsn, Redo};
    /// # fn read(guard: Guard<'_>, key: Key, lsn: Lsn, redo: &dyn Redo) {
    /// let page: &[u8] = guard.with_page(key, lsn, redo, |page| page).unwrap();
    /// # }
    /// ```
    ///
    /// ```
    /// # use pagestrata::{Guard, Key, Lsn, Redo};
    /// # fn read(guard: Guard<'_>, key: Key, lsn: Lsn, redo: &dyn Redo) {
    /// let page: Vec<u8> = guard.with_page(key, lsn, redo, |page| page.to_vec()).unwrap();
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Guard::page`].
    pub fn with_page<R>(
        self,
        key: Key,
        lsn: Lsn,
        redo: &dyn Redo,
        f: impl for<'p> FnOnce(&'p [u8]) -> R,
    ) -> Result<R> {
        with_thread_scratch(|scratch| Ok(f(&self.page(key, lsn, redo, scratch)?)))
    }

    /// Whether there is such a page at this Lsn: something was put, and not dropped since. Reads no
    /// layer below the one that has the newest version, so it does not say whether the page can be
    /// made: deltas without a base exist too.
    ///
    /// # Errors
    /// As [`Guard::history`].
    pub fn exists(self, key: Key, lsn: Lsn) -> Result<bool> {
        Ok(self.newest_lsn(key, lsn)?.is_some())
    }

    /// The Lsn of the newest version at or below `lsn`.
    pub(crate) fn newest_lsn(self, key: Key, lsn: Lsn) -> Result<Option<Lsn>> {
        self.check(lsn)?;
        let newest = newest_in_map(self.map, key, lsn.min(self.upper))?;
        Ok(newest.map(|(lsn, _)| lsn))
    }

    pub(crate) fn map(self) -> &'g LayerMap {
        self.map
    }

    pub(crate) fn timeline(self) -> &'g TimelineShared {
        self.timeline
    }

    /// It sees nothing above.
    pub(crate) fn upper(self) -> Lsn {
        self.upper
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("last_record_lsn", &self.last_record_lsn())
            .finish_non_exhaustive()
    }
}

/// What a read that may not wait has come to.
///
/// ```compile_fail,E0499
/// # use pagestrata::{Guard, Key, Lsn, Ready, Scratch};
/// # fn read(guard: Guard<'_>, key: Key, lsn: Lsn, scratch: &mut Scratch) {
/// let first = guard.try_versions(key, lsn, scratch).unwrap();
/// let second = guard.try_versions(key, lsn, scratch).unwrap(); // the same scratch
/// if let Ready::Hit(versions) = first { versions.len(); }
/// # }
/// ```
///
/// ```
/// # use pagestrata::{Guard, Key, Lsn, Ready, Scratch};
/// # fn read(guard: Guard<'_>, key: Key, lsn: Lsn, scratch: &mut Scratch) {
/// let first = guard.try_versions(key, lsn, scratch).unwrap();
/// if let Ready::Hit(versions) = first { versions.len(); }
/// let second = guard.try_versions(key, lsn, scratch).unwrap();
/// # }
/// ```
#[derive(Debug)]
pub enum Ready<'s, T> {
    /// Everything was in memory.
    Hit(T),
    /// Something was not. Once it is, the read is tried again, with the scratch, which comes back:
    /// what was fetched is kept in it.
    Cold(Fetch, &'s mut Scratch),
}

/// Versions of a page, as a read found them.
///
/// ```compile_fail,E0505
/// # use pagestrata::{Key, Lsn, Reader, Scratch};
/// # fn read(mut reader: Reader, mut scratch: Scratch, key: Key, lsn: Lsn) {
/// let versions = reader.pin().versions(key, lsn, &mut scratch).unwrap();
/// drop(reader); // would take away what the versions borrow
/// versions.newest_first().count();
/// # }
/// ```
///
/// ```
/// # use pagestrata::{Key, Lsn, Reader, Scratch};
/// # fn read(mut reader: Reader, mut scratch: Scratch, key: Key, lsn: Lsn) {
/// let versions = reader.pin().versions(key, lsn, &mut scratch).unwrap();
/// versions.newest_first().count();
/// drop(reader);
/// # }
/// ```
///
/// ```compile_fail,E0499
/// # use pagestrata::{Key, Lsn, Reader, Scratch};
/// # fn read(mut reader: Reader, mut scratch: Scratch, key: Key, lsn: Lsn) {
/// let guard = reader.pin();
/// let first = guard.versions(key, lsn, &mut scratch).unwrap();
/// let second = guard.versions(key, lsn, &mut scratch).unwrap(); // the same scratch
/// first.newest_first().count();
/// # }
/// ```
///
/// ```
/// # use pagestrata::{Key, Lsn, Reader, Scratch};
/// # fn read(mut reader: Reader, mut scratch: Scratch, mut other: Scratch, key: Key, lsn: Lsn) {
/// let guard = reader.pin();
/// let first = guard.versions(key, lsn, &mut scratch).unwrap();
/// let second = guard.versions(key, lsn, &mut other).unwrap();
/// first.newest_first().count();
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Versions<'s> {
    found: &'s Found<'s>,
    kept: &'s KeptBlocks,
    timeline: &'s Arc<TimelineShared>,
}

impl<'s> Versions<'s> {
    /// From the newest to the base.
    pub fn newest_first(
        &self,
    ) -> impl DoubleEndedIterator<Item = PageVersion<'s>> + ExactSizeIterator + 's {
        self.found.versions.iter().copied()
    }

    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> Option<PageVersion<'s>> {
        self.found.versions.first().copied()
    }

    /// What the read has done.
    #[must_use]
    pub fn stats(&self) -> ReadStats {
        stats_of(self.found.counts, self.found, 0)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.versions.len()
    }

    /// Whether there is none: no such page at this Lsn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.versions.is_empty()
    }

    /// Makes the version at `index`, newest first, independent of guard and scratch. It keeps its
    /// one layer alive, or the one block of the cache that it lies in, which
    /// [`Timeline::pins`](crate::Timeline::pins) shows and
    /// [`TimelineStats::detached`](crate::TimelineStats::detached) counts; a version from a
    /// compressed block is copied instead.
    ///
    /// # Panics
    /// When there is no such version.
    #[must_use]
    #[track_caller]
    pub fn detach(&self, index: usize) -> DetachedVersion {
        self.detach_or_copy(index, u64::MAX)
    }

    /// As [`Versions::detach`], but copies the version when its layer or block would keep more than
    /// `max_waste` bytes of memory beside it.
    ///
    /// # Panics
    /// When there is no such version.
    #[must_use]
    #[track_caller]
    pub fn detach_or_copy(&self, index: usize, max_waste: u64) -> DetachedVersion {
        let version = self.found.versions[index];
        let source = self.found.source(index).expect("every version has a layer");
        let pinned = PinnedVersion { version, source, block: self.kept.block_of(version.bytes) };
        DetachedVersion::new(pinned, max_waste, self.timeline, Location::caller())
    }
}

impl fmt::Debug for Versions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.newest_first().map(|version| (version.lsn, version.kind, version.bytes.len())),
            )
            .finish()
    }
}

/// A page's bytes: of an image, where it lies, or as redo made them.
pub struct Page<'s>(&'s [u8]);

impl<'s> Page<'s> {
    pub(crate) fn new(bytes: &'s [u8]) -> Page<'s> {
        Page(bytes)
    }
}

impl Deref for Page<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("len", &self.0.len()).finish()
    }
}
