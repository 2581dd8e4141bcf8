//! What can go wrong with the raft log, and where.

use std::fmt;
use std::io;
use std::sync::Arc;

use thiserror::Error;

/// An error of the raft log. Cheap to clone: a failed log hands the same one to every later call.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// The disk refused. The log is failed for good: after a failed fsync nobody knows which
    /// pages reached the disk, and asking again may well answer "yes".
    #[error("raft log: cannot {operation} {file}: {source}")]
    Disk {
        operation: DiskOperation,
        file: Arc<str>,
        source: Arc<io::Error>,
    },
    /// Bytes that were once durable are not what was written.
    #[error("raft log is damaged in segment {segment:016x} at offset {offset} ({}): {damage}", BatchName(*batch))]
    Damaged {
        segment: u64,
        offset: u64,
        /// Absent if the damage hides which batch stood there.
        batch: Option<u64>,
        damage: Damage,
    },
    /// A segment that the others need does not exist.
    #[error("raft log: segment {segment:016x} is missing")]
    MissingSegment { segment: u64 },
    /// An entry that does not follow the last one.
    #[error("raft log: entry {found} does not follow the log, which expects {expected}")]
    Hole { expected: u64, found: u64 },
    /// An entry that does not fit into one segment; it was not taken.
    #[error("raft log: an entry of {bytes} bytes is over the limit of {bytes_max}")]
    EntryTooLarge { bytes: usize, bytes_max: usize },
    /// The key could not seal a batch (no randomness): the log is failed for good.
    #[error("raft log: a batch could not be sealed")]
    NotSealed,
    /// The system gave no thread to write with.
    #[error("raft log: cannot start its thread: {source}")]
    NoThread { source: Arc<io::Error> },
    /// The log was closed, or its writer has gone.
    #[error("raft log is closed")]
    Closed,
}

/// What was asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    List,
    Create,
    Open,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
}

impl fmt::Display for DiskOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
        })
    }
}

impl DiskOperation {
    /// Names what failed on which file.
    pub(super) fn failed(self, file: &str) -> impl FnOnce(io::Error) -> LogError {
        let file: Arc<str> = file.into();
        move |source| LogError::Disk {
            operation: self,
            file,
            source: Arc::new(source),
        }
    }
}

/// How a batch is wrong.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Damage {
    #[error("no readable batch header, and later batches exist")]
    HeaderUnreadable,
    #[error("the batch does not open, and later batches exist")]
    NotAuthentic,
    #[error("the batch reaches past the end of its segment, and later batches exist")]
    PastEnd,
    #[error("the batch says it belongs to segment {found:016x}")]
    ForeignSegment { found: u64 },
    #[error("batch number {found} stands where another one is due")]
    NumberGap { found: u64 },
    #[error("the batch does not follow from the one before it")]
    ChainBroken,
    #[error("the batch opens but holds records that cannot be read")]
    RecordUnreadable,
    #[error("the head of the segment does not match what the segments before it say")]
    HeadMismatch,
    #[error("entry {found} stands where {expected} is due")]
    EntryGap { expected: u64, found: u64 },
}

impl Damage {
    /// Whether a write cut short can look like this. Everything else takes an authentic or at
    /// least a checksummed header, which is one sector and lands whole or not at all.
    pub(super) fn may_be_torn(self) -> bool {
        matches!(
            self,
            Self::HeaderUnreadable | Self::NotAuthentic | Self::PastEnd
        )
    }
}

struct BatchName(Option<u64>);

impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "batch {number}"),
            None => f.write_str("batch unknown"),
        }
    }
}
