//! A small page server: GetPage@Lsn over TCP, on tokio, with the engine inside. `page_load` is a
//! client for it.
//!
//! ```text
//! page_server --store DIR [--listen 127.0.0.1:6400] [--metrics 127.0.0.1:6401]
//!     [--access mmap|pread|direct]
//! ```
//!
//! A read that finds everything in memory is answered where its request came in, without a task, a
//! thread or an await. One that does not becomes a task of its own, which awaits what is missing
//! while a thread of the store waits for the device: so a cold read holds up no warm one.
//! `--unchecked` reads without looking what is in memory, to show what that saves.
//!
//! What goes over the wire is in `frame.rs` and in the `README.md` of the examples. Deltas are
//! patches (two bytes of offset, then what goes there), because how a delta is applied is the
//! embedder's business.
//!
//! What a client can take is bounded: connections (`--connections`), requests under way on each
//! (`--in-flight`), the time without a request (`--idle-timeout`), and the time in which a greeting
//! or a request that has begun has to be complete and answers have to be taken
//! (`--request-timeout`).
//!
//! Ctrl-C and SIGTERM end it: it takes no more requests, answers those under way and closes the
//! store. Exit codes: 0 ended so, 1 failed, 2 wrong arguments.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

#[cfg(test)]
mod client_frame;
mod connection;
mod frame;
mod metrics;
mod server_frame;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use clap::{Parser, ValueEnum};
use connection::{Connection, PATIENCE, turn_away};
use metrics::Metrics;
use pagestrata::{Key, Options, PageVersion, Redo, RedoResult, Store, Timeline};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// Serves the pages of a store over TCP.
#[derive(Parser)]
struct Args {
    /// The store's directory.
    #[arg(long)]
    store: PathBuf,
    /// Which timeline.
    #[arg(long, default_value = "main")]
    timeline: String,
    /// Where requests are taken.
    #[arg(long, default_value = "127.0.0.1:6400")]
    listen: SocketAddr,
    /// Where the metrics page is, over HTTP.
    #[arg(long, default_value = "127.0.0.1:6401")]
    metrics: SocketAddr,
    /// How layer files are read.
    #[arg(long, value_enum, default_value = "mmap")]
    access: AccessArg,
    /// The most that the cache of blocks holds, in bytes, where files are not mapped.
    #[arg(long, default_value_t = 256 << 20)]
    cache: u64,
    /// Threads that tasks run on.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Threads that wait for devices.
    #[arg(long, default_value_t = 16)]
    fetchers: usize,
    /// Connections that may be open at a time; the server tells further ones that it has no room.
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
    connections: usize,
    /// Requests that one connection may have under way; further ones wait in its socket.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    in_flight: usize,
    /// A connection without a request for so long is closed.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    idle_timeout: Duration,
    /// A greeting or a request that is not whole after this, or an answer that is not taken, ends
    /// its connection.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    request_timeout: Duration,
    /// Reads without looking what is in memory: a cold read then stops its thread.
    #[arg(long)]
    unchecked: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err("expected 1 to 1000000".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.001..=1e6).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("expected 0.001 to 1000000 seconds".to_owned())
}

/// How layer files are read.
#[derive(Clone, Copy, ValueEnum)]
enum AccessArg {
    Mmap,
    Pread,
    Direct,
}

impl From<AccessArg> for pagestrata::Access {
    fn from(access: AccessArg) -> pagestrata::Access {
        match access {
            AccessArg::Mmap => pagestrata::Access::MMAP,
            AccessArg::Pread => pagestrata::Access::Pread,
            AccessArg::Direct => pagestrata::Access::Direct,
        }
    }
}

/// Deltas that say what goes where.
struct Patch;

impl Redo for Patch {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        page.extend_from_slice(base.unwrap_or_default());
        for delta in deltas {
            let (offset, bytes) = delta.bytes.split_first_chunk().ok_or("a patch has an offset")?;
            let start = usize::from(u16::from_le_bytes(*offset));
            let end = start + bytes.len();
            page.get_mut(start..end).ok_or("a patch beyond the page")?.copy_from_slice(bytes);
        }
        Ok(())
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("page_server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), AnyError> {
    let metrics = Arc::new(Metrics::default());
    let of_worker = metrics.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.workers.max(1))
        .on_thread_start(move || of_worker.enter_worker())
        .enable_all()
        .build()?;
    let options = Options {
        create: false,
        access: args.access.into(),
        block_cache_max_bytes: args.cache,
        fetch_threads_max: args.fetchers,
        ..Options::default()
    };
    let (store, _) = Store::open(&args.store, options)?;
    runtime.block_on(serve(args, &store, metrics))?;
    drop(runtime);
    let report = store.close(PATIENCE)?;
    let ends: Vec<String> =
        report.disk_consistent_lsns.iter().map(|(name, lsn)| format!("{name} at {lsn}")).collect();
    println!("closed: {}; {} pins left", ends.join(", "), report.pins.len());
    Ok(())
}

