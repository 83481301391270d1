//! A small page server: GetPage@Lsn over TCP, on tokio, with the engine inside. `page_load` is a client for it.
//!
//! ```text
//! page_server --store DIR [--listen 127.0.0.1:6400] [--metrics 127.0.0.1:6401] [--access mmap|pread|direct]
//! ```
//!
//! A read that finds everything in memory is answered where its request came in, without a task, a thread or an await. One that does not
//! becomes a task of its own, which awaits what is missing while a thread of the store waits for the device: so a cold read holds up
//! no warm one. `--unchecked` reads without looking what is in memory, to show what that saves.
//!
//! What goes over the wire is in `frame.rs`. Deltas are patches (two bytes of offset, then what goes there), because how a delta is applied is
//! the embedder's business. Ctrl-C ends it: no more requests are taken, those under way are answered, the store is closed.
#![allow(clippy::print_stdout, reason = "it is a command")]

mod frame;
mod metrics;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use clap::{Parser, ValueEnum};
use pagestrata::{
    AccessMode, Error, Key, Lsn, Options, PageVersion, ReadStats, Ready, Redo, RedoResult, Scratch,
    Snapshot, Store, Timeline,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
};

use frame::{Request, Status, encode_response};
use metrics::{InFlight, Metrics};

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
    access: Access,
    /// The most that the cache of blocks holds, in bytes, where files are not mapped.
    #[arg(long, default_value_t = 256 << 20)]
    cache: u64,
    /// Threads that tasks run on.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Threads that wait for devices.
    #[arg(long, default_value_t = 16)]
    fetchers: usize,
    /// Requests that one connection may have under way; further ones wait in its socket.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Reads without looking what is in memory: a cold read then stops its thread.
    #[arg(long)]
    unchecked: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Access {
    Mmap,
    Pread,
    Direct,
}

impl From<Access> for AccessMode {
    fn from(access: Access) -> AccessMode {
        match access {
            Access::Mmap => AccessMode::Mmap,
            Access::Pread => AccessMode::Pread,
            Access::Direct => AccessMode::Direct,
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

fn main() -> Result<(), AnyError> {
    let args = Args::parse();
    let metrics = Arc::new(Metrics::default());
    let of_worker = metrics.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.workers)
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
    runtime.block_on(serve(&args, &store, metrics))?;
    drop(runtime);
    let report = store.close(Duration::from_secs(5))?;
    println!("closed: {report:?}");
    Ok(())
}

async fn serve(args: &Args, store: &Store, metrics: Arc<Metrics>) -> Result<(), AnyError> {
    let timeline = store.timeline(&args.timeline)?;
    let (requests, pages) =
        (TcpListener::bind(args.listen).await?, TcpListener::bind(args.metrics).await?);
    println!("listening on {}, metrics on http://{}/", requests.local_addr()?, pages.local_addr()?);
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = requests.accept() => {
                let Ok((stream, _)) = accepted else {
                    // No room for another connection, most likely.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                stream.set_nodelay(true)?;
                let connection = Connection {
                    timeline: timeline.clone(),
                    metrics: metrics.clone(),
                    in_flight: Arc::new(Semaphore::new(args.in_flight)),
                    unchecked: args.unchecked,
                };
                connections.spawn(connection.serve(stream, stopped.clone()));
            }
            accepted = pages.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(metrics::answer(stream, metrics.page(store)));
                }
            }
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    println!("a connection ended: {error}");
                }
            }
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                break;
            }
        }
    }
    println!("stopping: {} requests are under way", metrics.in_flight.load(Relaxed));
    stop.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(PATIENCE, ended).await.is_err() {
        println!("{} connections do not take their answers", connections.len());
        connections.shutdown().await;
    }
    Ok(())
}

/// How long somebody is waited for: who is to take an answer, who is to write an Lsn.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer and what its request has taken, which goes when it is written.
type Answer = (Vec<u8>, OwnedSemaphorePermit, InFlight);

struct Connection {
    timeline: Timeline,
    metrics: Arc<Metrics>,
    /// Taken by each request, given back when its answer is written.
    in_flight: Arc<Semaphore>,
    unchecked: bool,
}

