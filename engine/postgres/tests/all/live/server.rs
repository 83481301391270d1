//! A PostgreSQL 15 server in a temporary directory.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Runs until it is dropped.
pub(crate) struct PostgresServer {
    dir: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The server's programs; none if they are not here, or another version's.
fn programs() -> Option<PathBuf> {
    let dir = PathBuf::from(output(Command::new("pg_config").arg("--bindir"))?);
    let version = output(Command::new(dir.join("postgres")).arg("--version"))?;
    let is_known = version.split_whitespace().any(|word| word.starts_with("15."));
    let has_all = ["initdb", "pg_ctl", "psql", "pg_basebackup", "pgbench"]
        .iter()
        .all(|name| dir.join(name).exists());
    (is_known && has_all).then_some(dir)
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).as_deref() == Some("0")
}

/// Runs a line of shell, as a user that a server can run as; that line, and whether it succeeded.
fn run_shell(line: &str) -> (String, bool) {
    let mut command = match is_root() {
        true => Command::new("su"),
        false => Command::new("sh"),
    };
    if is_root() {
        command.arg("postgres");
    }
    // A server keeps what it inherits open.
    let line = format!("cd / && {line} >/dev/null 2>&1 </dev/null");
    let status = command.arg("-c").arg(&line).stdin(Stdio::null()).status().unwrap();
    (line, status.success())
}

#[track_caller]
fn shell(line: &str) {
    let (line, is_done) = run_shell(line);
    assert!(is_done, "{line}");
}

impl PostgresServer {
    /// A fresh one; none, with a message, where there are no programs for it.
    pub(crate) fn start(settings: &str) -> Option<PostgresServer> {
        let Some(programs) = programs() else {
            println!("skipped: pg_config finds no programs of a PostgreSQL 15 server");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        if is_root() {
            let owned = output(Command::new("chown").arg("postgres").arg(dir.path()));
            if owned.is_none() {
                println!("skipped: a server does not run as root, and there is no user postgres");
                return None;
            }
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = PostgresServer { dir, programs, port };
        let data = server.data();
        shell(&format!(
            "{} -D {} -U postgres -A trust --wal-segsize=1 -N",
            server.program("initdb"),
            data.display()
        ));
        let more = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
             fsync = off\nwal_keep_size = '2GB'\nmax_wal_size = '2GB'\n{settings}\n",
            server.dir.path().display()
        );
        let file = data.join("postgresql.auto.conf");
        fs::write(&file, more).unwrap();
        server.ctl("start");
        Some(server)
    }

    pub(crate) fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn socket_dir(&self) -> &str {
        self.dir.path().to_str().expect("a directory for temporary files")
    }

    /// `start`, `stop -m fast` and such.
    pub(crate) fn ctl(&self, command: &str) {
        let (program, data) = (self.program("pg_ctl"), self.data());
        let log = self.dir.path().join("log");
        let (data, log) = (data.display(), log.display());
        shell(&format!("{program} -D {data} -l {log} -w -t 60 {command}"));
    }

    /// As [`PostgresServer::ctl`]; whether it did what it should.
    #[allow(dead_code, reason = "one of the two crates that have this file needs it")]
    pub(crate) fn try_ctl(&self, command: &str) -> bool {
        let (program, data) = (self.program("pg_ctl"), self.data());
        let log = self.dir.path().join("log");
        let (data, log) = (data.display(), log.display());
        run_shell(&format!("{program} -D {data} -l {log} -w -t 60 {command}")).1
    }

    /// A client program, with arguments by which it finds the server.
    pub(crate) fn client(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        command.arg("-h").arg(self.socket_dir());
        command.args(["-p", &self.port.to_string(), "-U", "postgres"]);
        command
    }

    /// Runs SQL, each line a statement; returns what the last one returns.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let mut command = self.client("psql");
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        for statement in statements.lines().map(str::trim).filter(|line| !line.is_empty()) {
            command.args(["-c", statement]);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statements}: {errors}");
        let output = String::from_utf8_lossy(&output.stdout);
        output.trim().lines().last().unwrap_or_default().to_owned()
    }

    /// How to connect to it, by way of the socket in its directory or of an address.
    pub(crate) fn conninfo(&self, host: &str, rest: &str) -> String {
        format!("host={host} port={} {rest}", self.port)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let (program, data) = (self.program("pg_ctl"), self.data());
        let line = format!("{program} -D {} -w -m immediate stop || true", data.display());
        shell(&format!("sh -c '{line}'"));
    }
}
