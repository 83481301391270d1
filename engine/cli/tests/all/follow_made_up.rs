//! `follow` against servers that are made up: idle, silent, flooding, or not there at all.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use pagestrata::Lsn;

use crate::{
    layout::{Bytes, Log},
    made_up::{
        Ears, Session, WATCHDOG, append_messages, append_switch, keep_alive, keep_alive_with,
        notice, sample_log, serve,
    },
    messages::message,
    support::{END, command, imported, ingested},
};

/// `follow` as a process of its own, with its reports.
struct Follower {
    child: Child,
    reports: mpsc::Receiver<serde_json::Value>,
}

impl Follower {
    fn start(dir: &Path, conninfo: &str, more: &str) -> Follower {
        let store = dir.join("store");
        let start = ["--json", "follow", "--store", store.to_str().unwrap(), "--conninfo"];
        let errors = File::create(dir.join("stderr")).unwrap();
        let mut child = command()
            .args(start)
            .arg(conninfo)
            .args(more.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, reports) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Follower { child, reports }
    }

    /// The first report of which this is true.
    #[track_caller]
    fn report(&self, is_it: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        loop {
            let report = self.reports.recv_timeout(WATCHDOG).expect("a report before the watchdog");
            if is_it(&report) {
                return report;
            }
        }
    }

