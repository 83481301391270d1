//! Oracles of a capture, read: what each page is at which Lsn, as somebody else found it.
//!
//! | text | says |
//! |---|---|
//! | `*.oracle.jsonl` | each record and block reference, with the sha256 of each image before it is stamped |
//! | `*.versions.txt` | pages after a redo that was checked: `V end_lsn spc db rel fork blk raw16 pd_lsn` |
//! | `*@X.manifest.tsv` | all pages as PostgreSQL itself recovered them at X |
//!
//! raw16 is the first 16 hexadecimal digits of the sha256 of a page whose bytes 8..9, the checksum,
//! are zero.

use pagestrata::{Key, Lsn};
use pagestrata_postgres::{Fork, RelFork};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// What is expected of a page at the end of a record that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// An image; with its old Lsn put back, it has this sha256.
    Image {
        /// Its sha256.
        sha256: String,
        /// Its Lsn before it was stamped.
        pd_lsn: Lsn,
    },
    /// A delta: the whole record.
    Delta {
        /// Whether it needs nothing older.
        will_init: bool,
        /// The record's length.
        length: usize,
        /// Where the record before it starts.
        prev: Lsn,
        /// The sha256 of the image that the record has for checking, if it has one.
        image_sha256: Option<String>,
    },
}

/// A block reference of a record.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The page.
    pub key: Key,
    /// The record's end.
    pub end: Lsn,
    /// What the page is then.
    pub expected: Expected,
}

/// A page by its hash.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// The page.
    pub key: Key,
    /// At which Lsn.
    pub lsn: Lsn,
    /// The start of its hash, in hexadecimal.
    pub raw16: String,
}

/// A fork's size.
#[derive(Clone, Debug)]
pub struct Sized {
    /// Which fork.
    pub rel: RelFork,
    /// At which Lsn.
    pub lsn: Lsn,
    /// How many blocks; none: it is gone.
    pub blocks: Option<u32>,
}

#[derive(Deserialize)]
struct RecordLine {
    end: String,
    prev: String,
    len: usize,
    #[serde(default, rename = "b")]
    blocks: Vec<BlockLine>,
}

#[derive(Deserialize)]
struct BlockLine {
    rel: [u32; 3],
    #[serde(rename = "f")]
    fork: u8,
    #[serde(rename = "blk")]
    block: u32,
    #[serde(rename = "fl")]
    flags: u8,
    #[serde(default)]
    apply: bool,
    sha: Option<String>,
    img_pd_lsn: Option<String>,
}

const WILL_INIT: u8 = 0x40;

fn wrong(what: &str, line: &str) -> Error {
    let line: String = line.chars().take(200).collect();
    Error::Capture { what: what.to_owned(), reason: format!("line not understood: {line}") }
}

fn key([tablespace, database, relation]: [u32; 3], fork: u8, block: u32) -> Option<Key> {
    let fork = Fork::from_number(fork)?;
    Some(RelFork { tablespace, database, relation, fork }.key(block))
}

/// Reads `*.oracle.jsonl`: the number of records, and their references.
///
/// # Errors
/// [`Error::Capture`] for a line of another form.
pub fn references(text: &str) -> Result<(u64, Vec<Reference>)> {
    let mut references = Vec::new();
    let mut records = 0;
    for line in text.lines() {
        let record: RecordLine =
            serde_json::from_str(line).map_err(|_| wrong("the oracle", line))?;
        records += 1;
        for block in &record.blocks {
            let reference = reference(&record, block);
            references.push(reference.ok_or_else(|| wrong("the oracle", line))?);
        }
    }
    Ok((records, references))
}

fn reference(record: &RecordLine, block: &BlockLine) -> Option<Reference> {
    let expected = if block.apply {
        let pd_lsn = block.img_pd_lsn.as_ref()?.parse().ok()?;
        Expected::Image { sha256: block.sha.clone()?, pd_lsn }
    } else {
        let will_init = block.flags & WILL_INIT != 0;
        let prev = record.prev.parse().ok()?;
        Expected::Delta { will_init, length: record.len, prev, image_sha256: block.sha.clone() }
    };
    let key = key(block.rel, block.fork, block.block)?;
    Some(Reference { key, end: record.end.parse().ok()?, expected })
}

