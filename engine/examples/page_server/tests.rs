//! The server as a client meets it: greetings, limits, time-outs, metrics, its end by a signal.
//!
//! Each test starts a server as a process of its own: this very program, whose test
//! `server_process` becomes the server.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use pagestrata::{Durability, Lsn, Value};

use super::*;
use crate::{
    client_frame::{ResponseHead, decode_response_head, decode_welcome, greeting},
    frame::{RESPONSE_HEAD_LEN, Request, Source, Status, WELCOME_LEN, Welcome},
};

const ARGUMENTS: &str = "PAGE_SERVER_TEST_ARGUMENTS";
/// A test that waits longer than this has failed. No test passes because of it.
const WATCHDOG: Duration = Duration::from_secs(30);
const PAGE: [u8; 8192] = [7; 8192];

/// The server, when a test starts this program again for it.
#[test]
#[ignore = "a server, not a test"]
fn server_process() {
    let arguments = std::env::var(ARGUMENTS).expect("the arguments of the server");
    let arguments = std::iter::once("page_server").chain(arguments.split('\n'));
    run(&Args::parse_from(arguments)).unwrap_or_else(|error| panic!("{error}"));
}

struct TestServer {
    process: Child,
    said: BufReader<ChildStdout>,
    requests: SocketAddr,
    metrics: SocketAddr,
    _dir: tempfile::TempDir,
}

fn fill(dir: &Path) {
    let options = Options { durability: Durability::External, ..Options::default() };
    let (store, _) = Store::open(dir, options).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    for block in 0..4 {
        lease.put(Key::new(1, block), Lsn(2), Value::Image(&PAGE)).unwrap();
    }
    lease.commit(Lsn(2)).unwrap();
    drop(lease);
    store.close(Duration::ZERO).unwrap();
}

impl TestServer {
    fn start(more: &[&str]) -> TestServer {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        fill(&store);
        let free = "127.0.0.1:0";
        let mut arguments = vec!["--store", store.to_str().unwrap()];
        arguments.extend(["--listen", free, "--metrics", free]);
        arguments.extend(more);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::server_process", "--ignored", "--nocapture"])
            .env(ARGUMENTS, arguments.join("\n"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let (requests, metrics) = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "the server has ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                let (requests, rest) = rest.split_once(", metrics on http://").unwrap();
                let (metrics, _) = rest.split_once('/').unwrap();
                break (requests.parse().unwrap(), metrics.parse().unwrap());
            }
        };
        TestServer { process, said, requests, metrics, _dir: dir }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.requests).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream
    }

    fn greeted(&self) -> TcpStream {
        let mut stream = self.connect();
        assert_eq!(greet(&mut stream, &greeting()), (Welcome::Accepted, String::new()));
        stream
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        body.to_owned()
    }

    fn metric(&self, name: &str) -> u64 {
        let page = self.metrics();
        let value = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        value.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }

    /// Sends a signal; returns how the server ends, and what it has said until then.
    fn signal(&mut self, name: &str) -> (ExitStatus, String) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < WATCHDOG, "it has not ended in {WATCHDOG:?}");
            thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        (status, rest)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn hear_welcome(stream: &mut TcpStream) -> (Welcome, String) {
    let mut head = [0; WELCOME_LEN];
    stream.read_exact(&mut head).unwrap();
    let (welcome, version, len) = decode_welcome(&head).unwrap();
    assert_eq!(version, 1);
    let mut text = vec![0; len];
    stream.read_exact(&mut text).unwrap();
    (welcome, String::from_utf8(text).unwrap())
}

fn greet(stream: &mut TcpStream, greeting: &[u8]) -> (Welcome, String) {
    stream.write_all(greeting).unwrap();
    hear_welcome(stream)
}

fn ask(stream: &mut TcpStream, block: u32) -> (ResponseHead, Vec<u8>) {
    let request = Request { id: u64::from(block) + 100, key: Key::new(1, block), lsn: Lsn(2) };
    stream.write_all(&request.encode()).unwrap();
    let mut head = [0; RESPONSE_HEAD_LEN];
    stream.read_exact(&mut head).unwrap();
    let head = decode_response_head(&head).unwrap();
    let mut bytes = vec![0; head.len];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(head.id, request.id);
    (head, bytes)
}

/// Nothing more comes, and the connection is closed.
fn hear_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("closed before the watchdog");
    assert_eq!(rest, b"");
}

#[test]
fn a_client_of_the_same_version_gets_pages() {
    let server = TestServer::start(&[]);
    let mut client = server.greeted();
    for _ in 0..2 {
        let (head, page) = ask(&mut client, 3);
        assert_eq!((head.status, page == PAGE), (Status::Page, true));
        assert_ne!(head.source, Source::Unknown);
    }
    assert_eq!(ask(&mut client, 3).0.source, Source::Warm, "it was read before");
    let (head, bytes) = ask(&mut client, 4);
    assert_eq!((head.status, bytes.len()), (Status::NoPage, 0));
    client.shutdown(Shutdown::Write).unwrap();
    hear_end(&mut client);
}

