//! ROOT(v): the key every prefix key is wrapped under, itself wrapped to every slot.

use crate::aead::{NotAuthentic, Xaes256Gcm};
use crate::kek::Kek;
use crate::secret::{Commitment, Secret};
use crate::slot::{InvalidSlotPublicKey, SlotKeyPair, SlotPublicKey, WrappedToSlot};
use crate::table::KeyringId;
use crate::wrapped::{KeyPlace, UnwrapError, WrappedKey};

pub(crate) struct Root {
    keyring_id: KeyringId,
    version: u32,
    /// Kept to wrap it to slots that come later.
    secret: Secret,
    aead: Xaes256Gcm,
}

impl Root {
    pub(crate) fn from_secret(keyring_id: KeyringId, version: u32, secret: Secret) -> Self {
        let aead = Xaes256Gcm::new(&secret.derive(b"sealkv/root/1/encrypt"));
        Self {
            keyring_id,
            version,
            secret,
            aead,
        }
    }

    pub(crate) fn keyring_id(&self) -> KeyringId {
        self.keyring_id
    }

    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn commitment(&self) -> Commitment {
        self.secret.commitment(b"sealkv/root/1/commit")
    }

    pub(crate) fn wrap_for(
        &self,
        slot: &SlotPublicKey,
        slot_id: u32,
    ) -> Result<WrappedToSlot, InvalidSlotPublicKey> {
        let info = info(&self.keyring_id, slot_id, self.version);
        WrappedToSlot::wrap(slot, &info, &self.commitment(), &self.secret)
    }

    /// Opens what was wrapped to this slot, and checks that it is the ROOT all members share.
    pub(crate) fn unwrap(
        wrapped: &WrappedToSlot,
        slot: &SlotKeyPair,
        slot_id: u32,
        (keyring_id, version): (KeyringId, u32),
        commitment: &Commitment,
    ) -> Result<Self, NotAuthentic> {
        let secret = wrapped.unwrap(slot, &info(&keyring_id, slot_id, version), commitment)?;
        let root = Self::from_secret(keyring_id, version, secret);
        if root.commitment() != *commitment {
            return Err(NotAuthentic);
        }
        Ok(root)
    }

    pub(crate) fn wrap_kek(&self, kek: &Kek) -> WrappedKey {
        WrappedKey::wrap(&self.aead, &self.kek_place(kek.id()), kek.secret())
    }

    pub(crate) fn unwrap_kek(&self, id: u32, wrapped: &WrappedKey) -> Result<Kek, UnwrapError> {
        let secret = wrapped.unwrap(&self.aead, &self.kek_place(id))?;
        Ok(Kek::from_secret(self.keyring_id, id, secret))
    }

    pub(crate) fn wrap_backup(&self, key: &Secret) -> WrappedKey {
        WrappedKey::wrap(&self.aead, &self.backup_place(), key)
    }

    pub(crate) fn unwrap_backup(&self, wrapped: &WrappedKey) -> Result<Secret, UnwrapError> {
        wrapped.unwrap(&self.aead, &self.backup_place())
    }

    fn backup_place(&self) -> KeyPlace {
        KeyPlace::backup(self.keyring_id, self.version)
    }

    fn kek_place(&self, id: u32) -> KeyPlace {
        KeyPlace::kek(self.keyring_id, self.version, id)
    }
}

fn info(keyring_id: &KeyringId, slot_id: u32, version: u32) -> Vec<u8> {
    let mut bytes = b"sealkv/root/1\0".to_vec();
    bytes.extend_from_slice(keyring_id.as_bytes());
    bytes.extend_from_slice(&slot_id.to_be_bytes());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_is_not_the_committed_one_is_refused() {
        let keyring_id = KeyringId::from_bytes([1; 16]);
        let slot = SlotKeyPair::generate();
        let shared = Root::from_secret(keyring_id, 1, Secret::random());
        // Whoever knows the public half can wrap a ROOT of his own under the right commitment.
        let planted = WrappedToSlot::wrap(
            &slot.public(),
            &info(&keyring_id, 4, 1),
            &shared.commitment(),
            &Secret::random(),
        )
        .expect("a generated key");
        let place = (keyring_id, 1);
        let opened = Root::unwrap(&planted, &slot, 4, place, &shared.commitment());
        assert!(opened.is_err());
    }

    #[test]
    fn a_root_opens_only_for_its_slot_id_version_and_keyring() {
        let keyring_id = KeyringId::from_bytes([1; 16]);
        let slot = SlotKeyPair::generate();
        let root = Root::from_secret(keyring_id, 2, Secret::random());
        let wrapped = root.wrap_for(&slot.public(), 4).expect("a generated key");
        let opens = |slot_id, place| {
            Root::unwrap(&wrapped, &slot, slot_id, place, &root.commitment()).is_ok()
        };
        assert!(opens(4, (keyring_id, 2)));
        assert!(!opens(5, (keyring_id, 2)));
        assert!(!opens(4, (keyring_id, 3)));
        assert!(!opens(4, (KeyringId::from_bytes([2; 16]), 2)));
    }
}
