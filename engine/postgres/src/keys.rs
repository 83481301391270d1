//! Keys of pages: the mapping between [`RelFork`] and the engine's objects.
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

use pagestrata_layers::Key;

use crate::{
    error::{Error, Result},
    rel::{Fork, RelFork, RelPage},
};

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

    /// The key of a block of it.
    #[must_use]
    pub const fn key(self, block: u32) -> Key {
        Key::new(self.object(), block)
    }
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

/// The key of a block of a relation fork.
#[must_use]
pub const fn page_key(rel: RelFork, block: u32) -> Key {
    rel.key(block)
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
}
