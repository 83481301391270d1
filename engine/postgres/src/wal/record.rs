//! [`Record`]: one WAL record in contiguous bytes, all of its headers checked.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | length of all of it |
//! | 4..8 | transaction |
//! | 8..16 | start of the record before |
//! | 16, 17 | info, resource manager |
//! | 20..24 | crc32c of bytes 24.., then bytes 0..20 |
//! | 24.. | headers: block references (`block.rs`), origin, top-level transaction, length of the main data |
//! | behind | payload: each block's image and data, the main data last |
//!
//! **Invariants:** a `Record` exists only if its headers and payload fill it exactly; it borrows
//! its bytes and owns nothing.

use pagestrata_layers::Lsn;

use crate::{
    bytes::{Cursor, u32_at, u64_at},
    error::{Error, LogCorruption, Result},
    manager::ManagerId,
    rel::RelPage,
    wal::block::{
        BLOCK_ID_MAX, BlockHeader, BlockRef, Blocks, ID_MAIN_LONG, ID_MAIN_SHORT, ID_ORIGIN,
        ID_TOPLEVEL_XID,
    },
};

/// Length of a record's fixed header, in bytes.
pub(crate) const HEADER_LEN: usize = 24;
/// Longest record that PostgreSQL allocates memory for, in bytes.
pub(crate) const RECORD_LEN_MAX: u32 = 0x3FFF_FFFF;

/// Where things are in a record whose headers make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Where the headers end and the payload starts.
    payload_start: u32,
    main_len: u32,
    blocks: u8,
    origin: Option<u16>,
    toplevel_xid: Option<u32>,
}

/// A WAL record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    lsn: Lsn,
    end: Lsn,
    raw: &'a [u8],
    layout: Layout,
}

impl<'a> Record<'a> {
    /// Of bytes that [`Layout::read`] has been through.
    #[inline]
    pub(crate) fn new(lsn: Lsn, end: Lsn, raw: &'a [u8], layout: Layout) -> Record<'a> {
        debug_assert!(raw.len() >= HEADER_LEN);
        Record { lsn, end, raw, layout }
    }

    /// Where it starts; [`Lsn::INVALID`] for one that was decoded on its own, whose bytes do not
    /// say.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Where it ends: the Lsn of what it changes.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Where it is, for errors: its start, or its end for one that was decoded on its own.
    pub(crate) fn place(&self) -> Lsn {
        if self.lsn.is_valid() { self.lsn } else { self.end }
    }

    /// Where the record before it starts.
    #[must_use]
    pub fn prev(&self) -> Lsn {
        Lsn(u64_at(self.raw, 8).unwrap_or_default())
    }

    /// Its transaction; 0: none.
    #[must_use]
    pub fn xid(&self) -> u32 {
        u32_at(self.raw, 4).unwrap_or_default()
    }

    /// What kind of thing it changes.
    #[must_use]
    pub fn manager(&self) -> ManagerId {
        ManagerId(self.raw[17])
    }

    /// How it changes it (high 4 bits, the manager's own), and flags of the log's.
    #[must_use]
    pub fn info(&self) -> u8 {
        self.raw[16]
    }

    /// All of it: header, headers, payload.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// What belongs to no block.
    #[must_use]
    pub fn main_data(&self) -> &'a [u8] {
        &self.raw[self.raw.len() - self.layout.main_len as usize..]
    }

    /// The replication origin it came from.
    #[must_use]
    pub fn origin(&self) -> Option<u16> {
        self.layout.origin
    }

    /// The transaction that its transaction is part of, where the record says so.
    #[must_use]
    pub fn toplevel_xid(&self) -> Option<u32> {
        self.layout.toplevel_xid
    }

    /// The pages that it names.
    #[must_use]
    #[inline]
    pub fn blocks(&self) -> Blocks<'a> {
        let (headers, payload) = self.raw.split_at(self.layout.payload_start as usize);
        let lsn = self.place();
        Blocks::new(&headers[HEADER_LEN..], payload, self.layout.blocks, lsn)
    }

    /// Whether the rest of the segment behind it is unused.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        is_switch(self.raw)
    }
}

