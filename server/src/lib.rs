//! server

pub mod config;
pub mod mvcc;
pub mod raft;
pub mod serve;
pub mod shutdown;
pub mod storage;
