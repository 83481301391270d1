//! The engine.

// Nothing above calls it yet.
#[cfg_attr(not(test), expect(dead_code))]
mod coverage;
