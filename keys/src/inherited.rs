//! The slot that a restored member opens ROOT with until it has been enrolled with its own.
//!
//! A backup's key table knows the slots of the members it was made by. A restored member has a new
//! slot, which only somebody who has opened ROOT can enrol; so it keeps the slot that opened the
//! backup, sealed under its own storage key, until its own one is in the table.
//!
//! Promise: the file opens for the member it was written for; a crash leaves it whole or absent.

use std::fs;
use std::io;
use std::path::Path;

use thiserror::Error;

use crate::private_file;
use crate::secret::{Secret, SecretBytes};
use crate::slot::SlotKeyPair;
use crate::storage_key::{OpenRowError, StorageKeys};

/// A keyspace number that no store uses, and the row key.
const PLACE: (u8, &[u8]) = (254, b"inherited-slot");

#[derive(Debug, Error)]
pub enum InheritedSlotError {
    #[error("the slot that this member was restored with cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the slot that this member was restored with does not open: {0}")]
    Open(#[from] OpenRowError),
    #[error("the slot that this member was restored with is no slot")]
    Malformed,
}

impl SlotKeyPair {
    pub fn save_inherited(&self, path: &Path, keys: &StorageKeys) -> io::Result<()> {
        private_file::write(
            path,
            &keys.seal_row(PLACE.0, PLACE.1, self.secret().expose()),
        )
    }

    /// Nothing if the member has none, or none any more.
    pub fn load_inherited(
        path: &Path,
        keys: &StorageKeys,
    ) -> Result<Option<Self>, InheritedSlotError> {
        let sealed = match fs::read(path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let secret = SecretBytes::new(keys.open_row(PLACE.0, PLACE.1, &sealed)?);
        let secret = Secret::from_slice(&secret).ok_or(InheritedSlotError::Malformed)?;
        Ok(Some(Self::from_secret(secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inherited_slot_reads_back_under_the_keys_it_was_saved_with() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("inherited.slot");
        let (keys, slot) = (StorageKeys::ephemeral(), SlotKeyPair::generate());
        assert!(matches!(
            SlotKeyPair::load_inherited(&path, &keys),
            Ok(None)
        ));
        slot.save_inherited(&path, &keys).expect("a new file");
        let loaded = SlotKeyPair::load_inherited(&path, &keys);
        let loaded = loaded.expect("its keys").expect("a file");
        assert!(loaded.public() == slot.public());
        let others = StorageKeys::ephemeral();
        assert!(SlotKeyPair::load_inherited(&path, &others).is_err());
    }
}
