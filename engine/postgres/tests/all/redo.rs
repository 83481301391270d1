//! Redo of whole captures, page by page as the log goes, against PostgreSQL's own recovery: every
//! version of every page by its raw hash, every page and size at each Lsn that PostgreSQL recovered
//! to, and every image that a record has for checking.
//!
//! Pages are kept in a plain map here: nothing of the engine takes part.

use std::collections::{BTreeMap, HashMap};

use pagestrata_layers::{Key, Lsn};
use pagestrata_postgres::{
    BaseBackup, Error, Fork, PAGE_SIZE, Page, PageVersions, Record, RedoSettings, RelFork, RelPage,
    RelationEvent, mask_page, redo, relation_events,
};

use crate::{
    captures::{self, Capture},
    versions::raw16,
};

/// A cluster's pages, as far as records have been applied.
pub(crate) struct Cluster {
    pub(crate) settings: RedoSettings,
    pub(crate) pages: BTreeMap<Key, Box<Page>>,
    blocks: BTreeMap<RelFork, u32>,
    versions: PageVersions,
    redone: u64,
}

impl Cluster {
    pub(crate) fn of(capture: &Capture) -> Cluster {
        let base = BaseBackup::open(captures::storage(), &capture.base()).unwrap();
        let control = base.control();
        let settings = RedoSettings { logs_hints: control.data_checksums || control.wal_log_hints };
        let (mut pages, mut next) = (BTreeMap::new(), base.pages());
        while let Some((key, page)) = next.next_page().unwrap() {
            pages.insert(key, Box::new(page.try_into().unwrap()));
        }
        let blocks = base.forks().collect();
        Cluster { settings, pages, blocks, versions: PageVersions::new(), redone: 0 }
    }

    /// Applies a record; the pages that it changes.
    pub(crate) fn apply(&mut self, record: &Record<'_>) -> Vec<RelPage> {
        let mut changed: Vec<RelPage> = Vec::new();
        relation_events(record, |event| {
            self.event(event);
            Ok::<_, Error>(())
        })
        .unwrap();
        let mut put = |key| {
            let page = RelPage::from_key(key)?;
            if !changed.contains(&page) {
                changed.push(page);
            }
            Ok::<_, Error>(())
        };
        self.versions.versions(record, |key, _| put(key)).unwrap();
        self.versions.implied(record, |key, _| put(key)).unwrap();
        for of in &changed {
            let blocks = self.blocks.entry(of.rel).or_default();
            *blocks = (*blocks).max(of.block + 1);
            let page = self.pages.entry(of.key()).or_insert_with(|| Box::new([0; PAGE_SIZE]));
            redo(self.settings, record, *of, page).unwrap_or_else(|error| panic!("{error}"));
            self.redone += 1;
        }
        changed
    }

    fn cut(&mut self, rel: RelFork, first_block: u32) {
        let gone = rel.key(first_block)..=rel.key(u32::MAX);
        let gone: Vec<Key> = self.pages.range(gone).map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| drop(self.pages.remove(key)));
    }

    fn event(&mut self, event: RelationEvent) {
        match event {
            RelationEvent::Created { rel } => drop(self.blocks.entry(rel).or_default()),
            RelationEvent::Truncated { rel, first_block } => {
                if let Some(blocks) = self.blocks.get_mut(&rel) {
                    *blocks = first_block.min(*blocks);
                }
                self.cut(rel, first_block);
            }
            RelationEvent::Dropped { rel } => {
                self.blocks.remove(&rel);
                self.cut(rel, 0);
            }
            RelationEvent::DatabaseCopied {
                database,
                tablespace,
                source_database,
                source_tablespace,
            } => {
                let of_source = |rel: &RelFork| {
                    (rel.tablespace, rel.database) == (source_tablespace, source_database)
                };
                let copied = |rel: RelFork| RelFork { tablespace, database, ..rel };
                let blocks: Vec<_> = self.blocks.iter().filter(|(rel, _)| of_source(rel)).collect();
                let blocks: Vec<_> =
                    blocks.into_iter().map(|(rel, blocks)| (copied(*rel), *blocks)).collect();
                self.blocks.extend(blocks);
                let pages = self.pages.iter().filter_map(|(key, page)| {
                    let RelPage { rel, block } = RelPage::from_key(*key).unwrap();
                    of_source(&rel).then(|| (copied(rel).key(block), page.clone()))
                });
                let pages: Vec<_> = pages.collect();
                self.pages.extend(pages);
            }
            RelationEvent::DatabaseDropped { database, tablespace } => {
                let is_of = |rel: RelFork| (rel.tablespace, rel.database) == (tablespace, database);
                self.blocks.retain(|rel, _| !is_of(*rel));
                self.pages.retain(|key, _| !is_of(RelPage::from_key(*key).unwrap().rel));
            }
        }
    }
}

