//! [`Content`]: the bytes of one file, now and as they were since the last sync.
//!
//! Nothing is copied at a sync. A write keeps the older version of each sector that it changes; a
//! sector that the synced file did not reach needs none for its first write, for its oldest version
//! is zeros. So an append costs the copy of one sector at most.
//!
//! Cuts number the epochs of a file. A version is of the epoch that it ended in, and so is a
//! length: with a length of a later epoch, a version reads as zeros behind the cuts between; with
//! one of an earlier epoch, a sector that the cuts between took away has only the versions from
//! before them.

use std::{collections::BTreeMap, io::IoSlice, path::Path, sync::Arc};

use xxhash_rust::xxh3::xxh3_128;

use super::choices::{Choices, Decision, decide};

/// What a device writes at once.
pub(super) const SECTOR_LEN: usize = 512;

type SectorBytes = [u8; SECTOR_LEN];

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    live: Arc<Vec<u8>>,
    /// Of `live`, if known.
    digest: Option<u128>,
    /// Sectors from this one on were not there at the last sync.
    fresh_from: usize,
    sectors: BTreeMap<usize, Sector>,
    /// Lengths since the last sync but for the one now, and the epoch of each.
    older_lens: Vec<(usize, usize)>,
    /// To what length the file was cut since the last sync.
    cuts: Vec<usize>,
    /// It has a name in the live image.
    pub(super) is_linked: bool,
}

/// A sector that is not as it was at the last sync.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// What it was, oldest first: the synced one unless the sector is fresh, then those that were
    /// written since.
    older: Vec<Version>,
    /// A failed sync has dropped the live version: it does not come to the disk.
    is_lost: bool,
}

#[derive(Clone, Debug)]
struct Version {
    bytes: Box<SectorBytes>,
    epoch: usize,
}

fn sectors_of(len: usize) -> usize {
    len.div_ceil(SECTOR_LEN)
}

impl Content {
    /// Bytes that are all synced.
    pub(super) fn synced(bytes: Arc<Vec<u8>>) -> Content {
        Content { fresh_from: sectors_of(bytes.len()), live: bytes, ..Content::default() }
    }

    /// What a name in the live image leads to.
    pub(super) fn linked(self) -> Content {
        Content { is_linked: true, ..self }
    }

