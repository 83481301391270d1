//! How a [`Life`] ends and starts again: closed, killed, without power; and reopened.

use std::{mem, time::Duration};

use super::{
    Violation,
    explore::Explore,
    life::{Life, open},
    oracle::{End, NAMES, Recovered, START},
    recorder::Recorder,
};
use crate::testing::{Fault, SimulatedStorage};

impl Life {
    pub(super) fn close(&mut self, explore: &mut Explore) -> Result<(), Violation> {
        let floors = self.expected.floors;
        let closed = self.store.take().expect("open").close(Duration::ZERO);
        self.explored(explore, floors)?;
        match closed {
            Ok(_) => {
                for (timeline, floor) in
                    self.expected.timelines.iter().zip(&mut self.expected.floors)
                {
                    let committed = timeline.model.committed().max(START);
                    (floor.power, floor.kill) = (committed, committed);
                }
            }
            Err(error) => self.refused("close", &error)?,
        }
        let left = self.storage().killed();
        self.reopen(explore, left, (End::Killed, false))
    }

    pub(super) fn fault_at_open(
        &mut self,
        explore: &mut Explore,
        fault: Fault,
    ) -> Result<(), Violation> {
        let left = self.storage().killed();
        left.set_fault(Some(fault));
        self.reopen(explore, left, (End::Killed, true))?;
        if self.store.is_none() {
            explore.counts.add("failed_openings");
            let left = self.storage().killed();
            self.reopen(explore, left, (End::Killed, false))?;
        }
        Ok(())
    }

    /// Opens what the last process has left. Its promises hold until the open has succeeded; then
    /// what was found counts.
    pub(super) fn reopen(
        &mut self,
        explore: &mut Explore,
        left: SimulatedStorage,
        (end, is_armed): (End, bool),
    ) -> Result<(), Violation> {
        let was_armed = mem::replace(&mut self.is_armed, is_armed) || is_armed;
        self.store = None;
        self.incarnation += 1;
        self.seed = self.seed.wrapping_add(1);
        if end == End::PowerOff {
            self.expected.floors.iter_mut().for_each(|floor| floor.kill = floor.power);
        }
        self.recorder = Recorder::new(left, self.one_in, self.seed);
        let floors = self.expected.floors;
        let opened = open(self.recorder.shared(), self.durability);
        explore.in_recovery = true;
        let explored = self.explored(explore, floors);
        explore.in_recovery = false;
        explored?;
        explore.counts.add("openings");
        let store = match opened {
            Ok(store) => store,
            Err(error) => return self.refused("open", &error),
        };
        let recovered = Recovered::of(&store).map_err(Violation::new)?;
        self.expected.check(&recovered, end, &floors).map_err(Violation::new)?;
        let consistent = NAMES.map(|name| {
            store.timeline(name).map_or(START, |timeline| timeline.disk_consistent_lsn().max(START))
        });
        let lost_marks = end == End::PowerOff || was_armed;
        self.expected.settle(&recovered, lost_marks, &consistent);
        self.store = Some(store);
        Ok(())
    }
}
