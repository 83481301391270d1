//! The client of a server's log: against one that says whatever it likes, and against PostgreSQL
//! itself.

mod made_up;
mod messages;
mod server;
mod streaming;
