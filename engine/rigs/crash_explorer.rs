//! Explores crashes until the time is over or a guarantee is violated.
//!
//! ```text
//! EXPLORE="cargo run --release -p pagestrata --example crash_explorer --features testing --"
//! $EXPLORE --seconds 60 --seed 1 --threads 2
//! $EXPLORE --only-seed 4711
//! $EXPLORE --only-sequence 815
//! ```
//!
//! Alternates between short sequences of operations, up to `--len-max` and shorter ones first, and
//! long workloads. [`pagestrata::testing::CrashExplorer`] says what is checked, and
//! `fuzz/README.md` lists the planted bugs that it must find.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::{
    env,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pagestrata::testing::{CrashCounts, CrashExplorer, CrashViolation};

/// Sequences that a thread takes at once; they share images.
const CHUNK: u64 = 64;
/// Long workloads that a thread runs in its next turn.
const SEEDS: u64 = 32;

struct Arguments {
    seconds: u64,
    seed: u64,
    threads: usize,
    only_seed: Option<u64>,
    only_sequence: Option<u64>,
    /// Longest sequences to explore; 0: only long workloads.
    len_max: u32,
}

/// Work that the threads share.
struct Work {
    next_sequence: AtomicU64,
    next_seed: AtomicU64,
    stop: AtomicBool,
    counts: Mutex<Vec<CrashCounts>>,
    violation: Mutex<Option<CrashViolation>>,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seconds: 60,
        seed: 1,
        threads: 2,
        only_seed: None,
        only_sequence: None,
        len_max: 5,
    };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next().and_then(|number| number.parse().ok());
        let number: u64 = number.ok_or_else(|| format!("{word} needs a number"))?;
        match &*word {
            "--seconds" => arguments.seconds = number,
            "--seed" => arguments.seed = number,
            "--threads" => arguments.threads = number as usize,
            "--only-seed" => arguments.only_seed = Some(number),
            "--len-max" => arguments.len_max = number as u32,
            "--only-sequence" => arguments.only_sequence = Some(number),
            _ => return Err(format!("unknown: {word}")),
        }
    }
    Ok(arguments)
}

fn explore(work: &Work, len_max: u32, thread: usize) -> Result<(), CrashViolation> {
    let mut explorer = CrashExplorer::new();
    let last = CrashExplorer::sequences_of(len_max);
    for turn in thread.. {
        if turn.is_multiple_of(2) && len_max > 0 {
            let from = work.next_sequence.fetch_add(CHUNK, Ordering::Relaxed);
            for number in from..(from + CHUNK).min(last) {
                explorer.sequence(number)?;
                if work.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        } else {
            for _ in 0..SEEDS {
                explorer.seed(work.next_seed.fetch_add(1, Ordering::Relaxed))?;
            }
        }
        work.counts.lock().unwrap()[thread] = explorer.counts();
        if work.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

fn total(work: &Work) -> CrashCounts {
    let mut total = CrashCounts::default();
    work.counts.lock().unwrap().iter().for_each(|counts| total.merge(counts));
    total
}

fn only(arguments: &Arguments) -> Option<Result<CrashCounts, CrashViolation>> {
    let mut explorer = CrashExplorer::new();
    let done = match (arguments.only_seed, arguments.only_sequence) {
        (Some(seed), _) => explorer.seed(seed),
        (_, Some(number)) => explorer.sequence(number),
        (None, None) => return None,
    };
    Some(done.map(|()| explorer.counts()))
}

fn told(violation: &CrashViolation) -> ExitCode {
    eprintln!("VIOLATION: {violation}");
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match only(&arguments) {
        Some(Ok(counts)) => {
            println!("{counts}");
            return ExitCode::SUCCESS;
        }
        Some(Err(violation)) => return told(&violation),
        None => {}
    }
    let work = Work {
        next_sequence: AtomicU64::new(0),
        next_seed: AtomicU64::new(arguments.seed),
        stop: AtomicBool::new(false),
        counts: Mutex::new(vec![CrashCounts::default(); arguments.threads]),
        violation: Mutex::new(None),
    };
    let (began, limit) = (Instant::now(), Duration::from_secs(arguments.seconds));
    let mut told_at = Duration::ZERO;
    thread::scope(|scope| {
        for thread in 0..arguments.threads {
            let (work, arguments) = (&work, &arguments);
            scope.spawn(move || {
                if let Err(violation) = explore(work, arguments.len_max, thread) {
                    work.violation.lock().unwrap().get_or_insert(violation);
                    work.stop.store(true, Ordering::Relaxed);
                }
            });
        }
        while !work.stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
            if began.elapsed() >= told_at + Duration::from_secs(10) {
                told_at = began.elapsed();
                println!("{:4} s: {}", told_at.as_secs(), total(&work));
            }
            if began.elapsed() >= limit {
                work.stop.store(true, Ordering::Relaxed);
            }
        }
    });
    let (counts, seconds) = (total(&work), began.elapsed().as_secs_f64());
    println!("{counts}");
    println!("{seconds:.1} s, {:.0} states per second", counts.states as f64 / seconds);
    let violation = work.violation.lock().unwrap().take();
    violation.map_or(ExitCode::SUCCESS, |violation| told(&violation))
}