fn is_logged(rel: RelFork) -> bool {
    rel.fork != Fork::Fsm
}

/// `V` lines, by Lsn and page.
fn listed(capture: &Capture) -> Option<HashMap<(Lsn, RelPage), String>> {
    let lines = capture.lines(".versions.txt.zst")?;
    let parse = |line: String| {
        let words: Vec<&str> = line.split(' ').collect();
        let ["V", lsn, place @ .., hash, _] = &words[..] else { return None };
        Some(((lsn.parse().unwrap(), page_of(place)), (*hash).to_owned()))
    };
    Some(lines.filter_map(parse).collect())
}

fn page_of(words: &[&str]) -> RelPage {
    let numbers: Vec<u32> = words.iter().map(|word| word.parse().unwrap()).collect();
    let &[tablespace, database, relation, fork, block] = &numbers[..] else { panic!("{words:?}") };
    let fork = Fork::from_number(fork as u8).unwrap();
    RelPage { rel: RelFork { tablespace, database, relation, fork }, block }
}

/// What PostgreSQL recovered: the hash of each page, and how many blocks each fork has.
type Manifest = (HashMap<RelPage, String>, BTreeMap<RelFork, u32>);

fn manifests(capture: &Capture) -> BTreeMap<Lsn, Manifest> {
    let read = |lsn: Lsn| {
        let suffix = format!("@{}.manifest.tsv.zst", lsn.to_string().replace('/', "_"));
        let lines = capture.lines(&suffix).unwrap();
        let (mut pages, mut blocks) = (HashMap::new(), BTreeMap::<RelFork, u32>::new());
        for line in lines {
            let words: Vec<&str> = line.split('\t').collect();
            let hash = match words.len() {
                7 => words[6],
                _ => words[7],
            };
            let empty = words[5] == "empty";
            let words: Vec<&str> =
                words[..5].iter().map(|word| if *word == "-" { "0" } else { *word }).collect();
            let page = page_of(&words);
            if !is_logged(page.rel) {
                continue;
            }
            let size = blocks.entry(page.rel).or_default();
            if !empty {
                *size = (*size).max(page.block + 1);
                pages.insert(page, hash.to_owned());
            }
        }
        (lsn, (pages, blocks))
    };
    capture.manifest_lsns().into_iter().map(read).collect()
}

fn check_manifest(cluster: &Cluster, (pages, blocks): &Manifest, what: &str) -> u64 {
    let (mut different, mut good) = (Vec::new(), 0);
    for (of, hash) in pages {
        let zeros = [0; PAGE_SIZE];
        let found = cluster.pages.get(&of.key()).map_or(&zeros, |page| &**page);
        if raw16(found) == *hash { good += 1 } else { different.push(of.to_string()) }
    }
    assert!(different.is_empty(), "{what}: {} different: {different:?}", different.len());
    for (rel, size) in blocks {
        assert_eq!(cluster.blocks.get(rel).copied().unwrap_or(0), *size, "{what}: {rel}");
    }
    let more = cluster
        .blocks
        .iter()
        .filter(|(rel, size)| is_logged(**rel) && **size > 0 && !blocks.contains_key(rel));
    assert_eq!(more.collect::<Vec<_>>(), [], "{what}: forks that PostgreSQL does not have");
    good
}

