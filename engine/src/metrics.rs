//! Statistics for the recorder of the `metrics` crate that the embedder has installed (feature
//! `metrics`). The embedder calls `record`; the engine never does, so no read pays for it.

use metrics::{counter, gauge};

use crate::reports::{read_stats::ReadStats, stats::StoreStats};

impl ReadStats {
    /// Adds the values to the counters `pagestrata_reads_total`, `pagestrata_read_layers_total` and
    /// so on. Record each read once: a scratch's [`all_reads`](crate::Scratch::all_reads) is the
    /// sum of all its reads.
    pub fn record(&self) {
        counter!("pagestrata_reads_total").increment(self.reads);
        counter!("pagestrata_read_layers_total").increment(self.layers);
        counter!("pagestrata_read_versions_total").increment(self.versions);
        counter!("pagestrata_read_value_bytes_total").increment(self.value_bytes);
        counter!("pagestrata_read_blocks_total").increment(self.blocks);
        counter!("pagestrata_read_block_bytes_total").increment(self.block_bytes);
        counter!("pagestrata_read_copied_bytes_total").increment(self.copied_bytes);
        counter!("pagestrata_read_inflated_bytes_total").increment(self.inflated_bytes);
        counter!("pagestrata_read_cold_fetches_total").increment(self.cold_fetches);
    }
}

impl StoreStats {
    /// Sets the gauges `pagestrata_memory_bytes`, `pagestrata_layer_files` and so on.
    pub fn record(&self) {
        let gauges = [
            ("pagestrata_memory_bytes", self.memory_bytes()),
            ("pagestrata_open_bytes", self.memory.open_bytes),
            ("pagestrata_frozen_bytes", self.memory.frozen_bytes),
            ("pagestrata_retired_bytes", self.memory.retired_bytes),
            ("pagestrata_layer_files", self.layer_files),
            ("pagestrata_layer_file_bytes", self.layer_file_bytes),
            ("pagestrata_mappings", self.access.mappings),
            ("pagestrata_mapped_bytes", self.access.mapped_bytes),
            ("pagestrata_block_cache_bytes", self.access.cached_bytes),
            ("pagestrata_page_cache_bytes", self.page_cache_bytes),
            ("pagestrata_file_reads", self.access.reads),
            ("pagestrata_unexpected_major_faults", self.major_faults.unexpected()),
        ];
        for (name, value) in gauges {
            gauge!(name).set(value as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
        with_local_recorder,
    };

    use super::*;

    /// Records what each counter was incremented by.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<(String, u64)>>>);

    struct Named(Written, String);

    impl CounterFn for Named {
        fn increment(&self, value: u64) {
            self.0.0.lock().unwrap().push((self.1.clone(), value));
        }

        fn absolute(&self, value: u64) {
            self.increment(value);
        }
    }

    impl Recorder for Written {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(Named(self.clone(), key.name().to_owned())))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn every_count_of_a_read_is_recorded_under_its_name() {
        let stats = ReadStats { reads: 1, layers: 2, cold_fetches: 9, ..ReadStats::default() };
        let written = Written::default();
        with_local_recorder(&written, || {
            stats.record();
            StoreStats::default().record();
        });
        let written = written.0.lock().unwrap();
        assert_eq!(written.len(), 9);
        for (name, value) in [("reads", 1), ("read_layers", 2), ("read_cold_fetches", 9)] {
            assert!(written.contains(&(format!("pagestrata_{name}_total"), value)), "{written:?}");
        }
    }
}
