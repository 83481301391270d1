//! A client for `page_server`: fills a store, makes it cold, and asks for its pages as many clients do.
//!
//! ```text
//! page_load fill --store DIR --pages 300000
//! page_load evict --store DIR
//! page_load ask --pages 300000 --hot 20000 --cold-percent 10 --clients 64 --rate 8000 --seconds 20
//! ```
//!
//! Clients ask at a fixed rate, whether answers come or not: a server that stops for a moment is not asked less for it. The first `--hot` pages are read once before it begins; of the others each is asked for
//! once, so that it is cold.
#![allow(clippy::print_stdout, reason = "it is a command")]

#[path = "page_server/frame.rs"]
mod frame;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use pagestrata::{Durability, Key, Lsn, Options, Store, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
};

use frame::{RESPONSE_HEAD_LEN, Request, Status, decode_response_head};

/// Asks a page server for pages, and prints how long it took.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a store of pages of 8 KiB, each with two patches above its image.
    Fill {
        /// The store's directory.
        #[arg(long)]
        store: PathBuf,
        /// How many pages.
        #[arg(long)]
        pages: u32,
    },
    /// Has the operating system forget what it has in memory of a store that nobody has open.
    Evict {
        /// The store's directory.
        #[arg(long)]
        store: PathBuf,
    },
    /// Asks for pages.
    Ask(Ask),
}

#[derive(clap::Args)]
struct Ask {
    /// Where the server listens.
    #[arg(long, default_value = "127.0.0.1:6400")]
    server: SocketAddr,
    /// Where its metrics are.
    #[arg(long, default_value = "127.0.0.1:6401")]
    metrics: SocketAddr,
    /// How many pages the store has.
    #[arg(long)]
    pages: u32,
    /// How many of them are in memory.
    #[arg(long)]
    hot: u32,
    /// How many of a hundred questions are for others.
    #[arg(long, default_value_t = 0)]
    cold_percent: u64,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    clients: u32,
    /// Questions a second, of all together.
    #[arg(long, default_value_t = 8000.0)]
    rate: f64,
    /// For how long.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

const OBJECT: u128 = 1;
const PAGE_LEN: usize = 8192;

fn main() -> Result<(), AnyError> {
    match Args::parse().command {
        Command::Fill { store, pages } => fill(&store, pages),
        Command::Evict { store } => evict(&store),
        Command::Ask(ask) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(ask.run())
        }
    }
}

/// A page's image: its number, over and over, changed a little so that nothing is the same twice.
fn image(block: u32) -> Vec<u8> {
    (0..PAGE_LEN as u32 / 4)
        .flat_map(|at| (block ^ at.wrapping_mul(0x9E37_79B9)).to_le_bytes())
        .collect()
}

/// What the two patches make of it.
fn page(block: u32) -> Vec<u8> {
    let mut page = image(block);
    for patch in patches(block) {
        let at = usize::from(u16::from_le_bytes([patch[0], patch[1]]));
        page[at..at + patch.len() - 2].copy_from_slice(&patch[2..]);
    }
    page
}

fn patches(block: u32) -> [Vec<u8>; 2] {
    [100_u16, 5000]
        .map(|at| [&at.to_le_bytes()[..], &[at as u8; 100], &block.to_le_bytes()].concat())
}

fn fill(path: &Path, pages: u32) -> Result<(), AnyError> {
    let options = Options { durability: Durability::External, ..Options::default() };
    let (store, _) = Store::open(path, options)?;
    let timeline = store.create_timeline("main", Lsn(1))?;
    let mut lease = timeline.write_lease()?;
    let mut import = lease.import_images(Lsn(1))?;
    for block in 0..pages {
        import.put(Key::new(OBJECT, block), &image(block))?;
    }
    import.finish()?;
    let mut lsn = Lsn(1);
    for round in 0..2 {
        for block in 0..pages {
            lsn = lsn.next();
            let bytes = &patches(block)[round];
            lease.put(Key::new(OBJECT, block), lsn, Value::Delta { bytes, will_init: false })?;
            if block % 64 == 0 || block + 1 == pages {
                lease.commit(lsn)?;
            }
        }
    }
    drop(lease);
    timeline.flush()?;
    println!("{:?}", store.close(Duration::ZERO)?);
    Ok(())
}

fn evict(path: &Path) -> Result<(), AnyError> {
    let (store, _) = Store::open(path, Options { create: false, ..Options::default() })?;
    pagestrata::testing::evict_layer_files(&store.timeline("main")?)?;
    Ok(())
}

