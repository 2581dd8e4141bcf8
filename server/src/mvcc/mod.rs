//! Multi-version key space: which revisions a key has, and which of them a reader sees.
//!
//! Not known here: gRPC, raft, encryption, the disk.

mod bulk_load;
pub mod compact;
pub mod event;
pub mod hash;
pub mod history;
pub mod index;
pub mod key_history;
pub mod key_range;
pub mod read;
pub mod read_view;
pub mod record;
pub mod revision;
mod tree;
pub mod txn;
pub(crate) mod write;

pub use event::{Cause, Event, Kind, RevisionEvents};
pub use index::{Change, Chunk, Found, Guard, Index};
pub use key_history::Latest;
pub use key_range::KeyRange;
pub use read_view::ReadView;
pub use revision::Revision;
