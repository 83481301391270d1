//! A server that is made up here: it streams the sample's log and whatever a test appends to it, in
//! the way that the test wants.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use pagestrata::Lsn;
use pagestrata_postgres::WalReader;

use crate::{
    layout::{Bytes, Log, PAGE},
    messages::{message, row},
    support::{BEGIN, END, SYSTEM},
};

/// A test that waits longer than this has failed. No test passes because of it.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);
pub(crate) const SEGMENT: u64 = 1 << 20;
/// A walsender's pieces are no longer.
const PIECE_LEN: usize = 128 << 10;

/// The sample's log, cut off at its last record, to append to.
pub(crate) fn sample_log(dir: &Path) -> Log<Bytes> {
    let mut files: Vec<_> =
        fs::read_dir(dir.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = files[0].file_name().unwrap().to_str().unwrap();
    let start = u64::from_str_radix(&name[16..], 16).unwrap() * SEGMENT;
    let bytes = files.iter().flat_map(|file| fs::read(file).unwrap());
    let bytes: Vec<u8> = bytes.take((END.0 - start) as usize).collect();
    let storage = pagestrata_postgres_ingest::storage();
    let wal = dir.join("wal");
    let mut reader = WalReader::open(storage, &wal, BEGIN, Some(END), Some(SYSTEM)).unwrap();
    let mut last = 0;
    while let Some(record) = reader.next_record().unwrap() {
        last = record.lsn().0;
    }
    let mut log = Log::new(Bytes { start, bytes }, SEGMENT, start);
    (log.system_id, log.next, log.prev) = (SYSTEM, END.0, last);
    log
}

/// Appends records that change no page, of about `len` bytes in all. Returns where the last one
/// ends.
pub(crate) fn append_messages(log: &mut Log<Bytes>, len: u64) -> Lsn {
    let end = log.next + len;
    while log.next < end {
        log.append(21, 0, &[7; 2000]);
    }
    Lsn(log.next)
}

/// Ends the segment, as `pg_switch_wal` does. Returns where the next one starts.
pub(crate) fn append_switch(log: &mut Log<Bytes>) -> Lsn {
    log.append_body(0, 0x40, &[]);
    log.next = log.next.next_multiple_of(SEGMENT);
    let len = (log.next - log.sink.start) as usize;
    log.sink.bytes.resize(len, 0);
    // The rest of the segment is pages without records.
    let mut page = log.prev.next_multiple_of(PAGE);
    while page < log.next {
        log.page(page, 0, 0);
        page += PAGE;
    }
    Lsn(log.next)
}

/// What a server has heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Where streams were to start.
    pub(crate) starts: Vec<Lsn>,
    /// Written, flushed and applied of each status.
    pub(crate) statuses: Vec<[Lsn; 3]>,
    pub(crate) connections: usize,
}

/// What a server hears, as it comes.
#[derive(Clone, Default)]
pub(crate) struct Ears(Arc<(Mutex<Heard>, Condvar)>);

