//! The `pagestrata` command.
fn main() {}
