//! Parts of tests that need a process of their own: for its limits, its mounts, or its death.

use std::{
    env,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use pagestrata::Access;

use super::{failed_opens, in_mode, manifest, ownership, panics, surroundings};

pub(super) const SIGBUS: i32 = 7;
pub(super) const SIGKILL: i32 = 9;

const PART: &str = "PAGESTRATA_TEST_PART";
const DIR: &str = "PAGESTRATA_TEST_DIR";
const ACCESS: &str = "PAGESTRATA_TEST_ACCESS";

/// How a child has ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    output: String,
}

impl Ended {
    #[track_caller]
    pub(super) fn assert_success(&self) {
        assert!(self.status.success(), "{}:\n{}", self.status, self.output);
    }

    #[track_caller]
    pub(super) fn assert_signal(&self, signal: i32) {
        assert_eq!(self.status.signal(), Some(signal), "{}:\n{}", self.status, self.output);
    }
}

fn ended(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    Ended { status: output.status, output: text.concat() }
}

/// Runs a part in a process of its own, which a shell prepares first.
pub(super) fn run(part: &str, dir: &Path, prepare: &str) -> Ended {
    ended(&mut command(part, dir, &[], prepare))
}

/// As [`run`], with mounts of its own.
pub(super) fn run_with_mounts(part: &str, dir: &Path, prepare: &str) -> Ended {
    ended(&mut command(part, dir, &["unshare", "--mount"], prepare))
}

/// Whether this process may make private mounts.
pub(super) fn can_mount() -> bool {
    let mounted = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"])
        .stderr(Stdio::null())
        .status();
    mounted.is_ok_and(|status| status.success())
}

fn command(part: &str, dir: &Path, before: &[&str], prepare: &str) -> Command {
    let exe = env::current_exe().unwrap();
    let script = format!("{prepare}\nexec \"$0\" \"$@\"");
    let words = before.iter().copied().chain(["sh", "-c", &script]);
    let mut words = words.map(str::to_owned);
    let mut command = Command::new(words.next().expect("at least the shell"));
    command.args(words).arg(exe);
    command.args(["--exact", "scenarios::child::part_of_another_test", "--nocapture"]);
    command.args(["--test-threads", "1"]).env(PART, part).env(DIR, dir);
    command.env(ACCESS, super::ACCESS.get().to_string());
    command
}

/// Ends this process as `kill -9` does.
pub(super) fn kill_self() -> ! {
    let kill = format!("kill -9 {}", std::process::id());
    let _ = Command::new("sh").args(["-c", &kill]).status();
    unreachable!("it is dead");
}

/// Nothing by itself: other tests start it in a process of its own, as one of their parts.
#[test]
fn part_of_another_test() {
    let Ok(part) = env::var(PART) else { return };
    let dir = env::var_os(DIR).unwrap();
    let run: fn(&Path) = match &*part {
        "opens_a_locked_store" => manifest::opens_a_locked_store,
        "dies_with_the_store_open" => manifest::dies_with_the_store_open,
        "runs_out_of_memory" => panics::runs_out_of_memory,
        "fills_a_disk" => surroundings::fills_a_disk,
        "may_write_no_longer_files" => surroundings::may_write_no_longer_files,
        "reads_a_read_only_store" => surroundings::reads_a_read_only_store,
        "writes_while_it_becomes_read_only" => surroundings::writes_while_it_becomes_read_only,
        "forks_with_a_store_open" => ownership::forks_with_a_store_open,
        "forks_with_a_busy_store" => ownership::forks_with_a_busy_store,
        "fails_to_open" => failed_opens::fails_to_open,
        "reads_a_cut_file" => surroundings::reads_a_cut_file,
        other => panic!("no part {other}"),
    };
    let access = match &*env::var(ACCESS).unwrap() {
        "mmap" => Access::MMAP,
        "pread" => Access::Pread,
        "direct" => Access::Direct,
        other => panic!("no way to access files: {other}"),
    };
    in_mode(access, || run(Path::new(&dir)));
}
