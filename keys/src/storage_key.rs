//! The storage keys of one member: what seals its data directory.
//!
//! Promise: a stored row or log block opens only in the place it was sealed for.
//! Not known here: what rows hold, how storage keys are kept (`member_key`).

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use crate::aead::{Aead, NONCE_BYTES, TAG_BYTES, Xaes256Gcm};
use crate::encoding::{DecodeError, Reader};
use crate::secret::{Commitment, Secret, fill_random, random};

const FORMAT: u8 = 1;
const SUITE_XAES_256_GCM: u8 = 1;
const HEADER_BYTES: usize = 6;

/// How much longer a stored row or log block is than its plaintext.
pub const ROW_OVERHEAD_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

/// A stored row or log block that does not open. Says which key it names and never why.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OpenRowError {
    #[error("stored bytes cannot be read: the row {0}")]
    Malformed(DecodeError),
    /// The member has no storage key of this id: the bytes are another member's, or damaged.
    #[error("stored bytes name storage key {storage_key_id}, which this member does not have")]
    UnknownKey { storage_key_id: u32 },
    /// Damaged, moved from another place, or sealed by someone else.
    #[error("stored bytes under storage key {storage_key_id} do not open")]
    NotAuthentic { storage_key_id: u32 },
}

pub(crate) struct StorageKey {
    secret: Secret,
    aead: Xaes256Gcm,
}

impl StorageKey {
    pub(crate) fn from_secret(secret: Secret) -> Self {
        let aead = Xaes256Gcm::new(&secret.derive(b"sealkv/storage-key/1/encrypt"));
        Self { secret, aead }
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn commitment(&self) -> Commitment {
        commitment_of(&self.secret)
    }
}

pub(crate) fn commitment_of(secret: &Secret) -> Commitment {
    secret.commitment(b"sealkv/storage-key/1/commit")
}

/// What one seal of a row uses up: it cannot be copied.
pub struct RowNonce([u8; NONCE_BYTES]);

/// Nonces for a batch of rows, from the operating system all at once: asking costs as much as sealing.
///
/// Draw them when the rows' bytes are fixed. A virtual machine that goes on twice from a snapshot
/// taken in between then seals the same bytes under the same nonce, which tells nothing.
pub struct RowNonces {
    drawn: Vec<u8>,
    used: usize,
}

impl RowNonces {
    /// Draws as many; more come one by one.
    pub fn draw(count: usize) -> Self {
        let mut drawn = vec![0; count * NONCE_BYTES];
        fill_random(&mut drawn);
        Self { drawn, used: 0 }
    }

    pub fn take(&mut self) -> RowNonce {
        let Some(nonce) = self.drawn[self.used..].first_chunk() else {
            return RowNonce(random());
        };
        self.used += NONCE_BYTES;
        RowNonce(*nonce)
    }
}

/// Storage keys by id; the one with the greatest id seals. Cloning shares them.
#[derive(Clone)]
pub struct StorageKeys {
    keys: Arc<BTreeMap<u32, StorageKey>>,
    newest_id: u32,
}

impl StorageKeys {
    /// Gives nothing for no keys.
    pub(crate) fn new(keys: BTreeMap<u32, StorageKey>) -> Option<Self> {
        let newest_id = *keys.last_key_value()?.0;
        Some(Self {
            keys: Arc::new(keys),
            newest_id,
        })
    }

