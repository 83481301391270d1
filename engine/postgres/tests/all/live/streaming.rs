//! The log of a running server, streamed: the same records that lie in its files afterwards.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use pagestrata_layers::Lsn;
use pagestrata_postgres::{
    StreamDecoder, WalReader,
    live::{
        Connection, ConnectionInfo, Error, Event, Lifetime, Progress, Replication, SlotName, Timing,
    },
};

use super::server::PostgresServer;
use crate::{
    captures,
    stream::{Seen, all_of, seen},
};

const PATIENCE: Duration = Duration::from_secs(120);
const SETTINGS: &str = "wal_sender_timeout = '3s'\nautovacuum = off";
const TIMING: Timing =
    Timing { status_interval: Duration::from_millis(500), silence_max: Duration::from_secs(10) };

fn socket_info(server: &PostgresServer) -> ConnectionInfo {
    server.conninfo(server.socket_dir(), "user=postgres").parse().unwrap()
}

fn tcp_info(server: &PostgresServer, rest: &str) -> ConnectionInfo {
    server.conninfo("127.0.0.1", rest).parse().unwrap()
}

/// Stores nothing but what it has seen, and says that this is durable.
struct Follower {
    info: ConnectionInfo,
    slot: SlotName,
    decoder: StreamDecoder,
    replication: Option<Replication>,
    records: Vec<Seen>,
    connections: u32,
}

impl Follower {
    /// From the last checkpoint on.
    fn new(server: &PostgresServer) -> Follower {
        let from = server.sql("checkpoint\nselect checkpoint_lsn from pg_control_checkpoint()");
        let info = socket_info(server);
        let slot: SlotName = "follower".parse().unwrap();
        let mut connection = Connection::open(&info).unwrap();
        assert_eq!(connection.slot(&slot).unwrap(), None);
        connection.create_slot(&slot, Lifetime::Permanent).unwrap();
        let identity = connection.identify().unwrap();
        assert_eq!((identity.log.timeline, identity.log.segment_size), (1, 1 << 20));
        let decoder = StreamDecoder::new(identity.log, from.parse().unwrap()).unwrap();
        let kept = connection.slot(&slot).unwrap().unwrap();
        assert!(kept.restart_lsn.unwrap() <= decoder.position());
        let error = connection.create_slot(&slot, Lifetime::Permanent).unwrap_err();
        assert!(matches!(&error, Error::Server { error, .. } if error.code == "42710"), "{error}");
        connection.close().unwrap();
        let (replication, records) = (None, Vec::new());
        Follower { info, slot, decoder, replication, records, connections: 0 }
    }

    fn connect(&mut self) -> Result<Replication, Error> {
        let mut connection = Connection::open(&self.info)?;
        let server = connection.identify()?;
        assert_eq!(server.log, self.decoder.log());
        // Both ways to go on: with the same decoder, and with one that knows nothing but the
        // position.
        match self.connections % 2 {
            0 => self.decoder.restart(),
            _ => {
                self.decoder = StreamDecoder::new(server.log, self.decoder.position()).unwrap();
            }
        }
        let from = self.decoder.stream_from();
        let replication = connection.start(Some(&self.slot), server.log.timeline, from, TIMING)?;
        self.connections += 1;
        Ok(replication)
    }

    fn step(&mut self) -> Result<(), Error> {
        let mut replication = match self.replication.take() {
            Some(replication) => replication,
            None => self.connect()?,
        };
        match replication.next_event(Duration::from_millis(100))? {
            Event::Wal { start, bytes, server_end, .. } => {
                assert!(start.0 + bytes.len() as u64 <= server_end.0);
                self.decoder.push(start, bytes).unwrap();
                while let Some(record) = self.decoder.next_record().unwrap() {
                    self.records.push(seen(&record));
                }
            }
            Event::KeepAlive { .. } | Event::Quiet => {}
            Event::TimelineEnded { .. } => panic!("nobody has promoted anything"),
        }
        let flushed = self.decoder.position();
        let written = self.decoder.received();
        replication.report(Progress { written, flushed, applied: flushed });
        self.replication = Some(replication);
        Ok(())
    }

