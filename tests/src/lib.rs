//! Evidence: what the tests share. Real processes, a client that records, a model, and the checks.
//!
//! Promise: everything here speaks only the wire, the command line and the files on disk, so the same
//! expectations can be put to a real etcd (`SEALKV_TEST_SERVER=etcd`).
//! Not known here: any module of the server.

pub mod binary;
pub mod check;
pub mod client;
pub mod cluster;
pub mod command;
pub mod differential;
pub mod guests;
pub mod http;
pub mod interop;
pub mod links;
pub mod load;
pub mod model;
pub mod raw;
pub mod tls;
pub mod txn;
pub mod wait;
pub mod websocket;
