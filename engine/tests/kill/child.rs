//! The process that is killed: writes to all timelines, and says of each commit when it was
//! acknowledged, not before.

use std::{
    collections::VecDeque,
    io::{Write, stdout},
    path::Path,
    thread,
};

use pagestrata::{CommitTicket, Durability, Error, Lsn, Store, Timeline, WriteLease};

use crate::workload::{self, TIMELINES, count, import, is_import, lsn, name, options, put};

pub(crate) const ARGUMENT: &str = "child-of-the-kill-test";
/// So that nothing is left running when the parent dies first.
const COMMITS_MAX: u64 = 20_000;
/// How many commits of a writer may wait for their acknowledgement.
const WAITING_MAX: usize = 6;

pub(crate) fn main(dir: &Path, durability: Durability, seed: u64) {
    let (store, _) = Store::open(dir, options(durability)).unwrap();
    thread::scope(|scope| {
        for number in 0..TIMELINES {
            let timeline = match store.timeline(&name(number)) {
                Ok(timeline) => timeline,
                Err(_) => store.create_timeline(&name(number), Lsn(1)).unwrap(),
            };
            scope.spawn(move || write(number, &timeline, seed ^ (number as u64) << 56));
        }
    });
    store.close(std::time::Duration::ZERO).unwrap();
}

/// Says that a commit is safe.
fn say(timeline: usize, n: u64) {
    // In one write, which is whole in the pipe or not there.
    stdout().lock().write_all(format!("{timeline} {n}\n").as_bytes()).unwrap();
}

fn write(number: usize, timeline: &Timeline, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut n = count(timeline);
    for _ in 0..COMMITS_MAX / 8 {
        let mut lease = timeline.write_lease().unwrap();
        let mut waiting = VecDeque::new();
        for _ in 0..random.usize(1..16) {
            n += 1;
            if is_import(n) {
                acknowledge(number, &mut waiting, 0);
                import(&mut lease, n).unwrap();
                say(number, n);
                continue;
            }
            put(&mut lease, n).unwrap();
            waiting.push_back((n, commit(&mut lease, n)));
            acknowledge(number, &mut waiting, random.usize(..WAITING_MAX));
        }
        if random.u8(..8) == 0 {
            lease.roll().unwrap();
        }
        // Before or after others may write.
        if random.bool() {
            acknowledge(number, &mut waiting, 0);
        }
        drop(lease);
        if random.u8(..8) == 0 {
            timeline.flush().unwrap();
        }
        acknowledge(number, &mut waiting, 0);
        assert_eq!(n, workload::count(timeline));
    }
}

/// Another writer may have the lease of a timeline that keeps the log from being freed; it gives it
/// back soon.
fn commit(lease: &mut WriteLease<'_>, n: u64) -> CommitTicket {
    loop {
        match lease.commit(lsn(n)) {
            Ok(ticket) => return ticket,
            Err(Error::LogFull { .. }) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits for the oldest commits, until so many are left.
fn acknowledge(timeline: usize, waiting: &mut VecDeque<(u64, CommitTicket)>, left: usize) {
    while waiting.len() > left {
        let (n, ticket) = waiting.pop_front().expect("not empty");
        ticket.wait().unwrap();
        say(timeline, n);
    }
}
