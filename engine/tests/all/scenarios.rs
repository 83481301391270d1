//! The named scenarios of the reliability goal, each with its exact outcome: power cuts, damage,
//! full disks, failed syncs, other processes, panics.
//!
//! A workload is a sequence of numbered commits, each of two pages of its own. Everything else
//! follows from the number, so the process that opens the store later knows what must be there.
//!
//! Each scenario runs in all access modes, with the same outcome.

/// Makes a test of each scenario for each access mode.
macro_rules! in_all_access_modes {
    ($($scenario:ident),+ $(,)?) => {
        in_all_access_modes!(@mode mmap, MMAP, $($scenario)+);
        in_all_access_modes!(@mode pread, Pread, $($scenario)+);
        in_all_access_modes!(@mode direct, Direct, $($scenario)+);
    };
    (@mode $module:ident, $mode:ident, $($scenario:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $scenario() {
                    crate::scenarios::in_mode(pagestrata::Access::$mode, super::$scenario);
                }
            )+
        }
    };
}

mod child;
mod damage;
mod failed_opens;
mod flush;
mod kinds;
mod log;
mod manifest;
mod ownership;
mod panics;
mod restored;
mod surroundings;

use std::{cell::Cell, path::PathBuf, time::Duration};

use pagestrata::{
    Access, Background, CommitTicket, Error, Key, LayersError, Lsn, OpenReport, Options, Scratch,
    Store, Timeline, Value, WriteLease,
    testing::{SimulatedStorage, fill_value},
};

const DIR: &str = "/store";
const MILLISECOND: Duration = Duration::from_millis(1);

thread_local! {
    /// How the stores of this thread's scenario read layer files.
    static ACCESS: Cell<Access> = const { Cell::new(Access::MMAP) };
}

/// Runs a scenario whose stores, opened with [`options`], read layer files in this mode.
fn in_mode(access: Access, scenario: impl FnOnce()) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            ACCESS.set(Access::MMAP);
        }
    }
    ACCESS.set(access);
    let _reset = Reset;
    scenario();
}

/// Everything small, and done by the callers: each run makes the same calls.
fn options() -> Options {
    Options {
        access: ACCESS.get(),
        open_layer_size_max_bytes: 64 << 10,
        block_size_target_bytes: 1 << 10,
        log_segment_size_bytes: 4 << 10,
        log_size_max_bytes: 1 << 20,
        flush_retry_delay: MILLISECOND,
        flush_retry_delay_max: MILLISECOND,
        background: Background::Callers,
        store_id: Some(7),
        ..Options::default()
    }
}

/// The two pages that commit `n` changes.
fn keys(n: u64) -> [Key; 2] {
    [Key::new(1, (n % 7) as u32), Key::new(2, (n % 5) as u32)]
}

/// What it writes to them.
fn value(n: u64) -> Vec<u8> {
    fill_value(n, n as u8, 200)
}

/// Commits number `n` at Lsn `10 n`.
fn commit(lease: &mut WriteLease<'_>, n: u64) -> pagestrata::Result<CommitTicket> {
    for key in keys(n) {
        lease.put(key, Lsn(10 * n), Value::Delta { bytes: &value(n), will_init: false })?;
    }
    lease.commit(Lsn(10 * n))
}

/// Commits these numbers, each acknowledged.
#[track_caller]
fn write(timeline: &Timeline, numbers: std::ops::RangeInclusive<u64>) {
    let mut lease = timeline.write_lease().unwrap();
    for n in numbers {
        commit(&mut lease, n).unwrap().wait().unwrap();
    }
}

/// Compares a timeline with the workload: whole commits without a gap, each once. Returns how many
/// there are.
#[track_caller]
fn check(timeline: &Timeline) -> u64 {
    let last = timeline.last_record_lsn();
    let count = last.0 / 10;
    let (snapshot, mut scratch) = (timeline.snapshot(), Scratch::new());
    for number in 1..=7 {
        for (which, key) in keys(number).into_iter().enumerate() {
            let found = snapshot.guard().history(key, last, &mut scratch).unwrap();
            let found: Vec<_> =
                found.newest_first().map(|found| (found.lsn, found.bytes.to_vec())).collect();
            let of_key = (1..=count).rev().filter(|&n| keys(n)[which] == key);
            let expected: Vec<_> = of_key.map(|n| (Lsn(10 * n), value(n))).collect();
            assert!(found == expected, "{key} of {count} commits");
        }
    }
    count
}

/// The store of these files and its timeline `main`.
fn open(
    storage: &SimulatedStorage,
    options: Options,
) -> pagestrata::Result<(Store, Timeline, OpenReport)> {
    let (store, report) = Store::open_with(storage.shared(), DIR, options)?;
    let timeline = match store.timeline("main") {
        Ok(timeline) => timeline,
        Err(_) => store.create_timeline("main", Lsn(1))?,
    };
    Ok((store, timeline, report))
}

/// Opens what a kill or a crash has left, compares it, and says how many commits there are.
#[track_caller]
fn reopen(storage: &SimulatedStorage) -> (u64, OpenReport) {
    let (_store, timeline, report) = open(storage, options()).unwrap();
    (check(&timeline), report)
}

/// The file and the place that a corruption names.
#[track_caller]
fn corruption(error: Error) -> (PathBuf, u64) {
    let Error::Layers(LayersError::Corrupt(corruption)) = error else { panic!("{error}") };
    (corruption.path, corruption.offset)
}

#[track_caller]
fn corruption_at_open(storage: &SimulatedStorage) -> (PathBuf, u64) {
    let before = storage.digest();
    match open(storage, options()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => {
            assert_eq!(storage.digest(), before, "left as it was");
            corruption(error)
        }
    }
}

fn is_read_only<T: std::fmt::Debug>(result: pagestrata::Result<T>) -> bool {
    matches!(result, Err(Error::ReadOnly { .. }))
}
