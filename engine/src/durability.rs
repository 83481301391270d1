//! What an acknowledged commit survives. A commit is acknowledged when [`CommitTicket::wait`](crate::CommitTicket::wait) has
//! returned, or the awaited ticket; each sentence here names the tests that show it.
//!
//! | | the process ends, or is killed | the operating system stops | the power fails |
//! |---|---|---|---|
//! | [`Durability::Synced`] | is there | is there | is there |
//! | [`Durability::Buffered`] | is there | what was synced is there: all but the last `sync_interval` | the same |
//! | [`Durability::External`] | what was flushed is there | the same | the same |
//!
//! Whatever is not there is gone from its end: a store opens with some commit of each timeline and everything before it, and
//! never with half of one.
//!
//! [`Durability::Synced`]: crate::Durability::Synced
//! [`Durability::Buffered`]: crate::Durability::Buffered
//! [`Durability::External`]: crate::Durability::External
