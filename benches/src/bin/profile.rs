//! One kind of work over and over, for a profiler: `profile WORK [SECONDS]`. `profile --help` lists
//! the kinds; `benches/flame.sh` makes flame graphs of them.

use std::{
    hint::black_box,
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use pagestrata::{
    Durability, Guard, Key, Lsn, Options, PageVersion, Redo, RedoResult, Scratch, Store, Timeline,
    Value,
};
use pagestrata_benches::{
    chains::Chains,
    random::Random,
    stores::{Place, TempStore, one_layer, unlogged},
    updates::{OBJECT, Updates},
};

const SEED: u64 = 0x5EED;
const BLOCKS: u32 = 1_060_000;

type Work = fn(&Until) -> Done;

/// Each kind of work, and what it does.
const WORKS: [(&str, Work, &str); 11] = [
    ("ingest", ingest, "random 100 B records into a store that flushes as it goes"),
    ("versions", versions, "reads of chains of ten deltas, from memory and from a file"),
    ("flush", flush, "flushes of 2 million random 100 B records"),
    ("put", put, "puts into one layer in memory"),
    ("lookup", lookup, "the newest version of random keys, from memory"),
    ("chain-memory", chain_memory, "reads of chains of ten deltas from memory"),
    ("chain-file", chain_file, "reads of chains of ten deltas from a delta file"),
    ("replay", replay, "opening a store whose log holds 256 MiB of small records"),
    ("replay-pages", replay_pages, "the same with pages of 8 KiB"),
    ("pages", pages_at_once, "32 scattered pages in memory, mapped, with one call"),
    ("pages-each", pages_one_by_one, "the same with a call for each"),
];
const SECONDS: u64 = 10;

fn usage() -> String {
    let mut text =
        format!("usage: profile WORK [SECONDS]\n\nSECONDS: {SECONDS} if left out. WORK:\n");
    for (name, _, what) in WORKS {
        text += &format!("  {name:12} {what}\n");
    }
    text
}

/// What the arguments ask for; an error says what is wrong with them. None: the usage.
fn parse(arguments: &[String]) -> Result<Option<(&'static str, Work, Duration)>, String> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        return Ok(None);
    }
    let (work, seconds) = match arguments {
        [work] => (work, SECONDS),
        [work, seconds] => match seconds.parse() {
            Ok(seconds @ 1..=86_400) => (work, seconds),
            _ => return Err(format!("SECONDS: expected 1 to 86400, found {seconds:?}")),
        },
        [] => return Err("expected a WORK".to_owned()),
        _ => return Err(format!("expected 1 or 2 arguments, found {}", arguments.len())),
    };
    match WORKS.iter().find(|(name, ..)| name == work) {
        Some((name, run, _)) => Ok(Some((name, *run, Duration::from_secs(seconds)))),
        None => Err(format!("there is no work {work:?}")),
    }
}

fn main() -> std::io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (work, run, until) = match parse(&arguments) {
        Ok(Some(asked)) => asked,
        Ok(None) => {
            write!(std::io::stdout(), "{}", usage())?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            write!(std::io::stderr(), "profile: {error}\n\n{}", usage())?;
            return Ok(ExitCode::from(2));
        }
    };
    let Done { operations, taken } = run(&Until(until));
    let each = taken.as_nanos() as f64 / operations as f64;
    writeln!(
        std::io::stdout(),
        "{work}: {operations} operations in {taken:.1?}, {each:.1} ns each"
    )?;
    Ok(ExitCode::SUCCESS)
}

/// For how long.
struct Until(Duration);

struct Done {
    operations: u64,
    taken: Duration,
}

impl Until {
    /// Repeats until the time is over; adds up what each time returns.
    fn repeat(&self, mut work: impl FnMut() -> u64) -> Done {
        let (mut operations, began) = (0, Instant::now());
        while began.elapsed() < self.0 {
            operations += work();
        }
        Done { operations, taken: began.elapsed() }
    }
}

