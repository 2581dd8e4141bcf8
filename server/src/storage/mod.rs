//! The data directory and the sealed rows in it.
//!
//! Promise: whatever is written is sealed, a batch is on disk whole or not at all, and a row that
//! does not open is reported with its place and never served.
//! Not known here: what rows mean, raft, gRPC.

pub mod batch;
pub mod directory;
pub mod engine;
pub mod error;
mod fjall;
mod identity_file;
mod journal;
pub mod layout;
pub mod log;
mod log_directory;
mod marker;
mod memory;
#[cfg(test)]
pub(crate) mod memory_directory;
pub mod sealed;
pub mod store;

pub use batch::{Batch, Pending};
pub use directory::{DataDir, StagedState, StateDirectory};
pub use error::{DirectoryError, StorageError};
pub use layout::{Keyspace, StoredKey};
pub use sealed::{RowSealer, RowUnopened};
pub use store::{Scan, Store, StoreOptions, View};

#[cfg(test)]
mod tests;
