//! [`Pacer`]: delays commits while flushing is behind, so that no commit waits for a whole flush.
//!
//! The debt of a timeline is the amount that is not flushed, in layers: the frozen layers, minus
//! what the running flush has written of the oldest one, plus the filled part of the open layer. Up
//! to half of the permitted debt there is no delay. Beyond that, the delay of a commit grows
//! linearly with the debt and with the commit's bytes. At the full debt it is [`SLOWEST`] times as
//! long as a flush takes for as many bytes, so the debt stops growing before it is full, on fast
//! and slow devices. The delay depends on the current state only, not on how it was reached.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

/// At the full debt a writer runs at the speed of flushing, divided by this.
const SLOWEST: f64 = 4.0;
/// Shorter sleeps cost more than they delay: shorter delays are added up.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// Assumed time of a flush per byte, in nanoseconds, until one is measured: 50 MB/s.
const FLUSH_NS_PER_BYTE: f64 = 20.0;
/// Progress of a flush that is complete.
const PROGRESS_END: u32 = 1 << 16;

/// State that determines the delay of a timeline's commits. The threads that roll and flush write
/// it, the thread that commits reads it.
#[derive(Debug)]
pub(crate) struct Pacer {
    frozen: Mutex<Frozen>,
    /// Number of frozen layers. Written under the lock of `frozen`.
    frozen_layers: AtomicU32,
    /// Progress of the flush of the oldest one, out of [`PROGRESS_END`].
    progress: AtomicU32,
    /// Recent time of a flush per byte, in nanoseconds; the bits of an `f64`.
    flush_ns_per_byte: AtomicU64,
    /// Time of the running flush per byte so far, as above, so that a device that became slow is
    /// noticed before the flush ends.
    this_flush_ns_per_byte: AtomicU64,
    /// Delay that commits have not slept yet, in nanoseconds. Written by the holder of the write
    /// lease.
    owed_ns: AtomicU64,
    delayed_commits: AtomicU64,
    delayed_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct Frozen {
    /// The used bytes of the frozen layers, oldest first.
    used_bytes: VecDeque<u64>,
    /// Since when there has been something to flush, by the store's clock; `None`: nothing is
    /// waiting.
    busy_since: Option<Duration>,
}

/// Statistics of delayed commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delays {
    pub(crate) commits: u64,
    pub(crate) total: Duration,
}

impl Default for Pacer {
    fn default() -> Pacer {
        Pacer {
            frozen: Mutex::default(),
            frozen_layers: AtomicU32::new(0),
            progress: AtomicU32::new(0),
            flush_ns_per_byte: AtomicU64::new(FLUSH_NS_PER_BYTE.to_bits()),
            this_flush_ns_per_byte: AtomicU64::new(0),
            owed_ns: AtomicU64::new(0),
            delayed_commits: AtomicU64::new(0),
            delayed_ns: AtomicU64::new(0),
        }
    }
}

impl Pacer {
    /// Counts a layer that was frozen.
    pub(crate) fn froze(&self, used_bytes: u64, now: Duration) {
        let mut frozen = self.frozen.lock();
        frozen.busy_since.get_or_insert(now);
        frozen.used_bytes.push_back(used_bytes);
        self.frozen_layers.store(frozen.used_bytes.len() as u32, Ordering::Relaxed);
    }

    /// Records how many versions of the oldest frozen layer are written.
    pub(crate) fn flushing(&self, versions: u64, of: u64, now: Duration) {
        debug_assert!(versions <= of.max(1), "no more is written than there is");
        let done = u64::from(PROGRESS_END) * versions / of.max(1);
        let done = u32::try_from(done).unwrap_or(PROGRESS_END).min(PROGRESS_END);
        self.progress.store(done, Ordering::Relaxed);
        let frozen = self.frozen.lock();
        let (Some(bytes), Some(since)) = (frozen.used_bytes.front(), frozen.busy_since) else {
            return;
        };
        let written = *bytes as f64 * f64::from(done) / f64::from(PROGRESS_END);
        // A flush that starts slowly is not slow yet.
        if done >= PROGRESS_END / 8 && written > 0.0 {
            let so_far = now.saturating_sub(since).as_nanos() as f64 / written;
            self.this_flush_ns_per_byte.store(so_far.to_bits(), Ordering::Relaxed);
        }
    }

