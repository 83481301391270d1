//! Page versions against lists of them: images byte by byte, deltas by their keys and Lsns.

use std::collections::{BTreeMap, BTreeSet};

use pagestrata_layers::{Key, Lsn, Value};
use pagestrata_postgres::{Error, Fork, PageVersions};
use sha2::{Digest, Sha256};

use crate::captures;

/// 16 hex digits of a page's hash, its checksum left out, and its Lsn.
pub(crate) fn raw16(page: &[u8]) -> String {
    let mut page = page.to_vec();
    page[8..10].fill(0);
    format!("{:.16x}", Sha256::digest(&page))
}

/// A list's `V` lines: `V end spc db rel fork blk raw16 pd_lsn`.
fn listed(lines: impl Iterator<Item = String>) -> BTreeMap<(Lsn, Key), String> {
    let parse = |line: String| {
        let words: Vec<&str> = line.split(' ').collect();
        let ["V", lsn, tablespace, database, relation, fork, block, hash, _] = words[..] else {
            return None;
        };
        let rel = captures::rel_of([tablespace, database, relation, fork]);
        Some(((lsn.parse().unwrap(), rel.key(block.parse().unwrap())), hash.to_owned()))
    };
    lines.filter_map(parse).collect()
}

#[test]
fn versions_are_those_of_a_checked_redo() {
    for capture in captures::all() {
        let Some(lines) = capture.lines(".versions.txt.zst") else { continue };
        let list = listed(lines);
        let (mut versions, mut reader) = (PageVersions::new(), capture.reader());
        let (mut images, mut good, mut deltas, mut implied) = (0, 0, 0, 0);
        let mut seen = BTreeSet::new();
        while let Some(record) = reader.next_record().unwrap() {
            let mut put = |key: Key, value: Value<'_>| {
                assert!(
                    seen.insert((record.end(), key)),
                    "two versions of {key} at {}",
                    record.end()
                );
                match value {
                    Value::Image(page) => {
                        images += 1;
                        let same = list.get(&(record.end(), key)) == Some(&raw16(page));
                        // Free space maps are left out of the list.
                        good += usize::from(same || key.object as u8 == Fork::Fsm as u8);
                    }
                    Value::Delta { bytes, .. } => {
                        assert_eq!(bytes, record.raw());
                        deltas += 1;
                    }
                }
                Ok::<_, Error>(())
            };
            versions.versions(&record, &mut put).unwrap();
            let count = |_: Key, _: Value<'_>| {
                implied += 1;
                Ok::<_, Error>(())
            };
            versions.implied(&record, count).unwrap();
            versions.implied(&record, &mut put).unwrap();
        }
        println!(
            "{}: {good} of {images} images are as listed, {deltas} deltas ({implied} of them of \
             maps that no reference names)",
            capture.name
        );
        assert_eq!(good, images);
        let unexplained = list.keys().filter(|version| !seen.contains(version)).count();
        println!("{}: {} versions listed, {unexplained} not put", capture.name, list.len());
        assert_eq!(unexplained, 0);
        let is_map = |key: &Key| key.object as u8 == Fork::Fsm as u8;
        let unlisted =
            seen.iter().filter(|(lsn, key)| !is_map(key) && !list.contains_key(&(*lsn, *key)));
        // The sample's list has only images.
        assert_eq!(unlisted.count(), if capture.name == "sample" { deltas } else { 0 });
    }
}
