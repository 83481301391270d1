//! PostgreSQL's log as a server lays it out, for tests and fuzzing: records over pages and
//! segments, each with the header it has there. Where the bytes go is the caller's.

pub(crate) const PAGE: u64 = 8192;
/// The cluster that a new log says it is of.
pub(crate) const SYSTEM_ID: u64 = 77;

/// Where the bytes of a log go, by their Lsn. What is between them is zero.
pub(crate) trait Sink {
    fn write(&mut self, lsn: u64, bytes: &[u8]);
}

/// The bytes of a log in memory, from an Lsn on.
pub(crate) struct Bytes {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Sink for Bytes {
    fn write(&mut self, lsn: u64, bytes: &[u8]) {
        let at = (lsn - self.start) as usize;
        self.bytes.resize(self.bytes.len().max(at + bytes.len()), 0);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Writes records one behind the other.
pub(crate) struct Log<S> {
    pub(crate) sink: S,
    pub(crate) system_id: u64,
    segment_size: u64,
    /// Where the next record goes; behind a page's header, if a page begins there.
    pub(crate) next: u64,
    /// Where the last one began.
    pub(crate) prev: u64,
}

/// The name of a segment's file.
pub(crate) fn segment_name(timeline: u32, number: u64, segment_size: u64) -> String {
    let per_upper = (1 << 32) / segment_size;
    format!("{timeline:08X}{:08X}{:08X}", number / per_upper, number % per_upper)
}

/// The checksum of a record.
pub(crate) fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20])
}

/// Makes the length and the checksum those of the bytes.
pub(crate) fn seal(record: &mut [u8]) {
    let len = record.len() as u32;
    record[..4].copy_from_slice(&len.to_le_bytes());
    let crc = checksum(record);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
}

impl Log<Bytes> {
    /// An empty log in memory that begins at `start`, the first byte of a segment.
    pub(crate) fn in_memory(segment_size: u64, start: u64) -> Log<Bytes> {
        Log::new(Bytes { start, bytes: Vec::new() }, segment_size, start)
    }
}

impl<S: Sink> Log<S> {
    /// An empty log that begins at `start`, the first byte of a segment.
    pub(crate) fn new(sink: S, segment_size: u64, start: u64) -> Log<S> {
        Log { sink, system_id: SYSTEM_ID, segment_size, next: start, prev: 8 }
    }

    /// Starts the page of address `lsn`; returns where its contents start.
    pub(crate) fn page(&mut self, lsn: u64, info: u16, remaining: u32) -> u64 {
        let first = lsn.is_multiple_of(self.segment_size);
        let mut header = Vec::new();
        header.extend(0xD110_u16.to_le_bytes());
        header.extend((info | if first { 2 } else { 0 }).to_le_bytes());
        header.extend(1_u32.to_le_bytes());
        header.extend(lsn.to_le_bytes());
        header.extend(u64::from(remaining).to_le_bytes());
        if first {
            header.extend(self.system_id.to_le_bytes());
            header.extend((self.segment_size as u32).to_le_bytes());
            header.extend((PAGE as u32).to_le_bytes());
        }
        self.sink.write(lsn, &header);
        lsn + header.len() as u64
    }

    /// Appends a record that is nothing but its main data; returns where it starts.
    pub(crate) fn append(&mut self, manager: u8, info: u8, main: &[u8]) -> u64 {
        let mut body = vec![254];
        body.extend((main.len() as u32).to_le_bytes());
        body.extend(main);
        self.append_body(manager, info, &body)
    }

    /// Appends a record with this behind its header; returns where it starts.
    pub(crate) fn append_body(&mut self, manager: u8, info: u8, body: &[u8]) -> u64 {
        let mut record = vec![0; 24];
        record[8..16].copy_from_slice(&self.prev.to_le_bytes());
        (record[16], record[17]) = (info, manager);
        record.extend_from_slice(body);
        seal(&mut record);
        if self.next.is_multiple_of(PAGE) {
            self.next = self.page(self.next, 0, 0);
        }
        let (start, mut at, mut rest) = (self.next, self.next, &record[..]);
        loop {
            let (here, more) = rest.split_at(rest.len().min((PAGE - at % PAGE) as usize));
            self.sink.write(at, here);
            at += here.len() as u64;
            if more.is_empty() {
                break;
            }
            at = self.page(at, 1, more.len() as u32);
            rest = more;
        }
        (self.prev, self.next) = (start, at.next_multiple_of(8));
        start
    }
}
