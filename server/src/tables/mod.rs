//! The small replicated tables, held whole in memory and row by row on disk.
//!
//! Promise: changed by `apply` alone; what a reader holds never changes under it.
//! Not known here: raft, MVCC, how rows are sealed.

pub mod alarms;
pub mod auth;
pub mod members;
pub mod plugins;
