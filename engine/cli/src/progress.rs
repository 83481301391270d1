//! How far a long command is: a bar on stderr when that is a terminal, and nothing otherwise.

use indicatif::{ProgressBar, ProgressStyle};

const BAR: &str = "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {eta} left";
const SPINNER: &str = "{spinner} {msg} {binary_bytes}";
/// The bar is told in steps of this many bytes: a record is small, and telling takes a lock.
const STEP_BYTES: u64 = 256 << 10;

/// A bar that is taken away when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    told: u64,
}

impl Progress {
    /// Shows nothing.
    #[must_use]
    pub fn hidden() -> Progress {
        Progress { bar: ProgressBar::hidden(), told: 0 }
    }

    /// Of a known number of bytes.
    #[must_use]
    pub fn of(what: &'static str, total_bytes: u64) -> Progress {
        Progress::styled(ProgressBar::new(total_bytes), BAR, what)
    }

    /// Of something that ends when it ends.
    #[must_use]
    pub fn spinner(what: &'static str) -> Progress {
        Progress::styled(ProgressBar::new_spinner(), SPINNER, what)
    }

    fn styled(bar: ProgressBar, template: &str, what: &'static str) -> Progress {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Progress { bar, told: 0 }
    }

    /// It is as far as this.
    #[inline]
    pub fn at(&mut self, bytes: u64) {
        if bytes.abs_diff(self.told) >= STEP_BYTES {
            self.told = bytes;
            self.bar.set_position(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
