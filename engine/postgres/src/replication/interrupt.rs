//! [`Interrupt`]: ends every wait of a connection early.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A switch that ends every wait of the connections that were given a clone of it. Any thread may
/// set it, once and for all.
///
/// A connection looks at it before each message, however fast they come, and several times a second
/// while it waits: for the server to be reached, for an answer, for room in the socket.
///
/// ```
/// use pagestrata_postgres::live::{Connection, ConnectionInfo, Error, Interrupt};
/// # fn main() -> Result<(), Error> {
/// let info: ConnectionInfo = "host=127.0.0.1 port=1 user=replicator".parse()?;
/// let interrupt = Interrupt::default();
/// let for_signals = interrupt.clone();
/// for_signals.set();
/// let error = Connection::open_with(&info, &interrupt).unwrap_err();
/// assert!(matches!(error, Error::Interrupted { .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends all waits, those of now and of later. Returns whether it was set already.
    pub fn set(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Returns whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
