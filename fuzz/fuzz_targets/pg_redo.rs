//! Redo of PostgreSQL's records, with anything as record and page. Records of parts on pages of
//! parts, real records on the pages they are for, and on those of others; all with changes. Never a
//! panic and no end of memory or time; what a record makes of a page is what it makes as the
//! version of a store, and a page that has its Lsn is not changed by it again; a real record
//! without a change is redone.
//!
//! Real ones are of `engine/postgres/ingest/sample`, and of the captures in
//! `PAGESTRATA_MADE_CAPTURES` where that is set (see `engine/postgres/captures/make.sh`): only
//! these have indexes other than B-trees.
#![no_main]

#[path = "../../engine/postgres/tests/all/layout.rs"]
#[allow(dead_code)]
mod layout;
#[path = "shared/sample.rs"]
mod sample;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use arbitrary::Arbitrary;
use layout::seal;
use libfuzzer_sys::fuzz_target;
use pagestrata::testing::SimulatedStorage;
use pagestrata_layers::{
    Kind, Lsn, PageVersion, Redo,
    storage::{RealStorage, SharedStorage},
};
use pagestrata_postgres::{
    BaseBackup, Error, Fork, ManagerId, PAGE_SIZE, Page, PageRedo, PageVersions, RedoError,
    RedoSettings, RelFork, RelPage, WalReader, decode_record, mask_page, redo,
};

#[derive(Debug, Arbitrary)]
enum Input {
    /// A record of parts.
    Built { record: Parts, page: Base, logs_hints: bool },
    /// A real record with changes, on its own page.
    Real { record: Pick, edits: Edits, changes: Vec<(u8, u16)>, logs_hints: bool },
    /// A real record with changes, on any page.
    Elsewhere { record: Pick, edits: Edits, page: Base, logs_hints: bool },
}

/// A record: the page is that of block `on`.
#[derive(Debug, Arbitrary)]
struct Parts {
    manager: u8,
    info: u8,
    xid: u32,
    main: Vec<u8>,
    blocks: Vec<Block>,
    on: u8,
}

#[derive(Debug, Arbitrary)]
struct Block {
    /// Block ids ascend: so many are left out in front.
    skipped: u8,
    fork: u8,
    block: u8,
    will_init: bool,
    data: Vec<u8>,
    image: Option<Image>,
}

#[derive(Debug, Arbitrary)]
struct Image {
    info: u8,
    hole_offset: u16,
    bytes: Vec<u8>,
}

/// What a page is at first, and what is changed of it.
#[derive(Debug, Arbitrary)]
struct Base {
    page: BasePage,
    changes: Vec<(u8, u16)>,
}

#[derive(Debug, Arbitrary)]
enum BasePage {
    Zeros,
    Bytes {
        bytes: Vec<u8>,
    },
    /// As access methods lay them out.
    Laid {
        special: Vec<u8>,
        items: Vec<(u8, Vec<u8>)>,
        contents: Vec<u8>,
        lower: Option<u16>,
        flags: u16,
    },
    Real {
        pick: Pick,
    },
}

/// One of the real records, and the page it is for.
#[derive(Debug, Arbitrary)]
struct Pick {
    kind: u16,
    number: u8,
}

#[derive(Debug, Arbitrary)]
struct Edits {
    changes: Vec<(u16, u8)>,
    insert: Option<(u16, Vec<u8>)>,
    cut: Option<u16>,
}

struct Known {
    raw: Vec<u8>,
    of: RelPage,
    page: Box<Page>,
}

/// So many are kept of each kind of record and block.
const KEPT: usize = 24;
/// Behind all real Lsns: records are never older than pages unless a page is changed so.
const END: Lsn = Lsn(0x7F_0000_1000);