/// The next number of a sequence (splitmix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl Ask {
    async fn run(self) -> Result<(), AnyError> {
        let ask = Arc::new(self);
        if ask.hot == 0 || ask.hot >= ask.pages {
            return Err("some pages are hot, and some are not".into());
        }
        ask.warm_up().await?;
        let faults = metric(ask.metrics, "worker_major_faults_total").await?;
        // An odd multiplier visits each cold page once, in an order that is none.
        let next_cold = Arc::new(AtomicU32::new(0));
        let began = Instant::now() + Duration::from_millis(100);
        let mut clients = Vec::new();
        for number in 0..ask.clients {
            clients.push(tokio::spawn(ask.clone().client(number, began, next_cold.clone())));
        }
        let (mut warm, mut cold) = (Vec::new(), Vec::new());
        for client in clients {
            let [of_warm, of_cold] = client.await??;
            warm.extend(of_warm);
            cold.extend(of_cold);
        }
        println!("warm {}", summary(&mut warm));
        println!("cold {}", summary(&mut cold));
        let faults = metric(ask.metrics, "worker_major_faults_total").await? - faults;
        let waited = metric(ask.metrics, "cold_requests_total").await?;
        println!(
            "{faults} major faults on executor threads, {waited} requests that waited since the server began"
        );
        Ok(())
    }

    /// Reads each hot page twice: what was read for the first time is verified then.
    async fn warm_up(&self) -> Result<(), AnyError> {
        let mut stream = TcpStream::connect(self.server).await?;
        let mut answer = vec![0; RESPONSE_HEAD_LEN + PAGE_LEN];
        for block in (0..self.hot).chain(0..self.hot) {
            stream.write_all(&question(u64::from(block), block)).await?;
            stream.read_exact(&mut answer).await?;
            if answer[RESPONSE_HEAD_LEN..] != page(block)[..] {
                return Err(format!("page {block} is another one").into());
            }
        }
        Ok(())
    }

    /// Asks at its times, and returns how long the warm and the cold ones took.
    async fn client(
        self: Arc<Self>,
        number: u32,
        began: Instant,
        next_cold: Arc<AtomicU32>,
    ) -> Result<[Vec<Duration>; 2], AnyError> {
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let (input, mut output) = stream.into_split();
        let mut state = u64::from(number) << 32;
        let each = f64::from(self.clients) / self.rate;
        let mut due = Vec::new();
        let mut at = 0.0;
        while at < self.seconds {
            // The times between two are exponential, as of many who do not know of each other.
            let share = (random(&mut state) >> 11) as f64 / (1_u64 << 53) as f64;
            at -= (1.0 - share).ln() * each;
            let is_cold = random(&mut state) % 100 < self.cold_percent;
            let block = match is_cold {
                false => (random(&mut state) % u64::from(self.hot)) as u32,
                true => {
                    let cold = self.pages - self.hot;
                    let n = next_cold.fetch_add(1, Relaxed);
                    if n >= cold {
                        return Err("there are no more cold pages".into());
                    }
                    self.hot + (u64::from(n) * 2_654_435_761 % u64::from(cold)) as u32
                }
            };
            let at = began + Duration::from_secs_f64(at);
            due.push(Question { at, block, is_cold, sent_ns: AtomicU64::new(0) });
        }
        let due: Arc<[Question]> = due.into();
        let answers = tokio::spawn(read_answers(input, due.clone(), began));
        for (id, asked) in due.iter().enumerate() {
            // Wakes up to a millisecond late; what counts is when it was asked.
            tokio::time::sleep_until(asked.at.into()).await;
            asked.sent_ns.store(began.elapsed().as_nanos() as u64, Relaxed);
            output.write_all(&question(id as u64, asked.block)).await?;
        }
        answers.await?
    }
}

/// What a client asks.
struct Question {
    /// When it is due.
    at: Instant,
    block: u32,
    is_cold: bool,
    /// When it was asked, after the beginning.
    sent_ns: AtomicU64,
}

async fn read_answers(
    mut input: OwnedReadHalf,
    due: Arc<[Question]>,
    began: Instant,
) -> Result<[Vec<Duration>; 2], AnyError> {
    let mut taken = [Vec::new(), Vec::new()];
    let (mut head, mut bytes) = ([0; RESPONSE_HEAD_LEN], Vec::new());
    for _ in 0..due.len() {
        input.read_exact(&mut head).await?;
        let (id, status, len) = decode_response_head(&head).ok_or("no answer of a page server")?;
        bytes.resize(len, 0);
        input.read_exact(&mut bytes).await?;
        let now = began.elapsed();
        let &Question { block, is_cold, ref sent_ns, .. } =
            due.get(id as usize).ok_or("an answer to nothing")?;
        let first = u32::from_le_bytes(*bytes.first_chunk().ok_or("an empty answer")?);
        if status != Status::Page || len != PAGE_LEN || first != block {
            return Err(format!("block {block}: {status:?}, {len} bytes").into());
        }
        taken[usize::from(is_cold)]
            .push(now.saturating_sub(Duration::from_nanos(sent_ns.load(Relaxed))));
    }
    Ok(taken)
}

fn question(id: u64, block: u32) -> [u8; Request::LEN] {
    Request { id, key: Key::new(OBJECT, block), lsn: Lsn::INVALID }.encode()
}

fn summary(taken: &mut [Duration]) -> String {
    taken.sort_unstable();
    let Some(last) = taken.len().checked_sub(1) else { return "none".to_owned() };
    let at = |share: f64| taken[(last as f64 * share) as usize].as_micros();
    let (p50, p90, p99, p999) = (at(0.5), at(0.9), at(0.99), at(0.999));
    let max = taken[last].as_micros();
    format!(
        "{:8} reads: p50 {p50:6} us, p90 {p90:6}, p99 {p99:6}, p99.9 {p999:6}, max {max}",
        last + 1
    )
}

/// One figure of the metrics page.
async fn metric(server: SocketAddr, name: &str) -> Result<u64, AnyError> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("pagestrata_{name} ")));
    Ok(line.ok_or("no such metric")?.parse()?)
}