/// Whether it is XLOG_SWITCH, behind which the segment is unused.
#[inline]
pub(crate) fn is_switch(raw: &[u8]) -> bool {
    raw[17] == 0 && raw[16] & 0xF0 == 0x40
}

/// The checksum that a record should carry. It has its whole header.
#[inline]
pub(crate) fn checksum(raw: &[u8]) -> u32 {
    let (header, rest) = raw.split_at(HEADER_LEN);
    crc32c::crc32c_append(crc32c::crc32c(rest), &header[..20])
}

impl Layout {
    /// Reads and checks all headers of a record that has its length in bytes and at least a fixed
    /// header.
    #[inline]
    pub(crate) fn read(raw: &[u8], lsn: Lsn) -> std::result::Result<Layout, Box<LogCorruption>> {
        Layout::read_with(raw, lsn, |_, _, _| ())
    }

    /// As [`Layout::read`]; `visit` has each block's id and header, and where in the payload its
    /// own begins.
    #[inline(always)]
    fn read_with(
        raw: &[u8],
        lsn: Lsn,
        mut visit: impl FnMut(u8, &BlockHeader, usize),
    ) -> std::result::Result<Layout, Box<LogCorruption>> {
        let mut cursor = Cursor(raw.get(HEADER_LEN..).unwrap_or_default());
        let mut layout =
            Layout { payload_start: 0, main_len: 0, blocks: 0, origin: None, toplevel_xid: None };
        let mut payload = 0_usize;
        let (mut rel, mut next_id) = (None, 0_u8);
        while cursor.len() > payload {
            let short =
                || LogCorruption::new(lsn, "record header", "all of it", "the record's end");
            let id = cursor.u8().ok_or_else(short)?;
            match id {
                0..=BLOCK_ID_MAX => {
                    if id < next_id {
                        let expected = format_args!("{next_id} or more").to_string();
                        return Err(LogCorruption::new(lsn, "block id", expected, id));
                    }
                    let header = BlockHeader::read(&mut cursor, rel, lsn)?;
                    (rel, next_id) = (Some(header.rel()), id + 1);
                    visit(id, &header, payload);
                    layout.blocks += 1;
                    payload += header.payload_len();
                }
                ID_ORIGIN => layout.origin = Some(cursor.u16().ok_or_else(short)?),
                ID_TOPLEVEL_XID => layout.toplevel_xid = Some(cursor.u32().ok_or_else(short)?),
                ID_MAIN_SHORT | ID_MAIN_LONG => {
                    let len = match id {
                        ID_MAIN_SHORT => cursor.u8().map(u32::from),
                        _ => cursor.u32(),
                    };
                    layout.main_len = len.ok_or_else(short)?;
                    payload = payload.saturating_add(layout.main_len as usize);
                    break;
                }
                _ => {
                    let expected = "0 to 32 or 252 to 255";
                    return Err(LogCorruption::new(lsn, "header id", expected, id));
                }
            }
        }
        if cursor.len() != payload {
            let found = cursor.len();
            return Err(LogCorruption::new(lsn, "payload length", payload, found));
        }
        layout.payload_start = (raw.len() - payload) as u32;
        Ok(layout)
    }
}

/// Reads a record on its own, such as the bytes of a delta. `end` is the Lsn of the version: where
/// the record ends.
///
/// # Errors
/// [`Error::Corrupt`] for anything but one whole record with a right checksum.
pub fn decode_record(bytes: &[u8], end: Lsn) -> Result<Record<'_>> {
    let len = u32_at(bytes, 0).unwrap_or_default() as usize;
    if len < HEADER_LEN || len != bytes.len() {
        let expected = format_args!("{HEADER_LEN} or more, as the bytes are").to_string();
        let found = format_args!("{len} in {} bytes", bytes.len()).to_string();
        return Err(Error::corrupt(end, "record length", expected, found));
    }
    let (stored, computed) = (u32_at(bytes, 20).unwrap_or_default(), checksum(bytes));
    if stored != computed {
        let (computed, stored) = (format!("{computed:#010X}"), format!("{stored:#010X}"));
        return Err(Error::corrupt(end, "record checksum", computed, stored));
    }
    read_record(bytes, end)
}

