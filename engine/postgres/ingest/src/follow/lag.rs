//! [`Lag`]: how far a timeline is behind the server that it follows.
//!
//! The server states where its log ends in every message. Lag is measured against what it has
//! stated:
//!
//! - **bytes**: what the server has and the timeline has not. A record that the server has only a
//!   part of, and the empty rest of a segment behind a switch, are no lag once they have been
//!   received: there is nothing in them to apply.
//! - **seconds**: how long ago, by this machine's clock, the server first stated an end beyond what
//!   has been applied. None while the bytes are zero, however long the server has been idle.
//!   Whoever is slow also hears late: what the server has not stated yet, or what still waits in a
//!   socket, is not counted.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use pagestrata::Lsn;

/// How many ends are remembered. When there are more, neighbours are taken together, as of the
/// earlier one's time.
const STATED_MAX: usize = 256;

/// Which ends of its log a server has stated, and when, as far as they have not been applied.
#[derive(Debug)]
pub(crate) struct Lag {
    applied: Lsn,
    server_end: Lsn,
    /// Ends beyond `applied` and when each was stated first; both ascend.
    stated: VecDeque<(Lsn, Instant)>,
    /// Bytes between two ends that are remembered apart.
    spacing: u64,
}

impl Lag {
    /// Of a timeline that has everything up to here, before a server has said anything.
    pub(crate) fn new(applied: Lsn) -> Lag {
        Lag { applied, server_end: applied, stated: VecDeque::new(), spacing: 0 }
    }

    /// The server has stated where its log ends.
    pub(crate) fn stated(&mut self, end: Lsn, now: Instant) {
        self.server_end = end;
        let newest = self.stated.back().map_or(self.applied, |(newest, _)| *newest);
        if end <= newest {
            // Less than before: a server that crashed may have lost what it had not flushed.
            self.stated.retain(|(stated, _)| *stated <= end);
            return;
        }
        if self.stated.len() >= STATED_MAX {
            let span = end.0 - self.applied.0.min(end.0);
            self.spacing = span.div_ceil(STATED_MAX as u64 / 4);
            for (end, at) in std::mem::take(&mut self.stated) {
                self.remember(end, at);
            }
        }
        self.remember(end, now);
    }

    /// Behind all others, or as a part of the last one if that covers too little to stand alone.
    fn remember(&mut self, end: Lsn, at: Instant) {
        let before = self.stated.len().checked_sub(2).map_or(self.applied, |n| self.stated[n].0);
        match self.stated.back_mut() {
            Some((last, _)) if end.0.saturating_sub(before.0) <= self.spacing => *last = end,
            _ => self.stated.push_back((end, at)),
        }
    }

    /// Everything up to here has been applied, or has nothing in it to apply.
    pub(crate) fn applied(&mut self, lsn: Lsn) {
        self.applied = lsn;
        while self.stated.front().is_some_and(|(end, _)| *end <= lsn) {
            self.stated.pop_front();
        }
        if self.stated.is_empty() {
            self.spacing = 0;
        }
    }

    /// The end of the server's log, as it was stated last.
    pub(crate) fn server_end(&self) -> Lsn {
        self.server_end
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.server_end.0.saturating_sub(self.applied.0)
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        let oldest = self.stated.front().filter(|_| self.bytes() > 0);
        oldest.map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    #[track_caller]
    fn check(lag: &Lag, now: Instant, bytes: u64, seconds: u64) {
        assert_eq!((lag.bytes(), lag.age(now)), (bytes, Duration::from_secs(seconds)));
    }

    #[test]
    fn an_idle_server_is_no_lag() {
        let clock = Clock(Instant::now());
        let mut lag = Lag::new(Lsn(MB));
        check(&lag, clock.at(100), 0, 0);
        lag.stated(Lsn(MB), clock.at(100));
        check(&lag, clock.at(5000), 0, 0);
    }

    #[test]
    fn lag_is_as_old_as_the_first_end_that_is_not_applied() {
        let clock = Clock(Instant::now());
        let mut lag = Lag::new(Lsn(MB));
        lag.stated(Lsn(2 * MB), clock.at(10));
        lag.stated(Lsn(2 * MB), clock.at(20));
        lag.stated(Lsn(4 * MB), clock.at(30));
        check(&lag, clock.at(40), 3 * MB, 30);
        lag.applied(Lsn(2 * MB - 1));
        check(&lag, clock.at(40), 2 * MB + 1, 30);
        lag.applied(Lsn(2 * MB));
        check(&lag, clock.at(40), 2 * MB, 10);
        lag.applied(Lsn(4 * MB));
        check(&lag, clock.at(50), 0, 0);
        // Applied beyond what was stated: the pieces of the log say more than keep-alives.
        lag.applied(Lsn(5 * MB));
        check(&lag, clock.at(50), 0, 0);
        lag.stated(Lsn(6 * MB), clock.at(60));
        check(&lag, clock.at(61), MB, 1);
    }

    #[test]
    fn a_server_may_lose_its_end() {
        let clock = Clock(Instant::now());
        let mut lag = Lag::new(Lsn(MB));
        lag.stated(Lsn(9 * MB), clock.at(1));
        lag.stated(Lsn(MB), clock.at(2));
        check(&lag, clock.at(3), 0, 0);
        lag.stated(Lsn(2 * MB), clock.at(4));
        check(&lag, clock.at(5), MB, 1);
        lag.stated(Lsn(0), clock.at(6));
        lag.stated(Lsn(u64::MAX), clock.at(7));
        check(&lag, clock.at(8), u64::MAX - MB, 1);
    }

    /// Against a list of everything that was stated.
    #[test]
    fn many_ends_are_remembered_well_enough() {
        let clock = Clock(Instant::now());
        let mut lag = Lag::new(Lsn(0));
        let all = 10_000_u64;
        for n in 1..=all {
            lag.stated(Lsn(n), clock.at(n));
            assert!(lag.stated.len() <= STATED_MAX);
        }
        for applied in 0..all {
            lag.applied(Lsn(applied));
            let exact = all - (applied + 1);
            let found = lag.age(clock.at(all)).as_secs();
            assert!(found >= exact && found - exact <= all / 32, "{found}, not {exact}");
        }
        lag.applied(Lsn(all));
        check(&lag, clock.at(all), 0, 0);
    }
}
