//! Damaged, cut and foreign layer files.