impl Ears {
    fn hear(&self, what: impl FnOnce(&mut Heard)) {
        what(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Waits until what was heard is as it should be, and returns what `found` says of it.
    #[track_caller]
    pub(crate) fn wait<T>(&self, mut found: impl FnMut(&Heard) -> Option<T>) -> T {
        let mut heard = self.0.0.lock().unwrap();
        let began = Instant::now();
        loop {
            if let Some(found) = found(&heard) {
                return found;
            }
            assert!(
                began.elapsed() < WATCHDOG,
                "not heard in {WATCHDOG:?}: starts {:?}, {} statuses, the last {:?}",
                heard.starts,
                heard.statuses.len(),
                heard.statuses.last()
            );
            heard = self.0.1.wait_timeout(heard, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// Waits until the server is told that everything up to `lsn` is durable.
    #[track_caller]
    pub(crate) fn wait_flushed(&self, lsn: Lsn) {
        self.wait(|heard| heard.statuses.iter().any(|status| status[1] >= lsn).then_some(()));
    }

    /// The first time that a client connects.
    #[track_caller]
    pub(crate) fn wait_connected(&self) {
        self.wait(|heard| (heard.connections > 0).then_some(()));
    }
}

/// One connection to a server.
pub(crate) struct Session {
    socket: TcpStream,
    ears: Ears,
}

impl Session {
    pub(crate) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    fn hear_message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.socket.read_exact(&mut head)?;
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4;
        let mut body = vec![0; len];
        self.socket.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// Hears the startup message and says nothing.
    pub(crate) fn hear_startup(&mut self) -> io::Result<()> {
        let mut len = [0; 4];
        self.socket.read_exact(&mut len)?;
        self.socket.read_exact(&mut vec![0; u32::from_be_bytes(len) as usize - 4])
    }

    /// Lets the client in.
    pub(crate) fn let_in(&mut self) -> io::Result<()> {
        self.hear_startup()?;
        let version = message(b'S', b"server_version\x0015.4\0");
        self.say(&[message(b'R', &[0; 4]), version, message(b'Z', b"I")].concat())
    }

    /// Lets the client in and answers its commands until it wants the log; returns from where on.
    pub(crate) fn begin(&mut self) -> io::Result<Lsn> {
        self.let_in()?;
        loop {
            let (_, command) = self.hear_message()?;
            let command = String::from_utf8(command[..command.len() - 1].to_vec()).unwrap();
            let answer = match command.split(' ').next().unwrap() {
                "IDENTIFY_SYSTEM" => row(&[&SYSTEM.to_string(), "1", "0/0", ""]),
                "SHOW" if command.contains("wal_segment_size") => row(&["1MB"]),
                "SHOW" => row(&["8192"]),
                "READ_REPLICATION_SLOT" => row(&["physical", "0/0", "1"]),
                "START_REPLICATION" => {
                    let lsn = command.split(' ').find_map(|word| word.parse::<Lsn>().ok());
                    let lsn = lsn.filter(|lsn| lsn.is_valid()).unwrap();
                    self.ears.hear(|heard| heard.starts.push(lsn));
                    self.say(&message(b'W', &[0; 3]))?;
                    return Ok(lsn);
                }
                other => panic!("{other}"),
            };
            self.say(&answer)?;
        }
    }

    /// Sends the log up to its end, which every piece states as the server's.
    pub(crate) fn stream(&mut self, log: &Log<Bytes>, from: Lsn) -> io::Result<()> {
        let end = log.sink.start + log.sink.bytes.len() as u64;
        let bytes = &log.sink.bytes[(from.0 - log.sink.start) as usize..];
        for (n, piece) in bytes.chunks(PIECE_LEN).enumerate() {
            let start = from.0 + (n * PIECE_LEN) as u64;
            let numbers = [start, end, 0].map(u64::to_be_bytes).concat();
            self.say(&message(b'd', &[b"w", &numbers[..], piece].concat()))?;
        }
        Ok(())
    }

    /// Hears statuses until the client ends the stream or hangs up.
    pub(crate) fn hear_all(&mut self) -> io::Result<()> {
        loop {
            match self.hear_message()? {
                (b'd', body) if body[0] == b'r' => {
                    let lsn =
                        |at: usize| Lsn(u64::from_be_bytes(*body[at..].first_chunk().unwrap()));
                    let status = [lsn(1), lsn(9), lsn(17)];
                    self.ears.hear(|heard| heard.statuses.push(status));
                }
                (b'c', _) => {
                    let end = [message(b'c', &[]), message(b'C', b"COPY\0"), message(b'Z', b"I")];
                    self.say(&end.concat())?;
                }
                _ => return Ok(()),
            }
        }
    }
}

/// Starts a server that does this with each connection. Returns how to connect to it.
pub(crate) fn serve(
    talk: impl Fn(&mut Session) -> io::Result<()> + Send + Sync + 'static,
) -> (String, Ears) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ears = Ears::default();
    let for_sessions = ears.clone();
    let talk = Arc::new(talk);
    // Both kinds of thread end with the test's process.
    thread::spawn(move || {
        for socket in listener.incoming() {
            let (talk, ears) = (talk.clone(), for_sessions.clone());
            ears.hear(|heard| heard.connections += 1);
            let mut session = Session { socket: socket.unwrap(), ears };
            thread::spawn(move || {
                // It fails when the client hangs up.
                let _ = talk(&mut session);
                let _ = session.socket.shutdown(Shutdown::Both);
            });
        }
    });
    (format!("host=127.0.0.1 port={port} user=me"), ears)
}

/// A keep-alive that wants no answer.
pub(crate) fn keep_alive(end: Lsn) -> Vec<u8> {
    keep_alive_with(end, 0)
}

/// A keep-alive that wants an answer if this is 1.
pub(crate) fn keep_alive_with(end: Lsn, wants_answer: u8) -> Vec<u8> {
    let numbers = [end.0, 0].map(u64::to_be_bytes).concat();
    message(b'd', &[b"k", &numbers[..], &[wants_answer]].concat())
}

pub(crate) fn notice() -> Vec<u8> {
    message(b'N', b"SNOTICE\0C00000\0Mhello\0\0")
}
