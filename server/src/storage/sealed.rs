//! Sealing of rows: the storage key meets the row here.
//!
//! Not known here: engines, what rows mean.

use bytes::Bytes;
use keys::{RowNonce, RowNonces};
use thiserror::Error;

use super::error::StorageError;
use super::layout::{Keyspace, MARKER_KEY, StoredKey};

/// Seals a row to its place. A trait, so that a simulation can count or copy instead.
pub trait RowSealer: Send + Sync {
    fn seal_row(&self, keyspace: u8, row_key: &[u8], plaintext: &[u8], nonce: RowNonce) -> Vec<u8>;

    fn open_row(&self, keyspace: u8, row_key: &[u8], sealed: &[u8])
    -> Result<Vec<u8>, RowUnopened>;
}

/// The row is not what was sealed for this place. Why is not said.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a stored row does not open")]
pub struct RowUnopened;

impl RowSealer for keys::StorageKeys {
    fn seal_row(&self, keyspace: u8, row_key: &[u8], plaintext: &[u8], nonce: RowNonce) -> Vec<u8> {
        self.seal_row_of_many(keyspace, row_key, plaintext, nonce)
    }

    fn open_row(
        &self,
        keyspace: u8,
        row_key: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, RowUnopened> {
        let opened = self.open_row(keyspace, row_key, sealed);
        opened.map_err(|_| RowUnopened)
    }
}

/// Values are sealed already; the store's own row among them is not.
fn is_sealed_elsewhere(keyspace: Keyspace, key: &[u8]) -> bool {
    keyspace == Keyspace::Value && key != MARKER_KEY
}

pub(crate) fn seal(
    sealer: &dyn RowSealer,
    keyspace: Keyspace,
    key: &[u8],
    row: Bytes,
    nonces: &mut RowNonces,
) -> Bytes {
    if is_sealed_elsewhere(keyspace, key) {
        return row;
    }
    Bytes::from(sealer.seal_row(keyspace.number(), key, &row, nonces.take()))
}

pub(crate) fn open(
    sealer: &dyn RowSealer,
    keyspace: Keyspace,
    key: &[u8],
    stored: Bytes,
) -> Result<Bytes, StorageError> {
    if is_sealed_elsewhere(keyspace, key) {
        return Ok(stored);
    }
    let opened = sealer.open_row(keyspace.number(), key, &stored);
    opened.map(Bytes::from).map_err(|RowUnopened| {
        let row = StoredKey::copy(key);
        StorageError::Unreadable { keyspace, row }
    })
}
