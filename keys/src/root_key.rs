//! ROOT outside a keyring: on its way from a backup, or from a key bundle, to a restored member.
//!
//! A backup's key table knows the slots of members that its new cluster does not have. A restored
//! member has a slot of its own, which only somebody who has opened ROOT can enrol; so it keeps
//! ROOT, sealed under its own storage key, until its slot is in the table.
//!
//! Promise: the file opens for the member it was written for; a crash leaves it whole or absent.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::encoding::{DecodeError, Reader};
use crate::private_file;
use crate::root::Root;
use crate::secret::{Commitment, SECRET_BYTES, Secret, SecretBytes};
use crate::storage_key::{OpenRowError, StorageKeys};
use crate::table::{KeyTable, KeyringId};

/// A keyspace number that no store uses, and the row key.
const PLACE: (u8, &[u8]) = (254, b"inherited-root");

/// One version of one keyring's ROOT. Cloning shares it.
#[derive(Clone)]
pub struct RootKey {
    root: Arc<Root>,
}

#[derive(Debug, Error)]
pub enum InheritedRootError {
    #[error("the root key that this member was restored with cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the root key that this member was restored with does not open: {0}")]
    Open(#[from] OpenRowError),
    #[error("the root key that this member was restored with: it {0}")]
    Malformed(#[from] DecodeError),
}

impl RootKey {
    pub(crate) fn of(root: Arc<Root>) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    pub fn keyring_id(&self) -> KeyringId {
        self.root.keyring_id()
    }

    pub fn version(&self) -> u32 {
        self.root.version()
    }

    pub(crate) fn commitment(&self) -> Commitment {
        self.root.commitment()
    }

    /// Whether this is the ROOT that the table's keys are wrapped under.
    pub fn fits(&self, table: &KeyTable) -> bool {
        table.keyring_id() == Some(self.keyring_id())
            && table.root_version() == Some(self.version())
            && table.root_commitment() == Some(self.commitment())
    }

    pub fn save_inherited(&self, path: &Path, keys: &StorageKeys) -> io::Result<()> {
        // Room for all of it: the buffer never moves and leaves no copy behind.
        let mut bytes = SecretBytes::new(Vec::with_capacity(16 + 4 + SECRET_BYTES));
        bytes.extend_from_slice(self.keyring_id().as_bytes());
        bytes.extend_from_slice(&self.version().to_be_bytes());
        bytes.extend_from_slice(self.root.secret().expose());
        private_file::write(path, &keys.seal_row(PLACE.0, PLACE.1, &bytes))
    }

    /// Nothing if the member has none, or none any more.
    pub fn load_inherited(
        path: &Path,
        keys: &StorageKeys,
    ) -> Result<Option<Self>, InheritedRootError> {
        let sealed = match fs::read(path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let bytes = SecretBytes::new(keys.open_row(PLACE.0, PLACE.1, &sealed)?);
        let mut reader = Reader::new(&bytes);
        let keyring_id = KeyringId::from_bytes(reader.array()?);
        let version = reader.u32()?;
        let secret = Secret::from_bytes(reader.array()?);
        reader.finish()?;
        let root = Root::from_secret(keyring_id, version, secret);
        Ok(Some(Self::of(Arc::new(root))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inherited_root_reads_back_under_the_keys_it_was_saved_with() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("inherited.root");
        let keys = StorageKeys::ephemeral();
        let keyring_id = KeyringId::from_bytes([3; 16]);
        let root = RootKey::of(Arc::new(Root::from_secret(keyring_id, 2, Secret::random())));
        assert!(matches!(RootKey::load_inherited(&path, &keys), Ok(None)));
        root.save_inherited(&path, &keys).expect("a new file");
        let loaded = RootKey::load_inherited(&path, &keys);
        let loaded = loaded.expect("its keys").expect("a file");
        assert_eq!((loaded.keyring_id(), loaded.version()), (keyring_id, 2));
        assert!(loaded.commitment() == root.commitment());
        let others = StorageKeys::ephemeral();
        assert!(RootKey::load_inherited(&path, &others).is_err());
    }
}
