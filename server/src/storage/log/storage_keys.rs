//! A member's storage keys as the log's cipher.

use keys::{ROW_OVERHEAD_BYTES, StorageKeys};

use super::batch::BlockSealer;

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
