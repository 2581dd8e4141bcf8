//! server

pub mod config;
pub mod http;
pub mod metrics;
pub mod serve;
pub mod shutdown;
