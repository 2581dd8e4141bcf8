//! server

pub mod access;
pub mod apply;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
#[cfg(feature = "plugins")]
pub mod hooks;
pub mod http;
pub mod key_service;
pub mod lease;
pub mod logging;
pub mod metrics;
pub mod mvcc;
pub mod raft;
pub mod replica;
pub mod rpc;
pub mod seal;
pub mod serve;
pub mod shutdown;
pub mod start;
pub mod storage;
pub mod tables;
pub mod watch;