impl Connection {
    /// Answers requests until there are no more, or it is told to stop; then what is under way.
    async fn serve(
        self,
        stream: TcpStream,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), AnyError> {
        let (input, output) = stream.into_split();
        let mut input = BufReader::new(input);
        let (answers, to_write) = mpsc::channel(64);
        let writer = tokio::spawn(write_answers(output, to_write));
        let (mut scratch, mut snapshot) = (Scratch::new(), self.timeline.snapshot());
        let mut counted = ReadStats::default();
        loop {
            // Waiting here loses nothing of a request that has come in part.
            tokio::select! {
                filled = input.fill_buf() => if filled?.is_empty() {
                    break;
                },
                _ = stopped.changed() => break,
                // Who asks for nothing holds no layer that others have done with.
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    snapshot = self.timeline.snapshot();
                    continue;
                }
            }
            let mut bytes = [0; Request::LEN];
            input.read_exact(&mut bytes).await?;
            let permit = self.in_flight.clone().acquire_owned().await?;
            let in_flight = self.metrics.begin();
            let request = Request::decode(&bytes);
            let newest = self.timeline.last_record_lsn();
            let lsn = if request.lsn.is_valid() { request.lsn } else { newest };
            if lsn > snapshot.lsn() && lsn <= newest {
                snapshot = self.timeline.snapshot();
            }
            // Whatever can be answered at once is.
            let answer = match self.try_answer(&request, lsn, &snapshot, &mut scratch) {
                Some(answer) => answer,
                None => {
                    self.metrics.cold.fetch_add(1, Relaxed);
                    let (timeline, snapshot) = (self.timeline.clone(), snapshot.clone());
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        let answer = answer_later(&request, lsn, &timeline, snapshot).await;
                        // Fails when the client is gone.
                        let _ = answers.send((answer, permit, in_flight)).await;
                    });
                    continue;
                }
            };
            answers.send((answer, permit, in_flight)).await?;
            let all = scratch.all_reads();
            self.metrics.add_reads(&all, &std::mem::replace(&mut counted, all));
        }
        // All tasks have one of their own: the writer ends behind the last answer.
        drop(answers);
        writer.await??;
        Ok(())
    }

    /// The answer, if nothing has to be waited for.
    fn try_answer(
        &self,
        request: &Request,
        lsn: Lsn,
        snapshot: &Snapshot,
        scratch: &mut Scratch,
    ) -> Option<Vec<u8>> {
        if lsn > snapshot.lsn() {
            return None;
        }
        let guard = snapshot.guard();
        if self.unchecked {
            return Some(encode(request.id, guard.page(request.key, lsn, &Patch, scratch)));
        }
        match guard.try_page(request.key, lsn, &Patch, scratch) {
            Ok(Ready::Hit(page)) => Some(encode(request.id, Ok(page))),
            Ok(Ready::Cold(..)) => None,
            Err(error) => Some(encode(request.id, Err::<&[u8], _>(error))),
        }
    }
}

/// The answer to a request that has to wait: for its Lsn, for a device.
async fn answer_later(
    request: &Request,
    lsn: Lsn,
    timeline: &Timeline,
    mut snapshot: Snapshot,
) -> Vec<u8> {
    if lsn > snapshot.lsn() {
        // An Lsn that never comes is answered too.
        let _ = tokio::time::timeout(PATIENCE, timeline.wait_for(lsn)).await;
        match timeline.snapshot_at(lsn) {
            Ok(at) => snapshot = at,
            Err(error) => return encode(request.id, Err::<&[u8], _>(error)),
        }
    }
    let mut scratch = Scratch::new();
    encode(request.id, snapshot.guard().page_async(request.key, lsn, &Patch, &mut scratch).await)
}

fn encode(id: u64, page: Result<impl std::ops::Deref<Target = [u8]>, Error>) -> Vec<u8> {
    match page {
        Ok(page) => encode_response(id, Status::Page, &page),
        Err(Error::NoPage { .. }) => encode_response(id, Status::NoPage, b""),
        Err(error) => encode_response(id, Status::Failed, error.to_string().as_bytes()),
    }
}

/// Writes answers, as many at a time as there are.
async fn write_answers(
    mut output: OwnedWriteHalf,
    mut answers: mpsc::Receiver<Answer>,
) -> std::io::Result<()> {
    let (mut waiting, mut bytes) = (Vec::new(), Vec::new());
    while answers.recv_many(&mut waiting, 64).await > 0 {
        bytes.clear();
        waiting.iter().for_each(|(answer, ..)| bytes.extend_from_slice(answer));
        output.write_all(&bytes).await?;
        waiting.clear();
    }
    Ok(())
}
