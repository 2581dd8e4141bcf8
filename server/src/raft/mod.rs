//! The only place that knows openraft.

pub mod log_store;
pub mod types;
