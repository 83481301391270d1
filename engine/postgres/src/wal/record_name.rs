//! What a record is called, in the words of `pg_waldump`.

use crate::{manager::ManagerId, wal::record::Record};

/// A manager's operations by the upper four bits of a record's info; empty: there is none.
type Names = &'static [&'static str];

const XLOG: Names = &[
    "CHECKPOINT_SHUTDOWN",
    "CHECKPOINT_ONLINE",
    "NOOP",
    "NEXTOID",
    "SWITCH",
    "BACKUP_END",
    "PARAMETER_CHANGE",
    "RESTORE_POINT",
    "FPW_CHANGE",
    "END_OF_RECOVERY",
    "FPI_FOR_HINT",
    "FPI",
    "",
    "OVERWRITE_CONTRECORD",
];
const STORAGE: Names = &["", "CREATE", "TRUNCATE"];
const DATABASE: Names = &["CREATE_FILE_COPY", "CREATE_WAL_LOG", "DROP"];
const HEAP2: Names = &[
    "REWRITE",
    "PRUNE",
    "VACUUM",
    "FREEZE_PAGE",
    "VISIBLE",
    "MULTI_INSERT",
    "LOCK_UPDATED",
    "NEW_CID",
];
const HEAP: Names =
    &["INSERT", "DELETE", "UPDATE", "TRUNCATE", "HOT_UPDATE", "HEAP_CONFIRM", "LOCK", "INPLACE"];
const BTREE: Names = &[
    "INSERT_LEAF",
    "INSERT_UPPER",
    "INSERT_META",
    "SPLIT_L",
    "SPLIT_R",
    "INSERT_POST",
    "DEDUP",
    "DELETE",
    "UNLINK_PAGE",
    "UNLINK_PAGE_META",
    "NEWROOT",
    "MARK_PAGE_HALFDEAD",
    "VACUUM",
    "REUSE_PAGE",
    "META_CLEANUP",
];
const HASH: Names = &[
    "INIT_META_PAGE",
    "INIT_BITMAP_PAGE",
    "INSERT",
    "ADD_OVFL_PAGE",
    "SPLIT_ALLOCATE_PAGE",
    "SPLIT_PAGE",
    "SPLIT_COMPLETE",
    "MOVE_PAGE_CONTENTS",
    "SQUEEZE_PAGE",
    "DELETE",
    "SPLIT_CLEANUP",
    "UPDATE_META_PAGE",
    "VACUUM_ONE_PAGE",
];
const GIN: Names = &[
    "",
    "CREATE_PTREE",
    "INSERT",
    "SPLIT",
    "VACUUM_PAGE",
    "DELETE_PAGE",
    "UPDATE_META_PAGE",
    "INSERT_LISTPAGE",
    "DELETE_LISTPAGE",
    "VACUUM_DATA_LEAF_PAGE",
];
const GIST: Names =
    &["PAGE_UPDATE", "DELETE", "PAGE_REUSE", "PAGE_SPLIT", "", "", "PAGE_DELETE", "ASSIGN_LSN"];
const SEQUENCE: Names = &["LOG"];
const SPGIST: Names = &[
    "",
    "ADD_LEAF",
    "MOVE_LEAFS",
    "ADD_NODE",
    "SPLIT_TUPLE",
    "PICKSPLIT",
    "VACUUM_LEAF",
    "VACUUM_ROOT",
    "VACUUM_REDIRECT",
];
const BRIN: Names =
    &["CREATE_INDEX", "INSERT", "UPDATE", "SAMEPAGE_UPDATE", "REVMAP_EXTEND", "DESUMMARIZE"];

/// The bit of heap and BRIN operations that makes a fresh page.
const INIT_PAGE: u8 = 0x80;

/// `manager/OPERATION`; the operation is in hexadecimal where it has no name here.
#[must_use]
pub fn record_name(record: &Record<'_>) -> String {
    name(record.manager(), record.info() & 0xF0)
}

fn name(manager: ManagerId, info: u8) -> String {
    let (names, flag) = match manager.0 {
        0 => (XLOG, 0),
        2 => (STORAGE, 0),
        4 => (DATABASE, 0),
        9 => (HEAP2, INIT_PAGE),
        10 => (HEAP, INIT_PAGE),
        11 => (BTREE, 0),
        12 => (HASH, 0),
        13 => (GIN, 0),
        14 => (GIST, 0),
        15 => (SEQUENCE, 0),
        16 => (SPGIST, 0),
        17 => (BRIN, INIT_PAGE),
        20 => return manager.to_string(),
        _ => (&[][..], 0),
    };
    let operation = names.get(usize::from((info & !flag) >> 4)).filter(|name| !name.is_empty());
    match operation {
        Some(operation) if info & flag != 0 => format!("{manager}/{operation}+INIT"),
        Some(operation) => format!("{manager}/{operation}"),
        None => format!("{manager}/{info:#04X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_pg_waldump() {
        for (manager, info, expected) in [
            (10, 0x40, "Heap/HOT_UPDATE"),
            (10, 0x80, "Heap/INSERT+INIT"),
            (9, 0xD0, "Heap2/MULTI_INSERT+INIT"),
            (0, 0xB0, "XLOG/FPI"),
            (0, 0xC0, "XLOG/0xC0"),
            (11, 0xE0, "Btree/META_CLEANUP"),
            (20, 0, "Generic"),
            (1, 0x30, "Transaction/0x30"),
            (200, 0x10, "custom200/0x10"),
        ] {
            assert_eq!(name(ManagerId(manager), info), expected);
        }
    }
}
