//! A member's storage keys as the sealer of its rows and of its raft log.

use keys::{ROW_OVERHEAD_BYTES, StorageKeys};

use super::log::BlockSealer;
use super::sealed::{RowSealer, RowUnopened};

impl RowSealer for StorageKeys {
    fn seal_row(&self, keyspace: u8, row_key: &[u8], plaintext: &[u8]) -> Vec<u8> {
        StorageKeys::seal_row(self, keyspace, row_key, plaintext)
    }

    fn open_row(
        &self,
        keyspace: u8,
        row_key: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, RowUnopened> {
        StorageKeys::open_row(self, keyspace, row_key, sealed).map_err(|_| RowUnopened)
    }
}

impl BlockSealer for StorageKeys {
    fn overhead_bytes(&self) -> usize {
        ROW_OVERHEAD_BYTES
    }

    fn seal_block(&self, associated_data: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
        Some(StorageKeys::seal_block(self, associated_data, plaintext))
    }

    fn open_block(&self, associated_data: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        StorageKeys::open_block(self, associated_data, sealed).ok()
    }
}