    /// Follows until a record ends at or behind `until`, through whatever breaks.
    fn follow(&mut self, mut until: impl FnMut() -> Option<Lsn>) {
        let started = Instant::now();
        loop {
            let (now, position) = (until(), self.decoder.position());
            if now.is_some_and(|until| position >= until) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "at {position}, expected {now:?}");
            match self.step() {
                Ok(()) => {}
                Err(error) if error.is_transient() => {
                    println!("at {position}: {error}");
                    thread::sleep(Duration::from_millis(100));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Follows while `work` is done, and to the end of the log that is there then.
    fn follow_while(&mut self, server: &PostgresServer, work: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let work = scope.spawn(move || {
                work();
                server.sql("checkpoint\nselect pg_current_wal_flush_lsn()").parse().unwrap()
            });
            let mut end = None;
            let mut work = Some(work);
            self.follow(|| {
                if let Some(done) = work.take_if(|work| work.is_finished()) {
                    end = Some(done.join().unwrap());
                }
                end
            });
        });
    }
}

const WORK: &str = "
    create table if not exists t (id int primary key, filler text)
    insert into t select (select coalesce(max(id), 0) from t) + i, repeat('x', i % 300) from generate_series(1, 5000) i
    update t set filler = filler || 'y' where id % 3 = 0
    select pg_switch_wal()
    select pg_logical_emit_message(false, 'long', repeat('z', 3500000))
    delete from t where id % 7 = 0
    vacuum t
    ";

#[test]
fn records_are_those_in_the_servers_files() {
    let Some(server) = PostgresServer::start(SETTINGS) else { return };
    let mut follower = Follower::new(&server);
    let from = follower.decoder.position();

    follower.follow_while(&server, || {
        server.sql(WORK);
    });
    assert_eq!(follower.connections, 1);

    let cut = "select pg_terminate_backend(active_pid) from pg_replication_slots where active";
    follower.follow_while(&server, || {
        for _ in 0..3 {
            server.sql(WORK);
            server.sql(cut);
        }
    });
    assert!(follower.connections > 1, "the connection was cut");

    // A server that shuts down in order waits until everything is confirmed, and is followed by
    // itself.
    let before = follower.connections;
    follower.follow_while(&server, || {
        server.sql(WORK);
        server.ctl("restart -m fast");
        server.sql(WORK);
        server.ctl("restart -m immediate");
        server.sql(WORK);
    });
    assert!(follower.connections > before + 1, "the server was away twice");

    // Longer than the server waits for a sign of life.
    let (connections, idle) = (follower.connections, Instant::now());
    follower.follow(|| (idle.elapsed() > Duration::from_secs(5)).then_some(from));
    assert_eq!(follower.connections, connections, "status updates keep a connection alive");

    let position = follower.decoder.position();
    follower.replication.take().unwrap().finish(PATIENCE).unwrap();
    let mut connection = Connection::open(&follower.info).unwrap();
    let slot = connection.slot(&follower.slot).unwrap().unwrap();
    assert_eq!(
        slot.restart_lsn,
        Some(position),
        "the server has kept what was not confirmed alone"
    );
    connection.drop_slot(&follower.slot).unwrap();
    assert_eq!(connection.slot(&follower.slot).unwrap(), None);

    let wal = server.data().join("pg_wal");
    let log = follower.decoder.log();
    let mut reader =
        WalReader::open(captures::storage(), &wal, from, Some(position), Some(log.system_id))
            .unwrap();
    let expected = all_of(&mut reader);
    assert_eq!(reader.position(), position);
    assert!(expected.iter().any(|record| record.3 > 3 << 20), "one is longer than three segments");
    println!("{} records in {} connections", expected.len(), follower.connections);
    assert!(follower.records == expected, "records differ");
}

#[test]
fn users_prove_who_they_are() {
    let Some(server) = PostgresServer::start(SETTINGS) else { return };
    server.sql(
        "set password_encryption = 'scram-sha-256'
         create role scram_user login replication password 'päss word'
         create role plain_user login replication password 'plain'
         create role no_user login password 'plain'",
    );
    server.sql(
        "set password_encryption = 'md5'\ncreate role md5_user login replication password 'five'",
    );
    let rules = "local all postgres trust\n\
                 host replication scram_user 127.0.0.1/32 scram-sha-256\n\
                 host replication md5_user 127.0.0.1/32 md5\n\
                 host replication plain_user 127.0.0.1/32 password\n\
                 host replication no_user 127.0.0.1/32 password\n";
    fs::write(server.data().join("pg_hba.conf"), rules).unwrap();
    server.sql("select pg_reload_conf()");
    // The postmaster reads its rules when it gets to it.
    thread::sleep(Duration::from_secs(1));

    for (user, password) in
        [("scram_user", "päss word"), ("md5_user", "five"), ("plain_user", "plain")]
    {
        let info = tcp_info(&server, &format!("user={user}"));
        let mut connection = Connection::open(&info.clone().with_password(password)).unwrap();
        assert!(connection.server_version().starts_with("15"));
        assert!(connection.identify().unwrap().flushed.is_valid());
        connection.close().unwrap();

        let error = Connection::open(&info.clone().with_password("wrong")).unwrap_err();
        let code = |code| matches!(&error, Error::Server { error, .. } if error.code == code);
        assert!(code("28P01"), "{error}");
        assert!(!error.is_transient() && !error.to_string().contains("wrong"), "{error}");
        let error = Connection::open(&info).unwrap_err();
        assert!(error.to_string().contains("wants a password"), "{error}");
    }
    let info = tcp_info(&server, "user=no_user password=plain");
    let error = Connection::open(&info).unwrap_err();
    assert!(error.to_string().contains("replication"), "{error}");
}

#[test]
fn a_server_refuses_by_name_what_it_does_not_have() {
    let Some(server) = PostgresServer::start(SETTINGS) else { return };
    let info = socket_info(&server);
    let start = |timeline, from| {
        let connection = Connection::open(&info).unwrap();
        let started = connection.start(None, timeline, from, TIMING);
        // Some of it is checked only after the stream has begun.
        started
            .and_then(|mut replication| replication.next_event(PATIENCE).map(|_| ()))
            .unwrap_err()
    };
    let mut connection = Connection::open(&info).unwrap();
    let flushed = connection.identify().unwrap().flushed;
    let error = start(1, Lsn(flushed.0 + (1 << 30)));
    assert!(error.to_string().contains("ahead of the WAL flush position"), "{error}");
    let error = start(9, flushed);
    assert!(matches!(error, Error::Server { .. }), "{error}");
    let (missing, name): (SlotName, SlotName) =
        ("missing".parse().unwrap(), "mine".parse().unwrap());
    assert!(connection.drop_slot(&missing).is_err());
    assert!(connection.show("no_such_setting").is_err());
    assert_eq!(connection.show("wal_segment_size").unwrap(), "1MB");
    connection.create_slot(&name, Lifetime::Temporary).unwrap();
    assert!(connection.slot(&name).unwrap().unwrap().restart_lsn.is_some());

    // A piece that starts in the middle of nowhere: streamed as asked, refused by the decoder.
    let log = connection.identify().unwrap().log;
    let mut decoder = StreamDecoder::new(log, Lsn(flushed.0 - 8)).unwrap();
    let mut replication = connection.start(None, 1, decoder.stream_from(), TIMING).unwrap();
    let started = Instant::now();
    let error = loop {
        assert!(started.elapsed() < PATIENCE);
        if let Event::Wal { start, bytes, .. } =
            replication.next_event(Duration::from_secs(1)).unwrap()
        {
            decoder.push(start, bytes).unwrap();
        }
        match decoder.next_record() {
            Ok(record) => assert!(record.is_none()),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("cannot start at"), "{error}");
    replication.finish(PATIENCE).unwrap();
}
