//! [`Names`]: which names there are, which of them are durable, and the changes between.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use parking_lot::Mutex;

use super::{
    choices::{Choices, Decision, decide},
    content::Content,
};

/// A file, shared by its names and by those that have it open. Locked for a moment at a time, after
/// the storage's state.
pub(super) type Inode = Arc<Mutex<Content>>;
/// What has which name. A directory is before what is in it.
pub(super) type Image = BTreeMap<Arc<Path>, Node>;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Dir,
    File(Inode),
}

/// A change of a directory, atomic.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Link(Arc<Path>, Node),
    Unlink(Arc<Path>, Inode),
    /// From, to, what.
    Rename(Arc<Path>, Arc<Path>, Inode),
}

#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) live: Image,
    durable: Image,
    /// Since the last sync of their directory, oldest first.
    unsynced: Vec<Change>,
}

impl Change {
    /// The name that is there afterwards, or that is gone.
    fn path(&self) -> &Arc<Path> {
        match self {
            Change::Link(path, _) | Change::Unlink(path, _) | Change::Rename(_, path, _) => path,
        }
    }

    fn from(&self) -> Option<&Arc<Path>> {
        match self {
            Change::Rename(from, ..) => Some(from),
            Change::Link(..) | Change::Unlink(..) => None,
        }
    }

    fn inode(&self) -> Option<&Inode> {
        match self {
            Change::Link(_, Node::Dir) => None,
            Change::Link(_, Node::File(inode))
            | Change::Unlink(_, inode)
            | Change::Rename(_, _, inode) => Some(inode),
        }
    }

    /// Whether it is not without the earlier one: of the same name or file.
    fn needs(&self, earlier: &Change) -> bool {
        let has = |path: &Arc<Path>| earlier.path() == path || earlier.from() == Some(path);
        let same_file = |(first, second): (&Inode, &Inode)| Arc::ptr_eq(first, second);
        has(self.path())
            || self.from().is_some_and(has)
            || self.inode().zip(earlier.inode()).is_some_and(same_file)
    }

    fn apply(&self, image: &mut Image) {
        match self {
            Change::Link(path, node) => drop(image.insert(path.clone(), node.clone())),
            Change::Unlink(path, _) => drop(image.remove(path)),
            Change::Rename(from, to, inode) => {
                image.remove(from);
                image.insert(to.clone(), Node::File(inode.clone()));
            }
        }
    }

    fn with_copies(&self, copies: &mut Copies) -> Change {
        match self {
            Change::Link(path, node) => Change::Link(path.clone(), copies.of_node(node)),
            Change::Unlink(path, inode) => Change::Unlink(path.clone(), copies.of(inode)),
            Change::Rename(from, to, inode) => {
                Change::Rename(from.clone(), to.clone(), copies.of(inode))
            }
        }
    }
}

/// The copies of files, by where the files are.
#[derive(Default)]
struct Copies(BTreeMap<usize, Inode>);

impl Copies {
    fn of(&mut self, inode: &Inode) -> Inode {
        let copy = || Arc::new(Mutex::new(inode.lock().clone()));
        self.0.entry(Arc::as_ptr(inode).addr()).or_insert_with(copy).clone()
    }

    fn of_node(&mut self, node: &Node) -> Node {
        match node {
            Node::Dir => Node::Dir,
            Node::File(inode) => Node::File(self.of(inode)),
        }
    }

    fn of_image(&mut self, image: &Image) -> Image {
        image.iter().map(|(path, node)| (path.clone(), self.of_node(node))).collect()
    }
}

/// `/`, and where relative paths begin.
fn roots() -> Image {
    ["/", ""].map(|root| (Arc::from(Path::new(root)), Node::Dir)).into()
}

impl Names {
    pub(super) fn new() -> Names {
        Names { live: roots(), durable: roots(), unsynced: Vec::new() }
    }

    /// Names that are durable, all of them.
    pub(super) fn synced(image: Image) -> Names {
        Names { live: image.clone(), durable: image, unsynced: Vec::new() }
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        matches!(self.live.get(path), Some(Node::Dir))
    }

    pub(super) fn file(&self, path: &Path) -> Option<&Inode> {
        match self.live.get(path) {
            Some(Node::File(inode)) => Some(inode),
            Some(Node::Dir) | None => None,
        }
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    /// Adds a durable file, and directories for it.
    pub(super) fn set(&mut self, path: &Path, inode: &Inode) {
        for image in [&mut self.live, &mut self.durable] {
            for dir in
                path.ancestors().skip(1).filter(|dir| !image.contains_key(*dir)).collect::<Vec<_>>()
            {
                image.insert(dir.into(), Node::Dir);
            }
            image.insert(path.into(), Node::File(inode.clone()));
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            let is_here = change.path().parent() == Some(dir);
            if is_here {
                change.apply(durable);
            }
            !is_here
        });
    }

    /// The names that a crash leaves; the files are still those of this image.
    pub(super) fn crash(&self, choices: &mut impl Choices) -> Image {
        let mut image = self.durable.clone();
        let mut dropped: Vec<&Change> = Vec::new();
        for change in &self.unsynced {
            let path = change.path();
            // Where there is no directory, there is nothing to choose.
            let is_possible = path.ancestors().skip(1).all(|dir| image.contains_key(dir))
                && !dropped.iter().any(|earlier| change.needs(earlier));
            if is_possible && decide(choices, Decision::Name(path), 2) == 1 {
                change.apply(&mut image);
            } else {
                dropped.push(change);
            }
        }
        // Only a directory that has no durable name yet takes with it what is in it.
        if !dropped.iter().any(|change| matches!(change, Change::Link(_, Node::Dir))) {
            return image;
        }
        let mut reachable = Image::new();
        for (path, node) in image {
            if path.parent().is_none_or(|dir| reachable.contains_key(dir)) {
                reachable.insert(path, node);
            }
        }
        reachable
    }

    /// The same names, durable and not, with files of their own.
    pub(super) fn copy(&self) -> Names {
        let mut copies = Copies::default();
        Names {
            live: copies.of_image(&self.live),
            durable: copies.of_image(&self.durable),
            unsynced: self.unsynced.iter().map(|change| change.with_copies(&mut copies)).collect(),
        }
    }
}
