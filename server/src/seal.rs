//! The only place where plaintext values and keys meet.
//!
//! Promise: a value leaves here sealed under the key that its prefix has in the given view, or
//! opened for the key that it was sealed for; a failure names keys and prefixes by id, never
//! bytes.
//! Not known here: gRPC, raft, where a value goes.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use keys::Keyring;

use crate::mvcc::read_view::ReadView;

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealerError {
    /// The provider of this member has not given the root key yet, or not any more.
    #[error("this member has not opened the root key")]
    RootNotOpen,
    #[error(transparent)]
    Seal(#[from] keys::SealError),
    #[error(transparent)]
    Open(#[from] keys::OpenError),
}

/// Seals and opens with whatever keyring this member has opened last. Cloning shares it.
#[derive(Clone, Default)]
pub struct Sealer {
    keyring: Arc<ArcSwapOption<Keyring>>,
}

impl Sealer {
    /// Without a keyring: every call fails until one is installed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on this keyring is used.
    pub fn install(&self, keyring: Keyring) {
        self.keyring.store(Some(Arc::new(keyring)));
    }

    /// Forgets every opened key as soon as nobody uses one any more.
    pub fn forget(&self) {
        self.keyring.store(None);
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.keyring.load().is_some()
    }

    /// Seals under the newest version of the key that the view has for this key's prefix.
    pub fn seal(&self, view: &ReadView, key: &[u8], value: &[u8]) -> Result<Bytes, SealerError> {
        let keyring = self.keyring.load();
        let keyring = keyring.as_ref().ok_or(SealerError::RootNotOpen)?;
        Ok(keyring.seal(&view.key_table, key, value)?.into())
    }

    /// Opens what was sealed for this key.
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Bytes, SealerError> {
        let keyring = self.keyring.load();
        let keyring = keyring.as_ref().ok_or(SealerError::RootNotOpen)?;
        Ok(keyring.open(key, sealed)?.into())
    }
}
