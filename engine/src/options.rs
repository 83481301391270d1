//! [`Options`]: the settings of a store, checked when it is opened.

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

/// Settings of a store. Each may change from one open to the next.
///
/// ```
/// # use pagestrata::{Compression, Options};
/// let options = Options { compression: Compression::Zstd { level: 1 }, ..Options::default() };
/// assert!(options.validate().is_ok());
/// assert!(Options { frozen_layers_max: 0, ..options }.validate().is_err());
/// ```
///
/// With the feature `serde`, names are in snake_case (`"access": "pread"`) and durations are text
/// (`"100ms"`, `"1m 30s"`); no other form is read. A missing field has its default, an unknown one
/// is an error. `flush_redo` and `clock` are code and are not serialized.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Options {
    /// Create the store if the directory holds none. The directory is created too, its parent is
    /// not. Default: true.
    pub create: bool,
    /// A commit rolls the open layer when its values and index take this much memory, in bytes.
    /// 64 KiB to 4 GiB; default 128 MiB.
    pub open_layer_size_max_bytes: u64,
    /// How many frozen layers may wait for their flush before a commit waits for one. 1 to 64;
    /// default 4.
    pub frozen_layers_max: usize,
    /// The longest delay of a commit while flushing is behind. When more than half of the permitted
    /// open and frozen layers is filled, commits are delayed gradually, so that the writer slows to
    /// the speed of flushing and no commit waits for a whole flush. Zero: no delay; a commit that
    /// finds [`Options::frozen_layers_max`] layers frozen waits for a flush. Has no effect with
    /// [`Background::Callers`]. Zero to 1 s; default 10 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub write_delay_max: Duration,
    /// How much memory of reclaimed layers is kept for reuse, in bytes, for all timelines together.
    /// Reused memory is much cheaper than fresh memory. 0 to 64 GiB; default 256 MiB.
    pub pool_retained_max_bytes: u64,
    /// Target size of a data block of a layer file, in bytes before compression. 1 KiB to 1 MiB;
    /// default 16 KiB.
    pub block_size_target_bytes: u32,
    /// Compression of data blocks of new layer files; a block is stored uncompressed if compression
    /// does not make it smaller. Readers borrow uncompressed values from the file without a copy.
    /// Default: none.
    #[cfg_attr(feature = "serde", serde(with = "compression_serde"))]
    pub compression: Compression,
    /// An import starts the next image layer at this size, in bytes of values. 1 MiB to 16 GiB;
    /// default 256 MiB.
    pub image_layer_size_max_bytes: u64,
    /// A merge replaces about this many adjacent delta layers of similar size by one. A larger
    /// number writes less, but each read visits more layers. A thread of the store merges after
    /// each flush; with [`Background::Callers`] only
    /// [`Timeline::compact`](crate::Timeline::compact) does. 2 to 64, or 0: never merge. Default 8.
    pub compaction_fan_in: u32,
    /// A merge starts the next layer file at the first key after this size, in bytes of the file.
    /// 64 KiB to 16 GiB; default 256 MiB.
    pub compaction_layer_size_bytes: u64,
    /// Upper bound on the deltas from flushed layers that a read of a page applies. When a chain is
    /// longer, flush materializes the page and stores it after the newest delta; reads stop at such
    /// a page and do not return that delta. Deltas of layers in memory are not counted. To find
    /// long chains, flush also reads older layers, for the pages that it writes deltas of.
    ///
    /// Materializing needs a redo: [`Options::flush_redo`], or
    /// [`Timeline::set_flush_redo`](crate::Timeline::set_flush_redo) for one timeline. Because the
    /// latter can be called at any time, a store opens without either. No chain is cut then;
    /// [`FlushStats::flushes_without_redo`](crate::FlushStats::flushes_without_redo) counts it, and
    /// a warning is logged once per timeline (feature `tracing`). Default 0: no bound, and no page
    /// is materialized.
    pub deltas_per_page_max: u32,
    /// Materializes the pages for [`Options::deltas_per_page_max`], for every timeline without a
    /// redo of its own ([`Timeline::set_flush_redo`](crate::Timeline::set_flush_redo)). A store
    /// flushes what it recovered from its log as soon as it is open, before a timeline can be given
    /// its own redo. Default: none, and no page is materialized.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub flush_redo: Option<FlushRedo>,
    /// Delay before a failed flush is retried: this long at first, then doubled each time, up to
    /// [`Options::flush_retry_delay_max`]. 1 ms to 1 min; default 100 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub flush_retry_delay: Duration,
    /// The longest delay between two tries of a flush. At least [`Options::flush_retry_delay`], up
    /// to 1 h; default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub flush_retry_delay_max: Duration,
    /// How layer files are read. Default: [`Access::MMAP`].
    pub access: Access,
    /// Maximum size of the block cache, in bytes. It holds blocks of all files that are not mapped.
    /// 64 KiB to 1 TiB; default 256 MiB.
    pub block_cache_max_bytes: u64,
    /// Maximum size of the cache of materialized pages, in bytes. It must be 0 if reads of one
    /// timeline use different [`Redo`](crate::Redo)s: the cache finds a page by its key and newest
    /// version, not by its redo. 0 to 1 TiB; default 0, no cache.
    pub page_cache_max_bytes: u64,
    /// Maximum number of threads that wait for devices in place of tasks that await a
    /// [`Fetch`](crate::Fetch). They are started on demand. 0: the task itself waits, and blocks
    /// its thread. 0 to 1,024; default 4.
    pub fetch_threads_max: usize,
    /// Maximum number of open layer files that are not mapped. 1 to 1 million; default 512.
    pub open_files_max: u64,
    /// What an acknowledged commit survives. Default: [`Durability::Synced`].
    pub durability: Durability,
    /// Length of a log segment, in bytes. Its space is allocated when it is created, so that a
    /// commit never waits for the file system to allocate; with [`Durability::Synced`] it is also
    /// written once, so that it syncs faster. A busy log has up to four segments prepared ahead; a
    /// log without commits for 10 s, or of a closed store, has one. 4 KiB to 1 GiB; default 16 MiB.
    pub log_segment_size_bytes: u64,
    /// Maximum length of the log, in bytes. At half of it, the layers that keep the log from being
    /// freed are flushed; at all of it, commits wait for that. Four segments to 1 TiB; default 2
    /// GiB.
    pub log_size_max_bytes: u64,
    /// Opens a store with a damaged log read-only, with everything before the damage and nothing
    /// after it. Default: false, such a store does not open.
    pub salvage_log: bool,
    /// Whether threads of the store or its callers flush, merge layer files, free memory, sync the
    /// log and prepare its segments. Default: [`Background::Threads`].
    pub background: Background,
    /// Id of a store that is created; every checksum of its files includes it. Default: none, a
    /// random id.
    pub store_id: Option<u128>,
    /// Source of ages and durations. While the clock stands still, a failed flush is retried only
    /// when a call waits for it, and segments of an idle log are not released. Default: the
    /// monotonic clock of the operating system.
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
    /// Linux reports which pages are resident only to a process that may write to the file
    /// (`can_do_mincore` in `mm/mincore.c`). For other processes it reports every page as resident,
    /// so their reads that must not wait do wait.
    Mmap {
        /// Maximum number of mapped layer files; further ones are read as with [`Access::Pread`].
        /// The kernel has its own bound per process (`vm.max_map_count`, 65,530). 0 to 16 million.
        #[cfg_attr(feature = "serde", serde(default = "mappings_max_default"))]
        mappings_max: u64,
        /// How long reads that must not wait ([`Guard::try_page`](crate::Guard::try_page)) take a
        /// block for resident after it was found resident. Under memory pressure the system may
        /// evict it meanwhile, and such a read then waits after all. If very many blocks are
        /// marked, the interval grows, so that checking them takes at most 5 % of a core. Zero, or
        /// [`Background::Callers`]: each such read asks the system, which takes longer than the
        /// rest of the read. Up to 1 min.
        #[cfg_attr(
            feature = "serde",
            serde(default = "residency_interval_default", with = "crate::duration_text")
        )]
        residency_interval: Duration,
    },
    /// Blocks are read into a cache of the store.
    Pread,
    /// As [`Access::Pread`], with direct I/O (`O_DIRECT`). If the file system refuses direct I/O,
    /// files are read as with `Pread`, and [`AccessStats::direct_refused`] is set.
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
    /// A crash of the process or machine, and power loss: the log is synced. Concurrent commits
    /// share one sync.
    #[default]
    Synced,
    /// A crash of the process: the log is written to the operating system at once, and synced
    /// periodically. A single commit can ask for a sync:
    /// [`WriteLease::commit_with`](crate::WriteLease::commit_with).
    Buffered {
        /// The longest time until the log is synced. 1 ms to 1 h.
        #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
        sync_interval: Duration,
    },
    /// Nothing: no log is written. The caller has its own log, and must stream it again from
    /// [`Timeline::disk_consistent_lsn`](crate::Timeline::disk_consistent_lsn).
    External,
}

