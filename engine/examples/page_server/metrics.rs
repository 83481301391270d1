//! What the server counts, and the page that shows it, in the text format of Prometheus.

use std::{
    fmt::Write,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use pagestrata::{ReadStats, Store};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Counts of the server.
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) requests: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    /// Requests that had to wait.
    pub(crate) cold: AtomicU64,
    layers: AtomicU64,
    versions: AtomicU64,
    blocks: AtomicU64,
    copied_bytes: AtomicU64,
    /// The threads that tasks run on, as the system names them.
    workers: Mutex<Vec<String>>,
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
        InFlight(self.clone())
    }

    /// Adds what the reads of a connection have done since `before`.
    pub(crate) fn add_reads(&self, now: &ReadStats, before: &ReadStats) {
        self.layers.fetch_add(now.layers - before.layers, Relaxed);
        self.versions.fetch_add(now.versions - before.versions, Relaxed);
        self.blocks.fetch_add(now.blocks - before.blocks, Relaxed);
        self.copied_bytes.fetch_add(now.copied_bytes - before.copied_bytes, Relaxed);
    }

    pub(crate) fn page(&self, store: &Store) -> String {
        let stats = store.stats();
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let workers = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let faults: u64 = workers.iter().filter_map(|stat| major_faults(stat)).sum();
        let mut page = String::new();
        for (name, value) in [
            ("requests_total", of(&self.requests)),
            ("requests_in_flight", of(&self.in_flight)),
            ("cold_requests_total", of(&self.cold)),
            ("worker_major_faults_total", faults),
            ("warm_layers_total", of(&self.layers)),
            ("warm_versions_total", of(&self.versions)),
            ("warm_blocks_total", of(&self.blocks)),
            ("warm_copied_bytes_total", of(&self.copied_bytes)),
            ("store_memory_bytes", stats.memory_bytes()),
            ("store_layer_files", stats.layer_files),
            ("store_mappings", stats.access.mappings),
            ("store_mapped_bytes", stats.access.mapped_bytes),
            ("store_cached_bytes", stats.access.cached_bytes),
            ("store_file_reads_total", stats.access.reads),
            ("fetching_major_faults_total", stats.major_faults.fetching),
            ("process_major_faults_total", stats.major_faults.process),
        ] {
            writeln!(page, "pagestrata_{name} {value}").expect("a string takes all");
        }
        page
    }
}

/// A request that is under way.
pub(crate) struct InFlight(Arc<Metrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// How often a thread had to wait for a device inside a memory access: the twelfth field of its `stat` (`man 5 proc`).
fn major_faults(stat: &str) -> Option<u64> {
    let text = fs::read_to_string(stat).ok()?;
    // The second field, a name in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split(' ').nth(9)?.parse().ok()
}

/// Answers whatever is asked over HTTP with the page.
pub(crate) async fn answer(mut stream: TcpStream, page: String) -> std::io::Result<()> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await?;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(page.as_bytes()).await
}
