//! [`Options`]: everything that can be chosen when a store is opened, checked once.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

pub use pagestrata_layers::layer_file::Compression;
use pagestrata_layers::{
    Redo,
    layer_file::{AccessMode, AccessOptions},
};

use crate::error::{Error, Result};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What can be chosen when a store is opened. Each may differ from one opening to the next.
///
/// ```
/// # use pagestrata::{Compression, Options};
/// let options = Options { compression: Compression::Zstd { level: 1 }, ..Options::default() };
/// assert!(options.validate().is_ok());
/// assert!(Options { frozen_layers_max: 0, ..options }.validate().is_err());
/// ```
///
/// With the feature `serde` all names are written in snake_case (`"access": "mmap"`) and durations
/// as text (`"100ms"`, `"1m 30s"`); nothing else is read. A field that is left out has its default,
/// an unknown one is an error. `flush_redo` and `clock` are code and have no text.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Options {
    /// Create the store if the directory holds none; the directory itself is created too, its
    /// parent is not. Default: true.
    pub create: bool,
    /// A commit rolls the open layer when its values and index take this much memory, in bytes.
    /// 64 KiB to 4 GiB; default 128 MiB.
    pub open_layer_size_max_bytes: u64,
    /// How many frozen layers may wait for their flush before a commit waits for one. 1 to 64;
    /// default 4.
    pub frozen_layers_max: usize,
    /// How long a commit is delayed at most while flushing is behind. When more than half of the
    /// open and frozen layers that are allowed are filled, commits are delayed little by little, so
    /// that a writer goes at the speed of flushing and no commit waits for a whole flush. Zero:
    /// they are not, and a commit that finds [`Options::frozen_layers_max`] layers frozen waits for
    /// one. Without effect with [`Background::Callers`]. Zero to 1 s; default 10 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub write_delay_max: Duration,
    /// How much memory of reclaimed layers, of all timelines together, is kept for the next ones,
    /// in bytes. Memory that is used again is much cheaper than fresh memory. 0 to 64 GiB; default
    /// 256 MiB.
    pub pool_retained_max_bytes: u64,
    /// A data block of a layer file is closed when it holds this much, in bytes before compression.
    /// 1 KiB to 1 MiB; default 16 KiB.
    pub block_size_target_bytes: u32,
    /// How data blocks of new layer files are compressed, each only if it gets smaller. What is not
    /// compressed is borrowed straight from the file by readers. Default: not.
    #[cfg_attr(feature = "serde", serde(with = "compression_serde"))]
    pub compression: Compression,
    /// An import starts another image layer at this size, in bytes of values. 1 MiB to 16 GiB;
    /// default 256 MiB.
    pub image_layer_size_max_bytes: u64,
    /// How many delta layers of about one size a merge makes one of (`jobs/compact/plan.rs` has the
    /// rule): more is read for each page, less is written. In the background, or in
    /// [`Timeline::compact`](crate::Timeline::compact). 2 to 64, or 0: layers are never merged, and
    /// pile up. Default 8.
    pub compaction_fan_in: u32,
    /// A merge starts another layer at this size of its file, in bytes, when it comes to another
    /// key. 64 KiB to 16 GiB; default 256 MiB.
    pub compaction_layer_size_bytes: u64,
    /// Upper bound on the deltas from flushed layers that a read of a page applies. When a chain is
    /// longer, flush makes the page and stores it behind the newest delta; reads stop at such a
    /// page and do not return that delta. Deltas of layers in memory come on top. To find long
    /// chains, flush also reads older layers, of the pages that it writes deltas of.
    ///
    /// It takes a redo to make pages: [`Options::flush_redo`], or
    /// [`Timeline::set_flush_redo`](crate::Timeline::set_flush_redo) for one timeline. Because the
    /// latter can come at any time, a store opens without either; then no chain is cut, which
    /// [`FlushStats::flushes_without_redo`](crate::FlushStats::flushes_without_redo) counts and a
    /// warning says once for each timeline (feature `tracing`). Default 0: no bound, and no page is
    /// made.
    pub deltas_per_page_max: u32,
    /// Makes the pages that [`Options::deltas_per_page_max`] asks for, of every timeline without a
    /// redo of its own ([`Timeline::set_flush_redo`](crate::Timeline::set_flush_redo)). What a
    /// store recovers from its log is flushed as soon as it is open, which is before a timeline can
    /// be given its own. Default: none, and no page is made.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub flush_redo: Option<FlushRedo>,
    /// How long a failed flush waits before it is tried again: this long at first, then twice as
    /// long each time, up to [`Options::flush_retry_delay_max`]. 1 ms to 1 min; default 100 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub flush_retry_delay: Duration,
    /// The longest wait between two tries of a flush. 1 ms to 1 h, not below the first; default 10
    /// s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub flush_retry_delay_max: Duration,
    /// How layer files are read. Default: [`Access::MMAP`].
    pub access: Access,
    /// The most that the cache of blocks holds, of all files that are not mapped, in bytes. 64 KiB
    /// to 1 TiB; default 256 MiB.
    pub block_cache_max_bytes: u64,
    /// How much memory pages may take that redo has made and that are kept for the next reads, in
    /// bytes. Who gives one timeline's reads different [`Redo`](crate::Redo)s must leave it off: a
    /// page is found by its key and its newest version, whoever made it. 0 to 1 TiB; default 0,
    /// none is kept.
    pub page_cache_max_bytes: u64,
    /// How many threads wait for devices in the place of tasks that await a
    /// [`Fetch`](crate::Fetch), at the most; they are started as they are needed. 0: whoever awaits
    /// one waits. To 1,024; default 4.
    pub fetch_threads_max: usize,
    /// How many layer files that are not mapped are open at a time. 1 to 1 million; default 512.
    pub open_files_max: u64,
    /// What a commit that was acknowledged survives. Default: [`Durability::Synced`].
    pub durability: Durability,
    /// Length of a segment of the log, in bytes. Its room is taken when it is made, so that a
    /// commit never waits for the file system to find some; with [`Durability::Synced`] it is
    /// written once then, so that it syncs faster. A busy log has up to four segments prepared
    /// ahead; one that nothing was committed to for 10 s, or whose store was closed, has one. 4 KiB
    /// to 1 GiB; default 16 MiB.
    pub log_segment_size_bytes: u64,
    /// How long the log may get, in bytes: at half of it the layers that hold it up are flushed, at
    /// all of it commits wait for that. Four segments to 1 TiB; default 2 GiB.
    pub log_size_max_bytes: u64,
    /// Opens a store whose log is damaged all the same, to be read only: with everything before the
    /// damage, and nothing behind it. Default: false, such a store is not opened.
    pub salvage_log: bool,
    /// Who flushes layers, frees memory and syncs for futures. Default: [`Background::Threads`].
    pub background: Background,
    /// The id of a store that is created; it goes into every checksum of its files. Default: none,
    /// a random one.
    pub store_id: Option<u128>,
    /// Where ages and durations come from. While it stands still a flush that failed is tried again
    /// only when a call waits for it, and segments of an idle log are not given back. Default: the
    /// operating system's monotonic clock.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub clock: Clock,
}

