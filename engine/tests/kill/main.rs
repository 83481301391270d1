//! `kill -9` again and again: a child process writes to a store and says of each commit when it was
//! acknowledged; it is killed at some moment, and what it said has to be there, whole, with nothing
//! half done behind it. The same store goes on.
//!
//! ```text
//! PAGESTRATA_KILLS=500 cargo test -p pagestrata --test kill   default 40; PAGESTRATA_SEED=n (1)
//! ```
//!
//! A watchdog ends a run that hangs: one cycle (a child, its death, the check of its store) that
//! takes longer than `PAGESTRATA_KILL_CYCLE_SECONDS`, default 300, where a second is usual. It
//! kills the child, says in which cycle it was, and fails. No run passes or fails by how long it
//! takes otherwise.
//!
//! A plain `main`, because it starts itself as its own child. When a child dies comes from a seed:
//! after so many acknowledgements and so many microseconds. What is found may differ from run to
//! run, whether it is right does not.
//!
//! That it sees what gets lost is shown by planting a bug, which frees the log before a flush has
//! ended:
//!
//! ```text
//! RUSTFLAGS='--cfg planted_bug="log_freed_early"' cargo test -p pagestrata --test kill
//! ```
#![allow(clippy::print_stdout, reason = "a program")]

mod child;
mod watchdog;
mod workload;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use pagestrata::{Durability, Store};
use watchdog::Watchdog;
use workload::{TIMELINES, check_timeline, count, options};

/// Then a new store is begun.
const CYCLES_OF_A_STORE: u64 = 25;
/// In so many cycles everything is looked at once, else what is new and a sample of the rest.
const WHOLE_CHECK_EVERY: u64 = 10;

#[derive(Default)]
struct Totals {
    cycles: u64,
    acknowledged: u64,
    checked: u64,
    replayed: u64,
    torn: u64,
    imports: u64,
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, dir, durability, seed] = &arguments[..]
        && first == child::ARGUMENT
    {
        return child::main(Path::new(dir), parse_durability(durability), seed.parse().unwrap());
    }
    match arguments.first().map(String::as_str) {
        Some(watchdog::HANGS) => watchdog::hang(),
        Some(watchdog::SLEEPS) => watchdog::sleep(),
        _ => {}
    }
    // As the usual harness would, as far as cargo's users need it.
    let is_other = |filter: &String| !filter.starts_with('-') && !"kill".contains(&**filter);
    if arguments.iter().any(|argument| argument == "--list" || is_other(argument)) {
        return;
    }
    let number = |name: &str, default: u64| match env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}: no number: {value}")),
        Err(_) => default,
    };
    let (kills, seed) = (number("PAGESTRATA_KILLS", 40), number("PAGESTRATA_SEED", 1));
    let cycle_max = Duration::from_secs(number("PAGESTRATA_KILL_CYCLE_SECONDS", 300));
    watchdog::check();
    let watchdog = Watchdog::start(cycle_max);
    // Beside the build, on a real disk; the system's directory for temporary files may be in
    // memory.
    let parent = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    for durability in ["synced", "buffered"] {
        let mut totals = Totals::default();
        while totals.cycles < kills.div_ceil(2) {
            let cycles = CYCLES_OF_A_STORE.min(kills.div_ceil(2) - totals.cycles);
            let dir = tempfile::tempdir_in(&parent).unwrap();
            let store = dir.path().join("store");
            live_and_die(&store, durability, seed, cycles, &mut totals, &watchdog);
        }
        let Totals { cycles, acknowledged, checked, replayed, torn, imports } = totals;
        println!(
            "{durability}: {cycles} kills, {acknowledged} commits acknowledged ({imports} of them imports), {checked} checked, \
             0 lost; {replayed} replayed, {torn} torn tails (seed {seed})"
        );
    }
}

fn parse_durability(name: &str) -> Durability {
    match name {
        "synced" => Durability::Synced,
        "buffered" => Durability::Buffered { sync_interval: Duration::from_millis(5) },
        other => panic!("{other}"),
    }
}

