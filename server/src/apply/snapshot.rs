//! The replicated state as a stream: everything a member needs to stand where another stood.
//!
//! Promise: a loaded state is the exported one, history included, row for row; a stream that is
//! cut, reordered or damaged is refused. Values travel sealed as they are; everything else leaves
//! the sender's storage key here and meets the receiver's in the loader.
//! Not known here: where the bytes go. The transport has to hide key names from others.
//!
//! ```text
//! chunk: format u8 = 1 | last u8 | number u32 | rows | crc32c u32 of all before it
//! row:   keyspace u8 | u32 length ‖ row key | u32 length ‖ row
//! last chunk: SHA-256 of the rows of all chunks, in place of rows
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::{Applied, LogPosition, decode_row, rows};
use crate::mvcc::read_view::ReadView;
use crate::storage::layout::{FORMAT_KEY, MARKER_KEY};
use crate::storage::{Keyspace, Scan, StorageError, Store};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 6;
const CRC_BYTES: usize = 4;
/// A chunk is closed before a row that would make it longer; one row may be, by itself.
const CHUNK_BYTES: usize = 1 << 20;
/// Keyspace and two lengths.
const ROW_OVERHEAD_BYTES: usize = 9;

/// One piece of the stream.
pub type SnapshotChunk = Bytes;

/// The rows of a view, chunk by chunk. Holds the view's storage snapshot, and one chunk in memory.
pub struct Export {
    view: ReadView,
    keyspaces: std::slice::Iter<'static, Keyspace>,
    scan: Option<(Keyspace, Scan)>,
    /// Read already, for the next chunk.
    waiting: Option<(Keyspace, Bytes, Bytes)>,
    number: u32,
    digest: Sha256,
    done: bool,
}

/// Everything replicated, in the order it travels.
pub fn export(view: &ReadView) -> Export {
    Export {
        view: view.clone(),
        keyspaces: Keyspace::ALL.iter(),
        scan: None,
        waiting: None,
        number: 0,
        digest: Sha256::new(),
        done: false,
    }
}

impl Iterator for Export {
    type Item = Result<SnapshotChunk, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let chunk = self.chunk();
        self.done |= chunk.is_err();
        Some(chunk)
    }
}

impl Export {
    fn chunk(&mut self) -> Result<SnapshotChunk, StorageError> {
        let mut out = BytesMut::with_capacity(CHUNK_BYTES);
        out.put_u8(FORMAT);
        out.put_u8(0);
        out.put_u32(self.number);
        while let Some((keyspace, key, row)) = self.row()? {
            let longer = out.len() + ROW_OVERHEAD_BYTES + key.len() + row.len() + CRC_BYTES;
            if longer > CHUNK_BYTES && out.len() > HEADER_BYTES {
                self.waiting = Some((keyspace, key, row));
                break;
            }
            out.put_u8(keyspace.number());
            put_bytes(&mut out, &key);
            put_bytes(&mut out, &row);
        }
        if out.len() == HEADER_BYTES {
            out[1] = 1;
            out.put_slice(&std::mem::take(&mut self.digest).finalize());
            self.done = true;
        } else {
            self.digest.update(&out[HEADER_BYTES..]);
        }
        self.number += 1;
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        Ok(out.freeze())
    }

    fn row(&mut self) -> Result<Option<(Keyspace, Bytes, Bytes)>, StorageError> {
        if let Some(row) = self.waiting.take() {
            return Ok(Some(row));
        }
        loop {
            if let Some((keyspace, scan)) = &mut self.scan {
                let keyspace = *keyspace;
                for row in scan.by_ref() {
                    let (key, row) = row?;
                    if is_replicated(keyspace, &key) {
                        return Ok(Some((keyspace, key, row)));
                    }
                }
            }
            let Some(&keyspace) = self.keyspaces.next() else {
                return Ok(None);
            };
            self.scan = Some((keyspace, self.view.store.scan(keyspace, ..)));
        }
    }
}

/// A member's own rows stay at home.
fn is_replicated(keyspace: Keyspace, key: &[u8]) -> bool {
    keyspace != Keyspace::System || (key != FORMAT_KEY && key != rows::COMPACTED)
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).expect("a row is far smaller than 4 GiB"));
    out.put_slice(bytes);
}

/// The rows of a chunk that `export` made, for whoever counts them.
pub(crate) fn rows_of(chunk: &SnapshotChunk) -> impl Iterator<Item = (Keyspace, Bytes, Bytes)> {
    let is_last = chunk.get(1) == Some(&1);
    let end = chunk.len().saturating_sub(CRC_BYTES).max(HEADER_BYTES);
    let mut rows = match chunk.len() > HEADER_BYTES && !is_last {
        true => chunk.slice(HEADER_BYTES..end),
        false => Bytes::new(),
    };
    std::iter::from_fn(move || take_row(&mut rows))
}

/// Why a snapshot is not taken. The staged store is of no use after any of these.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It needs a newer release.
    #[error("snapshot format {found} needs a newer release than this one, which knows {FORMAT}")]
    Format { found: u8 },
    #[error("chunk {number} of the snapshot is damaged")]
    Damaged { number: u32 },
    #[error("chunk {found} of the snapshot came where {expected} was due")]
    OutOfOrder { expected: u32, found: u32 },
    /// The stream ended before its last chunk, or went on after it.
    #[error("the snapshot is incomplete")]
    Incomplete,
    #[error("the snapshot stands at log index {found:?}, not at {expected:?}")]
    OtherPosition {
        expected: Option<LogPosition>,
        found: Option<LogPosition>,
    },
}

