//! [`Op`]: what is done with a store, and what is put by it. Values follow from where they are put,
//! so equal work makes equal images.

use std::sync::Arc;

use super::oracle::DROP_LSN_UNIT;
use crate::{
    Durability, Key, Kind, Lsn, Value,
    testing::{Fault, Stored},
};

/// Something that is done with a store. The number is that of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A small commit that is waited for.
    PutWait(usize),
    /// And one that is not.
    Put(usize),
    /// A commit of several keys, waited for.
    Many(usize),
    /// A commit of this length, not waited for; a segment has no room for two of 2600.
    Long(usize, usize),
    /// A commit that is several records of the log, longer than a segment together; waited for.
    Parts(usize),
    /// The first timeline commits until the log is full, which the other's lease keeps from being
    /// freed; then the lease is given back, and one more commit goes through.
    FillLog(usize, usize),
    Roll(usize),
    Flush(usize),
    Compact(usize),
    /// Blocks are dropped and one is put again; waited for.
    Drop(usize),
    Import(usize),
    Create(usize),
    /// Closed and opened.
    Close,
    /// Killed and opened, with another durability.
    Kill(Durability),
    /// The power fails: 0 nothing is kept, 1 everything, else by chance.
    PowerOff(u64),
    /// From here on a call fails.
    Fault(Fault),
    /// So many bytes are left on the disk.
    Full(u64),
    /// There is room again, and no fault.
    Mend,
    /// As [`Op::Kill`], and the opening meets a fault, then another one none.
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

/// What is imported at an Lsn.
pub(super) fn imported(lsn: Lsn) -> Vec<(Key, Arc<[u8]>)> {
    (0..3).map(|n| (Key::new(3, n), [lsn.0 as u8 ^ n as u8; 40][..].into())).collect()
}

pub(super) fn as_value(stored: &Stored) -> Value<'_> {
    match stored.kind {
        Kind::Image => Value::Image(&stored.bytes),
        Kind::Delta { will_init } => Value::Delta { bytes: &stored.bytes, will_init },
    }
}

/// What a commit puts.
pub(super) struct Batch {
    pub(super) lsn: Lsn,
    pub(super) drop: bool,
    pub(super) puts: Vec<(Key, Lsn, Stored)>,
}

/// Where the next commit of a timeline goes.
pub(super) struct Next {
    pub(super) n: usize,
    pub(super) last: Lsn,
    pub(super) incarnation: u64,
}

impl Next {
    /// So many values of about this length, two at each Lsn.
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

    /// Blocks are dropped, and one of the same object is put.
    pub(super) fn drop_batch(&self) -> Batch {
        let lsn = Lsn((self.last.0 + 1).next_multiple_of(DROP_LSN_UNIT));
        let key = Key::new(1, 0);
        let stored = value(self.n, key, lsn, (self.incarnation, 30));
        Batch { lsn, drop: true, puts: vec![(key, lsn, stored)] }
    }
}
