//! server

pub mod apply;
pub mod clock;
pub mod command;
pub mod lease;
pub mod mvcc;
pub mod storage;
pub mod tables;
