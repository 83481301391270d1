//! Reading: a [`Reader`] pins the layer map, and a [`Guard`] lends what is in it.
//!
//! ```text
//! Reader::pin -> Guard -> versions: open, frozen, delta, image -> Versions (borrowed)
//!     -> page: redo (yours)
//! ```
//!
//! **Invariant:** [`Guard`] is `Copy`, has no `Drop`, and changes no reference count. The reader
//! owns the pinned map version and the guard borrows the reader, so the version cannot be freed
//! first.

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

/// A reader of a timeline; use one per thread or connection.
///
/// Holds the version of the layer map that it pinned last, even while there is no guard;
/// [`Reader::unpin`] releases it.
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

    /// Pins the current version of the layer map. If it has not changed since the last pin, that is
    /// one atomic load.
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

    /// Releases the pinned version, so that an idle reader keeps nothing alive. The next pin takes
    /// the current one.
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
    /// A snapshot sees nothing above this. Below the timeline's start if nothing was committed when
    /// the snapshot was taken.
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

    /// Returns the highest Lsn that can be read under this guard. It grows while the pinned open
    /// layer is written to, but not when that layer is replaced: pin again to see more. A
    /// snapshot's is fixed.
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

    /// A map that is pinned in a forked child is empty.
    #[cold]
    fn not_yet(self, lsn: Lsn, last_record_lsn: Lsn) -> Error {
        match self.timeline.store.is_inherited() {
            true => Error::Closed,
            false => Error::NotYet { lsn, last_record_lsn },
        }
    }

    /// Returns the versions of `key` from the newest at or below `lsn` back to the first image or
    /// `will_init`; empty if the page does not exist at this Lsn.
    ///
    /// If everything is in memory or in mapped, uncompressed blocks, and the scratch was used
    /// before, this allocates nothing. It never copies an uncompressed value.
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

    /// As [`Guard::versions`], but also returns deltas without a base. A page that a flush has
    /// materialized ([`Options::deltas_per_page_max`]) is a base and replaces the deltas that it
    /// was made from.
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

    /// Returns the page: borrowed if its newest version is an image, else made by `redo` in the
    /// scratch.
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
        // Checked once the newest version is known, before older ones are looked up.
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

    /// As [`Guard::versions`], but never waits for a device: returns what is missing instead.
    ///
    /// The system may evict a mapped page between the check and the access, which cannot be
    /// prevented; such an access waits.
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

    /// As [`Guard::page`], but never waits for a device, like [`Guard::try_versions`].
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
    ///                 fetch.run_blocking()?; // or await it, or run it on another thread
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
        // SAFETY: both callers pass the parts on to a read, which returns everything that it keeps
        // of them.
        Ok(match unsafe { scratch.lend_or_miss(read) }? {
            Ok(found) => Ready::Hit(found),
            Err((missing, scratch)) => {
                let fetch = Fetch::of_missing(&self.timeline.store, missing, scratch.fetched());
                Ready::Cold(fetch, scratch)
            }
        })
    }

    /// As [`Guard::page`], for a task: a thread of the store waits for the device.
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

    /// As [`Guard::page`], with a closure: uses its own scratch, and nothing can escape the
    /// closure.
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

    /// Whether the page exists at this Lsn: it was put, and not dropped since. Reads no layer below
    /// the one with the newest version, so it does not tell whether the page can be materialized:
    /// deltas without a base exist too.
    ///
    /// # Errors
    /// As [`Guard::history`].
    pub fn exists(self, key: Key, lsn: Lsn) -> Result<bool> {
        Ok(self.newest_lsn(key, lsn)?.is_some())
    }

    /// Returns the Lsn of the newest version at or below `lsn`.
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

    /// Returns the Lsn above which it sees nothing.
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

/// Result of a read that must not wait.
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
    /// Something was not in memory. Fetch it, then try the read again with this scratch, which
    /// keeps what was fetched.
    Cold(Fetch, &'s mut Scratch),
}

/// Versions of a page that a read found.
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
    /// Returns the versions from the newest to the base.
    pub fn newest_first(
        &self,
    ) -> impl DoubleEndedIterator<Item = PageVersion<'s>> + ExactSizeIterator + 's {
        self.found.versions.iter().copied()
    }

    /// Returns the newest version.
    #[must_use]
    pub fn newest(&self) -> Option<PageVersion<'s>> {
        self.found.versions.first().copied()
    }

    /// Returns the statistics of the read.
    #[must_use]
    pub fn stats(&self) -> ReadStats {
        stats_of(self.found.counts, self.found, 0)
    }

    /// Returns the number of versions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.versions.len()
    }

    /// Whether there is no version: the page does not exist at this Lsn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.versions.is_empty()
    }

    /// Detaches the version at `index`, counted from the newest, from guard and scratch. It keeps
    /// its layer or its cached block alive, which [`Timeline::pins`](crate::Timeline::pins) lists
    /// and [`TimelineStats::detached`](crate::TimelineStats::detached) counts; a version from a
    /// compressed block is copied instead.
    ///
    /// # Panics
    /// If there is no such version.
    #[must_use]
    #[track_caller]
    pub fn detach(&self, index: usize) -> DetachedVersion {
        self.detach_or_copy(index, u64::MAX)
    }

    /// As [`Versions::detach`], but copies the version if its layer or block would keep more than
    /// `max_waste` bytes of memory besides it.
    ///
    /// # Panics
    /// If there is no such version.
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

/// A page's bytes: borrowed from an image, or made by redo.
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
