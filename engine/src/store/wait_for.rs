//! [`WaitForLsn`]: a future that waits for a timeline to reach an Lsn.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use pagestrata_layers::Lsn;

use crate::{error::Result, state::timeline::TimelineShared};

/// The future of [`Timeline::wait_for`](crate::Timeline::wait_for).
#[must_use = "a future does nothing unless it is awaited"]
pub struct WaitForLsn {
    timeline: Arc<TimelineShared>,
    lsn: Lsn,
    id: Option<u64>,
}

impl WaitForLsn {
    pub(crate) fn new(timeline: Arc<TimelineShared>, lsn: Lsn) -> WaitForLsn {
        WaitForLsn { timeline, lsn, id: None }
    }

    fn outcome(&self) -> Option<Result<()>> {
        if self.timeline.last_record_lsn.load(Ordering::Acquire) >= self.lsn.0
            && !self.timeline.store.is_inherited()
        {
            return Some(Ok(()));
        }
        self.timeline.store.check_open().err().map(Err)
    }
}

impl Future for WaitForLsn {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        if let Some(outcome) = this.outcome() {
            return Poll::Ready(outcome);
        }
        this.timeline.waiters.enter(&mut this.id, this.lsn, context.waker());
        this.outcome().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for WaitForLsn {
    fn drop(&mut self) {
        if !self.timeline.store.is_inherited() {
            self.timeline.waiters.leave(self.id);
        }
    }
}

impl fmt::Debug for WaitForLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitForLsn").field("lsn", &self.lsn).finish_non_exhaustive()
    }
}