    fn stop(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// How it ends by itself; fails if it does not.
    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let began = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < WATCHDOG, "it has not ended in {WATCHDOG:?}");
            thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn stop_and_wait(mut self) {
        self.stop();
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves one log, and listens until the follower has gone.
fn serve_log(log: Log<Bytes>) -> (String, Ears) {
    serve(move |session| {
        let from = session.begin()?;
        session.stream(&log, from)?;
        session.hear_all()
    })
}

fn lsn(report: &serde_json::Value, field: &str) -> Lsn {
    report[field].as_str().unwrap().parse().unwrap()
}

fn last_record(dir: &Path) -> Lsn {
    let (_store, timeline) =
        pagestrata_postgres_ingest::open_existing(&dir.join("store"), "main").unwrap();
    timeline.last_record_lsn()
}

#[test]
fn log_that_changes_no_page_is_confirmed_and_not_asked_for_again() {
    let dir = ingested();
    let mut log = sample_log(dir.path());
    let end = append_messages(&mut log, 300_000);
    let (conninfo, ears) = serve_log(log);
    let follower = Follower::start(dir.path(), &conninfo, "--flush-interval 1 --slot pages");
    ears.wait_flushed(end);
    // Without a chance to say goodbye: what was confirmed has to be in the store.
    drop(follower);
    assert_eq!(last_record(dir.path()), end);
    let follower = Follower::start(dir.path(), &conninfo, "--flush-interval 1 --slot pages");
    let starts = ears.wait(|heard| (heard.starts.len() == 2).then(|| heard.starts.clone()));
    assert_eq!(starts, [END, end].map(|lsn| Lsn(lsn.0 & !8191)));
    follower.stop_and_wait();
}

#[test]
fn what_the_server_keeps_is_bounded_in_bytes() {
    let dir = imported();
    let mut log = sample_log(dir.path());
    let end = append_messages(&mut log, 300_000);
    let (conninfo, ears) = serve_log(log);
    let follower =
        Follower::start(dir.path(), &conninfo, "--flush-interval 3600 --flush-bytes 65536");
    // An hour is not waited for.
    ears.wait_flushed(Lsn(end.0 - 65536));
    follower.stop_and_wait();
    assert_eq!(last_record(dir.path()), end, "what came is kept when it ends");
}

#[test]
fn there_is_no_lag_behind_a_segment_switch() {
    let dir = ingested();
    let mut log = sample_log(dir.path());
    append_messages(&mut log, 10_000);
    let end = append_switch(&mut log);
    let (conninfo, _ears) = serve_log(log);
    let intervals = "--flush-interval 3600 --report-interval 1";
    let follower = Follower::start(dir.path(), &conninfo, intervals);
    let mut reports = Vec::new();
    for _ in 0..3 {
        let report = follower.report(|report| lsn(report, "server_end") == end);
        reports.push((report["lag_bytes"].clone(), report["lag_seconds"].as_f64().unwrap()));
    }
    assert!(reports.iter().all(|(bytes, seconds)| *bytes == 0 && *seconds == 0.0), "{reports:?}");
    follower.stop_and_wait();
}

#[test]
fn lag_is_what_the_server_has_and_the_timeline_has_not() {
    let dir = ingested();
    let log = sample_log(dir.path());
    let ahead = Lsn(END.0 + 5000);
    let (conninfo, _ears) = serve(move |session| {
        let from = session.begin()?;
        session.stream(&log, from)?;
        session.say(&keep_alive(ahead))?;
        session.hear_all()
    });
    let follower = Follower::start(dir.path(), &conninfo, "--report-interval 1");
    let is_it = |report: &serde_json::Value| lsn(report, "server_end") == ahead;
    let first = follower.report(is_it);
    let second = follower.report(is_it);
    assert_eq!([&first["lag_bytes"], &second["lag_bytes"]], [5000, 5000]);
    let seconds = [&first, &second].map(|report| report["lag_seconds"].as_f64().unwrap());
    assert!(seconds[0] < seconds[1], "{seconds:?}");
    follower.stop_and_wait();
}

/// Ends in time although the server does this.
fn ends(talk: impl Fn(&mut Session) -> std::io::Result<()> + Send + Sync + 'static) {
    let dir = ingested();
    let (conninfo, ears) = serve(talk);
    let follower = Follower::start(dir.path(), &conninfo, "");
    ears.wait_connected();
    // The server has got to what it does then; if it has not, the test is only weaker.
    thread::sleep(std::time::Duration::from_millis(300));
    follower.stop_and_wait();
}

#[test]
fn a_silent_server_holds_up_no_end() {
    ends(|session| {
        session.hear_startup()?;
        thread::sleep(2 * WATCHDOG);
        Ok(())
    });
}

#[test]
fn a_silent_server_holds_up_no_end_of_a_stream() {
    ends(|session| {
        session.begin()?;
        thread::sleep(2 * WATCHDOG);
        Ok(())
    });
}

fn flood(session: &mut Session, message: &[u8]) -> std::io::Result<()> {
    let many = message.repeat(1000);
    loop {
        session.say(&many)?;
    }
}

#[test]
fn notices_hold_up_no_end() {
    ends(|session| {
        session.hear_startup()?;
        flood(session, &notice())
    });
    ends(|session| {
        session.begin()?;
        flood(session, &notice())
    });
}

#[test]
fn parameters_and_rows_hold_up_no_end() {
    ends(|session| {
        session.hear_startup()?;
        session.say(&message(b'R', &[0; 4]))?;
        flood(session, &message(b'S', b"server_version\x0015.4\0"))
    });
    ends(|session| {
        session.let_in()?;
        flood(session, &message(b'T', &0_u16.to_be_bytes()))
    });
}

#[test]
fn keep_alives_hold_up_no_end() {
    ends(|session| {
        session.begin()?;
        flood(session, &keep_alive(END))
    });
}

/// Nobody reads the answers that it wants: they fill the sockets' buffers.
#[test]
fn answers_that_nobody_takes_hold_up_no_end() {
    ends(|session| {
        session.begin()?;
        flood(session, &keep_alive_with(END, 1))
    });
}

#[test]
fn waiting_to_connect_again_holds_up_no_end() {
    ends(|_| Ok(()));
}

/// Nothing answers, as behind a firewall: the queue of a listener is full.
#[test]
fn a_server_that_cannot_be_reached_holds_up_no_end() {
    let dir = ingested();
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let wait = std::time::Duration::from_millis(200);
    let queued: Vec<_> =
        (0..4).map_while(|_| std::net::TcpStream::connect_timeout(&address, wait).ok()).collect();
    assert!(queued.len() < 4, "its queue is full");
    let conninfo = format!("host=127.0.0.1 port={} user=me connect_timeout=600", address.port());
    let follower = Follower::start(dir.path(), &conninfo, "");
    thread::sleep(std::time::Duration::from_millis(500));
    follower.stop_and_wait();
}
