//! [`run`]: runs a sequence on a store and on the model, from one open of the store to the next.

use std::{collections::BTreeSet, path::Path, rc::Rc, sync::Arc, time::Duration};

use super::{
    counts::Counts,
    model::Model,
    ops::{Ending, Op, Sequence, Setup},
    session::{self, Session},
};
use crate::{
    Access, Background, Compression, DetachedVersion, Durability, FlushRedo, Kind, Lsn, OpenReport,
    Options, Scratch, Snapshot, Store, Timeline, storage::SharedStorage,
};

/// The timeline that a sequence works on.
const TIMELINE: &str = "main";
/// Values are cut to [`CUT_VALUE_LEN`] once a sequence has put this much, in bytes.
const VALUE_BYTES_MAX: usize = 32 << 20;
const CUT_VALUE_LEN: usize = 48;
/// Maximum number of objects that are held at once.
const HELD_MAX: usize = 24;

/// What is held across operations.
pub(super) enum Held {
    Snapshot {
        snapshot: Snapshot,
        /// The last committed Lsn when it was taken.
        seen: Lsn,
        /// The model that it saw, if the store has lost something since.
        of: Option<Rc<Model>>,
    },
    Detached {
        version: DetachedVersion,
        lsn: Lsn,
        kind: Kind,
        bytes: Arc<[u8]>,
    },
}

/// The state of a sequence across all opens of its store.
pub(super) struct Run {
    pub(super) model: Model,
    pub(super) held: Vec<Held>,
    pub(super) counts: Counts,
    /// Every Lsn that was ever committed: a reopened store may be at any of them.
    pub(super) commits: BTreeSet<Lsn>,
    /// The highest disk-consistent Lsn seen.
    pub(super) durable: Lsn,
    /// The last accepted drop.
    pub(super) last_drop: Option<(u128, u32, Lsn)>,
    values: u64,
    value_bytes: usize,
}

impl Setup {
    /// Returns the options for an open of the store; opens count from zero.
    #[must_use]
    pub fn options(&self, opening: usize) -> Options {
        let mappings_max = if self.access < 128 { 2 } else { 1 << 10 };
        let residency_interval = Duration::from_millis(50);
        let mapped = Access::Mmap { mappings_max, residency_interval };
        let ways = [mapped, Access::Pread, Access::Direct];
        Options {
            access: ways[(usize::from(self.access) + opening) % ways.len()],
            block_cache_max_bytes: 64 << 10,
            page_cache_max_bytes: if self.access.is_multiple_of(2) { 1 << 12 } else { 0 },
            open_files_max: 1,
            open_layer_size_max_bytes: 64 << 10,
            frozen_layers_max: 1 + usize::from(self.frozen_layers) % 4,
            durability: match self.durability % 4 {
                0 => Durability::External,
                1 => Durability::Buffered { sync_interval: Duration::from_secs(3600) },
                _ => Durability::Synced,
            },
            background: match self.callers {
                false => Background::Threads,
                true => Background::Callers,
            },
            log_segment_size_bytes: 16 << 10,
            log_size_max_bytes: 256 << 10,
            pool_retained_max_bytes: if self.pooled { 4 << 20 } else { 0 },
            block_size_target_bytes: 1 << (10 + self.block_size % 5),
            image_layer_size_max_bytes: 1 << 20,
            compaction_fan_in: [2, 2, 8, 0][usize::from(self.block_size / 64)],
            compaction_layer_size_bytes: 64 << 10,
            deltas_per_page_max: [0, 1, 4][usize::from(self.frozen_layers / 4) % 3],
            flush_redo: Some(FlushRedo(Arc::new(session::Append))),
            compression: match self.compressed {
                true => Compression::Zstd { level: 1 },
                false => Compression::None,
            },
            store_id: Some(7),
            ..Options::default()
        }
    }

    /// Returns where the timeline starts.
    #[must_use]
    pub fn start_lsn(&self) -> Lsn {
        self.start.lsn(Lsn(0x10), Lsn(0xF)).clamp(Lsn(1), Lsn(u64::MAX - 1))
    }
}