/// Random 100 B records into a store that flushes as it goes, all memory recycled.
fn ingest(until: &Until) -> Done {
    let options = Options { pool_retained_max_bytes: 2 << 30, ..unlogged() };
    let mut store = TempStore::new(Place::Tmpfs, options);
    let updates = Updates::random(SEED, (512 << 20) / 100, BLOCKS, 100);
    until.repeat(|| {
        let timeline = store.timeline();
        updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
        store.recycle(&timeline);
        updates.len() as u64
    })
}

/// Puts alone, as far as they can be had alone: one layer takes them all, and is flushed when it is
/// full.
fn put(until: &Until) -> Done {
    let updates = Updates::random(SEED, 2_000_000, BLOCKS, 100);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    until.repeat(|| {
        let timeline = store.timeline();
        updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
        store.recycle(&timeline);
        updates.len() as u64
    })
}

/// Flushes of 2 M random 100 B records. The puts in between are on the main thread, the flushes on
/// a thread called `pagestrata-flush`.
fn flush(until: &Until) -> Done {
    put(until)
}

/// The newest version of random keys, from memory.
fn lookup(until: &Until) -> Done {
    let updates = Updates::random(SEED, 2_000_000, BLOCKS, 100);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    let timeline = store.timeline();
    updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
    let mut random = Random(SEED);
    let queries: Vec<Key> =
        (0..500_000).map(|_| Key::new(OBJECT, random.below(u64::from(BLOCKS)) as u32)).collect();
    until.repeat(|| read(&timeline, &queries, updates.last_lsn()))
}

/// Opening a store whose log holds 256 MiB of small records.
fn replay(until: &Until) -> Done {
    open_again(until, &Updates::mixed(SEED, (256 << 20) / 142, BLOCKS, 60..=200))
}

/// The same with pages of 8 KiB.
fn replay_pages(until: &Until) -> Done {
    open_again(until, &Updates::random(SEED, 32 << 10, BLOCKS, 8192))
}

fn open_again(until: &Until, updates: &Updates) -> Done {
    let dir = Place::Disk.dir();
    let options = Options { durability: Durability::default(), ..one_layer() };
    let open = || Store::open(dir.path(), options.clone()).expect("a sound store").0;
    let store = open();
    let timeline = store.create_timeline("main", Lsn(1)).expect("a new timeline");
    updates.commit_each(&mut timeline.write_lease().expect("a free lease"), 1000).expect("commits");
    drop((timeline, store));
    until.repeat(|| {
        black_box(open().stats());
        updates.len() as u64
    })
}

fn chain_memory(until: &Until) -> Done {
    let (chains, _store, timeline) = chains(false);
    until.repeat(|| read(&timeline, &chains.queries(SEED), chains.last_lsn()))
}

fn chain_file(until: &Until) -> Done {
    let (chains, _store, timeline) = chains(true);
    until.repeat(|| read(&timeline, &chains.queries(SEED), chains.last_lsn()))
}

/// 32 scattered pages from two mapped layers, all of them in memory, with one call.
fn pages_at_once(until: &Until) -> Done {
    scattered(until, read_at_once)
}

/// The same with a call for each.
fn pages_one_by_one(until: &Until) -> Done {
    scattered(until, read_one_by_one)
}

/// The base as it is: what redo takes is not what is measured.
struct Base;

impl Redo for Base {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        page.extend_from_slice(&base.unwrap_or_default()[..64]);
        page.push(deltas.fold(0, |sum: u8, delta| sum.wrapping_add(delta.bytes[0])));
        Ok(())
    }
}

