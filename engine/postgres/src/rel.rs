//! [`RelFork`] and [`RelPage`]: which file of which relation, which block of it, and their text
//! form. Their keys in the engine are in `keys.rs`.

use std::{fmt, str::FromStr};

/// A file of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fork {
    /// The relation itself.
    Main = 0,
    /// The free space map.
    Fsm = 1,
    /// The visibility map.
    Vm = 2,
    /// What an unlogged relation starts from after a crash.
    Init = 3,
}

impl Fork {
    /// All of them, in order.
    pub const ALL: [Fork; 4] = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init];

    /// By its number in the log; 4 and above are none.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Fork> {
        match number {
            0 => Some(Fork::Main),
            1 => Some(Fork::Fsm),
            2 => Some(Fork::Vm),
            3 => Some(Fork::Init),
            _ => None,
        }
    }

    /// Its name: `main`, `fsm`, `vm` or `init`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Fork::Main => "main",
            Fork::Fsm => "fsm",
            Fork::Vm => "vm",
            Fork::Init => "init",
        }
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Fork> {
        Fork::ALL.into_iter().find(|fork| fork.name() == name)
    }
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fork of a relation: what the engine calls an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelFork {
    /// The tablespace's oid.
    pub tablespace: u32,
    /// The database's oid; 0: shared by all.
    pub database: u32,
    /// The relation's file number.
    pub relation: u32,
    /// Which of its files.
    pub fork: Fork,
}

impl RelFork {
    /// Another fork of the same relation.
    #[must_use]
    pub const fn with_fork(self, fork: Fork) -> RelFork {
        RelFork { fork, ..self }
    }
}

/// `tablespace/database/relation/fork`.
impl fmt::Display for RelFork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.tablespace, self.database, self.relation, self.fork)
    }
}

/// A block of a relation fork: a key in PostgreSQL's words.
///
/// ```
/// # use pagestrata_postgres::RelPage;
/// let page: RelPage = "1663/5/16384/vm/7".parse().unwrap();
/// assert_eq!(RelPage::from_key(page.key()).unwrap().to_string(), "1663/5/16384/vm/7");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelPage {
    /// Which fork.
    pub rel: RelFork,
    /// Which block of it.
    pub block: u32,
}

/// `tablespace/database/relation/fork/block`.
impl fmt::Display for RelPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.rel, self.block)
    }
}

/// A text that is no relation fork or page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a relation's {what}: expected `{form}` with a fork of main, fsm, vm or init, found {found:?}"
)]
pub struct ParseRelPageError {
    what: &'static str,
    form: &'static str,
    found: String,
}

fn number(text: Option<&str>) -> Option<u32> {
    text.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

fn parse_rel<'t>(parts: &mut impl Iterator<Item = &'t str>) -> Option<RelFork> {
    Some(RelFork {
        tablespace: number(parts.next())?,
        database: number(parts.next())?,
        relation: number(parts.next())?,
        fork: Fork::from_name(parts.next()?)?,
    })
}

impl FromStr for RelFork {
    type Err = ParseRelPageError;

    fn from_str(text: &str) -> std::result::Result<RelFork, ParseRelPageError> {
        let mut parts = text.split('/');
        parse_rel(&mut parts).filter(|_| parts.next().is_none()).ok_or_else(|| ParseRelPageError {
            what: "fork",
            form: "tablespace/database/relation/fork",
            found: text.to_owned(),
        })
    }
}

impl FromStr for RelPage {
    type Err = ParseRelPageError;

    fn from_str(text: &str) -> std::result::Result<RelPage, ParseRelPageError> {
        let mut parts = text.split('/');
        let page = parse_rel(&mut parts)
            .and_then(|rel| Some(RelPage { rel, block: number(parts.next())? }))
            .filter(|_| parts.next().is_none());
        page.ok_or_else(|| ParseRelPageError {
            what: "page",
            form: "tablespace/database/relation/fork/block",
            found: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "1/2/3/main",
            "1/2/3/main/",
            "1/2/3/heap/4",
            "1/2/3/main/4/5",
            "+1/2/3/main/4",
            "1/2/3/0/4",
        ] {
            assert!(text.parse::<RelPage>().is_err(), "{text:?}");
        }
        assert!("1/2/3/main/4".parse::<RelFork>().is_err());
        assert!("1/2/4294967296/main".parse::<RelFork>().is_err());
    }
}