/// Runs a sequence on a new store and on the model. `dir` of `storage` must be empty.
///
/// # Panics
/// If the two differ; the message names the operation.
#[must_use]
pub fn run(storage: &SharedStorage, dir: &Path, sequence: &Sequence) -> Counts {
    let start = sequence.setup.start_lsn();
    let mut options = sequence.setup.options(0);
    let model = Model::new(start).with_deltas_per_page_max(options.deltas_per_page_max as usize);
    let mut run = Run {
        commits: BTreeSet::from([model.committed()]),
        durable: model.committed(),
        model,
        held: Vec::new(),
        counts: Counts::default(),
        last_drop: None,
        values: 0,
        value_bytes: 0,
    };
    let (mut store, report) = open(storage, dir, &options);
    assert!(report.created);
    store.create_timeline(TIMELINE, start).expect("a new timeline");
    let mut ops = sequence.ops.iter().enumerate();
    for opening in 1.. {
        let (ending, timeline) = run.session(&store, &mut ops);
        let last = ending.is_none();
        run.end(store, &timeline, ending.unwrap_or(Ending::Close));
        drop(timeline);
        run.check_held();
        options = sequence.setup.options(opening);
        if options.compaction_fan_in > 0 {
            // The next opening removes files that a snapshot of this one may have to open.
            run.held.retain(|held| matches!(held, Held::Detached { .. }));
        }
        store = open(storage, dir, &options).0;
        run.reopened(&store.timeline(TIMELINE).expect("it was created"), options.durability);
        if last {
            break;
        }
    }
    run.check_held();
    let timeline = store.timeline(TIMELINE).expect("it was created");
    session::check_everything(&timeline, &run.model, &mut run.counts);
    let _ = timeline.verify().expect("sound layer files");
    run.counts
}

fn open(storage: &SharedStorage, dir: &Path, options: &Options) -> (Store, OpenReport) {
    Store::open_with(storage.clone(), dir, options.clone()).expect("a sound store")
}

impl Run {
    /// Runs operations until the store is closed, or to the end.
    fn session<'o>(
        &mut self,
        store: &Store,
        ops: &mut impl Iterator<Item = (usize, &'o Op)>,
    ) -> (Option<Ending>, Timeline) {
        let timeline = store.timeline(TIMELINE).expect("it was created");

        let mut session = Session::new(&timeline);
        let mut ending = None;
        for (number, op) in ops {
            let running = Running { number, op };
            self.counts.add("operations");
            session.apply(self, op);
            std::mem::forget(running);
            if let Op::Reopen { how } = *op {
                ending = Some(how);
                break;
            }
        }
        if ending == Some(Ending::CloseLeased) {
            session.lease();
            self.close_leased(&timeline);
        }
        drop(session);
        if ending.is_none() {
            self.finish(&timeline);
        }
        (ending, timeline)
    }

    /// With the lease held, only frozen layers can be flushed.
    fn close_leased(&mut self, timeline: &Timeline) {
        let values = self.model.highest_lsn();
        let reached = timeline.flush().expect("flushing works");
        assert!(reached <= self.model.committed(), "{reached} was never committed");
        self.counts.max("max_unflushed_lsns", values.0.saturating_sub(reached.0).min(1));
        self.saw_durable(reached);
    }

    /// Called at the end of a sequence, before the store is closed: checks everything, and releases
    /// everything that is held.
    fn finish(&mut self, timeline: &Timeline) {
        self.model.abort();
        self.check_held();
        session::check_everything(timeline, &self.model, &mut self.counts);
        self.held.clear();
        let reached = timeline.flush().expect("flushing works");
        assert_eq!(reached, self.model.committed(), "flushed without a lease");
        self.saw_durable(reached);
        // Nothing is held: the reclaimer must free every retired layer. If it does not, this loop
        // does not end.
        while timeline.stats().retired_layers > 0 {
            match timeline.0.store.options.background {
                Background::Threads => std::thread::yield_now(),
                Background::Callers => drop(timeline.flush()),
            }
        }
        let stats = timeline.stats();
        assert_eq!((stats.frozen_layers, timeline.pins().len()), (0, 0));
    }

