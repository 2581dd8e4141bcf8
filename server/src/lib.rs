//! server

pub mod apply;
pub mod command;
pub mod lease;
pub mod mvcc;
pub mod storage;
pub mod tables;
