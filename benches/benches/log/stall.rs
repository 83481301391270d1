//! The longest batch of a writer that never waits for a sync, and the speed of loading pages.
//!
//! Each batch is timed from its first put to the end of its commit. Where the time of the longest
//! one went is told by the scheduler's own figures: on a processor, runnable but waiting for one
//! (others use the machine), and blocked (the engine, the file system or the device made it wait).
//!
//! A virtual machine whose host limits its processor time stands still as a whole, which these
//! figures show as any of the three. So the first row is a control without the engine: a thread
//! that writes as many bytes a batch to a file and sleeps now and then, beside one that writes
//! another file. What its longest batch takes is the machine's.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use pagestrata::{Durability, Key, Lsn, Options, Timeline, Value};
use pagestrata_benches::{
    measure::{Clock, Measured, Sample, Turns, timed},
    report::Wanted,
    stores::{Place, TempStore},
    updates::{OBJECT, Updates},
};

use crate::Context;

const BATCH: usize = 100;
const PAGE_LEN: usize = 8192;
/// Every so many records is a page, the others are deltas of 60 to 200 B.
const IMAGE_EVERY: usize = 50;
const LAYER_BYTES: usize = 128 << 20;
const CONTROL: &str = "no engine, two files are written";

pub(crate) fn measure(context: &mut Context) {
    longest(context);
    load(context);
}

