//! Sizes of relation forks, as block references and relation events make them, against those of a
//! redo that was checked with PostgreSQL's own recovery.

use std::collections::{BTreeMap, BTreeSet};

use pagestrata_layers::Lsn;
use pagestrata_postgres::{
    BaseBackup, Error, Fork, PageVersions, Record, RelFork, RelPage, RelationEvent, relation_events,
};

use crate::captures::{self, Capture};

/// A fork's size at an Lsn; none: gone.
type Change = (Lsn, RelFork, Option<u32>);

#[derive(Default)]
struct Sizes {
    blocks: BTreeMap<RelFork, u32>,
    changes: BTreeSet<Change>,
    /// Forks that were cut and are still there.
    cut: BTreeSet<RelFork>,
}

impl Sizes {
    fn set(&mut self, lsn: Lsn, rel: RelFork, blocks: Option<u32>) {
        let before = match blocks {
            Some(blocks) => self.blocks.insert(rel, blocks),
            None => self.blocks.remove(&rel),
        };
        // The free space map is not logged.
        if before != blocks && rel.fork != Fork::Fsm {
            self.changes.insert((lsn, rel, blocks));
        }
    }

    fn grow(&mut self, lsn: Lsn, page: RelPage) {
        let blocks = self.blocks.get(&page.rel).copied().unwrap_or_default().max(page.block + 1);
        self.set(lsn, page.rel, Some(blocks));
    }

    fn apply(&mut self, record: &Record<'_>, versions: &PageVersions) -> Result<(), Error> {
        let lsn = record.end();
        for block in record.blocks() {
            self.grow(lsn, RelPage { rel: block.rel, block: block.block });
        }
        versions.implied(record, |key, _| {
            self.grow(lsn, RelPage::from_key(key)?);
            Ok::<_, Error>(())
        })?;
        relation_events(record, |event| {
            match event {
                RelationEvent::Created { rel } => {
                    let blocks = self.blocks.get(&rel).copied().unwrap_or_default();
                    self.set(lsn, rel, Some(blocks));
                }
                RelationEvent::Truncated { rel, first_block } => {
                    if let Some(&blocks) = self.blocks.get(&rel) {
                        self.set(lsn, rel, Some(blocks.min(first_block)));
                        if first_block < blocks {
                            self.cut.insert(rel);
                        }
                    }
                }
                RelationEvent::Dropped { rel } => {
                    self.set(lsn, rel, None);
                    self.cut.remove(&rel);
                }
                RelationEvent::DatabaseCopied { .. } | RelationEvent::DatabaseDropped { .. } => {}
            }
            Ok(())
        })
    }
}

fn sizes(capture: &Capture) -> Sizes {
    let base = BaseBackup::open(captures::storage(), &capture.base()).unwrap();
    let mut sizes = Sizes { blocks: base.forks().collect(), ..Sizes::default() };
    let (mut reader, versions) = (capture.reader(), PageVersions::new());
    while let Some(record) = reader.next_record().unwrap() {
        sizes.apply(&record, &versions).unwrap();
    }
    sizes
}

/// The `N` lines: `N end spc db rel fork nblocks`, -1 gone.
fn wanted(lines: impl Iterator<Item = String>) -> BTreeSet<Change> {
    let parse = |line: String| {
        let words: Vec<&str> = line.split(' ').collect();
        let ["N", lsn, tablespace, database, relation, fork, blocks] = words[..] else {
            return None;
        };
        let rel = captures::rel_of([tablespace, database, relation, fork]);
        let change = (lsn.parse().unwrap(), rel, blocks.parse().ok());
        (rel.fork != Fork::Fsm).then_some(change)
    };
    lines.filter_map(parse).collect()
}

#[test]
fn sizes_change_as_in_a_checked_redo() {
    for capture in captures::all() {
        if capture.name == "sample" {
            continue;
        }
        let Some(lines) = capture.lines(".versions.txt.zst") else { continue };
        let (want, found) = (wanted(lines), sizes(capture).changes);
        let (missing, extra): (Vec<_>, Vec<_>) =
            (want.difference(&found).collect(), found.difference(&want).collect());
        println!("{}: {} of {} size changes", capture.name, want.len() - missing.len(), want.len());
        assert_eq!((missing, extra), (vec![], vec![]), "missing and extra in {}", capture.name);
    }
}

/// PostgreSQL's own files after its recovery have the sizes that the log gives them.
#[test]
fn the_samples_sizes_are_those_of_its_recovery() {
    let sample = captures::sample();
    let lsn = sample.env("B_shutdown_checkpoint").replace('/', "_");
    let mut want: BTreeMap<RelFork, u32> = BTreeMap::new();
    for line in sample.lines(&format!("@{lsn}.manifest.tsv.zst")).unwrap() {
        let mut words = line.split('\t').map(|word| word.parse::<u32>());
        let mut next = || words.next().unwrap().unwrap();
        let (tablespace, database, relation) = (next(), next(), next());
        let fork = Fork::from_number(next() as u8).unwrap();
        *want.entry(RelFork { tablespace, database, relation, fork }).or_default() = next() + 1;
    }
    let Sizes { blocks: mut found, cut, .. } = sizes(sample);
    found.retain(|rel, blocks| rel.fork != Fork::Fsm && *blocks > 0);
    let differences: Vec<_> = want
        .iter()
        .filter(|(rel, blocks)| found.get(rel) != Some(blocks))
        .map(|(rel, blocks)| (rel, Some(blocks), found.get(rel)))
        .chain(
            found
                .iter()
                .filter(|(rel, _)| !want.contains_key(rel))
                .map(|(rel, b)| (rel, None, Some(b))),
        )
        .collect();
    println!("sample: {} forks, {} with another size, cut: {cut:?}", want.len(), differences.len());
    assert_eq!(cut.len(), 3, "a vacuum cuts a relation, and another one with its visibility map");
    assert!(differences.is_empty(), "{differences:?}");
}

#[test]
fn the_sample_has_every_event() {
    let mut reader = captures::sample().reader();
    let mut seen = [0; 5];
    while let Some(record) = reader.next_record().unwrap() {
        relation_events(&record, |event| {
            seen[match event {
                RelationEvent::Created { .. } => 0,
                RelationEvent::Truncated { .. } => 1,
                RelationEvent::Dropped { .. } => 2,
                RelationEvent::DatabaseCopied { .. } => 3,
                RelationEvent::DatabaseDropped { .. } => 4,
            }] += 1;
            Ok::<_, Error>(())
        })
        .unwrap();
    }
    println!("sample: created, truncated, dropped, copied, databases dropped: {seen:?}");
    assert!(seen.iter().all(|count| *count > 0));
}
