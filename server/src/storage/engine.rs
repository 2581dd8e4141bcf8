//! The seam under the sealed rows: an ordered store of bytes with atomic batches and snapshots.
//!
//! Promise of every engine: a committed batch is seen whole by every later snapshot and by none
//! before it; after a crash a prefix of the committed batches is there, at least up to the last
//! `persist`.
//! Not known here: sealing, what rows mean.

use std::ops::Bound;

use bytes::Bytes;

use super::error::EngineError;
use super::layout::Keyspace;

/// A row as it is stored; no bytes for a deletion.
#[derive(Debug)]
pub struct StoredChange {
    pub keyspace: Keyspace,
    pub key: Bytes,
    pub row: Option<Bytes>,
}

pub type Rows = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send>;

pub trait Engine: Send + Sync {
    /// Takes all changes or none. Not durable by itself.
    fn commit(&self, changes: Vec<StoredChange>) -> Result<(), EngineError>;

    fn snapshot(&self) -> Box<dyn EngineSnapshot>;

    /// Returns when everything committed before the call would survive a power cut.
    fn persist(&self) -> Result<(), EngineError>;

    /// Rewrites every keyspace as its newest rows, so that what was deleted takes no space any more.
    /// Reads and commits go on meanwhile.
    fn merge(&self) -> Result<(), EngineError>;

    fn disk_bytes(&self) -> u64;

    /// The engine's files are of no more use: they go when its last snapshot is dropped.
    fn retire(&self);
}

pub trait EngineSnapshot: Send + Sync {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Ascending by key.
    fn scan(&self, keyspace: Keyspace, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Rows;
}