/// As [`decode_record`], of bytes whose checksum the caller has checked.
#[inline]
pub(crate) fn read_record(bytes: &[u8], end: Lsn) -> Result<Record<'_>> {
    check_len(bytes, end)?;
    let layout = Layout::read(bytes, end).map_err(Error::Corrupt)?;
    Ok(Record::new(Lsn::INVALID, end, bytes, layout))
}

/// As [`read_record`], with the reference that names a page, if there is one.
#[inline]
pub(crate) fn read_record_of(
    bytes: &[u8],
    end: Lsn,
    page: RelPage,
) -> Result<(Record<'_>, Option<BlockRef<'_>>)> {
    check_len(bytes, end)?;
    let mut found = None;
    let layout = Layout::read_with(bytes, end, |id, header, at| {
        if found.is_none() && header.is_of(page) {
            found = Some((id, *header, at));
        }
    });
    let layout = layout.map_err(Error::Corrupt)?;
    let block = found.and_then(|(id, header, at)| {
        let mut payload = Cursor(&bytes[layout.payload_start as usize + at..]);
        header.with_payload(id, &mut payload, end)
    });
    Ok((Record::new(Lsn::INVALID, end, bytes, layout), block))
}

#[inline]
fn check_len(bytes: &[u8], end: Lsn) -> Result<()> {
    if bytes.len() >= HEADER_LEN {
        return Ok(());
    }
    let expected = format_args!("{HEADER_LEN} bytes or more").to_string();
    Err(Error::corrupt(end, "record", expected, bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_checksum(mut raw: Vec<u8>) -> Vec<u8> {
        let len = raw.len() as u32;
        raw[..4].copy_from_slice(&len.to_le_bytes());
        let crc = checksum(&raw);
        raw[20..24].copy_from_slice(&crc.to_le_bytes());
        raw
    }

    fn record(body: &[u8]) -> Vec<u8> {
        let mut raw = vec![0; HEADER_LEN];
        raw.extend_from_slice(body);
        with_checksum(raw)
    }

    #[test]
    fn origin_and_toplevel_transaction_are_read() {
        let raw = record(&[253, 7, 0, 252, 1, 2, 0, 0, 255, 3, b'a', b'b', b'c']);
        let record = decode_record(&raw, Lsn(64)).unwrap();
        assert_eq!((record.origin(), record.toplevel_xid()), (Some(7), Some(0x201)));
        assert_eq!((record.main_data(), record.blocks().len()), (&b"abc"[..], 0));
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let bodies: [&[u8]; 9] = [
            &[255, 4, 1, 2, 3],            // more main data than there is
            &[255, 2, 1, 2, 3],            // less
            &[254, 255, 255, 255, 255, 0], // far more
            &[100, 0, 0],                  // no such header
            &[0, 0x80, 0, 0, 1, 0, 0, 0],  // same relation as nothing
            &[0, 0x20, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], // data without a length
            &[0, 0x04, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], // no such fork
            &[0, 0x10, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], // image of nothing
            &[0, 0x10, 0, 0],                                                 // cut header
        ];
        for body in bodies {
            let raw = record(body);
            assert!(matches!(decode_record(&raw, Lsn(64)), Err(Error::Corrupt(_))), "{body:?}");
        }
        assert!(decode_record(&[], Lsn(64)).is_err());
        let mut raw = record(&[255, 1, 9]);
        raw[25] ^= 1;
        let error = decode_record(&raw, Lsn(64)).unwrap_err().to_string();
        assert!(error.starts_with("corrupt record checksum at 0/40: expected 0x"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let raw = record(&body);
            if let Ok(record) = decode_record(&raw, Lsn(64)) {
                let blocks = record.blocks().len();
                prop_assert_eq!(record.blocks().count(), blocks);
            }
            let _ = decode_record(&body, Lsn(64));
        }
    }
}