    /// Counts the oldest frozen layer as flushed, and updates the measured time per byte.
    pub(crate) fn flushed(&self, now: Duration) {
        let mut frozen = self.frozen.lock();
        let bytes = frozen.used_bytes.pop_front().unwrap_or(0);
        self.frozen_layers.store(frozen.used_bytes.len() as u32, Ordering::Relaxed);
        self.progress.store(0, Ordering::Relaxed);
        self.this_flush_ns_per_byte.store(0, Ordering::Relaxed);
        let began = match frozen.used_bytes.is_empty() {
            true => frozen.busy_since.take(),
            false => frozen.busy_since.replace(now),
        };
        let took = began.map_or(Duration::ZERO, |began| now.saturating_sub(began));
        if bytes > 0 && !took.is_zero() {
            let before = f64::from_bits(self.flush_ns_per_byte.load(Ordering::Relaxed));
            let average = f64::midpoint(before, took.as_nanos() as f64 / bytes as f64);
            self.flush_ns_per_byte.store(average.to_bits(), Ordering::Relaxed);
        }
    }

    /// Returns the delay of a commit of `bytes` when the open layer is filled to this fraction.
    pub(crate) fn delay_of(
        &self,
        bytes: u64,
        open_layers: f64,
        frozen_layers_max: usize,
        longest: Duration,
    ) -> Duration {
        let frozen = f64::from(self.frozen_layers.load(Ordering::Relaxed));
        let written = self.progress.load(Ordering::Relaxed);
        let debt = frozen - f64::from(written) / f64::from(PROGRESS_END) + open_layers;
        let measured = [&self.flush_ns_per_byte, &self.this_flush_ns_per_byte]
            .map(|of| of.load(Ordering::Relaxed));
        let flush = f64::from_bits(measured[0]).max(f64::from_bits(measured[1]));
        delay(debt, frozen_layers_max as f64 + 1.0, flush * bytes as f64).min(longest)
    }

    /// Adds a delay to what is owed, and returns how long to sleep now.
    pub(crate) fn owe(&self, delay: Duration) -> Option<Duration> {
        if delay.is_zero() {
            return None;
        }
        self.delayed_commits.fetch_add(1, Ordering::Relaxed);
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.delayed_ns.fetch_add(delay_ns, Ordering::Relaxed);
        let owed = self.owed_ns.load(Ordering::Relaxed).saturating_add(delay_ns);
        let is_due = Duration::from_nanos(owed) >= SHORTEST_SLEEP;
        self.owed_ns.store(if is_due { 0 } else { owed }, Ordering::Relaxed);
        is_due.then(|| Duration::from_nanos(owed))
    }

    pub(crate) fn delays(&self) -> Delays {
        Delays {
            commits: self.delayed_commits.load(Ordering::Relaxed),
            total: Duration::from_nanos(self.delayed_ns.load(Ordering::Relaxed)),
        }
    }
}