    /// One fresh key of id 1, kept nowhere: for tests and simulations that never restart.
    pub fn ephemeral() -> Self {
        let key = StorageKey::from_secret(Secret::random());
        Self {
            keys: Arc::new(BTreeMap::from([(1, key)])),
            newest_id: 1,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &StorageKey)> {
        self.keys.iter().map(|(id, key)| (*id, key))
    }

    /// The same keys, opened once more, to make a set with others.
    pub(crate) fn secrets(&self) -> BTreeMap<u32, StorageKey> {
        self.iter()
            .map(|(id, key)| (id, StorageKey::from_secret(key.secret.clone())))
            .collect()
    }

    /// The id that new rows name.
    pub fn newest_id(&self) -> u32 {
        self.newest_id
    }

    pub fn seal_row(&self, keyspace: u8, row_key: &[u8], plaintext: &[u8]) -> Vec<u8> {
        self.seal_row_of_many(keyspace, row_key, plaintext, RowNonce(random()))
    }

    /// One of a batch of rows.
    #[expect(clippy::needless_pass_by_value, reason = "a nonce is used once")]
    pub fn seal_row_of_many(
        &self,
        keyspace: u8,
        row_key: &[u8],
        plaintext: &[u8],
        nonce: RowNonce,
    ) -> Vec<u8> {
        self.seal(&row_place(keyspace, row_key), plaintext, &nonce.0)
    }

    pub fn open_row(
        &self,
        keyspace: u8,
        row_key: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, OpenRowError> {
        self.open(&row_place(keyspace, row_key), sealed)
    }

    /// A batch of the raft log; `associated_data` is its header.
    pub fn seal_block(&self, associated_data: &[u8], plaintext: &[u8]) -> Vec<u8> {
        self.seal(&block_place(associated_data), plaintext, &random())
    }

    pub fn open_block(
        &self,
        associated_data: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, OpenRowError> {
        self.open(&block_place(associated_data), sealed)
    }

    pub(crate) fn seal(
        &self,
        place: &[u8],
        plaintext: &[u8],
        nonce: &[u8; NONCE_BYTES],
    ) -> Vec<u8> {
        let key = self
            .keys
            .get(&self.newest_id)
            .expect("the newest id was taken from these keys");
        let mut sealed = Vec::with_capacity(ROW_OVERHEAD_BYTES + plaintext.len());
        sealed.extend_from_slice(&[FORMAT, SUITE_XAES_256_GCM]);
        sealed.extend_from_slice(&self.newest_id.to_be_bytes());
        sealed.extend_from_slice(nonce);
        key.aead.seal(nonce, place, plaintext, &mut sealed);
        sealed
    }

    fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenRowError> {
        let (storage_key_id, nonce, rest) = read(sealed).map_err(OpenRowError::Malformed)?;
        let key = self
            .keys
            .get(&storage_key_id)
            .ok_or(OpenRowError::UnknownKey { storage_key_id })?;
        key.aead
            .open(&nonce, place, rest)
            .map_err(|_| OpenRowError::NotAuthentic { storage_key_id })
    }
}

fn read(sealed: &[u8]) -> Result<(u32, [u8; NONCE_BYTES], &[u8]), DecodeError> {
    let ciphertext_bytes = sealed
        .len()
        .checked_sub(HEADER_BYTES + NONCE_BYTES)
        .filter(|count| *count >= TAG_BYTES)
        .ok_or(DecodeError::Truncated)?;
    let mut reader = Reader::new(sealed);
    let format = reader.u8()?;
    if format != FORMAT {
        let found = u16::from(format);
        return Err(DecodeError::UnknownFormat { found });
    }
    let suite = reader.u8()?;
    if suite != SUITE_XAES_256_GCM {
        return Err(DecodeError::UnknownSuite { found: suite });
    }
    Ok((
        reader.u32()?,
        reader.array()?,
        reader.take(ciphertext_bytes)?,
    ))
}

pub(crate) fn row_place(keyspace: u8, row_key: &[u8]) -> Vec<u8> {
    place(b"sealkv/row/1", &[&[keyspace], row_key])
}

pub(crate) fn block_place(associated_data: &[u8]) -> Vec<u8> {
    place(b"sealkv/log/1", &[associated_data])
}

/// Both labels are of one length, so no row can be read as a block.
fn place(label: &[u8; 12], parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(label.len() + length);
    bytes.extend_from_slice(label);
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(ids: &[u32]) -> StorageKeys {
        let keys = ids
            .iter()
            .map(|id| {
                let secret = Secret::from_bytes([u8::try_from(*id).expect("small"); 32]);
                (*id, StorageKey::from_secret(secret))
            })
            .collect();
        StorageKeys::new(keys).expect("not empty")
    }

    #[test]
    fn a_row_opens_only_in_its_place() {
        let keys = keys(&[1]);
        let sealed = keys.seal_row(3, b"row", b"plaintext");
        assert_eq!(sealed.len(), 9 + ROW_OVERHEAD_BYTES);
        assert_eq!(sealed.capacity(), sealed.len());
        assert_eq!(keys.open_row(3, b"row", &sealed), Ok(b"plaintext".to_vec()));
        let refused = Err(OpenRowError::NotAuthentic { storage_key_id: 1 });
        assert_eq!(keys.open_row(4, b"row", &sealed), refused);
        assert_eq!(keys.open_row(3, b"rox", &sealed), refused);
        assert_eq!(keys.open_row(3, b"", &sealed), refused);
        assert_eq!(keys.open_block(b"\x03row", &sealed), refused);
    }

    #[test]
    fn no_nonce_of_a_batch_is_used_twice() {
        let keys = keys(&[1]);
        let mut nonces = RowNonces::draw(3);
        let mut seal = || keys.seal_row_of_many(3, b"row", b"plaintext", nonces.take());
        let mut sealed: Vec<_> = (0..5).map(|_| seal()).collect();
        for row in &sealed {
            assert_eq!(keys.open_row(3, b"row", row), Ok(b"plaintext".to_vec()));
        }
        sealed.sort();
        sealed.dedup();
        assert_eq!(sealed.len(), 5);
    }

    #[test]
    fn a_block_opens_only_under_its_header() {
        let keys = keys(&[1]);
        let sealed = keys.seal_block(b"header", b"entries");
        assert_eq!(keys.open_block(b"header", &sealed), Ok(b"entries".to_vec()));
        let refused = Err(OpenRowError::NotAuthentic { storage_key_id: 1 });
        assert_eq!(keys.open_block(b"headex", &sealed), refused);
        assert_eq!(keys.open_row(b'h', b"eader", &sealed), refused);
    }

    #[test]
    fn rows_of_an_older_key_open_beside_a_newer_one() {
        let old = keys(&[1]).seal_row(0, b"row", b"old");
        let both = keys(&[1, 2]);
        assert_eq!(both.newest_id(), 2);
        assert_eq!(both.open_row(0, b"row", &old), Ok(b"old".to_vec()));
        let new = both.seal_row(0, b"row", b"new");
        assert_eq!(
            keys(&[1]).open_row(0, b"row", &new),
            Err(OpenRowError::UnknownKey { storage_key_id: 2 })
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_row_is_refused() {
        let keys = keys(&[1]);
        let sealed = keys.seal_row(0, b"row", b"plaintext");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.open_row(0, b"row", &damaged).is_err());
        }
        for end in 0..sealed.len() {
            assert!(keys.open_row(0, b"row", &sealed[..end]).is_err());
        }
    }
}
