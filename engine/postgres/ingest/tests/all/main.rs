//! Runs the library on real PostgreSQL captures.
#![allow(clippy::print_stdout)]

mod captures;
