//! Two threads instead of one: pinning, and reading while a writer writes.
//!
//! Each thread cuts its time into slices of half a millisecond and notes how much of each it really
//! ran. Counted are only slices that the thread had a core all the time *and* the other thread too:
//! on a machine with two cores that others use as well, everything else says how the scheduler took
//! turns, not what threads do to each other. One thread is measured beside another that only spins,
//! so that both cores are ours in both cases. The first row shows that this works: a count on one
//! line that two threads write does not scale.
//!
//! A writer that never rests would be a third thread on two cores, and no slice would have both
//! readers in it. So it comes in bursts, a hundred batches every ten milliseconds; what it costs
//! the readers is that the lines it wrote have moved. One reader beside a writer that never rests
//! is measured too.

use std::{
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pagestrata::{Key, Lsn, Reader, Scratch, Timeline, WriteLease};
use pagestrata_benches::{
    measure::{Spread, thread_time},
    random::Random,
    reference::{Reference, ReferenceWriter},
    report::Wanted,
    stores::{Place, TempStore, one_layer},
    updates::{BATCH, OBJECT, Updates},
};

use crate::Context;

/// Batches in a burst of the writer.
const BURST: usize = 100;
const BURST_EVERY: Duration = Duration::from_millis(10);
/// A slice of a thread's time.
const SLICE: Duration = Duration::from_micros(500);
/// Fewer slices than this say nothing.
const SLICES_MIN: usize = 200;

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    let (count, blocks) = run.size((1_000_000, 200_000), (2_000, 1_000));
    let updates = Updates::random(run.seed, count, blocks, 100);
    let mut store = TempStore::new(Place::Tmpfs, one_layer());
    let timeline = store.timeline();
    updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
    let reference = updates.reference();

    context.report.part("threads: operations per second, all threads together");
    let counted = Arc::new(());
    compare(context, "normaliser: clone and drop one Arc", None, &|_, stop| {
        repeat(stop, || drop(black_box(counted.clone())))
    });
    let pins = compare(context, "pin, map unchanged", None, &|_, stop| {
        let mut reader = timeline.reader();
        repeat(stop, || {
            black_box(reader.pin());
        })
    });
    context.report.goal("pin: two threads, times one", pins, Wanted::AtLeast(1.9), "x");

    let read = |thread: usize, stop: &AtomicBool| {
        read_newest(&mut timeline.reader(), blocks, thread as u64, stop)
    };
    compare(context, "newest version, no writer", None, &read);
    let write = |stop: &AtomicBool| write_in_bursts(&timeline, &updates, stop);
    let name = "newest version, a writer in bursts";
    let reads = compare(context, name, Some(&write), &read);
    let what = "newest version beside a writer: two threads, times one";
    context.report.goal(what, reads, Wanted::AtLeast(1.9), "x");

    beside_a_writer(context, &timeline, &updates, &read);

    let read = |thread: usize, stop: &AtomicBool| {
        read_newest_of_reference(&reference, blocks, thread as u64, stop)
    };
    compare(context, "reference, no writer", None, &read);
    let write = |stop: &AtomicBool| write_in_bursts_to_reference(&reference, &updates, stop);
    compare(context, "reference, a writer in bursts", Some(&write), &read);
    context
        .report
        .line(format_args!("  (bursts of {} records every {BURST_EVERY:?})", BURST * BATCH));
}

/// What a reading thread does until it shall stop; returns its slices.
type Work<'a> = &'a (dyn Fn(usize, &AtomicBool) -> Vec<Slice> + Sync);
/// What the writer does until it shall stop.
type Writing<'a> = &'a (dyn Fn(&AtomicBool) + Sync);

