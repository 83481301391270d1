//! The manifest: the durable log of layer edits, and so the truth about which layer files exist.
//!
//! Two files in the store's directory. `MANIFEST-<number>` is appended to; `CURRENT` is replaced as a whole (written
//! under another name, synced, renamed, directory synced) and says which manifest counts and up to which byte.
//! An edit is committed by the rename of `CURRENT`, not before. So:
//!
//! - bytes behind the committed length are an edit that never was: reported and cut off;
//! - anything wrong before it, a missing file, or a shorter one is corruption: an error with file and offset;
//! - after a failed append or sync nothing is known of the manifest's tail, so the next edit goes to a new manifest with
//!   the whole state, and what is not known is never built on.
//!
//! All numbers are little-endian.
//!
//! | `CURRENT` | bytes | |
//! |---|---|---|
//! | 0 | 8 | `PSCURRNT` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 16 | store id |
//! | 32 | 8 | number of the manifest |
//! | 40 | 8 | its committed length |
//! | 48 | 4 | checksum of its last record |
//! | 52 | 8 | zero |
//! | 60 | 4 | crc32c of bytes 0..60 |
//!
//! | `MANIFEST-<number>` | bytes | |
//! |---|---|---|
//! | 0 | 8 | `PSMANIFT` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 16 | store id |
//! | 32 | 8 | its number |
//! | 40 | 4 | zero |
//! | 44 | 4 | crc32c of bytes 0..44 |
//! | then records: 0 | 4 | length of the payload |
//! | 4 | 4 | crc32c of the previous checksum, the length and the payload |
//! | 8 | | payload: edits, see [`edit`] |

pub mod edit;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::{
    Error, Result,
    storage::{File, SharedStorage, Storage, read_file},
};
use edit::{Edit, State};

/// The name of the file that says which manifest counts.
pub const CURRENT_NAME: &str = "CURRENT";
const CURRENT_TEMPORARY_NAME: &str = "CURRENT.tmp";
const MANIFEST_PREFIX: &str = "MANIFEST-";
const VERSION: u32 = 1;
const CURRENT_MAGIC: &[u8; 8] = b"PSCURRNT";
const MANIFEST_MAGIC: &[u8; 8] = b"PSMANIFT";
const CURRENT_LEN: usize = 64;
const HEADER_LEN: usize = 48;
const RECORD_HEADER_LEN: usize = 8;
/// No manifest is longer: it is rewritten long before.
const MANIFEST_LEN_MAX: u64 = 4 << 30;
/// A manifest is rewritten when it is this many times as long as its state, but not below [`REWRITE_LEN_MIN`].
const REWRITE_FACTOR: u64 = 4;
const REWRITE_LEN_MIN: u64 = 1 << 20;

/// The open manifest: its state and the right to add edits.
#[derive(Debug)]
pub struct Manifest {
    storage: SharedStorage,
    dir: PathBuf,
    store: u128,
    /// Of the manifest that counts.
    number: u64,
    len: u64,
    chain: u32,
    /// The manifest that counts, unless the next edit has to start another one.
    file: Option<Box<dyn File>>,
    state: State,
}

/// What opening found beside the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ManifestReport {
    /// Length of the manifest, in bytes.
    pub len: u64,
    /// Number of records.
    pub records: u64,
    /// Length of an edit behind the committed length, in bytes: it was never acknowledged and is cut off.
    pub cut_bytes: u64,
}

/// What `CURRENT` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Current {
    store: u128,
    number: u64,
    len: u64,
    chain: u32,
}

impl Manifest {
    /// The manifest of a new store.
    ///
    /// # Errors
    /// [`Error::Io`]; the directory may then hold files that [`Manifest::open`] takes for no store.
    /// [`Error::OtherStore`] when there is a `CURRENT` already.
    pub fn create(storage: SharedStorage, dir: &Path, store: u128) -> Result<Manifest> {
        let mut manifest = Manifest {
            storage,
            dir: dir.to_owned(),
            store,
            number: 0,
            len: 0,
            chain: 0,
            file: None,
            state: State::default(),
        };
        manifest.check_replaced(&dir.join(CURRENT_NAME))?;
        // What an earlier creation left that never committed.
        let first = dir.join(manifest_name(1));
        if manifest.storage.exists(&first)? {
            manifest.storage.remove(&first)?;
        }
        manifest.append(&[])?;
        Ok(manifest)
    }

