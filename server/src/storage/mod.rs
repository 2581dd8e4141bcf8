//! The only place that writes the data directory.

pub mod log;