/// Ends with Ctrl-C or SIGTERM.
#[cfg(unix)]
async fn ended_by_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminated.recv() => Ok(()),
    }
}

/// Ends with Ctrl-C.
#[cfg(not(unix))]
async fn ended_by_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

async fn bind(address: SocketAddr) -> Result<TcpListener, AnyError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| format!("cannot listen on {address}: {error}").into())
}

/// What answers clients and readers of the metrics page.
struct Server<'a> {
    args: &'a Args,
    store: &'a Store,
    timeline: Timeline,
    metrics: Arc<Metrics>,
    /// Permits for connections, for clients that are turned away, for readers of metrics.
    room: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
    connections: JoinSet<Result<(), String>>,
}

impl Server<'_> {
    fn take_client(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            self.metrics.refused.fetch_add(1, Relaxed);
            if let Ok(permit) = self.turned_away.clone().try_acquire_owned() {
                let taken = self.args.connections;
                let text = format!("all {taken} connections are taken; try again later");
                tokio::spawn(async move {
                    turn_away(stream, &text).await;
                    drop(permit);
                });
            }
            return;
        };
        let connection = Connection {
            timeline: self.timeline.clone(),
            metrics: self.metrics.clone(),
            in_flight: Arc::new(Semaphore::new(self.args.in_flight)),
            requests_max: self.args.in_flight,
            unchecked: self.args.unchecked,
            idle_timeout: self.args.idle_timeout,
            request_timeout: self.args.request_timeout,
        };
        let stopped = self.stopped.clone();
        self.connections.spawn(async move {
            let ended = connection.serve(stream, stopped).await;
            drop(place);
            ended.map_err(|error| format!("connection of {peer} ended: {error}"))
        });
    }

    fn take_reader(&self, stream: TcpStream) {
        let Ok(permit) = self.readers.clone().try_acquire_owned() else { return };
        let page = self.metrics.page(self.store);
        tokio::spawn(async move {
            // Fails when the reader is gone.
            let _ = metrics::answer(stream, page).await;
            drop(permit);
        });
    }

    /// Waits for the connections, which have been told to stop.
    async fn end(mut self) {
        let connections = &mut self.connections;
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            println!("{} connections do not take their answers", self.connections.len());
            self.connections.shutdown().await;
        }
    }
}

async fn serve(args: &Args, store: &Store, metrics: Arc<Metrics>) -> Result<(), AnyError> {
    let (requests, pages) = (bind(args.listen).await?, bind(args.metrics).await?);
    let (stop, stopped) = watch::channel(false);
    let mut server = Server {
        args,
        store,
        timeline: store.timeline(&args.timeline)?,
        metrics,
        room: Arc::new(Semaphore::new(args.connections)),
        turned_away: Arc::new(Semaphore::new(64)),
        readers: Arc::new(Semaphore::new(16)),
        stopped,
        connections: JoinSet::new(),
    };
    // The first poll installs the handlers: before the line that says that there is a server.
    let mut signalled = std::pin::pin!(ended_by_signal());
    tokio::select! {
        biased;
        signalled = &mut signalled => return Ok(signalled?),
        () = std::future::ready(()) => {}
    }
    println!("listening on {}, metrics on http://{}/", requests.local_addr()?, pages.local_addr()?);
    loop {
        tokio::select! {
            accepted = requests.accept() => match accepted {
                Ok((stream, peer)) => server.take_client(stream, peer),
                // No descriptor for another connection, most likely.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            accepted = pages.accept() => if let Ok((stream, _)) = accepted {
                server.take_reader(stream);
            },
            Some(ended) = server.connections.join_next() => if let Ok(Err(error)) = ended {
                println!("{error}");
            },
            signalled = &mut signalled => {
                signalled?;
                break;
            }
        }
    }
    println!("stopping: {} requests are under way", server.metrics.in_flight.load(Relaxed));
    stop.send_replace(true);
    server.end().await;
    Ok(())
}
