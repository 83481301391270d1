//! [`FlushFuture`]: waits for a flush from a task.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pagestrata_layers::Lsn;

use crate::{
    error::Result, jobs::flush::FlushTarget, options::Background, state::timeline::TimelineShared,
};

/// The future of [`Timeline::flush_async`](crate::Timeline::flush_async).
///
/// The store's flush thread does the work and wakes the task when a flush has ended. The future is
/// `Send` and `'static` and needs no particular executor. With
/// [`Background::Callers`](crate::Background::Callers) the first poll flushes, and blocks.
///
/// Dropping the future only stops the waiting: layers that it has frozen are still flushed in the
/// background.
#[must_use = "a future does nothing unless it is awaited"]
pub struct FlushFuture {
    timeline: Arc<TimelineShared>,
    /// `None`: nothing was frozen yet, or the awaited layers are flushed.
    target: Option<FlushTarget>,
    /// Whether the open layer is frozen already: the future ends once everything frozen is flushed.
    has_rolled: bool,
    waiter: Option<u64>,
}

impl FlushFuture {
    pub(crate) fn new(timeline: Arc<TimelineShared>) -> FlushFuture {
        FlushFuture { timeline, target: None, has_rolled: false, waiter: None }
    }

    /// Freezes the open layer unless that is done. Returns what must be flushed, or `None`.
    fn roll(&mut self) -> Result<Option<FlushTarget>> {
        self.timeline.check_flushable()?;
        loop {
            // False while too many layers are frozen: wait for them first, then try again.
            self.has_rolled = self.timeline.roll_unless_leased(Lsn::MAX);
            let target = self.timeline.flush_target();
            if target.is_some() || self.has_rolled {
                return Ok(target);
            }
        }
    }
}

impl Future for FlushFuture {
    type Output = Result<Lsn>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Lsn>> {
        let this = self.get_mut();
        // A wait that has begun ends when its flush does, even if the store is closed meanwhile.
        if this.target.is_none() || this.timeline.store.is_inherited() {
            this.timeline.store.check_open()?;
        }
        if this.timeline.store.options.background == Background::Callers {
            return Poll::Ready(this.timeline.flush_now());
        }
        loop {
            let target = match this.target.take() {
                Some(target) => target,
                None => match this.roll()? {
                    Some(target) => target,
                    None => return Poll::Ready(Ok(this.timeline.disk_consistent_lsn())),
                },
            };
            // Enter the list first, check second: a flush that ends in between wakes this task.
            this.timeline.flush_waiters.enter(&mut this.waiter, Lsn(1), context.waker());
            match this.timeline.flush_outcome(&target) {
                None => {
                    this.target = Some(target);
                    return Poll::Pending;
                }
                Some(Ok(())) if this.has_rolled => {
                    return Poll::Ready(Ok(this.timeline.disk_consistent_lsn()));
                }
                Some(outcome) => outcome?,
            }
        }
    }
}

impl Drop for FlushFuture {
    fn drop(&mut self) {
        if !self.timeline.store.is_inherited() {
            self.timeline.flush_waiters.leave(self.waiter);
        }
    }
}

impl fmt::Debug for FlushFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushFuture")
            .field("timeline", &self.timeline.name)
            .field("has_rolled", &self.has_rolled)
            .finish_non_exhaustive()
    }
}
