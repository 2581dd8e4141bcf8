//! Watchers: who is told which change.
//!
//! Promise: a watcher sees every matching revision exactly once, in order, or is cancelled with
//! the compact revision; it is never left open with a hole.
//! Not known here: gRPC, raft, encryption.

mod board;
mod catch_up;
mod hub;
mod interval;
mod outbox;
mod room;
mod shared;
#[cfg(test)]
mod tests;
mod watcher;

pub use hub::Hub;
pub use outbox::{Outbox, Parcel};
pub use room::NoRoom;
pub use shared::{EventRef, SharedRevision};
pub use watcher::{Filters, Watcher};
