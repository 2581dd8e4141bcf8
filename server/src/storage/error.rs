//! What can go wrong below the state machine.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::layout::{Keyspace, StoredKey};

/// A failed read or write of the store. None is retried: apply stops the member with it.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The row is damaged, was moved, or is sealed by a key this member does not have.
    #[error("row {row} of keyspace {keyspace} does not open")]
    Unreadable { keyspace: Keyspace, row: StoredKey },
    /// The engine found damage in its files, or the operating system refused a call.
    #[error("storage engine, keyspace {keyspace}")]
    Keyspace {
        keyspace: Keyspace,
        source: EngineError,
    },
    #[error("storage engine")]
    Engine(#[from] EngineError),
    /// The store was written by a release with another layout.
    #[error(
        "the store has layout {found}, this release reads layout {}",
        super::layout::FORMAT
    )]
    UnknownFormat { found: u16 },
    /// The directory holds a store without its format row: it was never completely created.
    #[error("the store has no format row")]
    NoFormat,
    /// `create` found a store in the directory.
    #[error("the directory has a store already")]
    Exists,
    /// Damage in the engine's journal made it drop batches that another keyspace still has.
    #[error("keyspace {keyspace} lost batch {missing} (it has {found}): the store is damaged")]
    Torn {
        keyspace: Keyspace,
        missing: u64,
        found: u64,
    },
}

/// What the engine under the rows says. Its facts are for the operator; no caller tells them apart.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error(transparent)]
    Fjall(#[from] Box<dyn std::error::Error + Send + Sync>),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// Bytes that were synced have changed: no power cut does that.
    #[error("{path} is damaged at byte {offset}")]
    Journal { path: PathBuf, offset: u64 },
    /// The engine gave up on its own files.
    #[error("the engine's files are damaged")]
    Damaged,
    /// A background write failed earlier; the engine takes no more writes.
    #[error("an earlier write failed, no more are taken")]
    Poisoned,
}

/// The data directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    /// It is left untouched.
    #[error("{path} is a data directory of etcd; choose another --data-dir")]
    Etcd { path: PathBuf },
    /// `CURRENT` does not name a state directory.
    #[error("{path} does not name a state directory")]
    Current { path: PathBuf },
    /// `CURRENT` names a state that is gone, or a state stands there without `CURRENT`.
    #[error("{path} is missing")]
    MissingState { path: PathBuf },
    #[error(
        "the raft log of this member is in {path}: start it with --wal-dir={path}, or without \
         --wal-dir if that is in the data directory. To move the log, stop the member, move that \
         directory and make `log` in the data directory a link to it"
    )]
    LogElsewhere { path: PathBuf },
    #[error(
        "{path}, where the raft log of this member was, is missing, and with it this member's \
         votes: bring it back, or replace the member under a new id"
    )]
    LogMissing { path: PathBuf },
    #[error("--wal-dir: {path} holds files: a member's raft log is begun in an empty directory")]
    LogNotEmpty { path: PathBuf },
    #[error("{path}: {source}")]
    Store { path: PathBuf, source: StorageError },
}
