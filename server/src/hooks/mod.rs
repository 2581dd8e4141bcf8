//! Delivery of changes to plugins, and of what plugins answer to the store.
//!
//! Promise: exactly once inside the store. The writes a plugin returns for a batch commit in one
//! entry with the cursor that says the batch is done, and that entry has no effect unless the
//! cursor still stands where the batch began. Only the leader delivers, fenced by its term.
//! Not known here: WebAssembly, which is the `plugins` crate's; gRPC; sockets.
//!
//! ```text
//! runner      one task per running plugin, while this member leads
//! └ delivery  gather ─▶ guest ─▶ commit, one batch after another
//!   ├ gather    the next batch, from history or from the contents at a revision
//!   ├ failures  what to do about a batch that did not work
//!   └ guest     the component, and what it may ask of the server
//! deployment  an upload becomes a compiled, validated component and its description
//! ```

mod board;
mod delivery;
mod deployment;
mod failures;
mod gather;
mod guest;
mod leader;
mod library;
mod meters;
mod runner;
#[cfg(test)]
mod tests;

pub use board::{Doing, Shown};
pub use deployment::{DeployError, Upload};
pub use runner::Hooks;
