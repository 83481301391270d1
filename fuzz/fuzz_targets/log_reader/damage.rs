//! Damage to a log, and the evidence that it leaves of what was synced.

use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;

use crate::{
    frames::{FRAME_HEADER_LEN, Files, Frame, segment_path, synced_path, synced_position},
    replay::{DIR, STORE},
};

const SECTOR: usize = 512;

#[derive(Debug, Arbitrary)]
pub enum Damage {
    Flip {
        place: Place,
        bit: u8,
    },
    Zero {
        place: Place,
        len: u16,
    },
    /// Sectors are as they were at an earlier time.
    Old {
        place: Place,
        sectors: u8,
        generation: u8,
    },
    Cut {
        place: Place,
    },
    Grow {
        segment: u8,
        len: u8,
    },
    Swap {
        a: u8,
        b: u8,
    },
    Remove {
        segment: u8,
    },
    /// A copy of a segment's bytes under another number.
    Copy {
        segment: u8,
        number: u32,
    },
}

#[derive(Debug, Arbitrary)]
pub enum Place {
    /// In a frame, or a few bytes after it.
    Frame { frame: u16, at: u16 },
    /// In a segment's header, or anywhere.
    Segment { segment: u8, at: u16 },
}

/// A log that is to be damaged.
pub struct Target<'t> {
    pub dir: PathBuf,
    /// Only files of the log.
    pub files: &'t mut Files,
    /// The files at earlier times.
    pub generations: &'t [Files],
    pub frames: &'t [Frame],
}

impl Place {
    fn find(&self, target: &Target<'_>) -> Option<(PathBuf, usize)> {
        match *self {
            Place::Frame { frame, at } if !target.frames.is_empty() => {
                let frame = &target.frames[usize::from(frame) % target.frames.len()];
                Some((frame.path.clone(), frame.offset + usize::from(at) % (frame.len + 16)))
            }
            Place::Frame { .. } => None,
            Place::Segment { segment, at } => Some((target.name(segment)?, usize::from(at))),
        }
    }
}

impl Target<'_> {
    fn name(&self, segment: u8) -> Option<PathBuf> {
        self.files.keys().nth(usize::from(segment) % self.files.len().max(1)).cloned()
    }

    pub fn damage(&mut self, damage: &Damage) -> Option<()> {
        match damage {
            Damage::Flip { place, bit } => {
                let (path, at) = place.find(self)?;
                *self.files.get_mut(&path)?.get_mut(at)? ^= 1 << (bit % 8);
            }
            Damage::Zero { place, len } => {
                let (path, at) = place.find(self)?;
                let bytes = self.files.get_mut(&path)?;
                let end = (at + usize::from(*len)).min(bytes.len());
                bytes.get_mut(at..end)?.fill(0);
            }
            Damage::Old { place, sectors, generation } => {
                let (path, at) = place.find(self)?;
                let old = usize::from(*generation) % self.generations.len().max(1);
                let old = self.generations.get(old)?.get(&path)?;
                let from = at / SECTOR * SECTOR;
                let bytes = self.files.get_mut(&path)?;
                let end = (from + SECTOR * (1 + usize::from(sectors % 8)))
                    .min(old.len())
                    .min(bytes.len());
                bytes.get_mut(from..end)?.copy_from_slice(old.get(from..end)?);
            }
            Damage::Cut { place } => {
                let (path, at) = place.find(self)?;
                self.files.get_mut(&path)?.truncate(at);
            }
            Damage::Grow { segment, len } => {
                let path = self.name(*segment)?;
                let bytes = self.files.get_mut(&path)?;
                bytes.resize(bytes.len() + usize::from(*len), 0);
            }
            Damage::Swap { a, b } => {
                let (a, b) = (self.name(*a)?, self.name(*b)?);
                let (of_a, of_b) = (self.files[&a].clone(), self.files[&b].clone());
                self.files.extend([(a, of_b), (b, of_a)]);
            }
            Damage::Remove { segment } => {
                let path = self.name(*segment)?;
                self.files.remove(&path);
            }
            Damage::Copy { segment, number } => {
                let bytes = self.files[&self.name(*segment)?].clone();
                let number = if number % 4 > 0 { number % 16 } else { *number };
                self.files.insert(segment_path(&self.dir, number), bytes);
            }
        }
        Some(())
    }
}

/// Returns the position up to which an intact frame, or `SYNCED`, records the log as synced.
/// Whatever is missing before it is missing because of damage. What lies after it is lost together
/// with every record of its sync, and cannot be told from a torn tail.
pub fn evidence(sound: &Files, damaged: &Files, frames: &[Frame]) -> u64 {
    let is_whole = |frame: &&Frame| {
        let header = frame.offset..frame.offset + FRAME_HEADER_LEN;
        let left = damaged.get(&frame.path).and_then(|bytes| bytes.get(header.clone()));
        left == sound[&frame.path].get(header)
    };
    let synced = frames.iter().filter(is_whole).map(|frame| frame.synced).max();
    let said = damaged.get(&synced_path(Path::new(DIR)));
    let said = said.and_then(|bytes| synced_position(bytes, STORE));
    synced.max(said).unwrap_or(0)
}