/// One thread and two, in turns; returns how many times as much two threads do.
fn compare(context: &Context, name: &str, writing: Option<Writing<'_>>, work: Work<'_>) -> f64 {
    let duration = context.run.size(Duration::from_millis(300), Duration::from_millis(20));
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..context.run.size(9, 1) {
        one.extend(together(duration, writing, &|thread, stop| match thread {
            0 => work(0, stop),
            _ => occupy(stop),
        }));
        two.extend(together(duration, writing, work));
    }
    if context.run.full && (one.len() < SLICES_MIN || two.len() < SLICES_MIN) {
        context.report.line(format_args!("  {name:42} the machine was too busy to tell"));
        return f64::NAN;
    }
    let (one_slices, two_slices) = (one.len(), two.len());
    let (one, two) =
        (Spread::of(one.into_iter().chain([0.0])), Spread::of(two.into_iter().chain([0.0])));
    let ratio = two.median / one.median;
    context.report.line(format_args!(
        "  {name:42} {:8.2} M/s ({:6.1} ns), two threads {:8.2} M/s: x{ratio:.2} ({one_slices} and {two_slices} slices)",
        one.median / 1e6,
        1e9 / one.median,
        two.median / 1e6,
    ));
    ratio
}

/// One reader, alone and beside a writer that never rests.
fn beside_a_writer(context: &Context, timeline: &Timeline, updates: &Updates, read: Work<'_>) {
    let duration = context.run.size(Duration::from_millis(300), Duration::from_millis(20));
    let work = |thread: usize, stop: &AtomicBool| {
        if thread == 0 {
            return read(thread, stop);
        }
        let mut lease = timeline.write_lease().expect("a free lease");
        let (mut lsn, mut n) = (lease.last_lsn(), 0);
        let slices = repeat(stop, || {
            (lsn, n) = (lsn.next(), (n + 1) % updates.len());
            lease.put(updates.key(n), lsn, updates.value(n)).expect("a put");
            if n % BATCH == 0 {
                lease.commit(lsn).and_then(pagestrata::CommitTicket::wait).expect("a commit");
            }
        });
        slices.into_iter().map(|slice| Slice { ops: 0.0, ..slice }).collect()
    };
    let (mut alone, mut beside) = (vec![0.0], vec![0.0]);
    for _ in 0..context.run.size(5, 1) {
        alone.extend(together(duration, None, &|thread, stop| match thread {
            0 => work(0, stop),
            _ => occupy(stop),
        }));
        beside.extend(together(duration, None, &work));
    }
    let name = "newest version, a writer at full speed";
    if context.run.full && alone.len().min(beside.len()) < SLICES_MIN {
        context.report.line(format_args!("  {name:42} the machine was too busy to tell"));
        return;
    }
    let (alone, beside) = (Spread::of(alone).median, Spread::of(beside).median);
    context.report.line(format_args!(
        "  {name:42} {:8.2} M/s alone, {:8.2} M/s beside it: x{:.2}",
        alone / 1e6,
        beside / 1e6,
        beside / alone
    ));
}

/// A part of a thread's time.
#[derive(Clone, Copy)]
struct Slice {
    start: Instant,
    end: Instant,
    /// Had a core all the time.
    is_whole: bool,
    ops: f64,
}

impl Slice {
    fn per_second(&self) -> f64 {
        self.ops / (self.end - self.start).as_secs_f64()
    }
}

/// Keeps a core busy and touches no memory: so one thread is measured with the other core in the
/// same hands as with two.
fn occupy(stop: &AtomicBool) -> Vec<Slice> {
    let slices = repeat(stop, std::hint::spin_loop);
    slices.into_iter().map(|slice| Slice { ops: 0.0, ..slice }).collect()
}

/// Operations a second, of two threads together, in each slice that counts.
fn together(duration: Duration, writing: Option<Writing<'_>>, work: Work<'_>) -> Vec<f64> {
    let (stop, barrier) = (&AtomicBool::new(false), &Barrier::new(3));
    let slices: Vec<Vec<Slice>> = thread::scope(|scope| {
        let writer = writing.map(|writing| scope.spawn(move || writing(stop)));
        let readers: Vec<_> = (0..2)
            .map(|thread| {
                scope.spawn(move || {
                    barrier.wait();
                    work(thread, stop)
                })
            })
            .collect();
        barrier.wait();
        thread::sleep(duration);
        stop.store(true, Ordering::Relaxed);
        let slices = readers.into_iter().map(|reader| reader.join().expect("no panic")).collect();
        if let Some(writer) = writer {
            writer.join().expect("no panic");
        }
        slices
    });
    let first = slices[0].iter().filter(|slice| slice.is_whole);
    first.filter_map(|slice| Some(slice.per_second() + beside(slice, &slices[1])?)).collect()
}