/// How layer files are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
pub enum Access {
    /// Mapped: values are borrowed from the operating system's page cache.
    ///
    /// What is in memory the system tells only to who may write to a file (`can_do_mincore` in
    /// Linux's `mm/mincore.c`): a process that may not is told that everything is, and then its
    /// reads that may not wait do wait.
    Mmap {
        /// How many layer files are mapped at the most; those beyond are read as by
        /// [`Access::Pread`]. The kernel has a bound of its own for a process
        /// (`vm.max_map_count`, 65,530). 0 to 16 million.
        #[cfg_attr(feature = "serde", serde(default = "mappings_max_default"))]
        mappings_max: u64,
        /// How long what was found in memory is taken to be there still, by reads that may not wait
        /// ([`Guard::try_page`](crate::Guard::try_page)). When memory is short the system may take
        /// it away meanwhile, and such a read then waits after all. Where very much is remembered
        /// it may take longer, so that looking takes no more than a twentieth of a core. Zero, or
        /// [`Background::Callers`]: each such read asks the system, which takes longer than the
        /// rest of it. To 1 min.
        #[cfg_attr(
            feature = "serde",
            serde(default = "residency_interval_default", with = "crate::duration_text")
        )]
        residency_interval: Duration,
    },
    /// Read, block by block, into a cache of the store's own.
    Pread,
    /// As [`Access::Pread`], with direct I/O (`O_DIRECT`). Where the file system refuses that,
    /// files are read as by `Pread`, and [`AccessStats::direct_refused`] says so.
    ///
    /// [`AccessStats::direct_refused`]: crate::AccessStats::direct_refused
    Direct,
}

impl Access {
    /// [`Access::Mmap`] with its defaults: 32,768 mappings, 50 ms.
    pub const MMAP: Access =
        Access::Mmap { mappings_max: MAPPINGS_MAX, residency_interval: RESIDENCY_INTERVAL };
}

