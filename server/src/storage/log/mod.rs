//! The raft log: sealed segments, written in batches, one fsync each.
//!
//! Promise: what was reported as flushed is on disk and comes back in the same order, or the log
//! refuses to open and names the place; a tail torn by a power cut was never reported and is cut
//! off. After a failed write or fsync nothing is reported as flushed ever again.
//! Not known here: openraft, keys, what an entry means.
//!
//! # Bytes
//!
//! A log is a directory of segments `<id, 16 hex digits>.log`, ids without a gap, each of a fixed
//! size and zeroed before its first use. `spare.log` is the next one being zeroed. A segment holds
//! batches back to back; a batch starts on a 512-byte boundary, fills whole 512-byte blocks and
//! never spans two segments. All integers are big-endian.
//!
//! ```text
//! batch   := header[52] ‖ sealed
//! header  := "sealkvRL" ‖ format u8 = 1 ‖ 0[3] ‖ sealed length u32 ‖ segment u64 ‖ batch number u64
//!            ‖ tag of the batch before[16] ‖ crc32c of the 48 bytes before u32
//! sealed  := seal(key, associated data = header, records), the last 16 bytes are its tag
//! records := record* ‖ 0*                      (the zeros fill the last block: no byte of a
//!                                               written block is left unauthenticated)
//! record  := 1 ‖ term u64 ‖ index u64 ‖ kind u8 ‖ length u32 ‖ payload     entry
//!          | 2 ‖ term u64 ‖ member u64 ‖ committed u8                      vote
//!          | 3 ‖ position                                                  committed up to
//!          | 4 ‖ position                                                  truncated after
//!          | 5 ‖ term u64 ‖ index u64 ‖ first segment u64                  purged up to
//!          | 6 ‖ segment u64                                               goes on in that segment
//!          | 7 ‖ vote? ‖ committed ‖ purged ‖ last ‖ first segment u64     head
//! position := 0 | 1 ‖ term u64 ‖ index u64;  vote? := 0 | 1 ‖ term u64 ‖ member u64 ‖ committed u8
//! ```
//!
//! Batch numbers count from 1 without a gap through all segments. The first record of a segment,
//! and only that, is the head: all that earlier segments say besides their entries, so any of them
//! may go once its entries are purged. `first segment` is the oldest one that is still needed. The
//! last batch of a full segment is the `goes on` record alone, written when the next segment
//! exists, so a lost newest segment is noticed.
//!
//! # Opening
//!
//! Batches are replayed in order up to the first that does not open. If no readable header with a
//! higher batch number follows, here or in a later segment, it was the one in flight at a power
//! cut: one batch is written at a time, so nothing after it was ever reported. It is zeroed. In
//! every other case (a later batch, a number or chain that does not fit, a missing segment) the
//! log refuses to open.

mod batch;
mod disk;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod head;
mod memory_disk;
mod raft_log;
mod reader;
mod record;
mod recover;
mod segment;
mod spare;
mod storage_keys;
mod window;
mod writer;

#[cfg(test)]
mod power_cut_tests;
#[cfg(test)]
mod test_sealer;

pub use batch::{BlockSealer, TAG_BYTES};
pub use disk::{DirectoryDisk, LogDisk, LogFile};
pub use error::{Damage, DiskOperation, LogError};
pub use memory_disk::MemoryDisk;
pub use raft_log::{Flushed, LogBounds, LogOptions, RaftLog};
pub use record::{LogEntry, LogPosition, LogVote};
pub use writer::LogWriter;
