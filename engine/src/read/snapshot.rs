//! [`Snapshot`]: an owned pin, for use across threads and `.await`.

use std::{fmt, panic::Location, sync::Arc};

use pagestrata_layers::Lsn;

use crate::{
    layer_map::{LayerMap, published::Held},
    read::guard::Guard,
    reports::PinKind,
    state::{pins::PinHandle, timeline::TimelineShared},
};

/// An owned pin at an Lsn: it sees everything up to its Lsn and nothing above, for as long as it
/// lives.
///
/// A snapshot and its clones share one count of the map; reads under it cost none. `Send + Sync +
/// 'static`.
///
/// ```
/// fn send_and_static<T: Send + Sync + Clone + 'static>() {}
/// send_and_static::<pagestrata::Snapshot>();
/// ```
///
/// ```compile_fail
/// fn send_and_static<T: Send + Sync + Clone + 'static>() {}
/// fn guard<'g>() { send_and_static::<pagestrata::Guard<'g>>() } // borrowed from its reader
/// ```
#[derive(Clone)]
pub struct Snapshot(Arc<Inner>);

struct Inner {
    /// Taken out only by drop, so that the count is gone before the reclaimer is woken.
    map: Option<Held<LayerMap>>,
    /// It sees nothing above this. Below the timeline's start if nothing was committed yet: values
    /// put at the start later are not seen.
    upper: Lsn,
    timeline: Arc<TimelineShared>,
    pin: PinHandle,
}

impl Snapshot {
    pub(crate) fn new(
        map: Held<LayerMap>,
        upper: Lsn,
        timeline: Arc<TimelineShared>,
        caller: &'static Location<'static>,
    ) -> Snapshot {
        let pin = timeline.pin(PinKind::Snapshot, caller, map.number());
        Snapshot(Arc::new(Inner { map: Some(map), upper, timeline, pin }))
    }

    /// Returns the Lsn that it was taken at.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.0.upper.max(self.0.timeline.start)
    }

    /// Returns a guard that reads under it. Costs nothing.
    #[must_use]
    pub fn guard(&self) -> Guard<'_> {
        let map = self.0.map.as_ref().expect("held until drop");
        Guard::new(map.value(), &self.0.timeline, self.0.upper)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.timeline.store.is_inherited() {
            return;
        }
        self.timeline.pins.remove(&self.pin);
        self.map = None;
        self.timeline.wake_reclaimer();
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("lsn", &self.lsn()).finish_non_exhaustive()
    }
}
