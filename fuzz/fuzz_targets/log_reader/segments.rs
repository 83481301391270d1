//! Segments that no log has written.

use std::path::Path;

use arbitrary::Arbitrary;
use pagestrata::testing::SimulatedStorage;

use crate::{
    frames::{
        Claims, END, Files, SEGMENT_HEADER_LEN, position, push_frame, segment_header, segment_path,
        synced_file, synced_path,
    },
    replay::{DIR, STORE, go_on, replay},
};

#[derive(Debug, Arbitrary)]
pub struct Segments {
    start: Option<u32>,
    /// Content of `SYNCED`, if there is one.
    synced: Option<(u8, u16)>,
    segments: Vec<Segment>,
}

#[derive(Debug, Arbitrary)]
struct Segment {
    number: u32,
    /// Whether it has a valid header; otherwise it has none.
    has_header: bool,
    pieces: Vec<Piece>,
    /// Number of zeros after the pieces.
    zeros: u16,
}

#[derive(Debug, Arbitrary)]
enum Piece {
    Bytes(Vec<u8>),
    /// A frame with valid checksums.
    Frame {
        kind: u8,
        lsn: u8,
        synced: Option<(u8, u16)>,
        payload: Vec<u8>,
        payload_len: Option<u32>,
    },
    End {
        next: u32,
    },
}

/// Mostly small numbers, so that they collide; also the maximum.
fn sequence(number: u32) -> u32 {
    match number >> 24 {
        0xFF => u32::MAX - number % 4,
        0xFE => number,
        _ => 1 + number % 6,
    }
}

fn synced_at((of, at): (u8, u16)) -> u64 {
    position(sequence(of.into()), at.into())
}

impl Segment {
    fn bytes(&self, number: u32) -> Vec<u8> {
        // The header is made again when the length is known; the frames' checksums do not depend on
        // that.
        let header = |len| segment_header(STORE, number, len);
        let mut bytes = header(0);
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(piece) => bytes.extend_from_slice(piece),
                Piece::Frame { kind, lsn, synced, payload, payload_len } => {
                    let synced = synced.map_or(0, synced_at);
                    let (kind, lsn, payload_len) = (kind % 5, u64::from(*lsn), *payload_len);
                    let claims = Claims { kind, stream: 1, lsn, synced, payload_len, payload };
                    push_frame(&mut bytes, number, &claims);
                }
                Piece::End { next } => {
                    let payload = &u64::from(sequence(*next)).to_le_bytes();
                    let (payload_len, kind) = (None, END);
                    let claims =
                        Claims { kind, stream: 0, lsn: 0, synced: 0, payload_len, payload };
                    push_frame(&mut bytes, number, &claims);
                }
            }
        }
        let zeros = if self.zeros.is_multiple_of(16) { self.zeros } else { self.zeros % 1024 };
        bytes.resize(bytes.len() + usize::from(zeros), 0);
        match self.has_header {
            true => {
                let header = header(bytes.len());
                bytes[..SEGMENT_HEADER_LEN].copy_from_slice(&header);
                bytes
            }
            false => bytes.split_off(SEGMENT_HEADER_LEN),
        }
    }
}

impl Segments {
    pub fn check(&self) {
        let mut files = Files::new();
        for segment in &self.segments {
            let number = sequence(segment.number);
            files.insert(segment_path(Path::new(DIR), number), segment.bytes(number));
        }
        if let Some(synced) = self.synced {
            let bytes = synced_file(STORE, synced_at(synced));
            files.insert(synced_path(Path::new(DIR)), bytes);
        }
        let start = match (self.start, self.segments.first()) {
            (None, Some(first)) => sequence(first.number),
            (start, _) => sequence(start.unwrap_or(1)),
        };
        let storage = SimulatedStorage::of_files(files);
        let (records, result) = replay(&storage, start);
        if let Ok(replayed) = result {
            // No log has written this: it may be one that nothing can follow.
            go_on(&storage, (start, 4 << 10), records, replayed, true);
        }
    }
}