/// The images that a record has only for checking, which show the page as it is after the change,
/// before it is stamped: how many, and how many of them are equal but for Lsn, checksum and hole.
fn check_images(
    cluster: &Cluster,
    images: &mut PageVersions,
    record: &Record<'_>,
    name: &str,
) -> [u64; 2] {
    let (mut checked, mut equal) = (0, 0);
    for block in record.blocks().filter(|block| block.applied_image().is_none()) {
        let Some(wanted) = images.image(record, &block).unwrap() else { continue };
        let mut wanted = *wanted;
        let mut found = *cluster.pages[&block.key()].clone();
        let hole = |page: &Page| {
            let field = |at| usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
            (field(12), field(14))
        };
        let plain = |page: &Page| {
            let (mut page, (lower, upper)) = (*page, hole(page));
            page[..10].fill(0);
            if 24 <= lower && lower <= upper && upper <= PAGE_SIZE {
                page[lower..upper].fill(0);
            }
            page
        };
        equal += u64::from(plain(&wanted) == plain(&found));
        mask_page(record.manager(), block.block, &mut wanted);
        mask_page(record.manager(), block.block, &mut found);
        let first = wanted.iter().zip(&found).position(|(wanted, found)| wanted != found);
        let page = RelPage { rel: block.rel, block: block.block };
        let what = (record.manager(), record.info());
        assert_eq!(first, None, "{name}: {what:?} at {} on {page}: first byte", record.end());
        checked += 1;
    }
    [checked, equal]
}

/// Replays a capture and says what it found.
fn replay(capture: &Capture) {
    let mut cluster = Cluster::of(capture);
    let (list, mut manifests) = (listed(capture), manifests(capture));
    let (mut listed, mut recovered, mut checked, mut equal) = (0, 0, 0, 0);
    let mut images = PageVersions::new();
    let mut reader = capture.reader();
    let lsns = manifests.len();
    let at = |lsn: Lsn| format!("{} at {lsn}", capture.name);
    while let Some(record) = reader.next_record().unwrap() {
        while let Some(entry) = manifests.first_entry().filter(|entry| *entry.key() < record.end())
        {
            let (lsn, manifest) = entry.remove_entry();
            recovered += check_manifest(&cluster, &manifest, &at(lsn));
        }
        for of in cluster.apply(&record) {
            let Some(list) = list.as_ref().filter(|_| is_logged(of.rel)) else { continue };
            let Some(hash) = list.get(&(record.end(), of)) else {
                assert_eq!(capture.name, "sample", "{of} at {} is not listed", record.end());
                continue;
            };
            let found = raw16(&cluster.pages[&of.key()][..]);
            assert_eq!(found, *hash, "{}: {of} at {}", capture.name, record.end());
            listed += 1;
        }
        let [of_record, equal_of_record] =
            check_images(&cluster, &mut images, &record, &capture.name);
        checked += of_record;
        equal += equal_of_record;
    }
    for (lsn, manifest) in manifests {
        recovered += check_manifest(&cluster, &manifest, &at(lsn));
    }
    println!(
        "{}: {} changes of pages redone, {listed} of {} listed versions equal, {recovered} pages recovered by PostgreSQL to {lsns} Lsns equal, \
         {checked} images for checking equal where masked, {equal} of them everywhere",
        capture.name,
        cluster.redone,
        list.map_or(0, |list| list.keys().filter(|(_, of)| is_logged(of.rel)).count()),
    );
}

#[test]
fn pages_are_those_that_postgresql_recovers() {
    captures::all().iter().for_each(replay);
}

#[test]
fn pages_of_made_captures_are_those_that_postgresql_recovers() {
    captures::made().iter().for_each(replay);
}
