//! A client for `page_server`: fills a store, makes it cold, and asks for its pages as many clients
//! do.
//!
//! ```text
//! page_load fill --store DIR --pages 300000
//! page_load evict --store DIR
//! page_load ask --pages 300000 --hot 20000 --cold-percent 10 --clients 64 --rate 8000 --seconds 20
//! ```
//!
//! Clients ask at a fixed rate, whether answers come or not: a server that stops for a moment is
//! not asked less for it. The first `--hot` pages are read before it begins; of the others each is
//! asked for once. Those are cold if the operating system has nothing of them in memory: `fill`
//! ends with what `evict` does, and `evict` does it again between two runs, while no server has the
//! store open. The server says of each answer whether it waited: what was in memory nevertheless is
//! counted apart. When all other pages were asked for, the rest of the questions are for hot ones.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

#[path = "page_server/client_frame.rs"]
mod client_frame;
#[path = "page_server/frame.rs"]
mod frame;
#[cfg(test)]
#[path = "page_server/server_frame.rs"]
mod server_frame;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use client_frame::{ResponseHead, decode_response_head, decode_welcome, greeting};
use frame::{RESPONSE_HEAD_LEN, Request, Source, Status, VERSION, WELCOME_LEN, Welcome};
use pagestrata::{Durability, Key, Lsn, Options, Store, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
};