/// Which threads do a store's background work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Background {
    /// Threads of the store: for flushing, merging layer files, freeing memory, noticing what is
    /// not in memory any more, syncing the log and preparing its segments.
    #[default]
    Threads,
    /// The calling threads, when they need the result: a caller that waits for a flush flushes, a
    /// flush frees memory afterwards, [`Timeline::compact`](crate::Timeline::compact) merges, and
    /// polling a ticket syncs and blocks. The store has no threads and is deterministic: for tests
    /// and simulations.
    Callers,
}

/// The redo that flushes materialize pages with. Two are equal if they are the same object.
///
/// It is called on the thread that flushes. Redo must compose: applying deltas 1..k and then k+1..n
/// must give the same page as applying 1..n at once. It may read, even from the timeline that is
/// being flushed. It must not write or flush: it would wait for itself. If it panics or fails, the
/// chain is left as it is.
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

/// A monotonic clock: the time since a fixed moment.
#[derive(Clone, Copy)]
pub struct Clock(pub fn() -> Duration);

impl Clock {
    /// Returns the current time.
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

    /// How long to wait after so many failures in a row before the next try: twice as long each
    /// time, up to `longest`.
    pub(crate) fn retry_delay(&self, failures: u32, longest: Duration) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        self.flush_retry_delay.saturating_mul(1 << doublings).min(longest)
    }

    /// Returns how often a thread must re-check residency, or `None` if no thread does.
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

    /// Checks every option against its range, as opening a store does.
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

/// Compression as `none`, or `zstd` with its level.
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

    /// A missing field has its default, inside a mode too.
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

    /// One style throughout: names in snake_case, durations as text. Users have these files.
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
