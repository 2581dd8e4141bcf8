//! The key of one prefix, which its data keys are wrapped under.

use crate::aead::Xaes256Gcm;
use crate::dek::Dek;
use crate::secret::Secret;
use crate::table::KeyringId;
use crate::wrapped::{KeyKind, KeyPlace, UnwrapError, WrappedKey};

pub(crate) struct Kek {
    keyring_id: KeyringId,
    /// The prefix key id.
    id: u32,
    /// Kept to be wrapped again when ROOT changes.
    secret: Secret,
    aead: Xaes256Gcm,
}

impl Kek {
    pub(crate) fn from_secret(keyring_id: KeyringId, id: u32, secret: Secret) -> Self {
        let aead = Xaes256Gcm::new(&secret.derive(KeyKind::Kek.encryption_label()));
        Self {
            keyring_id,
            id,
            secret,
            aead,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// A new data key, wrapped. The key itself is opened from the table like every other, once
    /// its entry is applied.
    pub(crate) fn mint_dek(&self, version: u32) -> WrappedKey {
        let place = KeyPlace::dek(self.keyring_id, self.id, version);
        WrappedKey::wrap(&self.aead, &place, &Secret::random())
    }

    pub(crate) fn unwrap_dek(
        &self,
        version: u32,
        wrapped: &WrappedKey,
    ) -> Result<Dek, UnwrapError> {
        let place = KeyPlace::dek(self.keyring_id, self.id, version);
        let secret = wrapped.unwrap(&self.aead, &place)?;
        Ok(Dek::from_secret(self.keyring_id, self.id, version, &secret))
    }
}