/// Operations a second of the other thread during a slice, if it had a core all the while.
fn beside(slice: &Slice, other: &[Slice]) -> Option<f64> {
    let from = other.partition_point(|other| other.end <= slice.start);
    let to = other.partition_point(|other| other.start < slice.end);
    let during = other.get(from..to)?;
    let (first, last) = (during.first()?, during.last()?);
    let covers = first.start <= slice.start && last.end >= slice.end;
    let is_whole = during.iter().all(|other| other.is_whole);
    let sum = during.iter().map(Slice::per_second).sum::<f64>();
    (covers && is_whole).then_some(sum / during.len() as f64)
}

/// Repeats until it shall stop.
fn repeat(stop: &AtomicBool, mut operation: impl FnMut()) -> Vec<Slice> {
    let mut slices = Vec::with_capacity(4096);
    let (mut start, mut cpu) = (Instant::now(), thread_time());
    while !stop.load(Ordering::Relaxed) {
        let mut ops = 0;
        let end = loop {
            (0..64).for_each(|_| operation());
            ops += 64;
            let now = Instant::now();
            if now - start >= SLICE {
                break now;
            }
        };
        let now = thread_time();
        let is_whole = (now - cpu).as_secs_f64() > 0.97 * (end - start).as_secs_f64();
        slices.push(Slice { start, end, is_whole, ops: f64::from(ops) });
        (start, cpu) = (end, now);
    }
    slices
}

fn random_key(random: &mut Random, blocks: u32) -> Key {
    Key::new(OBJECT, random.below(u64::from(blocks)) as u32)
}

fn read_newest(reader: &mut Reader, blocks: u32, seed: u64, stop: &AtomicBool) -> Vec<Slice> {
    let (mut random, mut scratch) = (Random(seed), Scratch::new());
    repeat(stop, || {
        let key = random_key(&mut random, blocks);
        let guard = reader.pin();
        let lsn = guard.last_record_lsn();
        let versions = guard.versions(key, lsn, &mut scratch).expect("a read");
        assert!(versions.newest().is_none_or(|newest| newest.lsn <= lsn));
        black_box(versions.len());
    })
}

fn read_newest_of_reference(
    reference: &Reference,
    blocks: u32,
    seed: u64,
    stop: &AtomicBool,
) -> Vec<Slice> {
    let mut random = Random(seed);
    repeat(stop, || {
        let key = random_key(&mut random, blocks);
        reference.pin().versions(key, Lsn::MAX, |version| {
            black_box(version.lsn);
        });
    })
}

/// Calls `batch` a hundred times every ten milliseconds.
fn in_bursts(stop: &AtomicBool, mut batch: impl FnMut()) {
    while !stop.load(Ordering::Relaxed) {
        (0..BURST).for_each(|_| batch());
        thread::sleep(BURST_EVERY);
    }
}

fn write_in_bursts(timeline: &Timeline, updates: &Updates, stop: &AtomicBool) {
    let mut lease: WriteLease<'_> = timeline.write_lease().expect("a free lease");
    let (mut lsn, mut n) = (lease.last_lsn(), 0);
    in_bursts(stop, || {
        for _ in 0..BATCH {
            (lsn, n) = (lsn.next(), (n + 1) % updates.len());
            lease.put(updates.key(n), lsn, updates.value(n)).expect("a put");
        }
        lease.commit(lsn).and_then(pagestrata::CommitTicket::wait).expect("a commit");
    });
}

fn write_in_bursts_to_reference(reference: &Reference, updates: &Updates, stop: &AtomicBool) {
    let mut writer: ReferenceWriter<'_> = reference.writer();
    let (mut lsn, mut n) = (writer.last_lsn(), 0);
    in_bursts(stop, || {
        for _ in 0..BATCH {
            (lsn, n) = (lsn.next(), (n + 1) % updates.len());
            writer.put(updates.key(n), lsn, updates.value(n));
        }
        writer.commit(lsn);
    });
}
