//! A key wrapped under another key, bound to its place in the hierarchy.
//!
//! Promise: what unwraps is the key that was wrapped for exactly this place, and the one its
//! commitment names.
//! Not known here: which table row it stands in.

use std::fmt;

use thiserror::Error;

use crate::aead::{Aead, NONCE_BYTES, TAG_BYTES, Xaes256Gcm};
use crate::encoding::{DecodeError, Reader};
use crate::keyring::UnopenedKey;
use crate::secret::{Commitment, SECRET_BYTES, Secret, SecretBytes, random};
use crate::table::KeyringId;

const FORMAT: u8 = 1;
const SUITE_XAES_256_GCM: u8 = 1;
const COMMITMENT_AT: usize = 3;
const NONCE_AT: usize = COMMITMENT_AT + SECRET_BYTES;
const CIPHERTEXT_AT: usize = NONCE_AT + NONCE_BYTES;
pub(crate) const WRAPPED_KEY_BYTES: usize = CIPHERTEXT_AT + SECRET_BYTES + TAG_BYTES;

/// Which level of the hierarchy a wrapped key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Kek,
    Dek,
    Backup,
}

impl KeyKind {
    fn code(self) -> u8 {
        match self {
            Self::Kek => 2,
            Self::Dek => 3,
            Self::Backup => 4,
        }
    }

    pub(crate) fn encryption_label(self) -> &'static [u8] {
        match self {
            Self::Kek => b"sealkv/kek/1/encrypt",
            Self::Dek => b"sealkv/dek/1/encrypt",
            Self::Backup => b"sealkv/backup/1/encrypt",
        }
    }

    fn commitment_label(self) -> &'static [u8] {
        match self {
            Self::Kek => b"sealkv/kek/1/commit",
            Self::Dek => b"sealkv/dek/1/commit",
            Self::Backup => b"sealkv/backup/1/commit",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kek => "prefix key",
            Self::Dek => "data key",
            Self::Backup => "backup key",
        })
    }
}

/// Where a wrapped key belongs. All of it is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyPlace {
    pub(crate) keyring_id: KeyringId,
    pub(crate) kind: KeyKind,
    pub(crate) parent: (u32, u32),
    pub(crate) child: (u32, u32),
}

impl KeyPlace {
    pub(crate) fn kek(keyring_id: KeyringId, root_version: u32, prefix_key_id: u32) -> Self {
        Self {
            keyring_id,
            kind: KeyKind::Kek,
            parent: (0, root_version),
            child: (prefix_key_id, 0),
        }
    }

    pub(crate) fn dek(keyring_id: KeyringId, prefix_key_id: u32, version: u32) -> Self {
        Self {
            keyring_id,
            kind: KeyKind::Dek,
            parent: (prefix_key_id, 0),
            child: (prefix_key_id, version),
        }
    }

    pub(crate) fn backup(keyring_id: KeyringId, root_version: u32) -> Self {
        Self {
            keyring_id,
            kind: KeyKind::Backup,
            parent: (0, root_version),
            child: (0, 0),
        }
    }

    fn associated_data(&self, commitment: &[u8]) -> Vec<u8> {
        let mut bytes = b"sealkv/wrapped-key/1\0".to_vec();
        bytes.extend_from_slice(self.keyring_id.as_bytes());
        bytes.push(self.kind.code());
        for number in [self.parent.0, self.parent.1, self.child.0, self.child.1] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(commitment);
        bytes
    }
}

/// The key that should stand here does not unwrap.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{kind} {id} version {version} does not unwrap")]
pub(crate) struct UnwrapError {
    pub(crate) kind: KeyKind,
    pub(crate) id: u32,
    pub(crate) version: u32,
}

impl From<UnwrapError> for UnopenedKey {
    fn from(error: UnwrapError) -> Self {
        Self {
            kind: error.kind,
            prefix_key_id: error.id,
            dek_version: error.version,
        }
    }
}

/// A KEK or a backup key under ROOT, or a DEK under its KEK. Holds no secret that its parent does not guard.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey([u8; WRAPPED_KEY_BYTES]);

