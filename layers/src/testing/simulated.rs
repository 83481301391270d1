//! [`SimulatedStorage`]: the live image, what was set up to fail, and how its users look into it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    content::Content,
    fault::{Failing, Failure, Fault},
    names::{Inode, Names, Node},
};
use crate::{Error, Result, storage::SharedStorage};

mod calls;

/// Files in memory that know what is durable; the [module](super) says what a crash leaves of them.
/// A clone is the same storage.
///
/// The calls of all threads are one after the other.
#[derive(Clone, Debug)]
pub struct SimulatedStorage {
    pub(super) state: Arc<Mutex<State>>,
    /// Paths have to be below it, if there is one.
    anchor: Option<Arc<Path>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) names: Names,
    locks: BTreeSet<Arc<Path>>,
    calls: u64,
    fault: Option<Fault>,
    failing: Option<Failing>,
    /// By how many bytes files may grow, if that is limited.
    free_bytes: Option<u64>,
    trace: Option<Vec<Operation>>,
    hook: Option<Hook>,
}

/// What is done in front of a call.
struct Hook {
    operation: &'static str,
    run: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook").field("operation", &self.operation).finish_non_exhaustive()
    }
}

/// A call, as [`SimulatedStorage::trace`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number, as faults name it.
    pub call: u64,
    /// As errors name it.
    pub operation: &'static str,
    /// On what; of a rename, the old name.
    pub path: PathBuf,
    /// Of reads and writes, where; of a cut, the new length.
    pub offset: u64,
    /// Of reads and writes, how many bytes.
    pub len: u64,
}

impl State {
    pub(super) fn new(names: Names) -> State {
        State {
            names,
            locks: BTreeSet::new(),
            calls: 0,
            fault: None,
            failing: None,
            free_bytes: None,
            trace: None,
            hook: None,
        }
    }

    /// How many of `len` bytes fit at `offset` of a file; takes the room for them.
    fn take_room(&mut self, content: &Content, offset: usize, len: usize) -> usize {
        let Some(free) = self.free_bytes.as_mut().filter(|_| content.is_linked) else { return len };
        let growth = (offset + len).saturating_sub(content.len());
        let missing = growth.saturating_sub(usize::try_from(*free).unwrap_or(usize::MAX));
        let fitting = len.saturating_sub(missing);
        if fitting > 0 {
            *free -= (growth - missing) as u64;
        }
        fitting
    }

    fn give_room(&mut self, len: usize) {
        if let Some(free) = &mut self.free_bytes {
            *free += len as u64;
        }
    }

    /// A file has lost its name.
    fn unlinked(&mut self, inode: &Inode) {
        let mut content = inode.lock();
        content.is_linked = false;
        self.give_room(content.len());
    }
}

impl Default for SimulatedStorage {
    fn default() -> SimulatedStorage {
        SimulatedStorage::new()
    }
}

impl SimulatedStorage {
    /// Nothing but `/` and the directory in which relative paths begin (`.`).
    #[must_use]
    pub fn new() -> SimulatedStorage {
        SimulatedStorage::of_state(State::new(Names::new()))
    }

    pub(super) fn of_state(state: State) -> SimulatedStorage {
        SimulatedStorage { state: Arc::new(Mutex::new(state)), anchor: None }
    }