fn modes() -> [(&'static str, Durability); 3] {
    let buffered = |millis| Durability::Buffered { sync_interval: Duration::from_millis(millis) };
    [
        ("External", Durability::External),
        ("Buffered, sync interval 100 ms", buffered(100)),
        ("Buffered, sync interval 1 s", buffered(1000)),
    ]
}

/// What the scheduler says of this thread.
#[derive(Clone, Copy, Default, Debug)]
struct Times {
    on_processor_ns: u64,
    waiting_ns: u64,
}

/// `/proc/thread-self/schedstat`, read without opening it each time.
struct Scheduler(Option<File>);

impl Scheduler {
    fn new() -> Scheduler {
        Scheduler(File::open("/proc/thread-self/schedstat").ok())
    }

    fn times(&self) -> Times {
        let mut bytes = [0; 64];
        let read = |file: &File| file.read_at(&mut bytes, 0).ok();
        let Some(len) = self.0.as_ref().and_then(read) else { return Times::default() };
        let text = String::from_utf8_lossy(&bytes[..len]);
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Times { on_processor_ns: next(), waiting_ns: next() }
    }
}

#[derive(Clone, Copy, Default, Debug)]
struct Batch {
    took: Duration,
    on_processor: Duration,
    waiting: Duration,
}

impl Batch {
    fn blocked(&self) -> Duration {
        self.took.saturating_sub(self.on_processor + self.waiting)
    }
}

/// What one writer met.
#[derive(Default)]
struct Longest {
    batches: u64,
    elapsed: Duration,
    all: Vec<u32>,
    longest: Batch,
    longest_blocked: Batch,
}

impl Longest {
    fn add(&mut self, batch: Batch) {
        self.batches += 1;
        self.all.push(u32::try_from(batch.took.as_micros()).unwrap_or(u32::MAX));
        if batch.took > self.longest.took {
            self.longest = batch;
        }
        if batch.blocked() > self.longest_blocked.blocked() {
            self.longest_blocked = batch;
        }
    }

    fn percentile_us(&mut self, of: f64) -> u32 {
        self.all.sort_unstable();
        self.all[((self.all.len() - 1) as f64 * of) as usize]
    }
}

fn longest(context: &mut Context) {
    let run = context.run.clone();
    let seconds = std::env::var("PAGESTRATA_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: f64 = seconds.unwrap_or(60.0);
    let batches = run.size(u64::MAX, 20);
    context.report.part("the longest batch of 100 records that is not waited for (wall), disk");
    context.report.line(format_args!(
        "{:<32} {:>10} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9}",
        "",
        "records/s",
        "p50 us",
        "p99.9 us",
        "p99.99 us",
        "longest",
        "on a proc.",
        "waiting",
        "blocked",
        "all, most blocked (ms)"
    ));
    let time = Duration::from_secs_f64(seconds);
    let control = (CONTROL, control(time, batches));
    let measured =
        modes().map(|(name, durability)| (name, write(durability, time, batches, run.seed)));
    for (name, mut found) in std::iter::once(control).chain(measured) {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let rate = found.batches as f64 * BATCH as f64 / found.elapsed.as_secs_f64();
        let [p50, p999, p9999] = [0.5, 0.999, 0.9999].map(|of| found.percentile_us(of));
        let (longest, blocked) = (found.longest, found.longest_blocked);
        context.report.line(format_args!(
            "{name:<32} {rate:>10.0} {p50:>9} {p999:>9} {p9999:>9} {:>9.1} {:>11.1} {:>9.1} {:>9.1} {:>9.1}",
            ms(longest.took),
            ms(longest.on_processor),
            ms(longest.waiting),
            ms(longest.blocked()),
            ms(blocked.blocked()),
        ));
        let what = format!("longest batch, {name}, without waiting for a processor");
        let found = ms(longest.took.saturating_sub(longest.waiting).max(blocked.blocked()));
        if name != CONTROL {
            context.report.goal(what, found, Wanted::AtMost(25.0), "ms");
        }
    }
}

/// Writes as many bytes as a batch has to a file, again and again, and sleeps 1 ms after each 16th
/// time as a commit does that is delayed; another thread fills a second file, layer by layer.
fn control(time: Duration, batches: u64) -> Longest {
    const BATCH_BYTES: usize = 29 << 10;
    let dir = Place::Disk.dir();
    let create = |name: &str| File::create_new(dir.path().join(name)).expect("a file");
    let (log, layers) = (create("log"), create("layers"));
    let is_done = AtomicBool::new(false);
    let append = |file: &File, bytes: &[u8], n: u64| {
        let at = n * bytes.len() as u64 % LAYER_BYTES as u64;
        file.write_all_at(bytes, at).expect("room");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut piece = vec![0; 1 << 20];
            for n in 0_u64.. {
                if is_done.load(Ordering::Relaxed) {
                    return;
                }
                piece.fill(n as u8);
                append(&layers, &piece, n);
                let end = (n + 1) * piece.len() as u64;
                if end.is_multiple_of(LAYER_BYTES as u64) {
                    layers.sync_data().expect("a sync");
                }
            }
        });
        let batch = vec![0x5A; BATCH_BYTES];
        let found = batches_of(time, batches, |n| {
            append(&log, &batch, n);
            if n % 16 == 15 {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        is_done.store(true, Ordering::Relaxed);
        found
    })
}

/// Times batch after batch, at full speed, for this long or so many.
fn batches_of(time: Duration, batches: u64, mut batch: impl FnMut(u64)) -> Longest {
    let (scheduler, mut found) = (Scheduler::new(), Longest::default());
    let began = Instant::now();
    while found.batches < batches && began.elapsed() < time {
        let before = (scheduler.times(), Instant::now());
        batch(found.batches);
        let took = before.1.elapsed();
        let after = scheduler.times();
        let nanos = |after: u64, before: u64| Duration::from_nanos(after - before);
        found.add(Batch {
            took,
            on_processor: nanos(after.on_processor_ns, before.0.on_processor_ns),
            waiting: nanos(after.waiting_ns, before.0.waiting_ns),
        });
    }
    found.elapsed = began.elapsed();
    found
}

/// Writes batch after batch, at full speed, for this long or so many.
fn write(durability: Durability, time: Duration, batches: u64, seed: u64) -> Longest {
    let options = Options { durability, ..Options::default() };
    let mut store = TempStore::new(Place::Disk, options);
    let timeline = store.timeline();
    let updates = Updates::mixed(seed, 1 << 20, 100_000, 60..=200);
    let page = vec![0x5A; PAGE_LEN];
    let mut lease = timeline.write_lease().expect("a free lease");
    let mut n = 0;
    let found = batches_of(time, batches, |_| {
        for _ in 0..BATCH {
            let (key, lsn) = (updates.key(n % updates.len()), Lsn(16 + n as u64));
            let value = match n % IMAGE_EVERY {
                0 => Value::Image(&page),
                _ => Value::Delta { bytes: updates.bytes(n), will_init: false },
            };
            lease.put(key, lsn, value).expect("room");
            n += 1;
        }
        lease.commit(Lsn(15 + n as u64)).expect("a commit").wait().expect("the log works");
    });
    drop(lease);
    assert!(timeline.last_record_lsn() == Lsn(15 + n as u64));
    found
}

/// Loads pages, and writes as many bytes twice.
fn load(context: &mut Context) {
    let run = context.run.clone();
    context.report.part("loading images of 8 KiB (wall), disk, until all is flushed and synced");
    let pages = run.size(131_072, 64);
    let bytes = (pages * PAGE_LEN) as u64;
    let mut turns = Turns::new();
    for (name, durability) in [("External", Durability::External), ("Buffered", modes()[2].1)] {
        turns.add(name, move || {
            let options = Options { durability, ..Options::default() };
            let mut store = TempStore::new(Place::Disk, options);
            let timeline = store.timeline();
            let ((), sample) = timed(bytes, || load_pages(&timeline, pages));
            assert!(timeline.disk_consistent_lsn() == Lsn(15 + pages as u64));
            sample
        });
    }
    turns.add("the bytes written once, a sync each 128 MiB", || plain(bytes, 1));
    turns.add("the bytes written twice, to two files", || plain(bytes, 2));
    let measured = turns.run(run.size(3, 1), Clock::Wall);
    drop(turns);
    context.report.table(format_args!("{bytes} bytes, ns a byte"), &measured, Some(3));
    let [external, buffered, once, twice] = &measured[..] else { unreachable!() };
    let rate = |of: &Measured| of.per_second() / 1e6;
    context.report.line(format_args!(
        "  External {:.0} MB/s, Buffered {:.0} MB/s; written once {:.0} MB/s, twice {:.0} MB/s\n",
        rate(external),
        rate(buffered),
        rate(once),
        rate(twice),
    ));
    context.report.goal(
        "loading images with a log, to writing the bytes twice",
        buffered.times_faster_than(twice),
        Wanted::AtLeast(0.7),
        "x",
    );
}

fn load_pages(timeline: &Timeline, pages: usize) {
    let mut lease = timeline.write_lease().expect("a free lease");
    let mut page = vec![0x5A; PAGE_LEN];
    for n in 0..pages {
        page[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let key = Key::new(OBJECT, n as u32);
        lease.put(key, Lsn(16 + n as u64), Value::Image(&page)).expect("room");
        if (n + 1) % BATCH == 0 || n + 1 == pages {
            lease.commit(Lsn(16 + n as u64)).expect("a commit").wait().expect("the log works");
        }
    }
    lease.roll().expect("room");
    drop(lease);
    timeline.flush().expect("a flush");
}

/// Appends to so many new files in turn, in pieces of 1 MiB, and syncs each of them every layer.
fn plain(bytes: u64, files: usize) -> Sample {
    let dir = Place::Disk.dir();
    let piece = vec![0x5A; 1 << 20];
    let create = |n: usize| File::create_new(dir.path().join(n.to_string())).expect("a file");
    let files: Vec<File> = (0..files).map(create).collect();
    let (done, sample) = timed(bytes, || -> std::io::Result<()> {
        let mut at = 0;
        while at < bytes {
            let now = piece.len().min((bytes - at) as usize);
            for file in &files {
                file.write_all_at(&piece[..now], at)?;
            }
            at += now as u64;
            if at % LAYER_BYTES as u64 == 0 || at == bytes {
                files.iter().try_for_each(File::sync_data)?;
            }
        }
        Ok(())
    });
    done.expect("files are written");
    sample
}