    /// Ends the store. The session's lease and readers are dropped by then.
    fn end(&mut self, store: Store, timeline: &Timeline, how: Ending) {
        let flushes = timeline.stats().flush;
        assert_eq!((flushes.failures, &flushes.last_error), (0, &None));
        self.counts.add_many("flushes", flushes.flushes);
        self.counts.add_many("chains_cut", flushes.pages_made);
        self.counts.add("reopens");
        self.model.abort();
        match how {
            Ending::Drop | Ending::CloseLeased => {
                self.saw_durable(timeline.disk_consistent_lsn());
                drop(store);
            }
            Ending::Close => {
                let report = store.close(Duration::ZERO).expect("flushing works");
                assert!(report.leases_held.is_empty());
                self.saw_durable(self.model.committed());
            }
        }
    }

    pub(super) fn saw_durable(&mut self, lsn: Lsn) {
        assert!(lsn >= self.durable, "the disk-consistent Lsn went back to {lsn}");
        self.durable = lsn;
    }

    /// Moves the model to where the reopened store is: its last commit if there is a log, otherwise
    /// a flushed commit.
    fn reopened(&mut self, timeline: &Timeline, durability: Durability) {
        let flushed = timeline.disk_consistent_lsn();
        self.saw_durable(flushed);
        assert!(
            self.commits.contains(&flushed),
            "flushed up to {flushed}, which was never committed"
        );
        if durability != Durability::External {
            assert_eq!(timeline.last_record_lsn(), self.model.last_record());
            self.counts.add("reopens_with_a_log");
            self.counts.add_many("replays", u64::from(flushed < self.model.committed()));
            return;
        }
        let back = flushed;
        assert_eq!(timeline.last_record_lsn(), back.max(self.model.start()));
        if back < self.model.committed() {
            self.counts.add("reopens_that_lose");
            // A snapshot that is still held has lost nothing.
            let mut before: Option<Rc<Model>> = None;
            for held in &mut self.held {
                if let Held::Snapshot { of: of @ None, .. } = held {
                    let model = before.get_or_insert_with(|| Rc::new(self.model.clone()));
                    *of = Some(model.clone());
                }
            }
            self.model.cut_to(back);
            self.commits.split_off(&back.next());
        }
    }

    /// Reads under everything that is held.
    pub(super) fn check_held(&mut self) {
        let mut scratch = Scratch::new();
        for held in &self.held {
            match held {
                Held::Snapshot { snapshot, seen, of } => {
                    let model = of.as_deref().unwrap_or(&self.model);
                    session::check_snapshot(snapshot, *seen, model, &mut scratch, &mut self.counts);
                    self.counts.add("held_snapshots_checked");
                    self.counts.add_many("lost_snapshots_checked", u64::from(of.is_some()));
                }
                Held::Detached { version, lsn, kind, bytes } => {
                    assert_eq!((version.lsn(), version.kind()), (*lsn, *kind));
                    assert!(version.bytes() == &**bytes, "a detached version changed: {version:?}");
                    let name = match version.keeps_layer() {
                        true => "held_detached_checked",
                        false => "held_copies_checked",
                    };
                    self.counts.add(name);
                }
            }
        }
    }

    pub(super) fn hold(&mut self, held: Held) {
        if self.held.len() == HELD_MAX {
            self.held.remove(0);
        }
        self.held.push(held);
        self.counts.max("max_held", self.held.len() as u64);
    }

    /// Takes a number and a length for the next value.
    pub(super) fn next_value(&mut self, len: usize) -> (u64, usize) {
        let len = match self.value_bytes + len > VALUE_BYTES_MAX {
            true => len.min(CUT_VALUE_LEN),
            false => len,
        };
        self.value_bytes += len;
        self.values += 1;
        (self.values, len)
    }
}

/// Names the operation in the message of a panic.
struct Running<'o> {
    number: usize,
    op: &'o Op,
}

impl Drop for Running<'_> {
    #[allow(clippy::print_stderr, reason = "a test kit tells where it failed")]
    fn drop(&mut self) {
        eprintln!("failed in operation {}: {:?}", self.number, self.op);
    }
}