fn known() -> &'static [Vec<Known>] {
    static KNOWN: OnceLock<Vec<Vec<Known>>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut kinds = BTreeMap::new();
        read_capture(
            SimulatedStorage::of_files(sample::files()).shared(),
            Path::new(""),
            &mut kinds,
        );
        match std::env::var_os("PAGESTRATA_MADE_CAPTURES") {
            Some(dir) => {
                let dirs = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
                let mut dirs: Vec<PathBuf> =
                    dirs.filter(|path| path.join("capture.env").exists()).collect();
                dirs.sort();
                dirs.iter().for_each(|dir| read_capture(Arc::new(RealStorage), dir, &mut kinds));
            }
            None => eprintln!("PAGESTRATA_MADE_CAPTURES is not set: real records are the sample's"),
        }
        eprintln!("{} kinds of real records and blocks", kinds.len());
        kinds.into_values().collect()
    })
}

/// Replays a capture, and keeps some records of each kind with the pages as they are before.
fn read_capture(
    storage: SharedStorage,
    dir: &Path,
    kinds: &mut BTreeMap<(u8, u8, u8, u8), Vec<Known>>,
) {
    let base = BaseBackup::open(storage.clone(), &dir.join("base")).unwrap();
    let (mut pages, mut next) = (HashMap::<RelPage, Box<Page>>::new(), base.pages());
    while let Some((key, page)) = next.next_page().unwrap() {
        pages.insert(RelPage::from_key(key).unwrap(), Box::new(page.try_into().unwrap()));
    }
    let control = base.control();
    let settings = RedoSettings { logs_hints: control.data_checksums || control.wal_log_hints };
    let wal = dir.join("wal");
    let from = control.redo;
    let mut reader = WalReader::open(storage, &wal, from, None, None).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        for block in record.blocks() {
            let of = RelPage { rel: block.rel, block: block.block };
            let page = pages.entry(of).or_insert_with(|| Box::new([0; PAGE_SIZE]));
            // An insertion of GIN's is another for each sort of page, which the first byte says.
            let sort = match record.manager() {
                ManagerId::GIN => record.main_data().first().map_or(0, |flags| flags & 7),
                _ => 0,
            };
            let kind = (record.manager().0, record.info() & 0xF0, sort, block.id.min(4));
            let kept = kinds.entry(kind).or_default();
            let is_kept = block.applied_image().is_none() && kept.len() < KEPT;
            let before = is_kept.then(|| page.clone());
            // Truncation and the like are not followed, so some pages are not what they should be.
            let is_redone = redo(settings, &record, of, page).is_ok();
            if let Some(page) = before.filter(|_| is_redone) {
                kept.push(Known { raw: record.raw().to_vec(), of, page });
            }
        }
    }
    kinds.retain(|_, kept| !kept.is_empty());
}

impl Pick {
    fn known(&self) -> &'static Known {
        let kind = &known()[usize::from(self.kind) % known().len()];
        &kind[usize::from(self.number) % kind.len()]
    }
}

impl Base {
    fn page(&self) -> Box<Page> {
        let mut page = match &self.page {
            BasePage::Zeros => Box::new([0; PAGE_SIZE]),
            BasePage::Bytes { bytes } => {
                let mut page = Box::new([0; PAGE_SIZE]);
                put(&mut page[..], 0, bytes);
                page
            }
            BasePage::Laid { special, items, contents, lower, flags } => {
                laid(special, items, contents, *lower, *flags)
            }
            BasePage::Real { pick } => pick.known().page.clone(),
        };
        change(&mut page, &self.changes);
        page
    }
}

/// As much of some bytes as fits.
fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page.iter_mut().skip(at).zip(bytes).for_each(|(to, byte)| *to = *byte);
}

fn put_u16(page: &mut Page, at: usize, number: usize) {
    put(page, at, &(number as u16).to_le_bytes());
}

