//! The edge over a single process that applies commands directly: real sealing, a real state
//! machine, real gRPC over loopback, no raft.

mod kv;
mod lease;
mod service;
pub(crate) mod single;
mod txn;
mod watch;
mod wire;
