//! [`Problem`]: an error of redo, before record and page are added to it (`RedoError`).

use std::fmt;

pub(crate) type Checked<T> = Result<T, Problem>;

/// Bytes of a record or a page that make no sense. The caller adds record and page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem(pub(super) Box<Wrong>);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub(super) what: &'static str,
    pub(super) expected: String,
    pub(super) found: String,
}

impl Problem {
    #[cold]
    pub(crate) fn new(
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Problem {
        Problem(Box::new(Wrong { what, expected: expected.to_string(), found: found.to_string() }))
    }
}
