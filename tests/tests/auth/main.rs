//! Who may do what: users, roles, tokens, and every call with the wrong one.
//!
//! Written against the wire, so that a real etcd answers it too (`SEALKV_TEST_SERVER=etcd`); where
//! this server promises more, the test says so. Advisories of etcd are named after their numbers.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

mod advisories;
mod certificates;
mod fixture;
mod management;
mod matrix;
mod on_cluster;
mod on_keys;
mod on_services;
mod tokens;
mod watches;
