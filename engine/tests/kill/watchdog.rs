//! [`Watchdog`]: ends a run that hangs, so that it fails instead of going on without end.

use std::{
    env,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// The first argument of a process that hangs, and of its child.
pub(crate) const HANGS: &str = "hangs";
pub(crate) const SLEEPS: &str = "sleeps";

/// A cycle that is under way.
struct Cycle {
    began: Instant,
    what: String,
    child: Option<u32>,
}

/// Watches cycles from a thread of its own, which ends with the process.
pub(crate) struct Watchdog(Arc<Mutex<Option<Cycle>>>);

impl Watchdog {
    /// From the first [`Watchdog::begin`] on, no cycle may take longer than `cycle_max`.
    pub(crate) fn start(cycle_max: Duration) -> Watchdog {
        let watched: Arc<Mutex<Option<Cycle>>> = Arc::default();
        let watchdog = Watchdog(watched.clone());
        thread::spawn(move || {
            loop {
                thread::sleep(
                    cycle_max.clamp(Duration::from_millis(1), Duration::from_millis(500)),
                );
                let cycle = watched.lock().unwrap();
                let late = cycle.as_ref().filter(|cycle| cycle.began.elapsed() > cycle_max);
                if let Some(late) = late {
                    end(late, cycle_max);
                }
            }
        });
        watchdog
    }

    /// The cycle before has ended, and the next one begins.
    pub(crate) fn begin(&self, what: String) {
        *self.0.lock().unwrap() = Some(Cycle { began: Instant::now(), what, child: None });
    }

    /// The cycle has this child; none once it has been waited for, for its id may then be another
    /// process's.
    pub(crate) fn child(&self, id: Option<u32>) {
        if let Some(cycle) = &mut *self.0.lock().unwrap() {
            cycle.child = id;
        }
    }
}

/// Ends the child, which would go on without this process, and the process.
fn end(Cycle { what, child, .. }: &Cycle, cycle_max: Duration) -> ! {
    println!("hangs: more than {cycle_max:?} in {what}; its store is left there");
    if let Some(child) = child {
        // It may be dead already, and not waited for.
        let _ = Command::new("kill").args(["-KILL", &child.to_string()]).status();
    }
    std::process::exit(101);
}

/// Hangs as a cycle might, with a child, under a watchdog that waits for nothing.
pub(crate) fn hang() -> ! {
    let watchdog = Watchdog::start(Duration::ZERO);
    let mut child = Command::new(env::current_exe().unwrap()).arg(SLEEPS).spawn().unwrap();
    let what = "a cycle that hangs".to_owned();
    let cycle = Cycle { began: Instant::now(), what, child: Some(child.id()) };
    *watchdog.0.lock().unwrap() = Some(cycle);
    // The watchdog kills it, and ends this process right after.
    let _ = child.wait();
    sleep()
}

pub(crate) fn sleep() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// A process that hangs is ended, and so is its child.
pub(crate) fn check() {
    let mut hanging = Command::new(env::current_exe().unwrap());
    // Returns when every writer of the pipe has ended, the child included.
    let output = hanging.arg(HANGS).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(101), "{said}");
    assert!(said.contains("a cycle that hangs"), "{said}");
}