impl WrappedKey {
    pub fn parse(bytes: &[u8], kind: KeyKind) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let wrapped = Self::read(&mut reader, kind)?;
        reader.finish()?;
        Ok(wrapped)
    }

    pub(crate) fn read(reader: &mut Reader<'_>, kind: KeyKind) -> Result<Self, DecodeError> {
        let bytes: [u8; WRAPPED_KEY_BYTES] = reader.array()?;
        let [format, suite, code, ..] = bytes;
        if format != FORMAT {
            let found = u16::from(format);
            return Err(DecodeError::UnknownFormat { found });
        }
        if suite != SUITE_XAES_256_GCM {
            return Err(DecodeError::UnknownSuite { found: suite });
        }
        if code != kind.code() {
            let found = u64::from(code);
            return Err(DecodeError::UnknownValue {
                field: "key kind",
                found,
            });
        }
        Ok(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; WRAPPED_KEY_BYTES] {
        &self.0
    }

    pub(crate) fn wrap(parent: &Xaes256Gcm, place: &KeyPlace, secret: &Secret) -> Self {
        Self::wrap_with_nonce(parent, place, secret, &random())
    }

    pub(crate) fn wrap_with_nonce(
        parent: &Xaes256Gcm,
        place: &KeyPlace,
        secret: &Secret,
        nonce: &[u8; NONCE_BYTES],
    ) -> Self {
        let commitment = secret.commitment(place.kind.commitment_label());
        let mut bytes = Vec::with_capacity(WRAPPED_KEY_BYTES);
        bytes.extend_from_slice(&[FORMAT, SUITE_XAES_256_GCM, place.kind.code()]);
        bytes.extend_from_slice(&commitment.0);
        bytes.extend_from_slice(nonce);
        let associated_data = place.associated_data(&commitment.0);
        parent.seal(nonce, &associated_data, secret.expose(), &mut bytes);
        Self(
            bytes
                .try_into()
                .expect("the parts add up to WRAPPED_KEY_BYTES"),
        )
    }

    pub(crate) fn unwrap(
        &self,
        parent: &Xaes256Gcm,
        place: &KeyPlace,
    ) -> Result<Secret, UnwrapError> {
        let refused = UnwrapError {
            kind: place.kind,
            id: place.child.0,
            version: place.child.1,
        };
        let mut reader = Reader::new(&self.0[COMMITMENT_AT..]);
        let commitment = reader.array().map(Commitment).map_err(|_| refused)?;
        let nonce = reader.array().map_err(|_| refused)?;
        let associated_data = place.associated_data(&commitment.0);
        let secret = parent
            .open(&nonce, &associated_data, &self.0[CIPHERTEXT_AT..])
            .map(SecretBytes::new)
            .map_err(|_| refused)?;
        let secret = Secret::from_slice(&secret).ok_or(refused)?;
        if secret.commitment(place.kind.commitment_label()) != commitment {
            return Err(refused);
        }
        Ok(secret)
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappedKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> KeyPlace {
        KeyPlace::dek(KeyringId::from_bytes([1; 16]), 7, 3)
    }

    fn parent() -> Xaes256Gcm {
        Xaes256Gcm::new(&Secret::from_bytes([2; 32]))
    }

    #[test]
    fn a_wrapped_key_opens_only_in_its_place() {
        let secret = Secret::random();
        let wrapped = WrappedKey::wrap(&parent(), &place(), &secret);
        assert!(wrapped.unwrap(&parent(), &place()).ok() == Some(secret));
        let keyring_id = KeyringId::from_bytes([9; 16]);
        for other in [
            KeyPlace {
                keyring_id,
                ..place()
            },
            KeyPlace {
                kind: KeyKind::Kek,
                ..place()
            },
            KeyPlace {
                parent: (8, 0),
                ..place()
            },
            KeyPlace {
                parent: (7, 1),
                ..place()
            },
            KeyPlace {
                child: (8, 3),
                ..place()
            },
            KeyPlace {
                child: (7, 4),
                ..place()
            },
        ] {
            assert!(wrapped.unwrap(&parent(), &other).is_err(), "{other:?}");
        }
        let other = Xaes256Gcm::new(&Secret::from_bytes([3; 32]));
        assert!(wrapped.unwrap(&other, &place()).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_wrapped_key_is_refused() {
        let wrapped = WrappedKey::wrap(&parent(), &place(), &Secret::random());
        for bit in 0..WRAPPED_KEY_BYTES * 8 {
            let mut bytes = wrapped.0;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let opened = WrappedKey::parse(&bytes, KeyKind::Dek)
                .map(|it| it.unwrap(&parent(), &place()).is_ok());
            assert_ne!(opened, Ok(true), "bit {bit}");
        }
    }

    #[test]
    fn a_key_that_is_not_the_one_committed_to_is_refused() {
        let (committed, swapped) = (Secret::from_bytes([5; 32]), Secret::from_bytes([6; 32]));
        let commitment = committed.commitment(KeyKind::Dek.commitment_label());
        let mut bytes = vec![FORMAT, SUITE_XAES_256_GCM, KeyKind::Dek.code()];
        bytes.extend_from_slice(&commitment.0);
        bytes.extend_from_slice(&[0; NONCE_BYTES]);
        let associated_data = place().associated_data(&commitment.0);
        parent().seal(
            &[0; NONCE_BYTES],
            &associated_data,
            swapped.expose(),
            &mut bytes,
        );
        let wrapped = WrappedKey::parse(&bytes, KeyKind::Dek).expect("well formed");
        assert!(wrapped.unwrap(&parent(), &place()).is_err());
    }

    #[test]
    fn a_kek_is_not_read_where_a_dek_stands() {
        let wrapped = WrappedKey::wrap(&parent(), &place(), &Secret::random());
        assert!(WrappedKey::parse(wrapped.as_bytes(), KeyKind::Kek).is_err());
    }
}
