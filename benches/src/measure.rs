//! Rounds, medians, and whose time is counted.

use std::time::{Duration, Instant};

use crate::allocations::allocations;

/// How a bench was called.
#[derive(Clone, Debug)]
pub struct Run {
    /// Full size; else everything once and small.
    pub full: bool,
    /// Of all random numbers.
    pub seed: u64,
    /// Only parts whose name contains one of these, if there are any.
    pub only: Vec<String>,
}

impl Run {
    /// From the command line: `--bench` (cargo bench) is full size, unless there is a `--test` too.
    /// What is no option names the parts to run. `PAGESTRATA_SEED` is the seed.
    #[must_use]
    pub fn from_args() -> Run {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let has = |name: &str| args.iter().any(|arg| arg == name);
        let seed = std::env::var("PAGESTRATA_SEED").ok().and_then(|seed| seed.parse().ok());
        Run {
            full: has("--bench") && !has("--test"),
            seed: seed.unwrap_or(0x5EED),
            only: args.into_iter().filter(|arg| !arg.starts_with('-')).collect(),
        }
    }

    /// Whether a part was asked for.
    #[must_use]
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| part.contains(only.as_str()))
    }

    /// One of two sizes.
    #[must_use]
    pub fn size<T>(&self, full: T, test: T) -> T {
        if self.full { full } else { test }
    }
}

/// Whose time counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// CPU time of the measuring thread.
    Thread,
    /// Time that passes.
    Wall,
}

/// The time that one round took.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How many operations it did.
    pub ops: u64,
    /// Time that passed.
    pub wall: Duration,
    /// CPU time of the measuring thread.
    pub thread: Duration,
    /// CPU time of all threads of this process.
    pub process: Duration,
    /// Allocations of the measuring thread.
    pub allocations: u64,
}

/// Does and times `ops` operations.
pub fn timed<R>(ops: u64, work: impl FnOnce() -> R) -> (R, Sample) {
    let before = (allocations(), process_time(), thread_time(), Instant::now());
    let result = work();
    let wall = before.3.elapsed();
    let thread = thread_time() - before.2;
    let process = process_time() - before.1;
    (result, Sample { ops, wall, thread, process, allocations: allocations() - before.0 })
}

/// CPU time that this thread has used.
#[must_use]
pub fn thread_time() -> Duration {
    time_of(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that this process has used.
#[must_use]
pub fn process_time() -> Duration {
    time_of(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn time_of(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec to memory that this function owns.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert!(failed == 0, "a clock that every Linux has");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Median, lowest and highest of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of the rounds were below.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_unstable_by(f64::total_cmp);
        let (first, last) = (figures[0], figures[figures.len() - 1]);
        let middle = figures.len() / 2;
        let median = match figures.len() % 2 {
            0 => f64::midpoint(figures[middle - 1], figures[middle]),
            _ => figures[middle],
        };
        Spread { median, min: first, max: last }
    }
}

/// What the rounds of one candidate came to, all per operation.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of the candidate.
    pub name: String,
    /// Nanoseconds on the clock that counts.
    pub ns: Spread,
    /// Nanoseconds that passed.
    pub wall_ns: Spread,
    /// Nanoseconds of CPU time of the whole process.
    pub process_ns: Spread,
    /// Allocations of the measuring thread.
    pub allocations: Spread,
}

impl Measured {
    /// From the samples of a candidate.
    #[must_use]
    pub fn of(name: &str, clock: Clock, samples: &[Sample]) -> Measured {
        let per_op = |of: fn(&Sample) -> f64| {
            Spread::of(samples.iter().map(|sample| of(sample) / sample.ops as f64))
        };
        let ns = match clock {
            Clock::Thread => per_op(|sample| sample.thread.as_nanos() as f64),
            Clock::Wall => per_op(|sample| sample.wall.as_nanos() as f64),
        };
        Measured {
            name: name.to_owned(),
            ns,
            wall_ns: per_op(|sample| sample.wall.as_nanos() as f64),
            process_ns: per_op(|sample| sample.process.as_nanos() as f64),
            allocations: per_op(|sample| sample.allocations as f64),
        }
    }

    /// How many of this in the time of one of `other`.
    #[must_use]
    pub fn times_faster_than(&self, other: &Measured) -> f64 {
        other.ns.median / self.ns.median
    }

    /// Operations in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        1e9 / self.ns.median
    }
}

/// Candidates that take turns.
#[derive(Default)]
pub struct Turns<'a> {
    candidates: Vec<Candidate<'a>>,
}

struct Candidate<'a> {
    name: String,
    round: Box<dyn FnMut() -> Sample + 'a>,
}

impl<'a> Turns<'a> {
    /// None yet.
    #[must_use]
    pub fn new() -> Turns<'a> {
        Turns::default()
    }

    /// Adds a candidate; `round` prepares, times with [`timed`], checks and cleans up.
    pub fn add(&mut self, name: impl Into<String>, round: impl FnMut() -> Sample + 'a) {
        self.candidates.push(Candidate { name: name.into(), round: Box::new(round) });
    }

    /// Each candidate once a round. A round more at the beginning is not counted, except in a run
    /// of one round.
    #[must_use]
    pub fn run(&mut self, rounds: usize, clock: Clock) -> Vec<Measured> {
        let mut samples = vec![Vec::with_capacity(rounds); self.candidates.len()];
        let warm_up = usize::from(rounds > 1);
        for round in 0..rounds + warm_up {
            for (candidate, samples) in self.candidates.iter_mut().zip(&mut samples) {
                let sample = (candidate.round)();
                if round >= warm_up {
                    samples.push(sample);
                }
            }
        }
        let measured = self.candidates.iter().zip(samples);
        measured
            .map(|(candidate, samples)| Measured::of(&candidate.name, clock, &samples))
            .collect()
    }
}

impl std::fmt::Debug for Turns<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.candidates.iter().map(|candidate| &candidate.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_take_turns_and_the_first_round_is_not_counted() {
        let order = std::cell::RefCell::new(String::new());
        let sample = |name: char, ns: u64| {
            order.borrow_mut().push(name);
            let time = Duration::from_nanos(ns);
            Sample { ops: 2, wall: time, thread: time, process: time, allocations: 4 }
        };
        let mut times = [1_000, 30, 10, 20].into_iter();
        let mut turns = Turns::new();
        turns.add("a", || sample('a', times.next().unwrap()));
        turns.add("b", || sample('b', 60));
        let measured = turns.run(3, Clock::Wall);
        drop(turns);
        assert_eq!(order.into_inner(), "abababab");
        assert_eq!(measured[0].ns, Spread { median: 10.0, min: 5.0, max: 15.0 });
        assert_eq!(
            (measured[0].allocations.median, measured[0].times_faster_than(&measured[1])),
            (2.0, 3.0)
        );
    }

    #[test]
    fn the_median_of_an_even_number_is_in_the_middle() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 8.0]).median, 3.0);
    }
}