/// Reads the `V` lines of `*.versions.txt`.
///
/// # Errors
/// [`Error::Capture`] for a line of another form.
pub fn versions(text: &str) -> Result<Vec<Hashed>> {
    let lines = text.lines().filter(|line| line.starts_with("V "));
    let hashed = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let ["V", lsn, place @ .., raw16, _] = &words[..] else { return None };
        Some(Hashed { key: place_key(place)?, lsn: lsn.parse().ok()?, raw16: (*raw16).to_owned() })
    };
    lines.map(|line| hashed(line).ok_or_else(|| wrong("the list of versions", line))).collect()
}

/// Reads the `N` lines of `*.versions.txt`: `N end_lsn spc db rel fork nblocks`, -1 for a fork that
/// is gone. The free space maps, which are not logged, are left out.
///
/// # Errors
/// [`Error::Capture`] for a line of another form.
pub fn sizes(text: &str) -> Result<Vec<Sized>> {
    let lines = text.lines().filter(|line| line.starts_with("N "));
    let sized = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let ["N", lsn, place @ .., blocks] = &words[..] else { return None };
        let key = place_key(&[place, &["0"]].concat())?;
        let rel = RelFork::from_object(key.object).ok()?;
        let blocks: i64 = blocks.parse().ok()?;
        Some(Sized { rel, lsn: lsn.parse().ok()?, blocks: u32::try_from(blocks).ok() })
    };
    let all: Result<Vec<Sized>> =
        lines.map(|line| sized(line).ok_or_else(|| wrong("the list of versions", line))).collect();
    Ok(all?.into_iter().filter(|sized| sized.rel.fork != Fork::Fsm).collect())
}

/// Reads a manifest; the free space maps, which are not logged, and forks without a block are left
/// out.
///
/// # Errors
/// [`Error::Capture`] for a line of another form.
pub fn manifest(text: &str, lsn: Lsn) -> Result<Vec<Hashed>> {
    let hashed = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        let raw16 = match words.len() {
            7 => words[6],
            9 => words[7],
            _ => return None,
        };
        Some(Hashed { key: place_key(&words[..5])?, lsn, raw16: raw16.to_owned() })
    };
    let mut pages = Vec::new();
    for line in text.lines().filter(|line| !line.contains("\tempty\t")) {
        let page = hashed(line).ok_or_else(|| wrong("the manifest", line))?;
        if page.key.object as u8 != Fork::Fsm as u8 {
            pages.push(page);
        }
    }
    Ok(pages)
}

/// How many blocks the forks of a manifest have, the free space maps left out; those that are empty
/// are listed in some manifests only, and left out here.
///
/// # Errors
/// As [`manifest`].
pub fn manifest_sizes(text: &str, lsn: Lsn) -> Result<Vec<Sized>> {
    let mut blocks = std::collections::BTreeMap::new();
    for Hashed { key, .. } in manifest(text, lsn)? {
        let size = blocks.entry(RelFork::from_object(key.object)?).or_insert(0);
        *size = key.block.saturating_add(1).max(*size);
    }
    Ok(blocks.into_iter().map(|(rel, blocks)| Sized { rel, lsn, blocks: Some(blocks) }).collect())
}

/// Tablespace, database, relation, fork and block, as numbers.
fn place_key(words: &[&str]) -> Option<Key> {
    let numbers: Vec<u32> = words.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let &[tablespace, database, relation, fork, block] = &numbers[..] else { return None };
    key([tablespace, database, relation], u8::try_from(fork).ok()?, block)
}

/// The start of a page's hash, its checksum left out.
#[must_use]
pub fn raw16(page: &[u8]) -> String {
    let mut hash = Sha256::new();
    let (before, behind) = page.split_at(page.len().min(8));
    hash.update(before);
    hash.update([0; 2]);
    hash.update(behind.get(2..).unwrap_or_default());
    let mut digits = format!("{:x}", hash.finalize());
    digits.truncate(16);
    digits
}
