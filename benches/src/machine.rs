//! What a figure has to name: the machine, its load, the commit.

use std::{fs, process::Command};

/// The lines that every bench prints first.
#[must_use]
pub fn describe(seed: u64) -> String {
    let cpu = line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = line_of("/proc/meminfo", "MemTotal").unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = first_line("/proc/sys/kernel/osrelease");
    let huge = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
    let load = first_line("/proc/loadavg");
    let commit = commit().unwrap_or_else(|| "unknown".to_owned());
    format!(
        "machine: {cpu}, {cores} cores, {memory}, Linux {kernel}, huge pages {huge}, load {load}\n\
         seed {seed:#x}, commit {commit}"
    )
}

/// Does some work, and says how much more memory this process had at the highest than before, in
/// bytes.
///
/// # Panics
/// Where the kernel does not tell.
pub fn with_peak_memory<R>(work: impl FnOnce() -> R) -> (R, u64) {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives free memory back to the kernel; what is allocated stays.
    unsafe {
        libc::malloc_trim(0);
    }
    // "5" sets the highest back to what is used now (proc(5)).
    fs::write("/proc/self/clear_refs", "5").expect("a kernel that counts");
    let before = kilobytes("VmRSS");
    let result = work();
    (result, (kilobytes("VmHWM").saturating_sub(before)) << 10)
}

fn kilobytes(name: &str) -> u64 {
    let line = line_of("/proc/self/status", name).expect("a line of each process");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn line_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    let changed = Command::new("git").args(["status", "--porcelain", "-uno"]).output().ok()?;
    let mut commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    if !changed.stdout.is_empty() {
        commit.push_str(" with changes");
    }
    output.status.success().then_some(commit)
}