/// Returns the delay of a commit whose bytes take `flush_ns` to flush, at a debt of `debt` out of
/// `max` layers.
fn delay(debt: f64, max: f64, flush_ns: f64) -> Duration {
    debug_assert!(max > 0.0 && flush_ns >= 0.0);
    let begins = max / 2.0;
    let over = ((debt - begins) / (max - begins)).clamp(0.0, 1.0);
    Duration::from_nanos((over * SLOWEST * flush_ns) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: f64 = 128e6;
    const FROZEN_MAX: usize = 4;

    #[test]
    fn there_is_no_delay_up_to_half_of_the_debt_and_it_grows_from_there() {
        let at = |debt: f64| delay(debt, 5.0, 1e6);
        assert!([0.0, 1.0, 2.5].iter().all(|&debt| at(debt).is_zero()));
        assert!(at(2.6) > Duration::ZERO);
        assert!((26..=50).all(|n| at(f64::from(n) / 10.0) > at(f64::from(n - 1) / 10.0)));
        assert_eq!(at(5.0), Duration::from_millis(4), "four times what the flush takes");
        assert_eq!(at(9.0), at(5.0));
    }

    #[test]
    fn short_delays_are_added_up_until_a_sleep_is_worth_it() {
        let pacer = Pacer::default();
        let slept: Vec<_> = (0..10).filter_map(|_| pacer.owe(Duration::from_micros(250))).collect();
        assert_eq!(slept, [Duration::from_millis(1); 2]);
        assert_eq!(pacer.delays(), Delays { commits: 10, total: Duration::from_micros(2500) });
        assert_eq!(pacer.owe(Duration::ZERO), None);
    }

    #[test]
    fn a_flush_is_measured_from_when_there_was_something_to_flush() {
        let (pacer, second) = (Pacer::default(), Duration::from_secs(1));
        pacer.froze(1_000_000_000, 10 * second);
        pacer.froze(1_000_000_000, 12 * second);
        pacer.flushed(14 * second);
        // Each has the weight of all before it: 20 ns a byte is assumed, then 4 and 6 are measured.
        assert_eq!(f64::from_bits(pacer.flush_ns_per_byte.load(Ordering::Relaxed)), 12.0);
        pacer.flushed(20 * second);
        assert_eq!(f64::from_bits(pacer.flush_ns_per_byte.load(Ordering::Relaxed)), 9.0);
        assert_eq!(pacer.frozen_layers.load(Ordering::Relaxed), 0);
    }

    /// Simulates a writer and a flush. Returns the longest wait of a commit, and the total time.
    fn simulate(write_ns: f64, flush_ns: f64, batch: f64, is_paced: bool) -> (f64, f64) {
        let pacer = Pacer::default();
        let longest = Duration::from_millis(10);
        // What is left of the layer that is being flushed, and the number of frozen layers
        // including it.
        let (mut now, mut open, mut frozen, mut left) = (0.0_f64, 0.0_f64, 0_usize, 0.0_f64);
        let mut longest_wait = 0.0_f64;
        let nanos = |ns: f64| Duration::from_nanos(ns as u64);
        let mut pass = |ns: f64, frozen: &mut usize, left: &mut f64| {
            now += ns;
            let mut flushed = ns / flush_ns;
            while *frozen > 0 && flushed >= *left {
                flushed -= *left;
                *frozen -= 1;
                *left = LAYER;
                pacer.flushed(nanos(now));
            }
            if *frozen > 0 {
                *left -= flushed;
                pacer.flushing((LAYER - *left) as u64, LAYER as u64, nanos(now));
            }
            now
        };
        for _ in 0..(4e9 / batch) as u64 {
            let mut at = pass(batch * write_ns, &mut frozen, &mut left);
            open += batch;
            if open >= LAYER {
                if frozen == FROZEN_MAX {
                    longest_wait = longest_wait.max(left * flush_ns);
                    at = pass(left * flush_ns, &mut frozen, &mut left);
                }
                left = if frozen == 0 { LAYER } else { left };
                (frozen, open) = (frozen + 1, 0.0);
                pacer.froze(LAYER as u64, nanos(at));
            }
            let delay = pacer.delay_of(batch as u64, open / LAYER, FROZEN_MAX, longest);
            if is_paced && let Some(owed) = pacer.owe(delay) {
                longest_wait = longest_wait.max(owed.as_nanos() as f64);
                pass(owed.as_nanos() as f64, &mut frozen, &mut left);
            }
        }
        (longest_wait / 1e6, now / 1e6)
    }

    #[test]
    fn a_paced_writer_never_waits_for_a_whole_flush_and_is_no_slower() {
        for flush_mb in [5.0, 20.0, 100.0, 400.0] {
            for write_mb in [50.0, 200.0, 1000.0] {
                let (write_ns, flush_ns) = (1e3 / write_mb, 1e3 / flush_mb);
                let what = format!("writes {write_mb} MB/s, flushes {flush_mb} MB/s");
                let (unpaced_wait, unpaced) = simulate(write_ns, flush_ns, 16e3, false);
                let (wait, paced) = simulate(write_ns, flush_ns, 16e3, true);
                assert!(wait <= 10.0, "{what}: {wait} ms");
                assert!(write_mb <= flush_mb || unpaced_wait > 50.0, "{what}: {unpaced_wait} ms");
                assert!(paced <= unpaced * 1.15, "{what}: {paced} ms, unpaced {unpaced} ms");
            }
        }
    }
}
