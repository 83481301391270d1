//! The newest version of a key as the writer of an open layer sees it: what is not committed yet
//! included.
//!
//! Appends whose index entries are not made yet ([`OpenLayer::put`] defers a few) are looked for in
//! the list of what is pending; everything else is in the index. Only the writer may look beyond
//! the committed Lsn: it alone changes what lies there.

use super::{
    OpenLayer,
    index::{Head, NewestVersion, ValueRef},
    open_layer::PendingKind,
};
use crate::{Key, Kind, Lsn};

/// What an open layer says about the newest version of a key, see [`OpenLayer::newest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewestInLayer {
    /// The layer has this version, and nothing was dropped after it.
    Version {
        /// Its Lsn.
        lsn: Lsn,
        /// Image or delta.
        kind: Kind,
    },
    /// The layer has no version of the key that was not dropped, and older layers must not be
    /// asked.
    Dropped,
    /// The layer says nothing about the key: an older layer may.
    Older,
}

impl OpenLayer {
    /// Returns the newest version of `key` in this layer, committed or not. Changes and copies
    /// nothing.
    #[must_use]
    pub fn newest(&self, key: Key) -> NewestInLayer {
        let (nodes, index) = (&*self.layer.nodes, &self.layer.index);
        let Some(id) = index.object_id(nodes, key.object) else { return NewestInLayer::Older };
        let object = nodes.node(id);
        let deferred =
            self.pending[self.indexed..].iter().rev().find_map(|pending| match pending.what {
                PendingKind::Version(_, packed)
                    if pending.object == id && pending.block == key.block =>
                {
                    Some((pending.lsn, ValueRef::unpack(packed).kind))
                }
                PendingKind::Version(..) | PendingKind::Tombstone => None,
            });
        let indexed = || {
            let head = index.head(nodes, object, key.block)?;
            match head.newest(Lsn::MAX) {
                NewestVersion::None => None,
                NewestVersion::Here(lsn, packed) => Some((lsn, ValueRef::unpack(packed).kind)),
                NewestVersion::Older => {
                    let entry = Head::older(head)?.entries(nodes).last()?;
                    Some((entry.lsn(), entry.value().kind))
                }
            }
        };
        let dropped = object.dropped_at(nodes, key.block, Lsn::MAX);
        match deferred.or_else(indexed) {
            Some((lsn, kind)) if dropped.is_none_or(|dropped| lsn >= dropped) => {
                NewestInLayer::Version { lsn, kind }
            }
            _ if dropped.is_some() => NewestInLayer::Dropped,
            _ => NewestInLayer::Older,
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{ChunkPool, Value};

    fn layer() -> OpenLayer {
        OpenLayer::new(Lsn(1), &Arc::new(ChunkPool::new(0)))
    }

    /// What the newest version of each key is, from a list of all appends: shares nothing with the
    /// layer's index.
    #[derive(Default)]
    struct AppendList(Vec<(Lsn, ListedAppend)>);

    #[derive(Clone, Copy)]
    enum ListedAppend {
        Put(Key, Kind),
        Drop { object: u128, first_block: u32 },
    }

    impl AppendList {
        fn newest(&self, key: Key) -> NewestInLayer {
            for &(lsn, appended) in self.0.iter().rev() {
                match appended {
                    ListedAppend::Put(of, kind) if of == key => {
                        return NewestInLayer::Version { lsn, kind };
                    }
                    ListedAppend::Drop { object, first_block }
                        if object == key.object && first_block <= key.block =>
                    {
                        return NewestInLayer::Dropped;
                    }
                    ListedAppend::Put(..) | ListedAppend::Drop { .. } => {}
                }
            }
            NewestInLayer::Older
        }
    }

    #[test]
    fn the_writer_sees_what_it_has_put_and_what_it_took_back_is_gone() {
        let mut layer = layer();
        let key = Key::new(1, 2);
        assert_eq!(layer.newest(key), NewestInLayer::Older);
        layer.put(key, Lsn(2), Value::Image(b"a")).unwrap();
        let image = NewestInLayer::Version { lsn: Lsn(2), kind: Kind::Image };
        assert_eq!(layer.newest(key), image);
        layer.commit(Lsn(2)).unwrap();
        layer.drop_blocks(1, 0, Lsn(3)).unwrap();
        assert_eq!(layer.newest(key), NewestInLayer::Dropped);
        let delta = Value::Delta { bytes: b"b", will_init: true };
        layer.put(key, Lsn(3), delta).unwrap();
        let kind = Kind::Delta { will_init: true };
        assert_eq!(layer.newest(key), NewestInLayer::Version { lsn: Lsn(3), kind });
        layer.abort();
        assert_eq!(layer.newest(key), image);
        assert_eq!(layer.newest(Key::new(1, 3)), NewestInLayer::Older);
    }

    #[test]
    fn it_agrees_with_a_list_of_all_appends() {
        let mut random = fastrand::Rng::with_seed(11);
        for round in 0..200 {
            let mut layer = layer();
            let (mut listed, mut committed) = (AppendList::default(), 0);
            let mut lsn = Lsn(1);
            for _ in 0..120 {
                lsn = Lsn(lsn.0 + random.u64(0..2));
                let key = Key::new(random.u128(1..3), random.u32(0..4));
                match random.u32(0..12) {
                    0 => {
                        if layer.drop_blocks(key.object, key.block, lsn).is_ok() {
                            let drop =
                                ListedAppend::Drop { object: key.object, first_block: key.block };
                            listed.0.push((lsn, drop));
                        }
                    }
                    1 => {
                        layer.commit(lsn).unwrap();
                        committed = listed.0.len();
                        lsn = lsn.next();
                    }
                    2 => {
                        layer.abort();
                        listed.0.truncate(committed);
                        lsn = layer.last_lsn().next();
                    }
                    n => {
                        let value = match n % 3 {
                            0 => Value::Image(b"image"),
                            of => Value::Delta { bytes: b"delta", will_init: of == 1 },
                        };
                        if layer.put(key, lsn, value).is_ok() {
                            listed.0.push((lsn, ListedAppend::Put(key, value.kind())));
                        }
                    }
                }
                for (object, block) in (0..3).flat_map(|object| (0..4).map(move |n| (object, n))) {
                    let key = Key::new(object, block);
                    assert_eq!(layer.newest(key), listed.newest(key), "round {round}, {key}");
                }
            }
        }
    }
}
