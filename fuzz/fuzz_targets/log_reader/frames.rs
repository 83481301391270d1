//! Reads and writes the bytes of the log without the code of the crate, from the tables in
//! `wal/src/format.rs`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub const SEGMENT_HEADER_LEN: usize = 512;
pub const FRAME_HEADER_LEN: usize = 48;
pub const RECORD: u8 = 1;
pub const END: u8 = 2;
const SYNCED_LEN: usize = 44;

pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A frame of an undamaged log.
#[derive(Clone, Debug)]
pub struct Frame {
    pub path: PathBuf,
    pub offset: usize,
    /// Length including the payload and the bytes up to the next frame.
    pub len: usize,
    pub kind: u8,
    pub stream: u64,
    pub lsn: u64,
    /// Position of its end in the log.
    pub end: u64,
    /// The log was synced up to here when the frame was written.
    pub synced: u64,
    pub payload: Vec<u8>,
}

pub fn segment_path(dir: &Path, sequence: u32) -> PathBuf {
    dir.join(format!("{sequence:016X}.log"))
}

pub fn position(sequence: u32, offset: usize) -> u64 {
    u64::from(sequence) << 32 | offset as u64
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(number)
}

/// Returns all frames from the segment `start` on.
pub fn frames(files: &Files, dir: &Path, start: u32) -> Vec<Frame> {
    let (mut found, mut next) = (Vec::new(), Some(start));
    while let Some(sequence) = next.take() {
        let path = segment_path(dir, sequence);
        let bytes = &files[&path];
        let mut offset = SEGMENT_HEADER_LEN;
        while let Some(frame) = frame(bytes, &path, sequence, offset) {
            offset += frame.len;
            if frame.kind == END {
                next = Some(u32::try_from(number::<8>(&frame.payload, 0)).unwrap());
            }
            found.push(frame);
            if next.is_some() {
                break;
            }
        }
    }
    found
}

fn frame(bytes: &[u8], path: &Path, sequence: u32, offset: usize) -> Option<Frame> {
    let header = bytes.get(offset..offset + FRAME_HEADER_LEN)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..40]), &header[4..]);
    if number::<4>(header, 0) != u64::from(crc)
        || number::<8>(header, 8) != position(sequence, offset)
    {
        return None;
    }
    let payload_at = offset + FRAME_HEADER_LEN;
    let payload = bytes.get(payload_at..payload_at + number::<4>(header, 40) as usize)?;
    if number::<4>(header, 4) != u64::from(crc32c::crc32c(payload)) {
        return None;
    }
    let len = (FRAME_HEADER_LEN + payload.len()).next_multiple_of(8);
    Some(Frame {
        path: path.to_owned(),
        offset,
        len,
        kind: header[44],
        stream: number::<8>(header, 16),
        lsn: number::<8>(header, 24),
        end: position(sequence, offset + len),
        synced: number::<8>(header, 32),
        payload: payload.to_vec(),
    })
}

/// Returns a valid segment header.
pub fn segment_header(store: u128, sequence: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; SEGMENT_HEADER_LEN];
    bytes[..8].copy_from_slice(b"PSLOGSEG");
    bytes[8] = 1;
    bytes[16..32].copy_from_slice(&store.to_le_bytes());
    bytes[32..40].copy_from_slice(&u64::from(sequence).to_le_bytes());
    bytes[40..48].copy_from_slice(&(len as u64).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..508]);
    bytes[508..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Returns the path of the file that records how far the log is synced.
pub fn synced_path(dir: &Path) -> PathBuf {
    dir.join("SYNCED")
}

/// Returns the content of that file for a position.
pub fn synced_file(store: u128, position: u64) -> Vec<u8> {
    let mut bytes = b"PSSYNCED".to_vec();
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(store.to_le_bytes());
    bytes.extend(position.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// Returns the position in the file, if the file is intact.
pub fn synced_position(bytes: &[u8], store: u128) -> Option<u64> {
    let bytes = bytes.get(..SYNCED_LEN)?;
    let position = number::<8>(bytes, 32);
    (*bytes == synced_file(store, position)).then_some(position)
}

/// The content of a frame, true or not; its checksums are valid.
pub struct Claims<'a> {
    pub kind: u8,
    pub stream: u64,
    pub lsn: u64,
    pub synced: u64,
    /// Length of the payload in the frame, if it is not the real one.
    pub payload_len: Option<u32>,
    pub payload: &'a [u8],
}

/// Appends a frame to a segment that begins with a header.
pub fn push_frame(segment: &mut Vec<u8>, sequence: u32, claims: &Claims<'_>) {
    segment.resize(segment.len().next_multiple_of(8), 0);
    let Claims { kind, stream, lsn, synced, payload_len, payload } = *claims;
    let mut header = [0; FRAME_HEADER_LEN];
    header[4..8].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    header[8..16].copy_from_slice(&position(sequence, segment.len()).to_le_bytes());
    header[16..24].copy_from_slice(&stream.to_le_bytes());
    header[24..32].copy_from_slice(&lsn.to_le_bytes());
    header[32..40].copy_from_slice(&synced.to_le_bytes());
    let payload_len = payload_len.unwrap_or(payload.len() as u32);
    header[40..44].copy_from_slice(&payload_len.to_le_bytes());
    header[44] = kind;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&segment[8..40]), &header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    segment.extend_from_slice(&header);
    segment.extend_from_slice(payload);
    segment.resize(segment.len().next_multiple_of(8), 0);
}
