//! server

pub mod mvcc;
pub mod raft;
pub mod storage;