#[test]
fn a_client_of_another_version_is_told() {
    let server = TestServer::start(&[]);
    let mut other = greeting();
    other[4] = 9;
    let mut client = server.connect();
    let (welcome, text) = greet(&mut client, &other);
    assert_eq!(welcome, Welcome::OtherProtocol);
    assert!(text.contains("expected \"PSPG\" and version 1"), "{text}");
    assert!(text.contains("found version 9"), "{text}");
    client.shutdown(Shutdown::Write).unwrap();
    hear_end(&mut client);
    let mut client = server.connect();
    let (welcome, text) = greet(&mut client, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(welcome, Welcome::OtherProtocol);
    assert!(text.contains("found \"GET \""), "{text}");
}

#[test]
fn there_is_a_limit_of_connections() {
    let server = TestServer::start(&["--connections", "2"]);
    let (mut first, second) = (server.greeted(), server.greeted());
    let mut third = server.connect();
    third.write_all(&greeting()).unwrap();
    let (welcome, text) = hear_welcome(&mut third);
    assert_eq!(welcome, Welcome::NoRoom);
    assert!(text.contains("all 2 connections are taken"), "{text}");
    drop(third);
    assert_eq!(server.metric("pagestrata_connections_refused_total"), 1);
    assert_eq!(ask(&mut first, 0).0.status, Status::Page, "the others go on");
    drop(second);
    let began = Instant::now();
    // The server notices the end of a connection when it gets to it.
    loop {
        let mut next = server.connect();
        if greet(&mut next, &greeting()).0 == Welcome::Accepted {
            break;
        }
        assert!(began.elapsed() < WATCHDOG, "there is no room again");
    }
}

#[test]
fn a_connection_without_requests_is_closed() {
    let server = TestServer::start(&["--idle-timeout", "0.05", "--request-timeout", "3600"]);
    hear_end(&mut server.greeted());
    assert_eq!(server.metric("pagestrata_connections_timed_out_total"), 1);
}

#[test]
fn what_is_sent_in_part_is_not_waited_for() {
    let server = TestServer::start(&["--idle-timeout", "3600", "--request-timeout", "0.05"]);
    let mut silent = server.connect();
    hear_end(&mut silent);
    let mut half_a_greeting = server.connect();
    half_a_greeting.write_all(&greeting()[..3]).unwrap();
    hear_end(&mut half_a_greeting);
    let mut half_a_request = server.connect();
    half_a_request.write_all(&greeting()).unwrap();
    assert_eq!(hear_welcome(&mut half_a_request).0, Welcome::Accepted);
    half_a_request.write_all(&[0; 20]).unwrap();
    hear_end(&mut half_a_request);
    assert_eq!(server.metric("pagestrata_connections_timed_out_total"), 3);
}

#[test]
fn answers_that_nobody_takes_end_their_connection() {
    let server = TestServer::start(&["--request-timeout", "0.05", "--in-flight", "1000"]);
    let mut client = server.greeted();
    client.set_write_timeout(Some(WATCHDOG)).unwrap();
    let request = Request { id: 1, key: Key::new(1, 0), lsn: Lsn(2) }.encode().repeat(1000);
    // The sockets' buffers do not hold all answers.
    while client.write_all(&request).is_ok() {}
    let began = Instant::now();
    while server.metric("pagestrata_connections_timed_out_total") == 0 {
        assert!(began.elapsed() < WATCHDOG, "its connection has not ended");
    }
}

/// Every line is what the text format allows, every metric has help and type before its values, and
/// histograms add up.
#[test]
fn the_metrics_page_is_well_formed() {
    let server = TestServer::start(&[]);
    let mut client = server.greeted();
    for block in [0, 1, 2, 3, 0, 1] {
        ask(&mut client, block);
    }
    let page = server.metrics();
    assert!(page.ends_with('\n'));
    let (mut helped, mut kinds) = (Vec::new(), Vec::new());
    let (mut buckets, mut counts) = (Vec::<(String, f64, u64)>::new(), Vec::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && !helped.contains(&name), "{line}");
            helped.push(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(helped.last(), Some(&name), "{line}");
            kinds.push((name, kind));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let (of, kind) = *kinds.last().unwrap();
            match kind {
                "counter" => assert!(name == of && name.ends_with("_total"), "{line}"),
                "gauge" => assert!(name == of && !name.ends_with("_total"), "{line}"),
                _ => assert!(kind == "histogram" && name.starts_with(of), "{line}"),
            }
            let labels = labels.strip_suffix('}').unwrap();
            if name.ends_with("_bucket") {
                let (labels, bound) = labels.split_once(",le=\"").unwrap();
                let bound = bound.strip_suffix('"').unwrap().replace("+Inf", "inf");
                buckets.push((labels.to_owned(), bound.parse().unwrap(), value as u64));
            } else if name.ends_with("_count") {
                counts.push((labels.to_owned(), value as u64));
            }
        }
    }
    assert_eq!(helped.len(), kinds.len());
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 6);
    for (labels, count) in counts {
        let of: Vec<_> = buckets.iter().filter(|(of, ..)| *of == labels).collect();
        assert!(of.is_sorted_by(|a, b| a.1 < b.1 && a.2 <= b.2), "{of:?}");
        assert_eq!(of.last().map(|(_, bound, n)| (*bound, *n)), Some((f64::INFINITY, count)));
    }
}

#[test]
fn signals_end_it_in_order() {
    for name in ["-TERM", "-INT"] {
        let mut server = TestServer::start(&[]);
        let mut client = server.greeted();
        ask(&mut client, 1);
        let (status, said) = server.signal(name);
        assert_eq!(status.code(), Some(0), "{name}: {said}");
        assert!(said.contains("closed: main at 0/2"), "{name}: {said}");
        hear_end(&mut client);
    }
}
