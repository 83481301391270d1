//! [`Hints`]: the layer files that a read is likely to visit, asked for before it comes to them.

use pagestrata_layers::{
    Key, Lsn, ScratchArena,
    layer_file::{LeafHint, ReadKind, ReadSpace},
};

use super::{FileLayer, MapVersion};

/// So many files are asked for: most pages are a few deltas above an image.
const HINTED_MAX: usize = 3;

/// The leaves that were asked for, and of which read.
pub(super) struct Hints<'a>([Option<(&'a FileLayer, LeafHint, Lsn)>; HINTED_MAX]);

impl<'a> Hints<'a> {
    /// Asks for the leaves of the files that a read visits, unless it may not wait: to find them touches memory.
    #[inline]
    pub(super) fn of_leaves(
        map: &'a MapVersion,
        key: Key,
        lsn: Lsn,
        arena: &ScratchArena,
    ) -> Hints<'a> {
        let (mut hints, mut upper) = ([None; HINTED_MAX], lsn);
        if let ReadKind::NoWait(_) = arena.kind() {
            return Hints(hints);
        }
        for hint in &mut hints {
            let Some(hit) = map.coverage.search(key, upper).filter(|hit| !hit.shared) else {
                break;
            };
            let file = &**map.files.get(hit.layer);
            *hint = file.hint_leaf(key, upper).map(|leaf| (file, leaf, upper));
            if !hit.floor.is_valid() {
                break;
            }
            upper = hit.floor.previous();
        }
        Hints(hints)
    }

    /// Asks for the versions that the leaves lead to.
    #[inline]
    pub(super) fn ask_for_parts(&self, key: Key) {
        for (file, leaf, upper) in self.0.iter().flatten() {
            file.hint_part(*leaf, key, *upper);
        }
    }
}
