//! [`RelFork`]: which file of which relation; its mapping to the engine's keys, and its text form.
//!
//! | bits of the object | what |
//! |---|---|
//! | 72..104 | tablespace |
//! | 40..72 | database (0: shared by all) |
//! | 8..40 | relation (its file number) |
//! | 0..8 | fork |
//!
//! **Invariant:** lossless, and object order is (tablespace, database, relation, fork) order: pages
//! of a fork are adjacent, forks of a relation are, and so on.

use std::{fmt, str::FromStr};

use pagestrata_layers::Key;

use crate::{Error, Result};

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
    /// The object under which the engine has it.
    #[must_use]
    pub const fn object(self) -> u128 {
        (self.tablespace as u128) << 72
            | (self.database as u128) << 40
            | (self.relation as u128) << 8
            | self.fork as u128
    }

    /// From the object under which the engine has it.
    ///
    /// # Errors
    /// [`Error::NotARelation`] for any other object.
    pub fn from_object(object: u128) -> Result<RelFork> {
        let fork = Fork::from_number(object as u8);
        match fork {
            Some(fork) if object >> 104 == 0 => Ok(RelFork {
                tablespace: (object >> 72) as u32,
                database: (object >> 40) as u32,
                relation: (object >> 8) as u32,
                fork,
            }),
            _ => Err(Error::NotARelation { object }),
        }
    }

    /// Another fork of the same relation.
    #[must_use]
    pub const fn with_fork(self, fork: Fork) -> RelFork {
        RelFork { fork, ..self }
    }

    /// The key of a block of it.
    #[must_use]
    pub const fn key(self, block: u32) -> Key {
        Key::new(self.object(), block)
    }
}

/// `tablespace/database/relation/fork`.
impl fmt::Display for RelFork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.tablespace, self.database, self.relation, self.fork)
    }
}

/// The key of a block of a relation fork.
#[must_use]
pub const fn page_key(rel: RelFork, block: u32) -> Key {
    rel.key(block)
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

impl RelPage {
    /// Its key.
    #[must_use]
    pub const fn key(self) -> Key {
        self.rel.key(self.block)
    }

    /// From its key.
    ///
    /// # Errors
    /// [`Error::NotARelation`] for a key of anything else.
    pub fn from_key(key: Key) -> Result<RelPage> {
        Ok(RelPage { rel: RelFork::from_object(key.object)?, block: key.block })
    }
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

    fn rel(tablespace: u32, database: u32, relation: u32, fork: Fork) -> RelFork {
        RelFork { tablespace, database, relation, fork }
    }

    #[test]
    fn objects_keep_everything_and_the_order() {
        let numbers = [0, 1, 255, 256, 0x8000_0000, u32::MAX];
        let mut rels = Vec::new();
        for tablespace in numbers {
            for database in numbers {
                for relation in numbers {
                    rels.extend(Fork::ALL.map(|fork| rel(tablespace, database, relation, fork)));
                }
            }
        }
        assert!(rels.is_sorted() && rels.is_sorted_by_key(|rel| rel.object()));
        for rel in rels {
            assert_eq!(RelFork::from_object(rel.object()).unwrap(), rel);
            assert_eq!(rel.to_string().parse(), Ok(rel));
            let page = RelPage { rel, block: u32::MAX };
            assert_eq!(page.to_string().parse(), Ok(page));
            assert_eq!(RelPage::from_key(page_key(rel, u32::MAX)).unwrap(), page);
        }
    }

    #[test]
    fn other_objects_are_refused() {
        for object in [4, 0xFF, 1 << 104, u128::MAX] {
            assert!(matches!(
                RelFork::from_object(object),
                Err(Error::NotARelation { object: found }) if found == object
            ));
        }
    }

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