    /// A storage with these files, durable, and the directories that they are in.
    #[must_use]
    pub fn of_files(files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> SimulatedStorage {
        let storage = SimulatedStorage::new();
        for (path, bytes) in files {
            storage.set(&path, bytes);
        }
        storage
    }

    /// As a store takes it.
    #[must_use]
    pub fn shared(&self) -> SharedStorage {
        Arc::new(self.clone())
    }

    fn inode(&self, path: &Path) -> Inode {
        let state = self.state.lock();
        let inode = state.names.file(path);
        inode.unwrap_or_else(|| panic!("no file {}", path.display())).clone()
    }

    /// All files and their bytes.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for (path, node) in &self.state.lock().names.live {
            if let Node::File(inode) = node {
                files.insert(path.to_path_buf(), inode.lock().live().to_vec());
            }
        }
        files
    }

    /// The bytes of a file.
    ///
    /// # Panics
    /// When there is no such file; so do the methods that change one.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        self.inode(path).lock().live().to_vec()
    }

    /// Gives a file these bytes, durably; the file, its name and its directories are made if need
    /// be.
    pub fn set(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        if let Some(inode) = state.names.file(path) {
            return inode.lock().change(|live| *live = bytes);
        }
        let content = Content::synced(Arc::new(bytes)).linked();
        state.names.set(path, &Arc::new(Mutex::new(content)));
    }

    /// Changes the bytes of a file, as no storage does by itself; what they are then is durable.
    /// Mappings made before do not show it.
    pub fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        self.inode(path).lock().change(change);
    }

    /// Bit rot: flips a bit in what readers see and in what a crash may leave, which else stay as
    /// they are. Mappings made before do not show it.
    pub fn flip(&self, path: &Path, byte: u64, bit: u32) {
        self.inode(path).lock().flip(in_memory(byte), bit);
    }

    /// Of all names and bytes that readers see: equal images have the same one.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut all = Vec::new();
        for (path, node) in &self.state.lock().names.live {
            let path = path.as_os_str().as_encoded_bytes();
            all.extend_from_slice(&(path.len() as u64).to_le_bytes());
            all.extend_from_slice(path);
            match node {
                Node::Dir => all.push(0),
                Node::File(inode) => {
                    all.push(1);
                    all.extend_from_slice(&inode.lock().digest().to_le_bytes());
                }
            }
        }
        xxh3_128(&all)
    }

    /// How many calls there were of [`Storage`](crate::storage::Storage) and
    /// [`File`](crate::storage::File), failed ones too.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Makes calls fail from now on, by their number.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    /// Makes an operation fail from now on, by its path.
    pub fn set_failing(&self, failing: Option<Failing>) {
        self.state.lock().failing = failing;
    }

    /// By how many bytes files may grow from now on, all together, until the disk is full; `None`:
    /// by any. What is removed or cut off is given back. A write that does not fit fails with
    /// `ENOSPC` after the part of it that does.
    pub fn set_free_bytes(&self, free_bytes: Option<u64>) {
        self.state.lock().free_bytes = free_bytes;
    }

    /// Does something in front of the next call of this operation, named as errors name it, while
    /// others may call: what a thread finds done when it comes to the call.
    pub fn before_next(&self, operation: &'static str, run: impl FnOnce() + Send + 'static) {
        self.state.lock().hook = Some(Hook { operation, run: Box::new(run) });
    }

    /// Starts a list of all calls, or ends it.
    pub fn set_trace(&self, is_on: bool) {
        self.state.lock().trace = is_on.then(Vec::new);
    }

    /// The calls since the list was started.
    #[must_use]
    pub fn trace(&self) -> Vec<Operation> {
        self.state.lock().trace.clone().unwrap_or_default()
    }

    /// Does one call, or fails it. The work is told of the fault if it has to be done in part.
    fn call<T>(
        &self,
        operation: &'static str,
        path: &Path,
        (offset, len): (u64, usize),
        work: impl FnOnce(&mut State, Option<&Fault>) -> io::Result<T>,
    ) -> Result<T> {
        let mut state = self.state.lock();
        if let Some(hook) = state.hook.take_if(|hook| hook.operation == operation) {
            drop(state);
            (hook.run)();
            state = self.state.lock();
        }
        let call = state.calls;
        state.calls += 1;
        if let Some(trace) = &mut state.trace {
            let (path, len) = (path.to_owned(), len as u64);
            trace.push(Operation { call, operation, path, offset, len });
        }
        let failed = |error| Error::io(operation, path, error);
        if let Some(failing) = state.failing.filter(|failing| failing.is_of(operation, path)) {
            drop(state);
            assert!(!failing.panics, "planted");
            return Err(failed(Failure::EIO.error()));
        }
        if let Some(fault) = state.fault.filter(|fault| fault.is_of(call)) {
            if fault.late || operation == calls::SYNC {
                let _ = work(&mut state, Some(&fault));
            }
            return Err(failed(fault.failure.error()));
        }
        work(&mut state, None).map_err(failed)
    }
}

fn in_memory(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset in memory")
}