/// Asks a page server for pages, and prints how long it took.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a store of pages of 8 KiB, each with two patches above its image, and evicts it.
    Fill {
        /// The store's directory.
        #[arg(long)]
        store: PathBuf,
        /// How many pages.
        #[arg(long)]
        pages: u32,
    },
    /// Evicts a store's files from the page cache. No process may have the store open.
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
/// Of a page, or of a text that says what has failed.
const ANSWER_LEN_MAX: usize = 64 << 10;

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("page_load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), AnyError> {
    match command {
        Command::Fill { store, pages } => {
            fill(&store, pages)?;
            evict(&store)
        }
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

/// How long answers took.
#[derive(Default)]
struct Taken {
    /// Of hot pages.
    warm: Vec<Duration>,
    /// Of pages that were asked for the first time: the server waited for them, or does not look.
    cold: Vec<Duration>,
    /// Of pages that were asked for the first time, and were in memory nevertheless.
    in_memory: Vec<Duration>,
    /// Questions that were to be for the first time and found no such page left.
    without_cold: u64,
}

impl Taken {
    fn add(&mut self, other: Taken) {
        self.warm.extend(other.warm);
        self.cold.extend(other.cold);
        self.in_memory.extend(other.in_memory);
        self.without_cold += other.without_cold;
    }

    fn print(&mut self) {
        println!("warm {}", summary(&mut self.warm));
        println!("cold {}", summary(&mut self.cold));
        if !self.in_memory.is_empty() {
            println!("in memory {}", summary(&mut self.in_memory));
            println!(
                "{} of {} pages that should be cold were in memory: to have them cold, stop the \
                 server, run page_load evict, start the server again",
                self.in_memory.len(),
                self.in_memory.len() + self.cold.len()
            );
        }
        if self.without_cold > 0 {
            println!(
                "{} questions were asked of hot pages because all cold ones had been asked for: \
                 fill more pages, or ask with a lower --cold-percent, --rate or --seconds",
                self.without_cold
            );
        }
    }
}

impl Ask {
    async fn run(self) -> Result<(), AnyError> {
        let ask = Arc::new(self);
        if ask.hot == 0 || ask.hot >= ask.pages {
            return Err(format!(
                "--hot: expected 1 to {}, fewer than --pages, found {}",
                ask.pages.saturating_sub(1),
                ask.hot
            )
            .into());
        }
        ask.warm_up().await?;
        let faults = metric(ask.metrics, "worker_major_faults_total").await?;
        let waited = metric(ask.metrics, "cold_requests_total").await?;
        Ask::measure(&ask).await?.print();
        let faults = metric(ask.metrics, "worker_major_faults_total").await? - faults;
        let waited = metric(ask.metrics, "cold_requests_total").await? - waited;
        println!("{faults} major faults on executor threads, {waited} requests waited");
        Ok(())
    }

    /// Asks with all clients, and returns how long the answers took.
    async fn measure(ask: &Arc<Ask>) -> Result<Taken, AnyError> {
        let next_cold = Arc::new(AtomicU32::new(0));
        let began = Instant::now() + Duration::from_millis(100);
        let mut clients = Vec::new();
        for number in 0..ask.clients {
            clients.push(tokio::spawn(ask.clone().client(number, began, next_cold.clone())));
        }
        let mut taken = Taken::default();
        for client in clients {
            taken.add(client.await??);
        }
        Ok(taken)
    }

    /// Reads each hot page twice: what was read for the first time is verified then.
    async fn warm_up(&self) -> Result<(), AnyError> {
        let mut stream = connect(self.server).await?;
        let (mut head, mut bytes) = ([0; RESPONSE_HEAD_LEN], Vec::new());
        for block in (0..self.hot).chain(0..self.hot) {
            stream.write_all(&question(u64::from(block), block)).await?;
            let answer = read_answer(&mut stream, &mut head, &mut bytes).await?;
            if answer.status != Status::Page {
                return Err(
                    format!("page {block}: {:?}, {}", answer.status, bytes.escape_ascii()).into()
                );
            }
            if bytes != page(block) {
                return Err(format!("page {block} is another one").into());
            }
        }
        Ok(())
    }

    /// Asks at its times, and returns how long the answers took.
    async fn client(
        self: Arc<Self>,
        number: u32,
        began: Instant,
        next_cold: Arc<AtomicU32>,
    ) -> Result<Taken, AnyError> {
        let stream = connect(self.server).await?;
        stream.set_nodelay(true)?;
        let (input, mut output) = stream.into_split();
        let mut state = u64::from(number) << 32;
        let each = f64::from(self.clients) / self.rate;
        let (mut due, mut without_cold) = (Vec::new(), 0);
        let mut at = 0.0;
        while at < self.seconds {
            // The times between two are exponential, as of many who do not know of each other.
            let share = (random(&mut state) >> 11) as f64 / (1_u64 << 53) as f64;
            at -= (1.0 - share).ln() * each;
            let wants_cold = random(&mut state) % 100 < self.cold_percent;
            let cold = if wants_cold { self.next_cold(&next_cold) } else { None };
            without_cold += u64::from(wants_cold && cold.is_none());
            let is_cold = cold.is_some();
            let block = cold.unwrap_or_else(|| (random(&mut state) % u64::from(self.hot)) as u32);
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
        Ok(Taken { without_cold, ..answers.await?? })
    }

    /// Returns a page that was not requested yet; `None` if there is none left. An odd multiplier
    /// visits each page once, in scattered order.
    fn next_cold(&self, next: &AtomicU32) -> Option<u32> {
        let cold = self.pages - self.hot;
        let taken = next.fetch_update(Relaxed, Relaxed, |n| (n < cold).then_some(n + 1));
        let n = u64::from(taken.ok()?);
        Some(self.hot + (n * 2_654_435_761 % u64::from(cold)) as u32)
    }
}

/// Connects and greets.
async fn connect(server: SocketAddr) -> Result<TcpStream, AnyError> {
    let mut stream = TcpStream::connect(server)
        .await
        .map_err(|error| format!("cannot connect to {server}: {error}; is page_server running?"))?;
    stream.write_all(&greeting()).await?;
    let mut head = [0; WELCOME_LEN];
    stream.read_exact(&mut head).await?;
    let (welcome, version, len) = decode_welcome(&head)?;
    let mut text = vec![0; len];
    stream.read_exact(&mut text).await?;
    match welcome {
        Welcome::Accepted if version == VERSION => Ok(stream),
        _ => Err(format!(
            "{server} speaks version {version}, this is version {VERSION}: {}",
            String::from_utf8_lossy(&text)
        )
        .into()),
    }
}

/// Reads one answer: its head, and what follows into `bytes`.
async fn read_answer(
    input: &mut (impl AsyncReadExt + Unpin),
    head: &mut [u8; RESPONSE_HEAD_LEN],
    bytes: &mut Vec<u8>,
) -> Result<ResponseHead, AnyError> {
    input.read_exact(head).await?;
    let answer = decode_response_head(head).ok_or("no answer of a page server")?;
    if answer.len > ANSWER_LEN_MAX {
        return Err(
            format!("answer of {} bytes: expected {ANSWER_LEN_MAX} or less", answer.len).into()
        );
    }
    bytes.resize(answer.len, 0);
    input.read_exact(bytes).await?;
    Ok(answer)
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
) -> Result<Taken, AnyError> {
    let mut taken = Taken::default();
    let (mut head, mut bytes) = ([0; RESPONSE_HEAD_LEN], Vec::new());
    for _ in 0..due.len() {
        let ResponseHead { id, status, source, len } =
            read_answer(&mut input, &mut head, &mut bytes).await?;
        let now = began.elapsed();
        let &Question { block, is_cold, ref sent_ns, .. } =
            due.get(id as usize).ok_or("an answer to nothing")?;
        if status != Status::Page || len != PAGE_LEN || bytes[..4] != block.to_le_bytes() {
            return Err(format!("block {block}: {status:?}, {len} bytes").into());
        }
        let kind = match (is_cold, source) {
            (false, _) => &mut taken.warm,
            (true, Source::Cold | Source::Unknown) => &mut taken.cold,
            (true, Source::Warm) => &mut taken.in_memory,
        };
        kind.push(now.saturating_sub(Duration::from_nanos(sent_ns.load(Relaxed))));
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        frame::GREETING_LEN,
        server_frame::{encode_response, encode_welcome, refuse_greeting},
    };

    const HOT: u32 = 5;
    const PAGES: u32 = 25;

    /// Answers one client; the pages below `cold` from memory, the others not.
    async fn answer(mut stream: TcpStream, cold: u32) -> std::io::Result<()> {
        let mut greeting = [0; GREETING_LEN];
        stream.read_exact(&mut greeting).await?;
        assert_eq!(refuse_greeting(&greeting), None);
        stream.write_all(&encode_welcome(Welcome::Accepted, "")).await?;
        loop {
            let mut request = [0; Request::LEN];
            stream.read_exact(&mut request).await?;
            let Request { id, key, .. } = Request::decode(&request);
            let source = if key.block < cold { Source::Warm } else { Source::Cold };
            let response = encode_response(id, Status::Page, source, &page(key.block));
            stream.write_all(&response).await?;
        }
    }

    /// What a client measures at a server for which only pages from `cold` on are cold.
    fn measure(cold: u32) -> Taken {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = listener.local_addr().unwrap();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, cold));
                }
            });
            let ask = Arc::new(Ask {
                server,
                metrics: server,
                pages: PAGES,
                hot: HOT,
                cold_percent: 100,
                clients: 2,
                rate: 1000.0,
                seconds: 0.2,
            });
            ask.warm_up().await.unwrap();
            Ask::measure(&ask).await.unwrap()
        })
    }

    #[test]
    fn figures_are_kept_when_all_cold_pages_were_asked_for() {
        let taken = measure(HOT);
        assert_eq!((taken.cold.len(), taken.in_memory.len()), (20, 0));
        assert!(taken.without_cold > 0);
        assert_eq!(taken.warm.len() as u64, taken.without_cold);
    }

    #[test]
    fn what_was_in_memory_is_not_taken_for_cold() {
        let taken = measure(PAGES - 8);
        assert_eq!((taken.cold.len(), taken.in_memory.len()), (8, 12));
    }
}
