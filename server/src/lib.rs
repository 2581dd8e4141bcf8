//! server

pub mod access;
pub mod apply;
pub mod command;
pub mod lease;
pub mod mvcc;
pub mod replica;
pub mod rpc;
pub mod seal;
pub mod storage;
pub mod tables;
pub mod watch;
