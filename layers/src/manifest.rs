//! The manifest: the durable log of layer edits, and so the truth about which layer files exist.
//!
//! Two files in the store's directory. `MANIFEST-<number>` is appended to; `CURRENT` is replaced as
//! a whole (written under another name, synced, renamed, directory synced) and says which manifest
//! counts and up to which byte. An edit is committed by the rename of `CURRENT`, not before. So:
//!
//! - bytes behind the committed length are an edit that never was: reported and cut off;
//! - anything wrong before it, a missing file, or a shorter one is corruption: an error with file
//!   and offset;
//! - two whole edits behind it are corruption too: CURRENT is older than the manifest, for a crash
//!   leaves one at the most;
//! - after a failed append or sync nothing is known of the manifest's tail, so the next edit goes
//!   to a new manifest with the whole state, and what is not known is never built on.
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
//! | 8 | | payload: edits, see [`edit`]; at most 64 MiB |
//!
//! A manifest is read in pieces: opening one takes memory for its longest record and its state,
//! whatever its length.

pub mod edit;
mod records;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::{
    Error, Result, reserve,
    storage::{File, SharedStorage, Storage, read_file},
};
use edit::{EDIT_LEN_MAX, Edit, State};
use records::Records;

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
/// What memory is for.
const RECORD: &str = "a record of the manifest";
/// The longest payload of a record, in bytes: as much as a reader takes into memory at once. A
/// state that is longer is rewritten as several records.
const RECORD_LEN_MAX: u32 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// A rewrite ends a record, and appends it, as soon as it is this long, in bytes.
const REWRITE_RECORD_LEN: usize = if cfg!(test) { 64 << 10 } else { 1 << 20 };
/// A manifest is rewritten when it is this many times as long as its state, but not below
/// [`REWRITE_LEN_MIN`].
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
    /// Length of an edit behind the committed length, in bytes: it was never acknowledged and is
    /// cut off.
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
        // A process that ended between the rename of CURRENT and the sync of the directory left a
        // truth that a power failure could still take back; nothing is said of it before that is
        // ruled out.
        storage.sync_dir(dir)?;
        let bytes = read_file(&*storage, &current_path, CURRENT_LEN as u64)?;
        let current = Current::decode(&bytes, &current_path)?;
        let path = dir.join(manifest_name(current.number));
        let file = storage.open(&path).map_err(|error| {
            error.of_required("manifest", format_args!("the committed {} bytes", current.len))
        })?;
        let found = file.len()?;
        let mut state = State::default();
        let records = replay(&*file, &path, current, found, &mut state)?;
        check_tail(&*file, &current_path, &path, current, found)?;
        let report = ManifestReport { len: current.len, records, cut_bytes: found - current.len };
        let Current { store, number, len, chain } = current;
        // The tail is not cut here, so that opening only reads: the next edit starts another
        // manifest.
        let file = Some(file).filter(|_| report.cut_bytes == 0);
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

    /// Adds edits, all or none, durably. None at all: makes sure that what failed before is not
    /// there.
    ///
    /// # Errors
    /// [`Error::Io`]: the edits are not in [`Manifest::state`], but whether a reopen would find
    /// them is not known until a later `append` succeeds. [`Error::Corrupt`] for edits that
    /// contradict the state. [`Error::OtherStore`] when the directory's `CURRENT` is not this
    /// store's; it is left as it is. [`Error::Full`] when there is no higher number for another
    /// manifest, or the edits are too long for one record; [`Error::OutOfMemory`]: nothing was
    /// written.
    pub fn append(&mut self, edits: &[Edit]) -> Result<()> {
        self.state.check(edits).map_err(|(expected, found)| {
            Error::corrupt(&self.path(), self.len, "layer edit", expected, found)
        })?;
        verify!(self.state.is_consistent(), "the state that the edits before have led to");
        if edits.is_empty() && self.file.is_some() {
            // Nothing failed before, so there is nothing to settle.
            return Ok(());
        }
        let wants_rewrite =
            self.len > REWRITE_LEN_MIN.max(REWRITE_FACTOR * self.state.encoded_len());
        if wants_rewrite || self.file.is_none() {
            self.file = None;
            return self.rewrite(edits);
        }
        let (record, chain) = encode_record(self.chain, edits)?;
        let file = self.file.take().expect("looked at before");
        self.append_record(file, &record, chain, edits)
    }

    /// On an error the file stays taken, so the next edit is a rewrite.
    fn append_record(
        &mut self,
        mut file: Box<dyn File>,
        record: &[u8],
        chain: u32,
        edits: &[Edit],
    ) -> Result<()> {
        verify!(
            file.len().map_or(true, |len| len == self.len),
            "an append starts where the last one ended"
        );
        file.append(record)?;
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
        let written = self.write_manifest(&path, number, &state);
        let written = written
            .and_then(|(file, current)| self.write_current(current).map(|()| (file, current)));
        if written.is_err() {
            // Nothing names it, so tries that go on failing leave no more and more files. At best:
            // a later rewrite removes it.
            let _ = self.storage.remove(&path);
        }
        let (file, current) = written?;
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
            // CURRENT may name the manifest of a rewrite that failed in its commit: that number is
            // not used again.
            if !self.storage.exists(&self.dir.join(manifest_name(number)))? {
                return Ok(number);
            }
        }
    }

    /// Writes a manifest that leads to `state`, a record at a time, and what CURRENT has to say of
    /// it.
    fn write_manifest(
        &self,
        path: &Path,
        number: u64,
        state: &State,
    ) -> Result<(Box<dyn File>, Current)> {
        assert!(number > self.number, "manifest {number} comes after {}", self.number);
        let mut file = self.storage.create(path)?;
        let (mut buffer, mut len) = (encode_header(self.store, number), 0);
        let mut chain = crc32c::crc32c(&buffer[..HEADER_LEN - 4]);
        let mut start = begin_record(&mut buffer)?;
        for edit in state.to_edits() {
            reserve(&mut buffer, EDIT_LEN_MAX, RECORD)?;
            edit.encode(&mut buffer);
            if buffer.len() - start >= REWRITE_RECORD_LEN {
                chain = end_record(chain, &mut buffer[start..]);
                file.append(&buffer)?;
                len += buffer.len() as u64;
                buffer.clear();
                start = begin_record(&mut buffer)?;
            }
        }
        chain = end_record(chain, &mut buffer[start..]);
        file.append(&buffer)?;
        len += buffer.len() as u64;
        file.sync()?;
        // Its name before the name that leads to it: a crash may keep either change of the
        // directory without the other.
        self.storage.sync_dir(&self.dir)?;
        Ok((file, Current { store: self.store, number, len, chain }))
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
        assert_eq!(current.store, self.store, "a manifest stays its store's");
        assert!(current.number >= self.number, "manifest {} comes after it", self.number);
        assert!(current.number > self.number || current.len > self.len, "a manifest only grows");
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

    /// Old manifests mean nothing any more; one that cannot be removed now is removed by a later
    /// rewrite.
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

/// A manifest that only a committed `CURRENT` can have led to. A creation that never committed
/// leaves no more than the first manifest with an empty state in it.
fn committed_manifest(storage: &dyn Storage, dir: &Path) -> Result<Option<String>> {
    let edits: Vec<_> = State::default().to_edits().collect();
    let (record, _) = encode_record(0, &edits)?;
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
fn encode_record(chain: u32, edits: &[Edit]) -> Result<(Vec<u8>, u32)> {
    let mut record = Vec::new();
    begin_record(&mut record)?;
    for edit in edits {
        reserve(&mut record, EDIT_LEN_MAX, RECORD)?;
        edit.encode(&mut record);
    }
    if record.len() - RECORD_HEADER_LEN > RECORD_LEN_MAX as usize {
        return Err(Error::Full {
            what: "an edit of the manifest, in bytes,",
            max: RECORD_LEN_MAX.into(),
        });
    }
    let chain = end_record(chain, &mut record);
    Ok((record, chain))
}

/// Begins a record behind what is in the buffer; returns where.
fn begin_record(buffer: &mut Vec<u8>) -> Result<usize> {
    let start = buffer.len();
    reserve(buffer, RECORD_HEADER_LEN, RECORD)?;
    buffer.extend_from_slice(&[0; RECORD_HEADER_LEN]);
    Ok(start)
}

/// Completes a record's header; its checksum.
fn end_record(chain: u32, record: &mut [u8]) -> u32 {
    assert!(record.len() >= RECORD_HEADER_LEN, "a record has a header");
    let len = (record.len() - RECORD_HEADER_LEN) as u32;
    record[..4].copy_from_slice(&len.to_le_bytes());
    let crc = record_crc(chain, len, &record[RECORD_HEADER_LEN..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn record_crc(chain: u32, len: u32, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&chain.to_le_bytes()), &len.to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

/// Replays all committed records into `state` and counts them. `found` is the file's length.
fn replay(
    file: &dyn File,
    path: &Path,
    current: Current,
    found: u64,
    state: &mut State,
) -> Result<u64> {
    if !(HEADER_LEN as u64..=found).contains(&current.len) {
        let expected = format_args!("at least the committed {} bytes", current.len);
        return Err(Error::corrupt(path, found, "manifest length", expected, found));
    }
    let mut bytes = [0; HEADER_LEN];
    file.read_at(0, &mut bytes)?;
    check_head(&bytes, MANIFEST_MAGIC, path)?;
    check_crc(&bytes, HEADER_LEN - 4, path)?;
    let (store, number) =
        (u128::from_le_bytes(array(&bytes, 16)), u64::from_le_bytes(array(&bytes, 32)));
    if (store, number) != (current.store, current.number) {
        let expected = format_args!("store {:032X} number {}", current.store, current.number);
        let found = format_args!("store {store:032X} number {number}");
        return Err(Error::corrupt(path, 16, "manifest", expected, found));
    }
    let mut chain = u32::from_le_bytes(array(&bytes, HEADER_LEN - 4));
    let mut reader = Records::new(file, HEADER_LEN as u64..current.len);
    let mut records = 0;
    while let Some(record) = reader.next(path)? {
        chain = record_crc(chain, record.payload.len() as u32, record.payload);
        if chain != record.crc {
            let (expected, found) =
                (format_args!("{:08x}", record.crc), format_args!("{chain:08x}"));
            return Err(Error::corrupt(path, record.offset, "record checksum", expected, found));
        }
        state.replay(record.payload, current.store).map_err(|(expected, found)| {
            Error::corrupt(path, record.offset, "layer edit", expected, found)
        })?;
        records += 1;
    }
    if chain != current.chain {
        let (expected, found) =
            (format_args!("{:08x}", current.chain), format_args!("{chain:08x}"));
        let what = "checksum of the last record";
        return Err(Error::corrupt(path, current.len, what, expected, found));
    }
    Ok(records)
}

/// Looks at what is behind the committed length. After an edit that failed the next one goes to
/// another manifest, so a crash leaves one edit at the most: a whole one with more behind it was
/// committed by a later CURRENT.
fn check_tail(
    file: &dyn File,
    current_path: &Path,
    path: &Path,
    current: Current,
    found: u64,
) -> Result<()> {
    let mut reader = Records::new(file, current.len..found);
    // Whatever cannot be read as a record is the rest of an edit that was being written.
    let record = match reader.next(path) {
        Ok(Some(record)) => record,
        Ok(None) | Err(Error::Corrupt(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let is_whole =
        record_crc(current.chain, record.payload.len() as u32, record.payload) == record.crc;
    let end = record.offset + (RECORD_HEADER_LEN + record.payload.len()) as u64;
    if !is_whole || end == found {
        return Ok(());
    }
    let expected = format_args!("a committed length of at least {end}, which a later edit proves");
    let found = format_args!("{}; CURRENT is older than {}", current.len, path.display());
    Err(Error::corrupt(current_path, 40, "committed length", expected, found))
}
