//! What the server counts, and the page that shows it, in the text format of Prometheus.

use std::{
    fmt::{self, Write},
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use pagestrata::{ReadStats, Store};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::frame::Source;

/// Upper bounds of the histogram's buckets, in microseconds. Above them is one more.
const BOUNDS_US: [u64; 18] = [
    5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
    500_000, 1_000_000, 5_000_000,
];
/// A request for the metrics page is answered within this, or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Counts of the server.
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) requests: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    /// Requests that had to wait.
    pub(crate) cold: AtomicU64,
    /// Connections that are open, that were accepted, and that there was no room for.
    pub(crate) connections: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Connections that were closed because of a time-out.
    pub(crate) timed_out: AtomicU64,
    /// From a request's arrival to its answer, by [`Source`].
    latencies: [Histogram; 3],
    layers: AtomicU64,
    versions: AtomicU64,
    blocks: AtomicU64,
    copied_bytes: AtomicU64,
    /// The threads that tasks run on, as the system names them.
    workers: Mutex<Vec<String>>,
}

/// How many values are in each bucket, and their sum.
#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn add(&self, value: Duration) {
        let bucket = BOUNDS_US.partition_point(|bound| Duration::from_micros(*bound) < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(nanos, Relaxed);
    }

    /// The lines of the series with this label. Buckets are cumulative.
    fn write(&self, out: &mut String, name: &str, label: &str) -> fmt::Result {
        let mut count = 0;
        for (n, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            let bound = BOUNDS_US.get(n).map(|bound| *bound as f64 / 1e6);
            let bound = bound.map_or("+Inf".to_owned(), |bound| bound.to_string());
            writeln!(out, "{name}_bucket{{{label},le=\"{bound}\"}} {count}")?;
        }
        let sum = self.sum_ns.load(Relaxed) as f64 / 1e9;
        writeln!(out, "{name}_sum{{{label}}} {sum}")?;
        writeln!(out, "{name}_count{{{label}}} {count}")
    }
}

impl Metrics {
    /// Of each thread that tasks run on.
    pub(crate) fn enter_worker(&self) {
        let task = fs::read_link("/proc/thread-self").unwrap_or_default();
        let mut workers = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        workers.push(format!("/proc/{}/stat", task.display()));
    }

    /// Counts a request, which is under way until what is returned goes.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        InFlight { metrics: self.clone(), began: Instant::now() }
    }

    /// Adds what the reads of a connection have done since `before`.
    pub(crate) fn add_reads(&self, now: &ReadStats, before: &ReadStats) {
        self.layers.fetch_add(now.layers - before.layers, Relaxed);
        self.versions.fetch_add(now.versions - before.versions, Relaxed);
        self.blocks.fetch_add(now.blocks - before.blocks, Relaxed);
        self.copied_bytes.fetch_add(now.copied_bytes - before.copied_bytes, Relaxed);
    }

    /// The metrics page: for each metric its help, its type and its values.
    pub(crate) fn page(&self, store: &Store) -> String {
        let stats = store.stats();
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let workers = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let worker_faults: u64 = workers.iter().filter_map(|stat| major_faults(stat)).sum();
        let (access, faults) = (&stats.access, &stats.major_faults);
        let mut page = String::new();
        for (name, help, value) in [
            ("requests_total", "Requests that were received.", of(&self.requests)),
            ("requests_in_flight", "Requests without an answer.", of(&self.in_flight)),
            ("cold_requests_total", "Requests that had to wait.", of(&self.cold)),
            ("connections_open", "Connections that are open.", of(&self.connections)),
            ("connections_total", "Connections that were accepted.", of(&self.accepted)),
            ("connections_refused_total", "Connections without room.", of(&self.refused)),
            ("connections_timed_out_total", "Connections closed when late.", of(&self.timed_out)),
            ("worker_major_faults_total", "Major faults of executor threads.", worker_faults),
            ("warm_layers_total", "Layers that warm reads looked at.", of(&self.layers)),
            ("warm_versions_total", "Versions that warm reads found.", of(&self.versions)),
            ("warm_blocks_total", "Blocks that warm reads looked at.", of(&self.blocks)),
            ("warm_copied_bytes_total", "Bytes that warm reads copied.", of(&self.copied_bytes)),
            ("store_memory_bytes", "Memory of the store.", stats.memory_bytes()),
            ("store_layer_files", "Layer files.", stats.layer_files),
            ("store_mappings", "Layer files that are mapped.", access.mappings),
            ("store_mapped_bytes", "Bytes of mapped layer files.", access.mapped_bytes),
            ("store_cached_bytes", "Bytes in the cache of blocks.", access.cached_bytes),
            ("store_file_reads_total", "Reads of layer files.", access.reads),
            ("fetching_major_faults_total", "Major faults of fetching threads.", faults.fetching),
            ("process_major_faults_total", "Major faults of the process.", faults.process),
        ] {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            describe(&mut page, name, help, kind).expect("a string takes all");
            writeln!(page, "pagestrata_{name} {value}").expect("a string takes all");
        }
        self.write_latencies(&mut page).expect("a string takes all");
        page
    }

    fn write_latencies(&self, page: &mut String) -> fmt::Result {
        let help = "Seconds from a request's arrival to its answer.";
        describe(page, "get_seconds", help, "histogram")?;
        for (label, histogram) in ["warm", "cold", "unknown"].iter().zip(&self.latencies) {
            let label = format!("source=\"{label}\"");
            histogram.write(page, "pagestrata_get_seconds", &label)?;
        }
        Ok(())
    }
}

fn describe(page: &mut String, name: &str, help: &str, kind: &str) -> fmt::Result {
    writeln!(page, "# HELP pagestrata_{name} {help}")?;
    writeln!(page, "# TYPE pagestrata_{name} {kind}")
}

/// A request that is under way.
pub(crate) struct InFlight {
    metrics: Arc<Metrics>,
    began: Instant,
}

impl InFlight {
    /// Its answer is there, but not written yet.
    pub(crate) fn answered(&self, source: Source) {
        self.metrics.latencies[source as usize].add(self.began.elapsed());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.fetch_sub(1, Relaxed);
    }
}

/// How often a thread had to wait for a device inside a memory access: the twelfth field of its
/// `stat` (`man 5 proc`).
fn major_faults(stat: &str) -> Option<u64> {
    let text = fs::read_to_string(stat).ok()?;
    // The second field, a name in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split(' ').nth(9)?.parse().ok()
}

/// Answers whatever is asked over HTTP with the page.
pub(crate) async fn answer(mut stream: TcpStream, page: String) -> std::io::Result<()> {
    let answer = async {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await?;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            page.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(page.as_bytes()).await
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await?
}
