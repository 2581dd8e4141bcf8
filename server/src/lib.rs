//! The server: an etcd v3 member that seals what it stores.
//!
//! ```text
//! a put:          rpc/kv → rpc/parse → access → seal → raft/propose (here, or at the leader)
//!                   → raft/state_machine → apply → mvcc/write → storage; back by the typed reply
//! a watch event:  mvcc/write → watch/hub → watch/watcher → seal → rpc/watch
//! a late watcher: watch/catch_up → mvcc/history
//! a plugin:       mvcc/history → hooks/delivery → the guest → raft/propose, as leader
//! ```
//!
//! `start` puts the parts together. Only `raft` knows openraft and the peer protocol's other end,
//! only `storage` knows fjall and the data directory, only `rpc` knows clients' gRPC services;
//! plaintext values and their keys meet in `seal` alone.

pub mod access;
pub mod apply;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod command;
pub mod compaction_schedule;
pub mod config;
pub mod corruption_check;
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
pub mod tls;
pub mod traces;
pub mod watch;
