//! [`Choices`]: who decides what a crash keeps.

use std::path::Path;

/// What is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Whether a change of a name is kept; of a rename, the new name.
    Name(&'a Path),
    /// Which length a file has.
    Len(&'a Path),
    /// Which content a sector has.
    Sector(&'a Path, usize),
}

/// Decides what a crash keeps. Asked only where there are at least two options; which questions
/// come depends on the answers before.
pub trait Choices {
    /// One of `0..options`. The first is what was synced, the last what was there when the power
    /// failed; those between are in the order in which they were there.
    fn choose(&mut self, decision: Decision<'_>, options: usize) -> usize;
}

impl<F: FnMut(Decision<'_>, usize) -> usize> Choices for F {
    fn choose(&mut self, decision: Decision<'_>, options: usize) -> usize {
        self(decision, options)
    }
}

/// [`Choices`] that keep nothing but what was synced.
#[must_use]
pub fn none_kept(_: Decision<'_>, _: usize) -> usize {
    0
}

/// [`Choices`] that keep everything.
#[must_use]
pub fn all_kept(_: Decision<'_>, options: usize) -> usize {
    options - 1
}

/// Written-down choices, to crash once more as before; behind its end it keeps what was synced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    choices: Vec<usize>,
    next: usize,
}

impl Script {
    /// These choices, in this order.
    #[must_use]
    pub fn new(choices: Vec<usize>) -> Script {
        Script { choices, next: 0 }
    }
}

impl Choices for Script {
    fn choose(&mut self, _: Decision<'_>, _: usize) -> usize {
        self.next += 1;
        self.choices.get(self.next - 1).copied().unwrap_or(0)
    }
}

/// Asks when there is something to choose.
pub(super) fn decide(choices: &mut impl Choices, decision: Decision<'_>, options: usize) -> usize {
    if options == 1 {
        return 0;
    }
    let chosen = choices.choose(decision, options);
    assert!(chosen < options, "{decision:?}: choice {chosen} of {options}");
    chosen
}

/// All choices one after the other: each run follows the digits and takes the first option behind
/// their end.
#[derive(Clone, Debug, Default)]
pub(super) struct Odometer {
    /// A choice and of how many.
    digits: Vec<(usize, usize)>,
    next: usize,
}

impl Odometer {
    /// The choices of the run that was just made.
    pub(super) fn choices(&self) -> Vec<usize> {
        self.digits.iter().map(|(choice, _)| *choice).collect()
    }

    /// Goes on to the next run. Whether there is one.
    pub(super) fn advance(&mut self) -> bool {
        self.next = 0;
        while let Some((choice, options)) = self.digits.pop() {
            if choice + 1 < options {
                self.digits.push((choice + 1, options));
                return true;
            }
        }
        false
    }
}

impl Choices for Odometer {
    fn choose(&mut self, decision: Decision<'_>, options: usize) -> usize {
        if self.next == self.digits.len() {
            self.digits.push((0, options));
        }
        let (choice, expected) = self.digits[self.next];
        assert_eq!(options, expected, "{decision:?}: the same question after the same answers");
        self.next += 1;
        choice
    }
}
