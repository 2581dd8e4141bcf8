//! server

pub mod mvcc;
pub mod storage;