/// Changes of a page: a number of its header, of its end or of its first line pointers, or a byte
/// anywhere.
fn change(page: &mut Page, changes: &[(u8, u16)]) {
    for &(place, number) in changes {
        let (field, number) = (usize::from(place % 32), usize::from(number));
        match place / 32 {
            0 => put_u16(page, 10 + 2 * (field % 7), number),
            1 | 2 => put_u16(page, PAGE_SIZE - 2 - 2 * (field % 8), number),
            3 => put_u16(page, 24 + 2 * field, number),
            _ => page[number % PAGE_SIZE] ^= place,
        }
    }
}

fn laid(
    special: &[u8],
    items: &[(u8, Vec<u8>)],
    contents: &[u8],
    lower: Option<u16>,
    flags: u16,
) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let start = PAGE_SIZE - special.len().min(64).next_multiple_of(8);
    put(&mut page[..], start, special);
    let (mut upper, mut end) = (start, 24);
    put(&mut page[..start], end, contents);
    for (state, item) in items {
        let at = upper.saturating_sub(item.len()) / 8 * 8;
        if end + 4 > at {
            break;
        }
        // One of eight is anything but normal.
        let state = if state % 8 == 0 { usize::from(state / 8 % 4) } else { 1 };
        let pointer = at | state << 15 | item.len() << 17;
        put(&mut page[..], at, item);
        put(&mut page[..], end, &(pointer as u32).to_le_bytes());
        (upper, end) = (at, end + 4);
    }
    put_u16(&mut page, 10, usize::from(flags));
    put_u16(&mut page, 12, lower.map_or(end, usize::from));
    put_u16(&mut page, 14, upper);
    put_u16(&mut page, 16, start);
    put_u16(&mut page, 18, PAGE_SIZE | 4);
    page
}

impl Parts {
    fn relation(fork: u8) -> RelFork {
        let fork = Fork::from_number(fork % 4).expect("a fork");
        RelFork { tablespace: 1663, database: 5, relation: 16384, fork }
    }

    /// The record, and the page it is redone on.
    fn build(&self) -> (Vec<u8>, RelPage) {
        const MANAGERS: [u8; 11] = [0, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20];
        let mut raw = vec![0; 24];
        raw[4..8].copy_from_slice(&self.xid.to_le_bytes());
        raw[16] = self.info;
        raw[17] = MANAGERS[usize::from(self.manager) % MANAGERS.len()];
        let (mut payload, mut id) = (Vec::new(), 0_u8);
        let mut pages = vec![RelPage { rel: Parts::relation(2), block: 0 }];
        for block in self.blocks.iter().take(6) {
            id += block.skipped % 3;
            block.write(id, &mut raw, &mut payload);
            id += 1;
            let of = RelPage { rel: Parts::relation(block.fork), block: u32::from(block.block) };
            pages.push(of);
        }
        raw.push(254);
        raw.extend((self.main.len() as u32).to_le_bytes());
        raw.extend(payload);
        raw.extend(&self.main);
        // The first is the visibility map's, which no reference has to name.
        let on = (usize::from(self.on) + 1) % pages.len();
        (raw, pages[on])
    }
}

impl Block {
    fn write(&self, id: u8, raw: &mut Vec<u8>, payload: &mut Vec<u8>) {
        let data = &self.data[..self.data.len().min(0xFFFF)];
        let flag = |bit: u8, is_set: bool| if is_set { bit } else { 0 };
        let flags = flag(0x10, self.image.is_some())
            | flag(0x20, !data.is_empty())
            | flag(0x40, self.will_init);
        raw.extend([id, self.fork % 4 | flags]);
        raw.extend((data.len() as u16).to_le_bytes());
        if let Some(image) = &self.image {
            let bytes = &image.bytes[..image.bytes.len().min(PAGE_SIZE - 1)];
            let compression = [0, 4, 8, 16][usize::from(image.info >> 2) % 4];
            let hole_len = (PAGE_SIZE - bytes.len()) as u16;
            let hole_offset = 1 + image.hole_offset % (bytes.len() as u16 + 1);
            raw.extend((bytes.len() as u16).to_le_bytes());
            raw.extend(hole_offset.to_le_bytes());
            raw.push(1 | image.info & 2 | compression);
            if compression != 0 {
                raw.extend(hole_len.to_le_bytes());
            }
            payload.extend(bytes);
        }
        let rel = Parts::relation(self.fork);
        for number in [rel.tablespace, rel.database, rel.relation, u32::from(self.block)] {
            raw.extend(number.to_le_bytes());
        }
        payload.extend(data);
    }
}