const MAPPINGS_MAX: u64 = 32 << 10;
const RESIDENCY_INTERVAL: Duration = Duration::from_millis(50);

#[cfg(feature = "serde")]
fn mappings_max_default() -> u64 {
    MAPPINGS_MAX
}

#[cfg(feature = "serde")]
fn residency_interval_default() -> Duration {
    RESIDENCY_INTERVAL
}

impl Default for Access {
    fn default() -> Access {
        Access::MMAP
    }
}

impl Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Mmap { .. } => "mmap",
            Access::Pread => "pread",
            Access::Direct => "direct",
        })
    }
}

/// What a commit survives once [`CommitTicket::wait`](crate::CommitTicket::wait) has returned; see
/// [`crate::durability`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Durability {
    /// Everything: the log is synced. Commits that wait at the same time share one sync.
    #[default]
    Synced,
    /// The end of the process: the log is handed to the operating system at once, and synced now
    /// and then. Single commits can be synced all the same:
    /// [`WriteLease::commit_with`](crate::WriteLease::commit_with).
    Buffered {
        /// How long it may take until the log is synced. 1 ms to 1 h.
        #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
        sync_interval: Duration,
    },
    /// Nothing: no log is written. The caller has one, and streams it again from
    /// [`Timeline::disk_consistent_lsn`](crate::Timeline::disk_consistent_lsn).
    External,
}

/// Who does a store's background work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Background {
    /// Threads of the store: one that flushes, one that frees memory, one that syncs the log and
    /// one that prepares its segments.
    #[default]
    Threads,
    /// The threads that call it, when they need it done: a flush by who waits for it, freeing after
    /// a flush, a sync by who awaits a ticket, which blocks. The store has no threads, and does the
    /// same on each run: for tests and simulations.
    Callers,
}

/// What flushes make pages with. Two are equal if they are the same one.
///
/// It is called on the thread that flushes, and goes on from what it has made itself: redo of some
/// deltas, and of the others on the page of these, has to come to the same as redo of all. It may
/// read, also the timeline that is flushed; it must not write or flush, for it would wait for
/// itself. Where it panics or fails, the chain is left as it is.
#[derive(Clone)]
pub struct FlushRedo(pub Arc<dyn Redo + Send + Sync>);

impl PartialEq for FlushRedo {
    fn eq(&self, other: &FlushRedo) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for FlushRedo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlushRedo")
    }
}

/// A monotonic clock: the time since some fixed moment.
#[derive(Clone, Copy)]
pub struct Clock(pub fn() -> Duration);

impl Clock {
    /// The time now.
    #[must_use]
    pub fn now(self) -> Duration {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock(|| {
            static START: OnceLock<Instant> = OnceLock::new();
            START.get_or_init(Instant::now).elapsed()
        })
    }
}

impl PartialEq for Clock {
    fn eq(&self, other: &Clock) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            create: true,
            open_layer_size_max_bytes: 128 * MIB,
            frozen_layers_max: 4,
            write_delay_max: Duration::from_millis(10),
            pool_retained_max_bytes: 256 * MIB,
            block_size_target_bytes: 16 << 10,
            compression: Compression::None,
            image_layer_size_max_bytes: 256 * MIB,
            compaction_fan_in: 8,
            compaction_layer_size_bytes: 256 * MIB,
            deltas_per_page_max: 0,
            flush_redo: None,
            flush_retry_delay: Duration::from_millis(100),
            flush_retry_delay_max: Duration::from_secs(10),
            access: Access::default(),
            block_cache_max_bytes: 256 * MIB,
            page_cache_max_bytes: 0,
            fetch_threads_max: 4,
            open_files_max: 512,
            durability: Durability::default(),
            log_segment_size_bytes: 16 * MIB,
            log_size_max_bytes: 2 * GIB,
            salvage_log: false,
            background: Background::default(),
            store_id: None,
            clock: Clock::default(),
        }
    }
}

impl Options {
    pub(crate) fn of_access(&self) -> AccessOptions {
        let (mode, mappings_max) = match self.access {
            Access::Mmap { mappings_max, .. } => (AccessMode::Mmap, mappings_max),
            Access::Pread => (AccessMode::Pread, 0),
            Access::Direct => (AccessMode::Direct, 0),
        };
        AccessOptions {
            mode,
            cache_max_bytes: self.block_cache_max_bytes,
            mappings_max,
            open_files_max: usize::try_from(self.open_files_max).unwrap_or(usize::MAX),
            remembers_residency: self.residency_interval().is_some(),
        }
    }