    /// Opens the manifest of a directory; `None`: there is no store in it.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedVersion`], [`Error::Io`]; nothing is changed.
    pub fn open(storage: SharedStorage, dir: &Path) -> Result<Option<(Manifest, ManifestReport)>> {
        let current_path = dir.join(CURRENT_NAME);
        if !storage.exists(&current_path)? {
            return match committed_manifest(&*storage, dir)? {
                Some(name) => {
                    let expected = format_args!("a file beside {name}");
                    Err(Error::corrupt(&current_path, 0, "CURRENT", expected, "nothing"))
                }
                None => Ok(None),
            };
        }
        // A process that ended between the rename of CURRENT and the sync of the directory left a truth that a power
        // failure could still take back; nothing is said of it before that is ruled out.
        storage.sync_dir(dir)?;
        let bytes = read_file(&*storage, &current_path, CURRENT_LEN as u64)?;
        let current = Current::decode(&bytes, &current_path)?;
        let path = dir.join(manifest_name(current.number));
        let bytes = read_file(&*storage, &path, MANIFEST_LEN_MAX).map_err(|error| {
            error.of_required("manifest", format_args!("the committed {} bytes", current.len))
        })?;
        let mut state = State::default();
        let records = replay(&bytes, &path, current, &mut state)?;
        let report = ManifestReport {
            len: current.len,
            records,
            cut_bytes: bytes.len() as u64 - current.len,
        };
        let Current { store, number, len, chain } = current;
        // The tail is not cut here, so that opening only reads: the next edit starts another manifest.
        let file = match report.cut_bytes {
            0 => Some(storage.open(&path)?),
            _ => None,
        };
        Ok(Some((
            Manifest { storage, dir: dir.to_owned(), store, number, len, chain, file, state },
            report,
        )))
    }

    /// The id of the store.
    #[must_use]
    pub fn store(&self) -> u128 {
        self.store
    }

    /// What the edits add up to.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Adds edits, all or none, durably.
    ///
    /// # Errors
    /// [`Error::Io`]: the edits are not in [`Manifest::state`], but whether a reopen would find
    /// them is not known until a later `append` succeeds. [`Error::Corrupt`] for edits that
    /// contradict the state. [`Error::Full`] when there is no higher number for another manifest.
    /// [`Error::OtherStore`] when the directory's `CURRENT` is not this store's; it is left as it
    /// is.
    pub fn append(&mut self, edits: &[Edit]) -> Result<()> {
        self.state.check(edits).map_err(|(expected, found)| {
            Error::corrupt(&self.path(), self.len, "layer edit", expected, found)
        })?;
        let wants_rewrite =
            self.len > REWRITE_LEN_MIN.max(REWRITE_FACTOR * self.state.encoded_len());
        match self.file.take() {
            Some(file) if !wants_rewrite => self.append_record(file, edits),
            _ => self.rewrite(edits),
        }
    }

    /// On an error the file stays taken, so the next edit is a rewrite.
    fn append_record(&mut self, mut file: Box<dyn File>, edits: &[Edit]) -> Result<()> {
        let (record, chain) = encode_record(self.chain, edits);
        file.append(&record)?;
        file.sync()?;
        let len = self.len + record.len() as u64;
        let current = Current { store: self.store, number: self.number, len, chain };
        self.write_current(current)?;
        self.commit(current)?;
        self.file = Some(file);
        self.state.apply(edits);
        Ok(())
    }

    fn rewrite(&mut self, edits: &[Edit]) -> Result<()> {
        let mut state = self.state.clone();
        state.apply(edits);
        let number = self.next_number()?;
        let path = self.dir.join(manifest_name(number));
        let mut bytes = encode_header(self.store, number);
        let (record, chain) =
            encode_record(crc32c::crc32c(&bytes[..HEADER_LEN - 4]), &state.to_edits());
        bytes.extend_from_slice(&record);
        let current = Current { store: self.store, number, len: bytes.len() as u64, chain };
        let written = self.write_manifest(&path, &bytes);
        let written = written.and_then(|file| self.write_current(current).map(|()| file));
        if written.is_err() {
            // Nothing names it, so tries that go on failing leave no more and more files. At best: a later rewrite removes it.
            let _ = self.storage.remove(&path);
        }
        let file = written?;
        self.commit(current)?;
        self.file = Some(file);
        self.state = state;
        self.remove_older(number);
        Ok(())
    }

