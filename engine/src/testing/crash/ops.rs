//! [`Op`]: operations on a store, and the values that they put. A value depends only on where it is
//! put, so equal work makes equal images.

use std::sync::Arc;

use super::oracle::DROP_LSN_UNIT;
use crate::{
    Durability, Key, Kind, Lsn, Value,
    testing::{Fault, Stored},
};

/// An operation on a store. The number is that of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A small commit that is waited for.
    PutWait(usize),
    /// A small commit that is not waited for.
    Put(usize),
    /// A commit of several keys that is waited for.
    Many(usize),
    /// A commit of this length that is not waited for; a segment cannot hold two of 2600.
    Long(usize, usize),
    /// A commit of several log records, together longer than a segment; waited for.
    Parts(usize),
    /// The first timeline commits until the log is full, because the other's lease keeps it from
    /// being freed. Then the lease is dropped, and one more commit succeeds.
    FillLog(usize, usize),
    Roll(usize),
    Flush(usize),
    Compact(usize),
    /// Blocks are dropped and one is put again; waited for.
    Drop(usize),
    Import(usize),
    Create(usize),
    /// The store is closed and opened.
    Close,
    /// The process is killed and the store opened, with another durability.
    Kill(Durability),
    /// Power is lost: 0 keeps nothing unsynced, 1 everything, other numbers a random part.
    PowerOff(u64),
    /// From here on a call fails.
    Fault(Fault),
    /// The disk has this many bytes left.
    Full(u64),
    /// The disk has room again, and no fault is armed.
    Mend,
    /// As [`Op::Kill`], but the first open meets a fault, and the second one none.
    KillAndFault(Fault),
}

fn value(n: usize, key: Key, lsn: Lsn, (incarnation, len): (u64, usize)) -> Stored {
    let place = (key.object as u64) << 32 | u64::from(key.block);
    let seed = lsn.0 << 24 ^ place << 4 ^ n as u64 ^ incarnation << 48;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    let kind = match lsn.0 % 4 {
        0 | 1 => Kind::Image,
        2 => Kind::Delta { will_init: true },
        _ => Kind::Delta { will_init: false },
    };
    Stored { kind, bytes: bytes.into() }
}

/// Returns the images of an import at an Lsn.
pub(super) fn imported(lsn: Lsn) -> Vec<(Key, Arc<[u8]>)> {
    (0..3).map(|n| (Key::new(3, n), [lsn.0 as u8 ^ n as u8; 40][..].into())).collect()
}

pub(super) fn as_value(stored: &Stored) -> Value<'_> {
    match stored.kind {
        Kind::Image => Value::Image(&stored.bytes),
        Kind::Delta { will_init } => Value::Delta { bytes: &stored.bytes, will_init },
    }
}

/// The values of a commit.
pub(super) struct Batch {
    pub(super) lsn: Lsn,
    pub(super) drop: bool,
    pub(super) puts: Vec<(Key, Lsn, Stored)>,
}

/// Position of a timeline's next commit.
pub(super) struct Next {
    pub(super) n: usize,
    pub(super) last: Lsn,
    pub(super) incarnation: u64,
}

impl Next {
    /// Makes a batch of `puts` values of about this length, two at each Lsn.
    pub(super) fn batch(&self, puts: u64, len: usize) -> Batch {
        let first = self.last.next();
        let put = |i: u64| {
            let lsn = Lsn(first.0 + i / 2);
            let key = Key::new(1 + u128::from(i % 2), ((lsn.0 + i) % (4 - 2 * (i % 2))) as u32);
            (key, lsn, value(self.n, key, lsn, (self.incarnation, len + i as usize * 7)))
        };
        let puts: Vec<_> = (0..puts).map(put).collect();
        Batch { lsn: puts.last().expect("at least one").1, drop: false, puts }
    }

    /// Makes a batch that drops blocks, and puts one of the same object.
    pub(super) fn drop_batch(&self) -> Batch {
        let lsn = Lsn((self.last.0 + 1).next_multiple_of(DROP_LSN_UNIT));
        let key = Key::new(1, 0);
        let stored = value(self.n, key, lsn, (self.incarnation, 30));
        Batch { lsn, drop: true, puts: vec![(key, lsn, stored)] }
    }
}
