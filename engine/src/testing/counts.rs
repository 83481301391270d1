//! [`Counts`]: what a run did, to show that rare paths ran.

use std::{collections::BTreeMap, fmt};

/// Counters by name; names that begin with `max_` hold the highest value instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// Adds one.
    pub fn add(&mut self, name: &'static str) {
        self.add_many(name, 1);
    }

    /// Adds several.
    pub fn add_many(&mut self, name: &'static str, more: u64) {
        *self.0.entry(name).or_default() += more;
    }

    /// Keeps the highest value.
    pub fn max(&mut self, name: &'static str, value: u64) {
        debug_assert!(name.starts_with("max_"));
        let highest = self.0.entry(name).or_default();
        *highest = value.max(*highest);
    }

    /// Returns a counter; zero if the name was never counted.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Adds the counters of another run.
    pub fn merge(&mut self, other: &Counts) {
        for (name, value) in &other.0 {
            match name.starts_with("max_") {
                true => self.max(name, *value),
                false => self.add_many(name, *value),
            }
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name} {value}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