impl Edits {
    fn is_none(&self) -> bool {
        let is_changed = self.changes.iter().any(|(_, xor)| *xor != 0);
        !is_changed && self.insert.is_none() && self.cut.is_none()
    }

    /// Changes what is behind the header, and the record's info.
    fn of(&self, mut raw: Vec<u8>) -> Vec<u8> {
        if let Some((at, bytes)) = &self.insert {
            let at = 24 + usize::from(*at) % (raw.len() - 23);
            raw.splice(at..at, bytes.iter().copied());
        }
        for &(at, xor) in &self.changes {
            let at = match usize::from(at) % (raw.len() - 23) {
                0 => 16,
                at => at + 23,
            };
            raw[at] ^= xor;
        }
        if let Some(cut) = self.cut {
            raw.truncate(24.max(raw.len() - usize::from(cut) % raw.len()));
        }
        raw
    }
}

/// Redoes a record on a page in every way that should make no difference. None: it is not a record.
fn apply(
    mut raw: Vec<u8>,
    of: RelPage,
    page: &Page,
    logs_hints: bool,
) -> Option<Result<(), RedoError>> {
    seal(&mut raw);
    let record = decode_record(&raw, END).ok()?;
    let settings = RedoSettings { logs_hints };
    let mut once = *page;
    let result = redo(settings, &record, of, &mut once);
    // As the version of a store, which is read in another way.
    let version = PageVersion { lsn: END, kind: Kind::Delta { will_init: false }, bytes: &raw };
    let mut again = Vec::new();
    let of_version = PageRedo::new(settings).apply(
        of.key(),
        Some(page),
        &mut std::iter::once(version),
        &mut again,
    );
    let text = result.as_ref().map_err(ToString::to_string).copied();
    assert_eq!(text, of_version.map_err(|error| error.to_string()));
    assert!(once[..] == again, "not the same twice");
    let block = record.blocks().find(|block| (block.rel, block.block) == (of.rel, of.block));
    let is_stamped =
        once[..8] == [(END.0 >> 32) as u32, END.0 as u32].map(u32::to_le_bytes).concat();
    if result.is_ok() && is_stamped && block.is_some_and(|block| !block.will_init()) {
        let mut again = once;
        redo(settings, &record, of, &mut again).expect("nothing to do");
        assert!(once == again, "redone although it has its Lsn");
    }
    mask_page(record.manager(), of.block, &mut once);
    let mut versions = PageVersions::new();
    let _ = versions.versions(&record, |_, _| Ok::<_, Error>(()));
    Some(result)
}

fuzz_target!(
    // What takes seconds, and is no input's.
    init: {
        known();
    },
    |input: Input| match input {
        Input::Built { record, page, logs_hints } => {
            let (raw, of) = record.build();
            apply(raw, of, &page.page(), logs_hints);
        }
        Input::Real { record, edits, changes, logs_hints } => {
            let known = record.known();
            let mut page = known.page.clone();
            change(&mut page, &changes);
            let result = apply(edits.of(known.raw.clone()), known.of, &page, logs_hints);
            if edits.is_none() && changes.is_empty() {
                assert_eq!(result, Some(Ok(())), "a real record");
            }
        }
        Input::Elsewhere { record, edits, page, logs_hints } => {
            let known = record.known();
            apply(edits.of(known.raw.clone()), known.of, &page.page(), logs_hints);
        }
    }
);
