//! A manifest that the crate itself writes, over faults, restarts and power losses, and then reads.

use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use pagestrata::testing::{Decision, FailedSync, Fault, SimulatedStorage};
use pagestrata_layers::{
    Error,
    manifest::{
        Manifest,
        edit::{Edit, State},
    },
    storage::Storage,
};

use crate::{
    edits::{Choice, STORE, fold, name_one_twice},
    open::{DIR, append_one_more, in_dir, manifest_name, open},
};

const OPS_MAX: usize = 40;
const GENERATIONS_MAX: usize = 6;
const SECTOR: usize = 512;

#[derive(Debug, Arbitrary)]
pub struct History {
    ops: Vec<Op>,
}

#[derive(Debug, Arbitrary)]
enum Op {
    Append(Vec<Choice>),
    /// Many edits, so that the manifest is rewritten because of its length.
    AppendMany(u8),
    /// A storage call will fail.
    Fail {
        call: u8,
        for_good: bool,
        late: bool,
        drops: bool,
    },
    Restart,
    Crash {
        kept: Vec<u8>,
    },
}

#[derive(Debug, Arbitrary)]
pub enum Damage {
    Flip {
        file: u8,
        at: u16,
        bit: u8,
    },
    Zero {
        file: u8,
        at: u16,
        len: u16,
    },
    /// Sectors, or a whole file, are as they were at an earlier time.
    Old {
        file: u8,
        sector: u8,
        generation: u8,
    },
    OldFile {
        file: u8,
        generation: u8,
    },
    Cut {
        file: u8,
        len: u16,
    },
    Grow {
        file: u8,
        bytes: Vec<u8>,
    },
    Swap {
        a: u8,
        b: u8,
    },
    Remove {
        file: u8,
    },
    Copy {
        file: u8,
        number: u8,
    },
}

type Files = std::collections::BTreeMap<PathBuf, Vec<u8>>;

pub struct Written {
    storage: SimulatedStorage,
    manifest: Manifest,
    /// Content of each CURRENT that was written, with the state that it names.
    committed: Vec<(Vec<u8>, State)>,
    /// After a failed append: the states that a reopen may find.
    possible: Vec<State>,
    generations: Vec<Files>,
    /// Length of the first manifest when it was created.
    created_len: usize,
}

fn crash(storage: &SimulatedStorage, kept: &[u8]) -> SimulatedStorage {
    let mut kept = kept.iter();
    storage.crash(&mut |_: Decision<'_>, options: usize| {
        usize::from(kept.next().copied().unwrap_or(0)) % options
    })
}

impl History {
    pub fn write(&self) -> Written {
        let storage = SimulatedStorage::new();
        storage.create_dir(Path::new(DIR)).unwrap();
        storage.sync_dir(Path::new(".")).unwrap();
        let manifest = Manifest::create(storage.shared(), Path::new(DIR), STORE).unwrap();
        let created_len = storage.bytes(&in_dir(&manifest_name(1))).len();
        let (possible, generations) = (vec![State::default()], Vec::new());
        let committed = vec![(storage.bytes(&in_dir("CURRENT")), State::default())];
        let mut written =
            Written { storage, manifest, committed, possible, generations, created_len };
        for op in self.ops.iter().take(OPS_MAX) {
            written.take(op);
        }
        written.storage.set_fault(None);
        written
    }
}

impl Written {
    fn take(&mut self, op: &Op) {
        match op {
            Op::Append(choices) => {
                let (mut state, mut edits) = (self.manifest.state().clone(), Vec::new());
                for (at, choice) in choices.iter().enumerate() {
                    let edit = choice.edit(&state);
                    match fold(state.clone(), std::slice::from_ref(&edit)) {
                        Some(next) => (state, _) = (next, edits.push(edit)),
                        // If the last edit cannot follow, all of them are refused.
                        None if at + 1 == choices.len() => edits.push(edit),
                        None => {}
                    }
                }
                self.append(&edits);
            }
            Op::AppendMany(many) => {
                let many = usize::from(*many);
                let count = if many >= 250 { many << 8 } else { many };
                self.append(&vec![Edit::LogStart(7); count]);
            }
            Op::Fail { call, for_good, late, drops } => {
                let failed_sync =
                    if *drops { FailedSync::DropsDirty } else { FailedSync::KeepsDirty };
                let call = self.storage.calls() + u64::from(call % 16);
                let fault = Fault {
                    call,
                    for_good: *for_good,
                    late: *late,
                    failed_sync,
                    ..Fault::default()
                };
                self.storage.set_fault(Some(fault));
            }
            Op::Restart => self.reopen(self.storage.killed()),
            Op::Crash { kept } => self.reopen(crash(&self.storage, kept)),
        }
    }

