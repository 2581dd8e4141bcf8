//! Data backups: the bytes that `Snapshot` streams and `sealkv snapshot` reads.
//!
//! Promise: a backup is the whole replicated state at one revision; whoever holds it without the
//! root key learns its header and its size, nothing else; a byte changed, cut off, added or taken
//! from another backup is noticed. Neither writing nor reading one takes more memory than a few
//! sections.
//! Not known here: gRPC, raft, where the bytes go, how a state is made a member again.
//!
//! ```text
//! "sealkv-backup" 0x00 | format u16 = 1 | u32 length ‖ header        (protobuf, sealkv.backup.v1)
//! sections × u32 length ‖ section                 a chunk of the state as `apply::snapshot` has it,
//!                                                   sealed under the backup's key (keys/src/lib.rs)
//! zeros                                             up to a multiple of 512 bytes
//! SHA-256[32] of everything before                  as etcd's clients expect it
//!
//! the place of a section: SHA-256[32] of all before the first section | number u32 | last u8
//! ```
//!
//! The header says in plaintext what an operator wants to know of a file without opening it: which
//! cluster and keyring it is of, whose root key opens it, its revision, how many records of history
//! it has and which data keys its values lie under. It is authenticated by every section. Values
//! are sealed once more than they are in a store, so that not even their keys' ids tell them apart.

mod header;
mod read;
mod write;

pub use header::{BadHeader, DataKey, Header};
pub use read::{BackupError, BackupReader, Summary};
pub use write::{BackupWriter, Measured, measure};

use sha2::{Digest, Sha256};

const MAGIC: &[u8; 14] = b"sealkv-backup\0";
const FORMAT: u16 = 1;
/// etcd's clients take a download whose size is a multiple of this and the SHA-256.
const BLOCK_BYTES: u64 = 512;
const SHA256_BYTES: usize = 32;
/// Magic, format and length.
const PREAMBLE_BYTES: usize = MAGIC.len() + 2 + 4;
const LENGTH_BYTES: usize = 4;

/// Where a section belongs.
fn place(head: &[u8; SHA256_BYTES], number: u32, last: bool) -> Vec<u8> {
    let mut place = head.to_vec();
    place.extend_from_slice(&number.to_be_bytes());
    place.push(u8::from(last));
    place
}

fn sha256(bytes: &[u8]) -> [u8; SHA256_BYTES] {
    Sha256::digest(bytes).into()
}

/// From here to the next multiple of a block.
fn padding(length: u64) -> u64 {
    length.next_multiple_of(BLOCK_BYTES) - length
}

#[cfg(test)]
mod tests;
