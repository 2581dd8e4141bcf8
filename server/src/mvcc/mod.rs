//! Multi-version key space: which revisions a key has, and which of them a reader sees.
//!
//! Not known here: gRPC, raft, encryption, the disk.

mod bulk_load;
pub mod index;
pub mod key_history;
pub mod key_range;
pub mod revision;
mod tree;

pub use index::{Change, Chunk, Found, Guard, Index};
pub use key_history::Latest;
pub use key_range::KeyRange;
pub use revision::Revision;