    fn next_number(&self) -> Result<u64> {
        let mut number = self.number;
        loop {
            let full = Error::Full { what: "the manifest's number", max: u64::MAX };
            number = number.checked_add(1).ok_or(full)?;
            // CURRENT may name the manifest of a rewrite that failed in its commit: that number is not used again.
            if !self.storage.exists(&self.dir.join(manifest_name(number)))? {
                return Ok(number);
            }
        }
    }

    fn write_manifest(&self, path: &Path, bytes: &[u8]) -> Result<Box<dyn File>> {
        let mut file = self.storage.create(path)?;
        file.append(bytes)?;
        file.sync()?;
        // Its name before the name that leads to it: a crash may keep either change of the directory without the other.
        self.storage.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// Writes `current` aside and syncs it.
    fn write_current(&self, current: Current) -> Result<()> {
        let temporary = self.dir.join(CURRENT_TEMPORARY_NAME);
        if self.storage.exists(&temporary)? {
            self.storage.remove(&temporary)?;
        }
        let mut file = self.storage.create(&temporary)?;
        file.append(&current.encode())?;
        file.sync()
    }

    /// Makes the `current` that was written aside the truth: renamed, the directory synced.
    fn commit(&mut self, current: Current) -> Result<()> {
        let (temporary, path) =
            (self.dir.join(CURRENT_TEMPORARY_NAME), self.dir.join(CURRENT_NAME));
        self.check_replaced(&path)?;
        self.storage.rename(&temporary, &path)?;
        self.storage.sync_dir(&self.dir)?;
        (self.number, self.len, self.chain) = (current.number, current.len, current.chain);
        Ok(())
    }

    /// Checks that the `CURRENT` about to be replaced is this store's. A directory can be emptied,
    /// or moved, and be made another store's while this one is open.
    fn check_replaced(&self, path: &Path) -> Result<()> {
        let found = match self.storage.exists(path)? {
            true => {
                let bytes = read_file(&*self.storage, path, CURRENT_LEN as u64)?;
                Some(Current::decode(&bytes, path)?.store)
            }
            false => None,
        };
        // A new store has none, until its first edit.
        let expected = (self.number > 0).then_some(self.store);
        if found == expected {
            return Ok(());
        }
        Err(Error::OtherStore { path: path.to_owned(), expected: self.store, found })
    }

    /// Old manifests mean nothing any more; one that cannot be removed now is removed by a later rewrite.
    fn remove_older(&self, number: u64) {
        let Ok(names) = self.storage.list(&self.dir) else { return };
        for name in names.iter().filter(|name| manifest_number(name).is_some_and(|n| n < number)) {
            let _ = self.storage.remove(&self.dir.join(name));
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(manifest_name(self.number))
    }
}

/// A manifest that only a committed `CURRENT` can have led to. A creation that never committed leaves no more than the
/// first manifest with an empty state in it.
fn committed_manifest(storage: &dyn Storage, dir: &Path) -> Result<Option<String>> {
    let (record, _) = encode_record(0, &State::default().to_edits());
    let created_len = (HEADER_LEN + record.len()) as u64;
    for name in storage.list(dir)? {
        let Some(number) = manifest_number(&name) else { continue };
        if number > 1 || storage.open(&dir.join(&name))?.len()? > created_len {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn manifest_name(number: u64) -> String {
    format!("{MANIFEST_PREFIX}{number:08}")
}

/// The number of a manifest's name.
fn manifest_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(MANIFEST_PREFIX)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Current {
    fn encode(self) -> [u8; CURRENT_LEN] {
        let mut bytes = [0; CURRENT_LEN];
        bytes[..8].copy_from_slice(CURRENT_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.len.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.chain.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Current> {
        if bytes.len() != CURRENT_LEN {
            return Err(Error::corrupt(
                path,
                bytes.len() as u64,
                "length",
                CURRENT_LEN,
                bytes.len(),
            ));
        }
        check_head(bytes, CURRENT_MAGIC, path)?;
        check_crc(bytes, 60, path)?;
        Ok(Current {
            store: u128::from_le_bytes(array(bytes, 16)),
            number: u64::from_le_bytes(array(bytes, 32)),
            len: u64::from_le_bytes(array(bytes, 40)),
            chain: u32::from_le_bytes(array(bytes, 48)),
        })
    }
}

/// `N` bytes from `at` on; the caller has checked that they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes")
}

fn check_head(bytes: &[u8], magic: &[u8; 8], path: &Path) -> Result<()> {
    if &bytes[..8] != magic {
        let (expected, found) =
            (String::from_utf8_lossy(magic), String::from_utf8_lossy(&bytes[..8]));
        return Err(Error::corrupt(
            path,
            0,
            "magic",
            format_args!("{expected:?}"),
            format_args!("{found:?}"),
        ));
    }
    // Read before the checksum is known to be good: a newer format may have another checksum.
    let version = u32::from_le_bytes(array(bytes, 8));
    if version != VERSION {
        return Err(Error::UnsupportedVersion {
            path: path.to_owned(),
            expected: VERSION,
            found: version,
        });
    }
    Ok(())
}

fn check_crc(bytes: &[u8], at: usize, path: &Path) -> Result<()> {
    let (expected, found) = (u32::from_le_bytes(array(bytes, at)), crc32c::crc32c(&bytes[..at]));
    if expected == found {
        return Ok(());
    }
    Err(Error::corrupt(
        path,
        at as u64,
        "checksum",
        format_args!("{expected:08x}"),
        format_args!("{found:08x}"),
    ))
}

fn encode_header(store: u128, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes[..8].copy_from_slice(MANIFEST_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&store.to_le_bytes());
    bytes[32..40].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A record and its checksum, which the next one begins with.
fn encode_record(chain: u32, edits: &[Edit]) -> (Vec<u8>, u32) {
    let mut record = vec![0; RECORD_HEADER_LEN];
    edits.iter().for_each(|edit| edit.encode(&mut record));
    let len = u32::try_from(record.len() - RECORD_HEADER_LEN).expect("edits of less than 4 GiB");
    record[..4].copy_from_slice(&len.to_le_bytes());
    let crc = record_crc(chain, len, &record[RECORD_HEADER_LEN..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    (record, crc)
}

fn record_crc(chain: u32, len: u32, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&chain.to_le_bytes()), &len.to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

/// Replays all committed records into `state` and counts them.
fn replay(bytes: &[u8], path: &Path, current: Current, state: &mut State) -> Result<u64> {
    let found = bytes.len() as u64;
    let committed =
        usize::try_from(current.len).ok().filter(|&len| (HEADER_LEN..=bytes.len()).contains(&len));
    let Some(committed) = committed else {
        let expected = format_args!("at least the committed {} bytes", current.len);
        return Err(Error::corrupt(path, found, "manifest length", expected, found));
    };
    let bytes = &bytes[..committed];
    check_head(bytes, MANIFEST_MAGIC, path)?;
    check_crc(&bytes[..HEADER_LEN], HEADER_LEN - 4, path)?;
    let (store, number) =
        (u128::from_le_bytes(array(bytes, 16)), u64::from_le_bytes(array(bytes, 32)));
    if (store, number) != (current.store, current.number) {
        let expected = format_args!("store {:032X} number {}", current.store, current.number);
        return Err(Error::corrupt(
            path,
            16,
            "manifest",
            expected,
            format_args!("store {store:032X} number {number}"),
        ));
    }
    let mut chain = u32::from_le_bytes(array(bytes, HEADER_LEN - 4));
    let (mut at, mut records) = (HEADER_LEN, 0);
    while at < bytes.len() {
        let offset = at as u64;
        let rest = &bytes[at..];
        let len = (rest.len() >= RECORD_HEADER_LEN).then(|| u32::from_le_bytes(array(rest, 0)));
        let Some(payload) = len.and_then(|len| rest[RECORD_HEADER_LEN..].get(..len as usize))
        else {
            return Err(Error::corrupt(
                path,
                offset,
                "record length",
                format_args!("{} bytes or less", rest.len()),
                "more",
            ));
        };
        let expected = u32::from_le_bytes(array(rest, 4));
        chain = record_crc(chain, payload.len() as u32, payload);
        if chain != expected {
            let (expected, found) = (format_args!("{expected:08x}"), format_args!("{chain:08x}"));
            return Err(Error::corrupt(path, offset, "record checksum", expected, found));
        }
        let edits = Edit::decode_all(payload, current.store).map_err(|(expected, found)| {
            Error::corrupt(path, offset, "layer edit", expected, found)
        })?;
        let checked = state.check(&edits);
        checked.map_err(|(expected, found)| {
            Error::corrupt(path, offset, "layer edit", expected, found)
        })?;
        state.apply(&edits);
        at += RECORD_HEADER_LEN + payload.len();
        records += 1;
    }
    if chain != current.chain {
        let (expected, found) =
            (format_args!("{:08x}", current.chain), format_args!("{chain:08x}"));
        return Err(Error::corrupt(
            path,
            at as u64,
            "checksum of the last record",
            expected,
            found,
        ));
    }
    Ok(records)
}
