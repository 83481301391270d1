//! [`ManagerId`]: the resource managers of PostgreSQL 15, by the numbers that records carry
//! (`access/rmgrlist.h`).

use std::fmt;

/// A resource manager: what kind of thing a record changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ManagerId(pub u8);

impl ManagerId {
    /// The log itself, and plain images.
    pub const XLOG: ManagerId = ManagerId(0);
    /// Commit, abort, prepare.
    pub const TRANSACTION: ManagerId = ManagerId(1);
    /// Creation and truncation of relation files.
    pub const STORAGE: ManagerId = ManagerId(2);
    /// Creation and removal of databases.
    pub const DATABASE: ManagerId = ManagerId(4);
    /// Heap, second part: prune, vacuum, visible, freeze, multi-insert, lock updated.
    pub const HEAP2: ManagerId = ManagerId(9);
    /// Heap: insert, delete, update, lock, confirm, inplace.
    pub const HEAP: ManagerId = ManagerId(10);
    /// B-tree indexes.
    pub const BTREE: ManagerId = ManagerId(11);
    /// Hash indexes.
    pub const HASH: ManagerId = ManagerId(12);
    /// Inverted indexes.
    pub const GIN: ManagerId = ManagerId(13);
    /// Generalized search trees.
    pub const GIST: ManagerId = ManagerId(14);
    /// Sequences.
    pub const SEQUENCE: ManagerId = ManagerId(15);
    /// Space-partitioned trees.
    pub const SPGIST: ManagerId = ManagerId(16);
    /// Block range indexes.
    pub const BRIN: ManagerId = ManagerId(17);
    /// Pieces of pages, of extensions.
    pub const GENERIC: ManagerId = ManagerId(20);

    const NAMES: [&'static str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];

    /// Its name, as `pg_waldump` has it; none for those of extensions.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        ManagerId::NAMES.get(usize::from(self.0)).copied()
    }
}

/// The name, or `custom` and the number.
impl fmt::Display for ManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "custom{:03}", self.0),
        }
    }
}
