//! Providers: who keeps the private half of a member's slot.
//!
//! Promise: a provider gives back exactly the secret it wrapped for this member, or an error; it
//! never makes a new one instead.
//! Not known here: where the wrapped bytes are kept (`member_key`), what the slot opens.

pub(crate) mod file;
pub(crate) mod passphrase;

use std::fmt;

use thiserror::Error;

use crate::aead::{Aead, NONCE_BYTES, TAG_BYTES, Xaes256Gcm};
use crate::encoding::{DecodeError, Reader};
use crate::member_key::DirectoryId;
use crate::secret::{SECRET_BYTES, Secret, SecretBytes};
use crate::slot::SlotPublicKey;

/// Which provider a slot belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProviderKind {
    File,
    Passphrase,
}

impl ProviderKind {
    /// The word that `--key-provider` takes and status shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Passphrase => "passphrase",
        }
    }

    /// What the operator has to bring.
    pub(crate) fn holds(self) -> &'static str {
        match self {
            Self::File => "key file",
            Self::Passphrase => "passphrase",
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Passphrase => 2,
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            1 => Ok(Self::File),
            2 => Ok(Self::Passphrase),
            found => Err(DecodeError::UnknownValue {
                field: "key provider",
                found: u64::from(found),
            }),
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose slot it is; wrapped bytes open for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotContext {
    pub member_id: u64,
    pub directory_id: DirectoryId,
    pub public_key: SlotPublicKey,
}

/// A provider does not give the slot's secret.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProviderError {
    /// Not the key this slot was wrapped with.
    #[error("the {} given is not the one this member's slot was wrapped with", .0.holds())]
    WrongKey(ProviderKind),
    #[error("what the {0} provider wrapped: it {1}")]
    Malformed(ProviderKind, DecodeError),
    /// Argon2 could not have the memory that the passphrase's cost asks for.
    #[error("{memory_kib} KiB of memory for the passphrase's Argon2id could not be used")]
    Argon2Memory { memory_kib: u32 },
}

/// Wraps a slot's secret, and opens it again.
pub trait Provider: Send + Sync {
    fn kind(&self) -> ProviderKind;

    fn wrap(&self, context: &SlotContext, slot_secret: &Secret) -> Result<Vec<u8>, ProviderError>;

    fn unwrap(&self, context: &SlotContext, wrapped: &[u8]) -> Result<Secret, ProviderError>;
}

/// What authenticates a wrapped slot secret beside itself: `prologue` is all that stands before
/// the nonce.
fn associated_data(kind: ProviderKind, prologue: &[u8], context: &SlotContext) -> Vec<u8> {
    let mut bytes = b"sealkv/slot-secret/1\0".to_vec();
    bytes.push(kind.code());
    bytes.extend_from_slice(prologue);
    bytes.extend_from_slice(&context.member_id.to_be_bytes());
    bytes.extend_from_slice(context.directory_id.as_bytes());
    bytes.extend_from_slice(context.public_key.as_bytes());
    bytes
}

fn wrap_under(
    aead: &Xaes256Gcm,
    (kind, prologue): (ProviderKind, &[u8]),
    context: &SlotContext,
    slot_secret: &Secret,
    nonce: &[u8; NONCE_BYTES],
) -> Vec<u8> {
    let length = prologue.len() + NONCE_BYTES + SECRET_BYTES + TAG_BYTES;
    let mut wrapped = Vec::with_capacity(length);
    wrapped.extend_from_slice(prologue);
    wrapped.extend_from_slice(nonce);
    let associated_data = associated_data(kind, prologue, context);
    aead.seal(nonce, &associated_data, slot_secret.expose(), &mut wrapped);
    wrapped
}

/// `wrapped` begins with a prologue of `prologue_bytes`, which the caller has read.
fn unwrap_under(
    aead: &Xaes256Gcm,
    (kind, prologue_bytes): (ProviderKind, usize),
    context: &SlotContext,
    wrapped: &[u8],
) -> Result<Secret, ProviderError> {
    let malformed = |error| ProviderError::Malformed(kind, error);
    let mut reader = Reader::new(wrapped);
    let prologue = reader.take(prologue_bytes).map_err(malformed)?;
    let nonce = reader.array().map_err(malformed)?;
    let sealed: [u8; SECRET_BYTES + TAG_BYTES] = reader.array().map_err(malformed)?;
    reader.finish().map_err(malformed)?;
    let secret = aead
        .open(&nonce, &associated_data(kind, prologue, context), &sealed)
        .map(SecretBytes::new)
        .map_err(|_| ProviderError::WrongKey(kind))?;
    Secret::from_slice(&secret).ok_or(ProviderError::WrongKey(kind))
}
