//! Slots: the X25519 pairs that ROOT and storage keys are wrapped to.
//!
//! Promise: the public half alone wraps; only the private half opens, and only in the place the
//! secret was wrapped for.
//! Not known here: who keeps the private half (providers), where wrapped secrets stand.

use std::fmt;

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::aead::{NotAuthentic, TAG_BYTES, Xaes256Gcm};
use crate::encoding::{DecodeError, Reader};
use crate::secret::{Commitment, SECRET_BYTES, Secret};

const FORMAT: u8 = 1;
const SUITE_X25519_AES_256_GCM: u8 = 1;
const PUBLIC_KEY_BYTES: usize = 32;
pub(crate) const WRAPPED_TO_SLOT_BYTES: usize = 2 + PUBLIC_KEY_BYTES + SECRET_BYTES + TAG_BYTES;

type SlotKem = X25519HkdfSha256;

/// The public half of a slot, as it stands in the key table and in a peer greeting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotPublicKey([u8; PUBLIC_KEY_BYTES]);

/// A point of small order: nothing may be wrapped to it, whoever sent it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("is not a usable X25519 public key")]
pub struct InvalidSlotPublicKey;

impl SlotPublicKey {
    /// Whether the key is usable shows when something is wrapped to it.
    pub fn from_bytes(bytes: [u8; PUBLIC_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidSlotPublicKey> {
        bytes.try_into().map(Self).map_err(|_| InvalidSlotPublicKey)
    }

    pub fn as_bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SlotPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotPublicKey(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ")")
    }
}

/// Both halves of a slot, opened.
pub struct SlotKeyPair {
    secret: Secret,
    private: <SlotKem as Kem>::PrivateKey,
    public: SlotPublicKey,
}

impl SlotKeyPair {
    pub fn generate() -> Self {
        Self::from_secret(Secret::random())
    }

    /// The pair is a function of its secret, which is all that a provider has to keep.
    pub fn from_secret(secret: Secret) -> Self {
        let (private, public) =
            SlotKem::derive_keypair(secret.derive(b"sealkv/slot/1/x25519").expose());
        Self {
            secret,
            private,
            public: SlotPublicKey(public.to_bytes().into()),
        }
    }

    pub fn public(&self) -> SlotPublicKey {
        self.public
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What authenticates this slot's `member.key`.
    pub(crate) fn member_key_aead(&self) -> Xaes256Gcm {
        Xaes256Gcm::new(&self.secret.derive(b"sealkv/slot/1/member-key"))
    }
}

/// A secret wrapped to a slot's public half by HPKE.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedToSlot([u8; WRAPPED_TO_SLOT_BYTES]);

impl WrappedToSlot {
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let wrapped = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(wrapped)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes: [u8; WRAPPED_TO_SLOT_BYTES] = reader.array()?;
        match bytes {
            [FORMAT, SUITE_X25519_AES_256_GCM, ..] => Ok(Self(bytes)),
            [FORMAT, found, ..] => Err(DecodeError::UnknownSuite { found }),
            [found, ..] => Err(DecodeError::UnknownFormat {
                found: u16::from(found),
            }),
        }
    }

    pub fn as_bytes(&self) -> &[u8; WRAPPED_TO_SLOT_BYTES] {
        &self.0
    }

    pub(crate) fn wrap(
        slot: &SlotPublicKey,
        info: &[u8],
        commitment: &Commitment,
        secret: &Secret,
    ) -> Result<Self, InvalidSlotPublicKey> {
        let public =
            <SlotKem as Kem>::PublicKey::from_bytes(&slot.0).map_err(|_| InvalidSlotPublicKey)?;
        let (encapsulated, ciphertext) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, SlotKem>(
            &OpModeS::Base,
            &public,
            info,
            secret.expose(),
            &commitment.0,
        )
        .map_err(|_| InvalidSlotPublicKey)?;

        let mut wrapped = [0; WRAPPED_TO_SLOT_BYTES];
        wrapped[..2].copy_from_slice(&[FORMAT, SUITE_X25519_AES_256_GCM]);
        wrapped[2..2 + PUBLIC_KEY_BYTES].copy_from_slice(&encapsulated.to_bytes());
        wrapped[2 + PUBLIC_KEY_BYTES..].copy_from_slice(&ciphertext);
        Ok(Self(wrapped))
    }

