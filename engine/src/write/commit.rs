//! [`CommitTicket`]: waits for a commit's durability, as a thread or as a future.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pagestrata_layers::{Lsn, storage::ProcessMark};
use pagestrata_wal::{Log, Position, SyncFuture};

use crate::{
    error::{Error, Result},
    options::{Background, Durability, Options},
};

/// Durability of one commit; see [`WriteLease::commit_with`](crate::WriteLease::commit_with).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum CommitDurability {
    /// The store's durability: [`Options::durability`].
    #[default]
    OfStore,
    /// The log is synced past the commit, even in a store that syncs periodically
    /// ([`Durability::Buffered`]). Everything that any timeline committed before it is synced too.
    Synced,
}

/// A commit to wait for, until it is as durable as the store's [`Durability`](crate::Durability)
/// promises, or more if the commit asked for it ([`CommitDurability`]).
///
/// It can be awaited on any executor: a thread of the store does then what `wait` does. Without
/// threads ([`Background::Callers`](crate::Background::Callers)) the first poll does, and blocks.
///
/// ```
/// # use pagestrata::{CommitTicket, Result};
/// async fn acknowledge(ticket: CommitTicket) -> Result<()> {
///     ticket.await // no runtime of ours is needed
/// }
/// ```
pub struct CommitTicket {
    lsn: Lsn,
    /// The process that committed.
    owner: ProcessMark,
    /// `None`: there is nothing to wait for.
    log: Option<LogWait>,
}

struct LogWait {
    log: Arc<Log>,
    end: Position,
    /// Whether to wait for a sync; if not, only a failure is reported.
    synced: bool,
    background: Background,
}

impl CommitTicket {
    pub(crate) fn new(
        lsn: Lsn,
        log: &Arc<Log>,
        end: Option<Position>,
        (options, durability): (&Options, CommitDurability),
    ) -> CommitTicket {
        let is_external = options.durability == Durability::External;
        debug_assert!(lsn.is_valid() && (end.is_some() || is_external), "a log has every commit");
        debug_assert!(!(is_external && durability == CommitDurability::Synced), "refused before");
        let waiting = |end| LogWait {
            log: log.clone(),
            end,
            synced: options.durability == Durability::Synced
                || durability == CommitDurability::Synced,
            background: options.background,
        };
        CommitTicket { lsn, owner: ProcessMark::current(), log: end.map(waiting) }
    }

    /// Returns the committed Lsn.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Returns once the commit is as durable as promised: with [`Durability::Synced`] or
    /// [`CommitDurability::Synced`] once the log is synced past it, otherwise at once. Concurrent
    /// waiters share a sync.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]: the log has failed. After a reopen the commit is there as a whole or
    /// not at all. [`Error::Closed`] in a forked child.
    pub fn wait(self) -> Result<()> {
        if !self.owner.is_current() {
            return Err(Error::Closed);
        }
        match &self.log {
            Some(LogWait { log, end, synced: true, .. }) => Ok(log.sync_to(*end)?),
            Some(LogWait { log, synced: false, .. }) => not_failed(log),
            None => Ok(()),
        }
    }
}

fn not_failed(log: &Log) -> Result<()> {
    log.failure().map_or(Ok(()), |cause| Err(Error::ReadOnly { cause: cause.to_string() }))
}

impl IntoFuture for CommitTicket {
    type Output = Result<()>;
    type IntoFuture = CommitFuture;

    fn into_future(self) -> CommitFuture {
        CommitFuture(match self.log {
            Some(LogWait { log, end, synced: true, background: Background::Threads }) => {
                State::Synced(log.durable(end))
            }
            _ => State::Blocking(Some(self)),
        })
    }
}

/// The future of a [`CommitTicket`]: completes once the commit is as durable as promised.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct CommitFuture(State);

#[derive(Debug)]
enum State {
    Synced(SyncFuture),
    /// Taken by the poll that completes.
    Blocking(Option<CommitTicket>),
}

impl Future for CommitFuture {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.0 {
            State::Synced(durable) => Pin::new(durable).poll(context).map_err(Error::from),
            State::Blocking(ticket) => {
                Poll::Ready(ticket.take().expect("polled after it was ready").wait())
            }
        }
    }
}

impl fmt::Debug for CommitTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.log.as_ref().map(|waiting| waiting.end);
        f.debug_struct("CommitTicket").field("lsn", &self.lsn).field("log_end", &end).finish()
    }
}
