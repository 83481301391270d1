//! Servers that are made up here, to say what no PostgreSQL says.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use fastrand::Rng;
use pagestrata_layers::Lsn;
use pagestrata_postgres::live::{
    Connection, ConnectionInfo, Error, Event, Progress, Result, Server, Timing,
};

use super::messages::{message, row};

const WAIT: Duration = Duration::from_secs(20);

/// One connection's worth of a server.
fn serve(talk: impl FnOnce(&mut TcpStream) + Send + 'static) -> (ConnectionInfo, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        talk(&mut socket);
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let info = format!("host=127.0.0.1 port={port} user=me password=secret");
    (info.parse().unwrap(), server)
}

/// Says all of it at once, whatever the client says.
fn say(bytes: Vec<u8>) -> (ConnectionInfo, JoinHandle<()>) {
    serve(move |socket| {
        let _ = socket.write_all(&bytes);
    })
}

fn request(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), rest].concat())
}

fn welcome(version: &str) -> Vec<u8> {
    let version = format!("server_version\0{version}\0");
    let notice = b"SNOTICE\0C00000\0Mhello\0\0";
    [
        request(0, &[]),
        message(b'S', version.as_bytes()),
        message(b'K', &[0; 8]),
        message(b'N', notice),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn refusal(severity: &str, code: &str) -> Vec<u8> {
    message(
        b'E',
        format!("S{severity}\0V{severity}\0C{code}\0Mno\x1b[31m\0Hperhaps\0\0").as_bytes(),
    )
}

/// A whole session, to the end of a timeline.
fn session() -> Vec<u8> {
    let mut wal = vec![b'w'];
    wal.extend([0x100_u64, 0x200, 5].map(u64::to_be_bytes).concat());
    wal.extend([7; 300]);
    let mut keep_alive = vec![b'k'];
    keep_alive.extend([0x300_u64, 6].map(u64::to_be_bytes).concat());
    keep_alive.push(1);
    [
        welcome("15.4 (of somebody)"),
        row(&["7000000000000000001", "3", "0/5000", ""]),
        row(&["8192"]),
        row(&["8192"]),
        row(&["16MB"]),
        message(b'W', &[0; 3]),
        message(b'd', &wal),
        message(b'd', &keep_alive),
        message(b'c', &[]),
        row(&["4", "0/6000"]),
    ]
    .concat()
}

/// What a client sees of a session: the server, bytes of log, the next timeline.
fn follow(info: &ConnectionInfo) -> Result<(Server, usize, (u32, Lsn))> {
    let mut connection = Connection::open(info)?;
    let server = connection.identify()?;
    let mut replication =
        connection.start(None, server.log.timeline, server.flushed, Timing::default())?;
    let mut len = 0;
    loop {
        match replication.next_event(WAIT)? {
            Event::Wal { bytes, .. } => len += bytes.len(),
            Event::KeepAlive { .. } | Event::Quiet => {}
            Event::TimelineEnded { next, at } => return Ok((server, len, (next, at))),
        }
        replication.report(Progress::default());
    }
}

#[test]
fn a_session_is_followed_to_the_end_of_its_timeline() {
    let (info, server) = say(session());
    let (identity, len, end) = follow(&info).unwrap();
    assert_eq!((identity.log.timeline, identity.log.segment_size), (3, 16 << 20));
    assert_eq!((identity.flushed, len, end), (Lsn(0x5000), 300, (4, Lsn(0x6000))));
    server.join().unwrap();
}

#[test]
fn damaged_sessions_are_followed_or_refused() {
    let mut random = Rng::with_seed(0xA076_1D64_78BD_642F);
    let (mut followed, mut refused) = (0, 0);
    for _ in 0..1_000 {
        let mut bytes = session();
        for _ in 0..=random.u64(..3) {
            let at = random.u64(..bytes.len() as u64) as usize;
            match random.u64(..4) {
                0 => bytes.truncate(at + 1),
                1 => {
                    bytes.remove(at);
                }
                _ => bytes[at] = random.u8(..),
            }
        }
        let (info, server) = say(bytes);
        match follow(&info) {
            Ok(_) => followed += 1,
            Err(_) => refused += 1,
        }
        server.join().unwrap();
    }
    println!("1000 damaged sessions: {followed} followed, {refused} refused, 0 panics");
    assert!(followed > 0 && refused > 0);
}

/// How a client is turned away by a server that says this.
fn turned_away(bytes: Vec<u8>) -> Error {
    let (info, server) = say(bytes);
    let error = Connection::open(&info).unwrap_err();
    server.join().unwrap();
    let text = error.to_string();
    assert!(!text.contains("secret") && !text.contains('\x1b'), "{text}");
    error
}

#[test]
fn what_is_wrong_is_named() {
    let error = turned_away(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    let error = turned_away(message(b'R', &[0; 3]));
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    for (code, name) in [(7, "GSSAPI"), (9, "SSPI"), (99, "number 99")] {
        let error = turned_away(request(code, &[]));
        assert!(matches!(error, Error::Authentication { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = turned_away(request(10, b"SCRAM-SHA-256-PLUS\0OTHER\0\0"));
    assert!(error.to_string().contains("no SASL mechanism"), "{error}");
    let error = turned_away(welcome("16.1"));
    assert!(matches!(error, Error::OtherServer { .. }), "{error}");
    assert!(!error.is_transient());
    for (code, is_transient) in [("28P01", false), ("57P03", true), ("53300", true)] {
        let error = turned_away(refusal("FATAL", code));
        assert!(error.to_string().contains(code), "{error}");
        assert_eq!(error.is_transient(), is_transient);
    }
    let error = turned_away(Vec::new());
    assert!(matches!(error, Error::Closed { .. }) && error.is_transient(), "{error}");
}

/// A server that lets in whoever asks does not know the password, and perhaps wants to see it.
#[test]
fn a_server_has_to_prove_itself_too() {
    let offer = request(10, b"SCRAM-SHA-256\0\0");
    let error = turned_away([offer.clone(), request(0, &[])].concat());
    assert!(error.to_string().contains("out of order"), "{error}");
    let error = turned_away([offer.clone(), request(11, b"r=other,s=AAAA,i=4096")].concat());
    assert!(error.to_string().contains("SCRAM-SHA-256"), "{error}");
    let (info, server) = serve(move |socket| {
        let mut heard = vec![0; 4096];
        let _ = socket.read(&mut heard).unwrap();
        socket.write_all(&offer).unwrap();
        let len = socket.read(&mut heard).unwrap();
        let heard = String::from_utf8_lossy(&heard[..len]).into_owned();
        let nonce = heard.split_once("r=").unwrap().1;
        let more = format!("r={nonce}more,s=AAAA,i=4096");
        socket.write_all(&request(11, more.as_bytes())).unwrap();
        socket.write_all(&request(12, b"v=AAAA")).unwrap();
        socket.write_all(&welcome("15.0")).unwrap();
    });
    let error = Connection::open(&info).unwrap_err();
    assert!(error.to_string().contains("verification"), "{error}");
    server.join().unwrap();
}

#[test]
fn a_refused_command_leaves_the_connection_usable() {
    let refused = [refusal("ERROR", "42704"), message(b'Z', b"I")].concat();
    let (info, server) = say([welcome("15.4"), refused, row(&["on"])].concat());
    let mut connection = Connection::open(&info).unwrap();
    assert!(matches!(connection.show("nonsense"), Err(Error::Server { .. })));
    assert_eq!(connection.show("fsync").unwrap(), "on");
    connection.close().unwrap();
    server.join().unwrap();
}

#[test]
fn a_silent_server_is_given_up() {
    let (info, server) = serve(|socket| {
        socket.write_all(&[welcome("15.4"), message(b'W', &[0; 3])].concat()).unwrap();
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard);
        // It was asked for an answer before it was given up.
        assert!(heard.windows(6).any(|bytes| bytes == [b'd', 0, 0, 0, 38, b'r']));
        assert_eq!(heard.last(), Some(&1));
    });
    let timing = Timing {
        status_interval: Duration::from_secs(10),
        silence_max: Duration::from_millis(300),
    };
    let connection = Connection::open(&info).unwrap();
    let mut replication = connection.start(None, 1, Lsn(0x100), timing).unwrap();
    assert_eq!(replication.next_event(Duration::from_millis(1)).unwrap(), Event::Quiet);
    let error = replication.next_event(WAIT).unwrap_err();
    assert!(matches!(error, Error::Silent { .. }) && error.is_transient(), "{error}");
    drop(replication);
    server.join().unwrap();
}

/// Runs `work` on a thread of its own; fails if that does not end.
fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, ended) = std::sync::mpsc::channel();
    thread::spawn(move || sender.send(work()));
    ended.recv_timeout(WAIT).expect("it does not end")
}

/// A server that begins to stream, and then sends this without end.
fn flood(bytes: Vec<u8>) -> (ConnectionInfo, JoinHandle<()>) {
    serve(move |socket| {
        let begin = [welcome("15.4"), message(b'W', &[0; 3])].concat();
        let many = bytes.repeat(1000);
        let mut said = socket.write_all(&begin);
        while said.is_ok() {
            said = socket.write_all(&many);
        }
    })
}

fn replication(info: &ConnectionInfo) -> pagestrata_postgres::live::Replication {
    Connection::open(info).unwrap().start(None, 1, Lsn(0x100), Timing::default()).unwrap()
}

#[test]
fn a_wait_for_the_log_ends_in_a_flood_of_notices() {
    let (info, server) = flood(message(b'N', b"SNOTICE\0C00000\0Mhello\0\0"));
    ends(move || {
        let mut replication = replication(&info);
        assert_eq!(replication.next_event(Duration::from_millis(50)).unwrap(), Event::Quiet);
    });
    server.join().unwrap();
}

#[test]
fn a_stream_is_finished_in_a_flood_of_log() {
    let wal = [&b"w"[..], &[0x100_u64, 0x200, 5].map(u64::to_be_bytes).concat(), &[7; 100]];
    let (info, server) = flood(message(b'd', &wal.concat()));
    let error = ends(move || replication(&info).finish(Duration::from_millis(200)).unwrap_err());
    println!("{error}");
    assert!(error.is_transient(), "{error}");
    server.join().unwrap();
}

/// Memory is taken for what a client can use, not for what a server states or repeats.
#[test]
fn what_is_too_long_or_too_much_is_refused() {
    let mut too_long = vec![b'd'];
    too_long.extend((2_u32 << 20).to_be_bytes());
    let (info, server) = say([welcome("15.4"), message(b'W', &[0; 3]), too_long].concat());
    let error = replication(&info).next_event(WAIT).unwrap_err();
    assert!(error.to_string().contains("length of CopyData: expected 4 to 1048580"), "{error}");
    server.join().unwrap();

    let one = row(&["on"]);
    let data = &one[7..one.iter().position(|byte| *byte == b'C').unwrap()];
    let (info, server) = say([welcome("15.4"), data.repeat(6)].concat());
    let error = Connection::open(&info).unwrap().show("fsync").unwrap_err();
    assert!(error.to_string().contains("DataRow"), "{error}");
    server.join().unwrap();

    let long = format!("SERROR\0VERROR\0C42704\0M{}\0\0", "no ".repeat(200_000));
    let (info, server) =
        say([welcome("15.4"), message(b'E', long.as_bytes()), message(b'Z', b"I")].concat());
    let error = Connection::open(&info).unwrap().show("fsync").unwrap_err();
    assert!(error.to_string().len() < 5_000, "{} bytes of error", error.to_string().len());
    drop(server);

    let (info, server) = say([welcome("15.4"), row(&[&"9".repeat(500_000), "1"])].concat());
    let error = Connection::open(&info).unwrap().identify().unwrap_err();
    assert!(error.to_string().len() < 5_000, "{} bytes of error", error.to_string().len());
    drop(server);
}