/// Fills a staged, empty store from a stream.
pub struct SnapshotLoader {
    store: Store,
    next: u32,
    digest: Sha256,
    complete: bool,
}

impl SnapshotLoader {
    #[must_use]
    pub fn new(staged: Store) -> Self {
        SnapshotLoader {
            store: staged,
            next: 0,
            digest: Sha256::new(),
            complete: false,
        }
    }

    pub fn chunk(&mut self, bytes: &Bytes) -> Result<(), SnapshotError> {
        if self.complete {
            return Err(SnapshotError::Incomplete);
        }
        let (last, rows) = self.open(bytes)?;
        if last {
            let digest = std::mem::take(&mut self.digest).finalize();
            self.complete = rows[..] == digest[..];
            return if self.complete {
                Ok(())
            } else {
                Err(self.damaged())
            };
        }
        self.digest.update(&rows);
        self.load(rows)?;
        self.next += 1;
        Ok(())
    }

    /// What is in the store now stands at `expected`, if one is. Then the store can be published
    /// and recovered from.
    pub fn finish(self, expected: Option<LogPosition>) -> Result<(Store, Applied), SnapshotError> {
        if !self.complete {
            return Err(SnapshotError::Incomplete);
        }
        let row = self
            .store
            .view()
            .get(Keyspace::Raft, rows::APPLIED)?
            .ok_or(SnapshotError::Incomplete)?;
        let row = decode_row(Keyspace::Raft, rows::APPLIED, row)
            .map_err(|_| SnapshotError::Incomplete)?;
        let applied = Applied::from_row(row);
        if expected.is_some() && applied.last != expected {
            return Err(SnapshotError::OtherPosition {
                expected,
                found: applied.last,
            });
        }
        Ok((self.store, applied))
    }

    /// Checks everything about a chunk but its rows.
    fn open(&self, bytes: &Bytes) -> Result<(bool, Bytes), SnapshotError> {
        let Some(end) = bytes
            .len()
            .checked_sub(CRC_BYTES)
            .filter(|&end| end >= HEADER_BYTES)
        else {
            return Err(self.damaged());
        };
        if bytes[0] != FORMAT {
            return Err(SnapshotError::Format { found: bytes[0] });
        }
        let crc = (&bytes[end..]).get_u32();
        if crc32c::crc32c(&bytes[..end]) != crc || bytes[1] > 1 {
            return Err(self.damaged());
        }
        let found = (&bytes[2..HEADER_BYTES]).get_u32();
        if found != self.next {
            return Err(SnapshotError::OutOfOrder {
                expected: self.next,
                found,
            });
        }
        Ok((bytes[1] == 1, bytes.slice(HEADER_BYTES..end)))
    }

    fn load(&self, mut rows: Bytes) -> Result<(), SnapshotError> {
        let mut batch = self.store.batch();
        while !rows.is_empty() {
            let (keyspace, key, row) = take_row(&mut rows).ok_or_else(|| self.damaged())?;
            if keyspace == Keyspace::Value {
                let at = crate::mvcc::Revision::from_bytes(&key).ok_or_else(|| self.damaged())?;
                batch.put_value(at, row);
            } else if !is_replicated(keyspace, &key) || key[..] <= *MARKER_KEY {
                // A member's own rows, or the store's.
                return Err(self.damaged());
            } else {
                batch.put(keyspace, &key, &row);
            }
        }
        Ok(self.store.commit(batch)?)
    }

    fn damaged(&self) -> SnapshotError {
        SnapshotError::Damaged { number: self.next }
    }
}

fn take_row(rows: &mut Bytes) -> Option<(Keyspace, Bytes, Bytes)> {
    let number = rows.try_get_u8().ok()?;
    let keyspace = Keyspace::ALL
        .into_iter()
        .find(|keyspace| keyspace.number() == number)?;
    Some((keyspace, take_bytes(rows)?, take_bytes(rows)?))
}

fn take_bytes(rows: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(rows.try_get_u32().ok()?).ok()?;
    (rows.len() >= length).then(|| rows.split_to(length))
}

/// Chunks of other rows than a member sends.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing {
    use super::*;

    pub(in crate::apply) fn chunk_of(rows: &[u8]) -> SnapshotChunk {
        chunk(0, 0, rows)
    }

    /// What closes a stream of one chunk.
    pub(in crate::apply) fn last_chunk(rows: &[u8]) -> SnapshotChunk {
        chunk(1, 1, &Sha256::digest(rows))
    }

    fn chunk(last: u8, number: u32, content: &[u8]) -> SnapshotChunk {
        let mut out = BytesMut::new();
        out.put_slice(&[FORMAT, last]);
        out.put_u32(number);
        out.put_slice(content);
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::fixture::PlaceSealer;

    fn loaded(key: &[u8]) -> Result<(), SnapshotError> {
        let mut rows = BytesMut::new();
        rows.put_u8(Keyspace::Lease.number());
        put_bytes(&mut rows, key);
        put_bytes(&mut rows, b"row");
        let mut loader = SnapshotLoader::new(Store::in_memory(PlaceSealer(1)));
        loader.chunk(&fuzzing::chunk_of(&rows))?;
        loader.chunk(&fuzzing::last_chunk(&rows))
    }

    /// Found by the fuzz target `state`.
    #[test]
    fn a_row_in_the_stores_own_place_is_refused() {
        loaded(&[0, 0]).unwrap();
        for key in [&[][..], &[0]] {
            let refused = loaded(key);
            assert!(
                matches!(refused, Err(SnapshotError::Damaged { number: 0 })),
                "{key:?}"
            );
        }
    }
}