    fn append(&mut self, edits: &[Edit]) {
        if self.generations.len() < GENERATIONS_MAX {
            self.generations.push(self.storage.files());
        }
        let before = self.manifest.state().clone();
        let after = fold(before.clone(), edits);
        let appended = self.manifest.append(edits);
        if let Err(Error::Corrupt(_)) = appended {
            assert!(after.is_none() || name_one_twice(edits), "{edits:?} can follow");
            assert_eq!(self.manifest.state(), &before);
            return;
        }
        let after = after.unwrap_or_else(|| panic!("{edits:?} cannot follow: {appended:?}"));
        match appended {
            Ok(()) => {
                assert_eq!(self.manifest.state(), &after);
                self.possible = vec![after.clone()];
            }
            Err(error) => {
                assert!(matches!(error, Error::Io { .. }), "{error}");
                assert_eq!(self.manifest.state(), &before);
                self.possible.push(after.clone());
            }
        }
        let current = self.storage.bytes(&in_dir("CURRENT"));
        if self.committed.iter().all(|(known, _)| *known != current) {
            self.committed.push((current, after));
        }
    }

    fn said(&self, current: &[u8]) -> Option<&State> {
        self.committed.iter().find(|(known, _)| known == current).map(|(_, state)| state)
    }

    fn reopen(&mut self, storage: SimulatedStorage) {
        storage.set_fault(None);
        let (manifest, _) = open(&storage).unwrap().expect("it was created");
        let state = manifest.state();
        assert!(self.possible.contains(state), "{state:?}, not one of {:?}", self.possible);
        assert_eq!(Some(state), self.said(&storage.bytes(&in_dir("CURRENT"))));
        self.possible = vec![state.clone()];
        (self.storage, self.manifest) = (storage, manifest);
    }

    /// Reads it unchanged, or after a power loss.
    pub fn check_sound(mut self, kept: Option<Vec<u8>>) {
        let storage =
            kept.map_or_else(|| self.storage.killed(), |kept| crash(&self.storage, &kept));
        self.reopen(storage);
        append_one_more(&self.storage, self.manifest, false);
    }

    pub fn check_damaged(self, damage: &[Damage]) {
        let sound = self.storage.files();
        let mut files = sound.clone();
        for damage in damage {
            let _ = self.damage(&mut files, damage);
        }
        let storage = SimulatedStorage::of_files(files.clone());
        storage.create_dir(Path::new(DIR)).unwrap();
        let current = files.get(&in_dir("CURRENT"));
        match open(&storage) {
            Ok(Some((manifest, _))) => {
                let said = self.said(current.expect("it was read"));
                assert_eq!(Some(manifest.state()), said, "not what CURRENT has committed");
                append_one_more(&storage, manifest, false);
            }
            Ok(None) => {
                assert!(current.is_none());
                for (path, bytes) in files {
                    let name = path.file_name().unwrap().to_string_lossy();
                    let is_first = name == manifest_name(1) && bytes.len() <= self.created_len;
                    assert!(is_first || !name.starts_with("MANIFEST-"), "{name} is there");
                }
            }
            Err(_) => assert!(files != sound, "nothing is damaged"),
        }
    }

    fn damage(&self, files: &mut Files, damage: &Damage) -> Option<()> {
        let name = |files: &Files, file: u8| {
            files.keys().nth(usize::from(file) % files.len().max(1)).cloned()
        };
        let old = |generation: u8, path: &Path| {
            let generation = usize::from(generation) % self.generations.len().max(1);
            self.generations.get(generation)?.get(path)
        };
        match damage {
            Damage::Flip { file, at, bit } => {
                let bytes = files.get_mut(&name(files, *file)?)?;
                let at = usize::from(*at) % bytes.len().max(1);
                *bytes.get_mut(at)? ^= 1 << (bit % 8);
            }
            Damage::Zero { file, at, len } => {
                let bytes = files.get_mut(&name(files, *file)?)?;
                let at = usize::from(*at) % bytes.len().max(1);
                let end = (at + usize::from(*len)).min(bytes.len());
                bytes[at..end].fill(0);
            }
            Damage::Old { file, sector, generation } => {
                let path = name(files, *file)?;
                let (old, bytes) = (old(*generation, &path)?, files.get_mut(&path)?);
                let from = SECTOR * usize::from(*sector);
                let end = (from + SECTOR).min(old.len()).min(bytes.len());
                bytes.get_mut(from..end)?.copy_from_slice(old.get(from..end)?);
            }
            Damage::OldFile { file, generation } => {
                let path = name(files, *file)?;
                *files.get_mut(&path)? = old(*generation, &path)?.clone();
            }
            Damage::Cut { file, len } => {
                let bytes = files.get_mut(&name(files, *file)?)?;
                bytes.truncate(usize::from(*len) % (bytes.len() + 1));
            }
            Damage::Grow { file, bytes } => {
                files.get_mut(&name(files, *file)?)?.extend_from_slice(bytes);
            }
            Damage::Swap { a, b } => {
                let (a, b) = (name(files, *a)?, name(files, *b)?);
                let (of_a, of_b) = (files[&a].clone(), files[&b].clone());
                files.extend([(a, of_b), (b, of_a)]);
            }
            Damage::Remove { file } => {
                files.remove(&name(files, *file)?);
            }
            Damage::Copy { file, number } => {
                let bytes = files[&name(files, *file)?].clone();
                files.insert(in_dir(&manifest_name(1 + u64::from(*number) % 8)), bytes);
            }
        }
        Some(())
    }
}
