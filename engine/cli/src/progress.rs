//! How far a long command is: a bar on stderr when that is a terminal, and nothing otherwise.

use indicatif::{ProgressBar, ProgressStyle};
use pagestrata_postgres_ingest::{Phase, Progress};

const BAR: &str = "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {eta} left";
const SPINNER: &str = "{spinner} {msg} {binary_bytes}";
/// The bar moves in steps of this many bytes: a record is small, and moving the bar takes a lock.
const STEP_BYTES: u64 = 256 << 10;

/// A bar that is taken away when it is dropped.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    shown: u64,
}

impl Bar {
    /// Returns a bar of something whose end is not known.
    pub(crate) fn spinner(what: &'static str) -> Bar {
        Bar::styled(ProgressBar::new_spinner(), SPINNER, what)
    }

    fn of(what: &'static str, total_bytes: u64) -> Bar {
        Bar::styled(ProgressBar::new(total_bytes), BAR, what)
    }

    fn styled(bar: ProgressBar, template: &str, what: &'static str) -> Bar {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Bar { bar, shown: 0 }
    }

    /// Shows that it is as far as this.
    #[inline]
    pub(crate) fn at(&mut self, bytes: u64) {
        if bytes.abs_diff(self.shown) >= STEP_BYTES {
            self.shown = bytes;
            self.bar.set_position(bytes);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar for each phase of an operation, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    current: Option<(Phase, Bar)>,
}

impl Bars {
    /// Shows how far an operation is.
    #[inline]
    pub(crate) fn show(&mut self, progress: Progress) {
        match &mut self.current {
            Some((phase, bar)) if *phase == progress.phase => bar.at(progress.bytes),
            _ => self.begin(progress),
        }
    }

    fn begin(&mut self, Progress { phase, bytes, total_bytes, .. }: Progress) {
        let what = match phase {
            Phase::Import => "importing",
            Phase::Check => "checking",
            Phase::Ingest => "ingesting",
            Phase::Restore => "restoring",
            _ => "working",
        };
        // The bar of the phase before is taken away first.
        self.current = None;
        let mut bar = match total_bytes {
            Some(total_bytes) => Bar::of(what, total_bytes),
            None => Bar::spinner(what),
        };
        bar.at(bytes);
        self.current = Some((phase, bar));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_a_bar_of_its_own() {
        let mut bars = Bars::default();
        let mut shown = Vec::new();
        for (phase, bytes) in
            [(Phase::Check, 9 << 20), (Phase::Check, 10 << 20), (Phase::Ingest, 1 << 20)]
        {
            let total_bytes = (phase == Phase::Ingest).then_some(10 << 20);
            bars.show(Progress { phase, bytes, total_bytes });
            let (phase, bar) = bars.current.as_ref().unwrap();
            shown.push((*phase, bar.bar.position(), bar.bar.length()));
        }
        let expected = [
            (Phase::Check, 9 << 20, None),
            (Phase::Check, 10 << 20, None),
            (Phase::Ingest, 1 << 20, Some(10 << 20)),
        ];
        assert_eq!(shown, expected);
    }
}