    /// How often a thread is to look what is in memory still, if there is to be one.
    pub(crate) fn residency_interval(&self) -> Option<Duration> {
        match self.access {
            Access::Mmap { mappings_max: 1.., residency_interval }
                if self.background == Background::Threads && !residency_interval.is_zero() =>
            {
                Some(residency_interval)
            }
            _ => None,
        }
    }

    /// Checks every option against its range; opening a store does it too.
    ///
    /// # Errors
    /// [`Error::InvalidOption`]
    pub fn validate(&self) -> Result<()> {
        in_range("open_layer_size_max_bytes", self.open_layer_size_max_bytes, 64 * KIB..=4 * GIB)?;
        in_range("frozen_layers_max", self.frozen_layers_max, 1..=64)?;
        in_range("pool_retained_max_bytes", self.pool_retained_max_bytes, 0..=64 * GIB)?;
        in_range("block_size_target_bytes", self.block_size_target_bytes, 1 << 10..=1 << 20)?;
        if let Compression::Zstd { level } = self.compression {
            in_range("compression level", level, 1..=19)?;
        }
        in_range("image_layer_size_max_bytes", self.image_layer_size_max_bytes, MIB..=16 * GIB)?;
        if self.compaction_fan_in != 0 {
            in_range("compaction_fan_in", self.compaction_fan_in, 2..=64)?;
        }
        in_range(
            "compaction_layer_size_bytes",
            self.compaction_layer_size_bytes,
            64 * KIB..=16 * GIB,
        )?;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        in_range("write_delay_max (ms)", millis(self.write_delay_max), 0..=1000)?;
        let first = millis(self.flush_retry_delay);
        in_range("flush_retry_delay (ms)", first, 1..=60_000)?;
        in_range(
            "flush_retry_delay_max (ms)",
            millis(self.flush_retry_delay_max),
            first..=3_600_000,
        )?;
        in_range("block_cache_max_bytes", self.block_cache_max_bytes, 64 * KIB..=1024 * GIB)?;
        in_range("page_cache_max_bytes", self.page_cache_max_bytes, 0..=1024 * GIB)?;
        in_range("fetch_threads_max", self.fetch_threads_max, 0..=1024)?;
        in_range("open_files_max", self.open_files_max, 1..=1_000_000)?;
        if let Access::Mmap { mappings_max, residency_interval } = self.access {
            in_range("mappings_max", mappings_max, 0..=16_000_000)?;
            in_range("residency_interval (ms)", millis(residency_interval), 0..=60_000)?;
        }
        in_range("log_segment_size_bytes", self.log_segment_size_bytes, 4 * KIB..=GIB)?;
        let log_size_min = 4 * self.log_segment_size_bytes;
        in_range("log_size_max_bytes", self.log_size_max_bytes, log_size_min..=1024 * GIB)?;
        if let Durability::Buffered { sync_interval } = self.durability {
            in_range("sync_interval (ms)", millis(sync_interval), 1..=3_600_000)?;
        }
        Ok(())
    }
}

fn in_range<T: PartialOrd + Display>(
    option: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let expected = format!("{} to {}", range.start(), range.end());
    Err(Error::InvalidOption { option, expected, found: value.to_string() })
}

/// Compression as a level, 0 for none.
#[cfg(feature = "serde")]
mod compression_serde {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Compression;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Named {
        None,
        Zstd { level: i32 },
    }

