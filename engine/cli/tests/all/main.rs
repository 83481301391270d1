//! Runs the command on real PostgreSQL captures.
#![allow(clippy::print_stdout)]

mod backup;
mod bad_input;
mod checking;
mod commands;
mod diff;
mod follow;
mod follow_made_up;
#[path = "../../../postgres/tests/all/layout.rs"]
#[allow(dead_code)]
mod layout;
mod made_up;
#[path = "../../../postgres/tests/all/live/messages.rs"]
mod messages;
mod read_only;
mod restore;
#[path = "../../../postgres/tests/all/live/server.rs"]
mod server;
mod settings;
mod support;
mod words;
