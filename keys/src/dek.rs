//! One version of a prefix's data key: what values are sealed and opened with.
//!
//! Promise: a value opens only under the keyring, prefix key, version and key it was sealed for.

use crate::aead::{Aead, NONCE_BYTES, NotAuthentic, Xaes256Gcm};
use crate::sealed::{HEADER_BYTES, SEALED_VALUE_OVERHEAD_BYTES, SealedHeader, split};
use crate::secret::{Secret, random};
use crate::table::KeyringId;
use crate::wrapped::KeyKind;

pub(crate) struct Dek {
    keyring_id: KeyringId,
    header: SealedHeader,
    aead: Xaes256Gcm,
}

impl Dek {
    pub(crate) fn from_secret(
        keyring_id: KeyringId,
        prefix_key_id: u32,
        dek_version: u32,
        secret: &Secret,
    ) -> Self {
        Self {
            keyring_id,
            header: SealedHeader {
                prefix_key_id,
                dek_version,
            },
            aead: Xaes256Gcm::new(&secret.derive(KeyKind::Dek.encryption_label())),
        }
    }

    pub(crate) fn seal(&self, key: &[u8], value: &[u8]) -> Vec<u8> {
        self.seal_with_nonce(key, value, &random())
    }

    pub(crate) fn seal_with_nonce(
        &self,
        key: &[u8],
        value: &[u8],
        nonce: &[u8; NONCE_BYTES],
    ) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(SEALED_VALUE_OVERHEAD_BYTES + value.len());
        sealed.extend_from_slice(&self.header.encode());
        sealed.extend_from_slice(nonce);
        let associated_data = self.associated_data(key);
        self.aead.seal(nonce, &associated_data, value, &mut sealed);
        sealed
    }

    /// The caller has chosen this key by the header of `sealed`.
    pub(crate) fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        let (header, nonce, ciphertext_and_tag) = split(sealed).map_err(|_| NotAuthentic)?;
        if *header != self.header.encode() {
            return Err(NotAuthentic);
        }
        let associated_data = self.associated_data(key);
        self.aead.open(nonce, &associated_data, ciphertext_and_tag)
    }

    fn associated_data(&self, key: &[u8]) -> Vec<u8> {
        const LABEL: &[u8] = b"sealkv/value/1\0";
        let length = u32::try_from(key.len()).expect("keys are far below 4 GiB");
        let mut bytes =
            Vec::with_capacity(LABEL.len() + 16 + HEADER_BYTES + size_of::<u32>() + key.len());
        bytes.extend_from_slice(LABEL);
        bytes.extend_from_slice(self.keyring_id.as_bytes());
        bytes.extend_from_slice(&self.header.encode());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(key);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dek(keyring: u8, prefix_key_id: u32, version: u32) -> Dek {
        // The same secret everywhere: only the binding can tell these keys apart.
        let secret = Secret::from_bytes([5; 32]);
        Dek::from_secret(
            KeyringId::from_bytes([keyring; 16]),
            prefix_key_id,
            version,
            &secret,
        )
    }

    /// The sealed value with the header of another key, so that the header check cannot help.
    fn relabelled(sealed: &[u8], dek: &Dek) -> Vec<u8> {
        let mut moved = sealed.to_vec();
        moved[..HEADER_BYTES].copy_from_slice(&dek.header.encode());
        moved
    }

    #[test]
    fn a_value_opens_as_it_was_sealed() {
        for length in [0, 1, 15, 16, 17, 1000, 1_572_864] {
            let value = vec![7; length];
            let sealed = dek(1, 1, 1).seal(b"key", &value);
            assert_eq!(sealed.len(), length + SEALED_VALUE_OVERHEAD_BYTES);
            assert_eq!(sealed.capacity(), sealed.len());
            assert_eq!(dek(1, 1, 1).open(b"key", &sealed), Ok(value));
        }
    }

    #[test]
    fn two_seals_of_one_value_differ() {
        assert_ne!(dek(1, 1, 1).seal(b"k", b"v"), dek(1, 1, 1).seal(b"k", b"v"));
    }

    #[test]
    fn a_value_moved_to_another_key_does_not_open() {
        let sealed = dek(1, 1, 1).seal(b"key", b"value");
        for key in [&b"kez"[..], b"ke", b"key\0", b""] {
            assert_eq!(dek(1, 1, 1).open(key, &sealed), Err(NotAuthentic));
        }
    }

    #[test]
    fn a_value_moved_to_another_prefix_version_or_keyring_does_not_open() {
        let sealed = dek(1, 1, 1).seal(b"key", b"value");
        for other in [dek(1, 2, 1), dek(1, 1, 2), dek(2, 1, 1)] {
            assert!(other.open(b"key", &sealed).is_err());
            let moved = relabelled(&sealed, &other);
            assert_eq!(other.open(b"key", &moved), Err(NotAuthentic));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_sealed_value_is_refused() {
        let sealed = dek(1, 1, 1).seal(b"key", b"value");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(dek(1, 1, 1).open(b"key", &damaged), Err(NotAuthentic));
        }
    }
}