/// A store and its children.
fn live_and_die(
    dir: &Path,
    durability: &str,
    seed: u64,
    cycles: u64,
    totals: &mut Totals,
    watchdog: &Watchdog,
) {
    let mut known = [0_u64; TIMELINES];
    for _ in 0..cycles {
        totals.cycles += 1;
        let seed = seed << 32 | totals.cycles << 1 | u64::from(durability == "synced");
        let mut random = fastrand::Rng::with_seed(seed);
        let what = format!("seed {seed:#X}, {durability}, {}", dir.display());
        watchdog.begin(format!("cycle {}, {what}", totals.cycles));
        let acknowledged = run_and_kill(dir, durability, seed, &mut random, watchdog);
        for (timeline, n) in acknowledged {
            totals.acknowledged += 1;
            totals.imports += u64::from(workload::is_import(n));
            assert!(n > known[timeline], "{what}: {n} of timeline {timeline} twice");
            known[timeline] = n;
        }
        if fs::exists(dir.join("CURRENT")).unwrap() {
            reopen(dir, durability, &mut known, &mut random, totals, &what);
        } else {
            assert_eq!(known, [0; TIMELINES], "{what}");
        }
    }
}

/// Lets a child write until it is killed. Returns what it was told to be safe: timeline and number
/// of each commit.
fn run_and_kill(
    dir: &Path,
    durability: &str,
    seed: u64,
    random: &mut fastrand::Rng,
    watchdog: &Watchdog,
) -> Vec<(usize, u64)> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([child::ARGUMENT, dir.to_str().unwrap(), durability, &seed.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    watchdog.child(Some(child.id()));
    let mut said = BufReader::new(child.stdout.take().unwrap());
    // Some die while they open the store.
    let wanted = if random.u8(..6) == 0 { 0 } else { random.usize(1..300) };
    let mut acknowledged = Vec::new();
    while acknowledged.len() < wanted && hear(&mut said, &mut acknowledged) {}
    let after = if wanted == 0 { random.u64(..20_000) } else { random.u64(..3_000) };
    thread::sleep(Duration::from_micros(after));
    die(&mut child);
    watchdog.child(None);
    while hear(&mut said, &mut acknowledged) {}
    acknowledged
}

fn die(child: &mut Child) {
    use std::os::unix::process::ExitStatusExt;
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "it ended before: {status}");
}

/// Hears one acknowledgement. False: there are no more.
fn hear(said: &mut BufReader<ChildStdout>, acknowledged: &mut Vec<(usize, u64)>) -> bool {
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    // A line is written at once; what has no end was not said.
    let Some(line) = line.strip_suffix('\n') else { return false };
    let (timeline, n) = line.split_once(' ').unwrap();
    acknowledged.push((timeline.parse().unwrap(), n.parse().unwrap()));
    true
}

/// Opens what the child has left and compares it with what it said.
fn reopen(
    dir: &Path,
    durability: &str,
    known: &mut [u64; TIMELINES],
    random: &mut fastrand::Rng,
    totals: &mut Totals,
    what: &str,
) {
    let (store, report) = Store::open(dir, options(parse_durability(durability)))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(report.read_only, None, "{what}");
    totals.replayed += report.log_commits;
    totals.torn += u64::from(report.log_torn_at.is_some());
    for (number, known) in known.iter_mut().enumerate() {
        let Ok(timeline) = store.timeline(&workload::name(number)) else {
            assert_eq!(*known, 0, "{what}: timeline {number} is lost");
            continue;
        };
        let found = count(&timeline);
        assert!(found >= *known, "{what}: timeline {number}: {known} acknowledged, {found} there");
        let whole = totals.cycles.is_multiple_of(WHOLE_CHECK_EVERY);
        let from = if whole { 1 } else { known.saturating_sub(400).max(1) };
        let sample = (1..from).filter(|_| random.u8(..16) == 0).collect::<Vec<_>>();
        totals.checked += check_timeline(&timeline, sample.into_iter().chain(from..=found), what);
        *known = found;
    }
    match random.u8(..8) {
        0 => drop(store.close(Duration::ZERO).unwrap_or_else(|error| panic!("{what}: {error}"))),
        _ => drop(store),
    }
}
