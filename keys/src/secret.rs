//! Secret bytes, and where random bytes come from.
//!
//! Promise: a `Secret` erases itself, has no `Debug`, and compares in constant time.

use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub(crate) const SECRET_BYTES: usize = 32;

/// Thirty-two secret bytes: a key, or what keys are derived from.
///
/// It cannot be printed:
///
/// ```compile_fail
/// format!("{:?}", keys::Secret::random());
/// ```
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    pub fn random() -> Self {
        let mut secret = Self([0; SECRET_BYTES]);
        fill_random(&mut secret.0);
        secret
    }

    /// Takes the bytes over. The caller's own copy is the caller's to erase.
    pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self([0; SECRET_BYTES]);
        if bytes.len() != SECRET_BYTES {
            return None;
        }
        secret.0.copy_from_slice(bytes);
        Some(secret)
    }

    pub(crate) fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// `derive(self, label)` of the specification in lib.rs.
    pub(crate) fn derive(&self, label: &[u8]) -> Secret {
        let mut derived = Secret([0; SECRET_BYTES]);
        Hkdf::<Sha256>::new(None, &self.0)
            .expand(label, &mut derived.0)
            .expect("32 bytes are within HKDF's limit of 255 blocks");
        derived
    }

    /// A public commitment to this secret under a label of its own.
    pub(crate) fn commitment(&self, label: &[u8]) -> Commitment {
        Commitment(*self.derive(label).expose())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

/// Which secret a wrapped key holds. Public; finding another secret with the same one means
/// breaking SHA-256.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commitment(pub(crate) [u8; SECRET_BYTES]);

impl PartialEq for Commitment {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Commitment {}

/// Bytes that were secret on their way here, erased on drop.
pub(crate) type SecretBytes = Zeroizing<Vec<u8>>;

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// Always from the operating system: a generator in this process would repeat itself in a virtual
/// machine restored from a snapshot, and a repeated nonce gives plaintext away.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes)
        .expect("a system without a random source cannot seal anything, stopping is the safe act");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_separate_what_is_derived() {
        let secret = Secret::from_bytes([7; 32]);
        assert!(secret.derive(b"a") == secret.derive(b"a"));
        assert!(secret.derive(b"a") != secret.derive(b"b"));
        assert!(secret.derive(b"a") != secret);
    }

    #[test]
    fn a_slice_of_another_length_is_no_secret() {
        assert!(Secret::from_slice(&[1; 31]).is_none());
        assert!(Secret::from_slice(&[1; 33]).is_none());
        assert!(Secret::from_slice(&[1; 32]).is_some());
    }
}
