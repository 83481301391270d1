//! Statistics of a timeline and of a store: collected here from their parts.

use pagestrata_layers::Lsn;

use crate::{
    reports::stats::{CompactionStats, FlushStats, MemoryStats, TimelineStats},
    state::timeline::TimelineShared,
};

impl TimelineStats {
    pub(crate) fn of(timeline: &TimelineShared) -> TimelineStats {
        let map = timeline.look();
        let retired = timeline.retired();
        let files_heap: usize = map.files.iter().map(|file| file.memory_bytes()).sum();
        let delays = timeline.pacer.delays();
        let compaction = compaction_stats(timeline);
        let flush = timeline.flush.lock();
        let lsn = |lsn: Lsn| lsn.0;
        TimelineStats {
            last_record_lsn: lsn(map.last_record_lsn().max(timeline.start)),
            disk_consistent_lsn: lsn(timeline.disk_consistent_lsn()),
            memory: MemoryStats {
                open_bytes: map.open.layer.memory_bytes() as u64,
                frozen_bytes: map.frozen.iter().map(|slot| slot.layer.memory_bytes() as u64).sum(),
                retired_bytes: retired.iter().map(|layer| layer.bytes).sum(),
                map_bytes: (map.memory_bytes() + files_heap) as u64,
            },
            open_versions: map.open.layer.versions_count(),
            frozen_layers: map.frozen.len() as u64,
            retired_layers: retired.len() as u64,
            layer_files: map.index.layer_count() as u64,
            layer_file_bytes: map.files.iter().map(|file| file.summary().file_len).sum(),
            detached: timeline.pins.detached(),
            flush: FlushStats {
                flushes: flush.flushes,
                flushed_bytes: flush.flushed_bytes,
                pages_made: flush.pages.made,
                pages_failed: flush.pages.failed,
                flushes_without_redo: flush.pages.layers_without_redo,
                delayed_commits: delays.commits,
                delayed_us: u64::try_from(delays.total.as_micros()).unwrap_or(u64::MAX),
                failures_total: flush.failures_total,
                failures: flush.failures,
                last_error: flush.last_error.as_ref().map(ToString::to_string),
            },
            compaction,
            quarantined: map.files.iter().filter_map(|file| file.quarantined()).collect(),
        }
    }
}

fn compaction_stats(timeline: &TimelineShared) -> CompactionStats {
    let retired_files = timeline.edits.lock().retired_files.len() as u64;
    let state = timeline.compaction.lock();
    CompactionStats {
        merges: state.merges,
        read_files: state.read_files,
        read_bytes: state.read_bytes,
        written_files: state.written_files,
        written_bytes: state.written_bytes,
        retired_files,
        parked_files: state.parked.len() as u64,
        failures: state.failures,
        failures_total: state.failures_total,
        last_error: state.last_error.as_ref().map(ToString::to_string),
    }
}