    pub(super) fn live(&self) -> &Arc<Vec<u8>> {
        &self.live
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    fn live_mut(&mut self) -> &mut Vec<u8> {
        self.digest = None;
        Arc::make_mut(&mut self.live)
    }

    /// Of the live bytes; computed once.
    pub(super) fn digest(&mut self) -> u128 {
        *self.digest.get_or_insert_with(|| xxh3_128(&self.live))
    }

    /// Nothing but what was synced.
    fn is_clean(&self) -> bool {
        self.sectors.is_empty() && self.older_lens.is_empty()
    }

    /// The live bytes of a sector, with zeros behind the end.
    fn live_sector(&self, number: usize) -> SectorBytes {
        let mut bytes = [0; SECTOR_LEN];
        let start = self.len().min(number * SECTOR_LEN);
        let live = &self.live[start..self.len().min(start + SECTOR_LEN)];
        bytes[..live.len()].copy_from_slice(live);
        bytes
    }

    /// Keeps what is in `start..end` before it is changed.
    fn keep(&mut self, start: usize, end: usize) {
        for number in start / SECTOR_LEN..sectors_of(end) {
            let is_new = number >= self.fresh_from && number * SECTOR_LEN >= self.len();
            if is_new && self.sectors.range(number..).next().is_none() {
                // Nor were those behind it there, ever.
                break;
            }
            let (bytes, epoch) = (self.live_sector(number), self.cuts.len());
            let sector = self.sectors.entry(number).or_default();
            if !std::mem::take(&mut sector.is_lost)
                && sector.older.last().is_none_or(|last| *last.bytes != bytes)
            {
                sector.older.push(Version { bytes: Box::new(bytes), epoch });
            }
        }
    }

    fn keep_len(&mut self) {
        self.older_lens.push((self.len(), self.cuts.len()));
    }

    /// Writes the first `len` bytes of the parts.
    pub(super) fn write(&mut self, offset: usize, parts: &[IoSlice<'_>], len: usize) {
        if len == 0 {
            return;
        }
        let end = offset + len;
        self.keep(offset, end);
        if end > self.len() {
            self.keep_len();
        }
        let (live, mut at) = (self.live_mut(), offset);
        if live.len() < offset {
            live.resize(offset, 0);
        }
        for part in parts {
            let part = &part[..part.len().min(end - at)];
            let (over, behind) = part.split_at(part.len().min(live.len() - at));
            live[at..at + over.len()].copy_from_slice(over);
            live.extend_from_slice(behind);
            at += part.len();
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        if len == self.len() {
            return;
        }
        let is_cut = len < self.len();
        if is_cut {
            self.keep(len, self.len());
        }
        self.keep_len();
        if is_cut {
            self.cuts.push(len);
        }
        self.live_mut().resize(len, 0);
    }

    pub(super) fn sync(&mut self) {
        let (len, cut) = (self.len(), self.cuts.iter().copied().min());
        self.sectors.retain(|number, sector| sector.is_lost && number * SECTOR_LEN < len);
        for (number, sector) in &mut self.sectors {
            for version in &mut sector.older {
                cut_sector(&mut version.bytes, *number, cut);
                version.epoch = 0;
            }
        }
        self.fresh_from = sectors_of(len);
        self.older_lens.clear();
        self.cuts.clear();
    }

    /// What a failed sync does on Linux: unsynced sectors are taken for clean, although they are
    /// not on the disk; of the first `half` they are.
    pub(super) fn drop_dirty(&mut self, half: bool) {
        let end = sectors_of(self.len());
        let kept = self.sectors.range(..self.fresh_from.min(end));
        let kept = kept.filter(|(_, sector)| !sector.is_lost).map(|(number, _)| *number);
        let dirty: Vec<usize> = kept.chain(self.fresh_from..end).collect();
        let written = if half { dirty.len() / 2 } else { 0 };
        for (n, number) in dirty.into_iter().enumerate() {
            let sector = self.sectors.remove(&number).unwrap_or_default();
            let synced = match number < self.fresh_from {
                true => sector.older.into_iter().next().expect("the synced version"),
                false => Version { bytes: Box::new([0; SECTOR_LEN]), epoch: 0 },
            };
            if n >= written {
                self.sectors.insert(number, Sector { older: vec![synced], is_lost: true });
            }
        }
        self.fresh_from = self.fresh_from.max(end);
    }

    /// Flips a bit of every version.
    pub(super) fn flip(&mut self, byte: usize, bit: u32) {
        self.live_mut()[byte] ^= 1 << bit;
        if let Some(sector) = self.sectors.get_mut(&(byte / SECTOR_LEN)) {
            for version in &mut sector.older {
                version.bytes[byte % SECTOR_LEN] ^= 1 << bit;
            }
        }
    }

    /// Changes the bytes and syncs them.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.live_mut());
        self.sectors.clear();
        self.sync();
    }

    fn epochs(&self) -> usize {
        self.cuts.len()
    }

    /// The lengths that a crash may leave, oldest first, and the epoch of each.
    fn lens(&self) -> Vec<(usize, usize)> {
        let mut lens = self.older_lens.clone();
        lens.push((self.len(), self.epochs()));
        lens
    }

    /// The sectors of a file of this length that may not be as they are now.
    fn uncertain(&self, len: usize) -> impl Iterator<Item = usize> {
        let end = sectors_of(len);
        let kept = self.sectors.range(..self.fresh_from.min(end)).map(|(number, _)| *number);
        kept.chain(self.fresh_from..end)
    }

    /// What a sector may hold after a crash that leaves a length of this epoch; the synced one
    /// first, the live one last.
    fn options(&self, number: usize, (len, epoch): (usize, usize), out: &mut Vec<SectorBytes>) {
        out.clear();
        if number >= self.fresh_from {
            out.push([0; SECTOR_LEN]);
        }
        let start = number * SECTOR_LEN;
        let sector = self.sectors.get(&number);
        let seen = |mut bytes: SectorBytes, of: usize| {
            let is_cut_off = of > epoch && self.cuts[epoch..of].iter().any(|cut| *cut <= start);
            let cuts = self.cuts.get(of..epoch).unwrap_or_default();
            cut_sector(&mut bytes, number, cuts.iter().copied().chain([len]).min());
            (!is_cut_off).then_some(bytes)
        };
        for version in sector.map_or(&[][..], |sector| &sector.older) {
            if let Some(bytes) = seen(*version.bytes, version.epoch)
                && !out.contains(&bytes)
            {
                out.push(bytes);
            }
        }
        if sector.is_some_and(|sector| sector.is_lost) {
            return;
        }
        let Some(live) = seen(self.live_sector(number), self.epochs()) else { return };
        match out.iter().position(|bytes| *bytes == live) {
            // As the synced one, after others: the last all the same.
            Some(0) if out.len() > 1 => out.push(live),
            Some(0) => {}
            Some(position) => out[position..].rotate_left(1),
            None => out.push(live),
        }
    }

    /// How many choices a crash has, or anything above `max`.
    pub(super) fn states(&self, max: u64) -> u64 {
        let (mut states, mut options) = (0_u64, Vec::new());
        for len in self.lens() {
            let mut product = 1_u64;
            for number in self.uncertain(len.0) {
                self.options(number, len, &mut options);
                product = product.saturating_mul(options.len() as u64);
                if product > max {
                    return product;
                }
            }
            states = states.saturating_add(product);
        }
        states
    }

    /// What a crash leaves of it.
    pub(super) fn crash(&mut self, path: &Path, choices: &mut impl Choices) -> Content {
        if self.is_clean() {
            let digest = Some(self.digest());
            return Content { digest, ..Content::synced(self.live.clone()) };
        }
        let lens = self.lens();
        let (len, epoch) = lens[decide(choices, Decision::Len(path), lens.len())];
        let mut bytes = self.live[..len.min(self.len())].to_vec();
        bytes.resize(len, 0);
        let mut options = Vec::new();
        for number in self.uncertain(len) {
            self.options(number, (len, epoch), &mut options);
            let chosen = decide(choices, Decision::Sector(path, number), options.len());
            let sector = &mut bytes[number * SECTOR_LEN..];
            let sector_len = sector.len().min(SECTOR_LEN);
            sector[..sector_len].copy_from_slice(&options[chosen][..sector_len]);
        }
        Content::synced(Arc::new(bytes))
    }
}

/// Zeros from where a file is cut on.
fn cut_sector(bytes: &mut SectorBytes, number: usize, cut: Option<usize>) {
    if let Some(cut) = cut {
        bytes[cut.saturating_sub(number * SECTOR_LEN).min(SECTOR_LEN)..].fill(0);
    }
}