type ReadPages = fn(Guard<'_>, &[Key], Lsn, &mut Scratch) -> u64;

/// Runs `read` on sets of pages of 2 KiB, each an image and a delta in files.
fn scattered(until: &Until, read: ReadPages) -> Done {
    const PAGES: u32 = 20_000;
    const AT_ONCE: usize = 32;
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    let (timeline, image, delta) = (store.timeline(), [7; 2048], [1; 100]);
    for (lsn, value) in
        [(Lsn(2), Value::Image(&image)), (Lsn(3), Value::Delta { bytes: &delta, will_init: false })]
    {
        let mut lease = timeline.write_lease().expect("a free lease");
        for block in 0..PAGES {
            lease.put(Key::new(OBJECT, block), lsn, value).expect("a put");
        }
        lease.commit(lsn).expect("a commit");
        drop(lease);
        timeline.flush().expect("a flush");
    }
    let (mut reader, mut scratch, mut random) = (timeline.reader(), Scratch::new(), Random(SEED));
    let all: Vec<Key> = (0..PAGES).map(|block| Key::new(OBJECT, block)).collect();
    read(reader.pin(), &all, Lsn(3), &mut scratch);
    until.repeat(|| {
        let keys: [Key; AT_ONCE] =
            std::array::from_fn(|_| all[random.below(u64::from(PAGES)) as usize]);
        read(reader.pin(), &keys, Lsn(3), &mut scratch)
    })
}

#[inline(never)]
fn read_at_once(guard: Guard<'_>, keys: &[Key], lsn: Lsn, scratch: &mut Scratch) -> u64 {
    let mut read = 0;
    let mut sink = |_, page: pagestrata::Result<pagestrata::Page<'_>>| {
        assert_eq!(page.expect("a page")[0], 7);
        read += 1;
    };
    guard.pages(keys, lsn, &Base, scratch, &mut sink).expect("a read");
    read
}

#[inline(never)]
fn read_one_by_one(guard: Guard<'_>, keys: &[Key], lsn: Lsn, scratch: &mut Scratch) -> u64 {
    for &key in keys {
        assert_eq!(guard.page(key, lsn, &Base, scratch).expect("a page")[0], 7);
    }
    keys.len() as u64
}

/// Chains of an image and ten deltas, half of the reads from memory and half from a delta file.
fn versions(until: &Until) -> Done {
    let (chains, _stores, memory) = chains(false);
    let (_, _store, file) = self::chains(true);
    let queries = chains.queries(SEED);
    until.repeat(|| {
        read(&memory, &queries, chains.last_lsn()) + read(&file, &queries, chains.last_lsn())
    })
}

fn chains(flushed: bool) -> (Chains, TempStore, Timeline) {
    let chains = Chains::new(SEED, 20_000, 10);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    let timeline = store.timeline();
    chains.put_all(&timeline);
    if flushed {
        timeline.flush().expect("a flush");
    }
    (chains, store, timeline)
}

fn read(timeline: &Timeline, queries: &[Key], upper: Lsn) -> u64 {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    for &key in queries {
        let guard = reader.pin();
        let versions = guard.versions(key, upper, &mut scratch).expect("a read");
        for version in versions.newest_first() {
            black_box(version.bytes.first());
        }
    }
    queries.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<(&'static str, Work, Duration)>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        super::parse(&arguments)
    }

    #[test]
    fn every_work_can_be_asked_for_and_is_in_the_usage() {
        for (name, ..) in WORKS {
            for (line, expected) in [(name.to_owned(), SECONDS), (format!("{name} 13"), 13)] {
                let (found, _, until) = parse(&line).unwrap().expect("a work");
                assert_eq!((found, until), (name, Duration::from_secs(expected)));
            }
            assert!(usage().contains(&format!("\n  {name} ")));
        }
        assert!(parse("--help").unwrap().is_none());
        assert!(parse("ingest -h").unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, error) in [
            ("", "a WORK"),
            ("nonsense", "\"nonsense\""),
            ("ingest ten", "\"ten\""),
            ("ingest 0", "1 to 86400"),
            ("ingest 1 2", "found 3"),
        ] {
            let found = parse(line).map(|_| ()).unwrap_err();
            assert!(found.contains(error), "{line:?}: {found}");
        }
    }
}
