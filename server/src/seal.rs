//! The only place where plaintext values and keys meet.
//!
//! Promise: a value leaves here sealed under the key that its prefix has in the given view, or
//! opened for the key that it was sealed for; a failure names keys and prefixes by id, never
//! bytes.
//! Not known here: gRPC, raft, where a value goes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use keys::Keyring;
use tokio::sync::watch;

use crate::metrics::metrics;
use crate::mvcc::read_view::ReadView;

/// How long a request waits for a key that is in the key table but not in memory yet.
const KEY_WAIT: Duration = Duration::from_secs(2);

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

impl SealerError {
    /// The key table may be ahead of the keyring: a newer keyring may have the key.
    #[must_use]
    pub fn is_key_absent(&self) -> bool {
        matches!(
            self,
            SealerError::Seal(keys::SealError::KeyAbsent { .. })
                | SealerError::Open(keys::OpenError::KeyAbsent { .. })
        )
    }
}

/// Seals and opens with whatever keyring this member has opened last. Cloning shares it.
#[derive(Clone, Default)]
pub struct Sealer {
    keyring: Arc<ArcSwapOption<Keyring>>,
    /// Counts keyrings.
    generation: watch::Sender<u64>,
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
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Which keyring is installed, by number. Taken before a try, it is what [`Sealer::newer`]
    /// compares with after it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Waits a little for a keyring newer than the one of that number; whether it came.
    pub async fn newer(&self, generation: u64) -> bool {
        let mut installed = self.generation.subscribe();
        let newer = installed.wait_for(|now| *now > generation);
        matches!(tokio::time::timeout(KEY_WAIT, newer).await, Ok(Ok(_)))
    }

    /// Forgets every opened key as soon as nobody uses one any more.
    pub fn forget(&self) {
        self.keyring.store(None);
    }

    /// What was installed last.
    #[must_use]
    pub fn keyring(&self) -> Option<Arc<Keyring>> {
        self.keyring.load_full()
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.keyring.load().is_some()
    }

    /// Seals under the newest version of the key that the view has for this key's prefix.
    pub fn seal(&self, view: &ReadView, key: &[u8], value: &[u8]) -> Result<Bytes, SealerError> {
        let keyring = self.keyring.load();
        let keyring = keyring.as_ref().ok_or(SealerError::RootNotOpen)?;
        let sealed = keyring.seal(&view.key_table, key, value)?;
        metrics().values_sealed.inc();
        Ok(sealed.into())
    }

    /// Opens what was sealed for this key.
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Bytes, SealerError> {
        let keyring = self.keyring.load();
        let keyring = keyring.as_ref().ok_or(SealerError::RootNotOpen)?;
        match keyring.open(key, sealed) {
            Ok(value) => {
                metrics().values_opened.inc();
                Ok(value.into())
            }
            Err(error) => {
                metrics().values_unopened.inc();
                Err(error.into())
            }
        }
    }
}