    pub(crate) fn unwrap(
        &self,
        slot: &SlotKeyPair,
        info: &[u8],
        commitment: &Commitment,
    ) -> Result<Secret, NotAuthentic> {
        let (encapsulated, ciphertext) = self.0[2..].split_at(PUBLIC_KEY_BYTES);
        let encapsulated =
            <SlotKem as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| NotAuthentic)?;
        let secret = hpke::single_shot_open::<AesGcm256, HkdfSha256, SlotKem>(
            &OpModeR::Base,
            &slot.private,
            &encapsulated,
            info,
            ciphertext,
            &commitment.0,
        )
        .map(Zeroizing::new)
        .map_err(|_| NotAuthentic)?;
        Secret::from_slice(&secret).ok_or(NotAuthentic)
    }
}

impl fmt::Debug for WrappedToSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappedToSlot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITMENT: Commitment = Commitment([3; 32]);

    #[test]
    fn only_the_slot_it_was_wrapped_to_opens_a_secret() {
        let (slot, other) = (SlotKeyPair::generate(), SlotKeyPair::generate());
        let secret = Secret::random();
        let wrapped = WrappedToSlot::wrap(&slot.public(), b"place", &COMMITMENT, &secret)
            .expect("a generated key");
        assert!(wrapped.unwrap(&slot, b"place", &COMMITMENT).ok() == Some(secret));
        assert!(wrapped.unwrap(&other, b"place", &COMMITMENT).is_err());
        assert!(wrapped.unwrap(&slot, b"other", &COMMITMENT).is_err());
        assert!(
            wrapped
                .unwrap(&slot, b"place", &Commitment([4; 32]))
                .is_err()
        );
    }

    #[test]
    fn every_flipped_bit_of_a_wrapped_secret_is_refused() {
        let slot = SlotKeyPair::generate();
        let wrapped = WrappedToSlot::wrap(&slot.public(), b"", &COMMITMENT, &Secret::random())
            .expect("a generated key");
        for bit in 0..WRAPPED_TO_SLOT_BYTES * 8 {
            let mut bytes = wrapped.0;
            bytes[bit / 8] ^= 1 << (bit % 8);
            // X25519 ignores the top bit of a point, but HPKE binds the bytes as they came.
            let opened =
                WrappedToSlot::parse(&bytes).map(|it| it.unwrap(&slot, b"", &COMMITMENT).is_ok());
            assert_ne!(opened, Ok(true), "bit {bit}");
        }
    }

    #[test]
    fn a_point_of_small_order_takes_no_secret() {
        let zero = SlotPublicKey::from_bytes([0; 32]);
        let wrapped = WrappedToSlot::wrap(&zero, b"", &COMMITMENT, &Secret::random());
        assert_eq!(wrapped.err(), Some(InvalidSlotPublicKey));
    }

    #[test]
    fn the_reserved_hybrid_suite_is_refused() {
        let mut bytes = [0; WRAPPED_TO_SLOT_BYTES];
        bytes[..2].copy_from_slice(&[1, 2]);
        assert_eq!(
            WrappedToSlot::parse(&bytes).err(),
            Some(DecodeError::UnknownSuite { found: 2 })
        );
    }

    #[test]
    fn the_pair_is_a_function_of_its_secret() {
        let secret = Secret::random();
        let pair = SlotKeyPair::from_secret(secret.clone());
        assert_eq!(pair.public(), SlotKeyPair::from_secret(secret).public());
    }
}