    pub(super) fn serialize<S: Serializer>(
        value: &Compression,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match *value {
            Compression::None => Named::None,
            Compression::Zstd { level } => Named::Zstd { level },
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Compression, D::Error> {
        Ok(match Named::deserialize(deserializer)? {
            Named::None => Compression::None,
            Named::Zstd { level } => Compression::Zstd { level },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not named has its default, inside a mode too.
    #[cfg(feature = "serde")]
    #[test]
    fn a_mode_has_defaults_of_its_own() {
        let options: Options =
            serde_json::from_str(r#"{"access": {"mmap": {"mappings_max": 3}}}"#).unwrap();
        let residency_interval = RESIDENCY_INTERVAL;
        assert_eq!(options.access, Access::Mmap { mappings_max: 3, residency_interval });
        let options: Options = serde_json::from_str(r#"{"access": {"mmap": {}}}"#).unwrap();
        assert_eq!(options.access, Access::MMAP);
    }

    #[test]
    fn each_range_is_checked_at_both_ends() {
        let good = Options::default();
        let mapped =
            |mappings_max, residency_interval| Access::Mmap { mappings_max, residency_interval };
        let bad = [
            Options { open_layer_size_max_bytes: 64 * KIB - 1, ..good.clone() },
            Options { open_layer_size_max_bytes: 4 * GIB + 1, ..good.clone() },
            Options { frozen_layers_max: 65, ..good.clone() },
            Options { pool_retained_max_bytes: 64 * GIB + 1, ..good.clone() },
            Options { block_size_target_bytes: 1023, ..good.clone() },
            Options { block_size_target_bytes: (1 << 20) + 1, ..good.clone() },
            Options { compression: Compression::Zstd { level: 0 }, ..good.clone() },
            Options { compression: Compression::Zstd { level: 20 }, ..good.clone() },
            Options { image_layer_size_max_bytes: MIB - 1, ..good.clone() },
            Options { compaction_fan_in: 1, ..good.clone() },
            Options { compaction_fan_in: 65, ..good.clone() },
            Options { compaction_layer_size_bytes: 64 * KIB - 1, ..good.clone() },
            Options { flush_retry_delay: Duration::ZERO, ..good.clone() },
            Options { flush_retry_delay: Duration::from_secs(11), ..good.clone() },
            Options { flush_retry_delay_max: Duration::MAX, ..good.clone() },
            Options { access: mapped(1, Duration::from_secs(61)), ..good.clone() },
            Options { block_cache_max_bytes: 64 * KIB - 1, ..good.clone() },
            Options { page_cache_max_bytes: 1025 * GIB, ..good.clone() },
            Options { access: mapped(16_000_001, Duration::ZERO), ..good.clone() },
            Options { fetch_threads_max: 1025, ..good.clone() },
            Options { open_files_max: 0, ..good.clone() },
            Options { log_segment_size_bytes: 4 * KIB - 1, ..good.clone() },
            Options { log_segment_size_bytes: GIB + 1, ..good.clone() },
            Options { log_size_max_bytes: 64 * MIB - 1, ..good.clone() },
            Options { log_size_max_bytes: 1024 * GIB + 1, ..good.clone() },
            Options {
                durability: Durability::Buffered { sync_interval: Duration::ZERO },
                ..good.clone()
            },
        ];
        assert!(good.validate().is_ok());
        for options in bad {
            assert!(matches!(options.validate(), Err(Error::InvalidOption { .. })), "{options:?}");
        }
    }

    /// One style for all of it: names in snake_case, durations as text. The files are what users
    /// have in theirs.
    #[cfg(feature = "serde")]
    #[test]
    fn options_are_written_as_in_the_golden_files() {
        let all = Options {
            create: false,
            compression: Compression::Zstd { level: 3 },
            deltas_per_page_max: 100,
            flush_retry_delay: Duration::from_millis(1500),
            flush_retry_delay_max: Duration::from_secs(90),
            access: Access::Direct,
            durability: Durability::Buffered { sync_interval: Duration::from_millis(20) },
            salvage_log: true,
            background: Background::Callers,
            store_id: Some(7),
            ..Options::default()
        };
        for (options, golden) in [
            (Options::default(), include_str!("../tests/golden/options_default.json")),
            (all, include_str!("../tests/golden/options_other.json")),
        ] {
            let text = serde_json::to_string_pretty(&options).unwrap();
            assert_eq!(text, golden.trim_end());
            assert_eq!(serde_json::from_str::<Options>(golden).unwrap(), options);
        }
    }

    /// Earlier versions wrote `"Pread"` and a duration's seconds and nanoseconds.
    #[cfg(feature = "serde")]
    #[test]
    fn other_forms_are_refused_and_the_error_shows_the_right_one() {
        let refused = |text: &str| serde_json::from_str::<Options>(text).unwrap_err().to_string();
        let error = refused(r#"{"access": "Pread"}"#);
        assert!(error.contains("`Pread`") && error.contains("`pread`"), "{error}");
        let error = refused(r#"{"flush_retry_delay": {"secs": 0, "nanos": 100000000}}"#);
        assert!(error.contains("such as \"100ms\""), "{error}");
        let error = refused(r#"{"access": {"mmap": {"residency_interval": "50"}}}"#);
        assert!(error.contains("\"50\"") && error.contains("such as \"100ms\""), "{error}");
        let error = refused(r#"{"durability": {"buffered": {"sync_interval": 5}}}"#);
        assert!(error.contains("such as \"100ms\""), "{error}");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn options_survive_serde() {
        let options = Options {
            compression: Compression::Zstd { level: 3 },
            create: false,
            ..Options::default()
        };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
        assert_eq!(serde_json::from_str::<Options>("{}").unwrap(), Options::default());
        assert!(serde_json::from_str::<Options>(r#"{"opn_layer": 1}"#).is_err());
    }
}
